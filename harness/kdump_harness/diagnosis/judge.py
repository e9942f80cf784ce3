"""Judge a log: the symptoms that count, the cause, and the stage that the crash reached."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..base.stage import Stage
from ..configuration.own_tables import family_lineage
from .boots import Boot, KernelRole, Match, Tracker
from .lines import LogLine
from .remedies import (
    KERNEL_LOG,
    OPENED_DUMP,
    PLACEHOLDERS,
    SIZE_GIVEN,
    Variant,
    doubled,
    driver_in,
    filled,
    host_in,
    is_size,
    main_size,
)
from .rules import RULES, Scene
from .speakers import Speaker
from .table import PLACES_IN_WORDS, SymptomRow, SymptomTable

OK = "ok"
INDETERMINATE = "indeterminate"

# More memory than any reservation for a capture kernel.
_TOO_BIG_FOR_CAPTURE_KIB = 4 << 20
# Capture kernels are done, or dead, within minutes; a fragment with later timestamps is more likely of a first kernel.
_CAPTURE_SELDOM_LIVES_S = 900.0
_SIGNS_OF_ONE_BOOT = frozenset(("reserved", "cpus-not-stopped"))  # the next boot may have another reservation
_PRESUMPTION = "If this is a capture kernel's console, for which only its early time stamps speak: "


@dataclass(frozen=True)
class Symptom:
    """A failure, or a remarkable fact, that a log shows."""

    name: str
    severity: str
    stage: Stage
    phase: str
    line: str
    line_number: int
    meaning: str
    remedy: str
    file: str = ""  # the log of a case of several

    def to_json(self) -> dict[str, Any]:
        """Return the symptom as verdict.json has it."""
        return {
            "name": self.name,
            "severity": self.severity,
            "stage": self.stage.name,
            "phase": self.phase,
            "line": self.line,
            "line_number": self.line_number,
            "meaning": self.meaning,
            "remedy": self.remedy,
            **({"file": self.file} if self.file else {}),
        }


@dataclass(frozen=True)
class Rejected:
    """A line that a symptom's pattern fits, and why it does not count."""

    name: str
    line: str
    line_number: int
    reason: str
    file: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """The failures in a log with their lines and remedies; the cause comes first."""

    mode: str
    stage: Stage
    symptoms: tuple[Symptom, ...]
    rejected: tuple[Rejected, ...]
    notes: tuple[str, ...]
    family: str | None
    kernel: str | None

    @property
    def failed(self) -> bool:
        """Return whether the log shows a failure."""
        return any(symptom.severity == "failure" for symptom in self.symptoms)

    def explain(self) -> list[str]:
        """Return one line for each thing that decided, and for each match that was rejected."""
        said = [f"{self.mode}: reached {self.stage.name}"]
        said += [f"  {note}" for note in self.notes]
        for symptom in self.symptoms:
            at = f"{symptom.file and symptom.file + ' '}line {symptom.line_number}: {symptom.line}"
            said.append(f"  {symptom.severity} {symptom.name} ({symptom.phase}), {at}")
        for rejected in self.rejected:
            at = f"{rejected.file and rejected.file + ' '}line {rejected.line_number}: {rejected.line}"
            said.append(f"  not {rejected.name}: {rejected.reason}, {at}")
        return said

    def to_json(self) -> dict[str, Any]:
        """Return the diagnosis as `diagnose --json` writes it."""
        return {
            "mode": self.mode,
            "stage": self.stage.name,
            "family": self.family,
            "kernel": self.kernel,
            "symptoms": [symptom.to_json() for symptom in self.symptoms],
        }


@dataclass(frozen=True)
class Proofs:
    """The events that other logs of the same case prove, each with its place; None where none does."""

    capture: str | None = None  # a capture kernel ran
    saved: str | None = None  # it saved the dump


_NO_PROOFS = Proofs()


@dataclass(frozen=True)
class MatchedRow:
    """A row with the line that decided for it."""

    row: int
    line: LogLine
    severity: str
    phase: KernelRole
    presumed: bool = False  # only early time stamps suggest that a capture kernel printed the line


