"""Plan of a sizing: the machines, the dump targets and the limits of the search."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import product

from ...base import crashkernel
from ...base.crashkernel import Reservation
from ...base.errors import UsageError
from ...drill import known_issues
from ...drill.disks import SystemUnderTest
from ...drill.plan import Plan
from ...drill.shapes.table import Shapes
from ...kdump.service import KdumpConfig
from ...vm.run import Machine, Run
from ..resume import asked_of

STEP_MIB = 4
REPEATS = 3
MOST_CRASHES = 15
MAX_REPEATS, MAX_CRASHES, MAX_MACHINES = 20, 200, 32


@dataclass(frozen=True, kw_only=True)
class SizePlan:
    """Plan of a sizing."""

    subject: SystemUnderTest
    memories_mib: tuple[int, ...] = (1024,)
    vcpus: tuple[int, ...] = (2,)
    targets: tuple[str, ...] = ("local",)
    machine: Machine = field(default_factory=Machine)  # all other properties of the machines
    shapes: Shapes = field(default_factory=Shapes)
    crashkernel: str | None = None  # first reservation
    append: str = ""  # to the command line of the first kernel
    capture_append: str = ""
    level: int | None = None
    compress: str | None = None
    step_mib: int = STEP_MIB
    repeats: int = REPEATS
    most_crashes: int = MOST_CRASHES  # limit for each machine
    confirm: bool = True
    name: str = ""  # name of the evidence directory
    scenario: str = known_issues.DRILL

    def check(self) -> None:
        """Raise UsageError for every error that is visible before a guest starts."""
        for what, number, most in (
            ("MiB of a step", self.step_mib, 256),
            ("repeats", self.repeats, MAX_REPEATS),
            ("crashes", self.most_crashes, MAX_CRASHES),
        ):
            if not 1 <= number <= most:
                raise UsageError(f"invalid number of {what}: got {number}, expected 1 to {most}")
        if self.most_crashes <= 2 * self.repeats:
            raise UsageError(
                f"{self.most_crashes} crashes are too few to try both sides of the edge {self.repeats} times"
                f" (expected at least {2 * self.repeats + 1})"
            )
        if not self.memories_mib or not self.vcpus or not self.targets:
            raise UsageError("nothing to size: give at least one memory size, number of processors and target")
        if len(list(self.machines())) > MAX_MACHINES:
            raise UsageError(f"{len(list(self.machines()))} machines are too many (expected at most {MAX_MACHINES})")
        if self.crashkernel is not None and not Reservation(self.crashkernel).words:
            raise UsageError(
                f"--crashkernel {self.crashkernel} is not a size to begin the search with (expected a size as in 256M)"
            )
        self.shapes.check_saved()
        for machine, target in self.machines():
            Reservation(self.start).check(machine.memory_mib)
            self.drill("", machine, target, self.crashkernel).check()
            if not crashkernel.reserved_mib(self.start, machine.memory_mib):
                raise UsageError(
                    f"nothing to size: {crashkernel.nothing(Reservation(self.start).words, machine.memory_mib)}"
                )

    @property
    def start(self) -> str:
        """Reservation of the first trial."""
        return self.crashkernel or self.subject.family.crashkernel

    def machines(self) -> Iterator[tuple[Machine, str]]:
        """Yield each machine with each target, the small machines first."""
        for memory_mib, vcpus, target in product(sorted(self.memories_mib), self.vcpus, self.targets):
            yield replace(self.machine, memory_mib=memory_mib, vcpus=vcpus), target

    @property
    def evidence_name(self) -> str:
        """Name of the evidence directory."""
        return self.name or f"size-{self.subject.name}"

    def asked(self, run: Run) -> dict[str, str]:
        """Return the options that a resumed run must share."""
        return {
            **asked_of(run, self.subject, self.machine),
            "--memory": ",".join(map(str, self.memories_mib)),
            "--vcpus": ",".join(map(str, self.vcpus)),
            "--target": ",".join(self.targets),
            "--shape": ",".join(self.shapes.names),
            "--crashkernel": self.crashkernel or "",
            "--append": self.append,
            "--capture-append": self.capture_append,
            "--level": "" if self.level is None else str(self.level),
            "--compress": self.compress or "",
            "--step": str(self.step_mib),
            "--repeats": str(self.repeats),
            "--crashes": str(self.most_crashes),
            "--no-confirm": "" if self.confirm else "given",
        }

    def drill(self, name: str, machine: Machine, target: str, reservation: str | None) -> Plan:
        """Return the plan of a crash with this RESERVATION."""
        return Plan(
            subject=self.subject,
            machine=machine,
            config=KdumpConfig(
                crashkernel=reservation,
                level=self.level,
                compress=self.compress,
                append=self.append,
                capture_append=self.capture_append,
            ),
            target=target,
            shapes=self.shapes,
            name=name,
            scenario=self.scenario,
        )
