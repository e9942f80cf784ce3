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
_MAX_SUSPECTS = 1000

# By flags; the last entry stands for all that are larger.
_KNOWN = np.array([flags in pages.NAMES for flags in range(max(pages.NAMES) + 2)])

Table = NDArray[np.void]
Mask = NDArray[np.bool_]


def tables(part: KdumpFile, first: int = 0, count: int | None = None) -> Iterator[tuple[int, Table]]:
    """Yield the index of the first entry, and entries in blocks that fit in memory; fewer where the file ends."""
    end = part.descriptors if count is None else first + count
    for start in range(first, end, AT_ONCE):
        at = part.header.descriptor_offset + start * DESCRIPTOR.itemsize
        wanted = min(AT_ONCE, end - start)
        raw = part.source.read(at, wanted * DESCRIPTOR.itemsize)
        there = len(raw) // DESCRIPTOR.itemsize
        yield start, np.frombuffer(raw[: there * DESCRIPTOR.itemsize], dtype=DESCRIPTOR)
        if there < wanted:
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


def check(part: KdumpFile, damage: DamageList, *, quick: bool) -> None:
    """Check all entries, each and against the others; with quick only the first and the last ones."""
    total = part.descriptors
    if not part.dumped.count:
        damage.add("bitmap", "no page is marked as dumped", offset=part.dumped.offset)
    data_offset = part.data_offset
    lowest: int | None = None
    highest = data_offset
    suspects: list[int] = []
    previous_end = 0
    for first, table in _some_tables(part, total) if quick else tables(part):
        good = np.ones(len(table), dtype=np.bool_)
        for bad, message in faults(part, table, data_offset):
            good &= ~bad
            _report(part, damage, first, table, bad, message)
        offsets = table["offset"][good]
        if not len(offsets):
            continue
        lowest = int(offsets.min()) if lowest is None else min(lowest, int(offsets.min()))
        highest = max(highest, int((offsets + table["size"][good]).max()))
        if quick:
            continue
        # All zero pages share one page of data; the others lie one after the other.
        rows = np.flatnonzero(good & (table["offset"] != data_offset))
        starts = table["offset"][rows]
        ends = starts + table["size"][rows]
        before = np.concatenate([[previous_end], ends[:-1]])
        backward = np.flatnonzero(starts < before)
        room = _MAX_SUSPECTS - len(suspects)
        suspects += (first + rows[backward[:room]]).tolist()
        suspects += (first + rows[backward[backward > 0][:room] - 1]).tolist()
        if len(ends):
            previous_end = int(ends[-1])
    if lowest is not None and not (quick and total > 2 * AT_ONCE):
        _check_count(part, damage, lowest)
    _check_rest(part, damage, highest)
    if suspects:
        _check_overlaps(part, damage, sorted(set(suspects)))


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


def _check_count(part: KdumpFile, damage: DamageList, lowest: int) -> None:
    """Check that the data begins where the table ends, or one unused zero page later, as all writers do."""
    data_offset = part.data_offset
    if lowest not in (data_offset, data_offset + part.page_size):
        damage.add(
            "bitmap",
            f"{part.dumped.count:,} pages are marked as dumped, so that their data would begin at {data_offset:,};"
            f" they begin at {lowest:,}",
            offset=part.dumped.offset,
        )


def _check_rest(part: KdumpFile, damage: DamageList, at: int) -> None:
    """Check the end of the file: only the notes of makedumpfile's filter, or zeros that pad a block, may follow."""
    if part.header.eraseinfo is not None and part.header.eraseinfo[1] > 0:
        at = max(at, sum(part.header.eraseinfo))
    if not rest_is_empty(part.source, at):
        lost_bytes = part.source.size_bytes - at
        message = f"the last {lost_bytes:,} bytes belong to no page: bitmap or descriptors have lost some"
        damage.add("bitmap", message, offset=at)


def _check_overlaps(part: KdumpFile, damage: DamageList, suspects: list[int]) -> None:
    """Check entries that are out of order; they are damage only where their data overlaps another page's."""
    data_offset = part.data_offset
    own = np.concatenate([table for index in suspects for _, table in tables(part, index, 1)])
    starts, ends = own["offset"], own["offset"] + own["size"]
    numbers = np.array(suspects)
    proven: dict[int, int] = {}
    for first, table in tables(part):
        rows = np.flatnonzero(sound(part, table, data_offset) & (table["offset"] != data_offset))
        rows = rows[np.argsort(table["offset"][rows], kind="stable")]
        if not len(rows):
            continue
        low = table["offset"][rows]
        high = low + table["size"][rows]
        for step in (1, 2):  # the nearest below the suspect's end, and the next, for one of them is itself
            nearest = np.searchsorted(low, ends, side="left") - step
            at = np.maximum(nearest, 0)
            overlap = (nearest >= 0) & (high[at] > starts) & (first + rows[at] != numbers)
            overlap &= (low[at] != starts) | (high[at] != ends)
            for index in np.flatnonzero(overlap).tolist():
                proven.setdefault(suspects[index], first + int(rows[at[index]]))
    for index, other in sorted(proven.items()):
        damage.add(
            "overlap",
            f"the data of the page overlaps that of page frame {part.pfn_of(other)}",
            offset=part.header.descriptor_offset + index * DESCRIPTOR.itemsize,
            pfn=part.pfn_of(index),
        )
