"""Figures as people read them in a table. Pure."""

from __future__ import annotations

from sled_cli.watch.device import DeviceCounters

NOTHING = "–"


def percent(share: float | None) -> str:
    """A share of one as a percentage."""
    return NOTHING if share is None else f"{100 * share:.0f} %"


def figure(value: float | None, digits: int = 1) -> str:
    """A number with so many digits after the point."""
    return NOTHING if value is None else f"{value:.{digits}f}"


def milliseconds(seconds: float) -> str:
    """A duration."""
    return NOTHING if seconds == 0 else f"{1000 * seconds:.0f} ms"


def device_figures(totals: DeviceCounters, tokens_per_second: float | None) -> tuple[str, ...]:
    """Tokens per second, acceptance, output tokens per pass, link bytes per token."""
    return (
        figure(tokens_per_second),
        percent(totals.acceptance),
        figure(totals.tokens_per_pass, 2),
        figure(totals.bytes_per_token, 0),
    )
