"""What a run of many drills has so far, so that one that was stopped goes on where it was, however it was stopped.

The record is a JSON file in the evidence that is replaced in one step after each drill.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from ..base.errors import UsageError
from ..base.evidence import Evidence
from ..drill.disks import SystemUnderTest
from ..vm.run import Machine, Options, Run

LAST = "last"
ASKED = "asked"
_LOCK = "lock"


class HasVersions(Protocol):
    """A verdict, or a guest that was asked."""

    @property
    def kernel(self) -> str | None: ...
    @property
    def makedumpfile(self) -> str | None: ...


class HasAsked(Protocol):
    """The result of a run of many drills."""

    @property
    def asked(self) -> dict[str, str]: ...


def with_record(options: Options, where: str | None, name: str) -> Options:
    """The options of a run that goes on with the record that --resume means: in a run's directory, or the newest."""
    return options if where is None else replace(options, resume=find_record(where, options.evidence, name))


def find_record(where: str, evidence: Path, name: str) -> Path:
    """The record of this name of a run; UsageError where there is none."""
    verb = Path(name).stem
    if where == LAST:
        # Not through the link to the newest run, which has them once more.
        found = [path for path in evidence.glob(f"*/*/{name}") if not path.parents[1].is_symlink()]
        if not found:
            raise UsageError(f"{evidence} has no {name}, so there is no {verb} to go on with")
        return max(found, key=lambda path: path.stat().st_mtime).resolve()
    directory = Path(where).resolve()
    found = [*directory.glob(name), *directory.glob(f"*/{name}")]
    if len(found) != 1:
        told = f"has {len(found)} of them (name one)" if found else f"has no {name}"
        raise UsageError(f"{where} {told}, so there is no {verb} to go on with")
    return found[0]


@contextlib.contextmanager
def record_of(run: Run, name: str) -> Iterator[Evidence]:
    """The evidence directory that the record is in: a new one of this name, or that of the run that was stopped.

    UsageError where somebody else is still at it.
    """
    evidence = run.evidence(name) if run.options.resume is None else run.evidence_again(run.options.resume.parent)
    lock = os.open(evidence.directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"the run in {evidence.directory} still goes on: it is not stopped") from None
        except OSError:
            pass  # a filesystem without locks
        yield evidence
    finally:
        os.close(lock)
        evidence.close()


def read_record(path: Path, asked: Mapping[str, str]) -> dict[str, Any]:
    """The record of a run that was asked for the same; UsageError names what differs."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        before = dict(record[ASKED])
    except (OSError, ValueError, KeyError, TypeError):
        raise UsageError(f"{path} cannot be read as what a run left that can be gone on with") from None
    for name in dict.fromkeys([*before, *asked]):
        if before.get(name) != asked.get(name):
            was, now = before.get(name) or "nothing", asked.get(name) or "nothing"
            raise UsageError(f"{path}: {name} was {was}, and is {now} now: another run, which cannot be gone on with")
    return record  # type: ignore[no-any-return]


@contextlib.contextmanager
def taken_up(path: Path, result: HasAsked, *names: str) -> Iterator[dict[str, Any]]:
    """The record of a run that was asked for the same; what it has by these names becomes the result's.

    UsageError where it differs, and where the record has not what this or the block looks for in it.
    """
    record = read_record(path, result.asked)
    try:
        for name in names:
            setattr(result, name, record[name])
        yield record
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        raise UsageError(f"{path} is damaged, or of another version: it cannot be gone on with") from None


def same_guest(path: Path, guest: HasVersions, kernel: str | None, makedumpfile: str | None) -> None:
    """UsageError where what is drilled is no longer what was drilled: an image may have become newer meanwhile."""
    for what, was, now in (("kernel", kernel, guest.kernel), ("makedumpfile", makedumpfile, guest.makedumpfile)):
        if was is not None and now is not None and was != now:
            raise UsageError(f"{path}: the guest's {what} was {was}, and is {now} now: begin anew, without --resume")


def asked_of(run: Run, subject: SystemUnderTest, machine: Machine) -> dict[str, str]:
    """What a run was asked for, by option: the guest and its machine."""
    return {
        "IMAGE": _told_subject(subject),
        "--firmware": machine.firmware,
        "--cpu": str(machine.cpu_level or ""),
        "--accelerator": run.accelerator,
    }


def _told_subject(subject: SystemUnderTest) -> str:
    """The image, and what is installed in it, by content."""
    told = str(subject.path.absolute()) if subject.path is not None else subject.name
    if subject.kernel is not None:
        told += f" with the kernel {subject.kernel.asked} {_digest(subject.kernel)}"
    if subject.files or subject.more:
        names = [*(one.name for one in subject.files), *(one.asked for one in subject.more)]
        told += f" with {', '.join(names)} {_digest((subject.files, subject.more))}"
    return told


def _digest(chosen: object) -> str:
    """Of the content of files, which is what their repr tells."""
    return f"({hashlib.sha256(repr(chosen).encode()).hexdigest()[:8]})"
