"""A vmcore against the hypervisor's picture of the same memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kdump_harness.vmcore import open_vmcore, oracle
from kdump_harness.vmcore.oracle import OracleResult, compare
from memory_factory import KERNELS, SPACES, Memory
from vmcore_factory import PAGE, Kdump, elf, text_page

FIRST = oracle.FIRST
FRAMES = 16
MEMORY = {pfn: text_page(pfn) if pfn % 2 else bytes(PAGE) for pfn in range(FRAMES)}


@pytest.fixture(autouse=True)
def _all_frames_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory of these tests is smaller than the first MiB, in which differences have a reason."""
    monkeypatch.setattr(oracle, "FIRST", {})


def ask(
    tmp_path: Path, kept: Mapping[int, bytes], *, memory: Mapping[int, bytes] = MEMORY, frames: int = FRAMES
) -> OracleResult:
    dump, picture = tmp_path / "vmcore", tmp_path / "memory"
    dump.write_bytes(Kdump(pages=kept, max_mapnr=frames).build())
    picture.write_bytes(elf([(0, b"".join(memory[pfn] for pfn in sorted(memory)))]))
    with open_vmcore(dump) as vmcore, open_vmcore(picture) as other:
        return compare(vmcore, other)


def test_a_faithful_dump(tmp_path: Path) -> None:
    found = ask(tmp_path, {pfn: page for pfn, page in MEMORY.items() if pfn % 2})
    assert (found.ok, found.compared, found.dropped, found.dropped_empty) == (True, 8, 8, 8)
    assert found.summary() == "8 pages compared, 0 differ"


def test_a_changed_byte_is_found_with_its_frame_and_place(tmp_path: Path) -> None:
    other = bytearray(MEMORY[5])
    other[100] ^= 1
    other[200] ^= 1
    found = ask(tmp_path, {3: MEMORY[3], 5: bytes(other)})
    (one,) = found.differences
    assert (found.ok, one.pfn, one.bytes_differ, one.first_offset) == (False, 5, 2, 100)
    assert "1 differ (0 explained; unexplained: 0x5)" in found.summary()


def test_what_the_capture_kernel_uses_itself_is_listed_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oracle, "FIRST", FIRST)
    found = ask(tmp_path, {3: MEMORY[3], 5: text_page(6)})
    (one,) = found.differences
    assert found.ok
    assert (one.pfn, one.reason) == (5, "the first MiB, which the capture kernel uses itself")


# Real values: Debian 12 on ppc64el, the beginning of a virtual processor area, 0xec00 bytes into the last page.
VPA_AT, VPA_HEAD = 0xEC00, bytes.fromhex("d397d78104000000000200000000000000000000")
FIRST_64_KIB = "the first 64 KiB, which the capture kernel uses itself"
HYPERVISOR_COUNTS = "a virtual processor area, in which the hypervisor counts"


@pytest.mark.parametrize(
    ("pfn", "offsets", "reason"),
    [
        (0, [1, 683], FIRST_64_KIB),
        (1, [1, 683], None),
        (16383, range(VPA_AT + 0x100, VPA_AT + 0x104), HYPERVISOR_COUNTS),
        (16383, [VPA_AT + 0x103, VPA_AT + 0x108], None),
        (16383, [VPA_AT + 0x99], None),
        (16383, [0x103], None),
        (16383, [VPA_AT - 0x400 + 0x103], None),
    ],
)
def test_what_changes_on_pseries_while_the_capture_kernel_starts_has_its_reason(
    pfn: int, offsets: Sequence[int], reason: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oracle, "FIRST", FIRST)
    vmcore: Any = SimpleNamespace(machine="ppc64le", page_size=1 << 16)
    ours = bytearray(text_page(pfn, 1 << 16))
    ours[VPA_AT : VPA_AT + len(VPA_HEAD)] = VPA_HEAD
    theirs = bytearray(ours)
    for offset in offsets:
        theirs[offset] ^= 1
    assert oracle._Reasons(vmcore).difference(pfn, bytes(ours), bytes(theirs)).reason == reason


