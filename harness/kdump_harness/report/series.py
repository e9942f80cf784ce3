"""Figures over time: each series of comparable drills with its values, its change, and its reservations."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..history.database import DRILL, History, RecordedRun, conditions, word_of
from ..history.figures import Figure, load_figures
from ..history.trend import MOST, Regression, find

FIGURES = ("panic_to_login", "dump_size")
_WIDTH, _HEIGHT = 120, 24  # of a line's picture, in its own units


@dataclass(frozen=True, kw_only=True)
class Line:
    """One figure of a series over time, as a picture and in words."""

    label: str
    path: str
    kernels: str  # path of marks where the kernel changed
    last: str
    usual: str
    share: float | None  # difference from the usual value, as a part of it
    text: str


@dataclass(frozen=True, kw_only=True)
class Series:
    """Comparable drills of one scenario."""

    last: RecordedRun
    conditions: str
    drills: int
    lines: tuple[Line, ...]
    worse: tuple[Regression, ...]


@dataclass(frozen=True, kw_only=True)
class Reservation:
    """Drills with one size of the reservation."""

    mib: float
    verified: int
    drills: int
    word: str  # outcome of the newest one


def worse_of(runs: Sequence[RecordedRun]) -> tuple[Regression, ...]:
    """Return the regressions of the newest run of a series; RUNS are all of them, the oldest first."""
    if not runs[-1].ok:
        return ()
    past = [run for run in runs if run.ok][-MOST:]
    return tuple(one for figure in load_figures().values() if (one := find(figure, past)) is not None)


def series_of(
    history: History, groups: Sequence[Sequence[RecordedRun]], worse: dict[str, tuple[Regression, ...]], *, most: int
) -> tuple[list[Series], int]:
    """Return at most MOST series with a past, the worse ones before the longest ones, and the number of the others.

    GROUPS are the runs of each series, the oldest first; WORSE the regressions by series.
    """
    measured = [[run for run in runs if run.ok and any(name in run.figures for name in FIGURES)] for runs in groups]
    known = [runs for runs in measured if len(runs) > 1]
    known.sort(key=lambda runs: (not worse.get(runs[-1].series), -len(runs)))
    chosen = known[:most]
    chosen.sort(key=lambda runs: (not worse.get(runs[-1].series), runs[-1].system, runs[-1].topic, runs[-1].number))
    found = [
        Series(
            last=runs[-1],
            conditions=conditions(history.result(runs[-1])),
            drills=len(runs),
            lines=tuple(_lines(runs[-MOST:])),
            worse=worse.get(runs[-1].series, ()),
        )
        for runs in chosen
    ]
    return found, len(known) - len(chosen)


def _lines(runs: Sequence[RecordedRun]) -> Iterator[Line]:
    for name in FIGURES:
        known = [run for run in runs if name in run.figures]
        if known:
            yield _line(load_figures()[name], known)


def _line(figure: Figure, runs: Sequence[RecordedRun]) -> Line:
    values = [run.figures[figure.name] for run in runs]
    usual = statistics.median(values[:-1] or values)
    first_s, span_s = runs[0].at_s, max(runs[-1].at_s - runs[0].at_s, 1.0)
    least, most = min(values), max(values)
    # A small change must not look like a large one: the picture is at least a tenth of the usual value high.
    height = max(most - least, usual * 0.1, 1e-9)
    across = [round((run.at_s - first_s) / span_s * _WIDTH) for run in runs]
    up = [round(_HEIGHT - 2 - (value - least) / height * (_HEIGHT - 4)) for value in values]
    changes = [x for x, run, before in zip(across[1:], runs[1:], runs, strict=False) if run.kernel != before.kernel]
    return Line(
        label=figure.label,
        path="M" + "L".join(f"{x} {y}" for x, y in zip(across, up, strict=True)),
        kernels="".join(f"M{x} 0v{_HEIGHT}" for x in changes),
        last=figure.text(values[-1]),
        usual=figure.text(usual),
        share=values[-1] / usual - 1 if usual and len(values) > 1 else None,
        text=f"{figure.label}, {len(values)} drills: {figure.text(least)} to {figure.text(most)},"
        f" last {figure.text(values[-1])}",
    )


def reservations_of(runs: Sequence[RecordedRun]) -> dict[str, tuple[Reservation, ...]]:
    """Return the reservations that were drilled, the smallest first, by system; RUNS are sorted, the newest first."""
    found: dict[str, dict[float, list[RecordedRun]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        if run.kind == DRILL and run.figures.get("reserved"):
            found[run.system][run.figures["reserved"]].append(run)
    return {
        system: tuple(
            Reservation(mib=mib, verified=sum(run.ok for run in some), drills=len(some), word=word_of(some[0]))
            for mib, some in sorted(sizes.items())
        )
        for system, sizes in sorted(found.items())
    }
