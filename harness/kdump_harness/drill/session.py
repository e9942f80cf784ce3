"""Sessions: one guest, drilled once or more."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..base.errors import HarnessError, NotArmed, UsageError
from ..base.evidence import Evidence
from ..base.verdict import Verdict
from ..fallback.erst import STORE_BYTES
from ..fallback.kinds import HYPERVISOR, PSTORE
from ..images.state import require_space
from ..kdump.hotplug_steps import room_for
from ..kdump.service import KdumpService
from ..kdump.target import LABEL, ON_DISK, ON_SERVER
from ..kdump.trigger import CannotTrigger, find_trigger
from ..vm.guest import Guest, SavedGuest
from ..vm.run import Run
from .disks import ArmedDisk, BaseDisk, armed_disk, base_disk, disk_armed_with
from .dump_server import open_dump_server
from .plan import EVIDENCE_NEED_MIB, OVERLAY_MIB, TARGET_DISK_MIB, Plan
from .shapes.prepare import DISK_SERIAL
from .steps import Drill


def run_drill(run: Run, plan: Plan) -> Verdict:
    """Drill a guest once, from its boot to the verdict."""
    with open_session(run, plan) as session:
        return session.drill()


def _no_report(_verdict: Verdict) -> None:
    return


def _no_look(_guest: Guest, _service: KdumpService) -> None:
    return


@contextlib.contextmanager
def open_session(run: Run, plan: Plan, *, on_verdict: Callable[[Verdict], None] = _no_report) -> Iterator[Session]:
    """Open a session: one guest for one drill or more. The guest is destroyed at the end of the block.

    on_verdict is called with each verdict. A guest whose disk cannot be armed gives a session that refuses each drill.
    """
    plan = replace(plan, machine=plan.shapes.machine(plan.machine))
    plan.check()
    machine = run.fit(plan.machine, needs=plan.subject.needs_cpu)
    devices = {*machine.devices, *find_trigger(plan.trigger, vcpus=machine.vcpus).devices}
    spare = room_for(plan.hotplug, machine.vcpus)
    plan = replace(plan, machine=replace(machine, devices=tuple(sorted(devices)), spare=spare))
    run.open_evidence()
    disk: ArmedDisk | BaseDisk
    if plan.clone is not None:
        disk = plan.clone.base
    elif plan.arm_with is not None:
        try:
            disk = disk_armed_with(run, plan.subject, plan.machine, plan.arm_with)
        except NotArmed as error:
            yield RefusedSession(run, plan, error, on_verdict)
            return
    elif plan.as_is:
        disk = base_disk(run, plan.subject, ())
    else:
        family = plan.subject.family
        more = (*family.targets[plan.target].packages, *plan.more_packages, *plan.shapes.packages(family))
        try:
            disk = armed_disk(run, plan.subject, plan.machine, plan.config, plan.packages, tuple(sorted(set(more))))
        except NotArmed as error:
            yield RefusedSession(run, plan, error, on_verdict)
            return
    need_mib = plan.machine.most_mib * (2 if plan.oracle else 1) + OVERLAY_MIB
    run.host.require_space(need_mib, f"the drill of {plan.subject.name}")
    kept_mib = EVIDENCE_NEED_MIB + (plan.machine.total_mib if HYPERVISOR in plan.fallback else 0)
    require_space(run.evidence_directory, kept_mib, "the evidence of a drill", option="--evidence")
    with contextlib.ExitStack() as resources:
        if plan.server is None and plan.target in ON_SERVER:
            plan = replace(plan, server=resources.enter_context(open_dump_server(run)).server)
        target_disk = plan.target_disk
        if target_disk is None and plan.target in ON_DISK:
            target_disk = run.blank_disk(TARGET_DISK_MIB, serial=LABEL)
        blank = [
            run.blank_disk(mib, serial=f"{DISK_SERIAL}{n}", paths=plan.shapes.paths)
            for n, mib in enumerate(plan.shapes.disks_mib)
        ]
        store = run.erst_store(STORE_BYTES) if PSTORE in plan.fallback else None
        evidence = run.evidence(plan.name or plan.subject.name)
        resources.callback(evidence.close)
        subject = plan.subject
        base_format = disk.format if isinstance(disk, BaseDisk) else "qcow2"
        guest = run.guest(
            disk.path if plan.clone is not None else run.overlay(disk.path, base_format=base_format),
            plan.machine,
            evidence,
            label=subject.name,
            user=subject.login,
            access=subject.access,
            ports=tuple(run.dump_network().port() for _ in range(1 + plan.shapes.cards))
            if plan.server is not None
            else (),
            disks=(*([target_disk] if target_disk is not None else []), *blank),
            identity=plan.clone.identity if plan.clone is not None else None,
            like=plan.clone.like if plan.clone is not None else None,
            erst=store,
        )
        with _pointing_to(evidence):
            yield GuestSession(run, plan, resources.enter_context(guest), evidence, disk, on_verdict, store)


@contextlib.contextmanager
def _pointing_to(evidence: Evidence) -> Iterator[None]:
    """Make each error of the block point to the evidence."""
    try:
        yield
    except HarnessError as error:
        evidence.event("broken", error=str(error))
        if error.see is None:
            error.see = evidence.directory
        raise


class Session(ABC):
    """A guest that can be drilled more than once."""

    def __init__(self, run: Run, plan: Plan, on_verdict: Callable[[Verdict], None]) -> None:
        self.run, self.plan, self._on_verdict = run, plan, on_verdict

    @property
    @abstractmethod
    def guest(self) -> Guest:
        """Return the guest; raise NotArmed where it could not be armed."""

    @property
    @abstractmethod
    def ready(self) -> bool:
        """Whether the session can drill once more."""

    @abstractmethod
    def drill(self, **changes: Any) -> Verdict:
        """Drill once by the session's plan with these changes.

        The target may be changed to one whose disk or server the session was opened with.
        """

    @abstractmethod
    def save(self, look: Callable[[Guest, KdumpService], None] = _no_look) -> Verdict | None:
        """Boot the guest, make its kdump ready, and save its memory: each later drill starts from this snapshot.

        look is called with the guest before. A guest that cannot be made ready gives the verdict with the reason.
        """


class RefusedSession(Session):
    """A session without a guest, since kdump could not be armed on its disk: each drill is judged without a crash."""

    def __init__(self, run: Run, plan: Plan, error: NotArmed, on_verdict: Callable[[Verdict], None]) -> None:
        super().__init__(run, plan, on_verdict)
        self._error = error

    @property
    def guest(self) -> Guest:
        """Raise the error that the disk could not be armed."""
        raise self._error

    @property
    def ready(self) -> bool:
        """Return true: the next drill gives its verdict at once."""
        return True

    def drill(self, **changes: Any) -> Verdict:
        """Return a separate verdict for each drill."""
        plan = replace(self.plan, **changes)
        with contextlib.closing(self.run.evidence(plan.name or plan.subject.name)) as evidence:
            drill = Drill(self.run, plan, evidence)
            drill.refuse(self._error)
        self._on_verdict(drill.verdict)
        return drill.verdict

    def save(self, _look: Callable[[Guest, KdumpService], None] = _no_look) -> Verdict | None:
        """Return the verdict on the guest that cannot be made ready."""
        return self.drill()


class GuestSession(Session):
    """A session with a running guest."""

    def __init__(
        self,
        run: Run,
        plan: Plan,
        guest: Guest,
        evidence: Evidence,
        disk: ArmedDisk | BaseDisk,
        on_verdict: Callable[[Verdict], None],
        store: Path | None = None,
    ) -> None:
        """STORE is the file of the guest's ACPI ERST device."""
        super().__init__(run, plan, on_verdict)
        self._store = store
        self._service = KdumpService(guest, plan.subject.family)
        self._evidence: Evidence | None = evidence  # of the first drill
        self._disk = disk
        self._last: Verdict | None = None
        self._saved: SavedGuest | None = None

    @property
    def guest(self) -> Guest:
        """Return the guest that was drilled last, or is drilled next."""
        return self._service.guest

    @property
    def ready(self) -> bool:
        """Whether the guest can be drilled once more: it was not drilled yet, was saved, or came back armed."""
        if self._last is None or self._saved is not None:
            return True
        if self.plan.hotplug:
            return False  # the steps are taken once
        passed = {check.name for check in self._last.checks if check.ok}
        return "rearmed" in passed and ("rebooted" in passed or "lives" in passed)

    def drill(self, **changes: Any) -> Verdict:
        """Drill once; the first drill boots the guest, unless it was saved."""
        plan = replace(self.plan, **changes)
        plan.check()
        needed = find_trigger(plan.trigger, vcpus=plan.machine.vcpus).devices
        if missing := set(needed) - set(plan.machine.devices):
            raise UsageError(f"the guest was started without {', '.join(missing)}, which {plan.trigger} needs")
        with contextlib.ExitStack() as resources:
            fresh, evidence = self._evidence is not None, self._open_evidence(plan, resources)
            drill = self._new_drill(plan, evidence)
            before, self._last = self._last, drill.verdict
            start = drill.boot if fresh else None
            if self._saved is not None:
                drill.verdict.warm, start = True, drill.resume
                self._service.guest = resources.enter_context(self.run.restored(self._saved, evidence))
                resources.enter_context(_pointing_to(evidence))
            try:
                verdict = drill.take(self.guest, self._service, start)
            except CannotTrigger:
                self._last = before  # nothing was done to the guest
                raise
        self._on_verdict(verdict)
        return verdict

    def save(self, look: Callable[[Guest, KdumpService], None] = _no_look) -> Verdict | None:
        """Make the guest ready and save its memory, or return the verdict with the reason why it cannot be ready."""
        need_mib = self.plan.machine.total_mib + EVIDENCE_NEED_MIB
        self.run.host.require_space(need_mib, f"the saved memory of {self.plan.subject.name}")
        with contextlib.ExitStack() as resources:
            drill = self._new_drill(self.plan, self._open_evidence(self.plan, resources))
            verdict = drill.get_ready(self.guest, self._service, look)
            if verdict is not None:
                self._last = verdict
                self._on_verdict(verdict)
                return verdict
            self._saved = self.run.save(self.guest)
        return None

    def _open_evidence(self, plan: Plan, resources: contextlib.ExitStack) -> Evidence:
        """Return the evidence of this drill: the session's evidence for the first one."""
        if self._evidence is not None:
            evidence, self._evidence = self._evidence, None
            return evidence
        evidence = self.run.evidence(plan.name or plan.subject.name)
        resources.callback(evidence.close)
        if self._saved is None:
            self.guest.switch_evidence(evidence)
        return evidence

    def _new_drill(self, plan: Plan, evidence: Evidence) -> Drill:
        drill = Drill(self.run, plan, evidence)
        drill.fallback.store = self._store
        if isinstance(self._disk, ArmedDisk):
            drill.verdict.disk = self._disk.base.source
            drill.verdict.remarks.extend(self._disk.remarks)
        else:
            drill.verdict.disk = self._disk.source
        if plan.clone is not None:
            drill.verdict.remarks.extend(plan.clone.remarks)
        return drill
