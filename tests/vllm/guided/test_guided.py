"""Output under a JSON schema: vLLM's own, whatever devices draft and wherever a sequence began."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import pytest

from sled_speculation.sampling import Guide, SamplingParams
from sled_testkit.text_device import TextDevice, draft_request, open_request
from sled_testkit.vllm import Lab
from sled_verifier.refusal import Reason, Refusal
from sled_verifier.rounds import RoundVerdict

Texts = list[list[int]]
END = 2
FORBIDDEN = 0
"""A byte that no JSON has."""


class GuidedDevice(TextDevice):
    """Errs in both ways: with what JSON never holds, and with what the schema may well allow."""

    def draft(self) -> list[int]:
        rng = random.Random(f"{self.seed}/{len(self.output)}")
        start = len(self.output)
        text = [*self.reference, 65, 66, 67][start : start + self.draft_tokens]
        wrong = (FORBIDDEN, *b' "rga12}')
        return [t if rng.random() < 0.75 else rng.choice(wrong) for t in text]

    async def write_whole(self, tokens: int = 120) -> list[int]:
        """Rounds until the text ends; what comes after the end token is nothing's text."""
        while END not in self.output and len(self.output) < tokens:
            await self.round()
        if END in self.output:
            return self.output[: self.output.index(END) + 1]
        return self.output[:tokens]


def guided(schema: str | None, **fields: Any) -> SamplingParams:
    return SamplingParams(guide=Guide(schema), **fields)


def fleet(
    backend: Any, prompts: Texts, references: Texts, schemas: list[str]
) -> list[GuidedDevice]:
    return [
        GuidedDevice(
            backend,
            prompts[n],
            references[n],
            draft_tokens=1 + n % 7,
            seed=n,
            sampling=guided(schemas[n]),
        )
        for n in range(len(prompts))
    ]


async def test_greedy_text_is_vllms_own_guided_text(
    lab: Lab, prompts: Texts, references: Texts, schemas: list[str]
) -> None:
    async with lab.backend() as backend:
        devices = fleet(backend, prompts, references, schemas)
        for device in devices:
            await device.open()
        written = await asyncio.gather(*(device.write_whole() for device in devices))
    assert written == references
    ended = [bytes(text[:-1]) for text in references if text[-1] == END]
    assert len(ended) >= 6
    assert len(set(ended)) > 3
    for text in ended:
        json.loads(text)


async def test_guided_and_free_sequences_share_steps(
    lab: Lab, prompts: Texts, references: Texts, schemas: list[str]
) -> None:
    free = SamplingParams()
    async with lab.backend() as backend:
        alone = TextDevice(backend, prompts[0], references[0], draft_tokens=3, sampling=free)
        await alone.open()
        expected = await alone.write(40)
        devices = fleet(backend, prompts, references, schemas)
        beside = TextDevice(backend, prompts[0], expected, draft_tokens=3, sampling=free)
        for device in (*devices, beside):
            await device.open()
        texts = await asyncio.gather(
            beside.write(40), *(device.write_whole() for device in devices)
        )
    assert texts == [expected, *references]


async def test_a_sequence_goes_on_guided_where_another_replica_stopped(
    lab: Lab, prompts: Texts, references: Texts, schemas: list[str]
) -> None:
    async with lab.backend() as backend:
        devices = fleet(backend, prompts, references, schemas)
        for place, device in enumerate(devices):
            # What the other replica had written by then.
            device.output = list(references[place][: 3 + 2 * place])
            if END not in device.output:
                await device.open()
        assert sum(END not in device.output for device in devices) >= 6
        written = await asyncio.gather(*(device.write_whole() for device in devices))
    assert written == references


async def test_drafts_that_the_grammar_forbids_are_judged_and_rejected(
    lab: Lab, prompts: Texts, references: Texts, schemas: list[str]
) -> None:
    async with lab.backend() as backend:
        prompt, text = prompts[1], references[1]
        key = (await backend.open(open_request(prompt, sampling=guided(schemas[1])))).key
        first = await backend.verify(key, draft_request(prompt, [], text[:2]))
        assert (first.accepted, first.next_token) == (2, text[2])
        draft = [text[3], text[4], FORBIDDEN, text[6]]
        verdict = await backend.verify(key, draft_request(prompt, text[:3], draft))
    assert (verdict.accepted, verdict.next_token, verdict.bonus) == (2, text[5], False)
    assert verdict.verified == 3


@pytest.mark.parametrize(
    ("schema", "committed"),
    [
        ('{"type": "array", "uniqueItems": true}', b""),
        ('{"type": "no such type"}', b""),
        ('{"enum": ["red", "green"]}', b'"blue'),
    ],
)
async def test_what_cannot_be_guided_is_refused_for_good(
    lab: Lab, prompts: Texts, schema: str, committed: bytes
) -> None:
    prompt, output = prompts[0], list(committed)
    async with lab.backend() as backend:
        other = (await backend.open(open_request(prompt))).key
        await backend.verify(other, draft_request(prompt, []))
        request = open_request(prompt, output, guided(schema))
        key = (await backend.open(request)).key
        for _ in range(2):
            with pytest.raises(Refusal) as refused:
                await backend.verify(key, draft_request(prompt, output))
            assert refused.value.reason is Reason.INVALID_SAMPLING
        backend.close(key)
        assert backend.stats().load.active_sequences == 1


HOSTILE = (
    '{"type": {"a": 1}}',
    '{"type": [[]]}',
    '{"properties": 7}',
    '{"enum": []}',
    '{"$ref": "#/nowhere"}',
    '{"$ref": "#"}',
    '{"type": "string", "pattern": "("}',
    '{"type": "string", "minLength": -1}',
    '{"type": "array", "minItems": 5, "maxItems": 2}',
    '{"items":' * 400 + "{}" + "}" * 400,
)


async def test_no_schema_harms_the_others(
    lab: Lab, prompts: Texts, references: Texts, schemas: list[str]
) -> None:
    """Each is refused or followed; the replica goes on."""
    reasons: dict[str, object] = {}
    async with lab.backend() as backend:
        for schema in HOSTILE:
            key = (await backend.open(open_request(prompts[0], sampling=guided(schema)))).key
            asked = backend.verify(key, draft_request(prompts[0], []))
            [answer] = await asyncio.gather(asked, return_exceptions=True)
            if not isinstance(answer, RoundVerdict):
                reasons[schema] = getattr(answer, "reason", answer)
            backend.close(key)
        device = fleet(backend, prompts, references, schemas)[1]
        await device.open()
        assert await device.write_whole() == references[1]
    assert set(reasons.values()) == {Reason.INVALID_SAMPLING}, reasons
    assert len(reasons) >= 5


async def test_any_object_when_no_schema_is_given(
    lab: Lab, prompts: Texts, references: Texts, schemas: list[str]
) -> None:
    """vLLM takes `json_object` as the schema of the fourth text."""
    assert json.loads(schemas[3]) == {"type": "object"}
    async with lab.backend() as backend:
        device = GuidedDevice(backend, prompts[3], references[3], sampling=guided(None))
        await device.open()
        assert await device.write_whole() == references[3]
