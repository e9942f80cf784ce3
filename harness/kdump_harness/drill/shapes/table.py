"""The tables of shapes, and the choice of some for one drill."""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest

from ...base import tables
from ...base.errors import TableError, UsageError
from ...configuration.own_tables import Merged, family_names, merged
from ...distro.family import Family
from ...kdump.capture_image.judge import TARGET
from ...kdump.target import ON_SERVER
from ...vm.hypervisor.buses import BUSES
from ...vm.hypervisor.domain_xml import FIRMWARE
from ...vm.run import Machine

PLAIN_DISK = "virtio"
MIN_DISK_MIB, MAX_DISK_MIB, MOST_DISKS = 64, 65536, 8
MOST_CARDS = 7
MOST_PATHS = 4
DUMPS = "/var/crash"
ANY = "any"  # family of a script for each family
CARD, PATH = "card", "path"  # what may be lost


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A row of *.toml in this folder; hardware.toml explains the keys."""

    name: str
    about: str
    part: str
    needs: str = ""
    disk: str = PLAIN_DISK
    firmware: str = ""
    la57: bool = False
    network: bool = False
    cards: int = 0
    server: str = ""
    lost: str = ""
    cut: str = ""
    disks_mib: tuple[int, ...] = ()
    paths: int = 1
    directory: str = ""
    reboot: bool = False
    rebuild: bool = False
    stale: bool = False
    packages: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    prepare: Mapping[str, str] = field(default_factory=dict)

    def script(self, family: Family) -> str:
        """Return the script for a guest of a family; empty without one."""
        return self.prepare.get(family.name) or self.prepare.get(ANY, "")


@dataclass(frozen=True)
class Shapes:
    """The shapes of one drill."""

    rows: tuple[Shape, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.rows)

    @property
    def names(self) -> list[str]:
        """The names, in the order of the tables."""
        return [row.name for row in self.rows]

    @property
    def disks_mib(self) -> tuple[int, ...]:
        """The sizes of the empty disks below the storage."""
        return tuple(map(max, zip_longest(*(row.disks_mib for row in self.rows), fillvalue=0)))

    @property
    def paths(self) -> int:
        """The number of paths to each of them."""
        return max((row.paths for row in self.rows), default=1)

    @property
    def cards(self) -> int:
        """The number of more network cards to the dump server."""
        return sum(row.cards for row in self.rows)

    @property
    def server(self) -> str:
        """The script for the dump server; empty where no shape needs one."""
        return "\n".join(row.server for row in self.rows if row.server)

    @property
    def cut(self) -> str:
        """The script for the dump server just before the crash; empty where no shape needs one."""
        return "\n".join(f"set -e\n{row.cut}" for row in self.rows if row.cut)

    @property
    def need_power_on(self) -> bool:
        """Whether a restored guest will not do: for disks with several paths, a reboot, or a server that is cut off."""
        return self.paths > 1 or self.reboot or bool(self.cut)

    @property
    def hardware(self) -> Shapes:
        """The guest before any script: drills with the same hardware share one saved guest.

        Storage of any kind begins with the same empty disks.
        """
        if not self:
            return self
        rows, machine = (*shipped_shapes(), *self.rows), self.machine(Machine())
        bare = Shape(
            name="hardware",
            about="",
            part="hardware",
            disk=machine.disk_bus,
            firmware=machine.firmware if any(row.firmware for row in self.rows) else "",
            la57=machine.la57,
            network=any(row.network for row in self.rows),
            cards=self.cards,
            server=self.server,
            disks_mib=Shapes(rows).disks_mib if self.disks_mib else (),
            packages=_all_packages(rows),
        )
        return Shapes((bare,))

    def loses(self, what: str) -> bool:
        """Whether this is lost just before the crash: CARD or PATH."""
        return any(row.lost == what for row in self.rows)

    @property
    def directory(self) -> str:
        """The mount point of the filesystem for dumps; empty where no shape makes one."""
        return next((row.directory for row in self.rows if row.directory), DUMPS) if self.disks_mib else ""

    @property
    def reboot(self) -> bool:
        """Whether the guest is booted again after the scripts."""
        return any(row.reboot for row in self.rows)

    def rebuilds(self, family: Family) -> bool:
        """Whether the capture initramfs is built anew: also for other storage, where it has to open the dump target.

        kdump of SUSE does not see that the filesystem below the directory of dumps is another one.
        """
        moves = any(row.rebuild for row in self.rows) or (self.disks_mib and family.initramfs_opens == TARGET)
        return bool(moves) and not any(row.stale for row in self.rows)

    def packages(self, family: Family) -> tuple[str, ...]:
        """Return the packages of all scripts of the harness and of these, so that one armed disk serves all shapes."""
        rows = (*shipped_shapes(), *self.rows) if self.rows else ()
        return tuple(sorted({name for row in rows for name in row.packages.get(family.name, ())}))

    def machine(self, machine: Machine) -> Machine:
        """Return the machine with its shape."""
        for row in self.rows:
            if row.disk != PLAIN_DISK:
                machine = replace(machine, disk_bus=row.disk)
            if row.firmware:
                machine = replace(machine, firmware=row.firmware)
            if row.la57:
                machine = replace(machine, la57=True)
        return machine

    def check_saved(self) -> None:
        """Raise UsageError for shapes that a saved guest cannot have."""
        if self.paths > 1:
            name = next(row.name for row in self.rows if row.paths > 1)
            raise UsageError(f"--shape {name} is for single drills: a saved guest cannot have disks with several paths")

    def check(self, family: Family, target: str) -> None:
        """Raise UsageError for shapes that exclude one another, or that the family's tools cannot make."""
        parts: dict[str, Shape] = {}
        for row in self.rows:
            other = parts.setdefault(row.part, row)
            if other is not row:
                raise UsageError(
                    f"--shape: {other.name} and {row.name} exclude one another: each is the guest's {row.part}"
                )
            if row.prepare and not row.script(family):
                able = ", ".join(sorted(row.prepare))
                raise UsageError(f"--shape {row.name} has no script for the family {family.name} (it has {able})")
            if row.disks_mib and target != "local":
                raise UsageError(
                    f"--shape {row.name} cannot go with --target {target}: it changes the directory of local dumps"
                )
            if row.network and target not in ON_SERVER:
                raise UsageError(f"--shape {row.name} needs a dump server: --target {' or '.join(ON_SERVER)}")
            if row.lost == PATH and self.paths == 1:
                raise UsageError(f"--shape {row.name} needs a shape that has more than one path, such as multipath")
            if row.needs and not any(one.part == row.needs for one in self.rows):
                such = next((one.name for one in load_shapes().values() if one.part == row.needs), "")
                raise UsageError(f"--shape {row.name} needs a shape that is the guest's {row.needs}, such as {such}")
            if row.stale and not any(one.disk != PLAIN_DISK or one.reboot for one in self.rows):
                raise UsageError(f"--shape {row.name} needs a shape that moves the system, such as sata")


