"""The backend `openai` on a real vLLM server: the oracle's text token for token, typed refusals for what cannot be
exact, and a server that goes away and comes back.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from sled_protocol.v1 import verifier_pb2 as pb
from sled_speculation.sampling import SamplingParams
from sled_testkit.text_device import TextDevice, draft_request, open_request, write_together
from sled_testkit.verifier_device import RefusedByVerifier, greeted
from sled_testkit.verifier_process import fake_config, verifier_process
from sled_testkit.vllm_server import Relay
from sled_verifier.batched import BatchedBackend
from sled_verifier.engine.base import EngineError
from sled_verifier.engine.torch_engine import TorchEngine
from sled_verifier.limits import Limits
from sled_verifier.openai.backend import OpenAIBackend
from sled_verifier.openai.launch import ServerSettings, load_backend
from sled_verifier.refusal import Reason, Refusal

LIMITS = Limits(max_draft_tokens=8)
TOKENS = 40


def settings(target: Any, url: str = "", **changes: Any) -> ServerSettings:
    values: dict[str, Any] = {
        "url": url or f"http://{target.address}/v1",
        "model_name": "tiny",
        "vocabulary": target.vocabulary,
        "context_tokens": 320,
        "places": 3,
        "start_seconds": 2.0,
    }
    return ServerSettings(**{**values, **changes})


@asynccontextmanager
async def serving(target: Any, url: str = "", **changes: Any) -> AsyncIterator[OpenAIBackend]:
    async with await load_backend(settings(target, url, **changes), LIMITS) as backend:
        yield backend


def fleet(backend: Any, target: Any) -> list[TextDevice]:
    """Devices with drafts of 0 to 7 tokens that are often wrong."""
    return [
        TextDevice(backend, prompt, text, skill=0.75, draft_tokens=n, seed=n)
        for n, (prompt, text) in enumerate(zip(target.prompts, target.texts, strict=True))
    ]


async def test_every_text_is_the_oracles(target: Any, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(target) as backend:
        assert "cannot be compared" not in caplog.text
        assert (backend.info.engine, backend.info.exactness) == ("openai/vllm", "approximate")
        devices = fleet(backend, target)
        assert await write_together(devices, TOKENS) == target.texts
        stats = backend.stats()
        assert stats.engine_failures_total == 0
        assert stats.steps_total == sum(device.rounds for device in devices)
    assert sum(device.rounds for device in devices[2:]) < 0.6 * TOKENS * len(devices[2:])
    assert len({tuple(text) for text in target.texts}) == len(target.texts)


async def test_the_torch_engine_writes_the_same_with_the_same_drafts(target: Any) -> None:
    engine = TorchEngine(
        target.folder, target.vocabulary, model_name="tiny", context_tokens=320, threads=1
    )
    async with BatchedBackend(engine, LIMITS) as backend:
        assert await write_together(fleet(backend, target), TOKENS) == target.texts


async def test_sequences_resume_from_committed_tokens(target: Any) -> None:
    prompt, text = target.prompts[3], target.texts[3]
    async with serving(target) as backend:
        device = TextDevice(backend, prompt, text, output=text[:17])
        await device.open()
        assert await device.write(TOKENS) == text


async def test_a_server_that_goes_away_costs_time_and_no_token(target: Any) -> None:
    relay = Relay(target.address)
    await relay.mend()
    prompt, text = target.prompts[2], target.texts[2]
    try:
        async with serving(target, relay.url, timeout_seconds=5.0) as backend:
            device = TextDevice(backend, prompt, text)
            await device.open()
            while len(device.output) < 10:
                await device.round()
            await relay.cut()
            with pytest.raises(Refusal, match="cannot be reached") as away:
                await device.round()
            assert away.value.reason is Reason.INTERNAL
            assert away.value.retry_after_ms > 0
            await relay.mend()
            assert await device.write(TOKENS) == text
            assert backend.stats().engine_failures_total == 1
    finally:
        await relay.cut()


async def test_a_server_that_hangs_is_given_up_after_the_time_limit(target: Any) -> None:
    # Less than the 5 seconds after which the server ends a connection that says nothing.
    relay = Relay(target.address)
    await relay.mend()
    prompt, text = target.prompts[1], target.texts[1]
    try:
        async with serving(target, relay.url, timeout_seconds=3.0) as backend:
            device = TextDevice(backend, prompt, text)
            await device.open()
            relay.flowing.clear()
            with pytest.raises(Refusal, match="no answer within 3 seconds"):
                await device.round()
            relay.flowing.set()
            assert await device.write(12) == text[:12]
    finally:
        await relay.cut()


async def test_a_round_may_be_asked_for_again(target: Any) -> None:
    prompt, text = target.prompts[4], target.texts[4]
    async with serving(target) as backend:
        key = (await backend.open(open_request(prompt))).key
        draft = draft_request(prompt, (), text[:3])
        first = await backend.verify(key, draft)
        assert (first.accepted, first.next_token, first.bonus) == (3, text[3], True)
        asked = backend.stats().steps_total
        assert await backend.verify(key, draft) == first
        assert backend.stats().steps_total == asked


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"context_tokens": 321}, "the model server's limit is 320"),
        ({"url": "http://127.0.0.1:9"}, "cannot be reached"),
    ],
)
async def test_a_server_that_does_not_fit_is_refused_at_start(
    target: Any, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(EngineError, match=sentence):
        await load_backend(settings(target, **changes), LIMITS)


async def test_a_process_serves_it_to_devices(target: Any, tmp_path: Any) -> None:
    """From verifier.yaml to the text over real gRPC; sampling is refused with its reason."""
    config = fake_config(
        model={"name": "served", "vocabulary": str(target.vocabulary)},
        engine={
            "kind": "openai",
            "contextTokens": 320,
            "slots": 4,
            "openai": {"url": f"http://{target.address}"},
        },
    )
    rng = random.Random(2)

    async def generate(device: Any, sequence: int) -> list[int]:
        prompt, text = target.prompts[sequence], target.texts[sequence]
        await device.open(sequence, prompt)
        output: list[int] = []
        while len(output) < len(text):
            draft = text[len(output) : len(output) + rng.randint(0, 5)]
            if draft and rng.random() < 0.4:
                draft[-1] = (draft[-1] + 1) % 256
            verdict = await device.round(sequence, prompt, output, draft)
            output += [*draft[: verdict.accepted], verdict.next_token]
        return output[: len(text)]

    async with verifier_process(config, tmp_path) as process, greeted(process.address) as device:
        assert device.welcome.model.engine == "openai/vllm"
        texts = await asyncio.gather(*(generate(device, n) for n in (1, 2, 3)))
        with pytest.raises(RefusedByVerifier) as refused:
            await device.open(9, [1, 2], sampling=SamplingParams(temperature=0.7))
        assert refused.value.reason == pb.REFUSAL_REASON_INVALID_SAMPLING
    assert texts == target.texts[1:4]
