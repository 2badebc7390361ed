"""Becomes another module of this Python, tied to the life of the program that started it.

`python -m sled_cli.up.leash PARENT_PID MODULE ARGUMENTS…`. Without it a verifier would keep its
port and its memory after `sled up` was killed. Must stay free of imports that take time.
"""

from __future__ import annotations

import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(argv: list[str]) -> None:
    """Ask the kernel for SIGTERM at the parent's death (Linux; elsewhere nothing), then exec."""
    parent, module, *arguments = argv
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != int(parent):  # it died before the line above
            sys.exit(1)
    os.execv(sys.executable, [sys.executable, "-P", "-m", module, *arguments])


if __name__ == "__main__":
    main(sys.argv[1:])
