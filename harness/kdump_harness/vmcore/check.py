"""Check whether a dump is whole, by all bytes that the file itself can confirm."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from . import crew
from .crew import Progress
from .formats import descriptors, elf, kdump, pages
from .formats.bitmap import any_outside
from .formats.damage import UNSUPPORTED, Damage, DamageList, Unreadable
from .formats.elf import ElfFile
from .formats.kdump import KdumpFile
from .formats.machines import machines, names_of_machines
from .formats.source import rest_is_empty
from .formats.utsname import Utsname
from .formats.vmcoreinfo import MAX_BYTES as VMCOREINFO_MAX_BYTES
from .formats.vmcoreinfo import malformed
from .vmcore import Vmcore

# /proc/vmcore begins and ends each segment at a page; makedumpfile and QEMU leave no gap.
_MAX_ELF_PADDING_BYTES = 2 * 65536
_INCOMPLETE = (
    "the writer marked the dump as incomplete (no space was left, or the limit of makedumpfile -L was reached)"
)
_VMCOREINFO_VALUES = {"BUILD-ID": "[0-9a-f]{40}", "CRASHTIME": "[0-9]{1,11}", "PAGESIZE": "[0-9]{1,5}"}


def check(
    vmcore: Vmcore, *, quick: bool = False, progress: Progress | None = None
) -> tuple[tuple[Damage, ...], dict[str, int]]:
    """Return all damage, and how many pages there are by compression (nothing when quick).

    progress is called with pages done and pages to do.
    """
    damage = DamageList()
    counts: Counter[str] = Counter()
    if vmcore.flattened is not None:
        damage.extend(vmcore.flattened.damage)
    if vmcore.elf is not None:
        _check_elf(vmcore.elf, damage)
    for part in vmcore.kdumps:
        _check_layout(part, damage)
        descriptors.check(part, damage, quick=quick)
        if not quick:
            counts += crew.check_pages(part, damage, progress=progress)
            _check_compression(part, counts, damage)
    _check_parts(vmcore, damage)
    _check_notes(vmcore, damage)
    _check_utsname(vmcore, damage)
    found = damage.as_tuple()
    if (frames := vmcore.frames_per_block) > 1:
        found = tuple(replace(one, pfn=one.pfn and one.pfn * frames) for one in found)
        counts = Counter({name: count * frames for name, count in counts.items()})
    return found, dict(counts)


def _check_layout(part: KdumpFile, damage: DamageList) -> None:
    header, source = part.header, part.source
    _check_header(part, damage)
    if header.descriptor_offset > source.size_bytes:
        message = f"the bitmaps end at {header.descriptor_offset:,}, the file at {source.size_bytes:,}"
        damage.add("truncated", message, offset=header.bitmap_offset)
    for bitmap in (part.ram, part.dumped):
        if bitmap.beyond(header.bitmap_bytes // 2):
            message = f"page frames behind the last one ({header.max_mapnr:,}) are marked"
            damage.add("bitmap", message, offset=bitmap.offset)
    stray = any_outside(part.dumped, part.ram)
    if stray is not None:
        damage.add("bitmap", "a page frame in the dump is not RAM", offset=part.dumped.offset, pfn=stray)
    if part.table_end > source.size_bytes:
        message = f"{part.descriptors:,} page descriptors end at {part.table_end:,}, the file at {source.size_bytes:,}"
        damage.add("truncated", message, offset=header.descriptor_offset)
    _check_written(part, damage)


def _check_written(part: KdumpFile, damage: DamageList) -> None:
    """Check the gaps of a flattened stream: legal only behind the bitmaps' last page frame."""
    table_at = part.header.descriptor_offset
    places = {
        "first bitmap": (part.ram.offset, part.ram.offset + part.ram.size_bytes),
        "second bitmap": (part.dumped.offset, part.dumped.offset + part.dumped.size_bytes),
        "table of page descriptors": (table_at, max(table_at, part.table_end)),
    }
    for name, (start, end) in places.items():
        end = min(end, part.source.size_bytes)
        if start < end and not part.source.covered(np.array([start]), np.array([end]))[0]:
            damage.add("hole", f"the {name} lies partly in a gap of the stream", offset=start)


def _check_header(part: KdumpFile, damage: DamageList) -> None:
    header = part.header
    damage.extend(list(header.damage))
    if header.status & kdump.STATUS_INCOMPLETE:
        damage.add("incomplete", _INCOMPLETE, offset=424)
    if header.status & ~kdump.STATUS_KNOWN or len(header.compressions) > 1:
        damage.add(
            "header", f"the status {header.status:#x} has flags that do not exist or exclude each other", offset=424
        )
    if header.level is not None and not 0 <= header.level <= kdump.MAX_LEVEL:
        damage.add(
            "header", f"the dump level is {header.level}, not 0 to {kdump.MAX_LEVEL}", offset=header.block_size + 8
        )
    for name, place in (("notes", header.note), ("VMCOREINFO", header.vmcoreinfo), ("erase info", header.eraseinfo)):
        if place is not None and place[1] and not 0 < place[0] <= part.source.size_bytes - place[1]:
            message = f"the {name} ({place[1]:,} bytes at {place[0]:,}) lie outside the file"
            damage.add("header", message, offset=place[0])
    known = machines().get(header.machine)
    if known is None and header.machine != kdump.UNKNOWN_MACHINE:
        damage.add(UNSUPPORTED, f"the machine is {header.machine!r}, not {names_of_machines()}", offset=272)
    elif known is not None and known.byte_order != header.byte_order:
        damage.add("header", f"the header of a {known.name} is {header.byte_order} endian", offset=8)


