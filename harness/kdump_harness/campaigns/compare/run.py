"""The same drills before and after a change, in turns or side by side, until what differs can be told from noise.

In each round both sides are booted and saved, and every drill of the round goes on from there: what differs between
two boots of one kernel is noise, and must be seen as such. The sides differ in one thing: the kernel, a package, the
capture initramfs, or the image.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from ...base import tables
from ...base.clock import now_s
from ...base.errors import UsageError
from ...base.evidence import Evidence
from ...base.stage import Stage
from ...base.verdict import Verdict
from ...distro.family import Family
from ...drill import known_issues
from ...drill.disks import SystemUnderTest
from ...drill.dump_server import open_dump_server
from ...drill.plan import RECOVERED, SAVED, TARGET_DISK_MIB, Plan, disk_need_mib
from ...drill.session import Session, open_session
from ...kdump import capture_memory
from ...kdump.service import KdumpConfig, KdumpService
from ...kdump.target import LABEL, ON_DISK, ON_SERVER, Server
from ...vm.accel import KVM
from ...vm.guest import Guest
from ...vm.run import Machine, Run
from ..jobs import Job, Jobs
from ..resume import asked_of, record_of, same_guest, taken_up
from .statistics import BETTER, FEWER, SAME, UNCLEAR, WORSE, Tolerance, judge, judge_rate, may_become_worse

SCHEMA = 1
MIB = 1 << 20
OTHER = "other"  # the compression that is not the family's
ROUNDS, MOST_ROUNDS = 2, 5
LIMIT_ROUNDS = 50
MAX_SLOWER, MAX_LARGER = 0.20, 0.10
# Where guests are emulated, all that the host does shows in their times. Of some twenty that are compared, one was 29 %
# longer on one side of a kernel with itself, in all pairs of three rounds. The history's noise is as wide.
MAX_SLOWER_EMULATED = 0.50
# What is less than this is no difference, whatever the share: seconds under KVM, MiB, pages.
_LEAST_S, _LEAST_MIB, _LEAST_PAGES = 0.5, 2.0, 2048.0
# These belong in every dump. A kernel became smaller, or makedumpfile drops what it should keep: a check tells which.
_BELONG = ("kernel pages kept", "slab pages kept")
# Sizes follow the boot, of which a round has one on each side; times vary with the host, too, and are believed later.
_VALUES, _VALUES_OF_TIMES = 4, 5
# What the tight drill reserves on both sides, as a multiple of what the old side's capture kernel needed; and its step.
_TIGHT, _TIGHT_STEP_MIB = 1.25, 4

# What a kernel prints when something is wrong with it (lib/bug.c, kernel/panic.c, kernel/hung_task.c, kernel/rcu/).
_SPLAT = re.compile(
    r"(?:WARNING: (?:CPU|possible|suspicious|at)|BUG: |INFO: (?:task|rcu)|rcu: INFO|general protection fault"
    r"|unchecked MSR access|\[Firmware Bug\]|page allocation failure|Oops: ).*"
)
_VARIES = re.compile(r"0x[0-9a-f]+|\b[0-9a-f]{8,}\b|\d+")


@dataclass(frozen=True, kw_only=True)
class ComparedDrill:
    """A row of comparisons.toml."""

    name: str
    default: bool = False
    level: int | None = None
    compress: str | None = None
    trigger: str = "sysrq-c"
    target: str = "local"
    tight: bool = False

    def compression(self, family: Family) -> str | None:
        """The compression that it means for a family."""
        if self.compress != OTHER:
            return self.compress
        others = [name for name in ("lzo", "zlib") if name in family.config.compressions]
        return next((name for name in others if name != family.compress), None)


@functools.cache
def load_scenarios() -> dict[str, ComparedDrill]:
    """All drills that can be compared, by name."""
    rows = tables.load_rows(tables.package_path("campaigns", "compare", "comparisons.toml"), "drill", ComparedDrill)
    return {row.name: row for row in rows}


def choose_scenarios(more: Sequence[str], only: Sequence[str]) -> tuple[ComparedDrill, ...]:
    """The usual ones and more, or only some; UsageError names what is none."""
    table = load_scenarios()
    for name in (*more, *only):
        if name not in table:
            raise UsageError(f"unknown scenario {name!r} (known: {', '.join(table)})")
    return tuple(row for row in table.values() if (row.name in only if only else row.default or row.name in more))


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two that are compared."""

    name: str  # as the user put it
    subject: SystemUnderTest
    prepare: Callable[[Guest, KdumpService], None] | None = None  # what is done to the running guest
    content: str = ""  # tells what is done with a file from what is done with another of its name


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One drill of one side."""

    side: int  # 0 old, 1 new
    scenario: str
    round: int
    verified: bool
    reached: str
    reason: str
    failed: tuple[str, ...]  # checks
    symptoms: tuple[str, ...]  # failures and warnings
    splats: tuple[str, ...]  # of kernels, on the console
    figures: dict[str, float]
    evidence: str
    known_issue: str | None = None


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One thing that was compared."""

    scenario: str
    what: str
    word: str  # of difference.py
    old: str
    new: str
    change: str = ""
    open: bool = False  # it may be a regression, which further rounds would show


