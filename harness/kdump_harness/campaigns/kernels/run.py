"""The drills of a matrix of kernels, as many in parallel as the host carries."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping
from typing import Any

from ...base.clock import now_s
from ...base.errors import GuestError, UsageError
from ...base.verdict import Verdict
from ...distro.architecture import Architecture, find_architecture
from ...kernel.drill import run_kernel_drill
from ...kernel.layouts import find_layout
from ...kernel.plan import KernelPlan
from ...kernel.source import KernelFiles, find_kernel
from ...kernel.userland import Userland, UserlandRequest, make_userland
from ...vm.run import Machine, Run
from ..campaign import Campaign
from ..jobs import Job, Jobs
from .plan import KernelCell, KernelMatrix
from .result import NOT_JUDGED, KernelOutcome, Kernels, outcome_from_json


def run_kernels(run: Run, plan: KernelMatrix, *, on_verdict: Callable[[Verdict], None] = lambda _: None) -> Kernels:
    """Make the drills of a matrix; call on_verdict after each."""
    return _Kernels.start(run, plan, on_verdict)


class _Kernels(Campaign[KernelMatrix, Kernels]):
    """One matrix."""

    file = "kernels.json"
    restored = ("notes", "jobs")
    _downloads = threading.Lock()

    def _new_result(self) -> Kernels:
        return Kernels(cells=len(tuple(self.plan.cells())))

    def _read(self, record: Mapping[str, Any]) -> None:
        self.result.outcomes = [outcome_from_json(row) for row in record["outcomes"]]

    def _done(self) -> str:
        return f"{len(self.result.outcomes)} of {self.result.cells} drills"

    def _drill_all(self) -> None:
        done = {outcome.cell for outcome in self.result.outcomes}
        cells = [cell for cell in self.plan.cells() if cell not in done]
        at_once = self._at_once([cell.memory_mib for cell in cells], max(self.plan.memories_mib) * 2)
        tasks = [Job(label=cell.label, kind="drill", work=functools.partial(self._drill, cell)) for cell in cells]
        with Jobs(self.run, at_once, [task.kind for task in tasks]) as jobs:
            jobs.run(tasks)

    @property
    def _architecture(self) -> Architecture:
        return find_architecture(self.plan.arch)

    @functools.cache  # noqa: B019 - the campaign ends with the process
    def _kernel(self, name: str) -> KernelFiles:
        return find_kernel(name, self.run.state, self.progress, self._architecture)

    @functools.cache  # noqa: B019
    def _userland(self, makedumpfile: str) -> Userland:
        request = UserlandRequest(
            suite=self.plan.userland, instead={"makedumpfile": makedumpfile}, architecture=self._architecture
        )
        return make_userland(request, self.run.state, self.progress)

    def _drill(self, cell: KernelCell) -> None:
        """Make one drill; what keeps it from a verdict is its outcome."""
        began_s = now_s()
        try:
            with self._downloads:  # one job makes what the others need
                kernel, userland = self._kernel(cell.kernel), self._userland(cell.makedumpfile)
            verdict = run_kernel_drill(
                self.run,
                KernelPlan(
                    kernel=kernel,
                    userland=userland,
                    architecture=self._architecture,
                    machine=Machine(memory_mib=cell.memory_mib, vcpus=self.plan.vcpus),
                    crashkernel=self.plan.crashkernel or None,
                    level=cell.level,
                    compress=cell.compress,
                    trigger=self.plan.trigger,
                    layouts=(find_layout(cell.layout),) if cell.layout else (),
                    name=f"{self.name}/{cell.label.replace(' ', '_').replace('/', '-').replace(':', '-')}",
                ),
            )
            with self.lock:
                self.on_verdict(verdict)
            outcome = KernelOutcome.of(cell, verdict, now_s() - began_s)
        except (UsageError, GuestError) as error:
            took_s = round(now_s() - began_s, 1)
            outcome = KernelOutcome(cell=cell, status=NOT_JUDGED, reason=str(error.args[0]), took_s=took_s)
            if error.see is not None:
                outcome.evidence = str(error.see)
        with self.lock:
            self.result.outcomes.append(outcome)
            self._save()
        self.progress.say(f"{cell.label}: {outcome.status}{f' ({outcome.reason[:160]})' if outcome.reason else ''}")
