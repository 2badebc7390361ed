"""Devices that err, come late, repeat themselves, vanish and return: the text stays vLLM's own."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sled_speculation.sampling import SamplingParams
from sled_testkit.text_device import TextDevice, ask_again, draft_request, open_request
from sled_testkit.vllm import Lab
from sled_verifier.limits import Limits
from sled_verifier.refusal import Reason, Refusal
from sled_verifier.vllm.runtime import Start, StepOrder, Trial

Texts = list[list[int]]
PENALTIES = (1.0,) * 8 + (1.3,) * 4


def device(
    backend: Any, prompts: Texts, references: Texts, index: int, **fields: Any
) -> TextDevice:
    sampling = SamplingParams(repetition_penalty=PENALTIES[index])
    values = {"seed": index, "draft_tokens": index % 9, "sampling": sampling, **fields}
    return TextDevice(backend, prompts[index], references[index], **values)


async def test_all_devices_at_once_write_vllms_text(
    lab: Lab, prompts: Texts, references: Texts
) -> None:
    async with lab.backend() as backend:
        devices = [device(backend, prompts, references, n) for n in range(len(prompts))]
        for one in devices:
            await one.open()
        texts = await asyncio.gather(*(one.write(len(references[0])) for one in devices))
    assert texts == references


async def test_late_devices_hold_nobody_up(lab: Lab, prompts: Texts, references: Texts) -> None:
    """The prompt device finishes while the others are silent; then they finish too."""
    async with lab.backend() as backend:
        devices = [device(backend, prompts, references, n, draft_tokens=4) for n in range(8)]
        for one in devices:
            await one.open()
            await one.round()
        assert await devices[0].write(len(references[0])) == references[0]
        silent = devices[1:]
        texts = await asyncio.gather(*(one.write(len(references[0])) for one in silent))
    assert texts == references[1:8]


async def test_right_drafts_save_steps(lab: Lab, prompts: Texts, references: Texts) -> None:
    async with lab.backend() as backend:
        one = device(backend, prompts, references, 0, skill=1.0, draft_tokens=7)
        await one.open()
        assert await one.write(len(references[0])) == references[0]
        # Seven of eight draft tokens' worth a round: the first round is short of its foretold token.
        assert one.rounds <= 7
    assert lab.last is not None
    assert lab.last.steps <= 9


async def test_duplicate_lost_and_stale_drafts(lab: Lab, prompts: Texts, references: Texts) -> None:
    async with lab.backend() as backend:
        prompt, reference = prompts[1], references[1]
        key = (await backend.open(open_request(prompt))).key
        first = draft_request(prompt, [], reference[:3])
        verdict = await backend.verify(key, first)
        assert (verdict.accepted, verdict.next_token, verdict.bonus) == (3, reference[3], True)
        assert await backend.verify(key, first) == verdict
        # The device lost the verdict and drafts anew from the old place.
        with pytest.raises(Refusal) as refused:
            await backend.verify(key, draft_request(prompt, [], reference[:2]))
        assert refused.value.reason is Reason.STALE_PREFIX
        with pytest.raises(Refusal) as refused:
            await backend.verify(key, draft_request(prompt, reference[:4], [1] * 9))
        assert refused.value.reason is Reason.DRAFT_TOO_LONG
        # A round whose caller goes away is judged unheard, and its verdict can be asked for.
        round_ = draft_request(prompt, reference[:4], reference[4:6])
        lost = asyncio.ensure_future(backend.verify(key, round_))
        await asyncio.sleep(0)
        lost.cancel()
        await asyncio.wait([lost])
        verdict = await ask_again(backend, key, round_)
        assert (verdict.accepted, verdict.next_token) == (2, reference[6])


async def test_a_sequence_resumes_elsewhere(lab: Lab, prompts: Texts, references: Texts) -> None:
    async with lab.backend() as backend:
        one = device(backend, prompts, references, 2, draft_tokens=5)
        await one.open()
        await one.write(20)
    async with lab.backend() as backend:
        one.backend = backend
        await one.open()
        assert await one.write(len(references[2])) == references[2]


async def test_more_devices_than_seats(lab: Lab, prompts: Texts, references: Texts) -> None:
    """24 sequences on 16 seats: all are given up and taken in again, none of them changes."""
    async with lab.backend(Limits(max_draft_tokens=8, step_tokens=256)) as backend:
        devices = [
            device(backend, prompts, references, n % 12, seed=n, draft_tokens=3) for n in range(24)
        ]
        for one in devices:
            await one.open()
        texts = await asyncio.gather(*(one.write(24) for one in devices))
        stats = backend.stats()
    assert texts == [references[n % 12][:24] for n in range(24)]
    assert stats.evictions_total > 0
    assert stats.resident_sequences <= 16


async def test_the_context_fills_to_its_last_token(lab: Lab) -> None:
    prompt = [n % 250 for n in range(240)]
    async with lab.backend() as backend:
        key = (await backend.open(open_request(prompt))).key
        output: list[int] = []
        while len(prompt) + len(output) + 3 < 256:
            verdict = await backend.verify(key, draft_request(prompt, output, [9, 9, 9]))
            output += [9] * verdict.accepted + [verdict.next_token]
        while len(prompt) + len(output) < 256:
            output.append((await backend.verify(key, draft_request(prompt, output))).next_token)
        with pytest.raises(Refusal) as refused:
            await backend.verify(key, draft_request(prompt, output))
        assert refused.value.reason is Reason.CONTEXT_FULL
        again = (await backend.open(open_request(prompt, output[:-1]))).key
        verdict = await backend.verify(again, draft_request(prompt, output[:-1]))
        assert verdict.next_token == output[-1]


async def test_min_p_is_refused(lab: Lab) -> None:
    async with lab.backend() as backend:
        with pytest.raises(Refusal) as refused:
            await backend.open(open_request([1], (), SamplingParams(temperature=1, min_p=0.1)))
    assert refused.value.reason is Reason.INVALID_SAMPLING


def test_a_full_step_trims_drafts(lab: Lab, prompts: Texts, references: Texts) -> None:
    """16 sequences of 9 tokens fill 144 of 256 tokens; with a lower limit vLLM cuts the last ones,
    and says so.
    """
    from array import array

    scheduler: Any = lab.runtime._scheduler  # type: ignore[attr-defined]  # a limit to lower
    run = lab.runtime.run
    starts = tuple(Start(1000 + n, array("I", prompts[n]), SamplingParams()) for n in range(4))
    report = lab.thread.submit(run, StepOrder(start=starts)).result()
    texts = {o.key: list(o.tokens) for o in report.outputs}
    while report.computing:
        report = lab.thread.submit(run, StepOrder()).result()
        texts.update({o.key: list(o.tokens) for o in report.outputs})
    trials = tuple(Trial(1000 + n, tuple(references[n][1:9]), ()) for n in range(4))
    scheduler.max_num_scheduled_tokens = 14
    report = lab.thread.submit(run, StepOrder(trials=trials)).result()
    scheduler.max_num_scheduled_tokens = 256
    lab.thread.submit(run, StepOrder(stop=tuple(s.key for s in starts))).result()
    assert {o.key: o.verified for o in report.outputs} == {1000: 8, 1001: 4}
    assert report.outputs[1].tokens == tuple(references[1][1:6])
