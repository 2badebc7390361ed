"""Reads what running verifiers and devices say of themselves, for `sled top` and `sled demo`."""

from __future__ import annotations
