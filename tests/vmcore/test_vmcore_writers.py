"""Sound files of real writers (makedumpfile, QEMU) that look odd, and the remarks on them."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from kdump_harness.vmcore import VmcoreError, inspect, open_vmcore
from vmcore_factory import PAGE, Kdump, elf, text_page, utsname, utsname_page

DATA = Path(__file__).parents[1] / "data" / "vmcore"
ARM_VMCOREINFO = b"PAGESIZE=4096\nNUMBER(VA_BITS)=48\nNUMBER(kimage_voffset)=0xffff800000000000\nCRASHTIME=1780000000\n"
NO_VMCOREINFO = "no VMCOREINFO: the guest had not handed it to QEMU"

Write = Callable[[bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes bytes to a file and returns its path."""

    def to_file(data: bytes) -> Path:
        path = tmp_path / "vmcore"
        path.write_bytes(data)
        return path

    return to_file


def patched(data: bytes, at: int, patch: bytes) -> bytes:
    """Return the data with some bytes overwritten."""
    return data[:at] + patch + data[at + len(patch) :]


# The tail of the older name, behind the end of a name that was set by sysctl.
NAMES = {
    "as-booted": {},
    "domain-set-by-sysctl": {"domainname": b"lan\0e)"},
    "host-set-by-sysctl": {"nodename": b"vm1\0host"},
    "utf-8": {"nodename": "m\u00fcnchen".encode()},
    "64-bytes": {"nodename": b"a" * 64},
}


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("case", NAMES)
def test_a_name_ends_with_its_first_nul(write: Write, case: str, in_memory: bool) -> None:
    names = utsname(**NAMES[case])
    pages = utsname_page(names) if in_memory else {3: text_page(3)}
    found = inspect(write(Kdump(pages=pages, max_mapnr=0x3000, names=names).build()))
    assert found.whole, found.damage
    assert found.nodename == NAMES[case].get("nodename", b"testhost").partition(b"\0")[0].decode()


@pytest.mark.parametrize(
    ("name", "field"), [(1, b"a" * 65), (1, b"a\x1bb"), (1, b"caf\xe9"), (2, b"6.1.0-test\0x"), (4, b"x86_64\0x")]
)
def test_a_name_that_no_kernel_writes_is_damage(write: Write, name: int, field: bytes) -> None:
    found = inspect(write(patched(Kdump().build(), 12 + 65 * name, field)))
    assert [damage.kind for damage in found.damage] == ["header"]
    assert "is not a text" in found.damage[0].message


def test_the_memory_of_the_kernel_proves_any_name(write: Write) -> None:
    names = utsname(nodename=b"caf\xe9")
    found = inspect(write(Kdump(pages=utsname_page(names), max_mapnr=0x3000, names=names).build()))
    assert found.whole, found.damage
    assert found.nodename == "caf\\xe9"


@pytest.mark.parametrize("there", [b"testhosu", b"testhost\0tail", b""])
def test_another_name_in_memory_is_damage(write: Write, there: bytes) -> None:
    pages = utsname_page(utsname(nodename=there))
    found = inspect(write(Kdump(pages=pages, max_mapnr=0x3000).build()))
    assert [damage.message.split(" in ")[0] for damage in found.damage] == ["utsname.nodename is 'testhost'"]


def test_an_erased_name_is_sound(write: Write) -> None:
    pages = utsname_page(utsname(nodename=b"X" * 65))
    found = inspect(write(Kdump(pages=pages, max_mapnr=0x3000).build()))
    assert found.whole, found.damage
    assert "erased from the kernel's memory, and still in the header: nodename" in found.remarks


def test_erased_names_of_the_kernel_are_sound_in_an_elf_dump(write: Write) -> None:
    (pfn, page), *_ = utsname_page(b"X" * 390).items()
    found = inspect(write(elf([(pfn * PAGE, page)])))
    assert found.whole, found.damage


def test_a_machine_that_qemu_does_not_name_is_known_by_vmcoreinfo(write: Write) -> None:
    found = inspect(write(Kdump(machine="Unknown", qemu=True).build()))
    assert found.whole, found.damage
    assert found.machine == "x86_64"
    assert inspect(write(Kdump(machine="Unknown", qemu=True, vmcoreinfo=b"").build())).machine is None


