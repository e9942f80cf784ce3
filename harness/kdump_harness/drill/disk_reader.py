"""Reads files from the disk of a guest that is off, on this host, without mounting it and without root.

QEMU's own tools show its file system as a file, or make a raw copy where they cannot; in that the file system's tools
replay the journal and read. Only ext2 to ext4 can be read so: nothing reads XFS or btrfs without the kernel's help.
"""

from __future__ import annotations

import contextlib
import fnmatch
import json
import os
import re
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ..base.errors import CommandFailed, HostError
from ..kdump.target import ROOT
from ..vm.fuse_export import CannotExport, exported, missing

TOOLS = ("qemu-img", "debugfs", "e2fsck", "sfdisk")
TIMEOUT_S = 300.0
MIB = 1 << 20
_MAGIC_AT, _MAGIC = 1024 + 56, 0xEF53  # of ext2 to ext4 (fs/ext4/ext4.h)
_MAX_SMALL_BYTES = 2 * MIB
_DIRECTORY = 0o040000
_REGULAR = 0o100000
_LINK = 0o120000
_KIND = 0o170000
# A line of debugfs for an entry of a directory with ls -p: /inode/mode/uid/gid/name/size/
_ENTRY = re.compile(r"/(\d+)/([0-7]{6})/(\d+)/(\d+)/(.*)/(\d*)/")


class CannotRead(CommandFailed):
    """The disk cannot be read on this host."""


@dataclass(frozen=True)
class _Entry:
    name: str
    mode: int
    uid: int
    size_bytes: int
    inode: int


