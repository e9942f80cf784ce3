"""The build of a kernel before its drill."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from ..base.errors import CommandFailed, UsageError
from ..base.progress import Progress

_SHOWN_BYTES = 400
_ERROR = re.compile(rb":\d+: (?:fatal )?error: |: undefined reference to ")


def check_build(directory: str) -> Path:
    """Return the directory to build in; UsageError where it is not one."""
    place = Path(directory).expanduser()
    if not place.is_dir():
        raise UsageError(f"--build needs a directory to build in: {directory} is not one")
    return place


def run_build(command: str, directory: str, *, log: Path, progress: Progress) -> None:
    """Run a command of the user in a directory; CommandFailed quotes the end of its output."""
    place = check_build(directory)
    with progress.step(f"building {place.resolve().name}"), log.open("wb") as out:
        process = subprocess.Popen(
            command, shell=True, cwd=place, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT
        )
        try:
            while True:
                try:
                    status = process.wait(timeout=1)
                    break
                except subprocess.TimeoutExpired:
                    progress.detail(_last_line(log))
        except BaseException:
            process.terminate()
            process.wait()
            raise
    if status != 0:
        raise CommandFailed(f"the build {command!r} ended with status {status}: {_cause(log)}", see=log)


def _cause(log: Path) -> str:
    """Return the first error of the compiler, else the last line."""
    with log.open("rb") as file:
        for line in file:
            if _ERROR.search(line):
                return line.decode(errors="replace").strip()[:_SHOWN_BYTES]
    return _last_line(log)


def _last_line(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _SHOWN_BYTES))
        lines = file.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "no output")
