"""The result of an audit: an answer for each host, with reasons, their evidence and remedies."""

from __future__ import annotations

import datetime
import enum
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ..base.errors import EXIT_BROKEN, EXIT_FAILED, EXIT_OK
from ..base.output import Sample, format_metrics


class Answer(enum.StrEnum):
    """The answer to the question whether a panic of this host would leave a good vmcore."""

    READY = "ready"
    AT_RISK = "at risk"
    WILL_FAIL = "will fail"
    NOT_AUDITED = "not audited"


class Severity(enum.StrEnum):
    """The weight of a reason; notes do not change the answer."""

    FAILURE = "failure"
    RISK = "risk"
    NOTE = "note"


@dataclass(frozen=True, kw_only=True)
class Reason:
    """A fact that speaks against a good vmcore."""

    name: str  # of a symptom of the diagnosis, where there is one for it
    severity: Severity
    evidence: str
    meaning: str
    remedy: str


@dataclass(frozen=True, kw_only=True)
class Success:
    """The last time that kdump was seen to work on a machine."""

    at_s: float
    seen: str  # in words
    firmware: str = ""  # of the machine by the last audit until then


@dataclass(frozen=True, kw_only=True)
class HostAudit:
    """The audit of one host."""

    host: str
    answer: Answer
    why: str = ""  # the reason why the host was not audited
    reasons: tuple[Reason, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)
    changes: tuple[str, ...] = ()  # since an earlier audit
    took_s: float = 0.0

    @property
    def headline(self) -> str:
        """The weightiest reason in one line."""
        first = next(iter(self.reasons), None)
        if first is None or first.severity is Severity.NOTE:
            return self.why
        return f"{first.name}: {first.evidence}"


@dataclass(frozen=True, kw_only=True)
class Audit:
    """The audits of all hosts."""

    hosts: tuple[HostAudit, ...]
    started: str  # UTC
    took_s: float

    @property
    def ok(self) -> bool:
        """Whether all hosts are ready."""
        return all(host.answer is Answer.READY for host in self.hosts)

    @property
    def exit_status(self) -> int:
        """The exit status of the verb."""
        if self.ok:
            return EXIT_OK
        judged = any(host.answer in (Answer.AT_RISK, Answer.WILL_FAIL) for host in self.hosts)
        return EXIT_FAILED if judged else EXIT_BROKEN

    def to_json(self) -> dict[str, Any]:
        """Return the result as a JSON object."""
        return {"schema": 1, "ok": self.ok, **asdict(self)}


_METRICS = {
    "kdump_audit_answer": "The answer of the last audit of a machine; 1 for the answer that it gave.",
    "kdump_audit_reason": "A failure or a risk that the last audit of a machine found.",
    "kdump_audit_timestamp_seconds": "When the last audit began.",
    "kdump_audit_success_timestamp_seconds": "When the last verified drill of the machine began.",
}


def metrics(audit: Audit) -> str:
    """Return the text of a file for the textfile collector of Prometheus' node exporter."""

    def samples() -> Iterator[Sample]:
        yield "kdump_audit_timestamp_seconds", {}, datetime.datetime.fromisoformat(audit.started).timestamp()
        for host in audit.hosts:
            for kind in Answer:
                yield "kdump_audit_answer", {"host": host.host, "answer": kind}, float(host.answer is kind)
            for reason in host.reasons:
                if reason.severity is not Severity.NOTE:
                    labels = {"host": host.host, "reason": reason.name, "severity": str(reason.severity)}
                    yield "kdump_audit_reason", labels, 1.0
            if success_s := host.facts.get("last_success_s"):
                yield "kdump_audit_success_timestamp_seconds", {"host": host.host}, success_s

    return format_metrics(_METRICS, samples())


def answer(reasons: Sequence[Reason]) -> Answer:
    """Return the answer that follows from reasons."""
    found = {reason.severity for reason in reasons}
    if Severity.FAILURE in found:
        return Answer.WILL_FAIL
    return Answer.AT_RISK if Severity.RISK in found else Answer.READY