@dataclass(kw_only=True)
class Comparison:
    """Everything that a comparison found."""

    image: str
    thing: str  # what the sides differ in
    sides: tuple[str, str]
    kernels: list[str | None] = field(default_factory=lambda: [None, None])
    makedumpfiles: list[str | None] = field(default_factory=lambda: [None, None])
    accelerator: str = ""
    memory_mib: int = 0
    vcpus: int = 0
    rounds: int = 0
    most_rounds: int = MOST_ROUNDS
    max_slower: float = MAX_SLOWER
    max_larger: float = MAX_LARGER
    tight_mib: int | None = None
    samples: list[Sample] = field(default_factory=list)
    findings: list[Difference] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    took_s: float = 0.0
    evidence: str = ""
    jobs: int = 1  # at once, at most; it shows in the times
    asked: dict[str, str] = field(default_factory=dict)  # by option, for who goes on with it

    @property
    def ok(self) -> bool:
        """Whether there is something to compare, and nothing got worse."""
        return bool(self.findings) and not self.regressions()

    def regressions(self) -> list[Difference]:
        """What got worse."""
        return [finding for finding in self.findings if finding.word == WORSE]

    def of(self, scenario: str, side: int) -> list[Sample]:
        """The drills of one side."""
        return [sample for sample in self.samples if (sample.scenario, sample.side) == (scenario, side)]

    def scenarios(self) -> tuple[str, ...]:
        """The drills in their order."""
        return tuple(dict.fromkeys(sample.scenario for sample in self.samples))

    def explain(self) -> str:
        """What got worse, for an assertion's message."""
        worse = [f"{one.scenario}: {one.what}: {one.old} → {one.new} {one.change}" for one in self.regressions()]
        return "\n  ".join([f"{self.image}: {self.sides[0]} → {self.sides[1]}", *worse, self.evidence])

    def to_json(self) -> dict[str, Any]:
        """The record as JSON takes it."""
        summary = f"{self.sides[0]} → {self.sides[1]}: {len(self.regressions())} worse"
        kernel = self.kernels[1]
        return {"schema": SCHEMA, "ok": self.ok, "kernel": kernel, "summary": summary, "figures": {}, **asdict(self)}


