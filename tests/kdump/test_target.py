"""Dumps are found where each family leaves them; a finished name is not enough where a family needs more."""

from __future__ import annotations

import dataclasses
import shlex
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kdump_harness.base.errors import UsageError
from kdump_harness.base.verdict import Verdict
from kdump_harness.distro.family import choose_release, find_family
from kdump_harness.drill.checks import choose_dump
from kdump_harness.kdump.service import KdumpService
from kdump_harness.kdump.target import KEY, FoundFile, Server, find_target
from kdump_harness.vm.shells.shell import CommandResult

# The first and last lines of kdump-save; the status of a dump whose makedumpfile was killed (SIGABRT) is 134.
TEMPORARY = (
    "This file will be overwritten when the dump is finished.\n"
    "If you see this text the crash dump is likely incomplete.\n\n"
    "Dump time: 2026-11-22T10:11:12\nHost: g\nDump level: 31\nDump format: compressed\n"
)
FINAL = (
    "Kernel crashdump\n----------------\ndmesg status: saved successfully\nvmcore status: {status}\n"
    "Kernel version: 6.1.0-56-amd64\nDump time: 2026-11-22T10:11:12\nHost: g\n"
)
OLDER = (
    "Kernel crashdump\n----------------\n\nCrash time     : 2021-11-22 10:11 (+0000)\nHost           : g\n"
    "Dump level     : 31\nDump format    : compressed\n\n"
)


class LocalShell:
    """Runs what a guest would run, here."""

    def run(self, command: str, *arguments: object, timeout_s: float = 60.0, check: bool = True) -> CommandResult:
        line = command % tuple(shlex.quote(str(argument)) for argument in arguments) if arguments else command
        done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=check)
        return CommandResult(command=line, status=done.returncode, out=done.stdout, err=done.stderr, took_s=0.0)


def look(family: str, directory: Path) -> dict[str, FoundFile]:
    shell: Any = LocalShell()
    guest: Any = SimpleNamespace(shell=shell)
    found = find_target("local", find_family(family)).look(guest, str(directory))
    return {str(Path(path).relative_to(directory)): file for path, file in found.items()}


def write(path: Path, text: str = "x", mode: int = 0o600) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


@pytest.mark.parametrize(
    ("family", "finished", "unfinished", "neither"),
    [
        (
            "debian",
            ["202611221011/dump.202611221011", "10.0.2.15-202611221011/dump.202611221011"],
            ["202611221012/dump-incomplete", "202611221013/vmcore-incomplete", "202611221014/vmcore.202611221014"],
            ["202611221011/dmesg.202611221011", "kexec_cmd", "kdump_lock", "_usr_bin_x.0.crash"],
        ),
        (
            "redhat",
            [
                "127.0.0.1-2026-11-22-10:11:12/vmcore",
                "10.0.2.15-2026-11-22-10:11:13/vmcore.flat",
                "2026-11-22-10:11/vmcore",  # what was taken from a raw partition at the next start
            ],
            ["127.0.0.1-2026-11-22-10:11:14/vmcore-incomplete"],
            [
                "127.0.0.1-2026-11-22-10:11:12/vmcore-dmesg.txt",
                "127.0.0.1-2026-11-22-10:11:12/kexec-dmesg.log",
                "127.0.0.1-2026-11-22-10:11:14/vmcore-dmesg-incomplete.txt",
            ],
        ),
    ],
)
def test_dumps_are_told_from_what_lies_beside_them(
    tmp_path: Path, family: str, finished: list[str], unfinished: list[str], neither: list[str]
) -> None:
    directory = tmp_path / "var crash"
    for name in (*finished, *unfinished, *neither):
        write(directory / name)
    found = look(family, directory)
    assert {name for name, file in found.items() if file.final} == set(finished)
    assert {name for name, file in found.items() if not file.final} == set(unfinished)