def _all_packages(rows: Iterable[Shape]) -> Mapping[str, tuple[str, ...]]:
    families = {family for row in rows for family in row.packages}
    return {
        family: tuple(sorted({name for row in rows for name in row.packages.get(family, ())})) for family in families
    }


def load_shapes() -> Mapping[str, Shape]:
    """Return all shapes by name: those of the harness and of the user."""
    return _merged().rows


def find_shapes(names: Sequence[str]) -> Shapes:
    """Find shapes by name; UsageError names the known ones."""
    found = _merged()
    for name in names:
        found.check(name)
        if name not in found.rows:
            near = difflib.get_close_matches(name, found.rows, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UsageError(f"unknown shape {name!r} (known: {', '.join(found.rows)}{hint})")
    return Shapes(tuple(row for name, row in found.rows.items() if name in names))


def _merged() -> Merged[Shape]:
    return merged("shape", Shape, shipped_shapes(), _fault)


@functools.cache
def shipped_shapes() -> tuple[Shape, ...]:
    """Return the shapes of the harness."""
    rows: list[Shape] = []
    for path in sorted(tables.package_path("drill", "shapes").glob("*.toml")):
        for row in tables.load_rows(path, "shape", Shape):
            if fault := _fault(row):
                raise TableError(f"{path.name}: [[shape]] {row.name}: {fault}")
            rows.append(row)
    return tuple(rows)


def _fault(row: Shape) -> str | None:
    """Return the fault of a row, starting with the key; None for a valid row."""
    if not re.fullmatch(r"[a-z][a-z0-9-]*", row.name):
        return "name must be lower-case letters, digits and dashes"
    if row.disk not in BUSES:
        return f"disk must be one of {', '.join(BUSES)}, not {row.disk!r}"
    if row.firmware and row.firmware not in FIRMWARE:
        return f"firmware must be one of {', '.join(FIRMWARE)}, not {row.firmware!r}"
    if len(row.disks_mib) > MOST_DISKS or not all(MIN_DISK_MIB <= size <= MAX_DISK_MIB for size in row.disks_mib):
        return f"disks_mib must be at most {MOST_DISKS} sizes of {MIN_DISK_MIB} to {MAX_DISK_MIB} MiB"
    if not 0 <= row.cards <= MOST_CARDS:
        return f"cards must be 0 to {MOST_CARDS}"
    if row.lost not in ("", CARD, PATH):
        return f"lost must be {CARD} or {PATH}, not {row.lost!r}"
    if not 1 <= row.paths <= MOST_PATHS:
        return f"paths must be 1 to {MOST_PATHS}"
    if row.directory and (not row.directory.startswith("/") or not row.disks_mib):
        return "directory must be an absolute path, and needs disks_mib"
    for key, families, known in (
        ("packages", row.packages, family_names()), ("prepare", row.prepare, (*family_names(), ANY)),
    ):  # fmt: skip
        if unknown := sorted(set(families) - set(known)):
            return f"{key} must be for one of {', '.join(known)}, not {unknown[0]!r}"
    return None
