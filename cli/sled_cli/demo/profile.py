"""The demonstrations that ship with SLED: which documents, and how much is written.

Finds files; runs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sled_cli.errors import BadInput


@dataclass(frozen=True, slots=True)
class Profile:
    """One demonstration."""

    name: str
    max_tokens: int
    """Output tokens of each text, at most."""
    about: str


PROFILES: Final = {
    profile.name: profile
    for profile in (
        Profile("quickstart", 48, "SmolLM2 135M and quantised copies of it, about 1 GB of disk"),
        Profile("pair", 32, "Qwen2.5-Coder 1.5B and 0.5B, about 4 GB of disk"),
    )
}


def example_folder(profile: Profile) -> Path:
    """Where the documents of a profile are.

    Raises:
        BadInput: this is no checkout of SLED, and the current folder has no such example.
    """
    checkout = Path(__file__).parents[3]
    for root in (Path.cwd(), checkout):
        folder = root / "examples" / profile.name
        if folder.is_dir():
            return folder
    raise BadInput(
        f"there is no folder examples/{profile.name} here; run this in a checkout of SLED, or name "
        "documents with -f"
    )
