"""A display of parallel tasks: one line for each running task, and an estimate of the time left."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from rich.console import Group
from rich.live import Live
from rich.text import Text

from .clock import now_s
from .progress import err

LINES_MAX = 20
STILL_S = 60.0  # between two lines of a log


@dataclass
class BoardLine:
    """A task on its way, here or at a worker."""

    label: str
    kind: str
    since_s: float
    worker: str = ""
    address: str = ""
    step: str = ""


class Board:
    """Knows what runs where and since when, and how long the tasks before took."""

    def __init__(self, kinds: Iterable[str], *, quiet: bool = False, clock: Callable[[], float] = now_s) -> None:
        """Kinds are those of all tasks: tasks of one kind take about the same time."""
        self._clock = clock
        self._waiting: dict[str, int] = defaultdict(int)  # those that do not run, by kind
        self.total, self.finished, self.failed = 0, 0, 0
        self.expect(kinds)
        self.running: dict[str, BoardLine] = {}
        self._took_s: dict[str, list[float]] = defaultdict(list)
        self._most = 0  # that ran at once, lately
        self._quiet = quiet
        self._live: Live | None = None
        self._reported_s = clock()
        if not quiet and err.is_terminal:
            self._live = Live(console=err, refresh_per_second=1, get_renderable=self._picture, transient=True)
            self._live.start()

    def expect(self, kinds: Iterable[str]) -> None:
        """There are more tasks than was known, of these kinds."""
        for kind in kinds:
            self._waiting[kind] += 1
            self.total += 1

    def learn(self, took: Iterable[tuple[str, float]]) -> None:
        """Learn from earlier tasks: their kind, and seconds."""
        for kind, took_s in took:
            self._took_s[kind].append(took_s)

    def began(self, key: str, *, label: str, kind: str, worker: str = "", address: str = "") -> None:
        """Note that a task runs now, at a worker if there are any; a second start replaces a lost one."""
        if key in self.running:
            self._stopped(key)
        self._waiting[kind] -= 1
        self.running[key] = BoardLine(label, kind, self._clock(), worker, address)
        self._most = max(self._most, len(self.running))
        if worker:
            self.say(f"{label}: runs on {worker}", log_only=True)

    def step(self, key: str, text: str) -> None:
        """Note the current step of a task."""
        if found := self.running.get(key):
            found.step = text

    def ended(self, key: str, kind: str, *, took_s: float, ok: bool) -> None:
        """Note that a task ended, well or badly, after the time that its worker took."""
        if key in self.running:
            del self.running[key]
        else:
            self._waiting[kind] -= 1
        self.finished, self.failed = self.finished + 1, self.failed + (not ok)
        if took_s > 0:
            self._took_s[kind].append(took_s)

    def lost(self, address: str) -> list[str]:
        """Note that a worker is gone, and return the tasks that ran there."""
        gone = [key for key, one in self.running.items() if one.address == address]
        labels = [self.running[key].label for key in gone]
        for key in gone:
            self._stopped(key)
        self._most = len(self.running)
        return labels

    def _stopped(self, key: str) -> None:
        self._waiting[self.running.pop(key).kind] += 1

    def left_s(self) -> float | None:
        """How long the rest takes with as many at once as now; None as long as nothing is known."""
        if not self._took_s:
            return None
        every = statistics.fmean([took for each in list(self._took_s.values()) for took in each])

        def usual(kind: str) -> float:
            return statistics.fmean(self._took_s[kind]) if self._took_s.get(kind) else every

        at_once = max(self._most, len(self.running), 1)
        now = self._clock()
        rests = [max(usual(one.kind) - (now - one.since_s), 0.0) for one in list(self.running.values())]
        waiting = {kind: count for kind, count in list(self._waiting.items()) if count > 0}
        work_s = sum(rests) + sum(usual(kind) * count for kind, count in waiting.items())
        longest = max([*rests, *map(usual, waiting), 0.0])
        return max(work_s / at_once, longest)

    def summary(self) -> str:
        """One line for all."""
        failed = f", {self.failed} of them not good" if self.failed else ""
        text = f"{self.finished} of {self.total} done{failed}, {len(self.running)} running"
        left = self.left_s()
        if self.finished == self.total:
            return text
        if left is None:
            return f"{text}; how long the rest takes is known after the first one"
        before = sum(map(len, list(self._took_s.values())))
        return f"{text}; about {duration(left)} left, by the {before} before"

    def lines(self) -> Iterator[str]:
        """One line for each that runs, the oldest first."""
        now = self._clock()
        for one in sorted(self.running.values(), key=lambda one: one.since_s)[:LINES_MAX]:
            yield "  ".join(filter(None, (f"  {duration(now - one.since_s):>8}", one.worker, one.label, one.step)))
        if len(self.running) > LINES_MAX:
            yield f"  and {len(self.running) - LINES_MAX} more"

    def say(self, text: str, *, log_only: bool = False) -> None:
        """One line that stays."""
        if not self._quiet and not (log_only and self._live is not None):
            err.print(text, markup=False)

    def tick(self) -> None:
        """In a log, now and then, what a terminal shows all the time."""
        if self._quiet or self._live is not None or self._clock() - self._reported_s < STILL_S:
            return
        self._reported_s = self._clock()
        for line in (self.summary(), *self.lines()):
            err.print(line, markup=False)

    def close(self) -> None:
        """Take it down."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _picture(self) -> Group:
        return Group(*(Text(line, no_wrap=True, overflow="ellipsis") for line in (self.summary(), *self.lines())))


def duration(seconds: float) -> str:
    """For people: 45 s, 3:05, 2:10:00."""
    whole = int(seconds + 0.5)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02} min"
    return f"{whole // 3600}:{whole // 60 % 60:02} h"
