"""`sled top`: a live table of the fleet that `sled up` runs, or of addresses that are given."""

from __future__ import annotations
