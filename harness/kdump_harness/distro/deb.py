"""Read untrusted Debian package files and write small ones, without dpkg.

A .deb is an ar archive of debian-binary, control.tar and data.tar, the latter two compressed or not: deb(5).
Packages are not unpacked, every size that a file states is bounded, and only the needed part is decompressed.
"""

from __future__ import annotations

import io
import lzma
import re
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol, cast

import zstandard

from ..base.units import MIB

AR_MAGIC = b"!<arch>\n"
CHUNK_BYTES = 1 << 16
CONTROL_MAX_BYTES = 8 * MIB  # with md5sums and scripts
FIELDS_MAX_BYTES = MIB
NAME_MAX_BYTES = 4096
WINDOW_MAX_BYTES = 128 * MIB  # of memory that a decompressor may take; dpkg's own packages need half of it
# dpkg-deb sorts, and ./boot comes before whatever is large; a file that is further back is not looked for.
LOOK_MAX_BYTES = 256 * MIB
WRITTEN_S = 946684800  # the time of every file in a written package, so that equal content gives an equal package

_BLOCK = 512


class BadDebError(ValueError):
    """The file is not a readable .deb; the message says why."""


@dataclass(frozen=True, kw_only=True)
class ArchiveMember:
    """A file, a symbolic link or else a directory of a package to be written; those above it come by themselves."""

    name: str  # in the package, without a slash before it
    file: Path | None = None
    link: str = ""


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


# ---------------------------------------------------------------- reading


def control_of(path: Path) -> dict[str, str]:
    """Return the one-line fields of the control file; raise BadDebError for a file that is not a package."""
    with path.open("rb") as file:
        stream = _member(file, "control.tar", at_most_bytes=CONTROL_MAX_BYTES)
        for name, size_bytes, content in _entries(stream):
            if name == "control":
                text = _content(content, size_bytes, FIELDS_MAX_BYTES).decode("utf-8", errors="replace")
                return {key: value.strip() for key, value in re.findall(r"(?m)^([\w-]+):[ \t]*(.*)$", text)}
    raise BadDebError("its control archive has no control file")


def find_text(path: Path, name: str, *, max_bytes: int) -> str | None:
    """Return the text of the first file whose whole name matches the pattern; None if the beginning has none.

    BadDebError for a file of that name that is too large, and for a package that cannot be read.
    """
    with path.open("rb") as file:
        try:
            for found, size_bytes, content in _entries(_member(file, "data.tar", at_most_bytes=LOOK_MAX_BYTES)):
                if re.fullmatch(name, found):
                    return _content(content, size_bytes, max_bytes).decode("utf-8", errors="replace")
        except _TooMuchError:
            return None
    return None


class _TooMuchError(BadDebError):
    """The content is larger than the limit."""


def _content(stream: _Readable, size_bytes: int, max_bytes: int) -> bytes:
    if size_bytes > max_bytes:
        raise BadDebError(f"a file in it has {size_bytes} bytes where {max_bytes} are plenty")
    return _exactly(stream, size_bytes)


def _exactly(stream: _Readable, size_bytes: int) -> bytes:
    """So many bytes; BadDebError where there are fewer."""
    parts = []
    while size_bytes:
        if not (part := stream.read(min(size_bytes, CHUNK_BYTES))):
            raise BadDebError("it is cut short")
        parts.append(part)
        size_bytes -= len(part)
    return b"".join(parts)


def _skip(stream: _Readable, size_bytes: int) -> None:
    while size_bytes:
        size_bytes -= len(_exactly(stream, min(size_bytes, CHUNK_BYTES)))


def _member(file: BinaryIO, name: str, *, at_most_bytes: int) -> _Readable:
    """Decompress the content of control.tar or data.tar, whatever its compression."""
    if file.read(len(AR_MAGIC)) != AR_MAGIC:
        raise BadDebError("it is not an ar archive")
    while header := file.read(60):
        if len(header) < 60 or header[58:] != b"`\n" or not header[48:58].strip().isdigit():
            raise BadDebError("its ar archive is damaged")
        found = header[:16].decode("ascii", errors="replace").strip().rstrip("/")
        size_bytes = int(header[48:58])
        if found.startswith(name):
            return _BoundedFile(_decompressed(_Part(file, size_bytes), found.removeprefix(name)), at_most_bytes)
        file.seek(size_bytes + size_bytes % 2, io.SEEK_CUR)
    raise BadDebError(f"it has no {name}")


class _Part:
    """So many of the next bytes of a file."""

    def __init__(self, file: BinaryIO, size_bytes: int) -> None:
        self._file, self._left = file, size_bytes

    def read(self, size: int, /) -> bytes:
        part = self._file.read(min(size, self._left))
        self._left -= len(part)
        return part


class _BoundedFile:
    """A stream of which no more than so many bytes can be read."""

    def __init__(self, stream: _Readable, at_most_bytes: int) -> None:
        self._stream, self._left = stream, at_most_bytes

    def read(self, size: int, /) -> bytes:
        if self._left <= 0:
            raise _TooMuchError("it holds more than can be looked at")
        try:
            part = self._stream.read(min(size, self._left))
        except (lzma.LZMAError, zlib.error, zstandard.ZstdError, EOFError) as error:
            raise BadDebError(f"it cannot be decompressed ({error})") from None
        self._left -= len(part)
        return part


