"""The signs of a guest that is stuck, as its serial console shows them."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, field
from typing import Literal

from ..base.tables import load_rows, package_path

Where = Literal["boot", "capture"]


@dataclass(frozen=True, kw_only=True)
class ConsoleSign:
    """A row of console_signs.toml, which describes the keys."""

    name: str
    pattern: str
    meaning: str
    where: tuple[str, ...]
    shell: bool = False
    up: bool = False
    example: str = field(default="", repr=False)


def console_signs() -> tuple[ConsoleSign, ...]:
    """Return the rows of the table, in their order."""
    return tuple(sign for sign, _ in _compiled())


def find_sign(text: str, where: Where | None = None) -> ConsoleSign | None:
    """Return the first sign in a line of the console; only signs that count in WHERE are searched, if given."""
    for sign, pattern in _compiled():
        if (where is None or where in sign.where) and pattern.search(text):
            return sign
    return None


@functools.cache
def _compiled() -> tuple[tuple[ConsoleSign, re.Pattern[str]], ...]:
    rows = load_rows(package_path("vm", "console_signs.toml"), "sign", ConsoleSign)
    return tuple((row, re.compile(row.pattern)) for row in rows)
