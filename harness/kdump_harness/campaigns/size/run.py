"""The smallest reservation that really dumps, by real crashes, and the crashkernel= to recommend for it.

For each machine a guest is booted once and its memory saved; each trial goes on from there, gives back a part of the
reservation (/sys/kernel/kexec_crash_size) and crashes. The first trial has the whole reservation and measures what the
capture kernel needs, from which the others begin.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from ...base import plot
from ...base.clock import now_s
from ...base.errors import UsageError
from ...base.evidence import Evidence
from ...base.stage import Stage
from ...base.verdict import Verdict
from ...distro import crashkernel
from ...drill import known_issues
from ...drill.disks import SystemUnderTest
from ...drill.dump_server import MACHINE as COLLECTOR
from ...drill.plan import RECOVERED, SAVED, Plan, disk_need_mib
from ...drill.session import Session, open_session, run_drill
from ...kdump import capture_memory
from ...kdump.capture_memory import CaptureMemory
from ...kdump.service import KdumpConfig, KdumpService
from ...kdump.target import ON_DISK, ON_SERVER
from ...vm import capacity
from ...vm.guest import Guest
from ...vm.run import Machine, Run
from ..jobs import Job, Jobs
from ..resume import asked_of, record_of, same_guest, taken_up
from .search import Search

SCHEMA = 1
KIB_OF_MIB = 1024
STEP_MIB = 4
REPEATS = 3
MOST_CRASHES = 15
MAX_REPEATS, MAX_CRASHES, MAX_MACHINES = 20, 200, 32
# What the capture kernel needs differs from boot to boot by some MiB, and grows with the initramfs and the drivers that
# a kernel update brings: a quarter covers that of one Debian release to the next (100 MiB in 12, 116 MiB in 13).
MARGIN, LEAST_MARGIN_MIB, ROUND_MIB = 0.25, 32, 16
WASTEFUL = 1.5  # times what is recommended
TIGHT = 1.1  # times the smallest

DUMPED, TOO_SMALL, OTHER = "dumped", "too small", "something else"
# The symptoms that a larger reservation cures. Everything else has causes that no size would mend.
_OUT_OF_MEMORY = ("capture-oom", "kexec-load-bad-segments")
# What a dump must be for its reservation to be enough: whole and of this crash. How it was filtered, who may read it
# and whether the guest came back in time have nothing to do with memory.
_OF_THE_DUMP = frozenset(
    ["single-dump", "final-name", "format", "complete", "kernel", "crash-time", "nonce", "panic-text"]
)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One crash, or one refusal to load the capture kernel."""

    reserved_mib: int
    outcome: str  # DUMPED, TOO_SMALL or OTHER
    reason: str
    crashed: bool
    took_s: float
    evidence: str


@dataclass(kw_only=True)
class Sizing:
    """What was found for one machine and target."""

    memory_mib: int
    vcpus: int
    target: str
    largest_mib: int | None = None  # the reservation that it began with
    trials: list[Trial] = field(default_factory=list)
    smallest_mib: int | None = None
    measured: CaptureMemory | None = None  # of the capture kernel that had the whole reservation
    predicted_mib: int | None = None  # from what was measured
    default_mib: int | None = None  # the distribution's
    estimate_mib: int | None = None  # of the distribution's own tool
    recommended_mib: int | None = None
    stopped_by: str | None = None  # why there is no answer
    cold_boots: int = 0
    confirmed: bool | None = None  # by a cold drill of the recommendation; None when that was not tried
    confirmation: str = ""  # what came of it
    took_s: float = 0.0
    reservation: str | None = None  # that it began with the last time; None: the family's
    finished: bool = False  # the search

    @property
    def name(self) -> str:
        """The machine and the target."""
        return f"{self.memory_mib} MiB, {self.vcpus} CPU{'s' if self.vcpus != 1 else ''}, {self.target}"

    @property
    def crashes(self) -> int:
        """How many trials were crashes."""
        return sum(trial.crashed for trial in self.trials)

    def tried(self) -> dict[int, list[bool]]:
        """Whether each trial dumped, by size."""
        found: dict[int, list[bool]] = {}
        for trial in sorted(self.trials, key=lambda trial: trial.reserved_mib):
            found.setdefault(trial.reserved_mib, []).append(trial.outcome == DUMPED)
        return found

    def proof(self) -> str:
        """The trials on both sides of the edge, as in "dumped 3 of 3 at 132M, 0 of 3 at 128M"."""
        tried = self.tried()
        if self.smallest_mib is None:
            return ", ".join(_count(size, worked) for size, worked in tried.items()) or "nothing was tried"
        below = max((size for size in tried if size < self.smallest_mib), default=None)
        parts = [f"dumped {_count(self.smallest_mib, tried[self.smallest_mib])}"]
        if below is not None:
            parts.append(_count(below, tried[below]))
        return ", ".join(parts)

    def default_verdict(self) -> str:
        """What is to be said of the distribution's default."""
        default, smallest, wanted = self.default_mib, self.smallest_mib, self.recommended_mib
        if smallest is None or wanted is None:
            return "not judged"
        if default is None:
            return "not known"
        if default == 0:
            return "none: nothing is reserved on such a machine"
        tried = self.tried().get(default, [])
        seen = f" (dumped {_count(default, tried)})" if tried else ""
        if default < smallest:
            return f"too small{seen}"
        if default < smallest * TIGHT:
            return f"tight: {default - smallest} MiB above the smallest that dumps{seen}"
        if default > wanted * WASTEFUL:
            return f"wasteful: {default - wanted} MiB more than recommended{seen}"
        return f"enough: {default - smallest} MiB above the smallest that dumps{seen}"


