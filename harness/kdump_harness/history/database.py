"""All results in one SQLite file, to which several processes can write."""

from __future__ import annotations

import datetime
import hashlib
import json
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base import foreign
from ..base.crashkernel import reserved_mib
from ..base.errors import HostError, UsageError
from ..base.sqlite import Database
from ..images.state import default_directory
from .figures import figures_of

DEFAULT_NAME = "history.sqlite"
NOWHERE = "none"  # value of --history that disables recording
_MODE = 0o664  # a group shares the state directory
USUAL_ARCH = "x86_64"  # also that of results without an architecture
_APPLICATION = 0x4B444849  # "KDHI"
_MIGRATIONS = (
    """
    CREATE TABLE run (
        number INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, at_s REAL NOT NULL,
        image TEXT NOT NULL, scenario TEXT NOT NULL, series TEXT NOT NULL, kernel TEXT, accelerator TEXT,
        ok INTEGER NOT NULL, reached TEXT, known_issue TEXT, summary TEXT NOT NULL, evidence TEXT NOT NULL,
        result TEXT NOT NULL
    );
    CREATE INDEX run_by_image ON run (image, at_s);
    CREATE INDEX run_by_series ON run (series, at_s);
    CREATE TABLE figure (
        run INTEGER NOT NULL REFERENCES run (number) ON DELETE CASCADE, name TEXT NOT NULL, value REAL NOT NULL,
        PRIMARY KEY (run, name)
    ) WITHOUT ROWID
    """,
    # In a separate table: a column behind the long result would be slow to read.
    """
    CREATE TABLE drill (
        run INTEGER PRIMARY KEY REFERENCES run (number) ON DELETE CASCADE, trigger TEXT, target TEXT, arch TEXT
    );
    CREATE INDEX run_by_time ON run (at_s, number);
    INSERT INTO drill SELECT number, json_extract(result, '$.trigger'), json_extract(result, '$.target'),
        json_extract(result, '$.arch') FROM run WHERE kind = 'drill' AND json_valid(result)
    """,
)

DRILL = "drill"
SWEEP = "sweep"
SIZE = "size"
COMPARE = "compare"
BISECT = "bisect"
AUDIT = "audit"

VERIFIED = "verified"
KNOWN_ISSUE = "known issue"
FAILED = "failed"
UNJUDGED = "not judged"

# Drills that differ in one of these belong to different series. The kernel is missing, because series compare kernels.
_SERIES = (
    "image", "accelerator", "memory_mib", "vcpus", "firmware", "crashkernel", "level", "compress", "trigger", "target",
)  # fmt: skip
# Results with equal values of these are the same result, which was recorded at once and imported later.
_IDENTITY = (*_SERIES, "started", "kernel", "verified", "phases_s", "took_s", "cells", "figures")


