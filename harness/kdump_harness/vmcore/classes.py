"""Classes of all page frames, from the kernel's own struct pages, and a check of the dump level against them.

The count needs VMCOREINFO and no debug info. It shares no code with makedumpfile, so it shows its faults.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .formats.damage import NotMapped, VmcoreError
from .formats.intervals import Int64s
from .formats.kdump import MAX_LEVEL, STATUS_NO_VMEMMAP
from .formats.machines import ByteOrder
from .formats.vmcoreinfo import Vmcoreinfo
from .formats.zeros import MOST_SHARE, ZeroCount
from .vmcore import Bools, Vmcore

Codes = NDArray[np.uint8]

_MASK64 = (1 << 64) - 1
_MASK32 = (1 << 32) - 1
_CHUNK_BITS = 15  # page frames looked at together, at most a section: of x86_64, with 2 MiB of struct pages
_MAX_BLOCK_ORDER = 18  # the largest compound page is a huge page of 1 GiB, in pages of 4 KiB
_MAX_FRAMES = 1 << 30  # in one array; count_classes() needs none

# The struct pages of a chunk are in the dump too, if some are shared (hugetlb_free_vmemmap, Linux 5.14) or left out
# (makedumpfile -e). A file that claims much more RAM than its struct pages cover is refused: it would take too long.
_FREE_CHUNKS = 64
_MAX_CLAIM = 2

# include/linux/mmzone.h: flags in the low bits of mem_section.section_mem_map
_SECTION_PRESENT = 1 << 0
_SECTION_ONLINE = 1 << 2  # since 4.13; memory that was added and is not yet online has struct pages of zeros
_SECTION_FLAGS = (1 << 6) - 1

_MAPPING_ANON = 1 << 0  # in page.mapping, since 2.6
_TAIL = 1 << 0  # in page.compound_head, since 4.4

# Up to this many pages that should have been dropped are tolerated. For pages that should be kept the limit is lower:
# in every dump that was measured, one or two were missing, at the edge of a range of RAM.
_LEFT_PAGES = 256
_LEFT_SHARE = 0.02
_LOST_PAGES = 32


class PageClass(enum.IntEnum):
    """The class of a page frame, as far as dump levels distinguish it."""

    HOLE = 0  # no RAM
    UNKNOWN = 1  # its struct page is not in the dump
    KERNEL = 2
    SLAB = 3
    FREE = 4
    CACHE = 5
    CACHE_PRIVATE = 6
    USER = 7
    HWPOISON = 8
    OFFLINE = 9

    @property
    def label(self) -> str:
        """The class in a sentence."""
        return self.name.lower().replace("_", " ")


# A block of any other class is dropped as a whole; in these, every page that is not a tail counts by itself.
_NEVER_DROPPED = (PageClass.UNKNOWN, PageClass.KERNEL, PageClass.SLAB)


def dropped_by(level: int) -> frozenset[PageClass]:
    """Return the classes of which makedumpfile -d level keeps no page; bit 0 (pages of zeros) names no class."""
    dropped = set()
    if level & 2:
        dropped |= {PageClass.CACHE}
    if level & 4:
        dropped |= {PageClass.CACHE, PageClass.CACHE_PRIVATE}
    if level & 8:
        dropped |= {PageClass.USER}
    if level & 16:
        dropped |= {PageClass.FREE}
    # These go with any filtering, asked for or not.
    return frozenset(dropped | {PageClass.HWPOISON, PageClass.OFFLINE} if dropped else dropped)


def kept_by(level: int) -> frozenset[PageClass]:
    """Return the classes of which makedumpfile -d level keeps every page; none is sure without a filtering level."""
    unsure = {PageClass.HOLE, PageClass.UNKNOWN, PageClass.HWPOISON, PageClass.OFFLINE}
    return frozenset(PageClass) - dropped_by(level) - unsure


@dataclass(frozen=True)
class Tally:
    """Page frames of a class: in RAM, and of these in the dump."""

    total: int
    kept: int

    @property
    def absent(self) -> int:
        """Those that are not in the dump."""
        return self.total - self.kept


@dataclass(frozen=True)
class PageClasses:
    """The class of every page frame (a PageClass as a byte) and the counts."""

    codes: Codes
    counts: dict[PageClass, Tally]


@dataclass(frozen=True, kw_only=True)
class LevelViolations:
    """A dump against its level: classes that it should have dropped, and classes that it should have kept."""

    level: int
    dropped: dict[PageClass, Tally]
    kept: dict[PageClass, Tally]
    zeros_absent: bool  # pages of zeros, which can be of any class, are absent from it too

    @classmethod
    def of(cls, counts: Mapping[PageClass, Tally], level: int, *, zeros_absent: bool = False) -> LevelViolations:
        """Compare counts with a level."""
        return cls(
            level=level,
            dropped={each: tally for each, tally in counts.items() if each in dropped_by(level)},
            kept={each: tally for each, tally in counts.items() if each in kept_by(level)},
            zeros_absent=zeros_absent,
        )

    def remarks(self) -> Iterator[str]:
        """Yield a sentence for each class with more than a small share on the wrong side."""
        yield from self.too_many()
        yield from self.too_few()

    def too_many(self) -> Iterator[str]:
        """Yield the classes that should have been dropped and were not."""
        for each, tally in self.dropped.items():
            if tally.kept > max(_LEFT_PAGES, _LEFT_SHARE * tally.total):
                share = f"{tally.kept:,} of {tally.total:,}"
                yield f"level {self.level} drops {each.label} pages, but {share} are in the dump"

    def too_few(self) -> Iterator[str]:
        """Yield the classes that should have been kept and were not."""
        for each, tally in self.kept.items():
            allowed: float = _LOST_PAGES
            if self.zeros_absent:
                allowed = max(allowed, MOST_SHARE * tally.total) if each is PageClass.SLAB else tally.total
            if tally.absent > allowed:
                share = f"{tally.absent:,} of {tally.total:,}"
                yield f"level {self.level} keeps {each.label} pages, but {share} are not in the dump"


@dataclass
class LostPages:
    """The zeros among the pages that a kernel fills: data that was lost where the file looks sound."""

    slabs: ZeroCount = field(default_factory=ZeroCount)
    memory_map: ZeroCount = field(default_factory=ZeroCount)  # of struct pages; one that is not mapped counts as zeros
    no_sections: bool = False  # the table that leads to them is zeros

    def complaints(self) -> Iterator[str]:
        """Yield a sentence for each kind of pages with more zeros than a kernel leaves in them."""
        if self.no_sections:
            yield "the kernel's table of memory sections is all zeros"
        slabs = self.slabs.complaint("slab pages")
        # No page of it is zeros in any of the dumps that were looked at.
        memory_map = self.memory_map.complaint("pages of the kernel's memory map", most_share=0)
        yield from filter(None, (slabs, memory_map))


def classify(vmcore: Vmcore) -> PageClasses:
    """Return the class of every page frame. Raise VmcoreError where VMCOREINFO or the dump do not allow it."""
    if vmcore.max_pfn > _MAX_FRAMES:
        raise VmcoreError(f"{vmcore.path}: {vmcore.max_pfn:,} page frames are too many for one array")
    codes = np.zeros(vmcore.max_pfn, dtype=np.uint8)
    counter = _Counter()
    for first, chunk, kept in _chunks(vmcore):
        codes[first : first + len(chunk)] = chunk[: len(codes) - first]
        counter.add(chunk, kept)
    return PageClasses(codes, counter.counts())


def count_classes(vmcore: Vmcore, lost: LostPages | None = None) -> dict[PageClass, Tally]:
    """Return how many page frames of each class are in RAM and in the dump. Raise VmcoreError as for classify.

    lost learns what is zeros, also until an error. It needs a few MiB of memory for any amount of RAM.
    """
    counter = _Counter()
    for first, chunk, kept in _chunks(vmcore, lost):
        counter.add(chunk, kept)
        if lost is not None:
            lost.slabs.add(vmcore.zeros(first, kept, kept & (chunk == PageClass.SLAB)))
    return counter.counts()


def count_zeros(vmcore: Vmcore, frames: Bools) -> ZeroCount:
    """Count the pages of zeros among those of the given page frames (a mask from frame 0 on) that are in the dump."""
    found = ZeroCount()
    kept = np.unpackbits(vmcore.kept_bitmap(), bitorder="little")[: len(frames)].astype(np.bool_)
    for first in range(0, len(kept), 1 << _CHUNK_BITS):
        here = slice(first, min(first + (1 << _CHUNK_BITS), len(kept)))
        found.add(vmcore.zeros(first, kept[here], kept[here] & frames[here]))
    return found


def remarks(vmcore: Vmcore, counts: Mapping[PageClass, Tally]) -> tuple[str, ...]:
    """Return a remark for each class of pages that does not fit the dump's level."""
    level = _level(vmcore)
    if vmcore.header is None or level is None:
        return ()
    found = LevelViolations.of(counts, level)
    if vmcore.header.status & STATUS_NO_VMEMMAP:  # makedumpfile -e drops kernel pages on purpose
        found = replace(found, kept={})
    said = [*found.remarks()]
    lost = [each for each, tally in found.kept.items() if tally.absent > _LOST_PAGES]
    if level & 1 and lost == [PageClass.KERNEL]:  # makedumpfile -E -d 1 drops them for good; hardly a slab is all zeros
        said.append("an earlier filter may have dropped the missing kernel pages as pages of zeros")
    return tuple(said)


