"""The memory that a capture kernel reports is read from the console, and from its own lines only."""

from __future__ import annotations

from pathlib import Path

import pytest
from kdump_harness.distro.family import find_family, load_families
from kdump_harness.kdump.capture_memory import CaptureMemory, read

# The lines about memory of a drill of Debian 12 with 256 MiB for the capture kernel, as they came.
RECORD = (Path(__file__).parents[1] / "data" / "drills" / "debian-12-measured.log").read_text(encoding="utf-8")


def test_the_worst_moment_is_the_least_that_was_left() -> None:
    assert read(RECORD) == CaptureMemory(all_kib=262124, taken_kib=56932, total_kib=220032, left_kib=175036)
    memory = read(RECORD)
    assert memory is not None
    assert memory.used_kib == 87088


def test_a_console_without_the_program_tells_only_what_the_kernel_found() -> None:
    lines = "\n".join(line for line in RECORD.splitlines() if "capture memory" not in line)
    assert read(lines) == CaptureMemory(all_kib=262124, taken_kib=56932)


@pytest.mark.parametrize(
    "console",
    [
        "",
        "Memory: 1K/2K available (0K kernel code, 5K reserved, 0K cma-reserved)",
        RECORD[: RECORD.index("elfcorehdr=")],
    ],
)
def test_without_a_capture_kernel_there_is_nothing_to_read(console: str) -> None:
    assert read(console) is None


@pytest.mark.parametrize("line", ["total 220032 kB, left 99999999 kB", "total 0 kB, left 0 kB", "total 9 kB, left"])
def test_damaged_lines_are_left_out(line: str) -> None:
    memory = read(RECORD + f"\nkdump-harness: capture memory: {line}\n")
    assert memory == read(RECORD)


def test_debian_has_a_way_and_its_files_are_whole() -> None:
    files = find_family("debian").measure.files
    assert any("kdump-harness: capture memory: total $total kB, left $left kB" in text for text in files.values())
    assert all(path.startswith("/") for family in load_families().values() for path in family.measure.files)
