"""The kernel log and kernel memory, without debug info."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from kdump_harness.vmcore import NotInDump, VmcoreError, dmesg, inspect, open_vmcore
from kdump_harness.vmcore.dmesg import panic_line
from kdump_harness.vmcore.formats.vmcoreinfo import Vmcoreinfo
from kdump_harness.vmcore.translation.machines import translator
from vmcore_factory import PAGE, Kdump

LOGS = Path(__file__).parents[1] / "data" / "vmcore" / "logs"
KERNEL_MAP = 0xFFFFFFFF80000000
NONCE = "harness: this is crash 0123456789abcdef"


@pytest.mark.parametrize("name", ["5.10.0", "6.12.107", "7.2.13"])
def test_the_log_of_a_real_kernel(name):
    with open_vmcore(LOGS / f"{name}.kdump") as vmcore:
        log = vmcore.dmesg()
    assert log.startswith(f"[    0.000000] Linux version {name}")
    assert NONCE in log
    assert log.splitlines()[-1].endswith("---[ end Kernel panic - not syncing: sysrq triggered crash ]---")


def test_a_log_that_has_wrapped_begins_with_its_oldest_record():
    with open_vmcore(LOGS / "6.1.0.kdump") as vmcore:
        lines = vmcore.dmesg().splitlines()
    filler = [int(line.split()[-2]) for line in lines if "] filler " in line]
    assert filler == list(range(filler[0], 9001))
    assert lines[0].endswith(f"filler {filler[0]} line")
    assert "Kernel panic - not syncing: sysrq triggered crash" in lines[-1]


@pytest.mark.parametrize("path", sorted(LOGS.iterdir()), ids=lambda path: path.stem)
def test_panic_and_host_come_from_the_memory(path):
    result = inspect(path)
    assert result.whole, result.damage
    assert result.panic == "Kernel panic - not syncing: sysrq triggered crash"
    assert result.nodename == "witness"


OFFSETS = (
    "OFFSET(printk_log.ts_nsec)=0\nOFFSET(printk_log.len)=8\nOFFSET(printk_log.text_len)=10\nSIZE(printk_log)=16\n"
)


def old_record(ts_nsec: int, text: bytes, dictionary: bytes = b"") -> bytes:
    """A record of the log buffer before 5.10."""
    length = -(-(16 + len(text) + len(dictionary)) // 8) * 8
    header = struct.pack("<QHHHBB", ts_nsec, length, len(text), len(dictionary), 0, 0)
    return (header + text + dictionary).ljust(length, b"\0")


def old_dump(buffer: bytes, first: int, following: int) -> Kdump:
    """A dump whose kernel image, at physical 0, has the variables in page 1 and the buffer from page 2 on."""
    variables = struct.pack("<QIII", KERNEL_MAP + 2 * PAGE, len(buffer), first, following).ljust(PAGE, b"\0")
    memory = variables + buffer
    symbols = zip(("log_buf", "log_buf_len", "log_first_idx", "log_next_idx"), (0, 8, 12, 16), strict=True)
    more = "".join(f"SYMBOL({name})={KERNEL_MAP + PAGE + at:x}\n" for name, at in symbols)
    pages = {1 + at // PAGE: memory[at : at + PAGE].ljust(PAGE, b"\0") for at in range(0, len(memory), PAGE)}
    return Kdump(pages=pages, more_vmcoreinfo=more + OFFSETS)


def test_the_older_record_buffer(tmp_path):
    oldest, newer = old_record(1_234_567_000, b"one\ntwo", b"SUBSYSTEM=x"), old_record(61_000_000_000, b"three \x01")
    newest = old_record(61_000_001_000, b"Kernel panic - not syncing: four")
    buffer = (newest.ljust(3000, b"?") + oldest + newer + bytes(16)).ljust(2 * PAGE, b"\0")
    path = tmp_path / "vmcore"
    path.write_bytes(old_dump(buffer, 3000, len(newest)).build())
    with open_vmcore(path) as vmcore:
        assert vmcore.dmesg().splitlines() == [
            "[    1.234567] one",
            "[    1.234567] two",
            "[   61.000000] three \\x01",
            "[   61.000001] Kernel panic - not syncing: four",
        ]
    assert inspect(path).panic == "Kernel panic - not syncing: four"


@pytest.mark.parametrize(("first", "following"), [(8, 5), (1 << 31, 0), (0, 1 << 31), (PAGE - 8, 0)])
def test_a_broken_record_buffer_ends(tmp_path, first, following):
    path = tmp_path / "vmcore"
    path.write_bytes(old_dump(bytes([1]) * PAGE, first, following).build())
    with open_vmcore(path) as vmcore:
        assert isinstance(vmcore.dmesg(), str)


def test_a_log_of_empty_records_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(dmesg, "_MAX_RECORDS", 20)
    path = tmp_path / "vmcore"
    path.write_bytes(old_dump(old_record(0, b"") * 250 + bytes(96), 0, 4000).build())
    with open_vmcore(path) as vmcore:
        assert len(vmcore.dmesg().splitlines()) == 20


def test_a_dump_without_log_says_so(tmp_path):
    path = tmp_path / "vmcore"
    path.write_bytes(Kdump().build())
    with open_vmcore(path) as vmcore, pytest.raises(VmcoreError, match="does not say where the kernel log is"):
        vmcore.dmesg()


LINES = {
    "[    1.0] BUG: unable to handle page fault\n[    1.1] Kernel panic - not syncing: Fatal exception\n": (
        "Kernel panic - not syncing: Fatal exception"
    ),
    "[    1.0] BUG: kernel NULL pointer dereference, address: 0\n[    1.0] Oops: 0002 [#1] SMP\n": (
        "BUG: kernel NULL pointer dereference, address: 0"
    ),
    "[    1.0] Internal error: Oops: 96000004 [#1] SMP\n": "Internal error: Oops: 96000004 [#1] SMP",
    "[    1.0] sysrq: Trigger a crash\n": "sysrq: Trigger a crash",
    "[    1.0] all is well\n": None,
}


@pytest.mark.parametrize("log", LINES, ids=lambda log: log[10:40])
def test_the_panic_line(log):
    assert panic_line(log) == LINES[log]


class Memory(dict[int, bytes]):
    """Physical memory by page address."""

    def read(self, address: int, length: int) -> bytes:
        """Bytes of one page."""
        page = self.get(address & -PAGE)
        if page is None:
            raise NotInDump(f"{address:#x}")
        return page[address % PAGE : address % PAGE + length]

    def put(self, address: int, number: int) -> None:
        """A table entry."""
        page = bytearray(self.get(address & -PAGE, bytes(PAGE)))
        page[address % PAGE : address % PAGE + 8] = number.to_bytes(8, "little")
        self[address & -PAGE] = bytes(page)


@pytest.mark.parametrize("levels", [4, 5])
def test_x86_page_tables(levels):
    memory = Memory()
    address = 0xFF11000012345678 if levels == 5 else 0xFFFF888012345678
    tables = [0x10000 + level * PAGE for level in range(levels + 1)]
    for level in range(levels, 0, -1):
        entry = tables[levels] + (address >> 12 + 9 * (level - 1) & 0x1FF) * 8
        target = 0x7FFF000 if level == 1 else 0x20000 + level * PAGE
        memory.put(entry, target | 0x8000000000000063)
        tables[levels] = target
    info = Vmcoreinfo(
        {
            "NUMBER(phys_base)": "0",
            "SYMBOL(init_top_pgt)": f"{KERNEL_MAP + 0x10000 + levels * PAGE:x}",
            "NUMBER(pgtable_l5_enabled)": str(int(levels == 5)),
        }
    )
    translate = translator("x86_64", info, memory.read)
    assert translate(address) == 0x7FFF678
    assert translate(KERNEL_MAP + 0x1234) == 0x1234
    with pytest.raises(NotInDump):
        translate(address + (1 << 39))


def test_x86_large_pages_and_the_encryption_bit():
    memory = Memory()
    address = 0xFFFF888040201234
    top, upper = 0x1000, 0x2000
    memory.put(top + (address >> 39 & 0x1FF) * 8, upper | 1 | 1 << 47)
    memory.put(upper + (address >> 30 & 0x1FF) * 8, 0x40000000 | 0x81 | 1 << 47)
    info = Vmcoreinfo(
        {
            "NUMBER(phys_base)": "0",
            "SYMBOL(init_level4_pgt)": f"{KERNEL_MAP + top:x}",
            "NUMBER(sme_mask)": str(1 << 47),
        }
    )
    assert translator("x86_64", info, memory.read)(address) == 0x40201234


ARM = {
    "OSRELEASE": "6.1.0",
    "PAGESIZE": "4096",
    "NUMBER(VA_BITS)": "48",
    "NUMBER(TCR_EL1_T1SZ)": "0x10",
    "NUMBER(PHYS_OFFSET)": "0x40000000",
    "NUMBER(kimage_voffset)": "0xffff7fffc8000000",
    "SYMBOL(swapper_pg_dir)": "ffff800008010000",
}


def test_arm64_linear_map_image_and_page_tables():
    memory = Memory()
    translate = translator("aarch64", Vmcoreinfo(ARM), memory.read)
    assert translate(0xFFFF000000001000) == 0x40001000
    assert translate(0xFFFF800008123456) == 0x40123456  # the image, without page tables
    address = 0xFFFF80000A345678
    table = 0x40010000
    for level in (4, 3, 2, 1):
        target = 0x47777000 if level == 1 else 0x40020000 + level * PAGE
        memory.put(table + (address >> 12 + 9 * (level - 1) & 0x1FF) * 8, target | 0b11)
        table = target
    assert translate(address) == 0x47777678


def test_arm64_before_linux_5_4_had_the_linear_map_above():
    translate = translator("aarch64", Vmcoreinfo({**ARM, "OSRELEASE": "4.19.0"}), Memory().read)
    assert translate(0xFFFF800000001000) == 0x40001000


@pytest.mark.parametrize("machine", ["", "sparc64", "ppc64le"])
def test_other_machines_have_no_translation(machine):
    with pytest.raises(VmcoreError):
        translator(machine, Vmcoreinfo(), Memory().read)
