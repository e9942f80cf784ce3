"""The search for the smallest size finds the edge, within its trials, also where trials differ."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kdump_harness.campaigns.size.search import Search


def run(search: Search, edge: float, *, noise: float = 0.0, seed: int = 1) -> Search:
    """Try until the search has enough; the edge moves from trial to trial by up to noise."""
    chance = random.Random(seed)
    while (size := search.next()) is not None:
        assert 0 < size <= search.largest
        assert size % search.step == 0
        search.note(size, size >= edge + chance.uniform(-noise, noise))
    return search


def start(guess: int, **changes: int) -> Search:
    """A search that begins where the whole reservation was seen to work."""
    search = Search(largest=256, guess=guess, **changes)
    search.note(256, True)
    return search


@given(edge=st.integers(5, 256), guess=st.integers(1, 300))
@settings(deadline=None, max_examples=300)
def test_it_finds_the_edge_wherever_it_is(edge: int, guess: int) -> None:
    found = run(start(guess, most=60), edge)
    assert found.answer is not None
    assert found.answer - 4 < edge <= found.answer
    assert len(found.tried[found.answer]) >= 3
    assert found.answer == 4 or found.tried[found.answer - 4] == [False] * 3 or found.answer - 4 == 0


@given(edge=st.integers(90, 180), off=st.integers(-24, 24))
@settings(deadline=None, max_examples=300)
def test_a_fair_guess_costs_few_trials(edge: int, off: int) -> None:
    found = run(start(edge + off), edge)
    assert found.answer is not None
    assert found.trials <= 13


@given(edge=st.integers(90, 180), off=st.integers(-16, 16), seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=300)
def test_where_trials_differ_the_answer_worked_each_time(edge: int, off: int, seed: int) -> None:
    found = run(start(edge + off, most=40), edge, noise=5, seed=seed)
    assert found.answer is not None
    assert found.tried[found.answer] == [True] * len(found.tried[found.answer])
    assert not all(found.tried[found.answer - 4])
    assert abs(found.answer - edge) <= 12


def test_a_search_without_a_working_size_ends() -> None:
    search = Search(largest=256, guess=128)
    search.note(256, False)
    assert search.next() is None
    assert search.answer is None
    assert not search.exhausted


def test_trials_are_limited() -> None:
    found = run(start(40, most=6), 200)
    assert found.exhausted
    assert found.answer is None
    assert found.trials == 6
    assert found.bad is not None
    assert found.good is not None
    assert found.bad < 200 <= found.good


@pytest.mark.parametrize("step", [1, 4, 16])
def test_the_step_is_how_well_the_edge_is_known(step: int) -> None:
    found = run(start(120, step=step, most=40), 131)
    assert found.answer is not None
    assert found.answer - step < 131 <= found.answer
