"""Tests of the host check and the set-up on hosts of several families."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from kdump_harness.vm import host_check
from kdump_harness.vm.host_check import (
    HostFinding,
    load_managers,
    load_needs,
    manager_by_command,
    manager_here,
    needs_of_other_architectures,
)
from layers import ROOT

VM = Path(host_check.__file__).parent
HOSTS = {
    "debian": ("debian", "apt-get"), "ubuntu": ("debian", "apt-get"), "linuxmint": ("debian", "apt-get"),
    "fedora": ("redhat", "dnf"), "rocky": ("redhat", "dnf"), "opensuse-tumbleweed": ("suse", "zypper"),
    "sles": ("suse", "zypper"), "arch": ("arch", "pacman"),
}  # fmt: skip
LIKE = {"linuxmint": "ubuntu debian", "rocky": "rhel centos fedora", "opensuse-tumbleweed": "opensuse suse"}
COMMANDS = ("apt-get", "dnf", "zypper", "pacman")


def nothing(names: Sequence[str]) -> Sequence[str]:
    return names


def findings(
    identity: str, monkeypatch: pytest.MonkeyPatch, *, answers: bool = False, others: bool = False
) -> list[HostFinding]:
    found = {"ID": identity, "ID_LIKE": LIKE.get(identity, "")}
    monkeypatch.setattr(host_check.platform, "freedesktop_os_release", lambda: found)
    needs = (*load_needs(), *(needs_of_other_architectures() if others else ()))
    return list(host_check._packages(needs, nothing, manager_here(), answers=answers))


@pytest.mark.parametrize("identity", HOSTS)
def test_the_doctor_never_advises_the_command_of_another_family(identity: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = findings(identity, monkeypatch)
    remedies = "\n".join(one.remedy for one in found)
    assert HOSTS[identity][1] in remedies
    assert [name for name in COMMANDS if name in remedies] == [HOSTS[identity][1]]
    assert all(one.remedy for one in found)


@pytest.mark.parametrize("identity", ["fedora", "opensuse-tumbleweed", "arch"])
def test_the_page_of_hosts_shows_what_the_doctor_says(identity: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_check.os, "getuid", lambda: 0)
    page = (ROOT / "docs" / "hosts.md").read_text(encoding="utf-8").splitlines()
    for one in findings(identity, monkeypatch, others=True):
        assert f"{'--' if one.optional else 'NO'}  {one.name}: {one.seen}  → {one.remedy}" in page


def test_on_a_host_that_is_not_known_the_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_check, "_lacking_here", nothing)
    found = findings("plan9", monkeypatch)
    assert "install it (on Debian: libvirt-daemon-system libvirt-clients)" in {one.remedy for one in found}
    assert not [name for name in COMMANDS if name in "".join(one.remedy for one in found)]


def test_a_host_of_another_kind_is_recognised_by_its_package_manager() -> None:
    found = manager_by_command(lambda names: [name for name in names if name != "zypper"])
    assert found is not None
    assert found.name == "suse"
    assert manager_by_command(nothing) is None


def test_a_libvirt_that_answers_shows_that_its_daemon_and_qemu_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {one.name: one for one in findings("fedora", monkeypatch, answers=True)}
    assert [found[name].ok for name in ("libvirt daemon", "QEMU", "disk images")] == [True, True, False]
    assert found["QEMU"].seen == "libvirt answers"


@pytest.mark.parametrize("there", ["virtqemud", "libvirtd"])
def test_one_of_alternative_commands_is_enough(there: str) -> None:
    need = next(one for one in load_needs() if one.name == "libvirt daemon")
    assert need.missing(lambda names: [name for name in names if name not in (there, "virtlogd")]) == ()
    assert need.missing(nothing) == ("libvirtd", "virtlogd")


@pytest.mark.parametrize("identity", HOSTS)
def test_the_set_up_installs_by_the_package_manager_of_the_host(identity: str, tmp_path: Path) -> None:
    """The commands are stand-ins that record their arguments: one package is installed, the others are not."""
    called = tmp_path / "called"
    script = {
        "sudo": 'exec "$@"',
        "rpm": '[ "$3" = qemu-img ] && echo qemu-img',
        "pacman": '[ "$1$2" = -Qqemu-img ] && echo x',
    }
    others = ("rpm", "dpkg-query", "sudo", "virsh", "virtlogd", "install", "usermod", "pidof", "getent")
    for name in (*COMMANDS, *others):
        body = script.get(name, "")
        (tmp_path / name).write_text(f'#!/bin/sh\necho "{name} $*" >> {called}\n{body}\n')
        (tmp_path / name).chmod(0o755)
    (tmp_path / "os-release").write_text(f'ID="{identity}"\nID_LIKE="{LIKE.get(identity, "")}"\n')
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "KDUMP_HARNESS_OS_RELEASE": str(tmp_path / "os-release"),
        "KDUMP_HARNESS_STATE": str(tmp_path),
    }
    made = subprocess.run(
        ["sh", str(VM / "setup_host.sh")], env=environment, capture_output=True, text=True, check=False
    )
    family, command = HOSTS[identity]
    (manager,) = (row for row in load_managers() if row.name == family)
    lines = called.read_text().splitlines()
    (installing,) = (line for line in lines if re.match(rf"{command} .*(install|-S)", line))
    packages = [
        name for need in load_needs() for name in (need.packages if family == "debian" else getattr(need, family))
    ]
    expected = [name for name in [*packages, "make"] if family == "debian" or name != "qemu-img"]
    assert installing.split()[-len(expected) :] == expected, made.stderr
    assert installing.startswith(" ".join(manager.quiet.split()[-manager.quiet.split()[::-1].index(command) - 1 :]))
    assert [name for name in COMMANDS if any(line.startswith(f"{name} ") for line in lines)] == [command]


@pytest.mark.parametrize(
    ("systemctl", "starter"),
    [
        ("echo Version=252", "systemctl start libvirtd"),
        ("echo 'Failed to connect to bus: No such file or directory' >&2; exit 1", "libvirtd -d"),
        ("echo \"Running in chroot, ignoring command 'show'\" >&2", "libvirtd -d"),
    ],
    ids=["runs", "does not run", "chroot"],
)
def test_systemd_starts_libvirt_only_where_it_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, systemctl: str, starter: str
) -> None:
    """/run/systemd/system may exist where systemd does not run, for example after systemd-nspawn."""
    called, started = tmp_path / "called", tmp_path / "started"
    script = {
        "sudo": 'exec "$@"',
        "systemctl": f"[ $1 = start ] && exec touch {started}\n{systemctl}",
        "libvirtd": f"touch {started}",
        "virsh": f"[ -e {started} ]",
        "pidof": "exit 1",
    }
    for name in (*script, "virtlogd", "usermod", "getent", "tee", "mkdir"):
        (tmp_path / name).write_text(f'#!/bin/sh\necho "{name} $*" >> {called}\n{script.get(name, "")}\n')
        (tmp_path / name).chmod(0o755)
    (tmp_path / "os-release").write_text("ID=plan9\n")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("KDUMP_HARNESS_OS_RELEASE", str(tmp_path / "os-release"))
    monkeypatch.setenv("KDUMP_HARNESS_STATE", str(tmp_path))
    made = subprocess.run(["sh", str(VM / "setup_host.sh")], capture_output=True, text=True, check=False)
    lines = called.read_text().splitlines()
    assert [line for line in lines if line.startswith(starter)], (lines, made.stderr)
    assert made.returncode == 0
    assert (starter in host_check._start_libvirt()) is True
