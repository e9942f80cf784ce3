"""Find out which files are parts of one split dump, and which are dumps of their own."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path

from .formats import kdump
from .formats.damage import Unreadable
from .formats.source import PlainFile
from .formats.vmcoreinfo import MAX_BYTES as VMCOREINFO_MAX_BYTES


def group_parts(paths: Sequence[Path | str]) -> list[list[Path | str]]:
    """Return the files of each dump, in the order in which the dumps are named.

    Files belong together where their headers call them parts, and where VMCOREINFO, with the time of the crash, is
    equal. Raise UsageError for a path that is not a readable regular file.
    """
    dumps: dict[Hashable, list[Path | str]] = {}
    for number, path in enumerate(paths):
        file = PlainFile(path)
        try:
            identity = _identity(file)
        finally:
            file.close()
        dumps.setdefault(number if identity is None else identity, []).append(path)
    return list(dumps.values())


def _identity(file: PlainFile) -> Hashable | None:
    """Return the dump that a file is a part of; None for a file that is not a part of a split dump."""
    if file.read(0, len(kdump.SIGNATURE)) != kdump.SIGNATURE:  # makedumpfile refuses --split with -F and with -E
        return None
    try:
        header = kdump.read_header(file)
        offset, size = header.vmcoreinfo or (0, 0)
        text = file.read(offset, min(size, VMCOREINFO_MAX_BYTES))
    except Unreadable:
        return None
    if not header.split:
        return None
    return (header.utsname, header.max_mapnr, header.block_size, text)
