"""The dump by level and compression: a few real crashes, the other cells computed from the first of them.

The first crash dumps everything (-d 0). From its vmcore the guest's own makedumpfile computes the other cells on this
host; at least one of them is a real crash as well and shows whether that can be believed.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from ...base import plot
from ...base.clock import now_s
from ...base.errors import CommandFailed, HarnessError, UsageError
from ...base.evidence import Evidence
from ...base.stage import Stage
from ...base.verdict import Check, Verdict
from ...distro.family import COMPRESS_FLAGS, MAX_LEVEL, Family
from ...drill import checks, known_issues
from ...drill.checks import CrashFacts
from ...drill.disks import SystemUnderTest
from ...drill.plan import RECOVERED, SAVED, Plan, disk_need_mib
from ...drill.warm_pool import WarmPool
from ...images.state import require_space
from ...kdump.service import GuestState, KdumpConfig, KdumpService
from ...vm.guest import Guest
from ...vm.run import Machine, Run
from ...vmcore import VmcoreError, open_vmcore
from ..jobs import Job, Jobs
from ..resume import asked_of, record_of, same_guest, taken_up
from .cells import COMPUTED, REAL, REFUSED, SweepCell, cell_from_json, compare_cells
from .refilter import CannotRun, Refilter

SCHEMA = 1
MIB = 1 << 20
CAPTURE_LEVEL = 0
DEFAULT_LEVELS = (0, 1, 16, 31)
DEFAULT_COMPRESSIONS = ("none", "zlib", "lzo")
DEFAULT_REAL = 2  # the capture of everything, and one to check what is computed from it
# By what a slow guest has to do: compressing with LZO costs less than writing and fetching what it saves.
CHEAPEST_FIRST = ("lzo", "snappy", "zstd", "zlib", "none")
MAX_CELLS = 160  # 32 levels, 5 compressions


@dataclass(kw_only=True)
class Sweep:
    """Everything that a sweep found."""

    image: str
    memory_mib: int
    vcpus: int
    levels: tuple[int, ...]
    compressions: tuple[str, ...]
    accelerator: str = ""
    kernel: str | None = None
    makedumpfile: str | None = None
    cells: list[SweepCell] = field(default_factory=list)  # the table
    controls: list[SweepCell] = field(default_factory=list)  # computed although there is a real crash, to compare
    relations: list[Check] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    crashes: int = 0
    took_s: float = 0.0
    evidence: str = ""
    jobs: int = 1  # at once, at most; it shows in the times
    asked: dict[str, str] = field(default_factory=dict)  # by option, for who goes on with it
    real: list[list[Any]] = field(default_factory=list)  # the cells that are crashes, once that is decided
    computed: list[list[Any]] = field(default_factory=list)  # and those that are not

    @property
    def ok(self) -> bool:
        """Whether there are cells, and all of them and all relations hold; refused ones are neither good nor bad."""
        held = [cell.ok for cell in self.cells if cell.how != REFUSED]
        return bool(held) and all(held) and all(relation.ok for relation in self.relations)

    def cell(self, level: int, compress: str) -> SweepCell | None:
        """The cell of the table, if it was asked for."""
        return next((cell for cell in self.cells if (cell.level, cell.compress) == (level, compress)), None)

    def refused(self) -> dict[str, str]:
        """Why, for each compression that the guest does not have."""
        return {cell.compress: cell.reason or "" for cell in self.cells if cell.how == REFUSED}

    def failures(self, *, with_known: bool = True) -> list[str]:
        """What does not hold, the relations first; those that are known issues only on request."""
        found = [f"{one.name}: expected {one.expected}, seen {one.seen}" for one in self.relations if not one.ok]
        for cell in self.cells:
            if cell.how != REFUSED and not cell.ok and (with_known or cell.known_issue is None):
                issue = f" (known issue {cell.known_issue})" if cell.known_issue else ""
                found.append(f"{cell.name}, {cell.how}: {cell.reason}{issue}")
        if not any(cell.how != REFUSED for cell in self.cells):
            found.append("; ".join(self.refused().values()) or "nothing was swept")
        return found

    def explain(self) -> str:
        """What does not hold, for an assertion's message."""
        return "\n  ".join([f"{self.image}: {len(self.cells)} cells", *self.failures(), f"evidence: {self.evidence}"])

    def to_json(self) -> dict[str, Any]:
        """The record as JSON takes it."""
        return {"schema": SCHEMA, "ok": self.ok, **asdict(self), "refused": self.refused()}

    def draw(self, path: Path) -> None:
        """The plot of the sizes; none where there is nothing to draw."""
        lines: dict[str, list[plot.Point]] = {}
        for cell in self.cells:
            if cell.size_bytes:
                point = plot.Point(cell.level, cell.size_bytes / MIB, cell.how == COMPUTED)
                lines.setdefault(cell.compress, []).append(point)
        if not lines:
            return
        order = [name for name in COMPRESS_FLAGS if name in lines]
        facts = [
            f"Linux {self.kernel}" if self.kernel else "",
            f"makedumpfile {self.makedumpfile}" if self.makedumpfile else "",
            f"guest with {self.memory_mib:,} MiB",
        ]
        plot.draw_sizes(
            path,
            {name: lines[name] for name in order},
            title=f"{self.image}: size of the vmcore by dump level",
            subtitle=", ".join(fact for fact in facts if fact),
        )


