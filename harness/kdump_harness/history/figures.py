"""Numbers of a drill that the history follows over time, from figures.toml."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..base import tables
from ..base.errors import UsageError
from ..base.units import MIB


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One number of a drill."""

    name: str
    path: str  # path of keys in verdict.json
    label: str
    unit: str  # s, bytes, MiB, pages
    worse: str  # adjective for a larger value
    noise_share: float
    noise_emulated_share: float
    noise_least: float

    def noise(self, usual: float, *, emulated: bool) -> float:
        """Return the excess over the usual value that is still noise."""
        return max(self.noise_least, usual * (self.noise_emulated_share if emulated else self.noise_share))

    def text(self, value: float) -> str:
        """Return a value for display."""
        if self.unit == "bytes":
            return f"{value / MIB:,.1f} MiB"
        return f"{value:,.1f} {self.unit}" if self.unit == "s" else f"{value:,.0f} {self.unit}"


@functools.cache
def load_figures() -> Mapping[str, Figure]:
    """Return all figures by name."""
    rows = tables.load_rows(tables.package_path("history", "figures.toml"), "figure", Figure)
    return {row.name: row for row in rows}


def find_figure(name: str) -> Figure:
    """Return a figure by name. Raises UsageError that lists the known figures."""
    known = load_figures()
    if name not in known:
        raise UsageError(f"unknown figure {name!r} (known: {', '.join(known)})")
    return known[name]


def figures_of(verdict: Mapping[str, Any]) -> dict[str, float]:
    """Return the figures of a verdict."""
    found = {}
    for figure in load_figures().values():
        value: Any = verdict
        for key in figure.path.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        if isinstance(value, int | float) and not isinstance(value, bool):
            found[figure.name] = float(value)
    return found
