"""The last verified drill of each machine, from the history, by machine id."""

from __future__ import annotations

from pathlib import Path

from ..base.errors import HarnessError
from ..history.database import DRILL, History, history_path


def last_successes(option: str | None, state: Path | None) -> dict[str, float]:
    """Return the start of the last verified drill by machine id; a missing default history has none.

    Raise UsageError for a named history that does not exist.
    """
    path = history_path(option, state)
    if path is None or (option is None and not path.exists()):
        return {}
    try:
        with History(path, create=False) as history:
            runs = history.runs("WHERE kind = ? AND ok ORDER BY at_s", DRILL, figures=())
            machines = history.texts(runs, "machine_id")
    except HarnessError:
        if option is None:  # the audit does not depend on it
            return {}
        raise
    return {machines[run.number]: run.at_s for run in runs if run.number in machines}
