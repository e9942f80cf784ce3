"""Changes of machines since an earlier audit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..base.errors import UsageError
from ..base.foreign import parse_object
from ..base.output import printable
from .result import HostAudit, Severity

# The facts whose changes are reported; others change at every audit.
COMPARED = (
    "machine_id", "kernel", "makedumpfile", "memory_mib", "crashkernel", "loaded", "level", "compress", "place",
    "initramfs", "firmware", "lockdown",
)  # fmt: skip


def read_earlier(path: Path) -> dict[str, dict[str, Any]]:
    """Return the hosts of an earlier audit by name. Raise UsageError for a file that is not one."""
    try:
        table = parse_object(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"{path} is not the JSON of an audit: {error}") from None
    hosts = table.get("hosts")
    if not isinstance(hosts, list) or not all(isinstance(host, dict) and "answer" in host for host in hosts):
        raise UsageError(f"{path} is not the JSON of an audit: it has no list of hosts with answers")
    return {str(host.get("host")): host for host in hosts}


def with_changes(now: HostAudit, earlier: Mapping[str, Any] | None) -> HostAudit:
    """Return the audit of a host with its changes since an earlier one."""
    if earlier is None:
        return replace(now, changes=("not in the earlier audit",))
    changes = [] if earlier["answer"] == now.answer else [f"{earlier['answer']} became {now.answer}"]
    before, after = (
        _names(earlier.get("reasons")),
        {one.name for one in now.reasons if one.severity is not Severity.NOTE},
    )
    changes += [f"new: {name}" for name in sorted(after - before)] + [
        f"gone: {name}" for name in sorted(before - after)
    ]
    facts = earlier.get("facts")
    if isinstance(facts, dict) and facts and now.facts:
        changes += [
            f"{name}: {_word(facts.get(name))} became {_word(now.facts[name])}"
            for name in COMPARED
            if facts.get(name) != now.facts[name]
        ]
    return replace(now, changes=tuple(printable(change)[:300] for change in changes))


def _names(reasons: object) -> set[str]:
    """Return the names of the reasons of an earlier audit, without notes."""
    found = [one for one in reasons if isinstance(one, dict)] if isinstance(reasons, list) else []
    return {str(one.get("name")) for one in found if one.get("severity") != Severity.NOTE}


def _word(fact: Any) -> str:
    """Return a fact as a word; of a file, its time."""
    if isinstance(fact, dict):
        return f"{fact.get('path')} of {fact.get('changed_s')}"
    return "nothing" if fact is None else str(fact)
