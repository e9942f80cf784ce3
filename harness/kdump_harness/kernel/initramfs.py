"""Write an initramfs: a cpio archive in the format newc, uncompressed.

The format: Documentation/driver-api/early-userspace/buffer-format.rst of the kernel.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_END = "TRAILER!!!"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One file, directory or link of an archive; its path has no slash before it."""

    path: str
    content: bytes | Path = b""
    mode: int = stat.S_IFREG | 0o755


def directory(path: str) -> Entry:
    """Return the entry of a directory."""
    return Entry(path=path, mode=stat.S_IFDIR | 0o755)


def link(path: str, to: str) -> Entry:
    """Return the entry of a symbolic link."""
    return Entry(path=path, content=to.encode(), mode=stat.S_IFLNK | 0o777)


def with_parents(entries: Iterable[Entry]) -> list[Entry]:
    """Return the entries with the directories above them, each before its content."""
    found: dict[str, Entry] = {}
    for entry in entries:
        for parent in list(Path(entry.path).parents)[-2::-1]:
            found.setdefault(str(parent), directory(str(parent)))
        found[entry.path] = entry
    return list(found.values())


def write_archive(file: BinaryIO, entries: Iterable[Entry]) -> None:
    """Append an archive to a file; the kernel reads archives that follow each other as one."""
    number = 0
    for number, entry in enumerate(with_parents(entries), start=1):
        content = entry.content if isinstance(entry.content, bytes) else entry.content.read_bytes()
        _write(file, number, entry.path, entry.mode, content)
    _write(file, number + 1, _END, 0, b"")
    _pad(file, 512)


def _write(file: BinaryIO, number: int, path: str, mode: int, content: bytes) -> None:
    name = path.encode() + b"\0"
    fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name), 0)
    file.write(b"070701" + b"".join(b"%08X" % field for field in fields) + name)
    _pad(file, 4)
    file.write(content)
    _pad(file, 4)


def _pad(file: BinaryIO, to: int) -> None:
    file.write(b"\0" * (-file.tell() % to))
