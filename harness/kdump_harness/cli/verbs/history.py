"""The verb history: past runs, and trends of their figures."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...base.errors import EXIT_FAILED, EXIT_OK, UsageError
from ..options import HISTORY_HELP, add_json, add_state
from ..parser import Verbs, add_verb
from ..types import count

if TYPE_CHECKING:
    from rich.text import Text

    from ...history.database import History, RecordedRun
    from ...history.figures import Figure


def add_history(verbs: Verbs) -> None:
    """Add the verb to the command line."""
    parser = add_verb(
        verbs,
        "history",
        "List past runs, and whether drills become slower, larger or hungrier.",
        run=history,
        epilog="examples:\n  kdump-harness history debian-12\n  kdump-harness history --trend panic_to_login\n"
        "  kdump-harness history --import evidence/    # verdict.json, sweep.json and matrix.json below it\n"
        "  kdump-harness history --prune --keep 100 --dry-run",
    )
    number = count(most=9_999_999)
    parser.add_argument("image", nargs="*", metavar="IMAGE", help="names of images (default: all)")
    parser.add_argument("--history", metavar="FILE", help=HISTORY_HELP)
    add_state(parser)
    action = parser.add_mutually_exclusive_group()
    action.add_argument(
        "--trend", metavar="NAME", help="show one figure by image and kernel (panic_to_login, dump_size, ...)"
    )
    action.add_argument(
        "--import",
        dest="bring",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="record results of past runs; each is recorded once",
    )
    action.add_argument(
        "--prune", action="store_true", help="forget runs by --keep and --days; the last success of each image stays"
    )
    action.add_argument(
        "--metrics", type=Path, metavar="FILE", help="write the last drills as a textfile for Prometheus"
    )
    parser.add_argument("--last", type=number, default=30, metavar="N", help="number of runs to list")
    parser.add_argument("--keep", type=number, metavar="N", help="newest runs per image and kind that --prune keeps")
    parser.add_argument("--days", type=number, metavar="N", help="age in days up to which --prune keeps runs")
    parser.add_argument("--dry-run", action="store_true", help="only report what --prune would forget")
    add_json(parser)


def history(arguments: argparse.Namespace) -> int:
    from ...base.output import check_output
    from ...history.database import History, history_path
    from ...history.figures import find_figure
    from ...history.importing import result_files
    from ...history.metrics import write_metrics

    path = history_path(arguments.history, arguments.state)
    if path is None:
        raise UsageError("nothing to show: --history none disables recording (give the path of a history)")
    files = [file for place in arguments.bring or () for file in result_files(place)]
    check_output(arguments.json, not_over=[path, *files])
    check_output(arguments.metrics, not_over=[path])
    if not arguments.prune and (arguments.keep is not None or arguments.days is not None or arguments.dry_run):
        raise UsageError("--keep, --days and --dry-run need --prune")
    figure = find_figure(arguments.trend) if arguments.trend else None
    with History(path, create=bool(arguments.bring)) as found:
        if arguments.bring:
            return _import(found, files, arguments.json)
        if unknown := sorted(set(arguments.image) - set(found.images())):
            known = ", ".join(found.images()) or "none"
            raise UsageError(f"nothing was recorded of {unknown[0]!r} (known: {known})")
        if arguments.prune:
            return _prune(found, arguments)
        if arguments.metrics is not None:
            write_metrics(found, arguments.metrics)
            return EXIT_OK
        if figure is not None:
            return _trend(found, arguments.image, figure, arguments.json)
        return _list(found, arguments)


def _list(found: History, arguments: argparse.Namespace) -> int:
    from ...base.output import out, write_json
    from ...history.trend import regressions

    runs = found.newest(images=arguments.image, limit=arguments.last)
    worse = {run.number: regressions(found, run) for run in runs if run.ok}
    rows = [{**run.to_json(), "worse": [one.to_json() for one in worse.get(run.number, [])]} for run in runs]
    write_json(arguments.json, rows)
    if arguments.json != "-":
        width = max((len(run.system) for run in runs), default=0)
        for run in runs:
            out.print(_line(run, width), soft_wrap=True)
            for one in worse.get(run.number, []):
                _say(f"  {one.text}", "yellow")
        if not runs:
            _say("nothing was recorded yet")
    return EXIT_OK


def _say(text: str, style: str = "") -> None:
    from ...base.output import out, printable

    out.print(printable(text), style=style, markup=False, soft_wrap=True)


def _line(run: RecordedRun, width: int) -> Text:
    from rich.text import Text

    from ...base.output import printable
    from ...history.database import utc

    colour = "green" if run.ok else "yellow" if run.known_issue else "red"
    took = f", panic to login {run.figures['panic_to_login']:.0f} s" if "panic_to_login" in run.figures else ""
    what = f"{utc(run.at_s)}  {run.system:<{width}}  {run.kind}  {run.kernel or 'unknown'}  "
    return Text.assemble(printable(what), (printable(run.summary + took), colour))


def _trend(found: History, images: Sequence[str], figure: Figure, json_to: str | None) -> int:
    """Print each series of comparable drills, by kernel in the order of the drills."""
    from ...base.output import write_json

    runs = found.measured(figure.name, images=images)
    rows = [_series(found, figure, list(series)) for _, series in groupby(runs, key=lambda run: run.series)]
    write_json(json_to, {"figure": figure.name, "unit": figure.unit, "series": rows})
    if json_to != "-":
        _show_trend(figure, rows)
    return EXIT_FAILED if any(row["worse"] for row in rows) else EXIT_OK


def _series(found: History, figure: Figure, runs: list[RecordedRun]) -> dict[str, Any]:
    from ...history.database import conditions
    from ...history.trend import find

    worse = find(figure, runs)
    return {
        "image": runs[0].system,
        "conditions": conditions(found.result(runs[-1])),
        "kernels": [_of_kernel(figure, kernel, list(some)) for kernel, some in groupby(runs, lambda run: run.kernel)],
        "worse": worse.to_json() if worse else None,
    }


def _of_kernel(figure: Figure, kernel: str | None, runs: list[RecordedRun]) -> dict[str, Any]:
    import statistics

    from ...history.database import utc

    values = [run.figures[figure.name] for run in runs]
    return {
        "kernel": kernel,
        "drills": len(runs),
        "median": statistics.median(values),
        "least": min(values),
        "most": max(values),
        "first": utc(runs[0].at_s),
        "last": utc(runs[-1].at_s),
    }


def _show_trend(figure: Figure, rows: Sequence[dict[str, Any]]) -> None:
    for row in rows:
        _say(f"{row['image']} {row['conditions']}: {figure.label}", "bold")
        _say("\n".join(_of_one_kernel(figure, one) for one in row["kernels"]))
        if row["worse"]:
            _say(f"  {row['worse']['text']}", "red")
    if not rows:
        _say(f"no verified drill has a value for {figure.name}")


def _of_one_kernel(figure: Figure, one: dict[str, Any]) -> str:
    span = f"{figure.text(one['least'])} to {figure.text(one['most'])}"
    return f"  {one['kernel']}: {figure.text(one['median'])} ({one['drills']} drills, {span}, last {one['last']})"


def _import(found: History, files: Sequence[Path], json_to: str | None) -> int:
    from ...base.output import out, write_json
    from ...history.importing import import_file

    added = known = 0
    refused: list[str] = []
    for file in files:
        try:
            more_added, more_known = import_file(found, file)
        except UsageError as error:
            if len(files) == 1:
                raise
            refused.append(str(error))  # the others may be good
            continue
        added, known = added + more_added, known + more_known
    write_json(json_to, {"added": added, "known": known, "refused": refused})
    if json_to != "-":
        out.print(f"{added} recorded, {known} were known")
    if refused:
        more = f"; and {len(refused) - 1} more files" if len(refused) > 1 else ""
        raise UsageError(f"{refused[0]}{more}")
    return EXIT_OK


def _prune(found: History, arguments: argparse.Namespace) -> int:
    from ...base.output import out, write_json

    if arguments.keep is None and arguments.days is None:
        raise UsageError("--prune needs --keep N or --days N")
    gone = found.prune(keep=arguments.keep, days=arguments.days, dry_run=arguments.dry_run)
    write_json(arguments.json, {"dry_run": arguments.dry_run, "forgotten": [run.to_json() for run in gone]})
    if arguments.json != "-":
        doing = "would forget" if arguments.dry_run else "forgot"
        out.print(f"{doing} {len(gone)} runs")
    return EXIT_OK
