"""Rendering of a report as HTML, Markdown or JUnit XML."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import jinja2
from markupsafe import Markup

from .. import __version__
from ..base import tables
from ..base.errors import UsageError
from ..base.output import markdown_cell, xml_text
from ..base.units import MIB
from ..history.database import utc, word_of
from .gather import Report, when

FORMATS = {".html": "report.html.j2", ".md": "report.md.j2", ".xml": ""}


def check_format(path: Path) -> None:
    """Raise UsageError if the suffix of PATH is not a format of reports."""
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"{path} is not the name of a report: expected one of {', '.join(FORMATS)}")


def render(report: Report, suffix: str) -> str:
    """Return the text of a report in the format of SUFFIX."""
    template = FORMATS[suffix.lower()]
    if not template:
        return _junit(report)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(tables.package_path("report")),
        autoescape=suffix.lower() == ".html",
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"word": word_of, "when": when, "cell": markdown_cell}
    environment.filters["mib"] = lambda size: f"{size / MIB:,.1f} MiB"
    # The charts are safe: every name and text in them was escaped when they were drawn.
    charts = [Markup(chart) for chart in report.charts]
    return environment.get_template(template).render(report=report, charts=charts, version=__version__)


def _junit(report: Report) -> str:
    """Return JUnit XML with a test suite for each image and a test case for each of its scenarios."""
    root = ET.Element("testsuites", name="kdump-harness")
    for image in report.images:
        cases = [(column, report.cells[image, column]) for column in report.columns if (image, column) in report.cells]
        words = [cell.word for _, cell in cases]
        newest = utc(max(cell.last.at_s for _, cell in cases)).replace(" ", "T")
        suite = ET.SubElement(
            root, "testsuite", name=image, tests=str(len(cases)),
            failures=str(words.count("failed")), errors=str(words.count("not judged")),
            skipped=str(words.count("known issue")), timestamp=newest.removesuffix("Z"),
        )  # fmt: skip
        for column, cell in cases:
            run = cell.last
            took_s = f"{sum(run.figures.get(name, 0.0) for name in ('boot', 'panic_to_login')):.1f}"
            case = ET.SubElement(suite, "testcase", classname=image, name=column, time=took_s)
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
