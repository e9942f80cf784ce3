"""What a guest's configuration asks for is read as the guest reads it, and what we write reads back the same."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from harness.errors import UsageError
from harness.family import COMPRESS_FLAGS, find_family
from harness.stack import GuestState, KdumpConfig, Stack

DEBIAN = find_family("debian")
SHIPPED = """\
# kdump-tools configuration
USE_KDUMP=1
#MAKEDUMP_ARGS="-l -d 1"
KDUMP_COREDIR="/var/crash"
# makedumpfile -c -d 31 by default
MAKEDUMP_ARGS="-c -d 31"
"""


class FakeShell:
    """The files of a guest that is not there."""

    def __init__(self, **files: str) -> None:
        self.files = {f"/{path.replace('__', '/')}": text for path, text in files.items()}
        self.writes = 0

    def read_text(self, path: str) -> str:
        return self.files[path]

    def write_text(self, path: str, text: str, *, mode: int = 0o644) -> None:
        self.writes += 1
        self.files[path] = text


def stack_of(config: str = "") -> tuple[Stack, FakeShell]:
    shell = FakeShell(etc__default__xyz="")
    shell.files[DEBIAN.config.file] = config
    guest: Any = SimpleNamespace(shell=shell, factor=1.0)
    return Stack(guest, DEBIAN), shell


# ---------------------------------------------------------------- reading


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (SHIPPED, (31, "zlib")),
        ("", (31, "zlib")),  # the script's own default
        ("USE_KDUMP=1\n", (31, "zlib")),
        ('#MAKEDUMP_ARGS="-l -d 1"\n', (31, "zlib")),
        ('MAKEDUMP_ARGS="-l -d 1"\n', (1, "lzo")),
        ("MAKEDUMP_ARGS='-p -d 17'\n", (17, "snappy")),
        ('  MAKEDUMP_ARGS="-z -d 8"  \n', (8, "zstd")),
        ('MAKEDUMP_ARGS="-d 31"\n', (31, "none")),
        ('MAKEDUMP_ARGS="-d31 -c"\n', (31, "zlib")),
        ('MAKEDUMP_ARGS="-c"\n', (0, "zlib")),
        ("MAKEDUMP_ARGS=-c\n", (0, "zlib")),
        ('MAKEDUMP_ARGS="--message-level 7 -c -d 31"\n', (31, "zlib")),
        ('MAKEDUMP_ARGS="-c -d 31"\nMAKEDUMP_ARGS="-l -d 1"\n', (1, "lzo")),
        ('MAKEDUMP_ARGS="-c -d 31" # -l -d 1 was too large\n', (31, "zlib")),
        ('MAKEDUMP_ARGS="-cd 17"\n', (17, "zlib")),
        ('MAKEDUMP_ARGS="-d 1 -d 31 -c"\n', (31, "zlib")),
        ('MAKEDUMP_ARGS="-E -d 31"\n', (31, "none")),
    ],
)
def test_the_options_of_makedumpfile_are_read_in_every_shape(text: str, expected: tuple[int, str]) -> None:
    stack, _ = stack_of()
    assert stack.configured(text) == expected


# ---------------------------------------------------------------- writing


@pytest.mark.parametrize("compress", COMPRESS_FLAGS)
@pytest.mark.parametrize("level", [0, 1, 31])
@pytest.mark.parametrize("before", [SHIPPED, "", "USE_KDUMP=1", "MAKEDUMP_ARGS='-p -d 2'\nMAKEDUMP_ARGS=-c\n"])
def test_what_is_written_is_read_back(level: int, compress: str, before: str) -> None:
    stack, shell = stack_of(before)
    stack.collect_with(level, compress)
    assert stack.configured(shell.files[DEBIAN.config.file]) == (level, compress)


def test_the_rest_of_the_configuration_stays() -> None:
    stack, shell = stack_of(SHIPPED)
    stack.collect_with(1, "lzo")
    after = shell.files[DEBIAN.config.file]
    assert after == SHIPPED.replace('MAKEDUMP_ARGS="-c -d 31"\n', 'MAKEDUMP_ARGS="-l -d 1"\n')


def test_the_options_without_compression_have_no_stray_blank() -> None:
    stack, shell = stack_of(SHIPPED)
    stack.collect_with(31, "none")
    assert shell.files[DEBIAN.config.file].endswith('MAKEDUMP_ARGS="-d 31"\n')


@pytest.mark.parametrize(("level", "compress"), [(31, "zlib"), (None, None), (31, None), (None, "zlib")])
def test_a_configuration_that_fits_is_not_touched(level: int | None, compress: str | None) -> None:
    stack, shell = stack_of(SHIPPED)
    stack.collect_with(level, compress)
    assert shell.writes == 0


def test_what_is_not_asked_for_is_kept() -> None:
    stack, shell = stack_of('MAKEDUMP_ARGS="-l -d 17"\n')
    stack.collect_with(1, None)
    assert stack.configured(shell.files[DEBIAN.config.file]) == (1, "lzo")


@pytest.mark.parametrize(
    ("crashkernel", "expected"),
    [("256M", " crashkernel=256M"), ("default", ""), (None, ""), ("none", "")],
)
def test_the_boot_arguments_hold_the_reservation_and_our_console(crashkernel: str | None, expected: str) -> None:
    arguments = stack_of()[0].boot_arguments(crashkernel)
    assert arguments.endswith(f"ignore_loglevel{expected}")
    assert "console=ttyS0,115200" in arguments
    assert "quiet" not in arguments


def test_no_reservation_means_that_the_packaged_one_goes_too() -> None:
    stack, shell = stack_of()
    stack.write_bootloader("none")
    assert "sed -E 's/crashkernel=" in shell.files[DEBIAN.bootloader.file]
    stack.write_bootloader("512M")
    text = shell.files[DEBIAN.bootloader.file]
    assert "crashkernel=512M" in text
    assert "sed" not in text


# ---------------------------------------------------------------- what a drill asks for


@pytest.mark.parametrize("level", [None, 0, 31])
@pytest.mark.parametrize("crashkernel", [None, "none", "default", "256M", "1G-4G:192M,4G-:256M", "256M@16M", "1G,high"])
def test_what_a_guest_can_do_is_taken(level: int | None, crashkernel: str | None) -> None:
    KdumpConfig(crashkernel=crashkernel, level=level, compress="zlib").check(DEBIAN)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"level": 32}, r"dump level 32 does not exist \(0 to 31"),
        ({"level": -1}, r"dump level -1 does not exist \(0 to 31"),
        ({"compress": "gzip"}, r"unknown compression 'gzip' \(known: none, zlib, lzo, snappy, zstd\)"),
        ({"compress": ""}, "unknown compression ''"),
        ({"crashkernel": ""}, "crashkernel='' cannot be a kernel argument"),
        ({"crashkernel": "256M quiet"}, "cannot be a kernel argument"),
        ({"crashkernel": '256M"; reboot'}, "cannot be a kernel argument"),
        ({"crashkernel": "256M\n"}, "cannot be a kernel argument"),
    ],
)
def test_what_no_guest_can_do_is_refused(config: dict[str, Any], sentence: str) -> None:
    wanted = {"crashkernel": None, "level": None, "compress": None, **config}
    with pytest.raises(UsageError, match=sentence):
        KdumpConfig(**wanted).check(DEBIAN)


# ---------------------------------------------------------------- the state of a guest


def guest_state(**facts: Any) -> GuestState:
    known: dict[str, Any] = {
        "boot_id": "b",
        "kernel": "6.1",
        "cmdline": "",
        "loaded": True,
        "reserved_bytes": 0,
        "meminfo_kib": {},
        "clock_s": 0.0,
        "os_release": {"ID": "debian"},
        "makedumpfile": None,
        "level": 31,
        "compress": "zlib",
        "hostname": "guest",
    }
    return GuestState(**{**known, **facts})


@pytest.mark.parametrize(
    ("cmdline", "expected"),
    [
        ("root=/dev/vda1 ro", None),
        ("crashkernel=384M-:128M quiet crashkernel=256M", "256M"),
        ("nocrashkernel=1 xcrashkernel=2", None),
    ],
)
def test_the_last_reservation_of_the_command_line_counts(cmdline: str, expected: str | None) -> None:
    assert guest_state(cmdline=cmdline).crashkernel == expected


def test_a_guest_of_another_family_is_refused() -> None:
    stack, _ = stack_of()
    stack.check_family({"ID": "kali", "ID_LIKE": "debian"})
    with pytest.raises(UsageError, match=r"this guest is Fedora 44, not of the family debian \(choose with --family\)"):
        stack.check_family({"ID": "fedora", "PRETTY_NAME": "Fedora 44"})
