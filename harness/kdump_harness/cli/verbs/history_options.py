"""The options of the verb history; light, since every --help reads them."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

HISTORY_HELP = "where runs are recorded (default: history.sqlite in the state; none records nothing)"


def add_history(verbs: Any, add_json: Callable[[Any], None], formatter: Any) -> None:
    """Add the verb to the command line."""
    text = "Past drills and sweeps, and whether they become slower, larger or hungrier."
    parser = verbs.add_parser(
        "history", help=text, description=text, formatter_class=formatter,
        epilog="examples:\n  kdump-harness history debian-12\n  kdump-harness history --trend panic_to_login\n"
        "  kdump-harness history --import evidence/    # verdict.json, sweep.json and matrix.json below it\n"
        "  kdump-harness history --prune --keep 100 --dry-run",
    )  # fmt: skip
    parser.set_defaults(verb="history", module="cli.verbs.history")
    parser.add_argument("image", nargs="*", metavar="IMAGE", help="names (default: all)")
    parser.add_argument("--history", metavar="FILE", help=HISTORY_HELP)
    parser.add_argument("--state", type=Path, metavar="DIR", help="where the state is kept")
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--trend", metavar="NAME", help="how a figure went, by image and kernel (panic_to_login, dump_size)"
    )
    what.add_argument(
        "--import", dest="bring", type=Path, nargs="+", metavar="FILE", help="record what past drills left, each once"
    )
    what.add_argument("--prune", action="store_true", help="forget runs by --keep and --days; the last success stays")
    what.add_argument("--metrics", type=Path, metavar="FILE", help="write the last drills as a textfile for Prometheus")
    parser.add_argument("--last", type=_count, default=30, metavar="N", help="how many runs are listed")
    parser.add_argument("--keep", type=_count, metavar="N", help="--prune: the newest of each image and kind")
    parser.add_argument("--days", type=_count, metavar="N", help="--prune: no older ones")
    parser.add_argument("--dry-run", action="store_true", help="--prune: only say what would go")
    add_json(parser)


def _count(text: str) -> int:
    if not (text.isdecimal() and 0 < len(text) < 8):
        raise argparse.ArgumentTypeError(f"{text} is no count")
    return int(text)
