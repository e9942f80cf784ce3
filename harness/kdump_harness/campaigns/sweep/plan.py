"""Plan of a sweep: dump levels, compressions, and the choice of the cells that are real crashes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product

from ...base.crashkernel import Reservation
from ...base.errors import UsageError
from ...base.foreign import whole_number
from ...distro.family import COMPRESS_FLAGS, MAX_LEVEL
from ...drill import known_issues
from ...drill.disks import SystemUnderTest
from ...drill.plan import RECOVERED, SAVED, Plan
from ...drill.shapes.table import Shapes
from ...kdump.service import KdumpConfig
from ...vm.run import Machine, Run
from ..resume import asked_of

CAPTURE_LEVEL = 0
DEFAULT_LEVELS = (0, 1, 16, 31)
DEFAULT_COMPRESSIONS = ("none", "zlib", "lzo")
DEFAULT_REAL = 2  # the capture of everything, and one crash that checks the computed cells
# Ordered by the work of a slow guest: compressing with LZO costs less than writing and fetching the saved bytes.
CHEAPEST_FIRST = ("lzo", "snappy", "zstd", "zlib", "none")
MAX_CELLS = 160  # 32 levels, 5 compressions


def parse_levels(text: str) -> tuple[int, ...]:
    """Return dump levels as in 0,1,16,31, sorted and each once. Raises UsageError for an invalid level."""
    levels = set()
    for part in _parts(text, "levels", "0,1,16,31"):
        level = whole_number(part, most=MAX_LEVEL)
        if level is None:
            raise UsageError(f"dump level {part[:100]!r} does not exist (0 to {MAX_LEVEL}; makedumpfile(8), -d)")
        levels.add(level)
    return tuple(sorted(levels))


def parse_compressions(text: str) -> tuple[str, ...]:
    """Return compressions as in none,zlib,lzo, each once. Raises UsageError for an unknown one."""
    names = _parts(text, "compressions", "none,zlib,lzo")
    for name in names:
        if name not in COMPRESS_FLAGS:
            raise UsageError(f"unknown compression {name!r} (known: {', '.join(COMPRESS_FLAGS)})")
    return tuple(dict.fromkeys(names))


def parse_real(text: str) -> int | None:
    """Return a number of crashes, or None for "all"."""
    if text == "all":
        return None
    number = whole_number(text, most=MAX_CELLS)
    if not number:
        raise UsageError(f"invalid number of real crashes: got {text[:100]!r}, expected 1 to {MAX_CELLS}, or all")
    return number


def _parts(text: str, what: str, example: str) -> list[str]:
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise UsageError(f"{text!r} is not a list of {what} (as in {example})")
    return parts


@dataclass(frozen=True, kw_only=True)
class SweepPlan:
    """Plan of a sweep."""

    subject: SystemUnderTest
    levels: tuple[int, ...] = DEFAULT_LEVELS
    compressions: tuple[str, ...] = DEFAULT_COMPRESSIONS
    real: int | None = DEFAULT_REAL  # number of crashes; None: a crash for every cell
    machine: Machine = field(default_factory=Machine)
    shapes: Shapes = field(default_factory=Shapes)
    crashkernel: str | None = None
    append: str = ""  # to the command line of the first kernel
    capture_append: str = ""
    budget_s: float | None = None  # limit from panic to login, of each crash
    name: str = ""  # name of the evidence directory
    scenario: str = known_issues.DRILL

    def check(self) -> None:
        """Raise UsageError for every error that is visible before a guest starts."""
        if not self.levels or not self.compressions:
            raise UsageError("nothing to sweep: give at least one dump level and one compression")
        if self.real is not None and self.real < 1:
            raise UsageError(f"invalid number of real crashes: got {self.real}, expected 1 or more")
        if Reservation(self.crashkernel).none:
            raise UsageError("nothing to sweep: a guest without a reservation writes no dump (omit --crashkernel none)")
        # Compressions without a setting of the family are refused in the table, unless there is nothing else to sweep.
        settable = self.subject.family.config.compressions
        left = [name for name in self.compressions if name in settable or name not in COMPRESS_FLAGS]
        for level, compress in product(self.levels, left or self.compressions):
            self.drill("", level=level, compress=compress).check()

    @property
    def evidence_name(self) -> str:
        """Name of the evidence directory."""
        return self.name or f"sweep-{self.subject.name}"

    def asked(self, run: Run) -> dict[str, str]:
        """Return the options that a resumed run must share."""
        return {
            **asked_of(run, self.subject, self.machine),
            "--levels": ",".join(map(str, self.levels)),
            "--compress": ",".join(self.compressions),
            "--real": "all" if self.real is None else str(self.real),
            "--memory": str(self.machine.memory_mib),
            "--vcpus": str(self.machine.vcpus),
            "--shape": ",".join(self.shapes.names),
            "--crashkernel": self.crashkernel or "",
            "--append": self.append,
            "--capture-append": self.capture_append,
            "--budget": str(self.budget_s or ""),
        }

    def drill(self, name: str, *, level: int | None, compress: str | None) -> Plan:
        """Return the plan of one crash."""
        readable = self.subject.readable and not self.shapes.directory
        return Plan(
            subject=self.subject,
            machine=self.machine,
            config=KdumpConfig(
                crashkernel=self.crashkernel,
                level=level,
                compress=compress,
                append=self.append,
                capture_append=self.capture_append,
            ),
            budget_s=self.budget_s,
            # A cell does not judge the reboot, unless the plan has a budget for it.
            until=SAVED if readable and self.budget_s is None else RECOVERED,
            shapes=self.shapes,
            name=name,
            scenario=self.scenario,
        )


@dataclass(frozen=True, kw_only=True)
class Crashes:
    """Choice of the cells that are real crashes, in their order."""

    real: tuple[tuple[int, str], ...]
    computed: tuple[tuple[int, str], ...]


def choose_crashes(levels: Sequence[int], compressions: Sequence[str], *, real: int | None, favourite: str) -> Crashes:
    """Choose every cell for a real crash, or REAL cells that cover all levels and compressions, highest level first.

    With computed cells, the first crash dumps everything, even if its level was not requested.
    """
    cells = list(product(levels, compressions))
    if real is None or real >= len(cells):
        return Crashes(real=tuple(cells), computed=())
    chosen = [(CAPTURE_LEVEL, min(compressions, key=CHEAPEST_FIRST.index))]
    left = [cell for cell in cells if cell not in chosen]

    def worth(cell: tuple[int, str]) -> tuple[int, int, bool]:
        fresh = sum(cell[part] not in {other[part] for other in chosen} for part in (0, 1))
        return fresh, cell[0], cell[1] == favourite

    while len(chosen) < real and left:
        chosen.append(max(left, key=worth))
        left.remove(chosen[-1])
    return Crashes(real=tuple(chosen), computed=tuple(left))
