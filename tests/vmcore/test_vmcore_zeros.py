"""Slab pages of zeros show that data was lost where the file looks sound; a few of them are normal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kdump_harness.vmcore import Inspection, inspect, open_vmcore
from kdump_harness.vmcore.classes import LevelViolations, PageClass, Tally, count_classes, count_zeros
from kdump_harness.vmcore.formats.zeros import ZeroCount
from memory_factory import KERNELS, Memory
from vmcore_factory import PAGE, Kdump, Stored, flatten, stored_again, text_page

REAL = Path(__file__).parents[1] / "data" / "vmcore" / "classes"  # dumps cut down to what leads to struct pages
MEMORY_MAP_PAGES = 640  # in each of them
SLABS = [*range(512, 1024), *range(1536, 2048)]  # page frames


@pytest.fixture
def memory() -> Memory:
    """A machine with two slabs."""
    kernel = KERNELS["7.2"]
    memory = Memory(kernel)
    for pfn in (512, 1536):
        memory.compound(pfn, 9, flags=kernel.slab, type=kernel.slab_type)
    return memory


@pytest.fixture
def look(tmp_path: Path) -> Callable[..., Inspection]:
    """Inspects a dump, which may be in several files."""

    def look(*parts: bytes) -> Inspection:
        paths = [tmp_path / f"vmcore{number}" for number in range(len(parts))]
        for path, data in zip(paths, parts, strict=True):
            path.write_bytes(data)
        return inspect(*paths)

    return look


LOST = SLABS[300:700]  # of these frames only zeros were read, or found on the disk


@pytest.mark.parametrize(
    ("level", "compression"), [(31, "zlib"), (31, "none"), (0, "none"), (16, "none"), (30, "lzo"), (0, "zstd")]
)
def test_slab_pages_that_are_zeros_are_damage(memory, look, level, compression):
    options = {"level": level, "compression": compression, "ram": range(memory.frames)}
    assert look(memory.dump(kept=SLABS, **options)).whole
    result = look(memory.dump(kept=SLABS, zeros=LOST, **options))
    assert [(one.kind, one.message) for one in result.damage] == [
        ("zeros", "400 of 1,024 slab pages are all zeros, 400 of them in a row")
    ]


def test_pages_that_share_the_page_of_zeros_are_damage_in_a_flattened_and_in_a_split_dump(memory, look):
    whole = memory.dump(kept=SLABS, zeros=LOST)
    assert [one.kind for one in look(flatten(whole, 10_000)).damage] == ["zeros"]
    parts = [memory.dump(kept=SLABS, zeros=LOST, part=part) for part in ((0, 700), (700, 1600), (1600, memory.frames))]
    result = look(*parts)
    assert [one.message for one in result.damage] == [one.message for one in look(whole).damage]
    assert "split" in {one.kind for one in look(*parts[:2]).damage}


def test_an_elf_dump_with_zeros_in_its_slabs_is_damaged(memory, look):
    pages = {pfn: text_page(pfn) for pfn in SLABS}
    assert look(memory.as_elf(pages=pages)).whole
    result = look(memory.as_elf(pages={**pages, **dict.fromkeys(LOST, bytes(PAGE))}))
    assert [one.message for one in result.damage] == ["400 of 1,024 slab pages are all zeros, 400 of them in a row"]


def test_zeros_in_pages_of_other_classes_and_a_few_in_slabs_are_normal(memory, look):
    """A balloon, free memory, and large objects of which only the beginning is in use."""
    every = set(range(memory.frames))
    assert look(memory.dump(kept=every, zeros=every - {*SLABS} | {*SLABS[::11]}, level=0)).whole


@pytest.mark.parametrize("online", [True, False])
def test_a_memory_map_of_zeros_is_damage_unless_its_memory_was_never_used(look, online):
    memory = Memory(KERNELS["7.2"], frames=8 * 1024, online=online)
    for pfn in range(memory.frames):
        memory.set(pfn)
    assert look(memory.dump()).whole
    for pfn in range(1024, 1024 + 65 * 64):
        memory.structs[pfn] = bytes(64)
    assert [one.message for one in look(memory.dump()).damage] == [
        "65 of 128 pages of the kernel's memory map are all zeros, 65 of them in a row"
    ][:online]


@pytest.mark.parametrize("release", ["5.10.0", "6.12.107", "7.2.13"])
def test_a_real_dump_that_lost_what_leads_to_the_struct_pages_is_damaged(look, release):
    """The table of sections, the page tables on the way to it and to the struct pages, or all struct pages."""
    asked: dict[int, None] = {}
    with open_vmcore(REAL / f"{release}.kdump") as vmcore:
        really = vmcore.page
        vmcore.page = lambda pfn: asked.setdefault(pfn) or really(pfn)  # type: ignore[assignment]
        count_classes(vmcore)
    sound = inspect(REAL / f"{release}.kdump")
    assert sound.whole
    on_the_way, memory_map = [*asked][:-MEMORY_MAP_PAGES], {*asked} - {*[*asked][:-MEMORY_MAP_PAGES]}
    assert 8 <= len(on_the_way) <= 11
    with open_vmcore(REAL / f"{release}.kdump") as vmcore:
        frames = np.flatnonzero(np.unpackbits(vmcore.kept_bitmap(), bitorder="little")).tolist()
        for loss in [*({pfn} for pfn in on_the_way), memory_map]:

            def lose(pages: list[Stored | None], loss: set[int] = loss) -> None:
                pages[:] = [None if pfn in loss else page for pfn, page in zip(frames, pages, strict=True)]

            result = look(stored_again(vmcore, lose))
            same = result.classes == sound.classes  # a table may begin in the middle of a page, and end in the next
            assert [one.kind for one in result.damage] == ([] if same else ["zeros"]), loss


def test_quick_does_not_look_for_zeros(memory, tmp_path):
    path = tmp_path / "vmcore"
    path.write_bytes(memory.dump(kept=SLABS, zeros=LOST))
    assert inspect(path, quick=True).whole


@settings(deadline=None)
@given(st.lists(st.lists(st.booleans(), max_size=6), max_size=6))
def test_zeros_are_counted_over_all_pieces(pieces):
    found = ZeroCount()
    for piece in pieces:
        found.add(np.array(piece, dtype=np.bool_))
    flat = "".join("0" if zero else "1" for piece in pieces for zero in piece)
    assert (found.pages, found.zeros) == (len(flat), flat.count("0"))
    assert found.in_a_row == max(map(len, flat.split("1")))


@pytest.mark.parametrize(
    ("pages", "zeros", "in_a_row", "bad"),
    [(100, 64, 64, False), (100, 65, 65, True), (10_000, 3000, 1024, False), (10_000, 3001, 1, True),
     (1_000_000, 1024, 1024, False), (1_000_000, 1025, 1025, True), (0, 0, 0, False)],
)  # fmt: skip
def test_what_is_normal(pages, zeros, in_a_row, bad):
    assert bool(ZeroCount(pages, zeros, in_a_row).complaint("pages")) is bad


@pytest.mark.parametrize("page_size", [4096, 65536])
@pytest.mark.parametrize("compression", ["zlib", "lzo", "snappy", "zstd", "none"])
@pytest.mark.parametrize("level", [31, 30])
def test_pages_of_zeros_are_found_whatever_stores_them(tmp_path, level, compression, page_size):
    nearly = bytes(page_size - 1) + b"x"
    pages = {3: bytes(page_size), 5: nearly, 7: text_page(7, page_size), 8: bytes(page_size), 9: bytes(page_size)}
    path = tmp_path / "vmcore"
    path.write_bytes(Kdump(pages=pages, level=level, compression=compression, page_size=page_size).build())
    kept = np.isin(np.arange(1, 12), list(pages))
    with open_vmcore(path) as vmcore:
        assert vmcore.zeros(1, kept, kept).tolist() == [True, False, False, True, True]
        wanted = kept & np.isin(np.arange(1, 12), [5, 8])
        assert vmcore.zeros(1, kept, wanted).tolist() == [False, True]
        frames = np.ones(1000, dtype=np.bool_)
        assert count_zeros(vmcore, frames) == ZeroCount(5, 3, 2, 2)


def test_a_page_that_cannot_be_read_is_not_taken_for_zeros(tmp_path):
    data = Kdump(pages={pfn: bytes(PAGE) for pfn in range(8)}, level=30, compression="none").build()
    for cut_bytes in (1, PAGE + 1, 8 * PAGE + 24):
        path = tmp_path / "vmcore"
        path.write_bytes(data[:-cut_bytes])
        with open_vmcore(path) as vmcore:
            found = count_zeros(vmcore, np.ones(8, dtype=np.bool_))
        assert (found.pages, found.zeros) == (8, max(0, 7 - cut_bytes // PAGE))


def test_slab_pages_may_be_absent_from_an_elf_dump_only_as_far_as_they_may_be_zeros():
    for absent, complaints in ((3000, 0), (3001, 1)):
        counts = {PageClass.SLAB: Tally(10_000, 10_000 - absent)}
        assert len(list(LevelViolations.of(counts, 31, zeros_absent=True).too_few())) == complaints
