"""A guest's configuration is read as the guest reads it, and written settings read back the same."""

from __future__ import annotations

import dataclasses
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kdump_harness.base.errors import CommandFailed, NotArmed, UsageError, WaitedInVain
from kdump_harness.base.units import MIB
from kdump_harness.diagnosis import diagnose_text
from kdump_harness.distro.family import COMPRESS_FLAGS, Family, choose_release, find_family
from kdump_harness.distro.packages import KernelChoice, LocalPackage
from kdump_harness.kdump import service as kdump_service
from kdump_harness.kdump.guest_state import (
    SIZE,
    GuestState,
    joined_commands,
    page_bytes,
    parse_os_release,
    split_outputs,
)
from kdump_harness.kdump.reserved_memory import AddressRange, ReservedMemory
from kdump_harness.kdump.service import KdumpConfig, KdumpService

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
    """The files of a guest that is not there, and what its commands answer."""

    def __init__(self, **files: str) -> None:
        self.files = {f"/{path.replace('__', '/')}": text for path, text in files.items()}
        self.writes = 0
        self.modes: list[int] = []
        self.answers: dict[str, tuple[str, int]] = {}  # by a part of the command
        self.commands: list[str] = []

    def run(
        self, command: str, *arguments: object, timeout_s: float = 60.0, check: bool = True, on_line: Any = None
    ) -> Any:
        command = command % arguments if arguments else command
        self.commands.append(command)
        out, status = next((answer for part, answer in self.answers.items() if part in command), ("", 0))
        return SimpleNamespace(out=out, err="", status=status, ok=status == 0)

    def put(self, local: Path, path: str) -> None:
        self.commands.append(f"put {local.name} {path}")

    def succeeds(self, command: str, *arguments: object, timeout_s: float = 60.0) -> bool:
        return bool(self.run(command, *arguments).ok)

    def read_text(self, path: str) -> str:
        return self.files[path]

    def write_text(self, path: str, text: str, *, mode: int = 0o644) -> None:
        self.writes += 1
        self.modes.append(mode)
        self.files[path] = text


def stack_of(config: str = "", family: Family = DEBIAN) -> tuple[KdumpService, FakeShell]:
    shell = FakeShell(etc__default__xyz="")
    shell.files[family.config.file] = config
    guest: Any = SimpleNamespace(shell=shell, factor=1.0)
    return KdumpService(guest, family), shell


def configured(stack: KdumpService, text: str) -> tuple[int, str]:
    collection = stack.family.config.core_collector(text)
    return collection.level, collection.compress


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
    assert configured(stack, text) == expected


# ---------------------------------------------------------------- writing


@pytest.mark.parametrize("compress", COMPRESS_FLAGS)
@pytest.mark.parametrize("level", [0, 1, 31])
@pytest.mark.parametrize("before", [SHIPPED, "", "USE_KDUMP=1", "MAKEDUMP_ARGS='-p -d 2'\nMAKEDUMP_ARGS=-c\n"])
def test_what_is_written_is_read_back(level: int, compress: str, before: str) -> None:
    stack, shell = stack_of(before)
    stack.set_core_collector(level, compress)
    assert configured(stack, shell.files[DEBIAN.config.file]) == (level, compress)


def test_the_rest_of_the_configuration_stays() -> None:
    stack, shell = stack_of(SHIPPED)
    stack.set_core_collector(1, "lzo")
    after = shell.files[DEBIAN.config.file]
    assert after == SHIPPED.replace('MAKEDUMP_ARGS="-c -d 31"\n', 'MAKEDUMP_ARGS="-l -d 1"\n')


def test_the_options_without_compression_have_no_stray_blank() -> None:
    stack, shell = stack_of(SHIPPED)
    stack.set_core_collector(31, "none")
    assert shell.files[DEBIAN.config.file].endswith('MAKEDUMP_ARGS="-d 31"\n')


@pytest.mark.parametrize(("level", "compress"), [(31, "zlib"), (None, None), (31, None), (None, "zlib")])
def test_a_configuration_that_fits_is_not_touched(level: int | None, compress: str | None) -> None:
    stack, shell = stack_of(SHIPPED)
    stack.set_core_collector(level, compress)
    assert shell.writes == 0


def test_what_is_not_asked_for_is_kept() -> None:
    stack, shell = stack_of('MAKEDUMP_ARGS="-l -d 17"\n')
    stack.set_core_collector(1, None)
    assert configured(stack, shell.files[DEBIAN.config.file]) == (1, "lzo")


@pytest.mark.parametrize(
    ("crashkernel", "expected"),
    [("256M", " crashkernel=256M"), ("default", ""), (None, ""), ("none", "")],
)
def test_the_boot_arguments_hold_the_reservation_and_our_console(crashkernel: str | None, expected: str) -> None:
    arguments = stack_of()[0].boot_arguments(crashkernel)
    assert arguments.endswith(f"ignore_loglevel no_timer_check{expected}")
    assert "console=ttyS0,115200" in arguments
    assert "quiet" not in arguments


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
        ({"crashkernel": ""}, "--crashkernel '' cannot be a kernel argument"),
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


@pytest.mark.parametrize(
    ("said", "size"),
    [
        ("KernelPageSize:        4 kB", 4096),
        ("KernelPageSize:       64 kB", 65536),
        ("16384", 16384),
        ("", 4096),
        ("0", 4096),
        ("sh: getconf: not found", 4096),
    ],
)
def test_the_size_of_a_page_is_what_the_guest_says(said: str, size: int) -> None:
    assert page_bytes(said) == size