def test_the_interrupt_tables_of_arm64_are_known_from_the_dumps_own_log() -> None:
    """The lines are those of Debian 11 on QEMU's virt; five bytes of the first table differed there."""
    log = """[    0.000000] GICv3: using LPI property table @0x0000000041d90000
[    0.000000] GICv3: CPU0: using allocated LPI pending table @0x0000000041da0000
[    0.358525] GICv3: CPU1: using allocated LPI pending table @0x0000000041db0000
"""
    vmcore: Any = SimpleNamespace(machine="aarch64", page_size=4096, dmesg=lambda: log)
    reasons = oracle._Reasons(vmcore)
    ours, theirs = b"\xa3" * 5 + b"\xa2" * 4091, b"\xa2" * 4096
    for pfn, known in ((0x41D90, True), (0x41DBF, True), (0x41DC0, False), (0x41D8F, False)):
        one = reasons.difference(pfn, ours, theirs)
        assert (one.bytes_differ, one.first_offset, one.reason is not None) == (5, 0, known)


def test_a_picture_without_vmcoreinfo_has_the_page_size_of_the_dump(tmp_path: Path) -> None:
    """QEMU has no device on pseries that takes VMCOREINFO, and pages there have 64 KiB."""
    size = SPACES["ppc64le-64k"].page
    memory = Memory(KERNELS["6.12"], frames=256, space=SPACES["ppc64le-64k"])
    pages = {pfn: text_page(pfn, size) for pfn in range(200, 220)} | memory.tables()
    dump, picture = tmp_path / "vmcore", tmp_path / "memory"
    dump.write_bytes(memory.dump(kept=range(200, 220)))
    segments = [(0, b"".join(pages.get(pfn, bytes(size)) for pfn in range(256)))]
    for changed in (False, True):
        if changed:
            segments = [(0, segments[0][1][: 201 * size] + b"x" + segments[0][1][201 * size + 1 :])]
        picture.write_bytes(elf(segments, machine=21, vmcoreinfo=b"", qemu=True))
        with open_vmcore(dump) as vmcore, open_vmcore(picture) as other:
            found = compare(vmcore, other)
        assert (found.ok, found.compared) == (not changed, len(pages))
        assert [one.pfn for one in found.differences] == ([201] if changed else [])
        assert found.classes["kernel"]["total"] == 256


def test_dropped_pages_that_held_something_are_counted(tmp_path: Path) -> None:
    found = ask(tmp_path, {3: MEMORY[3]})
    assert (found.dropped, found.dropped_empty) == (15, 8)


def test_frames_that_the_guest_never_had_are_told(tmp_path: Path) -> None:
    found = ask(tmp_path, {3: MEMORY[3], 20: text_page(20)}, frames=32)
    assert not found.ok
    assert "unknown to the hypervisor" in found.summary()


def test_a_page_that_cannot_be_read_is_not_equal(tmp_path: Path) -> None:
    dump, picture = tmp_path / "vmcore", tmp_path / "memory"
    whole = Kdump(pages={3: MEMORY[3], 5: MEMORY[5]}, max_mapnr=FRAMES).build()
    dump.write_bytes(whole[:-20])
    picture.write_bytes(elf([(0, b"".join(MEMORY.values()))]))
    with open_vmcore(dump) as vmcore, open_vmcore(picture) as memory:
        found = compare(vmcore, memory)
    assert not found.ok
    assert "unreadable" in found.summary()


@pytest.mark.parametrize("differing", [3, 250])
def test_json_lists_not_more_frames_than_a_person_can_use(tmp_path: Path, differing: int) -> None:
    memory = {pfn: text_page(pfn) for pfn in range(256)}
    found = ask(tmp_path, {pfn: text_page(pfn + 1) for pfn in range(differing)}, memory=memory, frames=256)
    record = found.to_json()
    assert record["differing"] == differing
    assert len(record["differences"]) == min(differing, 100)
    assert record["ok"] is False
