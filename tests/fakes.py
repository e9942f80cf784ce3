"""Fakes that several test files use: a clock, and a guest that replays a recorded console."""

from __future__ import annotations

import contextlib
import queue
import time
from types import SimpleNamespace
from typing import Any

import pytest
import tenacity
from kdump_harness.base import clock
from kdump_harness.vm.hypervisor import byte_queue


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