def guest_state(**facts: Any) -> GuestState:
    known: dict[str, Any] = {
        "boot_id": "b",
        "kernel": "6.1",
        "cmdline": "",
        "loaded": True,
        "reserved": ReservedMemory(),
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
    ("cmdline", "kernel", "expected"),
    [
        ("root=/dev/vda1 ro", "6.1", None),
        ("crashkernel=384M-:128M quiet crashkernel=256M", "6.1", "256M"),
        ("crashkernel=512M-:192M crashkernel=256M,high crashkernel=64M,low", "6.1", "512M-:192M"),
        ("crashkernel=64M,low crashkernel=256M,high", "6.1", "256M,high crashkernel=64M,low"),
        ("crashkernel=256M,cma crashkernel=128M", "7.3.4+deb13-amd64", "128M crashkernel=256M,cma"),
        ("crashkernel=128M crashkernel=256M,cma", "6.1.0-56-cloud-amd64", "256M,cma"),  # a plain one to this kernel
        ("crashkernel=64M,low", "6.1", "64M,low"),
        ("nocrashkernel=1 quiet", "6.1", "1"),  # the kernel finds the name in other words, too
    ],
)
def test_the_parameters_that_the_kernel_uses_are_the_reservation(
    cmdline: str, kernel: str, expected: str | None
) -> None:
    assert guest_state(cmdline=cmdline, kernel=kernel).crashkernel == expected


@pytest.mark.parametrize(
    ("cmdline", "memory_mib", "reserved", "remarks"),
    [
        ("crashkernel=256M quiet", 1024, (0, 256, 0), []),
        ("crashkernel=256M,high crashkernel=64M,low", 8192, (256, 64, 0), []),
        (
            "crashkernel=256M,high crashkernel=64M,low",
            1024,
            (0, 256, 0),
            ["the ,high part is below 4 GiB, for lack of room above it, and ,low adds nothing to it"],
        ),
        (
            "crashkernel=128M crashkernel=512M,cma",
            1024,
            (0, 128, 256),
            ["crashkernel=...,cma asks for 512 MiB, and the kernel reserved 256 MiB"],
        ),
        (
            "crashkernel=512M-:192M crashkernel=256M,high",
            1024,
            (0, 192, 0),
            ["the kernel ignores crashkernel=256M,high because of crashkernel=512M-:192M"],
        ),
        (
            "crashkernel=128M crashkernel=256M,cma",
            1024,
            (0, 0, 0),
            ["the kernel refuses crashkernel=256M,cma: unrecognized character ','"],
        ),
    ],
)
def test_words_without_effect_are_remarked(
    cmdline: str, memory_mib: int, reserved: tuple[int, int, int], remarks: list[str]
) -> None:
    high, low, cma = (size * MIB for size in reserved)
    kernel = "7.3.4" if cma else "6.1.0-57-cloud-amd64"
    fixed = [AddressRange(0, low)] if low else []
    fixed += [AddressRange(1 << 32, (1 << 32) + high)] if high else []
    memory = ReservedMemory(fixed=tuple(fixed), cma=(AddressRange(0, cma),) if cma else ())
    state = guest_state(cmdline=cmdline, kernel=kernel, reserved=memory)
    assert state.reservation_remarks(memory_mib) == remarks


@pytest.mark.parametrize(
    ("kernel", "config", "added", "sentence"),
    [
        ("7.3.4+deb13-amd64", "CONFIG_CMA=y\nCONFIG_KEXEC=y", False, None),
        ("7.3.4+deb13-amd64", "", False, None),  # no configuration to read
        ("6.12.0-211.el10", "CONFIG_CMA=y", True, None),
        (
            "6.12.0-211.el10",
            "CONFIG_CMA=y",
            False,
            "the kernel 6.12.0-211.el10 refuses crashkernel=256M,cma: Linux 6.17 and",
        ),
        (
            "7.3.4",
            "# CONFIG_CMA is not set",
            False,
            "kernel 7.3.4 cannot reserve crashkernel=256M,cma: it was built without",
        ),
    ],
)
def test_cma_needs_a_kernel_that_has_it(kernel: str, config: str, added: bool, sentence: str | None) -> None:
    stack, shell = stack_of()
    shell.answers = {"kallsyms": ("", 0 if added else 1), "grep -hsE": (config, 0)}
    stack.check_cma("128M", "5.10")
    if sentence is None:
        stack.check_cma("128M crashkernel=256M,cma", kernel)
        return
    with pytest.raises(UsageError, match=re.escape(sentence)):
        stack.check_cma("128M crashkernel=256M,cma", kernel)


@pytest.mark.parametrize(
    ("family", "said", "words"),
    [
        (DEBIAN, 'GRUB_CMDLINE_LINUX_DEFAULT="$GRUB_CMDLINE_LINUX_DEFAULT crashkernel=384M-:128M"', ("384M-:128M",)),
        (find_family("redhat"), 'args="ro crashkernel=1G-4G:192M,4G-:256M rhgb"', ("1G-4G:192M,4G-:256M",)),
        (DEBIAN, "", ()),
    ],
)
def test_the_reservation_that_a_drill_replaces_is_known(family: Family, said: str, words: tuple[str, ...]) -> None:
    stack, shell = stack_of(family=family)
    shell.answers = {family.bootloader.configured: (said, 0)}
    assert stack.configured_reservation() == words


def test_a_guest_of_another_family_is_refused() -> None:
    stack, _ = stack_of()
    stack.check_family({"ID": "kali", "ID_LIKE": "debian"})
    with pytest.raises(UsageError, match=r"this guest is Fedora 44, not of the family debian \(choose with --family\)"):
        stack.check_family({"ID": "fedora", "PRETTY_NAME": "Fedora 44"})


# ---------------------------------------------------------------- which release the guest is

MAKEDUMPFILE = "makedumpfile: version 1.7.2 (released on 20 Oct 2022)\nlzo\tenabled\nsnappy\tdisabled\n"
ROCKY = """\
NAME="Rocky Linux"
VERSION="9.8 (Blue Onyx)"
ID="rocky"
ID_LIKE="rhel centos fedora"
VERSION_ID="9.8"
PRETTY_NAME="Rocky Linux 9.8 (Blue Onyx)"
"""


