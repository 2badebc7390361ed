"""Start a program that cannot outlive the process that asked for it.

Why: a test run that is killed must not leave an etcd or an API server behind, and a parent that
was killed cannot clean up. This file is run by path, as `python cluster_launch.py PARENT_PID
PROGRAM ARGS…`: it asks the kernel to kill this process when its parent ends and then becomes the
program. It imports nothing of ours, so that it starts in milliseconds. Where the kernel has no
such call (macOS), `cluster_process.reap_abandoned` finds the left-overs on the next run.
"""

from __future__ import annotations

import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(argv: list[str]) -> None:
    """Tie this process to its parent, then become the program; returns when the parent is gone."""
    parent_pid, program = int(argv[1]), argv[2]
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == parent_pid:  # otherwise the parent ended before the kernel was told
        os.execv(program, argv[2:])


if __name__ == "__main__":
    main(sys.argv)