def _count(size: int, worked: list[bool]) -> str:
    return f"{sum(worked)} of {len(worked)} at {size}M"


@dataclass(kw_only=True)
class Size:
    """Everything that was found for an image."""

    image: str
    accelerator: str = ""
    kernel: str | None = None
    makedumpfile: str | None = None
    release: str | None = None
    step_mib: int = STEP_MIB
    sizings: list[Sizing] = field(default_factory=list)
    crashkernel: str | None = None  # the whole recommendation
    default: str | None = None  # the distribution's own parameter
    margin: str = ""  # how it was chosen
    notes: list[str] = field(default_factory=list)
    took_s: float = 0.0
    evidence: str = ""
    jobs: int = 1  # at once, at most; it shows in the times
    asked: dict[str, str] = field(default_factory=dict)  # by option, for who goes on with it

    @property
    def ok(self) -> bool:
        """Whether there is an answer for each machine, and none of them was refuted."""
        return bool(self.sizings) and all(
            one.smallest_mib is not None and one.confirmed is not False for one in self.sizings
        )

    def failures(self) -> list[str]:
        """What has no answer, or a refuted one."""
        found = [
            f"{one.name}: {one.stopped_by or 'it was not finished'}" for one in self.sizings if one.smallest_mib is None
        ]
        return found + [f"{one.name}: {one.confirmation}" for one in self.sizings if one.confirmed is False]

    def explain(self) -> str:
        """What came of it, for an assertion's message."""
        proofs = [f"{one.name}: {one.proof()}" for one in self.sizings]
        return "\n  ".join([f"{self.image}: {self.crashkernel}", *proofs, *self.failures(), self.evidence])

    def to_json(self) -> dict[str, Any]:
        """The record as JSON takes it."""
        record = asdict(self)
        for row, one in zip(record["sizings"], self.sizings, strict=True):
            row["measured"] = one.measured.to_json() if one.measured is not None else None
            row["proof"], row["default_verdict"], row["crashes"] = one.proof(), one.default_verdict(), one.crashes
        return {"schema": SCHEMA, "ok": self.ok, **record}

    def draw(self, path: Path) -> None:
        """The plot of the reservations; none where there is nothing to draw."""
        lines: dict[str, list[tuple[float, float]]] = {}
        for one in sorted(self.sizings, key=lambda one: one.memory_mib):
            for name, mib in (
                ("recommended", one.recommended_mib),
                ("smallest that dumps", one.smallest_mib),
                ("distribution's default", one.default_mib),
                ("distribution's estimate", one.estimate_mib),
            ):
                if mib is not None:
                    lines.setdefault(name, []).append((one.memory_mib, mib))
        if "smallest that dumps" not in lines:
            return
        failed = [
            (one.memory_mib, size) for one in self.sizings for size, worked in one.tried().items() if not all(worked)
        ]
        facts = [f"Linux {self.kernel}" if self.kernel else "", self.crashkernel or ""]
        plot.draw_reservations(
            path,
            lines,
            failed,
            title=f"{self.image}: memory to reserve for the capture kernel",
            subtitle=", ".join(fact for fact in facts if fact),
        )


