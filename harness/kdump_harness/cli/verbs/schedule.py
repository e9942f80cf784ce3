"""What each action of the verb schedule does."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path

from ...base.errors import EXIT_BROKEN, EXIT_FAILED, EXIT_HOST, EXIT_OK, EXIT_USAGE, HostError, UsageError
from ...base.output import check_output, out
from ...history.database import History, history_path, utc
from ...history.metrics import write_metrics
from ...images.catalog import load_catalog
from ...images.state import default_directory
from ...schedule.running import alone, call_hook, last_words, remember, run_drill
from ...schedule.units import Schedule

# Of several drills the exit status is the one that needs somebody first: nothing else can be trusted before that.
_WORST_LAST = (EXIT_OK, EXIT_FAILED, EXIT_BROKEN, EXIT_HOST, EXIT_USAGE)


def install(arguments: argparse.Namespace) -> int:
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
    """UsageError for what no run could do."""
    for image in arguments.image:
        load_catalog().find(image)
    try:
        shlex.split(arguments.options)
    except ValueError as error:
        raise UsageError(f"--options {arguments.options!r}: {error}") from None


def _state(arguments: argparse.Namespace) -> Path:
    return arguments.state.absolute() if arguments.state is not None else default_directory()


def _run_arguments(arguments: argparse.Namespace, state: Path) -> list[str]:
    """The words behind "schedule run", with absolute paths, since a service runs elsewhere."""
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
    _check(arguments)
    state = _state(arguments)
    options = shlex.split(arguments.options)
    history = history_path(arguments.history, state)
    if arguments.metrics is not None and history is None:
        raise UsageError("--metrics are made of the history, which is none")
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
    schedule = Schedule(name=arguments.name, user=arguments.user)
    out.print(f"{arguments.name}: {'removed' if schedule.remove() else 'was not installed'}")
    return EXIT_OK