@pytest.mark.parametrize("page_size", [4096, 16384])
def test_qemu_stores_aarch64_pages_in_blocks_of_64_kib(write: Write, page_size: int) -> None:
    inside = 65536 // page_size
    block = b"".join(text_page(7 * inside + index, page_size) for index in range(inside))
    info = ARM_VMCOREINFO.replace(b"4096", str(page_size).encode())
    dump = Kdump(pages={7: block}, page_size=65536, machine="Unknown", vmcoreinfo=info, qemu=True, max_mapnr=8)
    path = write(dump.build())
    found = inspect(path)
    assert found.whole, found.damage
    assert (found.machine, found.page_size) == ("aarch64", page_size)
    assert (found.pages_total, found.pages_kept) == (8 * inside, inside)
    assert found.compressions == {"zlib": inside}
    with open_vmcore(path) as vmcore:
        assert vmcore.read_page(7 * inside + 2) == text_page(7 * inside + 2, page_size)
        assert [vmcore.kept(7 * inside + offset) for offset in (-1, 0, inside - 1)] == [False, True, True]
        kept = vmcore.kept_bitmap().tobytes()
        assert int.from_bytes(kept, "little") == ((1 << inside) - 1) << 7 * inside
        assert vmcore.max_pfn == len(vmcore.ram_bitmap()) * 8


def test_a_damaged_page_in_a_larger_block_has_the_guests_page_frame(write: Write) -> None:
    dump = Kdump(pages={7: text_page(7, 65536)}, page_size=65536, machine="Unknown", vmcoreinfo=ARM_VMCOREINFO)
    dump.qemu, dump.max_mapnr = True, 8
    data = dump.build()
    assert [damage.pfn for damage in inspect(write(patched(data, len(data) - 1, b"x"))).damage] == [7 * 16]


def test_only_a_hypervisor_stores_pages_in_larger_blocks(write: Write) -> None:
    info = ARM_VMCOREINFO + b"OSRELEASE=6.1.0-test\n"
    dump = Kdump(pages={7: text_page(7, 65536)}, page_size=65536, machine="aarch64", vmcoreinfo=info, max_mapnr=8)
    found = inspect(write(dump.build()))
    assert [damage.message for damage in found.damage] == ["VMCOREINFO and header do not agree on the page size"]


@pytest.mark.parametrize(
    "data",
    [Kdump(qemu=True, vmcoreinfo=b"").build(), elf([(0, text_page(1))], qemu=True, vmcoreinfo=b"")],
    ids=["kdump", "elf"],
)
def test_a_hypervisor_may_not_know_vmcoreinfo(write: Write, data: bytes) -> None:
    found = inspect(write(data))
    assert found.whole, found.damage
    assert [remark for remark in found.remarks if remark.startswith(NO_VMCOREINFO)]
    assert not [remark for remark in found.remarks if "CRASHTIME" in remark]


def as_qemu_names(data: bytes, order: str, order_of_sections: str) -> bytes:
    """An ELF file with the section of QEMU 7.2: a table of names behind the memory."""
    names = b"\0.shstrtab\0"
    section = struct.pack(order_of_sections + "IIQQQQIIQQ", 1, 3, 0, 0, len(data), len(names), 0, 0, 0, 0)
    at = PAGE - len(section)
    assert not data[at:PAGE].strip(b"\0")
    data = patched(data, at, section)
    data = patched(data, 40, struct.pack(order + "Q", at))
    return patched(data, 60, struct.pack(order + "H", 1)) + names


@pytest.mark.parametrize(
    ("data", "machine"),
    [
        (Kdump(machine="S390X", order=">", qemu=True, vmcoreinfo=b"").build(), "s390x"),
        (Kdump(machine="Unknown", qemu=True, vmcoreinfo=b"").build(), None),
        (as_qemu_names(elf([(0, text_page(1))], machine=243, qemu=True, vmcoreinfo=b""), "<", "<"), "riscv64"),
        (as_qemu_names(elf([(0, text_page(1))], machine=22, qemu=True, vmcoreinfo=b"", order=">"), ">", "<"), "s390x"),
    ],
    ids=["s390x", "riscv64", "elf-riscv64", "elf-s390x"],
)
def test_pictures_without_registers_of_their_own_are_those_of_qemu(write: Write, data: bytes, machine: str) -> None:
    """QEMU 7.2 writes the registers of kernels for riscv64, and for s390x those that kernels write as well."""
    found = inspect(write(data.replace(b"QEMU\0", b"CORE\0")))
    assert (found.whole, found.machine, found.damage) == (True, machine, ())
    assert [remark for remark in found.remarks if remark.startswith(NO_VMCOREINFO)]


