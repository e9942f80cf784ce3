"""The output of a verb: tables for people, JSON for scripts."""

from __future__ import annotations

import functools
import os
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from rich.markup import escape
from rich.table import Table

from . import foreign
from .errors import UsageError
from .progress import QuietConsole

Sample = tuple[str, dict[str, str], float]  # of a metric: name, labels, value

# Rich takes a pipe or a file for 80 columns wide, and would fold the tables of every log; COLUMNS has the last word.
_LOG_COLUMNS = 160
_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})  # of a label's value in metrics
out = QuietConsole(highlight=False, emoji=False)
if not out.is_terminal and not os.environ.get("COLUMNS", "").isdigit():
    out.width = _LOG_COLUMNS


def printable(text: str) -> str:
    """Return the text without control characters of a terminal, which XML does not allow either."""
    return "".join(char if char.isprintable() or char in "\n\t" else "�" for char in text)


def markdown_cell(text: object) -> str:
    """Escape a text for a cell of a Markdown table, so that neither Markdown nor HTML interprets it."""
    line = printable(" ".join(str(text).split()))
    for character in "\\`*_[]<>|#":
        line = line.replace(character, f"\\{character}")
    return line


def xml_text(root: ElementTree.Element) -> str:
    """Return the document without the characters that XML does not allow in attributes."""
    for element in root.iter():
        element.attrib = {name: printable(value) for name, value in element.attrib.items()}
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def print_table(columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    """Make a table whose last column wraps into as many lines as it needs."""
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(
            column, overflow="fold" if column == columns[-1] else "ellipsis", no_wrap=column != columns[-1]
        )
    for row in rows:
        table.add_row(*(escape(str(row[column])) for column in columns))
    out.print(table)


def write_json(to: str | None, data: Any) -> None:
    """Write data as JSON to a file, to standard output (-), or nowhere (None)."""
    if to is not None:
        write_text(to, foreign.dump_json(data, indent=1) + "\n")


def check_output(to: str | Path | None, *, not_over: Sequence[str | Path] = ()) -> None:
    """UsageError, before any work is done, for a place where the result cannot go."""
    if to in (None, "-"):
        return
    path = Path(to)
    if path.exists() and any(Path(source).exists() and path.samefile(source) for source in not_over):
        raise UsageError(f"{to} is what is read; the result needs another place")
    fresh = not path.exists()
    try:
        path.open("a").close()  # asking for permission is not enough: /proc says yes and means no
        if fresh:
            path.unlink()
    except OSError as error:
        raise UsageError(f"{to} cannot be written: {error.strerror}") from None


def write_text(to: str, text: str) -> None:
    """Write a text to a file or to standard output (-); UsageError when it cannot be."""
    if to == "-":
        sys.stdout.write(text)
        return
    try:
        Path(to).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{to} cannot be written: {error.strerror}") from None


def replace_text(path: Path, text: str) -> None:
    """Replace a file as a whole, readable for all users. Raise UsageError if it cannot be written."""
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from None


def format_metrics(texts: Mapping[str, str], samples: Iterable[Sample]) -> str:
    """Return metrics for Prometheus, a group of lines for each one that has samples; TEXTS explain them by name."""
    found: dict[str, list[str]] = {name: [] for name in texts}
    for name, labels, value in samples:
        found[name].append(f"{name}{_labels(labels)} {value:.15g}")
    lines = []
    for name, rows in found.items():
        if rows:
            lines += [f"# HELP {name} {texts[name]}", f"# TYPE {name} gauge", *rows]
    return "".join(line + "\n" for line in lines)


def _labels(labels: Mapping[str, str]) -> str:
    pairs = ",".join([f'{name}="{_escaped(value)}"' for name, value in labels.items()])
    return f"{{{pairs}}}" if pairs else ""


@functools.lru_cache(maxsize=4096)
def _escaped(value: str) -> str:
    """Escape the value of a label; series share most of their values."""
    return value.translate(_ESCAPES)
