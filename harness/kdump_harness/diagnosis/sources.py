"""Open a log as a stream of UTF-8: compressed and UTF-16 files are decoded, files that are not text are refused."""

from __future__ import annotations

import bz2
import codecs
import contextlib
import gzip
import io
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

from ..base.errors import UsageError
from .lines import LogLine

_HEAD_BYTES = 4096
_DUMP = re.compile(
    rb"KDUMP   |DISKDUMP|makedumpfile\0|\x7fELF.{12}(\x04\0|\0\x04)", re.DOTALL
)  # an ELF file of type core
_COMPRESSED: dict[bytes, Callable[[BinaryIO], object]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
}
_TEXT_BYTES = bytes(range(0x20, 0x7F)) + b"\t\n\r\f\v\b\x07\x1b\0"
_BINARY_SHARE_MAX = 0.3  # bytes that are not text, in the first block of a text
# Change logs and manuals speak of kernels and of kdump in lists, which no kernel and no program of kdump prints.
_OPENING_BYTES = 1 << 16
_LIST_ITEM = re.compile(rb"^[ \t]{0,16}[-*][ \t]{1,8}\w", re.MULTILINE)
_LIST_ITEMS_MIN = 5


class _Recoded(io.RawIOBase):
    """A stream of another encoding, read as UTF-8."""

    def __init__(self, raw: BinaryIO, encoding: str) -> None:
        super().__init__()
        self._raw = raw
        self._decoder = codecs.getincrementaldecoder(encoding)("replace")

    def read(self, size: int = -1) -> bytes:
        """Return the next piece, which may be shorter or longer than size; empty only at the end."""
        while piece := self._raw.read(size):
            if text := self._decoder.decode(piece):
                return text.encode("utf-8", "replace")
        return b""


def is_dump(path: Path) -> bool:
    """Return whether a file begins as a vmcore does."""
    with contextlib.suppress(OSError), path.open("rb") as stream:
        return _DUMP.match(stream.read(_HEAD_BYTES)) is not None
    return False


@contextlib.contextmanager
def open_log(path: Path) -> Iterator[BinaryIO]:
    """Yield the text of a log as a stream of UTF-8. Raise UsageError with the reason where it cannot be one."""
    if not path.exists():
        raise UsageError(f"{path}: no such file")
    # Opening a FIFO or a terminal would wait for a writer that may never come.
    if not path.is_file():
        raise UsageError(f"{path}: is not a regular file (copy it to a file first)")
    try:
        if path.stat().st_size == 0:
            raise UsageError(f"{path}: is empty, there is nothing to diagnose")
        with path.open("rb") as raw:
            yield _decoded(raw, path)
    except (EOFError, zlib.error, lzma.LZMAError) as error:
        raise UsageError(f"{path}: cannot be unpacked ({error})") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror or error})") from None


def _decoded(raw: BinaryIO, path: Path) -> BinaryIO:
    """Return the stream, unpacked and in UTF-8."""
    head = raw.read(_HEAD_BYTES)
    raw.seek(0)
    if _DUMP.match(head):
        raise UsageError(f"{path}: is a dump, not a log (kdump-harness inspect judges it)")
    for magic, opened in _COMPRESSED.items():
        if head.startswith(magic):
            unpacked = cast("BinaryIO", opened(raw))
            head = unpacked.read(_HEAD_BYTES)
            unpacked.seek(0)
            return _as_utf8(unpacked, head, path)
    return _as_utf8(raw, head, path)


def _as_utf8(stream: BinaryIO, head: bytes, path: Path) -> BinaryIO:
    """Return the stream in UTF-8. Raise UsageError unless its head is text."""
    encoding = _utf16(head)
    if encoding:
        return cast("BinaryIO", _Recoded(stream, encoding))
    lost = len(head) - len(head.decode("utf-8", "ignore").encode())
    control = len(head.translate(None, _TEXT_BYTES + bytes(range(0x80, 0x100))))
    if lost + control > _BINARY_SHARE_MAX * len(head):
        raise UsageError(f"{path}: is not a text (name a console log or a journal's text)")
    opening = stream.read(_OPENING_BYTES)
    stream.seek(0)
    if kind := _kind_of_document(opening):
        raise UsageError(f"{path}: is a {kind}, not a log (copy the log itself to a file)")
    return stream


def _kind_of_document(opening: bytes) -> str | None:
    """Return the name of a text that may quote kdump's words, or None for one that may be a log."""
    if opening.startswith(b"#!"):
        return "script"
    items = len(_LIST_ITEM.findall(opening))
    if items < _LIST_ITEMS_MIN:
        return None
    lines = (LogLine.parse(0, raw) for raw in opening.splitlines())
    logged = sum(line.stamp_s is not None or line.from_syslog or line.program is not None for line in lines)
    return "document with lists" if items > logged else None


def _utf16(head: bytes) -> str | None:
    """Return the encoding of a text of two bytes per character, or None."""
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    for encoding, zeros in (("utf-16-le", head[1::2]), ("utf-16-be", head[::2])):
        if len(zeros) > 8 and zeros.count(0) > 0.9 * len(zeros) and head.count(0) < 0.6 * len(head):
            return encoding
    return None
