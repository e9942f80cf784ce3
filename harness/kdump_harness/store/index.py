"""The index of a store: one row for each dump, its traits, and the results of arrivals."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ..base.errors import UsageError
from ..base.sqlite import Database
from ..vmcore.inspection import UNJUDGED

_APPLICATION = 0x4B445354  # "KDST"
_MIGRATIONS = (
    """
    CREATE TABLE dump (
        id TEXT PRIMARY KEY, sha256 TEXT NOT NULL UNIQUE, size_bytes INTEGER NOT NULL, disk_bytes INTEGER NOT NULL,
        added_s REAL NOT NULL, origin TEXT NOT NULL, sender TEXT NOT NULL, host TEXT NOT NULL, state TEXT NOT NULL,
        kernel TEXT, build_id TEXT, crash_s INTEGER, uptime_s REAL, panic TEXT, task TEXT,
        signature TEXT, signature_text TEXT, hold TEXT, central TEXT, pushed_s REAL, remark TEXT
    );
    CREATE INDEX dump_by_host ON dump (host, added_s);
    CREATE INDEX dump_by_signature ON dump (signature);
    CREATE TABLE trait (
        dump TEXT NOT NULL REFERENCES dump (id) ON DELETE CASCADE, name TEXT NOT NULL, value TEXT NOT NULL,
        PRIMARY KEY (dump, name)
    ) WITHOUT ROWID;
    CREATE TABLE arrival (
        path TEXT PRIMARY KEY, mark TEXT NOT NULL, outcome TEXT NOT NULL, reason TEXT NOT NULL, dump TEXT,
        at_s REAL NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE removal (
        id TEXT NOT NULL, host TEXT NOT NULL, size_bytes INTEGER NOT NULL, why TEXT NOT NULL, at_s REAL NOT NULL
    )
    """,
    """
    CREATE TABLE clock (
        name TEXT PRIMARY KEY, wall_s REAL NOT NULL, up_s REAL NOT NULL, boot TEXT NOT NULL
    ) WITHOUT ROWID
    """,
)

_MOST_ARRIVALS = 100_000

# The states of a dump; on request, one that is DAMAGED or UNJUDGED is taken as well.
TRIAGED = "triaged"
UNTRIAGED = "untriaged"  # whole, but the triage came to no end


@dataclass(frozen=True, kw_only=True)
class Dump:
    """A dump of the store; facts that it does not have are None."""

    id: str
    sha256: str
    size_bytes: int
    disk_bytes: int
    added_s: float
    origin: str
    sender: str  # the directory that it came in
    host: str
    state: str
    kernel: str | None = None
    build_id: str | None = None
    crash_s: int | None = None
    uptime_s: float | None = None
    panic: str | None = None
    task: str | None = None
    signature: str | None = None
    signature_text: str | None = None
    hold: str | None = None
    central: str | None = None  # where a verified copy is
    pushed_s: float | None = None
    remark: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the record in the form of JSON."""
        return asdict(self)


_COLUMNS = tuple(field.name for field in fields(Dump))


class Index:
    """The database of a store."""

    def __init__(self, path: Path) -> None:
        self.database = Database(
            path,
            application=_APPLICATION,
            migrations=_MIGRATIONS,
            remedy="store reindex sets it aside, and makes a new one from the dumps",
        )

    def check(self) -> None:
        """Read the whole index, and close it. Raise UsageError when it is damaged."""
        try:
            found = self.database.rows("PRAGMA quick_check(1)")[0][0]
            if found != "ok":
                raise UsageError(f"{self.database.path} is damaged ({found})")
            self.dumps()
        finally:
            self.database.close()

    def put(self, dump: Dump, traits: Mapping[str, str]) -> None:
        """Add a dump or replace what is known of it."""
        columns, holes = ", ".join(_COLUMNS), ", ".join("?" * len(_COLUMNS))
        changes = ", ".join(f"{column} = excluded.{column}" for column in _COLUMNS if column != "id")
        self.database.run(
            f"INSERT INTO dump ({columns}) VALUES ({holes}) ON CONFLICT (id) DO UPDATE SET {changes}",
            *(getattr(dump, column) for column in _COLUMNS),
        )
        self.database.run("DELETE FROM trait WHERE dump = ?", dump.id)
        self.database.run_many("INSERT INTO trait VALUES (?, ?, ?)", [(dump.id, *pair) for pair in traits.items()])

    def by_content(self, sha256: str) -> Dump | None:
        """Return the dump with just these bytes."""
        return next(iter(self._dumps("WHERE sha256 = ?", sha256)), None)

    def by_id(self, identity: str) -> Dump | None:
        """Return the dump of this name."""
        return next(iter(self._dumps("WHERE id = ?", identity)), None)

    def removed(self) -> list[str]:
        """Return the names of dumps that were removed and did not come back."""
        rows = self.database.rows("SELECT DISTINCT id FROM removal WHERE id NOT IN (SELECT id FROM dump)")
        return [row["id"] for row in rows]

    def find(self, wanted: str) -> Dump:
        """Return a dump by its id or the beginning of its id. Raise UsageError unless exactly one fits."""
        found = self._dumps("WHERE substr(id, 1, ?) = ? ORDER BY id LIMIT 2", len(wanted), wanted) if wanted else []
        if len(found) != 1:
            raise UsageError(
                f"{wanted!r} is the beginning of several dumps' ids" if found else f"the store has no dump {wanted!r}"
            )
        return found[0]

    def dumps(self) -> list[Dump]:
        """Return all dumps, the one that arrived last first, in spite of what the clock said."""
        return self._dumps("ORDER BY rowid DESC")

    def _dumps(self, where: str, *values: Any) -> list[Dump]:
        rows = self.database.rows(f"SELECT {', '.join(_COLUMNS)} FROM dump {where}", *values)
        return [_dump(row) for row in rows]

    def traits(self) -> dict[str, dict[str, str]]:
        """Return name and value of every trait, by dump."""
        found: dict[str, dict[str, str]] = {}
        for row in self.database.rows("SELECT dump, name, value FROM trait"):
            found.setdefault(row["dump"], {})[row["name"]] = row["value"]
        return found

    def traits_of(self, identity: str) -> dict[str, str]:
        """Return the traits of one dump."""
        return dict(map(tuple, self.database.rows("SELECT name, value FROM trait WHERE dump = ?", identity)))

    def with_trait(self, name: str, value: str) -> list[Dump]:
        """Return the dumps that have this trait."""
        return self._dumps("WHERE id IN (SELECT dump FROM trait WHERE name = ? AND value = ?)", name, value)

    def count_of(self, host: str) -> int:
        """Return how many dumps of a host there are."""
        return int(self.database.rows("SELECT count(*) FROM dump WHERE host = ?", host)[0][0])

    def total_bytes(self) -> int:
        """Return the bytes that the dumps occupy on the disk."""
        return int(self.database.rows("SELECT coalesce(sum(disk_bytes), 0) FROM dump")[0][0])

    def remove(self, dump: Dump, *, why: str, at_s: float) -> None:
        """Forget a dump, and remember that it was there."""
        self.database.run("DELETE FROM dump WHERE id = ?", dump.id)
        self.database.run("INSERT INTO removal VALUES (?, ?, ?, ?, ?)", dump.id, dump.host, dump.disk_bytes, why, at_s)

    def note_arrival(self, path: str, mark: str, *, outcome: str, reason: str, dump: str | None, at_s: float) -> None:
        """Note the result of an arrival; mark shows whether the file is still the same one."""
        self.database.run(
            "INSERT OR REPLACE INTO arrival VALUES (?, ?, ?, ?, ?, ?)", path, mark, outcome, reason, dump, at_s
        )

    def clock(self) -> list[sqlite3.Row]:
        """Return the readings of the clock that were kept."""
        return self.database.rows("SELECT * FROM clock")

    def note_clock(self, name: str, *, wall_s: float, up_s: float, boot: str) -> None:
        """Keep a reading of the clock under a name; a believed one ends the doubt."""
        self.database.run("INSERT OR REPLACE INTO clock VALUES (?, ?, ?, ?)", name, wall_s, up_s, boot)
        if name == "believed":
            self.database.run("DELETE FROM clock WHERE name = 'doubted'")

    def forget_arrivals(self) -> None:
        """Keep the newest results only, because a sender can make any number of files."""
        newest = "SELECT path FROM arrival ORDER BY at_s DESC LIMIT ?"
        self.database.run(f"DELETE FROM arrival WHERE path NOT IN ({newest})", _MOST_ARRIVALS)

    def arrival(self, path: str, mark: str) -> sqlite3.Row | None:
        """Return the earlier result for this very file."""
        rows = self.database.rows("SELECT * FROM arrival WHERE path = ? AND mark = ?", path, mark)
        return rows[0] if rows else None

    def refused(self) -> list[dict[str, Any]]:
        """Return the files that were refused or not judged, the newest first."""
        rows = self.database.rows(
            "SELECT path, outcome, reason, at_s FROM arrival WHERE outcome IN ('refused', ?)"
            " ORDER BY at_s DESC LIMIT 1000",
            UNJUDGED,
        )
        return [dict(row) for row in rows]


def _dump(row: sqlite3.Row) -> Dump:
    return Dump(**dict(row))
