"""Copy dumps to the central place: resume an interrupted copy, and trust a copy only by its checksum."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

from ..base.errors import HostError, UsageError
from ..base.foreign import whole_number
from .index import Dump
from .remote import SourceMachine
from .store import SENDERS, VMCORE, Store, utc

# As the families call a dump that is not finished, so that no store that watches the place takes it too early.
_PART = "vmcore-incomplete"
_STATUS_S = 120.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Central:
    """A directory on this machine (mounted from another one, say) or on one that ssh reaches."""

    name: str
    machine: SourceMachine
    directory: str

    @classmethod
    def parse(cls, text: str) -> Central:
        """Parse HOST:DIR or DIR. Raise UsageError for anything else."""
        host, colon, directory = text.partition(":")
        if colon and "/" not in host:
            if not directory.startswith("/"):
                raise UsageError(f"{text!r}: the directory must be an absolute path, as in HOST:/srv/dumps")
            directory = os.path.normpath(directory)
            return cls(name=f"{host}:{directory}", machine=SourceMachine(host), directory=directory)
        return cls(name=os.path.abspath(text), machine=SourceMachine(None), directory=os.path.abspath(text))


@contextlib.contextmanager
def alone(store: Store) -> Iterator[None]:
    """Keep other pushes of this store away from the same copies. Raise HostError when one is running."""
    lock = os.open(store.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)  # also on a read-only disk
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise HostError("another push of this store is running") from None
    finally:
        os.close(lock)


def push(store: Store, dump: Dump, central: Central) -> bool:
    """Write a verified copy of a dump to its central place; return whether bytes had to be copied.

    HostError when it cannot be reached, has no room, or the copy is not the same twice in a row.
    """
    source = store.place_of(dump)
    to = f"{central.directory.rstrip('/')}/{_directory_name(dump)}"
    run = central.machine.run
    run("test -d %s || { echo no such directory: %s >&2; exit 1; }", central.directory, central.directory)
    run("umask 077; mkdir -p %s", to)
    copied = _sum(central, f"{to}/{VMCORE}") != dump.sha256
    if copied:
        for path in sorted((source / SENDERS).glob("*")):
            with path.open("rb") as file:
                run("umask 077; cat > %s", f"{to}/{path.name}", stdin=file)
        for last in (False, True):
            _append(central, source / VMCORE, f"{to}/{_PART}")
            if (seen := _sum(central, f"{to}/{_PART}")) == dump.sha256:
                break
            run("rm -f %s", f"{to}/{_PART}")
            if last:
                raise HostError(f"{dump.id}: the copy in {central.name} has the checksum {seen}, not {dump.sha256}")
        run("mv %s %s", f"{to}/{_PART}", f"{to}/{VMCORE}")
    if not store.read_only:
        with store.index.database.writing():
            store.change(store.index.find(dump.id), central=central.name, pushed_s=time.time())
    return copied


def _append(central: Central, source: Path, to: str) -> None:
    """Copy the bytes that the other side does not have yet."""
    size = central.machine.run("stat -c %%s %s 2>/dev/null || echo 0", to, timeout_s=_STATUS_S)
    have = whole_number(size.strip()) or 0
    if have > source.stat().st_size:
        central.machine.run("rm -f %s", to)
        have = 0
    with source.open("rb") as file:
        os.lseek(file.fileno(), have, os.SEEK_SET)
        central.machine.run("umask 077; cat >> %s && sync %s", to, to, stdin=file.fileno())


def _sum(central: Central, path: str) -> str:
    """Return the checksum of the remote file; empty where it does not exist."""
    return central.machine.run("sha256sum < %s 2>/dev/null || true", path).partition(" ")[0].strip()


def _directory_name(dump: Dump) -> str:
    """Return host, date and id, like the remote directories of the families; a date alone is not unique."""
    host = re.sub(r"[^A-Za-z0-9.-]+", "_", dump.host).strip(".-_") or "unknown"
    moment = re.sub(r"[^0-9]+", "-", utc(dump.crash_s or dump.added_s)).strip("-")
    return f"{host}-{moment}-{dump.id}"
