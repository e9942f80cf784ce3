"""A dump in words."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..base.units import MIB
from .index import Dump, Index
from .patterns import SeenBefore, seen_before
from .store import IntakeOutcome, utc


def lines(
    dump: Dump, triage: Mapping[str, Any] | None, traits: Mapping[str, str], before: Iterable[SeenBefore]
) -> Iterator[str]:
    """Yield the facts that the store has of a dump, a line each."""
    for name, value in (
        ("dump", f"{dump.id} ({dump.state}), {dump.size_bytes / MIB:,.1f} MiB, taken in {utc(dump.added_s)}"),
        ("sha256", dump.sha256),
        ("from", dump.origin),
        ("host", dump.host),
        ("kernel", f"{dump.kernel or 'unknown'}" + (f", build id {dump.build_id}" if dump.build_id else "")),
        ("crashed", f"{utc(dump.crash_s)}" if dump.crash_s else None),
        ("up for", f"{dump.uptime_s:,.0f} s" if dump.uptime_s is not None else None),
        ("panic", dump.panic),
        ("task", dump.task),
        ("signature", f"{dump.signature}: {dump.signature_text}" if dump.signature else None),
        ("held", dump.hold),
        ("central", f"{dump.central}, verified {utc(dump.pushed_s)}" if dump.central else None),
        ("remark", dump.remark),
        *traits.items(),
    ):
        if value:
            yield f"{name + ':':<12} {value}"
    if triage:
        yield f"{'triage:':<12} {triage['source']}"
        if triage["reason"]:
            yield f"{'reason:':<12} {triage['reason']}"
        for number, frame in enumerate(triage["stack"]):
            yield f"{'' if number else 'stack:':<12} #{number} {frame}"
    for seen in before:
        hosts = f"{seen.hosts} host{'s' if seen.hosts > 1 else ''}"
        yield f"seen before: {seen.what} {seen.value}: {seen.count} other dumps of {hosts}, last {utc(seen.last_s)}"


def outcome_event(index: Index, event: str, outcome: IntakeOutcome) -> dict[str, Any]:
    """Return an arrival as the data of a hook, with a line for people."""
    dump = outcome.dump
    before = seen_before(index, dump) if dump else []
    same = next((seen for seen in before if seen.what == "signature"), None)
    return {
        "event": event,
        **outcome.to_json(),
        "text": _crash_line(dump, same) if dump else f"{event} {outcome.path}: {outcome.reason}",
        "new": dump is not None and bool(dump.signature) and same is None,
        "seen_before": [seen.to_json() for seen in before],
        "at_s": int(time.time()),
    }


def _crash_line(dump: Dump, same: SeenBefore | None) -> str:
    crash = dump.signature_text or dump.panic or "no panic was found"
    again = f"seen {same.count} times before, last {utc(same.last_s)}" if same else "not seen before"
    when = f" at {utc(dump.crash_s)}" if dump.crash_s else ""
    return f"{dump.host} crashed{when}: {crash} ({again if dump.signature else 'no signature'}; store show {dump.id})"
