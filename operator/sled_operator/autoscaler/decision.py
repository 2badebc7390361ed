"""Replicas from queue depth, with the behavior of HorizontalPodAutoscaler. Pure: values in, values
out.

A recommendation is waiting drafts over the target, rounded up. It is softened as HPA does it:
within a tenth of the target nothing changes; growing takes the lowest and shrinking the highest
recommendation of its window; no more replicas come or go in a period than the behavior allows.
Where it differs from HPA: a replica that does not answer counts as full when shrinking and as empty
when growing; shrinking never leaves fewer slots than there are open sequences; and zero is reached
only after a quiet time in which no device was connected.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field, replace

from sled_operator.autoscaler.sample import Sample
from sled_operator.spec.autoscaling import Autoscaling, ScaleBehavior

TOLERANCE = 0.1
MAX_HISTORY = 1000


class Reason(enum.StrEnum):
    """Why so many replicas."""

    STEADY = "Steady"
    """The queue is about as long as it should be."""
    QUEUE_LONG = "QueueLong"
    """More drafts wait than the target allows."""
    QUEUE_SHORT = "QueueShort"
    """Fewer replicas would do."""
    STABILIZING = "Stabilizing"
    """A change is due but its window is not over."""
    RATE_LIMITED = "RateLimited"
    """The behavior allows only a part of the change now."""
    BOUNDED = "Bounded"
    """minReplicas or maxReplicas holds it."""
    NO_METRICS = "NoMetrics"
    """No verifier answers: fallbackReplicas, or what there is."""
    QUIET = "Quiet"
    """Nobody has needed the server for scaleToZeroAfterSeconds."""
    ACTIVATED = "Activated"
    """A device asked for a server that had no replica."""


@dataclass(frozen=True, slots=True)
class History:
    """What the decision remembers; times in seconds of one monotonic clock."""

    started: float
    recommendations: tuple[tuple[float, int], ...] = ()
    changes: tuple[tuple[float, int], ...] = ()
    """When replicas were added (positive) or removed (negative)."""
    quiet_since: float | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """Replicas to have now, and why."""

    replicas: int
    reason: Reason
    message: str
    history: History = field(repr=False)


def decide(
    spec: Autoscaling, slots: int, current: int, seen: Sample, history: History, now: float
) -> Decision:
    """The next number of replicas.

    Args:
        spec: bounds, target and behavior.
        slots: sequences that one replica serves at once.
        current: replicas asked for now.
        seen: what the verifiers say.
        history: of the decision before; `History(now)` at the start.
        now: seconds.
    """
    history = _remember_quiet(history, seen, current, now)
    if current == 0:
        return _from_zero(spec, seen, history, now)
    if not seen.answers:
        return _blind(spec, current, history, now)
    wanted = _recommend(spec, slots, current, seen)
    if spec.min_replicas == 0 and _long_quiet(spec, history, now):
        text = f"no device for {spec.scale_to_zero_after_seconds} s"
        return _settle(history, current, 0, Reason.QUIET, text, now)
    history = _remember(history, wanted, now, spec)
    return _soften(spec, current, wanted, seen, history, now)


def _recommend(spec: Autoscaling, slots: int, current: int, seen: Sample) -> int:
    """Before any softening."""
    target = spec.target_queue_depth
    ratio = seen.queue_depth / (target * current)
    if abs(ratio - 1) <= TOLERANCE:
        return current
    wanted = math.ceil(seen.queue_depth / target)
    if wanted < current:
        occupied = math.ceil((seen.queue_depth + seen.silent * target) / target)
        busy = math.ceil(seen.active_sequences / slots)
        wanted = min(current, max(occupied, busy))
    return wanted


def _soften(
    spec: Autoscaling, current: int, wanted: int, seen: Sample, history: History, now: float
) -> Decision:
    text = f"{seen.queue_depth} drafts wait at {current} replicas, {spec.target_queue_depth} each"
    if seen.silent:
        text += f", {seen.silent} do not answer"
    steady = _stabilised(spec, current, wanted, history, now)
    lower = max(spec.min_replicas, 1)
    bounded = min(max(steady, lower), spec.max_replicas)
    limited = _limited(spec, current, bounded, history, now)
    reason = _reason(current, wanted, steady, bounded, limited)
    return _settle(history, current, limited, reason, text, now)


def _reason(current: int, wanted: int, steady: int, bounded: int, limited: int) -> Reason:
    if limited != bounded:
        return Reason.RATE_LIMITED
    if bounded != steady:
        return Reason.BOUNDED
    if limited > current:
        return Reason.QUEUE_LONG
    if limited < current:
        return Reason.QUEUE_SHORT
    return Reason.STEADY if wanted == current else Reason.STABILIZING


def _stabilised(spec: Autoscaling, current: int, wanted: int, history: History, now: float) -> int:
    """The most careful recommendation of the window of the direction."""
    behavior: ScaleBehavior = spec.scale_up if wanted > current else spec.scale_down
    since = now - behavior.stabilization_seconds
    recent = [value for at, value in history.recommendations if at >= since] or [wanted]
    if wanted > current:
        return max(current, min(recent))
    if wanted < current and history.started > since:
        return current
    return min(current, max(recent)) if wanted < current else current


def _limited(spec: Autoscaling, current: int, wanted: int, history: History, now: float) -> int:
    """As far towards `wanted` as the behavior lets us go in this period."""
    if wanted == current:
        return current
    up = wanted > current
    behavior: ScaleBehavior = spec.scale_up if up else spec.scale_down
    if not behavior.max_replicas_per_period and not behavior.max_percent_per_period:
        return wanted
    since = now - behavior.period_seconds
    moved = sum(change for at, change in history.changes if at > since and (change > 0) == up)
    start = current - moved
    percent = math.ceil(abs(start) * behavior.max_percent_per_period / 100)
    step = max(behavior.max_replicas_per_period, percent)
    if up:
        return max(current, min(wanted, start + step))
    return min(current, max(wanted, start - step))


def _from_zero(spec: Autoscaling, seen: Sample, history: History, now: float) -> Decision:
    if seen.activated or spec.min_replicas > 0:
        wanted = min(max(spec.min_replicas, 1), spec.max_replicas)
        reason = Reason.ACTIVATED if seen.activated else Reason.BOUNDED
        text = "a device asked for a verifier" if seen.activated else "minReplicas is above 0"
        return _settle(replace(history, quiet_since=None), 0, wanted, reason, text, now)
    return Decision(0, Reason.QUIET, "no device asks for a verifier", history)


def _blind(spec: Autoscaling, current: int, history: History, now: float) -> Decision:
    wanted = current if spec.fallback_replicas is None else spec.fallback_replicas
    wanted = min(max(wanted, spec.min_replicas, 1), spec.max_replicas)
    return _settle(history, current, wanted, Reason.NO_METRICS, "no verifier answers", now)


def _settle(
    history: History, current: int, wanted: int, reason: Reason, text: str, now: float
) -> Decision:
    if wanted != current:
        changes = (*history.changes, (now, wanted - current))[-MAX_HISTORY:]
        history = replace(history, changes=changes)
        text = f"{text}: {current} to {wanted}"
    return Decision(wanted, reason, text, history)


def _remember(history: History, wanted: int, now: float, spec: Autoscaling) -> History:
    longest = max(spec.scale_up.stabilization_seconds, spec.scale_down.stabilization_seconds)
    period = max(spec.scale_up.period_seconds, spec.scale_down.period_seconds)
    kept = tuple(item for item in history.recommendations if item[0] >= now - longest)
    changes = tuple(item for item in history.changes if item[0] > now - period)
    return replace(history, recommendations=(*kept, (now, wanted))[-MAX_HISTORY:], changes=changes)


def _remember_quiet(history: History, seen: Sample, current: int, now: float) -> History:
    if current and seen.answers and seen.quiet:
        since = now if history.quiet_since is None else history.quiet_since
        return replace(history, quiet_since=since)
    return replace(history, quiet_since=None)


def _long_quiet(spec: Autoscaling, history: History, now: float) -> bool:
    since = history.quiet_since
    return since is not None and now - since >= spec.scale_to_zero_after_seconds