def row(family: str, identity: str, version: str = "") -> Family:
    return choose_release(find_family(family), {"ID": identity, "VERSION_ID": version})[0]


def guest_answers(os_release: str, makedumpfile: str = MAKEDUMPFILE) -> str:
    return f"=====harness os_release\n{os_release}=====harness makedumpfile\n{makedumpfile}"


def test_a_guest_is_driven_as_the_release_that_it_says_it_is() -> None:
    stack, shell = stack_of(family=find_family("redhat"))
    shell.answers["os-release"] = (guest_answers(ROCKY), 0)
    stack.identify()
    assert (stack.family.release, stack.remark) == ("RHEL 9 and rebuilds", None)
    assert stack.compressors == ("none", "zlib", "lzo")
    assert len(shell.commands) == 1


@pytest.mark.parametrize(("machine", "console"), [("aarch64", "ttyAMA0"), ("ppc64le", "hvc0"), ("x86_64", "ttyS0")])
def test_a_kernel_gets_the_console_of_its_machine(machine: str, console: str) -> None:
    stack, shell = stack_of(family=find_family("debian"))
    answers = guest_answers('ID="debian"\nVERSION_ID="13"\n') + f"=====harness machine\n{machine}\n"
    shell.answers["os-release"] = (answers, 0)
    stack.identify()
    *_, last = [word for word in stack.boot_arguments("256M").split() if word.startswith("console=")]
    assert last.startswith(f"console={console}")
    stack.keep_serial_login()
    assert f"dev-{console}.device.d" in str(shell.commands)


def test_an_unknown_release_leaves_a_remark() -> None:
    stack, shell = stack_of(family=find_family("redhat"))
    shell.answers["os-release"] = (guest_answers(ROCKY.replace("9.8", "11.0")), 0)
    stack.identify()
    assert stack.family.release == "RHEL 10 and rebuilds"
    assert stack.remark is not None
    assert stack.remark.startswith("Rocky Linux 11.0 (Blue Onyx) is not in the table of the family redhat")


def test_a_guest_of_another_family_is_known_before_it_is_changed() -> None:
    stack, shell = stack_of(family=find_family("suse"))
    shell.answers["os-release"] = (guest_answers(ROCKY), 0)
    with pytest.raises(UsageError, match=r"this guest is Rocky Linux 9\.8 .*, not of the family suse"):
        stack.identify()
    assert len(shell.commands) == 1


@pytest.mark.parametrize(("status", "release"), [(0, "transactional systems"), (1, "SLES 16 and Leap 16")])
def test_a_transactional_system_is_told_by_its_root(status: int, release: str) -> None:
    stack, shell = stack_of(family=find_family("suse"))
    shell.answers["os-release"] = (guest_answers('ID="sles"\nID_LIKE="suse"\nVERSION_ID="16.0"\n'), 0)
    shell.answers["findmnt"] = ("", status)
    stack.identify()
    assert stack.family.release == release


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (MAKEDUMPFILE, ("none", "zlib", "lzo")),
        (MAKEDUMPFILE + "zstd\tenabled\n", ("none", "zlib", "lzo", "zstd")),
        ("makedumpfile: version 1.6.3 (released on 29 Jun 2018)\n", ("none", "zlib")),
        ("sh: 1: makedumpfile: not found\n", None),
    ],
)
def test_makedumpfile_tells_what_it_was_built_with(text: str, expected: tuple[str, ...] | None) -> None:
    stack, shell = stack_of(family=find_family("redhat"))
    shell.answers["os-release"] = (guest_answers(ROCKY, text), 0)
    stack.identify()
    assert stack.compressors == expected


def test_os_release_is_read_with_and_without_quotes() -> None:
    text = "# a comment\nID=fedora\nVERSION_ID=44\nNAME='Fedora Linux'\nPRETTY_NAME=\"Fedora Linux 44\"\n\n"
    known = parse_os_release(text)
    assert {name: known[name] for name in ("ID", "VERSION_ID", "NAME", "PRETTY_NAME")} == {
        "ID": "fedora",
        "VERSION_ID": "44",
        "NAME": "Fedora Linux",
        "PRETTY_NAME": "Fedora Linux 44",
    }


# ---------------------------------------------------------------- the other families

REDHAT = row("redhat", "rhel", "10")
SUSE = row("suse", "sles", "16")


def test_a_compression_that_the_guest_cannot_write_is_refused_by_name() -> None:
    stack, shell = stack_of("core_collector makedumpfile -l -d 31\n", REDHAT)
    stack.compressors = ("none", "zlib", "lzo")
    with pytest.raises(UsageError, match=r"makedumpfile was built without zstd \(it has none, zlib, lzo\)"):
        stack.set_core_collector(31, "zstd")
    assert shell.writes == 0
    assert stack.set_core_collector(1, "zlib")
    assert configured(stack, shell.files["/etc/kdump.conf"]) == (1, "zlib")


def test_a_compression_without_a_word_is_refused_before_a_guest_is_started() -> None:
    with pytest.raises(UsageError, match="kdump of the family suse has no setting for compression none"):
        KdumpConfig(crashkernel=None, level=None, compress="none").check(find_family("suse"))


def test_an_elf_dump_is_not_taken_for_one_without_compression() -> None:
    stack, shell = stack_of("core_collector makedumpfile -E -d 31\n", REDHAT)
    assert not stack.set_core_collector(None, None)
    assert stack.set_core_collector(31, "none")
    assert "-E" not in shell.files["/etc/kdump.conf"]


