"""Arguments that are added to command lines: the refused ones, the written ones, and those that are overruled."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kdump_harness.base.errors import UsageError
from kdump_harness.distro.config_file import last_assignment
from kdump_harness.distro.family import find_family
from kdump_harness.kdump.capture_memory import capture_command_line
from kdump_harness.kdump.command_line import check_arguments, not_in_force
from kdump_harness.kdump.service import KdumpConfig, KdumpService

LINE = "BOOT_IMAGE=/boot/vmlinuz root=UUID=1 console=tty0 console=ttyS0 nr_cpus=1 panic-on-warn=1 irqpoll"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('dyndbg="file x +p"', "it has a quote"),
        ("it's", "it has a quote"),
        ("a\nb", "it has a newline"),
        ("a\\b", "it has a backslash"),
        ("memmap=1M$16M", "it has a dollar sign"),
        ("`id`", "it has a backtick"),
        ("a\x01", "it is not printable ASCII"),
        ("k\u00e4se=1", "it is not printable ASCII"),
        ("quiet crashkernel=1G", r"cannot set crashkernel= \(--crashkernel does\)"),
    ],
)
@pytest.mark.parametrize("option", ["append", "capture_append"])
def test_arguments_that_no_command_line_can_have_are_refused(text: str, why: str, option: str) -> None:
    config = KdumpConfig(crashkernel=None, level=None, compress=None, **{option: text})
    with pytest.raises(UsageError, match=rf"^--{option.replace('_', '-')}.*{why}"):
        config.check(find_family("debian"))


def test_a_direct_boot_has_no_shell_that_a_dollar_sign_could_disturb() -> None:
    check_arguments("--append", "memmap=1M$16M", shells=False)


def test_a_family_without_a_setting_for_it_is_named() -> None:
    family = SimpleNamespace(name="plain", capture_line=SimpleNamespace(append=""))
    config = KdumpConfig(crashkernel=None, level=None, compress=None, capture_append="nr_cpus=2")
    with pytest.raises(UsageError, match="--capture-append: the family plain has no setting for it"):
        config.check(family)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("asked", "sentences"),
    [
        ("", []),
        ("irqpoll nr_cpus=1", []),
        ("console=tty0", []),  # each console counts
        ("kasan=off", ["--append: kasan=off is not on the command line of the kernel"]),
        ("nr_cpus=2", ["--append: nr_cpus=2 is not on the command line of the kernel"]),
    ],
)
def test_missing_arguments_are_named(asked: str, sentences: list[str]) -> None:
    assert not_in_force("--append", asked, LINE) == sentences


def test_an_argument_that_a_later_one_overrules_is_named() -> None:
    assert not_in_force("--capture-append", "panic=5 panic_on_warn=0", f"panic=5 panic_on_warn=0 {LINE} panic=1") == [
        "--capture-append: panic=1, which follows on the command line, overrules panic=5",
        "--capture-append: panic-on-warn=1, which follows on the command line, overrules panic_on_warn=0",
    ]


def test_only_the_capture_kernels_own_whole_line_counts() -> None:
    first, capture = "[    0.0] Command line: root=1", "[    0.0] Command line: root=1 nr_cpus=1 elfcorehdr=0x1000"
    assert capture_command_line(f"{first}\n{capture}\nmore") == "root=1 nr_cpus=1 elfcorehdr=0x1000"
    assert capture_command_line(first) is None
    assert capture_command_line(capture + " x" * 500) is None


class Shell:
    """The files of a guest, and the printed default of its kdump."""

    def __init__(self, default: str = "") -> None:
        self.files: dict[str, str] = {}
        self.default = default

    def read_text(self, path: str) -> str:
        return self.files.get(path, "")

    def write_text(self, path: str, text: str, *, mode: int = 0o644) -> None:
        self.files[path] = text

    def run(self, _command: str, **_: object) -> Any:
        return SimpleNamespace(out=self.default)


@pytest.mark.parametrize(
    ("family", "file", "before", "default", "after"),
    [
        ("debian", "default/kdump-tools", "", "reset_devices nr_cpus=1\n", "reset_devices nr_cpus=1 hest_disable"),
        ("debian", "default/kdump-tools", 'KDUMP_CMDLINE_APPEND="panic=5"\n', "nr_cpus=1", "panic=5 hest_disable"),
        ("redhat", "sysconfig/kdump", 'KDUMP_COMMANDLINE_APPEND="irqpoll"\n', "", "irqpoll hest_disable"),
        ("suse", "sysconfig/kdump", 'KDUMP_COMMANDLINE_APPEND=""\n', "", "hest_disable"),
    ],
)
def test_the_capture_kernels_arguments_follow_those_of_the_family(
    family: str, file: str, before: str, default: str, after: str
) -> None:
    shell = Shell(default)
    shell.files[f"/etc/{file}"] = before
    service = KdumpService(SimpleNamespace(shell=shell, factor=1.0), find_family(family))  # type: ignore[arg-type]
    assert service.append_to_capture("hest_disable")
    key = find_family(family).capture_line.append
    assert last_assignment(shell.files[f"/etc/{file}"], key) == after
    assert not service.append_to_capture("hest_disable")
    assert service.append_to_capture("panic=1")  # in place of the former ones
    assert last_assignment(shell.files[f"/etc/{file}"], key) == after.replace("hest_disable", "panic=1")


def test_a_line_that_inherits_nothing_is_remarked() -> None:
    shell = Shell()
    service = KdumpService(SimpleNamespace(shell=shell, factor=1.0), find_family("redhat"))  # type: ignore[arg-type]
    shell.files["/etc/sysconfig/kdump"] = 'KDUMP_COMMANDLINE=""\n'
    assert service.capture_line_replaced() is None
    shell.files["/etc/sysconfig/kdump"] = 'KDUMP_COMMANDLINE="ro root=LABEL=/"\n'
    assert service.capture_line_replaced() == (
        "--append does not reach the capture kernel: KDUMP_COMMANDLINE of /etc/sysconfig/kdump replaces its arguments"
    )


@pytest.mark.parametrize("default", ["reset_devices nr_cpus=1 irqpoll nousb ata_piix.prefer_ms_hyperv=0", "irqpoll"])
def test_the_default_is_read_from_the_script_of_kdump_tools(tmp_path: Path, default: str) -> None:
    script = tmp_path / "kdump-config"
    script.write_text(f'KDUMP_CMDLINE_APPEND=${{KDUMP_CMDLINE_APPEND:="{default}"}}\nKDUMP_CMDLINE="$1 $2"\n')
    command = find_family("debian").capture_line.default.replace("/usr/sbin/kdump-config", str(script))
    assert subprocess.run(command, shell=True, capture_output=True, text=True, check=True).stdout == f"{default}\n"