@pytest.mark.parametrize("stamp", ["2026-11-22-10-11", "2026-11-22-10:11"])
@pytest.mark.parametrize(
    ("readme", "unfinished"),
    [
        (FINAL.format(status="saved successfully"), ""),
        (OLDER, ""),
        (TEMPORARY, "README.txt: crash dump is likely incomplete"),
        (
            FINAL.format(status="error while saving, return code: 134"),
            "README.txt: vmcore status: error while saving, return code: 134",
        ),
        (
            FINAL.format(status="deleted (3 < KDUMP_FREE_DISK_SIZE 64)"),
            "README.txt: vmcore status: deleted (3 < KDUMP_FREE_DISK_SIZE 64)",
        ),
        (FINAL.format(status="skipped"), "README.txt: vmcore status: skipped"),
        ("", "README.txt is empty"),
        (None, "no README.txt"),
    ],
    ids=["saved", "older", "temporary", "failed", "deleted", "skipped", "empty", "missing"],
)
def test_only_its_readme_tells_that_a_dump_of_suse_is_finished(
    tmp_path: Path, stamp: str, readme: str | None, unfinished: str
) -> None:
    write(tmp_path / stamp / "vmcore")
    write(tmp_path / stamp / "dmesg")
    if readme is not None:
        write(tmp_path / stamp / "README.txt", readme)
    found = look("suse", tmp_path)
    assert list(found) == [f"{stamp}/vmcore"]
    assert (found[f"{stamp}/vmcore"].final, found[f"{stamp}/vmcore"].unfinished) == (not unfinished, unfinished)


def test_size_rights_and_owner_are_told(tmp_path: Path) -> None:
    write(tmp_path / "127.0.0.1-2026-11-22-10:11:12" / "vmcore", "KDUMP   ", mode=0o640)
    (tmp_path / "127.0.0.1-2026-11-22-10:11:12").chmod(0o755)
    (file,) = look("redhat", tmp_path).values()
    assert (file.size_bytes, file.mode, file.directory_mode) == (8, 0o640, 0o755)
    assert file.owner == (tmp_path.owner())


@pytest.mark.parametrize("family", ["debian", "redhat", "suse"])
def test_an_empty_place_holds_nothing(tmp_path: Path, family: str) -> None:
    assert look(family, tmp_path / "nowhere") == {}


# ---------------------------------------------------------------- aiming kdump at a target


class Machine:
    """A guest or a server: files that can be read and written, and every command a success."""

    factor = 1.0

    def __init__(self, **files: str) -> None:
        self.files = {path.replace("__", "/"): text for path, text in files.items()}
        self.asked: list[str] = []
        self.shell = self

    def run(self, command: str, *arguments: object, timeout_s: float = 60.0, check: bool = True) -> CommandResult:
        line = command % arguments if arguments else command
        self.asked.append(line)
        return CommandResult(command=line, status=0, out="", err="", took_s=0.0)

    def succeeds(self, command: str, *arguments: object, timeout_s: float = 60.0) -> bool:
        self.asked.append(command)
        return False

    def read_text(self, path: str) -> str:
        return self.files.get(path, "")

    def write_text(self, path: str, text: str, *, mode: int = 0o644) -> None:
        self.files[path] = text

    write_secret = write_text


def a_server() -> Server:
    shell: Any = Machine()
    return Server(
        name="collector", address="198.18.1.2", host_key="ssh-ed25519 AAAA x", user="kdump", directory="/srv/crash",
        shell=shell,
    )  # fmt: skip


FOUND = {
    "debian": 'USE_KDUMP=1\nKDUMP_COREDIR="/data/crash"\n',
    "redhat": "path /data/crash\ncore_collector makedumpfile -l --message-level 7 -d 31\n",
    "suse": 'KDUMP_SAVEDIR="file:///data/crash"\n',
}


@pytest.mark.parametrize(
    ("family", "target", "lines"),
    [
        ("debian", "ext4", ['KDUMP_COREDIR="/mnt/kdump-target"']),
        ("debian", "ssh", ['SSH="kdump@collector"', f'SSH_KEY="{KEY}"', 'KDUMP_COREDIR="/srv/crash"']),
        ("debian", "nfs", ['NFS="collector:/srv/crash"', 'KDUMP_COREDIR="/data/crash"']),
        ("redhat", "xfs", ["xfs LABEL=kdump-target", "path /"]),
        ("redhat", "ssh", ["ssh kdump@collector", f"sshkey {KEY}", "path /srv/crash"]),
        ("redhat", "nfs", ["nfs collector:/srv/crash", "path /"]),
        ("suse", "ext4", ['KDUMP_SAVEDIR="file:///mnt/kdump-target"']),
        ("suse", "ssh", ['KDUMP_SAVEDIR="ssh://kdump@collector/srv/crash"', f'KDUMP_SSH_IDENTITY="{KEY}"']),
        ("suse", "nfs", ['KDUMP_SAVEDIR="nfs://collector/srv/crash"']),
    ],
)
def test_a_target_is_written_as_its_family_says_it_and_goes_without_a_trace(
    family: str, target: str, lines: list[str]
) -> None:
    driven = find_family(family)
    guest: Any = Machine(**{driven.config.file: FOUND[family]})
    stack = KdumpService(guest, driven)
    assert find_target(target, driven, a_server()).configure(guest, stack)
    written = guest.files[driven.config.file].splitlines()
    assert set(lines) <= set(written)
    assert (
        not find_target(target, driven, a_server()).configure(guest, stack) or target == "ssh"
    )  # a key is made each time
    assert find_target("local", driven).configure(guest, stack)
    assert sorted(guest.files[driven.config.file].replace("file://", "").splitlines()) == sorted(
        FOUND[family].replace("file://", "").splitlines()
    )


