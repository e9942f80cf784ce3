"""The host's room for guests, the needs of a guest, and the load of the host."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..base.errors import HostError

GUEST_MIB = 1024  # memory of a guest by default
# Memory of QEMU besides the guest's; under emulation, mostly its cache of translated code.
OVERHEAD_MIB = 384
SPARE_MIB = 1024  # for the host itself
KVM_GUESTS_PER_CORE = 2  # guests wait more than they compute; emulated guests compute all the time
# Upper limit of the factor for waits: a host with a higher load has another problem.
MOST_LOAD = 8.0
_PROC = Path("/proc")
_NAME = re.compile(r"^guest=([^,]+)")
_MEMORY = re.compile(r"^(?:.*\bmaxmem=|size=)?(\d+)([kM]?)\b")  # maxmem: with the DIMMs


@dataclass(frozen=True, kw_only=True)
class RunningGuest:
    """A running guest on this host, of any run and user."""

    name: str
    memory_mib: int
    resident_mib: int

    @property
    def untouched_mib(self) -> int:
        """The part of the free memory that the guest may still take."""
        return max(0, guest_mib(self.memory_mib) - self.resident_mib)


def guest_mib(memory_mib: int) -> int:
    """Return the host's memory that a guest takes."""
    return memory_mib + OVERHEAD_MIB


def available_mib(proc: Path = _PROC) -> int:
    """Return the memory that is available without swapping."""
    for line in (proc / "meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) // 1024
    raise HostError("cannot read the available memory: /proc/meminfo has no MemAvailable")


def running_guests(prefix: str, proc: Path = _PROC) -> list[RunningGuest]:
    """Return the guests on this host whose names start with PREFIX, of all runs and users.

    The list comes from /proc: libvirt would have to be asked at each of its URIs, and blocks its callers while it saves
    or restores a guest.
    """
    found = []
    for path in proc.glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
            pages = int(path.with_name("statm").read_text(encoding="ascii").split()[1])
        except (OSError, ValueError, IndexError):
            continue  # the process has ended, or is a kernel thread
        name, memory = _NAME.match(_after(words, "-name")), _MEMORY.match(_after(words, "-m"))
        if name is None or memory is None or not name.group(1).startswith(prefix):
            continue
        memory_mib = int(memory.group(1)) // (1024 if memory.group(2) == "k" else 1)
        resident_mib = pages * os.sysconf("SC_PAGE_SIZE") >> 20
        found.append(RunningGuest(name=name.group(1), memory_mib=memory_mib, resident_mib=resident_mib))
    return found


def _after(words: list[str], option: str) -> str:
    return next((value for name, value in itertools.pairwise(words) if name == option), "")


def cores() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0))


def guests_by_cores(*, kvm: bool) -> int:
    """Return how many guests the processors can run in parallel."""
    return cores() * (KVM_GUESTS_PER_CORE if kvm else 1)


def load(guests: int, *, kvm: bool) -> float:
    """Return the expected slow-down of a guest, compared to an idle host, from 1 to MOST_LOAD.

    It is based on the running guests, since the load average follows a minute late, and on the load average, which
    includes other programs.
    """
    host = os.getloadavg()[0] / (os.cpu_count() or 1)
    return min(MOST_LOAD, max(1.0, guests / guests_by_cores(kvm=kvm), host))


@dataclass(frozen=True, kw_only=True)
class Room:
    """The resources for all guests of a run."""

    memory_mib: int
    cores_guests: int  # limit by the processors
    disk_mib: int
    kvm: bool


def how_many(asked: int | None, needs_mib: list[int], disk_mib: int, room: Room) -> tuple[int, str]:
    """Return how many tasks may run in parallel, and a line with the reason for the limit.

    ASKED is the user's number in place of the limit by processors; the limits by memory and disk remain. NEEDS_MIB is
    the memory of each task on the host, DISK_MIB the disk space of any of them.
    """
    wanted = room.cores_guests if asked is None else asked
    by_core = "two guests per core under KVM" if room.kvm else "one emulated guest per core"
    reason = by_core if asked is None else "as requested"
    by_memory = sum(total <= room.memory_mib for total in _sums(sorted(needs_mib, reverse=True)))
    limits = [
        (len(needs_mib), "the number of tasks"),
        (wanted, reason),
        (by_memory, f"{max(room.memory_mib, 0):,} MiB of memory are free, a guest takes {max(needs_mib):,} MiB"),
        (room.disk_mib // disk_mib, f"{room.disk_mib:,} MiB of disk are free, a drill takes {disk_mib:,} MiB"),
    ]
    number, why = min(limits, key=lambda limit: limit[0])
    instead = f" instead of the requested {asked}" if asked is not None and number < min(asked, len(needs_mib)) else ""
    return max(1, number), f"{max(1, number)} at once{instead}: {why}"


def _sums(values: list[int]) -> Iterator[int]:
    total = 0
    for value in values:
        total += value
        yield total
