"""Own tables: those of the project, of the user and of the host, merged with those of the package by name.

A table is a TOML file with rows of any kind in KINDS. A family is a file families/NAME.toml next to it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from ..base import tables
from ..base.errors import TableError

PROJECT_FILE = "kdump-harness.toml"
PROJECT_DIRECTORY = "kdump-harness.d"
HOST_DIRECTORY = Path("/etc/kdump-harness")
KINDS = ("budget", "image", "issue", "shape", "symptom", "trigger")
OPTIONS = "defaults"  # the table of default values of options
_FAMILIES = "families"
_NAME = "kdump-harness"

_project: Path | None = None


@dataclass(frozen=True)
class OwnTable:
    """An own table, as it was read."""

    path: Path
    text: str
    section: str = ""  # of pyproject.toml

    def content(self) -> dict[str, Any]:
        """Return the parsed table. Raise TableError for a key that is not known."""
        table = _parsed(self.text, self.path.name)
        for name in self.section.split("."):
            table = table.get(name, {}) if name else table
        known = (*KINDS, OPTIONS)
        if unknown := sorted(set(table) - set(known)):
            raise TableError(f"{self.path}: unknown {unknown[0]} (known: {', '.join(known)})")
        return table


class Named(Protocol):
    """A row of a table."""

    @property
    def name(self) -> str:
        """The name, by which rows replace others."""
        ...


Row = TypeVar("Row", bound=Named)


@dataclass(frozen=True)
class Merged(Generic[Row]):
    """The good rows of all tables by name, and the errors of the others."""

    rows: Mapping[str, Row]
    faults: Mapping[str, TableError]

    def check(self, name: str) -> None:
        """Raise the error of a row."""
        if name in self.faults:
            raise self.faults[name]


def use_project(directory: Path | None) -> None:
    """Read the tables of a project from this directory; None is the one that the process works in."""
    global _project
    _project = directory


def directories() -> tuple[Path, ...]:
    """Return the directories of tables of the user and of the host."""
    if sys.platform == "linux":  # the library's import would take longer than what some verbs do
        home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
        return home / _NAME, HOST_DIRECTORY
    import platformdirs

    return platformdirs.user_config_path(_NAME), HOST_DIRECTORY


def own_tables() -> tuple[OwnTable, ...]:
    """Return the tables that exist, those of the project first: an earlier row replaces later ones of its name."""
    project = _project or Path.cwd()
    found = [(project / PROJECT_FILE, "")]
    if not found[0][0].is_file():
        found = [(project / "pyproject.toml", "tool.kdump-harness")]
    for directory in directories():
        found += [(path, "") for path in sorted(directory.glob("*.toml"))]
    read = (OwnTable(path, tables.read_text(path), section) for path, section in found if path.is_file())
    return tuple(table for table in read if not table.section or table.section in table.text)


def family_files() -> Mapping[str, Path]:
    """Return the files of all families by name."""
    places = [(_project or Path.cwd()) / PROJECT_DIRECTORY, *directories(), tables.package_path("distro")]
    files = [path for place in reversed(places) for path in sorted((place / _FAMILIES).glob("*.toml"))]
    return {path.stem: path for path in files}


def family_lineage(name: str) -> tuple[str, ...]:
    """Return the name of a family, and that of the family which its file builds on."""
    path = family_files().get(name)
    if path is None or path.is_relative_to(tables.package_path()):
        return (name,)
    with contextlib.suppress(TableError):
        if isinstance(like := tables.load_toml(path).get("like"), str):
            return (name, like)
    return (name,)


def family_names() -> tuple[str, ...]:
    """Return the names of all families."""
    return tuple(sorted(family_files()))


def own_rows(kind: str) -> Iterator[tuple[OwnTable, str, Any]]:
    """Yield table, label and content of each own row of a kind, which may be of any type."""
    for table in own_tables():
        rows = table.content().get(kind, [])
        if not isinstance(rows, list):
            raise TableError(f"{table.path}: {kind} must be an array of tables, [[{kind}]]")
        for number, row in enumerate(rows, start=1):
            yield table, str(row.get("name", number)) if isinstance(row, dict) else str(number), row


def merged(kind: str, cls: type[Row], ours: Sequence[Row], fault: Callable[[Row], str | None]) -> Merged[Row]:
    """Return the rows of the package with those of the user, each of which replaces one of its name.

    fault returns the error of a row, starting with the key. The first row of a name counts; in one file it is an error.
    """
    rows, faults = {row.name: row for row in ours}, {}
    seen: dict[str, Path] = {}
    for table, label, content in own_rows(kind):
        where = f"{table.path}: [[{kind}]] {label}"
        if label in seen and seen[label] != table.path:
            continue
        try:
            row = tables.build(content, cls, where=where)
            why = "name is not unique" if label in seen else fault(row)
            if why:
                raise TableError(f"{where}: {why}")
            rows[row.name] = row
        except TableError as error:
            faults[label] = error
        seen[label] = table.path
    return Merged({name: row for name, row in rows.items() if name not in faults}, faults)


def own_defaults(verb: str) -> Iterator[tuple[OwnTable, str, str, Any]]:
    """Yield table, place, option and value of each default, the ones that count last."""
    for table in reversed(own_tables()):
        values = table.content().get(OPTIONS, {})
        if not isinstance(values, dict):
            raise TableError(f"{table.path}: {OPTIONS} must be a table, [{OPTIONS}]")
        of_verb = values.get(verb, {})
        for name, value in values.items():
            if not isinstance(value, dict):
                yield table, f"[{OPTIONS}]", name, value
        for name, value in of_verb.items() if isinstance(of_verb, dict) else ():
            yield table, f"[{OPTIONS}.{verb}]", name, value


@functools.lru_cache(maxsize=16)
def _parsed(text: str, name: str) -> dict[str, Any]:
    return tables.parse(text, name)
