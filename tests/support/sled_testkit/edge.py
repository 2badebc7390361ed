"""What edge tests share: a loop over any link, and a way to run one generation to its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from sled_edge.draft_worker import DraftWorker
from sled_edge.drafter.base import Drafter
from sled_edge.generation import Delta, FinishReason, GenerationRequest
from sled_edge.link import Link
from sled_edge.link_backoff import LinkTiming
from sled_edge.link_frames import DeviceFacts
from sled_edge.link_resilient import ResilientLink
from sled_edge.link_transport import Dialer
from sled_edge.loop import LoopSettings, SpeculationLoop
from sled_edge.offline import OfflineTiming
from sled_speculation.draft_length_policy import DraftLengthPolicy, FixedDraftLength

QUICK = LinkTiming(
    connect_seconds=5.0,
    backoff_base_seconds=0.001,
    backoff_cap_seconds=0.01,
    slow_seconds=0.02,
    stable_seconds=0.0,
    move_jitter_seconds=0.0,
    close_seconds=1.0,
)
"""Link bounds for tests: generous where a test must not time out, short where it only waits."""

QUICK_OFFLINE = OfflineTiming(
    fresh_patience_seconds=30.0,
    running_patience_seconds=30.0,
    draft_only_patience_seconds=0.05,
    retry_base_seconds=0.01,
    retry_cap_seconds=0.02,
)

"""Patient with a slow machine, quick to let the draft model write alone."""

IMPATIENT = replace(QUICK_OFFLINE, fresh_patience_seconds=0.05, running_patience_seconds=0.05)
"""For tests in which nobody will answer."""


def settings(**changes: object) -> LoopSettings:
    """Loop settings for tests."""
    defaults: dict[str, object] = {"max_draft_tokens": 16, "offline": QUICK_OFFLINE}
    return LoopSettings(**{**defaults, **changes})  # type: ignore[arg-type]


def fixed(draft_tokens: int) -> Callable[[], DraftLengthPolicy]:
    """Every round drafts as many tokens as allowed."""
    return lambda: FixedDraftLength(draft_tokens)


def half() -> float:
    """Chance without chance."""
    return 0.5


def resilient(
    dialer: Dialer, endpoints: Sequence[str] = ("a",), timing: LinkTiming = QUICK
) -> ResilientLink:
    """A link over a test's dialer."""
    return ResilientLink(
        dialer, endpoints, lambda: DeviceFacts("test-device"), timing, uniform=half
    )


@asynccontextmanager
async def running_loop(
    link: Link,
    drafter: Drafter,
    loop_settings: LoopSettings | None = None,
    lengths: Callable[[], DraftLengthPolicy] | None = None,
) -> AsyncIterator[SpeculationLoop]:
    """A started loop; everything is closed at the end, and nothing may be left running."""
    before = asyncio.all_tasks()
    worker = DraftWorker(lambda: drafter)
    await worker.start()
    await link.start()
    loop = SpeculationLoop(link, worker, loop_settings or settings(), lengths)
    try:
        yield loop
    finally:
        await loop.close()
    names = [task.get_name() for task in asyncio.all_tasks() - before]
    # A verifier of the same test has tasks of its own.
    left = [name for name in names if name.startswith("sled-")]
    if left:
        raise RuntimeError(f"left running: {left}")


@dataclass
class Text:
    """A generation that has ended."""

    tokens: list[int] = field(default_factory=list)
    deltas: list[Delta] = field(default_factory=list)

    @property
    def finish(self) -> FinishReason | None:
        """Why it ended."""
        return self.deltas[-1].finish if self.deltas else None

    @property
    def verified(self) -> list[bool]:
        """For each token whether the target stands behind it."""
        return [delta.verified for delta in self.deltas for _ in delta.tokens]


async def collect(loop: SpeculationLoop, request: GenerationRequest) -> Text:
    """Run one generation to its end."""
    text = Text()
    async for delta in loop.generate(request):
        text.deltas.append(delta)
        text.tokens.extend(delta.tokens)
    return text


async def until(
    condition: Callable[[], bool], looks: int = 100_000, pause_seconds: float = 0.0
) -> None:
    """Let the event loop turn until something is so; for what has no event to wait for.

    Raises:
        TimeoutError: it was not so at any of so many turns.
    """
    for _ in range(looks):
        if condition():
            return
        await asyncio.sleep(pause_seconds)
    raise TimeoutError("the condition never came true")
