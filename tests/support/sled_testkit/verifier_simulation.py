"""The scheduler over the fake engine in virtual time: hours of many devices in seconds, and the
same every time.
"""

from __future__ import annotations

import heapq
import random
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field

from sled_protocol.prefix import PrefixHash
from sled_speculation.sampling import SamplingParams
from sled_verifier.answers import Outcome
from sled_verifier.engine.fake import CostModel, FakeEngine, ToyModel
from sled_verifier.job import run_job
from sled_verifier.limits import Limits
from sled_verifier.refusal import Refusal
from sled_verifier.rounds import DraftRequest, OpenRequest
from sled_verifier.scheduler import Scheduler
from sled_verifier.slots import SlotPolicy


class Clock:
    """Seconds that pass only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def __call__(self) -> float:
        return self.now


@dataclass(slots=True)
class SimulatedDevice:
    """Generates texts one after another; `think_seconds` pass between a verdict and the next
    draft.
    """

    number: int
    prompt: Callable[[random.Random], list[int]]
    text_tokens: int = 60
    draft_tokens: int = 4
    skill: float = 0.8
    think_seconds: float = 0.02
    deadline_seconds: float | None = None
    rng: random.Random = field(default_factory=random.Random)
    key: int | None = None
    tokens: list[int] = field(default_factory=list)
    prompt_length: int = 0
    draft: tuple[int, ...] = ()
    prefix: PrefixHash = field(default_factory=PrefixHash)
    output_tokens: int = 0
    texts: int = 0
    refusals: list[Refusal] = field(default_factory=list)
    longest_wait_seconds: float = 0.0
    """Of all rounds but the first of a text, which waits for its prompt."""
    longest_first_wait_seconds: float = 0.0
    asked_at: float = 0.0

    @property
    def output(self) -> list[int]:
        return self.tokens[self.prompt_length :]


class Simulation:
    """Devices on one scheduler. Every finished text is compared with the target's own."""

    def __init__(
        self,
        devices: list[SimulatedDevice],
        *,
        slots: int = 8,
        cost: CostModel | None = None,
        limits: Limits | None = None,
        policy: SlotPolicy | None = None,
        model: ToyModel | None = None,
        context_tokens: int = 2304,
    ) -> None:
        self.clock = Clock()
        self.model = model or ToyModel(vocab_size=64)
        self.engine = FakeEngine(
            model=self.model,
            slots=slots,
            context_tokens=context_tokens,
            cost=cost or CostModel(0.02, 0.0002),
            sleep=self.clock.sleep,
        )
        self.scheduler = Scheduler(self.engine.info, limits or Limits(), policy)
        self.devices = devices
        self._by_key: dict[int, SimulatedDevice] = {}
        self._due: list[tuple[float, int]] = []
        for device in devices:
            device.rng = random.Random(device.number)
            heapq.heappush(self._due, (device.rng.random() * 0.1, device.number))

    def run(self, seconds: float) -> None:
        """Let so much virtual time pass."""
        end = self.clock.now + seconds
        while self.clock.now < end:
            while self._due and self._due[0][0] <= self.clock.now:
                self._act(self.devices[heapq.heappop(self._due)[1]])
            self._deliver(self.scheduler.expire(self.clock.now))
            job = self.scheduler.plan(self.clock.now)
            if job is None:
                self.clock.now = min(self._next_event(), end)
                continue
            result = run_job(self.engine, job, self.clock)
            self._deliver(self.scheduler.apply(job, result, self.clock.now))

    def _next_event(self) -> float:
        times = [self.clock.now + 0.1]
        times += [self._due[0][0]] if self._due else []
        deadline = self.scheduler.next_deadline()
        times += [] if deadline is None else [deadline]
        return max(min(times), self.clock.now)

    def _act(self, device: SimulatedDevice) -> None:
        now = self.clock.now
        try:
            if device.key is None:
                self._open(device)
            right = self.model.greedy(device.tokens, device.draft_tokens)
            vocab = self.model.vocab_size
            device.draft = tuple(
                token if device.rng.random() < device.skill else (token + 1) % vocab
                for token in right
            )
            if device.key is None:
                raise LookupError("no sequence")
            device.asked_at = now
            draft = DraftRequest(
                len(device.output),
                device.prefix.value,
                device.draft,
                deadline_seconds=device.deadline_seconds,
            )
            answer = self.scheduler.submit(device.key, draft, now)
            if isinstance(answer, Outcome):
                self._deliver([answer])
        except Refusal as refusal:
            self._refused(device, refusal)

    def _open(self, device: SimulatedDevice) -> None:
        prompt = device.prompt(device.rng)
        request = OpenRequest(
            f"device-{device.number}", array("I", prompt), array("I"), SamplingParams()
        )
        device.key = self.scheduler.open(request, self.clock.now).key
        device.tokens = prompt
        device.prompt_length = len(prompt)
        device.prefix = PrefixHash(prompt)
        self._by_key[device.key] = device

    def _deliver(self, outcomes: list[Outcome]) -> None:
        for outcome in outcomes:
            device = self._by_key[outcome.key]
            if isinstance(outcome.result, Refusal):
                self._refused(device, outcome.result)
                continue
            verdict = outcome.result
            output = [*device.draft[: verdict.accepted], verdict.next_token]
            device.tokens += output
            device.prefix.extend(output)
            device.output_tokens += len(output)
            waited = self.clock.now - device.asked_at
            if verdict.committed_length:
                device.longest_wait_seconds = max(device.longest_wait_seconds, waited)
            else:
                device.longest_first_wait_seconds = max(device.longest_first_wait_seconds, waited)
            if len(device.output) >= device.text_tokens:
                self._finish(device)
            heapq.heappush(self._due, (self.clock.now + device.think_seconds, device.number))

    def _finish(self, device: SimulatedDevice) -> None:
        prompt = device.tokens[: device.prompt_length]
        if device.output != self.model.greedy(prompt, len(device.output)):
            raise AssertionError(f"device {device.number} got a text that is not the target's own")
        if device.key is not None:
            self.scheduler.close(device.key)
            del self._by_key[device.key]
        device.key = None
        device.texts += 1

    def _refused(self, device: SimulatedDevice, refusal: Refusal) -> None:
        device.refusals.append(refusal)
        again = self.clock.now + max(0.01, refusal.retry_after_ms / 1000)
        heapq.heappush(self._due, (again, device.number))
