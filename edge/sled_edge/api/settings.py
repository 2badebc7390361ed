"""What the local API is allowed to take and to give. Must not read files or the environment."""

from __future__ import annotations

from dataclasses import dataclass

LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "[::1]")


class InvalidSettings(ValueError):
    """A setting of the API is outside its range; the message names it."""


@dataclass(frozen=True, slots=True)
class ApiSettings:
    """Bounds of the local API.

    Raises:
        InvalidSettings: a bound is not positive, or `api_key` is empty.
    """

    max_body_bytes: int = 1_000_000
    default_max_tokens: int = 1024
    """Output tokens of a chat that names none."""
    api_key: str | None = None
    """Bearer token that clients must show; None asks for none."""
    allowed_hosts: tuple[str, ...] = LOOPBACK_HOSTS
    """Host header values that are served, without port; `*` serves any."""
    request_seconds: float = 600.0
    """Longest time from a request to the end of its text."""
    body_seconds: float = 30.0
    """Longest time for a request's body to arrive."""
    send_seconds: float = 30.0
    """Longest time that a client may take none of its reply."""

    def __post_init__(self) -> None:
        for name in (
            "max_body_bytes",
            "default_max_tokens",
            "request_seconds",
            "body_seconds",
            "send_seconds",
        ):
            if not getattr(self, name) > 0:
                raise InvalidSettings(f"{name} is {getattr(self, name)}; allowed: above 0")
        if self.api_key is not None and not self.api_key:
            raise InvalidSettings("api_key is empty; leave it out to ask for none")
