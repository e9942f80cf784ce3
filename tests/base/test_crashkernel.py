"""The reservation by crashkernel=, and the syntax of ranges."""

from __future__ import annotations

import re

import pytest
from kdump_harness.base.crashkernel import (
    Reservation,
    WordRefused,
    amounts,
    joined,
    parse_size_mib,
    ranges,
    release_knows_cma,
    reserved_mib,
    words_in,
)
from kdump_harness.base.errors import UsageError
from kdump_harness.distro.family import load_families


@pytest.mark.parametrize(
    ("parameter", "memory_mib", "mib"),
    [
        ("256M", 512, 256),
        ("1G", 8192, 1024),
        ("128M@16M", 512, 128),
        ("256M,high", 8192, 256),
        ("256M,high crashkernel=72M,low", 8192, 256),
        ("256M,cma", 8192, 0),
        ("2G-:256M", 2000, 256),  # the kernel rounds 2000 MiB up to 2048
        ("2G-:256M", 1920, 0),
        ("1G-4G:192M,4G-:256M", 4000, 256),
        ("512M-:192M,cma", 1024, 0),  # a lone ,cma, which no kernel reads
        ("384M-:128M,high", 1024, None),
        ("384M-:128M", 1024, 128),
        ("384M-:128M", 256, 0),
        ("512M-:192M", 512, 192),
        ("1G-4G:192M,4G-64G:256M,64G-:512M", 1024, 192),
        ("1G-4G:192M,4G-64G:256M,64G-:512M", 3968, 192),
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
    ("text", "none", "default", "words"),
    [
        (None, False, False, ()),
        ("none", True, False, ()),
        ("default", False, True, ()),
        ("256M", False, False, ("256M",)),
        ("256M,high crashkernel=72M,low", False, False, ("256M,high", "72M,low")),
        ("crashkernel=128M crashkernel=256M,cma", False, False, ("128M", "256M,cma")),
    ],
)
def test_a_reservation_is_none_the_default_or_words(
    text: str | None, none: bool, default: bool, words: tuple[str, ...]
) -> None:
    reservation = Reservation(text)
    reservation.check()
    assert (reservation.none, reservation.distribution_default, reservation.words) == (none, default, words)
    assert reservation.arguments == " ".join(f"crashkernel={word}" for word in words)


@pytest.mark.parametrize("text", ["256M quiet", "256M  crashkernel=72M,low", "256 M", "", "256M\n", '256M"', "2٥M"])
def test_text_that_cannot_be_a_kernel_argument_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"cannot be a kernel argument: .* is not a value of crashkernel="):
        Reservation(text).check()


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("256M",), (256, 0, 0)),
        (("256M,high",), (256, 256, 0)),  # with the default low part
        (("256M,high", "72M,low"), (256, 72, 0)),
        (("72M,low", "256M,high"), (256, 72, 0)),
        (("256M,high", "0M,low"), (256, 0, 0)),
        (("512M-:192M", "256M,high", "64M,low", "100M,cma"), (192, 0, 100)),  # as Linux 7.3.4 did
        (("128M", "256M,cma"), (128, 0, 256)),
        (("128M", "256M,cma", "64M"), (64, 0, 256)),
        (("256M,high", "128M,high"), (128, 256, 0)),
        (("256M,cma",), (0, 0, 0)),
        (("72M,low",), (0, 0, 0)),
        ((), (0, 0, 0)),
        (("0x100M",), (256, 0, 0)),
        (("0400M",), (256, 0, 0)),  # octal, as memparse() reads it
    ],
)
def test_the_parts_that_words_reserve(words: tuple[str, ...], parts: tuple[int, int, int]) -> None:
    found = amounts(words, 1024)
    assert (found.main_mib, found.low_mib, found.cma_mib) == parts


@pytest.mark.parametrize(
    ("words", "remarks"),
    [
        (("256M",), ()),
        (("256M,high", "72M,low", "128M,cma"), ()),
        (("384M-:128M", "256M"), ("the kernel ignores crashkernel=384M-:128M because of crashkernel=256M",)),
        (
            ("512M-:192M", "256M,high", "72M,low"),
            (
                "the kernel ignores crashkernel=256M,high because of crashkernel=512M-:192M",
                "the kernel ignores crashkernel=72M,low because of crashkernel=512M-:192M",
            ),
        ),
        (
            ("256M,high", "128M,high"),
            ("the kernel ignores crashkernel=256M,high because of crashkernel=128M,high",),
        ),
        (
            ("256M,cma",),
            ("crashkernel=256M,cma reserves nothing: 256M,cma needs a fixed part in addition (as in 128M)",),
        ),
        (("2G-:256M",), ("crashkernel=2G-:256M reserves nothing on a machine with 1024 MiB",)),
    ],
)
def test_words_that_the_kernel_ignores_are_named(words: tuple[str, ...], remarks: tuple[str, ...]) -> None:
    assert amounts(words, 1024).remarks == remarks


