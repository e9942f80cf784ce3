"""Writes small dumps in every format, sound ones and ones with a chosen flaw."""

from __future__ import annotations

import itertools
import random
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import cramjam
import lzallright
import numpy as np
import zstandard
from kdump_harness.vmcore import Vmcore
from numpy.typing import NDArray

PAGE = 4096
FLAGS = {"none": 0x0, "zlib": 0x1, "lzo": 0x2, "snappy": 0x4, "zstd": 0x20}
RELEASE = "6.1.0-test"
VMCOREINFO_OF_ALL = f"OSRELEASE={RELEASE}\nBUILD-ID={'5a' * 20}\nPAGESIZE={{page_size}}\n{{more}}CRASHTIME=1780000000\n"
VMCOREINFO = VMCOREINFO_OF_ALL.replace(
    "{more}",
    "SYMBOL(init_uts_ns)=ffffffff82bf9b60\nNUMBER(phys_base)=0\nSYMBOL(init_top_pgt)=ffffffff82a10000\n"
    "KERNELOFFSET=0\n{more}",
)


def compress(page: bytes, compression: str) -> tuple[bytes, int]:
    """Stored bytes and flags of a page, as makedumpfile would store it."""
    if compression == "zlib":
        stored = zlib.compress(page, 1)
    elif compression == "lzo":
        stored = bytes(lzallright.LZOCompressor().compress(page))
    elif compression == "snappy":
        stored = bytes(cramjam.snappy.compress_raw(page))
    elif compression == "zstd":
        stored = zstandard.ZstdCompressor(level=1).compress(page)
    else:
        stored = page
    return (stored, FLAGS[compression]) if len(stored) < len(page) else (page, 0)


def text_page(pfn: int, size: int = PAGE) -> bytes:
    """A page that compresses well and says which one it is."""
    return (f"this is page frame {pfn}; ".encode() * size)[:size]


def note(name: bytes, kind: int, text: bytes, order: str = "<") -> bytes:
    """One ELF note."""
    padded = [part + bytes(-len(part) % 4) for part in (name + b"\0", text)]
    return struct.pack(order + "III", len(name) + 1, len(text), kind) + b"".join(padded)


def notes_of(
    vmcoreinfo: bytes, cpus: int = 2, *, qemu: bool = False, order: str = "<", prstatus: bytes = bytes(336)
) -> bytes:
    """The notes that a kernel leaves: a register set per CPU, then VMCOREINFO; QEMU adds more registers."""
    registers = note(b"CORE", 1, prstatus, order) * cpus
    if qemu:
        registers += note(b"QEMU", 0, bytes(432), order) * cpus
    elif order == ">":
        registers += note(b"CORE", 2, bytes(136), order) * cpus  # as kernels of s390x write them
    return registers + (note(b"VMCOREINFO", 0, vmcoreinfo, order) if vmcoreinfo or not qemu else b"")


def utsname(*, nodename: bytes = b"testhost", domainname: bytes = b"(none)", machine: str = "x86_64") -> bytes:
    """The names of the kernel of the dumps."""
    names = (b"Linux", nodename, RELEASE.encode(), b"#1 SMP test", machine.encode(), domainname)
    return b"".join(name.ljust(65, b"\0") for name in names)


def utsname_page(names: bytes) -> dict[int, bytes]:
    """The page with the kernel's names, by its frame: behind a reference count, where VMCOREINFO says."""
    pfn, inside = divmod(0x2BF9B60 + 4, PAGE)
    return {pfn: (bytes(inside) + names).ljust(PAGE, b"\0")}