def test_vmcoreinfo_that_a_hypervisor_knows_must_be_there(write: Write) -> None:
    data = Kdump(qemu=True).build()
    at = data.index(b"VMCOREINFO\0")
    assert not inspect(write(patched(data, at, b"vmcoreinfo\0").replace(b"OSRELEASE", b"\1SRELEASE"))).whole
    assert not inspect(write(patched(Kdump(qemu=True, vmcoreinfo=b"").build(), PAGE + 32, b"\1"))).whole


def test_segments_that_map_the_same_memory_to_the_same_bytes_do_not_overlap(write: Write) -> None:
    """With paging, QEMU writes a segment for every virtual mapping."""
    memory = text_page(1) * 2 + text_page(2) * 2
    data = elf([(0, memory), (PAGE, memory[PAGE : 3 * PAGE]), (4 * PAGE, text_page(4))])
    first, third = (struct.unpack_from("<Q", data, 64 + 56 * number + 8)[0] for number in (1, 3))
    data = data[: third - 2 * PAGE] + data[third:]
    data = patched(data, 64 + 56 * 2 + 8, struct.pack("<Q", first + PAGE))
    data = patched(data, 64 + 56 * 3 + 8, struct.pack("<Q", third - 2 * PAGE))
    found = inspect(write(data))
    assert found.whole, found.damage
    assert (found.pages_total, found.pages_kept) == (5, 5)
    for other in (first, first + PAGE + 8):  # other memory, the same bytes
        found = inspect(write(patched(data, 64 + 56 * 2 + 8, struct.pack("<Q", other))))
        assert [damage.kind for damage in found.damage] == ["overlap"]


def test_pages_that_share_the_page_of_zeros_do_not_count_as_unchecked(write: Write) -> None:
    pages = {1: bytes(PAGE), 2: bytes(PAGE), 3: text_page(3), 4: bytes(range(256)) * 16, 5: bytes(PAGE)}
    found = inspect(write(Kdump(pages=pages, compression="none").build()))
    assert found.whole, found.damage
    assert found.compressions == {"none": 2, "zeros": 3}
    assert found.compression == "none"
    assert "2 pages carry no checksum (only zlib's do): a changed byte in them may not be seen" in found.remarks


@pytest.mark.parametrize(
    ("panic", "why"),
    [
        (b"Kernel panic - not", b"no capture kernel had taken over"),
        (b"Kernel calm! - not", b"the kernel had not crashed"),
    ],
)
def test_without_a_time_of_crash_the_log_says_whether_the_kernel_crashed(
    write: Write, monkeypatch: pytest.MonkeyPatch, panic: bytes, why: bytes
) -> None:
    path = write((DATA / "logs" / "6.12.107.kdump").read_bytes().replace(b"CRASHTIME=", b"CRASHTINE="))
    with open_vmcore(path) as vmcore:
        log = vmcore.dmesg()
    calm = log.replace("Kernel panic", "Kernel calm!").replace("sysrq: Trigger", "sysrq: Asked for")
    monkeypatch.setattr("kdump_harness.vmcore.dmesg.kernel_log", lambda *_, **__: log if b"panic" in panic else calm)
    assert f"no CRASHTIME: {why.decode()} when the dump was taken" in inspect(path).remarks


def test_memory_of_the_kernel_that_is_not_in_the_dump_is_remarked(write: Write) -> None:
    found = inspect(DATA / "zlib.kdump")
    assert found.whole
    told = [remark.split(":")[0] for remark in found.remarks]
    assert told[-2:] == ["the kernel log cannot be read", "the pages cannot be counted by class"]


def test_a_log_of_which_no_record_is_in_the_dump_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    with open_vmcore(DATA / "logs" / "6.12.107.kdump") as vmcore:
        read = vmcore.read_virt

        def without_texts(address: int, length: int) -> bytes:
            if address >= 0xFFFFFFFFA3300000:
                raise VmcoreError("not in the dump")
            return read(address, length)

        monkeypatch.setattr(vmcore, "read_virt", without_texts)
        with pytest.raises(VmcoreError, match=r"none of its [\d,]+ records is in the dump"):
            vmcore.dmesg()
