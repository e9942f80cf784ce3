"""Copy a file that its sender may still write to: holes stay holes, and the disk keeps its reserve of free space."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from ...base.errors import HostError, UsageError
from ...base.units import MIB

_CHUNK_BYTES = MIB
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_ROOM_STATUS = 28  # of the process that looks at a dump, and cannot write its log
_ZEROS = bytes(_CHUNK_BYTES)
_LOOK_BYTES = 64 * MIB  # between two looks at the free space
# A dump of memory with many pages of zeros may be sparse; this much emptier than full it is a bomb.
_MOST_HOLES = 1024


class NoRoom(HostError):
    """The disk or the budget is full; nothing was taken in, and nothing was lost."""


class StillGrowing(UsageError):
    """The file changed while it was read."""


def mark_of(status: os.stat_result) -> str:
    """Return a value that changes whenever the file does."""
    return f"{status.st_dev}:{status.st_ino}:{status.st_size}:{status.st_mtime_ns}"


def take_copy(source: int, to: Path, *, max_bytes: int, free_bytes: int) -> None:
    """Copy an open file to a new one with mode 0600.

    UsageError for what is too large or nearly all holes, StillGrowing when it changed meanwhile, NoRoom when
    less than free_bytes would stay free.
    """
    before = os.fstat(source)
    size_bytes, disk_bytes = before.st_size, min(before.st_size, before.st_blocks * 512)
    if size_bytes > max_bytes:
        raise UsageError(f"{size_bytes:,} bytes are more than the {max_bytes:,} that a dump may have here")
    if size_bytes > _MOST_HOLES * max(disk_bytes, _CHUNK_BYTES):
        raise UsageError(f"of its {size_bytes:,} bytes only {disk_bytes:,} are there: the rest is a hole")
    require_room(to.parent, disk_bytes + free_bytes)
    with enough_room():
        out = os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(out, size_bytes)
            looked = 0
            for at, chunk in _data(source, size_bytes):
                _write(out, chunk, at)
                looked += len(chunk)
                if looked >= _LOOK_BYTES:
                    looked = 0
                    require_room(to.parent, free_bytes)
            os.fsync(out)
        finally:
            os.close(out)
    if mark_of(os.fstat(source)) != mark_of(before):
        raise StillGrowing("it changed while it was read: its sender still writes to it")


def _data(source: int, size_bytes: int) -> Iterator[tuple[int, bytes]]:
    """Yield offset and bytes of each chunk that is not zero."""
    at = 0
    while at < size_bytes:
        try:
            at = os.lseek(source, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole up to the end
                return
            raise
        end = min(os.lseek(source, at, os.SEEK_HOLE), size_bytes)
        while at < end:
            chunk = os.pread(source, min(_CHUNK_BYTES, end - at), at)
            if not chunk:
                raise StillGrowing("it became shorter while it was read: its sender still writes to it")
            if chunk != _ZEROS[: len(chunk)]:
                yield at, chunk
            at += len(chunk)


def _write(out: int, chunk: bytes, at: int) -> None:
    view = memoryview(chunk)
    while view:
        done = os.pwrite(out, view, at)
        view, at = view[done:], at + done


@contextlib.contextmanager
def enough_room() -> Iterator[None]:
    """Report a disk that becomes full within the block like one that was full before."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise NoRoom(f"the store's disk is full ({error.strerror}); the store keeps what it has") from None
        raise


def require_room(directory: Path, need_bytes: int) -> None:
    """Raise NoRoom where the directory's disk has less than need_bytes free."""
    free = os.statvfs(directory)
    free_bytes = free.f_bavail * free.f_frsize
    if free_bytes < need_bytes:
        raise NoRoom(
            f"the store's disk has {free_bytes // MIB:,} MiB free, {-(-need_bytes // MIB):,} are needed (with what must"
            " stay free); the store keeps its dumps (kdump-harness store prune --dry-run lists removable ones)"
        )


def sha256_of(path: Path) -> str:
    """Return the checksum of a file's contents."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def disk_bytes_of(directory: Path) -> int:
    """Return the bytes that a directory and all below it occupy on the disk."""
    return sum(path.lstat().st_blocks * 512 for path in (directory, *directory.rglob("*")))
