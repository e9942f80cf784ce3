"""Stands between a worker and a task's process: when the worker is gone, however it went, so is the task.

The worker holds the other end of our standard input and never writes to it. All that the task starts is in one
process group, which the keeper leads.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence

# A harness that is told to end destroys its guest and removes its files, which takes seconds.
GRACE_S = 30.0


def main(command: Sequence[str]) -> int:
    """Run the command to its end, or to that of the worker; its exit status."""
    signal.signal(signal.SIGTERM, lambda *_: None)  # it is for the task
    signal.signal(signal.SIGINT, lambda *_: None)
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as task:
        threading.Thread(target=_watch, args=(task,), daemon=True).start()
        status = task.wait()
    return status if status >= 0 else 128 - status


def _watch(task: subprocess.Popen[bytes]) -> None:
    """Wait for the end of standard input, then end everything."""
    sys.stdin.buffer.read()
    os.killpg(0, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        task.wait(GRACE_S)
    os.killpg(0, signal.SIGKILL)  # ourselves, too


if __name__ == "__main__":
    os._exit(main(sys.argv[1:]))
