from __future__ import annotations

from pathlib import Path

import pytest

from sled_edge.config import (
    ConfigError,
    DrafterKind,
    DraftingMode,
    EdgeConfig,
    OfflinePolicy,
    load_config,
    parse_config,
    split_address,
)

WHOLE = """
listen: 127.0.0.1:8080
deviceId: pi-1
deviceClass: pi5
verifiers: ["10.0.0.7:7000", "[fd00::1]:7000"]
tls: {caFile: /etc/sled/ca.crt, certFile: null, keyFile: null, serverName: verifier.example}
tokenFile: /etc/sled/token
drafter: {kind: llamacpp, model: {name: small, path: /models/small.gguf}, threads: 3, contextTokens: 4096}
drafting: {maxTokens: 8, mode: Match, minConfidence: 0.25, maxProbs: 32}
offline: {policy: DraftOnly, patienceSeconds: 90}
sequences: 4
tokenizer: {path: null}
logLevel: warning
"""
LEAST = "deviceId: pi-1\nverifiers: ['10.0.0.7:7000']\n"


def test_every_setting_is_read() -> None:
    config = parse_config(WHOLE)
    assert config.device_class == "pi5"
    assert config.offline.patience_seconds == 90.0
    assert config.verifiers == ("10.0.0.7:7000", "[fd00::1]:7000")
    assert config.tls is not None
    assert config.tls.ca_file == Path("/etc/sled/ca.crt")
    assert config.tls.server_name == "verifier.example"
    assert config.token_file == Path("/etc/sled/token")
    assert config.drafter.kind is DrafterKind.LLAMACPP
    assert config.drafter.model is not None
    assert config.drafter.model.path == Path("/models/small.gguf")
    assert config.drafter.context_tokens == 4096
    assert config.drafting.mode is DraftingMode.MATCH
    assert config.drafting.min_confidence == 0.25
    assert config.offline.policy is OfflinePolicy.DRAFT_ONLY
    assert config.log_level.value == "warning"


def test_what_is_left_out_has_defaults() -> None:
    config = parse_config(LEAST)
    assert config.listen == "127.0.0.1:8080"
    assert config.tls is None
    assert config.drafter.kind is DrafterKind.NGRAM
    assert config.drafting.max_tokens == 8
    assert config.offline.policy is OfflinePolicy.REFUSE
    assert config.sequences == 4


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("verifiers: ['a:1']", "deviceId is missing"),
        ("deviceId: pi-1", "verifiers is missing"),
        ("deviceId: pi-1\nverifiers: []", "verifiers: tuple should have at least 1 item"),
        ("deviceId: pi-1\nverifiers: ['a']", "verifiers.0: 'a' is not host:port"),
        ("deviceId: pi-1\nverifiers: ['a:0']", "verifiers.0: 'a:0' needs a port above 0"),
        (LEAST + "surprise: 1", "surprise is not a setting"),
        (LEAST + "drafting: {maxTokens: 17}", "drafting.maxTokens: input should be less"),
        (LEAST + "drafting: {maxTokens: '8'}", "drafting.maxTokens: input should be a valid int"),
        (LEAST + "drafting: {mode: rejection}", "drafting.mode: input should be 'Rejection'"),
        (LEAST + "drafting: {minConfidence: .nan}", "drafting.minConfidence"),
        (LEAST + "drafting: {maxProbs: 65}", "drafting.maxProbs"),
        (LEAST + "drafter: {kind: llamacpp}", "drafter: model is missing"),
        (LEAST + "drafter: {kind: ngram, model: {name: a, path: b}}", "ngram drafter has none"),
        (LEAST + "tls: {certFile: a}", "tls: certFile and keyFile belong together"),
        (LEAST + "sequences: 0", "sequences"),
        (LEAST + "listen: '8080'", "listen: '8080' is not host:port"),
        ("deviceId: ''\nverifiers: ['a:1']", "deviceId"),
        (f"deviceId: {'x' * 254}\nverifiers: ['a:1']", "deviceId"),
        ("[1, 2]", "expected a mapping"),
        ("a: [", "not readable as YAML"),
    ],
)
def test_a_bad_configuration_is_named_in_a_sentence(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_config(text, "edge.yaml")
    assert says in str(error.value)
    assert all(line.startswith("edge.yaml: ") for line in str(error.value).splitlines())


def test_every_problem_is_named_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        parse_config("deviceId: pi-1\nsequences: 0\nsurprise: 1\n", "edge.yaml")
    assert len(str(error.value).splitlines()) == 3


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "nowhere.yaml")
    binary = tmp_path / "edge.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(binary)
    binary.write_bytes(b"#" * 1_000_001)
    with pytest.raises(ConfigError, match="larger than"):
        load_config(binary)


def test_field_names_of_python_are_taken_too() -> None:
    assert EdgeConfig(device_id="pi-1", verifiers=("a:1",)).device_id == "pi-1"


def test_addresses() -> None:
    assert split_address("[::1]:70") == ("::1", 70)
    for bad in ("host", ":70", "host:port", "::1:70", "host:99999", "host:-1"):
        with pytest.raises(ValueError, match="'"):
            split_address(bad)
