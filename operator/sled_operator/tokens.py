"""Device tokens of a SLEDServer. Must never log or show one."""

from __future__ import annotations

import secrets
from collections.abc import Mapping


def make() -> dict[str, bytes]:
    """A fleet token: the verifier's list with it, and the token alone for drafters."""
    token = secrets.token_urlsafe(32)
    return {"tokens": f"*:{token}\n".encode(), "token": token.encode()}


def usable(data: Mapping[str, bytes]) -> bool:
    """Whether a stored Secret has both keys, and something in them."""
    return bool(data.get("tokens", b"").strip() and data.get("token", b"").strip())
