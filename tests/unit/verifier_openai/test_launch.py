"""Finding and trying a model server over real HTTP: which kinds are taken, and the sentence for each that is not."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sled_testkit.played_server import PlayedServer, played_server
from sled_testkit.text_device import TextDevice, draft_request, open_request, write_together
from sled_verifier.engine.base import EngineError
from sled_verifier.engine.vocabulary import byte_vocabulary_gguf
from sled_verifier.limits import Limits
from sled_verifier.openai.launch import ServerSettings, load_backend
from sled_verifier.refusal import Reason, Refusal

LIMITS = Limits(max_draft_tokens=8)


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vocabulary") / "v.gguf"
    path.write_bytes(byte_vocabulary_gguf(256))
    return path


def settings(url: str, vocabulary: Path, **changes: Any) -> ServerSettings:
    values: dict[str, Any] = {
        "url": url,
        "model_name": "served",
        "vocabulary": vocabulary,
        "context_tokens": 512,
        "places": 4,
        "start_seconds": 0.0,
    }
    return ServerSettings(**{**values, **changes})


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
@pytest.mark.parametrize("suffix", ["", "/", "/v1"])
async def test_texts_are_the_targets_in_either_dialect(
    kind: str, suffix: str, vocabulary: Path
) -> None:
    server = PlayedServer(kind)
    prompts = [[n, 2, 3] for n in range(6)]
    texts = [server.model.greedy(prompt, 12) for prompt in prompts]
    with played_server(server) as url:
        async with await load_backend(settings(url + suffix, vocabulary), LIMITS) as backend:
            assert backend.info.engine == f"openai/{kind}"
            fleet = [
                TextDevice(backend, prompt, text, draft_tokens=n, seed=n)
                for n, (prompt, text) in enumerate(zip(prompts, texts, strict=True))
            ]
            assert await write_together(fleet, 12) == texts
    longest = max(len(body.get("prompt", body.get("input_ids", ()))) for _, body, _ in server.seen)
    assert longest > 12


async def test_what_a_model_sets_for_itself_is_overruled(vocabulary: Path) -> None:
    server = PlayedServer()
    with played_server(server) as url:
        async with await load_backend(settings(url, vocabulary), LIMITS):
            pass
    body = server.seen[-1][1]
    assert (body["temperature"], body["repetition_penalty"], body["ignore_eos"]) == (0, 1, True)
    assert (body["presence_penalty"], body["frequency_penalty"]) == (0, 0)


@pytest.mark.parametrize(
    ("server", "changes", "sentence"),
    [
        (PlayedServer("tgi"), {}, "text-generation-inference cannot verify drafts"),
        (PlayedServer("ollama"), {}, "must be sglang or vllm"),
        (PlayedServer(cards=[]), {}, "no model 'served'; it has: none"),
        (PlayedServer(cards=[{"id": "a"}, {"id": "b"}]), {}, "it has: a, b"),
        (PlayedServer(), {"context_tokens": 513}, "the model server's limit is 512"),
        (PlayedServer(shift=-1), {}, "not what it writes"),
        (PlayedServer("sglang", shift=-1), {}, "not what it writes"),
        (PlayedServer(turn=1), {}, "vocabulary is not that of model.vocabulary"),
        (PlayedServer(tells_words="words"), {}, "vocabulary is not that of model.vocabulary"),
        (PlayedServer(status=503), {}, "answered /v1/models with status 503"),
        (PlayedServer(status=302), {}, "with status 302"),
        (PlayedServer(raw=b"<html>"), {}, "is not JSON"),
        (PlayedServer(raw=b"[]"), {}, "list of models cannot be read"),
        (PlayedServer(raw=b'{"data": [{"name": "x"}]}'), {}, "list of models cannot be read"),
    ],
    ids=lambda value: "" if isinstance(value, dict | PlayedServer) else value[:30],
)
async def test_a_server_that_cannot_be_used_is_refused_at_start(
    server: PlayedServer, changes: dict[str, Any], sentence: str, vocabulary: Path
) -> None:
    with played_server(server) as url, pytest.raises(EngineError, match=sentence):
        await load_backend(settings(url, vocabulary, **changes), LIMITS)


@pytest.mark.parametrize("field", ["prompt", "text", ""])
async def test_a_server_that_cannot_detokenise_is_taken_with_a_warning(
    field: str, vocabulary: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with played_server(PlayedServer(tells_words=field)) as url:
        async with await load_backend(settings(url, vocabulary), LIMITS):
            pass
    assert ("cannot be compared" in caplog.text) is (not field)


async def test_an_adapter_beside_its_base_is_not_mistaken_for_it(vocabulary: Path) -> None:
    server = PlayedServer(cards=[{"id": "a", "parent": "toy"}, {"id": "toy", "parent": None}])
    with played_server(server) as url:
        async with await load_backend(settings(url, vocabulary), LIMITS):
            assert server.seen[-1][1]["model"] == "toy"
        async with await load_backend(settings(url, vocabulary, model_name="a"), LIMITS):
            assert server.seen[-1][1]["model"] == "a"


async def test_nobody_there_is_waited_for_and_then_refused(vocabulary: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(EngineError, match="cannot be reached"):
            await load_backend(settings(url, vocabulary, start_seconds=1.5), LIMITS)


async def test_the_key_is_sent_and_never_shown(vocabulary: Path, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("s3cret\n")
    server = PlayedServer()
    options: dict[str, Any] = {"api_key_file": tmp_path / "key"}
    with played_server(server) as url:
        async with await load_backend(settings(url, vocabulary, **options), LIMITS) as backend:
            assert "s3cret" not in repr(vars(backend))
    assert {headers["authorization"] for _, _, headers in server.seen} == {"Bearer s3cret"}
    for content in (b"", b"two\nlines", b"\xff"):
        (tmp_path / "key").write_bytes(content)
        with pytest.raises(EngineError, match="apiKeyFile") as refused:
            await load_backend(settings("http://127.0.0.1:9", vocabulary, **options), LIMITS)
        assert "lines" not in str(refused.value)


@pytest.fixture
def played() -> Iterator[tuple[PlayedServer, str]]:
    server = PlayedServer()
    with played_server(server) as url:
        yield server, url


@pytest.mark.parametrize(
    ("change", "sentence", "retry_after_ms"),
    [
        ({"status": 429}, "status 429", 500),
        ({"status": 500}, "status 500", 2_000),
        ({"raw": b"x" * 2_000_000}, "exceeds", 1_000),
        ({"raw": b"{}"}, "lacks what it should hold", 1_000),
        ({"raw": b'{"choices": [{"token_ids": []}]}'}, "lacks what it should hold", 1_000),
        (
            {"raw": b'{"choices": [{"token_ids": [1], "prompt_token_ids": [1]}]}'},
            "another prompt",
            1_000,
        ),
    ],
)
async def test_a_server_that_fails_later_refuses_rounds(
    played: tuple[PlayedServer, str],
    change: dict[str, Any],
    sentence: str,
    retry_after_ms: int,
    vocabulary: Path,
) -> None:
    server, url = played
    async with await load_backend(settings(url, vocabulary), LIMITS) as backend:
        key = (await backend.open(open_request([1, 2, 3]))).key
        for name, value in change.items():
            setattr(server, name, value)
        with pytest.raises(Refusal, match=sentence) as refused:
            await backend.verify(key, draft_request([1, 2, 3], ()))
        assert refused.value.reason is Reason.INTERNAL
        assert refused.value.retry_after_ms == retry_after_ms
        server.status, server.raw = 200, None
        verdict = await backend.verify(key, draft_request([1, 2, 3], ()))
        assert verdict.next_token == server.best([1, 2, 3])
