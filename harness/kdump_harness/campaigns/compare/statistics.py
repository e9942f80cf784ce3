"""Statistics that separate a difference between two series of measurements from noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

SAME, WORSE, BETTER, UNCLEAR = "same", "worse", "better", "unclear"
FEWER = "fewer"  # pages that belong in the dump: neither good nor bad by itself
# Share of all pairs of an old and a new value that must point the same way (the statistic of Mann and Whitney, divided
# by the number of pairs). With five values on each side from one source, 1 in 60 pairs of series reaches this share.
SEPARATED = 0.9
# Differences between shares (failed checks, seen symptoms): a certain one, and a possible one.
RATE_DIFFERS, RATE_MAY_DIFFER = 0.6, 0.3


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """Smallest difference between medians that counts, and the number of values that each side needs for it."""

    budget: float  # share of the old median
    least: float  # in the unit of the values; smaller differences never count
    values: int


def judge(old: Sequence[float], new: Sequence[float], tolerance: Tolerance) -> str:
    """Return WORSE if the new values are larger by more than the budget, BETTER if they are smaller, else SAME.

    Return UNCLEAR if the medians differ by that much, but the series are too mixed or too short for a judgement.
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
    """Return whether the new values could still stand above the old ones when each side has MOST values."""
    if old and new and median(new) <= median(old):
        return False
    contrary = sum(other <= one for one in old for other in new)
    return contrary <= (1 - SEPARATED) * max(most, len(old)) * max(most, len(new))


def judge_rate(old: Sequence[bool], new: Sequence[bool]) -> str:
    """Judge a fault that occurs (True) in some of the drills, like judge()."""
    if not old or not new:
        return UNCLEAR
    more = sum(new) / len(new) - sum(old) / len(old)
    if abs(more) < RATE_MAY_DIFFER:
        return SAME
    if min(len(old), len(new)) < 2 or abs(more) < RATE_DIFFERS:
        return UNCLEAR
    return WORSE if more > 0 else BETTER
