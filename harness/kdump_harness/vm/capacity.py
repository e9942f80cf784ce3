"""What a host has for guests, what a guest takes, and how busy the host is."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..base.errors import HostError

GUEST_MIB = 1024  # of a drill that says nothing else
# What QEMU takes beside the guest's memory: when emulating, its cache of translated code above all.
OVERHEAD_MIB = 384
SPARE_MIB = 1024  # for the host itself
KVM_GUESTS_PER_CORE = 2  # guests wait more than they compute; emulated ones compute all the time
# Waits are not stretched more, whatever the host's load is: by then it is ill, and not busy.
MOST_LOAD = 8.0
_PROC = Path("/proc")
_NAME = re.compile(r"^guest=([^,]+)")
_MEMORY = re.compile(r"^(?:size=)?(\d+)([kM]?)\b")


@dataclass(frozen=True, kw_only=True)
class RunningGuest:
    """A guest that runs on this host, whoever started it."""

    name: str
    memory_mib: int
    resident_mib: int

    @property
    def untouched_mib(self) -> int:
        """What it may still take of the memory that looks free."""
        return max(0, guest_mib(self.memory_mib) - self.resident_mib)


def guest_mib(memory_mib: int) -> int:
    """What a guest takes of the host's memory."""
    return memory_mib + OVERHEAD_MIB


def available_mib(proc: Path = _PROC) -> int:
    """Memory that could be used without swapping."""
    for line in (proc / "meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) // 1024
    raise HostError("/proc/meminfo does not say what memory is available")


def running_guests(prefix: str, proc: Path = _PROC) -> list[RunningGuest]:
    """The guests on this host whose names begin with prefix, of all runs and users.

    From the processes, not from libvirt: it would have to be asked at each of its addresses, and keeps whoever asks
    waiting while it saves or restores a guest.
    """
    found = []
    for path in proc.glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
            pages = int(path.with_name("statm").read_text(encoding="ascii").split()[1])
        except (OSError, ValueError, IndexError):
            continue  # it has ended meanwhile, or is the kernel's
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
    """The processors that we may use."""
    return len(os.sched_getaffinity(0))


def guests_by_cores(*, kvm: bool) -> int:
    """How many guests the processors are good for at once."""
    return cores() * (KVM_GUESTS_PER_CORE if kvm else 1)


def load(guests: int, *, kvm: bool) -> float:
    """How many times slower than alone on an idle host a guest is to be expected, from 1 to MOST_LOAD.

    By the guests that are known to run, since the host's average learns of them a minute late; and by that average,
    which also knows what is not ours.
    """
    host = os.getloadavg()[0] / (os.cpu_count() or 1)
    return min(MOST_LOAD, max(1.0, guests / guests_by_cores(kvm=kvm), host))


@dataclass(frozen=True, kw_only=True)
class Room:
    """What the guests of a run may take together."""

    memory_mib: int
    cores_guests: int  # by the processors
    disk_mib: int
    kvm: bool


def how_many(asked: int | None, needs_mib: list[int], disk_mib: int, room: Room) -> tuple[int, str]:
    """How many of the tasks may go side by side, and why no more.

    asked is what the user wants, in place of what the processors are good for; memory and disk are not negotiable.
    needs_mib is what each task takes of the host's memory, disk_mib what any of them takes of the disk.
    """
    wanted = room.cores_guests if asked is None else asked
    by_core = "two for each core, since under KVM they may overlap" if room.kvm else "one emulated guest for each core"
    reason = by_core if asked is None else "as asked"
    by_memory = sum(total <= room.memory_mib for total in _sums(sorted(needs_mib, reverse=True)))
    limits = [
        (len(needs_mib), "that is all there are"),
        (wanted, reason),
        (by_memory, f"{max(room.memory_mib, 0):,} MiB of memory are free for guests that take {max(needs_mib):,} each"),
        (room.disk_mib // disk_mib, f"{room.disk_mib:,} MiB of disk are free for drills that need {disk_mib:,} each"),
    ]
    number, why = min(limits, key=lambda limit: limit[0])
    instead = (
        f", not the {asked} that were asked for" if asked is not None and number < min(asked, len(needs_mib)) else ""
    )
    return max(1, number), f"{max(1, number)} at once{instead}: {why}"


def _sums(values: list[int]) -> Iterator[int]:
    total = 0
    for value in values:
        total += value
        yield total
