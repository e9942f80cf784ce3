"""Decompression of stored pages, one or many; nothing that a page holds can make it yield much more than a page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import cramjam
import deflate
import lzallright
import numpy as np
from numpy.typing import NDArray

from .damage import VmcoreError
from .zstd import ZstdUnpacker

RAW = 0x00
ZLIB = 0x01
LZO = 0x02
SNAPPY = 0x04
ZSTD = 0x20

# The name under which descriptors of the one page of zeros are counted: it is stored raw, and fully checked.
ZEROS = "zeros"

NAMES = {RAW: "none", ZLIB: "zlib", LZO: "lzo", SNAPPY: "snappy", ZSTD: "zstd"}

# The one-segment frame of libzstd: magic, this descriptor, then the content size minus 256 in two bytes.
_ZSTD_PLAIN_FRAME = 0x60


class BadPage(VmcoreError):
    """Stored bytes that are not a page."""


class Unpacker:
    """Turns stored bytes into pages; not to be shared between threads.

    Stored bytes are never longer than a page, which bounds what zlib and LZO can become; snappy and zstd could
    claim gigabytes, so their claims are checked first.
    """

    def __init__(self, page_size: int) -> None:
        self.page_size = page_size
        self._scratch = bytearray(page_size)
        self._zstd = ZstdUnpacker()

    def page(self, flags: int, stored: bytes) -> bytes:
        """Return exactly one page. Raise BadPage with the reason where the stored bytes are not one."""
        try:
            page = self._unpack(flags, stored)
        except BadPage:
            raise
        except Exception as error:  # each library raises its own errors
            # The message of one LZO error is the whole page.
            reason = str(error) if len(str(error)) < 100 else type(error).__name__
            raise BadPage(f"does not decompress as {NAMES[flags]} ({reason})") from None
        if len(page) != self.page_size:
            raise BadPage(f"is {len(page):,} bytes as {NAMES[flags]}, not {self.page_size:,}")
        return page

    def _unpack(self, flags: int, stored: bytes) -> bytes:
        if flags == RAW:
            return stored
        if flags == ZLIB:
            return bytes(deflate.zlib_decompress(stored, self.page_size))
        if flags == LZO:
            return bytes(lzallright.LZOCompressor.decompress(stored, self.page_size))
        if flags == SNAPPY:
            return bytes(self._scratch[: cramjam.snappy.decompress_raw_into(stored, self._scratch)])
        claimed = self._zstd.claimed_bytes(stored)
        if claimed not in (None, self.page_size):
            raise BadPage(f"is {claimed:,} bytes as zstd, not {self.page_size:,}")
        return self._zstd.unpack(stored, self.page_size)

    def bad_rows(self, flags: int, chunk: bytes, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> list[int]:
        """Return the rows of the stored pages chunk[start:end] that are not one page each."""
        if flags == RAW:
            return np.flatnonzero(ends - starts != self.page_size).tolist()
        if flags == ZSTD:
            odd = ~self._plain_zstd(chunk, starts, ends)
            plain = np.flatnonzero(~odd)
            bad = plain[self._walk(flags, chunk, starts[plain].tolist(), ends[plain].tolist())].tolist()
            return sorted([*bad, *self._one_by_one(flags, chunk, starts, ends, np.flatnonzero(odd).tolist())])
        return self._walk(flags, chunk, starts.tolist(), ends.tolist())

    def _walk(self, flags: int, chunk: bytes, starts: Sequence[int], ends: Sequence[int]) -> list[int]:
        """Check all pages in one loop; work per page here is paid for every page of a dump."""
        unpackers: dict[int, Callable[..., Any]] = {
            ZLIB: deflate.zlib_decompress,
            LZO: lzallright.LZOCompressor.decompress,
            SNAPPY: cramjam.snappy.decompress_raw_into,
            ZSTD: self._zstd.unpack,
        }
        unpack = unpackers[flags]
        page_size, scratch = self.page_size, self._scratch
        bad: list[int] = []
        rows = enumerate(zip(starts, ends, strict=True))
        row = -1
        while True:
            try:
                if flags == SNAPPY:
                    for row, (start, end) in rows:
                        if unpack(chunk[start:end], scratch) != page_size:
                            bad.append(row)
                else:
                    for row, (start, end) in rows:
                        if len(unpack(chunk[start:end], page_size)) != page_size:
                            bad.append(row)
                return bad
            except Exception:  # each library raises its own errors
                bad.append(row)

    def _one_by_one(
        self, flags: int, chunk: bytes, starts: NDArray[np.int64], ends: NDArray[np.int64], rows: list[int]
    ) -> list[int]:
        bad = []
        for row in rows:
            try:
                self.page(flags, chunk[starts[row] : ends[row]])
            except BadPage:
                bad.append(row)
        return bad

    def _plain_zstd(self, chunk: bytes, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return a mask of the frames that claim exactly one page, in the form that libzstd writes."""
        raw = np.frombuffer(chunk, dtype=np.uint8)
        long_enough = ends - starts >= 7
        at = np.where(long_enough, starts, 0)
        if len(raw) < 7:
            return np.zeros(len(starts), dtype=np.bool_)
        claimed = raw[at + 5].astype(np.int64) + raw[at + 6].astype(np.int64) * 256 + 256
        return np.asarray(long_enough & (raw[at + 4] == _ZSTD_PLAIN_FRAME) & (claimed == self.page_size))
