"""The journal of a fleet's run: one line for each result, from which a stopped run can be resumed."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

from ..base import foreign
from ..base.errors import UsageError
from .protocol.results import BadResult, TaskResult, from_header

NAME = "fleet.jsonl"


class Journal:
    """The file with the digest and result of each finished task in a run's directory."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / NAME

    def add(self, digest: str, result: TaskResult) -> None:
        """Append a result; readers skip a line that was not written completely."""
        line = json.dumps({"task": digest, "result": result.header()}, default=str) + "\n"
        with self._path.open("a+b") as file:
            # An unfinished line, left by a crash, must not swallow this one.
            if file.tell() and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n":
                line = "\n" + line
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())

    def read(self) -> dict[str, list[TaskResult]]:
        """Return the results by the digest of their task; one task can have several results."""
        found: dict[str, list[TaskResult]] = {}
        try:
            text = self._path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return found
        except OSError as error:
            raise UsageError(f"{self._path} cannot be read: {error.strerror}") from None
        for line in text.splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError, BadResult):
                row = foreign.parse_object(line)
                found.setdefault(str(row["task"]), []).append(from_header(row["result"]))
        return found


def directory_to_resume(where: str, evidence: Path) -> Path:
    """Return the directory of the run that --resume names; "last" is the newest."""
    directory = (evidence / "last").resolve() if where == "last" else Path(where).resolve()
    if not (directory / NAME).exists():
        raise UsageError(f"cannot resume a fleet's run from {directory}: it has no {NAME}")
    return directory
