"""Dumps by level and compression: a few real crashes, and the other cells computed from the first crash.

The first crash dumps everything (-d 0). The guest's own makedumpfile computes the other cells from its vmcore on this
host; at least one of these cells is a real crash as well and shows whether the computation is right.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ...base.clock import now_s
from ...base.errors import CommandFailed, HarnessError
from ...base.evidence import Evidence
from ...base.stage import Stage
from ...base.units import MIB
from ...base.verdict import Verdict
from ...distro.family import Family
from ...drill import checks, known_issues
from ...drill.checks import CrashFacts
from ...drill.plan import disk_need_mib
from ...drill.warm_pool import WarmPool
from ...images.state import require_space
from ...kdump.guest_state import GuestState
from ...kdump.service import KdumpService
from ...vm.guest import Guest
from ...vm.run import Run
from ...vmcore import VmcoreError, open_vmcore
from ..campaign import Campaign
from ..jobs import Job, Jobs
from .cells import COMPUTED, REAL, REFUSED, SweepCell, cell_from_json, compare_cells
from .plan import Crashes, SweepPlan, choose_crashes
from .refilter import CannotRun, Refilter
from .result import Sweep


class _NoCompressor(HarnessError):
    """The guest supports none of the requested compressions."""


def run_sweep(run: Run, plan: SweepPlan, *, on_verdict: Callable[[Verdict], None] = lambda _: None) -> Sweep:
    """Crash, compute the other cells and compare; call on_verdict after each crash."""
    return _Sweep.start(run, plan, on_verdict)


class _Sweep(Campaign[SweepPlan, Sweep]):
    """One sweep."""

    file = "sweep.json"
    restored = ("kernel", "makedumpfile", "notes", "crashes", "jobs", "real", "computed")

    def __init__(self, run: Run, plan: SweepPlan, evidence: Evidence, on_verdict: Callable[[Verdict], None]) -> None:
        super().__init__(run, plan, evidence, on_verdict)
        self.work = run.directory.path / self.evidence.directory.name.replace("/", "-")
        self.crashes = Crashes(real=(), computed=())
        self.service: KdumpService | None = None  # kdump service of the first guest
        self.refilter: Refilter | None = None
        self.capture: Path | None = None
        self.facts: CrashFacts | None = None
        self.known_issues = known_issues.load_known_issues()
        self.pools: list[WarmPool] = []  # one for each parallel drill, because a snapshot runs once at a time
        self.idle: list[WarmPool] = []  # those that no drill uses now
        self.numbers = itertools.count(1)
        self.capture_number = 1  # number of the crash that the other cells are computed from

    def _new_result(self) -> Sweep:
        plan = self.plan
        return Sweep(
            image=plan.subject.name,
            memory_mib=plan.machine.memory_mib,
            vcpus=plan.machine.vcpus,
            levels=plan.levels,
            compressions=plan.compressions,
        )

    def _read(self, record: Mapping[str, Any]) -> None:
        self.crashes = Crashes(real=_cells(record["real"]), computed=_cells(record["computed"]))
        self.result.cells = [cell_from_json(row) for row in record["cells"]]
        self.result.controls = [cell_from_json(row) for row in record["controls"]]
        crashed = [cell.crash or 0 for cell in self.result.cells if cell.how == REAL]
        self.numbers = itertools.count(max([*crashed, self.result.crashes]) + 1)

    def _done(self) -> str:
        done = sum(cell.how != REFUSED for cell in self.result.cells)
        of = len(self.crashes.real) + len(self.crashes.computed)
        return f"{done} of {of} cells" if of else "no cells"

    def _drill_all(self) -> None:
        try:
            self.work.mkdir(mode=0o711)
            self._rest(None if self._has_first() else self._crash(None, before_crash=self._settle, on_dump=self._keep))
        except _NoCompressor as error:
            self.evidence.event("nothing swept", why=str(error))
        finally:
            for pool in self.pools:
                pool.close()
            shutil.rmtree(self.work, ignore_errors=True)

    def _has_first(self) -> bool:
        """Return whether the first crash is complete with all cells computed from it; otherwise forget these cells."""
        every = [*self.result.cells, *self.result.controls]
        computed = {(cell.level, cell.compress) for cell in every if cell.how == COMPUTED}
        real = {(cell.level, cell.compress) for cell in self.result.cells if cell.how == REAL}
        # The real crashes are computed as well: the comparison shows whether the computation is right.
        wanted = {*self.crashes.computed, *self.crashes.real} if self.crashes.computed else set()
        if self.crashes.real and self.crashes.real[0] in real and computed == wanted:
            return True
        if self.crashes.computed and self.crashes.real[0] in real:
            self.progress.say("the dump for the computed cells is gone: repeating the first crash")
        # All computed cells must stem from one crash, or they could not be compared.
        self.result.cells = [
            cell
            for cell in self.result.cells
            if cell.how == REFUSED or (cell.how == REAL and (cell.level, cell.compress) != self.crashes.real[0])
        ]
        self.result.controls.clear()
        return False

    def _rest(self, first: Verdict | None) -> None:
        """Make all cells after the first crash, in parallel as far as the host has room."""
        done = {(cell.level, cell.compress) for cell in self.result.cells if cell.how == REAL}
        tasks = [
            Job(label=f"-d {level} {compress}", kind=REAL, work=partial(self._crash, (level, compress)))
            for level, compress in self.crashes.real[1:]
            if (level, compress) not in done
        ]
        if self.crashes.computed and first is not None:
            tasks.insert(0, Job(label="computing", kind=COMPUTED, work=partial(self._compute, first)))
        memory_mib = self.plan.machine.memory_mib
        at_once = self._at_once([memory_mib] * len(tasks), disk_need_mib(memory_mib))
        if at_once > 1 and self.plan.budget_s is not None:
            self._note(
                f"the budget of {self.plan.budget_s:.0f} s was judged with {at_once - 1} other drills in parallel"
            )
        before = [
            (REAL, cell.took_s)
            for cell in self.result.cells
            # The first crash had the host to itself, so its time does not predict those that share it.
            if cell.how == REAL and cell.took_s is not None and (at_once == 1 or cell.crash != self.capture_number)
        ]
        with Jobs(self.run, at_once, [task.kind for task in tasks], before=before) as jobs:
            jobs.run(tasks)

    @contextlib.contextmanager
    def _pool(self) -> Iterator[WarmPool]:
        """Lend a pool that no other drill uses, the one used last first."""
        with self.lock:
            if not self.idle:
                self.idle.append(WarmPool(self.run, most=1))
                self.pools.append(self.idle[-1])
            pool = self.idle.pop()
        try:
            yield pool
        finally:
            with self.lock:
                self.idle.append(pool)

    # ------------------------------------------------------------ real crashes

    def _crash(self, cell: tuple[int, str] | None, **hooks: Any) -> Verdict:
        """Drill for one cell; the first cell is known only after the guest reported its compressions."""
        number = next(self.numbers)
        if cell is None:
            self.capture_number = number
        of = f" of {len(self.crashes.real)}" if self.crashes.real else ""
        what = f"-d {cell[0]} {cell[1]}" if cell else "everything, to compute the other cells from"
        self.progress.say(f"crash {number}{of}: {what}")
        level, compress = cell or (None, None)
        plan = self.plan.drill(f"{self.name}/crash-{number}", level=level, compress=compress)
        started_s = now_s()
        with self._pool() as pool:
            verdict = pool.drill(replace(plan, **hooks))
        if not cell and not self.crashes.real:  # the drill ended before _settle() could read the guest's state
            raise CommandFailed(f"nothing to sweep: {verdict.reason()}", see=verdict.evidence)
        level, compress = cell or self.crashes.real[0]
        self._require_same(verdict, self.result.kernel, self.result.makedumpfile)
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
        # The drill has shown these remarks already.
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

    def _settle(self, guest: Guest, service: KdumpService) -> None:
        """Choose the real crashes and the computed cells, now that the guest can report its compressions."""
        self.service = service
        state = service.state()
        self._require_same(state, self.result.kernel, self.result.makedumpfile)
        usable = []
        for name in self.plan.compressions:
            if (why := _lack(name, service.family, state)) is not None:
                self._refuse(name, why)
            else:
                usable.append(name)
        self.result.kernel, self.result.makedumpfile = state.kernel, state.makedumpfile
        if not usable:
            raise _NoCompressor("; ".join(self.result.refused().values()))
        favourite = service.family.compress
        wanted = choose_crashes(self.plan.levels, usable, real=self.plan.real, favourite=favourite)
        if wanted.computed:
            try:
                with self.progress.step("copying the guest's makedumpfile to this host"):
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
                self._note(
                    f"every cell is a real crash, because the guest's makedumpfile does not run on this host: {error}"
                )
                wanted = choose_crashes(self.plan.levels, usable, real=None, favourite=favourite)
        self.crashes = wanted
        self.result.real, self.result.computed = list(map(list, wanted.real)), list(map(list, wanted.computed))
        if service.set_core_collector(*wanted.real[0]) and service.family.config.in_initramfs:
            service.arm()

    def _refuse(self, compress: str, why: str) -> None:
        self._note(f"{compress} is refused: {why}")
        if compress in self.result.refused():
            return  # an interrupted run refused the compression already
        for level in self.plan.levels:
            self.result.cells.append(SweepCell(level=level, compress=compress, how=REFUSED, ok=False, reason=why))

    def _keep(self, dump: Path, facts: CrashFacts) -> None:
        """Link the capture to a second name, which stays when the drill removes the first."""
        self.facts = facts
        if self.refilter is None:
            return
        self.capture = self.work / "capture"
        try:
            os.link(dump, self.capture)
        except OSError:  # evidence and state are on different filesystems
            self.run.state.require_space(dump.stat().st_size // MIB + 16, "a copy of the vmcore")
            shutil.copyfile(dump, self.capture)

    # ------------------------------------------------------------ computed cells

    def _compute(self, first: Verdict) -> None:
        """Compute the cells that are not crashes, and those of the crashes once more, to compare both."""
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
        """Load the capture into the refilter; return the reason if that is not possible."""
        whole = any(check.name == "complete" and check.ok for check in first.checks)
        if self.capture is None or self.facts is None or self.refilter is None or not whole:
            return f"not computed, for lack of a complete dump of everything: {first.reason()}"
        self.run.state.require_space(self.refilter.need_mib(self.capture), "computing the other cells")
        try:
            with self.progress.step("loading the dump of everything"):
                self.refilter.load(self.capture, flattened=_is_flattened(first))
        except CommandFailed as error:
            return f"not computed: {error}"
        return None

    def _computed_cell(self, first: Verdict, level: int, compress: str) -> SweepCell:
        """Compute one dump, and judge it by all checks of a vmcore of that crash."""
        assert self.service is not None
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
        formats = self.service.formats(facts.before, first.target)
        found = checks.check_dump(verdict, path, facts, expected_formats=formats)
        verdict.verified = not list(verdict.failed()) and not checks.unmade(verdict, checks.Scope.COMPUTED)
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
        """Keep a computed dump next to its evidence, if the user keeps real dumps as well."""
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

    def _finish(self) -> None:
        order = {name: at for at, name in enumerate(self.plan.compressions)}
        self.result.cells.sort(key=lambda cell: (cell.level, order[cell.compress]))
        self.result.relations = compare_cells([*self.result.cells, *self.result.controls])
        self._save()
        self.result.draw(self.evidence.directory / "sweep.svg")


def _cells(rows: list[list[Any]]) -> tuple[tuple[int, str], ...]:
    """Return the levels and compressions of a row of a record."""
    return tuple((int(level), str(compress)) for level, compress in rows)


def _lack(compress: str, family: Family, state: GuestState) -> str | None:
    """Return the reason why the guest cannot write such a dump, or None if it can."""
    if compress not in family.config.compressions:
        return f"kdump of the family {family.name} has no setting for {compress}"
    if state.makedumpfile is None:
        return "this guest has no makedumpfile"
    if compress not in state.compressors:
        return f"makedumpfile {state.makedumpfile} of this guest is built without {compress}"
    return None


def _is_flattened(first: Verdict) -> bool:
    """Return whether the guest flattens its dumps, judged by the first dump: a release may have either format."""
    return str((first.dump or {}).get("format")).endswith("-flattened")


def _frames(path: Path) -> str | None:
    """Return a digest of the page frames that a dump keeps."""
    with contextlib.suppress(VmcoreError), open_vmcore(path) as vmcore:
        return hashlib.sha256(vmcore.kept_bitmap().tobytes()).hexdigest()[:16]
    return None
