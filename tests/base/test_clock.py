"""The phase clock."""

from __future__ import annotations

import pytest
from kdump_harness.base import clock
from kdump_harness.base.clock import PhaseClock


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that now_s() returns; change its only element."""
    now = [100.0]
    monkeypatch.setattr(clock, "now_s", lambda: now[0])
    return now


def test_the_first_mark_counts(at: list[float]) -> None:
    clock = PhaseClock()
    at[0] = 103.0
    clock.mark("login")
    at[0] = 109.0
    clock.mark("login")
    assert clock.marks_s == {"login": 3.0}


def test_what_happens_while_the_clock_is_held_takes_no_time(at: list[float]) -> None:
    clock = PhaseClock()
    at[0] = 110.0
    clock.mark("panic")
    with clock.held():
        at[0] = 140.0
    clock.mark("early line, read late", at_s=109.0)
    at[0] = 145.0
    clock.mark("login")
    assert clock.between_s("panic", "login") == pytest.approx(5.0)
    assert clock.marks_s["early line, read late"] == pytest.approx(9.0)
    assert clock.elapsed_s() == pytest.approx(15.0)


def test_a_span_that_was_not_seen_is_none() -> None:
    clock = PhaseClock()
    clock.mark("panic")
    assert clock.between_s("panic", "login") is None