@dataclass(frozen=True, kw_only=True)
class RecordedRun:
    """One recorded drill or campaign."""

    number: int
    kind: str
    at_s: float
    image: str
    scenario: str
    series: str
    kernel: str | None
    accelerator: str | None
    ok: bool
    reached: str | None
    known_issue: str | None
    summary: str
    evidence: str
    trigger: str | None
    target: str | None
    arch: str | None
    figures: Mapping[str, float]

    @property
    def system(self) -> str:
        """Image, with its architecture unless it is the usual one."""
        return f"{self.image} ({self.arch})" if self.arch not in (None, USUAL_ARCH) else self.image

    @property
    def test(self) -> str:
        """Name of the test that made the drill; empty for a drill of the command line."""
        return self.scenario.rpartition("::")[2] or self.scenario

    @property
    def topic(self) -> str:
        """Topic of a drill: the name of its test, or its trigger and dump target."""
        return self.test or f"{self.trigger} → {self.target}"

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON data."""
        return {**vars(self), "figures": dict(self.figures), "at": utc(self.at_s)}


def history_path(option: str | None, state: Path | None) -> Path | None:
    """Return the path of the history, or None if recording is disabled."""
    if option == NOWHERE:
        return None
    return Path(option) if option else (state or default_directory()) / DEFAULT_NAME


class History:
    """The history file."""

    def __init__(self, path: Path, *, create: bool = True) -> None:
        """Open the file. Raises UsageError if it is not a history, or does not exist and CREATE is false."""
        if not create and not path.exists():
            raise UsageError(f"{path} does not exist (name a history with --history FILE, or --import past results)")
        if create:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise HostError(f"cannot create {path.parent}: {error.strerror}") from None
        self.path = path
        self._database = Database(path, application=_APPLICATION, migrations=_MIGRATIONS, mode=_MODE)

    def __enter__(self) -> History:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def add(
        self, kind: str, result: Mapping[str, Any], *, at_s: float | None = None, scenario: str = "", place: str = ""
    ) -> RecordedRun | None:
        """Record a result and return its row, or None if the history has it already.

        A drill is a verdict.json. All other results have image and ok, and may have kernel, accelerator, evidence,
        cells (as in sweep.json), a summary, figures by name, and a series (the values that it shares with its past).
        AT_S is the start of a result that does not contain its own. PLACE is the directory of the evidence, if it is
        not the one in the result.
        """
        row = _row(kind, result, at_s=at_s, scenario=scenario, place=place)
        columns = ", ".join(row)
        with self._database.writing():
            added = self._database.run(
                f"INSERT OR IGNORE INTO run ({columns}) VALUES ({', '.join('?' * len(row))})", *row.values()
            )
            if not added:
                return None
            number = self._database.rows("SELECT last_insert_rowid()")[0][0]
            if kind == DRILL or result.get("arch"):
                about = (result.get(name) for name in ("trigger", "target", "arch"))
                self._database.run("INSERT INTO drill VALUES (?, ?, ?, ?)", number, *about)
            figures = _figures(kind, result)
            self._database.run_many(
                "INSERT INTO figure VALUES (?, ?, ?)", [(number, *figure) for figure in figures.items()]
            )
        return self.runs("WHERE number = ?", number)[0]

    def runs(self, where: str = "", *values: Any, figures: Sequence[str] | None = None) -> list[RecordedRun]:
        """Return runs with their figures (all, or those with the names FIGURES), in the order of the query."""
        rows = self._database.rows(f"SELECT {', '.join(_COLUMNS)} FROM {_FROM} {where}", *values)
        found: dict[int, dict[str, float]] = {}
        if figures != ():
            named = f"name IN ({', '.join('?' * len(figures))}) AND " if figures else ""
            query = f"SELECT run, name, value FROM figure WHERE {named}run IN (SELECT number FROM {_FROM} {where})"
            for run, name, value in self._database.rows(query, *(figures or ()), *values):
                found.setdefault(run, {})[name] = value
        return [_run(row, found.get(row["number"], {})) for row in rows]

    def newest(self, *, images: Sequence[str] = (), limit: int = -1, since_s: float = 0.0) -> list[RecordedRun]:
        """Return runs, the newest first."""
        where = f"AND image IN ({', '.join('?' * len(images))}) " if images else ""
        return self.runs(f"WHERE at_s >= ? {where}ORDER BY at_s DESC, number DESC LIMIT ?", since_s, *images, limit)

    def last_drills(self) -> list[RecordedRun]:
        """Return the last drill of each image, scenario, trigger and target."""
        return self._last("kind = ?", figures=None)

    def last_successes(self) -> list[RecordedRun]:
        """Return the last verified drill of each image, scenario, trigger and target, without its figures."""
        return self._last("kind = ? AND ok", figures=())

    def _last(self, where: str, *, figures: Sequence[str] | None) -> list[RecordedRun]:
        # In a query with max(), SQLite takes the other columns from the row of the maximum.
        query = f"SELECT number, max(at_s) FROM {_FROM} WHERE {where} GROUP BY image, arch, scenario, trigger, target"
        numbers = [str(row["number"]) for row in self._database.rows(query, DRILL)]
        return self.runs(f"WHERE number IN ({', '.join(numbers)}) ORDER BY at_s, number", figures=figures)

    def least_figures(self) -> dict[tuple[str, str], float]:
        """Return the smallest value of the successes by series and figure."""
        query = "SELECT series, name, min(value) FROM figure JOIN run ON run.number = figure.run WHERE ok GROUP BY 1, 2"
        return {(series, name): value for series, name, value in self._database.rows(query)}

    def measured(self, figure: str, *, images: Sequence[str] = ()) -> list[RecordedRun]:
        """Return the successes that have a figure, with this figure only, the oldest of each series first."""
        where = f"AND image IN ({', '.join('?' * len(images))}) " if images else ""
        rows = self._database.rows(
            f"SELECT {', '.join(_COLUMNS)}, value FROM {_FROM} JOIN figure ON figure.run = run.number"
            f" WHERE name = ? AND ok {where}"
            "ORDER BY image, series, at_s, number",
            figure,
            *images,
        )
        return [_run(row, {figure: row["value"]}) for row in rows]

    def past(self, run: RecordedRun, *, most: int) -> list[RecordedRun]:
        """Return the successes of the run's series before it, and the run: MOST runs, the oldest first."""
        where = "WHERE series = ? AND (ok OR number = ?) AND (at_s, number) <= (?, ?)"
        order = "ORDER BY at_s DESC, number DESC LIMIT ?"
        found = self.runs(f"{where} {order}", run.series, run.number, run.at_s, run.number, most)
        return found[::-1]

    def result(self, run: RecordedRun) -> dict[str, Any]:
        """Return the whole recorded result. Raises UsageError if it is damaged."""
        rows = self._database.rows("SELECT result FROM run WHERE number = ?", run.number)
        try:
            found = foreign.parse_json(rows[0]["result"]) if rows else {}
        except (ValueError, TypeError) as error:
            raise UsageError(f"{self.path} is damaged: the result of run {run.number} is not JSON ({error})") from None
        return found if isinstance(found, dict) else {}

    def texts(self, runs: Sequence[RecordedRun], key: str) -> dict[int, str]:
        """Return a text of each result that has it, by the number of the run."""
        numbers = ", ".join(str(run.number) for run in runs)
        extracted = (
            f"CASE WHEN json_valid(result) THEN json_extract(result, ?) END FROM run WHERE number IN ({numbers})"
        )
        rows = self._database.rows(f"SELECT number, {extracted}", f"$.{key}")
        return {number: text for number, text in rows if isinstance(text, str)}

    def images(self) -> list[str]:
        """Return all images that were drilled."""
        return [row["image"] for row in self._database.rows("SELECT DISTINCT image FROM run ORDER BY image")]

    def prune(self, *, keep: int | None, days: int | None, dry_run: bool) -> list[RecordedRun]:
        """Delete runs older than DAYS, and those beyond the newest KEEP of each system and kind; return them.

        The newest success of each series stays, because reports show when a scenario last worked.
        """
        runs = self.runs("ORDER BY at_s DESC, number DESC", figures=())
        seen: dict[tuple[str, str], int] = {}
        worked: set[tuple[str, str]] = set()  # scenario and series
        gone = []
        for run in runs:
            key = (run.system, run.kind)
            seen[key] = seen.get(key, 0) + 1
            last_success = run.ok and (run.scenario, run.series) not in worked
            worked |= {(run.scenario, run.series)} if run.ok else set()
            too_old = days is not None and run.at_s < time.time() - days * 86400
            if (too_old or (keep is not None and seen[key] > keep)) and not last_success:
                gone.append(run)
        if not dry_run:
            with self._database.writing():
                self._database.run_many("DELETE FROM run WHERE number = ?", [(run.number,) for run in gone])
        return gone