def _level(vmcore: Vmcore) -> int | None:
    level = vmcore.header.level if vmcore.header is not None else None
    return level if level is not None and 0 <= level <= MAX_LEVEL else None


class _Counter:
    """The sums of classes over chunks."""

    def __init__(self) -> None:
        self._total = np.zeros(len(PageClass), dtype=np.int64)
        self._kept = np.zeros(len(PageClass), dtype=np.int64)

    def add(self, codes: Codes, kept: Bools) -> None:
        """Count one chunk."""
        self._total += np.bincount(codes, minlength=len(PageClass))
        self._kept += np.bincount(codes[kept], minlength=len(PageClass))

    def counts(self) -> dict[PageClass, Tally]:
        """Return the classes that occur. Raise VmcoreError when nothing is known of any page."""
        counts: dict[PageClass, Tally] = {}
        for each in PageClass:
            if each is not PageClass.HOLE and self._total[each]:
                counts[each] = Tally(int(self._total[each]), int(self._kept[each]))
        if not counts.keys() - {PageClass.UNKNOWN}:
            raise VmcoreError("the struct pages of the kernel are not in the dump")
        return counts


@dataclass(frozen=True, kw_only=True)
class _StructPage:
    """The layout and flags of struct page in this kernel; masks are 0 where the kernel does not have the flag."""

    byte_order: ByteOrder
    size_bytes: int
    flags_at: int
    mapping_at: int
    mapcount_at: int
    private_at: int
    head_at: int
    order_at: int  # in the struct page behind that of a compound page
    dtor_at: int | None  # likewise
    lru: int
    private: int
    swapcache: int
    swapbacked: int
    slab: int
    hwpoison: int
    compound: int
    hugetlb: int  # likewise in the struct page behind
    buddy_type: int
    slab_type: int | None
    hugetlb_type: int | None
    offline_type: int | None
    unaccepted_type: int | None
    hugetlb_dtor: int | None
    free_orders: int

    @classmethod
    def of(cls, info: Vmcoreinfo) -> _StructPage:
        """Read the layout from VMCOREINFO. Raise VmcoreError where it is incomplete or implausible."""
        size_bytes = _within("SIZE(page)", info.size("page"), 32, 256, step=8)

        def at(name: str, width_bytes: int = 8) -> int:
            # VMCOREINFO counts members of folio from the first page on; they are needed from the second one on.
            before = size_bytes if name.startswith("folio.") else 0
            most = before + size_bytes - width_bytes
            return _within(f"OFFSET({name})", info.offset(name), before, most, step=width_bytes) - before

        def flag(name: str, *, needed: bool = False) -> int:
            known = needed or f"NUMBER({name})" in info
            return 1 << _within(f"NUMBER({name})", info.number(name), 0, 63) if known else 0

        def value(name: str) -> int | None:
            return info.number(name) & _MASK32 if f"NUMBER({name})" in info else None

        has = {name for name in ("compound_info", "compound_order", "compound_dtor") if f"OFFSET(page.{name})" in info}
        if "NUMBER(PG_slab)" not in info and "NUMBER(PAGE_SLAB_MAPCOUNT_VALUE)" not in info:
            raise VmcoreError("VMCOREINFO does not say how slab pages are marked")
        # Linux 6.3 to 6.5 named the struct folio; since 6.6 the order is in the low byte of the second page's flags.
        folio = "OFFSET(folio._folio_order)" in info
        order_at = "folio._folio_order" if folio else "page.compound_order"
        dtor_at = "folio._folio_dtor" if folio else "page.compound_dtor"
        flags_at = at("page.flags")
        low_byte_at = flags_at if info.byte_order == "little" else flags_at + 7
        return cls(
            byte_order=info.byte_order,
            size_bytes=size_bytes,
            flags_at=flags_at,
            mapping_at=at("page.mapping"),
            mapcount_at=at("page._mapcount", 4),
            private_at=at("page.private"),
            # Linux 7.1 renamed it: what follows the lowest bit need no longer be the head's address.
            head_at=at("page.compound_info" if "compound_info" in has else "page.compound_head"),
            order_at=at(order_at, 1) if folio or "compound_order" in has else low_byte_at,
            dtor_at=at(dtor_at, 1) if folio or "compound_dtor" in has else None,
            lru=flag("PG_lru", needed=True),
            private=flag("PG_private", needed=True),
            swapcache=flag("PG_swapcache"),
            swapbacked=flag("PG_swapbacked"),
            slab=flag("PG_slab"),
            hwpoison=flag("PG_hwpoison"),
            compound=_within("NUMBER(PG_head_mask)", info.number("PG_head_mask"), 1, _MASK64),
            hugetlb=flag("PG_hugetlb"),
            buddy_type=info.number("PAGE_BUDDY_MAPCOUNT_VALUE") & _MASK32,
            slab_type=value("PAGE_SLAB_MAPCOUNT_VALUE"),
            hugetlb_type=value("PAGE_HUGETLB_MAPCOUNT_VALUE"),
            offline_type=value("PAGE_OFFLINE_MAPCOUNT_VALUE"),
            unaccepted_type=value("PAGE_UNACCEPTED_MAPCOUNT_VALUE"),
            hugetlb_dtor=value("HUGETLB_PAGE_DTOR"),
            free_orders=_within("LENGTH(zone.free_area)", info.length("zone.free_area"), 1, _MAX_BLOCK_ORDER + 1),
        )


