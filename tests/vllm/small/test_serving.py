"""The whole way: devices on real gRPC streams, the servicer, the backend, vLLM."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc

from sled_protocol.channel import SERVER_OPTIONS
from sled_protocol.v1 import verifier_pb2_grpc as pb_grpc
from sled_testkit.verifier_device import Device, greeted
from sled_testkit.vllm import Lab
from sled_verifier.auth import OpenDoor
from sled_verifier.limits import Limits
from sled_verifier.metrics import Metrics
from sled_verifier.service import Service
from sled_verifier.servicer import VerifierServicer

Texts = list[list[int]]


@asynccontextmanager
async def replica(lab: Lab, metrics: Metrics) -> AsyncIterator[str]:
    limits = Limits(max_draft_tokens=8)
    async with lab.backend(limits, observer=metrics) as backend:
        service = Service(backend, limits, OpenDoor(), metrics, replica="test", engine="vllm")
        server = grpc.aio.server(options=SERVER_OPTIONS)
        pb_grpc.add_VerifierServicer_to_server(VerifierServicer(service), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            await server.stop(1)


async def generate(device: Device, sequence: int, prompt: list[int], text: list[int]) -> list[int]:
    """Drafts of four tokens, the third of which is wrong in every other round."""
    await device.open(sequence, prompt)
    output: list[int] = []
    rounds = 0
    while len(output) < len(text):
        draft = text[len(output) : len(output) + 4]
        if rounds % 2 and len(draft) > 2:
            draft[2] = (draft[2] + 1) % 256
        verdict = await device.round(sequence, prompt, output, draft)
        output += [*draft[: verdict.accepted], verdict.next_token]
        rounds += 1
    return output[: len(text)]


async def test_devices_on_streams_get_vllms_text(
    lab: Lab, prompts: Texts, references: Texts
) -> None:
    metrics = Metrics("random")
    async with replica(lab, metrics) as address, greeted(address, "a") as a, greeted(address) as b:
        texts = await asyncio.gather(
            *(generate((a, b)[n % 2], n + 1, prompts[n], references[n]) for n in range(6))
        )
        assert a.welcome is not None
        assert a.welcome.model.exactness == "fp32"
    assert texts == references[:6]
    answered = metrics.registry.get_sample_value(
        "vllm:generation_tokens_total", {"model_name": "random"}
    )
    assert answered is not None
    assert answered >= sum(len(text) for text in texts)
    steps = metrics.registry.get_sample_value("sled_step_seconds_count", {"model_name": "random"})
    assert lab.last is not None
    assert steps == lab.last.steps
