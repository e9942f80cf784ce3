"""Pieces of an address space that lie in a file: which one holds an address, when they may overlap."""

from __future__ import annotations

import heapq
from array import array

import numpy as np
from numpy.typing import NDArray

from .damage import UNSUPPORTED, Damage, Unreadable

Int64s = NDArray[np.int64]

# Writers go back to few places; a sweep over millions of overlapping segments would take minutes.
MAX_OVERLAPPING = 1 << 18


def int64s(values: array[int]) -> Int64s:
    return np.frombuffer(values, dtype=np.int64) if len(values) else np.zeros(0, dtype=np.int64)


def disjoint(starts: Int64s, ends: Int64s, places: Int64s) -> tuple[Int64s, Int64s, Int64s, int]:
    """Return the segments sorted and cut so that none overlap, the later one winning, and how many did overlap.

    Raise Unreadable where too many overlap.
    """
    order = np.argsort(starts, kind="stable")
    if not len(order):
        return starts, ends, places, 0
    begins = starts[order]
    reach = np.maximum.accumulate(ends[order])
    fresh = np.ones(len(order), dtype=np.bool_)  # begins a cluster: nothing before it reaches into it
    fresh[1:] = begins[1:] >= reach[:-1]
    alone = fresh & np.append(fresh[1:], True)
    if alone.all():
        return begins, ends[order], places[order], 0
    if len(order) - int(alone.sum()) > MAX_OVERLAPPING:
        raise Unreadable(Damage(UNSUPPORTED, f"more than {MAX_OVERLAPPING:,} segments of the file overlap"))
    crowd = np.sort(order[~alone])  # back in stream order, so that a higher position means a later write
    cut_starts, cut_ends, cut_places = _cut(starts[crowd], ends[crowd], places[crowd])
    single = order[alone]
    all_starts = np.concatenate([starts[single], cut_starts])
    again = np.argsort(all_starts, kind="stable")
    return (
        all_starts[again],
        np.concatenate([ends[single], cut_ends])[again],
        np.concatenate([places[single], cut_places])[again],
        len(crowd),
    )


def _cut(starts: Int64s, ends: Int64s, places: Int64s) -> tuple[Int64s, Int64s, Int64s]:
    """Sweep over all borders and give each stretch between two of them to the latest segment there."""
    order = np.argsort(starts, kind="stable")
    borders = np.unique(np.concatenate([starts, ends]))
    out_starts, out_ends, out_places = array("q"), array("q"), array("q")
    open_segments: list[int] = []  # negated positions: the latest first
    entering = 0
    for low, high in zip(borders[:-1].tolist(), borders[1:].tolist(), strict=True):
        while entering < len(order) and starts[order[entering]] <= low:
            heapq.heappush(open_segments, -int(order[entering]))
            entering += 1
        while open_segments and ends[-open_segments[0]] <= low:
            heapq.heappop(open_segments)
        if open_segments:
            winner = -open_segments[0]
            place = int(places[winner]) + low - int(starts[winner])
            if out_ends and out_ends[-1] == low and out_places[-1] + low - out_starts[-1] == place:
                out_ends[-1] = high
            else:
                out_starts.append(low)
                out_ends.append(high)
                out_places.append(place)
    return int64s(out_starts), int64s(out_ends), int64s(out_places)


def runs(starts: Int64s, ends: Int64s) -> tuple[Int64s, Int64s]:
    """Join adjoining segments."""
    if not len(starts):
        return starts, ends
    breaks = np.flatnonzero(starts[1:] != ends[:-1])
    return starts[np.append(0, breaks + 1)], ends[np.append(breaks, len(ends) - 1)]
