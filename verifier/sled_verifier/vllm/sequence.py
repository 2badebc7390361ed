"""One sequence of the vLLM backend. Must not know steps."""

from __future__ import annotations

from dataclasses import dataclass

from sled_verifier.session import Session


@dataclass(slots=True)
class Sequence:
    """A session and how vLLM stands to it.

    `wanted`: its prompt is to be computed though no draft has come yet. `unguidable`: the runtime cannot
    follow its guide; it waits to be closed.
    """

    session: Session
    wanted: bool = True
    unguidable: bool = False