class HostDisk:
    """The files of one file system of a disk."""

    def __init__(
        self,
        disk: Path,
        work: Path,
        *,
        tick: Callable[[], None] | None = None,
        stretch: Callable[[], float] = lambda: 1.0,
        before_copy: Callable[[str], None] | None = None,
    ) -> None:
        """Mount the file system at work, which must not exist. Raise CannotRead where no tool can read it.

        stretch returns the factor by which the tools may take longer now. before_copy gets the reason for a raw copy,
        which takes time and room, and may raise.
        """
        if absent := [tool for tool in TOOLS if _which(tool) is None]:
            raise HostError(f"{', '.join(absent)} not installed, which reading a guest's disk needs")
        self.raw = work
        self._tick, self._stretch = tick, stretch
        self._before_copy = before_copy
        self._listed: dict[str, list[_Entry]] = {}
        self._resources = contextlib.ExitStack()
        try:
            self._open(disk)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Remove it."""
        self._resources.close()
        self.raw.unlink(missing_ok=True)

    def __enter__(self) -> HostDisk:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------ files

    def stat(self, patterns: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        """As Files, for regular files; links are not followed."""
        for pattern in patterns:
            for path, entry, directory in self._glob(PurePosixPath(pattern)):
                yield (
                    path,
                    {
                        "size_bytes": entry.size_bytes,
                        "mode": entry.mode & 0o7777,
                        "inode": entry.inode,
                        "owner": ROOT if entry.uid == 0 else str(entry.uid),
                        "directory_mode": directory.mode & 0o7777,
                    },
                )

    def read(self, path: PurePosixPath) -> str | None:
        """Return a small text; None where the file does not exist."""
        entry = next((entry for entry in self._list(str(path.parent)) if entry.name == path.name), None)
        if entry is None or entry.mode & _KIND != _REGULAR or entry.size_bytes > _MAX_SMALL_BYTES:
            return None
        return self._debugfs(f"cat {_quoted(str(path))}")

    def small_files(self, directory: str, *, less_than_bytes: int = _MAX_SMALL_BYTES) -> list[str]:
        """Return the paths of the small files of a directory."""
        return [
            f"{directory}/{entry.name}"
            for entry in self._list(directory)
            if entry.mode & _KIND == _REGULAR and entry.size_bytes < less_than_bytes
        ]

    def fetch(self, path: str, to: Path, *, progress: Callable[[int], None] | None = None) -> int:
        """Copy a file out and return its size in bytes; to must not exist."""
        if to.exists():
            raise CannotRead(f"{to} exists already")
        self._debugfs(f"dump {_quoted(path)} {_quoted(str(to))}")
        if not to.exists():
            raise CannotRead(f"{path} cannot be read from the guest's disk")
        size = to.stat().st_size
        if progress is not None:
            progress(size)
        return size

    def _glob(self, pattern: PurePosixPath) -> Iterator[tuple[str, _Entry, _Entry]]:
        """Path, file and directory of what a pattern matches, part by part as a shell does."""
        top = _Entry("/", _DIRECTORY | 0o755, 0, 0, 2)
        found: list[tuple[str, _Entry]] = [("", top)]
        *directories, last = pattern.parts[1:]
        for part in directories:
            inside = [(path, entry) for path, _ in found for entry in self._list(path or "/")]
            if any(entry.mode & _KIND == _LINK and entry.name == part for _, entry in inside):
                raise CannotRead(f"{part} of {pattern} is a link, which is not followed on a guest's disk")
            found = [
                (f"{path}/{entry.name}", entry)
                for path, entry in inside
                if entry.mode & _KIND == _DIRECTORY and _matches(entry.name, part)
            ]
        for path, directory in found:
            for entry in self._list(path or "/"):
                if entry.mode & _KIND == _REGULAR and _matches(entry.name, last):
                    yield f"{path}/{entry.name}", entry, directory

    def _list(self, directory: str) -> list[_Entry]:
        if directory not in self._listed:
            listed = self._debugfs(f"ls -p {_quoted(directory)}")
            entries = (_ENTRY.fullmatch(line.strip()) for line in listed.splitlines())
            self._listed[directory] = [
                _Entry(found[5], int(found[2], 8), int(found[3]), int(found[6] or 0), int(found[1]))
                for found in entries
                if found is not None and found[5] not in (".", "..")
            ]
        return self._listed[directory]

    # ------------------------------------------------------------ the file system

    def _open(self, disk: Path) -> None:
        """Open the largest partition with a readable file system, its journal replayed."""
        for start, size in self._partitions(disk):
            with contextlib.ExitStack() as resources:
                self._show(resources, disk, start, size)
                if _is_ext(self.raw):
                    self._run("e2fsck", "-E", "journal_only", "-y", str(self.raw), good=(0, 1))  # 1: it was replayed
                    self._resources = resources.pop_all()
                    return
            self.raw.unlink(missing_ok=True)
        raise CannotRead("the guest's disk has no file system that can be read on this host (ext4 can)")

    def _show(self, resources: contextlib.ExitStack, disk: Path, start: int, size: int) -> None:
        """One partition alone as a file: the tools forget an offset on their way (e2fsck, after the journal)."""
        why = missing()
        if why is None:
            try:
                resources.enter_context(exported(disk, self.raw, start_bytes=start, size_bytes=size))
                return
            except CannotExport as error:
                why = str(error)
        if self._before_copy is not None:
            self._before_copy(why)
        place = f"driver=raw,offset={start},size={size},file.driver=qcow2,file.file.filename={_doubled(disk)}"
        self._run("qemu-img", "convert", "-U", "-O", "raw", "--image-opts", place, str(self.raw))

    def _partitions(self, disk: Path) -> list[tuple[int, int]]:
        """Where file systems may begin and how long they are, in bytes, the largest first."""
        size = int(json.loads(self._run("qemu-img", "info", "-U", "--output=json", str(disk)))["virtual-size"])
        head = str(self.raw)
        self._run("qemu-img", "dd", "-U", "-f", "qcow2", "-O", "raw", "bs=1M", "count=1", f"if={disk}", f"of={head}")
        os.truncate(head, size)  # the table says how long the disk is
        try:
            table = json.loads(self._run("sfdisk", "--json", head))["partitiontable"]
            sector = int(table.get("sectorsize", 512))
            parts = [(int(part["start"]) * sector, int(part["size"]) * sector) for part in table["partitions"]]
        except (CannotRead, ValueError, KeyError, TypeError):
            parts = [(0, size)]  # no table: perhaps a file system all over
        finally:
            self.raw.unlink()
        return sorted(parts, key=lambda part: -part[1])

    def _debugfs(self, request: str) -> str:
        return self._run("debugfs", "-R", request, str(self.raw))

    def _run(self, tool: str, *arguments: str, good: tuple[int, ...] = (0,)) -> str:
        """Return the output of a tool."""
        with subprocess.Popen(
            [_which(tool) or tool, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="surrogateescape",
        ) as process:
            try:
                waited_s, timeout_s = 0.0, TIMEOUT_S * self._stretch()
                while True:
                    try:
                        out, errors = process.communicate(timeout=0.5)
                        break
                    except subprocess.TimeoutExpired:
                        waited_s += 0.5
                        if self._tick is not None:
                            self._tick()
                        if waited_s > timeout_s:
                            raise CannotRead(f"{tool} has not ended within {timeout_s:.0f} s") from None
            finally:
                if process.poll() is None:
                    process.kill()
        if process.returncode not in good:
            lines = errors.strip().splitlines() or ["no message"]
            raise CannotRead(f"{tool} cannot read the guest's disk: {lines[-1]}")
        return out


def _which(tool: str) -> str | None:
    """Where a tool is; those of file systems lie where ordinary users do not look."""
    return shutil.which(tool) or shutil.which(tool, path="/usr/sbin:/sbin")


def _is_ext(raw: Path) -> bool:
    with raw.open("rb") as file:
        file.seek(_MAGIC_AT)
        found = file.read(2)
    return len(found) == 2 and struct.unpack("<H", found)[0] == _MAGIC


def _doubled(path: Path) -> str:
    """Return a path for QEMU's options, where a comma would begin the next one."""
    return str(path).replace(",", ",,")


def _matches(name: str, pattern: str) -> bool:
    """As a shell matches a part of a path: what begins with a dot must be asked for."""
    return fnmatch.fnmatchcase(name, pattern) and (pattern.startswith(".") or not name.startswith("."))


def _quoted(path: str) -> str:
    """Return a path as debugfs takes it, which has no way to put a quote into a name."""
    if '"' in path or "\n" in path:
        raise CannotRead(f"debugfs has no way to name {path!r}")
    return f'"{path}"'
