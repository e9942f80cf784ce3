"""Makes stores, and rows of stores, for the tests and the benchmark of the store."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from kdump_harness.store.index import TRIAGED, Dump
from kdump_harness.store.intake.arrivals import place_of
from kdump_harness.store.intake.examine import Examination, examine
from kdump_harness.store.intake.worker import find_facts
from kdump_harness.store.store import VMCORE, Store

LOGS = Path(__file__).parent / "data" / "vmcore" / "logs"
_SMALL_BYTES = 8 << 20
_seen: dict[tuple[str, str], tuple[Examination, bytes]] = {}


def examine_once(dump: Path, *, log_to: Path, **more: Any) -> Examination:
    """Return the examination of a dump, each content once; only large files are left to a process with limits."""
    if dump.stat().st_size > _SMALL_BYTES:
        return examine(dump, log_to=log_to, **more)
    key = (hashlib.sha256(dump.read_bytes()).hexdigest(), repr(more))
    if key in _seen:
        found, log = _seen[key]
        log_to.write_bytes(log)
        return found
    found = examine_here(dump, log_to=log_to, **more)
    _seen[key] = found, log_to.read_bytes()
    return found


def examine_here(dump: Path, *, log_to: Path, debuginfo: Path | None = None, state: Path | None = None) -> Examination:
    """Return the examination of a dump, made in this process."""
    facts: dict[str, Any] = {}
    find_facts(dump, log_to=log_to, debuginfo=debuginfo, state=state, report=facts.__setitem__)
    return Examination.of(json.loads(json.dumps(facts)))


def admit(kept: Store, path: Path) -> Dump:
    """Return the row of a file that was added to the store."""
    with place_of(path) as (place, name):
        dump = kept.admit(place, name).dump
    assert dump is not None
    return dump


def make_dump(number: int = 0, **changes: Any) -> Dump:
    """A row; number makes it another one."""
    sha256 = hashlib.sha256(str(number).encode()).hexdigest()
    facts: dict[str, Any] = {
        "id": sha256[:12],
        "sha256": sha256,
        "size_bytes": 1 << 20,
        "disk_bytes": 1 << 20,
        "added_s": 1_800_000_000.0 + number,
        "origin": f"/srv/incoming/host-{number}/vmcore",
        "sender": f"host-{number}",
        "host": "alpha",
        "state": TRIAGED,
        "kernel": "6.1.0-50-amd64",
        "build_id": "ab" * 20,
        "signature": "0123456789",
        "signature_text": "crash_here < and_there",
    }
    return Dump(**{**facts, **changes})


def put(store: Store, dump: Dump, traits: dict[str, str] | None = None, content: bytes = b"KDUMP   ") -> Dump:
    """A dump in the index, with a directory and a small file."""
    place = store.place_of(dump)
    place.mkdir(mode=0o700)
    (place / VMCORE).write_bytes(content)
    with store.index.database.writing():
        store.index.put(dump, traits or {})
    return dump
