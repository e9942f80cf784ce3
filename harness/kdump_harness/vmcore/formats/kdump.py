"""The kdump-compressed format: headers version 1 to 6, bitmaps, page descriptors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from . import notes, pages
from .bitmap import Bitmap
from .damage import Damage, NotInDump, Unreadable
from .machines import ByteOrder, in_both_orders, machines
from .pages import BadPage
from .source import DumpSource, read_exactly
from .utsname import Utsname

SIGNATURE = b"KDUMP   "
LATEST_VERSION = 6
DESCRIPTOR = np.dtype([("offset", "<i8"), ("size", "<u4"), ("flags", "<u4"), ("page_flags", "<u8")])

STATUS_INCOMPLETE = 0x8
STATUS_NO_VMEMMAP = 0x10
STATUS_KNOWN = 0x3F
MAX_LEVEL = 31
PAGE_SIZES = (4096, 16384, 65536)
UNKNOWN_MACHINE = "Unknown"  # QEMU 10 and later name no other; for aarch64 guests older ones neither
_STATUS_COMPRESSIONS = (pages.ZLIB, pages.LZO, pages.SNAPPY, pages.ZSTD)

# 64 TiB of guest memory in 4 KiB pages; beyond it a count is taken for damage rather than walked.
MAX_PFNS = 1 << 34
_MAX_SUB_HEADER_BYTES = 256 << 20

UTSNAME_AT = 12
_HEADER = in_both_orders("8si390x6xqqIiiIIIIIIi")
_SUB_HEADER = in_both_orders("QiiQQqQqQqQQQQ")


@dataclass(frozen=True, kw_only=True)
class Header:
    """The header and sub-header; fields that a version lacks are None."""

    byte_order: ByteOrder
    version: int
    utsname: Utsname
    status: int
    block_size: int
    sub_header_blocks: int
    bitmap_blocks: int
    max_mapnr: int
    max_mapnr_32: int
    header_cpus: int
    phys_base: int
    level: int | None
    split: bool
    start_pfn: int
    end_pfn: int
    vmcoreinfo: tuple[int, int] | None
    note: tuple[int, int] | None
    eraseinfo: tuple[int, int] | None
    damage: tuple[Damage, ...]

    @property
    def bitmap_bytes(self) -> int:
        """Bytes from the first bitmap to the descriptors."""
        return self.bitmap_blocks * self.block_size

    @property
    def bitmap_offset(self) -> int:
        """The file offset of the first bitmap."""
        return (1 + self.sub_header_blocks) * self.block_size

    @property
    def descriptor_offset(self) -> int:
        """The file offset of the page descriptors."""
        return self.bitmap_offset + self.bitmap_bytes

    @property
    def compressions(self) -> list[str]:
        """The compressions that the status names; more than one makes no sense."""
        return [pages.NAMES[flag] for flag in _STATUS_COMPRESSIONS if self.status & flag]

    @property
    def compression(self) -> str:
        """The compression that the writer was asked for."""
        return next(iter(self.compressions), "none")

    @property
    def machine(self) -> str:
        """The machine as uname -m gave it; QEMU writes S390X."""
        named = self.utsname.text("machine")
        return named.lower() if self.utsname.only_machine and named != UNKNOWN_MACHINE else named


def read_header(source: DumpSource) -> Header:
    """Return the header with what is odd about it. Raise Unreadable when the layout cannot be known."""
    damage: list[Damage] = []
    block = read_exactly(source, 0, _HEADER["little"].size, "the dump header")
    # The writer's byte order; no other field is as small.
    order: ByteOrder = "big" if 1 <= int.from_bytes(block[8:12], "big") <= LATEST_VERSION else "little"
    fields = _HEADER[order].unpack(block)
    version = fields[1]
    status, block_size, sub_header_blocks, bitmap_blocks, max_mapnr_32 = fields[4:9]
    if not 1 <= version <= LATEST_VERSION:
        raise _bad_header(f"header version {version} is not one of 1 to {LATEST_VERSION}", 8)
    if block_size not in PAGE_SIZES:
        raise _bad_header(f"block size {block_size:,} is not a page size", 428)
    if not 0 < sub_header_blocks <= _MAX_SUB_HEADER_BYTES // block_size:
        raise _bad_header(f"sub-header of {sub_header_blocks:,} blocks", 432)
    layout = _SUB_HEADER[order]
    sub = layout.unpack(read_exactly(source, block_size, layout.size, "the dump sub-header"))
    max_mapnr = sub[13] if version >= 6 else max_mapnr_32
    if not 0 < max_mapnr <= MAX_PFNS:
        raise _bad_header(f"the dump claims {max_mapnr:,} page frames", block_size + 96 if version >= 6 else 440)
    needed_blocks = 2 * -(-max_mapnr // (8 * block_size))
    if bitmap_blocks != needed_blocks:
        message = f"{max_mapnr:,} page frames need {needed_blocks:,} bitmap blocks, the header has {bitmap_blocks:,}"
        raise _bad_header(message, 436)
    if version >= 6 and max_mapnr_32 != min(max_mapnr, 0xFFFFFFFF):
        message = f"the header has {max_mapnr_32:,} page frames, the sub-header {max_mapnr:,}"
        damage.append(Damage("header", message, 440))
    start_pfn, end_pfn = (sub[11], sub[12]) if version >= 6 else (sub[3], sub[4])
    split = version >= 2 and sub[2] != 0
    if split and not start_pfn <= end_pfn <= max_mapnr:
        message = f"a split dump with the page frames {start_pfn:,} to {end_pfn:,} of {max_mapnr:,}"
        raise _bad_header(message, block_size + (80 if version >= 6 else 16))
    return Header(
        byte_order=order,
        version=version,
        utsname=Utsname(block[UTSNAME_AT : UTSNAME_AT + Utsname.BYTES]),
        status=status,
        block_size=block_size,
        sub_header_blocks=sub_header_blocks,
        bitmap_blocks=bitmap_blocks,
        max_mapnr=max_mapnr,
        max_mapnr_32=max_mapnr_32,
        header_cpus=fields[13],
        phys_base=sub[0],
        level=sub[1] if version >= 1 else None,
        split=split,
        start_pfn=start_pfn if split else 0,
        end_pfn=end_pfn if split else max_mapnr,
        vmcoreinfo=(sub[5], sub[6]) if version >= 3 else None,
        note=(sub[7], sub[8]) if version >= 4 else None,
        eraseinfo=(sub[9], sub[10]) if version >= 5 else None,
        damage=tuple(damage),
    )


def _bad_header(message: str, offset: int) -> Unreadable:
    return Unreadable(Damage("header", message, offset))


class KdumpFile:
    """One file in kdump-compressed format; a whole dump, or one part of a split one."""

    def __init__(self, source: DumpSource) -> None:
        self.source = source
        self.header = header = read_header(source)
        self.page_size = header.block_size
        half = header.bitmap_bytes // 2
        self.ram = Bitmap(source, header.bitmap_offset, header.max_mapnr)
        self.dumped = Bitmap(source, header.bitmap_offset + half, header.max_mapnr)
        self._descriptor = DESCRIPTOR.newbyteorder("<" if header.byte_order == "little" else ">")
        self._unpacker = pages.Unpacker(self.page_size)

    @property
    def descriptors(self) -> int:
        """The number of page descriptors that this file must have."""
        if not self.header.split:
            return self.dumped.count
        return self.dumped.rank(self.header.end_pfn) - self._first_rank

    @property
    def table_end(self) -> int:
        """The file offset at which the page descriptors end."""
        return self.header.descriptor_offset + self.descriptors * DESCRIPTOR.itemsize

    @property
    def data_offset(self) -> int:
        """The file offset of the page data; parts of a split dump leave room for the descriptors of all pages."""
        return self.header.descriptor_offset + self.dumped.count * DESCRIPTOR.itemsize

    @property
    def zero_page_bytes(self) -> int:
        """The size of the page of zeros in front of the data, which empty pages share if the level has bit 0."""
        return self.page_size if (self.header.level or 0) & 1 else 0

    @property
    def _first_rank(self) -> int:
        return self.dumped.rank(self.header.start_pfn) if self.header.split else 0

    def pfn_of(self, index: int) -> int:
        """Return the page frame of the index-th descriptor in this file."""
        return self.dumped.select(self._first_rank + index)

    def index_of(self, pfn: int) -> int:
        """Return the index of the descriptor of a page frame, or of the next one that is in the dump."""
        return self.dumped.rank(pfn) - self._first_rank

    def holds(self, pfn: int) -> bool:
        """Return whether this file has the page."""
        return self.header.start_pfn <= pfn < self.header.end_pfn and pfn in self.dumped

    def table(self, first: int, count: int) -> NDArray[np.void]:
        """Return count descriptors from the first-th one on; fewer where the file ends."""
        size_bytes = DESCRIPTOR.itemsize
        raw = self.source.read(self.header.descriptor_offset + first * size_bytes, count * size_bytes)
        stored = np.frombuffer(raw, dtype=self._descriptor, count=len(raw) // size_bytes)
        return stored.astype(DESCRIPTOR, copy=False)

    def descriptor(self, pfn: int) -> tuple[int, int, int]:
        """Return offset, stored size and flags of a page, unchecked."""
        if not self.holds(pfn):
            raise NotInDump(f"page frame {pfn:#x} is not in the dump")
        index = self.index_of(pfn)
        table = self.table(index, 1)
        if not len(table):
            raise BadPage(f"page frame {pfn:#x}: the file ends before its descriptor")
        offset, size, flags, _ = table[0].item()
        return offset, size, flags

    def read_page(self, pfn: int) -> bytes:
        """Return one page, decompressed. Raise NotInDump when it was filtered out, BadPage when it is damaged."""
        offset, size, flags = self.descriptor(pfn)
        if flags not in pages.NAMES or not 0 < size <= self.page_size or offset <= 0:
            message = f"impossible descriptor (offset {offset:,}, {size:,} bytes, flags {flags:#x})"
            raise BadPage(f"page frame {pfn:#x}: {message}")
        try:
            return self.stored_page(offset, size, flags)
        except BadPage as error:
            raise BadPage(f"page frame {pfn:#x} {error}") from None

    def stored_page(self, offset: int, size: int, flags: int) -> bytes:
        """Return the page that a possible descriptor names, decompressed. Raise BadPage when it is damaged."""
        stored = self.source.read(offset, size)
        if len(stored) != size:
            raise BadPage("has its data outside the file")
        return self._unpacker.page(flags, stored)

    def notes(self) -> notes.Notes | None:
        """Return the ELF notes; None when this header version has none or they are not in the file."""
        if self.header.note is None:
            return None
        offset, size = self.header.note
        if not 0 < size <= notes.MAX_BYTES or offset <= 0 or offset + size > self.source.size_bytes:
            return None
        machine = machines().get(self.header.machine)
        return notes.parse(
            self.source.read(offset, size),
            self.header.byte_order,
            kernel_fpregs=machine is not None and machine.kernel_fpregs,
        )