def _within(name: str, number: int, least: int, most: int, *, step: int = 1) -> int:
    if not least <= number <= most or number % step:
        raise VmcoreError(f"VMCOREINFO: {name} is {number}")
    return number


class _Sections:
    """The table that leads from a page frame to its struct page (SPARSEMEM, with or without EXTREME)."""

    def __init__(self, vmcore: Vmcore, struct_bytes: int) -> None:
        info = vmcore.vmcoreinfo
        page_shift = vmcore.page_size.bit_length() - 1
        section_bits = info.number("SECTION_SIZE_BITS")
        address_bits = _within("NUMBER(MAX_PHYSMEM_BITS)", info.number("MAX_PHYSMEM_BITS"), 32, 56)
        self.shift = _within("NUMBER(SECTION_SIZE_BITS)", section_bits, page_shift + 8, 34) - page_shift
        self._vmcore = vmcore
        self._struct_bytes = struct_bytes
        self._table_at = info.symbol("mem_section")
        self._entry_bytes = _within("SIZE(mem_section)", info.size("mem_section"), 8, 4096, step=8)
        self._map_at = _within(
            "OFFSET(mem_section.section_mem_map)",
            info.offset("mem_section.section_mem_map"),
            0,
            self._entry_bytes - 8,
        )
        self._count = 1 << max(0, address_bits - section_bits)
        self._per_root = vmcore.page_size // self._entry_bytes
        length = info.length("mem_section")
        if length not in (self._count, -(-self._count // self._per_root)):
            raise VmcoreError(f"VMCOREINFO: LENGTH(mem_section) is {length}, and there are {self._count:,} sections")
        self._extreme = length != self._count
        self._root: tuple[int, bytes] | None = None
        self._read = self._present = False

    @property
    def empty(self) -> bool:
        """Whether the table is in the dump, and has none of the sections that were asked for."""
        return self._read and not self._present

    def online(self, pfn: int) -> bool:
        """Return whether the kernel used the memory of a frame."""
        return bool(self._coded(pfn) & _SECTION_ONLINE)

    def struct_page(self, pfn: int) -> int | None:
        """Return the address of a frame's struct page; None where it does not exist or cannot be known."""
        coded = self._coded(pfn)
        if not coded & _SECTION_PRESENT:
            return None
        self._present = True
        # The address is coded as if the array had begun with page frame 0.
        return (coded & ~_SECTION_FLAGS) + pfn * self._struct_bytes & _MASK64

    def _coded(self, pfn: int) -> int:
        """Return the address of the section's struct pages, with flags; 0 where it has none or cannot be read."""
        section = pfn >> self.shift
        if section >= self._count:
            return 0
        try:
            entry = self._entry(section)
        except NotMapped:
            entry = bytes(self._entry_bytes)
        except VmcoreError:
            return 0
        self._read = True
        return self._vmcore.vmcoreinfo.unsigned(entry[self._map_at : self._map_at + 8])

    def _entry(self, section: int) -> bytes:
        if not self._extreme:
            return self._vmcore.read_virt(self._table_at + section * self._entry_bytes, self._entry_bytes)
        root, inside = divmod(section, self._per_root)
        if self._root is None or self._root[0] != root:
            at = self._vmcore.vmcoreinfo.unsigned(self._vmcore.read_virt(self._table_at + 8 * root, 8))
            entries_bytes = self._per_root * self._entry_bytes
            self._root = (root, self._vmcore.read_virt(at, entries_bytes) if at else bytes(entries_bytes))
        return self._root[1][inside * self._entry_bytes : (inside + 1) * self._entry_bytes]


def _chunks(vmcore: Vmcore, lost: LostPages | None = None) -> Iterator[tuple[int, Codes, Bools]]:
    """Yield first page frame, classes and presence in the dump for every chunk that has RAM."""
    kernel = _StructPage.of(vmcore.vmcoreinfo)
    sections = _Sections(vmcore, kernel.size_bytes)
    bits = min(_CHUNK_BITS, sections.shift)
    chunks_left = _FREE_CHUNKS + _MAX_CLAIM * vmcore.pages_kept * vmcore.page_size // (kernel.size_bytes << bits)
    outer_end, outer = 0, PageClass.KERNEL  # a block that reaches over several chunks
    for first, ram, kept in _frames(vmcore, bits):
        chunks_left -= 1
        if chunks_left < 0:
            raise VmcoreError(f"a dump of {vmcore.pages_kept:,} pages cannot have the struct pages of all its RAM")
        at = sections.struct_page(first)
        if at is None:
            codes = np.full(len(ram), PageClass.UNKNOWN, dtype=np.uint8)
            tails = np.zeros(len(ram), dtype=np.bool_)
            order = 0
        else:
            memory_map = lost.memory_map if lost is not None and sections.online(first) else ZeroCount()
            codes, tails, order = _classes(kernel, *_struct_pages(vmcore, at, ram, kernel, memory_map), first)
        if lost is not None:
            lost.no_sections = sections.empty
        if first >= outer_end and 1 << order > len(ram):
            outer_end, outer = first + (1 << order), PageClass(codes[0])
        if first < outer_end:
            _spread(codes[None, :], tails[None, :], np.array([outer], dtype=np.uint8))
        codes[~ram] = PageClass.HOLE
        yield first, codes, kept


def _frames(vmcore: Vmcore, bits: int) -> Iterator[tuple[int, Bools, Bools]]:
    """Yield first page frame, RAM and presence in the dump for every chunk of 2^bits frames that has RAM."""
    if vmcore.kdumps:
        step = (1 << bits) // 8
        for pfn, ram, dumped in vmcore.bitmap_pieces():
            for at in range(0, len(ram), step):
                if ram[at : at + step].any():
                    yield pfn + at * 8, _bools(ram[at : at + step], step), _bools(dumped[at : at + step], step)
    elif vmcore.elf is not None:
        ram_runs, kept_runs = (_page_runs(vmcore, *runs) for runs in (vmcore.elf.ram, vmcore.elf.kept))
        following = 0
        for first, last in zip(*(run.tolist() for run in ram_runs), strict=True):
            for chunk in range(max(following, first >> bits), (last - 1 >> bits) + 1):
                ram_here, kept_here = (_bools_of_runs(runs, chunk << bits, 1 << bits) for runs in (ram_runs, kept_runs))
                yield chunk << bits, ram_here, kept_here
                following = chunk + 1


def _bools(packed: NDArray[np.uint8], size_bytes: int) -> Bools:
    return np.unpackbits(packed, count=size_bytes * 8, bitorder="little").astype(np.bool_)


def _page_runs(vmcore: Vmcore, starts: Int64s, ends: Int64s) -> tuple[Int64s, Int64s]:
    """Return first and last page frame (exclusive) of byte ranges, for those that have a whole page."""
    first, last = -(-starts // vmcore.page_size), ends // vmcore.page_size
    whole = first < last
    return first[whole], last[whole]


def _bools_of_runs(runs: tuple[Int64s, Int64s], first: int, count: int) -> Bools:
    """Return a mask of count page frames from first on: those that lie in a run."""
    starts, ends = runs
    bools = np.zeros(count, dtype=np.bool_)
    begin, end = np.searchsorted(ends, first, side="right"), np.searchsorted(starts, first + count)
    for start, stop in zip(starts[begin:end].tolist(), ends[begin:end].tolist(), strict=True):
        bools[max(0, start - first) : stop - first] = True
    return bools


def _struct_pages(
    vmcore: Vmcore, at: int, wanted: Bools, kernel: _StructPage, lost: ZeroCount
) -> tuple[NDArray[np.uint8], Bools]:
    """Return the struct pages from an address on, a row each, and which of them are in the dump."""
    page_size, struct_bytes = vmcore.page_size, kernel.size_bytes
    skipped = at % page_size
    starts = skipped + np.arange(len(wanted)) * struct_bytes
    first_page, last_page = starts // page_size, (starts + struct_bytes - 1) // page_size
    needed = np.zeros(int(last_page[-1]) + 1, dtype=np.bool_)
    needed[first_page[wanted]] = needed[last_page[wanted]] = True
    read, unmapped = np.zeros_like(needed), np.zeros_like(needed)
    memory = np.zeros((len(needed), page_size), dtype=np.uint8)
    for index in np.flatnonzero(needed).tolist():
        try:
            page = vmcore.read_virt(at - skipped + index * page_size & _MASK64, page_size)
        except NotMapped:
            unmapped[index] = True
            continue
        except VmcoreError:
            continue
        memory[index] = np.frombuffer(page, dtype=np.uint8)
        read[index] = True
    lost.add(np.asarray(~memory.view(np.uint64).any(axis=1))[read | unmapped])
    rows = memory.reshape(-1)[skipped : skipped + len(wanted) * struct_bytes].reshape(len(wanted), struct_bytes)
    return rows, wanted & read[first_page] & read[last_page]


def _classes(kernel: _StructPage, rows: NDArray[np.uint8], known: Bools, first: int) -> tuple[Codes, Bools, int]:
    """Return the classes, a mask of the tails of compound pages, and the order of the block that the first begins.

    The order of the tests is makedumpfile's: a page belongs to the first class that claims it.
    """

    def member(at: int, dtype: type[np.unsignedinteger[Any]] = np.uint64) -> NDArray[Any]:
        words = rows.view(np.dtype(dtype).newbyteorder(kernel.byte_order))
        return words[:, at // np.dtype(dtype).itemsize].astype(dtype, copy=False)

    flags = member(kernel.flags_at)
    types = member(kernel.mapcount_at, np.uint32)

    def flagged(mask: int) -> Bools:
        return np.asarray(flags & np.uint64(mask) != 0)

    tails = known & (member(kernel.head_at) & np.uint64(_TAIL) != 0)
    slab = flagged(kernel.slab) | _is_type(types, kernel.slab_type)
    anon = (member(kernel.mapping_at) & np.uint64(_MAPPING_ANON) != 0) & ~slab
    swapped = flagged(kernel.swapcache) & (flagged(kernel.swapbacked) if kernel.swapbacked else True)
    cache = (flagged(kernel.lru) | swapped) & ~anon
    private = flagged(kernel.private)
    free_order = member(kernel.private_at)
    free = _is_type(types, kernel.buddy_type) & ~slab & (free_order < kernel.free_orders)
    unaccepted = _is_type(types, kernel.unaccepted_type)
    # A head is never the last page of a chunk: it lies at a multiple of its size, which is at least 2.
    # Where the page behind is not in the dump there are zeros, which mean order 0.
    heads = known & ~tails & flagged(kernel.compound)
    codes = np.full(len(rows), PageClass.KERNEL, dtype=np.uint8)
    for claimed, each in (
        (slab, PageClass.SLAB),
        (_is_type(types, kernel.offline_type) & ~slab, PageClass.OFFLINE),
        (anon | heads & _is_hugetlb(kernel, rows, flags, types), PageClass.USER),
        (cache & private, PageClass.CACHE_PRIVATE),
        (cache & ~private, PageClass.CACHE),
        (flagged(kernel.hwpoison), PageClass.HWPOISON),
        (free | unaccepted, PageClass.FREE),
        (tails, PageClass.KERNEL),  # until their head says otherwise
        (~known, PageClass.UNKNOWN),
    ):
        codes[claimed] = each
    orders = np.zeros(len(rows), dtype=np.uint8)
    orders[heads] = np.append(rows[1:, kernel.order_at], 0)[heads]
    orders[unaccepted] = kernel.free_orders - 1
    orders[free] = free_order[free]
    orders[(codes == PageClass.UNKNOWN) | tails | (orders > _MAX_BLOCK_ORDER)] = 0
    return codes, tails, _spread_blocks(codes, tails, orders, first)


def _is_type(types: NDArray[np.uint32], value: int | None) -> Bools:
    """Return whether page._mapcount is a page type.

    Since Linux 6.12 the type is the highest byte and the others may hold something else; before, all of it counts.
    """
    if value is None:
        return np.zeros(len(types), dtype=np.bool_)
    if value & 0xFFFFFF == 0:
        return np.asarray(types >> 24 == value >> 24)
    return np.asarray(types == value)


def _is_hugetlb(
    kernel: _StructPage, rows: NDArray[np.uint8], flags: NDArray[np.uint64], types: NDArray[np.uint32]
) -> Bools:
    """Return a mask of the huge pages: by type (6.9), a flag of the page behind (6.6), or its destructor."""
    behind = np.zeros(len(rows), dtype=np.bool_)
    if kernel.hugetlb_type is not None:
        return _is_type(types, kernel.hugetlb_type)
    if kernel.hugetlb:
        behind[:-1] = flags[1:] & np.uint64(kernel.hugetlb) != 0
    elif kernel.dtor_at is not None and kernel.hugetlb_dtor is not None:
        behind[:-1] = rows[1:, kernel.dtor_at] == kernel.hugetlb_dtor
    return behind


def _spread_blocks(codes: Codes, tails: Bools, orders: NDArray[np.uint8], first: int) -> int:
    """Give all pages of a block the class of its first page; the order of the block at first, which may reach further.

    Blocks lie at multiples of their size, so of two blocks one contains the other, and the outer one counts.
    """
    for order in range(1, len(codes).bit_length()):
        size = 1 << order
        blocks = np.flatnonzero(orders[::size] == order)
        if len(blocks):
            whole, inner = codes.reshape(-1, size), tails.reshape(-1, size)
            spread = whole[blocks]
            _spread(spread, inner[blocks], spread[:, 0].copy())
            whole[blocks] = spread
    order = int(orders[0])
    return order if first % (1 << order) == 0 else 0


def _spread(blocks: Codes, tails: Bools, classes: Codes) -> None:
    """Write each block's class over its pages, in place."""
    as_a_whole = ~np.isin(classes, _NEVER_DROPPED)
    np.copyto(blocks, classes[:, None], where=as_a_whole[:, None] | tails | (blocks == PageClass.UNKNOWN))
