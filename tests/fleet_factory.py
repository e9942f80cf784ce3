"""A scheduler and workers in a thread of this process, whose drills are small programs instead of guests."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from kdump_harness.fleet.client import Order
from kdump_harness.fleet.protocol import wire_format
from kdump_harness.fleet.protocol.needs import CORES, MIB, VERSION
from kdump_harness.fleet.protocol.tasks import DRILL, FleetTask, TaskCommand, TaskPaths, drill_needs, parse_drill
from kdump_harness.fleet.scheduler import FleetScheduler
from kdump_harness.fleet.worker import task_runner
from kdump_harness.fleet.worker.task_runner import Host
from kdump_harness.fleet.worker.worker import FleetWorker

RESOURCES = {MIB: 6000.0, CORES: 4.0, VERSION: 1.0, "ARCH-x86_64": 1.0, "TCG": 1.0, "CPU-2": 1.0}

# In place of a drill: it reports where it runs, may wait for a file, and leaves a verdict and evidence. Its level says
# what comes of it.
PROGRAM = """
import json, os, pathlib, sys, time
result, evidence, level, hold, log, scratch = sys.argv[1:]
with open(log, "a") as file:
    file.write(f"{os.getpid()} {level} {evidence}\\n")
print("  a step ...", flush=True)
while hold and not os.path.exists(hold):
    time.sleep(0.02)
if level == "9":
    sys.exit("kdump-harness: the guest did not boot")
run = pathlib.Path(evidence) / "20260101-000000"
(run / "debian-12").mkdir(parents=True)
verdict = {
    "image": "debian-12", "family": "debian", "trigger": "sysrq-c", "target": "local", "accelerator": "tcg",
    "memory_mib": 1024, "vcpus": 2, "level": int(level), "reached": "SAVED" if level == "16" else "VERIFIED",
    "verified": level != "16", "evidence": str(run / "debian-12"), "phases_s": {"panic_to_login": 60.0},
    "checks": [{"name": "whole", "ok": level != "16", "expected": "whole", "seen": "cut"}], "kernel": "6.1.0",
}
pathlib.Path(result).write_text(json.dumps(verdict))
(run / "debian-12" / "verdict.json").write_text(json.dumps(verdict))
(run / "debian-12" / "console.log").write_text("panic\\n" * 10)
(run / "debian-12" / "vmcore.1").write_bytes(b"KDUMP   " + bytes(5000))
sys.exit(level == "16")
"""


class Cluster:
    """Use as a context manager; what it starts ends with it."""

    def __init__(self, directory: Path, *, hold: Path | None = None) -> None:
        self.directory, self.hold, self.log = directory, hold, directory / "ran"
        self.directory.mkdir(exist_ok=True)
        self.workers: dict[str, FleetWorker] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    def __enter__(self) -> Cluster:
        wire_format.restrict()
        self._thread.start()
        self.scheduler: FleetScheduler = self.call(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        self.call(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def call(self, what: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(20)

    @property
    def address(self) -> str:
        return str(self.scheduler.address)

    def add(self, name: str, resources: dict[str, float] | None = None, **more: Any) -> FleetWorker:
        """Another worker."""
        host = Host(
            name=name,
            state=self.directory / f"{name}-state",
            evidence=self.directory / name,
            resources=RESOURCES if resources is None else resources,
            **more,
        )
        host.evidence.mkdir(exist_ok=True)

        async def start() -> FleetWorker:
            return await FleetWorker(self.address, host, slots=4, security=None, listen="127.0.0.1")

        self.workers[name] = self.call(start())
        return self.workers[name]

    def lose(self, name: str) -> None:
        """The worker's line is cut, as when its network or its host goes."""
        worker = self.workers.pop(name)

        async def cut() -> None:
            worker.batched_stream.comm.abort()
            await worker.finished()
            await worker.kdump_idle()

        self.call(cut())

    def ran(self) -> list[str]:
        """One line for each program that was started: process, level, evidence."""
        return self.log.read_text().splitlines() if self.log.exists() else []

    def command_of(self, task: FleetTask, *, files: Sequence[Path] = ()) -> TaskCommand:
        """Return the command of a task after the usual checks, but with another program."""
        found = self._command_of(task, files=files)
        if task.kind != DRILL:
            return found
        level = parse_drill(task.arguments).level or 31

        def command(paths: TaskPaths) -> list[str]:
            hold = str(self.hold) if self.hold is not None else ""
            words = (paths.result, paths.evidence, level, hold, self.log, paths.scratch)
            return [sys.executable, "-S", "-c", PROGRAM, *map(str, words)]

        return TaskCommand(needs=found.needs, build=command)

    _command_of: Callable[..., TaskCommand] = staticmethod(task_runner.command_of)

    async def _start(self) -> FleetScheduler:
        return await FleetScheduler(listen="127.0.0.1", port=0, security=None)

    async def _stop(self) -> None:
        for worker in self.workers.values():
            await worker.close()
            await worker.kdump_idle()
        await self.scheduler.close()


def drill_order(number: int, *arguments: str, **more: Any) -> Order:
    """A drill as a client gives it."""
    words = arguments or ("debian-12", f"--level={number % 8}")
    task = FleetTask(kind=DRILL, arguments=words, **more)
    return Order(number=number, task=task, needs=drill_needs(parse_drill(words)), kind="drill-debian")
