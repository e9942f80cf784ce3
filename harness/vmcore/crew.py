"""Checks every page of a dump on all processors that we may use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import NoVerdict
from .damage import Damage, DamageList
from .kdump import KdumpFile
from .pagecheck import PageChecker, Result
from .source import FlattenedFile, PlainFile

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
    """Decompress every page; tells how many pages there are by compression."""
    total = part.descriptors
    tasks = [(first, min(_TASK_PAGES, total - first)) for first in range(0, total, _TASK_PAGES)]
    counts: Counter[str] = Counter()
    done = 0
    for (_, count), result in zip(tasks, _results(part, tasks, processes or _worth(part)), strict=True):
        counts += result.counts
        damage.extend([Damage(bad.kind, bad.message, bad.offset, part.pfn_of(bad.pfn or 0)) for bad in result.damage])
        if result.more:
            damage.drop("page", result.more)
        done += count
        if progress is not None:
            progress(done, total)
    return counts


def _worth(part: KdumpFile) -> int:
    """How many processes a dump is worth."""
    if isinstance(part.source, FlattenedFile) and part.source.segments > _MAX_SHARED_SEGMENTS:
        return 1
    return max(1, min(len(os.sched_getaffinity(0)), _MAX_PROCESSES, part.descriptors // _WORTH_A_PROCESS))


def _results(part: KdumpFile, tasks: list[tuple[int, int]], processes: int) -> Iterator[Result]:
    """The result of each task, in their order."""
    if processes == 1:
        checker = PageChecker(part, part.table_end)
        for task in tasks:
            yield checker.check(*task)
        return
    crew = _Crew(part, processes)
    threads = ThreadPoolExecutor(processes)
    try:
        yield from threads.map(lambda task: crew.check(*task), tasks)
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
        crew.close()


class _Crew:
    """Processes, because one interpreter's lock lets threads decompress hardly more than one page at a time."""

    def __init__(self, part: KdumpFile, processes: int) -> None:
        file = part.source.file if isinstance(part.source, FlattenedFile) else part.source
        assert isinstance(file, PlainFile)
        worker = f"{__package__}.worker"
        command = [sys.executable, "-m", worker, str(file.fileno()), str(part.table_end)]
        path = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))}
        self._all = [
            subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment,
                pass_fds=[file.fileno()],
            )
            for _ in range(processes)
        ]
        self._idle = list(self._all)
        self._lock = threading.Lock()

    def check(self, first: int, count: int) -> Result:
        """Let an idle process check count pages."""
        with self._lock:
            process = self._idle.pop()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(f"{first} {count}\n".encode())
            process.stdin.flush()
            answer = process.stdout.readline()
        except BrokenPipeError:
            answer = b""
        with self._lock:
            self._idle.append(process)
        if not answer.endswith(b"\n"):
            raise NoVerdict(f"the process that checked {count:,} pages from descriptor {first:,} on died")
        return from_json(json.loads(answer))

    def close(self) -> None:
        """End the processes."""
        for process in self._all:
            process.kill()
        for process in self._all:
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()


def to_json(result: Result) -> dict[str, Any]:
    """A result as a helper process sends it."""
    return {"counts": result.counts, "damage": [asdict(damage) for damage in result.damage], "more": result.more}


def from_json(answer: dict[str, Any]) -> Result:
    """A result as it arrives."""
    return Result(Counter(answer["counts"]), [Damage(**damage) for damage in answer["damage"]], answer["more"])
