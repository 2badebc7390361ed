"""The speculation loop: draft on the device, have it verified, hand out what is certain. Knows neither HTTP nor gRPC.

`SpeculationLoop` lets generations in and out; one generation's rounds are in `sled_edge.rounds`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field, replace

from sled_edge.config import DraftingMode, OfflinePolicy
from sled_edge.draft_worker import DraftWorker
from sled_edge.generation import Delta, GenerationError, GenerationRequest
from sled_edge.link import CANNOT_GUIDE, Link, Target
from sled_edge.log import fields
from sled_edge.offline import OfflineSwitch, OfflineTiming, serves_alone, serves_now
from sled_edge.outgoing import RoundContext
from sled_edge.rounds import Generation
from sled_edge.seats import Seats, SeatsTaken
from sled_edge.session import Session, StopRules
from sled_protocol.limits import MAX_PROMPT_TOKENS
from sled_speculation.draft_length import DraftLengthController
from sled_speculation.draft_length_policy import DraftLengthPolicy, DraftLengthSettings
from sled_speculation.sampling import AcceptanceMode, InvalidSampling, SamplingParams
from sled_speculation.wire import as_sent

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """How the loop drafts, how many it serves, and what it assumes while it knows no verifier."""

    max_draft_tokens: int = 8
    min_confidence: float = 0.0
    mode: DraftingMode = DraftingMode.REJECTION
    policy: OfflinePolicy = OfflinePolicy.REFUSE
    draft_ahead: bool = False
    """Work on the next draft while a verdict is in flight; of no use where the verifier shares the processor. The prompt is
    read during the first round in any case.
    """
    sequences: int = 4
    max_waiting: int = 32
    wait_seconds: float = 60.0
    offline: OfflineTiming = field(default_factory=OfflineTiming)
    model_name: str = ""
    """Shown until the first handshake."""
    context_tokens: int = 2304
    """Assumed until the first handshake."""
    end_tokens: tuple[int, ...] = ()
    """Assumed until the first handshake; the tokenizer's own."""


