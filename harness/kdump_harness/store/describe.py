"""A dump in words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..base.units import MIB
from .index import Dump
from .patterns import SeenBefore
from .store import utc


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
