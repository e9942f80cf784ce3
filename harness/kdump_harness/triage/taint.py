"""The meaning of the letters behind "Tainted:", from taints.toml."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

from ..base import tables


@dataclass(frozen=True, kw_only=True)
class Taint:
    """One reason why a kernel is tainted."""

    letter: str
    name: str
    meaning: str


@functools.cache
def _known() -> Mapping[str, Taint]:
    rows = tables.load_rows(tables.package_path("triage", "taints.toml"), "taint", Taint)
    return {row.letter: row for row in rows}


def explain(flags: str) -> tuple[Taint, ...]:
    """Return the reasons behind a kernel's or a module's letters, without blanks and the G of an untainted kernel."""
    letters = [letter for letter in flags if letter.isalpha() and letter != "G"]
    unknown = "not in the kernel's documentation: the distribution's own"
    return tuple(_known().get(letter) or Taint(letter=letter, name="?", meaning=unknown) for letter in letters)
