"""A dump file opened: what it says about itself, its memory, its kernel log."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from . import dmesg
from .formats import elf, kdump, notes, zeros
from .formats.damage import UNSUPPORTED, Damage, NotInDump, Unreadable, VmcoreError
from .formats.elf import ElfFile
from .formats.intervals import Int64s
from .formats.kdump import KdumpFile
from .formats.machines import ByteOrder, machines
from .formats.source import FLAT_SIGNATURE, DumpSource, FlattenedFile, PlainFile
from .formats.utsname import Utsname
from .formats.vmcoreinfo import MAX_BYTES as VMCOREINFO_MAX_BYTES
from .formats.vmcoreinfo import Vmcoreinfo
from .packed import PACKINGS
from .translation.machines import Translate, translator

Bools = NDArray[np.bool_]

_READ_MAX_BYTES = 64 << 20
_CACHED_BLOCKS = 8
_CACHED_PAGES = 256

# Saved states of QEMU, and of libvirt: virsh dump without --memory-only, virsh save, and a save without an end.
SAVED_STATES = (b"QEVM", b"LibvirtQemudSave", b"LibvirtQemudPart")
_OTHER_FORMATS = {
    b"DISKDUMP": "is in the old diskdump format, which no kdump writes",
    **{each.magic: f"is {each.name}-compressed (unpack it with {each.command} first)" for each in PACKINGS},
    b"Salted__": "is encrypted (decrypt it with openssl enc -d first)",
    b"age-encryption.o": "is encrypted (decrypt it with age -d first)",
    **dict.fromkeys(SAVED_STATES, "is the saved state of a guest (take a dump with virsh dump --memory-only)"),
}


class Vmcore:
    """A dump in any of the known formats."""

    def __init__(self, files: list[PlainFile], sources: list[DumpSource], parts: list[KdumpFile] | ElfFile) -> None:
        self.files = files
        self.sources = sources
        self.kdumps = parts if isinstance(parts, list) else []
        self.elf = None if isinstance(parts, list) else parts
        self.page = lru_cache(maxsize=_CACHED_PAGES)(self._page)
        self._block = lru_cache(maxsize=_CACHED_BLOCKS)(self._kdump_block)

    @property
    def path(self) -> Path:
        """The file, the first one of a split dump."""
        return self.files[0].path

    @property
    def flattened(self) -> FlattenedFile | None:
        """The flattened stream, where it is one."""
        first = self.sources[0]
        return first if isinstance(first, FlattenedFile) else None

    @property
    def header(self) -> kdump.Header | None:
        """The header of a kdump-compressed dump."""
        return self.kdumps[0].header if self.kdumps else None

    @property
    def format(self) -> str:
        """One of kdump, kdump-flattened, kdump-split, elf, elf-flattened."""
        if self.header is not None and self.header.split:
            return "kdump-split"
        return ("elf" if self.elf else "kdump") + ("-flattened" if self.flattened else "")

    @property
    def size_bytes(self) -> int:
        """Bytes on disk, of all parts."""
        return sum(file.size_bytes for file in self.files)

    @cached_property
    def notes(self) -> notes.Notes | None:
        """The ELF notes, or None."""
        return self.elf.notes() if self.elf else self.kdumps[0].notes()

    @cached_property
    def vmcoreinfo_text(self) -> bytes:
        """VMCOREINFO as it is in the file; empty when it is not."""
        if self.header is not None and self.header.vmcoreinfo is not None:
            offset, size = self.header.vmcoreinfo
            if offset > 0 and 0 < size <= VMCOREINFO_MAX_BYTES:
                return self.sources[0].read(offset, size)
        if self.notes is not None and self.notes.vmcoreinfo is not None:
            return self.notes.vmcoreinfo[:VMCOREINFO_MAX_BYTES]
        return b""

    def borrow_vmcoreinfo(self, other: Vmcore) -> None:
        """Use VMCOREINFO of another dump of the same kernel if this one lacks it, as QEMU's of ppc64le do."""
        if not self.vmcoreinfo_text:
            for cached in ("vmcoreinfo", "page_size"):
                self.__dict__.pop(cached, None)
            self.__dict__["vmcoreinfo_text"] = other.vmcoreinfo_text

    @cached_property
    def vmcoreinfo(self) -> Vmcoreinfo:
        """VMCOREINFO parsed; empty when the dump has none."""
        return Vmcoreinfo.parse(self.vmcoreinfo_text, self.byte_order)

    @property
    def byte_order(self) -> ByteOrder:
        """The order of the bytes of each number in memory; some pictures of QEMU have another one in their headers."""
        if self.elf is not None:
            return "big" if machines()[self.elf.machine].byte_order == "big" else "little"
        return self.kdumps[0].header.byte_order

    @property
    def by_hypervisor(self) -> bool:
        """Whether QEMU wrote the dump; it knows the kernel only by the VMCOREINFO that the guest has handed to it.

        For riscv64 it writes no registers besides those that kernels write. A kdump file of it names nothing of the
        kernel, and an ELF file of QEMU 7.2 and newer has a section.
        """
        if self.notes is not None and self.notes.by_hypervisor:
            return True
        return self.elf.has_sections if self.elf else self.header is not None and self.header.utsname.only_machine

    @cached_property
    def page_size(self) -> int:
        """Bytes in a page frame of the guest."""
        size = self.vmcoreinfo.integer("PAGESIZE")
        if not self.kdumps:
            return size if size in kdump.PAGE_SIZES else 4096
        block_size = self.kdumps[0].page_size
        smaller = size in kdump.PAGE_SIZES and size < block_size and self.by_hypervisor
        return size if smaller and size is not None else block_size

    @property
    def frames_per_block(self) -> int:
        """The page frames that are stored together: QEMU stores 64 KiB of some guests with any page size."""
        return self.kdumps[0].page_size // self.page_size if self.kdumps else 1

    @property
    def machine(self) -> str:
        """A name in machines.toml; empty when the dump does not say."""
        if self.elf:
            return self.elf.machine
        assert self.header is not None
        named = self.header.machine
        return named if named != kdump.UNKNOWN_MACHINE else self.vmcoreinfo.machine

    @cached_property
    def utsname(self) -> dict[str, str]:
        """utsname from the header, or from the dumped memory where the header has none."""
        if self.header is not None and self.header.utsname.text("release"):
            return self.header.utsname.texts()
        memory = self.utsname_in_memory
        in_memory = memory.texts() if memory else {}
        return {"release": self.vmcoreinfo.get("OSRELEASE", ""), "machine": self.machine, **in_memory}

    @cached_property
    def utsname_in_memory(self) -> Utsname | None:
        """utsname from the kernel's memory; None when it is not in the dump."""
        try:
            at = self.vmcoreinfo.symbol("init_uts_ns") + self._utsname_offset()
            return Utsname(self.read_virt(at, Utsname.BYTES))
        except VmcoreError:
            return None

    def _utsname_offset(self) -> int:
        # Exported since 5.11, when name became the first member; before it came a reference count of 4 bytes.
        known = "OFFSET(uts_namespace.name)" in self.vmcoreinfo
        return self.vmcoreinfo.offset("uts_namespace.name") if known else 4

    @property
    def crash_time(self) -> datetime.datetime | None:
        """The time of the crash; None when the kernel did not crash (a dump of a live guest) or does not say."""
        seconds = self.crash_time_s
        return None if seconds is None else datetime.datetime.fromtimestamp(seconds, datetime.UTC)

    @property
    def crash_time_s(self) -> int | None:
        """CRASHTIME in seconds since 1970."""
        seconds = self.vmcoreinfo.integer("CRASHTIME")
        return seconds if seconds is not None and seconds < 1 << 36 else None

    @property
    def cpus(self) -> int | None:
        """CPUs whose registers are in the dump."""
        if self.notes is not None:
            return self.notes.cpus
        return self.header.header_cpus if self.header is not None and self.header.note is None else None

    @property
    def pages_total(self) -> int:
        """Page frames of RAM."""
        return self.kdumps[0].ram.count * self.frames_per_block if self.kdumps else self._elf_pages(self._elf.ram)

    @property
    def pages_kept(self) -> int:
        """Page frames in the dump."""
        if self.elf:
            return self._elf_pages(self._elf.kept)
        return sum(part.descriptors for part in self.kdumps) * self.frames_per_block

    @property
    def max_pfn(self) -> int:
        """One more than the highest page frame that the dump could have."""
        if self.header is not None:
            return self.header.max_mapnr * self.frames_per_block
        return int(self._elf.ram[1].max(initial=0)) // self.page_size

    @property
    def _elf(self) -> ElfFile:
        assert self.elf is not None
        return self.elf

    def _elf_pages(self, runs: tuple[Int64s, Int64s]) -> int:
        first, last = self._page_runs(runs)
        return int((last - first).sum())

    def _page_runs(self, runs: tuple[Int64s, Int64s]) -> tuple[Int64s, Int64s]:
        """Return first and last page frame (exclusive) of byte ranges; only whole pages count, as with makedumpfile."""
        first, last = -(-runs[0] // self.page_size), runs[1] // self.page_size
        return first, np.maximum(first, last)

    @cached_property
    def _kept_runs(self) -> tuple[Int64s, Int64s]:
        return self._page_runs(self._elf.kept)

    def kept(self, pfn: int) -> bool:
        """Return whether the page frame is in the dump."""
        if self.kdumps:
            return pfn // self.frames_per_block in self.kdumps[0].dumped
        first, last = self._kept_runs
        index = int(np.searchsorted(last, pfn, side="right"))
        return index < len(first) and bool(first[index] <= pfn)

    def kept_bitmap(self) -> NDArray[np.uint8]:
        """Return the page frames in the dump, one bit each, lowest bit first (np.unpackbits with bitorder="little")."""
        return self._frames(self.kdumps[0].dumped.as_array()) if self.kdumps else self._elf_bitmap(self._elf.kept)

    def ram_bitmap(self) -> NDArray[np.uint8]:
        """Return the page frames of RAM, one bit each, lowest bit first."""
        return self._frames(self.kdumps[0].ram.as_array()) if self.kdumps else self._elf_bitmap(self._elf.ram)

    def bitmap_pieces(self) -> Iterator[tuple[int, NDArray[np.uint8], NDArray[np.uint8]]]:
        """Yield first page frame and the bits of RAM and of the pages in a kdump-compressed dump, piece by piece."""
        part = self.kdumps[0]
        for (block, ram), (_, dumped) in zip(part.ram.pieces(), part.dumped.pieces(), strict=True):
            yield block * self.frames_per_block, self._frames(ram), self._frames(dumped)

    def _frames(self, blocks: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the bits of page frames from the bits of the blocks that hold them."""
        if self.frames_per_block == 1:
            return blocks
        bits = np.unpackbits(blocks, bitorder="little")
        return np.packbits(np.repeat(bits, self.frames_per_block), bitorder="little")

    def _elf_bitmap(self, runs: tuple[Int64s, Int64s]) -> NDArray[np.uint8]:
        if self.max_pfn > kdump.MAX_PFNS:
            raise VmcoreError(f"{self.path}: memory up to frame {self.max_pfn:,} is too much for a bitmap")
        bits = np.zeros(self.max_pfn, dtype=np.bool_)
        for first, last in zip(*self._page_runs(runs), strict=True):
            bits[first:last] = True
        return np.packbits(bits, bitorder="little")

    def read_page(self, pfn: int) -> bytes:
        """Return a page of guest memory. Raise NotInDump when it was filtered out, VmcoreError when it is damaged."""
        return self.page(pfn)

    def _page(self, pfn: int) -> bytes:
        if self.elf:
            return self._elf_page(pfn)
        block, inside = divmod(pfn, self.frames_per_block)
        return self._block(block)[inside * self.page_size : (inside + 1) * self.page_size]

    def _kdump_block(self, block: int) -> bytes:
        for part in self.kdumps:
            if part.header.start_pfn <= block < part.header.end_pfn:
                return part.read_page(block)
        raise NotInDump(f"page frame {block * self.frames_per_block:#x} is not in the dump")

    def _elf_page(self, pfn: int) -> bytes:
        if not self.kept(pfn):
            raise NotInDump(f"page frame {pfn:#x} is not in the dump")
        page = b""
        while len(page) < self.page_size:
            piece = self._elf.read_phys(pfn * self.page_size + len(page), self.page_size - len(page))
            if not piece:
                raise VmcoreError(f"page frame {pfn:#x}: its data lies outside the file")
            page += piece
        return page

    def zeros(self, first: int, kept: Bools, wanted: Bools) -> Bools:
        """Return which of the wanted pages are zeros; one that cannot be read is not.

        kept and wanted are masks of the page frames from first on; each wanted page is in the dump.
        """
        if not wanted.any():
            return np.zeros(0, dtype=np.bool_)
        frames = first + np.flatnonzero(wanted)
        if self.elf is not None:
            return zeros.in_elf(self.elf, frames * self.page_size, self.page_size)
        if self.frames_per_block > 1:
            return np.array([zeros.is_zeros(self.read_page, pfn) for pfn in frames.tolist()])
        found = [np.zeros(0, dtype=np.bool_)]
        for part in self.kdumps:
            own = slice(*(min(max(pfn - first, 0), len(kept)) for pfn in (part.header.start_pfn, part.header.end_pfn)))
            if wanted[own].any():
                rows = np.flatnonzero(wanted[own][kept[own]])
                found.append(zeros.in_kdump(part, first + own.start, rows))
        return np.concatenate(found)

    def read_phys(self, address: int, length: int) -> bytes:
        """Return all of length bytes of physical memory, or raise VmcoreError."""
        if not 0 <= length <= _READ_MAX_BYTES or address < 0:
            raise VmcoreError(f"cannot read {length:,} bytes of memory at {address:#x}")
        pieces = []
        while length > 0:
            pfn, inside = divmod(address, self.page_size)
            piece = self.read_page(pfn)[inside : inside + length]
            pieces.append(piece)
            address += len(piece)
            length -= len(piece)
        return b"".join(pieces)

    @cached_property
    def _translate(self) -> Translate:
        phys_base = self.header.phys_base if self.header is not None else None
        return translator(self.machine, self.vmcoreinfo, self.read_phys, phys_base=phys_base)

    def read_virt(self, address: int, length: int) -> bytes:
        """Return all of length bytes of kernel virtual memory, or raise VmcoreError."""
        if not 0 <= length <= _READ_MAX_BYTES:
            raise VmcoreError(f"cannot read {length:,} bytes of memory at {address:#x}")
        pieces = []
        while length > 0:
            in_page = min(length, self.page_size - address % self.page_size)
            pieces.append(self.read_phys(self._translate(address), in_page))
            address += in_page
            length -= in_page
        return b"".join(pieces)

    def dmesg(self, *, last: int | None = None) -> str:
        """Return the kernel log or its last records. Raise VmcoreError when it is not in the dump."""
        return dmesg.kernel_log(self.vmcoreinfo, self.read_virt, last=last)

    def close(self) -> None:
        """Close the files."""
        for file in self.files:
            file.close()

    def __enter__(self) -> Vmcore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_vmcore(path: Path | str, *parts: Path | str) -> Vmcore:
    """Open a dump; the other files of a split dump follow as parts.

    Raise UsageError for a path that is not a readable regular file, and Unreadable for a file that is not a dump or is
    too damaged to be opened.
    """
    files: list[PlainFile] = []
    try:
        for each in (path, *parts):
            files.append(PlainFile(each))
        sources = [_source(file) for file in files]
        try:
            return Vmcore(files, sources, _parts(files, sources))
        except Unreadable as error:
            seen = [damage for source in sources if isinstance(source, FlattenedFile) for damage in source.damage]
            raise Unreadable(error.damage, tuple(seen)) from None
    except BaseException:
        for file in files:
            file.close()
        raise


def _source(file: PlainFile) -> DumpSource:
    if file.size_bytes == 0:
        raise Unreadable(Damage("empty", "the file is empty: nothing was saved"))
    return FlattenedFile(file) if file.read(0, len(FLAT_SIGNATURE)) == FLAT_SIGNATURE else file


def _parts(files: list[PlainFile], sources: list[DumpSource]) -> list[KdumpFile] | ElfFile:
    magic = sources[0].read(0, 16)
    if magic.startswith(elf.SIGNATURE) and len(sources) == 1:
        return ElfFile(sources[0])
    for file, source in zip(files, sources, strict=True):
        _refuse_other_formats(file, source)
    opened = [KdumpFile(source) for source in sources]
    if len(opened) > 1:
        _refuse_strangers(files, opened)
        opened.sort(key=lambda part: part.header.start_pfn)
    return opened


def _refuse_other_formats(file: PlainFile, source: DumpSource) -> None:
    magic = source.read(0, 16)
    if magic.startswith(kdump.SIGNATURE):
        return
    for signature, what in _OTHER_FORMATS.items():
        if magic.startswith(signature):
            raise Unreadable(Damage(UNSUPPORTED, f"the file {what}", 0))
    inside = " inside the flattened stream" if source is not file else ""
    raise Unreadable(Damage("signature", f"the file is not a dump: it begins with {magic[:8]!r}{inside}", 0))


def _refuse_strangers(files: list[PlainFile], opened: list[KdumpFile]) -> None:
    """Check that all files are parts of the same split dump."""
    first = opened[0].header
    for file, part in zip(files, opened, strict=True):
        header = part.header
        same = (header.utsname, header.max_mapnr, header.block_size) == (
            first.utsname,
            first.max_mapnr,
            first.block_size,
        )
        if not header.split or not same:
            raise Unreadable(Damage("split", f"{file.path} is not a part of the same split dump as {files[0].path}"))
