"""A difference counts if it exceeds the budget and separates both series; everything else is noise."""

from __future__ import annotations

import random

import pytest
from kdump_harness.campaigns.compare.statistics import (
    BETTER,
    SAME,
    UNCLEAR,
    WORSE,
    Tolerance,
    judge,
    judge_rate,
    may_become_worse,
)

TOLERANCE = Tolerance(budget=0.1, least=2.0, values=3)


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ([20, 20, 21], [20, 21, 20], SAME),
        ([20, 20, 21], [23, 24, 23], WORSE),
        ([23, 24, 23], [20, 20, 21], BETTER),
        ([20, 20, 21], [22, 22, 22], SAME),  # within the budget
        ([3, 3, 3], [4.5, 4.5, 4.5], SAME),  # half as much again, and next to nothing
        ([20, 21], [30, 31], UNCLEAR),  # two values are too few
        ([20, 30, 40], [25, 39, 50], UNCLEAR),  # too mixed
        ([0, 0, 0], [182000, 181000, 180000], WORSE),
        ([], [1, 2, 3], UNCLEAR),
        ([1, 2, 3], [], UNCLEAR),
    ],
)
def test_values(old: list[float], new: list[float], word: str) -> None:
    assert judge(old, new, TOLERANCE) == word


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ([False, False], [False, False], SAME),
        ([True, True], [True, True], SAME),
        ([False, False], [True, True], WORSE),
        ([True, True], [False, False], BETTER),
        ([False, False], [True, False], UNCLEAR),
        ([False] * 5, [True, False, False, False, False], SAME),
        ([False] * 5, [True, True, False, False, False], UNCLEAR),
        ([False] * 5, [True, True, True, False, False], WORSE),
        ([False], [True], UNCLEAR),
        ([], [True], UNCLEAR),
    ],
)
def test_rates(old: list[bool], new: list[bool], word: str) -> None:
    assert judge_rate(old, new) == word


def test_a_source_compared_with_itself_is_seldom_called_worse() -> None:
    """Times on a busy host: a third more or less, five on each side."""
    chance = random.Random(1)
    tolerance = Tolerance(budget=0.2, least=3.0, values=5)
    words = [
        judge([chance.gauss(60, 12) for _ in range(5)], [chance.gauss(60, 12) for _ in range(5)], tolerance)
        for _ in range(5000)
    ]
    assert words.count(WORSE) / len(words) < 0.02
    assert words.count(SAME) / len(words) > 0.5


@pytest.mark.parametrize(
    ("old", "new", "may"),
    [
        ([20, 21], [30, 31], True),
        ([20, 31], [30, 40], True),  # one pair against it; of 25, two may be
        ([20, 50], [30, 45], True),
        ([20, 50, 20], [30, 40, 30], False),  # three, and more rounds take none of them away
        ([20, 20], [10, 10], False),  # smaller is never worse
        ([], [10], True),
    ],
)
def test_impossible_regressions_are_recognised(old: list[float], new: list[float], may: bool) -> None:
    assert may_become_worse(old, new, most=5) == may
