"""The execution of one task on a worker, in a process that cannot outlive it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...base import foreign
from ...base.clock import now_s
from ...base.errors import EXIT_BROKEN, EXIT_FAILED, EXIT_HOST, EXIT_OK, EXIT_USAGE
from ...images.peer_cache import VARIABLE as PEERS
from ...images.state import remove_tree
from ..protocol.archive import pack
from ..protocol.results import TaskResult, write_result
from ..protocol.tasks import DRILL, FleetTask, TaskCommand, TaskPaths, TaskRefused, command_of, read_task
from .pytest_worker import VARIABLE as REPORTS
from .supervisor import GRACE_S

LOOK_S = 1.0
KEPT = 20  # directories with files that were not sent
_OUTPUT_LINES = 40
# Variables in the worker's environment that could change which code Python and pytest run.
_NOT_INHERITED = ("PYTEST_", "PYTHON", "COV_", "KDUMP_FLEET_")


class Unwanted(Exception):
    """A task whose result is no longer wanted."""


@dataclass(frozen=True, kw_only=True)
class Host:
    """The settings for tasks on this host."""

    name: str
    uri: str | None = None
    state: Path | None = None
    evidence: Path
    files: tuple[Path, ...] = ()
    resources: Mapping[str, float] = field(default_factory=dict)
    socket: Path | None = None  # socket for requests to the peer cache
    keep_all: bool = False


def prepare(text: object, host: Host, stated: Mapping[str, float]) -> tuple[FleetTask, TaskCommand]:
    """Return the task in a text and its command. Raise TaskRefused if invalid or larger than stated."""
    if text is None:
        raise TaskRefused("the task is not one of kdump-harness (a worker runs only scenarios and drills)")
    task = read_task(text)
    command = command_of(task, files=host.files)
    if lacking := command.needs.lacking(host.resources):
        raise TaskRefused(f"this worker lacks {', '.join(lacking)}")
    for name, value in command.needs.resources().items():
        if stated.get(name, 0) < value:
            raise TaskRefused(f"the task needs {value:.0f} {name} but states {stated.get(name, 0):.0f}")
    return task, command


async def perform(
    text: object,
    host: Host,
    *,
    stated: Mapping[str, float],
    wanted: Callable[[], bool],
    report: Callable[[dict[str, Any]], None],
) -> bytes:
    """Run a task and return its result. Raise Unwanted when its result is no longer wanted."""
    try:
        task, command = await asyncio.to_thread(prepare, text, host, stated)
    except TaskRefused as error:
        return write_result(TaskResult(worker=host.name, status=EXIT_USAGE, problem=f"refused: {error}"))
    directory = host.evidence / f"task-{secrets.token_hex(4)}"
    started_s = now_s()
    try:
        paths = _make_paths(directory, host)
        status, output = await _run(command.build(paths), paths, host, wanted, report)
        result = _result(task, paths, host, status, output, now_s() - started_s)
        archive, result.left_out = await asyncio.to_thread(
            pack, Path(result.root), limit_bytes=task.evidence_mib << 20, vmcores=task.vmcores
        )
        if result.left_out:
            await asyncio.to_thread(_keep, directory, Path(result.root), result.left_out)
        return write_result(result, archive)
    except OSError as error:
        problem = f"{error.filename or directory}: {error.strerror or error}"
        return write_result(TaskResult(worker=host.name, status=EXIT_HOST, problem=problem))
    finally:
        await asyncio.to_thread(remove_tree, directory)


def _make_paths(directory: Path, host: Host) -> TaskPaths:
    directory.mkdir(parents=True)
    for name in ("evidence", "scratch"):
        (directory / name).mkdir()
    return TaskPaths(
        uri=host.uri,
        state=host.state,
        evidence=directory / "evidence",
        result=directory / "result",
        scratch=directory / "scratch",
        files=host.files,
    )


async def _run(
    command: Sequence[str],
    paths: TaskPaths,
    host: Host,
    wanted: Callable[[], bool],
    report: Callable[[dict[str, Any]], None],
) -> tuple[int, list[str]]:
    """Return the command's exit status and the last lines of its output."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(_NOT_INHERITED)}
    environment[REPORTS] = str(paths.result)
    environment["COLUMNS"] = "120"
    if host.socket is not None:
        environment[PEERS] = str(host.socket)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "kdump_harness.fleet.worker.supervisor", *command,
        cwd=paths.scratch, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True,
    )  # fmt: skip
    output: deque[str] = deque(maxlen=_OUTPUT_LINES)
    reading = asyncio.ensure_future(_read_output(process, paths.evidence.parent / "output.log", output, report))
    waiting = asyncio.ensure_future(process.wait())
    try:
        while not waiting.done():
            await asyncio.wait([waiting], timeout=LOOK_S)
            if not waiting.done() and not wanted():
                raise Unwanted
        # Processes that the command left running must end; they can also hold the pipe open.
        _kill_group(process.pid)
        await reading
        return waiting.result(), list(output)
    finally:
        if not waiting.done():
            assert process.stdin is not None
            process.stdin.close()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([waiting], timeout=GRACE_S + 5)
        _kill_group(process.pid)
        reading.cancel()


