"""Bytes by offset: a plain file, or a flattened stream seen as the file that makedumpfile -R would write."""

from __future__ import annotations

import errno
import os
import stat
from array import array
from collections.abc import Iterator
from pathlib import Path
from struct import Struct
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ...base.errors import UsageError
from .damage import UNSUPPORTED, Damage, Unreadable
from .intervals import Int64s, disjoint, int64s, runs

# The field has 16 bytes. makedumpfile does not clear the last three, and compares the word alone.
FLAT_SIGNATURE = b"makedumpfile\0"
FLAT_HEADER_BYTES = 4096
_FLAT_TYPE_VERSION = Struct(">qq")
_RECORD = Struct(">qq")
_END_RECORD = b"\xff" * 16
_NO_OFFSET = 1 << 62
_REST_BYTES = 1 << 20

# makedumpfile writes records of 64 KiB, QEMU of 16 KiB: enough for a stream of 128 GiB. The index has 24 bytes each.
MAX_SEGMENTS = 1 << 23


class DumpSource(Protocol):
    """A file's bytes by offset."""

    size_bytes: int

    def read(self, offset: int, length: int) -> bytes:
        """Return the bytes at offset; fewer than length only where the file ends."""
        ...

    def covered(self, starts: Int64s, ends: Int64s) -> NDArray[np.bool_]:
        """Return a mask of the ranges whose bytes were all written (gaps of a flattened stream were not)."""
        ...

    def has_data(self, start: int, end: int) -> bool:
        """Return whether any byte of a range was written, without a read of it."""
        ...


def read_exactly(source: DumpSource, offset: int, length: int, what: str) -> bytes:
    """Return all of length bytes. Raise Unreadable with the part that is missing."""
    if offset < 0 or length < 0 or offset + length > source.size_bytes:
        raise Unreadable(
            Damage(
                "truncated",
                f"{what} (offset {offset:,}, {length:,} bytes) lies outside the file ({source.size_bytes:,} bytes)",
                offset,
            )
        )
    data = source.read(offset, length)
    if len(data) != length:
        raise Unreadable(Damage("truncated", f"{what} at offset {offset:,}: the file ended while it was read", offset))
    return data


def rest_is_empty(source: DumpSource, at: int) -> bool:
    """Return whether a file holds only zeros from offset at on; only both ends are read."""
    rest_bytes = source.size_bytes - at
    look_bytes = min(rest_bytes, _REST_BYTES)
    if rest_bytes <= 0:
        return True
    ends = (source.read(start, look_bytes) for start in (at, source.size_bytes - look_bytes))
    return not any(end.strip(b"\0") for end in ends)


class PlainFile:
    """A regular file, read with pread so that threads can share it."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        try:
            # A FIFO without a writer must not block the open.
            self._fd = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise UsageError(f"{path}: cannot be opened ({reason})") from None
        status = os.fstat(self._fd)
        if not stat.S_ISREG(status.st_mode):
            self.close()
            raise UsageError(f"{path}: not a regular file but a {_file_type(status.st_mode)}")
        self.size_bytes = status.st_size

    def read(self, offset: int, length: int) -> bytes:
        """Return the bytes at offset; fewer than length only where the file ends."""
        if offset < 0 or offset >= self.size_bytes:
            return b""
        length = min(length, self.size_bytes - offset)
        try:
            data = os.pread(self._fd, length, offset)
            while len(data) < length:  # one pread gives at most 2 GiB
                more = os.pread(self._fd, length - len(data), offset + len(data))
                if not more:
                    break
                data += more
        except OSError as error:
            raise Unreadable(Damage("io", f"cannot be read at offset {offset:,} ({error.strerror})", offset)) from None
        return data

    def covered(self, starts: Int64s, ends: Int64s) -> NDArray[np.bool_]:
        """Return a mask of the ranges that lie inside the file."""
        return np.asarray((starts >= 0) & (ends <= self.size_bytes))

    def has_data(self, start: int, end: int) -> bool:
        """Return whether a range is more than a hole; a file system without holes says that all is data."""
        try:
            return os.lseek(self._fd, start, os.SEEK_DATA) < end
        except OSError as error:
            return error.errno != errno.ENXIO  # the error of a hole up to the end of the file

    def fileno(self) -> int:
        """Return the file descriptor, for helpers that read the same file."""
        return self._fd

    def close(self) -> None:
        """Close the file; further reads fail."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            self.close()


def _file_type(mode: int) -> str:
    names = {stat.S_IFDIR: "directory", stat.S_IFIFO: "FIFO", stat.S_IFSOCK: "socket"}
    return names.get(stat.S_IFMT(mode), "device")


