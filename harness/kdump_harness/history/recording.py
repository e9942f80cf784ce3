"""Recording of a new result, with its regressions; a failure to record never changes a verdict."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..base.errors import HarnessError
from .database import History
from .trend import regressions


def record(
    path: Path | None, kind: str, result: Mapping[str, Any], *, log: Callable[[str], None], scenario: str = ""
) -> list[str]:
    """Record a result and return its regressions as sentences; LOG gets the reason if the result was not recorded.

    Do nothing if PATH is None.
    """
    if path is None:
        return []
    try:
        with History(path) as history:
            place = os.path.abspath(result["evidence"]) if result.get("evidence") else ""  # for readers elsewhere
            run = history.add(kind, result, scenario=scenario, place=place)
            return [found.text for found in regressions(history, run)] if run is not None and run.ok else []
    except (HarnessError, OSError) as error:
        log(f"this {kind} was not recorded: {str(error).splitlines()[0]}")
        return []
