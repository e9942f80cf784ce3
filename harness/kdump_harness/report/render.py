"""Rendering of a report as HTML, Markdown or JUnit XML."""

from __future__ import annotations

import os
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
from markupsafe import Markup, escape

from .. import __version__
from ..base import tables
from ..base.errors import UsageError
from ..base.output import markdown_cell, xml_text
from ..base.units import MIB
from ..history.database import utc, word_of
from .gather import Report, when

FORMATS = {".html": "report.html.j2", ".md": "report.md.j2", ".xml": ""}


_MAIN_FILES = ("console.log", "verdict.json", "panic.txt", "commands.log")  # of a drill's evidence


def check_format(path: Path) -> None:
    """Raise UsageError if the suffix of PATH is not a format of reports."""
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"{path} is not the name of a report: expected one of {', '.join(FORMATS)}")


def render(report: Report, suffix: str, *, directory: Path | None = None) -> str:
    """Return the text of a report in the format of SUFFIX, with links that are relative to DIRECTORY."""
    template = FORMATS[suffix.lower()]
    if not template:
        return _junit(report)
    # The charts are safe: every name and text in them was escaped when they were drawn.
    charts = [Markup(chart) for chart in report.charts]
    return render_page(template, directory=directory, report=report, charts=charts)


def render_page(template: str, *, directory: Path | None, **values: Any) -> str:
    """Return the text of a page in HTML or Markdown, with links that are relative to DIRECTORY."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(tables.package_path("report")),
        autoescape=".html" in template,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"word": word_of, "when": when, "iso": _iso, "cell": markdown_cell}
    environment.filters["mib"] = lambda size: f"{size / MIB:,.1f} MiB"
    environment.filters["breakable"] = lambda text: escape(text).replace("_", Markup("_<wbr>"))
    environment.filters["breakable_text"] = lambda text: text.replace("_", "_\u200b")
    environment.filters["links"] = lambda place: _links(place, directory or Path())
    return environment.get_template(template).render(**values, version=__version__)


def _iso(seconds: float) -> str:
    return utc(seconds).replace(" ", "T")


def _links(place: str, directory: Path) -> list[tuple[str, str]]:
    """Return the evidence that exists, as names and relative addresses: the directory and its main files."""
    if not place:
        return []
    try:
        top = Path(place)
        paths = [top, *(top / name for name in _MAIN_FILES if (top / name).is_file())] if top.is_dir() else []
    except (OSError, ValueError):  # a name of another system
        return []
    found = [("directory", f"{_address(paths[0], directory)}/")] if paths else []
    return found + [(path.name, _address(path, directory)) for path in paths[1:]]


def _address(path: Path, directory: Path) -> str:
    return quote(os.path.relpath(path, directory.absolute()), errors="surrogateescape")


def _junit(report: Report) -> str:
    """Return JUnit XML with a test suite for each image and a test case for each of its scenarios."""
    root = ET.Element("testsuites", name="kdump-harness")
    for system in report.systems:
        cases = [
            (column, report.cells[system, column]) for column in report.columns if (system, column) in report.cells
        ]
        words = [cell.word for _, cell in cases]
        newest = utc(max(cell.last.at_s for _, cell in cases)).replace(" ", "T")
        suite = ET.SubElement(
            root, "testsuite", name=system, tests=str(len(cases)),
            failures=str(words.count("failed")), errors=str(words.count("not judged")),
            skipped=str(words.count("known issue")), timestamp=newest.removesuffix("Z"),
        )  # fmt: skip
        for column, cell in cases:
            run = cell.last
            took_s = f"{sum(run.figures.get(name, 0.0) for name in ('boot', 'panic_to_login')):.1f}"
            case = ET.SubElement(suite, "testcase", classname=system, name=column, time=took_s)
            properties = ET.SubElement(case, "properties")
            values = {
                "kernel": run.kernel,
                "evidence": run.evidence,
                "last_worked": when(cell.worked.at_s) if cell.worked else "",
            }
            for name, value in values.items():
                ET.SubElement(properties, "property", name=name, value=value or "")
            if cell.word == "failed":
                ET.SubElement(case, "failure", message=run.summary)
            elif cell.word == "not judged":
                ET.SubElement(case, "error", message=run.summary)
            elif cell.word == "known issue":
                ET.SubElement(case, "skipped", message=f"known issue {run.known_issue}: {run.summary}")
    return xml_text(root)
