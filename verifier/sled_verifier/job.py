"""One step's work for the engine thread: run and accept. Must not touch sessions, queue or the
event loop.

A job is made and its result applied by the scheduler; everything between happens here, on values
only.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from sled_protocol.distribution import DraftDistribution
from sled_speculation.acceptance import Judgement, MalformedDraft, verify_draft
from sled_speculation.sampling import SamplingParams
from sled_speculation.step_cost import StepShape
from sled_speculation.transforms import TokenSet, UnusableLogits
from sled_verifier.engine.base import Engine, EngineError, Logits, StepItem
from sled_verifier.slots import SlotOp, Truncate


@dataclass(frozen=True, slots=True)
class Trial:
    """What `verify_draft` needs besides the logits. `seen` must not change until the result is
    applied.
    """

    draft_tokens: tuple[int, ...]
    distributions: tuple[DraftDistribution, ...]
    sampling: SamplingParams
    seen: TokenSet
    position: int


@dataclass(frozen=True, slots=True)
class JobItem:
    """One sequence's part: `tokens` go to `slot` at `start`; with a trial the last draft + 1 rows
    are judged.
    """

    key: int
    slot: int
    start: int
    tokens: tuple[int, ...]
    trial: Trial | None


@dataclass(frozen=True, slots=True)
class Job:
    """Slot operations in order, then one ragged step."""

    operations: tuple[SlotOp, ...]
    items: tuple[JobItem, ...]

    @property
    def step_tokens(self) -> int:
        """Tokens of the step over all sequences."""
        return sum(len(item.tokens) for item in self.items)

    def shape(self, *, rectangular: bool) -> StepShape:
        """What its step costs by; on a rectangular engine as if every sequence had as many tokens as the longest."""
        context = sum(item.start for item in self.items)
        tokens = self.step_tokens
        # A prompt beside others is no rectangle with them: it is computed for itself.
        if rectangular and all(item.trial is not None for item in self.items):
            tokens = len(self.items) * max((len(item.tokens) for item in self.items), default=0)
        return StepShape(tokens, len(self.items), context)


@dataclass(frozen=True, slots=True)
class JobFailure:
    """The engine failed and nothing of the step may be used.

    `failed_slots` are the ones to blame; `emptied_slots` include them and those whose preparation
    may not have run; `broken_slots` could not even be emptied. All other slots are back to where
    the step found them.
    """

    message: str
    failed_slots: frozenset[int]
    emptied_slots: frozenset[int]
    broken_slots: frozenset[int]


@dataclass(frozen=True, slots=True)
class JobResult:
    """`judgements` are aligned with the job's items: None for an item without a trial, a sentence
    for an unusable one.
    """

    judgements: tuple[Judgement | str | None, ...]
    step_seconds: float
    failure: JobFailure | None = None


def run_job(engine: Engine, job: Job, clock: Callable[[], float] = time.monotonic) -> JobResult:
    """Prepare slots, run the step, judge the drafts and roll each slot back to what was accepted.

    Runs in the thread that owns the engine. Engine failures come back as values; anything else is a
    defect and is raised.
    """
    started = clock()
    try:
        for operation in job.operations:
            _apply(engine, operation)
        rows = engine.step([_step_item(item) for item in job.items]) if job.items else []
        judgements = tuple(
            _judge(engine, item, logits) for item, logits in zip(job.items, rows, strict=True)
        )
    except EngineError as error:
        return JobResult((), clock() - started, _recover(engine, job, error))
    return JobResult(judgements, clock() - started)


def _step_item(item: JobItem) -> StepItem:
    rows = 0 if item.trial is None else len(item.trial.draft_tokens) + 1
    return StepItem(item.slot, item.start, item.tokens, rows)


def _apply(engine: Engine, operation: SlotOp) -> None:
    try:
        if isinstance(operation, Truncate):
            engine.truncate(operation.slot, operation.length)
        else:
            engine.copy_prefix(operation.source, operation.target, operation.length)
    except EngineError as error:
        raise EngineError(str(error), error.slots or (_target(operation),)) from error


def _judge(engine: Engine, item: JobItem, logits: Logits) -> Judgement | str | None:
    trial = item.trial
    if trial is None:
        return None
    try:
        judgement = verify_draft(
            logits,
            trial.draft_tokens,
            trial.distributions,
            trial.sampling,
            trial.seen,
            trial.position,
        )
    except (MalformedDraft, UnusableLogits) as error:
        engine.truncate(item.slot, trial.position - 1)
        return f"the target's logits could not be used: {error}"
    rejected = len(trial.draft_tokens) - judgement.accepted
    if rejected:
        engine.truncate(item.slot, trial.position + judgement.accepted)
    return judgement


def _recover(engine: Engine, job: Job, error: EngineError) -> JobFailure:
    touched = {item.slot: item.start for item in job.items}
    failed = set(error.slots) or set(touched)
    emptied = failed | {_target(operation) for operation in job.operations}
    broken = set()
    for slot in emptied | set(touched):
        try:
            engine.truncate(slot, 0 if slot in emptied else touched[slot])
        except EngineError:
            broken.add(slot)
    return JobFailure(str(error), frozenset(failed), frozenset(emptied), frozenset(broken))


def _target(operation: SlotOp) -> int:
    return operation.slot if isinstance(operation, Truncate) else operation.target