class SpeculationLoop:
    """Serves generations over one link and one drafter; satisfies `sled_edge.generation.TokenGenerator`.

    One event loop owns it. `make_length_policy` starts the draft-length policy of a new generation; by default a
    controller that begins with what the device's earlier generations have learnt. `may_serve` adds conditions of the
    process to `ready`.
    """

    def __init__(
        self,
        link: Link,
        worker: DraftWorker,
        settings: LoopSettings,
        make_length_policy: Callable[[], DraftLengthPolicy] | None = None,
        may_serve: Callable[[], bool] = lambda: True,
    ) -> None:
        self._may_serve = may_serve
        self._link = link
        self._worker = worker
        self._settings = settings
        self._learnt = DraftLengthController(
            DraftLengthSettings(settings.max_draft_tokens, settings.min_confidence)
        )
        self._make_length_policy = make_length_policy
        self._seats = Seats(self._seat_limit, settings.max_waiting, settings.wait_seconds)
        self._known_target: Target | None = None
        self._numbers = itertools.count(1)
        self._draining = False
        self._broken_off = False
        self._steps: set[asyncio.Timeout] = set()

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Delta, None]:
        """See `TokenGenerator.generate`."""
        sampling = self._check(request)
        async with contextlib.AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(self._seats.seat())
            except SeatsTaken as error:
                raise GenerationError("too_many_sequences", str(error), 1.0) from error
            if self._draining:
                raise _draining()
            session = Session(next(self._numbers), request, sampling, request.model)
            stack.callback(self._free, session.sequence)
            generation = self._generation(session)
            stack.callback(generation.close)
            finished = False
            while not finished:
                delta = await self._step(generation)
                finished = delta.finish is not None
                yield delta
            self._learn(generation)

    def ready(self) -> bool:
        """See `TokenGenerator.ready`."""
        if self._draining or not self._may_serve():
            return False
        return serves_now(self._link.state(), self._alone)

    def model_name(self) -> str:
        """See `TokenGenerator.model_name`."""
        target = self._target()
        return target.model_name if target is not None else self._settings.model_name

    def context_tokens(self) -> int:
        """See `TokenGenerator.context_tokens`."""
        target = self._target()
        return target.context_tokens if target is not None else self._settings.context_tokens

    def guides(self) -> bool | None:
        """See `TokenGenerator.guides`."""
        target = self._target()
        return target.guides if target is not None else None

    def refuse_new(self) -> None:
        """From now on new requests, and those in line, are refused with `draining`; running ones go on."""
        self._draining = True

    def break_off(self) -> None:
        """End running generations between two deltas, with `draining`; new ones are refused."""
        self.refuse_new()
        self._broken_off = True
        if self._steps:
            log.warning("breaking off", extra=fields(generations=len(self._steps)))
        for bound in self._steps:
            bound.reschedule(asyncio.get_running_loop().time())

    async def close(self) -> None:
        """Break off what runs, then close link and drafter."""
        self.break_off()
        await self._link.close()
        await self._worker.close()

    async def _step(self, generation: Generation) -> Delta:
        """One step that `break_off` can end."""
        if self._broken_off:
            raise _draining()
        bound = asyncio.timeout(None)
        try:
            async with bound:
                self._steps.add(bound)
                return await generation.step()
        except TimeoutError:
            if not self._broken_off:
                raise
            raise _draining() from None
        finally:
            self._steps.discard(bound)

    @property
    def _alone(self) -> bool:
        return serves_alone(self._settings.policy, self._worker.info.generates)

    def _generation(self, session: Session) -> Generation:
        make = self._make_length_policy or self._learnt.fork
        settings = self._settings
        context = RoundContext(
            self._link, self._worker, settings.mode, self._rules, settings.draft_ahead
        )
        # The draft model knows no guide: better no text than another than was asked for.
        alone = self._alone and session.sampling.guide is None
        switch = OfflineSwitch(alone, settings.offline)
        return Generation(session, context, switch, make())

    def _learn(self, generation: Generation) -> None:
        """A finished generation's experience is where the next one starts."""
        if isinstance(generation.lengths, DraftLengthController):
            self._learnt = generation.lengths

    def _free(self, sequence: int) -> None:
        self._link.release(sequence)
        self._worker.forget(sequence)

    def _target(self) -> Target | None:
        target = self._link.state().target
        if target is not None:
            self._known_target = target
        return self._known_target

    def _seat_limit(self) -> int:
        target = self._target()
        allowed = target.max_sequences if target is not None else 0
        return min(self._settings.sequences, allowed or self._settings.sequences)

    def _rules(self) -> StopRules:
        target = self._target()
        if target is None:
            settings = self._settings
            return StopRules(frozenset(settings.end_tokens), settings.context_tokens)
        return StopRules(frozenset(target.end_tokens), target.context_tokens)

    def _check(self, request: GenerationRequest) -> SamplingParams:
        """Refuse what no verifier would take; returns the sampling as it will be sent.

        Raises:
            GenerationError: see there.
        """
        if self._draining:
            raise _draining()
        prompt = request.prompt_tokens
        if not prompt or request.max_tokens < 0:
            raise GenerationError(
                "malformed", "a request needs a prompt and max_tokens of 0 or more"
            )
        target = self._target()
        ids = target.vocab_size if target is not None and target.vocab_size else 2**32
        if not all(0 <= token < ids for token in prompt):
            raise GenerationError("malformed", f"a prompt token is outside the vocabulary of {ids}")
        room = min(self.context_tokens() - 1, MAX_PROMPT_TOKENS)
        if len(prompt) > room:
            raise GenerationError(
                "prompt_too_long", f"the prompt has {len(prompt)} tokens; there is room for {room}"
            )
        if request.sampling.guide is not None and self.guides() is False:
            raise GenerationError("invalid_sampling", CANNOT_GUIDE)
        match = self._settings.mode is DraftingMode.MATCH
        mode = AcceptanceMode.MATCH if match else AcceptanceMode.REJECTION
        try:
            return as_sent(replace(request.sampling, mode=mode))
        except InvalidSampling as error:
            raise GenerationError("invalid_sampling", str(error)) from error


def _draining() -> GenerationError:
    return GenerationError("draining", "this device's service is shutting down", 5.0)
