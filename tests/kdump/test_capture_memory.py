"""The memory that a capture kernel reports is read from the console, and from its own lines only."""

from __future__ import annotations

from pathlib import Path

import pytest
from kdump_harness.diagnosis import diagnose_text
from kdump_harness.distro.family import find_family, load_families
from kdump_harness.kdump.capture_memory import CaptureMemory, read, read_claim

# The lines about memory of a drill of Debian 12 with 256 MiB for the capture kernel, as they came.
RECORD = (Path(__file__).parents[1] / "data" / "drills" / "debian-12-measured.log").read_text(encoding="utf-8")

# The lines about memory of a kernel drill of Linux 7.3.4 with a DIMM, which its capture kernel added.
DIMM = (Path(__file__).parents[1] / "data" / "drills" / "kernel-7.3-dimm.log").read_text(encoding="utf-8")


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


# ---------------------------------------------------------------- the most memory that was claimed

GOOD = "262124 KiB: Memory: 122548K/262124K available"


def boot_of(*lines: str) -> str:
    """A console with these lines in its capture kernel, and a next boot with all the memory."""
    after = "[    0.0] Linux version 6.12\n[    0.1] Memory: 900000K/1048040K available (\n"
    return "\n".join(["[    0.0] Command line: elfcorehdr=0x6f000000 ro", *lines, after])


def test_the_memory_of_a_good_capture_kernel_is_that_of_its_start() -> None:
    claim = read_claim(RECORD)
    assert claim is not None
    assert f"{claim.kib} KiB: {claim.line}".startswith(GOOD)


@pytest.mark.parametrize(
    ("line", "kib"),
    [
        ("Memory: 812345K/1310716K available (14343K kernel code, 0K cma-reserved)", 1310716),
        ("kdump-harness: capture memory: total 1124744 kB, left 900000 kB", 1124744),
        ("kdump-harness: MemTotal 1124744 kB MemAvailable 1000000 kB ", 1124744),
        ("[    9.1] 327677 pages RAM", 1310708),
        ("BIOS-e820: [mem 0x0000000000100000-0x000000003fffffff] usable", 1047552),
        ("BIOS-e820: [mem 0x0000000000100000-0x000000003fffffff]  System RAM", 1047552),  # since Linux 7.1
        ("user: [mem 0x0000000000100000-0x000000003fffffff] usable", 1047552),
    ],
)
def test_the_most_memory_that_a_capture_kernel_reported_is_found(line: str, kib: int) -> None:
    claim = read_claim(boot_of("Memory: 1K/163840K available (2K kernel code)", line, "Memory: 1K/3K available"))
    assert claim is not None
    assert claim.kib == kib


def test_a_kernel_that_counts_the_crashed_memory_reports_its_own_in_mem_total_only() -> None:
    """Linux 7.2 of ppc64le, with a reservation of 320 MiB."""
    lines = ("Memory: 229972K/851968K available (20600K kernel code, 617992K reserved)", "[    9.1] 13312 pages RAM")
    console = boot_of(*lines, "kdump-harness: MemTotal 250028 kB MemAvailable 213228 kB ")
    claim = read_claim(console, counts_other_memory=True)
    assert claim is not None
    assert claim.kib == 250028
    assert read_claim(boot_of(*lines), counts_other_memory=True) is None


@pytest.mark.parametrize(
    "line",
    [
        "BIOS-e820: [mem 0x0000000000100000-0x000000003fffffff] reserved",
        "BIOS-e820: [mem 0x0000000000100000-0x000000003fffffff]  device reserved",
        "BIOS-e820: [mem 0x0000000100000000-0x000000013fffffff] soft reserved",
        "BIOS-e820: [gap 0x0000000100000000-0x000000fcffffffff]",
        "user: [mem 0x0000000000001000-0x000000000009ffff] usable",
        "Memory: 1K/99999999999999999K available (2K kernel code)",
    ],
)
def test_memory_that_is_not_the_kernels_own_does_not_count(line: str) -> None:
    claim = read_claim(boot_of("Memory: 1K/163840K available (2K kernel code)", line))
    assert claim is not None
    assert claim.kib == 163840


def test_a_map_of_the_user_replaces_that_of_the_firmware() -> None:
    whole = "BIOS-e820: [mem 0x0000000000100000-0x000000003fffffff] usable"
    claim = read_claim(boot_of(whole, "user: [mem 0x0000000010000000-0x0000000019ffffff] usable"))
    assert claim is not None
    assert claim.kib == 160 << 10


def test_memory_that_was_added_is_a_second_line_about_zones() -> None:
    """Kernel 7.3.4 with a DIMM of 1 GiB; the line counts the pages from before."""
    claim, again = read_claim(DIMM), "Built 1 zonelists, mobility grouping on.  Total pages: 48287"
    assert claim is not None
    assert (claim.kib, claim.added) == (196346, again)
    usual = read_claim(DIMM.replace(again, ""))
    assert usual is not None
    assert (usual.kib, usual.added) == (196346, "")
    diagnosis = diagnose_text(DIMM)
    assert (diagnosis.mode, diagnosis.symptoms[0].line) == ("capture-memory-taken", f"[    1.747469] {again}")
    assert "capture-memory-taken" not in {one.name for one in diagnose_text(DIMM.replace(again, "")).symptoms}


@pytest.mark.parametrize("console", ["", "Memory: 1K/2K available (", boot_of("nothing about memory")])
def test_a_console_without_such_lines_has_no_claim(console: str) -> None:
    assert read_claim(console) is None
