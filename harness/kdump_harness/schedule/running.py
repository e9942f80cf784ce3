"""Runner of scheduled drills and audits: one after the other, with a memory of the outcomes and a hook for changes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base import foreign
from ..base.errors import (
    EXIT_BROKEN,
    EXIT_FAILED,
    EXIT_HOST,
    EXIT_OK,
    EXIT_UNJUDGED,
    EXIT_USAGE,
    HarnessError,
    HostError,
)
from ..history.database import outcome_of
from ..history.shape import DRILL_SHAPE, require
from .jobs import AUDIT, Job
from .memory import READY, SUCCESSES, recall

BROKEN = "broken"  # the drill or audit ended without a result
_AUDIT_SHAPE = {"hosts": [{"host": str, "answer": str, "why?": str, "reasons?": [{"name": str, "evidence": str}]}]}
_LOCK = "schedule.lock"


class AlreadyRunning(HarnessError):
    """Another scheduled run is active, and two at a time would disturb each other."""

    exit_code = EXIT_OK


@dataclass(frozen=True, kw_only=True)
class ScheduledResult:
    """Outcome of one scheduled drill or audit."""

    image: str
    job: str
    word: str
    status: int
    said: str  # one-line summary
    verdict: dict[str, Any] | None  # of a drill
    audit: dict[str, Any] | None = None  # result of an audit
    before: str | None  # word of the previous run; None: the first one

    @property
    def changed(self) -> bool:
        """Whether the outcome differs from the previous one: a first success does not."""
        return self.word not in SUCCESSES if self.before is None else self.word != self.before

    @property
    def text(self) -> str:
        """Outcome as one line for people."""
        change = f" (before: {self.before})" if self.before not in (None, self.word) else ""
        return f"{self.job}: {self.word}{change}: {self.said}"

    def to_json(self) -> dict[str, Any]:
        """Return the data for the standard input of a hook."""
        return {**vars(self), "changed": self.changed, "text": self.text, "at_s": int(time.time())}


def event_json(event: str, job: Job, text: str, **more: Any) -> dict[str, Any]:
    """Return the data of an event that has no verdict."""
    return {"event": event, "image": job.subject, "job": job.name, "text": text, "at_s": int(time.time()), **more}


def run_drill(
    job: Job, state: Path, *, places: Sequence[str] = (), command: Sequence[str] | None = None
) -> ScheduledResult:
    """Make one drill or audit in a separate process, whose failure does not affect the next one.

    PLACES, the options for directories and files, do not identify the job.
    """
    command = command or (sys.executable, "-P", "-m", "kdump_harness")
    with tempfile.TemporaryDirectory() as scratch:
        to = Path(scratch) / "result.json"
        # The drill has its own session, so that it gets Ctrl-C only once, from here: a second signal would disturb its
        # clean-up.
        with subprocess.Popen(
            [*command, job.verb, *job.words, "--json", str(to), "--state", str(state), *places],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace",
            start_new_session=True,
        ) as done:  # fmt: skip
            try:
                _, messages = done.communicate()
            except BaseException:
                done.terminate()
                done.communicate()
                raise
        result: dict[str, Any] | None = None
        with contextlib.suppress(OSError, ValueError):  # the message of the process has the reason
            result = _checked(job.verb, to.read_text(encoding="utf-8"))
    known = recall(state).get(job.name)
    before = known.word if known else None
    about = {"verdict": result} if job.verb != AUDIT else {"verdict": None, "audit": result}
    common: Any = {"image": job.subject, "job": job.name, "before": before, **about}
    judged = (EXIT_OK, EXIT_FAILED, EXIT_UNJUDGED) if job.verb != AUDIT else (EXIT_OK, EXIT_FAILED, EXIT_BROKEN)
    if result is None or done.returncode not in judged:
        lines = [line for line in messages.splitlines() if line.strip()]
        # The error is the last message, and "see FILE" below it.
        first = next((number for number in reversed(range(len(lines))) if not lines[number].startswith(" ")), 0)
        said = " ".join(line.strip() for line in lines[first:]) or f"the {job.noun} ended with status {done.returncode}"
        status = done.returncode if done.returncode in (EXIT_USAGE, EXIT_HOST) else EXIT_BROKEN
        return ScheduledResult(word=BROKEN, status=status, said=said, **common)
    word, said = (
        (answers_of(result), _headlines(result)) if job.verb == AUDIT else (outcome_of(result), _one_line(result))
    )
    return ScheduledResult(word=word, status=done.returncode, said=said, **common)


def answers_of(audit: Mapping[str, Any]) -> str:
    """Return the answers of an audit as one word, which differs when a machine has another answer."""
    hosts: dict[str, list[str]] = {}
    for one in audit["hosts"]:
        if one["answer"] != READY:
            hosts.setdefault(one["answer"], []).append(one["host"])
    return "; ".join(f"{answer}: {', '.join(sorted(names))}" for answer, names in sorted(hosts.items())) or READY


def _headlines(audit: Mapping[str, Any]) -> str:
    """Return the first reason of each machine that is not ready."""
    found = [one for one in audit["hosts"] if one["answer"] != READY]
    said = []
    for one in found:
        first = next((f"{reason['name']}: {reason['evidence']}" for reason in one.get("reasons") or ()), None)
        said.append(f"{one['host']}: {first or one.get('why')}")
    return "; ".join(said)[:400] or f"all {len(audit['hosts'])}"


def _checked(verb: str, text: str) -> dict[str, Any]:
    """Return the verdict or audit in a text. Raise ValueError for a text that is neither."""
    verdict = foreign.parse_object(text)
    if verb == AUDIT:
        require(verdict, _AUDIT_SHAPE, "audit")
        return verdict
    require(verdict, DRILL_SHAPE, "verdict")
    return {"symptoms": [], "phases_s": {}, "stopped_by": None, "reached": None} | verdict


def _one_line(verdict: dict[str, Any]) -> str:
    if verdict["verified"]:
        took = (verdict["phases_s"] or {}).get("panic_to_login")
        return f"panic to login {took:.0f} s" if took is not None else "panic to login was not measured"
    causes = [one["name"] for one in verdict["symptoms"] or () if one["severity"] == "failure"][:1]
    failed = [f"{one['name']}: {one['seen']}" for one in verdict["checks"] if not one["ok"]]
    unjudged = f"the dump was not judged: {verdict['not_judged']}" if verdict.get("not_judged") else ""
    reason = "; ".join([*causes, *filter(None, [verdict["stopped_by"], unjudged]), *failed])
    return f"reached {verdict['reached']}: {reason}"[:400]


@contextlib.contextmanager
def alone(state: Path) -> Iterator[None]:
    """Lock the schedules of a state directory. Raises AlreadyRunning if another run holds the lock."""
    try:
        state.mkdir(parents=True, exist_ok=True)
        lock = os.open(state / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o664)
    except OSError as error:
        raise HostError(f"cannot use {state / _LOCK}: {error.strerror}") from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyRunning("another scheduled run is active; this one is skipped") from None
        yield
    finally:
        os.close(lock)
