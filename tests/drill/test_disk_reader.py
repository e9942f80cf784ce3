"""Files are read from a disk that no guest uses, by patterns as a shell has them, and nothing is written to it."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path, PurePosixPath
from typing import NoReturn

import pytest
from kdump_harness.base.errors import HostError
from kdump_harness.distro.family import find_family
from kdump_harness.drill import disk_reader
from kdump_harness.drill.disk_reader import CannotRead, HostDisk
from kdump_harness.kdump.target import find_target
from kdump_harness.vm import fuse_export

MIB = 1 << 20
START_MIB = 1
CONTENT = bytes(range(256)) * 4096

pytestmark = pytest.mark.skipif(
    any(disk_reader._which(tool) is None for tool in (*disk_reader.TOOLS, "mke2fs")), reason="a tool is not installed"
)


def tool(*command: str) -> None:
    subprocess.run([disk_reader._which(command[0]) or "", *command[1:]], check=True, capture_output=True)


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A qcow2 with one partition, in which kdump has left a dump, half a dump and what belongs to others."""
    place = tmp_path_factory.mktemp("disk")
    tree = place / "tree"
    crash = tree / "var" / "crash" / "202611260917"
    crash.mkdir(parents=True)
    (crash / "dump.202611260917").write_bytes(CONTENT)
    (crash / "dump.202611260917").chmod(0o600)
    (crash / "dmesg.202611260917").write_text("a log\n", encoding="ascii")
    (crash / "dump-incomplete").write_bytes(b"x")
    (crash / ".hidden").write_bytes(b"x")
    (tree / "var" / "crash" / "kexec_cmd").write_text("kexec\n", encoding="ascii")
    (tree / "etc").mkdir()
    (tree / "srv").symlink_to("var/crash")
    raw, part = place / "disk.raw", place / "part.raw"
    tool("mke2fs", "-q", "-t", "ext4", "-d", str(tree), str(part), "24M")
    with raw.open("wb") as out, part.open("rb") as content:
        out.seek(START_MIB * MIB)
        shutil.copyfileobj(content, out)
        out.truncate((START_MIB + 26) * MIB)
    subprocess.run(
        [disk_reader._which("sfdisk") or "", "-q", str(raw)],
        input=f"label: gpt\nstart={START_MIB * 2048}, size={24 * 2048}, type=L\n".encode(),
        check=True,
        capture_output=True,
    )
    qcow2 = place / "disk.qcow2"
    tool("qemu-img", "convert", "-O", "qcow2", str(raw), str(qcow2))
    return qcow2