_COLUMNS = (
    "number", "kind", "at_s", "image", "scenario", "series", "kernel", "accelerator", "ok", "reached", "known_issue",
    "summary", "evidence", "trigger", "target", "arch",
)  # fmt: skip
_FROM = "run LEFT JOIN drill ON drill.run = run.number"


def _run(row: sqlite3.Row, figures: Mapping[str, float]) -> RecordedRun:
    run = object.__new__(RecordedRun)  # a fifth of the time of its constructor, which counts for 20,000 runs
    vars(run).update(zip(_COLUMNS, row, strict=False), ok=bool(row["ok"]), figures=figures)
    return run


def _row(kind: str, result: Mapping[str, Any], *, at_s: float | None, scenario: str, place: str) -> dict[str, Any]:
    started = result.get("started")
    if started:
        at_s = datetime.datetime.fromisoformat(started).timestamp()
    foreign = {"arch": result["arch"]} if result.get("arch") not in (None, USUAL_ARCH) else {}
    series = {"image": result["image"], **result.get("series", {})}
    if kind == DRILL:
        series = {name: result.get(name) for name in _SERIES} | shrunk(result) | crowded(result) | added(result)
    series |= foreign
    identity = {name: result.get(name) for name in _IDENTITY} | foreign
    return {
        "key": _digest([kind, identity]),
        "kind": kind,
        "at_s": time.time() if at_s is None else at_s,
        "image": str(result["image"]),
        "scenario": scenario,
        "series": _digest([kind, series]),
        "kernel": result.get("kernel"),
        "accelerator": result.get("accelerator"),
        "ok": int(bool(result["verified"] if kind == DRILL else result["ok"])),
        "reached": result.get("reached"),
        "known_issue": result.get("known_issue"),
        "summary": _summary(kind, result),
        "evidence": place or str(result.get("evidence") or ""),
        "result": json.dumps(result, default=str),
    }


