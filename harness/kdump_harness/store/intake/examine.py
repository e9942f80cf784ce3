"""Examine a dump in a separate process, so that no dump can stop the store."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...base import foreign
from ...vmcore.inspection import UNJUDGED, WHOLE
from .copying import NO_ROOM_STATUS, NoRoom

LOG_NAME = "kernel.log"
_MEMORY_BYTES = 8 << 30  # of address space: a machine with 4 TiB of memory has bitmaps of 128 MiB
_LIMIT_S = 300
_SLOWEST_BYTES_PER_S = 5 << 20
_MAX_ANSWER_BYTES = 64 << 20


@dataclass(frozen=True, kw_only=True)
class Examination:
    """The facts that were found; missing facts are None, and trouble has the reason.

    A process that did not even begin with the dump (started) has met with trouble of this machine's.
    """

    inspection: Mapping[str, Any] | None
    triage: Mapping[str, Any] | None
    signature: Mapping[str, str] | None
    uptime_s: float | None
    traits: Mapping[str, str]
    trouble: str = ""
    started: bool = True

    @property
    def judgement(self) -> str:
        """Return one of WHOLE, DAMAGED and UNJUDGED; a dump that ended its own examination is not judged."""
        return str(self.inspection["judgement"]) if self.inspection is not None else UNJUDGED

    @classmethod
    def of(cls, facts: Mapping[str, Any], trouble: str = "") -> Examination:
        """Return the examination with the facts that the process reported before it ended."""
        log = facts.get("log") or {}
        return cls(
            inspection=facts.get("inspection"),
            triage=facts.get("triage"),
            signature=facts.get("signature"),
            uptime_s=log.get("uptime_s"),
            traits=log.get("traits", {}),
            trouble=trouble,
            started=bool(facts.get("started")),
        )

    @property
    def whole(self) -> bool:
        """Return whether every page of the dump is there and readable."""
        return self.judgement == WHOLE

    @property
    def unjudged(self) -> bool:
        """Return whether nothing is known to be wrong with it, but it cannot be judged."""
        return self.judgement == UNJUDGED

    @property
    def why(self) -> str:
        """The judgement of a dump that is not whole, with its reasons."""
        return f"{self.judgement}: {self.reason}"

    @property
    def reason(self) -> str:
        """The damage, or the reason why the dump was not judged."""
        if self.inspection is None:
            return self.trouble or "its examination reported nothing"
        damage = [f"{one['kind']}: {one['message']}" for one in self.inspection["damage"][:2]]
        return "; ".join(damage or self.inspection["unsupported"])


def examine(dump: Path, *, log_to: Path, debuginfo: Path | None = None, state: Path | None = None) -> Examination:
    """Check every page, read the kernel log into log_to, and triage; it never raises for what the dump is.

    NoRoom when the log cannot be written.
    """
    limit_s = _LIMIT_S + dump.stat().st_size // _SLOWEST_BYTES_PER_S
    process = subprocess.Popen(
        # -P: files in the current directory must not be imported as modules.
        [sys.executable, "-P", "-m", f"{__package__}.worker", str(_MEMORY_BYTES), str(limit_s),
         str(dump), str(log_to), str(debuginfo or ""), str(state or "")],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=_environment(),
        start_new_session=True,
    )  # fmt: skip
    trouble = ""
    try:
        try:
            out, errors = process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            trouble = f"its examination took more than {limit_s} s"
            _kill(process)
            out, errors = process.communicate()
    finally:
        _kill(process)
        process.wait()
    if process.returncode == NO_ROOM_STATUS:
        raise NoRoom("the store's disk is full; the store keeps what it has")
    if not trouble and process.returncode != 0:
        lines = errors.decode("utf-8", "replace").strip().splitlines()[-1:]
        trouble = f"its examination ended with status {process.returncode}" + (f": {lines[0][:300]}" if lines else "")
    return Examination.of(_parse(out[:_MAX_ANSWER_BYTES]), trouble)


def _environment() -> dict[str, str]:
    path = [str(Path(__file__).resolve().parents[3]), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path)), "OPENBLAS_NUM_THREADS": "1"}


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End the process and all that it has started."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _parse(out: bytes) -> dict[str, Any]:
    """Return the facts that arrived whole."""
    facts: dict[str, Any] = {}
    for raw in out.split(b"\n"):
        with contextlib.suppress(ValueError, KeyError, TypeError):
            line = foreign.parse_object(raw)
            facts[line["fact"]] = line["value"]
    return facts
