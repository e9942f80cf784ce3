"""Memory of a schedule: the last outcome of each job, and its last success."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from ..base import foreign
from ..history.database import VERIFIED

READY = "ready"  # of an audit: all machines are
SUCCESSES = (VERIFIED, READY)
_NAME = "schedule.json"


@dataclass(frozen=True, kw_only=True)
class Remembered:
    """Outcomes of a job up to now."""

    word: str
    at_s: float = 0.0
    first_s: float = 0.0  # the first run of the job
    success_s: float | None = None
    wanted_s: float | None = None  # maximum age of the last success

    def overdue(self, now_s: float) -> str | None:
        """Return a sentence if the last success is older than wanted, else None."""
        age_s = now_s - (self.first_s if self.success_s is None else self.success_s)
        if self.wanted_s is None or age_s <= self.wanted_s:
            return None
        since = "no success ever, first tried" if self.success_s is None else "the last success was"
        return f"{since} {age(age_s)} ago, wanted is one within {age(self.wanted_s)}"


def age(seconds: float) -> str:
    """Return a time span in its largest unit."""
    for unit, unit_s in (("days", 86400), ("h", 3600)):
        if seconds >= 2 * unit_s:
            return f"{seconds / unit_s:.0f} {unit}"
    return f"{max(seconds, 0) / 60:.0f} min"


def recall(state: Path) -> dict[str, Remembered]:
    """Return the outcomes by the name of the job; nothing of a file that is missing or broken."""
    with contextlib.suppress(OSError, ValueError):
        rows = foreign.parse_object((state / _NAME).read_text(encoding="utf-8"))
        return {name: one for name, row in rows.items() if (one := _remembered(row))}
    return {}


def _remembered(row: object) -> Remembered | None:
    if isinstance(row, str):  # of an older version
        return Remembered(word=row)
    if not isinstance(row, Mapping) or not isinstance(row.get("word"), str):
        return None
    times = {field.name: row.get(field.name) for field in fields(Remembered) if field.name != "word"}
    kept = {name: float(value) for name, value in times.items() if isinstance(value, int | float)}
    return Remembered(word=row["word"], **kept)


def remember(state: Path, job: str, word: str, *, wanted_s: float | None) -> Remembered:
    """Save the outcome of a job for the next run and return all that is known; the caller must hold the lock."""
    rows, now_s = recall(state), time.time()
    before = rows.get(job)
    rows[job] = Remembered(
        word=word,
        at_s=now_s,
        first_s=before.first_s or now_s if before else now_s,
        success_s=now_s if word in SUCCESSES else before.success_s if before else None,
        wanted_s=wanted_s,
    )
    fresh = state / f".{_NAME}"
    text = foreign.dump_json({name: asdict(row) for name, row in rows.items()}, indent=1)
    fresh.write_text(text + "\n", encoding="utf-8")
    fresh.replace(state / _NAME)
    return rows[job]
