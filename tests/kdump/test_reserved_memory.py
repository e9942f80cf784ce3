"""The parts of a reservation, from the files of kernels that were booted with each kind of crashkernel=."""

from __future__ import annotations

import pytest
from kdump_harness.kdump.reserved_memory import AddressRange, in_words, parse

MIB = 1 << 20

# Linux 7.3.4 with crashkernel=256M,high crashkernel=64M,low: kexec_crash_size is the sum.
HIGH_IOMEM = "  bb000000-beffffff : Crash kernel\n  12f000000-13effffff : Crash kernel"
# Linux 7.3.4 with crashkernel=128M crashkernel=256M,cma: neither /proc/iomem nor kexec_crash_size has the CMA range.
CMA_IOMEM = "  57000000-5effffff : Crash kernel"
CMA_LOG = """[    0.000000] cma: Reserved 64 MiB at 0x0000000010000000
[    0.000000] cma: Reserved 256 MiB at 0x0000000047000000
[    0.000000] crashkernel CMA reserved: 256 MB in 1 ranges
[    1.000000] cma: Reserved 16 MiB at 0x0000000020000000"""
CMA_FAILED = """[    0.000000] cma: Reserved 512 MiB at 0x40000000 on node -1
[    0.000000] cma: Reserved 256 MiB at 0x10000000 on node -1
[    0.000000] crashkernel CMA reservation failed: 1024 MB requested, 768 MB reserved in 2 ranges"""


@pytest.mark.parametrize(
    ("iomem", "cma", "size_bytes", "parts"),
    [
        (HIGH_IOMEM, "", 335544320, (256, 64, 0)),
        (CMA_IOMEM, "47000000-56ffffff", 134217728, (0, 128, 256)),
        (CMA_IOMEM, CMA_LOG, 134217728, (0, 128, 256)),
        (CMA_IOMEM, CMA_FAILED, 134217728, (0, 128, 768)),
        ("", "", 0, (0, 0, 0)),
        ("  00000000-00000000 : Crash kernel", "", 268435456, (0, 256, 0)),  # not root
        ("grep: /proc/iomem: Permission denied", "cat: no such file", 268435456, (0, 256, 0)),
    ],
)
def test_the_parts_are_read(iomem: str, cma: str, size_bytes: int, parts: tuple[int, int, int]) -> None:
    found = parse(iomem, cma, str(size_bytes))
    assert (found.high_bytes // MIB, found.low_bytes // MIB, found.cma_bytes // MIB) == parts
    assert found.total_bytes == sum(parts) * MIB
    assert found.main_bytes == (parts[0] or parts[1]) * MIB


def test_the_parts_are_said_and_kept_as_json() -> None:
    found = parse(HIGH_IOMEM, "47000000-56ffffff", "335544320")
    assert in_words(found.to_json()) == "256 MiB above and 64 MiB below 4 GiB, and 256 MiB of CMA"
    assert found.cma == (AddressRange(0x47000000, 0x57000000),)
    assert found.to_json() == {
        "high_mib": 256,
        "low_mib": 64,
        "cma_mib": 256,
        "fixed_ranges": ["bb000000-beffffff", "12f000000-13effffff"],
        "cma_ranges": ["47000000-56ffffff"],
    }
    assert in_words(parse(CMA_IOMEM, "", "").to_json()) == "128 MiB"
    assert in_words({}) == "0 MiB"


@pytest.mark.parametrize(("page", "frames"), [(4096, range(0x47000, 0x57000)), (65536, range(0x4700, 0x5700))])
def test_the_frames_of_a_cma_range_are_of_the_guests_page_size(page: int, frames: range) -> None:
    assert parse(CMA_IOMEM, "47000000-56ffffff", "").cma_frames(page) == [frames]
