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
from ...kdump.service import KdumpConfig, KdumpService
from ...vm.accel import KVM
from ...vm.guest import Guest
from ...vm.run import Machine, Run
from ..resume import asked_of

OTHER = "other"  # the compression that is not the family's
ROUNDS, MOST_ROUNDS = 2, 5
LIMIT_ROUNDS = 50
MAX_SLOWER, MAX_LARGER = 0.20, 0.10
# Where guests are emulated, all that the host does shows in their times. Of some twenty that are compared, one was 29 %
# longer on one side of a kernel with itself, in all pairs of three rounds. The history's noise is as wide.
MAX_SLOWER_EMULATED = 0.50


@dataclass(frozen=True, kw_only=True)
class ComparedDrill:
    """A row of comparisons.toml."""

    name: str
    default: bool = False
    level: int | None = None
    compress: str | None = None
    trigger: str = "sysrq-c"
    target: str = "local"
    tight: bool = False

    def compression(self, family: Family) -> str | None:
        """The compression that it means for a family."""
        if self.compress != OTHER:
            return self.compress
        others = [name for name in ("lzo", "zlib") if name in family.config.compressions]
        return next((name for name in others if name != family.compress), None)


@functools.cache
def load_scenarios() -> dict[str, ComparedDrill]:
    """All drills that can be compared, by name."""
    rows = tables.load_rows(tables.package_path("campaigns", "compare", "comparisons.toml"), "drill", ComparedDrill)
    return {row.name: row for row in rows}


def choose_scenarios(more: Sequence[str], only: Sequence[str]) -> tuple[ComparedDrill, ...]:
    """The usual ones and more, or only some; UsageError names what is none."""
    table = load_scenarios()
    for name in (*more, *only):
        if name not in table:
            raise UsageError(f"unknown scenario {name!r} (known: {', '.join(table)})")
    return tuple(row for row in table.values() if (row.name in only if only else row.default or row.name in more))


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two that are compared."""

    name: str  # as the user put it
    subject: SystemUnderTest
    prepare: Callable[[Guest, KdumpService], None] | None = None  # what is done to the running guest
    content: str = ""  # tells what is done with a file from what is done with another of its name


@dataclass(frozen=True, kw_only=True)
class ComparePlan:
    """One comparison, as it was asked for."""

    image: str
    thing: str
    sides: tuple[Side, Side]
    machine: Machine = field(default_factory=Machine)
    crashkernel: str | None = None
    scenarios: tuple[ComparedDrill, ...] = ()
    rounds: int = ROUNDS
    most_rounds: int = MOST_ROUNDS
    max_slower: float | None = None  # None is what the accelerator allows to tell
    max_larger: float = MAX_LARGER
    name: str = ""

    def check(self) -> None:
        """UsageError for anything that can be known wrong before a guest is started."""
        if not 1 <= self.rounds <= self.most_rounds <= LIMIT_ROUNDS:
            raise UsageError(f"{self.rounds} to {self.most_rounds} rounds make no sense (1 to {LIMIT_ROUNDS})")
        if not self.scenarios:
            raise UsageError("there is nothing to compare by")
        for side in self.sides:
            for scenario in self.scenarios:
                self.drill("", side, scenario).check()

    @property
    def evidence_name(self) -> str:
        """The name of its evidence directory."""
        return self.name or f"compare-{self.image}"

    def asked(self, run: Run) -> dict[str, str]:
        """What makes it this comparison and no other, by option; by what the result is judged may differ."""
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
            "--crashkernel": self.crashkernel or "",
            "--scenario and --only": ",".join(scenario.name for scenario in self.scenarios),
            "--rounds": str(self.rounds),
            "--most-rounds": str(self.most_rounds),
        }

    def drill(self, name: str, side: Side, scenario: ComparedDrill) -> Plan:
        """One of its drills."""
        family = side.subject.family
        return Plan(
            subject=side.subject,
            machine=self.machine,
            config=KdumpConfig(
                crashkernel=self.crashkernel, level=scenario.level, compress=scenario.compression(family)
            ),
            trigger=scenario.trigger,
            target=scenario.target,
            name=name,
            scenario=known_issues.DRILL,
        )


def usual_max_slower(accelerator: str) -> float:
    """How much slower is not yet worse, as a share."""
    return MAX_SLOWER if accelerator == KVM else MAX_SLOWER_EMULATED