def sizing_from_json(row: Mapping[str, Any]) -> Sizing:
    """What a record has of one machine."""
    parts = {one.name: row[one.name] for one in fields(Sizing)}
    parts["trials"] = [Trial(**trial) for trial in row["trials"]]
    if (measured := row["measured"]) is not None:
        parts["measured"] = CaptureMemory(**{one.name: measured[one.name] for one in fields(CaptureMemory)})
    return Sizing(**parts)


@dataclass(frozen=True, kw_only=True)
class SizePlan:
    """One sizing, as it was asked for."""

    subject: SystemUnderTest
    memories_mib: tuple[int, ...] = (1024,)
    vcpus: tuple[int, ...] = (2,)
    targets: tuple[str, ...] = ("local",)
    machine: Machine = field(default_factory=Machine)  # everything else of the machines
    crashkernel: str | None = None  # the reservation to begin with
    level: int | None = None
    compress: str | None = None
    step_mib: int = STEP_MIB
    repeats: int = REPEATS
    most_crashes: int = MOST_CRASHES  # for each machine
    confirm: bool = True
    name: str = ""  # of the evidence directory
    scenario: str = known_issues.DRILL

    def check(self) -> None:
        """UsageError for anything that can be known wrong before a guest is started."""
        for what, number, most in (
            ("MiB of a step", self.step_mib, 256),
            ("repeats", self.repeats, MAX_REPEATS),
            ("crashes", self.most_crashes, MAX_CRASHES),
        ):
            if not 1 <= number <= most:
                raise UsageError(f"{number} is no sensible number of {what} (1 to {most})")
        if self.most_crashes <= 2 * self.repeats:
            raise UsageError(
                f"{self.most_crashes} crashes are too few to try both sides of the edge {self.repeats} times"
            )
        if not self.memories_mib or not self.vcpus or not self.targets:
            raise UsageError("a sizing needs memory sizes, processors and targets")
        if len(list(self.machines())) > MAX_MACHINES:
            raise UsageError(f"{len(list(self.machines()))} machines are too many (at most {MAX_MACHINES})")
        if self.crashkernel in ("none", "default"):
            raise UsageError(f"--crashkernel {self.crashkernel} is no size to begin the search with (as in 256M)")
        for machine, target in self.machines():
            start = crashkernel.reserved_mib(self.start, machine.memory_mib)
            if start is not None and start >= machine.memory_mib:
                raise UsageError(
                    f"a guest with {machine.memory_mib} MiB cannot reserve {start} MiB for its capture kernel"
                )
            self.drill("", machine, target, self.crashkernel).check()

    @property
    def start(self) -> str:
        """The reservation that the first trial has."""
        return self.crashkernel or self.subject.family.crashkernel

    def machines(self) -> Iterator[tuple[Machine, str]]:
        """Each machine with each target, the small ones first."""
        for memory_mib, vcpus, target in product(sorted(self.memories_mib), self.vcpus, self.targets):
            yield replace(self.machine, memory_mib=memory_mib, vcpus=vcpus), target

    def asked(self, run: Run) -> dict[str, str]:
        """What makes it this sizing and no other, by option."""
        return {
            **asked_of(run, self.subject, self.machine),
            "--memory": ",".join(map(str, self.memories_mib)),
            "--vcpus": ",".join(map(str, self.vcpus)),
            "--target": ",".join(self.targets),
            "--crashkernel": self.crashkernel or "",
            "--level": "" if self.level is None else str(self.level),
            "--compress": self.compress or "",
            "--step": str(self.step_mib),
            "--repeats": str(self.repeats),
            "--crashes": str(self.most_crashes),
            "--no-confirm": "" if self.confirm else "given",
        }

    def drill(self, name: str, machine: Machine, target: str, reservation: str | None) -> Plan:
        """What its crashes have in common."""
        return Plan(
            subject=self.subject,
            machine=machine,
            config=KdumpConfig(crashkernel=reservation, level=self.level, compress=self.compress),
            target=target,
            name=name,
            scenario=self.scenario,
        )


def run_size(run: Run, plan: SizePlan, *, on_verdict: Callable[[Verdict], None] = lambda _: None) -> Size:
    """Search for each machine, recommend, confirm; on_verdict is told of each crash."""
    plan.check()
    run.open_evidence()
    with record_of(run, plan.name or f"size-{plan.subject.name}") as evidence:
        return _Size(run, plan, evidence, on_verdict).take()


