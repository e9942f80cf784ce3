"""Sizing by kernel drills: each trial boots its kernel with the reservation of the trial."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from ...base import crashkernel
from ...base.stage import Stage
from ...base.verdict import Verdict
from ...drill.checks import Scope, required
from ...drill.session import Session
from ...kernel.drill import run_kernel_drill
from ...kernel.plan import KernelPlan
from ...vm.run import Machine, Run
from .plan import SizePlan
from .result import DUMPED, TOO_SMALL, Size, Sizing
from .run import Sizer


@dataclass(frozen=True, kw_only=True)
class BareSizePlan(SizePlan):
    """Plan of a sizing by kernel drills."""

    kernel_plan: KernelPlan

    def kernel_drill(self, machine: Machine, reservation: str, name: str) -> KernelPlan:
        """Return the plan of a crash with this RESERVATION."""
        return dataclasses.replace(self.kernel_plan, machine=machine, crashkernel=reservation, name=name)

    def check(self) -> None:
        """Raise UsageError for every error that is visible before a guest starts."""
        super().check()
        for machine, _ in self.machines():
            self.kernel_drill(machine, self.start, "").drill_plan()


def run_bare_size(run: Run, plan: BareSizePlan, *, on_verdict: Callable[[Verdict], None] = lambda _: None) -> Size:
    """Search the smallest reservation of each machine, recommend and confirm; call on_verdict after each crash."""
    return BareSizer.start(run, plan, on_verdict)


class BareSizer(Sizer):
    """One sizing of a kernel."""

    plan: BareSizePlan
    needed: ClassVar[frozenset[str]] = required(Scope.RESERVATION) & required(Scope.KERNEL)

    def _search_below(self, sizing: Sizing, machine: Machine, reservation: str | None) -> int | None:
        directory = f"{self.name}/{machine.memory_mib}M-{machine.vcpus}cpu"
        sizing.largest_mib = crashkernel.reserved_mib(reservation or self.plan.start, machine.memory_mib)
        return self._search_from_largest(None, sizing, machine, directory, reservation)

    def _outcome(self, sizing: Sizing, verdict: Verdict) -> str:
        """Return the outcome; only the reservation differs from the trials that dumped.

        kexec of arm64 does not name missing memory, and a kernel with too little of it may panic for any reason.
        """
        outcome = super()._outcome(sizing, verdict)
        worked = any(trial.outcome == DUMPED for trial in sizing.trials)
        return TOO_SMALL if worked and verdict.reached < Stage.SAVED else outcome

    def _crash(self, _session: Session | None, sizing: Sizing, size_mib: int, name: str, _measuring: bool) -> Verdict:
        machine = dataclasses.replace(self.plan.machine, memory_mib=sizing.memory_mib, vcpus=sizing.vcpus)
        sizing.cold_boots += 1
        verdict = self._drill_cold(sizing, machine, self._with_main(f"{size_mib}M"), name)
        with self.lock:
            self.result.kernel, self.result.makedumpfile = verdict.kernel, verdict.makedumpfile
        return verdict

    def _drill_cold(self, _sizing: Sizing, machine: Machine, reservation: str, name: str) -> Verdict:
        return run_kernel_drill(self.run, self.plan.kernel_drill(machine, reservation, name))
