"""The same drills before and after a change, alternately or in parallel, until differences stand out from noise.

Each round boots both sides and takes a snapshot of each, from which all drills of the round start: a difference between
two boots of one kernel is noise and must be recognised as noise. The sides differ in one thing: the kernel, a package,
the capture initramfs, or the image.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ...base.crashkernel import HIGH, Reservation
from ...base.evidence import Evidence
from ...base.stage import Stage
from ...base.units import MIB
from ...base.verdict import Verdict
from ...drill.dump_server import open_dump_server
from ...drill.plan import RECOVERED, SAVED, TARGET_DISK_MIB, disk_need_mib
from ...drill.session import Session, open_session
from ...kdump import capture_memory
from ...kdump.service import KdumpService
from ...kdump.target import LABEL, ON_DISK, ON_SERVER, Server
from ...vm.guest import Guest
from ...vm.run import Run
from ..campaign import Campaign
from ..jobs import Job, Jobs
from .differences import find_differences, splats
from .plan import ComparedDrill, ComparePlan, usual_max_slower
from .result import Comparison, Sample, sample_from_json

# Reservation of the tight drill on both sides, as a multiple of the memory that the old side's capture kernel needed;
# and its step.
_TIGHT, _TIGHT_STEP_MIB = 1.25, 4


def run_compare(run: Run, plan: ComparePlan, *, on_verdict: Callable[[Verdict], None] = lambda _: None) -> Comparison:
    """Drill both sides and compare them; call on_verdict after each drill."""
    return Compare.start(run, plan, on_verdict)


class Compare(Campaign[ComparePlan, Comparison]):
    """One comparison."""

    file = "compare.json"
    restored = ("kernels", "makedumpfiles", "rounds", "tight_mib", "notes", "jobs")

    def __init__(self, run: Run, plan: ComparePlan, evidence: Evidence, on_verdict: Callable[[Verdict], None]) -> None:
        super().__init__(run, plan, evidence, on_verdict)
        self.refused: dict[tuple[int, int], Verdict] = {}  # verdicts of guests that could not be armed: by round, side
        self.server: Server | None = None

    def _new_result(self) -> Comparison:
        plan = self.plan
        old, new = plan.sides
        return Comparison(
            image=plan.image,
            thing=plan.thing,
            sides=(old.name, new.name),
            memory_mib=plan.machine.memory_mib,
            vcpus=plan.machine.vcpus,
            most_rounds=plan.most_rounds,
            max_slower=plan.max_slower if plan.max_slower is not None else usual_max_slower(self.run.accelerator),
            max_larger=plan.max_larger,
        )

    def _read(self, record: Mapping[str, Any]) -> None:
        self.result.samples = [sample_from_json(row) for row in record["samples"]]

    def _done(self) -> str:
        return f"{len(self.result.samples)} drills"

    def _drill_all(self) -> None:
        with contextlib.ExitStack() as resources:
            if {scenario.target for scenario in self.plan.scenarios} & set(ON_SERVER):
                self.server = resources.enter_context(open_dump_server(self.run)).server
            self._rounds()

    def _finish(self) -> None:
        self.result.findings = list(find_differences(self.result, self.run.slowness))
        self._save()

    def _rounds(self) -> None:
        """Make the requested rounds of all drills, then more rounds of those that may differ."""
        plan = self.plan
        usual = range(1, plan.rounds + 1)
        memory_mib = plan.machine.memory_mib
        at_once = self._at_once([memory_mib] * 2 * len(usual), disk_need_mib(memory_mib))
        with Jobs(self.run, at_once, []) as jobs:
            jobs.expect(itertools.chain(*(self._kinds([number], plan.scenarios) for number in usual)))
            together = max(1, at_once // 2)
            for first in usual[::together]:
                self._drill_rounds(jobs, usual[first - 1 : first - 1 + together], plan.scenarios)
            for number in range(plan.rounds + 1, plan.most_rounds + 1):
                # A round that an interrupted run began is completed: with one side ahead, no question may seem open.
                begun = {sample.scenario for sample in self.result.samples if sample.round == number}
                left = [one for one in plan.scenarios if one.name in begun or self._open_question(one)]
                if not left:
                    break
                jobs.expect(self._kinds([number], left))
                self._drill_rounds(jobs, [number], left)

    def _missing(
        self, rounds: Sequence[int], scenarios: Sequence[ComparedDrill]
    ) -> dict[tuple[int, int], list[ComparedDrill]]:
        """Return the drills that are missing, by round and side, in the order of the turns."""
        have = {(sample.round, sample.side, sample.scenario) for sample in self.result.samples}
        turns = [(number, side) for number in rounds for side in ((0, 1) if number % 2 else (1, 0))]
        missing = {turn: [one for one in scenarios if (*turn, one.name) not in have] for turn in turns}
        left_out = self._is_left_out()  # a tight drill that is left out would always be missing
        return {turn: left for turn, left in missing.items() if not all(one.tight and left_out for one in left)}

    def _is_left_out(self) -> bool:
        """Return whether the old side was drilled without measuring the memory that the tight drill needs to know."""
        drilled = self.result.of(self.plan.scenarios[0].name, 0)
        return bool(drilled) and self.result.tight_mib is None and self._tight() is None

    def _kinds(self, rounds: Sequence[int], scenarios: Sequence[ComparedDrill]) -> list[str]:
        """Return the kinds of the jobs of these rounds."""
        missing = self._missing(rounds, scenarios)
        return [kind for left in missing.values() for kind in ("boot", *(scenario.name for scenario in left))]

    def _drill_rounds(self, jobs: Jobs, rounds: Sequence[int], scenarios: Sequence[ComparedDrill]) -> None:
        """Boot both sides of these rounds, and drill them: old new, new old, and so on, or all in parallel.

        All sides end a drill before the next one begins, so that both have the same load. Drills that dump to the
        server take turns.
        """
        self.result.rounds = max(self.result.rounds, *rounds)
        self.refused.clear()
        missing = self._missing(rounds, scenarios)
        with contextlib.ExitStack() as resources:
            sessions: dict[tuple[int, int], Session | None] = {}

            def open_one(number: int, side: int) -> None:
                sessions[number, side] = self._open(resources, side, number, missing[number, side])

            def drill_one(number: int, side: int, scenario: ComparedDrill) -> None:
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
                # On the shared server, each drill would find the dump of the other next to its own.
                for together in [[task] for task in tasks] if scenario.target in ON_SERVER else [tasks]:
                    jobs.run(together)

    def _label(self, side: int) -> str:
        return f"{('old', 'new')[side]} {self.plan.sides[side].name}"

    def _open(
        self, resources: contextlib.ExitStack, number: int, round_: int, scenarios: Sequence[ComparedDrill]
    ) -> Session | None:
        """Return a session with the snapshot of a side for the drills of one round."""
        side, which = self.plan.sides[number], ("old", "new")[number]
        self.progress.say(f"{self._label(number)}, booting for round {round_}")
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
        session = resources.enter_context(open_session(self.run, plan))
        refused = session.save(side.prepare) if side.prepare is not None else session.save()
        if refused is not None:
            self.refused[round_, number] = refused
            self._same_guest(number, refused)
            self._note_versions(number, refused)
        return session

    def _open_question(self, scenario: ComparedDrill) -> bool:
        """Return whether more rounds of a drill may decide a difference."""
        if self.refused:
            return False
        found = find_differences(self.result, self.run.slowness, only=scenario.name)
        return any(finding.open for finding in found)

    def _drill(self, session: Session | None, side: int, scenario: ComparedDrill, number: int) -> None:
        if (refused := self.refused.get((number, side))) is not None:
            self._add(self._sample(refused, side, scenario, number))
            return
        if scenario.tight and self.result.tight_mib is None:
            return
        self.progress.say(f"{self._label(side)}, {scenario.name}, round {number}")
        verdict = self._take(session, side, scenario, f"{self.name}/{scenario.name}-{number}-{('old', 'new')[side]}")
        self._same_guest(side, verdict)
        self._note_versions(side, verdict)
        with self.lock:
            self._add(self._sample(verdict, side, scenario, number))
            self.on_verdict(verdict)

    def _take(self, session: Session | None, side: int, scenario: ComparedDrill, name: str) -> Verdict:
        """Make one drill of a side."""
        assert session is not None
        measuring = scenario.name == self.plan.scenarios[0].name

        def before(guest: Guest, service: KdumpService) -> None:
            if measuring:
                capture_memory.prepare(guest, service)
            if scenario.tight and self.result.tight_mib is not None:
                service.shrink(self.result.tight_mib)
            service.give_back_free_pages()

        asked = self.plan.drill("", self.plan.sides[side], scenario)
        return session.drill(
            name=name,
            config=asked.config,
            trigger=asked.trigger,
            target=asked.target,
            until=self._until(scenario),
            before_crash=before,
        )

    def _times(self, verdict: Verdict) -> dict[str, float]:
        """Return the compared times of a drill, in seconds."""
        return {name: span for name, span in verdict.phases_s.items() if name != "boot"}

    def _until(self, scenario: ComparedDrill) -> str:
        """Return the end of a drill: only the first drill of a round needs to judge the reboot."""
        first = scenario.name == self.plan.scenarios[0].name
        readable = all(side.subject.readable for side in self.plan.sides) and scenario.target not in ON_DISK
        return SAVED if readable and not first and not self.plan.shapes.directory else RECOVERED

    def _settle_tight(self) -> None:
        """Decide the reservation of the tight drill from the old side's drills; without a measurement, leave it out."""
        self.result.tight_mib = self._tight()
        if self.result.tight_mib is None:
            why = "the memory need of the old side's capture kernel is not known"
            if self._has_parts:
                why = "it reserves by one part, and --crashkernel by several"
            self._note(f"the tight drill is left out: {why}")

    @property
    def _has_parts(self) -> bool:
        """Whether the reservation has a low part or CMA in addition to the main one."""
        words = Reservation(self.plan.crashkernel).words
        return len(words) > 1 or any(word.endswith(HIGH) for word in words)

    def _tight(self) -> int | None:
        """Return the reservation of the tight drill, in MiB; None for a reservation of several parts."""
        if self._has_parts:
            return None
        needs = [sample.figures["capture memory, MiB"] for sample in self.result.samples
                 if sample.side == 0 and "capture memory, MiB" in sample.figures]  # fmt: skip
        return -(-int(max(needs) * _TIGHT) // _TIGHT_STEP_MIB) * _TIGHT_STEP_MIB if needs else None

    def _sample(self, verdict: Verdict, side: int, scenario: ComparedDrill, number: int) -> Sample:
        """Return the compared properties of a drill."""
        directory = Path(verdict.evidence)
        console = ""
        with contextlib.suppress(OSError):
            console = (directory / "console.log").read_text(encoding="utf-8", errors="replace")
        figures = {f"{name}, s": span for name, span in self._times(verdict).items()}
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
            self.progress.say(f"  {'verified' if sample.verified else sample.reason}")
            self._save()

    def _same_guest(self, side: int, verdict: Verdict) -> None:
        self._require_same(verdict, self.result.kernels[side], self.result.makedumpfiles[side])

    def _note_versions(self, side: int, verdict: Verdict) -> None:
        with self.lock:
            self.result.kernels[side], self.result.makedumpfiles[side] = verdict.kernel, verdict.makedumpfile
