"""One directory per run and drill: raw console, events, commands, pulled files, verdict, `last` link."""

from __future__ import annotations

import contextlib
import datetime
import errno
import os
import threading
from pathlib import Path
from typing import Any

from . import foreign
from .clock import now_s
from .errors import HostError


class Evidence:
    """The directory that a drill leaves behind; small files always, large ones when asked for."""

    def __init__(self, directory: Path, *, again: bool = False) -> None:
        """Create the directory, or continue in it; raise HostError when that is not possible."""
        self.directory = directory
        try:
            directory.mkdir(parents=True, exist_ok=again)
            self._console = (directory / "console.log").open("ab", buffering=0)
            self._timing = (directory / "console.timing").open("a", encoding="ascii", buffering=1)
            self._events = (directory / "events.jsonl").open("a", encoding="utf-8", buffering=1)
            self._commands = (directory / "commands.log").open("a", encoding="utf-8", buffering=1)
        except OSError as error:
            raise _unwritable(directory, error) from None
        self._zero_s = self._last_chunk_s = now_s()
        self._lock = threading.Lock()
        self._echo: Any = None

    @property
    def console_path(self) -> Path:
        """Every byte of the serial console, in order."""
        return self.directory / "console.log"

    def echo_console(self, write: Any) -> None:
        """Also hand the console's bytes to write (the -v option)."""
        self._echo = write

    def console_bytes(self, data: bytes) -> None:
        """Append to console.log; called from the thread that reads the serial line. OSError when it cannot be."""
        with contextlib.suppress(ValueError):  # a last chunk after close()
            if self._console.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.console_path))
            at_s, self._last_chunk_s = self._last_chunk_s, now_s()
            # The form of script(1): scriptreplay -t console.timing console.log shows the drill again.
            self._timing.write(f"{self._last_chunk_s - at_s:.6f} {len(data)}\n")
        if self._echo is not None:
            self._echo(data)

    def event(self, name: str, **details: Any) -> None:
        """Append one line to events.jsonl, with the seconds since the drill began."""
        record = {"at_s": round(now_s() - self._zero_s, 3), "event": name, **details}
        with self._lock, contextlib.suppress(ValueError):
            self._events.write(foreign.dump_json(record) + "\n")

    def command(self, line: str, status: int, out: str, err: str, took_s: float) -> None:
        """Append a command that the harness ran, and its output."""
        with contextlib.suppress(ValueError):
            self._commands.write(f"$ {line}\n{out}{err}[{status} after {took_s:.1f} s]\n\n")

    def text(self, name: str, text: str) -> Path:
        """Write a small file, in one step: it stays readable if the harness is killed."""
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".{path.name}-{os.getpid()}-{threading.get_ident()}")
        try:
            fresh.write_text(text, encoding="utf-8")
            fresh.replace(path)
        except BaseException:
            fresh.unlink(missing_ok=True)
            raise
        return path

    def json(self, name: str, data: Any) -> Path:
        """Write a JSON file."""
        return self.text(name, foreign.dump_json(data, indent=1) + "\n")

    def close(self) -> None:
        """Close the logs."""
        for file in (self._console, self._timing, self._events, self._commands):
            file.close()


class EvidenceRoot:
    """Where the runs go: one directory per run below a root, and `last` pointing to the newest."""

    def __init__(self, root: Path, *, part: tuple[str, str] | None = None, again: Path | None = None) -> None:
        """Create the run's directory; raise HostError when the root cannot be written.

        part is for one of several processes of a run: the run's shared name, and the process's name. again is
        the directory of a stopped run, in which this one continues.
        """
        try:
            root.mkdir(parents=True, exist_ok=True)
            if again is not None:
                self.run = whole = again
            elif part is None:
                self.run = whole = _unique(root, run_stamp())
            else:
                whole = root / part[0]
                whole.mkdir(exist_ok=True)
                self.run = _unique(whole, part[1])
            _point(root / "last", whole.name)
        except OSError as error:
            raise _unwritable(root, error) from None
        self._lock = threading.Lock()

    def drill(self, name: str) -> Evidence:
        """Make a new directory for one drill; a second one of the same name gets a number."""
        with self._lock:
            path = self.run / name
            number = 2
            while path.exists():
                path = self.run / f"{name}-{number}"
                number += 1
            return Evidence(path)

    def log(self, name: str) -> Path:
        """Name a new log of the run; a second one of the same name gets a number, since the first may still grow."""
        with self._lock:
            path = whole = self.run / name
            number = 2
            while path.exists():
                path = whole.with_name(f"{whole.stem}-{number}{whole.suffix}")
                number += 1
            path.touch()
            return path


def run_stamp() -> str:
    """Name a run that begins now."""
    return datetime.datetime.now().strftime("%Y%m%d-%H%M%S")


def check_writable(root: Path) -> None:
    """HostError when no directory could be made at root; makes nothing."""
    place = root.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise _unwritable(root, NotADirectoryError(errno.ENOTDIR, f"{place} is not a directory"))
    if not os.access(place, os.W_OK | os.X_OK):
        raise _unwritable(root, PermissionError(errno.EACCES, f"no permission to write in {place}"))


def _unwritable(directory: Path, error: OSError) -> HostError:
    return HostError(
        f"the evidence directory {directory} cannot be written: {error.strerror} (choose another with --evidence DIR)"
    )


def _unique(root: Path, stamp: str) -> Path:
    """Make a directory that did not exist before, also when runs start in the same second."""
    number = 1
    while True:
        path = root / (stamp if number == 1 else f"{stamp}-{number}")
        try:
            path.mkdir()
            return path
        except FileExistsError:
            number += 1


def _point(link: Path, target: str) -> None:
    """Replace a symlink in one step; another kind of file under its name is kept."""
    if link.exists() and not link.is_symlink():
        return
    fresh = link.with_name(f".last-{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        fresh.unlink()
    fresh.symlink_to(target)
    fresh.replace(link)