class Judge:
    """The judgement of one log: its matches by their place and by the lines after them."""

    def __init__(
        self,
        table: SymptomTable,
        tracker: Tracker,
        family: str | None,
        facts: dict[str, str],
        *,
        is_dmesg_of_dump: bool,
        elsewhere: Proofs = _NO_PROOFS,
    ) -> None:
        self.table = table
        self.elsewhere = elsewhere
        self.tracker = tracker
        self.boots = tracker.boots
        self.family = family
        self._lineage = family_lineage(family) if family else ()
        self.facts = facts
        self.is_dmesg_of_dump = is_dmesg_of_dump
        self.phases = list(self._phases())
        self.findings: list[MatchedRow] = []
        self.rejected: list[Rejected] = []

    def diagnosis(self) -> Diagnosis:
        """Return the verdict on the log."""
        for number in range(len(self.boots)):
            self._judge_boot(number)
        stage = self._stage()
        symptoms = self._symptoms()
        mode = self.mode(symptoms, stage)
        return Diagnosis(
            mode=mode,
            stage=stage,
            symptoms=symptoms,
            rejected=tuple(self.rejected[:100]),
            notes=tuple(self._notes()),
            family=self.family,
            kernel=self._fact("kernel"),
        )

    def proofs(self, name: str) -> Proofs:
        """Return the events that this log proves, for the other logs of its case."""
        capture = saved = None
        for boot, phase in zip(self.boots, self.phases, strict=True):
            if phase is KernelRole.CAPTURE:
                capture = f"{name} line {boot.start}"
                if boot.saved is not None and boot.save_failed is None:
                    saved = f"{name} line {boot.saved.number}"
        if self.is_dmesg_of_dump:
            capture = capture or name
        return Proofs(capture, saved)

    def _phases(self) -> Iterator[KernelRole]:
        """Yield the phase of each boot, from its own evidence and from its neighbours'."""
        crashed = False
        for number, boot in enumerate(self.boots):
            after = self.boots[number + 1] if number + 1 < len(self.boots) else None
            known_first = (
                boot.first
                or boot.plain_command_line
                or boot.login
                or boot.handover
                or (boot.panic and boot.kdump_loaded)
                or (boot.memory_kib or 0) > _TOO_BIG_FOR_CAPTURE_KIB
            )
            if boot.capture is not None:
                yield KernelRole.CAPTURE
                crashed = True
            elif crashed:
                yield KernelRole.NEXT
            elif known_first or self.is_dmesg_of_dump or (after is not None and after.capture is not None):
                yield KernelRole.FIRST
            else:
                yield KernelRole.UNKNOWN
            crashed = crashed or boot.panic is not None

    def _judge_boot(self, number: int) -> None:
        """Accept or reject each match of one boot, then ask the rules."""
        boot, phase = self.boots[number], self.phases[number]
        failed = False
        for match in sorted(boot.matches, key=lambda match: match.line.number):
            row = self.table.rows[match.row]
            at = self._phase_of(match.line, boot, phase)
            reason = self._why_not(row, match, number, at)
            if reason:
                self.rejected.append(Rejected(row.name, match.line.text, match.line.number, reason))
                continue
            presumed = row.generic and at is KernelRole.UNKNOWN and match.speaker is not Speaker.KDUMP
            severity = self._severity(row, number, at)
            if presumed and severity == "failure":
                severity = "warning"
            failed = failed or (severity == "failure" and not row.explains)
            self.findings.append(MatchedRow(match.row, match.line, severity, at, presumed))
        last = number + 1 == len(self.boots)
        scene = Scene(
            boot,
            phase,
            None if last else self.boots[number + 1],
            None if last else self.phases[number + 1],
            self.is_dmesg_of_dump,
            failed,
        )
        for name, rule in RULES.items():
            index = self.table.by_rule(name)
            line = rule(scene) if index is not None else None
            if index is None or line is None:
                continue
            lost = name in ("panic-without-kdump", "handoff-no-capture-boot")
            if lost and (self.elsewhere.capture or self._is_presumed_capture(boot, phase)):
                continue
            row = self.table.rows[index]
            if self.elsewhere.saved and Stage[row.stage] < Stage.SAVED:
                reason = f"the dump was saved all the same ({self.elsewhere.saved})"
                self.rejected.append(Rejected(row.name, line.text, line.number, reason))
                continue
            at = self._phase_of(line, boot, phase)
            severity = self._severity(row, number, at)
            if name == "handoff-no-capture-boot" and boot.is_kernel_log:
                if OPENED_DUMP in self.tracker.signs:
                    continue
                # The log of every dump ends here, too; the jump's words, or a crash on purpose, make a console likely.
                severity = "warning" if boot.handover is not None or boot.sysrq is not None else "info"
                self.tracker.signs.add(KERNEL_LOG)
            self.findings.append(MatchedRow(index, line, severity, at))

    def _phase_of(self, line: LogLine, boot: Boot, phase: KernelRole) -> KernelRole:
        """Return the phase of one line: after the first kernel's panic it is the hand-over."""
        if phase is KernelRole.CAPTURE or boot.panic is None or line.number < boot.panic.number:
            return phase
        return phase if self._is_presumed_capture(boot, phase) else KernelRole.HANDOVER

    def _is_presumed_capture(self, boot: Boot, phase: KernelRole) -> bool:
        """Return whether a fragment without any evidence is more likely of a capture kernel than of another."""
        if phase is not KernelRole.UNKNOWN or boot.from_syslog or boot.ordinary is not None:
            return False
        if boot.latest_s is not None:
            return boot.latest_s <= _CAPTURE_SELDOM_LIVES_S
        return boot.trace_header is not None

    def _why_not(self, row: SymptomRow, match: Match, number: int, at: KernelRole) -> str | None:
        """Return the reason why a match does not count, or None when it does."""
        boot = self.boots[number]
        if row.family and self.family and not set(self._lineage) & set(row.family):
            return f"a message of {' and '.join(row.family)}, this is {self.family}"
        if row.during == "dmesg" and match.during != "dmesg":
            return "not of the run that saves the dmesg"
        if row.during == "vmcore" and match.during == "dmesg":
            return "of the run that saves the dmesg, not the vmcore"
        if at is not KernelRole.UNKNOWN:
            wanted = {*row.where, *(("next",) if "first" in row.where else ())}
            if at.value not in wanted:
                places = " or ".join(PLACES_IN_WORDS[place] for place in row.where)
                return f"printed by the {_IN_WORDS[at]}, it counts only in the {places}"
        reason = self._why_not_of_kdump(row, match, number, at)
        if reason:
            return reason
        restart = boot.restart if at is KernelRole.CAPTURE and boot.saved is not None else None
        if restart is not None and restart.number < match.line.number and Stage[row.stage] < Stage.SAVED:
            return f"the capture kernel had restarted the machine (line {restart.number})"
        after = self.boots[number + 1] if number + 1 < len(self.boots) else None
        if at is KernelRole.HANDOVER and after is not None and after.capture is not None:
            return f"the capture kernel started all the same (line {after.start})"
        if row.severity == "failure" and row.past in ("saving", "saved") and boot.saved is not None:
            return f"the dump was saved all the same (line {boot.saved.number})"
        of_capture = row.severity == "failure" and Stage[row.stage] >= Stage.CAPTURING
        if of_capture and row.past in ("saving", "saved") and self.elsewhere.saved is not None:
            return f"the dump was saved all the same ({self.elsewhere.saved})"
        is_harness = "kdump-harness: " in match.line.text
        if row.after_end and not is_harness and not self._ended_before(match.line, number):
            return "a boot loader speaks only after the kernel has ended"
        if row.past == "login" and (booted := self._booted_after(match.line, number)) is not None:
            return f"the machine booted afterwards (line {booted.number})"
        if row.past == "restart" and boot.restart is not None and boot.restart.number > match.line.number:
            return f"the kernel restarted the machine afterwards (line {boot.restart.number})"
        if row.past == "saving" and boot.dump_start is not None and boot.dump_start.number > match.line.number:
            return f"the capture kernel got past it and began to save (line {boot.dump_start.number})"
        if at in (KernelRole.FIRST, KernelRole.NEXT) or (
            at is KernelRole.UNKNOWN and Stage[row.stage] is Stage.NOTHING
        ):
            loaded = self._loaded_after(match.line, number)
            if loaded and not row.despite_load:
                return f"kdump was loaded afterwards ({loaded})"
        return None

    def _why_not_of_kdump(self, row: SymptomRow, match: Match, number: int, at: KernelRole) -> str | None:
        """Return the reason why neither kdump nor its capture kernel speaks in the line, or None when it may be."""
        if match.speaker is Speaker.KDUMP or at is KernelRole.HANDOVER:
            return None
        boot = self.boots[number]
        if at is KernelRole.CAPTURE:
            if match.speaker is Speaker.STRANGER and boot.saved is not None:
                return f"printed by {match.line.program}, which has nothing to do with the dump"
            return None
        if not row.generic:
            return "not a word of kdump, and kdump is not at work there"
        if at is KernelRole.UNKNOWN and not self._is_presumed_capture(boot, self.phases[number]):
            return "any kernel may print it, and nothing shows which kernel this is"
        return None

    def _ended_before(self, line: LogLine, number: int) -> bool:
        """Return whether the kernel restarted, or firmware spoke, before a line of the same boot."""
        boot = self.boots[number]
        began = boot.banner.number if boot.banner is not None else 0
        ends = (boot.restart, boot.shutdown, boot.firmware, boot.panic_end)
        return any(mark is not None and began < mark.number <= line.number for mark in ends)

    def _booted_after(self, line: LogLine, number: int) -> LogLine | None:
        """Return the line that shows that a kernel started, or a login was possible, after a line; or None."""
        boot = self.boots[number]
        ended = [
            mark.number for mark in (boot.restart, boot.firmware) if mark is not None and mark.number < line.number
        ]
        if boot.login is not None and boot.login.number > max(ended, default=0):
            return boot.login
        later = (mark for after in self.boots[number + 1 :] for mark in (after.login, after.banner))
        return next((mark for mark in later if mark is not None), None)

    def _loaded_after(self, line: LogLine, number: int) -> str | None:
        """Return the proof that a capture kernel was loaded after the line, or None."""
        boot = self.boots[number]
        if boot.armed is not None and boot.armed.number > line.number:
            return f"line {boot.armed.number}"
        for later in self.boots[number + 1 :]:
            if later.capture is not None:
                return f"a capture kernel runs from line {later.start}"
            if later.armed is not None:
                return f"line {later.armed.number}"
        return None

    def _severity(self, row: SymptomRow, number: int, at: KernelRole) -> str:
        """Return the row's severity; a failure that did not concern this crash is a warning about the next one."""
        if row.severity != "failure":
            return row.severity
        if Stage[row.stage] < Stage.CAPTURING and self.elsewhere.capture is not None:
            return "warning"  # about another crash: for this one a capture kernel was loaded
        if (
            at is KernelRole.NEXT
            and row.past in ("saving", "saved")
            and any(earlier.saved for earlier in self.boots[:number])
        ):
            return "warning"
        return row.severity

    def _symptoms(self) -> tuple[Symptom, ...]:
        """Return the findings as symptoms: failures first, causes before consequences, each once."""
        order = {"failure": 0, "warning": 1, "info": 2}
        kept: dict[int, MatchedRow] = {}
        for finding in sorted(self._weighed(), key=lambda found: (order[found.severity], found.row, found.line.number)):
            kept.setdefault(finding.row, finding)
        return tuple(self._symptom(finding) for finding in kept.values())

    def _weighed(self) -> Iterator[MatchedRow]:
        """Yield the findings, without the words that say nothing more where a cause is found."""
        rows = self.table.rows
        for found in self.findings:
            row = rows[found.row]
            alike = [other for other in self.findings if other.row != found.row]
            others = [rows[other.row] for other in alike if other.severity == "failure"]
            if row.last_resort and any(
                rows[other.row].stage == row.stage and other.severity == found.severity for other in alike
            ):
                self.rejected.append(Rejected(row.name, found.line.text, found.line.number, "another symptom says why"))
                continue
            if other_cause := self.tracker.signs.intersection(row.not_with):
                reason = f"the log has a sign of another cause ({', '.join(sorted(other_cause))})"
                self.rejected.append(Rejected(row.name, found.line.text, found.line.number, reason))
                continue
            if row.explains and found.severity == "failure" and all(other.explains for other in others):
                yield dataclasses.replace(found, severity="warning")
                continue
            yield found

    def _symptom(self, finding: MatchedRow) -> Symptom:
        """Return one finding in full, its remedy with the values that are known."""
        row = self.table.rows[finding.row]
        boot = self._boot_of(finding)
        signs = self.tracker.signs - (_SIGNS_OF_ONE_BOOT - boot.signs)
        if is_size(self.facts.get("crashkernel") or boot.crashkernel or self._given() or ""):
            signs.add(SIZE_GIVEN)
        texts: SymptomRow | Variant = next((one for one in row.variant if signs.issuperset(one.signs)), row)
        meaning = texts.meaning or row.meaning
        own = bool(texts.remedy or texts.remedies)
        remedy = filled(
            texts.remedy or row.remedy,
            texts.remedies if own else row.remedies,
            families=self._lineage,
            signs=signs,
            facts={name: self._fact(name, finding) for name in PLACEHOLDERS},
        )
        return Symptom(
            name=row.name,
            severity=finding.severity,
            stage=Stage[row.stage],
            phase=finding.phase.value,
            line=finding.line.text,
            line_number=finding.line.number,
            meaning=_PRESUMPTION + meaning if finding.presumed else meaning,
            remedy=remedy,
        )

    def _boot_of(self, finding: MatchedRow) -> Boot:
        """Return the boot that a finding's line is of."""
        return next(boot for boot in reversed(self.boots) if boot.start <= finding.line.number)

    def _fact(self, name: str, finding: MatchedRow | None = None) -> str | None:
        """Return a real value for a remedy: the caller's, else the log's."""
        if name == "crashkernel_more":
            return doubled(self._reservation() or "")
        if name in ("crashkernel", "crashkernel_size"):
            # A value that reserved nothing is not repeated, and ranges may leave out this machine again.
            reservation = self._reservation()
            failed = finding is not None and self.table.rows[finding.row].refuses_reservation
            if name == "crashkernel_size":
                return None if failed else main_size(reservation or "")
            return None if failed or ":" in (reservation or "") else reservation
        if self.facts.get(name):
            return self.facts[name]
        if name == "kernel":
            return next((boot.kernel for boot in self.boots if boot.kernel), None)
        if name == "driver" and finding is not None:
            boot = self._boot_of(finding)
            return driver_in(finding.line.text) or (driver_in(boot.fault.text) if boot.fault else None)
        if name == "host" and finding is not None:
            return host_in(finding.line.text)
        return None

    def _reservation(self) -> str | None:
        """Return the value of crashkernel= that the caller or a first kernel's command line gives."""
        return self.facts.get("crashkernel") or self._given()

    def _given(self) -> str | None:
        """Return the value of crashkernel= on the command line of a first kernel, or None."""
        return next((boot.crashkernel for boot in self.boots if boot.crashkernel and boot.capture is None), None)

    def _stage(self) -> Stage:
        """Return how far the last crash got."""
        reached = Stage.NOTHING
        saved = False
        for boot, phase in zip(self.boots, self.phases, strict=True):
            if phase is KernelRole.CAPTURE:
                reached, saved = Stage.CAPTURING, self._is_saved(boot)
                if saved:
                    reached = Stage.SAVED
            elif phase is KernelRole.NEXT and saved and boot.login is not None and boot.panic is None:
                reached = Stage.RECOVERED
            elif boot.panic is not None or boot.handover is not None:
                reached = Stage.CRASHED if boot.kdump_loaded else Stage.NOTHING
                saved = False
            elif boot.armed is not None and reached < Stage.ARMED:
                reached = Stage.ARMED
        if self.is_dmesg_of_dump:
            reached = max(reached, Stage.CAPTURING)
        return reached

    def _is_saved(self, boot: Boot) -> bool:
        """Return whether the kdump service said that the dump is saved, and nothing shows that to be untrue."""
        rows = self.table.rows
        lies = any(
            rows[found.row].past not in ("saving", "saved")
            and Stage[rows[found.row].stage] < Stage.SAVED
            and found.severity == "failure"
            for found in self.findings
            if found.line.number >= boot.start
        )
        if lies or boot.save_failed is not None:
            return False
        # kdump says "failed" before every failure action, so an orderly restart without it means a saved dump.
        orderly = boot.dump_start is not None and boot.restart is not None and boot.panic is None
        return boot.saved is not None or boot.dumpfile_complete is not None or orderly

    @staticmethod
    def mode(symptoms: tuple[Symptom, ...], stage: Stage) -> str:
        """Return the name of the cause, ok, or indeterminate."""
        if symptoms and symptoms[0].severity == "failure":
            return symptoms[0].name
        if stage >= Stage.SAVED:
            return OK
        for symptom in symptoms:
            if symptom.severity == "warning":
                return symptom.name
        return INDETERMINATE

    def _notes(self) -> Iterator[str]:
        """Yield each kernel's lines and the proof of its role."""
        if self.is_dmesg_of_dump:
            yield "the name says it is the dmesg of a dump: a capture kernel ran and wrote it"
        if self.tracker.dropped:
            yield f"{self.tracker.dropped} boots in the middle were left out"
        for boot, phase in zip(self.boots[:20], self.phases, strict=False):
            if not boot.lines:
                continue
            evidence: LogLine | str | None = boot.capture or boot.first or boot.plain_command_line or boot.login
            if evidence is None and self._is_presumed_capture(boot, phase):
                evidence = "no evidence; its early timestamps fit a capture kernel"
            proof = evidence or "no evidence"
            if isinstance(proof, LogLine):
                proof = f"line {proof.number}: {proof.text}"
            yield f"from line {boot.start}: {_IN_WORDS[phase]} ({proof})"


_IN_WORDS = {
    KernelRole.UNKNOWN: "unknown kernel",
    KernelRole.FIRST: "first kernel",
    KernelRole.HANDOVER: "hand-over",
    KernelRole.CAPTURE: "capture kernel",
    KernelRole.NEXT: "next boot",
}
