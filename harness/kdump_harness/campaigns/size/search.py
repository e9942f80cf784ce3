"""The search for the smallest size that works, by trials that each cost a crash and may differ from one to the next."""

from __future__ import annotations

from dataclasses import dataclass, field

STRIDE = 2  # steps from a guess to the first trial on its other side; doubled from then on


@dataclass
class Search:
    """Finds the smallest multiple of step that works, to within one step, and tries both sides of the edge again.

    A size is good when every trial of it worked. All sizes are in MiB.
    """

    largest: int  # the size that there is at most
    guess: int  # where the edge may be
    step: int = 4
    repeats: int = 3  # how often both sides of the edge are tried
    most: int = 15  # trials, at most
    tried: dict[int, list[bool]] = field(default_factory=dict)

    def note(self, size: int, worked: bool) -> None:
        """The outcome of one trial."""
        self.tried.setdefault(size, []).append(worked)

    @property
    def trials(self) -> int:
        """How many there were."""
        return sum(map(len, self.tried.values()))

    @property
    def bad(self) -> int | None:
        """The largest size that did not work each time."""
        return max((size for size, worked in self.tried.items() if not all(worked)), default=None)

    @property
    def good(self) -> int | None:
        """The smallest size above all bad ones that worked each time."""
        above = self.bad or 0
        return min((size for size, worked in self.tried.items() if all(worked) and size > above), default=None)

    @property
    def exhausted(self) -> bool:
        """Whether no more trials are allowed."""
        return self.trials >= self.most

    @property
    def answer(self) -> int | None:
        """The smallest size that works; None until that is settled."""
        return self.good if self._is_edge() else None

    def next(self) -> int | None:
        """The size to try now; None when the edge is known, no size works, or no more trials are allowed."""
        if self.exhausted or self._is_edge():
            return None
        bad, good = self.bad, self.good
        if good is None:
            # Nothing works yet: upwards from the guess, in strides that grow.
            if bad is None:
                return self._grid(self.guess)
            return self._upwards(bad, self.largest) if bad < self.largest else None
        if bad is None:
            return self._downwards(good)
        if good - bad > self.step:
            return self._upwards(bad, good)
        return good if len(self.tried[good]) < self.repeats else bad

    def _is_edge(self) -> bool:
        """Whether both sides were tried as often as they should, one step from each other."""
        bad, good = self.bad, self.good
        if good is None or len(self.tried[good]) < self.repeats:
            return False
        if bad is None:
            return good <= self.step
        return good - bad <= self.step and len(self.tried[bad]) >= self.repeats

    def _downwards(self, good: int) -> int:
        """Below everything that works: the guess first, then in strides that grow."""
        guess = self._grid(self.guess)
        if guess < good:
            return guess
        strides = sum(1 for size in self.tried if size <= guess)
        return max(self.step, good - self.step * (STRIDE << max(0, strides - 1)))

    def _upwards(self, bad: int, good: int) -> int:
        """Between what does not work and what does: at most the middle, by strides while that is far."""
        steps = (good - bad) // self.step
        strides = sum(1 for size, worked in self.tried.items() if not all(worked))
        return bad + self.step * max(1, min(steps // 2, STRIDE << max(0, strides - 1)))

    def _grid(self, size: int) -> int:
        return max(self.step, min(self.largest, round(size / self.step) * self.step))
