"""Drafts sent ahead over the real wire: the target's own text, whatever is cut, and a step that waits for nobody."""

from __future__ import annotations

import asyncio
import time

import pytest

from sled_edge.config import DraftingMode
from sled_edge.drafter.fake import FakeDrafter
from sled_edge.fake_link import target_text
from sled_edge.generation import GenerationRequest
from sled_speculation.sampling import AcceptanceMode, SamplingParams
from sled_testkit.edge import collect, fixed, running_loop, settings
from sled_testkit.edge_faults import CuttingDialer, cutting
from sled_testkit.edge_wire import until_no_sequences, wire_link
from sled_testkit.verifier import running_server, running_verifier, total
from sled_verifier.engine.fake import FakeEngine, ToyModel
from sled_verifier.server import VerifierServer

PROMPT = (72, 101, 108, 108, 111)
MODEL = ToyModel()
GREEDY = SamplingParams()
SAMPLED = SamplingParams(temperature=0.8, seed=11, mode=AcceptanceMode.MATCH)
AHEAD = settings(draft_ahead=True)


def slow() -> FakeEngine:
    """Steps that leave a device the time to draft."""
    return FakeEngine(model=MODEL, before_step=lambda _items: time.sleep(0.01))


def kept(server: VerifierServer) -> int:
    return total(server, "sled_ahead_drafts", outcome="kept")


@pytest.mark.parametrize("accuracy", [1.0, 0.8])
@pytest.mark.parametrize("draft_tokens", [1, 4])
async def test_greedy_text_is_the_targets_own(accuracy: float, draft_tokens: int) -> None:
    async with (
        running_server(engine=slow()) as server,
        running_loop(
            wire_link([server.address]),
            FakeDrafter(MODEL.logits, accuracy=accuracy),
            AHEAD,
            fixed(draft_tokens),
        ) as loop,
    ):
        text = await collect(loop, GenerationRequest(PROMPT, 60, GREEDY))
        assert text.tokens == MODEL.greedy(PROMPT, 60)
        assert kept(server) > 0


async def test_sampled_text_is_that_of_waiting() -> None:
    texts = []
    for ahead in (False, True):
        async with (
            running_server(engine=slow()) as server,
            running_loop(
                wire_link([server.address]),
                FakeDrafter(MODEL.logits, accuracy=0.9, max_probs=64),
                settings(draft_ahead=ahead),
                fixed(3),
            ) as loop,
        ):
            request = GenerationRequest(PROMPT, 60, SamplingParams(temperature=0.8, seed=4))
            texts.append((await collect(loop, request)).tokens)
            # Without it, the first round still lets the device read the prompt and draft meanwhile.
            assert (kept(server) > 1) is ahead
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ("mode", "sampling"), [(DraftingMode.REJECTION, GREEDY), (DraftingMode.MATCH, SAMPLED)]
)
async def test_a_stream_cut_at_any_frame_boundary(
    mode: DraftingMode, sampling: SamplingParams
) -> None:
    expected = target_text(MODEL.logits, PROMPT, 16, sampling)
    dialers: list[CuttingDialer] = []

    async with (
        running_verifier(engine=slow()) as first,
        running_verifier(engine=slow()) as second,
    ):

        async def run(*cuts: int) -> list[int]:
            link = wire_link([first, second], wrap=cutting(dialers, *cuts))
            drafter = FakeDrafter(MODEL.logits, accuracy=0.9)
            ahead = settings(mode=mode, draft_ahead=True)
            async with running_loop(link, drafter, ahead, fixed(3)) as loop:
                return (await collect(loop, GenerationRequest(PROMPT, 16, sampling))).tokens

        assert await run() == expected
        for place in range(dialers[0].boundaries):
            assert await run(place) == expected, f"cut at boundary {place}"
        # How many frames there are is a matter of time, so the last places may be beyond them.
        assert sum(dialer.cut_streams for dialer in dialers) > dialers[0].boundaries / 2
        for address in (first, second):
            await until_no_sequences(address)


async def test_many_texts_of_one_device() -> None:
    async with (
        running_server(engine=slow()) as server,
        running_loop(
            wire_link([server.address]),
            FakeDrafter(MODEL.logits, accuracy=0.9),
            settings(draft_ahead=True, sequences=4),
            fixed(3),
        ) as loop,
    ):
        requests = [GenerationRequest((*PROMPT, n), 50, GREEDY) for n in range(4)]
        texts = await asyncio.gather(*(collect(loop, request) for request in requests))
        for request, text in zip(requests, texts, strict=True):
            assert text.tokens == MODEL.greedy(request.prompt_tokens, 50)
