"""Dumps are found where each family leaves them; a finished name is not enough where a family needs more."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from harness.family import find_family
from harness.shell import Result
from harness.target import FoundFile, find_target

# What kdump-save writes first and last; the status of a dump whose makedumpfile was killed (SIGABRT) is 134.
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

    def run(self, command: str, *arguments: object, timeout_s: float = 60.0, check: bool = True) -> Result:
        line = command % tuple(shlex.quote(str(argument)) for argument in arguments) if arguments else command
        done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=check)
        return Result(command=line, status=done.returncode, out=done.stdout, err=done.stderr, took_s=0.0)


def look(family: str, directory: Path) -> dict[str, FoundFile]:
    shell: Any = LocalShell()
    found = find_target("local", find_family(family)).list(shell, str(directory))
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