@dataclass
class Kdump:
    """The ingredients of a kdump-compressed file; build() makes the bytes."""

    pages: Mapping[int, bytes] = field(default_factory=lambda: {pfn: text_page(pfn) for pfn in range(3, 40, 2)})
    version: int = 6
    compression: str = "zlib"
    max_mapnr: int = 64
    level: int = 31
    page_size: int = PAGE
    machine: str = "x86_64"
    order: str = "<"
    prstatus: bytes = bytes(336)
    names: bytes | None = None
    qemu: bool = False
    status: int | None = None
    part: tuple[int, int] | None = None
    vmcoreinfo: bytes | None = None
    more_vmcoreinfo: str = ""
    ram: Sequence[int] | None = None
    gaps: Mapping[int, int] = field(default_factory=dict)  # page frame: bytes of no page in front of its data
    shares: Mapping[int, int] = field(default_factory=dict)  # page frame: lower one whose data its descriptor names

    def build(self) -> bytes:
        """The whole file."""
        block = self.page_size
        vmcoreinfo = self.vmcoreinfo
        if vmcoreinfo is None:
            vmcoreinfo = VMCOREINFO.format(page_size=block, more=self.more_vmcoreinfo).encode()
        notes = notes_of(vmcoreinfo, qemu=self.qemu, order=self.order, prstatus=self.prstatus)
        notes_at = block + 104
        sub_blocks = -(-(104 + len(notes)) // block)
        bitmap_blocks = 2 * -(-self.max_mapnr // (8 * block))
        first, last = self.part or (0, self.max_mapnr)
        sub = struct.pack(
            self.order + "QiiQQqQqQqQQQQ",
            0, self.level, int(self.part is not None),
            first if self.part else 0, last if self.part else 0,
            notes_at + notes.index(vmcoreinfo) if vmcoreinfo else 0, len(vmcoreinfo),
            notes_at, len(notes), 0, 0,
            first if self.part else 0, last if self.part else 0, self.max_mapnr,
        )  # fmt: skip
        known_bytes = {1: 12, 2: 32, 3: 48, 4: 64, 5: 80, 6: 104}[self.version]
        header = self._header(sub_blocks, bitmap_blocks).ljust(block, b"\0")
        header += (sub[:known_bytes].ljust(104, b"\0") + notes).ljust(sub_blocks * block, b"\0")
        kept = sorted(self.pages)
        half = bitmap_blocks // 2 * block
        header += self.bitmap(self.ram if self.ram is not None else range(self.max_mapnr), half)
        header += self.bitmap(kept, half)
        return header + self._table_and_data(len(header), [pfn for pfn in kept if first <= pfn < last], len(kept))

    def _header(self, sub_blocks: int, bitmap_blocks: int) -> bytes:
        names = bytes(260) + self.machine.encode().ljust(130, b"\0") if self.qemu else utsname(machine=self.machine)
        status = FLAGS[self.compression] if self.status is None else self.status
        head = b"KDUMP   " + struct.pack(self.order + "i", self.version) + (self.names or names) + bytes(6)
        return head + struct.pack(
            self.order + "qqIiiIIIIIIi",
            0, 0, status, self.page_size, sub_blocks, bitmap_blocks, min(self.max_mapnr, 0xFFFFFFFF), 0, 0, 0, 0, 1,
        )  # fmt: skip

    @staticmethod
    def bitmap(pfns: Sequence[int], size: int) -> bytes:
        bits = bytearray(size)
        for pfn in pfns:
            bits[pfn // 8] |= 1 << pfn % 8
        return bytes(bits)

    def _table_and_data(self, at: int, pfns: list[int], room: int) -> bytes:
        zero = bytes(self.page_size)
        data = bytearray()
        table = bytearray()
        data_at = at + 24 * room  # also the parts of a split dump have room for the descriptors of all pages
        if self.level & 1:
            data += zero  # makedumpfile stores one zero page that all descriptors of zero pages share
        entries: dict[int, bytes] = {}
        for pfn in pfns:
            page = self.pages[pfn]
            data += random.Random(pfn).randbytes(self.gaps.get(pfn, 0))
            if pfn in self.shares:
                entries[pfn] = entries[self.shares[pfn]]
            elif page == zero and self.level & 1:
                entries[pfn] = struct.pack(self.order + "qIIQ", data_at, self.page_size, 0, 0)
            else:
                stored, flags = compress(page, self.compression)
                entries[pfn] = struct.pack(self.order + "qIIQ", data_at + len(data), len(stored), flags, 0)
                data += stored
            table += entries[pfn]
        return bytes(table).ljust(24 * room, b"\0") + bytes(data)


def flatten(data: bytes, segment_bytes: int = 65536, order: Sequence[int] | None = None) -> bytes:
    """A flattened stream of data, its segments in the given order."""
    starts = list(range(0, len(data), segment_bytes))
    segments = [(start, data[start : start + segment_bytes]) for start in starts]
    return flat_stream([segments[index] for index in (order if order is not None else range(len(segments)))])


def flat_stream(
    segments: Sequence[tuple[int, bytes]], *, end: bool = True, signature: bytes = b"makedumpfile\0\0\0\0"
) -> bytes:
    """A flattened stream of just these segments."""
    stream = signature + struct.pack(">qq", 1, 1)
    stream = stream.ljust(4096, b"\0")
    for offset, piece in segments:
        stream += struct.pack(">qq", offset, len(piece)) + piece
    return stream + (b"\xff" * 16 if end else b"")


def elf(
    segments: Sequence[tuple[int, bytes]],
    *,
    memory_bytes: Sequence[int] | None = None,
    flags: int = 0,
    machine: int = 62,
    vmcoreinfo: bytes | None = None,
    qemu: bool = False,
    order: str = "<",
) -> bytes:
    """An ELF64 dump of (physical address, bytes)."""
    if vmcoreinfo is None:
        vmcoreinfo = VMCOREINFO.format(page_size=PAGE, more="").encode()
    notes = notes_of(vmcoreinfo, qemu=qemu, order=order)
    count = 1 + len(segments)
    notes_at = 64 + 56 * count
    at = -(-(notes_at + len(notes)) // PAGE) * PAGE
    headers = struct.pack(order + "IIQQQQQQ", 4, 0, notes_at, 0, 0, len(notes), len(notes), 0)
    body = b""
    for index, (address, data) in enumerate(segments):
        memory = memory_bytes[index] if memory_bytes else len(data)
        headers += struct.pack(order + "IIQQQQQQ", 1, 7, at + len(body), 0, address, len(data), memory, 0)
        body += data
    ident = (b"\x7fELF\x02" + (b"\x01" if order == "<" else b"\x02") + b"\x01").ljust(16, b"\0")
    ehdr = ident + struct.pack(order + "HHIQQQIHHHHHH", 4, machine, 1, 0, 64, 0, flags, 64, 56, count, 0, 0, 0)
    return (ehdr + headers + notes).ljust(at, b"\0") + body


@dataclass(frozen=True)
class Stored:
    """A page as a dump stores it."""

    data: bytes
    flags: int


def stored_again(vmcore: Vmcore, change: Callable[[list[Stored | None]], None]) -> bytes:
    """A kdump-compressed dump with other pages; None stands for the shared page of zeros."""
    raw = vmcore.path.read_bytes()
    part = vmcore.kdumps[0]
    head, data_at = raw[: part.header.descriptor_offset], part.data_offset
    found = [part.descriptor(part.pfn_of(index)) for index in range(part.descriptors)]
    pages = [None if at == data_at else Stored(raw[at : at + size], flags) for at, size, flags in found]
    change(pages)
    table, data = b"", bytes(PAGE)
    for page in pages:
        at, size, flags = (data_at + len(data), len(page.data), page.flags) if page else (data_at, PAGE, 0)
        table += struct.pack("<qIIQ", at, size, flags, 0)
        data += page.data if page else b""
    return bytes(head + table + data)


def elf_of(vmcore: Vmcore, kept: NDArray[np.bool_]) -> bytes:
    """An ELF dump of the same memory with the given page frames; those that the other dump lacks are zeros."""
    ram = np.unpackbits(vmcore.ram_bitmap(), bitorder="little", count=vmcore.max_pfn)
    state = ram + kept[: len(ram)]
    borders = (np.flatnonzero(np.diff(state)) + 1).tolist()
    segments, memory_bytes = [], []
    for first, last in itertools.pairwise([0, *borders, len(state)]):
        if state[first]:
            held = (vmcore.read_page(pfn) if vmcore.kept(pfn) else bytes(PAGE) for pfn in range(first, last))
            segments.append((first * PAGE, b"".join(held) if state[first] == 2 else b""))
            memory_bytes.append((last - first) * PAGE)
    return elf(segments, memory_bytes=memory_bytes, vmcoreinfo=vmcore.vmcoreinfo_text)
