"""The `sled` command: runs, shows and checks fleets. Holds no decoding of its own; it wires the
other packages."""

from __future__ import annotations
