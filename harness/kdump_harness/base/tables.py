"""Reads TOML tables into frozen dataclasses and refuses bad keys by file and name."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import tomllib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from .errors import TableError

T = TypeVar("T")

_PACKAGE = Path(__file__).resolve().parents[1]


def data_path(*parts: str) -> Path:
    """Find a data file: in the package when installed, at the top of the clone otherwise.

    images/ and scenarios/ lie next to the package in a clone and inside it in a wheel.
    """
    installed = _PACKAGE.joinpath("data", *parts)
    return installed if installed.exists() else _PACKAGE.parents[1].joinpath(*parts)


def package_path(*parts: str) -> Path:
    """Find a data file that lies in the package itself."""
    return _PACKAGE.joinpath(*parts)


def load_toml(path: Path) -> dict[str, Any]:
    """Parse the file; raise TableError when it cannot be read or parsed."""
    return parse(read_text(path), path.name)


def read_text(path: Path) -> str:
    """Read a table; raise TableError when it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise TableError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise TableError(f"{path.name}: not valid TOML: {error}") from None


def parse(text: str, name: str) -> dict[str, Any]:
    """Parse a table; raise TableError when it is not valid TOML."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise TableError(f"{name}: not valid TOML: {error}") from None


def load(path: Path, cls: type[T]) -> T:
    """One dataclass from a whole file."""
    return build(load_toml(path), cls, where=path.name)


def load_rows(path: Path, key: str, cls: type[T]) -> tuple[T, ...]:
    """Make the dataclasses of an array of tables [[key]]; an error names file, row and key."""
    rows: tuple[T, ...] = _rows(read_text(path), path.name, key, typing.cast(Any, cls))
    return rows


@functools.lru_cache(maxsize=16)
def _rows(text: str, name: str, key: str, cls: type[Any]) -> tuple[Any, ...]:
    """Build the rows once for each text: a campaign reads some tables at each of its drills."""
    table = parse(text, name)
    unknown = sorted(set(table) - {key})
    if unknown:
        raise TableError(f"{name}: unknown {unknown[0]} (known: {key})")
    rows = table.get(key, [])
    if not isinstance(rows, list):
        raise TableError(f"{name}: {key} must be an array of tables, [[{key}]]")
    built = []
    for number, row in enumerate(rows, start=1):
        label = row.get("name", number) if isinstance(row, dict) else number
        built.append(build(row, cls, where=f"{name}: [[{key}]] {label}"))
    return tuple(built)


def build(table: Any, cls: type[T], *, where: str) -> T:
    """Make a frozen dataclass of a parsed table; missing, unknown and ill-typed keys are TableErrors."""
    if not isinstance(table, dict):
        raise TableError(f"{where}: must be a table")
    assert dataclasses.is_dataclass(cls)
    hints = _hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    unknown = sorted(set(table) - set(fields))
    if unknown:
        raise TableError(f"{where}: unknown {unknown[0]} (known: {', '.join(sorted(fields))})")
    values: dict[str, Any] = {}
    for name, field in fields.items():
        if name in table:
            values[name] = _convert(table[name], hints[name], where=where, key=name)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise TableError(f"{where}: missing {name}")
    return cls(**values)


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    """Return the annotations of a dataclass, kept because working them out takes long."""
    return typing.get_type_hints(cls)


def _convert(value: Any, hint: Any, *, where: str, key: str) -> Any:
    """Convert the value to the annotated type; tuples and dicts are converted element by element."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return _convert(
            value, next(arm for arm in typing.get_args(hint) if arm is not type(None)), where=where, key=key
        )
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return build(value, hint, where=f"{where}: [{key}]")
    if origin is tuple:
        if not isinstance(value, list):
            raise TableError(f"{where}: {key} must be a list, not {value!r}")
        element = typing.get_args(hint)[0]
        return tuple(_convert(item, element, where=where, key=key) for item in value)
    if origin in (dict, Mapping):
        if not isinstance(value, dict):
            raise TableError(f"{where}: {key} must be a table, not {value!r}")
        element = typing.get_args(hint)[1]
        return {name: _convert(item, element, where=f"{where}: [{key}]", key=name) for name, item in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is Any or (isinstance(value, hint) and not (hint is int and isinstance(value, bool))):
        return value
    wanted = {str: "a string", int: "a whole number", float: "a number", bool: "true or false", datetime.date: "a date"}
    raise TableError(f"{where}: {key} must be {wanted.get(hint, str(hint))}, not {value!r}")
