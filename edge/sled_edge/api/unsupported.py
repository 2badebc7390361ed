"""Fields that clients know and this API does not offer: refused unless they change nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sled_edge.api.refusal import Reason, Refusal


class Unsupported:
    """Per field, the values under which it has no effect; any other value is refused.

    Silently ignoring such a field would give another text than the client asked for.
    """

    def __init__(
        self, harmless: Mapping[str, tuple[object, ...]], hints: Mapping[str, str] | None = None
    ) -> None:
        self._harmless = dict(harmless)
        self._hints = dict(hints or {})

    @property
    def names(self) -> frozenset[str]:
        """All fields that are looked at."""
        return frozenset(self._harmless)

    def check(self, document: Mapping[str, Any], prefix: str = "") -> None:
        """Look at every known field of a body.

        Raises:
            Refusal: one of them asks for something that is not offered.
        """
        for name, value in document.items():
            if name in self._harmless and not any(
                _same(value, harmless) for harmless in self._harmless[name]
            ):
                hint = self._hints.get(name, "")
                raise Refusal(
                    Reason.UNSUPPORTED_PARAMETER,
                    f"{prefix}{name} is not offered here. {hint}".rstrip(),
                    param=f"{prefix}{name}",
                )


def _same(value: object, harmless: object) -> bool:
    """Equal and of one type: `0`, `0.0` and `False` differ."""
    return type(value) is type(harmless) and value == harmless
