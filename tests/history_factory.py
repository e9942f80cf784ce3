"""Verdicts of drills over weeks, made from a real one, for the tests of history and report."""

from __future__ import annotations

import copy
import datetime
import json
from pathlib import Path
from typing import Any

VERDICT = json.loads((Path(__file__).parent / "data" / "verdicts" / "debian-12.json").read_text(encoding="utf-8"))
_START = datetime.datetime(2026, 11, 1, 3, 0, tzinfo=datetime.UTC)


def drill(day: float, *, slower_by: float = 1.0, larger_by: float = 1.0, **changes: Any) -> dict[str, Any]:
    """The real drill as it might have been on another day; times and sizes are multiplied."""
    verdict = copy.deepcopy(VERDICT)
    verdict["started"] = (_START + datetime.timedelta(days=day)).isoformat()
    wobble = 1 + ((int(day) * 7) % 5 - 2) / 100
    verdict["phases_s"] = {
        name: round(seconds * wobble * (slower_by if name in ("capture_boot", "panic_to_login") else 1), 3)
        for name, seconds in verdict["phases_s"].items()
    }
    if verdict["dump"]:
        verdict["dump"]["size_bytes"] = int(verdict["dump"]["size_bytes"] * (1 + (int(day) % 3) / 500) * larger_by)
    return {**verdict, **changes}


def unjudged(day: float, **changes: Any) -> dict[str, Any]:
    """A drill whose dump cannot be judged, with nothing else against it."""
    why = "the file is lz4-compressed (unpack it with lz4 -d first)"
    return drill(day, **{"verified": False, "reached": "RECOVERED", "checks": [], "not_judged": why, **changes})


def failed(day: float, **changes: Any) -> dict[str, Any]:
    """A drill whose capture kernel ran out of memory."""
    symptom = {
        "name": "capture-oom",
        "severity": "failure",
        "stage": "CAPTURING",
        "line": "[    6.1] Out of memory: Killed process 93 (makedumpfile)",
        "meaning": "The reservation is too small for the capture kernel.",
        "remedy": "Reserve more: crashkernel=320M.",
    }
    return drill(
        day,
        verified=False,
        reached="CAPTURING",
        stopped_by="the capture kernel ran out of memory",
        symptoms=[symptom],
        checks=[{"name": "single-dump", "ok": False, "expected": "exactly one new dump", "seen": "none"}],
        dump=None,
        phases_s={"boot": 161.0, "panic_to_capture": 5.9},
        **changes,
    )
