"""What was really drilled: docs/drilled.toml, filled from verdict.json and matrix.json, told by docs/support.md."""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdump_harness.base import tables
from kdump_harness.base.errors import TableError, UsageError

# What a drill ran on, the best first.
HOW = ("image", "guest", "code")
# Where a verdict says that its disk came from, by the beginning of the line.
_HOW_BY_DISK = {"downloaded from ": "image", "cached download": "image", "built from ": "guest"}
# A scenario that passes with a drill that is not verified wanted it so.
_TELLING_OUTCOMES = ("verified", "failed", "known issue")

_HEAD = """\
# What was really drilled, the newest drill of each kind; docs/support.md is made of it.
# Written by `python docs/generate/support_page.py --record FILE...` from verdict.json and matrix.json, not by hand.
"""


@dataclass(frozen=True, kw_only=True)
class Record:
    """One drill."""

    image: str
    family: str
    release: str  # the row of the family's table
    how: str  # one of HOW
    kernel: str
    makedumpfile: str
    accelerator: str
    firmware: str
    date: datetime.date
    trigger: str
    target: str
    level: int
    compress: str
    verified: bool
    checks: int  # how many were made
    reached: str
    failed_checks: tuple[str, ...] = ()
    unmade_checks: tuple[str, ...] = ()  # required when it was recorded, but not made by the drill
    known_issue: str = ""
    stopped_by: str = ""

    @property
    def holds(self) -> bool:
        """Whether it is verified by today's measure."""
        return self.verified and not self.unmade_checks

    @property
    def key(self) -> tuple[object, ...]:
        """What a newer drill replaces."""
        return (
            self.family, self.release, self.image, self.how, self.kernel, self.makedumpfile,
            self.firmware, self.trigger, self.target, self.level, self.compress,
        )  # fmt: skip


def table_path() -> Path:
    """Where the records are."""
    return tables.data_path("docs", "drilled.toml")


def load_records(path: Path | None = None) -> tuple[Record, ...]:
    """All records; TableError names file, row and key."""
    path = path or table_path()
    records = tables.load_rows(path, "drill", Record)
    for number, record in enumerate(records, start=1):
        if record.how not in HOW:
            raise TableError(
                f"{path.name}: [[drill]] {number}: how must be one of {', '.join(HOW)}, not {record.how!r}"
            )
    return records


def read_result(path: Path, known: Mapping[str, Any], required: Collection[str]) -> list[Record]:
    """The drills of a verdict.json or a matrix.json; known has what it does not tell itself (how, release, date).

    required are the checks that a verified drill has today; older verdicts may lack some.
    """
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise UsageError(f"{path} is not JSON: {error}") from None
    if not isinstance(table, dict) or not {"tests", "checks"} & set(table):
        raise UsageError(f"{path} is neither a verdict.json nor a matrix.json")
    tests = table.get("tests", [{"outcome": _TELLING_OUTCOMES[0], "verdicts": [table]}])
    try:
        verdicts = [verdict for test in tests if test["outcome"] in _TELLING_OUTCOMES for verdict in test["verdicts"]]
        return [_record(verdict, known, required, where=path) for verdict in verdicts]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{path} is no result of ours ({type(error).__name__}: {error})") from None


def _record(verdict: Mapping[str, Any], known: Mapping[str, Any], required: Collection[str], *, where: Path) -> Record:
    disk, started = verdict.get("disk") or "", verdict.get("started")
    told: dict[str, Any] = {
        "how": next((how for start, how in _HOW_BY_DISK.items() if disk.startswith(start)), None),
        "release": verdict.get("release"),
        "date": datetime.datetime.fromisoformat(started).date() if started else None,
    }
    for key, value in known.items():
        if value is not None:
            told[key] = value
    for key, value in told.items():
        if value is None:
            raise UsageError(f"{where}: the verdict of {verdict['image']} does not tell its {key}: say --{key}")
    made = {check["name"] for check in verdict["checks"]}
    return Record(
        **told,
        image=verdict["image"],
        family=verdict["family"],
        kernel=verdict["kernel"] or "unknown",
        makedumpfile=verdict["makedumpfile"] or "none",
        accelerator=verdict["accelerator"],
        firmware=verdict["firmware"],
        trigger=verdict["trigger"],
        target=verdict["target"],
        level=verdict["level"] or 0,
        compress=verdict["compress"] or "none",
        verified=verdict["verified"],
        checks=len(verdict["checks"]),
        reached=verdict["reached"],
        failed_checks=tuple(check["name"] for check in verdict["checks"] if not check["ok"]),
        # A drill that stopped on its way made no more checks, and says so by the stage.
        unmade_checks=tuple(sorted(set(required) - made)) if verdict["verified"] else (),
        known_issue=verdict["known_issue"] or "",
        stopped_by=verdict["stopped_by"] or "",
    )


def merge(old: Iterable[Record], new: Iterable[Record]) -> tuple[Record, ...]:
    """The newest drill of each kind; of several new ones of a kind the one that failed, unless it is older."""
    found = {record.key: record for record in old}
    fresh: dict[tuple[object, ...], Record] = {}
    for record in new:
        other = fresh.get(record.key)
        if other is None or (record.date, not record.holds) >= (other.date, not other.holds):
            fresh[record.key] = record
    for key, record in fresh.items():
        if key not in found or record.date >= found[key].date:
            found[key] = record
    return tuple(sorted(found.values(), key=lambda one: (one.family, one.image, one.release, one.date, str(one.key))))


def write_records(records: Iterable[Record], path: Path | None = None) -> None:
    """Replace the table."""
    text = _HEAD + "".join(f"\n[[drill]]\n{_row(record)}" for record in records)
    (path or table_path()).write_text(text, encoding="utf-8")


def _row(record: Record) -> str:
    fields = [one for one in dataclasses.fields(record) if getattr(record, one.name) != one.default]
    width = max(len(one.name) for one in fields)
    return "".join(f"{one.name:{width}} = {_toml(getattr(record, one.name))}\n" for one in fields)


def _toml(value: object) -> str:
    """JSON's strings, numbers, booleans and arrays are TOML's, but for one control character."""
    if isinstance(value, datetime.date):
        return value.isoformat()
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
