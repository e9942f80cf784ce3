"""The matrix, images × scenarios: the outcome of each test of a run, as a table, in words and as JSON."""

from __future__ import annotations

import contextlib
import datetime
import enum
import json
import os
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..base.foreign import whole_number

SCHEMA = 1
KERNEL = "kernel"  # row of the tests of kernel drills that drilled no kernel
UNFINISHED = "it did not come to its end"
REASON_LINES = 3  # the evidence has it all
MIN_WIDTH = 40  # a narrower terminal wraps by itself
_GAP = "  "
_INDENT = "    "


class Outcome(enum.StrEnum):
    """The outcome of a test, worst first."""

    FAILED = "failed"  # the scenario found a defect of kdump
    ERROR = "error"  # harness, host or scenario broke before there was a verdict
    KNOWN_ISSUE = "known issue"  # it failed as a known issue describes
    SKIPPED = "skipped"
    PASSED = "passed"  # it passed, but not every drill was verified: none ran, or some were meant to fail
    VERIFIED = "verified"  # it passed, and every drill of it was verified


_WORST_FIRST = tuple(Outcome)


@dataclass
class MatrixEntry:
    """One test of a scenario on an image."""

    image: str  # or kernel-NAME of a kernel drill
    scenario: str  # test_smoke.py::test_dump, without parameters
    nodeid: str
    outcome: Outcome = Outcome.ERROR  # until it is known better: a worker may die in the middle
    reason: str | None = UNFINISHED
    unavailable: bool = False  # the image could not be had here
    duration_s: float = 0.0
    evidence: list[str] = field(default_factory=list)
    verdicts: list[dict[str, Any]] = field(default_factory=list)  # each as in verdict.json

    @property
    def name(self) -> str:
        """Return the test with its parameters, without the directories."""
        path, colons, test = self.nodeid.partition("::")
        return f"{path.rpartition('/')[2]}{colons}{test}"

    @property
    def reached(self) -> str | None:
        """Return the stage of the first drill that was not verified, if the test failed."""
        failing = self._failing() if self.outcome is Outcome.FAILED else None
        return failing["reached"] if failing else None

    def failing_evidence(self) -> str | None:
        """Return the evidence directory to read first."""
        failing = self._failing()
        return failing["evidence"] if failing else self.evidence[-1] if self.evidence else None

    def _failing(self) -> dict[str, Any] | None:
        failing = [verdict for verdict in self.verdicts if not verdict["verified"]]
        unexcused = [verdict for verdict in failing if not verdict["known_issue"]]
        return next(iter(unexcused or failing), None)

    def to_json(self) -> dict[str, Any]:
        """Return plain values only, since entries are sent between processes."""
        return json.loads(json.dumps(asdict(self), default=str))  # type: ignore[no-any-return]

    @classmethod
    def from_json(cls, table: Mapping[str, Any]) -> MatrixEntry:
        """Return the entry that to_json() wrote."""
        return cls(**{**table, "outcome": Outcome(table["outcome"])})