@pytest.mark.parametrize(
    ("words", "word", "why"),
    [
        (("512M-:192M,high",), "512M-:192M,high", "unrecognized character '-', since only a plain size may have ,high"),
        (
            ("512M-:192M,cma", "128M"),
            "512M-:192M,cma",
            "unrecognized character '-', since only a plain size may have ,cma",
        ),
        (("128M@16M,high",), "128M@16M,high", "unrecognized character '@', since only a plain size may have ,high"),
        (("256M,high", "x,low"), "x,low", "a size is missing before 'x'"),
        (("256M", "256M,hihg"), "256M,hihg", "unrecognized character ','"),
        (("256MB",), "256MB", "unrecognized character 'B'"),
        (("auto",), "auto", "a size is missing before 'a'"),
        (("1G-512M:64M",), "1G-512M:64M", "a range ends at or before its start"),
        (("1G:64M",), "1G:64M", "'-' is missing in a range"),
        (("1G-2G:,2G-:64M",), "1G-2G:,2G-:64M", "a size is missing before ','"),
        (("1G-:64M,2G-:96M@",), "1G-:64M,2G-:96M@", "a size is missing at its end"),
        (("512M-:2G",), "512M-:2G", "2048 MiB are more than the memory of 1024 MiB"),
        (("1G",), "1G", "the machine has only 1024 MiB"),
        (("4G,high",), "4G,high", "the machine has only 1024 MiB"),
    ],
)
def test_words_that_the_kernel_refuses_are_named_with_the_reason(words: tuple[str, ...], word: str, why: str) -> None:
    with pytest.raises(WordRefused) as caught:
        amounts(words, 1024)
    assert (caught.value.word, caught.value.why) == (word, why)
    with pytest.raises(UsageError, match=re.escape(f"the kernel refuses crashkernel={word}: {why} (expected ")):
        Reservation(joined(words)).check(1024)


@pytest.mark.parametrize("text", ["512M-:192M,cma", "256M crashkernel=512M-:1G,high"])
def test_the_user_learns_of_a_wrong_word_that_the_kernel_would_not_read(text: str) -> None:
    with pytest.raises(UsageError, match=r"only a plain size may have ,(cma|high)"):
        Reservation(text).check(1024)


def test_a_kernel_that_does_not_know_cma_takes_it_for_a_plain_parameter() -> None:
    with pytest.raises(WordRefused, match=r"the kernel refuses crashkernel=256M,cma: unrecognized character ','"):
        amounts(("128M", "256M,cma"), 1024, knows_cma=False)
    assert amounts(("256M,cma", "128M"), 1024, knows_cma=False).main_mib == 128
    assert amounts(("256M,high", "64M,low"), 1024, knows_cma=False).low_mib == 64


@pytest.mark.parametrize(
    ("kernel", "knows"),
    [("6.1.0-56-cloud-amd64", False), ("6.16.12", False), ("6.17.0-1", True), ("7.3.4+deb13-amd64", True), ("", False)],
)
def test_the_kernels_that_know_cma(kernel: str, knows: bool) -> None:
    assert release_knows_cma(kernel) == knows


@pytest.mark.parametrize(
    ("text", "value", "changed"),
    [
        ("256M", "128M", "128M"),
        (None, "128M", "128M"),
        ("256M,high crashkernel=72M,low", "128M", "128M,high crashkernel=72M,low"),
        ("128M crashkernel=256M,cma", "1G-:160M", "1G-:160M crashkernel=256M,cma"),
        ("256M,high crashkernel=72M,low crashkernel=128M", "64M", "64M"),
    ],
)
def test_the_main_part_of_a_reservation_can_be_replaced(text: str | None, value: str, changed: str) -> None:
    assert Reservation(text).with_main(value) == changed


def test_the_words_of_a_command_line_are_found_as_the_kernel_finds_them() -> None:
    assert words_in("root=/dev/vda1 crashkernel=1G-:64M nocrashkernel=32M crashkernel=72M,low quiet") == (
        "1G-:64M",
        "32M",
        "72M,low",
    )
