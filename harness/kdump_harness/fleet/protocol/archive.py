"""The archive of evidence that a worker sends: packed without vmcores unless requested, unpacked without trust.

Unpacking creates only plain files and directories, below the given directory, never through a link, and never beyond
the limit of the task.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import zstandard

from ...base.errors import NoVerdict

MIB = 1 << 20
FILES_MAX = 20_000
DEPTH_MAX = 12
NAME_MAX_BYTES = 200
WINDOW_MAX_BYTES = 128 * MIB
_CHUNK = 1 << 20
# makedumpfile's own format, the flattened one, and ELF: kexec and the hypervisor write that.
_VMCORE_MAGICS = (b"KDUMP   ", b"makedumpfile\0", b"\x7fELF")


class BadArchive(NoVerdict):
    """An archive of evidence that is invalid; no file of it is kept."""


def is_vmcore(path: Path) -> bool:
    """Return whether a file is a dump by its first bytes or its name."""
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError:
        return False
    return head.startswith(_VMCORE_MAGICS) or path.name.startswith("vmcore")


def pack(directory: Path, *, limit_bytes: int, vmcores: bool) -> tuple[bytes, list[str]]:
    """Return the files below a directory as an archive, and a list of those left out with the reasons."""
    out = io.BytesIO()
    left: list[str] = []
    room = limit_bytes
    count = 0
    compressor = zstandard.ZstdCompressor(level=3)
    with compressor.stream_writer(out, closefd=False) as stream, tarfile.open(fileobj=stream, mode="w|") as tar:
        for path in sorted(_files(directory), key=lambda path: (path.lstat().st_size, path)):
            name = path.relative_to(directory).as_posix()
            size = path.lstat().st_size
            if is_vmcore(path) and not vmcores:
                left.append(f"{name} ({size // MIB} MiB): a vmcore")
            elif size > room or count >= FILES_MAX:
                left.append(f"{name} ({size // MIB} MiB): no room below {limit_bytes // MIB} MiB")
            else:
                member = tarfile.TarInfo(name)
                member.size, member.mtime = size, int(path.lstat().st_mtime)
                with path.open("rb") as file:
                    tar.addfile(member, _Exactly(file, size))
                room, count = room - size, count + 1
    return out.getvalue(), left


class _Exactly:
    """A file of exactly the announced size: a log can grow or shrink while it is read."""

    def __init__(self, file: Any, size: int) -> None:
        self._file, self._left = file, size

    def read(self, size: int = -1, /) -> bytes:
        size = self._left if size < 0 else min(size, self._left)
        data: bytes = self._file.read(size)
        self._left -= size
        return data.ljust(size, b"\0")


def _files(directory: Path) -> Iterator[Path]:
    for root, _, names in os.walk(directory):
        for name in names:
            path = Path(root, name)
            if stat.S_ISREG(path.lstat().st_mode):
                yield path


def unpack(archive: bytes, into: Path, *, limit_bytes: int, edit: Callable[[str, bytes], bytes] | None = None) -> int:
    """Unpack an archive into an empty directory and return the number of files.

    edit may change a file's content, given its name. Raise BadArchive, without leaving a file, if it is invalid.
    """
    made: list[Path] = []
    try:
        return _unpack(archive, into, limit_bytes, edit, made)
    except (tarfile.TarError, zstandard.ZstdError, EOFError, ValueError, OSError) as error:
        for path in made:
            with contextlib.suppress(OSError):
                path.unlink()
        why = error.strerror or error if isinstance(error, OSError) else error
        raise BadArchive(f"the evidence cannot be unpacked: {why}") from None


def _unpack(
    archive: bytes, into: Path, limit_bytes: int, edit: Callable[[str, bytes], bytes] | None, made: list[Path]
) -> int:
    room = limit_bytes
    reader = zstandard.ZstdDecompressor(max_window_size=WINDOW_MAX_BYTES).stream_reader(io.BytesIO(archive))
    # tarfile follows chains of headers recursively; the limit covers these as well.
    bounded: Any = _Bounded(reader, 2 * limit_bytes + 64 * MIB)
    tar: Any
    with tarfile.open(fileobj=bounded, mode="r|") as tar:
        while (member := tar.next()) is not None:
            tar.members = []  # otherwise it would keep every one
            if len(made) >= FILES_MAX:
                raise ValueError(f"more than {FILES_MAX} files")
            parts = _parts(member.name)
            if member.isdir():
                _directory(into, parts)
                continue
            if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
                raise ValueError(f"{member.name[:80]!r} is not a plain file")
            room -= member.size
            if room < 0:
                raise ValueError(f"more than {limit_bytes // MIB} MiB")
            source = tar.extractfile(member)
            assert source is not None
            path = _directory(into, parts[:-1]) / parts[-1]
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
            made.append(path)
            with os.fdopen(descriptor, "wb") as file:
                if edit is not None and member.size <= 4 * MIB:
                    file.write(edit(parts[-1], source.read()))
                else:
                    while chunk := source.read(_CHUNK):
                        file.write(chunk)
    return len(made)


def _parts(name: str) -> list[str]:
    """Split a member's name into its parts. ValueError for a name that leads elsewhere."""
    parts = name.removesuffix("/").split("/")
    for part in parts:
        if part in ("", ".", "..") or len(part.encode()) > NAME_MAX_BYTES or not part.isprintable():
            raise ValueError(f"{name[:80]!r} is not a valid name for evidence")
    if len(parts) > DEPTH_MAX:
        raise ValueError(f"{name[:80]!r} is nested too deeply")
    return parts


def _directory(into: Path, parts: list[str]) -> Path:
    """Return a directory below another one, creating missing parts; never a link."""
    path = into
    for part in parts:
        path = path / part
        with contextlib.suppress(FileExistsError):
            path.mkdir()
        if not stat.S_ISDIR(path.lstat().st_mode):
            raise ValueError(f"{part[:80]!r} is both a file and a directory")
    return path


class _Bounded:
    """A stream that raises ValueError beyond a limit."""

    def __init__(self, stream: Any, most: int) -> None:
        self._stream, self._left = stream, most

    def read(self, size: int) -> bytes:
        data: bytes = self._stream.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise ValueError("it is larger than announced")
        return data
