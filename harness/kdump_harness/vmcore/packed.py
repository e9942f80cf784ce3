"""Unpack dumps that were compressed as a whole, as Debian's KDUMP_COMPRESSION does; the file itself is only read."""

from __future__ import annotations

import bz2
import contextlib
import lzma
import os
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ..base.errors import HostError
from ..base.units import MIB
from .crew import Progress
from .formats.damage import UNSUPPORTED, Damage, Unreadable
from .formats.source import PlainFile

_CHUNK_BYTES = MIB
_ZEROS = bytes(_CHUNK_BYTES)
_LOOK_BYTES = 64 * MIB  # between two looks at the free space
_FREE_BYTES = 64 * MIB  # of the disk, which stay free
_MEMORY_BYTES = 512 * MIB  # of a decompressor; xz -9 needs 65 MiB
_MOST_TIMES = 1024  # a dump that shrinks more is a bomb


@dataclass(frozen=True, kw_only=True)
class Packing:
    """A way to compress a file as a whole."""

    name: str
    magic: bytes
    command: str  # unpacks it
    decompressor: Callable[[], Any] | None = None  # for streams; None where Python's library has none


def _xz() -> lzma.LZMADecompressor:
    return lzma.LZMADecompressor(memlimit=_MEMORY_BYTES)


PACKINGS = (
    Packing(name="gzip", magic=b"\x1f\x8b", command="gunzip", decompressor=lambda: zlib.decompressobj(wbits=31)),
    Packing(name="bzip2", magic=b"BZh", command="bunzip2", decompressor=bz2.BZ2Decompressor),
    Packing(name="xz", magic=b"\xfd7zXZ\0", command="unxz", decompressor=_xz),
    Packing(name="lzma", magic=b"\x5d\0\0", command="unlzma", decompressor=_xz),
    Packing(name="lz4", magic=b"\x04\x22\x4d\x18", command="lz4 -d"),
    Packing(name="lzop", magic=b"\x89LZO\0\r\n\x1a\n", command="lzop -d"),
    Packing(name="zstd", magic=b"\x28\xb5\x2f\xfd", command="unzstd"),
)


def packing_of(magic: bytes) -> Packing | None:
    """Return how a file that begins with MAGIC was compressed; None for one that was not."""
    return next((packing for packing in PACKINGS if magic.startswith(packing.magic)), None)


@contextlib.contextmanager
def unpacked(
    path: Path | str, *, directory: Path | None = None, option: str = "TMPDIR=", progress: Progress | None = None
) -> Iterator[Path]:
    """Provide a dump that can be opened: the file itself, or a temporary one with its unpacked content.

    The temporary file is in the directory, or in that for temporary files. It has no name, so nothing is left of it
    even if the process is killed. OPTION chooses another directory. Raise Unreadable for a file that cannot be
    unpacked, HostError without room for it.
    """
    if readable_packing(path) is None:
        yield Path(path)
        return
    place = directory or Path(tempfile.gettempdir())
    with tempfile.TemporaryFile(dir=place) as file:
        unpack(path, file.fileno(), lambda need_bytes: _require(place, need_bytes, option), progress=progress)
        yield Path(f"/proc/{os.getpid()}/fd/{file.fileno()}")


def readable_packing(path: Path | str) -> Packing | None:
    """Return the packing of a file that can be unpacked here; None for any other file."""
    file = PlainFile(path)
    try:
        packing = packing_of(file.read(0, 16))
    finally:
        file.close()
    return packing if packing is not None and packing.decompressor is not None else None


def _require(directory: Path, need_bytes: int, option: str) -> None:
    free = os.statvfs(directory)
    free_bytes = free.f_bavail * free.f_frsize
    if free_bytes < need_bytes + _FREE_BYTES:
        raise HostError(
            f"not enough disk space in {directory} to unpack the dump: {free_bytes // MIB:,} MiB free"
            f" (free some, or choose another directory with {option}DIR)"
        )


def unpack(path: Path | str, to: int, require: Callable[[int], None], *, progress: Progress | None = None) -> None:
    """Write the unpacked content of a file with a readable packing to a descriptor, zeros as holes.

    require is called with the bytes that are needed at least, at first and again and again. Raise Unreadable for a
    file that is cut short or damaged, or that becomes too large.
    """
    packing = readable_packing(path)
    assert packing is not None
    assert packing.decompressor is not None
    size_bytes = Path(path).stat().st_size
    done = looked = 0
    with Path(path).open("rb") as file:
        require(size_bytes)
        for chunk in content(file, packing.name, packing.decompressor):
            if chunk != _ZEROS[: len(chunk)]:
                _write(to, chunk, done)
            done += len(chunk)
            if done > _MOST_TIMES * size_bytes + _LOOK_BYTES:
                message = f"the {packing.name}-compressed file becomes more than {_MOST_TIMES:,} times as large"
                raise Unreadable(Damage(UNSUPPORTED, message))
            if done - looked >= _LOOK_BYTES:
                looked = done
                require(0)
                if progress is not None:
                    progress(file.tell(), size_bytes)
    os.ftruncate(to, done)


def content(file: BinaryIO, name: str, make: Callable[[], Any]) -> Iterator[bytes]:
    """Yield the content of one or more compressed streams, in chunks of bounded size; make makes a decompressor."""
    decompressor, given = make(), file.read(_CHUNK_BYTES)
    try:
        while True:
            yield decompressor.decompress(given, _CHUNK_BYTES)
            given = getattr(decompressor, "unconsumed_tail", b"")  # zlib's; the others keep it
            if decompressor.eof:
                given = (decompressor.unused_data or file.read(_CHUNK_BYTES)).lstrip(b"\0")  # padding of a block
                while not given:
                    if not (given := file.read(_CHUNK_BYTES)):
                        return
                    given = given.lstrip(b"\0")
                decompressor = make()
            elif not given and getattr(decompressor, "needs_input", True):
                given = file.read(_CHUNK_BYTES)
                if not given:
                    raise Unreadable(Damage("truncated", f"the {name}-compressed file ends too early", file.tell()))
    except (zlib.error, lzma.LZMAError, OSError, ValueError) as error:
        kind = UNSUPPORTED if "Memory usage limit" in str(error) else "packing"
        raise Unreadable(
            Damage(kind, f"the {name}-compressed file cannot be unpacked ({error})", file.tell())
        ) from None


def _write(to: int, chunk: bytes, at: int) -> None:
    view = memoryview(chunk)
    while view:
        done = os.pwrite(to, view, at)
        view, at = view[done:], at + done