class Matrix:
    """The tests of one run."""

    def __init__(self) -> None:
        self._entries: dict[str, MatrixEntry] = {}
        self.started = datetime.datetime.now(datetime.UTC)

    def __bool__(self) -> bool:
        return bool(self._entries)

    def add(self, entry: MatrixEntry) -> None:
        """Store the entry of a test; a later entry replaces an earlier one."""
        self._entries[entry.nodeid] = entry

    @property
    def entries(self) -> list[MatrixEntry]:
        """Return all tests sorted by image, scenario and test, since workers finish in any order."""
        return sorted(self._entries.values(), key=lambda one: (_natural(one.image), one.scenario, _natural(one.nodeid)))

    @property
    def unavailable(self) -> dict[str, str]:
        """Return the unavailable images, each with its reason."""
        return {entry.image: entry.reason or "" for entry in self.entries if entry.unavailable}

    def to_json(self) -> dict[str, Any]:
        """Return the contents of matrix.json; fields may be added, never renamed."""
        entries = self.entries
        return {
            "schema": SCHEMA,
            "started": self.started.isoformat(timespec="seconds"),
            "took_s": round((datetime.datetime.now(datetime.UTC) - self.started).total_seconds(), 1),
            "images": _distinct(entry.image for entry in entries),
            "scenarios": _distinct(entry.scenario for entry in entries),
            "unavailable": self.unavailable,
            "counts": {outcome.value: sum(one.outcome is outcome for one in entries) for outcome in Outcome},
            "tests": [entry.to_json() for entry in entries],
        }

    def write(self, path: Path) -> None:
        """Write the JSON atomically; raises OSError."""
        part = path.with_name(f".{path.name}-{os.getpid()}")
        try:
            part.write_text(json.dumps(self.to_json(), indent=1) + "\n", encoding="utf-8")
            part.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                part.unlink()
            raise

    def lines(self, width: int) -> Iterator[str]:
        """Yield the table and the notes below it; only paths and addresses may be wider than WIDTH."""
        width = max(width, MIN_WIDTH)
        yield from self._table(width)
        yield from self._remarks(width)

    def _table(self, width: int) -> Iterator[str]:
        """Yield the table, a row per image and a column per scenario; too many columns are numbered and split."""
        entries = self.entries
        images = _distinct(entry.image for entry in entries)
        scenarios = _distinct(entry.scenario for entry in entries)
        by_cell: dict[tuple[str, str], list[MatrixEntry]] = {}
        for entry in entries:
            by_cell.setdefault((entry.image, entry.scenario), []).append(entry)
        columns = [[_cell(by_cell.get((image, scenario), ())) for image in images] for scenario in scenarios]
        first_width = min(max(map(len, images)), width // 3)
        labels = [_short(image, first_width) for image in images]

        heads = short_names(scenarios)
        widths = [max(len(text) for text in (head, *cells)) for head, cells in zip(heads, columns, strict=True)]
        numbered = first_width + sum(len(_GAP) + one for one in widths) > width
        if numbered:
            heads = [str(number) for number in range(1, len(scenarios) + 1)]
            widths = [max(len(text) for text in (head, *cells)) for head, cells in zip(heads, columns, strict=True)]
        for start, end in _parts(widths, width - first_width):
            shown = range(start, end)
            yield _line([" " * first_width, *(heads[at].ljust(widths[at]) for at in shown)])
            for row, label in enumerate(labels):
                yield _line([label.ljust(first_width), *(columns[at][row].ljust(widths[at]) for at in shown)])
            yield ""
        if numbered:
            digits = len(heads[-1])
            for head, scenario in zip(heads, scenarios, strict=True):
                yield f"{head.rjust(digits)}  {_short(scenario, width - digits - 2)}"
            yield ""

    def _remarks(self, width: int) -> Iterator[str]:
        """Yield failures with their evidence, known issues, skipped tests and unavailable images."""
        for outcome in (Outcome.FAILED, Outcome.ERROR, Outcome.KNOWN_ISSUE, Outcome.SKIPPED):
            for entry in self.entries:
                if entry.outcome is not outcome or entry.unavailable:
                    continue
                label = _cell([entry]) if outcome is Outcome.FAILED else outcome.value
                if outcome is Outcome.KNOWN_ISSUE:
                    yield _short(f"{label} {entry.name}:", width)
                    yield _INDENT + (entry.reason or "").removeprefix("known issue: ")
                    continue
                yield from textwrap.wrap(
                    f"{label} {entry.name}: {entry.reason}",
                    width,
                    subsequent_indent=_INDENT,
                    max_lines=REASON_LINES,
                    placeholder="…",
                )
                if outcome is not Outcome.SKIPPED and (evidence := entry.failing_evidence()):
                    yield f"{_INDENT}evidence: {evidence}"
        for image, reason in self.unavailable.items():
            yield from textwrap.wrap(
                f"{image} is unavailable: {reason}",
                width,
                subsequent_indent=_INDENT,
                break_long_words=False,
                break_on_hyphens=False,
            )


def short_names(scenarios: Sequence[str]) -> list[str]:
    """Shorten the names of scenarios: drop their common parts, and keep the file of an ambiguous test name."""
    tests = [scenario.partition("::")[2] for scenario in scenarios]
    return [
        (test if tests.count(test) == 1 else scenario.replace(".py::", "::").removeprefix("test_"))
        .replace("::test_", "::")
        .removeprefix("test_")
        for scenario, test in zip(scenarios, tests, strict=True)
    ]


def _cell(entries: Sequence[MatrixEntry]) -> str:
    """Return the worst outcome and its number of tests; failures include the stage that was reached."""
    if not entries:
        return "-"
    worst = min(entries, key=lambda entry: _WORST_FIRST.index(entry.outcome))
    text = worst.outcome.value
    if worst.outcome is Outcome.FAILED:
        text = f"FAILED ({worst.reached})" if worst.reached else "FAILED"
    if len(entries) > 1:
        text += f" {sum(entry.outcome is worst.outcome for entry in entries)}/{len(entries)}"
    return text


def _parts(widths: Sequence[int], room: int) -> Iterator[tuple[int, int]]:
    """Yield groups of columns that fit next to each other, at least one column each."""
    start, used = 0, 0
    for at, width in enumerate(widths):
        needed = len(_GAP) + width
        if at > start and used + needed > room:
            yield start, at
            start, used = at, 0
        used += needed
    yield start, len(widths)


def _line(cells: Iterable[str]) -> str:
    return _GAP.join(cells).rstrip()


def _short(text: str, width: int) -> str:
    """Shorten a text to one line of at most WIDTH characters."""
    text = " ".join(text.split())
    return text if len(text) <= width else text[: width - 1] + "…"


def _distinct(names: Iterable[str]) -> list[str]:
    """Return each name once, in natural order."""
    return sorted(dict.fromkeys(names), key=_natural)


def _natural(name: str) -> list[tuple[int, str]]:
    """Return a sort key that puts debian-9 before debian-12."""
    parts = ((whole_number(part), part) for part in re.split(r"(\d+)", name))
    return [(-1, part) if number is None else (number, "") for number, part in parts]
