"""`sled-verifier` with the engine kind `vllm` as a process, and real edge clients in front of it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sled_edge.drafter.fake import FakeDrafter
from sled_edge.generation import GenerationRequest
from sled_speculation.sampling import SamplingParams
from sled_testkit.edge import collect, fixed, running_loop
from sled_testkit.edge_wire import until_no_sequences, wire_link
from sled_testkit.verifier_process import verifier_process

Texts = list[list[int]]
SEATS = 3


def drafts_of(text: Sequence[int]) -> FakeDrafter:
    """Drafts the known text, wrongly three times of ten."""

    def logits(context: Sequence[int]) -> NDArray[np.float32]:
        row = np.zeros(256, np.float32)
        row[text[min(len(context), len(text) - 1)]] = 10.0
        return row

    return FakeDrafter(logits, accuracy=0.7)


async def test_edge_clients_write_vllms_text_with_fewer_seats_than_devices(
    model: tuple[Path, Path], prompts: Texts, references: Texts, tmp_path: Path
) -> None:
    config = {
        "listen": "127.0.0.1:0",
        "metricsListen": "127.0.0.1:0",
        "model": {"name": "random", "path": str(model[0])},
        "engine": {
            "kind": "vllm",
            "slots": SEATS,
            "contextTokens": 256,
            "vllm": {"dtype": "float32", "kvCacheGib": 1},
        },
        "batching": {"stepTokens": 256, "maxDraftTokens": 8, "defaultDeadlineMs": 120_000},
    }
    async with verifier_process(config, tmp_path) as verifier, AsyncExitStack() as stack:
        writing = []
        for index, (prompt, reference) in enumerate(zip(prompts[:8], references[:8], strict=True)):
            link = wire_link([verifier.address], device_id=f"device-{index}")
            drafter = drafts_of([*prompt, *reference])
            loop = await stack.enter_async_context(
                running_loop(link, drafter, lengths=fixed(1 + index))
            )
            request = GenerationRequest(
                tuple(prompt), len(reference), SamplingParams(), ignore_end_tokens=True
            )
            writing.append(collect(loop, request))
        texts = [text.tokens for text in await asyncio.gather(*writing)]
        stats = await until_no_sequences(verifier.address)
        verifier.signal(signal.SIGTERM)
        code = await verifier.wait()
    assert texts == references[:8]
    assert code == 0
    assert stats.accepted_tokens_total > len(references[0])
    assert stats.steps_total < sum(len(text) for text in texts)
