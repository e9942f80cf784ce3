"""Fakes that several test files use: a clock, and a guest that replays a recorded console."""

from __future__ import annotations

import contextlib
import queue
import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tenacity
from kdump_harness.base import clock
from kdump_harness.base.errors import CommandFailed
from kdump_harness.base.progress import Progress
from kdump_harness.vm.console import LOGIN, Console, ConsoleLine
from kdump_harness.vm.hypervisor import byte_queue
from kdump_harness.vm.hypervisor.domain import DomainEvents

# Part of a conftest.py: reports cross to the session as those of xdist's workers do, so no process has to start.
REPORTS_OF_A_WORKER = """
import execnet
import pytest

@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item):
    report = yield
    hook, config = item.config.hook, item.config
    sent = execnet.dumps(hook.pytest_report_to_serializable(config=config, report=report))
    return hook.pytest_report_from_serializable(config=config, data=execnet.loads(sent))
"""


class FakeClock:
    """A clock that advances by what its waits would have taken.

    It serves base.clock (pause, poll, Deadline, PhaseClock) and the waits for bytes of a serial console. Waits for
    a child process, a socket or another thread take real time: tests of these need the real clock.
    """

    def __init__(self) -> None:
        self.now_s, self.slept_s = time.monotonic(), 0.0
        self._utc_offset_s = time.time() - self.now_s

    def advance(self, seconds: float) -> None:
        """Let some time pass, as sleep() does."""
        self.now_s += seconds
        self.slept_s += seconds

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Replace the clock until the test ends."""
        fake = SimpleNamespace(
            monotonic=lambda: self.now_s, time=lambda: self._utc_offset_s + self.now_s, sleep=self.advance
        )
        monkeypatch.setattr(clock, "time", fake)
        monkeypatch.setattr(tenacity, "time", fake)
        fake_queue = SimpleNamespace(SimpleQueue=lambda: _FakeQueue(self), Empty=queue.Empty)
        monkeypatch.setattr(byte_queue, "queue", fake_queue)


class _FakeQueue:
    """A queue without other threads: a wait for an empty one ends at once, and the clock advances."""

    def __init__(self, fake_clock: FakeClock) -> None:
        self._clock, self._items = fake_clock, queue.SimpleQueue[Any]()

    def put(self, item: Any) -> None:
        self._items.put(item)

    def empty(self) -> bool:
        return self._items.empty()

    def get(self, timeout: float | None = None) -> Any:
        with contextlib.suppress(queue.Empty):
            return self._items.get_nowait()
        assert timeout is not None, "this wait would never end"
        self._clock.advance(timeout)
        raise queue.Empty


class FakeShell:
    """The shell of a fake guest: it answers the commands of a drill, and keeps the files that are written."""

    def __init__(self, probes: dict[str, str]) -> None:
        self.probes = probes
        self.files: dict[str, str] = {}
        self.dumps: dict[str, Path] = {}  # by their path in the guest
        self.owner = "root"
        self.asked: list[str] = []
        self.started: list[str] = []

    def run(self, command: str, *arguments: object, **_options: Any) -> Any:
        command = command % arguments if arguments else command
        self.asked.append(command)
        out, status = "", 0
        if "=====harness " in command:
            names = re.findall(r"echo '=====harness (\w+)'", command)
            out = "".join(f"=====harness {name}\n{self.probes.get(name, '')}\n" for name in names)
        elif command.startswith("for f in"):
            out = "".join(
                f"{local.stat().st_size}|600|{self.owner}|{local.stat().st_ino}|755|{path}\n"
                for path, local in self.dumps.items()
                if f"/{path.rpartition('/')[2].partition('.')[0]}.[" in command
            )
        elif "crash_loaded" in command:
            out = self.probes["loaded"]
        elif "crash_size" in command:
            out = self.probes["crash_size_bytes"]
        elif command.startswith("systemctl is-active"):
            out = "active" if self.probes["loaded"] == "1" else "failed"
        elif command.startswith("test -e"):
            status = 1
        return SimpleNamespace(out=out, err="", status=status, ok=status == 0)

    def succeeds(self, command: str, *arguments: object, **_options: Any) -> bool:
        return bool(self.run(command, *arguments).ok)

    def start(self, command: str) -> None:
        self.started.append(command)

    def save(self, command: str, _path: Path) -> None:
        raise CommandFailed(f"{command!r} is not known to a fake guest")

    def read_text(self, path: str) -> str:
        return self.files.get(path, "")

    def write_text(self, path: str, text: str, *, mode: int = 0o644) -> None:
        self.files[path] = text

    write_secret = write_text

    def fetch(self, path: str, to: Path, *, progress: Any = None) -> int:
        return to.write_bytes(self.dumps[path].read_bytes())


class FakeGuest:
    """A guest that replays a recorded console: the boot at power-on, and the rest when the trigger is pulled.

    dump is saved by the crash, at its place in the guest, or on the server where one is given.
    """

    factor = 1.0
    name = "fake"

    def __init__(
        self,
        boot: bytes,
        crash: bytes,
        *,
        probes: dict[str, str],
        dump: tuple[str, Path] | None = None,
        dump_shell: FakeShell | None = None,
    ) -> None:
        self._boot, self._crash, self._dump = boot, crash, dump
        self._source = byte_queue.ByteQueue()
        self.console = Console(self.name, self._source)
        self.shell = FakeShell({"boot_id": "first-boot", **probes})
        self._dump_shell = dump_shell or self.shell
        self.domain = SimpleNamespace(events=DomainEvents(), state=lambda: "running")
        self.shell.start = self._start  # type: ignore[method-assign]

    def power_on(self) -> None:
        self._source.put(self._boot)

    def wait_for_login(self) -> ConsoleLine:
        return self.console.wait_for("login prompt", LOGIN.pattern, timeout_s=60.0)

    def connect(self) -> str:
        return self.shell.probes["boot_id"]

    def close_shell(self) -> None:
        """Do nothing: the fake shell works at any time."""

    def _start(self, command: str) -> None:
        """Crash: replay the rest of the console, which ends in the next boot."""
        self.shell.started.append(command)
        self._source.put(self._crash)
        self.shell.probes["boot_id"] = "second-boot"
        if self._dump is not None:
            path, local = self._dump
            self._dump_shell.dumps[path] = local


def fake_run(**changes: Any) -> Any:
    """Return the part of a run that a verdict needs: an idle host, and guests that it does not fail."""
    usual = {
        "factor": 1.0,
        "slowness": 1.0,
        "load": 1.0,
        "beside": 0,
        "accelerator": "tcg",
        "progress": Progress(quiet=True),
        "options": SimpleNamespace(keep="never"),
        "lost": lambda _domain: False,
        "raise_if_disk_full": lambda: None,
    }
    return SimpleNamespace(**{**usual, **changes})
