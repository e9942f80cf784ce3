"""The result of a matrix of kernel drills."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from ...base.verdict import Verdict
from .plan import KernelCell

SCHEMA = 1
VERIFIED, FAILED, KNOWN, NOT_JUDGED = "verified", "failed", "known issue", "not judged"


@dataclass(kw_only=True)
class KernelOutcome:
    """The outcome of one drill."""

    cell: KernelCell
    status: str
    reason: str = ""
    release: str | None = None
    makedumpfile: str | None = None  # version
    failed: list[str] = field(default_factory=list)  # names of checks
    known_issue: str | None = None
    dump: dict[str, Any] | None = None
    phases_s: dict[str, float] = field(default_factory=dict)
    took_s: float = 0.0
    evidence: str = ""

    @classmethod
    def of(cls, cell: KernelCell, verdict: Verdict, took_s: float) -> KernelOutcome:
        """Return the outcome that a verdict is."""
        return cls(
            cell=cell,
            status=VERIFIED if verdict.verified else KNOWN if verdict.known_issue else FAILED,
            reason="" if verdict.verified else verdict.reason(),
            release=verdict.kernel,
            makedumpfile=verdict.makedumpfile,
            failed=[check.name for check in verdict.failed()],
            known_issue=verdict.known_issue,
            dump=verdict.dump,
            phases_s=verdict.phases_s,
            took_s=round(took_s, 1),
            evidence=verdict.evidence,
        )


@dataclass(kw_only=True)
class Kernels:
    """The result of a matrix."""

    cells: int = 0
    outcomes: list[KernelOutcome] = field(default_factory=list)
    accelerator: str = ""
    notes: list[str] = field(default_factory=list)
    took_s: float = 0.0
    evidence: str = ""
    jobs: int = 1
    asked: dict[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether all drills were made and verified."""
        return len(self.outcomes) == self.cells and all(one.status == VERIFIED for one in self.outcomes)

    def count(self, status: str) -> int:
        """Return the number of drills with a status."""
        return sum(one.status == status for one in self.outcomes)

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON data."""
        return {"schema": SCHEMA, "ok": self.ok, **asdict(self)}


def outcome_from_json(row: dict[str, Any]) -> KernelOutcome:
    """Return the outcome of a record."""
    return KernelOutcome(**{**row, "cell": KernelCell(**row["cell"])})
