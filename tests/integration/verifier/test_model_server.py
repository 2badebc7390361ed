"""A replica of kind `openai` as a process: from verifier.yaml to text over real gRPC, and what is refused. The model
server is played; `tests/openai` has a real one.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from sled_protocol.v1 import verifier_pb2 as pb
from sled_speculation.sampling import SamplingParams
from sled_testkit.played_server import PlayedServer, played_server
from sled_testkit.verifier_device import GreedyText, RefusedByVerifier, greeted
from sled_testkit.verifier_http import get
from sled_testkit.verifier_process import fake_config, start, verifier_process
from sled_verifier.engine.vocabulary import byte_vocabulary_gguf


def config(folder: Path, url: str) -> dict[str, Any]:
    vocabulary = folder / "vocabulary.gguf"
    vocabulary.write_bytes(byte_vocabulary_gguf(256))
    return fake_config(
        model={"name": "toy", "vocabulary": str(vocabulary)},
        engine={"kind": "openai", "contextTokens": 512, "slots": 4, "openai": {"url": url}},
    )


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
async def test_devices_get_the_servers_text(kind: str, tmp_path: Path) -> None:
    server = PlayedServer(kind)
    with played_server(server) as url:
        async with (
            verifier_process(config(tmp_path, url), tmp_path) as process,
            greeted(process.address) as device,
        ):
            assert device.welcome is not None
            assert device.welcome.model.engine == f"openai/{kind}"
            assert device.welcome.model.exactness == "approximate"
            fleet = [GreedyText(server.model, [n, 5, 7], seed=n) for n in range(1, 5)]
            texts = await asyncio.gather(
                *(text.run(device, n, 24, n) for n, text in enumerate(fleet, start=1))
            )
            assert texts == [server.model.greedy(text.prompt, 24) for text in fleet]
            _, page = await get(process.metrics_address, "/metrics")
    assert 'sled_engine_failures_total{model_name="toy"} 0.0' in page
    assert "sled_gpu_" not in page


async def test_sampling_and_a_server_that_fails_are_refused_with_their_reasons(
    tmp_path: Path,
) -> None:
    server = PlayedServer()
    with played_server(server) as url:
        async with (
            verifier_process(config(tmp_path, url), tmp_path) as process,
            greeted(process.address) as device,
        ):
            with pytest.raises(RefusedByVerifier) as sampled:
                await device.open(1, [1, 2], sampling=SamplingParams(temperature=0.7))
            assert sampled.value.reason == pb.REFUSAL_REASON_INVALID_SAMPLING
            await device.open(2, [1, 2])
            server.status = 503
            with pytest.raises(RefusedByVerifier, match="status 503") as failed:
                await device.round(2, [1, 2], ())
            assert failed.value.reason == pb.REFUSAL_REASON_INTERNAL
            assert failed.value.refused.retry_after_ms > 0
            server.status = 200
            verdict = await device.round(2, [1, 2], ())
            assert verdict.next_token == server.best([1, 2])
            _, page = await get(process.metrics_address, "/metrics")
    assert 'sled_refusals_total{model_name="toy",reason="invalid_sampling"} 1.0' in page
    assert 'sled_refusals_total{model_name="toy",reason="internal"} 1.0' in page


async def test_a_server_that_cannot_verify_ends_the_process_with_a_sentence(tmp_path: Path) -> None:
    with played_server(PlayedServer("tgi")) as url:
        process = await start(config(tmp_path, url), tmp_path)
        assert await process.wait() == 2
    log = (tmp_path / "verifier.log").read_text()
    assert "engine: text-generation-inference cannot verify drafts" in log
