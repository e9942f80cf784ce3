"""What a fleet's run has got so far, line by line, so that a run that was stopped goes on where it was."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

from ..base.errors import UsageError
from .protocol.results import BadResult, TaskResult, from_header

NAME = "fleet.jsonl"


class Journal:
    """In the directory of a run: each task's digest and result, once it is all here."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / NAME

    def add(self, digest: str, result: TaskResult) -> None:
        """Write a result down; whole or not at all, as far as a reader is concerned."""
        line = json.dumps({"task": digest, "result": result.header()}, default=str) + "\n"
        with self._path.open("a+b") as file:
            # A line that was cut by a crash must not take this one with it.
            if file.tell() and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n":
                line = "\n" + line
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())

    def read(self) -> dict[str, list[TaskResult]]:
        """The results by their tasks' digests; a task may have been given more than once."""
        found: dict[str, list[TaskResult]] = {}
        try:
            text = self._path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return found
        except OSError as error:
            raise UsageError(f"{self._path} cannot be read: {error.strerror}") from None
        for line in text.splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError, BadResult):
                row = json.loads(line)
                found.setdefault(str(row["task"]), []).append(from_header(row["result"]))
        return found


def directory_to_resume(where: str, evidence: Path) -> Path:
    """The directory of the run that --resume means; last is the newest."""
    directory = (evidence / "last").resolve() if where == "last" else Path(where).resolve()
    if not (directory / NAME).exists():
        raise UsageError(f"{directory} has no {NAME}, so there is no fleet's run to go on with")
    return directory
