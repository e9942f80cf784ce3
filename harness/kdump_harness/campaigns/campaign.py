"""Common part of all campaigns: the saved result, its notes, and the continuation of an interrupted run."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

from ..base.clock import now_s
from ..base.evidence import Evidence
from ..base.verdict import Verdict
from ..vm.run import Run
from .resume import HasVersions, record_of, same_guest, taken_up


class CampaignPlan(Protocol):
    """A campaign, as it was requested."""

    @property
    def evidence_name(self) -> str: ...

    def check(self) -> None: ...

    def asked(self, run: Run) -> dict[str, str]: ...


class CampaignResult(Protocol):
    """The result that a campaign saves after each drill."""

    accelerator: str
    notes: list[str]
    took_s: float
    evidence: str
    jobs: int
    asked: dict[str, str]

    def to_json(self) -> dict[str, Any]: ...


PlanT = TypeVar("PlanT", bound=CampaignPlan)
ResultT = TypeVar("ResultT", bound=CampaignResult)


class Campaign(ABC, Generic[PlanT, ResultT]):
    """A run of many drills; one that was interrupted can be resumed from its saved result."""

    file: ClassVar[str]  # name of the saved result in the evidence directory
    restored: ClassVar[tuple[str, ...]]  # fields of the result that a resumed campaign copies

    def __init__(self, run: Run, plan: PlanT, evidence: Evidence, on_verdict: Callable[[Verdict], None]) -> None:
        self.run, self.plan, self.evidence, self.on_verdict = run, plan, evidence, on_verdict
        self.progress = run.progress
        self.name = str(evidence.directory.relative_to(run.evidence_directory))
        self.lock = threading.RLock()  # guards the result and the callback
        self.started_s = now_s()
        self.result = self._new_result()
        self.result.accelerator, self.result.evidence = run.accelerator, str(evidence.directory)
        self.result.asked = plan.asked(run)

    @classmethod
    def start(cls, run: Run, plan: PlanT, on_verdict: Callable[[Verdict], None]) -> ResultT:
        """Check the plan, drill, and return the result; call on_verdict after each drill."""
        plan.check()
        run.open_evidence()
        with record_of(run, plan.evidence_name) as evidence:
            return cls(run, plan, evidence, on_verdict)._restore().take()

    def take(self) -> ResultT:
        """Make all drills; save the result even if one of them raises."""
        try:
            self._save()
            self._drill_all()
        finally:
            self._finish()
        return self.result

    @abstractmethod
    def _new_result(self) -> ResultT:
        """Return an empty result of the plan."""

    @abstractmethod
    def _drill_all(self) -> None:
        """Make the drills that the result does not have yet."""

    @abstractmethod
    def _read(self, record: Mapping[str, Any]) -> None:
        """Read the drills of an interrupted run from its record."""

    @abstractmethod
    def _done(self) -> str:
        """Return how much of the campaign the result has."""

    def _finish(self) -> None:
        """Complete and save the result."""
        self._save()

    def _restore(self) -> Self:
        """Continue with the result of the interrupted run, if the campaign resumes one."""
        if (path := self.run.options.resume) is not None:
            with taken_up(path, self.result, *self.restored) as record:
                self.started_s -= float(record["took_s"])
                self._read(record)
            self.progress.say(f"resuming the run in {path.parent}, which has {self._done()}")
        return self

    def _require_same(self, guest: HasVersions, kernel: str | None, makedumpfile: str | None) -> None:
        """Raise UsageError if a resumed campaign meets another kernel or makedumpfile than before."""
        if self.run.options.resume is not None:
            same_guest(self.run.options.resume, guest, kernel, makedumpfile)

    def _at_once(self, guests_mib: Sequence[int], disk_mib: int) -> int:
        """Return the number of parallel drills, given each guest's memory and one drill's disk space."""
        at_once = self.run.at_once(guests_mib, disk_mib)
        self.result.jobs = max(at_once, self.result.jobs)
        return at_once

    def _note(self, text: str) -> None:
        """Add a note to the result, and show the note, unless the result has it."""
        with self.lock:
            if text not in self.result.notes:
                self.progress.say(text)
                self.result.notes.append(text)

    def _save(self) -> None:
        with self.lock:
            self.result.took_s = round(now_s() - self.started_s, 3)
            self.evidence.json(self.file, self.result.to_json())
