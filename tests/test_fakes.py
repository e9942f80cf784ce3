"""Tests of the fakes themselves: a fake that answers wrongly makes every test on it worthless."""

from __future__ import annotations

import time

import pytest
from fakes import FakeClock
from kdump_harness.base.clock import Deadline, pause, poll
from kdump_harness.base.errors import WaitedInVain
from kdump_harness.vm.console import Console
from kdump_harness.vm.hypervisor.byte_queue import ByteQueue


def test_an_hour_of_waiting_takes_no_time(fake_clock: FakeClock) -> None:
    began_s = time.monotonic()
    deadline = Deadline(3600.0)
    pause(1800.0)
    assert (deadline.left_s, deadline.passed) == (pytest.approx(1800.0), False)
    with pytest.raises(WaitedInVain, match="not seen in 1800 s"):
        poll("a sign", lambda: None, timeout_s=1800.0)
    assert deadline.passed
    assert fake_clock.slept_s == pytest.approx(3600.0, abs=2.0)
    assert time.monotonic() - began_s < 60.0


def test_a_console_is_waited_for_by_the_fake_clock(fake_clock: FakeClock) -> None:
    source = ByteQueue()
    console = Console("guest", source)
    source.put(b"a line\n")
    line = console.read_line(timeout_s=600.0)
    assert line is not None
    assert line.text == "a line"
    assert fake_clock.slept_s < 1.0
    assert console.read_line(timeout_s=600.0) is None
    assert fake_clock.slept_s == pytest.approx(600.0, abs=1.0)
