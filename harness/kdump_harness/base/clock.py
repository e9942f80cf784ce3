"""Deadlines, polling, the phase clock and the timeout factor; the only module that sleeps."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from .errors import Stopped, WaitedInVain

T = TypeVar("T")

# Emulated guests were measured four to eight times slower than KVM ones from panic to login.
EMULATION_FACTOR = 6.0
_SLICE_S = 0.5  # of a long sleep, between two looks whether it is to end


class _Thread(threading.local):
    """Whether this thread's job is to end."""

    asked: Callable[[], bool] | None = None


_thread = _Thread()


@contextlib.contextmanager
def ending_when(asked: Callable[[], bool]) -> Iterator[None]:
    """Within the block every wait of this thread ends with Stopped, once, when asked says so.

    Once, because what cleans up afterwards may have to wait, too.
    """
    _thread.asked = asked
    try:
        yield
    finally:
        _thread.asked = None


def raise_if_stopped() -> None:
    """Raise Stopped where this thread's job is to end; all that waits comes by here."""
    if _thread.asked is not None and _thread.asked():
        _thread.asked = None
        raise Stopped


def now_s() -> float:
    """Seconds on the monotonic clock."""
    return time.monotonic()


def utc_s() -> float:
    """Seconds since 1970, as the guests' clocks have them."""
    return time.time()


def pause(seconds: float) -> None:
    """Sleep; only for back-offs that have no event to wait for."""
    until_s = now_s() + seconds
    raise_if_stopped()
    while (left_s := until_s - now_s()) > 0:
        time.sleep(min(left_s, _SLICE_S))
        raise_if_stopped()


class Deadline:
    """A moment by which something must have happened; passed down instead of counted again."""

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._started_s = now_s()

    @property
    def left_s(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self._started_s + self.timeout_s - now_s())

    @property
    def took_s(self) -> float:
        """Seconds since the deadline was set."""
        return now_s() - self._started_s

    @property
    def passed(self) -> bool:
        """Return whether the moment is over; raise Stopped where the job is to end."""
        raise_if_stopped()
        return self.left_s <= 0.0


def poll(
    what: str,
    probe: Callable[[], T | None],
    *,
    timeout_s: float,
    every_s: float = 1.0,
    give_up: Callable[[], str | None] | None = None,
) -> T:
    """Call probe until it returns something other than None.

    give_up returns the reason why the event can no longer happen, or None.
    Raise WaitedInVain with the time and number of looks.
    """

    # Here, since it brings asyncio (and tornado, where that is installed): a fifth of the start of what never polls.
    import tenacity

    def look() -> T | None:
        found = probe()
        if found is None and give_up is not None and (reason := give_up()):
            raise WaitedInVain(f"{what}: {reason}")
        return found

    retrying = tenacity.Retrying(
        stop=tenacity.stop_after_delay(timeout_s),
        wait=tenacity.wait_fixed(every_s),
        retry=tenacity.retry_if_result(lambda found: found is None),
        sleep=pause,
    )
    try:
        found = retrying(look)
    except tenacity.RetryError as error:
        looks = error.last_attempt.attempt_number
        raise WaitedInVain(f"{what}: not seen in {timeout_s:.0f} s ({looks} looks)") from None
    assert found is not None
    return found


class PhaseClock:
    """Named moments of a drill, in seconds since the clock was made."""

    def __init__(self) -> None:
        self.zero_s = now_s()
        self._held: list[tuple[float, float]] = []  # when a hold ended, and how long it was
        self.marks_s: dict[str, float] = {}

    def elapsed_s(self) -> float:
        """Seconds since the clock was made."""
        return self._moment(now_s())

    def _moment(self, at_s: float) -> float:
        return at_s - self.zero_s - sum(length_s for end_s, length_s in self._held if end_s <= at_s)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Stop the clock: what happens meanwhile (the guest is paused) takes no time of the drill's."""
        start_s = now_s()
        try:
            yield
        finally:
            self._held.append((now_s(), now_s() - start_s))

    def mark(self, name: str, at_s: float | None = None) -> float:
        """Note that name happened now (or at at_s on the monotonic clock); the first time counts."""
        moment = self._moment(now_s() if at_s is None else at_s)
        return self.marks_s.setdefault(name, moment)

    def between_s(self, start: str, end: str) -> float | None:
        """Seconds from one mark to another, or None when either is missing."""
        if start not in self.marks_s or end not in self.marks_s:
            return None
        return self.marks_s[end] - self.marks_s[start]
