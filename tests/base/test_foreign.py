"""Texts from users and other programs: what Python's own functions trip over is an ordinary answer here."""

from __future__ import annotations

import json
import math

import pytest
from kdump_harness.base.foreign import dump_json, parse_json, parse_object, whole_number


@pytest.mark.parametrize(
    ("text", "number"),
    [("0", 0), ("31", 31), ("0031", 31), ("²", None), ("٣", None),
     ("-1", None), ("+1", None), ("", None), ("1_0", None),
     (" 1", None), ("9" * 5000, None), (str(1 << 63), None)],
)  # fmt: skip
def test_a_number_is_of_ascii_digits_and_has_a_bound(text: str, number: int | None) -> None:
    assert whole_number(text) == number


def test_a_number_has_the_bound_of_the_caller() -> None:
    assert (whole_number("31", most=31), whole_number("32", most=31)) == (31, None)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"a":' * 100_000, "1" * 5000, "\ud800", b"\xff\xfe\xfd"])
def test_any_other_text_is_a_value_error(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_json(text)


@pytest.mark.parametrize("text", ["[1]", "null", "7", '"a"'])
def test_json_of_another_kind_is_not_an_object(text: str) -> None:
    with pytest.raises(ValueError, match="not an object"):
        parse_object(text)


def test_numbers_that_json_does_not_have_become_null() -> None:
    value = {"a": [1.5, math.nan, (math.inf, -math.inf)], "b": "x"}
    assert json.loads(dump_json(value), parse_constant=pytest.fail) == {"a": [1.5, None, [None, None]], "b": "x"}
