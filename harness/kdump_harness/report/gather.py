"""Content of a report: failures, systems × scenarios by day, regressions, known issues, drills and charts."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..base.units import MIB
from ..campaigns import plot
from ..campaigns.plot import Point
from ..campaigns.sweep.cells import COMPUTED
from ..distro.config_file import COMPRESS_FLAGS
from ..drill.known_issues import load_known_issues
from ..history.database import DRILL, FAILED, KNOWN_ISSUE, SWEEP, History, RecordedRun, conditions, utc, word_of
from ..history.trend import Regression
from .days import Span, Strip, span_of, strip_of
from .machines import MachineRow, machines_of
from .series import Reservation, Series, reservations_of, series_of, worse_of

# A page of these is at most 3 MB.
_MOST_DETAILED = 250
_MOST_SERIES = 300
# Phases from the panic on, in their order; the reboot is the rest of panic to login.
_PHASES = (
    ("panic_to_capture", "panic to capture kernel"),
    ("capture_boot", "boot of the capture kernel"),
    ("dump", "writing the dump"),
    ("reboot", "reboot to login"),
)


@dataclass(frozen=True, kw_only=True)
class MatrixCell:
    """Drills of a scenario on a system: the last one, the last one that worked, and all by day."""

    last: RecordedRun
    worked: RecordedRun | None
    since: RecordedRun  # first drill of the same outcome without another one between
    drills: int  # number of drills with this outcome since then
    strip: Strip

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

    @property
    def cause(self) -> Mapping[str, Any] | None:
        """First symptom that is a failure."""
        symptoms = self.verdict.get("symptoms") or ()
        return next((one for one in symptoms if one.get("severity") == "failure"), None)


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Scenarios whose last drills failed for one reason, the newest failure first."""

    word: str
    newest: DrillRow
    cells: tuple[MatrixCell, ...]


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
    last_s: float | None
    span: Span
    systems: tuple[str, ...]
    columns: tuple[str, ...]
    cells: Mapping[tuple[str, str], MatrixCell]
    failures: tuple[Failure, ...]
    worse: tuple[tuple[RecordedRun, Regression], ...]
    issues: tuple[Issue, ...]
    drills: tuple[DrillRow, ...]
    not_detailed: int  # number of drills that the report counts but does not show in full
    series: tuple[Series, ...]
    more_series: int  # number of series that are left out
    reservations: Mapping[str, tuple[Reservation, ...]]
    charts: tuple[str, ...]
    machines: tuple[MachineRow, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Number of cells by outcome, failures first."""
        words = [cell.word for cell in self.cells.values()]
        return {word: words.count(word) for word in sorted(set(words), key=_urgency)}


def _urgency(word: str) -> tuple[bool, bool, str]:
    """Return the order of outcomes: failed, not judged, known issue, verified."""
    return word != FAILED, word == KNOWN_ISSUE, word


def gather(history: History, *, images: Sequence[str], days: int | None, drills: int, charts: bool) -> Report:
    """Read the history; the DRILLS newest drills are shown with all details, besides the last one of each cell."""
    made_s = time.time()
    past = history.newest(images=images)
    runs = [run for run in past if days is None or run.at_s >= made_s - days * 86400]
    crashes = [run for run in runs if run.kind == DRILL]
    span = span_of(runs, made_s)
    cells = _cells(crashes, span)
    last = {cell.last.number for cell in cells.values()}
    groups: dict[str, list[RecordedRun]] = defaultdict(list)
    for run in reversed(past):
        if run.kind == DRILL:
            groups[run.series].append(run)
    worse = {series: found for series, some in groups.items() if some[-1].number in last and (found := worse_of(some))}
    detailed = tuple(
        _drill(history, run, worse.get(run.series, ()) if run.number in last else ())
        for run in _chosen(crashes, cells.values(), drills)
    )
    series, more = series_of(history, list(groups.values()), worse, most=_MOST_SERIES) if charts else ([], 0)
    return Report(
        made_s=made_s,
        runs=len(runs),
        first_s=min((run.at_s for run in runs), default=None),
        last_s=max((run.at_s for run in runs), default=None),
        span=span,
        systems=tuple(sorted({system for system, _ in cells})),
        columns=tuple(sorted({column for _, column in cells})),
        cells=cells,
        failures=_failures(cells.values(), detailed),
        worse=tuple((groups[name][-1], one) for name, found in worse.items() for one in found),
        issues=_issues(crashes),
        drills=detailed,
        not_detailed=len(crashes) - len(detailed),
        series=tuple(series),
        more_series=more,
        reservations=reservations_of(runs),
        charts=tuple(_sizes_of_sweeps(history, runs)) if charts else (),
        machines=machines_of(history, runs),
    )


def _cells(crashes: Sequence[RecordedRun], span: Span) -> dict[tuple[str, str], MatrixCell]:
    """Return the cells by system and topic; CRASHES are sorted, the newest first."""
    grouped: dict[tuple[str, str], list[RecordedRun]] = defaultdict(list)
    for run in crashes:
        grouped[run.system, run.topic].append(run)
    return {key: _cell(runs, span) for key, runs in grouped.items()}


def _cell(runs: Sequence[RecordedRun], span: Span) -> MatrixCell:
    word = word_of(runs[0])
    streak = next((number for number, run in enumerate(runs) if word_of(run) != word), len(runs))
    return MatrixCell(
        last=runs[0],
        worked=next((run for run in runs if run.ok), None),
        since=runs[streak - 1],
        drills=streak,
        strip=strip_of(runs, span),
    )


def _chosen(crashes: Sequence[RecordedRun], cells: Iterable[MatrixCell], drills: int) -> list[RecordedRun]:
    """Return the drills to show in full, the newest first: failures, the newest DRILLS, then as a page has room."""
    last = sorted((cell.last for cell in cells), key=lambda run: (run.ok, -run.at_s))
    failed = [run for run in last if not run.ok]
    chosen = {run.number: run for run in [*failed[:_MOST_DETAILED], *crashes[:drills]]}
    for run in last:
        if len(chosen) >= _MOST_DETAILED:
            break
        chosen[run.number] = run
    return sorted(chosen.values(), key=lambda run: (-run.at_s, -run.number))


def _drill(history: History, run: RecordedRun, worse: tuple[Regression, ...]) -> DrillRow:
    verdict = defaultdict(lambda: None, history.result(run))  # an old verdict may lack keys
    return DrillRow(
        run=run,
        verdict=verdict,
        phases=_timeline(verdict.get("phases_s") or {}),
        conditions=conditions(verdict),
        worse=worse,
    )


def _failures(cells: Iterable[MatrixCell], detailed: Iterable[DrillRow]) -> tuple[Failure, ...]:
    """Return the failures by reason: failed, not judged, known issues, and in each of them the newest first."""
    drills = {drill.run.number: drill for drill in detailed}
    groups: dict[tuple[str, str], list[MatrixCell]] = defaultdict(list)
    for cell in cells:
        drill = drills.get(cell.last.number)
        if not cell.last.ok and drill is not None:
            reason = drill.run.known_issue or (drill.cause["name"] if drill.cause else drill.run.summary)
            groups[cell.word, reason].append(cell)
    found = []
    for (word, _), some in groups.items():
        some.sort(key=lambda cell: -cell.since.at_s)
        newest = max(some, key=lambda cell: cell.last.at_s)
        found.append(Failure(word=word, newest=drills[newest.last.number], cells=tuple(some)))
    return tuple(sorted(found, key=lambda one: (*_urgency(one.word), -one.cells[0].since.at_s)))


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
            images=tuple(sorted({run.system for run in found})),
            count=len(found),
            last=found[0],
        )
        for tracker, found in shown.items()
    )


def _sizes_of_sweeps(history: History, runs: Sequence[RecordedRun]) -> Iterator[str]:
    newest: dict[str, RecordedRun] = {}
    for run in runs:
        if run.kind == SWEEP:
            newest.setdefault(run.image, run)
    yield from (chart for run in newest.values() if (chart := _sizes(history.result(run))))


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
