"""Services that run a scheduler or a worker until a signal arrives, and clean up after tasks that died."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from distributed.security import Security

from ..base import foreign
from ..base.errors import HostError
from ..images.state import remove_tree
from .protocol import wire_format
from .protocol.needs import slots
from .scheduler import FleetScheduler
from .worker.task_runner import Host
from .worker.worker import FleetWorker

RETRY_S = 5.0
Report = Callable[[str], None]


async def serve_scheduler(*, listen: str, port: int, security: Security | None, report: Report) -> None:
    """Run a scheduler until a signal arrives."""
    wire_format.restrict()
    stop = _stopping()
    try:
        scheduler = await FleetScheduler(listen=listen, port=port, security=security)
    except OSError as error:
        raise HostError(f"cannot listen on {listen}:{port}: {error.strerror or error}") from None
    async with scheduler:
        report(f"scheduler at {scheduler.address}")
        await stop.wait()


async def serve_worker(scheduler: str, host: Host, *, listen: str, security: Security | None, report: Report) -> None:
    """Run a worker until a signal arrives. If the scheduler is lost, remove all tasks and wait for it."""
    wire_format.restrict()
    stop = _stopping()
    reported = ""
    with locked(host.evidence):
        while not stop.is_set():
            await asyncio.to_thread(clean_up, host, report)
            problem = ""
            try:
                await _serve_once(scheduler, host, listen, security, report, stop)
            except (OSError, TimeoutError, ValueError, RuntimeError) as error:
                problem = str(error).splitlines()[0] if str(error) else type(error).__name__
            if not stop.is_set():
                if problem != reported or not problem:
                    report(f"no scheduler: {problem or 'the connection was lost'}; trying again every {RETRY_S:.0f} s")
                reported = problem
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), RETRY_S)
        await asyncio.to_thread(clean_up, host, report)


async def _serve_once(
    scheduler: str, host: Host, listen: str, security: Security | None, report: Report, stop: asyncio.Event
) -> None:
    """Serve one connection to a scheduler until it ends."""
    new = FleetWorker(scheduler, host, slots=slots(host.resources), security=security, listen=listen)
    new.on_task = lambda what, text: report(f"{what} {_label(text)}")
    try:
        async with new as worker:
            report(f"{host.name}: waiting for tasks of {scheduler}")
            stopped = asyncio.ensure_future(stop.wait())
            finished = asyncio.ensure_future(worker.finished())
            await asyncio.wait([stopped, finished], return_when=asyncio.FIRST_COMPLETED)
            for one in (stopped, finished):
                one.cancel()
    finally:
        await new.kdump_idle()


def _label(text: object) -> str:
    with contextlib.suppress(ValueError, KeyError, TypeError):
        table = foreign.parse_object(str(text))
        return str(table["test"] or " ".join(table["arguments"]))[:200]
    return "something else"


def _stopping() -> asyncio.Event:
    """Return an event that SIGINT and SIGTERM set."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for one in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(one, stop.set)
    return stop


@contextlib.contextmanager
def locked(evidence: Path) -> Iterator[None]:
    """Lock the directory against other workers. HostError if another one uses it."""
    try:
        evidence.mkdir(parents=True, exist_ok=True)
        lock = os.open(evidence / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise HostError(f"{evidence} cannot be used: {error.strerror} (choose another with --evidence DIR)") from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise HostError(f"another worker uses {evidence} (choose another with --evidence DIR)") from None
        yield
    finally:
        os.close(lock)


def clean_up(host: Host, report: Report) -> None:
    """Remove the evidence and all other remains of dead tasks, the latter with the verb clean."""
    for path in (*host.evidence.glob("task-*"), *host.evidence.glob("dask-scratch-space")):
        remove_tree(path)
    where = [*(["--uri", host.uri] if host.uri else []), *(["--state", str(host.state)] if host.state else [])]
    with contextlib.suppress(OSError):
        done = subprocess.run(
            [sys.executable, "-P", "-m", "kdump_harness", "clean", "--own", *where],
            capture_output=True,
            text=True,
            check=False,
        )
        for line in (done.stdout + done.stderr).splitlines():
            if line.startswith(("removed ", "kdump-harness: ")):
                report(line)
