"""The messages of makedumpfile on the console."""

from __future__ import annotations

import re

import pytest
from kdump_harness.base import tables
from kdump_harness.kdump.makedumpfile import Words, read_words

# makedumpfile -c -d 31 --message-level 23 of 1.7.2, on a vmcore of Linux 6.1.
REPORT = """\
The kernel version is not supported.
The makedumpfile operation may be incomplete.
STEP [Copying data               ] : 2.016426 seconds

Original pages  : 0x00000000000167ab
  Excluded pages   : 0x0000000000010815
    Pages filled with zero  : 0x0000000000000ba0
    Non-private cache pages : 0x0000000000003b5b
    Private cache pages     : 0x0000000000000000
    User process data pages : 0x0000000000000069
    Free pages              : 0x000000000000c0b1
    Hwpoison pages          : 0x0000000000000000
    Offline pages           : 0x0000000000000000
  Remaining pages  : 0x0000000000005f96
Memory Hole     : 0x0000000000009832
Total pages     : 0x000000000001ffdd
"""
# The struct pages of the same dump, as this package counts them.
CLASSES = {
    "kernel": {"total": 13496, "kept": 13496},
    "slab": {"total": 3662, "kept": 3662},
    "free": {"total": 49329, "kept": 0},
    "cache": {"total": 15195, "kept": 0},
    "user": {"total": 105, "kept": 0},
}
DISABLED = "'-p' option is disabled, because this binary doesn't support snappy compression."


def test_the_report_has_the_pages_by_class() -> None:
    words = read_words(REPORT, "1.7.2")
    assert words.pages == {
        "zero": 2976, "cache": 15195, "private cache": 0, "user": 105, "free": 49329, "hwpoison": 0, "offline": 0,
        "remaining": 24470,
    }  # fmt: skip
    assert (words.version, words.latest_kernel) == ("1.7.2", "6.0.1")
    assert words.warnings == ("The kernel version is not supported.",)


@pytest.mark.parametrize("prefix", ["", "[   58.478953] kdump.sh[524]: ", "[  9.1] kdump-tools[251]: "])
def test_a_warning_is_found_behind_the_words_of_others(prefix: str) -> None:
    words = read_words(f"{prefix}{DISABLED}\n{prefix}Try `make USESNAPPY=on` when building.\n", "1.7.2")
    assert words.warnings == (DISABLED,)
    assert words.remarks == ("makedumpfile was built without snappy, and wrote uncompressed pages instead",)


def test_equal_counts_are_no_remark() -> None:
    assert list(read_words(REPORT, "1.7.2").differences(CLASSES, 31)) == []


@pytest.mark.parametrize(
    ("level", "counted", "said"),
    [
        (31, 0, ["makedumpfile counted 0 free pages, the page structures in the dump have 49,329"]),
        (31, 49329 - 64, []),
        (15, 0, []),  # the level keeps them, so they are not counted
    ],
)
def test_other_counts_are_named(level: int, counted: int, said: list[str]) -> None:
    report = re.sub(r"(Free pages +: 0x)\w+", rf"\g<1>{counted:016x}", REPORT)
    assert list(read_words(report, "1.7.6").differences(CLASSES, level)) == said


def test_without_a_report_nothing_is_compared() -> None:
    words = read_words("makedumpfile Completed.\n", "9.9.9")
    assert words == Words(version="9.9.9", latest_kernel=None)
    assert list(words.differences(CLASSES, 31)) == []
    assert list(read_words(REPORT, "1.7.2").differences({}, 31)) == []


def test_the_versions_are_in_order() -> None:
    rows = tables.load_toml(tables.package_path("kdump", "makedumpfile.toml"))["version"]
    keys = [tuple(tuple(map(int, row[name].split("."))) for name in ("version", "kernel")) for row in rows]
    assert keys == sorted(keys)
