"""Greedy text through drafts equals what vLLM alone writes, token for token, in fp32."""

from __future__ import annotations

import asyncio

from sled_testkit.text_device import TextDevice
from sled_testkit.vllm import Lab

Texts = list[list[int]]


async def test_eight_devices_with_wrong_drafts(lab: Lab, prompts: Texts, references: Texts) -> None:
    async with lab.backend() as backend:
        devices = [
            TextDevice(
                backend, prompt, reference, skill=0.7, draft_tokens=2 + index % 5, seed=index
            )
            for index, (prompt, reference) in enumerate(zip(prompts, references, strict=True))
        ]
        for device in devices:
            await device.open()
        written = await asyncio.gather(*(device.write(len(references[0])) for device in devices))
        stats = backend.stats()
    assert written == references
    assert lab.last is not None
    assert lab.last.steps < len(references[0])
    assert stats.steps_total == lab.last.steps
