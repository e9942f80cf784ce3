"""The class of each page frame, and whether a dump contains the classes that its level keeps."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kdump_harness.vmcore import VmcoreError, inspect, open_vmcore
from kdump_harness.vmcore.classes import (
    LevelViolations,
    PageClass,
    Tally,
    classify,
    count_classes,
    dropped_by,
    kept_by,
)
from kdump_harness.vmcore.elfruns import in_short_run, spared
from memory_factory import (
    ANON,
    CACHE_MAPPING,
    KERNELS,
    NOT_A_TYPE,
    ROOTS,
    SECTION_FRAMES,
    SECTIONS,
    SPACES,
    STRUCT,
    Kernel,
    Memory,
    Space,
)
from vmcore_factory import PAGE, Kdump, elf_of

REAL = Path(__file__).parents[1] / "data" / "vmcore" / "classes"
QUICKLY = settings(max_examples=50, deadline=None)


@pytest.fixture(params=KERNELS)
def memory(request: pytest.FixtureRequest) -> Memory:
    return Memory(KERNELS[request.param])


OTHERS = (("5.10", "s390x"), ("6.6", "s390x"), ("6.12", "ppc64le-64k"), ("6.12", "aarch64-16k"), ("7.2", "riscv64"))


@pytest.fixture(params=[*((name, "x86_64") for name in KERNELS), *OTHERS], ids="-".join)
def memory_of_any_machine(request: pytest.FixtureRequest) -> Memory:
    kernel, space = request.param
    return Memory(KERNELS[kernel], space=SPACES[space])


def classes_of(tmp_path: Path, data: bytes) -> list[PageClass]:
    path = tmp_path / "vmcore"
    path.write_bytes(data)
    with open_vmcore(path) as vmcore:
        found = classify(vmcore)
        assert found.counts == count_classes(vmcore)
    assert sum(tally.total for tally in found.counts.values()) == np.count_nonzero(found.codes)
    return [PageClass(code) for code in found.codes.tolist()]


# The counts are those of makedumpfile 1.7.9+ for the whole dumps. The samples have only the memory that determines
# them, without unused members of struct page. makedumpfile does not distinguish kernel and slab pages.
@pytest.mark.parametrize(
    ("name", "free", "cache", "user", "rest"),
    [
        ("5.10.0", 22889, 5613, 16, 12410),
        ("6.12.107", 20184, 5615, 15, 15114),
        ("7.2.13", 15901, 5613, 55, 19359),
        ("6.1-ppc64le", 9211, 154, 9, 1891),  # pages of 64 KiB; of makedumpfile 1.7.2, each number is the same
    ],
)
def test_real_kernels_count_as_with_makedumpfile(name: str, free: int, cache: int, user: int, rest: int) -> None:
    with open_vmcore(next(REAL.glob(f"{name}.*"))) as vmcore:
        counts = {each: tally.total for each, tally in count_classes(vmcore).items()}
    assert counts.pop(PageClass.KERNEL) + counts.pop(PageClass.SLAB) == rest
    assert counts == {PageClass.FREE: free, PageClass.CACHE: cache, PageClass.USER: user}


def test_single_pages(memory_of_any_machine: Memory, tmp_path: Path) -> None:
    memory = memory_of_any_machine
    kernel = memory.kernel
    expected = {}

    def page(expect: PageClass, **fields: int) -> None:
        pfn = 100 + len(expected)
        memory.set(pfn, **fields)
        expected[pfn] = expect

    page(PageClass.CACHE, flags=kernel.lru, mapping=CACHE_MAPPING)
    page(PageClass.CACHE_PRIVATE, flags=kernel.lru | kernel.private, mapping=CACHE_MAPPING)
    page(PageClass.USER, flags=kernel.lru | kernel.swapbacked, mapping=ANON)
    page(PageClass.USER, flags=kernel.swapcache | kernel.swapbacked, mapping=ANON)
    page(PageClass.CACHE, flags=kernel.swapcache | kernel.swapbacked)
    page(PageClass.KERNEL, flags=kernel.swapcache)  # the bit means something else in pages that swap does not back
    page(PageClass.KERNEL, flags=kernel.private)
    page(PageClass.KERNEL, type=3, mapping=CACHE_MAPPING)  # mapped, and not in the cache
    page(PageClass.KERNEL, mapping=CACHE_MAPPING | 2)
    page(PageClass.SLAB, flags=kernel.slab, type=kernel.slab_type, mapping=ANON)
    page(PageClass.OFFLINE, type=kernel.offline_type)
    page(PageClass.KERNEL, flags=kernel.lru, head=1, mapping=ANON)  # a tail without a head
    page(PageClass.KERNEL, type=kernel.buddy, private=11)  # no block is that large
    if kernel.slab:  # where slabs have a flag, they count something in place of the type
        page(PageClass.SLAB, flags=kernel.slab, type=kernel.buddy)
        page(PageClass.SLAB, flags=kernel.slab, type=kernel.offline_type)
    if kernel.hwpoison:
        page(PageClass.HWPOISON, flags=kernel.hwpoison)
        page(PageClass.HWPOISON, flags=kernel.hwpoison | kernel.lru)
    found = classes_of(tmp_path, memory.dump())
    assert {pfn: found[pfn] for pfn in expected} == expected
    assert set(found[:100] + found[150:]) == {PageClass.KERNEL}


def test_blocks(memory_of_any_machine: Memory, tmp_path: Path) -> None:
    memory = memory_of_any_machine
    kernel = memory.kernel
    memory.free(512, 9)
    memory.set(700, flags=kernel.lru)  # left over in a free block
    memory.free(1024, 0)
    memory.compound(256, 8, hugetlb=True)
    memory.compound(128, 6, flags=kernel.lru | kernel.swapbacked, mapping=ANON)
    memory.compound(192, 5, flags=kernel.lru, mapping=CACHE_MAPPING)
    memory.compound(224, 4, flags=kernel.lru | kernel.private, mapping=CACHE_MAPPING)
    memory.compound(1032, 3, flags=kernel.slab, type=kernel.slab_type, tail_mapping=ANON)
    memory.compound(1040, 3, tail_mapping=ANON)
    found = classes_of(tmp_path, memory.dump())
    assert found[128:192] == [PageClass.USER] * 64
    assert found[192:224] == [PageClass.CACHE] * 32
    assert found[224:240] == [PageClass.CACHE_PRIVATE] * 16
    assert found[256:512] == [PageClass.USER] * 256
    assert found[512:1024] == [PageClass.FREE] * 512
    assert found[1024:1026] == [PageClass.FREE, PageClass.KERNEL]
    assert found[1032:1040] == [PageClass.SLAB] * 8
    assert found[1040:1048] == [PageClass.KERNEL] * 8


def test_struct_pages_of_a_huge_page_may_be_copies_of_its_first_ones(memory: Memory, tmp_path: Path) -> None:
    """With hugetlb_free_vmemmap, seven of eight pages of struct pages are the same page."""
    memory.compound(512, 9, hugetlb=True)
    for pfn in range(576, 1024):
        memory.structs[pfn] = memory.structs[512 + pfn % 64]
    found = classes_of(tmp_path, memory.dump())
    assert found[510:514] == [PageClass.KERNEL] * 2 + [PageClass.USER] * 2
    assert found[512:1024] == [PageClass.USER] * 512


def test_a_block_larger_than_a_section(memory: Memory, tmp_path: Path) -> None:
    memory.frames = 6 * SECTION_FRAMES
    memory.compound(2048, 1, hugetlb=True)
    memory.claim_order(2048, 11)
    memory.set(4000, flags=memory.kernel.lru)
    memory.set(4096, flags=memory.kernel.lru)
    found = classes_of(tmp_path, memory.dump())
    assert found[2047:4097] == [PageClass.KERNEL, *[PageClass.USER] * 2048, PageClass.CACHE]


def test_the_outer_one_of_two_blocks_larger_than_a_section_counts(tmp_path: Path) -> None:
    memory = Memory(KERNELS["5.10"], frames=8 * SECTION_FRAMES)
    for pfn, order, flags in ((4096, 12, 0), (6144, 11, memory.kernel.private)):
        memory.compound(pfn, 1, flags=memory.kernel.lru | flags)
        memory.claim_order(pfn, order)
    assert classes_of(tmp_path, memory.dump())[4095:8192] == [PageClass.KERNEL, *[PageClass.CACHE] * 4096]


def test_a_block_that_lies_askew_or_is_too_large_is_taken_for_one_page(memory: Memory, tmp_path: Path) -> None:
    memory.compound(0, 1, flags=memory.kernel.lru)
    memory.claim_order(0, 19)
    memory.free(104, 5)
    memory.compound(202, 1, flags=memory.kernel.lru)
    memory.claim_order(202, 4)
    found = classes_of(tmp_path, memory.dump())
    assert found[0:2] == [PageClass.CACHE, PageClass.KERNEL]
    assert found[104:106] == [PageClass.FREE, PageClass.KERNEL]
    assert found[202:204] == [PageClass.CACHE, PageClass.KERNEL]


def test_unaccepted_memory_is_free_in_blocks_of_the_largest_order(tmp_path: Path) -> None:
    memory = Memory(KERNELS["7.2"])
    memory.set(1024, type=memory.kernel.unaccepted_type)
    found = classes_of(tmp_path, memory.dump())
    assert found[1023:] == [PageClass.KERNEL, *[PageClass.FREE] * 1024]


def test_since_6_12_a_page_type_is_one_byte_and_the_rest_may_hold_something(tmp_path: Path) -> None:
    memory = Memory(KERNELS["6.12"])
    memory.set(100, type=memory.kernel.slab_type | 0x1234, mapping=ANON)
    assert classes_of(tmp_path, memory.dump())[100] is PageClass.SLAB


def test_pages_without_a_struct_page_are_unknown(memory: Memory, tmp_path: Path) -> None:
    """Pages of a known block are an exception."""
    memory.free(512, 9)
    memory.set(1030, flags=memory.kernel.lru)
    memory.compound(1152, 7, flags=memory.kernel.slab, type=memory.kernel.slab_type)
    memory.absent_structs = [*range(640, 1152, 64), 1216]
    found = classes_of(tmp_path, memory.dump())
    assert found[512:1024] == [PageClass.FREE] * 512
    assert found[1024:1152] == [PageClass.UNKNOWN] * 128
    assert found[1152:1281] == [*[PageClass.SLAB] * 128, PageClass.KERNEL]


def test_no_ram_is_a_hole_and_no_head_of_a_block(memory: Memory, tmp_path: Path) -> None:
    memory.free(512, 9)
    memory.free(1024, 9)
    found = classes_of(tmp_path, memory.dump(ram=[*range(600), *range(1025, 1100)]))
    assert found[510:600] == [*[PageClass.KERNEL] * 2, *[PageClass.FREE] * 88]
    assert found[600:1025] == [PageClass.HOLE] * 425
    assert found[1025:] == [*[PageClass.KERNEL] * 75, *[PageClass.HOLE] * 948]


def test_a_dump_without_struct_pages_has_no_classes(memory: Memory, tmp_path: Path) -> None:
    memory.absent_structs = range(memory.frames)
    path = tmp_path / "vmcore"
    path.write_bytes(memory.dump())
    with (
        open_vmcore(path) as vmcore,
        pytest.raises(VmcoreError, match="struct pages of the kernel are not in the dump"),
    ):
        count_classes(vmcore)
    assert inspect(path).classes == {}


@pytest.mark.parametrize(
    ("level", "dropped"),
    [
        (0, ""),
        (1, ""),
        (2, "cache"),
        (4, "cache, cache private"),
        (8, "user"),
        (16, "free"),
        (17, "free"),
        (31, "cache, cache private, free, user"),
    ],
)
def test_levels(level: int, dropped: str) -> None:
    hardware = {PageClass.HWPOISON, PageClass.OFFLINE}
    assert ", ".join(sorted(each.label for each in dropped_by(level) - hardware)) == dropped
    assert dropped_by(level) >= (hardware if dropped else set())
    assert not kept_by(level) & (dropped_by(level) | hardware | {PageClass.HOLE, PageClass.UNKNOWN})
    assert {PageClass.KERNEL, PageClass.SLAB} <= kept_by(level)


def filtered(memory: Memory) -> set[int]:
    """Write two free blocks and a slab; return the page frames that level 31 keeps."""
    memory.free(512, 9)
    memory.free(1024, 9)
    memory.compound(256, 6, flags=memory.kernel.slab, type=memory.kernel.slab_type)
    return {*range(512), *range(1536, memory.frames)}


def test_a_dump_that_obeys_its_level(memory_of_any_machine: Memory, tmp_path: Path) -> None:
    memory = memory_of_any_machine
    path = tmp_path / "vmcore"
    path.write_bytes(memory.dump(kept=filtered(memory)))
    found = inspect(path)
    assert found.classes == {
        "kernel": {"total": 960, "kept": 960},
        "slab": {"total": 64, "kept": 64},
        "free": {"total": 1024, "kept": 0},
    }
    assert not [remark for remark in found.remarks if "level" in remark]
    assert inspect(path, quick=True).classes == {}


def test_free_pages_that_were_not_dropped(memory: Memory, tmp_path: Path) -> None:
    """makedumpfile 1.7.6 keeps free pages, since it cannot recognize them on Linux 6.12."""
    path = tmp_path / "vmcore"
    kept = filtered(memory) | {*range(600, 900)}
    path.write_bytes(memory.dump(kept=kept))
    found = inspect(path)
    assert found.whole
    assert "level 31 drops free pages, but 300 of 1,024 are in the dump" in found.remarks
    path.write_bytes(memory.dump(kept=kept, level=15))
    assert "level 15 keeps free pages, but 724 of 1,024 are not in the dump" in inspect(path).remarks


def test_kernel_pages_that_were_dropped(memory: Memory, tmp_path: Path) -> None:
    """makedumpfile before 1.8 mistakes tails for heads on Linux 7.1."""
    path = tmp_path / "vmcore"
    path.write_bytes(memory.dump(kept=filtered(memory) - {*range(257, 320)}))
    earlier = "an earlier filter may have dropped the missing kernel pages as pages of zeros"
    said = inspect(path).remarks
    assert "level 31 keeps slab pages, but 63 of 64 are not in the dump" in said
    assert earlier not in said
    path.write_bytes(memory.dump(kept=filtered(memory) - {*range(400, 480)}))
    assert earlier in inspect(path).remarks
    path.write_bytes(memory.dump(kept=filtered(memory) - {*range(257, 320)}))
    with open_vmcore(path) as vmcore:
        found = LevelViolations.of(count_classes(vmcore), 31)
    assert found.kept[PageClass.SLAB].absent == 63
    assert found.dropped[PageClass.FREE] == Tally(1024, 0)


def test_pages_that_were_left_out_on_purpose_cause_no_remark(memory: Memory, tmp_path: Path) -> None:
    path = tmp_path / "vmcore"
    path.write_bytes(memory.dump(kept=filtered(memory) - {*range(257, 320)}, status=0x11))
    assert not [remark for remark in inspect(path).remarks if remark.startswith("level")]


def test_a_sliver_causes_no_remark() -> None:
    counts = {
        PageClass.FREE: Tally(200_000, 4000),
        PageClass.USER: Tally(256, 256),
        PageClass.KERNEL: Tally(30_000, 29_968),
        PageClass.UNKNOWN: Tally(5000, 0),
    }
    assert list(LevelViolations.of(counts, 31).remarks()) == []
    assert len(list(LevelViolations.of({**counts, PageClass.FREE: Tally(200_000, 4001)}, 31).remarks())) == 1
    assert len(list(LevelViolations.of({**counts, PageClass.KERNEL: Tally(30_000, 29_967)}, 31).remarks())) == 1
    assert list(LevelViolations.of({PageClass.KERNEL: Tally(30_000, 9)}, 31, zeros_absent=True).remarks()) == []


@pytest.mark.parametrize("longest", [255, 256])
def test_makedumpfile_keeps_short_runs_in_an_elf_dump(longest: int) -> None:
    wanted = np.zeros(2000, dtype=np.bool_)
    wanted[:100] = wanted[1000 : 1000 + longest] = wanted[-1:] = True
    found = in_short_run(wanted)
    assert found[wanted].sum() == 101 + (longest if longest < 256 else 0)
    assert not found[~wanted].any()


def test_the_pages_that_an_elf_dump_keeps_in_short_runs_are_known(tmp_path: Path) -> None:
    """The kernel's own pages, all short runs of pages to be dropped, and 300 pages of a longer one."""
    with open_vmcore(REAL / "6.12.107.kdump") as vmcore:
        codes = classify(vmcore).codes
        to_drop = np.isin(codes, list(dropped_by(31)))
        longer = np.flatnonzero(to_drop & ~in_short_run(to_drop))[:300]
        kept = ~to_drop & (codes != PageClass.HOLE) | in_short_run(to_drop)
        kept[longer] = True
        path = tmp_path / "vmcore"
        path.write_bytes(elf_of(vmcore, kept))
    with open_vmcore(path) as vmcore:
        found = spared(vmcore, 31)
        assert np.array_equal(found, np.where(in_short_run(to_drop), codes, PageClass.HOLE))
        assert not spared(vmcore, 0).any()
    with open_vmcore(REAL / "6.12.107.kdump") as vmcore:
        assert not spared(vmcore, 31).any()


