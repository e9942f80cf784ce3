"""What the verb report does."""

from __future__ import annotations

import argparse
from pathlib import Path

from ...base.errors import EXIT_OK, UsageError
from ...base.output import check_output, out, write_text
from ...history.database import History, history_path
from ...report.gather import gather
from ...report.render import check_format, render


def report(arguments: argparse.Namespace) -> int:
    paths: list[Path] = arguments.out or [Path("report.html")]
    for path in paths:
        check_format(path)
        check_output(str(path))
    history = history_path(arguments.history, arguments.state)
    if history is None:
        raise UsageError("a history that is none cannot be shown")
    with History(history, create=False) as found:
        if unknown := sorted(set(arguments.image) - set(found.images())):
            raise UsageError(f"nothing was recorded of {unknown[0]!r} (known: {', '.join(found.images()) or 'none'})")
        charts = any(path.suffix.lower() == ".html" for path in paths)
        told = gather(found, images=arguments.image, days=arguments.days, drills=arguments.drills, charts=charts)
    for path in paths:
        write_text(str(path), render(told, path.suffix))
        out.print(f"{path}: {len(told.cells)} scenarios on images, {len(told.drills)} drills", markup=False)
    return EXIT_OK
