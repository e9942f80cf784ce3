"""How much memory a capture kernel had, and how little it had left at its worst moment, by its own account."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..vm.guest import Guest
    from .service import KdumpService

# Written by the program of the family's [measure] table to the capture kernel's log.
LEFT = re.compile(r"kdump-harness: capture memory: total (\d+) kB, left (\d+) kB")
# kexec_file_load hands over "elfcorehdr=0x...", kexec_load "elfcorehdr=...K"; arm64 and riscv64 have it in the device
# tree, whose line precedes the command line (drivers/of/fdt.c).
CAPTURE_KERNEL = re.compile(r"[Cc]ommand line: .*\belfcorehdr=|\bmemory at 0x[0-9a-f]{1,16} for elfcorehdr\b")
# mm/mm_init.c (mem_init_print_info), of the kernel that starts. More than the "available" memory becomes free later.
# Kernels of ppc64le count before any memory is free, and print 0K.
_AT_START = re.compile(r"Memory: [1-9]\d*K/(\d+)K available \(.*?, (\d+)K reserved")
_ARGUMENTS = re.compile(r"[Cc]ommand line: (.*)")
_PRINTED_MAX = 900  # printk cuts lines that are longer than about 1,000 characters
_MOST = 1 << 32  # KiB; what is larger was damaged on the line
# The lines by which a kernel reports its memory: all that it found at its start, and each range of it (mm/mm_init.c,
# arch/x86/kernel/e820.c). A map named "user" replaces the one of the BIOS.
_TOTAL = re.compile(r"Memory: [1-9]\d*K/(\d+)K available.*")
_RANGE = re.compile(r"(BIOS-e820|user): \[mem 0x([0-9a-f]{1,16})-0x([0-9a-f]{1,16})\]\s+(?:usable|System RAM)\b")
_MEMINFO = re.compile(r"\bMemTotal:? +(\d+) kB")  # of /proc/meminfo
_PAGES_RAM = re.compile(r"\b(\d+) pages RAM\b")
# Printed once before "Memory:", and again when memory is added to an empty zone (online_pages() in
# mm/memory_hotplug.c). It counts the pages before that.
_ZONES = re.compile(r"Built \d+ zonelists, .*")
_NEXT_KERNEL = re.compile(r"Linux version \d")


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
        """Return the record as a JSON object."""
        return {**vars(self), "used_kib": self.used_kib}


@dataclass(frozen=True, kw_only=True)
class MemoryClaim:
    """The memory that a capture kernel reported as its own."""

    kib: int  # the most in any line
    line: str
    added: str = ""  # the line about more memory, which does not name its size
    final: bool = False  # whether it has all memory that ACPI may have added: it is MemTotal, or ACPI may not


def capture_command_line(console: str) -> str | None:
    """Return the arguments of the first capture kernel on a console; None where they were cut or not printed."""
    if (found := CAPTURE_KERNEL.search(console)) is None:
        return None
    line = _ARGUMENTS.search(console, found.start())
    return line[1] if line is not None and len(line[1]) < _PRINTED_MAX else None


def read_claim(console: str, *, counts_other_memory: bool = False) -> MemoryClaim | None:
    """Return the memory that the first capture kernel on a console reported as its own; None if it reported none.

    A kernel that counts other memory as well, as reserved, reports its own in MemTotal only.
    """
    began = CAPTURE_KERNEL.search(console)
    if began is None:
        return None
    after = _NEXT_KERNEL.search(console, began.end())
    boot = console[began.start() : after.start() if after is not None else None]
    claims = [
        MemoryClaim(kib=int(found[1]), line=found.group())
        for pattern in ((LEFT, _MEMINFO) if counts_other_memory else (_TOTAL, LEFT, _MEMINFO))
        for found in pattern.finditer(boot)
    ]
    if not counts_other_memory:
        claims += [MemoryClaim(kib=int(found[1]) * 4, line=found.group()) for found in _PAGES_RAM.finditer(boot)]
    ranges: dict[str, int] = {}
    for name, first, last in _RANGE.findall(boot):
        ranges[name] = ranges.get(name, 0) + ((int(last, 16) + 1 - int(first, 16)) >> 10)
    if ranges:
        name = "user" if "user" in ranges else "BIOS-e820"
        claims.append(MemoryClaim(kib=ranges[name], line=f"the usable ranges of its map {name}"))
    most = max((claim for claim in claims if 0 < claim.kib < _MOST), key=lambda claim: claim.kib, default=None)
    start = _TOTAL.search(boot)
    added = _ZONES.search(boot, start.end()) if start is not None else None
    if most is None:
        return None
    final = "acpi_no_memhotplug" in boot.partition("\n")[0] or bool(LEFT.search(boot) or _MEMINFO.search(boot))
    return replace(most, added=added.group() if added is not None else "", final=final)


def prepare(guest: Guest, service: KdumpService) -> bool:
    """Make the next capture kernel report its memory; return whether the family supports that."""
    measure = service.family.measure
    for path, text in measure.files.items():
        guest.shell.run("mkdir -p %s", str(PurePosixPath(path).parent))
        guest.shell.write_text(path, text.lstrip())
    return bool(measure.files)


def read(console: str) -> CaptureMemory | None:
    """Return the memory that the first capture kernel on a console reported; None without a capture kernel."""
    began = CAPTURE_KERNEL.search(console)
    if began is None:
        return None
    rest = console[began.start() :]
    start = _AT_START.search(rest)
    if start is None:
        return None
    reports = [tuple(map(int, found.groups())) for found in LEFT.finditer(rest)]
    reports = [(total, left) for total, left in reports if 0 < left <= total < _MOST]
    return CaptureMemory(
        all_kib=int(start.group(1)),
        taken_kib=int(start.group(2)),
        total_kib=max((total for total, _ in reports), default=None),
        left_kib=min((left for _, left in reports), default=None),
    )
