"""The verifier's own scheduler and load policy in virtual time, a cost surface instead of a model.

Everything is the code that serves, but for the engine, which knows the texts, and the clock.
Figures that come from here are simulated.
"""

from __future__ import annotations

import heapq
import random
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from sled_bench.devices import Ahead, DeviceTiming, ReplayingDevice
from sled_bench.trace import Text, Trace
from sled_protocol.prefix import PrefixHash
from sled_speculation.sampling import SamplingParams
from sled_speculation.step_cost import StepShape, measurement_shapes
from sled_verifier.answers import Outcome as Answer
from sled_verifier.engine.base import EngineInfo, Logits, StepItem
from sled_verifier.job import run_job
from sled_verifier.limits import Limits
from sled_verifier.load_control import LoadControl, LoadSettings
from sled_verifier.measuring import CONTEXT_TOKENS
from sled_verifier.rounds import DraftRequest, OpenRequest, RoundVerdict
from sled_verifier.run import next_round
from sled_verifier.scheduler import Scheduler
from sled_verifier.slots import SlotPolicy

DEADLINE_SECONDS = 1.0
Surface = Callable[[StepShape], float]
"""Seconds of a step."""


@dataclass(frozen=True, slots=True)
class Policy:
    """How a server works: what it verifies, and when a step begins."""

    name: str
    draft_tokens: int
    """Most tokens of a draft; 0 serves centrally."""
    load: LoadSettings
    static_batch: int = 0
    """Wait until so many sequences are ready, at most `static_seconds`; 0 = begin at once."""
    static_seconds: float = 0.05
    fixed: bool = False
    """Devices draft the most tokens always; otherwise they choose."""


class TraceEngine:
    """An engine that writes known texts; prompts are `[text number]` and the filling."""

    def __init__(
        self,
        trace: Trace,
        *,
        slots: int,
        step_tokens: int,
        surface: Surface,
        sleep: Callable[[float], None],
    ) -> None:
        self.texts, size = _dense(trace, len(trace.texts))
        self._surface = surface
        self._sleep = sleep
        self._held: list[list[int]] = [[] for _ in range(slots)]
        self.info = EngineInfo(
            model_name=trace.target,
            engine="trace",
            vocab_size=size,
            context_tokens=4096,
            slots=slots,
            max_step_tokens=step_tokens,
            tokenizer_fingerprint=b"",
            end_tokens=(),
            exactness="bit-invariant",
        )
        self.prompt_length = 64
        self.steps = 0
        self.busy_seconds = 0.0

    def prompt(self, number: int) -> list[int]:
        """A prompt after which text `number` follows."""
        return [number] * self.prompt_length

    def step(self, items: Sequence[StepItem]) -> list[Logits]:
        """See `Engine.step`."""
        context = sum(len(self._held[item.slot]) for item in items)
        rows = [self._rows(item) for item in items]
        shape = StepShape(sum(len(item.tokens) for item in items), len(items), context)
        seconds = self._surface(shape)
        self.steps += 1
        self.busy_seconds += seconds
        self._sleep(seconds)
        return rows

    def truncate(self, slot: int, length: int) -> None:
        """See `Engine.truncate`."""
        del self._held[slot][length:]

    def copy_prefix(self, source: int, target: int, length: int) -> None:
        """See `Engine.copy_prefix`."""
        self._held[target] = self._held[source][:length]

    def tokenizer_gguf(self) -> bytes:
        """See `Engine.tokenizer_gguf`."""
        return b""

    def close(self) -> None:
        """See `Engine.close`."""

    def _rows(self, item: StepItem) -> Logits:
        held = self._held[item.slot]
        held.extend(item.tokens)
        rows = np.zeros((item.logit_rows, self.info.vocab_size), np.float32)
        text = self.texts[held[0]].tokens
        first = len(held) - item.logit_rows + 1 - self.prompt_length
        for row in range(item.logit_rows):
            at = first + row
            rows[row, text[at % len(text)]] = 1.0
        return rows