def test_elf_dumps_have_classes_and_no_level(memory: Memory, tmp_path: Path) -> None:
    memory.free(32, 1)
    path = tmp_path / "vmcore"
    path.write_bytes(memory.as_elf())
    with open_vmcore(path) as vmcore:
        assert count_classes(vmcore) == {PageClass.KERNEL: Tally(33, 33), PageClass.FREE: Tally(2, 2)}
    assert inspect(path).classes["free"] == {"total": 2, "kept": 2}


@pytest.mark.parametrize("claimed_bytes", [1 << 35, 1 << 50])
def test_ram_without_struct_pages_is_refused_before_it_costs_time(claimed_bytes: int, tmp_path: Path) -> None:
    path = tmp_path / "vmcore"
    path.write_bytes(Memory(KERNELS["6.12"]).as_elf(claimed_bytes))
    began_s = time.process_time()
    with open_vmcore(path) as vmcore, pytest.raises(VmcoreError, match="cannot have the struct pages of all its RAM"):
        count_classes(vmcore)
    assert time.process_time() - began_s < 5


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("SIZE(page)=0", r"SIZE\(page\) is 0"),
        ("SIZE(page)=99999999999", r"SIZE\(page\) is 99999999999"),
        ("OFFSET(page.flags)=60", r"OFFSET\(page.flags\) is 60"),
        ("OFFSET(page.mapping)=3", r"OFFSET\(page.mapping\) is 3"),
        ("OFFSET(page.private)=-8", r"OFFSET\(page.private\) is -8"),
        ("NUMBER(PG_lru)=64", r"NUMBER\(PG_lru\) is 64"),
        ("NUMBER(PG_head_mask)=0", r"NUMBER\(PG_head_mask\) is 0"),
        ("NUMBER(SECTION_SIZE_BITS)=4", r"NUMBER\(SECTION_SIZE_BITS\) is 4"),
        ("NUMBER(MAX_PHYSMEM_BITS)=4000", r"NUMBER\(MAX_PHYSMEM_BITS\) is 4000"),
        ("LENGTH(mem_section)=3", r"LENGTH\(mem_section\) is 3"),
        ("SIZE(mem_section)=8192", r"SIZE\(mem_section\) is 8192"),
        ("OFFSET(mem_section.section_mem_map)=9", r"OFFSET\(mem_section.section_mem_map\) is 9"),
        ("LENGTH(zone.free_area)=4096", r"LENGTH\(zone.free_area\) is 4096"),
        ("NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)=many", "PAGE_BUDDY_MAPCOUNT_VALUE.* is not a number"),
    ],
)
def test_impossible_numbers_are_named(line: str, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "vmcore"
    path.write_bytes(Memory(KERNELS["6.12"]).dump(more=line + "\n"))
    with open_vmcore(path) as vmcore, pytest.raises(VmcoreError, match=complaint):
        count_classes(vmcore)


@pytest.mark.parametrize("name", ["SYMBOL(mem_section)", "OFFSET(page.compound_head)", "NUMBER(PG_private)"])
def test_symbols_that_a_kernel_does_not_export_are_named(name: str, tmp_path: Path) -> None:
    path = tmp_path / "vmcore"
    data = Memory(KERNELS["5.10"]).dump()
    path.write_bytes(data.replace(f"\n{name}".encode(), f"\n{'X' * len(name)}".encode()))
    with open_vmcore(path) as vmcore, pytest.raises(VmcoreError, match="VMCOREINFO has no"):
        count_classes(vmcore)


# One page frame after the other, as makedumpfile goes: a second opinion for whatever a table of struct pages may hold.
def walked(memory: Memory) -> list[PageClass]:
    kernel = memory.kernel
    blank = struct.pack("<QQQQQQII8x", 0, 0, 0, 0, 0, 0, 0, 0)
    found = [PageClass.KERNEL] * memory.frames
    tail_until, tail_class = 0, PageClass.KERNEL
    skip_until = 0
    for pfn in range(memory.frames):
        if pfn < skip_until:
            continue
        raw = memory.structs.get(pfn, blank)
        flags, head, _, mapping, _, private, kind, _ = struct.unpack("<QQQQQQII8x", raw)
        behind = memory.structs.get(pfn + 1, blank)
        if head & 1:
            if pfn < tail_until:
                found[pfn] = tail_class
            continue
        slab = bool(flags & kernel.slab) or kind == kernel.slab_type != NOT_A_TYPE
        anon = bool(mapping & 1) and not slab
        is_head = bool(flags & kernel.head)
        order = behind[kernel.order_at] if is_head and pfn % 2 == 0 else 0
        if order > 18 or pfn % (1 << order):
            order = 0
        huge = kind == kernel.hugetlb_type if kernel.hugetlb_type else behind[kernel.dtor_at or 0] == 2
        cached = flags & kernel.lru or (flags & kernel.swapcache and flags & kernel.swapbacked)
        if kind == kernel.buddy and not slab and private < 11:
            each, order = PageClass.FREE, private if pfn % (1 << private) == 0 else 0
        elif flags & kernel.hwpoison:
            each = PageClass.HWPOISON
        elif cached and not anon:
            each = PageClass.CACHE_PRIVATE if flags & kernel.private else PageClass.CACHE
        elif anon or (is_head and pfn % 2 == 0 and huge):
            each = PageClass.USER
        elif kind == kernel.offline_type and not slab:
            each = PageClass.OFFLINE
        else:
            found[pfn] = PageClass.SLAB if slab else PageClass.KERNEL
            if order:
                tail_until, tail_class = pfn + (1 << order), found[pfn]
            continue
        skip_until = pfn + (1 << order)
        found[pfn:skip_until] = [each] * (skip_until - pfn)
    return found[: memory.frames]


def any_memory(draw: Callable[[st.SearchStrategy[int]], int], kernel: Kernel) -> Memory:
    """Blocks that do not overlap, of every kind and order."""
    memory = Memory(kernel)
    pfn = 64
    kinds: list[Callable[[int, int], None]] = [
        memory.free,
        lambda pfn, order: memory.set(pfn, type=kernel.offline_type),
        lambda pfn, order: memory.set(pfn, flags=kernel.hwpoison | kernel.lru),
        lambda pfn, order: memory.set(pfn, flags=kernel.lru, mapping=ANON, private=order),
        lambda pfn, order: memory.set(pfn, flags=kernel.head | kernel.lru, head=order),
        lambda pfn, order: memory.compound(pfn, order or 1, hugetlb=True),
        lambda pfn, order: memory.compound(pfn, order or 1, flags=kernel.lru, mapping=ANON),
        lambda pfn, order: memory.compound(pfn, order or 1, flags=kernel.lru, tail_mapping=ANON),
        lambda pfn, order: memory.compound(pfn, order or 1, flags=kernel.slab, type=kernel.slab_type),
        lambda pfn, order: memory.compound(pfn, order or 1, mapping=CACHE_MAPPING, tail_mapping=ANON),
    ]
    while pfn < memory.frames:
        order = draw(st.integers(0, 10))
        pfn = -(-pfn >> order << order) if pfn % (1 << order) == 0 else (pfn >> order) + 1 << order
        size = max(2, 1 << order)
        if pfn + size > memory.frames:
            break
        kinds[draw(st.integers(0, len(kinds) - 1))](pfn, order)
        pfn += size
    return memory


@QUICKLY
@given(st.data(), st.sampled_from(["5.10", "6.12"]))
def test_blocks_of_all_kinds_count_as_if_walked_one_by_one(tmp_path_factory, data, name):
    memory = any_memory(data.draw, KERNELS[name])
    assert classes_of(tmp_path_factory.mktemp("classes"), memory.dump()) == walked(memory)


def survives(data: bytes, directory: Path) -> Mapping[PageClass, Tally]:
    """Return the counts, if there are any; check that they add up."""
    path = directory / "vmcore"
    path.write_bytes(data)
    with open_vmcore(path) as vmcore:
        try:
            counts = count_classes(vmcore)
        except VmcoreError:
            return {}
        assert sum(tally.total for tally in counts.values()) == vmcore.pages_total
        assert all(0 <= tally.kept <= tally.total for tally in counts.values())
        return counts


@QUICKLY
@given(st.sampled_from(list(KERNELS)), st.binary(min_size=64, max_size=4096), st.integers(0, 2000))
def test_struct_pages_of_garbage_never_lead_to_a_traceback(tmp_path_factory, name, garbage, at):
    memory = Memory(KERNELS[name])
    for pfn in range(at, memory.frames):
        memory.structs[pfn] = (garbage * 2)[pfn * STRUCT % len(garbage) :][:STRUCT].ljust(STRUCT, b"\xff")
    assert survives(memory.dump(), tmp_path_factory.mktemp("classes"))


NUMBERED = KERNELS["7.2"].vmcoreinfo(Space()).splitlines()


@QUICKLY
@given(
    st.sampled_from(NUMBERED),
    st.sampled_from(["", "x", "-1", "0", "1", "7", "8", "63", "64", "4096", f"{2**31}", f"{2**63}", f"{2**64 - 8}"]),
)
def test_any_number_in_vmcoreinfo_gives_counts_or_a_sentence(tmp_path_factory, line, number):
    survives(Memory(KERNELS["7.2"]).dump(more=f"{line.split('=')[0]}={number}\n"), tmp_path_factory.mktemp("classes"))


@QUICKLY
@given(st.integers(0, 2 * PAGE - 8), st.binary(min_size=8, max_size=8))
def test_a_damaged_section_table_never_leads_to_a_traceback(tmp_path_factory, at, patch):
    memory = Memory(KERNELS["6.12"])
    tables = memory.tables()
    both = bytearray(tables[ROOTS] + tables[SECTIONS])
    both[at : at + 8] = patch
    tables |= {ROOTS: bytes(both[:PAGE]), SECTIONS: bytes(both[PAGE:])}
    data = Kdump(pages=tables, max_mapnr=memory.frames, more_vmcoreinfo=memory.kernel.vmcoreinfo(Space())).build()
    survives(data, tmp_path_factory.mktemp("classes"))
