"""Pages of zeros among the pages that a kernel fills: its slabs and page tables are witnesses of lost data.

A capture kernel reads zeros from RAM that it takes for something else, and a file has zeros where its blocks were
never written. Nothing else distinguishes such pages from sound ones.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from . import descriptors, pages
from .damage import VmcoreError
from .elf import ElfFile
from .intervals import Int64s
from .kdump import KdumpFile
from .source import DumpSource

Bools = NDArray[np.bool_]

# In the dumps of small guests that were looked at (Linux 6.1 to 7.3, x86_64 and aarch64), up to 11 % of the slab pages
# are zeros, up to 178 of them in a row (large objects, and objects that are kept ready), and 1 % of page tables.
_MOST_PAGES = 64
MOST_SHARE = 0.3
_MOST_IN_A_ROW = 1024

_RUN_PAGES = 512  # raw pages read at once
# No compression makes more than this of a page of zeros (snappy makes the most: 3 of 64 bytes).
_PACKED_SHARE = 16


@dataclass
class ZeroCount:
    """Pages, how many of them are zeros, and the most zeros in a row."""

    pages: int = 0
    zeros: int = 0
    in_a_row: int = 0
    _open: int = 0  # zeros at the end of the last piece

    def add(self, zeros: Bools) -> None:
        """Count the next pages; zeros says which ones are."""
        others = np.flatnonzero(~zeros)
        borders = np.concatenate([[-1 - self._open], others, [len(zeros)]])
        rows = np.diff(borders) - 1
        self.in_a_row = max(self.in_a_row, int(rows.max()))
        self._open = int(rows[-1])
        self.pages += len(zeros)
        self.zeros += len(zeros) - len(others)

    def complaint(self, what: str, most_share: float = MOST_SHARE) -> str | None:
        """Return a sentence if there are more zeros than a kernel leaves in such pages."""
        if self.zeros <= max(_MOST_PAGES, most_share * self.pages) and self.in_a_row <= _MOST_IN_A_ROW:
            return None
        return f"{self.zeros:,} of {self.pages:,} {what} are all zeros, {self.in_a_row:,} of them in a row"


def in_kdump(part: KdumpFile, first: int, rows: NDArray[np.intp]) -> Bools:
    """Return which pages are zeros, by the rows of their descriptors, counted from the one of the first page frame on.

    A page that cannot be read is not zeros.
    """
    zeros = np.zeros(len(rows), dtype=np.bool_)
    found = [table for _, table in descriptors.tables(part, part.index_of(first), int(rows[-1]) + 1)]
    table = np.concatenate(found)
    table = table[rows[rows < len(table)]]
    data_offset = part.data_offset
    good = descriptors.sound(part, table, data_offset)
    shared = descriptors.shares_zeros(part, table, data_offset)
    raw = np.flatnonzero(good & ~shared & (table["flags"] == pages.RAW))
    packed = np.flatnonzero(good & (table["flags"] != pages.RAW) & (table["size"] <= part.page_size // _PACKED_SHARE))
    zeros[np.flatnonzero(shared)] = True
    zeros[raw] = _raw(part.source, table["offset"][raw], part.page_size)
    zeros[packed] = [is_zeros(part.stored_page, *table[row].item()[:3]) for row in packed.tolist()]
    return zeros


def is_zeros(read: Callable[..., bytes], *place: int) -> bool:
    """Return whether a page can be read, and is zeros."""
    try:
        return not read(*place).strip(b"\0")
    except VmcoreError:
        return False


def in_elf(file: ElfFile, addresses: Int64s, page_size: int) -> Bools:
    """Return which pages are zeros, by their physical addresses."""
    zeros = np.zeros(len(addresses), dtype=np.bool_)
    offsets = file.offsets_of(addresses, page_size)
    there = np.flatnonzero(offsets >= 0)
    zeros[there] = _raw(file.source, offsets[there], page_size)
    return zeros


def _raw(source: DumpSource, offsets: Int64s, page_size: int) -> Bools:
    """Return which of the raw pages at the offsets are zeros; neighbours are read together."""
    zeros = np.zeros(len(offsets), dtype=np.bool_)
    borders = np.concatenate([[0], np.flatnonzero(np.diff(offsets) != page_size) + 1, [len(offsets)]]).tolist()
    for low, high in itertools.pairwise(borders):
        for first in range(low, high, _RUN_PAGES):
            count = min(_RUN_PAGES, high - first)
            data = source.read(int(offsets[first]), count * page_size)
            whole = len(data) // page_size
            words = np.frombuffer(data[: whole * page_size], dtype=np.uint64)
            zeros[first : first + whole] = ~words.reshape(whole, -1).any(axis=1)
    return zeros