def parse_levels(text: str) -> tuple[int, ...]:
    """Dump levels as in 0,1,16,31, in their order and each once; UsageError names what is none."""
    levels = set()
    for part in _parts(text, "levels", "0,1,16,31"):
        if not part.isascii() or not part.isdigit() or int(part) > MAX_LEVEL:
            raise UsageError(f"dump level {part!r} does not exist (0 to {MAX_LEVEL}; makedumpfile(8), -d)")
        levels.add(int(part))
    return tuple(sorted(levels))


def parse_compressions(text: str) -> tuple[str, ...]:
    """Compressions as in none,zlib,lzo, each once; UsageError names what is none."""
    names = _parts(text, "compressions", "none,zlib,lzo")
    for name in names:
        if name not in COMPRESS_FLAGS:
            raise UsageError(f"unknown compression {name!r} (known: {', '.join(COMPRESS_FLAGS)})")
    return tuple(dict.fromkeys(names))


def parse_real(text: str) -> int | None:
    """A number of crashes, or all."""
    if text == "all":
        return None
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= MAX_CELLS:
        raise UsageError(f"{text!r} is no number of real crashes (1 to {MAX_CELLS}, or all)")
    return int(text)


def _parts(text: str, what: str, example: str) -> list[str]:
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise UsageError(f"{text!r} is no list of {what} (as in {example})")
    return parts