@pytest.mark.parametrize(
    ("family", "before", "after", "mode"),
    [
        (REDHAT, "failure_action shell\n", "failure_action reboot\n", 0o644),
        (REDHAT, "default shell\n", "failure_action reboot\n", 0o644),  # kdumpctl refuses both
        (
            SUSE,
            'KDUMP_IMMEDIATE_REBOOT="no"\n',
            'KDUMP_IMMEDIATE_REBOOT="yes"\nKDUMP_CONTINUE_ON_ERROR="true"\nKDUMP_VERBOSE="3"\n'
            'KDUMP_UPDATE_BOOTLOADER="false"\n',
            0o600,
        ),
        (
            row("suse", "sles", "12.5"),
            "",
            'KDUMP_IMMEDIATE_REBOOT="yes"\nKDUMP_CONTINUE_ON_ERROR="true"\nKDUMP_VERBOSE="3"\n',
            0o600,
        ),
        (row("redhat", "rhel", "7"), "default shell\n", "default reboot\n", 0o644),
    ],
)
def test_arming_makes_the_settings_safe_for_a_drill(family: Family, before: str, after: str, mode: int) -> None:
    stack, shell = stack_of(before, family)
    stack.enable()
    assert shell.files[family.config.file] == after
    assert shell.modes == [mode]
    assert shell.commands == [family.commands.enable]


def test_a_build_that_the_service_began_at_the_first_boot_does_not_hold_up_ours() -> None:
    """kdumpctl waits for another kdumpctl, and would then build the same initramfs once more."""
    stack, shell = stack_of("", REDHAT)
    stack.enable()
    assert "systemctl stop kdump.service" in shell.commands[0]


def test_only_missing_packages_are_installed() -> None:
    stack, shell = stack_of("", REDHAT)
    shell.answers = {"rpm -q makedumpfile": ("makedumpfile-1.7.7-1.el10", 0), "rpm -q": ("", 1)}
    assert stack.missing(("kdump-utils", "makedumpfile")) == ("kdump-utils",)
    stack.install(("kdump-utils",))
    assert shell.commands[-1] == "dnf install -y kdump-utils"


def test_debian_refreshes_before_it_installs_and_waits_for_another_apt() -> None:
    stack, shell = stack_of()
    stack.install(("kdump-tools",))
    refresh, install = shell.commands
    assert refresh.endswith("update")
    assert install.endswith("install -y --no-install-recommends kdump-tools")
    assert all("DPkg::Lock::Timeout=" in command for command in shell.commands)


@pytest.mark.parametrize(
    ("family", "said"),
    [
        (DEBIAN, "E: Unable to locate package kdump-tulz"),
        (DEBIAN, "E: The value 'bookworm-backports' is invalid for APT::Default-Release as such a release is not"),
        (DEBIAN, " package architecture (arm64) does not match system (amd64)"),
        (REDHAT, "Error: Unable to find a match: kernel-9"),
        (REDHAT, "No match for argument: kernel-9"),
    ],
)
def test_a_package_that_the_distribution_does_not_have_is_a_slip_of_the_users(family: Family, said: str) -> None:
    stack, shell = stack_of("", family)
    shell.answers = {"install": (f"Reading package lists...\n{said}\nmore\n", 100)}
    with pytest.raises(UsageError) as error:
        stack.install(("kdump-tulz",))
    assert str(error.value) == f"the guest's package manager refuses: {said.strip()}"


def test_an_installation_that_breaks_is_no_slip_of_the_users() -> None:
    stack, shell = stack_of()
    shell.answers = {
        "install": ("dpkg: error processing package x\nE: Sub-process dpkg returned an error code (1)\n", 100)
    }
    with pytest.raises(CommandFailed, match=r"status 100: E: Sub-process"):
        stack.install(("x",))


