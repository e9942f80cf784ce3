"""Pages that stay in an ELF dump although its level drops their class: short runs of them, between pages that stay."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .classes import PageClass, classify, dropped_by
from .formats.damage import VmcoreError
from .vmcore import Vmcore

# A segment ends only at a run of this many pages to be dropped (makedumpfile.h: PFN_EXCLUDED).
_SHORTEST_RUN = 256


def spared(vmcore: Vmcore, level: int) -> NDArray[np.uint8]:
    """Return the class of each page frame that makedumpfile -E keeps in a short run, PageClass.HOLE for the others.

    Empty for a dump of another format, or where its page structures cannot be read.
    """
    nothing = np.zeros(0, dtype=np.uint8)
    if vmcore.elf is None:
        return nothing
    try:
        codes = classify(vmcore).codes
    except VmcoreError:
        return nothing
    kept = np.unpackbits(vmcore.kept_bitmap(), bitorder="little", count=len(codes)).astype(np.bool_)
    codes[~(kept & in_short_run(np.isin(codes, list(dropped_by(level)))))] = PageClass.HOLE
    return codes


def in_short_run(wanted: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return a mask of the entries that lie in a run of fewer than 256 true ones."""
    edges = np.flatnonzero(np.diff(wanted, prepend=False, append=False))
    starts, ends = edges[::2], edges[1::2]
    short = np.zeros_like(wanted)
    short[wanted] = np.repeat(ends - starts < _SHORTEST_RUN, ends - starts)
    return short
