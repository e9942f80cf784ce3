"""The process that examines an untrusted dump: it prints one JSON line per fact, and the dump may kill it."""

from __future__ import annotations

import json
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...base.progress import Progress
from ...triage import triage
from ...vmcore import VmcoreError, inspect, open_vmcore
from .copying import FULL, NO_ROOM_STATUS, NoRoom
from .signature import signature, traits, uptime_s


def main() -> None:
    """Run with the arguments: bytes of address space, seconds, dump, file for the kernel log, debug info, state."""
    memory_bytes, limit_s, dump, log_to, debuginfo, state = sys.argv[1:]
    _limit(int(memory_bytes), int(limit_s))
    try:
        find_facts(
            Path(dump),
            log_to=Path(log_to),
            debuginfo=Path(debuginfo) if debuginfo else None,
            state=Path(state) if state else None,
            report=_print,
        )
    except NoRoom:
        sys.exit(NO_ROOM_STATUS)


def find_facts(
    dump: Path, *, log_to: Path, debuginfo: Path | None, state: Path | None, report: Callable[[str, Any], None]
) -> None:
    """Report the facts of a dump one by one, and write its kernel log into log_to. NoRoom when the disk is full."""
    report("started", True)
    report("inspection", inspect(dump).to_json())
    try:
        with open_vmcore(dump) as vmcore:
            log = vmcore.dmesg()
    except VmcoreError:
        log = ""
    try:
        log_to.write_text(log, encoding="utf-8")
    except OSError as error:
        raise (NoRoom(str(error)) if error.errno in FULL else error) from None
    try:
        crash = triage(dump, debuginfo=debuginfo, state=state, progress=Progress(quiet=True))
    except VmcoreError:
        return  # of a dump that cannot be opened; the inspection has said so
    name = signature(crash)
    report("signature", vars(name) if name else None)
    report("log", {"uptime_s": uptime_s(log), "traits": traits(log, crash)})
    report("triage", crash.to_json())


def _limit(memory_bytes: int, limit_s: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent process
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # it ends in silence when its parent has died
    # Only the soft limit: the process that runs drgn sets its own.
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.alarm(limit_s)


def _print(fact: str, value: Any) -> None:
    print(json.dumps({"fact": fact, "value": value}), flush=True)  # noqa: T201 - the parent reads standard output


if __name__ == "__main__":
    main()