# ---------------------------------------------------------------- kernels


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A stack whose guest has these kernels before and after the next installation."""

    def make(family: Family, before: str, after: str) -> tuple[KdumpService, FakeShell]:
        stack, shell = stack_of("", family)
        listed = iter([before, after])
        monkeypatch.setattr(stack, "_kernels", lambda: set(next(listed).split()))
        return stack, shell

    return make


def test_a_kernel_of_another_suite_is_installed_from_there(kernels: Any) -> None:
    stack, shell = kernels(DEBIAN, "6.1.0", "6.1.0 6.12.95")
    choice = KernelChoice(package="linux-image-amd64", suite="bookworm-backports", asked="bookworm-backports")
    assert stack.install_kernel(choice) == "6.12.95"
    add, refresh, install = shell.commands
    assert "bookworm-backports main" in add
    assert refresh.endswith("update")
    assert install.endswith("install -y --no-install-recommends -t bookworm-backports linux-image-amd64")


def test_package_files_are_copied_installed_and_removed(kernels: Any) -> None:
    stack, shell = kernels(REDHAT, "5.14", "5.14 6.6")
    file = LocalPackage(name="kernel-core-6.6.rpm", sha256="", path=Path("kernel-core-6.6.rpm"))
    assert stack.install_kernel(KernelChoice(files=(file,))) == "6.6"
    place = "/var/tmp/kdump-harness-packages"
    assert shell.commands == [
        f"rm -rf {place} && mkdir {place}",
        f"put {file.name} {place}/{file.name}",
        f"dnf install -y --disablerepo='*' --nogpgcheck {place}/{file.name}",
        f"rm -rf {place}",
    ]


def test_the_only_kernel_may_be_the_one_that_is_asked_for(kernels: Any) -> None:
    stack, _ = kernels(DEBIAN, "6.1.0", "6.1.0")
    assert stack.install_kernel(KernelChoice(package="linux-image-amd64")) == "6.1.0"


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ("6.1.0 6.12", "6.1.0 6.12", "brought no new kernel"),
        ("6.1.0", "6.1.0 6.12 6.13", "brought 2 kernels"),
    ],
)
def test_a_kernel_that_cannot_be_told_from_others_is_refused(
    kernels: Any, before: str, after: str, reason: str
) -> None:
    stack, _ = kernels(DEBIAN, before, after)
    with pytest.raises(UsageError) as error:
        stack.install_kernel(KernelChoice(package="linux-image-amd64", asked="linux-image-amd64"))
    installed = ", ".join(sorted(after.split()))
    assert str(error.value) == (
        f"linux-image-amd64 {reason}, so which one to drill is not known (the guest has {installed})"
    )


@pytest.mark.parametrize("family", [DEBIAN, REDHAT, SUSE])
def test_one_of_several_kernels_is_chosen_in_the_boot_loader(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    stack, shell = stack_of("", family)
    monkeypatch.setattr(stack, "_kernels", lambda: {"6.1.0", "6.12.95"})
    stack.choose_kernel("6.1.0")
    assert "6.1.0" in shell.commands[-1]
    shell.commands.clear()
    monkeypatch.setattr(stack, "_kernels", lambda: {"6.1.0"})
    stack.choose_kernel("6.1.0")
    assert not shell.commands


def test_an_initramfs_for_another_kernel_is_left_to_the_service_where_the_family_cannot_build_it() -> None:
    for family, built in ((DEBIAN, True), (REDHAT, False), (SUSE, False)):
        stack, shell = stack_of("", family)
        shell.answers = {"uname -r": ("6.1.0\n", 0)}
        stack.reserve_and_build("256M", kernel="6.12.95")
        assert ("6.12.95" in shell.commands[-1]) is built
        assert ("(true)" in shell.commands[-1]) is not built


@pytest.mark.parametrize(
    ("family", "crashkernel", "command"),
    [
        (DEBIAN, "256M", "update-grub"),
        (DEBIAN, "none", "update-grub"),
        (DEBIAN, "default", "update-grub"),
        (
            REDHAT,
            "256M",
            "grubby --update-kernel=ALL --remove-args='quiet rhgb'"
            " --args='console=tty0 console=ttyS0,115200n8 ignore_loglevel no_timer_check crashkernel=256M'",
        ),
        (
            REDHAT,
            "default",
            "grubby --update-kernel=ALL --remove-args='quiet rhgb'"
            " --args='console=tty0 console=ttyS0,115200n8 ignore_loglevel no_timer_check'"
            " && kdumpctl reset-crashkernel --kernel=ALL",
        ),
        (
            REDHAT,
            "none",
            "grubby --update-kernel=ALL --remove-args='quiet rhgb'"
            " --args='console=tty0 console=ttyS0,115200n8 ignore_loglevel no_timer_check'"
            " && grubby --update-kernel=ALL --remove-args='crashkernel'",
        ),
        (
            SUSE,
            "default",
            "update-bootloader --del-option quiet --del-option crashkernel --del-option crashkernel"
            " --del-option crashkernel --del-option crashkernel --del-option ignore_loglevel"
            " --add-option 'console=tty0 console=ttyS0,115200n8 ignore_loglevel no_timer_check' --config"
            " && kdumptool commandline -u",
        ),
    ],
)
def test_each_family_reserves_in_its_own_way(family: Family, crashkernel: str, command: str) -> None:
    assert stack_of(family=family)[0].reserve_command(crashkernel) == command


@pytest.mark.parametrize("family", [REDHAT, SUSE])
def test_only_debian_has_a_drop_in_for_the_boot_loader(family: Family) -> None:
    stack, shell = stack_of(family=family)
    stack.write_bootloader("256M")
    assert shell.writes == 0


@pytest.mark.parametrize(
    ("family", "elf", "target", "expected"),
    [
        (DEBIAN, False, "local", ("kdump-flattened",)),
        (REDHAT, False, "local", ("kdump",)),
        (REDHAT, False, "ssh", ("kdump-flattened",)),
        (REDHAT, True, "local", ("elf",)),
        (SUSE, False, "local", ("kdump-flattened",)),
        (SUSE, True, "local", ("elf", "elf-flattened")),
        (row("suse", "sles", "15.7"), False, "local", ("kdump", "kdump-flattened")),
    ],
)
def test_what_a_dump_must_look_like_depends_on_family_and_target(
    family: Family, elf: bool, target: str, expected: tuple[str, ...]
) -> None:
    assert stack_of(family=family)[0].formats(guest_state(elf=elf), target) == expected


# The tools' output, as seen on running systems.
ESTIMATE = """\
Reserved crashkernel:    256M
Recommended crashkernel: 256M

Kernel image size:   56M
Kernel modules size: 4M
Initramfs size:      27M
Runtime reservation: 64M
Large modules:
    xfs: 1556480
