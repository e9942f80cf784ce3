"""Texts from users and other programs: whole numbers, and JSON whose errors are always ValueErrors."""

from __future__ import annotations

import json
import math
from typing import Any

_MOST_DIGITS = 19


def whole_number(text: str, *, most: int = (1 << 63) - 1) -> int | None:
    """Return a number of ASCII digits, at most MOST; None for any other text.

    str.isdigit() accepts characters that int() refuses, and int() refuses thousands of digits.
    """
    if not (text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS):
        return None
    number = int(text)
    return number if number <= most else None


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text. Raise ValueError for any other text, also one that is nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def parse_object(text: str | bytes) -> dict[str, Any]:
    """Return the object of a JSON text. Raise ValueError for anything else."""
    value = parse_json(text)
    if not isinstance(value, dict):
        raise ValueError(f"not an object but a {type(value).__name__}")
    return value


def dump_json(value: Any, *, indent: int | None = None) -> str:
    """Return a value as JSON that every parser reads: NaN and infinities, which JSON does not have, become null."""
    try:
        return json.dumps(value, indent=indent, default=str, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), indent=indent, default=str)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return value
