"""The options of the verb report; light, since every --help reads them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_report(verbs: Any, formatter: Any) -> None:
    """Add the verb to the command line."""
    text = "Past drills as one self-contained page: what works where, since when, what became worse."
    parser = verbs.add_parser(
        "report", help=text, description=text, formatter_class=formatter,
        epilog="examples:\n  kdump-harness report\n"
        "  kdump-harness report --out kdump.html --out summary.md --out junit.xml 'debian-12' rocky-9",
    )  # fmt: skip
    parser.set_defaults(verb="report", module="cli.verbs.report")
    parser.add_argument("image", nargs="*", metavar="IMAGE", help="names (default: all)")
    parser.add_argument(
        "--out",
        type=Path,
        action="append",
        metavar="FILE",
        help="as .html, .md or JUnit .xml; repeatable (report.html)",
    )
    parser.add_argument("--history", metavar="FILE", help="the runs (default: history.sqlite in the state)")
    parser.add_argument("--state", type=Path, metavar="DIR", help="where the state is kept")
    parser.add_argument("--days", type=_count, metavar="N", help="no older runs")
    parser.add_argument("--drills", type=_count, default=30, metavar="N", help="how many are told in full")


def _count(text: str) -> int:
    if not (text.isdecimal() and 0 < len(text) < 6):
        raise argparse.ArgumentTypeError(f"{text} is no count")
    return int(text)
