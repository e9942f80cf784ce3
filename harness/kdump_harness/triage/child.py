"""Run worker.py with limits, and turn its result or its end into facts and sentences."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..base import foreign
from ..base.progress import Progress

LIMIT_S = 120  # a dump of a small guest takes one second, of which half is for the debug info
# Address space, not memory: the files of debug info are mapped, in part twice.
_BASE_BYTES = 3 << 30
_BYTES_OF_VMLINUX = 3

_MAX_ANSWER_BYTES = 16 << 20


@dataclass
class Answer:
    """The facts that the worker reported before it ended, and those that it could not find."""

    facts: dict[str, Any] = field(default_factory=dict)
    troubles: list[str] = field(default_factory=list)


def ask(
    vmlinux: Path,
    files: Sequence[Path],
    *,
    progress: Progress,
    limit_s: int = LIMIT_S,
    memory_bytes: int | None = None,
    command: Sequence[str] | None = None,
) -> Answer:
    """Let a separate process read the dump with drgn; never raise for the way in which that process ends."""
    if memory_bytes is None:
        memory_bytes = _BASE_BYTES + _BYTES_OF_VMLINUX * vmlinux.stat().st_size
    # -P: files in the current directory must not be imported as modules.
    worker = command or [sys.executable, "-P", "-m", f"{__package__}.worker"]
    process = subprocess.Popen(
        [*worker, str(memory_bytes), str(limit_s), str(vmlinux), *map(str, files)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=_environment(),
        start_new_session=True,
    )
    timed_out = False
    try:
        with progress.step("reading the crash with drgn"):
            try:
                out, errors = process.communicate(timeout=limit_s)
            except subprocess.TimeoutExpired:
                timed_out = True
                kill_group(process)
                out, errors = process.communicate()
    finally:
        kill_group(process)
        process.wait()
    answer = _parse(out[:_MAX_ANSWER_BYTES])
    if timed_out:
        answer.troubles.append(f"drgn took more than {limit_s} s and was stopped")
    elif why := _death(process.returncode, errors, limit_s):
        answer.troubles.append(why)
    return answer


def _environment() -> dict[str, str]:
    """Return an environment that allows one thread, no plugins, and no hidden downloads."""
    path = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    dropped = ("DEBUGINFOD_URLS", "DRGN_PLUGINS")
    return {
        **{name: value for name, value in os.environ.items() if name not in dropped},
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "DRGN_DISABLE_PLUGINS": "*",
    }


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """End the process and all that it may have started."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _death(status: int, errors: bytes, limit_s: int) -> str | None:
    if status == 0:
        return None
    if status < 0:
        name = signal.Signals(-status).name if -status in set(signal.Signals) else f"signal {-status}"
        reasons = {
            "SIGALRM": f"drgn took more than {limit_s} s and was stopped",
            "SIGXCPU": f"drgn used more than {limit_s} s of the processor and was stopped",
            "SIGKILL": "drgn was killed (SIGKILL: the machine is short of memory, or a user did it)",
        }
        return reasons.get(name, f"drgn died of {name}")
    last = errors.decode("utf-8", "replace").strip().splitlines()[-1:]
    return f"drgn ended with status {status}: {last[0][:300] if last else 'it said nothing'}"


def _parse(out: bytes) -> Answer:
    """Return the facts that arrived whole."""
    answer = Answer()
    for raw in out.split(b"\n"):
        with contextlib.suppress(ValueError, KeyError, TypeError):
            line = foreign.parse_object(raw)
            if "why" in line:
                answer.troubles.append(f"{line['fact']}: {line['why']}")
            else:
                answer.facts[line["fact"]] = line["value"]
    return answer
