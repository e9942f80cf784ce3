"""The reservation by crashkernel=, and the syntax of ranges."""

from __future__ import annotations

import pytest
from kdump_harness.distro.crashkernel import Reservation, parse_size_mib, ranges, reserved_mib
from kdump_harness.distro.family import load_families


@pytest.mark.parametrize(
    ("parameter", "memory_mib", "mib"),
    [
        ("256M", 512, 256),
        ("1G", 8192, 1024),
        ("128M@16M", 512, 128),
        ("256M,high", 8192, 256),
        ("384M-:128M", 1024, 128),
        ("384M-:128M", 256, 0),
        ("512M-:192M", 512, 192),
        ("1G-4G:192M,4G-64G:256M,64G-:512M", 1024, 192),
        ("1G-4G:192M,4G-64G:256M,64G-:512M", 4095, 192),
        ("1G-4G:192M,4G-64G:256M,64G-:512M", 4096, 256),
        ("1G-4G:192M,4G-64G:256M,64G-:512M", 1 << 20, 512),
        ("2G-64G:256M,64G-:512M", 1024, 0),
        ("1G-:64M@16M", 2048, 64),
        ("auto", 2048, None),
        ("", 2048, None),
        ("1G-2G", 2048, None),
    ],
)
def test_what_a_parameter_reserves(parameter: str, memory_mib: int, mib: int | None) -> None:
    assert reserved_mib(parameter, memory_mib) == mib


@pytest.mark.parametrize(
    ("sizes", "parameter"),
    [
        ({1024: 160}, "1G-:160M"),
        ({1024: 160, 2048: 176}, "1G-2G:160M,2G-:176M"),
        ({2048: 176, 1024: 160, 8192: 176}, "1G-2G:160M,2G-:176M"),
        ({1024: 176, 2048: 160}, "1G-:176M"),
        ({768: 128, 1536: 144}, "768M-1536M:128M,1536M-:144M"),
    ],
)
def test_ranges_are_written_as_the_kernel_reads_them(sizes: dict[int, int], parameter: str) -> None:
    assert ranges(sizes) == parameter
    for memory_mib, mib in sizes.items():
        assert (reserved_mib(parameter, memory_mib) or 0) >= mib


def test_the_packaged_reservations_of_all_families_can_be_read_or_say_nothing() -> None:
    unread = {
        row.bootloader.packaged
        for family in load_families().values()
        for row in (family, *(driven for _, driven in family.releases))
        if row.bootloader.packaged and reserved_mib(row.bootloader.packaged, 4096) is None
    }
    assert unread <= {"auto"}


@pytest.mark.parametrize(
    ("text", "mib"), [("1G", 1024), ("1024", 1024), ("512M", 512), ("2g", 2048), ("x", None), ("-1", None), ("", None)]
)
def test_memory_sizes(text: str, mib: int | None) -> None:
    assert parse_size_mib(text) == mib


@pytest.mark.parametrize(
    ("text", "none", "default", "size"),
    [
        (None, False, False, None),
        ("none", True, False, None),
        ("default", False, True, None),
        ("256M", False, False, "256M"),
        ("1G-4G:192M,4G-:256M", False, False, "1G-4G:192M,4G-:256M"),
    ],
)
def test_a_reservation_is_none_the_default_or_a_size(
    text: str | None, none: bool, default: bool, size: str | None
) -> None:
    reservation = Reservation(text)
    assert (reservation.none, reservation.distribution_default, reservation.size) == (none, default, size)
    assert reservation.valid


def test_a_reservation_of_several_words_cannot_be_a_kernel_argument() -> None:
    assert not Reservation("256M quiet").valid
