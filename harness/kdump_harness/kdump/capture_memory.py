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
# kexec_file_load hands over "elfcorehdr=0x...", kexec_load "elfcorehdr=...K".
CAPTURE_COMMAND_LINE = re.compile(r"[Cc]ommand line: .*\belfcorehdr=")
# mm/mm_init.c (mem_init_print_info), of the kernel that starts. More than the "available" memory becomes free later.
_AT_START = re.compile(r"Memory: \d+K/(\d+)K available \(.*?, (\d+)K reserved")
_MOST = 1 << 32  # KiB; what is larger was damaged on the line


@dataclass(frozen=True, kw_only=True)
class CaptureMemory:
    """The memory of one capture kernel, in KiB; None where it was not reported."""

    all_kib: int  # what the kernel found at its start
    taken_kib: int  # of it, by the kernel itself and the packed initramfs
    total_kib: int | None = None  # MemTotal of /proc/meminfo
    left_kib: int | None = None  # the least MemAvailable that was seen

    @property
    def used_kib(self) -> int | None:
        """Return the peak memory in use, including the kernel itself; None where it was not reported."""
        return self.all_kib - self.left_kib if self.left_kib is not None else None

    def to_json(self) -> dict[str, Any]:
        """The record as JSON takes it."""
        return {**vars(self), "used_kib": self.used_kib}


def prepare(guest: Guest, service: KdumpService) -> bool:
    """Make the next capture kernel report its memory; return whether the family supports that."""
    measure = service.family.measure
    for path, text in measure.files.items():
        guest.shell.run("mkdir -p %s", str(PurePosixPath(path).parent))
        guest.shell.write_text(path, text.lstrip())
    return bool(measure.files)


def read(console: str) -> CaptureMemory | None:
    """Return the memory that the first capture kernel on a console reported; None without a capture kernel."""
    began = CAPTURE_COMMAND_LINE.search(console)
    if began is None:
        return None
    rest = console[began.start() :]
    start = _AT_START.search(rest)
    if start is None:
        return None
    reports = [tuple(map(int, found.groups())) for found in _LEFT.finditer(rest)]
    reports = [(total, left) for total, left in reports if 0 < left <= total < _MOST]
    return CaptureMemory(
        all_kib=int(start.group(1)),
        taken_kib=int(start.group(2)),
        total_kib=max((total for total, _ in reports), default=None),
        left_kib=min((left for _, left in reports), default=None),
    )
