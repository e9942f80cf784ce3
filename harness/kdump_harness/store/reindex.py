"""Rebuild the index of a store from the directories of its dumps."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base import foreign
from ..base.errors import HostError, UsageError
from ..base.sqlite import on_read_only_disk
from .index import Dump, Index
from .intake.copying import sha256_of
from .store import INDEX, RECORD, VMCORE, Store, default_store

_MAX_RECORD_BYTES = 1 << 20
_IDENTITY = re.compile(r"[0-9a-f]{12}")
# Only a person can know better, so the dump stays until one says so.
_HOLD = "its record was lost with the index, and whether it was held (store hold ID --release)"


@dataclass(frozen=True, kw_only=True)
class Row:
    """The result for a directory without a row; id is None where the dump has none now either."""

    directory: Path
    id: str | None
    outcome: str

    def to_json(self) -> dict[str, Any]:
        """Return the record in the form of JSON."""
        return {**dataclasses.asdict(self), "directory": str(self.directory)}


def reindex(directory: Path | None, *, debuginfo: Path | None = None, state: Path | None = None) -> Iterator[Row]:
    """Give each dump without a row its row again; a damaged index is set aside first, and not removed."""
    place = (directory or default_store()).absolute()
    if not (place / "dumps").is_dir():
        raise UsageError(f"{place} has no store (store add or store watch makes one)")
    if on_read_only_disk(place):
        raise HostError(
            f"the index of {place} cannot be rebuilt: its disk is read-only (repair it, and mount it with rw)"
        )
    with contextlib.suppress(OSError):
        if (owner := place.stat().st_uid) != os.geteuid():
            raise HostError(f"the store {place} belongs to user {owner}: run as that user")
    _set_damaged_aside(place / INDEX)
    with Store(place, debuginfo=debuginfo, state=state) as store:
        known = {dump.id for dump in store.index.dumps()}
        missing = [path for path in store.dumps.iterdir() if path.name not in known and (path / VMCORE).is_file()]
        for path in sorted(missing, key=lambda path: (path / VMCORE).stat().st_mtime):
            yield _restore(store, path)


def _set_damaged_aside(path: Path) -> None:
    """Make an empty index where none can be read."""
    try:
        Index(path).check()
    except UsageError as error:
        if "newer kdump-harness" in str(error):
            raise
        stamp = time.strftime("%Y%m%d%H%M%S", time.gmtime())
        for suffix in ("", "-journal"):
            with contextlib.suppress(FileNotFoundError):
                os.rename(f"{path}{suffix}", f"{path}.damaged-{stamp}{suffix}")
        Index(path).database.close()


def _restore(store: Store, path: Path) -> Row:
    """Put the row of one directory into the index."""
    if not _IDENTITY.fullmatch(path.name):
        return Row(directory=path, id=None, outcome="not a directory of a dump, by its name; it stays as it is")
    try:
        sha256 = sha256_of(path / VMCORE)
    except OSError as error:
        return Row(directory=path, id=None, outcome=f"its dump cannot be read ({error.strerror})")
    if not sha256.startswith(path.name):
        return Row(directory=path, id=None, outcome=f"its dump has changed since it came: its checksum is {sha256}")
    dump, traits = _recorded(path, sha256) or store.describe_again(path, sha256, hold=_HOLD)
    with store.index.database.writing():
        store.index.put(dump, traits)
    outcome = "its row is there again" + (f"; held: {dump.hold}" if dump.hold else "")
    return Row(directory=path, id=dump.id, outcome=outcome)


def _recorded(path: Path, sha256: str) -> tuple[Dump, Mapping[str, str]] | None:
    """Return the row as it was recorded next to the dump, if that can be believed."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
        with (path / RECORD).open("rb") as file:
            record = foreign.parse_object(file.read(_MAX_RECORD_BYTES))
        dump = Dump(**record["dump"])
        traits = {str(name): str(value) for name, value in record["traits"].items()}
        if (dump.id, dump.sha256) == (path.name, sha256):
            return dump, traits
    return None
