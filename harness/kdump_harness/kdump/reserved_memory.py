"""The memory that a running kernel holds for its capture kernel, by part, as the kernel reports it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..base.units import MIB

_ABOVE = 1 << 32
# Kernels since 6.19 moved the files below /sys/kernel/kexec; the old names are deprecated links.
# Only root is shown the addresses of /proc/iomem.
COMMANDS = {
    "iomem": "grep 'Crash kernel' /proc/iomem",
    # Not every kernel that knows ,cma has the file; all of them log the ranges.
    "crash_cma": "! grep -q ',cma' /proc/cmdline || cat /sys/kernel/kexec_crash_cma_ranges"
    " || cat /sys/kernel/kexec/crash_cma_ranges || dmesg | grep -E 'cma: Reserved|crashkernel CMA'",
}
_RANGE = re.compile(r"^\s*([0-9a-f]+)-([0-9a-f]+)(?: : Crash kernel)?\s*$", re.MULTILINE)
_CMA_LOGGED = re.compile(r"cma: Reserved (\d+) MiB at 0x([0-9a-f]+)")  # mm/cma.c
_CMA_COUNTED = re.compile(r"crashkernel CMA reserv.* in (\d+) ranges")  # kernel/crash_reserve.c


@dataclass(frozen=True, order=True)
class AddressRange:
    """Physical addresses from start up to, but not including, end."""

    start: int
    end: int

    @property
    def size_bytes(self) -> int:
        """The number of bytes."""
        return self.end - self.start

    def __str__(self) -> str:
        return f"{self.start:x}-{self.end - 1:x}"


@dataclass(frozen=True, kw_only=True)
class ReservedMemory:
    """The fixed parts and the CMA ranges; the capture kernel may use all of them, and dumps none of them."""

    fixed: tuple[AddressRange, ...] = ()
    size_bytes: int = 0  # in kexec_crash_size: the main part, since Linux 6.5 with the low one, never CMA
    cma: tuple[AddressRange, ...] = ()  # of crashkernel=...,cma: the crashed kernel's programs used it until the crash

    @property
    def high_bytes(self) -> int:
        """The fixed memory above 4 GiB."""
        return sum(part.size_bytes for part in self.fixed if part.start >= _ABOVE)

    @property
    def low_bytes(self) -> int:
        """The fixed memory below 4 GiB, which is all of it unless there is a high part."""
        return self.fixed_bytes - self.high_bytes

    @property
    def main_bytes(self) -> int:
        """The part that the capture kernel is loaded into: the high one, if there is one."""
        return self.high_bytes or self.low_bytes

    @property
    def fixed_bytes(self) -> int:
        """The memory that nothing but the capture kernel may use."""
        return sum(part.size_bytes for part in self.fixed)

    @property
    def cma_bytes(self) -> int:
        """The memory of all CMA ranges."""
        return sum(part.size_bytes for part in self.cma)

    @property
    def total_bytes(self) -> int:
        """The memory that the capture kernel may have as its RAM."""
        return self.fixed_bytes + self.cma_bytes

    def cma_frames(self, page_bytes: int) -> list[range]:
        """Return the page frames of the CMA ranges; the kernel leaves them out of /proc/vmcore."""
        return [range(part.start // page_bytes, part.end // page_bytes) for part in self.cma]

    def to_json(self) -> dict[str, Any]:
        """Return the record as a JSON object."""
        return {
            "high_mib": self.high_bytes // MIB,
            "low_mib": self.low_bytes // MIB,
            "cma_mib": self.cma_bytes // MIB,
            "fixed_ranges": [str(part) for part in self.fixed],
            "cma_ranges": [str(part) for part in self.cma],
        }


def in_words(parts: Mapping[str, Any]) -> str:
    """Return the parts of a record of to_json() as words."""
    high_mib, low_mib, cma_mib = (parts.get(name) or 0 for name in ("high_mib", "low_mib", "cma_mib"))
    said = [f"{high_mib} MiB above and"] if high_mib else []
    said += [f"{low_mib} MiB{' below 4 GiB' if high_mib else ''}"]
    return " ".join(said) + (f", and {cma_mib} MiB of CMA" if cma_mib else "")


def parse(iomem: str, crash_cma: str, crash_size: str) -> ReservedMemory:
    """Return the memory that the outputs of COMMANDS and of kexec_crash_size show.

    Without addresses, the size counts as one part below 4 GiB.
    """
    fixed, size_bytes = _ranges(iomem), int(crash_size) if crash_size.isdigit() else 0
    if not fixed and size_bytes:
        fixed = (AddressRange(0, size_bytes),)
    counted = _CMA_COUNTED.search(crash_cma)
    if counted is None:
        return ReservedMemory(fixed=fixed, size_bytes=size_bytes, cma=_ranges(crash_cma))
    # Other CMA ranges may be logged before; those of crashkernel= are the last ones before the line that counts them.
    logged = _CMA_LOGGED.findall(crash_cma[: counted.start()])
    own = logged[max(0, len(logged) - int(counted.group(1))) :]
    cma = tuple(AddressRange(int(at, 16), int(at, 16) + int(mib) * MIB) for mib, at in own)
    return ReservedMemory(fixed=fixed, size_bytes=size_bytes, cma=cma)


def ram_ranges(iomem: str) -> tuple[AddressRange, ...]:
    """Return the memory that lines of /proc/iomem name System RAM, also that of a virtio-mem device."""
    found = re.findall(r"^\s*([0-9a-f]+)-([0-9a-f]+) : System RAM\b", iomem, re.MULTILINE)
    return tuple(sorted(AddressRange(int(first, 16), int(last, 16) + 1) for first, last in found))


def _ranges(text: str) -> tuple[AddressRange, ...]:
    found = (AddressRange(int(first, 16), int(last, 16) + 1) for first, last in _RANGE.findall(text))
    return tuple(sorted(part for part in found if part.size_bytes > 1))
