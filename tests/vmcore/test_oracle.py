"""A vmcore against the hypervisor's picture of the same memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from kdump_harness.vmcore import open_vmcore, oracle
from kdump_harness.vmcore.oracle import OracleResult, compare
from memory_factory import KERNELS, SPACES, Memory
from vmcore_factory import PAGE, Kdump, elf, text_page

FRAMES = 16
MEMORY = {pfn: text_page(pfn) if pfn % 2 else bytes(PAGE) for pfn in range(FRAMES)}


@pytest.fixture(autouse=True)
def _all_frames_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory of these tests is smaller than the first MiB, in which differences have a reason."""
    monkeypatch.setattr(oracle, "FIRST_MIB_FRAMES", 0)


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
    monkeypatch.setattr(oracle, "FIRST_MIB_FRAMES", 256)
    found = ask(tmp_path, {3: MEMORY[3], 5: text_page(6)})
    (one,) = found.differences
    assert found.ok
    assert (one.pfn, one.reason) == (5, "the first MiB, which the capture kernel uses itself")


def test_a_picture_without_vmcoreinfo_has_the_page_size_of_the_dump(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """QEMU has no device on pseries that takes VMCOREINFO, and pages there have 64 KiB."""
    monkeypatch.setattr(oracle, "FIRST_MIB_FRAMES", 256)  # only machines of x86_64 have it
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