@dataclass(frozen=True, kw_only=True)
class ComparePlan:
    """One comparison, as it was asked for."""

    image: str
    thing: str
    sides: tuple[Side, Side]
    machine: Machine = field(default_factory=Machine)
    crashkernel: str | None = None
    scenarios: tuple[ComparedDrill, ...] = ()
    rounds: int = ROUNDS
    most_rounds: int = MOST_ROUNDS
    max_slower: float | None = None  # None is what the accelerator allows to tell
    max_larger: float = MAX_LARGER
    name: str = ""

    def check(self) -> None:
        """UsageError for anything that can be known wrong before a guest is started."""
        if not 1 <= self.rounds <= self.most_rounds <= LIMIT_ROUNDS:
            raise UsageError(f"{self.rounds} to {self.most_rounds} rounds make no sense (1 to {LIMIT_ROUNDS})")
        if not self.scenarios:
            raise UsageError("there is nothing to compare by")
        for side in self.sides:
            for scenario in self.scenarios:
                self.drill("", side, scenario).check()

    def asked(self, run: Run) -> dict[str, str]:
        """What makes it this comparison and no other, by option; by what the result is judged may differ."""
        sides = {
            f"the {which} side": f"{side.name}{f' ({side.content})' if side.content else ''}: "
            + asked_of(run, side.subject, self.machine)["IMAGE"]
            for which, side in zip(("old", "new"), self.sides, strict=True)
        }
        return {
            **asked_of(run, self.sides[0].subject, self.machine),
            **sides,
            "what is compared": self.thing,
            "--memory": str(self.machine.memory_mib),
            "--vcpus": str(self.machine.vcpus),
            "--crashkernel": self.crashkernel or "",
            "--scenario and --only": ",".join(scenario.name for scenario in self.scenarios),
            "--rounds": str(self.rounds),
            "--most-rounds": str(self.most_rounds),
        }

    def drill(self, name: str, side: Side, scenario: ComparedDrill) -> Plan:
        """One of its drills."""
        family = side.subject.family
        return Plan(
            subject=side.subject,
            machine=self.machine,
            config=KdumpConfig(
                crashkernel=self.crashkernel, level=scenario.level, compress=scenario.compression(family)
            ),
            trigger=scenario.trigger,
            target=scenario.target,
            name=name,
            scenario=known_issues.DRILL,
        )


def usual_max_slower(accelerator: str) -> float:
    """How much slower is not yet worse, as a share."""
    return MAX_SLOWER if accelerator == KVM else MAX_SLOWER_EMULATED


def run_compare(run: Run, plan: ComparePlan, *, on_verdict: Callable[[Verdict], None] = lambda _: None) -> Comparison:
    """Drill both sides, compare; on_verdict is told of each drill."""
    plan.check()
    run.open_evidence()
    with record_of(run, plan.name or f"compare-{plan.image}") as evidence:
        return _Compare(run, plan, evidence, on_verdict).take()


