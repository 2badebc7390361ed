"""Devices that talk to a `VerifierBackend` in this process and draft from a known text, which is what the backend's
output is compared with.
"""

from __future__ import annotations

import asyncio
import random
from array import array
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sled_protocol.prefix import prefix_hash
from sled_speculation.sampling import SamplingParams
from sled_verifier.backend import VerifierBackend
from sled_verifier.refusal import Reason, Refusal
from sled_verifier.rounds import TOKEN_ARRAY, DraftRequest, OpenRequest, RoundVerdict

GREEDY = SamplingParams()


def open_request(
    prompt: Sequence[int],
    committed: Sequence[int] = (),
    sampling: SamplingParams = GREEDY,
    adapter: str = "",
) -> OpenRequest:
    tokens, output = array(TOKEN_ARRAY, prompt), array(TOKEN_ARRAY, committed)
    return OpenRequest("device", tokens, output, sampling, adapter=adapter)


def draft_request(
    prompt: Sequence[int],
    committed: Sequence[int],
    draft: Sequence[int] = (),
    distributions: Sequence[Any] = (),
    deadline_seconds: float | None = 120.0,
) -> DraftRequest:
    return DraftRequest(
        len(committed),
        prefix_hash([*prompt, *committed]),
        tuple(draft),
        tuple(distributions),
        deadline_seconds,
    )


async def ask_again(backend: VerifierBackend, key: int, draft: DraftRequest) -> RoundVerdict:
    """The verdict on a draft that was sent before and whose first asking may still be running."""
    for _ in range(1000):
        try:
            return await backend.verify(key, draft)
        except Refusal as refusal:
            if refusal.reason is not Reason.ROUND_IN_FLIGHT:
                raise
        await asyncio.sleep(0.01)
    raise TimeoutError("the round never ended")


@dataclass(slots=True)
class TextDevice:
    """A device whose drafts are `reference` with errors: each token is right with probability
    `skill`.
    """

    backend: VerifierBackend
    prompt: Sequence[int]
    reference: Sequence[int]
    skill: float = 0.8
    draft_tokens: int = 4
    seed: int = 0
    sampling: SamplingParams = GREEDY
    adapter: str = ""
    key: int = 0
    rounds: int = 0
    output: list[int] = field(default_factory=list)

    async def open(self) -> None:
        request = open_request(self.prompt, self.output, self.sampling, self.adapter)
        self.key = (await self.backend.open(request)).key

    def draft(self) -> list[int]:
        rng = random.Random(f"{self.seed}/{len(self.output)}")
        start = len(self.output)
        text = list(self.reference[start : start + self.draft_tokens])
        wrong = self.prompt[0]
        return [t if rng.random() < self.skill else (wrong if t != wrong else 1) for t in text]

    async def round(self) -> RoundVerdict:
        draft = self.draft()
        request = draft_request(self.prompt, self.output, draft)
        verdict = await self.backend.verify(self.key, request)
        self.output.extend((*draft[: verdict.accepted], verdict.next_token))
        self.rounds += 1
        return verdict

    async def write(
        self, tokens: int, pause: Callable[[], Awaitable[None]] | None = None
    ) -> list[int]:
        """Rounds until `tokens` are written; `pause` is awaited between them."""
        while len(self.output) < tokens:
            await self.round()
            if pause is not None:
                await pause()
        return self.output[:tokens]


async def write_together(devices: Sequence[TextDevice], tokens: int) -> list[list[int]]:
    """All devices open, then write at once; returns their texts."""
    for device in devices:
        await device.open()
    return list(await asyncio.gather(*(device.write(tokens) for device in devices)))
