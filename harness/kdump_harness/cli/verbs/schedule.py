"""The verb schedule: drills by a systemd timer or cron."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path

from ...base.errors import (
    EXIT_BROKEN,
    EXIT_FAILED,
    EXIT_HOST,
    EXIT_OK,
    EXIT_UNJUDGED,
    EXIT_USAGE,
    HostError,
    UsageError,
)
from ..options import add_state
from ..parser import Verbs, add_actions, add_verb

# The exit status of several drills is the most urgent one: no other status can be trusted before that is fixed.
_WORST_LAST = (EXIT_OK, EXIT_UNJUDGED, EXIT_FAILED, EXIT_BROKEN, EXIT_HOST, EXIT_USAGE)


def add_schedule(verbs: Verbs) -> None:
    """Add the verb and its actions to the command line."""
    parser = add_verb(
        verbs,
        "schedule",
        "Drill regularly, by a systemd timer or cron, and report changes of the verdict.",
        epilog="examples:\n"
        "  kdump-harness schedule install debian-12 rocky-9 --at 02:30 --metrics /var/lib/node_exporter/kdump.prom\n"
        "  kdump-harness schedule install debian-12 --user --at weekly --hook 'mail -s kdump root'\n"
        "  kdump-harness schedule run debian-12 --options '--level 1'    # what the timer runs, for cron and CI\n",
    )
    actions = add_actions(parser)
    installing = add_verb(actions, "install", "Install and start the timer.", run=install)
    installing.add_argument(
        "--at", default="*-*-* 02:30", metavar="WHEN", help="time of the drills, as OnCalendar of systemd.time(7)"
    )
    installing.add_argument("--delay", default="30min", metavar="SPAN", help="maximum random delay of the start")
    installing.add_argument("--limit", default="12h", metavar="SPAN", help="maximum time of a run")
    installing.add_argument("--print", action="store_true", help="print the units and install nothing")
    asking = add_verb(actions, "status", "Show when the timer runs, and the last results.", run=status)
    removing = add_verb(actions, "remove", "Stop and remove the timer.", run=remove)
    for made in (installing, asking, removing):
        made.add_argument("--name", default="kdump-drill", metavar="NAME", help="name of the units")
        made.add_argument("--user", action="store_true", help="use the user's systemd instead of the system's")
    drilling = add_verb(actions, "run", "Drill now, one image after the other.", run=run)
    for made in (installing, drilling):
        made.add_argument("image", nargs="+", metavar="IMAGE", help="names from the catalogue")
        made.add_argument("--options", default="", metavar="TEXT", help="more options of drill, as one argument")
        made.add_argument(
            "--evidence", type=Path, metavar="DIR", help="directory of the evidence (default: in the state directory)"
        )
        made.add_argument(
            "--history", metavar="FILE", help="file that records the runs (default: in the state directory)"
        )
        made.add_argument("--metrics", type=Path, metavar="FILE", help="textfile to write for Prometheus")
        made.add_argument(
            "--hook", metavar="COMMAND", help="command to run when a verdict changes, with JSON on its standard input"
        )
    for made in (installing, asking, drilling):
        add_state(made)


def install(arguments: argparse.Namespace) -> int:
    from ...base.output import out
    from ...schedule.units import Schedule

    _check(arguments)
    schedule = Schedule(name=arguments.name, user=arguments.user)
    state = _state(arguments)
    units = schedule.render(
        [sys.executable, "-P", "-m", "kdump_harness", "schedule", "run", *_run_arguments(arguments, state)],
        at=arguments.at,
        delay=arguments.delay,
        limit=arguments.limit,
    )
    if arguments.print:
        for name, text in units.items():
            out.print(f"# {name}\n{text}", markup=False, soft_wrap=True)
        return EXIT_OK
    schedule.install(units)
    out.print(f"{', '.join(map(str, schedule.files))}; {arguments.name}.timer is started", markup=False, soft_wrap=True)
    if schedule.user:
        out.print("a user's timers only run while that user is logged in, unless: loginctl enable-linger")
    return EXIT_OK


def _check(arguments: argparse.Namespace) -> None:
    """Raise UsageError for arguments that every run would refuse."""
    from ...images.catalog import load_catalog

    for image in arguments.image:
        load_catalog().find(image)
    try:
        shlex.split(arguments.options)
    except ValueError as error:
        raise UsageError(f"--options {arguments.options!r}: {error}") from None


def _state(arguments: argparse.Namespace) -> Path:
    from ...images.state import default_directory

    return arguments.state.absolute() if arguments.state is not None else default_directory()


def _run_arguments(arguments: argparse.Namespace, state: Path) -> list[str]:
    """Return the arguments of "schedule run" with absolute paths, since a service has another working directory."""
    words = [*arguments.image, "--state", str(state)]
    if arguments.options:
        words.append(f"--options={arguments.options}")
    if arguments.evidence is not None:
        words += ["--evidence", str(arguments.evidence.absolute())]
    if arguments.history is not None:
        words += ["--history", arguments.history if arguments.history == "none" else os.path.abspath(arguments.history)]
    if arguments.metrics is not None:
        words += ["--metrics", str(arguments.metrics.absolute())]
    if arguments.hook is not None:
        words += ["--hook", arguments.hook]
    return words


def run(arguments: argparse.Namespace) -> int:
    from ...base.output import check_output, out
    from ...history.database import History, history_path
    from ...history.metrics import write_metrics
    from ...schedule.running import alone, call_hook, remember, run_drill

    _check(arguments)
    state = _state(arguments)
    options = shlex.split(arguments.options)
    history = history_path(arguments.history, state)
    if arguments.metrics is not None and history is None:
        raise UsageError("--metrics needs a history, but --history none disables it")
    check_output(arguments.metrics)
    evidence = arguments.evidence or state / "evidence"
    places = ["--evidence", str(evidence), "--history", str(history) if history is not None else "none"]
    statuses = []
    with alone(state):
        for image in arguments.image:
            result = run_drill(image, options, state, places=places)
            remember(state, options, result)
            statuses.append(result.status)
            change = f" (before: {result.before})" if result.before not in (None, result.word) else ""
            out.print(f"{image}: {result.word}{change}: {result.said}", markup=False, soft_wrap=True)
            if arguments.hook and result.changed and (trouble := call_hook(arguments.hook, result)):
                out.print(f"{image}: {trouble}", markup=False, soft_wrap=True)
        if arguments.metrics is not None and history is not None:
            with History(history) as found:
                write_metrics(found, arguments.metrics)
    return max(statuses, key=_WORST_LAST.index)


def status(arguments: argparse.Namespace) -> int:
    from ...base.output import out
    from ...history.database import History, history_path, utc
    from ...schedule.running import last_words
    from ...schedule.units import Schedule

    schedule = Schedule(name=arguments.name, user=arguments.user)
    there = all(path.exists() for path in schedule.files)
    told = f"{arguments.name}: {'installed' if there else 'not installed'} in {schedule.directory}"
    out.print(told, markup=False, soft_wrap=True)
    if there:
        try:
            for line in schedule.systemctl(
                "list-timers", "--all", "--no-pager", f"{arguments.name}.timer"
            ).splitlines():
                out.print(line, markup=False, soft_wrap=True)
        except HostError as error:
            out.print(str(error), markup=False, soft_wrap=True)
    state = _state(arguments)
    for job, word in sorted(last_words(state).items()):
        out.print(f"{job}: {word}", markup=False, soft_wrap=True)
    history = history_path(None, state)
    if history is not None and history.exists():
        with History(history, create=False) as found:
            for newest in found.newest(limit=1):
                out.print(f"last recorded: {newest.image}, {utc(newest.at_s)}, {newest.summary}", markup=False)
    return EXIT_OK


def remove(arguments: argparse.Namespace) -> int:
    from ...base.output import out
    from ...schedule.units import Schedule

    schedule = Schedule(name=arguments.name, user=arguments.user)
    out.print(f"{arguments.name}: {'removed' if schedule.remove() else 'was not installed'}")
    return EXIT_OK
