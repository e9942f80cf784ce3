"""Dumps of other machines: byte order, registers, and page tables as their manuals describe them."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from kdump_harness.vmcore import inspect, open_vmcore
from kdump_harness.vmcore.formats.damage import NotInDump, NotMapped, VmcoreError
from kdump_harness.vmcore.formats.machines import machines
from kdump_harness.vmcore.formats.vmcoreinfo import Vmcoreinfo
from kdump_harness.vmcore.registers import cpu_states
from kdump_harness.vmcore.translation.machines import translator
from memory_factory import KERNELS, SPACES, Memory
from vmcore_factory import PAGE, VMCOREINFO_OF_ALL, Kdump, elf, flat_stream, flatten, note, text_page

TARGET = 0x2_3456_7000  # a physical address


@dataclass
class Ram:
    """Physical memory, 64 KiB by 64 KiB."""

    order: str = "little"
    blocks: dict[int, bytearray] = field(default_factory=dict)

    def put(self, address: int, number: int, order: str = "", size: int = 8) -> None:
        block = self.blocks.setdefault(address >> 16, bytearray(65536))
        block[(address & 0xFFFF) : (address & 0xFFFF) + size] = number.to_bytes(size, order or self.order)  # type: ignore[arg-type]

    def read(self, address: int, length: int) -> bytes:
        if address >> 16 not in self.blocks:
            raise NotInDump(f"{address:#x}")
        return bytes(self.blocks[address >> 16][address & 0xFFFF : (address & 0xFFFF) + length])

    def map(
        self,
        address: int,
        *,
        top: int,
        bits: Sequence[int],
        page_shift: int,
        table: Callable[[int, int], int],
        page: Callable[[int], int],
        order: str = "",
        stop: int = 0,
    ) -> int:
        """Write the entries that lead from the top table to TARGET; BITS select entries, from the top down.

        An entry that leaves STOP levels below it maps a larger page.
        """
        at, low = top, page_shift + sum(bits)
        for level, width in enumerate(bits):
            low -= width
            index = address >> low & (1 << width) - 1
            left = len(bits) - 1 - level
            following = 0x80_0000 + (level + 1) * 0x4_0000
            self.put(at + index * 8, page(TARGET & -(1 << low)) if left == stop else table(following, left), order)
            if left == stop:
                return TARGET & -(1 << low) | address & (1 << low) - 1
            at = following
        raise AssertionError


def high_bits_of_64k_pages(address: int) -> int:
    return address & 0xFFFF_FFFF_0000 | (address >> 48 & 0xF) << 12


def high_bits_of_lpa2(address: int) -> int:
    return address & 0x3_FFFF_FFFF_F000 | (address >> 50 & 3) << 8


# Page size, VA_BITS, bits in use, index bits from the top down.
ARM = {
    "4k-39": (4096, 39, 39, (9, 9, 9)),
    "4k-48": (4096, 48, 48, (9, 9, 9, 9)),
    "4k-52": (4096, 52, 52, (4, 9, 9, 9, 9)),
    "4k-52-on-48": (4096, 52, 48, (9, 9, 9, 9)),
    "16k-36": (16384, 36, 36, (11, 11)),
    "16k-47": (16384, 47, 47, (11, 11, 11)),
    "16k-48": (16384, 48, 48, (1, 11, 11, 11)),
    "16k-52": (16384, 52, 52, (5, 11, 11, 11)),
    "16k-52-on-47": (16384, 52, 47, (11, 11, 11)),
    "64k-42": (65536, 42, 42, (13, 13)),
    "64k-48": (65536, 48, 48, (6, 13, 13)),
    "64k-52": (65536, 52, 52, (10, 13, 13)),
    "64k-52-on-48": (65536, 52, 48, (10, 13, 13)),  # the 1,024 entries for 52 bits, of which the last 64 are used
}


@pytest.mark.parametrize("name", ARM)
@pytest.mark.parametrize("stop", [0, 1])
def test_arm64_page_tables_of_all_sizes(name: str, stop: int) -> None:
    page_size, config_bits, bits, index_bits = ARM[name]
    ram = Ram()
    image, voffset = 0x4020_0000, (-(1 << bits - 1) & (1 << 64) - 1) + 0x1000_0000
    info = Vmcoreinfo(
        {
            "OSRELEASE": "6.12.0",
            "PAGESIZE": str(page_size),
            "NUMBER(VA_BITS)": str(config_bits),
            "NUMBER(TCR_EL1_T1SZ)": hex(64 - bits),
            "NUMBER(PHYS_OFFSET)": hex(0x4000_0000 - (1 << config_bits) + (1 << bits)),
            "NUMBER(kimage_voffset)": hex(voffset),
            "SYMBOL(swapper_pg_dir)": f"{image + voffset:x}",
        }
    )
    encode = high_bits_of_64k_pages if page_size == 65536 else high_bits_of_lpa2 if bits == 52 else int
    high = 5 << 48 if bits == 52 else 0
    address = (-(1 << bits - 1) & (1 << 64) - 1) + 0x3_9876_5432
    found = ram.map(
        address,
        top=image,
        bits=index_bits,
        page_shift=page_size.bit_length() - 1,
        table=lambda to, _level: encode(to) | 3,
        page=lambda to: encode(to | high) | (3 if stop == 0 else 1) | 0x0060_0000_0000_0000,
        stop=stop,
    )
    translate = translator("aarch64", info, ram.read)
    assert translate(address) == found | high
    assert translate((-(1 << bits) & (1 << 64) - 1) + 0x12345) == 0x4001_2345  # the linear map


def test_arm64_on_a_kernel_of_fewer_bits_has_no_other_addresses() -> None:
    info = Vmcoreinfo({"OSRELEASE": "6.1.0", "NUMBER(VA_BITS)": "39", "NUMBER(TCR_EL1_T1SZ)": "0x10"})
    with pytest.raises(VmcoreError, match="48 of 39"):
        translator("aarch64", info, Ram().read)


PPC_HASH = {
    "SYMBOL(vmemmap_list)": "c000000001500000",
    "SYMBOL(mmu_psize_defs)": "c000000001500100",
    "SYMBOL(mmu_vmemmap_psize)": "c000000001500008",
    "SIZE(mmu_psize_def)": "72",
    "OFFSET(mmu_psize_def.shift)": "0",
    "SIZE(vmemmap_backing)": "24",
    "OFFSET(vmemmap_backing.list)": "0",
    "OFFSET(vmemmap_backing.phys)": "8",
    "OFFSET(vmemmap_backing.virt_addr)": "16",
}


@pytest.mark.parametrize("stop", [0, 1])
@pytest.mark.parametrize(
    ("page_size", "radix", "bits", "address"),
    [
        (65536, True, (13, 9, 9, 5), 0xC008_0123_4567_89AB),
        (4096, True, (13, 9, 9, 9), 0xC008_0123_4567_89AB),
        (65536, False, (8, 10, 10, 8), 0xC008_0123_4567_89AB),
        (4096, False, (9, 9, 7, 9), 0xC000_3D23_4567_89AB),
    ],
)
def test_ppc64le_page_tables(page_size: int, radix: bool, bits: tuple[int, ...], address: int, stop: int) -> None:
    """Entries are big endian on a little-endian kernel too."""
    ram = Ram()
    info = Vmcoreinfo(
        {
            "OSRELEASE": "6.1.0",
            "PAGESIZE": str(page_size),
            "NUMBER(RADIX_MMU)": str(int(radix)),
            "SYMBOL(swapper_pg_dir)": "c000000001600000",
            **PPC_HASH,
        }
    )
    ram.put(0x150_0000, 0xC000_0000_0170_0000)
    ram.put(0x150_0008, 2, size=4)
    ram.put(0x150_0100 + 2 * 72, 24, size=4)
    for at, following, phys, virtual in (
        (0x170_0000, 0xC000_0000_0170_0020, 0x7700_0000, 0xC00C_0000_0000_0000),
        (0x170_0020, 0, 0x8800_0000, 0xC00C_0000_0100_0000),
    ):
        for number, value in enumerate((following, phys, virtual)):
            ram.put(at + number * 8, value)
    found = ram.map(
        address,
        top=0x160_0000,
        bits=bits,
        page_shift=page_size.bit_length() - 1,
        table=lambda to, _level: to | (0x8000_0000_0000_000D if radix else 0),
        page=lambda to: to | 0xC000_0000_0000_0186,
        order="big",
        stop=stop,
    )
    translate = translator("ppc64le", info, ram.read)
    assert translate(address) == found
    assert translate(0xC000_0000_0123_4567) == 0x123_4567
    with pytest.raises(NotMapped):
        translate(address + (1 << 45))
    if not radix:
        assert translate(0xC00C_0000_0112_3456) == 0x8812_3456
        assert translate(0xC00C_0000_0012_3456) == 0x7712_3456


@pytest.mark.parametrize("radix", [True, False])
def test_a_ppc64le_kernel_that_does_not_name_its_mmu_is_known_by_its_tables(radix: bool) -> None:
    """Linux 6.1 exports neither; only radix tables have the linear map."""
    ram = Ram()
    info = Vmcoreinfo(
        {"OSRELEASE": "6.1.0", "PAGESIZE": "65536", "SYMBOL(swapper_pg_dir)": "c000000001600000", **PPC_HASH}
    )
    ram.put(0x150_0100, 24, size=4)
    ram.put(0x160_0000, 0x8000_0000_0170_000D if radix else 0, "big")
    ram.map(
        0xC008_0000_0000_0000,
        top=0x160_0000,
        bits=(13, 9, 9, 5) if radix else (8, 10, 10, 8),
        page_shift=16,
        table=lambda to, _level: to | (0x8000_0000_0000_000D if radix else 0),
        page=lambda to: to | 0xC000_0000_0000_0000,
        order="big",
    )
    assert translator("ppc64le", info, ram.read)(0xC008_0000_0000_0123) == TARGET & -65536 | 0x123


@pytest.mark.parametrize(
    ("bits", "page_offset"), [(39, 0xFFFFFFD600000000), (48, 0xFFFFAF8000000000), (57, 0xFF60000000000000)]
)
@pytest.mark.parametrize("stop", [0, 1])
def test_riscv64_page_tables(bits: int, page_offset: int, stop: int) -> None:
    ram = Ram()
    image = 0xFFFFFFFF80000000
    info = Vmcoreinfo(
        {
            "NUMBER(VA_BITS)": str(bits),
            "NUMBER(PAGE_OFFSET)": hex(page_offset),
            "NUMBER(phys_ram_base)": str(0x8000_0000),
            "NUMBER(KERNEL_LINK_ADDR)": hex(image),
            "NUMBER(MODULES_VADDR)": "0xffffffff01a00000",
            "NUMBER(va_kernel_pa_offset)": hex(image - 0x8020_0000),
            "SYMBOL(swapper_pg_dir)": "ffffffff81600000",
        }
    )
    address = page_offset - 0x1234_5678_9
    found = ram.map(
        address,
        top=0x8180_0000,
        bits=(9,) * ((bits - 12) // 9),
        page_shift=12,
        table=lambda to, _level: to >> 12 << 10 | 1,
        page=lambda to: to >> 12 << 10 | 0xE7 | 1 << 61,
        stop=stop,
    )
    translate = translator("riscv64", info, ram.read)
    assert translate(address) == found
    assert translate(page_offset + 0x12345) == 0x8001_2345
    assert translate(image + 0x12345) == 0x8021_2345  # the image, without page tables
    with pytest.raises(NotMapped):
        translate(address - (1 << 34))


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("stop", [0, 1, 2])
@pytest.mark.parametrize("levels", [3, 4])
def test_s390x_page_tables(apart: bool, stop: int, levels: int) -> None:
    """Tables of 2,048 entries, page tables of 256; since Linux 6.10 the image lies apart from physical addresses."""
    ram = Ram(order="big")
    top = 0x160_0000
    image = (1 << 20 + 11 * (levels - 1)) - (1 << 29)
    offset = image - 0x20_0000 if apart else 0
    kind = (levels - 2) << 2
    for entry in range(2048):
        ram.put(top + entry * 8, 0x20 | kind)
    lines = {"SYMBOL(swapper_pg_dir)": f"{top + offset:x}"}
    if apart:
        lines |= {"KERNELOFFSET": f"{image:x}", "KERNELOFFPHYS": f"{0x20_0000:x}", "IDENTITYBASE": "0"}
    info = Vmcoreinfo.parse("".join(f"{key}={value}\n" for key, value in lines.items()).encode(), "big")
    address = 0x380_1234_5678
    found = ram.map(
        address,
        top=top,
        bits=(11,) * (levels - 1) + (8,),
        page_shift=12,
        table=lambda to, left: to | (0 if left == 1 else (left - 1) << 2 | 3),
        page=lambda to: to | (0 if stop == 0 else 0x400 | (stop - 1) << 2),
        stop=stop,
    )
    translate = translator("s390x", info, ram.read)
    assert translate(address) == found
    with pytest.raises(NotMapped):
        translate(address ^ 1 << 31 + 11 * (levels - 3))
    if apart:
        assert translate(image + 0x123_4567) == 0x123_4567 + 0x20_0000


# All machines and page sizes: the dump is whole, and it is known for what it is.
@pytest.mark.parametrize("name", SPACES)
def test_a_dump_of_any_machine_is_whole(name: str, tmp_path: Path) -> None:
    memory = Memory(KERNELS["6.12"], space=SPACES[name])
    path = tmp_path / "vmcore"
    for data in ((raw := memory.dump(kept=range(300, 400))), flatten(raw)):
        path.write_bytes(data)
        found = inspect(path)
        assert (found.judgement, found.damage) == ("whole", ())
        assert found.to_json()["machine"] == SPACES[name].machine
        assert found.classes["kernel"]["total"] > 0


def test_a_header_in_the_other_byte_order_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "vmcore"
    path.write_bytes(Kdump(machine="x86_64", order=">").build())
    assert [damage.message for damage in inspect(path).damage] == ["the header of a x86_64 is big endian"]


@pytest.mark.parametrize("row", machines().values(), ids=lambda row: row.name)
def test_an_elf_dump_of_each_machine(row, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "vmcore"
    order = "<" if row.byte_order == "little" else ">"
    text = VMCOREINFO_OF_ALL.format(page_size=PAGE, more="").encode()
    segments = [(4 * PAGE, text_page(4) + text_page(5)), (9 * PAGE, text_page(9))]
    path.write_bytes(elf(segments, machine=row.elf, order=order, vmcoreinfo=text))
    found = inspect(path)
    assert (found.judgement, found.damage) == ("whole", ())
    with open_vmcore(path) as vmcore:
        assert (vmcore.machine, vmcore.pages_kept, vmcore.read_page(9)) == (row.name, 3, text_page(9))
        assert not vmcore.by_hypervisor


def test_a_picture_of_qemu_may_be_in_another_byte_order_than_its_kernel(tmp_path: Path) -> None:
    """QEMU asks the processor, and a capture kernel of ppc64le sets its order some time after its start."""
    path = tmp_path / "vmcore"
    segments = [(4 * PAGE, text_page(4))]
    path.write_bytes(elf(segments, machine=21, order=">", vmcoreinfo=b"", qemu=True))
    with open_vmcore(path) as vmcore:
        assert (vmcore.machine, vmcore.byte_order, vmcore.read_page(4)) == ("ppc64le", "little", text_page(4))
    without_registers = elf(segments, machine=21, order=">").replace(note(b"CORE", 2, bytes(136), ">"), b"")
    path.write_bytes(without_registers)
    assert "ELF machine 21, big endian, is not" in (inspect(path).why or "")


@pytest.mark.parametrize("row", machines().values(), ids=lambda row: row.name)
def test_the_registers_of_each_machine(row, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "vmcore"
    order = "<" if row.byte_order == "little" else ">"
    for user in (False, True):
        status = bytearray(512)
        stack, code = (0x3FF_0000_1000, 0x12_3456) if row.name == "s390x" else (0xC000_0000_0000_1000, 1 << 63)
        if user:
            stack = stack if row.name == "s390x" else 0x7FFF_0000
            struct.pack_into(order + "Q", status, 112, 0x0705_0001_8000_0000 if row.name == "s390x" else 0)
        struct.pack_into(order + "i", status, 32, 77)
        struct.pack_into(order + "Q", status, 112 + 8 * row.stack, stack)
        struct.pack_into(order + "Q", status, 112 + 8 * row.code, code)
        path.write_bytes(Kdump(machine=row.name, order=order, prstatus=bytes(status)).build())
        with open_vmcore(path) as vmcore:
            states = cpu_states(vmcore)
        assert [(state.pid, state.stack, state.code, state.in_kernel) for state in states] == [
            (77, stack, code, not user)
        ] * 2


def test_a_flattened_stream_whose_signature_is_followed_by_rubbish(tmp_path: Path) -> None:
    """makedumpfile 1.6.8 on arm64 leaves three bytes of its stack behind the word."""
    path = tmp_path / "vmcore"
    raw = Kdump().build()
    path.write_bytes(flat_stream([(0, raw)], signature=b"makedumpfile\0\xfc\xff\x03"))
    found = inspect(path)
    assert (found.judgement, found.to_json()["format"]) == ("whole", "kdump-flattened")