"""
CALIBRATE = "Total: 1984\nLow: 72\nHigh: 212\nMinLow: 0\nMaxLow: 1700\nMinHigh: 0\nMaxHigh: 0\n"
CALIBRATE_LATEST = "Total: 1023\nLow: 0\nHigh: 322\nMinLow: 0\nMaxLow: 327\nMinHigh: 0\nMaxHigh: 327\n"  # kdump 2.1.9
SHOW = "DUMP_MODE:        kdump\ncrashkernel addr: 0x\ncrashkernel suggested size: 199M\n"


@pytest.mark.parametrize(
    ("family", "command", "says", "expected"),
    [
        (REDHAT, "kdumpctl estimate", ESTIMATE, 256),
        (SUSE, "kdumptool calibrate", CALIBRATE, 284),
        (SUSE, "kdumptool calibrate", CALIBRATE_LATEST, 322),
        (row("debian", "debian", "13"), "kdump-config show", SHOW, 199),
        (REDHAT, "kdumpctl estimate", "kdump: Invalid kdump config option foo\n", None),
        (row("debian", "debian", "12"), "kdump-config show", SHOW, None),
        (row("redhat", "rhel", "7"), "kdumpctl", ESTIMATE, None),
    ],
)
def test_the_guests_own_suggestion_is_read(family: Family, command: str, says: str, expected: int | None) -> None:
    stack, shell = stack_of(family=family)
    shell.answers = {command: (says, 0)}
    assert stack.suggested_mib() == expected


def test_a_service_that_was_skipped_for_want_of_memory_is_not_awaited() -> None:
    stack, shell = stack_of(family=REDHAT)
    shell.answers = {
        "crash_loaded": ("0\n", 0),
        "crash_size": ("0\n", 0),
        "is-active": ("inactive\n", 3),
        "kdumpctl status": ("kdump: Kdump is not operational\n", 3),
    }
    with pytest.raises(NotArmed, match=r"the kernel reserved no memory.*; its status says: kdump: Kdump is not"):
        stack.wait_until_loaded()


def test_a_kernel_that_does_not_fit_is_told_with_the_words_of_kexec() -> None:
    said = (Path(__file__).parents[1] / "data" / "drills" / "suse-not-loaded.txt").read_text(encoding="utf-8")
    stack, shell = stack_of(family=SUSE)
    shell.answers = {"crash_loaded": ("0\n", 0), "is-active": ("failed\n", 3), "systemctl --no-pager status": (said, 3)}
    with pytest.raises(NotArmed) as caught:
        stack.wait_until_loaded()
    assert caught.value.reason == "kdump is not armed: kdump.service has failed"
    assert "kexec_file_load failed: Cannot assign requested address" in caught.value.said


@pytest.mark.usefixtures("fake_clock")
def test_a_service_that_is_still_starting_is_given_time() -> None:
    stack, shell = stack_of(family=SUSE)
    # First it waits for others and is "inactive", then it runs, then the job is gone.
    jobs = iter(["151 kdump.service start waiting\n", "151 kdump.service start running\n", ""])
    shell.run = lambda *_, **__: SimpleNamespace(out=next(jobs), ok=True)  # type: ignore[method-assign]
    stack.settle()
    assert next(jobs, None) is None


@pytest.mark.usefixtures("fake_clock")
def test_a_kernel_that_was_loaded_early_does_not_count_before_the_service_has_loaded_it_again() -> None:
    stack, shell = stack_of(family=SUSE)
    answers = {"list-jobs": iter(["151 kdump.service start running\n", ""]), "crash_loaded": iter(["1\n"])}
    asked: list[str] = []

    def run(command: str, *_: object, **__: object) -> Any:
        asked.append(next(part for part in answers if part in command))
        return SimpleNamespace(out=next(answers[asked[-1]]), ok=True)

    shell.run = run  # type: ignore[method-assign]
    stack.wait_until_loaded()
    assert asked == ["list-jobs", "list-jobs", "crash_loaded"]


def test_a_reservation_that_cannot_be_read_now_is_not_looked_for_elsewhere(tmp_path: Path) -> None:
    """The file is there and busy, as while kexec loads a kernel."""
    busy = tmp_path / "kexec_crash_size"
    busy.mkdir()  # reading it fails for every user, root included
    script = SIZE.replace("/sys/kernel/kexec/", f"{tmp_path}/new/").replace("/sys/kernel/", f"{tmp_path}/")
    result = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert "kexec_crash_size" in result.stderr
    assert "new/crash_size" not in result.stderr


def test_a_restart_that_loads_nothing_is_not_awaited_as_long_as_a_boot(monkeypatch: pytest.MonkeyPatch) -> None:
    """kdump-tools ends with status 0 where kexec has failed."""
    waits: dict[str, float] = {}

    def give_up(what: str, _look: Any, *, timeout_s: float, **_: object) -> None:
        waits[what] = timeout_s
        raise WaitedInVain(f"waited for {what}")

    monkeypatch.setattr(kdump_service, "poll", give_up)
    stack, shell = stack_of()
    shell.answers = {"crash_loaded": ("0", 0), "kdump-config show": ("locate_hole failed", 0)}
    with pytest.raises(NotArmed) as caught:
        stack.arm()
    assert caught.value.said == "locate_hole failed"
    assert waits["kexec_crash_loaded to become 1"] < DEBIAN.load_timeout_s / 3


# ---------------------------------------------------------------- giving back a part


class FakeKernel:
    """The files of a reservation with two parts, as Linux 6.1 (the high part only) or 7.3 (the sum) keeps them."""

    def __init__(self, high_mib: int, low_mib: int, *, counts_low: bool, gives: bool = True) -> None:
        self.high_bytes, self.low_bytes, self.counts_low = high_mib * MIB, low_mib * MIB, counts_low
        self.gives = gives
        self.written: list[int] = []

    @property
    def size_bytes(self) -> int:
        if self.counts_low or not self.high_bytes:
            return self.high_bytes + self.low_bytes
        return self.high_bytes

    def run(self, command: str, *_: object, **__: object) -> Any:
        wanted = re.search(r"echo (\d+) > \$f", command)
        if wanted and self.gives:
            self.written.append(int(wanted.group(1)))
            given_back = self.size_bytes - self.written[-1]
            if self.high_bytes:
                self.high_bytes -= given_back
            else:
                self.low_bytes -= given_back
        parts = [(0, self.low_bytes), (1 << 32, self.high_bytes)]
        iomem = "".join(f"  {at:08x}-{at + size - 1:08x} : Crash kernel\n" for at, size in parts if size)
        mark = "=====harness "
        out = f"{mark}iomem\n{iomem}{mark}crash_cma\n{mark}crash_size_bytes\n{self.size_bytes}\n"
        return SimpleNamespace(out=out, ok=True)


def shrinking(kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch) -> KdumpService:
    guest: Any = SimpleNamespace(shell=kernel, factor=1.0)
    service = KdumpService(guest, DEBIAN)
    monkeypatch.setattr(service, "is_loaded", lambda: False)
    monkeypatch.setattr(service, "arm", lambda: None)
    return service


@pytest.mark.parametrize(
    ("high_mib", "low_mib", "counts_low", "written_mib"),
    [(256, 72, True, 172), (256, 72, False, 100), (0, 256, True, 100), (0, 256, False, 100)],
)
def test_only_the_main_part_is_given_back(
    high_mib: int, low_mib: int, counts_low: bool, written_mib: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = FakeKernel(high_mib, low_mib, counts_low=counts_low)
    shrinking(kernel, monkeypatch).shrink(100)
    assert kernel.written == [written_mib * MIB]
    assert (kernel.high_bytes // MIB, kernel.low_bytes // MIB) == ((100, low_mib) if high_mib else (0, 100))


def test_a_kernel_that_kept_something_else_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    service = shrinking(FakeKernel(256, 72, counts_low=True, gives=False), monkeypatch)
    with pytest.raises(CommandFailed, match="the kernel kept 256 MiB above and 72 MiB below 4 GiB of the reservation"):
        service.shrink(100)


# ---------------------------------------------------------------- building


def built_by(tmp_path: Path, *, reserve: str, build: str) -> tuple[str, list[str]]:
    """The steps of arming, run by a real shell: what the guest's tools said, and what was shown on the way."""
    family = dataclasses.replace(
        REDHAT,
        commands=dataclasses.replace(REDHAT.commands, build=build),
        bootloader=dataclasses.replace(REDHAT.bootloader, reserve=reserve),
    )
    shown: list[str] = []

    def run(command: str, *, on_line: Any = None, **_: object) -> Any:
        command = command.replace("/tmp/reserve.log", f"{tmp_path}/reserve.log")
        made = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
        if on_line is not None:
            on_line(made.stdout)
        return SimpleNamespace(out=made.stdout, err=made.stderr, status=made.returncode, ok=made.returncode == 0)

    guest: Any = SimpleNamespace(shell=SimpleNamespace(run=run), factor=1.0)
    return KdumpService(guest, family).reserve_and_build("256M", report=shown.append), shown