class _Size:
    """The state of one sizing on its way."""

    def __init__(self, run: Run, plan: SizePlan, evidence: Evidence, on_verdict: Callable[[Verdict], None]) -> None:
        self.run, self.plan, self.evidence, self.on_verdict = run, plan, evidence, on_verdict
        self.name = str(self.evidence.directory.relative_to(run.evidence_directory))
        self.lock = threading.RLock()  # for the result and all that it is told to
        self.result = Size(
            image=plan.subject.name,
            accelerator=run.accelerator,
            step_mib=plan.step_mib,
            evidence=str(self.evidence.directory),
            asked=plan.asked(run),
        )
        self.started_s = now_s()
        self.before: dict[str, list[Trial]] = {}  # of a run that was stopped, by machine, until the search has them
        for machine, target in plan.machines():
            self.result.sizings.append(Sizing(memory_mib=machine.memory_mib, vcpus=machine.vcpus, target=target))
        if run.options.resume is not None:
            self._take_up(run.options.resume)

    def _take_up(self, path: Path) -> None:
        """Begin with what a run has found that was stopped."""
        with taken_up(path, self.result, "kernel", "makedumpfile", "release", "default", "notes", "jobs") as record:
            self.started_s -= float(record["took_s"])
            self.result.sizings = [sizing_from_json(row) for row in record["sizings"]]
            self.before = {one.name: list(one.trials) for one in self.result.sizings if not one.finished}
        trials = sum(len(one.trials) for one in self.result.sizings)
        self.run.progress.say(f"going on in {path.parent}: {trials} trials are there")

    def take(self) -> Size:
        """All steps; what there is when something breaks is written down."""
        machines = [machine for machine, _ in self.plan.machines()]
        pairs = list(zip(self.result.sizings, machines, strict=True))
        try:
            self._save()
            searches = [self._task("search", self._find, *pair) for pair in pairs if not pair[0].finished]
            confirms = [
                self._task("confirm", self._confirm, *pair)
                for pair in pairs
                if self.plan.confirm and pair[0].confirmed is None
            ]
            at_once = self.run.at_once([self._needs_mib(*pair) for pair in pairs], self._disk_mib())
            self.result.jobs = max(at_once, self.result.jobs)
            with Jobs(self.run, at_once, [task.kind for task in (*searches, *confirms)]) as jobs:
                jobs.run(searches)
                self._recommend()
                if self.result.crashkernel is not None:
                    jobs.run(confirms)
        finally:
            self._save()
            self.result.draw(self.evidence.directory / "size.svg")
        return self.result

    def _task(self, kind: str, work: Callable[[Sizing, Machine], None], sizing: Sizing, machine: Machine) -> Job:
        label = sizing.name if kind == "search" else f"{sizing.name}, confirming"
        return Job(label=label, kind=kind, work=partial(_at_any_place, work, sizing, machine))

    def _needs_mib(self, sizing: Sizing, machine: Machine) -> int:
        """The memory of a machine's guest, and of what stands beside it."""
        beside_mib = capacity.guest_mib(COLLECTOR.memory_mib) if sizing.target in ON_SERVER else 0
        return machine.memory_mib + beside_mib

    def _disk_mib(self) -> int:
        return disk_need_mib(max(self.plan.memories_mib))

    # ------------------------------------------------------------ the search

    def _find(self, sizing: Sizing, machine: Machine) -> None:
        began_s = now_s() - sizing.took_s
        self._search(sizing, machine)
        sizing.took_s, sizing.finished = round(now_s() - began_s, 3), True
        self._save()

    def _search(self, sizing: Sizing, machine: Machine) -> None:
        """Try sizes until the edge is known, or something other than a lack of memory is in the way."""
        reservation = sizing.reservation or self.plan.crashkernel
        while (larger := self._search_below(sizing, machine, reservation)) is not None:
            self._note(f"{sizing.name}: {reservation or self.plan.start} is too small for any dump; trying {larger}M")
            reservation = sizing.reservation = f"{larger}M"

    def _search_below(self, sizing: Sizing, machine: Machine, reservation: str | None) -> int | None:
        """Search below a reservation; returns a larger one to begin with where not even this one dumps."""
        place = f"{self.name}/{machine.memory_mib}M-{machine.vcpus}cpu-{sizing.target}"
        plan = self.plan.drill(f"{place}/boot", machine, sizing.target, reservation)
        sizing.largest_mib = None  # of the reservation before; this one may not even be armed
        with open_session(self.run, plan) as session:
            sizing.cold_boots += 1
            refused = session.save(lambda guest, stack: self._look(sizing, guest, stack))
            if refused is not None:
                trial = self._trial_of(refused, sizing.largest_mib or 0, took_s=0.0)
                return self._larger(sizing, machine, trial, reservation)
            assert sizing.largest_mib is not None
            before = self.before.pop(sizing.name, [])
            first = next((trial for trial in before if trial.reserved_mib == sizing.largest_mib), None)
            if first is None:
                first = self._try(session, sizing, sizing.largest_mib, place, measuring=True)
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
            self._try_until_known(session, sizing, search, place)
        return None

    def _try_until_known(self, session: Session, sizing: Sizing, search: Search, place: str) -> None:
        """The trials below the first one, and one of the distribution's default."""
        default = sizing.default_mib or 0
        while sizing.crashes < self.plan.most_crashes:
            size = search.next()
            if size is None and default not in sizing.tried() and 0 < default < (sizing.largest_mib or 0):
                size = default  # tried for its own sake; should it fail above the edge, that was none
            if size is None:
                break
            trial = self._try(session, sizing, size, place)
            if not self._takes(sizing, search, trial):
                return
        sizing.smallest_mib = search.answer
        if search.answer is None:
            sizing.stopped_by = (
                f"not settled after {sizing.crashes} crashes: the edge lies above {search.bad or 0}M and at or below"
                f" {search.good or sizing.largest_mib}M"
            )

    def _takes(self, sizing: Sizing, search: Search, trial: Trial) -> bool:
        """Let the search know of a trial; whether it can go on."""
        if trial.outcome == OTHER:
            size = trial.reserved_mib
            sizing.stopped_by = f"the trial at {size}M failed for another reason than its size: {trial.reason}"
            return False
        search.note(trial.reserved_mib, trial.outcome == DUMPED)
        return True

    def _look(self, sizing: Sizing, guest: Guest, stack: KdumpService) -> None:
        """What the guest says of itself before its memory is saved."""
        state = stack.state()
        if self.run.options.resume is not None:
            same_guest(self.run.options.resume, state, self.result.kernel, self.result.makedumpfile)
        sizing.largest_mib = state.reserved_bytes >> 20
        sizing.estimate_mib = stack.suggested_mib()
        with self.lock:
            self.result.kernel, self.result.makedumpfile = state.kernel, state.makedumpfile
            self.result.release = stack.family.release
        if packaged := stack.family.bootloader.packaged:
            self.result.default = packaged
            sizing.default_mib = crashkernel.reserved_mib(packaged, sizing.memory_mib)

    def _larger(self, sizing: Sizing, machine: Machine, trial: Trial, reservation: str | None) -> int | None:
        """After a first trial that did not dump: the reservation to begin with instead, unless there is none."""
        now = sizing.largest_mib or crashkernel.reserved_mib(reservation or self.plan.start, machine.memory_mib) or 0
        larger = now * 2
        if trial.outcome == OTHER:
            sizing.stopped_by = f"kdump does not work with the whole reservation either: {trial.reason}"
        elif not now or larger > machine.memory_mib // 2:
            sizing.stopped_by = f"even {now}M, the most that {machine.memory_mib} MiB allow, is too small"
        else:
            return larger
        return None

    def _guess(self, sizing: Sizing) -> int:
        """Where the edge may be: by what was measured, else by a machine before, else in the middle."""
        largest = sizing.largest_mib or 0
        memory = sizing.measured
        if memory is not None and memory.left_kib is not None:
            sizing.predicted_mib = largest - memory.left_kib // KIB_OF_MIB
            return sizing.predicted_mib
        known_before = [one.smallest_mib for one in self.result.sizings if one.smallest_mib is not None]
        return known_before[-1] if known_before else largest // 2

    def _try(self, session: Session, sizing: Sizing, size_mib: int, place: str, *, measuring: bool = False) -> Trial:
        """One crash of the guest with so much reserved."""
        number = 1 + sum(trial.reserved_mib == size_mib for trial in sizing.trials)
        self.run.progress.say(f"{sizing.name}: trial {len(sizing.trials) + 1}, {size_mib}M")

        def before(guest: Guest, stack: KdumpService) -> None:
            if measuring and not capture_memory.prepare(guest, stack):
                self._note(f"the family {stack.family.name} has no way to measure what its capture kernel needs")
            if size_mib != sizing.largest_mib:
                stack.shrink(size_mib)

        began_s = now_s()
        # A trial says nothing about the reboot, which takes as long as all the rest.
        until = SAVED if self.plan.subject.readable and sizing.target not in ON_DISK else RECOVERED
        verdict = session.drill(name=f"{place}/{size_mib}M-{number}", before_crash=before, until=until)
        if measuring:
            console = Path(verdict.evidence, "console.log").read_text(encoding="utf-8", errors="replace")
            sizing.measured = capture_memory.read(console)
        trial = self._trial_of(verdict, size_mib, took_s=now_s() - began_s)
        sizing.trials.append(trial)
        self.run.progress.say(f"{sizing.name}: {size_mib}M: {trial.outcome}")
        with self.lock:
            self._save()
            self.on_verdict(verdict)
        return trial

    def _trial_of(self, verdict: Verdict, size_mib: int, *, took_s: float) -> Trial:
        return Trial(
            reserved_mib=size_mib,
            outcome=outcome_of(verdict),
            reason=verdict.reason(),
            crashed=verdict.reached >= Stage.CRASHED,
            took_s=round(took_s, 3),
            evidence=verdict.evidence,
        )

    # ------------------------------------------------------------ the recommendation

    def _recommend(self) -> None:
        """Sizes with a margin, as one parameter for all memory sizes that have an answer."""
        wanted: dict[int, int] = {}
        for one in self.result.sizings:
            if one.smallest_mib is not None:
                wanted[one.memory_mib] = max(wanted.get(one.memory_mib, 0), recommend(one.smallest_mib))
        if not wanted:
            return
        self.result.crashkernel = crashkernel.ranges(wanted)
        self.result.margin = (
            f"{MARGIN:.0%} above the smallest that dumps, at least {LEAST_MARGIN_MIB} MiB, rounded up to"
            f" {ROUND_MIB} MiB: what a boot needs varies, and the next kernel's initramfs is larger"
        )
        for one in self.result.sizings:
            if one.smallest_mib is not None:
                one.recommended_mib = crashkernel.reserved_mib(self.result.crashkernel, one.memory_mib)

    def _confirm(self, sizing: Sizing, machine: Machine) -> None:
        """A drill from the power-on, with the recommendation in the boot loader."""
        if sizing.recommended_mib is None or self.result.crashkernel is None:
            return
        self.run.progress.say(f"{sizing.name}: confirming crashkernel={self.result.crashkernel}")
        name = f"{self.name}/{machine.memory_mib}M-{machine.vcpus}cpu-{sizing.target}/confirm"
        verdict = run_drill(self.run, self.plan.drill(name, machine, sizing.target, self.result.crashkernel))
        if self.run.options.resume is not None:
            same_guest(self.run.options.resume, verdict, self.result.kernel, self.result.makedumpfile)
        with self.lock:
            self.on_verdict(verdict)
        as_said = verdict.reserved_mib == sizing.recommended_mib
        sizing.confirmed = outcome_of(verdict) == DUMPED and as_said
        reserved = f"{verdict.reserved_mib} MiB reserved" + ("" if as_said else f", not {sizing.recommended_mib}")
        what = verdict.reason()
        if sizing.confirmed and not verdict.verified:  # by what has nothing to do with memory
            issue = f" (known issue {verdict.known_issue})" if verdict.known_issue else ""
            what = f"a whole dump, though not verified: {', '.join(check.name for check in verdict.failed())}{issue}"
        sizing.confirmation = f"{reserved}, {what}"
        self._save()

    # ------------------------------------------------------------ the result

    def _note(self, text: str) -> None:
        with self.lock:
            if text not in self.result.notes:
                self.run.progress.say(text)
                self.result.notes.append(text)

    def _save(self) -> None:
        with self.lock:
            self.result.took_s = round(now_s() - self.started_s, 3)
            self.evidence.json("size.json", self.result.to_json())


def _at_any_place(work: Callable[[Sizing, Machine], None], sizing: Sizing, machine: Machine, _place: int) -> None:
    """Each machine is a guest of its own, wherever it stands."""
    work(sizing, machine)


def outcome_of(verdict: Verdict) -> str:
    """Whether a drill left a good dump, ran out of memory, or failed for a reason that no size would mend."""
    good = {check.name for check in verdict.checks if check.ok}
    if verdict.reached >= Stage.SAVED and good >= _OF_THE_DUMP:
        return DUMPED
    causes = [symptom["name"] for symptom in verdict.symptoms if symptom["severity"] == "failure"]
    return TOO_SMALL if causes and causes[0] in _OUT_OF_MEMORY else OTHER


def recommend(smallest_mib: int) -> int:
    """The smallest that dumps with a margin, in MiB."""
    wanted = smallest_mib + max(LEAST_MARGIN_MIB, smallest_mib * MARGIN)
    return math.ceil(wanted / ROUND_MIB) * ROUND_MIB
