"""How much memory a capture kernel had, and how little it had left at its worst moment, by its own account."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from ..vm.guest import Guest
from .service import KdumpService

# Written by the program of the family's [measure] table to the capture kernel's log.
_LEFT = re.compile(r"kdump-harness: capture memory: total (\d+) kB, left (\d+) kB")
_CAPTURE = re.compile(r"[Cc]ommand line: .*\belfcorehdr=")
# mm/mm_init.c (mem_init_print_info), of the kernel that starts. What it calls available is not all that is free yet.
_AT_START = re.compile(r"Memory: \d+K/(\d+)K available \(.*?, (\d+)K reserved")
_MOST = 1 << 32  # KiB; what is larger was damaged on the line


@dataclass(frozen=True, kw_only=True)
class CaptureMemory:
    """The memory of one capture kernel, in KiB; None where it was not told."""

    all_kib: int  # what the kernel found at its start
    taken_kib: int  # of it, by the kernel itself and the packed initramfs
    total_kib: int | None = None  # MemTotal of /proc/meminfo
    left_kib: int | None = None  # the least MemAvailable that was seen

    @property
    def used_kib(self) -> int | None:
        """What was in use at the worst moment, the kernel itself included."""
        return self.all_kib - self.left_kib if self.left_kib is not None else None

    def to_json(self) -> dict[str, Any]:
        """The record as JSON takes it."""
        return {**vars(self), "used_kib": self.used_kib}


def prepare(guest: Guest, stack: KdumpService) -> bool:
    """Make the next capture kernel of this guest tell its memory; whether the family has a way to."""
    measure = stack.family.measure
    for path, text in measure.files.items():
        guest.shell.run("mkdir -p %s", str(PurePosixPath(path).parent))
        guest.shell.write_text(path, text.lstrip())
    return bool(measure.files)


def read(console: str) -> CaptureMemory | None:
    """What the first capture kernel on a console told; None where there was none."""
    began = _CAPTURE.search(console)
    if began is None:
        return None
    rest = console[began.start() :]
    start = _AT_START.search(rest)
    if start is None:
        return None
    told = [tuple(map(int, found.groups())) for found in _LEFT.finditer(rest)]
    told = [(total, left) for total, left in told if 0 < left <= total < _MOST]
    return CaptureMemory(
        all_kib=int(start.group(1)),
        taken_kib=int(start.group(2)),
        total_kib=max((total for total, _ in told), default=None),
        left_kib=min((left for _, left in told), default=None),
    )
