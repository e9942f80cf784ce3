"""Search for the smallest size that works, by trials that each cost a crash and may have varying outcomes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

# The memory need of the capture kernel differs from boot to boot by some MiB, and grows with the initramfs and drivers
# of a kernel update. A quarter covers the growth from one Debian release to the next (100 MiB in 12, 116 MiB in 13).
MARGIN, LEAST_MARGIN_MIB, ROUND_MIB = 0.25, 32, 16
STRIDE = 2  # steps from a guess to the first trial on its other side; doubled each time


@dataclass
class Search:
    """Search for the smallest multiple of STEP that works, with repeated trials on both sides of the edge.

    A size is good if every trial of it worked. All sizes are in MiB.
    """

    largest: int  # largest possible size
    guess: int  # guess of the edge
    step: int = 4
    repeats: int = 3  # number of trials on both sides of the edge
    most: int = 15  # limit of trials
    tried: dict[int, list[bool]] = field(default_factory=dict)

    def note(self, size: int, worked: bool) -> None:
        """Add the outcome of one trial."""
        self.tried.setdefault(size, []).append(worked)

    @property
    def trials(self) -> int:
        """Number of trials so far."""
        return sum(map(len, self.tried.values()))

    @property
    def bad(self) -> int | None:
        """Largest size with a failed trial."""
        return max((size for size, worked in self.tried.items() if not all(worked)), default=None)

    @property
    def good(self) -> int | None:
        """Smallest size above all bad ones that worked each time."""
        above = self.bad or 0
        return min((size for size, worked in self.tried.items() if all(worked) and size > above), default=None)

    @property
    def exhausted(self) -> bool:
        """Whether no more trials are allowed."""
        return self.trials >= self.most

    @property
    def answer(self) -> int | None:
        """Smallest size that works; None until the edge is known."""
        return self.good if self._is_edge() else None

    def next(self) -> int | None:
        """Return the next size to try, or None if the edge is known, no size works, or no more trials are allowed."""
        if self.exhausted or self._is_edge():
            return None
        bad, good = self.bad, self.good
        if good is None:
            # No size has worked yet: search upwards from the guess, in growing strides.
            if bad is None:
                return self._grid(self.guess)
            return self._upwards(bad, self.largest) if bad < self.largest else None
        if bad is None:
            return self._downwards(good)
        if good - bad > self.step:
            return self._upwards(bad, good)
        return good if len(self.tried[good]) < self.repeats else bad

    def _is_edge(self) -> bool:
        """Return whether both sides of the edge, one step apart, were tried REPEATS times."""
        bad, good = self.bad, self.good
        if good is None or len(self.tried[good]) < self.repeats:
            return False
        if bad is None:
            return good <= self.step
        return good - bad <= self.step and len(self.tried[bad]) >= self.repeats

    def _downwards(self, good: int) -> int:
        """Return a size below all good ones: the guess first, then in growing strides."""
        guess = self._grid(self.guess)
        if guess < good:
            return guess
        strides = sum(1 for size in self.tried if size <= guess)
        return max(self.step, good - self.step * (STRIDE << max(0, strides - 1)))

    def _upwards(self, bad: int, good: int) -> int:
        """Return a size between a bad and a good one: a growing stride above the bad one, at most the middle."""
        steps = (good - bad) // self.step
        strides = sum(1 for size, worked in self.tried.items() if not all(worked))
        return bad + self.step * max(1, min(steps // 2, STRIDE << max(0, strides - 1)))

    def _grid(self, size: int) -> int:
        return max(self.step, min(self.largest, round(size / self.step) * self.step))


def recommend(smallest_mib: int) -> int:
    """Return the smallest reservation that dumps, with a margin, in MiB."""
    wanted = smallest_mib + max(LEAST_MARGIN_MIB, smallest_mib * MARGIN)
    return math.ceil(wanted / ROUND_MIB) * ROUND_MIB
