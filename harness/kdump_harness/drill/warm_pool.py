"""Guests that were booted once for many drills: each drill resumes a snapshot of its kind."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace

from ..base.verdict import Verdict
from ..kdump.trigger import find_trigger
from ..vm.run import Run
from .known_issues import DRILL
from .plan import RECOVERED, Plan
from .session import Session, open_session, run_drill

MOST_GUESTS = 3  # saved at a time; each takes as much disk as the guest had memory in use
# What drills of one kind may differ in.
_OF_A_DRILL = (
    "trigger", "name", "scenario", "before_crash", "on_trigger", "meanwhile", "on_dump", "until", "budget_s", "oracle",
    "crash", "shapes",
)  # fmt: skip


@dataclass
class _Saved:
    kind: Plan
    session: Session
    resources: contextlib.ExitStack


class WarmPool:
    """The saved guests of a run, the one used last at the end."""

    def __init__(self, run: Run, *, most: int = MOST_GUESTS) -> None:
        self._run, self._most = run, most
        self._saved: list[_Saved] = []

    def drill(self, plan: Plan) -> Verdict:
        """One drill, warm where that can be; a kind of guest that is new here is booted and saved first."""
        if not can_be_warm(plan):
            return run_drill(self._run, plan)
        plan.check()
        kind = kind_of(plan)
        found = next((one for one in self._saved if one.kind == kind), None)
        if found is None:
            while len(self._saved) >= self._most:
                self._saved.pop(0).resources.close()
            resources = contextlib.ExitStack()
            session = resources.enter_context(open_session(self._run, replace(kind, name=f"warm/{plan.subject.name}")))
            try:
                refused = session.save()
            except BaseException:
                resources.close()
                raise
            if refused is not None:
                resources.close()
                return refused
            found = _Saved(kind, session, resources)
        else:
            self._saved.remove(found)
        self._saved.append(found)
        changes = {name: getattr(plan, name) for name in _OF_A_DRILL}
        return found.session.drill(**changes, config=plan.config)

    def close(self) -> None:
        """Let all of them go."""
        while self._saved:
            self._saved.pop().resources.close()


def can_be_warm(plan: Plan) -> bool:
    """Whether a restored guest will do: not for what is about booting, nor with hardware that others hold or change."""
    about_booting = bool(find_trigger(plan.trigger, vcpus=plan.machine.vcpus).while_booting)
    if plan.fallback or plan.hotplug or plan.shapes.need_power_on:
        return False
    return not (plan.as_is or about_booting or plan.target_disk is not None or plan.config.reservation.none)


def kind_of(plan: Plan) -> Plan:
    """Return the part of a plan that drills of one guest share."""
    devices = {*plan.machine.devices, *find_trigger(plan.trigger, vcpus=plan.machine.vcpus).devices}
    config = plan.config
    if not plan.subject.family.config.in_initramfs:
        config = replace(config, level=None, compress=None)  # these are chosen in the running guest
    return replace(
        plan,
        machine=replace(plan.machine, devices=tuple(sorted(devices))),
        config=config,
        trigger="sysrq-c",
        name="",
        shapes=plan.shapes.hardware,
        scenario=DRILL,
        before_crash=None,
        on_trigger=None,
        meanwhile=None,
        on_dump=None,
        until=RECOVERED,
        budget_s=None,
        oracle=False,
        crash=None,
    )
