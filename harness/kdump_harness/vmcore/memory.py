"""Kernel virtual addresses to physical ones, from VMCOREINFO and the dump's own page tables."""

from __future__ import annotations

import re
from collections.abc import Callable

from .formats.damage import NotInDump, NotMapped, VmcoreError
from .formats.vmcoreinfo import Vmcoreinfo

ReadPhys = Callable[[int, int], bytes]
Translate = Callable[[int], int]

_MASK64 = (1 << 64) - 1
_X86_KERNEL_MAP = 0xFFFFFFFF80000000  # __START_KERNEL_map
_X86_ADDRESS_BITS = 0x000FFFFFFFFFF000
_X86_PRESENT = 1 << 0
_X86_LARGE = 1 << 7
_X86_PROTNONE = 1 << 8
_ARM_VALID = 1 << 0
_ARM_TABLE = 1 << 1


def translator(machine: str, info: Vmcoreinfo, read_phys: ReadPhys, *, phys_base: int | None = None) -> Translate:
    """Return a function from kernel virtual to physical address; it raises NotInDump for an unmapped one.

    phys_base is the sub-header's, for kernels that do not export it.
    """
    if machine == "x86_64":
        return _X86(info, read_phys, phys_base)
    if machine == "aarch64":
        return _Arm(info, read_phys)
    raise VmcoreError(f"no address translation for machine {machine or 'unknown'!r}")


def _entry(read_phys: ReadPhys, address: int) -> int:
    data = read_phys(address, 8)
    if len(data) != 8:
        raise NotInDump(f"page table entry at {address:#x} is not in the dump")
    return int.from_bytes(data, "little")


class _X86:
    """x86_64 with 4 or 5 levels of page tables."""

    def __init__(self, info: Vmcoreinfo, read_phys: ReadPhys, phys_base: int | None) -> None:
        self._read_phys = read_phys
        self._phys_base = info.number("phys_base", phys_base)
        # KERNEL_IMAGE_SIZE is 1 GiB with KASLR, 512 MiB without, and exported since 4.7.
        self._image_bytes = info.number("KERNEL_IMAGE_SIZE", 1 << 30)
        self._levels = 5 if info.number("pgtable_l5_enabled", 0) else 4
        self._sme_mask = info.number("sme_mask", 0)
        # init_level4_pgt was renamed in 4.13.
        name = "init_top_pgt" if "SYMBOL(init_top_pgt)" in info else "init_level4_pgt"
        if f"SYMBOL({name})" not in info:
            name = "swapper_pg_dir"
        self._top = self._image_address(info.symbol(name))

    def _image_address(self, address: int) -> int:
        return (address - _X86_KERNEL_MAP + self._phys_base) & _MASK64

    def __call__(self, address: int) -> int:
        if _X86_KERNEL_MAP <= address < _X86_KERNEL_MAP + self._image_bytes:
            return self._image_address(address)
        table = self._top
        for level in range(self._levels, 0, -1):
            shift = 12 + 9 * (level - 1)
            entry = _entry(self._read_phys, table + (address >> shift & 0x1FF) * 8) & ~self._sme_mask
            if not entry & (_X86_PRESENT | _X86_PROTNONE):
                break
            inside = (1 << shift) - 1
            if level == 1 or (level <= 3 and entry & _X86_LARGE):
                return (entry & _X86_ADDRESS_BITS & ~inside) | (address & inside)
            table = entry & _X86_ADDRESS_BITS
        raise NotMapped(f"kernel address {address:#x} is not mapped")


class _Arm:
    """aarch64: kernel image and linear map by arithmetic, the rest through swapper_pg_dir."""

    def __init__(self, info: Vmcoreinfo, read_phys: ReadPhys) -> None:
        self._info = info
        self._read_phys = read_phys
        config_bits = info.number("VA_BITS")
        self._bits = 64 - info.number("TCR_EL1_T1SZ") if "NUMBER(TCR_EL1_T1SZ)" in info else config_bits
        self._page_offset = (-(1 << config_bits)) & _MASK64
        self._phys_offset = info.number("PHYS_OFFSET", 0)
        self._voffset = info.number("kimage_voffset") & _MASK64
        # Linux 5.4 moved the linear map from the upper to the lower half of the kernel's addresses.
        self._linear_is_low = _release(info) >= (5, 4)
        if not 36 <= self._bits <= 52:
            raise VmcoreError(f"VMCOREINFO: impossible number of address bits, {self._bits}")
        if not self._linear_is_low:
            self._page_offset = (-(1 << (config_bits - 1))) & _MASK64
        self._page_shift = (info.integer("PAGESIZE") or 4096).bit_length() - 1

    def __call__(self, address: int) -> int:
        if address >> self._bits != _MASK64 >> self._bits:
            raise NotInDump(f"{address:#x} is not a kernel address")
        upper_half = bool(address >> (self._bits - 1) & 1)
        if upper_half != self._linear_is_low:
            return (address - self._page_offset + self._phys_offset) & _MASK64
        try:
            return self._walk(address)
        except NotInDump:
            # Page tables can be missing from a damaged or shrunken dump; the image needs none.
            return (address - self._voffset) & _MASK64

    def _walk(self, address: int) -> int:
        page_shift = self._page_shift
        index_bits = page_shift - 3
        table = (self._info.symbol("swapper_pg_dir") - self._voffset) & _MASK64
        levels = -(-(self._bits - page_shift) // index_bits)
        for level in range(levels, 0, -1):
            shift = page_shift + index_bits * (level - 1)
            bits = self._bits - shift if level == levels else index_bits
            entry = _entry(self._read_phys, table + (address >> shift & ((1 << bits) - 1)) * 8)
            if not entry & _ARM_VALID:
                break
            target = self._address_of(entry)
            if level == 1 or not entry & _ARM_TABLE:
                inside = (1 << shift) - 1
                return (target & ~inside) | (address & inside)
            table = target
        raise NotMapped(f"kernel address {address:#x} is not mapped")

    def _address_of(self, entry: int) -> int:
        address = entry & ((1 << 48) - 1) & ~((1 << self._page_shift) - 1)
        if self._bits > 48 and self._page_shift == 16:  # LPA: bits 51:48 of the address are in 15:12
            address |= (entry >> 12 & 0xF) << 48
        elif self._bits > 48:  # LPA2: bits 49:48 in place, 51:50 in 9:8
            address |= (entry >> 48 & 0x3) << 48 | (entry >> 8 & 0x3) << 50
        return address


def _release(info: Vmcoreinfo) -> tuple[int, int]:
    found = re.match(r"(\d{1,4})\.(\d{1,4})", info.get("OSRELEASE", ""))
    return (int(found[1]), int(found[2])) if found else (0, 0)