@dataclass(frozen=True, kw_only=True)
class SweepPlan:
    """One sweep, as it was asked for."""

    subject: SystemUnderTest
    levels: tuple[int, ...] = DEFAULT_LEVELS
    compressions: tuple[str, ...] = DEFAULT_COMPRESSIONS
    real: int | None = DEFAULT_REAL  # how many crashes; None crashes for every cell
    machine: Machine = field(default_factory=Machine)
    crashkernel: str | None = None
    budget_s: float | None = None  # panic to login, of each crash
    name: str = ""  # of the evidence directory
    scenario: str = known_issues.DRILL

    def check(self) -> None:
        """UsageError for anything that can be known wrong before a guest is started."""
        if not self.levels or not self.compressions:
            raise UsageError("a sweep needs levels and compressions")
        if self.real is not None and self.real < 1:
            raise UsageError(f"{self.real} real crashes are too few: everything is computed from one")
        if self.crashkernel == "none":
            raise UsageError("a guest without a reservation has nothing to sweep")
        # What the family has no setting for is refused in the table, unless there is nothing else to sweep.
        settable = self.subject.family.config.compressions
        left = [name for name in self.compressions if name in settable or name not in COMPRESS_FLAGS]
        for level, compress in product(self.levels, left or self.compressions):
            self.drill("", level=level, compress=compress).check()

    def asked(self, run: Run) -> dict[str, str]:
        """What makes it this sweep and no other, by option."""
        return {
            **asked_of(run, self.subject, self.machine),
            "--levels": ",".join(map(str, self.levels)),
            "--compress": ",".join(self.compressions),
            "--real": "all" if self.real is None else str(self.real),
            "--memory": str(self.machine.memory_mib),
            "--vcpus": str(self.machine.vcpus),
            "--crashkernel": self.crashkernel or "",
            "--budget": str(self.budget_s or ""),
        }

    def drill(self, name: str, *, level: int | None, compress: str | None) -> Plan:
        """One of its crashes."""
        return Plan(
            subject=self.subject,
            machine=self.machine,
            config=KdumpConfig(crashkernel=self.crashkernel, level=level, compress=compress),
            budget_s=self.budget_s,
            # A cell says nothing about the reboot, unless somebody wants it within a time.
            until=SAVED if self.subject.readable and self.budget_s is None else RECOVERED,
            name=name,
            scenario=self.scenario,
        )


@dataclass(frozen=True, kw_only=True)
class Crashes:
    """Which cells are real crashes, the first one first."""

    real: tuple[tuple[int, str], ...]
    computed: tuple[tuple[int, str], ...]


def choose_crashes(levels: Sequence[int], compressions: Sequence[str], *, real: int | None, favourite: str) -> Crashes:
    """Crash for every cell, or for so many that all levels and compressions get their turn, from the highest level.

    With computed cells the first crash is that of everything, even where nobody asked for its level.
    """
    cells = list(product(levels, compressions))
    if real is None or real >= len(cells):
        return Crashes(real=tuple(cells), computed=())
    chosen = [(CAPTURE_LEVEL, min(compressions, key=CHEAPEST_FIRST.index))]
    left = [cell for cell in cells if cell not in chosen]

    def worth(cell: tuple[int, str]) -> tuple[int, int, bool]:
        fresh = sum(cell[part] not in {other[part] for other in chosen} for part in (0, 1))
        return fresh, cell[0], cell[1] == favourite

    while len(chosen) < real and left:
        chosen.append(max(left, key=worth))
        left.remove(chosen[-1])
    return Crashes(real=tuple(chosen), computed=tuple(left))


class _NoCompressor(HarnessError):
    """The guest can have none of the compressions that were asked for."""


def run_sweep(run: Run, plan: SweepPlan, *, on_verdict: Callable[[Verdict], None] = lambda _: None) -> Sweep:
    """Crash, compute, compare; on_verdict is told of each crash."""
    plan.check()
    run.open_evidence()
    with record_of(run, plan.name or f"sweep-{plan.subject.name}") as evidence:
        return _Sweep(run, plan, evidence, on_verdict).take()