class _Compare:
    """The state of one comparison on its way."""

    def __init__(self, run: Run, plan: ComparePlan, evidence: Evidence, on_verdict: Callable[[Verdict], None]) -> None:
        self.run, self.plan, self.evidence, self.on_verdict = run, plan, evidence, on_verdict
        self.name = str(self.evidence.directory.relative_to(run.evidence_directory))
        self.refused: dict[tuple[int, int], Verdict] = {}  # by round and side: whose kdump could not be armed just now
        self.lock = threading.RLock()  # for the result and all that it is told to
        self.server: Server | None = None
        old, new = plan.sides
        self.result = Comparison(
            image=plan.image,
            thing=plan.thing,
            sides=(old.name, new.name),
            accelerator=run.accelerator,
            memory_mib=plan.machine.memory_mib,
            vcpus=plan.machine.vcpus,
            most_rounds=plan.most_rounds,
            max_slower=plan.max_slower if plan.max_slower is not None else usual_max_slower(run.accelerator),
            max_larger=plan.max_larger,
            evidence=str(self.evidence.directory),
            asked=plan.asked(run),
        )
        self.started_s = now_s()
        if run.options.resume is not None:
            self._take_up(run.options.resume)

    def _take_up(self, path: Path) -> None:
        """Begin with what a run has found that was stopped."""
        with taken_up(path, self.result, "kernels", "makedumpfiles", "rounds", "tight_mib", "notes", "jobs") as record:
            self.started_s -= float(record["took_s"])
            self.result.samples = [sample_from_json(row) for row in record["samples"]]
        self.run.progress.say(f"going on in {path.parent}: {len(self.result.samples)} drills are there")

    def take(self) -> Comparison:
        """All steps; what there is when something breaks is written down."""
        try:
            self._save()
            with contextlib.ExitStack() as stack:
                if {scenario.target for scenario in self.plan.scenarios} & set(ON_SERVER):
                    self.server = stack.enter_context(open_dump_server(self.run)).server
                self._rounds()
        finally:
            self.result.findings = list(find_differences(self.result, self.run.slowness))
            self._save()
        return self.result

    def _rounds(self) -> None:
        """As many rounds of all drills as were asked for, then more of those that may differ."""
        plan = self.plan
        usual = range(1, plan.rounds + 1)
        memory_mib = plan.machine.memory_mib
        at_once = self.run.at_once([memory_mib] * 2 * len(usual), disk_need_mib(memory_mib))
        self.result.jobs = max(at_once, self.result.jobs)
        with Jobs(self.run, at_once, []) as jobs:
            jobs.expect(itertools.chain(*(self._kinds([number], plan.scenarios) for number in usual)))
            together = max(1, at_once // 2)
            for first in usual[::together]:
                self._drill_rounds(jobs, usual[first - 1 : first - 1 + together], plan.scenarios)
            for number in range(plan.rounds + 1, plan.most_rounds + 1):
                # A round that was begun before is ended: with one side ahead, there may seem to be no question left.
                begun = {sample.scenario for sample in self.result.samples if sample.round == number}
                left = [one for one in plan.scenarios if one.name in begun or self._open_question(one)]
                if not left:
                    break
                jobs.expect(self._kinds([number], left))
                self._drill_rounds(jobs, [number], left)

    def _missing(
        self, rounds: Sequence[int], scenarios: Sequence[ComparedDrill]
    ) -> dict[tuple[int, int], list[ComparedDrill]]:
        """What is to be drilled, by round and side, in the order that they have their turns."""
        have = {(sample.round, sample.side, sample.scenario) for sample in self.result.samples}
        turns = [(number, side) for number in rounds for side in ((0, 1) if number % 2 else (1, 0))]
        missing = {turn: [one for one in scenarios if (*turn, one.name) not in have] for turn in turns}
        left_out = self._is_left_out()  # a tight drill that is left out would be missing for ever
        return {turn: left for turn, left in missing.items() if not all(one.tight and left_out for one in left)}

    def _is_left_out(self) -> bool:
        """Whether the old side has been drilled, and could not tell how tight the tight drill has to be."""
        drilled = self.result.of(self.plan.scenarios[0].name, 0)
        return bool(drilled) and self.result.tight_mib is None and self._tight() is None

    def _kinds(self, rounds: Sequence[int], scenarios: Sequence[ComparedDrill]) -> list[str]:
        """What the tasks of these rounds are."""
        missing = self._missing(rounds, scenarios)
        return [kind for left in missing.values() for kind in ("boot", *(scenario.name for scenario in left))]

    def _drill_rounds(self, jobs: Jobs, rounds: Sequence[int], scenarios: Sequence[ComparedDrill]) -> None:
        """Boot both sides of these rounds, and drill them: old new, new old, and so on, or all of them side by side.

        Nobody begins the next drill before all have ended this one, so that each side has the load of the other; dumps
        to a server take turns.
        """
        self.result.rounds = max(self.result.rounds, *rounds)
        self.refused.clear()
        missing = self._missing(rounds, scenarios)
        with contextlib.ExitStack() as stack:
            sessions: dict[tuple[int, int], Session] = {}

            def open_one(number: int, side: int, _place: int) -> None:
                sessions[number, side] = self._open(stack, side, number, missing[number, side])

            def drill_one(number: int, side: int, scenario: ComparedDrill, _place: int) -> None:
                self._drill(sessions[number, side], side, scenario, number)

            jobs.run([
                Job(label=f"{self._label(side)}, booting for round {number}", kind="boot",
                     work=partial(open_one, number, side))
                for number, side in missing
            ])  # fmt: skip
            for scenario in scenarios:
                if scenario.tight and self.result.tight_mib is None and len(self.refused) < len(missing):
                    self._settle_tight()
                tasks = [
                    Job(label=f"{self._label(side)}, {scenario.name}, round {number}", kind=scenario.name,
                         work=partial(drill_one, number, side, scenario))
                    for (number, side), left in missing.items() if scenario in left
                ]  # fmt: skip
                # On the server that they share, each would find the other's dump beside its own.
                for together in [[task] for task in tasks] if scenario.target in ON_SERVER else [tasks]:
                    jobs.run(together)

    def _label(self, side: int) -> str:
        return f"{('old', 'new')[side]} {self.plan.sides[side].name}"

    def _open(
        self, stack: contextlib.ExitStack, number: int, round_: int, scenarios: Sequence[ComparedDrill]
    ) -> Session:
        """The saved guest of a side for the drills of one round."""
        side, which = self.plan.sides[number], ("old", "new")[number]
        self.run.progress.say(f"{self._label(number)}, booting for round {round_}")
        targets = {scenario.target for scenario in scenarios}
        family = side.subject.family
        more = sorted({package for target in targets for package in family.targets[target].packages})
        disk = self.run.blank_disk(TARGET_DISK_MIB, serial=LABEL) if targets & set(ON_DISK) else None
        plan = replace(
            self.plan.drill(f"{self.name}/boot-{round_}-{which}", side, ComparedDrill(name="boot")),
            more_packages=tuple(more),
            target_disk=disk,
            server=self.server,
        )
        session = stack.enter_context(open_session(self.run, plan))
        refused = session.save(side.prepare) if side.prepare is not None else session.save()
        if refused is not None:
            self.refused[round_, number] = refused
            self._same_guest(number, refused)
            self._note_versions(number, refused)
        return session

    def _open_question(self, scenario: ComparedDrill) -> bool:
        """Whether more rounds may tell something of a drill."""
        if self.refused:
            return False
        found = find_differences(self.result, self.run.slowness, only=scenario.name)
        return any(finding.open for finding in found)

    def _drill(self, session: Session, side: int, scenario: ComparedDrill, number: int) -> None:
        if (refused := self.refused.get((number, side))) is not None:
            self._add(self._sample(refused, side, scenario, number))
            return
        if scenario.tight and self.result.tight_mib is None:
            return
        self.run.progress.say(f"{self._label(side)}, {scenario.name}, round {number}")
        measuring = scenario.name == self.plan.scenarios[0].name

        def before(guest: Guest, stack: KdumpService) -> None:
            if measuring:
                capture_memory.prepare(guest, stack)
            if scenario.tight and self.result.tight_mib is not None:
                stack.shrink(self.result.tight_mib)
            stack.give_back_free_pages()

        asked = self.plan.drill("", self.plan.sides[side], scenario)
        verdict = session.drill(
            name=f"{self.name}/{scenario.name}-{number}-{('old', 'new')[side]}",
            config=asked.config,
            trigger=asked.trigger,
            target=asked.target,
            until=self._until(scenario),
            before_crash=before,
        )
        self._same_guest(side, verdict)
        self._note_versions(side, verdict)
        with self.lock:
            self._add(self._sample(verdict, side, scenario, number))
            self.on_verdict(verdict)

    def _until(self, scenario: ComparedDrill) -> str:
        """The first drill of each round judges the reboot; the others say nothing of it that this one has not said."""
        first = scenario.name == self.plan.scenarios[0].name
        readable = all(side.subject.readable for side in self.plan.sides) and scenario.target not in ON_DISK
        return SAVED if readable and not first else RECOVERED

    def _settle_tight(self) -> None:
        """Decide what the tight drill reserves, now that the old side was drilled; if that failed, leave it out."""
        self.result.tight_mib = self._tight()
        if self.result.tight_mib is None:
            self._note("the tight drill is left out: what the capture kernel of the old side needs is not known")

    def _tight(self) -> int | None:
        """With how much the tight drill must do, in MiB."""
        needs = [sample.figures["capture memory, MiB"] for sample in self.result.samples
                 if sample.side == 0 and "capture memory, MiB" in sample.figures]  # fmt: skip
        return -(-int(max(needs) * _TIGHT) // _TIGHT_STEP_MIB) * _TIGHT_STEP_MIB if needs else None

    def _sample(self, verdict: Verdict, side: int, scenario: ComparedDrill, number: int) -> Sample:
        """What is compared of a drill."""
        directory = Path(verdict.evidence)
        console = ""
        with contextlib.suppress(OSError):
            console = (directory / "console.log").read_text(encoding="utf-8", errors="replace")
        figures = {f"{name}, s": span for name, span in verdict.phases_s.items() if name != "boot"}
        if verdict.dump:
            figures["size, MiB"] = verdict.dump["size_bytes"] / MIB
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            inspected = json.loads((directory / "inspect.json").read_text(encoding="utf-8"))
            for name, pages in inspected["classes"].items():
                figures[f"{name.replace('_', ' ')} pages kept"] = float(pages["kept"])
        memory = capture_memory.read(console) if verdict.reached >= Stage.CAPTURING else None
        if memory is not None and memory.used_kib is not None:
            figures["capture memory, MiB"] = memory.used_kib / 1024
        return Sample(
            side=side,
            scenario=scenario.name,
            round=number,
            verified=verdict.verified,
            reached=verdict.reached.name,
            reason=verdict.reason(),
            failed=tuple(check.name for check in verdict.failed()),
            symptoms=tuple(one["name"] for one in verdict.symptoms if one["severity"] in ("failure", "warning")),
            splats=splats(console),
            figures={name: round(value, 3) for name, value in figures.items()},
            evidence=verdict.evidence,
            known_issue=verdict.known_issue,
        )

    def _add(self, sample: Sample) -> None:
        with self.lock:
            self.result.samples.append(sample)
            self.run.progress.say(f"  {'verified' if sample.verified else sample.reason}")
            self._save()

    def _same_guest(self, side: int, verdict: Verdict) -> None:
        if self.run.options.resume is not None:
            versions = self.result.kernels[side], self.result.makedumpfiles[side]
            same_guest(self.run.options.resume, verdict, *versions)

    def _note_versions(self, side: int, verdict: Verdict) -> None:
        with self.lock:
            self.result.kernels[side], self.result.makedumpfiles[side] = verdict.kernel, verdict.makedumpfile

    def _note(self, text: str) -> None:
        with self.lock:
            if text not in self.result.notes:
                self.run.progress.say(text)
                self.result.notes.append(text)

    def _save(self) -> None:
        with self.lock:
            self.result.took_s = round(now_s() - self.started_s, 3)
            self.evidence.json("compare.json", self.result.to_json())


def sample_from_json(row: Mapping[str, Any]) -> Sample:
    """A drill of a record."""
    parts: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}
    return Sample(**parts)


# ---------------------------------------------------------------- what differs


def find_differences(result: Comparison, factor: float, *, only: str | None = None) -> Iterator[Difference]:
    """What is the same, worse, better or not clear, of each drill; factor is by how much times are stretched here."""
    for scenario in result.scenarios():
        if only is not None and scenario != only:
            continue
        old, new = result.of(scenario, 0), result.of(scenario, 1)
        if not old or not new:
            continue
        yield _verdicts(scenario, old, new)
        for what, part in (("check", "failed"), ("symptom", "symptoms"), ("console", "splats")):
            yield from _seen(scenario, what, part, old, new)
        yield from _figures(scenario, old, new, result, factor)


def _verdicts(scenario: str, old: Sequence[Sample], new: Sequence[Sample]) -> Difference:
    before, after = ([not sample.verified for sample in samples] for samples in (old, new))
    word = judge_rate(before, after)
    more = _more_often(before, after)
    if word == SAME and _furthest(new) < _furthest(old):
        word = WORSE
    return Difference(
        scenario=scenario, what="verdict", word=word, old=_verified(old), new=_verified(new),
        open=word == UNCLEAR and more,
    )  # fmt: skip


def _furthest(samples: Sequence[Sample]) -> Stage:
    return max(Stage[sample.reached] for sample in samples)


def _verified(samples: Sequence[Sample]) -> str:
    good = sum(sample.verified for sample in samples)
    text = f"verified {good} of {len(samples)}"
    if good < len(samples):
        text += f", reached {_furthest(samples).name}"
        if issue := next((sample.known_issue for sample in samples if sample.known_issue), None):
            text += f" (known issue {issue})"
    return text


def _more_often(before: Sequence[bool], after: Sequence[bool]) -> bool:
    return sum(after) * len(before) > sum(before) * len(after)


def _seen(scenario: str, what: str, part: str, old: Sequence[Sample], new: Sequence[Sample]) -> Iterator[Difference]:
    """Checks that failed, symptoms and words of the kernel that one side has more often than the other."""
    names = dict.fromkeys(itertools.chain(*(getattr(sample, part) for sample in (*old, *new))))
    for name in names:
        before = [name in getattr(sample, part) for sample in old]
        after = [name in getattr(sample, part) for sample in new]
        verb = "failed" if what == "check" else "seen"
        word = judge_rate(before, after)
        if word == BETTER and _furthest(new) < _furthest(old):
            continue  # what was not reached cannot go wrong; the verdict says so
        yield Difference(
            scenario=scenario,
            what=f"{what} {name}",
            word=word,
            old=f"{verb} {sum(before)} of {len(before)}",
            new=f"{verb} {sum(after)} of {len(after)}",
            open=word == UNCLEAR and _more_often(before, after),
        )


def _figures(
    scenario: str, old: Sequence[Sample], new: Sequence[Sample], result: Comparison, factor: float
) -> Iterator[Difference]:
    names = dict.fromkeys(itertools.chain(*(sample.figures for sample in (*old, *new))))
    for name in names:
        before = [sample.figures[name] for sample in old if name in sample.figures]
        after = [sample.figures[name] for sample in new if name in sample.figures]
        if not before or not after:
            continue  # a drill that got nowhere: its verdict says so
        word = judge(before, after, _tolerance(name, result, factor))
        yield Difference(
            scenario=scenario,
            what=name,
            word=FEWER if word == BETTER and name in _BELONG else word,
            old=_values(before),
            new=_values(after),
            change=_change(median(before), median(after)),
            open=word == UNCLEAR and may_become_worse(before, after, most=result.most_rounds),
        )


def _tolerance(name: str, result: Comparison, factor: float) -> Tolerance:
    if name.endswith(", s"):
        return Tolerance(budget=result.max_slower, least=_LEAST_S * factor, values=_VALUES_OF_TIMES)
    least = _LEAST_PAGES if name.endswith("pages kept") else _LEAST_MIB
    return Tolerance(budget=result.max_larger, least=least, values=_VALUES)


def _values(values: Sequence[float]) -> str:
    """The median, and between what the values lie."""
    low, high = min(values), max(values)
    form = ",.0f" if median(values) >= 1000 else ".1f"
    spread = f" ({low:{form}} to {high:{form}})" if len(values) > 1 else ""
    return f"{median(values):{form}}{spread}"


def _change(before: float, after: float) -> str:
    if not before:
        return "" if not after else "from nothing"
    return f"{(after - before) / before:+.0%}"


def splats(console: str) -> tuple[str, ...]:
    """What kernels complained of on a console, without the numbers that differ from boot to boot, each once."""
    found = (_VARIES.sub("N", match.group().strip())[:160] for match in _SPLAT.finditer(console))
    return tuple(dict.fromkeys(found))
