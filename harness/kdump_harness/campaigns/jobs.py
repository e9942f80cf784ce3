"""Tasks side by side in threads of one run; the first error of one ends them all."""

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
# Jobs that have to end notice it at their next look at a console or a command; those that wait for an answer of their
# guest do when it is gone.
NOTICE_S = 3.0
END_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Job:
    """Something that takes a guest and a while."""

    label: str
    kind: str  # tasks of one kind take about the same time
    work: Callable[[], object]


class Jobs:
    """Runs tasks side by side and tells how far they are; use as a context manager."""

    def __init__(
        self, run: Run, at_once: int, kinds: Iterable[str], *, before: Iterable[tuple[str, float]] = ()
    ) -> None:
        """kinds are those of all tasks that are known to come; before is what others of them took, in seconds."""
        self._run, self.at_once = run, at_once
        self._shown = at_once > 1  # one alone has the terminal for itself
        self._board = Board(kinds, quiet=run.progress.quiet or not self._shown)
        self._board.learn(before)
        self._numbers = itertools.count(1)
        self._stop = threading.Event()
        self._lock = threading.Lock()  # for the board

    def __enter__(self) -> Jobs:
        return self

    def __exit__(self, *_: object) -> None:
        self._board.close()

    def expect(self, kinds: Iterable[str]) -> None:
        """There are more tasks to come."""
        self._board.expect(kinds)

    def run(self, tasks: Sequence[Job]) -> None:
        """Do all of them; the first exception of one ends the others and is raised."""
        if self._shown:
            self._side_by_side(tasks)
            return
        for number, task in enumerate(tasks, start=1):
            with self._told(task):
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
        """One thread's work: a task after the other."""
        try:
            while not self._stop.is_set():
                try:
                    task = todo.popleft()
                except IndexError:
                    break
                with ending_when(self._stop.is_set), self._told(task):
                    task.work()
        except Stopped:
            pass
        except BaseException as error:
            news.put(error)
            return
        news.put(None)

    @contextlib.contextmanager
    def _told(self, task: Job) -> Iterator[None]:
        """Show that a task is on its way, and remember how long it took."""
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
        """Have all of them end and clean up; nothing of theirs is left when this returns."""
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
