"""Is a drill worse than its own past by more than the noise, and since when?"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .database import History, RecordedRun
from .figures import Figure, load_figures

_LEAST = 3  # so many drills make a past
_MOST = 60  # older ones say nothing of today
_SIGMAS = 4.0
_MAD_TO_SIGMA = 1.4826  # of a normal distribution


@dataclass(frozen=True, kw_only=True)
class Regression:
    """A figure that has become worse, and stayed so."""

    figure: str
    label: str
    worse: str
    value: float
    usual: float  # the median before
    noise: float
    since_kernel: str | None
    before_kernel: str | None
    since_s: float
    drills: int  # with the worse value, this one included
    text: str

    def to_json(self) -> dict[str, Any]:
        """The record as JSON takes it."""
        return dict(vars(self))


def regressions(history: History, run: RecordedRun) -> list[Regression]:
    """What is worse in this drill than in those before it that can be compared with it."""
    past = [one for one in history.series(run.series) if one.ok or one.number == run.number]
    numbers = [one.number for one in past]
    if run.number not in numbers:
        return []
    past = past[: numbers.index(run.number) + 1][-_MOST:]
    found = (find(figure, past) for figure in load_figures().values())
    return [one for one in found if one is not None]


def find(figure: Figure, runs: Sequence[RecordedRun]) -> Regression | None:
    """Whether the last of the runs, in their order, is worse, and the first since when all are."""
    told = [(run, run.figures[figure.name]) for run in runs if figure.name in run.figures]
    if not told or told[-1][0] is not runs[-1]:
        return None
    values = [value for _, value in told]
    for change in range(_LEAST, len(values)):
        usual, noise = _usual(figure, values[:change], emulated=runs[-1].accelerator != "kvm")
        if all(value > usual + noise for value in values[change:]):
            return _regression(figure, [run for run, _ in told], values, change, usual, noise)
    return None


def _usual(figure: Figure, values: Sequence[float], *, emulated: bool) -> tuple[float, float]:
    """The median, and by how much more than it is still no change."""
    usual = statistics.median(values)
    spread = statistics.median(abs(value - usual) for value in values) * _MAD_TO_SIGMA
    return usual, max(_SIGMAS * spread, figure.noise(usual, emulated=emulated))


def _regression(
    figure: Figure, runs: Sequence[RecordedRun], values: Sequence[float], change: int, usual: float, noise: float
) -> Regression:
    since, before, value = runs[change], runs[change - 1], values[-1]
    drills = len(values) - change
    kernel = since.kernel if since.kernel != before.kernel else None
    at = f"since {kernel}" if kernel else "with the same kernel as before"
    count = f", {drills} drills" if drills > 1 else ""
    share = f"{value / usual - 1:+.0%}" if usual else "more"
    how = f"{share}, {figure.worse} {at}{count}"
    return Regression(
        figure=figure.name,
        label=figure.label,
        worse=figure.worse,
        value=value,
        usual=usual,
        noise=noise,
        since_kernel=kernel,
        before_kernel=before.kernel,
        since_s=since.at_s,
        drills=drills,
        text=f"{figure.label}: {figure.text(value)}, usually {figure.text(usual)} ({how})",
    )
