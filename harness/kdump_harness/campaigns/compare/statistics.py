"""Whether two series of measurements differ, or whether that is noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

SAME, WORSE, BETTER, UNCLEAR = "same", "worse", "better", "unclear"
FEWER = "fewer"  # of what belongs in the dump: neither good nor bad by itself
# So large a part of all pairs of an old and a new value must point the same way (the statistic of Mann and Whitney,
# divided by the number of pairs). Of five values on each side that come from one source, 1 in 60 pairs of series do.
SEPARATED = 0.9
# Of shares (checks that held, symptoms that were seen): a difference that is one, and one that may be.
RATE_DIFFERS, RATE_MAY_DIFFER = 0.6, 0.3


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """What difference between medians counts, and how many values each side must have to believe it."""

    budget: float  # as a share of the old one
    least: float  # in the unit of the values: less than that is never one
    values: int


def judge(old: Sequence[float], new: Sequence[float], tolerance: Tolerance) -> str:
    """WORSE where the new values are larger by more than the budget, BETTER where they are smaller; else SAME.

    UNCLEAR where the medians differ by so much, and the series are too mixed or too short to tell.
    """
    if not old or not new:
        return UNCLEAR
    before, after = median(old), median(new)
    if abs(after - before) <= max(tolerance.least, tolerance.budget * abs(before)):
        return SAME
    pairs = [(one, other) for one in old for other in new]
    up = sum(other > one for one, other in pairs) / len(pairs)
    enough = min(len(old), len(new)) >= tolerance.values
    if enough and up >= SEPARATED:
        return WORSE
    if enough and up <= 1 - SEPARATED:
        return BETTER
    return UNCLEAR


def may_become_worse(old: Sequence[float], new: Sequence[float], *, most: int) -> bool:
    """Whether the new values could still stand above the old ones when each side has so many."""
    if old and new and median(new) <= median(old):
        return False
    contrary = sum(other <= one for one in old for other in new)
    return contrary <= (1 - SEPARATED) * max(most, len(old)) * max(most, len(new))


def judge_rate(old: Sequence[bool], new: Sequence[bool]) -> str:
    """The same for what goes wrong (True) in some of the drills."""
    if not old or not new:
        return UNCLEAR
    more = sum(new) / len(new) - sum(old) / len(old)
    if abs(more) < RATE_MAY_DIFFER:
        return SAME
    if min(len(old), len(new)) < 2 or abs(more) < RATE_DIFFERS:
        return UNCLEAR
    return WORSE if more > 0 else BETTER
