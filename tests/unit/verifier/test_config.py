"""verifier.yaml: what is taken, what is refused, and the sentences that say so."""

from __future__ import annotations

from pathlib import Path

import pytest

from sled_verifier.config import EngineKind, is_loopback, load_config, parse_config
from sled_verifier.refusal import ConfigError

WHOLE = """
listen: 127.0.0.1:7000
metricsListen: 127.0.0.1:7001
replica: quickstart-0
model: {name: smollm2-135m-f32, path: /models/x.gguf}
engine: {kind: llamacpp, threads: 2, contextTokens: 2304, slots: 8, library: null}
batching: {stepTokens: 256, prefillChunkTokens: 48, maxQueue: 256, maxSequencesPerDevice: 4,
  maxSequences: 1024, maxDraftTokens: 16, idleSeconds: 300, defaultDeadlineMs: 10000}
tls: {certFile: /tls/tls.crt, keyFile: /tls/tls.key, clientCaFile: null}
auth: {tokensFile: /auth/tokens}
drainSeconds: 20
logLevel: info
"""
OPENAI = "engine: {kind: openai, "
FAKE = "model: {name: toy}\nengine: {kind: fake}\n"


def test_the_whole_file() -> None:
    config = parse_config(WHOLE)
    assert config.engine.kind is EngineKind.LLAMACPP
    assert config.model.path == Path("/models/x.gguf")
    limits = config.batching.limits()
    assert (limits.step_tokens, limits.prefill_chunk_tokens, limits.max_queue) == (256, 48, 256)
    assert (limits.default_deadline_seconds, limits.idle_seconds) == (10.0, 300.0)
    assert config.tls is not None
    assert config.tls.client_ca_file is None


def test_the_smallest_file_has_the_documented_defaults() -> None:
    small, whole = parse_config(FAKE), parse_config(WHOLE)
    assert small.batching == whole.batching
    assert small.engine.slots == whole.engine.slots
    assert small.engine.context_tokens == whole.engine.context_tokens
    assert small.engine.threads >= 1
    assert (small.listen, small.metrics_listen) == (whole.listen, whole.metrics_listen)
    assert (small.drain_seconds, small.log_level) == (20.0, "info")
    assert small.tls is small.auth is None


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "expected a mapping"),
        ("- 1", "expected a mapping"),
        ("a: [", "not readable as YAML"),
        ("engine: {kind: fake}", "model is missing"),
        (FAKE + "speed: 9", "speed is not a setting"),
        (FAKE + "metricsListen: 7001", "metricsListen: "),
        (FAKE + "listen: host", "listen: 'host' is not host:port"),
        (FAKE + "listen: host:99999", "listen: 'host:99999' has no port"),
        (FAKE + "listen: '::1:7000'", "is not host:port"),
        (FAKE + "replica: ''", "replica: "),
        (FAKE + "drainSeconds: -1", "drainSeconds: "),
        (FAKE + "drainSeconds: .nan", "drainSeconds: "),
        (FAKE + "logLevel: loud", "logLevel: "),
        (FAKE + "insecure: 'yes'", "insecure: "),
        (FAKE + "batching: {stepTokens: 20}", "batching: stepTokens is 20; allowed: at least"),
        (FAKE + "batching: {maxDraftTokens: 33}", "batching.maxDraftTokens: "),
        (FAKE + "batching: {maxQueue: 0}", "batching.maxQueue: "),
        (FAKE + "batching: {maxqueue: 9}", "batching.maxqueue is not a setting"),
        (FAKE + "tls: {certFile: x}", "tls.keyFile is missing"),
        (FAKE + "auth: {}", "auth.tokensFile is missing"),
        ("model: {name: x}\nengine: {kind: cuda}", "engine.kind: "),
        ("model: {name: x}\nengine: {kind: llamacpp}", "model.path is missing"),
        ("model: {name: x, path: y}\nengine: {fake: {}}", "fake is given"),
        ("model: {name: x}\nengine: {kind: fake, slots: 0}", "engine.slots: "),
        ("model: {name: x}\nengine: {kind: fake, slots: '8'}", "engine.slots: "),
        ("model: {name: x}\nengine: {kind: vllm}", "model.path is missing"),
        ("model: {name: x}\nengine: {kind: fake, vllm: {}}", "vllm is given, but the kind is fake"),
        (
            "model: {name: x, path: y}\nengine: {kind: vllm, vllm: {dtype: int3}}",
            "engine.vllm.dtype: ",
        ),
        ("model: {name: x}\nengine: {kind: openai}", "openai is missing"),
        (
            OPENAI + "openai: {url: 'http://v:8000'}}\nmodel: {name: x}",
            "model.vocabulary is missing",
        ),
        (OPENAI + "openai: {url: 'ftp://v'}}\nmodel: {name: x, vocabulary: v}", "openai.url: "),
        (
            OPENAI + "openai: {url: 'http://u:pw@v/'}}\nmodel: {name: x, vocabulary: v}",
            "engine.openai.url: ",
        ),
        (OPENAI + "openai: {url: 'http://v/?a'}}\nmodel: {name: x, vocabulary: v}", "openai.url: "),
        ('model: {name: "a\\nb"}\nengine: {kind: fake}', "model.name: has characters"),
    ],
)
def test_what_is_refused_names_the_field(text: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_config(text, "verifier.yaml")
    assert sentence in str(error.value)
    assert str(error.value).startswith("verifier.yaml: ")


@pytest.mark.parametrize(
    ("url", "secret"),
    [
        ("https://v:8000", True),
        ("http://127.0.0.1:8000/v1", True),
        ("http://localhost", True),
        ("http://[::1]:8000", True),
        ("http://v:8000", False),
        ("http://10.0.0.7", False),
    ],
)
def test_a_key_is_not_sent_in_plaintext_unless_told_so(url: str, secret: bool) -> None:
    text = f"{OPENAI}openai: {{url: '{url}', apiKeyFile: k}}}}\nmodel: {{name: x, vocabulary: v}}"
    if not secret:
        with pytest.raises(ConfigError, match="sent in plaintext"):
            parse_config(text)
        text += "\ninsecure: true"
    assert parse_config(text).engine.openai is not None


def test_every_problem_is_told_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        parse_config("model: {}\nspeed: 1\nengine: {slots: -1}")
    assert len(str(error.value).splitlines()) == 3


@pytest.mark.parametrize("address", ["0.0.0.0:7000", "[::]:7000", "10.0.0.7:7000", "verifier:7000"])
def test_plaintext_stays_on_this_machine_unless_told_otherwise(address: str) -> None:
    with pytest.raises(ConfigError, match="which other machines can reach"):
        parse_config(f"{FAKE}listen: '{address}'")
    parse_config(f"{FAKE}listen: '{address}'\ninsecure: true")
    parse_config(f"{FAKE}listen: '{address}'\ntls: {{certFile: a, keyFile: b}}")


@pytest.mark.parametrize(
    ("address", "loopback"),
    [
        ("127.0.0.1:1", True),
        ("127.8.9.1:1", True),
        ("[::1]:1", True),
        ("localhost:1", True),
        ("0.0.0.0:1", False),
        ("localhost.example:1", False),
    ],
)
def test_what_is_loopback(address: str, loopback: bool) -> None:
    assert is_loopback(address) is loopback


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    for path, content in ((tmp_path / "missing", None), (tmp_path / "binary", b"\xff\xfe\xff")):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(ConfigError, match="cannot be read"):
            load_config(path)
    large = tmp_path / "large"
    large.write_text("#" * 1_000_001)
    with pytest.raises(ConfigError, match="larger than"):
        load_config(large)
