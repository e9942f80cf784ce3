"""The kernel's address space on each machine: what lies at a fixed distance, and what page tables map."""

from __future__ import annotations

import re
from collections.abc import Callable

from ..formats.damage import NotInDump, VmcoreError
from ..formats.vmcoreinfo import Vmcoreinfo
from .tables import ENTRY_BYTES, PageTables, ReadPhys

Translate = Callable[[int], int]

_MASK64 = (1 << 64) - 1
_X86_KERNEL_MAP = 0xFFFFFFFF80000000  # __START_KERNEL_map
_PPC_LINEAR = 0xC000000000000000
_PPC_VIRTUAL = 0xC008000000000000  # vmalloc and what is above
_PPC_VIRTUAL_HASH_4K = 0xC0003D0000000000
_PPC_MAX_BACKINGS = 1 << 20
_S390_TYPE = 0xC


def translator(machine: str, info: Vmcoreinfo, read_phys: ReadPhys, *, phys_base: int | None = None) -> Translate:
    """Return a function from kernel virtual to physical address; it raises NotInDump for an unmapped one.

    phys_base is the sub-header's, for kernels that do not export it.
    """
    if machine not in _TRANSLATIONS:
        raise VmcoreError(f"no address translation for machine {machine or 'unknown'!r}")
    return _TRANSLATIONS[machine](info, read_phys, phys_base)


def _x86_64(info: Vmcoreinfo, read_phys: ReadPhys, sub_header_base: int | None) -> Translate:
    """Return the translation with 4 or 5 levels of page tables."""
    phys_base = info.number("phys_base", sub_header_base)
    # KERNEL_IMAGE_SIZE is 1 GiB with KASLR, 512 MiB without, and exported since 4.7.
    image_bytes = info.number("KERNEL_IMAGE_SIZE", 1 << 30)
    # init_level4_pgt was renamed in 4.13.
    name = "init_top_pgt" if "SYMBOL(init_top_pgt)" in info else "init_level4_pgt"
    if f"SYMBOL({name})" not in info:
        name = "swapper_pg_dir"

    def image(address: int) -> int:
        return (address - _X86_KERNEL_MAP + phys_base) & _MASK64

    walk = PageTables(
        "x86_64",
        read_phys,
        top=image(info.symbol(name)),
        levels=5 if info.number("pgtable_l5_enabled", 0) else 4,
        ignored=info.number("sme_mask", 0),
    )

    def translate(address: int) -> int:
        in_image = _X86_KERNEL_MAP <= address < _X86_KERNEL_MAP + image_bytes
        return image(address) if in_image else walk(address)

    return translate


