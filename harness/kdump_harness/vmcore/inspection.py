"""Everything about a dump file in one record: its facts and whether it is whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..base.errors import EXIT_FAILED, EXIT_OK, EXIT_UNJUDGED
from . import classes, dmesg
from .check import check
from .classes import PageClass, Tally
from .crew import Progress
from .formats.damage import UNSUPPORTED, Damage, Unreadable, VmcoreError
from .formats.kdump import STATUS_NO_VMEMMAP
from .formats.pages import ZEROS
from .formats.vmcoreinfo import NO_VMCOREINFO
from .vmcore import Vmcore, open_vmcore

_QUICK_RECORDS = 2000


# The three answers to the question whether a dump is whole.
WHOLE = "whole"
DAMAGED = "damaged"
UNJUDGED = "not judged"
EXIT_STATUS = {WHOLE: EXIT_OK, UNJUDGED: EXIT_UNJUDGED, DAMAGED: EXIT_FAILED}


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """The facts and the damage of a dump; facts that the file does not give are None or empty."""

    path: str
    size_bytes: int
    damage: tuple[Damage, ...]
    unsupported: tuple[str, ...] = ()  # the reasons why it cannot be judged
    remarks: tuple[str, ...] = ()
    quick: bool = False
    packed: str | None = None  # how the file was compressed as a whole: gzip, bzip2, xz or lzma
    format: str | None = None
    header_version: int | None = None
    level: int | None = None
    compression: str | None = None
    header_compression: str | None = None
    compressions: dict[str, int] = field(default_factory=dict)
    kernel: str | None = None
    kernel_version: str | None = None
    machine: str | None = None
    nodename: str | None = None
    crash_time: str | None = None
    crash_time_s: int | None = None
    cpus: int | None = None
    page_size: int | None = None
    pages_total: int | None = None
    pages_kept: int | None = None
    classes: dict[str, dict[str, int]] = field(default_factory=dict)
    vmcoreinfo_build_id: str | None = None
    panic: str | None = None

    @property
    def judgement(self) -> str:
        """Return one of WHOLE, DAMAGED and UNJUDGED; damage that was found is damage whatever else is not known."""
        return DAMAGED if self.damage else UNJUDGED if self.unsupported else WHOLE

    @property
    def whole(self) -> bool:
        """Return whether the dump was judged and is whole."""
        return self.judgement == WHOLE

    @property
    def why(self) -> str:
        """The damage, or the reason why the dump was not judged, in a sentence; empty for a whole dump."""
        damage = "; ".join(f"{one.kind}: {one.message}" for one in self.damage[:3])
        return damage or "; ".join(self.unsupported)

    def to_json(self) -> dict[str, Any]:
        """Return the record in the form of JSON; whole is null for a dump that was not judged."""
        facts = asdict(self)
        head = {name: facts.pop(name) for name in ("path", "size_bytes")}
        whole = {WHOLE: True, DAMAGED: False}.get(self.judgement)
        facts |= {"damage": [asdict(damage) for damage in self.damage], "remarks": list(self.remarks)}
        return {**head, "judgement": self.judgement, "whole": whole, **facts, "unsupported": list(self.unsupported)}


def inspect(path: Path | str, *parts: Path | str, quick: bool = False, progress: Progress | None = None) -> Inspection:
    """Judge a dump file; quick leaves out the page descriptors, the decompression and the classes of pages.

    Damage is in the result, and so is the reason where the dump cannot be judged. Raise UsageError only for a path
    that is not a readable regular file.
    """
    try:
        with open_vmcore(path, *parts) as vmcore:
            return inspect_opened(vmcore, quick=quick, progress=progress)
    except Unreadable as error:
        return unreadable(path, error, quick=quick)


def unreadable(path: Path | str, error: Unreadable, *, quick: bool = False) -> Inspection:
    """Return the judgement of a file that cannot be opened."""
    size_bytes = Path(path).stat().st_size
    damage, unsupported = _sorted_out((error.damage, *error.also))
    return Inspection(path=str(path), size_bytes=size_bytes, damage=damage, unsupported=unsupported, quick=quick)


def inspect_opened(vmcore: Vmcore, *, quick: bool = False, progress: Progress | None = None) -> Inspection:
    """Judge a dump that is open already."""
    found, compressions = check(vmcore, quick=quick, progress=progress)
    damage, unsupported = _sorted_out(found)
    header = vmcore.header
    uts = vmcore.utsname
    crash_time = vmcore.crash_time
    kernel = _Kernel.of(vmcore, quick=quick)
    damage = (*damage, *kernel.damage)
    return Inspection(
        path=str(vmcore.path),
        size_bytes=vmcore.size_bytes,
        damage=damage,
        unsupported=unsupported,
        quick=quick,
        format=vmcore.format,
        header_version=header.version if header else None,
        level=header.level if header else None,
        compression=_used(compressions) or (header.compression if header else "none"),
        header_compression=header.compression if header else None,
        compressions=compressions,
        kernel=uts.get("release") or None,
        kernel_version=uts.get("version") or None,
        machine=vmcore.machine or None,
        nodename=uts.get("nodename") or None,
        crash_time=crash_time.isoformat().replace("+00:00", "Z") if crash_time else None,
        crash_time_s=vmcore.crash_time_s,
        cpus=vmcore.cpus,
        page_size=vmcore.page_size,
        pages_total=vmcore.pages_total,
        pages_kept=vmcore.pages_kept,
        classes={each.name.lower(): asdict(tally) for each, tally in kernel.counts.items()},
        vmcoreinfo_build_id=vmcore.vmcoreinfo.get("BUILD-ID"),
        panic=kernel.panic,
        remarks=(*_remarks(vmcore, compressions), *kernel.remarks(vmcore)),
    )


def _sorted_out(found: Iterable[Damage]) -> tuple[tuple[Damage, ...], tuple[str, ...]]:
    """Return the damage, and the reasons why the dump cannot be judged."""
    damage = tuple(one for one in found if one.kind != UNSUPPORTED)
    return damage, tuple(one.message for one in found if one.kind == UNSUPPORTED)


def _remarks(vmcore: Vmcore, compressions: dict[str, int]) -> Iterator[str]:
    """Yield remarks on a dump that are not damage."""
    if (stream := vmcore.flattened) is not None:
        yield f"flattened: {stream.segments:,} segments, {stream.overlapping:,} overlapping, {stream.gaps:,} gaps"
        if stream.trailing_bytes:
            yield f"{stream.trailing_bytes:,} bytes follow the end marker"
    if vmcore.header is not None and vmcore.header.status & STATUS_NO_VMEMMAP:
        yield "the memory map of the kernel (vmemmap) was left out on purpose"
    unchecked = sum(count for name, count in compressions.items() if name not in ("zlib", ZEROS))
    if vmcore.elf is not None:
        yield "ELF pages carry no checksum: a changed byte in them cannot be seen"
    elif unchecked:
        yield f"{unchecked:,} pages carry no checksum (only zlib's do): a changed byte in them may not be seen"


@dataclass(frozen=True)
class _Kernel:
    """The page structures and the log of the kernel in the dump."""

    counts: dict[PageClass, Tally]
    panic: str | None
    log_read: bool
    troubles: tuple[str, ...]
    damage: tuple[Damage, ...]

    @classmethod
    def of(cls, vmcore: Vmcore, *, quick: bool) -> _Kernel:
        """Read both; quick leaves out the page structures, and all but the last records of the log."""
        counts: dict[PageClass, Tally] = {}
        lost = classes.LostPages()
        log, log_read, troubles = "", True, []
        try:
            log = vmcore.dmesg(last=_QUICK_RECORDS if quick else None)
        except VmcoreError as error:
            log_read = False
            troubles.append(f"the kernel log cannot be read: {error}")
        try:
            counts = {} if quick else classes.count_classes(vmcore, lost)
        except VmcoreError as error:
            troubles.append(f"the pages cannot be counted by class: {error}")
        damage = tuple(Damage("zeros", complaint) for complaint in lost.complaints())
        return cls(counts, dmesg.panic_line(log), log_read, tuple(troubles), damage)

    def remarks(self, vmcore: Vmcore) -> Iterator[str]:
        """Yield remarks on facts of the kernel that are not in the dump, and on classes that do not fit the level."""
        if not vmcore.vmcoreinfo_text:
            if vmcore.by_hypervisor:
                yield NO_VMCOREINFO
            return
        if vmcore.crash_time_s is None:
            alive = self.log_read and self.panic is None
            why = "the kernel had not crashed" if alive else "no capture kernel had taken over"
            yield f"no CRASHTIME: {why} when the dump was taken"
        yield from self.troubles
        if vmcore.header is not None and (memory := vmcore.utsname_in_memory) is not None:
            names = [name for name, text in vmcore.header.utsname.texts().items() if memory.erased(name, text)]
            if names:
                yield f"erased from the kernel's memory, and still in the header: {', '.join(names)}"
        yield from classes.remarks(vmcore, self.counts)


def _used(compressions: dict[str, int]) -> str | None:
    """Return the compression of most of the pages that are not raw."""
    packed = {name: count for name, count in compressions.items() if name not in ("none", ZEROS)}
    if packed:
        return max(packed, key=lambda name: packed[name])
    return "none" if compressions else None
