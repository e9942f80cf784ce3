"""Watch a directory: a dump is taken in once its sender has finished it."""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..base.clock import now_s
from ..base.errors import HostError
from ..vmcore.inspection import UNJUDGED
from .intake.arrivals import WatchedDirectory, is_candidate, shown, unfinished_sign, walk
from .intake.copying import mark_of
from .store import KNOWN, REFUSED, STORED, WAITING, IntakeOutcome, Store


@dataclass
class _Seen:
    mark: str
    since_s: float  # on the local clock: the sender sets the file's times
    reported: str = ""
    settling: bool = True  # the last look found it younger than settle_s


class Watcher:
    """The state of a directory between two looks."""

    def __init__(self, store: Store, top: Path, *, remove: bool = False) -> None:
        """With remove, delete files from the directory once the store has them."""
        self._store = store
        self._top = top
        self._remove = remove
        self._seen: dict[str, _Seen] = {}

    @property
    def pending(self) -> set[str]:
        """Files that were seen and not yet taken in."""
        return set(self._seen)

    def settles_in_s(self) -> float | None:
        """Return the time until the first new file has been unchanged for long enough; None without such a file."""
        settle_s, settling = self._store.policy.settle_s, [seen for seen in self._seen.values() if seen.settling]
        return min((max(0.0, settle_s - (now_s() - seen.since_s)) for seen in settling), default=None)

    def look(self) -> Iterator[IntakeOutcome]:
        """Yield every file whose state has changed since the last look, with what became of it."""
        there: set[str] = set()
        for place in walk(self._top):
            for name in place.names:
                try:
                    status = place.status(name)
                except OSError:  # gone meanwhile
                    continue
                if not stat.S_ISDIR(status.st_mode) and (outcome := self._consider(place, name, status, there)):
                    yield outcome
        for path in self._seen.keys() - there:
            del self._seen[path]

    def _consider(
        self, place: WatchedDirectory, name: str, status: os.stat_result, there: set[str]
    ) -> IntakeOutcome | None:
        path = shown(place.path / name)
        mark = mark_of(status)
        if self._store.index.arrival(path, mark):
            return None
        seen = self._seen.get(path)
        if seen is None and not is_candidate(place, name):
            return None
        there.add(path)
        fresh = seen is None or seen.mark != mark
        if seen is None or fresh:
            seen = self._seen[path] = _Seen(mark, now_s(), seen.reported if seen else "")
        if not stat.S_ISREG(status.st_mode):
            return self._done(path, mark, self._store.admit(place, name))
        policy, still_s = self._store.policy, now_s() - seen.since_s
        seen.settling = still_s < policy.settle_s
        if seen.settling:
            return self._wait(path, seen, f"it must be unchanged for {policy.settle_s:.0f} s")
        sign = unfinished_sign(place, name)
        if sign and still_s < policy.abandoned_s:
            return self._wait(path, seen, sign)
        try:
            outcome = self._store.admit(place, name, sign=sign)
        except HostError as error:  # no room, for one: it may be better at the next look
            return self._wait(path, seen, str(error))
        if outcome.outcome == WAITING:
            seen.since_s = now_s()
            return self._wait(path, seen, outcome.reason)
        if self._remove and outcome.outcome in (STORED, KNOWN):
            with contextlib.suppress(OSError):  # gone, or not removable by this user
                if mark_of(place.status(name)) == mark:
                    place.unlink(name)
        return self._done(path, mark, outcome)

    def _wait(self, path: str, seen: _Seen, why: str) -> IntakeOutcome | None:
        """Report a waiting file when the reason has changed."""
        if seen.reported == why:
            return None
        seen.reported = why
        return IntakeOutcome(path=path, outcome=WAITING, reason=why)

    def _done(self, path: str, mark: str, outcome: IntakeOutcome) -> IntakeOutcome:
        self._seen.pop(path, None)
        note_arrival(self._store, path, mark, outcome)
        return outcome


def note_arrival(store: Store, path: str, mark: str, outcome: IntakeOutcome) -> None:
    """Remember the result for a file, so that it is not examined again."""
    with store.index.database.writing():
        store.index.note_arrival(
            path,
            mark,
            outcome=outcome.outcome,
            reason=outcome.reason,
            dump=outcome.dump.id if outcome.dump else None,
            at_s=time.time(),
        )


def add_directory(
    store: Store, top: Path, admit: Callable[[WatchedDirectory, str, str | None], IntakeOutcome]
) -> Iterator[IntakeOutcome]:
    """Take in the finished files of a directory; report files that were written to a moment ago as waiting."""
    for place in walk(top):
        for name in place.names:
            try:
                status = place.status(name)
                if stat.S_ISDIR(status.st_mode) or not is_candidate(place, name):
                    continue
            except OSError:
                continue
            path, age_s = shown(place.path / name), time.time() - status.st_mtime
            sign = unfinished_sign(place, name) if stat.S_ISREG(status.st_mode) else None
            if stat.S_ISREG(status.st_mode) and age_s < store.policy.settle_s:
                yield IntakeOutcome(path=path, outcome=WAITING, reason=f"it was written to {max(0.0, age_s):.0f} s ago")
            elif sign and age_s < store.policy.abandoned_s:
                yield IntakeOutcome(path=path, outcome=WAITING, reason=sign)
            else:
                outcome = admit(place, name, sign)
                if outcome.outcome in (REFUSED, UNJUDGED):
                    note_arrival(store, path, mark_of(status), outcome)
                yield outcome
