"""What steps cost, found out before the first device comes: run steps of telling shapes and time them.
Must not interpret the times; `load_control` does.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from sled_speculation.step_cost import StepShape, measurement_shapes
from sled_verifier.engine.base import Engine, EngineError, EngineInfo, StepItem
from sled_verifier.limits import Limits

_log = logging.getLogger(__name__)

CONTEXT_TOKENS = 8
"""Tokens that each measured sequence holds: few, since they take time to compute; what context costs is learnt from real steps."""
REPEATS = 2

Samples = list[tuple[StepShape, float]]
MeasureStep = Callable[[int, int, int], float]
"""(sequences, tokens of each, context tokens of each) -> seconds of such a step."""


def measure_steps(
    measure: MeasureStep, info: EngineInfo, limits: Limits, seconds: float
) -> Samples:
    """Measure as many shapes as `seconds` allow, the most telling first; 0 measures none.

    Runs in the thread that owns the runtime. A runtime that fails ends the measurement: what it
    cannot do now, a real step will say.
    """
    samples: Samples = []
    context = min(CONTEXT_TOKENS, info.context_tokens // 4)
    most = min(limits.step_tokens, info.max_step_tokens)
    deadline = time.monotonic() + seconds
    for sequences, tokens in measurement_shapes(
        info.slots, most, limits.max_draft_tokens, info.context_tokens
    ):
        if time.monotonic() >= deadline:
            break
        try:
            took = measure(sequences, tokens, context)
        except EngineError as error:
            _log.warning("the step cost was not measured", extra={"error": str(error)})
            break
        samples.append((StepShape(sequences * tokens, sequences, sequences * context), took))
    _log.info("step cost measured", extra={"shapes": len(samples)})
    return samples


class EngineSteps:
    """`MeasureStep` for an `Engine` that holds nothing yet; `clear` leaves it empty again."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._filled = 0

    def __call__(self, sequences: int, tokens: int, context: int) -> float:
        """See `MeasureStep`: the least of a few repetitions.

        Raises:
            EngineError: the engine failed.
        """
        while self._filled < sequences:
            self._filled += 1
            self._engine.step([self._item(self._filled - 1, 0, context, 0)])
        best = float("inf")
        for _ in range(REPEATS):
            items = [self._item(slot, context, tokens, tokens) for slot in range(sequences)]
            started = time.monotonic()
            self._engine.step(items)
            best = min(best, time.monotonic() - started)
            for slot in range(sequences):
                self._engine.truncate(slot, context)
        return best

    def clear(self) -> None:
        """Empty every slot that was used.

        Raises:
            EngineError: the engine failed.
        """
        for slot in range(self._filled):
            self._engine.truncate(slot, 0)

    def _item(self, slot: int, start: int, tokens: int, rows: int) -> StepItem:
        vocab = self._engine.info.vocab_size
        fed = tuple((7 * (start + place) + 31 * slot) % vocab for place in range(tokens))
        return StepItem(slot, start, fed, rows)


def measure_engine(engine: Engine, limits: Limits, seconds: float) -> Samples:
    """`measure_steps` for an empty engine, which is empty again afterwards.

    Raises:
        EngineError: the engine could not be emptied, so it is of no use.
    """
    if seconds <= 0:
        return []
    steps = EngineSteps(engine)
    try:
        return measure_steps(steps, engine.info, limits, seconds)
    finally:
        steps.clear()