@pytest.mark.parametrize("way", ["shown", "copied"])
def test_the_dumps_of_a_family_are_found_and_fetched(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    if way == "copied":
        monkeypatch.setattr(disk_reader, "missing", lambda: "there is no /dev/fuse")
    elif why := fuse_export.missing():
        pytest.skip(why)
    before = hashlib.sha256(disk.read_bytes()).digest()
    copies: list[str] = []
    with HostDisk(disk, tmp_path / "raw", before_copy=copies.append) as files:
        if way == "shown" and os.geteuid() != 0 and any("Failed to mount FUSE" in why for why in copies):
            pytest.skip(copies[0])  # only root may mount on some hosts
        assert copies == (["there is no /dev/fuse"] if way == "copied" else [])
        found = find_target("local", find_family("debian")).look_off(files, "/var/crash")
        (final,) = [file for file in found.values() if file.final]
        assert final.path == "/var/crash/202611260917/dump.202611260917"
        assert (final.size_bytes, final.mode) == (len(CONTENT), 0o600)
        assert [file.name for file in found.values() if not file.final] == ["dump-incomplete"]
        assert files.fetch(final.path, tmp_path / "dump") == len(CONTENT)
        assert (tmp_path / "dump").read_bytes() == CONTENT
        assert files.read(PurePosixPath("/var/crash/202611260917/dmesg.202611260917")) == "a log\n"
        assert files.read(PurePosixPath("/var/crash/nothing")) is None
        small = files.small_files("/var/crash/202611260917")
        assert "/var/crash/202611260917/dmesg.202611260917" in small
        with pytest.raises(CannotRead, match="exists already"):
            files.fetch(final.path, tmp_path / "dump")
    assert list(tmp_path.iterdir()) == [tmp_path / "dump"]
    assert hashlib.sha256(disk.read_bytes()).digest() == before


def test_a_disk_is_copied_where_the_export_fails_and_not_where_a_copy_may_not_be(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> NoReturn:
        raise fuse_export.CannotExport("qemu-storage-daemon: no FUSE in it")

    def no_room(why: str) -> NoReturn:
        raise HostError(f"no room ({why})")

    monkeypatch.setattr(disk_reader, "missing", lambda: None)
    monkeypatch.setattr(disk_reader, "exported", fails)
    with HostDisk(disk, tmp_path / "raw") as files:
        assert files.small_files("/var/crash/202611260917")
    with pytest.raises(HostError, match=r"no room \(qemu-storage-daemon: no FUSE in it\)"):
        HostDisk(disk, tmp_path / "raw", before_copy=no_room)
    assert not list(tmp_path.iterdir())


def test_an_export_that_does_not_start_leaves_nothing(disk: Path, tmp_path: Path) -> None:
    if why := fuse_export.missing():
        pytest.skip(why)
    too_long = disk.stat().st_size + (1 << 50)
    with pytest.raises(fuse_export.CannotExport, match="qemu-storage-daemon: "):  # noqa: SIM117
        with fuse_export.exported(disk, tmp_path / "raw", start_bytes=0, size_bytes=too_long):
            pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("/var/crash/[0-9]*/dump*", ["dump-incomplete", "dump.202611260917"]),
        ("/var/crash/*", ["kexec_cmd"]),
        ("/var/crash/*/*", ["dmesg.202611260917", "dump-incomplete", "dump.202611260917"]),
        ("/nowhere/*", []),
        ("/var/crash/[[]0-9]*/dump*", []),
    ],
)
def test_patterns_are_a_shells(disk: Path, tmp_path: Path, pattern: str, names: list[str]) -> None:
    with HostDisk(disk, tmp_path / "raw") as files:
        assert sorted(PurePosixPath(path).name for path, _ in files.stat([pattern])) == names


def test_links_are_not_followed(disk: Path, tmp_path: Path) -> None:
    with HostDisk(disk, tmp_path / "raw") as files, pytest.raises(CannotRead, match=r"srv of /srv/.* is a link"):
        list(files.stat(["/srv/*/dump*"]))


def test_a_disk_that_nothing_here_can_read_is_told(tmp_path: Path) -> None:
    strange = tmp_path / "strange, and more.qcow2"
    tool("qemu-img", "create", "-q", "-f", "qcow2", str(strange), "1M")
    with pytest.raises(CannotRead, match="no file system that can be read on this host"):
        HostDisk(strange, tmp_path / "raw")
    assert not (tmp_path / "raw").exists()
    with pytest.raises(CannotRead, match="qemu-img cannot read the guest's disk"):
        HostDisk(tmp_path / "missing", tmp_path / "raw")


def test_a_missing_tool_is_named(disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_reader, "_which", lambda tool: None if tool == "debugfs" else tool)
    with pytest.raises(disk_reader.HostError, match="debugfs not installed"):
        HostDisk(disk, tmp_path / "raw")


def test_a_busy_host_gives_its_tools_more_time(disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = [1.0]
    with HostDisk(disk, tmp_path / "raw", stretch=lambda: load[0]) as files:
        monkeypatch.setattr(disk_reader, "TIMEOUT_S", 0.4)
        with pytest.raises(CannotRead, match="sleep has not ended"):
            files._run("sleep", "1.2")
        load[0] = 8.0
        files._run("sleep", "1.2")
