"""What has been seen of a demonstration so far. Remembers; draws nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from sled_cli.demo.client import Answer
from sled_cli.watch.device import DeviceCounters
from sled_cli.watch.verifier import VerifierStats


@dataclass(slots=True)
class DeviceLine:
    """One device."""

    name: str
    draft: str
    texts: int
    """Texts asked of it."""
    prompt: str = ""
    """The one it writes now."""
    answers: list[Answer] = field(default_factory=list)
    tokens: int = 0
    """Tokens that reached the client, this moment."""
    counters: DeviceCounters = field(default_factory=DeviceCounters)
    at_start: DeviceCounters = field(default_factory=DeviceCounters)
    ended_seconds: float | None = None
    """When its last text was whole."""

    @property
    def totals(self) -> DeviceCounters:
        """Its counters since the demonstration began."""
        return self.counters.since(self.at_start)

    @property
    def state(self) -> str:
        """In a word or two."""
        if len(self.answers) == self.texts:
            return "done"
        return self.prompt or "waiting"


@dataclass(slots=True)
class VerifierLine:
    """One verifier."""

    name: str
    model: str
    stats: VerifierStats | None = None
    at_start: VerifierStats | None = None
    deepest_queue: int = 0

    @property
    def steps(self) -> int:
        """Steps since the demonstration began."""
        if self.stats is None:
            return 0
        return self.stats.steps - (self.at_start.steps if self.at_start else 0)

    @property
    def rounds(self) -> int:
        """Rounds since the demonstration began."""
        if self.stats is None:
            return 0
        return self.stats.rounds - (self.at_start.rounds if self.at_start else 0)

    def saw(self, stats: VerifierStats | None) -> None:
        """Take a new look; no answer keeps the last one."""
        if stats is not None:
            self.stats = stats
            self.deepest_queue = max(self.deepest_queue, stats.queue_depth)


class Board:
    """The whole demonstration."""

    def __init__(
        self,
        devices: Iterable[DeviceLine],
        verifiers: Iterable[VerifierLine],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.devices = tuple(devices)
        self.verifiers = tuple(verifiers)
        self._clock = clock
        self._started = clock()

    def begin(self) -> None:
        """Prompts are sent from now on: figures count from here."""
        self._started = self._clock()
        for device in self.devices:
            device.at_start = device.counters
        for verifier in self.verifiers:
            verifier.at_start = verifier.stats

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return self._clock() - self._started

    def answered(self, device: DeviceLine, answer: Answer) -> None:
        """A text is whole, or has failed."""
        device.answers.append(answer)
        device.prompt = ""
        if len(device.answers) == device.texts:
            device.ended_seconds = self.seconds

    def tokens_per_second(self, device: DeviceLine) -> float | None:
        """Of one device, over all its texts so far."""
        seconds = self.seconds if device.ended_seconds is None else device.ended_seconds
        return device.tokens / seconds if device.tokens and seconds > 0 else None

    @property
    def answers(self) -> list[Answer]:
        """All texts, by device."""
        return [answer for device in self.devices for answer in device.answers]

    @property
    def texts(self) -> int:
        """Texts asked of all devices."""
        return sum(device.texts for device in self.devices)