def _check_compression(part: KdumpFile, counts: Counter[str], damage: DamageList) -> None:
    """Check that the header names one compression; makedumpfile before 1.4.4 named none and used zlib."""
    others = sorted(set(counts) - {"none", pages.ZEROS, part.header.compression})
    if others and part.header.compression != "none":
        message = f"the header says {part.header.compression}, some pages are {' and '.join(others)}"
        damage.add("header", message, offset=424)


def _check_parts(vmcore: Vmcore, damage: DamageList) -> None:
    """Check that the files of a split dump add up to all page frames."""
    header = vmcore.header
    if header is None or not header.split:
        return
    reach, missing, twice = 0, False, False
    for part in vmcore.kdumps:  # sorted by their first page frame; a part may be empty
        missing |= part.header.start_pfn > reach
        twice |= part.header.start_pfn < reach and part.header.start_pfn < part.header.end_pfn
        reach = max(reach, part.header.end_pfn)
    missing |= reach < header.max_mapnr
    if missing or twice:
        have = ", ".join(f"{part.header.start_pfn:,} to {part.header.end_pfn:,}" for part in vmcore.kdumps)
        why = " and ".join(["other parts are missing"] * missing + ["a part was given twice"] * twice)
        damage.add("split", f"a split dump with the page frames {have} of {header.max_mapnr:,}: {why}")


def _check_elf(file: ElfFile, damage: DamageList) -> None:
    size_bytes = file.source.size_bytes
    if file.flags & elf.FLAG_INCOMPLETE:
        damage.add("incomplete", _INCOMPLETE, offset=48)
    if not len(file.loads):
        damage.add("segment", "the dump has no memory segment")
    segments = file.segments
    ends = segments["offset"] + segments["filesz"]
    unknown = ~np.isin(segments["type"], elf.KNOWN_SEGMENTS)
    huge = np.maximum(segments["offset"], segments["paddr"]) >= elf.MAX_ADDRESS
    huge |= segments["memsz"] > elf.MAX_MEMORY_BYTES
    beyond = ~huge & (ends > size_bytes)
    load = segments["type"] == elf.PT_LOAD
    for bad, kind, message in (
        (unknown, "segment", "is neither memory nor notes"),
        (huge, "segment", "has an impossible offset, address or size"),
        (beyond, "truncated", f"ends behind the end of the file ({size_bytes:,})"),
        (load & (segments["filesz"] > segments["memsz"]), "segment", "has more bytes in the file than in memory"),
    ):
        for index in np.flatnonzero(bad)[: DamageList.KEPT_OF_A_KIND].tolist():
            offset, filesz = int(segments["offset"][index]), int(segments["filesz"][index])
            message_here = f"segment {index} (offset {offset:,}, {filesz:,} bytes) {message}"
            damage.add(kind, message_here, offset=file.segment_offset(index))
    sane = np.flatnonzero(~huge & ~beyond & (segments["filesz"] > 0))
    _check_elf_places(file, sane[np.argsort(segments["offset"][sane], kind="stable")], damage)


def _check_elf_places(file: ElfFile, order: NDArray[np.int64], damage: DamageList) -> None:
    """Check that segments do not overlap, and that no more than padding lies between and behind them.

    Segments that map the same physical memory to the same bytes may overlap: with paging, QEMU writes one for every
    virtual mapping.
    """
    starts = file.segments["offset"][order].astype(np.int64)
    ends = starts + file.segments["filesz"][order].astype(np.int64)
    reach = np.maximum.accumulate(np.concatenate([[file.headers_end], ends]))
    overlaps = starts < reach[:-1]
    if overlaps.any():
        shifts = (file.segments["paddr"] - file.segments["offset"])[order]
        holder = np.maximum.accumulate(np.where(ends == reach[1:], np.arange(len(ends)), 0))
        same = file.segments["type"][order] == elf.PT_LOAD
        same[1:] &= shifts[1:] == shifts[holder[:-1]]
        overlaps &= ~same | (starts < file.headers_end)
    for index in np.flatnonzero(overlaps)[: DamageList.KEPT_OF_A_KIND].tolist():
        message = f"segment {int(order[index])} lies over another one or over the headers"
        damage.add("overlap", message, offset=int(starts[index]))
    for index in np.flatnonzero(starts - reach[:-1] > _MAX_ELF_PADDING_BYTES)[: DamageList.KEPT_OF_A_KIND].tolist():
        message = f"the {starts[index] - reach[index]:,} bytes in front of segment {int(order[index])} belong to none"
        damage.add("gap", message, offset=int(reach[index]))
    if file.loads.size and not damage:
        at = max(int(reach[-1]), file.sections_end())
        if not rest_is_empty(file.source, at):
            message = f"the last {file.source.size_bytes - at:,} bytes belong to no segment"
            damage.add("segment", message, offset=at)
    at_gap = np.flatnonzero(~file.source.covered(starts, ends))
    for index in at_gap[: DamageList.KEPT_OF_A_KIND].tolist():
        message = f"segment {int(order[index])} lies partly in a gap of the stream"
        damage.add("hole", message, offset=int(starts[index]))
    _check_elf_data(file, damage)


