"""SQLite files that several processes write to: opened, brought up to date, their errors reported as sentences."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .errors import HostError, UsageError

_WAIT_S = 60.0  # for another process that writes
_ROOM_BYTES = 1 << 17  # of the journal, a few times what one transaction needs


class Database:
    """One file; every write is a transaction that is there as a whole or not at all, also after kill -9."""

    def __init__(
        self, path: Path, *, application: int, migrations: Sequence[str], mode: int = 0o600, remedy: str = ""
    ) -> None:
        """Open or create the file and apply the migrations that it has not seen; there is one per version.

        remedy is the advice for a damaged file. application distinguishes the databases of the harness. Raise
        UsageError for another or newer file.
        """
        self.path, self._remedy = path, f"; {remedy}" if remedy else ""
        self.read_only = on_read_only_disk(path.parent)
        with contextlib.ExitStack() as stack, self._reported_errors():
            if self.read_only:
                path = stack.enter_context(_copied(path))
            else:
                _make(path, mode)
            self._connection = sqlite3.connect(path, timeout=_WAIT_S, isolation_level=None)
            self._connection.row_factory = sqlite3.Row
            try:
                self._prepare(application, migrations)
            except BaseException:
                self._connection.close()
                raise

    def _prepare(self, application: int, migrations: Sequence[str]) -> None:
        self._connection.execute("BEGIN")  # another process may be making it: all of it is seen, or nothing
        found, version = self._pragma("application_id"), self._pragma("user_version")
        strange = found != application and (found or self._pragma("schema_version"))
        self._connection.execute("COMMIT")
        if strange:
            raise UsageError(f"{self.path} is a database of another kind")
        if version > len(migrations):
            raise UsageError(f"{self.path} was written by a newer kdump-harness")
        # Not WAL, which makes files even for reading: on a full disk or a read-only one nothing could be looked at.
        self._connection.execute("PRAGMA journal_mode = PERSIST")
        self._connection.execute("PRAGMA foreign_keys = ON")
        if found == application and version == len(migrations):
            return
        with self._transaction():  # asked again inside: another process may have been quicker
            before = self._pragma("user_version")
            for version in range(before, len(migrations)):
                for statement in filter(str.strip, migrations[version].split(";")):
                    self._connection.execute(statement)
                self._connection.execute(f"PRAGMA user_version = {version + 1}")
            self._connection.execute(f"PRAGMA application_id = {application}")
        if before == 0 and not self.read_only:
            self._make_room()

    def _make_room(self) -> None:
        """Let the journal become large enough that what removes something also works on a full disk."""
        for statement in (
            f"CREATE TABLE room AS SELECT zeroblob({_ROOM_BYTES}) AS bytes",
            "UPDATE room SET bytes = randomblob(length(bytes))",  # what was there before goes to the journal
            "DROP TABLE room",
        ):
            with self.writing():
                self._connection.execute(statement)

    def _pragma(self, name: str) -> int:
        return int(self._connection.execute(f"PRAGMA {name}").fetchone()[0])

    def writing(self) -> contextlib.AbstractContextManager[None]:
        """No other process writes within the block; what it wrote is undone when it ends with an exception."""
        if self.read_only:
            raise HostError(f"{self.path} cannot be changed: its disk is read-only (repair it, and mount it with rw)")
        return self._transaction()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._reported_errors():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def rows(self, query: str, *values: Any) -> list[sqlite3.Row]:
        """All rows that a query gives."""
        with self._reported_errors():
            return self._connection.execute(query, values).fetchall()

    def run(self, statement: str, *values: Any) -> int:
        """How many rows a statement changed."""
        with self._reported_errors():
            return self._connection.execute(statement, values).rowcount

    def run_many(self, statement: str, values: Sequence[Sequence[Any]]) -> None:
        """One statement for many rows."""
        with self._reported_errors():
            self._connection.executemany(statement, values)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    @contextlib.contextmanager
    def _reported_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", None) in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
                raise UsageError(f"{self.path} is not a database, or is damaged ({error}){self._remedy}") from None
            raise HostError(f"{self.path}: {error}") from None


def on_read_only_disk(directory: Path) -> bool:
    """Return whether the directory exists, on a filesystem that is mounted read-only."""
    try:
        return bool(os.statvfs(directory).f_flag & os.ST_RDONLY)
    except OSError:
        return False


@contextlib.contextmanager
def _copied(path: Path) -> Iterator[Path]:
    """Copy a database of a read-only disk: there, SQLite cannot undo what a dead process left in the journal."""
    with tempfile.TemporaryDirectory(prefix="kdump-harness-") as directory:
        copy = Path(directory) / path.name
        try:
            for suffix in ("", "-journal"):
                with contextlib.suppress(FileNotFoundError):
                    shutil.copyfile(f"{path}{suffix}", f"{copy}{suffix}")
        except OSError as error:
            raise HostError(f"{path} cannot be read: {error.strerror}") from None
        yield copy


def _make(path: Path, mode: int) -> None:
    """Create an empty file unless it exists: SQLite would choose the mode, also for its files next to it."""
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, mode)
    except FileExistsError:
        return
    except OSError as error:
        raise HostError(f"{path} cannot be made: {error.strerror}") from None
    os.fchmod(descriptor, mode)
    os.close(descriptor)