@pytest.mark.parametrize("version", ["7.9", "10.1"])
@pytest.mark.parametrize("before", ["raw /dev/sdb", "ext3 UUID=1-2", "minix /dev/sdb1", "btrfs LABEL=x", "nfs a:/b"])
def test_red_hat_is_left_with_one_target(before: str, version: str) -> None:
    """kdumpctl refuses a configuration with two."""
    os_release = {"ID": "rhel", "VERSION_ID": version}
    driven, _ = choose_release(find_family("redhat"), os_release, lambda _command: False)
    for name, targets in (("xfs", ["xfs LABEL=kdump-target"]), ("local", [])):
        guest: Any = Machine(**{driven.config.file: f"{before}\npath /data/crash\n"})
        assert find_target(name, driven).configure(guest, KdumpService(guest, driven))
        lines = guest.files[driven.config.file].splitlines()
        assert sorted(lines) == sorted([*targets, "path /" if targets else "path /data/crash"])


def test_a_local_target_leaves_the_configuration_as_it_is() -> None:
    driven = find_family("debian")
    guest: Any = Machine(**{driven.config.file: FOUND["debian"]})
    assert not find_target("local", driven).configure(guest, KdumpService(guest, driven))
    assert guest.files[driven.config.file] == FOUND["debian"]


def test_red_hat_sends_a_flattened_dump_over_ssh() -> None:
    driven = find_target("ssh", find_family("redhat"), a_server()).family_for(find_family("redhat"))
    assert "makedumpfile -F -l" in driven.config.with_collection("", 31, "lzo")
    assert find_target("local", driven).family_for(driven) == driven


def test_the_key_of_kdump_is_taken_to_the_server_and_ours_does_not_stay() -> None:
    driven = find_family("debian")
    guest: Any = Machine(**{driven.config.file: ""})
    server = a_server()
    find_target("ssh", driven, server).configure(guest, KdumpService(guest, driven))
    assert any(command.startswith("kdump-config propagate") for command in guest.asked)
    assert "PRIVATE KEY" in guest.files[KEY]
    told: Any = server.shell
    assert [command.split()[0] for command in told.asked] == ["echo", "sed"]  # admitted, and dismissed
    assert any(command.startswith("rm -f /root/.ssh/id_ed25519") for command in guest.asked)
    assert guest.asked[-1] == f"ssh -n -i {KEY} -o BatchMode=yes kdump@collector true 2>&1"  # it was seen to work


def test_a_dump_of_the_same_size_in_the_place_of_an_older_one_is_new(tmp_path: Path) -> None:
    dump = tmp_path / "202611221011" / "dump.202611221011"
    write(dump)
    before = look("debian", tmp_path)
    assert look("debian", tmp_path) == before
    write(tmp_path / "202611221011" / "dump-incomplete")
    (tmp_path / "202611221011" / "dump-incomplete").rename(dump)
    assert look("debian", tmp_path) != before


def test_a_dump_in_the_wrong_place_is_found_and_told() -> None:
    verdict = Verdict(
        image="i", family="debian", trigger="t", target="ssh", accelerator="tcg", memory_mib=1, vcpus=1
    )  # fmt: skip
    local = FoundFile(
        path="/var/crash/2/dump.2", size_bytes=1, mode=0o600, owner="root", directory_mode=0o755, final=True,
        wanted=False,
    )  # fmt: skip
    assert choose_dump(verdict, {local.where: local}, {}) is None
    (failed,) = [check for check in verdict.failed() if check.name == "single-dump"]
    assert "none elsewhere" in failed.expected
    assert "/var/crash/2/dump.2" in failed.seen


def test_unknown_targets_are_named() -> None:
    with pytest.raises(UsageError, match=r"unknown target 'ftp' \(known: local, ext4, xfs, ssh, nfs\)"):
        find_target("ftp", find_family("debian"))
    few = dataclasses.replace(find_family("debian"), targets={"local": find_family("debian").targets["local"]})
    with pytest.raises(UsageError, match="kdump of the family debian has no target ssh"):
        find_target("ssh", few)
