"""Runs the drills of a schedule one after the other, remembers what came of each, and tells of a change."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base.errors import EXIT_BROKEN, EXIT_FAILED, EXIT_HOST, EXIT_OK, EXIT_USAGE, HarnessError, HostError
from ..history.database import FAILED, KNOWN_ISSUE, VERIFIED

BROKEN = "broken"  # it ended without a verdict
_HOOK_S = 120.0
_MEMORY = "schedule.json"
_LOCK = "schedule.lock"


class GoesOn(HarnessError):
    """Another run of a schedule goes on, and two at once would disturb each other."""

    exit_code = EXIT_OK


@dataclass(frozen=True, kw_only=True)
class ScheduledResult:
    """What came of one drill."""

    image: str
    word: str
    status: int
    said: str  # in one line
    verdict: dict[str, Any] | None
    before: str | None  # the word of the last time; None the first time

    @property
    def changed(self) -> bool:
        """Whether somebody should hear of it: a first success is no news."""
        return self.word != (self.before or VERIFIED)

    def to_json(self) -> dict[str, Any]:
        """What a hook reads on its standard input."""
        return {**vars(self), "changed": self.changed, "at_s": int(time.time())}


def run_drill(
    image: str,
    options: Sequence[str],
    state: Path,
    *,
    places: Sequence[str] = (),
    command: Sequence[str] | None = None,
) -> ScheduledResult:
    """One drill in a process of its own; whatever becomes of that, the next one gets its turn.

    options are what makes it another drill; places, the options that say where things go, are not.
    """
    command = command or (sys.executable, "-P", "-m", "kdump_harness")
    with tempfile.TemporaryDirectory() as scratch:
        to = Path(scratch) / "verdict.json"
        # A session of its own: Ctrl-C is for us, and the drill is told once, since a second time would disturb its
        # cleaning up.
        with subprocess.Popen(
            [*command, "drill", image, "--json", str(to), "--state", str(state), *options, *places],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace",
            start_new_session=True,
        ) as done:  # fmt: skip
            try:
                _, told = done.communicate()
            except BaseException:
                done.terminate()
                done.communicate()
                raise
        verdict: dict[str, Any] | None = None
        with contextlib.suppress(OSError, ValueError):
            verdict = json.loads(to.read_text(encoding="utf-8"))
    before = _recall(state).get(_job(image, options))
    if verdict is None or done.returncode not in (EXIT_OK, EXIT_FAILED):
        lines = [line for line in told.splitlines() if line.strip()]
        said = lines[-1].strip() if lines else f"it ended with status {done.returncode}"
        status = done.returncode if done.returncode in (EXIT_USAGE, EXIT_HOST) else EXIT_BROKEN
        return ScheduledResult(image=image, word=BROKEN, status=status, said=said, verdict=verdict, before=before)
    word = VERIFIED if verdict["verified"] else KNOWN_ISSUE if verdict.get("known_issue") else FAILED
    return ScheduledResult(
        image=image, word=word, status=done.returncode, said=_told(verdict), verdict=verdict, before=before
    )


def _told(verdict: dict[str, Any]) -> str:
    if verdict["verified"]:
        took = verdict["phases_s"].get("panic_to_login")
        return f"panic to login {took:.0f} s" if took is not None else "it is verified"
    causes = [one["name"] for one in verdict["symptoms"] if one["severity"] == "failure"][:1]
    failed = [f"{one['name']}: {one['seen']}" for one in verdict["checks"] if not one["ok"]]
    told = "; ".join([*causes, *filter(None, [verdict["stopped_by"]]), *failed])
    return f"reached {verdict['reached']}: {told}"[:400]


@contextlib.contextmanager
def alone(state: Path) -> Iterator[None]:
    """Within the block no other schedule of this state runs; GoesOn when one does."""
    try:
        state.mkdir(parents=True, exist_ok=True)
        lock = os.open(state / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o664)
    except OSError as error:
        raise HostError(f"{state / _LOCK} cannot be used: {error.strerror}") from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise GoesOn("another scheduled run goes on; this one is left out") from None
        yield
    finally:
        os.close(lock)


def remember(state: Path, options: Sequence[str], result: ScheduledResult) -> None:
    """Keep the word for the next time; only for who holds the lock."""
    words = {**_recall(state), _job(result.image, options): result.word}
    fresh = state / f".{_MEMORY}"
    fresh.write_text(json.dumps(words, indent=1) + "\n", encoding="utf-8")
    fresh.replace(state / _MEMORY)


def _recall(state: Path) -> dict[str, str]:
    with contextlib.suppress(OSError, ValueError):
        words = json.loads((state / _MEMORY).read_text(encoding="utf-8"))
        if isinstance(words, dict):
            return words
    return {}


def last_words(state: Path) -> dict[str, str]:
    """What came of each scheduled drill the last time."""
    return _recall(state)


def _job(image: str, options: Sequence[str]) -> str:
    return " ".join([image, *options])


def call_hook(command: str, result: ScheduledResult) -> str | None:
    """Give the result to the user's command as JSON on standard input; what went wrong, or None."""
    try:
        done = subprocess.run(
            ["sh", "-c", command], input=json.dumps(result.to_json(), default=str) + "\n", capture_output=True,
            text=True, errors="replace", timeout=_HOOK_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"the hook was not done after {_HOOK_S:.0f} s"
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()[-1:]
        return f"the hook ended with status {done.returncode}" + (f": {said[0]}" if said else "")
    return None
