"""Search for regressions: figures that exceed the past of a series by more than the noise."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .database import History, RecordedRun
from .figures import Figure, load_figures

_LEAST = 3  # smallest number of drills that make a past
MOST = 60  # older drills are ignored
_SIGMAS = 4.0
_MAD_TO_SIGMA = 1.4826  # factor of a normal distribution


@dataclass(frozen=True, kw_only=True)
class Regression:
    """A figure that became worse and stayed worse."""

    figure: str
    label: str
    worse: str
    value: float
    usual: float  # median before the change
    noise: float
    since_kernel: str | None
    before_kernel: str | None
    since_s: float
    drills: int  # number of drills with the worse value, including this one
    text: str

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON data."""
        return dict(vars(self))


def regressions(history: History, run: RecordedRun) -> list[Regression]:
    """Return the figures of a drill that are worse than before in its series."""
    past = history.past(run, most=MOST)
    if not past or past[-1].number != run.number:
        return []
    found = (find(figure, past) for figure in load_figures().values())
    return [one for one in found if one is not None]


def find(figure: Figure, runs: Sequence[RecordedRun]) -> Regression | None:
    """Return the regression of the last run, or None; it starts at the first run since which all are worse."""
    known = [(run, run.figures[figure.name]) for run in runs[-MOST:] if figure.name in run.figures]
    if not known or known[-1][0] is not runs[-1]:
        return None
    values, emulated = [value for _, value in known], runs[-1].accelerator != "kvm"
    enough = _least_that_is_worse(figure, min(values), emulated=emulated)
    for change in range(_LEAST, len(values)):
        since = min(values[change:])
        if since <= enough:
            continue
        usual, noise = _usual(figure, values[:change], emulated=emulated)
        if since > usual + noise:
            return _regression(figure, [run for run, _ in known], values, change, usual, noise)
    return None


def may_be_worse(run: RecordedRun, least: Mapping[tuple[str, str], float]) -> bool:
    """Return whether a run can have regressions, by the smallest values of its series."""
    emulated = run.accelerator != "kvm"
    return any(
        name in load_figures()
        and value > _least_that_is_worse(load_figures()[name], least.get((run.series, name), value), emulated=emulated)
        for name, value in run.figures.items()
    )


def _least_that_is_worse(figure: Figure, least: float, *, emulated: bool) -> float:
    """Return a bound for values that are worse: no usual value is below the smallest one, nor is its noise."""
    return least + figure.noise(least, emulated=emulated)


def _usual(figure: Figure, values: Sequence[float], *, emulated: bool) -> tuple[float, float]:
    """Return the median, and the excess over it that is still noise."""
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
