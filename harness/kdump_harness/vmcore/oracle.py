"""Compares a vmcore with the guest's memory as the hypervisor saw it when the capture kernel started.

At that moment nothing but the capture kernel's own start has touched the memory of the crashed kernel, so the
hypervisor's picture is what the vmcore should have been made of.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..base.units import MIB
from . import LevelViolations, NotInDump, PageClass, Tally, Vmcore, VmcoreError, classify

# Bytes at the beginning of the memory that the capture kernel uses itself, by machine. The trampoline of x86_64 is
# there: kernels before 5.5 copied the first 640 KiB away before they jumped, so the vmcore has the content before the
# crash and the oracle sees the one after. On ppc64le kexec-tools does so with the interrupt vectors
# (kexec/arch/ppc64/crashdump-ppc64.h).
FIRST: Mapping[str, tuple[int, str]] = {
    "x86_64": (MIB, "the first MiB, which the capture kernel uses itself"),
    "ppc64le": (64 << 10, "the first 64 KiB, which the capture kernel uses itself"),
}
# Tables in memory of the crashed kernel that the interrupt controller of arm64 keeps using, since its redistributors
# cannot be given others: the capture kernel enables its own interrupts there (drivers/irqchip/irq-gic-v3-its.c).
_LPI_TABLE = re.compile(r"GICv3: .{0,20}using .{0,20}LPI (?:property|pending) table @0x([0-9a-f]{1,16})")
_LPI_TABLE_BYTES = 64 << 10
# The hypervisor counts in the virtual processor areas of the crashed kernel on pseries until the next kernel registers
# its own (arch/powerpc/include/asm/lppaca.h; hw/ppc/spapr_cpu_core.c of QEMU).
_VPA_BYTES, _VPA_MAGIC, _VPA_COUNTERS = 0x400, bytes.fromhex("d397d781"), range(0x100, 0x108)
LISTED_MAX = 100  # differing frames are listed one by one up to this many
_EVERY_PAGES = 2048  # between two reports of progress

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class FrameDifference:
    """One page frame whose content is not what the hypervisor saw."""

    pfn: int
    bytes_differ: int
    first_offset: int
    reason: str | None  # None: no known reason


@dataclass(frozen=True, kw_only=True)
class OracleResult:
    """How a vmcore and the hypervisor's picture of the memory differ."""

    compared: int
    differences: tuple[FrameDifference, ...]
    unexplained: int
    absent: int  # pages of the vmcore in frames that the hypervisor does not have
    dropped: int
    dropped_empty: int  # of these, the pages that really held nothing but zeros
    unreadable: int
    classes: dict[str, dict[str, int]]  # what the frames of the vmcore's RAM held, by the picture's struct pages
    wrong_side: tuple[str, ...]  # classes that the level should have dropped or kept, and did not

    @property
    def ok(self) -> bool:
        """Whether every page that is there is what it should be; which ones are there is for others to judge."""
        return not (self.unexplained or self.absent or self.unreadable)

    def summary(self) -> str:
        """One line for people."""
        text = f"{self.compared:,} pages compared, {len(self.differences):,} differ"
        if self.differences:
            explained = len(self.differences) - self.unexplained
            frames = ", ".join(f"{one.pfn:#x}" for one in self.differences[:4] if one.reason is None)
            text += f" ({explained:,} explained" + (f"; unexplained: {frames})" if frames else ")")
        for count, what in ((self.absent, "unknown to the hypervisor"), (self.unreadable, "unreadable")):
            text += f", {count:,} {what}" if count else ""
        return "; ".join([text, *self.wrong_side])

    def to_json(self) -> dict[str, Any]:
        """Return the record in the form of JSON."""
        listed = [asdict(one) for one in self.differences[:LISTED_MAX]]
        return {**asdict(self), "differences": listed, "differing": len(self.differences), "ok": self.ok}


