"""The past of machines: their last verified drill and dump, and the audits that were recorded."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..base.errors import HarnessError
from ..history.database import AUDIT, DRILL, History, history_path
from .changes import COMPARED
from .result import Answer, Audit, HostAudit, Severity, Success

_KEPT = (*COMPARED, "system")  # of the facts


class Past:
    """Knowledge about machines from the history and the store."""

    def __init__(
        self,
        drills_s: Mapping[str, float] | None = None,
        dumps_s: Mapping[str, float] | None = None,
        firmware: Mapping[str, list[tuple[float, str]]] | None = None,
    ) -> None:
        """DRILLS_S and FIRMWARE are by machine id, DUMPS_S by host name; FIRMWARE has the oldest audit first."""
        self._drills_s, self._dumps_s, self._firmware = drills_s or {}, dumps_s or {}, firmware or {}

    def success(self, machine_id: str, hostname: str) -> Success | None:
        """Return the last success of a machine."""
        times = [(self._drills_s.get(machine_id, 0.0), "verified drill")]
        times.append((self._dumps_s.get(hostname, 0.0), "dump in the store"))
        at_s, seen = max(times)
        if not at_s:
            return None
        earlier = [name for audit_s, name in self._firmware.get(machine_id, []) if audit_s <= at_s]
        return Success(at_s=at_s, seen=seen, firmware=earlier[-1] if earlier else "")


def read_past(option: str | None, state: Path | None, store: Path | None) -> Past:
    """Return the past by the history and the store; those at their usual places may be missing.

    Raise UsageError for a named file that is not one, and for a named store that does not exist.
    """
    drills_s: dict[str, float] = {}
    firmware: dict[str, list[tuple[float, str]]] = {}
    path = history_path(option, state)
    if path is not None and path.exists():
        with _optional(option), History(path) as history:
            runs = history.runs("WHERE kind = ? AND ok ORDER BY at_s", DRILL, figures=())
            machines = history.texts(runs, "machine_id")
            drills_s = {machines[run.number]: run.at_s for run in runs if run.number in machines}
            audits = history.runs("WHERE kind = ? ORDER BY at_s", AUDIT, figures=())
            ids, found = history.texts(audits, "facts.machine_id"), history.texts(audits, "facts.firmware")
            for run in audits:
                if run.number in ids and run.number in found:
                    firmware.setdefault(ids[run.number], []).append((run.at_s, found[run.number]))
    return Past(drills_s, _dumps_of(store), firmware)


def _dumps_of(directory: Path | None) -> dict[str, float]:
    """Return the time of the last whole dump in the store by host name."""
    from ..store.index import TRIAGED, UNTRIAGED
    from ..store.store import Store, default_store

    if directory is None and not default_store().is_dir():
        return {}
    dumps_s: dict[str, float] = {}
    with _optional(directory), Store(directory) as store:
        for dump in store.index.dumps():
            if dump.state in (TRIAGED, UNTRIAGED):
                dumps_s[dump.host] = max(dumps_s.get(dump.host, 0.0), float(dump.crash_s or dump.added_s))
    return dumps_s


@contextlib.contextmanager
def _optional(named: object) -> Any:
    """Ignore errors of what was not named, since the audit does not depend on it."""
    try:
        yield
    except HarnessError:
        if named is not None:
            raise


def last_audits(option: str | None, state: Path | None) -> dict[str, dict[str, Any]]:
    """Return the last recorded audit of each host by name."""
    path = history_path(option, state)
    if path is None or not path.exists():
        return {}
    with contextlib.suppress(HarnessError), History(path) as history:
        runs = history.runs("WHERE kind = ? ORDER BY at_s, number", AUDIT, figures=())
        return {name: history.result(run) for name, run in {run.image: run for run in runs}.items()}
    return {}


def remember(path: Path | None, audit: Audit, *, log: Callable[[str], None]) -> None:
    """Record the audit of each host; LOG gets the reason where that is not possible."""
    if path is None:
        return
    try:
        with History(path) as history:
            for host in audit.hosts:
                history.add(AUDIT, _record(host, audit.started))
    except (HarnessError, OSError) as error:
        log(f"this audit was not recorded: {str(error).splitlines()[0]}")


def _record(host: HostAudit, started: str) -> dict[str, Any]:
    """Return what the history keeps of an audit."""
    headline = f": {host.headline}" if host.headline else ""
    return {
        "image": host.host,
        "started": started,
        "ok": host.answer is Answer.READY,
        "kernel": host.facts.get("kernel"),
        "answer": host.answer,
        "summary": f"{host.answer}{headline}",
        "why": host.why,
        "reasons": [asdict(reason) for reason in host.reasons if reason.severity is not Severity.NOTE],
        "facts": {name: host.facts.get(name) for name in _KEPT} if host.facts else {},
        "last_success_s": host.facts.get("last_success_s"),
    }