def shrunk(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the rest of a reservation, if a part was given back before the crash, as a sizing does."""
    parts = result.get("reserved") or {}
    asked, left = result.get("crashkernel"), parts.get("high_mib") or parts.get("low_mib") or result.get("reserved_mib")
    whole = reserved_mib(asked, result.get("memory_mib") or 0) if isinstance(asked, str) else None
    return {"reserved_mib": left} if whole and left and left < whole else {}


def crowded(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the number of parallel drills on the host; empty for a drill that ran alone."""
    return {"beside": result["beside"]} if result.get("beside") else {}


def added(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that were added to the command lines; empty for a drill without such."""
    return {name: result[name] for name in ("append", "capture_append", "hotplug") if result.get(name)}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _summary(kind: str, result: Mapping[str, Any]) -> str:
    """Return the outcome in one line."""
    if kind != DRILL:
        if result.get("summary"):
            return str(result["summary"])[:300]
        broken = [one["name"] for one in result.get("relations", []) if not one["ok"]]
        return "holds" if result["ok"] else f"does not hold: {', '.join(broken) or 'a cell'}"
    if result["verified"]:
        return VERIFIED
    if outcome_of(result) == UNJUDGED:
        return f"{UNJUDGED}: {result['not_judged']}"[:300]
    causes = [one["name"] for one in result.get("symptoms", []) if one.get("severity") == "failure"][:1]
    failed = [f"{one['name']}: {one['seen']}" for one in result.get("checks", []) if not one["ok"]]
    unjudged = f"the dump was not judged: {result['not_judged']}" if result.get("not_judged") else ""
    parts = [*causes, *filter(None, [result.get("stopped_by"), unjudged]), *failed]
    return "; ".join(parts)[:300] or f"stopped at {result.get('reached')}"


def _figures(kind: str, result: Mapping[str, Any]) -> dict[str, float]:
    if kind == DRILL:
        return figures_of(result)
    cells: Iterable[Mapping[str, Any]] = result.get("cells", ())
    sizes = {f"size_d{one['level']}_{one['compress']}": one["size_bytes"] for one in cells if one.get("size_bytes")}
    return {**sizes, **result.get("figures", {})}


def word_of(run: RecordedRun) -> str:
    """Return the outcome as a word: verified, known issue, not judged or failed."""
    if run.ok or run.known_issue:
        return VERIFIED if run.ok else KNOWN_ISSUE
    return UNJUDGED if run.summary.startswith(f"{UNJUDGED}: ") else FAILED


def outcome_of(verdict: Mapping[str, Any]) -> str:
    """Return the outcome of a drill as a word, by its verdict in the form of JSON."""
    if verdict["verified"] or verdict.get("known_issue"):
        return VERIFIED if verdict["verified"] else KNOWN_ISSUE
    wrong = verdict.get("stopped_by") or any(not check["ok"] for check in verdict.get("checks", []))
    return UNJUDGED if verdict.get("not_judged") and not wrong else FAILED


def utc(seconds: float) -> str:
    """Return a time in UTC for display."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def conditions(result: dict[str, Any]) -> str:
    """Return the common conditions of a series for display."""
    if (series := result.get("series")) is not None:  # a sizing
        return f"{series['accelerator']}, {series['memory_mib']} MiB, {series['vcpus']} CPUs, → {series['target']}" + (
            f", {series['searched']}" if series.get("searched") else ""
        )
    left = "".join(f" ({mib} MiB left of it)" for mib in shrunk(result).values())
    parallel = "".join(f", {number} other drills in parallel" for number in crowded(result).values())
    more = "".join(f", --{name.replace('_', '-')} '{value}'" for name, value in added(result).items())
    parts = (
        f"{result.get('accelerator')}", f"{result.get('memory_mib')} MiB", f"{result.get('vcpus')} CPUs",
        f"{result.get('firmware')}", f"crashkernel={result.get('crashkernel')}{left}",
        f"-d {result.get('level')} {result.get('compress')}", f"{result.get('trigger')} → {result.get('target')}",
    )  # fmt: skip
    return ", ".join(parts) + parallel + more
