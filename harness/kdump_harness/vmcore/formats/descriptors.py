"""The table of page descriptors: what each entry must look like, and where page data may lie."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from . import pages
from .damage import DamageList
from .kdump import DESCRIPTOR, KdumpFile
from .source import rest_is_empty

AT_ONCE = 1 << 16

# By flags; the last entry stands for all that are larger.
_KNOWN = np.array([flags in pages.NAMES for flags in range(max(pages.NAMES) + 2)])

Table = NDArray[np.void]
Mask = NDArray[np.bool_]


def tables(part: KdumpFile, first: int = 0, count: int | None = None) -> Iterator[tuple[int, Table]]:
    """Yield the index of the first entry, and entries in blocks that fit in memory; fewer where the file ends."""
    end = part.descriptors if count is None else first + count
    for start in range(first, end, AT_ONCE):
        wanted = min(AT_ONCE, end - start)
        table = part.table(start, wanted)
        yield start, table
        if len(table) < wanted:
            break  # bitmaps may claim billions of descriptors behind the end of the file


def faults(part: KdumpFile, table: Table, data_offset: int) -> list[tuple[Mask, str]]:
    """Return each possible fault of a single entry with the mask of the entries that have it."""
    offset, size, flags = table["offset"], table["size"].astype(np.int64), table["flags"]
    known = _KNOWN[np.minimum(flags, len(_KNOWN) - 1)]
    fits = (size > 0) & (size <= part.page_size)
    missing = offset == 0
    whole = known & fits & ~missing
    # Sizes are bounded now; a huge offset cannot overflow into a small one.
    inside = (offset >= data_offset) & (offset <= part.source.size_bytes - size)
    written = part.source.covered(np.where(inside, offset, 0), np.where(inside, offset + size, 0))
    return [
        (missing, "has no data: the writer left it out"),
        (~known & ~missing, "has unknown flags"),
        (known & ~fits & ~missing, "has an impossible size"),
        (whole & (flags == pages.RAW) & (size != part.page_size), "is stored raw, and not a page long"),
        (whole & ~inside, "has its data outside the file or inside its header"),
        (whole & inside & ~written, "has its data in a gap between the segments of the stream"),
    ]


def sound(part: KdumpFile, table: Table, data_offset: int) -> Mask:
    """Return a mask of the entries that have no fault by themselves."""
    mask = np.ones(len(table), dtype=np.bool_)
    for bad, _ in faults(part, table, data_offset):
        mask &= ~bad
    return mask


def shares_zeros(part: KdumpFile, table: Table, data_offset: int) -> Mask:
    """Return a mask of the entries that name the shared page of zeros."""
    if not part.zero_page_bytes:
        return np.zeros(len(table), dtype=np.bool_)
    return np.asarray((table["offset"] == data_offset) & (table["flags"] == pages.RAW))


def check(part: KdumpFile, damage: DamageList, *, quick: bool) -> None:
    """Check all entries, each and against the one before it; with quick only the first and the last ones."""
    total = part.descriptors
    if not part.dumped.count:
        damage.add("bitmap", "no page is marked as dumped", offset=part.dumped.offset)
    data_offset = part.data_offset
    layout, cut = _Layout(part, damage), False
    for first, table in _some_tables(part, total) if quick else tables(part):
        good = np.ones(len(table), dtype=np.bool_)
        for bad, message in faults(part, table, data_offset):
            good &= ~bad
            _report(part, damage, first, table, bad, message)
        layout.add(first, table, good)
        cut |= not good.all() and _is_cut(part, table[~good])
    if not cut:  # the bytes behind the last whole page are the beginning of the page that was cut
        _check_rest(part, damage, layout.end)


def _is_cut(part: KdumpFile, table: Table) -> bool:
    """Return whether the file ends within the data of a page."""
    offset, size_bytes = table["offset"], part.source.size_bytes
    fits = (offset > 0) & (table["size"] <= part.page_size)
    return bool((fits & (offset < size_bytes) & (offset > size_bytes - table["size"].astype(np.int64))).any())


def _some_tables(part: KdumpFile, total: int) -> Iterator[tuple[int, Table]]:
    yield from tables(part, 0, min(total, AT_ONCE))
    if total > AT_ONCE:
        first = max(AT_ONCE, total - AT_ONCE)
        yield from tables(part, first, total - first)


def _report(part: KdumpFile, damage: DamageList, first: int, table: Table, bad: Mask, message: str) -> None:
    indexes = np.flatnonzero(bad)
    told = indexes[: max(0, damage.room("descriptor"))]
    for index in told.tolist():
        offset, size, flags, _ = table[index].item()
        damage.add(
            "descriptor",
            f"the page {message} (offset {offset:,}, {size:,} bytes, flags {flags:#x})",
            offset=part.header.descriptor_offset + (first + index) * DESCRIPTOR.itemsize,
            pfn=part.pfn_of(first + index),
        )
    if len(indexes) > len(told):
        damage.drop("descriptor", len(indexes) - len(told))


class _Layout:
    """The places of page data: the shared page of zeros if the level asks for it, then each page behind the one before.

    All versions of makedumpfile (with --split, --reassemble and --num-threads) and of QEMU write them end to end.
    """

    def __init__(self, part: KdumpFile, damage: DamageList) -> None:
        self._data_offset = part.data_offset
        self.end = self._data_offset + part.zero_page_bytes  # of all data seen so far
        self._part = part
        self._damage = damage
        self._next = 0  # the index of the entry that would follow
        # The last page that shares no data: its index, the end of its data, and whether that is known.
        self._last = (-1, self.end, True)

    def add(self, first: int, table: Table, good: Mask) -> None:
        """Check entries against the ones before them; good are those that have no fault by themselves."""
        rows = np.flatnonzero(~good | ~shares_zeros(self._part, table, self._data_offset))
        starts = table["offset"][rows]
        index, end, known = self._last
        indexes = np.append(index, first + rows)
        ends = np.append(end, starts + table["size"][rows])
        sure = np.append(known and first == self._next, good[rows])
        self._next = first + len(table)
        self._last = (int(indexes[-1]), int(ends[-1]), bool(sure[-1]))
        self.end = max(self.end, int(ends[1:][sure[1:]].max(initial=0)))
        both = sure[:-1] & sure[1:]
        for kind, broken in (("overlap", both & (starts < ends[:-1])), ("gap", both & (starts > ends[:-1]))):
            at = np.flatnonzero(broken)
            told = at[: max(0, self._damage.room(kind))].tolist()
            for one in told:
                self._report(kind, int(indexes[one]), int(indexes[one + 1]), int(ends[one]), int(starts[one]))
            if len(at) > len(told):
                self._damage.drop(kind, len(at) - len(told))

    def _report(self, kind: str, index: int, following: int, end: int, start: int) -> None:
        part = self._part
        if index < 0:
            self._damage.add(
                "bitmap",
                f"{part.dumped.count:,} pages are marked as dumped, so that their data would begin at {end:,};"
                f" they begin at {start:,}",
                offset=part.dumped.offset,
            )
            return
        next_one = f"that of the next one (page frame {part.pfn_of(following)})"
        self._damage.add(
            kind,
            f"the data of the page ends at {end:,}, but {next_one} begins at {start:,}",
            offset=part.header.descriptor_offset + following * DESCRIPTOR.itemsize,
            pfn=part.pfn_of(index),
        )


def _check_rest(part: KdumpFile, damage: DamageList, at: int) -> None:
    """Check the end of the file: only the notes of makedumpfile's filter, or zeros that pad a block, may follow."""
    if part.header.eraseinfo is not None and part.header.eraseinfo[1] > 0:
        start, size = part.header.eraseinfo
        if start != at:
            damage.add("gap", f"the page data ends at {at:,}, but the erase info begins at {start:,}", offset=at)
        at = max(at, start + size)
    if not rest_is_empty(part.source, at):
        lost_bytes = part.source.size_bytes - at
        message = f"the last {lost_bytes:,} bytes belong to no page: bitmap or descriptors have lost some"
        damage.add("bitmap", message, offset=at)
