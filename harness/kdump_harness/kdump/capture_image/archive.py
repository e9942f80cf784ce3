"""The names of the files in an initramfs, read on this host from the file itself.

The format: Documentation/driver-api/early-userspace/buffer-format.rst of the kernel. cpio archives follow each other;
the first ones have microcode and are not compressed, the last one usually is.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ...base.errors import HarnessError
from ...vmcore.formats.damage import Unreadable
from ...vmcore.formats.zstd import standard
from ...vmcore.packed import PACKINGS, content

_MAGICS = (b"070701", b"070702")
_HEADER_BYTES = 110
_END = "TRAILER!!!"
_MOST_NAME_BYTES = 4096
_MOST_FILES = 200_000
_MOST_BYTES = 2 << 30  # of the unpacked archives
_ZSTD, _LZ4_LEGACY = b"\x28\xb5\x2f\xfd", b"\x02\x21\x4c\x18"  # the kernel's build takes lz4 -l
_LZ4_BLOCK_BYTES = 8 << 20


class CannotList(HarnessError):
    """The file is not an initramfs that can be read here."""


@dataclass(frozen=True)
class _Input:
    """Bytes in chunks, as a file that is read forwards."""

    chunks: Iterator[bytes]
    buffer: io.BytesIO

    def read(self, size_bytes: int) -> bytes:
        """Return the next bytes; fewer only at the end."""
        while True:
            at = self.buffer.tell()
            data = self.buffer.read(size_bytes)
            if len(data) == size_bytes:
                return data
            chunk = next(self.chunks, b"")
            if not chunk:
                return data
            rest = self.buffer.getvalue()[at:]
            self.buffer.seek(0)
            self.buffer.truncate()
            self.buffer.write(rest + chunk)
            self.buffer.seek(0)

    def skip(self, size_bytes: int) -> None:
        """Leave bytes out."""
        while size_bytes > 0 and (left_out := self.read(min(size_bytes, 1 << 20))):
            size_bytes -= len(left_out)


def list_archive(path: Path) -> frozenset[str]:
    """Return the paths of all files of an initramfs, without a slash before them; raise CannotList for other files."""
    try:
        with path.open("rb") as file:
            return frozenset(_names(file))
    except (OSError, Unreadable, struct.error, ValueError, RuntimeError) as error:
        raise CannotList(f"{path.name} cannot be listed: {error}") from None


def _names(file: BinaryIO) -> Iterator[str]:
    count = done = 0
    while True:
        magic = _at_next(file)
        if not magic:
            if not done:
                raise ValueError("it has no cpio archive")
            return
        plain = magic.startswith(_MAGICS)
        source = _Plain(file) if plain else _Input(iter(_unpacked(file, magic)), io.BytesIO())
        for name in _members(source):
            yield name
            count += 1
            if count > _MOST_FILES:
                raise ValueError(f"it has more than {_MOST_FILES:,} files")
        done += 1
        if not plain:
            return


def _at_next(file: BinaryIO) -> bytes:
    """Go to the next archive, behind zeros, and return its first bytes; empty at the end."""
    while True:
        at = file.tell()
        chunk = file.read(4096)
        left = chunk.lstrip(b"\0")
        if left or not chunk:
            file.seek(at + len(chunk) - len(left))
            magic = file.read(16)
            file.seek(-len(magic), io.SEEK_CUR)
            return magic


@dataclass(frozen=True)
class _Plain:
    """An archive that is not compressed, in place."""

    file: BinaryIO

    def read(self, size_bytes: int) -> bytes:
        """Return the next bytes; fewer only at the end."""
        return self.file.read(size_bytes)

    def skip(self, size_bytes: int) -> None:
        """Leave bytes out."""
        self.file.seek(size_bytes, io.SEEK_CUR)


def _unpacked(file: BinaryIO, magic: bytes) -> Iterable[bytes]:
    if magic.startswith(_LZ4_LEGACY):
        return _lz4_blocks(file)
    if magic.startswith(_ZSTD):
        make: Callable[[], Any] = standard().ZstdDecompressor
        return content(file, "zstd", make)
    packing = next((one for one in PACKINGS if magic.startswith(one.magic)), None)
    if packing is None or packing.decompressor is None:
        raise ValueError(f"it begins with {magic[:6]!r}, which is not a cpio archive or a known compression")
    return content(file, packing.name, packing.decompressor)


def _lz4_blocks(file: BinaryIO) -> Iterator[bytes]:
    import cramjam

    file.read(len(_LZ4_LEGACY))
    while len(head := file.read(4)) == 4:
        (size_bytes,) = struct.unpack("<I", head)
        if head == _LZ4_LEGACY:
            continue  # the next stream
        if not 0 < size_bytes <= 2 * _LZ4_BLOCK_BYTES:
            return  # what follows the archive
        try:
            yield bytes(cramjam.lz4.decompress_block(file.read(size_bytes), output_len=_LZ4_BLOCK_BYTES))
        except cramjam.DecompressionError as error:
            raise ValueError(str(error)) from None


def _members(source: _Input | _Plain) -> Iterator[str]:
    """Yield the names of one archive."""
    total_bytes = 0
    while True:
        head = source.read(_HEADER_BYTES)
        if len(head) < _HEADER_BYTES or not head.startswith(_MAGICS):
            raise ValueError("it ends too early" if len(head) < _HEADER_BYTES else "a file's header is damaged")
        size_bytes, name_bytes = int(head[54:62], 16), int(head[94:102], 16)
        if not 0 < name_bytes <= _MOST_NAME_BYTES:
            raise ValueError(f"a name has {name_bytes} bytes")
        name = source.read(name_bytes).rstrip(b"\0").decode(errors="replace")
        source.skip(-(_HEADER_BYTES + name_bytes) % 4)
        if name == _END:
            return
        source.skip(size_bytes + -size_bytes % 4)
        total_bytes += size_bytes
        if total_bytes > _MOST_BYTES:
            raise ValueError("its content is too large")
        yield name.removeprefix("./").removeprefix("/")