def _aarch64(info: Vmcoreinfo, read_phys: ReadPhys, _phys_base: int | None) -> Translate:
    """Return kernel image and linear map by arithmetic, the rest through swapper_pg_dir."""
    page_size = info.integer("PAGESIZE") or 4096
    index_bits = page_size.bit_length() - 4
    config_bits = info.number("VA_BITS")
    # A kernel for 52 bits uses fewer on a processor that lacks them.
    bits = 64 - info.number("TCR_EL1_T1SZ") if "NUMBER(TCR_EL1_T1SZ)" in info else config_bits
    if not 36 <= bits <= 52 or not bits <= config_bits <= 52:
        raise VmcoreError(f"VMCOREINFO: impossible number of address bits, {bits} of {config_bits}")
    # Linux 5.4 moved the linear map from the upper to the lower half of the kernel's addresses.
    linear_is_low = _release(info) >= (5, 4)
    page_offset = -(1 << (config_bits if linear_is_low else config_bits - 1)) & _MASK64
    phys_offset = info.number("PHYS_OFFSET", 0)
    voffset = info.number("kimage_voffset") & _MASK64
    large = page_size == 65536
    walk = PageTables(
        "aarch64-lpa" if large else "aarch64-lpa2" if bits > 48 else "aarch64",
        read_phys,
        top=(info.symbol("swapper_pg_dir") - voffset) & _MASK64,
        levels=-(-(bits - (index_bits + 3)) // index_bits),
        page_size=page_size,
        # With pages of 64 KiB, the table for 52 bits is used for 48 too: from its end.
        top_bits=config_bits if large else bits,
    )

    def translate(address: int) -> int:
        if address >> bits != _MASK64 >> bits:
            raise NotInDump(f"{address:#x} is not a kernel address")
        if bool(address >> (bits - 1) & 1) != linear_is_low:
            return (address - page_offset + phys_offset) & _MASK64
        try:
            return walk(address)
        except NotInDump:
            # Page tables can be missing from a damaged or shrunken dump; the image needs none.
            return (address - voffset) & _MASK64

    return translate


def _ppc64le(info: Vmcoreinfo, read_phys: ReadPhys, _phys_base: int | None) -> Translate:
    """Return the linear map by arithmetic, and the rest by tables; with a hash MMU, a list has the memory map."""
    page_size = info.integer("PAGESIZE") or 65536
    if _release(info) < (4, 17):
        raise VmcoreError("no address translation for ppc64le kernels before 4.17")

    def linear(address: int) -> int:
        if address >> 60 != _PPC_LINEAR >> 60:
            raise NotInDump(f"{address:#x} is not in the linear map")
        return address - _PPC_LINEAR

    def variable(name: str, size_bytes: int) -> int:
        return info.unsigned(read_phys(linear(info.symbol(name)), size_bytes))

    top = linear(info.symbol("swapper_pg_dir"))
    if "NUMBER(RADIX_MMU)" in info:
        radix = bool(info.number("RADIX_MMU"))
    else:  # before 6.9; with a hash MMU, the tables do not have the linear map, to which the first entry would lead
        radix = bool(read_phys(top, 1)[0] & 0x80)
    lowest = _PPC_VIRTUAL if radix or page_size == 65536 else _PPC_VIRTUAL_HASH_4K
    lowest = info.number("vmalloc_start", lowest) & _MASK64
    walk = PageTables(
        "ppc64le-radix" if radix else "ppc64le-hash",
        read_phys,
        top=top,
        levels=4,
        page_size=page_size,
    )
    backed: dict[int, int] = {}
    backing_bits = 0
    if not radix:
        size = variable("mmu_vmemmap_psize", 4) * info.size("mmu_psize_def") + info.offset("mmu_psize_def.shift")
        backing_bits = info.unsigned(read_phys(linear(info.symbol("mmu_psize_defs")) + size, 4))
        backed = _vmemmap_backing(info, read_phys, linear, variable("vmemmap_list", 8), backing_bits)

    def translate(address: int) -> int:
        if _PPC_LINEAR <= address < lowest:
            return linear(address)
        if (found := backed.get(address >> backing_bits)) is not None:
            return found + (address & (1 << backing_bits) - 1)
        return walk(address)

    return translate


def _vmemmap_backing(
    info: Vmcoreinfo, read_phys: ReadPhys, linear: Translate, at: int, backing_bits: int
) -> dict[int, int]:
    """Return the physical address of each block of the memory map, by the block's number."""
    size_bytes = info.size("vmemmap_backing")
    phys, virtual, following = (info.offset(f"vmemmap_backing.{name}") for name in ("phys", "virt_addr", "list"))
    if not 12 <= backing_bits <= 34 or not all(0 <= each <= size_bytes - 8 for each in (phys, virtual, following)):
        raise VmcoreError("VMCOREINFO: impossible layout of the list of the memory map")
    found: dict[int, int] = {}
    while at and len(found) < _PPC_MAX_BACKINGS:
        block = read_phys(linear(at), size_bytes)
        number = info.unsigned(block[virtual : virtual + 8]) >> backing_bits
        if number in found:
            break
        found[number] = info.unsigned(block[phys : phys + 8])
        at = info.unsigned(block[following : following + 8])
    return found


def _riscv64(info: Vmcoreinfo, read_phys: ReadPhys, _phys_base: int | None) -> Translate:
    """Return linear map and kernel image by arithmetic, the rest through swapper_pg_dir."""
    bits = info.number("VA_BITS")
    if bits not in (39, 48, 57):
        raise VmcoreError(f"VMCOREINFO: impossible number of address bits, {bits}")
    page_offset, image = info.number("PAGE_OFFSET") & _MASK64, info.number("KERNEL_LINK_ADDR") & _MASK64
    linear_end = min(info.number("MODULES_VADDR", image) & _MASK64, image)
    phys_base = info.number("phys_ram_base")
    # Exported since 6.5; before, the image begins with the RAM.
    offset = info.number("va_kernel_pa_offset", image + info.hexadecimal("KERNELOFFSET") - phys_base)
    top = (info.symbol("swapper_pg_dir") - offset) & _MASK64
    walk = PageTables("riscv64", read_phys, top=top, levels=(bits - 12) // 9)

    def translate(address: int) -> int:
        if page_offset <= address < linear_end:
            return address - page_offset + phys_base
        try:
            return walk(address)
        except NotInDump:
            if address < image:
                raise
            return (address - offset) & _MASK64

    return translate


def _s390x(info: Vmcoreinfo, read_phys: ReadPhys, _phys_base: int | None) -> Translate:
    """Return the kernel image by arithmetic, the rest by tables, which map all of memory."""
    apart = "KERNELOFFPHYS" in info  # since 6.10, addresses of image and identity mapping are not physical ones
    image = info.hexadecimal("KERNELOFFSET") if apart else 0
    offset = image - info.hexadecimal("KERNELOFFPHYS") if apart else 0
    top = info.symbol("swapper_pg_dir") - offset
    # All entries of the highest table, also unused ones, name its type.
    kind = info.unsigned(read_phys(top, ENTRY_BYTES)) & _S390_TYPE
    walk = PageTables("s390x", read_phys, top=top, levels=2 + (kind >> 2))

    def translate(address: int) -> int:
        return address - offset if apart and address >= image else walk(address)

    return translate


def _release(info: Vmcoreinfo) -> tuple[int, int]:
    found = re.match(r"(\d{1,4})\.(\d{1,4})", info.get("OSRELEASE", ""))
    return (int(found[1]), int(found[2])) if found else (0, 0)


_TRANSLATIONS: dict[str, Callable[[Vmcoreinfo, ReadPhys, int | None], Translate]] = {
    "x86_64": _x86_64,
    "aarch64": _aarch64,
    "ppc64le": _ppc64le,
    "riscv64": _riscv64,
    "s390x": _s390x,
}
