"""Measured points of the size model: what the capture kernels of kernel drills needed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ...base import tables
from ...base.tables import package_path
from ...base.verdict import Verdict
from ...kdump import capture_memory

POINTS = package_path("campaigns", "size", "points.toml")
# init/initramfs.c, after the archive was unpacked; mm/page_alloc.c, before the first program
_PACKED = re.compile(r"Freeing initrd memory: (\d{1,9})K")
_INIT = re.compile(r"Freeing unused [^:\n]{1,60} memory: (\d{1,9})K")


@dataclass(frozen=True, kw_only=True)
class Point:
    """One verified kernel drill, whose capture kernel reported its memory."""

    kernel: str
    memory_mib: int
    vcpus: int
    reserved_mib: int
    level: int
    initramfs_kib: int  # packed and unpacked, as it was not compressed
    need_kib: int  # the most that was in use at once by programs
    boot_kib: int  # in use when the initramfs was unpacked: it is there twice
    drivers: tuple[str, ...] = ()  # modules in addition to those of the disk

    @property
    def most_kib(self) -> int:
        """The most that was in use at once."""
        return max(self.need_kib, self.boot_kib)


def load_points(path: Path = POINTS) -> tuple[Point, ...]:
    """Return the points of a table. Raise TableError for one with errors."""
    return tables.load_rows(path, "point", Point)


def point_of(verdict: Verdict, console: str, *, drivers: tuple[str, ...] = ()) -> Point | None:
    """Return the point of a kernel drill; None if it was not verified, or reported no memory."""
    memory, packed = capture_memory.read(console), _PACKED.findall(console)
    if not verdict.verified or memory is None or memory.used_kib is None or len(packed) < 2:  # of both kernels
        return None
    began = capture_memory.CAPTURE_KERNEL.search(console)
    first = capture_memory.LEFT.search(console)
    assert began is not None
    assert first is not None
    initramfs_kib, init_kib = int(packed[-1]), sum(map(int, _INIT.findall(console, began.end())))
    return Point(
        kernel=verdict.kernel or "",
        memory_mib=verdict.memory_mib,
        vcpus=verdict.vcpus,
        reserved_mib=verdict.main_mib or 0,
        level=verdict.level or 0,
        initramfs_kib=initramfs_kib,
        need_kib=memory.used_kib,
        boot_kib=memory.all_kib - int(first[2]) + initramfs_kib + init_kib,
        drivers=drivers,
    )


def to_toml(point: Point) -> str:
    """Return a point as a row of the table."""
    drivers = ", ".join(f'"{name}"' for name in point.drivers)
    rows = {name: str(value) for name, value in vars(point).items() if isinstance(value, int)}
    rows |= {"kernel": f'"{point.kernel}"', "drivers": f"[{drivers}]"}
    return "\n".join(["[[point]]", *(f"{name} = {value}" for name, value in rows.items()), ""])