def _kill_group(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


async def _read_output(
    process: asyncio.subprocess.Process, log: Path, output: deque[str], report: Callable[[dict[str, Any]], None]
) -> None:
    """Write the output of the process to a file and report its steps."""
    assert process.stdout is not None
    rest = b""
    with log.open("wb") as file:
        while chunk := await process.stdout.read(1 << 16):
            file.write(chunk)
            file.flush()
            *lines, rest = (rest[-(1 << 16) :] + chunk).split(b"\n")
            for line in lines:
                text = line.decode(errors="replace").rstrip()
                if text:
                    output.append(text)
                if text.startswith("  ") and text.endswith(" ..."):
                    report({"step": text.strip().removesuffix(" ...")[:120]})


def _result(task: FleetTask, paths: TaskPaths, host: Host, status: int, output: list[str], took_s: float) -> TaskResult:
    """Return the result from the files that the process left."""
    runs = [path for path in paths.evidence.iterdir() if path.is_dir() and not path.is_symlink()]
    root = runs[0] if len(runs) == 1 else paths.evidence
    with contextlib.suppress(OSError):
        shutil.copyfile(paths.evidence.parent / "output.log", root / "output.log")
    result = TaskResult(worker=host.name, status=status, took_s=round(took_s, 1), root=str(root))
    with contextlib.suppress(OSError, ValueError):
        lines = paths.result.read_text(encoding="utf-8")
        if task.kind == DRILL:
            result.verdict = foreign.parse_object(lines)
        else:
            result.reports = [foreign.parse_object(line) for line in lines.splitlines()]
    if result.verdict is None and not result.reports:
        result.problem = _error_message(output) or f"the process ended with status {status}"
        if status in (EXIT_OK, EXIT_FAILED):
            result.status = EXIT_BROKEN
    return result


def _error_message(output: list[str]) -> str:
    """Return the error message at the end of the output, or its last lines."""
    for number in range(len(output) - 1, -1, -1):
        if output[number].startswith("kdump-harness: "):
            return "\n".join([output[number].removeprefix("kdump-harness: "), *output[number + 1 :]][:5])
    return "\n".join(output[-3:])


def _keep(directory: Path, root: Path, left_out: list[str]) -> None:
    """Keep the files that were not sent, of the last tasks only, and add their paths to left_out."""
    kept = directory.with_name(directory.name.replace("task-", "kept-"))
    for number, description in enumerate(left_out):
        name = description.partition(" (")[0]
        target = kept / name
        with contextlib.suppress(OSError):
            target.parent.mkdir(parents=True, exist_ok=True)
            (root / name).replace(target)
            left_out[number] = f"{description}; kept on the worker as {target}"
    older = sorted(directory.parent.glob("kept-*"), key=lambda path: path.stat().st_mtime)
    for path in older[:-KEPT]:
        remove_tree(path)
