"""The classes of a guest's pages, from what its kernel says of them."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
from kdump_harness.kdump.page_flags import classify, from_flags, from_meminfo, names_dropped_by

BIT = {
    "lru": 1 << 5, "slab": 1 << 7, "buddy": 1 << 10, "anon": 1 << 12, "swapcache": 1 << 13, "swapbacked": 1 << 14,
    "huge": 1 << 17, "nopage": 1 << 20, "offline": 1 << 23, "pgtable": 1 << 26, "reserved": 1 << 32, "private": 1 << 35,
}  # fmt: skip


def flags(*words: str) -> np.ndarray:
    """One page per word of names joined by +."""
    return np.array([sum(BIT[name] for name in word.split("+") if name) for word in words], dtype="<u8")


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("buddy", "free"),
        ("lru", "cache"),
        ("lru+private", "private cache"),
        ("lru+swapbacked", "cache"),  # shared memory: not anonymous to makedumpfile
        ("lru+anon", "user"),
        ("lru+anon+private", "user"),
        ("lru+anon+swapcache", "user"),
        ("swapcache", "cache"),
        ("huge", "user"),
        ("slab", "kernel"),
        ("slab+private", "kernel"),
        ("pgtable", "kernel"),
        ("reserved", "kernel"),
        ("", "kernel"),  # also free pages on a CPU's own list, which makedumpfile keeps
    ],
)
def test_each_page_has_the_class_that_makedumpfile_gives_it(word: str, kind: str) -> None:
    state = classify(flags(word))
    assert {name for name, count in state.pages.items() if count} == {kind}
    assert list(state.of_class(kind, 1)) == [True]


def test_holes_are_of_no_class() -> None:
    assert sum(classify(flags("nopage", "nopage", "buddy")).pages.values()) == 1


def test_only_slabs_and_page_tables_are_surely_not_empty() -> None:
    assert classify(flags("slab", "pgtable", "", "reserved", "buddy")).sure == 2


def test_pages_that_a_balloon_took_are_counted() -> None:
    assert classify(flags("offline", "offline", "offline+nopage", "")).offline == 2


def test_a_mask_reaches_as_far_as_the_dump_does() -> None:
    state = classify(flags("buddy", "", "buddy"))
    assert list(state.of_class("free", 2)) == [True, False]
    assert list(state.of_class("free", 5)) == [True, False, True, False, False]


@pytest.mark.parametrize(
    ("level", "classes"),
    [
        (0, set()),
        (1, set()),
        (2, {"cache"}),
        (4, {"cache", "private cache"}),
        (8, {"user"}),
        (16, {"free"}),
        (31, {"cache", "private cache", "user", "free"}),
    ],
)
def test_what_a_level_drops(level: int, classes: set[str]) -> None:
    assert set(names_dropped_by(level)) == classes


def test_packed_flags_are_read() -> None:
    state = from_flags(gzip.compress(flags("buddy", "lru").tobytes()), page_frames_max=9)
    assert (state.pages["free"], state.pages["cache"], state.source) == (1, 1, "/proc/kpageflags")


@pytest.mark.parametrize(
    "packed",
    [b"", b"no gzip", gzip.compress(b""), gzip.compress(b"123"), gzip.compress(bytes(64))[:-9]],
    ids=["nothing", "no gzip", "empty", "no words", "cut"],
)
def test_flags_that_are_not_whole_are_refused(packed: bytes) -> None:
    with pytest.raises(ValueError, match=r"not (what|all)"):
        from_flags(packed, page_frames_max=99)


def test_flags_of_an_endless_memory_are_refused() -> None:
    with pytest.raises(ValueError, match="not all"):
        from_flags(gzip.compress(bytes(8 * 100)), page_frames_max=10)


def test_the_sums_are_pages_of_the_guests_own_size() -> None:
    """An arm64 guest with 64 KiB per page has a sixteenth of the pages."""
    meminfo = {"MemTotal": 1024000, "MemFree": 512000, "Cached": 6400, "Slab": 640}
    assert from_meminfo(meminfo, 65536).pages["free"] == 8000
    assert from_meminfo(meminfo, 4096).pages["free"] == 128000
    assert (from_meminfo(meminfo, 65536).sure, from_meminfo(meminfo, 4096).sure) == (10, 160)


def test_meminfo_gives_the_sums() -> None:
    state = from_meminfo(
        {"MemTotal": 4000, "MemFree": 2000, "Cached": 400, "Buffers": 40, "AnonPages": 80, "Slab": 40}, 4096
    )
    assert dict(state.pages) == {"free": 500, "cache": 110, "private cache": 0, "user": 20, "kernel": 370}
    assert (state.sure, state.source) == (10, "/proc/meminfo")


def test_frames_that_no_dump_can_have_are_taken_out() -> None:
    free, user, kernel = 1 << 10, 1 << 12, 0
    memory = classify(np.array([kernel, free, free, user, kernel, user], dtype=np.uint64))
    assert memory.in_frames(range(2, 4)) == {"kernel": 0, "free": 1, "cache": 0, "private cache": 0, "user": 1}
    rest = memory.without([range(2, 4)])
    assert dict(rest.pages) == {"kernel": 2, "free": 1, "cache": 0, "private cache": 0, "user": 1}
    assert rest.of_class("user", 6).tolist() == [False] * 5 + [True]
    assert memory.without([]) is memory
    sums = from_meminfo({"MemTotal": 4096}, 4096)
    assert sums.in_frames(range(4)) == {}
    assert sums.without([range(4)]) is sums
