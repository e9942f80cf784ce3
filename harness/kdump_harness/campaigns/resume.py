"""Record of a campaign: an interrupted run is resumed from it, however the run was interrupted.

The record is a JSON file in the evidence that is replaced atomically after each drill.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from ..base import foreign
from ..base.errors import UsageError
from ..base.evidence import Evidence
from ..drill.disks import SystemUnderTest
from ..vm.run import Machine, Options, Run

LAST = "last"
ASKED = "asked"
_LOCK = "lock"


class HasVersions(Protocol):
    """A verdict, or the state of a guest."""

    @property
    def kernel(self) -> str | None: ...
    @property
    def makedumpfile(self) -> str | None: ...


class HasAsked(Protocol):
    """The result of a campaign."""

    @property
    def asked(self) -> dict[str, str]: ...


def with_record(options: Options, where: str | None, name: str) -> Options:
    """Return OPTIONS with the record that --resume names: that of a run's directory, or the newest."""
    return options if where is None else replace(options, resume=find_record(where, options.evidence, name))


def find_record(where: str, evidence: Path, name: str) -> Path:
    """Return the path of a run's record. Raises UsageError if it does not exist or is not unique."""
    if where == LAST:
        # Skip the link to the newest run: its records would be found twice.
        found = [path for path in evidence.glob(f"*/*/{name}") if not path.parents[1].is_symlink()]
        if not found:
            raise UsageError(f"nothing to resume: {evidence} has no {name}")
        return max(found, key=lambda path: path.stat().st_mtime).resolve()
    directory = Path(where).resolve()
    found = [*directory.glob(name), *directory.glob(f"*/{name}")]
    if len(found) != 1:
        problem = f"has {len(found)} of them (name one)" if found else f"has no {name}"
        raise UsageError(f"nothing to resume: {where} {problem}")
    return found[0]


@contextlib.contextmanager
def record_of(run: Run, name: str) -> Iterator[Evidence]:
    """Open the evidence directory of the record: a new one of this name, or that of the interrupted run.

    Raises UsageError if the interrupted run is still active.
    """
    evidence = run.evidence(name) if run.options.resume is None else run.evidence_again(run.options.resume.parent)
    lock = os.open(evidence.directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"cannot resume the run in {evidence.directory}: the run is still active") from None
        except OSError:
            pass  # a filesystem without locks
        yield evidence
    finally:
        os.close(lock)
        evidence.close()


def read_record(path: Path, asked: Mapping[str, str]) -> dict[str, Any]:
    """Return the record of a run with the same options. Raises UsageError that names the difference."""
    try:
        record = foreign.parse_object(path.read_text(encoding="utf-8"))
        before = dict(record[ASKED])
    except (OSError, ValueError, KeyError, TypeError):
        raise UsageError(f"cannot resume from {path}: the file is not a readable record of a run") from None
    for name in dict.fromkeys([*before, *asked]):
        if before.get(name) != asked.get(name):
            was, now = before.get(name) or "nothing", asked.get(name) or "nothing"
            raise UsageError(f"cannot resume from {path}: {name} was {was}, and is {now} now")
    return record


@contextlib.contextmanager
def taken_up(path: Path, result: HasAsked, *names: str) -> Iterator[dict[str, Any]]:
    """Copy the fields NAMES of a record into the result, and yield the record.

    Raises UsageError if the run had other options, or if this or the block misses something in the record.
    """
    record = read_record(path, result.asked)
    try:
        for name in names:
            setattr(result, name, record[name])
        yield record
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        raise UsageError(f"cannot resume from {path}: the file is damaged or was written by another version") from None


def same_guest(path: Path, guest: HasVersions, kernel: str | None, makedumpfile: str | None) -> None:
    """Raise UsageError if the guest's kernel or makedumpfile differs: the image may have been updated meanwhile."""
    for what, was, now in (("kernel", kernel, guest.kernel), ("makedumpfile", makedumpfile, guest.makedumpfile)):
        if was is not None and now is not None and was != now:
            raise UsageError(
                f"cannot resume from {path}: the guest's {what} was {was}, and is {now} now (run without --resume)"
            )


def asked_of(run: Run, subject: SystemUnderTest, machine: Machine) -> dict[str, str]:
    """Return the options of a run that describe its guest and machine."""
    return {
        "IMAGE": _subject_text(subject),
        "--firmware": machine.firmware,
        "--cpu": str(machine.cpu_level or ""),
        "--accelerator": run.accelerator,
    }


def _subject_text(subject: SystemUnderTest) -> str:
    """Return the image and the installed files, with a digest of their content."""
    text = str(subject.path.absolute()) if subject.path is not None else subject.name
    if subject.kernel is not None:
        text += f" with the kernel {subject.kernel.asked} {_digest(subject.kernel)}"
    if subject.files or subject.more:
        names = [*(one.name for one in subject.files), *(one.asked for one in subject.more)]
        text += f" with {', '.join(names)} {_digest((subject.files, subject.more))}"
    return text


def _digest(chosen: object) -> str:
    """Return a digest of the files' content, which their repr contains."""
    return f"({hashlib.sha256(repr(chosen).encode()).hexdigest()[:8]})"
