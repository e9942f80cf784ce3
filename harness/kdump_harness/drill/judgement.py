"""The record of one drill, and the verdict made from it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..base.clock import PhaseClock, raise_if_stopped
from ..base.errors import EXIT_UNJUDGED, HostError, NotArmed, UsageError
from ..base.evidence import Evidence
from ..base.stage import Stage
from ..base.verdict import Verdict
from ..diagnosis import diagnose_text
from ..fallback.records import Fallback
from ..kdump.capture_memory import read as read_memory
from ..kdump.crash_monitor import CrashMonitor
from ..kdump.guest_state import GuestState
from ..kdump.makedumpfile import read_words
from ..kdump.page_flags import MemoryState
from ..kdump.target import Target, find_target
from ..kdump.trigger import Trigger, find_trigger
from ..triage.crash import ask_crash
from ..vm.run import Run
from ..vmcore import VmcoreError, open_vmcore
from ..vmcore.oracle import compare
from .budgets import budget_s
from .checks import CrashFacts, Scope, record_check, unmade
from .known_issues import judge, load_known_issues
from .plan import MIB, SAVED, Plan


class DrillRecord:
    """The state of one drill."""

    def __init__(self, run: Run, plan: Plan, evidence: Evidence) -> None:
        self.run, self.plan, self.evidence = run, plan, evidence
        self.progress = run.progress
        self.clock = PhaseClock()
        self.handover_silence_s = plan.machine.architecture.handover_silence_s  # unscaled, between the two kernels
        self.trigger: Trigger = find_trigger(plan.trigger, vcpus=plan.machine.vcpus)
        self.target: Target = find_target(plan.target, plan.subject.family, plan.server)
        self.verdict = Verdict(
            image=plan.image,
            arch=plan.machine.architecture.machine,
            family=plan.subject.family.name,
            trigger=plan.trigger,
            target=plan.target,
            accelerator=run.accelerator,
            memory_mib=plan.machine.total_mib,
            dimms_mib=list(plan.machine.dimms_mib),
            vcpus=plan.machine.vcpus,
            firmware=plan.machine.firmware,
            until=plan.until,
            beside=run.beside,
            hotplug=[step.word for step in plan.hotplug],
            shapes=plan.shapes.names,
            append=plan.config.append,
            capture_append=plan.config.capture_append,
            kernel_asked=plan.subject.kernel.asked if plan.subject.kernel is not None else None,
            evidence=str(evidence.directory),
            # As "tests/test_kdump.py::test_dump[debian-12] (call)"; pytest sets it.
            test=os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0] or None,
        )
        self.console: list[str] = []
        self.dumps: list[Path] = []
        self.away = ""  # where the guest's own kdump sends dumps, if that is not looked at
        self.classes: Mapping[str, Mapping[str, int]] = {}  # of the pages, by the page structures in the dump
        self.fallback = Fallback(kinds=plan.fallback)
        self.picture: Path | None = None  # the guest's memory from the hypervisor
        self.stretched = 1.0  # the most that a wait since the trigger was stretched by
        self.known_issues = load_known_issues()
        self.budget_s = plan.budget_s if plan.budget_s is not None else budget_s(self.verdict)
        self.memory: MemoryState  # before the crash

    def refuse(self, error: NotArmed) -> None:
        """Judge a guest that is not armed by what its kdump said."""
        self.evidence.event("not armed", error=error.reason, see=str(error.see or ""))
        self.note_status(error.said)
        self.verdict.stopped_by = error.reason
        if error.state is not None:
            self.note_state(error.state)
        self.conclude(None)

    def note_status(self, said: str) -> None:
        """Return kdump's own status where it has loaded nothing; the console does not show the reason."""
        self.evidence.text("status.txt", said + "\n")
        self.console += said.splitlines()

    def note_state(self, state: GuestState) -> None:
        """Copy the guest's facts into the verdict."""
        verdict = self.verdict
        verdict.kernel, verdict.makedumpfile = state.kernel, state.makedumpfile
        verdict.machine_id = state.machine_id or None
        verdict.crashkernel, verdict.reserved_mib = state.crashkernel, state.reserved.fixed_bytes // MIB
        verdict.reserved = state.reserved.to_json()
        for remark in [*state.reservation_remarks(self.plan.machine.memory_mib), *state.collection_remarks()]:
            if remark not in verdict.remarks:
                verdict.remarks.append(remark)
        verdict.level, verdict.compress = state.level, state.compress

    def ask_oracle(self, path: Path) -> None:
        """Compare the vmcore with the picture taken before."""
        if not self.plan.oracle or self.verdict.not_judged:
            return
        if self.picture is None:
            record_check(self.verdict, "oracle", False, seen="the capture kernel was never seen")
            return
        picture = self.run.host.take(self.picture)
        try:
            with (
                self.progress.step("comparing the vmcore with the hypervisor's picture"),
                open_vmcore(path) as vmcore,
                open_vmcore(picture) as memory,
            ):
                found = compare(
                    vmcore, memory, progress=lambda done, total: self.progress.detail(f"{done:,} of {total:,} pages")
                )
        except VmcoreError as error:
            record_check(self.verdict, "oracle", False, seen=str(error))
            return
        finally:
            picture.unlink(missing_ok=True)  # as large as the guest's memory, and the run may drill for long
        # The true classes, where they are known, also check the harness's own judgement of the filter.
        complaint = any(check.name in ("filter", "pages") for check in self.verdict.failed())
        agreed = not found.classes or complaint == bool(found.wrong_side)
        seen = found.summary() + ("" if agreed else "; the checks filter and pages say otherwise")
        record_check(self.verdict, "oracle", found.ok and agreed, seen=seen)
        self.evidence.json("oracle.json", {**found.to_json(), "before": dict(self.memory.pages)})

    def ask_crash(self, path: Path, facts: CrashFacts) -> None:
        """Let the crash utility open the vmcore; a verdict without the answers that were asked for is not verified."""
        request, verdict = self.plan.crash, self.verdict
        if request is None:
            return
        suite = self.crash_suite(facts)
        try:
            report = ask_crash(
                path,
                request=request,
                suite=suite,
                log=facts.nonce,
                state=self.run.state.directory,
                progress=self.progress,
            )
        except VmcoreError as error:
            if error.exit_code == EXIT_UNJUDGED:
                verdict.not_judged = verdict.not_judged or str(error)
            else:
                record_check(verdict, "crash", False, seen=str(error))
        except (HostError, UsageError) as error:
            verdict.not_judged = verdict.not_judged or f"the check crash could not be made: {error}"
        else:
            verdict.crash = report.to_json()
            record_check(verdict, "crash", report.ok, seen=report.summary())
            self.evidence.text("crash.txt", report.transcript())

    def crash_suite(self, facts: CrashFacts) -> str:
        """Return the Debian suite of the kernel that crashed, as the image or the guest names it; empty for others."""
        image = self.plan.subject.image
        if image is not None and image.build is not None:
            return image.build.suite
        return facts.before.os_release.get("VERSION_CODENAME", "")

    def conclude(self, monitor: CrashMonitor | None) -> None:
        """Phases, symptoms, and whether it all adds up to verified."""
        raise_if_stopped()  # a guest that the harness destroyed proves nothing
        self.run.raise_if_disk_full()  # nor one that the host stopped
        verdict, clock = self.verdict, self.clock
        pairs = {
            "boot": ("power-on", "first-login"),
            "panic_to_capture": ("panic", "capture"),
            "capture_boot": ("capture", "dump"),
            "dump": ("dump", "saved"),
            "reboot": ("saved", "login"),
            "panic_to_login": ("panic", "login"),
        }
        spans = {name: clock.between_s(start, end) for name, (start, end) in pairs.items()}
        verdict.phases_s = {name: round(span, 3) for name, span in spans.items() if span is not None}
        if monitor is not None and monitor.panic_text is not None:
            self.evidence.text("panic.txt", monitor.panic_text + "\n")
        if verdict.stopped_by is None and monitor is not None and monitor.failed:
            verdict.stopped_by = f"the capture kernel says: {monitor.failed}"
        self._note_makedumpfile()
        if (memory := read_memory("\n".join(self.console))) is not None and memory.left_kib is not None:
            verdict.capture_memory = memory.to_json()
        verdict.symptoms = self._symptoms()
        scope, stage = self.goal()
        missing = unmade(verdict, scope, asked=("crash",) if self.plan.crash and self.trigger.panics else ())
        if verdict.reached is stage and not missing and not list(verdict.failed()) and not verdict.stopped_by:
            verdict.reached = Stage.VERIFIED
            verdict.verified = True
        judge(
            verdict,
            self.known_issues,
            scenario=self.plan.scenario,
            console="\n".join(self.console),
            unmade=missing,
        )
        self.evidence.event("verdict", reached=verdict.reached.name, verified=verdict.verified)
        keep = self.run.options.keep
        if keep == "never" or (keep == "failed" and verdict.verified):
            for path in self.dumps:
                path.unlink(missing_ok=True)
        verdict.vmcore = next((str(path) for path in self.dumps if path.exists()), None)
        self.evidence.json("verdict.json", verdict.to_json())

    def _note_makedumpfile(self) -> None:
        """Copy the messages of makedumpfile into the verdict, with remarks on those that differ from the dump."""
        verdict = self.verdict
        if verdict.reached < Stage.CAPTURING:
            return
        words = read_words("\n".join(self.console), verdict.makedumpfile)
        verdict.makedumpfile_said = words.to_json()
        verdict.remarks += [*words.remarks, *words.differences(self.classes, verdict.level or 0)]

    def goal(self) -> tuple[Scope, Stage]:
        """Return the checks that the drill must make, and the stage that it must reach."""
        if not self.trigger.panics:
            return Scope.SURVIVED, Stage.ARMED
        if self.plan.until == SAVED:
            return Scope.SAVED, Stage.SAVED
        return Scope.RECOVERED, Stage.RECOVERED

    def _symptoms(self) -> list[dict[str, Any]]:
        """Return the symptoms on this drill's console."""
        verdict = self.verdict
        facts = {
            "kernel": verdict.kernel or "",
            "crashkernel": verdict.crashkernel or "",
            "image": verdict.image,
        }
        console = list(self.console)
        if taken := next((check for check in verdict.failed() if check.name == "capture-memory"), None):
            console.append(f"kdump-harness: the capture kernel had more memory than was reserved: {taken.seen}")
        found = diagnose_text("\n".join(console), family=verdict.family, facts=facts)
        if not found.failed and verdict.stopped_by:
            # A silent console alone proves nothing; a wait that ended in vain does.
            lines = [*console, f"kdump-harness: {verdict.stopped_by}"]
            found = diagnose_text("\n".join(lines), family=verdict.family, facts=facts)
        return [symptom.to_json() for symptom in found.symptoms]

    def reach(self, stage: Stage) -> None:
        if stage > self.verdict.reached:
            self.verdict.reached = stage
            self.evidence.event("stage", reached=stage.name)
