"""A command of the user that gets JSON; none of its processes outlives it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
from typing import Any

from ..base import foreign

_HOOK_S = 120.0
_MAX_MESSAGE_BYTES = 4096


def run_hook(command: str, data: Any) -> str | None:
    """Run the command with JSON on its standard input; return an error message, or None.

    Its standard error is a file: a process that the command left in the background cannot hold a pipe open.
    """
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as errors:
        given.write(foreign.dump_json(data).encode() + b"\n")
        given.seek(0)
        process = subprocess.Popen(
            ["sh", "-c", command], stdin=given, stdout=subprocess.DEVNULL, stderr=errors, start_new_session=True
        )
        try:
            status = process.wait(_HOOK_S)
        except subprocess.TimeoutExpired:
            return f"the hook did not finish within {_HOOK_S:.0f} s"
        finally:
            _end(process)
        errors.seek(max(0, errors.seek(0, os.SEEK_END) - _MAX_MESSAGE_BYTES))
        said = errors.read().decode(errors="replace").strip().splitlines()[-1:]
    if status != 0:
        return f"the hook ended with status {status}" + (f": {said[0]}" if said else "")
    return None


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill all processes of the command's session; a process that made a session itself is a service of the user."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