def test_what_the_tools_say_while_they_build_is_shown_and_returned(tmp_path: Path) -> None:
    said, shown = built_by(tmp_path, reserve="echo menu made", build="echo Rebuilding >&2")
    assert said.splitlines() == ["Rebuilding", "menu made"]
    assert shown == [said]


def test_a_capture_initramfs_that_cannot_be_built_is_kdumps_failure(tmp_path: Path) -> None:
    with pytest.raises(NotArmed) as caught:
        built_by(
            tmp_path, reserve="echo menu made", build="echo kdump: mkdumprd: failed to make kdump initrd >&2; exit 1"
        )
    assert caught.value.reason.endswith("failed: kdump: mkdumprd: failed to make kdump initrd | [status 1]")
    assert caught.value.said.startswith("kdump: mkdumprd: failed")


# The line of kdump-tools' hook that ends it without a word; Ubuntu's hook of 26.10 asks for dracut before it.
SILENT_HOOK = "[ -x /nowhere/mkinitramfs ] || exit 0\n"
UBUNTU_HOOK = "command -v dracut >/dev/null || :\n" + SILENT_HOOK


@pytest.mark.parametrize(
    ("hook", "told"),
    [
        (SILENT_HOOK, ["mkinitramfs is not installed, so kdump-tools builds no capture initramfs", "has not built"]),
        (UBUNTU_HOOK, ["has not built"]),
        (f"echo it fails >&2; exit 3; {UBUNTU_HOOK}", ["it fails", "has not built"]),
        (f"touch {{place}}/initrd.img-$1; {SILENT_HOOK}", []),
    ],
    ids=["dracut-alone", "dracut-known", "failed", "built"],
)
def test_a_hook_of_kdump_tools_that_builds_nothing_without_a_word_is_noticed(
    tmp_path: Path, hook: str, told: list[str]
) -> None:
    script = tmp_path / "hook"
    script.write_text("#!/bin/sh\n" + hook.replace("{place}", str(tmp_path)), encoding="utf-8")
    script.chmod(0o755)
    build = DEBIAN.commands.build.replace("/etc/kernel/postinst.d/kdump-tools", str(script))
    build = build.replace("/var/lib/kdump", str(tmp_path)).replace("mkinitramfs >", "mkinitramfs-of-no-host >")
    build = build.replace("{kernel}", "7.2.13+deb14")
    if not told:
        assert built_by(tmp_path, reserve="true", build=build)[0] == ""
        return
    with pytest.raises(NotArmed) as caught:
        built_by(tmp_path, reserve="true", build=build)
    said = caught.value.said.splitlines()
    assert len(said) == len(told) + 1
    assert all(part in line for part, line in zip([*told, "[status 1]"], said, strict=True))
    symptom = diagnose_text(caught.value.said, family="debian").symptoms[0]
    assert symptom.name == "capture-initramfs-not-built"
    assert symptom.remedy.startswith(
        "apt-get update && apt-get install -y initramfs-tools-core && systemctl restart kdump-tools"
    )


@pytest.mark.parametrize(
    ("tool", "hook", "lines"),
    [("sh", SILENT_HOOK, 1), ("no-such-tool", SILENT_HOOK, 2), ("no-such-tool", UBUNTU_HOOK, 1)],
)
def test_the_status_of_kdump_tools_says_that_mkinitramfs_is_missing(
    tmp_path: Path, tool: str, hook: str, lines: int
) -> None:
    (tmp_path / "hook").write_text(hook, encoding="utf-8")
    status = DEBIAN.commands.status.replace("/etc/kernel/postinst.d/kdump-tools", str(tmp_path / "hook"))
    status = status.replace("kdump-config show", "true").replace("mkinitramfs >", f"{tool} >")
    made = subprocess.run(["sh", "-c", f"{{ {status}; echo end; }}"], capture_output=True, text=True, check=True)
    assert len(made.stdout.splitlines()) == lines
    assert ("mkinitramfs is not installed" in made.stdout) == (lines == 2)