def compare(vmcore: Vmcore, memory: Vmcore, *, progress: Progress | None = None) -> OracleResult:
    """Compare page by page; memory is the hypervisor's ELF core."""
    memory.borrow_vmcoreinfo(vmcore)
    reasons = _Reasons(vmcore)
    kept = _frames(vmcore.kept_bitmap(), vmcore.max_pfn)
    ram = _frames(vmcore.ram_bitmap(), vmcore.max_pfn)
    dropped = np.setdiff1d(ram, kept, assume_unique=True)
    differences: list[FrameDifference] = []
    compared = absent = unreadable = empty = 0
    zeros = bytes(vmcore.page_size)
    total = len(kept) + len(dropped)
    for number, pfn in enumerate(kept.tolist()):
        if progress is not None and number % _EVERY_PAGES == 0:
            progress(number, total)
        try:
            ours = vmcore.read_page(pfn)
        except VmcoreError:
            unreadable += 1
            continue
        try:
            theirs = memory.read_page(pfn)
        except NotInDump:
            absent += 1
            continue
        compared += 1
        if ours != theirs:
            differences.append(reasons.difference(pfn, ours, theirs))
    for number, pfn in enumerate(dropped.tolist()):
        if progress is not None and number % _EVERY_PAGES == 0:
            progress(len(kept) + number, total)
        with contextlib.suppress(NotInDump):
            empty += memory.read_page(pfn) == zeros
    counts = _true_classes(vmcore, memory)
    wrong_side: tuple[str, ...] = ()
    if vmcore.header is not None and vmcore.header.level is not None:
        wrong_side = tuple(LevelViolations.of(counts, vmcore.header.level).remarks())
    return OracleResult(
        compared=compared,
        differences=tuple(differences),
        unexplained=sum(one.reason is None for one in differences),
        absent=absent,
        dropped=len(dropped),
        dropped_empty=empty,
        unreadable=unreadable,
        classes={each.name.lower(): asdict(tally) for each, tally in counts.items()},
        wrong_side=wrong_side,
    )


def _true_classes(vmcore: Vmcore, memory: Vmcore) -> dict[PageClass, Tally]:
    """How many frames of each class the vmcore has and keeps, by the hypervisor's picture of the struct pages.

    Empty where VMCOREINFO does not say how to read them.
    """
    try:
        codes = classify(memory).codes
    except VmcoreError:
        return {}
    frames = min(len(codes), vmcore.max_pfn)
    ram, kept = (
        np.unpackbits(bitmap, bitorder="little")[:frames].astype(np.bool_)
        for bitmap in (vmcore.ram_bitmap(), vmcore.kept_bitmap())
    )
    counts: dict[PageClass, Tally] = {}
    for each in PageClass:
        mine = (codes[:frames] == each) & ram
        if each is not PageClass.HOLE and (total := int(mine.sum())):
            counts[each] = Tally(total, int((mine & kept).sum()))
    return counts


def _frames(bitmap: NDArray[np.uint8], frames: int) -> NDArray[np.intp]:
    return np.flatnonzero(np.unpackbits(bitmap, bitorder="little")[:frames])


class _Reasons:
    """The memory that may differ in a correct vmcore; its frames are listed in any case."""

    def __init__(self, vmcore: Vmcore) -> None:
        self._machine, page = vmcore.machine, vmcore.page_size
        first_bytes, self._first_reason = FIRST.get(self._machine, (0, ""))
        self._first_frames = first_bytes // page
        self._table_frames: set[int] = set()
        if self._machine == "aarch64":
            with contextlib.suppress(VmcoreError):
                for start in (int(found, 16) for found in _LPI_TABLE.findall(vmcore.dmesg())):
                    self._table_frames.update(range(start // page, -(-(start + _LPI_TABLE_BYTES) // page)))

    def difference(self, pfn: int, ours: bytes, theirs: bytes) -> FrameDifference:
        """Return the difference between the content of a frame in the vmcore and in the picture."""
        where = np.flatnonzero(np.frombuffer(ours, dtype=np.uint8) != np.frombuffer(theirs, dtype=np.uint8))
        return FrameDifference(pfn, len(where), int(where[0]), self._reason(pfn, ours, where.tolist()))

    def _reason(self, pfn: int, ours: bytes, where: list[int]) -> str | None:
        if pfn < self._first_frames:
            return self._first_reason
        if pfn in self._table_frames:
            return "an interrupt table, which the capture kernel uses as well"
        if self._machine == "ppc64le" and all(_is_counter(ours, offset) for offset in where):
            return "a virtual processor area, in which the hypervisor counts"
        return None


def _is_counter(page: bytes, offset: int) -> bool:
    """Return whether a byte of a page is in the counters of a virtual processor area."""
    start = offset - offset % _VPA_BYTES
    return offset - start in _VPA_COUNTERS and page[start : start + len(_VPA_MAGIC)] == _VPA_MAGIC
