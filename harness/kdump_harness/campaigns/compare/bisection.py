"""Bisection: the first bad entry of an ordered list, in log2 steps, each of which is a real drill."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
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
    """One drill of a bisection."""

    number: int  # index in the list, from 0
    name: str
    verified: bool
    kernel: str | None
    makedumpfile: str | None
    reason: str
    evidence: str


@dataclass(kw_only=True)
class Bisection:
    """Result of a bisection."""

    image: str
    thing: str  # kind of the entries
    names: tuple[str, ...]
    accelerator: str = ""
    steps: list[Step] = field(default_factory=list)
    first_bad: int | None = None  # index in the list
    stopped_by: str | None = None  # reason for the lack of an answer
    took_s: float = 0.0
    evidence: str = ""

    @property
    def ok(self) -> bool:
        """Whether no entry is bad."""
        return self.first_bad is None and self.stopped_by is None

    def step(self, number: int | None) -> Step | None:
        """Return the drill of the entry NUMBER, if it was drilled."""
        return next((step for step in self.steps if step.number == number), None)

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON data."""
        summary = self.stopped_by or (
            "none is bad" if self.first_bad is None else f"the first bad one is {self.names[self.first_bad]}"
        )
        return {"schema": SCHEMA, "ok": self.ok, "summary": summary, "figures": {}, **asdict(self)}


def bisect(count: int, is_good: Callable[[int], bool]) -> int | None:
    """Return the index of the first bad entry of COUNT, or None if the last one is good.

    All entries before the first bad one must be good, and all after it bad. Raises ValueError if the first is bad:
    no entry of the list introduced the fault then.
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
    """Plan of a bisection; its list runs from the good end to the bad one."""

    image: str
    thing: str
    sides: tuple[Side, ...]
    machine: Machine = field(default_factory=Machine)
    config: KdumpConfig
    budget_s: float | None = None

    def check(self) -> None:
        """Raise UsageError for every error that is visible before a guest starts."""
        if len(self.sides) < 2:
            raise UsageError("nothing to bisect: give two or more sides, in their order")
        for side in self.sides:
            self.drill("", side).check()

    def drill(self, name: str, side: Side) -> Plan:
        """Return the plan of one drill."""
        return Plan(
            subject=side.subject,
            machine=self.machine,
            config=replace(self.config, append=side.append, capture_append=side.capture_append),
            budget_s=self.budget_s,
            name=name,
            before_crash=side.prepare,
        )

    def take(self, run: Run, name: str, side: Side) -> Verdict:
        """Drill one side."""
        return run_drill(run, self.drill(name, side))


def run_bisect(run: Run, plan: BisectPlan, *, on_verdict: Callable[[Verdict], None] = lambda _: None) -> Bisection:
    """Drill both ends, then the middle of the remaining range; a drill is good if it is verified."""
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
        verdict = plan.take(run, f"{name}/{number + 1}-{len(result.steps) + 1}", side)
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