def _check_elf_data(file: ElfFile, damage: DamageList) -> None:
    """Check that the file system has some of the memory: a copy that kept nothing but the size is all hole."""
    loads = file.loads[file.loads["filesz"] > 0]
    if damage or not len(loads):
        return
    starts = loads["offset"].astype(np.int64)
    ends = starts + loads["filesz"].astype(np.int64)
    if not file.source.has_data(int(starts.min()), int(ends.max())):
        damage.add(
            "hole", "the segments of memory are one hole of the file: nothing was written", offset=int(starts.min())
        )


def _check_notes(vmcore: Vmcore, damage: DamageList) -> None:
    header = vmcore.header
    try:
        has_notes = header is None or header.note is not None
        if has_notes and vmcore.notes is None:
            damage.add("notes", "the notes are missing or lie outside the file")
        elif vmcore.notes is not None:
            if vmcore.notes.broken_at is not None:
                damage.add("notes", f"the notes make no sense from byte {vmcore.notes.broken_at:,} on")
            if not vmcore.notes.cpus:
                damage.add("notes", "the notes have no CPU's registers")
        text = vmcore.vmcoreinfo_text
    except Unreadable as error:
        damage.extend([error.damage])
        return
    if header is not None and header.vmcoreinfo is None:
        return
    at = header.vmcoreinfo[0] if header is not None and header.vmcoreinfo else None
    if not text:
        if vmcore.by_hypervisor and (header is None or header.vmcoreinfo == (0, 0)):
            return
        damage.add("vmcoreinfo", "VMCOREINFO is missing, lies outside the file or is too large", offset=at)
        return
    if len(text) >= VMCOREINFO_MAX_BYTES:
        damage.add("vmcoreinfo", f"VMCOREINFO has {len(text):,} bytes", offset=at)
    if bad := malformed(text):
        damage.add("vmcoreinfo", f"VMCOREINFO has a line that no kernel writes: {bad}", offset=at)
    for key, pattern in _VMCOREINFO_VALUES.items():
        if key in vmcore.vmcoreinfo and not re.fullmatch(pattern, vmcore.vmcoreinfo[key]):
            damage.add("vmcoreinfo", f"VMCOREINFO has an impossible {key}: {vmcore.vmcoreinfo[key][:60]!a}", offset=at)
    if vmcore.vmcoreinfo.integer("PAGESIZE") not in (None, vmcore.page_size):
        damage.add("vmcoreinfo", "VMCOREINFO and header do not agree on the page size", offset=at)
    release = vmcore.header.utsname.text("release") if vmcore.header is not None else ""
    if release and vmcore.vmcoreinfo.get("OSRELEASE") != release:
        damage.add("vmcoreinfo", "VMCOREINFO and header do not agree on the kernel release", offset=at)


def _check_utsname(vmcore: Vmcore, damage: DamageList) -> None:
    """Check that header, VMCOREINFO and (where it is in the dump) memory name the same kernel."""
    header, memory = vmcore.header, vmcore.utsname_in_memory
    release = vmcore.vmcoreinfo.get("OSRELEASE")
    if memory and release not in (None, memory.text("release")) and not memory.erased("release", release):
        seen = memory.text("release")[:60]
        damage.add("vmcoreinfo", f"VMCOREINFO names the kernel {release!a}, its memory {seen!a}")
    if header is None:
        return
    if not header.utsname.text("release"):  # a hypervisor fills in the machine only
        memory = None
    for name in Utsname.NAMES:
        text, at = header.utsname.text(name), kdump.UTSNAME_AT + Utsname.offset(name)
        if memory is None:
            if not header.utsname.plausible(name):
                damage.add("header", f"utsname.{name} is not a text: {text[:40]!a}", offset=at)
        elif header.utsname.field(name) != memory.field(name) and not memory.erased(name, text):
            seen = memory.text(name)
            damage.add("header", f"utsname.{name} is {text!a} in the header and {seen!a} in memory", offset=at)
