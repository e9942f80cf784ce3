"""Content of a report: images × scenarios, regressions, known issues, drills and charts."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..base.units import MIB
from ..campaigns import plot
from ..campaigns.plot import Moment, Point
from ..campaigns.sweep.cells import COMPUTED
from ..distro.config_file import COMPRESS_FLAGS
from ..drill.known_issues import load_known_issues
from ..history.database import DRILL, SWEEP, History, RecordedRun, conditions, utc, word_of
from ..history.figures import load_figures
from ..history.trend import Regression, regressions

_TRENDS = ("panic_to_login", "dump_size")
_MOST_LINES = 5  # number of distinct line styles
# Phases from the panic on, in their order; the reboot is the rest of panic to login.
_PHASES = (
    ("panic_to_capture", "panic to capture kernel"),
    ("capture_boot", "boot of the capture kernel"),
    ("dump", "writing the dump"),
    ("reboot", "reboot to login"),
)


@dataclass(frozen=True, kw_only=True)
class MatrixCell:
    """Last drill of a scenario on an image, and the last one that worked."""

    last: RecordedRun
    worked: RecordedRun | None

    @property
    def word(self) -> str:
        """Outcome as a word."""
        return word_of(self.last)


@dataclass(frozen=True, kw_only=True)
class TimelineBar:
    """One bar of a timeline, as shares of the whole."""

    label: str
    start: float
    width: float
    took_s: float


@dataclass(frozen=True, kw_only=True)
class DrillRow:
    """One drill with all details."""

    run: RecordedRun
    verdict: Mapping[str, Any]
    phases: tuple[TimelineBar, ...]
    conditions: str
    worse: tuple[Regression, ...]

    @property
    def word(self) -> str:
        """Outcome as a word."""
        return word_of(self.run)


@dataclass(frozen=True, kw_only=True)
class Issue:
    """Known issue that drills have shown."""

    tracker: str
    note: str
    until: str
    images: tuple[str, ...]
    count: int
    last: RecordedRun


@dataclass(frozen=True, kw_only=True)
class Report:
    """Content of a report."""

    made_s: float
    runs: int
    first_s: float | None
    images: tuple[str, ...]
    columns: tuple[str, ...]
    cells: Mapping[tuple[str, str], MatrixCell]
    worse: tuple[tuple[RecordedRun, Regression], ...]
    issues: tuple[Issue, ...]
    drills: tuple[DrillRow, ...]
    charts: tuple[str, ...]

    @property
    def failing(self) -> tuple[DrillRow, ...]:
        """Last drills of their cells that are not verified."""
        last = {cell.last.number for cell in self.cells.values()}
        return tuple(drill for drill in self.drills if drill.run.number in last and not drill.run.ok)

    @property
    def counts(self) -> dict[str, int]:
        """Number of cells by outcome."""
        found: dict[str, int] = defaultdict(int)
        for cell in self.cells.values():
            found[cell.word] += 1
        return dict(found)


def gather(history: History, *, images: Sequence[str], days: int | None, drills: int, charts: bool) -> Report:
    """Read the history; the DRILLS newest drills are shown with all details, besides the last one of each cell."""
    since_s = time.time() - days * 86400 if days is not None else 0.0
    runs = [run for run in history.newest(images=images) if run.at_s >= since_s]
    crashes = [run for run in runs if run.kind == DRILL]
    column_of = {run.number: run.topic for run in crashes}
    cells = _cells(crashes, column_of)
    chosen = {run.number: run for run in crashes[:drills]} | {cell.last.number: cell.last for cell in cells.values()}
    detailed = tuple(_drill(history, run) for run in sorted(chosen.values(), key=lambda run: (-run.at_s, -run.number)))
    last = {cell.last.number for cell in cells.values()}
    return Report(
        made_s=time.time(),
        runs=len(runs),
        first_s=min((run.at_s for run in runs), default=None),
        images=tuple(sorted({image for image, _ in cells})),
        columns=tuple(sorted({column for _, column in cells})),
        cells=cells,
        worse=tuple(_worse(drill for drill in detailed if drill.run.number in last)),
        issues=_issues(crashes),
        drills=detailed,
        charts=tuple(_charts(history, runs)) if charts else (),
    )


def _worse(drills: Iterable[DrillRow]) -> Iterator[tuple[RecordedRun, Regression]]:
    """Yield the regressions of the newest drill of each series."""
    seen: set[str] = set()
    for drill in drills:
        if drill.run.series not in seen:
            yield from ((drill.run, one) for one in drill.worse)
        seen.add(drill.run.series)


def _cells(crashes: Sequence[RecordedRun], column_of: Mapping[int, str]) -> dict[tuple[str, str], MatrixCell]:
    grouped: dict[tuple[str, str], list[RecordedRun]] = defaultdict(list)
    for run in crashes:
        grouped[run.image, column_of[run.number]].append(run)
    return {
        key: MatrixCell(last=found[0], worked=next((run for run in found if run.ok), None))
        for key, found in grouped.items()
    }


def _drill(history: History, run: RecordedRun) -> DrillRow:
    verdict = defaultdict(lambda: None, history.result(run))  # an old verdict may lack keys
    return DrillRow(
        run=run,
        verdict=verdict,
        phases=_timeline(verdict.get("phases_s") or {}),
        conditions=conditions(verdict),
        worse=tuple(regressions(history, run)) if run.ok else (),
    )


def _timeline(phases_s: Mapping[str, float]) -> tuple[TimelineBar, ...]:
    known = [(label, phases_s[name]) for name, label in _PHASES if name in phases_s]
    whole_s = sum(took_s for _, took_s in known)
    bars, at_s = [], 0.0
    for label, took_s in known:
        share = 1 / whole_s if whole_s else 0.0
        bars.append(TimelineBar(label=label, start=at_s * share, width=took_s * share, took_s=took_s))
        at_s += took_s
    return tuple(bars)


def _issues(crashes: Sequence[RecordedRun]) -> tuple[Issue, ...]:
    rows = {issue.tracker: issue for issue in load_known_issues()}
    shown: dict[str, list[RecordedRun]] = defaultdict(list)
    for run in crashes:
        if run.known_issue:
            shown[run.known_issue].append(run)
    return tuple(
        Issue(
            tracker=tracker,
            note=rows[tracker].note if tracker in rows else "",
            until=rows[tracker].until.isoformat() if tracker in rows else "",
            images=tuple(sorted({run.image for run in found})),
            count=len(found),
            last=found[0],
        )
        for tracker, found in shown.items()
    )


def _charts(history: History, runs: Sequence[RecordedRun]) -> list[str]:
    found = []
    for name in _TRENDS:
        figure = load_figures()[name]
        lines = _lines(history, [run for run in runs if run.kind == DRILL and run.ok and name in run.figures], name)
        if any(len(moments) > 1 for moments in lines.values()):
            unit, scale = ("MiB", MIB) if figure.unit == "bytes" else (figure.unit, 1)
            scaled = {
                line: [Moment(one.at_s, one.value / scale, one.changed) for one in moments]
                for line, moments in lines.items()
            }
            found.append(plot.inline_trend(scaled, title=figure.label, unit=unit))
    reserved: dict[str, set[tuple[float, bool]]] = defaultdict(set)
    for run in runs:
        if run.figures.get("reserved"):
            reserved[_label(run.image)].add((run.figures["reserved"], run.ok))
    if reserved:
        # Failed drills are drawn over verified ones.
        rows = {image: sorted(reserved[image], key=lambda one: (not one[1], one[0])) for image in sorted(reserved)}
        found.append(plot.inline_reservations(rows, title="verified by reservation"))
    newest: dict[str, RecordedRun] = {}
    for run in runs:
        if run.kind == SWEEP:
            newest.setdefault(run.image, run)
    found += [chart for run in newest.values() if (chart := _sizes(history.result(run)))]
    return found


def _lines(history: History, runs: Sequence[RecordedRun], name: str) -> dict[str, list[Moment]]:
    """Return the series with the most drills, oldest drill first, by image and the conditions that differ."""
    series: dict[str, list[RecordedRun]] = defaultdict(list)
    for run in reversed(runs):
        series[run.series].append(run)
    most = sorted(series.values(), key=len, reverse=True)[:_MOST_LINES]
    most.sort(key=lambda some: some[0].image)
    words = [conditions(history.result(found[0])).split(", ") for found in most]
    lines: dict[str, list[Moment]] = {}
    for found, own in zip(most, words, strict=True):
        image = found[0].image
        others = [theirs for other, theirs in zip(most, words, strict=True) if other[0].image == image]
        label = ", ".join([image, *(word for word in own if any(word not in theirs for theirs in others))])
        before = [found[0], *found]
        lines[_label(label)] = [
            Moment(run.at_s, run.figures[name], run.kernel != last.kernel)
            for run, last in zip(found, before, strict=False)
        ]
    return lines


def _label(text: str) -> str:
    """Return a name that can be drawn."""
    return "".join(char if char.isprintable() else "?" for char in text)[:60]


def _sizes(sweep: Mapping[str, Any]) -> str:
    lines: dict[str, list[Point]] = {}
    for cell in sweep.get("cells", ()):
        if cell.get("size_bytes") and cell["compress"] in COMPRESS_FLAGS:
            point = Point(cell["level"], cell["size_bytes"] / MIB, cell.get("how") == COMPUTED)
            lines.setdefault(cell["compress"], []).append(point)
    if not lines:
        return ""
    order = {name: lines[name] for name in COMPRESS_FLAGS if name in lines}
    title = f"{_label(sweep['image'])}: size by dump level"
    return plot.inline_sizes(order, title=title, subtitle=f"Linux {sweep.get('kernel') or 'unknown'}")


def when(seconds: float | None) -> str:
    """Return a day and minute for display."""
    return "" if seconds is None else utc(seconds)[:16] + "Z"
