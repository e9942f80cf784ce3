"""Check every page of a dump on all available processors."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..base.errors import NoVerdict
from .formats.damage import Damage, DamageList
from .formats.kdump import KdumpFile
from .formats.source import FlattenedFile, PlainFile
from .pagecheck import PageCheck, PageChecker

Progress = Callable[[int, int], None]

_TASK_PAGES = 1 << 14
# Starting a process takes as long as decompressing some ten thousand pages.
_WORTH_A_PROCESS = 1 << 15
_MAX_PROCESSES = 4
# Every process builds its own index of a flattened stream.
_MAX_SHARED_SEGMENTS = 1 << 18


def check_pages(
    part: KdumpFile, damage: DamageList, *, progress: Progress | None = None, processes: int | None = None
) -> Counter[str]:
    """Decompress every page and return the number of pages by compression."""
    total = part.descriptors
    tasks = [(first, min(_TASK_PAGES, total - first)) for first in range(0, total, _TASK_PAGES)]
    counts: Counter[str] = Counter()
    for result in _results(part, tasks, processes or _worth(part), progress):
        counts += result.counts
        for bad in result.damage:
            pfn = None if bad.pfn is None else part.pfn_of(bad.pfn)
            damage.add(bad.kind, bad.message, offset=bad.offset, pfn=pfn)
        if result.more:
            damage.drop("page", result.more)
    return counts


def _worth(part: KdumpFile) -> int:
    """Return how many processes a dump is worth."""
    if isinstance(part.source, FlattenedFile) and part.source.segments > _MAX_SHARED_SEGMENTS:
        return 1
    return max(1, min(len(os.sched_getaffinity(0)), _MAX_PROCESSES, part.descriptors // _WORTH_A_PROCESS))


def _results(
    part: KdumpFile, tasks: list[tuple[int, int]], processes: int, progress: Progress | None
) -> Iterator[PageCheck]:
    """Return the result of each task, in their order; this process and its helpers take them from one queue."""
    results: dict[int, PageCheck] = {}
    queue = deque(enumerate(tasks))

    def work(check: Callable[[int, int], PageCheck], report: Callable[[], None] | None = None) -> None:
        with contextlib.suppress(IndexError):  # the queue is empty
            while True:
                number, task = queue.popleft()
                results[number] = check(*task)
                if report is not None:
                    report()

    def report() -> None:
        if progress is not None:
            progress(min(len(results) * _TASK_PAGES, part.descriptors), part.descriptors)

    if processes == 1:  # without the imports that take longer than the pages of a small dump
        work(PageChecker(part, part.data_offset).check, report)
        report()
        return iter(results[number] for number in range(len(tasks)))
    from concurrent.futures import ThreadPoolExecutor

    helpers = [_Helper(part) for _ in range(processes - 1)]
    threads = ThreadPoolExecutor(processes)
    try:
        waiting = [threads.submit(work, helper.check) for helper in helpers]
        work(PageChecker(part, part.data_offset).check, report)
        for each in waiting:
            each.result()
    finally:
        queue.clear()
        for helper in helpers:
            helper.end()
        threads.shutdown()
        for helper in helpers:
            helper.close()
    report()
    return iter(results[number] for number in range(len(tasks)))


class _Helper:
    """A process, because one interpreter's lock lets threads decompress hardly more than one page at a time."""

    def __init__(self, part: KdumpFile) -> None:
        import subprocess

        file = part.source.file if isinstance(part.source, FlattenedFile) else part.source
        assert isinstance(file, PlainFile)
        path = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"{__package__}.worker", str(file.fileno()), str(part.data_offset)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))},
            pass_fds=[file.fileno()],
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._orders, self._answers = self._process.stdin, self._process.stdout

    def check(self, first: int, count: int) -> PageCheck:
        """Let the process check count pages."""
        answer = b""
        with contextlib.suppress(BrokenPipeError):
            self._orders.write(f"{first} {count}\n".encode())
            self._orders.flush()
            answer = self._answers.readline()
        if not answer.endswith(b"\n"):
            raise NoVerdict(f"the process that checked {count:,} pages from descriptor {first:,} on died")
        return from_json(json.loads(answer))

    def end(self) -> None:
        """End the process, also at work."""
        self._process.kill()

    def close(self) -> None:
        """Let go of the process once it has ended."""
        self._process.wait()
        self._answers.close()
        with contextlib.suppress(BrokenPipeError):  # an order that was never read
            self._orders.close()


def to_json(result: PageCheck) -> dict[str, Any]:
    """Return a result in the form that a helper process sends."""
    return {"counts": result.counts, "damage": [asdict(damage) for damage in result.damage], "more": result.more}


def from_json(answer: dict[str, Any]) -> PageCheck:
    """Return a result from the form in which it arrives."""
    return PageCheck(Counter(answer["counts"]), [Damage(**damage) for damage in answer["damage"]], answer["more"])
