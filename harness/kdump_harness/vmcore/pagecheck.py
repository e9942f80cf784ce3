"""Decompress stretches of the pages of a dump; the main process and its helpers run the same code."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .formats import descriptors, pages
from .formats.damage import Damage, DamageList, Unreadable
from .formats.kdump import KdumpFile

_WINDOW_BYTES = 2 << 20
_MAX_HOLE_BYTES = 64 << 10


@dataclass
class PageCheck:
    """The result of checking a range of page descriptors."""

    counts: Counter[str] = field(default_factory=Counter)
    damage: list[Damage] = field(default_factory=list)  # where pfn stands the index of the descriptor
    more: int = 0

    def add(self, damage: Damage) -> None:
        """Note a damaged page, in full for the first few."""
        if len(self.damage) < DamageList.KEPT_OF_A_KIND:
            self.damage.append(damage)
        else:
            self.more += 1


class PageChecker:
    """The check of stretches of the pages of one file."""

    def __init__(self, part: KdumpFile, data_offset: int) -> None:
        self._part = part
        self._data_offset = data_offset
        self._unpacker = pages.Unpacker(part.page_size)
        self._zero = bytes(part.page_size)
        # A writer that compresses, or that looks for zero pages, never stores a page of zeros as it is.
        self._zeros_are_damage = part.header.compression != "none" or bool(part.zero_page_bytes)

    def check(self, first: int, count: int) -> PageCheck:
        """Decompress count pages from descriptor first on; faulty descriptors are someone else's."""
        result = PageCheck()
        try:
            for start, table in descriptors.tables(self._part, first, count):
                self._check_table(table, start, result)
        except Unreadable as error:
            result.add(error.damage)
        return result

    def _check_table(self, table: descriptors.Table, start: int, result: PageCheck) -> None:
        good = np.flatnonzero(descriptors.sound(self._part, table, self._data_offset))
        for flags, number in sorted(Counter(table["flags"][good].tolist()).items()):  # np.unique() loads numpy.ma
            result.counts[pages.NAMES[int(flags)]] += int(number)
        shared = descriptors.shares_zeros(self._part, table, self._data_offset)[good]
        if shared.any():
            if self._part.source.read(self._data_offset, self._part.page_size) != self._zero:
                message = "is the shared page of zeros, and is not zeros"
                self._damaged(result, table, int(good[shared][0]), start, message)
            zeros = int(shared.sum())
            result.counts.update({pages.NAMES[pages.RAW]: -zeros, pages.ZEROS: zeros})
            good = good[~shared]
        good = good[np.argsort(table["offset"][good], kind="stable")]
        for rows in _windows(table["offset"][good], table["size"][good].astype(np.int64)):
            self._check_window(table, good[rows], start, result)

    def _check_window(self, table: descriptors.Table, rows: NDArray[np.int64], start: int, result: PageCheck) -> None:
        offsets, sizes, flags = table["offset"][rows], table["size"][rows].astype(np.int64), table["flags"][rows]
        low = int(offsets.min())
        chunk = self._part.source.read(low, int((offsets + sizes).max()) - low)
        starts = offsets - low
        ends = starts + sizes
        for kind in sorted(set(flags.tolist())):
            of_kind = np.flatnonzero(flags == kind)
            for row in self._unpacker.bad_rows(kind, chunk, starts[of_kind], ends[of_kind]):
                index = int(of_kind[row])
                stored = chunk[int(starts[index]) : int(ends[index])]
                self._damaged(result, table, int(rows[index]), start, self._why(kind, stored))
            if kind == pages.RAW and self._zeros_are_damage:
                for index in of_kind.tolist():
                    if chunk.startswith(self._zero, int(starts[index])):
                        message = "is a hole: zeros stored raw, which no writer does with these options"
                        self._damaged(result, table, int(rows[index]), start, message, kind="hole")

    def _why(self, flags: int, stored: bytes) -> str:
        try:
            self._unpacker.page(flags, stored)
        except pages.BadPage as error:
            return str(error)
        return "does not decompress"

    @staticmethod
    def _damaged(
        result: PageCheck, table: descriptors.Table, row: int, start: int, message: str, *, kind: str = "page"
    ) -> None:
        result.add(Damage(kind, f"the page {message}", int(table["offset"][row]), start + row))


def _windows(offsets: NDArray[np.int64], sizes: NDArray[np.int64]) -> Iterator[slice]:
    """Yield stretches of pages, sorted by offset, that are worth reading at once."""
    if not len(offsets):
        return
    ends = offsets + sizes
    breaks = np.flatnonzero(offsets[1:] - ends[:-1] > _MAX_HOLE_BYTES) + 1
    for low, high in itertools.pairwise([0, *breaks.tolist(), len(offsets)]):
        at = low
        while at < high:
            stop = int(np.searchsorted(offsets[:high], offsets[at] + _WINDOW_BYTES, side="right"))
            stop = max(stop, at + 1)
            yield slice(at, stop)
            at = stop
