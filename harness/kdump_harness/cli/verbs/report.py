"""The verb report: past drills as one page."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ...base.errors import EXIT_OK, UsageError
from ..options import add_state
from ..parser import Verbs, add_verb
from ..types import count

if TYPE_CHECKING:
    from ...history.database import History

DRILLS = 30  # shown in full, unless the user chooses another number
PAGES = ("index.html", "summary.md", "junit.xml")  # of a schedule


def add_report(verbs: Verbs) -> None:
    """Add the verb to the command line."""
    parser = add_verb(
        verbs,
        "report",
        "Write past drills as one self-contained page: what works where, since when, and what became worse.",
        run=report,
        epilog="examples:\n  kdump-harness report\n"
        "  kdump-harness report --out kdump.html --out summary.md --out junit.xml 'debian-12' rocky-9",
    )
    parser.add_argument("image", nargs="*", metavar="IMAGE", help="names of images (default: all)")
    parser.add_argument(
        "--out",
        type=Path,
        action="append",
        metavar="FILE",
        help="file to write: .html, .md or JUnit .xml; repeatable (default: report.html)",
    )
    parser.add_argument(
        "--history", metavar="FILE", help="history to read (default: history.sqlite in the state directory)"
    )
    add_state(parser)
    parser.add_argument("--days", type=count(most=99_999), metavar="N", help="maximum age of the runs in days")
    parser.add_argument(
        "--drills", type=count(most=99_999), default=DRILLS, metavar="N", help="number of drills to show in full"
    )


def report(arguments: argparse.Namespace) -> int:
    from ...base.extras import install_command, is_installed
    from ...base.output import check_output, out, write_text
    from ...base.progress import err
    from ...history.database import History, history_path
    from ...report.gather import gather
    from ...report.render import check_format, render

    paths: list[Path] = arguments.out or [Path("report.html")]
    for path in paths:
        check_format(path)
        check_output(str(path))
    history = history_path(arguments.history, arguments.state)
    if history is None:
        raise UsageError("nothing to show: --history none disables recording (give the path of a history)")
    with History(history, create=False) as found:
        if unknown := sorted(set(arguments.image) - set(found.images())):
            raise UsageError(f"nothing was recorded of {unknown[0]!r} (known: {', '.join(found.images()) or 'none'})")
        charts = any(path.suffix.lower() == ".html" for path in paths)
        if charts and not is_installed("matplotlib"):
            charts = False
            command = install_command("plots")
            err.print(
                f"the page has no charts of sweeps: matplotlib is not installed ({command})",
                markup=False,
                soft_wrap=True,
            )
        gathered = gather(found, images=arguments.image, days=arguments.days, drills=arguments.drills, charts=charts)
    for path in paths:
        write_text(str(path), render(gathered, path.suffix, directory=path.parent))
        out.print(f"{path}: {len(gathered.cells)} scenarios on images, {len(gathered.drills)} drills", markup=False)
    return EXIT_OK


def check_directory(directory: Path | None) -> None:
    """Make the directory of scheduled pages. Raises UsageError if no page can be written there."""
    from ...base.output import check_output

    if directory is None:
        return
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{directory} cannot be made: {error.strerror}") from None
    for name in PAGES:
        check_output(directory / name)


def write_pages(history: History, directory: Path) -> None:
    """Replace the pages of a directory, each as a whole: they may be read at any time."""
    from ...base.extras import is_installed
    from ...base.output import replace_text
    from ...report.gather import gather
    from ...report.render import render

    gathered = gather(history, images=(), days=None, drills=DRILLS, charts=is_installed("matplotlib"))
    for name in PAGES:
        replace_text(directory / name, render(gathered, Path(name).suffix, directory=directory))
