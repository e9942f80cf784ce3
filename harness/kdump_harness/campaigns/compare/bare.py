"""Comparison and bisection by kernel drills: the sides are kernels without a distribution around them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ...base.errors import UsageError
from ...base.verdict import Verdict
from ...drill.disks import SystemUnderTest
from ...drill.session import Session
from ...kernel.drill import run_kernel_drill
from ...kernel.machine import INSTRUCTIONS
from ...kernel.plan import KernelPlan, userland_family
from ...vm.run import Run
from .bisection import BisectPlan
from .differences import COUNTED
from .plan import ComparedDrill, ComparePlan, Side
from .result import Comparison
from .run import Compare

MAX_SLOWER_COUNTED = 0.05  # of times that the load of the host does not change
SCENARIOS = ("smoke", "level-1", "other-compression")


@dataclass(frozen=True, kw_only=True)
class BareSide(Side):
    """A side that is a kernel drill."""

    kernel_plan: KernelPlan


def bare_side(name: str, kernel_plan: KernelPlan) -> BareSide:
    """Return the side of a kernel drill."""
    subject = SystemUnderTest(name=kernel_plan.kernel.name, family=userland_family())
    content = (
        f"{kernel_plan.kernel.release} {kernel_plan.userland.key} {kernel_plan.append} {kernel_plan.capture_append}"
    )
    return BareSide(name=name, subject=subject, content=content.strip(), kernel_plan=kernel_plan)


def check_bare(plan: ComparePlan) -> None:
    """Raise UsageError for every error that is visible before a kernel is found."""
    for scenario in plan.scenarios:
        if scenario.tight or scenario.target != "local":
            raise UsageError(f"the drill {scenario.name} needs a whole system, which --bare does not have")
    plan.check()
    for side in plan.sides:
        for scenario in plan.scenarios:
            assert isinstance(side, BareSide)
            _plan_of(side, scenario, "").drill_plan()


def run_bare_compare(
    run: Run, plan: ComparePlan, *, on_verdict: Callable[[Verdict], None] = lambda _: None
) -> Comparison:
    """Drill both kernels and compare them; call on_verdict after each drill."""
    check_bare(plan)
    return _BareCompare.start(run, plan, on_verdict)


class _BareCompare(Compare):
    """One comparison of kernels; each drill boots its kernel."""

    def _open(
        self, resources: contextlib.ExitStack, number: int, round_: int, scenarios: Sequence[ComparedDrill]
    ) -> Session | None:
        return None

    def _take(self, _session: Session | None, side: int, scenario: ComparedDrill, name: str) -> Verdict:
        chosen = self.plan.sides[side]
        assert isinstance(chosen, BareSide)
        return run_kernel_drill(self.run, _plan_of(chosen, scenario, name))

    def _times(self, verdict: Verdict) -> dict[str, float]:
        counted = {f"{COUNTED}{name}": span for name, span in verdict.processor_s.items()}
        return counted or super()._times(verdict)


def _plan_of(side: BareSide, scenario: ComparedDrill, name: str) -> KernelPlan:
    return replace(
        side.kernel_plan,
        level=scenario.level,
        compress=scenario.compression(side.subject.family),
        trigger=scenario.trigger,
        name=name,
    )


def usual_bare_max_slower(clock: str, usual: float) -> float:
    """Return the default allowance for longer times of kernel drills, as a share."""
    return MAX_SLOWER_COUNTED if clock == INSTRUCTIONS else usual


@dataclass(frozen=True, kw_only=True)
class BareBisectPlan(BisectPlan):
    """Plan of a bisection by kernel drills."""

    def take(self, run: Run, name: str, side: Any) -> Verdict:
        """Drill one kernel of the list."""
        assert isinstance(side, BareSide)
        return run_kernel_drill(run, replace(side.kernel_plan, name=name))