def _dense(trace: Trace, reserved: int) -> tuple[list[Text], int]:
    """The texts with their tokens numbered densely, so that rows of logits are short."""
    numbers: dict[int, int] = {}

    def number(token: int) -> int:
        return numbers.setdefault(token, reserved + len(numbers))

    def dense(text: Text) -> Text:
        return Text(
            text.prompt,
            tuple(number(t) for t in text.tokens),
            tuple(tuple(number(t) for t in row) for row in text.drafts),
            text.confidences,
        )

    texts = [dense(text) for text in trace.texts]
    return texts, reserved + len(numbers)


@dataclass(slots=True)
class _Device:
    number: int
    replay: ReplayingDevice
    draft: tuple[int, ...] = ()
    key: int = 0
    prefix: PrefixHash = field(default_factory=PrefixHash)
    request: DraftRequest | None = None
    ahead: Ahead | None = None
    asked_at: float = 0.0
    token_gaps: list[tuple[float, int]] = field(default_factory=list)
    last_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run showed. `rates` [devices] are output tokens a second, slowest first; `token_p95_seconds`
    is the time between verdicts of one device divided by what they brought.
    """

    tokens_per_second: float
    rates: tuple[float, ...]
    token_p95_seconds: float
    busy_share: float
    sequences_a_step: float
    verified_per_round: float


class VirtualFleet:
    """So many devices on one server for a while."""

    def __init__(
        self,
        trace: Trace,
        surface: Surface,
        policy: Policy,
        timings: Sequence[DeviceTiming],
        *,
        step_tokens: int = 4096,
        step_sequences: int = 1 << 20,
    ) -> None:
        """`step_sequences` bounds the rounds of one step; the others wait outside, first come, first served, and no sequence is
        carried along: it would be one more.
        """
        self.now = 0.0
        self._step_sequences_most = step_sequences
        self._arrived: deque[_Device] = deque()
        self._policy = policy
        slots = max(1, len(timings))
        self.engine = TraceEngine(
            trace, slots=slots, step_tokens=step_tokens, surface=surface, sleep=self._sleep
        )
        limits = Limits(
            step_tokens=step_tokens,
            prefill_chunk_tokens=256,
            max_queue=slots,
            max_sequences=slots,
            max_draft_tokens=8,
            default_deadline_seconds=120.0,
        )
        bounded = step_sequences < slots
        load = replace(policy.load, foretell=policy.load.foretell and not bounded)
        control = LoadControl(8, load)
        # What a verifier measures at its start.
        control.measured(
            (shape, surface(shape))
            for shape in (
                StepShape(n * k, n, CONTEXT_TOKENS * n)
                for n, k in measurement_shapes(
                    slots, step_tokens, 8, self.engine.info.context_tokens
                )
            )
        )
        self._scheduler = Scheduler(self.engine.info, limits, SlotPolicy(), control)
        self._devices = [
            _Device(
                n,
                ReplayingDevice(
                    timing,
                    self.engine.texts,
                    n,
                    policy.draft_tokens,
                    heeds_hints=policy.load.trim,
                    fixed=policy.fixed,
                ),
            )
            for n, timing in enumerate(timings)
        ]
        self._by_key: dict[int, _Device] = {}
        self._due: list[tuple[float, int]] = []
        self._rounds = self._verified = self._step_sequences = 0

    def run(self, warm_seconds: float, seconds: float) -> Outcome:
        """Let time pass; only what follows the warm-up counts."""
        rng = random.Random(1)
        for device in self._devices:
            self._open(device)
            device.draft, _ = device.replay.draft()
            heapq.heappush(self._due, (rng.random() * 0.2, device.number))
        self._until(warm_seconds)
        written = [0] * len(self._devices)
        for device in self._devices:
            device.token_gaps.clear()
        busy, steps = self.engine.busy_seconds, self.engine.steps
        self._rounds = self._verified = self._step_sequences = 0
        began = self.now
        self._until(began + seconds)
        took = self.now - began
        gaps: list[float] = []
        for device in self._devices:
            written[device.number] = sum(count for _, count in device.token_gaps)
            for gap, count in device.token_gaps:
                gaps += [gap / count] * count
        steps = max(1, self.engine.steps - steps)
        return Outcome(
            sum(written) / took,
            tuple(sorted(count / took for count in written)),
            float(np.quantile(gaps, 0.95)) if gaps else float("inf"),
            (self.engine.busy_seconds - busy) / took,
            self._step_sequences / steps,
            self._verified / max(1, self._rounds),
        )

    def _sleep(self, seconds: float) -> None:
        self.now += seconds

    def _until(self, end: float) -> None:
        first_waiting: float | None = None
        while self.now < end:
            while self._due and self._due[0][0] <= self.now:
                at, number = heapq.heappop(self._due)
                self._devices[number].asked_at = at
                self._arrived.append(self._devices[number])
            waiting = len(self._arrived)
            if waiting and first_waiting is None:
                first_waiting = self.now
            static = self._policy.static_batch
            if static and 0 < waiting < static and first_waiting is not None:
                patience = first_waiting + self._policy.static_seconds
                if self.now < patience:
                    following = self._due[0][0] if self._due else patience
                    self.now = max(self.now, min(patience, following, end))
                    if self.now < patience:
                        continue
            while self._arrived and self._scheduler.load.queue_depth < self._step_sequences_most:
                self._send(self._arrived.popleft())
            if self._holds(end):
                continue
            job = self._scheduler.plan(self.now)
            first_waiting = None
            if job is None:
                self.now = min(self._due[0][0] if self._due else end, end)
                continue
            self._step_sequences += len(job.items)
            result = run_job(self.engine, job, self._clock)
            for outcome in self._scheduler.apply(job, result, self.now):
                self._take_outcome(outcome)

    def _holds(self, end: float) -> bool:
        """True when time has passed up to the next arrival, for which the verifier waits."""
        waiting = self._scheduler.waiting
        hold = self._scheduler.hold(self.now) if waiting < self._step_sequences_most else None
        if hold is None or self._arrived or waiting >= hold.rounds or self.now >= hold.until:
            return False
        following = self._due[0][0] if self._due else end
        self.now = min(hold.until, following, end)
        return self.now < end

    def _clock(self) -> float:
        return self.now

    def _open(self, device: _Device) -> None:
        prompt = self.engine.prompt(device.replay.text_number)
        request = OpenRequest(
            f"d{device.number}", array("I", prompt), array("I"), SamplingParams(), draft_model="m"
        )
        device.key = self._scheduler.open(request, self.now).key
        device.prefix = PrefixHash(prompt)
        self._by_key[device.key] = device

    def _send(self, device: _Device) -> None:
        request = device.request or DraftRequest(
            device.replay.written,
            device.prefix.value,
            device.draft,
            (),
            DEADLINE_SECONDS,
            device.replay.sure,
            device.replay.run_tokens,
            device.replay.run_on,
        )
        device.request = request
        device.ahead = device.replay.ahead()
        answer = self._scheduler.submit(device.key, request, device.asked_at)
        if isinstance(answer, Answer):
            self._take_outcome(answer)

    def _take_outcome(self, outcome: Answer) -> None:
        if not isinstance(outcome.result, RoundVerdict):
            raise RuntimeError(str(outcome.result))
        self._take(self._by_key[outcome.key], outcome.result)

    def _take(self, device: _Device, verdict: RoundVerdict) -> None:
        following = next_round(device.request, verdict, ()) if device.request else None
        output = device.replay.take(
            verdict.accepted,
            verdict.next_token,
            verdict.verified,
            verdict.max_draft_tokens_hint,
            self.now - device.asked_at,
            following is not None,
        )
        device.prefix.extend(output)
        device.token_gaps.append((self.now - device.last_at, len(output)))
        device.last_at = self.now
        self._rounds += 1
        self._verified += verdict.verified
        device.request = following
        if following is not None:
            device.asked_at = self.now
            self._arrived.append(device)
            return
        ahead = device.ahead
        in_time = ahead is not None and device.asked_at + ahead.seconds <= self.now
        if ahead is not None and in_time and device.replay.follow(ahead, verdict.next_token):
            device.draft, device.asked_at = ahead.tokens, self.now
            self._arrived.append(device)
            return
        if device.replay.over:
            self._scheduler.close(device.key)
            del self._by_key[device.key]
            device.replay.begin_next()
            self._open(device)
        device.draft, pause = device.replay.draft()
        heapq.heappush(self._due, (self.now + pause, device.number))
