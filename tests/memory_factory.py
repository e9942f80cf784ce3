"""Writes dumps of small machines with the struct pages of their memory."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vmcore_factory import PAGE, VMCOREINFO, VMCOREINFO_OF_ALL, Kdump, elf, text_page

KERNEL_MAP = 0xFFFFFFFF80000000
STRUCT = 64
SECTION_FRAMES = 1024
NOT_A_TYPE = 0xFFFFFFFF
ROOTS, SECTIONS, STRUCTS = 1, 2, 3  # page frames of the tables; the struct pages follow
ANON, CACHE_MAPPING = 0xFFFF888000001001, 0xFFFF888000001008


@dataclass(frozen=True, kw_only=True)
class Space:
    """The address space of a machine: where the kernel sees physical address 0, and how it writes numbers."""

    machine: str = "x86_64"
    base: int = KERNEL_MAP
    order: str = "<"
    page: int = PAGE
    section_bits: int = 22
    more: str = ""  # lines of VMCOREINFO
    segments_at: int = 0  # page frame of a segment table of s390x that maps the memory to itself

    def tables(self) -> dict[int, bytes]:
        """Return the page frames of the segment table; each of 2,048 entries but the last maps 1 MiB."""
        if not self.segments_at:
            return {}
        entries = b"".join(struct.pack(">Q", number << 20 | 0x400) for number in range(2047)) + struct.pack(">Q", 0x20)
        return {self.segments_at + number: entries[number * PAGE : (number + 1) * PAGE] for number in range(4)}


SPACES = {
    "x86_64": Space(),
    "aarch64-16k": Space(
        machine="aarch64", base=0xFFFF800000000000, page=16384, section_bits=24,
        more="NUMBER(VA_BITS)=47\nNUMBER(PHYS_OFFSET)=0x0\nNUMBER(kimage_voffset)=0xffffc00000000000\n"
        "SYMBOL(swapper_pg_dir)=ffffc00001000000\n",
    ),
    "ppc64le-64k": Space(
        machine="ppc64le", base=0xC000000000000000, page=65536, section_bits=26,
        more="NUMBER(RADIX_MMU)=1\nSYMBOL(swapper_pg_dir)=c000000001000000\n",
    ),
    "riscv64": Space(
        machine="riscv64", base=0xFFFFAF8000000000,
        more="NUMBER(VA_BITS)=48\nNUMBER(PAGE_OFFSET)=0xffffaf8000000000\nNUMBER(phys_ram_base)=0\n"
        "NUMBER(KERNEL_LINK_ADDR)=0xffffffff80000000\nSYMBOL(swapper_pg_dir)=ffffffff80001000\n",
    ),
    "s390x": Space(
        machine="s390x", base=0, order=">", segments_at=0x700,
        more="SYMBOL(lowcore_ptr)=1000\nSYMBOL(swapper_pg_dir)=700000\n",
    ),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """The marks by which a kernel classifies pages."""

    lru: int
    private: int
    swapcache: int
    swapbacked: int
    head: int
    slab: int = 0
    hwpoison: int = 0
    buddy: int = 0xFFFFFF7F
    slab_type: int = NOT_A_TYPE
    offline_type: int = 0xFFFFFEFF
    unaccepted_type: int = NOT_A_TYPE
    hugetlb_type: int | None = None
    order_at: int = 0  # in the struct page behind the head's
    dtor_at: int | None = None
    hugetlb_flag: int = 0
    folio: bool = False  # order and destructor are members of struct folio
    tail_member: str = "compound_head"

    def vmcoreinfo(self, space: Space) -> str:
        """Return the lines that this kernel would export."""

        def bit(mask: int) -> int:
            return mask.bit_length() - 1

        def signed(value: int) -> int:
            return value - (1 << 32) if value >> 31 else value

        numbers = {
            "PG_lru": bit(self.lru), "PG_private": bit(self.private), "PG_swapcache": bit(self.swapcache),
            "PG_swapbacked": bit(self.swapbacked), "PG_head_mask": self.head,
            "PAGE_BUDDY_MAPCOUNT_VALUE": signed(self.buddy), "PAGE_OFFLINE_MAPCOUNT_VALUE": signed(self.offline_type),
            "SECTION_SIZE_BITS": space.section_bits, "MAX_PHYSMEM_BITS": space.section_bits + 24,
        }  # fmt: skip
        optional = {
            "PG_slab": bit(self.slab), "PG_hwpoison": bit(self.hwpoison), "PG_hugetlb": bit(self.hugetlb_flag),
        }  # fmt: skip
        numbers |= {name: number for name, number in optional.items() if number >= 0}
        types = {"SLAB": self.slab_type, "UNACCEPTED": self.unaccepted_type, "HUGETLB": self.hugetlb_type or NOT_A_TYPE}
        numbers |= {f"PAGE_{n}_MAPCOUNT_VALUE": signed(value) for n, value in types.items() if value != NOT_A_TYPE}
        offsets = {"flags": 0, self.tail_member: 8, "mapping": 24, "private": 40, "_mapcount": 48}
        if self.dtor_at is not None:
            numbers["HUGETLB_PAGE_DTOR"] = 2
        folio = {"_folio_dtor": self.dtor_at, "_folio_order": self.order_at} if self.folio else {}
        if self.dtor_at is not None and not self.folio:
            offsets |= {"compound_dtor": self.dtor_at, "compound_order": self.order_at}
        return "".join(
            [
                f"SYMBOL(mem_section)={space.base + ROOTS * space.page:x}\n",
                f"LENGTH(mem_section)={(1 << 24) * 16 // space.page}\n",
                "SIZE(mem_section)=16\nOFFSET(mem_section.section_mem_map)=0\n",
                f"SIZE(page)={STRUCT}\nLENGTH(zone.free_area)=11\n",
                *(f"OFFSET(page.{name})={offset}\n" for name, offset in offsets.items()),
                *(f"OFFSET(folio.{name})={STRUCT + offset}\n" for name, offset in folio.items() if offset is not None),
                *(f"NUMBER({name})={number}\n" for name, number in numbers.items()),
            ]
        )


KERNELS = {
    "5.10": Kernel(
        lru=1 << 4, private=1 << 13, swapcache=1 << 10, swapbacked=1 << 19, head=1 << 16, slab=1 << 9, order_at=17,
        dtor_at=16,
    ),
    "6.3": Kernel(
        lru=1 << 4, private=1 << 13, swapcache=1 << 10, swapbacked=1 << 19, head=1 << 16, slab=1 << 9, order_at=17,
        dtor_at=16, folio=True,
    ),
    "6.6": Kernel(
        lru=1 << 5, private=1 << 14, swapcache=1 << 10, swapbacked=1 << 18, head=1 << 6, slab=1 << 8,
        hwpoison=1 << 21, hugetlb_flag=1 << 8,
    ),
    "6.12": Kernel(
        lru=1 << 5, private=1 << 14, swapcache=1 << 10, swapbacked=1 << 17, head=1 << 6, hwpoison=1 << 20,
        buddy=0xF0000000, slab_type=0xF5000000, offline_type=0xF1000000, hugetlb_type=0xF4000000,
    ),
    "7.2": Kernel(
        lru=1 << 5, private=1 << 14, swapcache=1 << 10, swapbacked=1 << 17, head=1 << 6, hwpoison=1 << 21,
        buddy=0xF0000000, slab_type=0xF5000000, offline_type=0xF1000000, hugetlb_type=0xF4000000,
        unaccepted_type=0xF7000000, tail_member="compound_info",
    ),
}  # fmt: skip


@dataclass
class Memory:
    """The struct pages of a small machine, to be set one by one, and the dump of it."""

    kernel: Kernel
    frames: int = 2 * SECTION_FRAMES
    space: Space = field(default_factory=Space)
    online: bool = False
    absent_structs: Iterable[int] = ()  # page frames whose struct page is not in the dump
    structs: dict[int, bytes] = field(default_factory=dict)

    def set(
        self, pfn: int, *, flags: int = 0, head: int = 0, mapping: int = 0, private: int = 0, type: int = NOT_A_TYPE
    ) -> None:
        """Write a struct page."""
        self.structs[pfn] = struct.pack(self.space.order + "QQQQQQII8x", flags, head, 0, mapping, 0, private, type, 1)

    def compound(self, pfn: int, order: int, *, hugetlb: bool = False, tail_mapping: int = 0, **head: int) -> None:
        """Write a compound page."""
        kernel = self.kernel
        if hugetlb and kernel.hugetlb_type is not None:
            head["type"] = kernel.hugetlb_type
        head["flags"] = head.get("flags", 0) | kernel.head
        self.set(pfn, **head)
        for tail in range(pfn + 1, pfn + (1 << order)):
            self.set(tail, head=0xFFFFEA0000000001, mapping=tail_mapping)
        second = bytearray(self.structs[pfn + 1])
        second[self._low_byte(kernel.order_at)] = order
        if kernel.dtor_at is not None:
            second[kernel.dtor_at] = 2 if hugetlb else 1
        elif hugetlb and kernel.hugetlb_flag:
            second[1 if self.space.order == "<" else 6] |= kernel.hugetlb_flag >> 8
        self.structs[pfn + 1] = bytes(second)

    def _low_byte(self, at: int) -> int:
        """Return the place of an order, which new kernels keep in the low byte of the flags."""
        return 7 if at == 0 and self.space.order == ">" else at

    def claim_order(self, pfn: int, order: int) -> None:
        """Let a head claim an order, in the struct page behind its own."""
        second = bytearray(self.structs[pfn + 1])
        second[self._low_byte(self.kernel.order_at)] = order
        self.structs[pfn + 1] = bytes(second)

    def free(self, pfn: int, order: int) -> None:
        """Write the head of a free block; the rest of it has no mark."""
        self.set(pfn, type=self.kernel.buddy, private=order)

    def tables(self) -> dict[int, bytes]:
        """Return the page frames that hold section table, struct pages and page tables."""
        space, page = self.space, self.space.page
        per_section = SECTION_FRAMES * STRUCT
        sections = -(-self.frames // SECTION_FRAMES)
        # Coded as if the array of each section began at page frame 0, with the flags "present", "has a map", "online".
        coded = [(space.base + STRUCTS * page) | (7 if self.online else 3) for _ in range(sections)]
        memory = bytearray(sections * per_section)
        for pfn, raw in self.structs.items():
            memory[pfn * STRUCT : (pfn + 1) * STRUCT] = raw
        pages = {
            STRUCTS + at // page: bytes(memory[at : at + page]).ljust(page, b"\0") for at in range(0, len(memory), page)
        }
        for pfn in self.absent_structs:
            pages.pop(STRUCTS + pfn * STRUCT // page, None)
        roots = struct.pack(space.order + "Q", space.base + SECTIONS * page).ljust(page, b"\0")
        table = b"".join(struct.pack(space.order + "QQ", c, 0) for c in coded).ljust(page, b"\0")
        return {ROOTS: roots, SECTIONS: table, **pages, **space.tables()}

    def dump(
        self,
        *,
        level: int = 31,
        kept: Iterable[int] = (),
        ram: Sequence[int] | None = None,
        zeros: Iterable[int] = (),
        more: str = "",
        **other: Any,
    ) -> bytes:
        """Return a kdump-compressed dump with the tables, some pages of text, and some of zeros."""
        page, space = self.space.page, self.space
        pages = {pfn: text_page(pfn, page) for pfn in kept} | {pfn: bytes(page) for pfn in zeros} | self.tables()
        text = self.kernel.vmcoreinfo(space) + space.more + more
        last = max(self.frames, *pages)
        ram = range(self.frames) if ram is None else ram
        if space.machine != "x86_64":
            other.setdefault("vmcoreinfo", VMCOREINFO_OF_ALL.format(page_size=page, more=text).encode())
        return Kdump(
            pages=pages, level=level, max_mapnr=last, ram=ram, more_vmcoreinfo=text, machine=space.machine,
            order=space.order, page_size=page, **other,
        ).build()  # fmt: skip

    def as_elf(self, claimed_bytes: int = PAGE, pages: Mapping[int, bytes] | None = None) -> bytes:
        """Return the tables and some more pages as an ELF dump; its RAM ends with claimed_bytes."""
        all_pages = {self.frames - 1: bytes(PAGE), **(pages or {}), **self.tables()}
        segments = [(pfn * PAGE, page) for pfn, page in sorted(all_pages.items())]
        sizes = [PAGE] * (len(segments) - 1) + [claimed_bytes]
        text = VMCOREINFO.format(page_size=PAGE, more=self.kernel.vmcoreinfo(Space())).encode()
        return elf(segments, memory_bytes=sizes, vmcoreinfo=text)
