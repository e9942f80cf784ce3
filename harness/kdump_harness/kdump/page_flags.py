"""Count a guest's pages just before a crash, by the page classes of dump levels.

The source is /proc/kpageflags, one word of flags per page frame; where the guest has none, /proc/meminfo gives
the sums. Both are the kernel's own account and know nothing of makedumpfile.
https://docs.kernel.org/admin-guide/mm/pagemap.html
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..vmcore.classes import PageClass, dropped_by

# Bits of /proc/kpageflags. PRIVATE is among those meant for kernel developers, and has been stable since 2.6.31.
_LRU, _SLAB, _BUDDY, _ANON, _SWAPCACHE, _HUGE, _PGTABLE = 5, 7, 10, 12, 13, 17, 26
_NOPAGE, _OFFLINE, _PRIVATE = 20, 23, 35

WORD_BYTES = 8

FREE, CACHE, PRIVATE, USER, KERNEL = "free", "cache", "private cache", "user", "kernel"
CLASSES = (KERNEL, FREE, CACHE, PRIVATE, USER)
# Bits of makedumpfile's -d (makedumpfile(8)); bit 0, zero pages, goes by content and is in every class.
ZERO_BIT = 1
_PAGE_CLASSES = {
    CACHE: PageClass.CACHE,
    PRIVATE: PageClass.CACHE_PRIVATE,
    USER: PageClass.USER,
    FREE: PageClass.FREE,
}


def names_dropped_by(level: int) -> tuple[str, ...]:
    """Return the names of the classes that a dump level leaves out."""
    dropped = dropped_by(level)
    return tuple(name for name, page_class in _PAGE_CLASSES.items() if page_class in dropped)


@dataclass(frozen=True, kw_only=True)
class MemoryState:
    """Pages by class; by page frame where the guest exposes page flags."""

    pages: Mapping[str, int]
    sure: int  # pages of the kernel that are certainly not empty: its slabs and page tables
    codes: NDArray[np.uint8] | None = None  # an index into CLASSES for each page frame
    offline: int = 0  # pages that the hypervisor took, as by a balloon; any filtering leaves them out
    sure_frames: NDArray[np.bool_] | None = None  # a mask of the page frames that sure counts

    @property
    def source(self) -> str:
        """Where the numbers come from."""
        return "/proc/meminfo" if self.codes is None else "/proc/kpageflags"

    def of_class(self, name: str, frames: int) -> NDArray[np.bool_]:
        """Which of the first page frames are of a class."""
        assert self.codes is not None
        mask = np.zeros(frames, dtype=np.bool_)
        known = min(frames, len(self.codes))
        mask[:known] = self.codes[:known] == CLASSES.index(name)
        return mask

    def without(self, frames: Sequence[range]) -> MemoryState:
        """Return the state without ranges of page frames, all of which are memory; unchanged without page flags."""
        if self.codes is None or not frames:
            return self
        codes, pages = self.codes.copy(), dict(self.pages)
        for part in frames:
            for name, count in self.in_frames(part).items():
                pages[name] -= count
            codes[part.start : part.stop] = CLASSES.index(KERNEL)
        return MemoryState(pages=pages, sure=self.sure, codes=codes)

    def in_frames(self, frames: range) -> dict[str, int]:
        """Return the pages by class in a range of page frames; empty without page flags."""
        if self.codes is None:
            return {}
        counts = np.bincount(self.codes[frames.start : frames.stop], minlength=len(CLASSES))
        return {name: int(counts[code]) for code, name in enumerate(CLASSES)}


def from_flags(packed: bytes, *, page_frames_max: int) -> MemoryState:
    """Read /proc/kpageflags as gzip packed it; ValueError when it is not that."""
    unpacker = zlib.decompressobj(wbits=31)
    try:
        raw = unpacker.decompress(packed, page_frames_max * WORD_BYTES)
    except zlib.error as error:
        raise ValueError(f"not what gzip writes: {error}") from None
    if not unpacker.eof or not raw or len(raw) % WORD_BYTES:
        raise ValueError(f"{len(raw):,} bytes of page flags are not all of them")
    return classify(np.frombuffer(raw, dtype="<u8"))


def classify(flags: NDArray[np.uint64]) -> MemoryState:
    """Decide the class of each page frame as makedumpfile does."""

    def has(bit: int) -> NDArray[np.bool_]:
        return ((flags >> np.uint64(bit)) & np.uint64(1)).astype(np.bool_)

    codes = np.zeros(len(flags), dtype=np.uint8)
    user = has(_ANON) | has(_HUGE)
    cache = (has(_LRU) | has(_SWAPCACHE)) & ~user
    codes[cache] = CLASSES.index(CACHE)
    codes[cache & has(_PRIVATE)] = CLASSES.index(PRIVATE)
    codes[user] = CLASSES.index(USER)
    codes[has(_BUDDY)] = CLASSES.index(FREE)
    there = ~has(_NOPAGE)
    pages = {name: int(((codes == code) & there).sum()) for code, name in enumerate(CLASSES)}
    sure_frames = (has(_SLAB) | has(_PGTABLE)) & there
    offline = int((has(_OFFLINE) & there).sum())
    return MemoryState(pages=pages, sure=int(sure_frames.sum()), codes=codes, offline=offline, sure_frames=sure_frames)


def from_meminfo(meminfo_kib: Mapping[str, int], page_bytes: int) -> MemoryState:
    """Return the sums of /proc/meminfo, which does not distinguish private cache from other cache."""

    def pages(*names: str) -> int:
        return sum(meminfo_kib.get(name, 0) for name in names) * 1024 // page_bytes

    counts = {
        FREE: pages("MemFree"),
        CACHE: pages("Cached", "Buffers"),
        PRIVATE: 0,
        USER: pages("AnonPages"),
    }
    counts[KERNEL] = max(0, pages("MemTotal") - sum(counts.values()))
    return MemoryState(pages=counts, sure=pages("Slab", "PageTables"))