@pytest.mark.parametrize("build", ["true", "false"])
def test_a_boot_loader_that_refuses_is_no_verdict_on_kdump(tmp_path: Path, build: str) -> None:
    with pytest.raises(CommandFailed, match=r"ended with status 3: grubby: no entry$") as caught:
        built_by(tmp_path, reserve="echo grubby: no entry >&2; exit 3", build=build)
    assert not isinstance(caught.value, NotArmed)


# ---------------------------------------------------------------- arming a started service again

# The answers of kdumpctl of kdump-utils 1.0.61 in a Debian 12 guest of 1 GiB: armed, and after two bad configurations.
COMMANDS = (Path(__file__).parents[1] / "data" / "commands" / "kdumpctl.log").read_text()


def recorded(command: str) -> list[tuple[str, int]]:
    """All answers to a command: what it printed, and its status."""
    pattern = rf"^\$ {re.escape(command)}(?: 2>&1)?\n(.*?)^\[(\d+) after [\d.]+ s\]$"
    return [(out, int(status)) for out, status in re.findall(pattern, COMMANDS, re.MULTILINE | re.DOTALL)]


@pytest.mark.parametrize(
    ("number", "cause"),
    [
        (0, "kdump: Deprecated kdump config option: net. Refer to kdump.conf manpage for alternatives."),
        (1, "kdump: Dump target is invalid"),
    ],
)
def test_a_restart_that_fails_is_quoted_and_not_awaited(number: int, cause: str) -> None:
    """kdumpctl unloads before it looks at the configuration, and systemd still calls the service active."""
    stack, shell = stack_of(family=REDHAT)
    shell.answers = {
        "kdumpctl restart": recorded("kdumpctl restart")[number],
        "is-active": recorded("systemctl is-active kdump.service")[0],
        "crash_loaded": ("0\n", 0),
    }
    assert shell.answers["is-active"] == ("active\n", 0)
    with pytest.raises(NotArmed) as raised:
        stack.arm()
    said = raised.value.reason
    assert said.startswith(
        "kdump is not armed: 'kdumpctl restart' ended with status 1: kdump: kexec: unloaded kdump kernel | "
    )
    assert said.endswith(f" | {cause} | kdump: Starting kdump: [FAILED]")
    assert not [command for command in shell.commands if "is-active" in command]


def test_a_restart_that_complains_but_has_loaded_is_armed() -> None:
    stack, shell = stack_of(family=REDHAT)
    shell.answers = {"kdumpctl restart": (recorded("kdumpctl start")[0][0], 1), "crash_loaded": ("1\n", 0)}
    stack.arm()


def test_what_was_not_loaded_is_told_with_the_status_and_the_last_words_of_the_service() -> None:
    stack, shell = stack_of(family=REDHAT)
    (stopped,) = (out for out, status in recorded("kdumpctl status") if status == 3)
    shell.answers = {"kdumpctl status": (stopped, 3), "is-active": ("failed\n", 3), "crash_loaded": ("0\n", 0)}
    with pytest.raises(CommandFailed, match=r"kdump\.service has failed; .* says: kdump: Kdump is not operational"):
        stack.wait_until_loaded()
    assert "journalctl -b -u kdump.service" in shell.commands[-1]
    assert shell.commands[-1].index("journalctl") < shell.commands[-1].index("kdumpctl status")


def test_a_service_that_was_stopped_is_named_and_not_only_the_panic() -> None:
    journal = "loaded kdump kernel\nStopping kdump-tools.service - Kernel crash dump capture service...\n"
    said = f"{journal}unloaded kdump kernel.\ncurrent state:    Not ready to kdump\n"
    panic = "[  9.1] Kernel panic - not syncing: x\n[  9.2] ---[ end Kernel panic - not syncing ]---\n"
    symptoms = [symptom.name for symptom in diagnose_text(said + panic, family="debian").symptoms]
    assert symptoms == ["service-not-started", "panic-without-kdump"]


def test_a_status_that_waits_for_a_lock_does_not_hide_why_nothing_was_loaded() -> None:
    stack, shell = stack_of(family=REDHAT)
    shell.answers = {"crash_loaded": ("0\n", 0), "is-active": ("failed\n", 3)}
    run = shell.run

    def locked(command: str, *arguments: object, **how: Any) -> Any:
        if "kdumpctl status" in command:
            raise CommandFailed("'kdumpctl status' was not done after 20 s")
        return run(command, *arguments, **how)

    shell.run = locked  # type: ignore[method-assign]
    with pytest.raises(CommandFailed, match=r"kdump\.service has failed; .*was not done after 20 s"):
        stack.wait_until_loaded()


def test_the_suggestion_for_a_small_guest_is_no_more_than_what_was_counted() -> None:
    """Below 2 GiB the packaged value is empty, and the sum alone is less than a capture kernel needs."""
    stack, shell = stack_of(family=REDHAT)
    shell.answers = {"kdumpctl estimate": recorded("kdumpctl estimate")[0]}
    assert stack.suggested_mib() == 97


def test_the_shell_reads_small_files_by_itself(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("  one \\n\ttwo\n\nthe last line has no end", encoding="utf-8")
    probes = {"there": f"show {tmp_path}/file", "missing": f"show {tmp_path}/none || echo none", "last": "echo end"}
    script = joined_commands(probes, "=====")
    out = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout
    found = dict(split_outputs(out, "====="))
    assert found["there"] == (tmp_path / "file").read_text(encoding="utf-8").strip()
    assert found["missing"].endswith("none")
    assert found["last"] == "end"
