"""Recorded drills: docs/drilled.toml, written from verdict.json and matrix.json, shown by docs/support.md."""

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
from kdump_harness.drill.checks import Scope, required
from kdump_harness.drill.known_issues import USERLAND

KERNEL = "kernel"  # a kernel drill, without a distribution
# Kinds of guest that a drill ran on, the best first.
HOW = ("image", "guest", "code", KERNEL)
# The kind by the beginning of the line in which a verdict names the source of its disk.
_HOW_BY_DISK = {"downloaded from ": "image", "cached download": "image", "built from ": "guest"}
# A scenario that passes with an unverified drill expected that, so its drills are not recorded.
_RECORDED_OUTCOMES = ("verified", "failed", "known issue")

_HEAD = """\
# Recorded drills, the newest of each kind; the source of docs/support.md.
# Written by `python docs/generate/support_page.py --record FILE...` from verdict.json and matrix.json, not by hand.
"""


@dataclass(frozen=True, kw_only=True)
class Record:
    """One drill."""

    image: str
    family: str
    release: str  # the row of the family's table; of a kernel drill, the kernel as it was asked for
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
    checks: int  # number of checks made
    reached: str
    failed_checks: tuple[str, ...] = ()
    arch: str = "x86_64"  # of the guest, as uname -m prints it
    unmade_checks: tuple[str, ...] = ()  # checks that were required at the time of recording, but not made
    known_issue: str = ""
    stopped_by: str = ""

    @property
    def holds(self) -> bool:
        """Return whether the drill is verified and made every check that was required."""
        return self.verified and not self.unmade_checks

    @property
    def key(self) -> tuple[object, ...]:
        """Return the kind of drill; a newer drill of the same kind replaces this one."""
        return (
            self.family, self.release, self.image, self.how, self.kernel, self.makedumpfile,
            self.firmware, self.trigger, self.target, self.level, self.compress, self.arch,
        )  # fmt: skip


def table_path() -> Path:
    """Return the path of the table."""
    return tables.data_path("docs", "drilled.toml")


def load_records(path: Path | None = None) -> tuple[Record, ...]:
    """Return all records; TableError names file, row and key."""
    path = path or table_path()
    records = tables.load_rows(path, "drill", Record)
    for number, record in enumerate(records, start=1):
        if record.how not in HOW:
            raise TableError(
                f"{path.name}: [[drill]] {number}: how must be one of {', '.join(HOW)}, not {record.how!r}"
            )
    return records


def required_today(how: str) -> Collection[str]:
    """Return the checks that a verified drill of a kind makes today; older verdicts may lack some."""
    return required(Scope.KERNEL if how == KERNEL else Scope.RECOVERED)


def read_result(path: Path, known: Mapping[str, Any]) -> list[Record]:
    """Return the drills of a verdict.json or a matrix.json; UsageError if the file is neither.

    known supplies values that old verdicts lack (how, release, date).
    """
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise UsageError(f"{path} is not JSON: {error}") from None
    if not isinstance(table, dict) or not {"tests", "checks"} & set(table):
        raise UsageError(f"{path} is neither a verdict.json nor a matrix.json")
    tests = table.get("tests", [{"outcome": _RECORDED_OUTCOMES[0], "verdicts": [table]}])
    try:
        verdicts = [verdict for test in tests if test["outcome"] in _RECORDED_OUTCOMES for verdict in test["verdicts"]]
        return [_record(verdict, known, where=path) for verdict in verdicts]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{path} is not a result of kdump-harness ({type(error).__name__}: {error})") from None


def _record(verdict: Mapping[str, Any], known: Mapping[str, Any], *, where: Path) -> Record:
    of_kernel = verdict["family"] == USERLAND
    disk, started = verdict.get("disk") or "", verdict.get("started")
    values: dict[str, Any] = {
        "how": KERNEL
        if of_kernel
        else next((how for start, how in _HOW_BY_DISK.items() if disk.startswith(start)), None),
        "release": verdict.get("kernel_asked") if of_kernel else verdict.get("release"),
        "date": datetime.datetime.fromisoformat(started).date() if started else None,
    }
    for key, value in known.items():
        if value is not None:
            values[key] = value
    for key, value in values.items():
        if value is None:
            raise UsageError(f"{where}: the verdict of {verdict['image']} has no {key}: give it with --{key}")
    made = {check["name"] for check in verdict["checks"]}
    return Record(
        **values,
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
        arch=verdict.get("arch", "x86_64"),
        failed_checks=tuple(check["name"] for check in verdict["checks"] if not check["ok"]),
        # A drill that stopped early made no more checks; its stage shows that.
        unmade_checks=tuple(sorted(set(required_today(values["how"])) - made)) if verdict["verified"] else (),
        known_issue=verdict["known_issue"] or "",
        stopped_by=verdict["stopped_by"] or "",
    )


def merge(old: Iterable[Record], new: Iterable[Record]) -> tuple[Record, ...]:
    """Return the newest drill of each kind; of several new ones of a day the one that failed."""
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
    """Return a value as TOML: JSON's strings, numbers, booleans and arrays are TOML's, except for one character."""
    if isinstance(value, datetime.date):
        return value.isoformat()
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
