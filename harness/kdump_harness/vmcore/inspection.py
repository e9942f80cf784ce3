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
    counts = {} if quick else _counts(vmcore)
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
        classes={each.name.lower(): asdict(tally) for each, tally in counts.items()},
        vmcoreinfo_build_id=vmcore.vmcoreinfo.get("BUILD-ID"),
        panic=_panic(vmcore, quick=quick),
        remarks=(*_remarks(vmcore, compressions), *classes.remarks(vmcore, counts)),
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
    if vmcore.crash_time_s is None:
        yield "no CRASHTIME: the kernel had not crashed when the dump was taken"
    if vmcore.header is not None and vmcore.header.status & STATUS_NO_VMEMMAP:
        yield "the memory map of the kernel (vmemmap) was left out on purpose"
    unchecked = sum(compressions.values()) - compressions.get("zlib", 0)
    if vmcore.elf is not None:
        yield "ELF pages carry no checksum: a changed byte in them cannot be seen"
    elif unchecked:
        yield f"{unchecked:,} pages carry no checksum (only zlib's do): a changed byte in them may not be seen"


def _counts(vmcore: Vmcore) -> dict[PageClass, Tally]:
    try:
        return classes.count_classes(vmcore)
    except VmcoreError:
        return {}


def _used(compressions: dict[str, int]) -> str | None:
    """Return the compression of most of the pages that are not raw."""
    packed = {name: count for name, count in compressions.items() if name != "none"}
    if packed:
        return max(packed, key=lambda name: packed[name])
    return "none" if compressions else None


def _panic(vmcore: Vmcore, *, quick: bool) -> str | None:
    try:
        return dmesg.panic_line(vmcore.dmesg(last=_QUICK_RECORDS if quick else None))
    except VmcoreError:
        return None
