"""Search for the smallest reservation that dumps, by real crashes, and the recommended crashkernel= for it.

The guest of each machine boots once, and a snapshot is taken; each trial is restored from the snapshot, gives back a
part of the reservation (/sys/kernel/kexec_crash_size) and crashes. The first trial keeps the whole reservation and
measures the memory need of the capture kernel, from which the other trials start.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from ...base import crashkernel
from ...base.clock import now_s
from ...base.crashkernel import Reservation
from ...base.evidence import Evidence
from ...base.stage import Stage
from ...base.units import KIB_PER_MIB, MIB
from ...base.verdict import Verdict
from ...drill.checks import Scope, required
from ...drill.dump_server import MACHINE as COLLECTOR
from ...drill.plan import RECOVERED, SAVED, disk_need_mib
from ...drill.session import Session, open_session, run_drill
from ...kdump import capture_memory
from ...kdump.service import KdumpService
from ...kdump.target import ON_DISK, ON_SERVER
from ...vm import capacity
from ...vm.guest import Guest
from ...vm.run import Machine, Run
from ..campaign import Campaign
from ..jobs import Job, Jobs
from .plan import SizePlan
from .result import DUMPED, OTHER, TOO_SMALL, Size, Sizing, Trial, sizing_from_json
from .search import LEAST_MARGIN_MIB, MARGIN, ROUND_MIB, Search, recommend

# Symptoms that a larger reservation cures. All other symptoms have causes that no size would cure.
_OUT_OF_MEMORY = ("capture-oom", "luks-memory", "kexec-load-bad-segments")


def run_size(run: Run, plan: SizePlan, *, on_verdict: Callable[[Verdict], None] = lambda _: None) -> Size:
    """Search the smallest reservation of each machine, recommend and confirm; call on_verdict after each crash."""
    return Sizer.start(run, plan, on_verdict)


class Sizer(Campaign[SizePlan, Size]):
    """One sizing."""

    file = "size.json"
    restored = ("kernel", "makedumpfile", "release", "default", "notes", "jobs")
    needed: ClassVar[frozenset[str]] = required(Scope.RESERVATION)  # the checks of a good dump

    def __init__(self, run: Run, plan: SizePlan, evidence: Evidence, on_verdict: Callable[[Verdict], None]) -> None:
        super().__init__(run, plan, evidence, on_verdict)
        self.before: dict[str, list[Trial]] = {}  # trials of an interrupted run, by machine, until its search uses them

    def _new_result(self) -> Size:
        sizings = [
            Sizing(memory_mib=machine.memory_mib, vcpus=machine.vcpus, target=target)
            for machine, target in self.plan.machines()
        ]
        return Size(
            image=self.plan.subject.name,
            arch=self.plan.machine.architecture.machine,
            step_mib=self.plan.step_mib,
            sizings=sizings,
        )

    def _read(self, record: Mapping[str, Any]) -> None:
        self.result.sizings = [sizing_from_json(row) for row in record["sizings"]]
        self.before = {one.name: list(one.trials) for one in self.result.sizings if not one.finished}

    def _done(self) -> str:
        return f"{sum(len(one.trials) for one in self.result.sizings)} trials"

    def _drill_all(self) -> None:
        machines = [machine for machine, _ in self.plan.machines()]
        pairs = list(zip(self.result.sizings, machines, strict=True))
        searches = [self._task("search", self._find, *pair) for pair in pairs if not pair[0].finished]
        confirms = [
            self._task("confirm", self._confirm, *pair)
            for pair in pairs
            if self.plan.confirm and pair[0].confirmed is None
        ]
        at_once = self._at_once([self._needs_mib(*pair) for pair in pairs], disk_need_mib(max(self.plan.memories_mib)))
        with Jobs(self.run, at_once, [task.kind for task in (*searches, *confirms)]) as jobs:
            jobs.run(searches)
            self._recommend()
            if self.result.crashkernel is not None:
                jobs.run(confirms)

    def _finish(self) -> None:
        self._save()
        self.result.draw(self.evidence.directory / "size.svg")

    def _task(self, kind: str, work: Callable[[Sizing, Machine], None], sizing: Sizing, machine: Machine) -> Job:
        label = sizing.name if kind == "search" else f"{sizing.name}, confirming"
        return Job(label=label, kind=kind, work=partial(work, sizing, machine))

    def _needs_mib(self, sizing: Sizing, machine: Machine) -> int:
        """Return the memory of a machine's guest and of its dump server."""
        server_mib = capacity.guest_mib(COLLECTOR.memory_mib) if sizing.target in ON_SERVER else 0
        return machine.memory_mib + server_mib

    def _with_main(self, value: str) -> str:
        """Return the reservation of the plan with another value of its main part."""
        return Reservation(self.plan.start).with_main(value)

    # ------------------------------------------------------------ the search

    def _find(self, sizing: Sizing, machine: Machine) -> None:
        began_s = now_s() - sizing.took_s
        self._search(sizing, machine)
        sizing.took_s, sizing.finished = round(now_s() - began_s, 3), True
        self._save()

    def _search(self, sizing: Sizing, machine: Machine) -> None:
        """Try sizes until the edge is known, or a trial fails for another reason than a lack of memory."""
        reservation = sizing.reservation or self.plan.crashkernel
        while (larger := self._search_below(sizing, machine, reservation)) is not None:
            now, reservation = reservation or self.plan.start, self._with_main(f"{larger}M")
            self._note(f"{sizing.name}: {now} is too small for any dump; trying {reservation}")
            sizing.reservation = reservation

    def _search_below(self, sizing: Sizing, machine: Machine, reservation: str | None) -> int | None:
        """Search below a reservation; return a larger one to try if not even this one dumps."""
        directory = f"{self.name}/{machine.memory_mib}M-{machine.vcpus}cpu-{sizing.target}"
        plan = self.plan.drill(f"{directory}/boot", machine, sizing.target, reservation)
        sizing.largest_mib = None  # forget the previous reservation; this one may not even be armed
        with open_session(self.run, plan) as session:
            sizing.cold_boots += 1
            refused = session.save(lambda guest, service: self._look(sizing, guest, service))
            if refused is not None:
                trial = self._trial_of(sizing, refused, sizing.largest_mib or 0, took_s=0.0)
                return self._larger(sizing, machine, trial, reservation)
            return self._search_from_largest(session, sizing, machine, directory, reservation)

    def _search_from_largest(
        self, session: Session | None, sizing: Sizing, machine: Machine, directory: str, reservation: str | None
    ) -> int | None:
        """Try the whole reservation, then smaller ones; return a larger one to try if not even this one dumps."""
        assert sizing.largest_mib is not None
        before = self.before.pop(sizing.name, [])
        first = next((trial for trial in before if trial.reserved_mib == sizing.largest_mib), None)
        if first is None:
            first = self._try(session, sizing, sizing.largest_mib, directory, measuring=True)
        if first.outcome != DUMPED:
            return self._larger(sizing, machine, first, reservation)
        search = Search(
            largest=sizing.largest_mib,
            guess=self._guess(sizing),
            step=self.plan.step_mib,
            repeats=self.plan.repeats,
            most=self.plan.most_crashes,
        )
        search.note(sizing.largest_mib, True)
        for trial in before:
            if trial.reserved_mib < sizing.largest_mib and not self._takes(sizing, search, trial):
                return None
        self._try_until_known(session, sizing, search, directory)
        return None

    def _try_until_known(self, session: Session | None, sizing: Sizing, search: Search, directory: str) -> None:
        """Make the trials below the first one, and one trial of the distribution's default."""
        default = sizing.default_mib or 0
        while sizing.crashes < self.plan.most_crashes:
            size = search.next()
            if size is None and default not in sizing.tried() and 0 < default < (sizing.largest_mib or 0):
                size = default  # tried for its own sake; a failure above the edge moves the edge
            if size is None:
                break
            trial = self._try(session, sizing, size, directory)
            if not self._takes(sizing, search, trial):
                return
        sizing.smallest_mib = search.answer
        if search.answer is None:
            sizing.stopped_by = (
                f"not decided after {sizing.crashes} crashes: the edge lies above {search.bad or 0}M and at or below"
                f" {search.good or sizing.largest_mib}M"
            )

    def _takes(self, sizing: Sizing, search: Search, trial: Trial) -> bool:
        """Add a trial to the search; return whether the search can continue."""
        if trial.outcome == OTHER:
            size = trial.reserved_mib
            sizing.stopped_by = f"the trial at {size}M failed for another reason than its size: {trial.reason}"
            return False
        search.note(trial.reserved_mib, trial.outcome == DUMPED)
        return True

    def _look(self, sizing: Sizing, guest: Guest, service: KdumpService) -> None:
        """Read the guest's state before the snapshot is taken."""
        state = service.state()
        self._require_same(state, self.result.kernel, self.result.makedumpfile)
        reserved = state.reserved
        sizing.largest_mib, sizing.high = reserved.main_bytes // MIB, bool(reserved.high_bytes)
        sizing.low_mib = reserved.low_bytes // MIB if sizing.high else 0
        sizing.cma_mib = reserved.cma_bytes // MIB
        for remark in state.reservation_remarks(sizing.memory_mib):
            self._note(f"{sizing.name}: {remark}")
        sizing.estimate_mib = service.suggested_mib()
        with self.lock:
            self.result.kernel, self.result.makedumpfile = state.kernel, state.makedumpfile
            self.result.release = service.family.release
        # The default reserves one part, whose size cannot be compared with that of a part among others.
        if (packaged := service.family.bootloader.packaged) and not sizing.searched:
            self.result.default = packaged
            sizing.default_mib = crashkernel.reserved_mib(packaged, sizing.memory_mib)

    def _larger(self, sizing: Sizing, machine: Machine, trial: Trial, reservation: str | None) -> int | None:
        """Return the next larger reservation after a first trial without a dump, or None at the largest one."""
        now = sizing.largest_mib or crashkernel.reserved_mib(reservation or self.plan.start, machine.memory_mib) or 0
        larger = now * 2
        if trial.outcome == OTHER:
            sizing.stopped_by = f"kdump does not work with the whole reservation either: {trial.reason}"
        elif not now or larger + sizing.others_mib > machine.memory_mib // 2:
            sizing.stopped_by = f"even {now}M, the most that {machine.memory_mib} MiB allow, is too small"
        else:
            return larger
        return None

    def _guess(self, sizing: Sizing) -> int:
        """Guess the edge: from the measurement, else from the previous machine, else the middle."""
        largest = sizing.largest_mib or 0
        memory = sizing.measured
        if memory is not None and memory.left_kib is not None:
            sizing.predicted_mib = largest + sizing.others_mib - memory.left_kib // KIB_PER_MIB
            guess = sizing.predicted_mib - sizing.others_mib
            # Kernel and initramfs are loaded into the main part, however much CMA memory there is.
            return max(guess, memory.taken_kib // KIB_PER_MIB) if sizing.cma_mib else guess
        known_before = [one.smallest_mib for one in self.result.sizings if one.smallest_mib is not None]
        return known_before[-1] if known_before else largest // 2

    def _try(
        self, session: Session | None, sizing: Sizing, size_mib: int, directory: str, *, measuring: bool = False
    ) -> Trial:
        """Crash the guest once with SIZE_MIB reserved."""
        number = 1 + sum(trial.reserved_mib == size_mib for trial in sizing.trials)
        self.progress.say(f"{sizing.name}: trial {len(sizing.trials) + 1}, {size_mib}M")
        began_s = now_s()
        verdict = self._crash(session, sizing, size_mib, f"{directory}/{size_mib}M-{number}", measuring)
        if measuring:
            console = Path(verdict.evidence, "console.log").read_text(encoding="utf-8", errors="replace")
            sizing.measured = capture_memory.read(console)
        trial = self._trial_of(sizing, verdict, size_mib, took_s=now_s() - began_s)
        sizing.trials.append(trial)
        self.progress.say(f"{sizing.name}: {size_mib}M: {trial.outcome}")
        with self.lock:
            self._save()
            self.on_verdict(verdict)
        return trial

    def _crash(self, session: Session | None, sizing: Sizing, size_mib: int, name: str, measuring: bool) -> Verdict:
        """Crash the session's guest."""
        assert session is not None

        def before(guest: Guest, service: KdumpService) -> None:
            if measuring and not capture_memory.prepare(guest, service):
                self._note(f"the family {service.family.name} cannot measure the memory need of its capture kernel")
            if size_mib != sizing.largest_mib:
                service.shrink(size_mib)

        # A trial does not judge the reboot, which takes as long as the rest of the trial.
        readable = self.plan.subject.readable and sizing.target not in ON_DISK and not self.plan.shapes.directory
        until = SAVED if readable else RECOVERED
        return session.drill(name=name, before_crash=before, until=until)

    def _outcome(self, _sizing: Sizing, verdict: Verdict) -> str:
        return outcome_of(verdict, self.needed)

    def _trial_of(self, sizing: Sizing, verdict: Verdict, size_mib: int, *, took_s: float) -> Trial:
        return Trial(
            reserved_mib=size_mib,
            outcome=self._outcome(sizing, verdict),
            reason=verdict.reason(),
            crashed=verdict.reached >= Stage.CRASHED,
            took_s=round(took_s, 3),
            evidence=verdict.evidence,
        )

    # ------------------------------------------------------------ the recommendation

    def _recommend(self) -> None:
        """Recommend one crashkernel= value, with a margin, for all memory sizes that have an answer."""
        wanted: dict[int, int] = {}
        for one in self.result.sizings:
            if one.smallest_mib is not None:
                wanted[one.memory_mib] = max(wanted.get(one.memory_mib, 0), recommend(one.smallest_mib))
        if not wanted:
            return
        high = (crashkernel.main_word(Reservation(self.plan.start).words) or "").endswith(crashkernel.HIGH)
        # The kernel refuses ranges with a suffix, so a high part has one size for all machines.
        self.result.crashkernel = self._with_main(f"{max(wanted.values())}M" if high else crashkernel.ranges(wanted))
        self.result.margin = (
            f"{MARGIN:.0%} above the smallest that dumps, at least {LEAST_MARGIN_MIB} MiB, rounded up to"
            f" {ROUND_MIB} MiB: the need varies from boot to boot, and the next kernel's initramfs is larger"
        )
        for one in self.result.sizings:
            if one.smallest_mib is not None:
                one.recommended_mib = crashkernel.reserved_mib(self.result.crashkernel, one.memory_mib)

    def _confirm(self, sizing: Sizing, machine: Machine) -> None:
        """Drill a cold guest with the recommendation in its boot loader configuration."""
        if sizing.recommended_mib is None or self.result.crashkernel is None:
            return
        self.progress.say(f"{sizing.name}: confirming crashkernel={self.result.crashkernel}")
        name = f"{self.name}/{machine.memory_mib}M-{machine.vcpus}cpu-{sizing.target}/confirm"
        verdict = self._drill_cold(sizing, machine, self.result.crashkernel, name)
        self._require_same(verdict, self.result.kernel, self.result.makedumpfile)
        with self.lock:
            self.on_verdict(verdict)
        as_said = verdict.main_mib == sizing.recommended_mib
        sizing.confirmed = outcome_of(verdict, self.needed) == DUMPED and as_said
        reserved = f"{verdict.main_mib} MiB reserved" + ("" if as_said else f", not {sizing.recommended_mib}")
        what = verdict.reason()
        if sizing.confirmed and not verdict.verified:  # a failed check has nothing to do with memory
            issue = f" (known issue {verdict.known_issue})" if verdict.known_issue else ""
            what = f"a whole dump, though not verified: {', '.join(check.name for check in verdict.failed())}{issue}"
        sizing.confirmation = f"{reserved}, {what}"
        self._save()

    def _drill_cold(self, sizing: Sizing, machine: Machine, reservation: str, name: str) -> Verdict:
        """Drill a guest from its power-on."""
        return run_drill(self.run, self.plan.drill(name, machine, sizing.target, reservation))


def outcome_of(verdict: Verdict, needed: frozenset[str] = required(Scope.RESERVATION)) -> str:
    """Return whether a drill left a good dump, ran out of memory, or failed for a reason that no size would cure."""
    good = {check.name for check in verdict.checks if check.ok}
    if verdict.reached >= Stage.SAVED and good >= needed:
        return DUMPED
    causes = [symptom["name"] for symptom in verdict.symptoms if symptom["severity"] == "failure"]
    return TOO_SMALL if causes and causes[0] in _OUT_OF_MEMORY else OTHER