class _Sweep:
    """The state of one sweep on its way."""

    def __init__(self, run: Run, plan: SweepPlan, evidence: Evidence, on_verdict: Callable[[Verdict], None]) -> None:
        self.run, self.plan, self.evidence, self.on_verdict = run, plan, evidence, on_verdict
        self.progress = run.progress
        self.name = str(self.evidence.directory.relative_to(run.evidence_directory))
        self.work = run.directory.path / self.evidence.directory.name.replace("/", "-")
        self.crashes = Crashes(real=(), computed=())
        self.stack: KdumpService | None = None  # of the first guest
        self.refilter: Refilter | None = None
        self.capture: Path | None = None
        self.facts: CrashFacts | None = None
        self.known_issues = known_issues.load_known_issues()
        self.pools: dict[int, WarmPool] = {}  # of each of the drills that go side by side: a saved guest is one guest
        self.numbers = itertools.count(1)
        self.capture_number = 1  # of the crash that others are computed from
        self.lock = threading.RLock()  # for the result and all that it is told to
        self.started_s = now_s()
        self.result = Sweep(
            image=plan.subject.name,
            memory_mib=plan.machine.memory_mib,
            vcpus=plan.machine.vcpus,
            levels=plan.levels,
            compressions=plan.compressions,
            accelerator=run.accelerator,
            evidence=str(self.evidence.directory),
            asked=plan.asked(run),
        )
        if run.options.resume is not None:
            self._take_up(run.options.resume)

    def take(self) -> Sweep:
        """All steps; what there is when something breaks is written down."""
        try:
            self._save()
            self.work.mkdir(mode=0o711)
            self._rest(None if self._has_first() else self._crash(None, before_crash=self._settle, on_dump=self._keep))
        except _NoCompressor as error:
            self.evidence.event("nothing swept", why=str(error))
        finally:
            for pool in self.pools.values():
                pool.close()
            shutil.rmtree(self.work, ignore_errors=True)
            self._finish()
        return self.result

    def _take_up(self, path: Path) -> None:
        """Begin with what a run has found that was stopped."""
        names = ("kernel", "makedumpfile", "notes", "crashes", "jobs", "real", "computed")
        with taken_up(path, self.result, *names) as record:
            self.started_s -= float(record["took_s"])
            self.crashes = Crashes(real=_cells(record["real"]), computed=_cells(record["computed"]))
            self.result.cells = [cell_from_json(row) for row in record["cells"]]
            self.result.controls = [cell_from_json(row) for row in record["controls"]]
            crashed = [cell.crash or 0 for cell in self.result.cells if cell.how == REAL]
            self.numbers = itertools.count(max([*crashed, self.result.crashes]) + 1)
        done = sum(cell.how != REFUSED for cell in self.result.cells)
        of = len(self.crashes.real) + len(self.crashes.computed)
        self.progress.say(f"going on in {path.parent}: {f'{done} of {of}' if of else 'none'} of the cells are there")

    def _has_first(self) -> bool:
        """Whether nothing more is to be had of the first crash; what was, and is not all, is forgotten."""
        every = [*self.result.cells, *self.result.controls]
        computed = {(cell.level, cell.compress) for cell in every if cell.how == COMPUTED}
        real = {(cell.level, cell.compress) for cell in self.result.cells if cell.how == REAL}
        # The crashes are computed, too, to compare: without these nobody notices that computing cannot be believed.
        wanted = {*self.crashes.computed, *self.crashes.real} if self.crashes.computed else set()
        if self.crashes.real and self.crashes.real[0] in real and computed == wanted:
            return True
        if self.crashes.computed and self.crashes.real[0] in real:
            self.progress.say("the dump that cells are computed from is gone: one more crash for it")
        # All of these are of one crash, or they could not be compared.
        self.result.cells = [
            cell
            for cell in self.result.cells
            if cell.how == REFUSED or (cell.how == REAL and (cell.level, cell.compress) != self.crashes.real[0])
        ]
        self.result.controls.clear()
        return False

    def _rest(self, first: Verdict | None) -> None:
        """Everything after the first crash, side by side where the host has room."""
        done = {(cell.level, cell.compress) for cell in self.result.cells if cell.how == REAL}
        tasks = [
            Job(label=f"-d {level} {compress}", kind=REAL, work=partial(self._crash, (level, compress)))
            for level, compress in self.crashes.real[1:]
            if (level, compress) not in done
        ]
        if self.crashes.computed and first is not None:
            tasks.insert(0, Job(label="computing", kind=COMPUTED, work=partial(self._compute, first)))
        memory_mib = self.plan.machine.memory_mib
        at_once = self.run.at_once([memory_mib] * len(tasks), disk_need_mib(memory_mib))
        self.result.jobs = max(at_once, self.result.jobs)
        if at_once > 1 and self.plan.budget_s is not None:
            self._note(f"the budget of {self.plan.budget_s:.0f} s was kept or not beside {at_once - 1} other drills")
        before = [
            (REAL, cell.took_s)
            for cell in self.result.cells
            # The first one had the host for itself, and tells nothing of those that share it.
            if cell.how == REAL and cell.took_s is not None and (at_once == 1 or cell.crash != self.capture_number)
        ]
        with Jobs(self.run, at_once, [task.kind for task in tasks], before=before) as jobs:
            jobs.run(tasks)

    def _pool(self, place: int) -> WarmPool:
        with self.lock:
            return self.pools.setdefault(place, WarmPool(self.run, most=1))

    # ------------------------------------------------------------ real crashes

    def _crash(self, cell: tuple[int, str] | None, place: int = 0, **hooks: Any) -> Verdict:
        """Drill for one cell; the first one is known only when the guest was asked what it can."""
        number = next(self.numbers)
        if cell is None:
            self.capture_number = number
        of = f" of {len(self.crashes.real)}" if self.crashes.real else ""
        what = f"-d {cell[0]} {cell[1]}" if cell else "everything that the others can be computed from"
        self.progress.say(f"crash {number}{of}: {what}")
        level, compress = cell or (None, None)
        plan = self.plan.drill(f"{self.name}/crash-{number}", level=level, compress=compress)
        started_s = now_s()
        verdict = self._pool(place).drill(replace(plan, **hooks))
        if not cell and not self.crashes.real:  # it ended before _settle() could ask the guest
            raise CommandFailed(f"there is nothing to sweep: {verdict.reason()}", see=verdict.evidence)
        level, compress = cell or self.crashes.real[0]
        if self.run.options.resume is not None:
            same_guest(self.run.options.resume, verdict, self.result.kernel, self.result.makedumpfile)
        with self.lock:
            self.result.crashes += 1
            self.result.kernel, self.result.makedumpfile = verdict.kernel, verdict.makedumpfile
            made = self._real_cell(verdict, level, compress, number)
            self.result.cells.append(replace(made, took_s=round(now_s() - started_s, 3)))
            self._save()
            self.on_verdict(verdict)
        return verdict

    def _real_cell(self, verdict: Verdict, level: int, compress: str, number: int) -> SweepCell:
        dump = verdict.dump or {}
        as_asked = (verdict.level, verdict.compress) == (level, compress)
        reason = None if verdict.verified else verdict.reason()
        if not as_asked:
            reason = f"the guest was configured for -d {verdict.level} {verdict.compress}; {verdict.reason()}"
        # The drill has said them, each time.
        self.result.notes.extend(remark for remark in verdict.remarks if remark not in self.result.notes)
        if verdict.known_issue_note:
            self._note(f"-d {level} {compress}: {verdict.known_issue_note}")
        return SweepCell(
            level=level,
            compress=compress,
            how=REAL,
            ok=verdict.verified and as_asked,
            reason=reason,
            crash=number,
            size_bytes=dump.get("size_bytes"),
            pages_kept=dump.get("pages_kept"),
            pages_total=dump.get("pages_total"),
            frames=_frames(self.capture) if self.capture is not None and number == self.capture_number else None,
            dump_s=verdict.phases_s.get("dump"),
            checks=tuple(verdict.checks),
            known_issue=verdict.known_issue,
            evidence=verdict.evidence,
        )

    def _settle(self, guest: Guest, stack: KdumpService) -> None:
        """Decide what is crashed for and what is computed, now that the guest can be asked what it is able to do."""
        self.stack = stack
        state = stack.state()
        if self.run.options.resume is not None:
            same_guest(self.run.options.resume, state, self.result.kernel, self.result.makedumpfile)
        usable = []
        for name in self.plan.compressions:
            if (why := _lack(name, stack.family, state)) is not None:
                self._refuse(name, why)
            else:
                usable.append(name)
        self.result.kernel, self.result.makedumpfile = state.kernel, state.makedumpfile
        if not usable:
            raise _NoCompressor("; ".join(self.result.refused().values()))
        favourite = stack.family.compress
        wanted = choose_crashes(self.plan.levels, usable, real=self.plan.real, favourite=favourite)
        if wanted.computed:
            try:
                with self.progress.step("bringing the guest's makedumpfile here"):
                    self.refilter = Refilter.of_guest(
                        guest.shell,
                        self.work / "refilter",
                        memory_mib=self.plan.machine.memory_mib,
                        stretch=lambda: self.run.options.timeout_factor * self.run.load,
                        tick=self.progress.tick,
                        on_result=lambda result: self.evidence.command(
                            result.command, result.status, result.out, result.err, result.took_s
                        ),
                    )
            except (CannotRun, CommandFailed) as error:
                self._note(f"every cell is a real crash, because the guest's makedumpfile cannot run here: {error}")
                wanted = choose_crashes(self.plan.levels, usable, real=None, favourite=favourite)
        self.crashes = wanted
        self.result.real, self.result.computed = list(map(list, wanted.real)), list(map(list, wanted.computed))
        if stack.set_core_collector(*wanted.real[0]) and stack.family.config.in_initramfs:
            stack.arm()

    def _refuse(self, compress: str, why: str) -> None:
        self._note(f"{compress} is refused: {why}")
        if compress in self.result.refused():
            return  # it was before, too
        for level in self.plan.levels:
            self.result.cells.append(SweepCell(level=level, compress=compress, how=REFUSED, ok=False, reason=why))

    def _keep(self, dump: Path, facts: CrashFacts) -> None:
        """A second name for the capture, which stays when the drill removes the first."""
        self.facts = facts
        if self.refilter is None:
            return
        self.capture = self.work / "capture"
        try:
            os.link(dump, self.capture)
        except OSError:  # evidence and state are not on the same file system
            self.run.state.require_space(dump.stat().st_size // MIB + 16, "a copy of the vmcore")
            shutil.copyfile(dump, self.capture)

    # ------------------------------------------------------------ computed cells

    def _compute(self, first: Verdict, _place: int = 0) -> None:
        """The cells that are no crashes, and those of the crashes again, to compare."""
        controls = [cell for cell in self.crashes.real if cell not in self.crashes.computed]
        wanted = [*((*cell, True) for cell in self.crashes.computed), *((*cell, False) for cell in controls)]
        trouble = self._load(first)
        for number, (level, compress, in_table) in enumerate(wanted, start=1):
            if trouble is not None:
                cell = SweepCell(level=level, compress=compress, how=COMPUTED, ok=False, reason=trouble)
            else:
                text = f"computing -d {level} {compress}, {number} of {len(wanted)}"
                with self.progress.step(text):
                    cell = self._computed_cell(first, level, compress)
            with self.lock:
                (self.result.cells if in_table else self.result.controls).append(cell)
        if self.refilter is not None:
            self.refilter.remove()
        if self.capture is not None:
            self.capture.unlink(missing_ok=True)
        self._save()

    def _load(self, first: Verdict) -> str | None:
        """Put the capture where it can be worked on; otherwise why not."""
        whole = any(check.name == "complete" and check.ok for check in first.checks)
        if self.capture is None or self.facts is None or self.refilter is None or not whole:
            return f"not computed, for want of a whole dump of everything: {first.reason()}"
        self.run.state.require_space(self.refilter.need_mib(self.capture), "computing the other cells")
        try:
            with self.progress.step("taking the dump of everything"):
                self.refilter.load(self.capture, flattened=_is_flattened(first))
        except CommandFailed as error:
            return f"not computed: {error}"
        return None

    def _computed_cell(self, first: Verdict, level: int, compress: str) -> SweepCell:
        """Compute one dump, and judge it by everything that a vmcore of that crash is judged by."""
        assert self.stack is not None
        assert self.refilter is not None
        assert self.facts is not None
        name = f"computed-{level}-{compress}"
        path = self.work / f"{name}.dump"
        started_s = now_s()
        try:
            self.refilter.compute(path, level=level, compress=compress, flattened=_is_flattened(first))
        except CommandFailed as error:
            path.unlink(missing_ok=True)
            return SweepCell(level=level, compress=compress, how=COMPUTED, ok=False, reason=str(error))
        took_s = now_s() - started_s
        verdict = replace(
            first,
            level=level,
            compress=compress,
            reached=Stage.RECOVERED,
            verified=False,
            stopped_by=None,
            checks=[],
            phases_s={},
            symptoms=[],
            evidence=str(self.evidence.directory / name),
        )
        facts = replace(self.facts, level=level, compress=compress)
        formats = self.stack.formats(facts.before, first.target)
        found = checks.check_dump(verdict, path, facts, expected_formats=formats)
        verdict.verified = not list(verdict.failed())
        known_issues.judge(verdict, self.known_issues, scenario=self.plan.scenario)
        if found is not None:
            self.evidence.json(f"{name}/inspect.json", found.to_json())
        cell = SweepCell(
            level=level,
            compress=compress,
            how=COMPUTED,
            ok=verdict.verified,
            reason=None if verdict.verified else verdict.reason(),
            crash=self.capture_number,
            size_bytes=path.stat().st_size,
            pages_kept=found.pages_kept if found else None,
            pages_total=found.pages_total if found else None,
            frames=_frames(path),
            took_s=round(took_s, 3),
            checks=tuple(verdict.checks),
            known_issue=verdict.known_issue,
            evidence=verdict.evidence,
        )
        self._dispose(path, self.evidence.directory / name, good=cell.ok)
        return cell

    def _dispose(self, path: Path, directory: Path, *, good: bool) -> None:
        """Keep a computed dump beside its evidence where the user wants that of a real one."""
        keep = self.run.options.keep
        if keep == "never" or (keep == "failed" and good):
            path.unlink()
            return
        require_space(
            self.evidence.directory, path.stat().st_size // MIB + 16, "a computed vmcore", option="--evidence"
        )
        directory.mkdir(exist_ok=True)
        path.chmod(0o600)
        shutil.move(path, directory / "vmcore")

    # ------------------------------------------------------------ the result

    def _note(self, text: str) -> None:
        self.progress.say(text)
        with self.lock:
            if text not in self.result.notes:
                self.result.notes.append(text)

    def _save(self) -> None:
        with self.lock:
            self.result.took_s = round(now_s() - self.started_s, 3)
            self.evidence.json("sweep.json", self.result.to_json())

    def _finish(self) -> None:
        order = {name: at for at, name in enumerate(self.plan.compressions)}
        self.result.cells.sort(key=lambda cell: (cell.level, order[cell.compress]))
        self.result.relations = compare_cells([*self.result.cells, *self.result.controls])
        self._save()
        self.result.draw(self.evidence.directory / "sweep.svg")


def _cells(rows: list[list[Any]]) -> tuple[tuple[int, str], ...]:
    """Levels and compressions of a record."""
    return tuple((int(level), str(compress)) for level, compress in rows)


def _lack(compress: str, family: Family, state: GuestState) -> str | None:
    """Why the guest cannot write such a dump; None where it can."""
    if compress not in family.config.compressions:
        return f"kdump of the family {family.name} has no setting for {compress}"
    if state.makedumpfile is None:
        return "this guest has no makedumpfile"
    if compress not in state.compressors:
        return f"makedumpfile {state.makedumpfile} of this guest is built without {compress}"
    return None


def _is_flattened(first: Verdict) -> bool:
    """Whether the guest flattens its dumps, by its first one: a release may have either format."""
    return str((first.dump or {}).get("format")).endswith("-flattened")


def _frames(path: Path) -> str | None:
    """A digest of which page frames a dump keeps."""
    with contextlib.suppress(VmcoreError), open_vmcore(path) as vmcore:
        return hashlib.sha256(vmcore.kept_bitmap().tobytes()).hexdigest()[:16]
    return None
