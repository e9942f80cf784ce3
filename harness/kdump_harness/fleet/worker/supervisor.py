"""The supervisor of a task's process: it ends the task when the worker ends for any reason.

The worker holds the other end of this process's standard input and never writes to it. The supervisor leads the
process group that contains all processes of the task.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence

# On SIGTERM the harness destroys its guest and removes its files, which takes seconds.
GRACE_S = 30.0


def main(command: Sequence[str]) -> int:
    """Run the command until it or the worker ends, and return its exit status."""
    signal.signal(signal.SIGTERM, lambda *_: None)  # the signal is meant for the task
    signal.signal(signal.SIGINT, lambda *_: None)
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as task:
        threading.Thread(target=_watch, args=(task,), daemon=True).start()
        status = task.wait()
    return status if status >= 0 else 128 - status


def _watch(task: subprocess.Popen[bytes]) -> None:
    """Wait for the end of standard input, then end the process group."""
    sys.stdin.buffer.read()
    os.killpg(0, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        task.wait(GRACE_S)
    os.killpg(0, signal.SIGKILL)  # includes this process


if __name__ == "__main__":
    os._exit(main(sys.argv[1:]))
