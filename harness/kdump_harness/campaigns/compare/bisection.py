"""The first bad one of an ordered list, in log2 steps, each of which is a real drill."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from ...base.clock import now_s
from ...base.errors import UsageError
from ...base.verdict import Verdict
from ...drill.plan import Plan
from ...drill.session import run_drill
from ...kdump.service import KdumpConfig
from ...vm.run import Machine, Run
from .plan import Side

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Step:
    """One drill on the way."""

    number: int  # in the list, from 0
    name: str
    verified: bool
    kernel: str | None
    makedumpfile: str | None
    reason: str
    evidence: str


@dataclass(kw_only=True)
class Bisection:
    """Everything that a bisection found."""

    image: str
    thing: str  # what the list is of
    names: tuple[str, ...]
    accelerator: str = ""
    steps: list[Step] = field(default_factory=list)
    first_bad: int | None = None  # its place in the list
    stopped_by: str | None = None  # why there is no answer
    took_s: float = 0.0
    evidence: str = ""

    @property
    def ok(self) -> bool:
        """Whether none is bad."""
        return self.first_bad is None and self.stopped_by is None

    def step(self, number: int | None) -> Step | None:
        """The drill of one of the list, if there was one."""
        return next((step for step in self.steps if step.number == number), None)

    def to_json(self) -> dict[str, Any]:
        """The record as JSON takes it."""
        summary = self.stopped_by or (
            "none is bad" if self.first_bad is None else f"the first bad one is {self.names[self.first_bad]}"
        )
        return {"schema": SCHEMA, "ok": self.ok, "summary": summary, "figures": {}, **asdict(self)}


def bisect(count: int, is_good: Callable[[int], bool]) -> int | None:
    """The first that is not good of count, when all before it are and none after it; None when the last is good.

    Raises ValueError when the first is not good: nothing in the list is what broke it then.
    """
    if is_good(count - 1):
        return None
    if not is_good(0):
        raise ValueError("the first is bad already")
    good, bad = 0, count - 1
    while bad - good > 1:
        middle = (good + bad) // 2
        if is_good(middle):
            good = middle
        else:
            bad = middle
    return bad


@dataclass(frozen=True, kw_only=True)
class BisectPlan:
    """One bisection, as it was asked for; the list goes from the good end to the bad one."""

    image: str
    thing: str
    sides: tuple[Side, ...]
    machine: Machine = field(default_factory=Machine)
    config: KdumpConfig
    budget_s: float | None = None

    def check(self) -> None:
        """UsageError for anything that can be known wrong before a guest is started."""
        if len(self.sides) < 2:
            raise UsageError("a bisection needs two or more to choose from, in their order")
        for side in self.sides:
            self.drill("", side).check()

    def drill(self, name: str, side: Side) -> Plan:
        """One of its drills."""
        return Plan(
            subject=side.subject,
            machine=self.machine,
            config=self.config,
            budget_s=self.budget_s,
            name=name,
            before_crash=side.prepare,
        )


def run_bisect(run: Run, plan: BisectPlan, *, on_verdict: Callable[[Verdict], None] = lambda _: None) -> Bisection:
    """Drill both ends, then the middle of what is left; a drill is good when it is verified."""
    plan.check()
    run.open_evidence()
    started_s = now_s()
    evidence = run.evidence(f"bisect-{plan.image}")
    name = str(evidence.directory.relative_to(run.evidence_directory))
    result = Bisection(
        image=plan.image,
        thing=plan.thing,
        names=tuple(side.name for side in plan.sides),
        accelerator=run.accelerator,
        evidence=str(evidence.directory),
    )

    def is_good(number: int) -> bool:
        side = plan.sides[number]
        run.progress.say(f"step {len(result.steps) + 1}: {side.name}, {number + 1} of {len(plan.sides)}")
        verdict = run_drill(run, plan.drill(f"{name}/{number + 1}-{len(result.steps) + 1}", side))
        result.steps.append(
            Step(
                number=number,
                name=side.name,
                verified=verdict.verified,
                kernel=verdict.kernel,
                makedumpfile=verdict.makedumpfile,
                reason=verdict.reason(),
                evidence=verdict.evidence,
            )
        )
        run.progress.say(f"  {side.name}: {'good' if verdict.verified else f'bad: {verdict.reason()}'}")
        evidence.json("bisect.json", result.to_json())
        on_verdict(verdict)
        return verdict.verified

    try:
        result.first_bad = bisect(len(plan.sides), is_good)
    except ValueError as error:
        result.stopped_by = f"{error}, so what broke it is older: {result.steps[-1].reason}"
    finally:
        result.took_s = round(now_s() - started_s, 3)
        evidence.json("bisect.json", result.to_json())
        evidence.close()
    return result