class _Decompressing:
    """A stream decompressed by zlib or lzma, which never holds more than was requested."""

    def __init__(self, stream: _Readable, suffix: str) -> None:
        self._stream = stream
        self._zlib = zlib.decompressobj(wbits=31) if suffix == ".gz" else None
        self._lzma = None if suffix == ".gz" else lzma.LZMADecompressor(memlimit=WINDOW_MAX_BYTES)

    def read(self, size: int, /) -> bytes:
        while True:
            if self._zlib is not None:
                if self._zlib.eof:
                    return b""
                given = self._zlib.unconsumed_tail or self._stream.read(CHUNK_BYTES)
                part = self._zlib.decompress(given, size)
            else:
                assert self._lzma is not None
                if self._lzma.eof:
                    return b""
                given = self._stream.read(CHUNK_BYTES) if self._lzma.needs_input else b""
                if self._lzma.needs_input and not given:
                    return b""
                part = self._lzma.decompress(given, size)
            if part:
                return part
            if self._zlib is not None and not given:
                return b""


def _decompressed(part: _Part, suffix: str) -> _Readable:
    if suffix in (".gz", ".xz", ".lzma"):
        return _Decompressing(part, suffix)
    if suffix == ".zst":
        decompressor = zstandard.ZstdDecompressor(max_window_size=WINDOW_MAX_BYTES)
        return decompressor.stream_reader(cast(BinaryIO, part), read_across_frames=True)
    if suffix:
        raise BadDebError(f"it is compressed in a way that is not known here ({suffix[1:]!a})")
    return part


def _entries(stream: _Readable) -> Iterator[tuple[str, int, _Readable]]:
    """Yield the regular files of a tar archive: name, size and a reader that is valid until the next one.

    tarfile would keep every member that it has seen, and take names of any length into memory.
    """
    long_name = ""
    while len(header := _exactly(stream, _BLOCK)) == _BLOCK and header.strip(b"\0"):
        octal = header[124:136].split(b"\0")[0].strip()
        if not re.fullmatch(rb"[0-7]*", octal):
            raise BadDebError("its tar archive is damaged")
        size_bytes = int(octal or b"0", 8)
        kind, padding = header[156:157], -size_bytes % _BLOCK
        if kind == b"L":  # GNU: the name of the next one
            long_name = _text(_content(stream, size_bytes, NAME_MAX_BYTES))
            _skip(stream, padding)
            continue
        if kind in b"0\0":
            prefix = _text(header[345:500]) if header[257:263] == b"ustar\0" else ""
            name = long_name or "/".join(filter(None, (prefix, _text(header[:100]))))
            content = _Remainder(stream, size_bytes)
            yield name.removeprefix("./").lstrip("/"), size_bytes, content
            _skip(stream, content.left_bytes + padding)
        else:
            _skip(stream, size_bytes + padding)
        long_name = ""


class _Remainder:
    """A file within a stream; what was not read of it is known."""

    def __init__(self, stream: _Readable, size_bytes: int) -> None:
        self._stream, self.left_bytes = stream, size_bytes

    def read(self, size: int, /) -> bytes:
        part = self._stream.read(min(size, self.left_bytes)) if self.left_bytes else b""
        self.left_bytes -= len(part)
        return part


def _text(field: bytes) -> str:
    return field.split(b"\0")[0].decode("utf-8", errors="replace")


# ---------------------------------------------------------------- writing


def write_deb(
    path: Path, fields: Mapping[str, str], scripts: Mapping[str, str], entries: Iterable[ArchiveMember]
) -> None:
    """Make a package owned by root without compression: it is installed once, from this disk."""
    texts = {"control": "".join(f"{key}: {value}\n" for key, value in fields.items()), **scripts}
    control = io.BytesIO()
    with tarfile.open(fileobj=control, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, text in texts.items():
            _add(archive, f"./{name}", text.encode(), mode=0o644 if name == "control" else 0o755)
    with path.open("wb") as file:
        file.write(AR_MAGIC)
        _write_member(file, "debian-binary", b"2.0\n")
        _write_member(file, "control.tar", control.getvalue())
        start = file.tell()
        file.write(_ar_header("data.tar", 0))
        with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as archive:
            _add_entries(archive, entries)
        size_bytes = file.tell() - start - 60  # whole blocks, so that no byte is needed to make it even
        file.seek(start)
        file.write(_ar_header("data.tar", size_bytes))


def _add_entries(archive: tarfile.TarFile, entries: Iterable[ArchiveMember]) -> None:
    made: set[str] = set()
    for entry in entries:
        parts = (".", *entry.name.split("/"))
        is_directory = entry.file is None and not entry.link
        for depth in range(1, len(parts) + is_directory):
            directory = "/".join(parts[:depth])
            if directory not in made:
                made.add(directory)
                archive.addfile(_info(directory, tarfile.DIRTYPE, mode=0o755))
        if entry.file is not None:
            with entry.file.open("rb") as content:
                info = _info(f"./{entry.name}", tarfile.REGTYPE, mode=0o644)
                info.size = entry.file.stat().st_size
                archive.addfile(info, content)
        elif entry.link:
            info = _info(f"./{entry.name}", tarfile.SYMTYPE, mode=0o777)
            info.linkname = entry.link
            archive.addfile(info)


def _add(archive: tarfile.TarFile, name: str, content: bytes, *, mode: int) -> None:
    info = _info(name, tarfile.REGTYPE, mode=mode)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


def _info(name: str, kind: bytes, *, mode: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.mtime = kind, mode, WRITTEN_S
    info.uname = info.gname = "root"
    return info


def _ar_header(name: str, size_bytes: int) -> bytes:
    return f"{name:<16}{WRITTEN_S:<12}{0:<6}{0:<6}{0o100644:<8o}{size_bytes:<10}`\n".encode("ascii")


def _write_member(file: BinaryIO, name: str, content: bytes) -> None:
    file.write(_ar_header(name, len(content)) + content + b"\n"[: len(content) % 2])
