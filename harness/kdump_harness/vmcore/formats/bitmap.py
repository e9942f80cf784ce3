"""A bitmap of page frames inside a dump, read piece by piece: a TiB of guest memory has 32 MiB of it."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from .source import DumpSource

PIECE_BYTES = 1 << 12
READ_BYTES = 1 << 20
_PIECE_BITS = PIECE_BYTES * 8
_KEPT_PIECES = 16  # of 128 KiB each

Bytes = NDArray[np.uint8]


class Bitmap:
    """One bit per page frame, lowest bit first."""

    def __init__(self, source: DumpSource, offset: int, bits: int) -> None:
        self.offset = offset
        self.bits = bits
        self._source = source
        self._before: NDArray[np.int64] | None = None
        self._ranks = functools.lru_cache(_KEPT_PIECES)(self._count)  # pages are read in the order of their frames

    @property
    def size_bytes(self) -> int:
        """Bytes that hold the bits."""
        return -(-self.bits // 8)

    def pieces(self, piece_bytes: int = READ_BYTES) -> Iterator[tuple[int, Bytes]]:
        """Yield first page frame and bytes of each piece; bits beyond the end are clear, missing bytes zero."""
        for at in range(0, self.size_bytes, piece_bytes):
            yield at * 8, self._load(at, min(piece_bytes, self.size_bytes - at))

    def as_array(self) -> Bytes:
        """Return all of it, packed, as np.unpackbits(..., bitorder="little") takes it."""
        return self._load(0, self.size_bytes)

    @property
    def count(self) -> int:
        """How many bits are set."""
        return int(self._prefix()[-1])

    def __contains__(self, pfn: int) -> bool:
        if not 0 <= pfn < self.bits:
            return False
        piece, bit = divmod(pfn, _PIECE_BITS)
        ranks = self._ranks(piece)
        return bool(ranks[bit + 1] > ranks[bit])

    def rank(self, pfn: int) -> int:
        """Return how many bits are set below pfn."""
        piece, bit = divmod(max(0, min(pfn, self.bits)), _PIECE_BITS)
        return int(self._prefix()[piece]) + (int(self._ranks(piece)[bit]) if bit else 0)

    def _count(self, piece: int) -> NDArray[np.int32]:
        """Return the number of set bits in a piece before each of its bits, and before its end."""
        length = min(PIECE_BYTES, self.size_bytes - piece * PIECE_BYTES)
        bits = np.unpackbits(self._load(piece * PIECE_BYTES, length), bitorder="little")
        return np.concatenate([[np.int32(0)], np.cumsum(bits, dtype=np.int32)])

    def select(self, rank: int) -> int:
        """Return the page frame of the rank-th set bit, counted from 0."""
        before = self._prefix()
        if not 0 <= rank < before[-1]:
            raise IndexError(rank)
        piece = int(np.searchsorted(before, rank, side="right")) - 1
        length = min(PIECE_BYTES, self.size_bytes - piece * PIECE_BYTES)
        set_bits = np.flatnonzero(np.unpackbits(self._load(piece * PIECE_BYTES, length), bitorder="little"))
        return piece * _PIECE_BITS + int(set_bits[rank - int(before[piece])])

    def beyond(self, room_bytes: int) -> bool:
        """Return whether a bit is set behind the last page frame, in the blocks of room_bytes that hold the bitmap."""
        at = self.bits // 8
        rest = self._source.read(self.offset + at, room_bytes - at)
        return bool(rest[:1] and rest[0] >> self.bits % 8) or bool(rest[1:].strip(b"\0"))

    def _load(self, at: int, length: int) -> Bytes:
        data = np.zeros(length, dtype=np.uint8)
        read = np.frombuffer(self._source.read(self.offset + at, length), dtype=np.uint8)
        data[: len(read)] = read
        spare_bits = (at + length) * 8 - self.bits
        if length and spare_bits > 0:
            data[-1] &= 0xFF >> spare_bits
        return data

    def _prefix(self) -> NDArray[np.int64]:
        """Return the number of set bits before each piece; the last entry is the total."""
        if self._before is None:
            counts = [np.zeros(1, dtype=np.int64)]
            for _, data in self.pieces():
                padded = np.zeros(-(-len(data) // PIECE_BYTES) * PIECE_BYTES, dtype=np.uint8)
                padded[: len(data)] = data
                # Eight bytes at once: counting and adding single bytes takes four times as long.
                words = np.bitwise_count(padded.view(np.uint64)).reshape(-1, PIECE_BYTES // 8)
                counts.append(words.sum(axis=1, dtype=np.int64))
            self._before = np.cumsum(np.concatenate(counts))
        return self._before


def any_outside(inner: Bitmap, outer: Bitmap) -> int | None:
    """Return the first page frame that is set in inner and not in outer, or None."""
    for (pfn, some), (_, all_of_them) in zip(inner.pieces(), outer.pieces(), strict=True):
        stray = some & ~all_of_them
        if stray.any():
            return pfn + int(np.flatnonzero(np.unpackbits(stray, bitorder="little"))[0])
    return None