class FlattenedFile:
    """A flattened stream as the rearranged file: an index of its segments, later ones over earlier ones."""

    def __init__(self, file: PlainFile) -> None:
        self.file = file
        self.damage: list[Damage] = []
        self.trailing_bytes = 0
        self._check_header()
        starts, ends, places = self._walk()
        self.segments = len(starts)
        self.size_bytes = int(ends.max(initial=0))
        self._starts, self._ends, self._places, self.overlapping = disjoint(starts, ends, places)
        self._run_starts, self._run_ends = runs(self._starts, self._ends)

    @property
    def gaps(self) -> int:
        """The number of stretches below the highest byte that no segment has written."""
        runs = len(self._run_starts)
        return runs - (1 if runs and self._run_starts[0] == 0 else 0)

    def _check_header(self) -> None:
        header = read_exactly(self.file, 0, FLAT_HEADER_BYTES, "the flattened header")
        kind, version = _FLAT_TYPE_VERSION.unpack_from(header, 16)
        if (kind, version) != (1, 1):
            raise Unreadable(Damage("header", f"flattened header has type {kind}, version {version} (known: 1, 1)", 16))
        if header[32:].strip(b"\0"):
            self.damage.append(Damage("header", "the padding of the flattened header is not zero", 32))

    def _walk(self) -> tuple[Int64s, Int64s, Int64s]:
        """Return target start, target end and stream offset of every segment, in stream order."""
        starts, ends, places = array("q"), array("q"), array("q")
        at, size = FLAT_HEADER_BYTES, self.file.size_bytes
        read, unpack = self.file.read, _RECORD.unpack
        while True:
            record = read(at, 16)
            if len(record) < 16:
                self._end_missing(at)
                break
            offset, length = unpack(record)
            # No writer makes an empty record. Zeros are what a full disk leaves, and 16 bytes a step they never end.
            if offset < 0 or length <= 0 or offset > _NO_OFFSET or length > _NO_OFFSET:
                if record == _END_RECORD:
                    self.trailing_bytes = size - at - 16
                else:
                    message = f"segment header at {at:,} is impossible (offset {offset}, size {length})"
                    self.damage.append(Damage("segment", message, at))
                break
            at += 16
            if len(starts) >= MAX_SEGMENTS:
                message = f"the stream has more than {MAX_SEGMENTS:,} segments (rearrange it with makedumpfile -R)"
                raise Unreadable(Damage(UNSUPPORTED, message, at))
            there = min(length, size - at)
            if there:
                starts.append(offset)
                ends.append(offset + there)
                places.append(at)
            if there < length:
                message = f"segment at {at - 16:,} has {length:,} bytes, the file ends after {there:,}"
                self.damage.append(Damage("truncated", message, at - 16))
                self._end_missing(at + there)
                break
            at += length
        return int64s(starts), int64s(ends), int64s(places)

    def _end_missing(self, at: int) -> None:
        self.damage.append(Damage("end-marker", "the stream ends without its end marker: it was cut short", at))

    def read(self, offset: int, length: int) -> bytes:
        """Return the bytes at offset, gaps as zeros; fewer than length only where the last segment ends."""
        length = min(length, self.size_bytes - offset)
        if offset < 0 or length <= 0:
            return b""
        end = offset + length
        first = int(np.searchsorted(self._ends, offset, side="right"))
        last = int(np.searchsorted(self._starts, end, side="left"))
        if last == first + 1 and self._starts[first] <= offset and self._ends[first] >= end:
            return self.file.read(int(self._places[first]) + offset - int(self._starts[first]), length)
        data = bytearray(length)
        for index in range(first, last):
            start = int(self._starts[index])
            low, high = max(start, offset), min(int(self._ends[index]), end)
            piece = self.file.read(int(self._places[index]) + low - start, high - low)
            data[low - offset : low - offset + len(piece)] = piece
        return bytes(data)

    def written(self) -> Iterator[tuple[int, int]]:
        """Return start and end of each stretch without a gap, in order."""
        return zip(self._run_starts.tolist(), self._run_ends.tolist(), strict=True)

    def covered(self, starts: Int64s, ends: Int64s) -> NDArray[np.bool_]:
        """Return a mask of the ranges that were written without a gap."""
        if not len(self._run_starts):
            return np.zeros(len(starts), dtype=np.bool_)
        run = np.searchsorted(self._run_starts, starts, side="right") - 1
        return np.asarray((run >= 0) & (ends <= self._run_ends[run]))

    def has_data(self, start: int, end: int) -> bool:
        """Return whether a segment of the stream reaches into a range."""
        return bool(((self._run_starts < end) & (self._run_ends > start)).any())
