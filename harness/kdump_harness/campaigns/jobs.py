"""Parallel jobs in threads of one run; the first error of a job stops all jobs."""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from ..base.board import Board
from ..base.clock import Deadline, ending_when, now_s
from ..base.errors import Stopped
from ..vm.run import Run

LOOK_S = 0.5
# A stopped job notices at its next look at a console or a command; a job that waits for its guest notices when the
# guest is destroyed.
NOTICE_S = 3.0
END_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Job:
    """A piece of work that needs a guest and takes a while."""

    label: str
    kind: str  # jobs of one kind take about the same time
    work: Callable[[], object]


class Jobs:
    """Runner of parallel jobs that shows their progress; use as a context manager."""

    def __init__(
        self, run: Run, at_once: int, kinds: Iterable[str], *, before: Iterable[tuple[str, float]] = ()
    ) -> None:
        """Expect jobs of these KINDS; BEFORE is the kind and duration, in seconds, of finished ones."""
        self._run, self.at_once = run, at_once
        self._shown = at_once > 1  # a single job has the terminal to itself
        self._board = Board(kinds, quiet=run.progress.quiet or not self._shown)
        self._board.learn(before)
        self._numbers = itertools.count(1)
        self._stop = threading.Event()
        self._lock = threading.Lock()  # guards the board

    def __enter__(self) -> Jobs:
        return self

    def __exit__(self, *_: object) -> None:
        self._board.close()

    def expect(self, kinds: Iterable[str]) -> None:
        """Expect further jobs of these KINDS."""
        self._board.expect(kinds)

    def run(self, tasks: Sequence[Job]) -> None:
        """Do all jobs; the first exception of a job stops the others and is raised."""
        if self._shown:
            self._side_by_side(tasks)
            return
        for number, task in enumerate(tasks, start=1):
            with self._tracked(task):
                task.work()
            if number < len(tasks):
                self._run.progress.say(self._board.summary())

    def _side_by_side(self, tasks: Sequence[Job]) -> None:
        todo, news = deque(tasks), queue.SimpleQueue[BaseException | None]()
        threads = [
            threading.Thread(target=self._serve, args=(todo, news), name=f"job-{slot}", daemon=True)
            for slot in range(min(self.at_once, len(tasks)))
        ]
        left = len(threads)
        try:
            self._run.side_by_side = left
            for thread in threads:
                thread.start()
            while left:
                with contextlib.suppress(queue.Empty):
                    if (error := news.get(timeout=LOOK_S)) is not None:
                        raise error
                    left -= 1
                    self._run.side_by_side = max(1, left)
                self._board.tick()
        except BaseException:
            self._end(threads)
            raise
        finally:
            self._run.side_by_side = 1

    def _serve(self, todo: deque[Job], news: queue.SimpleQueue[BaseException | None]) -> None:
        """Do one job after the other, in one thread."""
        try:
            while not self._stop.is_set():
                try:
                    task = todo.popleft()
                except IndexError:
                    break
                with ending_when(self._stop.is_set), self._tracked(task):
                    task.work()
        except Stopped:
            pass
        except BaseException as error:
            news.put(error)
            return
        news.put(None)

    @contextlib.contextmanager
    def _tracked(self, task: Job) -> Iterator[None]:
        """Show that a job runs, and remember its duration."""
        key, began_s, done = str(next(self._numbers)), now_s(), False
        with self._lock:
            self._board.began(key, label=task.label, kind=task.kind)
        try:
            if self._shown:
                with self._run.progress.job(task.label, lambda text: self._board.step(key, text)):
                    yield
            else:
                yield
            done = True
        finally:
            with self._lock:
                self._board.ended(key, task.kind, took_s=now_s() - began_s if done else 0.0, ok=True)

    def _end(self, threads: Sequence[threading.Thread]) -> None:
        """Stop all threads and wait until each has cleaned up."""
        self._stop.set()
        started = [thread for thread in threads if thread.ident is not None]
        if not started:
            return
        notice = Deadline(NOTICE_S)
        for thread in started:
            thread.join(notice.left_s)
        self._run.abandon()
        rest = Deadline(END_S)
        for thread in started:
            thread.join(rest.left_s)
