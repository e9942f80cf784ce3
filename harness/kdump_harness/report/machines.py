"""Real machines in a report: the last audit of each, and since when it has this answer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..history.database import AUDIT, History, RecordedRun

_MOST = 1000  # a page of these is at most 1 MB


@dataclass(frozen=True, kw_only=True)
class MachineRow:
    """The last audit of a machine."""

    run: RecordedRun
    answer: str
    headline: str  # the weightiest reason with its evidence
    remedy: str
    since_s: float  # of the first audit with this answer without another one between
    worked_s: float | None  # the last success of kdump

    @property
    def word(self) -> str:
        """The answer as an outcome of the report."""
        return {"ready": "verified", "will fail": "failed", "at risk": "known issue"}.get(self.answer, "not judged")


def machines_of(history: History, runs: Sequence[RecordedRun]) -> tuple[MachineRow, ...]:
    """Return the machines that were audited, the worst answers first; RUNS are sorted, the newest first."""
    audits: dict[str, list[RecordedRun]] = defaultdict(list)
    for run in runs:
        if run.kind == AUDIT:
            audits[run.image].append(run)
    rows = [_row(history.result(some[0]), some) for some in list(audits.values())[:_MOST]]
    return tuple(sorted(rows, key=lambda row: (_ORDER.index(row.word), row.run.image)))


_ORDER = ("failed", "not judged", "known issue", "verified")


def _row(result: Mapping[str, Any], audits: Sequence[RecordedRun]) -> MachineRow:
    answer = str(result.get("answer") or "not audited")
    streak = next((number for number, run in enumerate(audits) if _answer(run) != answer), len(audits))
    reasons = [one for one in result.get("reasons") or () if isinstance(one, dict)]
    first = reasons[0] if reasons else {}
    return MachineRow(
        run=audits[0],
        answer=answer,
        headline=f"{first.get('name')}: {first.get('evidence')}" if first else str(result.get("why") or ""),
        remedy=str(first.get("remedy") or ""),
        since_s=audits[max(streak, 1) - 1].at_s,
        worked_s=result.get("last_success_s"),
    )


def _answer(run: RecordedRun) -> str:
    """Return the answer, with which the summary begins."""
    return run.summary.partition(":")[0]
