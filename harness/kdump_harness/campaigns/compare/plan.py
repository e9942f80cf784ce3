"""Plan of a comparison: the two sides, and the drills that both of them take."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ...base import tables
from ...base.errors import UsageError
from ...distro.family import Family
from ...drill import known_issues
from ...drill.disks import SystemUnderTest
from ...drill.plan import Plan
from ...drill.shapes.table import Shapes
from ...kdump.service import KdumpConfig, KdumpService
from ...vm.accel import KVM
from ...vm.guest import Guest
from ...vm.run import Machine, Run
from ..resume import asked_of

OTHER = "other"  # a compression other than the family's
ROUNDS, MOST_ROUNDS = 2, 5
LIMIT_ROUNDS = 50
MAX_SLOWER, MAX_LARGER = 0.20, 0.10
# The host's other work shows in the times of emulated guests. A kernel was compared with itself: of some twenty times,
# one was 29 % longer on one side, in all pairs of three rounds. The noise of the history is as wide.
MAX_SLOWER_EMULATED = 0.50


@dataclass(frozen=True, kw_only=True)
class ComparedDrill:
    """A drill that both sides take: a row of comparisons.toml."""

    name: str
    default: bool = False
    level: int | None = None
    compress: str | None = None
    trigger: str = "sysrq-c"
    target: str = "local"
    tight: bool = False

    def compression(self, family: Family) -> str | None:
        """Return the compression of the drill for a family."""
        if self.compress != OTHER:
            return self.compress
        others = [name for name in ("lzo", "zlib") if name in family.config.compressions]
        return next((name for name in others if name != family.compress), None)


@functools.cache
def load_scenarios() -> dict[str, ComparedDrill]:
    """Return all drills that can be compared, by name."""
    rows = tables.load_rows(tables.package_path("campaigns", "compare", "comparisons.toml"), "drill", ComparedDrill)
    return {row.name: row for row in rows}


def choose_scenarios(more: Sequence[str], only: Sequence[str]) -> tuple[ComparedDrill, ...]:
    """Return the default drills and MORE, or ONLY some. Raises UsageError for an unknown name."""
    table = load_scenarios()
    for name in (*more, *only):
        if name not in table:
            raise UsageError(f"unknown scenario {name!r} (known: {', '.join(table)})")
    return tuple(row for row in table.values() if (row.name in only if only else row.default or row.name in more))


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two sides of a comparison."""

    name: str  # as the user wrote it
    subject: SystemUnderTest
    prepare: Callable[[Guest, KdumpService], None] | None = None  # changes to the running guest
    append: str = ""  # to the command line of the first kernel
    capture_append: str = ""
    content: str = ""  # digest of the file, to distinguish two files of one name


@dataclass(frozen=True, kw_only=True)
class ComparePlan:
    """Plan of a comparison."""

    image: str
    thing: str
    sides: tuple[Side, Side]
    machine: Machine = field(default_factory=Machine)
    shapes: Shapes = field(default_factory=Shapes)
    crashkernel: str | None = None
    scenarios: tuple[ComparedDrill, ...] = ()
    rounds: int = ROUNDS
    most_rounds: int = MOST_ROUNDS
    max_slower: float | None = None  # None: the default of the accelerator
    max_larger: float = MAX_LARGER
    name: str = ""

    def check(self) -> None:
        """Raise UsageError for every error that is visible before a guest starts."""
        if not 1 <= self.rounds <= self.most_rounds <= LIMIT_ROUNDS:
            raise UsageError(f"invalid rounds: got {self.rounds} to {self.most_rounds}, expected 1 to {LIMIT_ROUNDS}")
        if not self.scenarios:
            raise UsageError("no drills to compare (choose some with --scenario or --only)")
        self.shapes.check_saved()
        for side in self.sides:
            for scenario in self.scenarios:
                self.drill("", side, scenario).check()

    @property
    def evidence_name(self) -> str:
        """Name of the evidence directory."""
        return self.name or f"compare-{self.image}"

    def asked(self, run: Run) -> dict[str, str]:
        """Return the options that a resumed run must share; the limits that judge the result may differ."""
        sides = {
            f"the {which} side": f"{side.name}{f' ({side.content})' if side.content else ''}: "
            + asked_of(run, side.subject, self.machine)["IMAGE"]
            for which, side in zip(("old", "new"), self.sides, strict=True)
        }
        return {
            **asked_of(run, self.sides[0].subject, self.machine),
            **sides,
            "what is compared": self.thing,
            "--memory": str(self.machine.memory_mib),
            "--vcpus": str(self.machine.vcpus),
            "--shape": ",".join(self.shapes.names),
            "--crashkernel": self.crashkernel or "",
            "--scenario and --only": ",".join(scenario.name for scenario in self.scenarios),
            "--rounds": str(self.rounds),
            "--most-rounds": str(self.most_rounds),
        }

    def drill(self, name: str, side: Side, scenario: ComparedDrill) -> Plan:
        """Return the plan of one drill."""
        family = side.subject.family
        return Plan(
            subject=side.subject,
            machine=self.machine,
            config=KdumpConfig(
                crashkernel=self.crashkernel,
                level=scenario.level,
                compress=scenario.compression(family),
                append=side.append,
                capture_append=side.capture_append,
            ),
            trigger=scenario.trigger,
            target=scenario.target,
            shapes=self.shapes,
            name=name,
            scenario=known_issues.DRILL,
        )


def usual_max_slower(accelerator: str) -> float:
    """Return the default allowance for longer times, as a share."""
    return MAX_SLOWER if accelerator == KVM else MAX_SLOWER_EMULATED
