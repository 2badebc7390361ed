"""A scheduler and an engine stepped by hand, one second a step: for tests that look at single
steps.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from typing import Any

from sled_protocol.prefix import prefix_hash
from sled_speculation.sampling import SamplingParams
from sled_verifier.answers import Outcome
from sled_verifier.engine.fake import FakeEngine, ToyModel
from sled_verifier.job import run_job
from sled_verifier.limits import Limits
from sled_verifier.load_control import LoadControl
from sled_verifier.refusal import Refusal
from sled_verifier.rounds import DraftRequest, OpenRequest, RoundVerdict
from sled_verifier.scheduler import Scheduler
from sled_verifier.slots import SlotPolicy

TARGET = ToyModel(vocab_size=64, seed=2)
PROMPT = [5, 6, 7]


class Bench:
    """A scheduler and an engine stepped by hand."""

    def __init__(
        self,
        engine: FakeEngine | None = None,
        limits: Limits | None = None,
        control: LoadControl | None = None,
    ) -> None:
        self.engine = engine or FakeEngine(model=TARGET, slots=4, context_tokens=200)
        policy = SlotPolicy(keep_idle_seconds=0, patience_seconds=0, slice_seconds=0)
        self.scheduler = Scheduler(self.engine.info, limits or Limits(), policy, control)
        self.now = 0.0

    def open(self, prompt: Sequence[int] = PROMPT, committed: Sequence[int] = ()) -> int:
        request = OpenRequest("d", array("I", prompt), array("I", committed), SamplingParams())
        return self.scheduler.open(request, self.now).key

    def submit(
        self,
        key: int,
        draft: Sequence[int] = (),
        committed: Sequence[int] = (),
        prompt: Sequence[int] = PROMPT,
        deadline_seconds: float | None = None,
    ) -> Outcome | RoundVerdict | None:
        request = DraftRequest(
            len(committed),
            prefix_hash([*prompt, *committed]),
            tuple(draft),
            deadline_seconds=deadline_seconds,
        )
        return self.scheduler.submit(key, request, self.now)

    def step(self) -> list[Outcome]:
        self.now += 1.0
        job = self.scheduler.plan(self.now)
        assert job is not None
        return self.scheduler.apply(job, run_job(self.engine, job), self.now)

    def verdict(self, key: int) -> RoundVerdict:
        for _ in range(100):
            for outcome in self.step():
                if outcome.key == key:
                    assert isinstance(outcome.result, RoundVerdict)
                    return outcome.result
        raise AssertionError("no verdict")


def refusal_of(call: Callable[..., object], *arguments: Any, **options: Any) -> Refusal:
    """The refusal that a call raises.

    Raises:
        AssertionError: it raised none.
    """
    try:
        call(*arguments, **options)
    except Refusal as refusal:
        return refusal
    raise AssertionError("nothing was refused")
