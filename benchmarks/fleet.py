"""Measures the cost of a fleet without its drills: a real scheduler and client, and workers whose drills only wait.

Usage: python benchmarks/fleet.py [--hosts 10,100,1000] [--drills 10000] [--smoke]

The durations of drills are drawn from recorded ones and shortened. The figures of docs/scale.md come from
`--hosts 10,100,1000 --drills 10000`; the defaults are smaller. Fails if a drill is lost or counted twice, or if the
fleet's own time per drill is so long that a thousand hosts would wait for it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import random
import resource
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from kdump_harness.fleet.client import Fleet, Order
from kdump_harness.fleet.protocol import wire_format
from kdump_harness.fleet.protocol.archive import pack
from kdump_harness.fleet.protocol.needs import CORES, MIB, VERSION
from kdump_harness.fleet.protocol.results import TaskResult, write_result
from kdump_harness.fleet.protocol.tasks import DRILL, FleetTask, drill_needs, parse_drill
from kdump_harness.fleet.scheduler import FleetScheduler
from kdump_harness.fleet.worker.peer_server import copy_entry
from kdump_harness.fleet.worker.task_runner import Host
from kdump_harness.fleet.worker.worker import FleetWorker
from kdump_harness.images.state import State
from kdump_harness.vm.capacity import GUEST_MIB, OVERHEAD_MIB

# Seconds from the first boot to the verdict of verified drills of debian-12 on two emulating cores: with at most one
# other guest (the first three), and with four to six others.
RECORDED_S = (116, 176, 226, 309, 385, 403, 418)
RESOURCES = {MIB: float(GUEST_MIB + OVERHEAD_MIB), CORES: 1.0, VERSION: 1.0, "ARCH-x86_64": 1.0, "TCG": 1.0}
PASS_S = 60.0  # shortened duration of all drills of a host, at least
HOSTS_PER_PROCESS = 250
LOST = 0.01  # share of the hosts that disappear while drills run
COPY_MIB = 256
OWN_LIMIT_S = 0.1  # limit per drill: a thousand hosts finish one every 0.3 s


class SimulatedWorker(FleetWorker):
    """A worker that waits as long as a drill takes, and returns evidence of the same size."""

    archive = b""
    faster = 1.0
    start_s = 300.0  # time limit of the start; hundreds start at once in one process

    async def kdump_perform(self, key: Any, text: str | None, stated: Any) -> bytes:
        assert text is not None
        took_s = random.Random(text).choice(RECORDED_S)
        self.kdump_report(key, {"what": "began"})
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), took_s / self.faster)
        verdict = {"text": text}
        result = TaskResult(worker=self.kdump_host.name, status=0, took_s=took_s, verdict=verdict, root="/there")
        return write_result(result, self.archive)


def evidence_archive() -> bytes:
    """Return evidence as large as that of a drill, and as hard to compress."""
    with tempfile.TemporaryDirectory() as scratch:
        # The evidence of a drill: 230 KB in 13 files, 52 KB when packed.
        for name, size in (("console.log", 24), ("kpageflags.gz", 18), ("commands.log", 6), ("dmesg", 4)):
            (Path(scratch) / name).write_bytes(os.urandom(size << 10))
        for number in range(9):
            (Path(scratch) / f"small-{number}.json").write_text("{}\n")
        return pack(Path(scratch), limit_bytes=64 << 20, vmcores=False)[0]


def run_scheduler(pipe: Connection) -> None:
    """Run the scheduler in this process."""
    _open_files()

    async def serve() -> None:
        wire_format.restrict()
        async with FleetScheduler(listen="127.0.0.1", port=0, security=None) as scheduler:
            pipe.send(scheduler.address)
            await asyncio.to_thread(pipe.recv)

    asyncio.run(serve())


def run_hosts(pipe: Connection, address: str, names: list[str], faster: float, scratch: str) -> None:
    """Run many workers in this process."""
    _open_files()
    SimulatedWorker.archive, SimulatedWorker.faster = evidence_archive(), faster

    async def serve() -> None:
        wire_format.restrict()
        workers = []
        for name in names:
            host = Host(name=name, state=Path(scratch) / "state", evidence=Path(scratch) / name, resources=RESOURCES)
            host.evidence.mkdir()
            workers.append(await SimulatedWorker(address, host, slots=1, security=None, listen="127.0.0.1"))
        pipe.send(len(workers))
        while (lost := await asyncio.to_thread(pipe.recv)) is not None:
            for worker in workers[:lost]:
                worker.batched_stream.comm.abort()
        await asyncio.gather(*(worker.close() for worker in workers), return_exceptions=True)
        os._exit(0)

    asyncio.run(serve())


@contextlib.contextmanager
def process(target: Any, *arguments: Any) -> Iterator[tuple[Connection, int]]:
    """Start a child process, which ends with the block; yield the pipe to it and its process ID."""
    pipe, end_of_child = multiprocessing.Pipe()
    child = multiprocessing.get_context("spawn").Process(target=target, args=(end_of_child, *arguments), daemon=True)
    child.start()
    assert child.pid is not None
    try:
        yield pipe, child.pid
    finally:
        with contextlib.suppress(OSError):
            pipe.send(None)
        child.join(20)
        if child.is_alive():
            child.kill()


def processor_s(pid: int | str = "self") -> float:
    """Return the processor time of a process in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_mib(pid: int) -> float:
    """Return the peak memory of a process in MiB."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0


def simulate(hosts: int, drills: int, direct: bool, pass_s: float) -> dict[str, float]:
    """Run the drills once and return the figures."""
    orders = []
    for number in range(1, drills + 1):
        words = ("debian-12", f"--level={number % 32}", f"--budget={number}.0")
        orders.append(
            Order(
                number=number, task=FleetTask(kind=DRILL, arguments=words), needs=drill_needs(parse_drill(words)),
                kind="drill-debian",
            )
        )  # fmt: skip
    work_s = sum(random.Random(order.task.to_text()).choice(RECORDED_S) for order in orders)
    faster = max(1.0, work_s / hosts / pass_s)
    names = [f"host-{number:04}" for number in range(hosts)]
    groups = [names[at : at + HOSTS_PER_PROCESS] for at in range(0, hosts, HOSTS_PER_PROCESS)]
    with contextlib.ExitStack() as resources:
        scratch = resources.enter_context(tempfile.TemporaryDirectory())
        scheduler, scheduler_pid = resources.enter_context(process(run_scheduler))
        address = scheduler.recv()
        pipes = [resources.enter_context(process(run_hosts, address, group, faster, scratch))[0] for group in groups]
        for pipe in pipes:
            pipe.recv()
        before_s, mine_s, start_s = processor_s(scheduler_pid), processor_s(), time.monotonic()
        lose = max(1, int(hosts * LOST)) if hosts > 1 else 0
        threading.Timer(pass_s / 3, lambda: pipes[0].send(lose)).start()
        counted: dict[int, int] = {}
        size = 0
        given_s = 0.0
        with Fleet(address, security=None, wait_s=600, direct=direct, quiet=True) as fleet:
            for order, result in fleet.run(orders, evidence=Path(scratch) / "evidence", run_name="run"):
                given_s = given_s or time.monotonic() - start_s
                counted[order.number] = counted.get(order.number, 0) + 1
                assert result.verdict == {"text": order.task.to_text()}, result
                size += sum(path.stat().st_size for path in Path(result.evidence).iterdir())
        took_s = time.monotonic() - start_s
        assert sorted(counted) == list(range(1, drills + 1))
        assert set(counted.values()) == {1}
        return {
            "hosts": hosts,
            "drills": drills,
            "faster": faster,
            "drills_alone_hours": work_s / hosts / 3600,
            "took_s": took_s,
            "own_s": (took_s - work_s / hosts / faster) / drills,
            "results_per_s": drills / took_s,
            "first_s": given_s,
            "scheduler_ms": 1000 * (processor_s(scheduler_pid) - before_s) / drills,
            "client_ms": 1000 * (processor_s() - mine_s) / drills,
            "scheduler_mib": memory_mib(scheduler_pid),
            "evidence_mib": size / (1 << 20),
            "lost": lose,
        }


# ---------------------------------------------------------------- peer cache


def run_holder(pipe: Connection, address: str, scratch: str, size_mib: int) -> None:
    """Run a worker whose cache has one disk."""

    async def serve() -> None:
        wire_format.restrict()
        host = Host(name="holder", state=Path(scratch) / "there", evidence=Path(scratch) / "e", resources=RESOURCES)
        host.evidence.mkdir()
        entry = State(host.state).directory / "built" / "0123456789abcdef"
        entry.mkdir()
        with (entry / "disk.raw").open("wb") as file:
            file.truncate(8 << 30)
            for number in range(size_mib // 4):
                file.seek(number * (32 << 20))
                file.write(os.urandom(4 << 20))
        (entry / "meta.json").write_text('{"identity": "x"}')
        async with FleetWorker(address, host, slots=1, security=None, listen="127.0.0.1") as worker:
            pipe.send(worker.address)
            await asyncio.to_thread(pipe.recv)

    asyncio.run(serve())


def copy_rate(size_mib: int) -> float:
    """Return the rate in MiB/s of a checked copy from one worker to another, both on this host."""

    async def take(address: str, holder: str, scratch: str) -> float:
        wire_format.restrict()
        host = Host(name="taker", state=Path(scratch) / "here", evidence=Path(scratch) / "f", resources=RESOURCES)
        host.evidence.mkdir()
        async with FleetWorker(address, host, slots=1, security=None, listen="127.0.0.1") as worker:
            state = State(host.state)
            (state.directory / "built" / "0123456789abcdef.part").mkdir()
            start_s = time.monotonic()
            await copy_entry(worker._asker(holder), state, "built", "0123456789abcdef", me=worker.address)
            return size_mib / (time.monotonic() - start_s)

    with tempfile.TemporaryDirectory() as scratch, process(run_scheduler) as (scheduler, _):
        address = scheduler.recv()
        with process(run_holder, address, scratch, size_mib) as (pipe, _):
            return asyncio.run(take(address, pipe.recv(), scratch))


def _open_files() -> None:
    """Raise the limit of open files: a thousand workers hold thousands of connections."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def main() -> int:
    """Return 1 if the fleet itself takes too long."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", default="10,50", help="comma-separated numbers of hosts (default: %(default)s)")
    parser.add_argument("--drills", type=int, default=500, help="number of drills (default: %(default)s)")
    parser.add_argument("--pass-s", type=float, default=PASS_S, metavar="S", help="shortened duration of all drills")
    parser.add_argument("--direct", action="store_true", help="fetch evidence from the workers")
    parser.add_argument("--json", metavar="FILE", help="also write the figures to this file")
    parser.add_argument("--smoke", action="store_true", help="check the benchmark itself: 2 hosts, 4 drills, no limit")
    options = parser.parse_args()
    if options.smoke:
        options.hosts, options.drills, options.pass_s = "2", 4, 0.5
    _open_files()
    rows = []
    slow = False
    print(f"recorded drills: {statistics.fmean(RECORDED_S):.0f} s ({min(RECORDED_S)} to {max(RECORDED_S)})")
    for hosts in map(int, options.hosts.split(",")):
        row = simulate(hosts, options.drills, options.direct, options.pass_s)
        rows.append(row)
        slow |= row["own_s"] > OWN_LIMIT_S
        print(
            f"{hosts:>5} hosts, {options.drills:,} drills: {row['drills_alone_hours']:.2f} h, {row['faster']:.0f} times"
            f" faster: {row['took_s']:.0f} s, {row['results_per_s']:.0f} results a second; overhead per drill"
            f" {1000 * row['own_s']:.1f} ms;"
            f" first result after {row['first_s']:.1f} s; {row['lost']} hosts lost, every drill counted once;"
            f" scheduler {row['scheduler_ms']:.1f} ms and client {row['client_ms']:.1f} ms of processor time per drill,"
            f" scheduler {row['scheduler_mib']:.0f} MiB, evidence {row['evidence_mib']:.0f} MiB",
            flush=True,
        )
    rate = copy_rate(COPY_MIB // 32 if options.smoke else COPY_MIB)
    print(f"copy of a disk between two workers of this host: {rate:.0f} MiB/s")
    if options.json:
        Path(options.json).write_text(json.dumps({"runs": rows, "copy_mib_s": rate}, indent=1) + "\n")
    return int(slow and not options.smoke)


if __name__ == "__main__":
    sys.exit(main())
