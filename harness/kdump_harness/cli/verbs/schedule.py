"""The verb schedule: drills and audits by a systemd timer or cron."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import os
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

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
from ..options import add_hook, add_state
from ..parser import Verbs, add_actions, add_verb, make_parser
from ..types import span

if TYPE_CHECKING:
    from ...schedule.jobs import Job

EVENTS = ("start", "change", "end", "stale")

# The exit status of several drills is the most urgent one: no other status can be trusted before that is fixed.
_WORST_LAST = (EXIT_OK, EXIT_UNJUDGED, EXIT_FAILED, EXIT_BROKEN, EXIT_HOST, EXIT_USAGE)


def add_schedule(verbs: Verbs, adders: Mapping[str, Callable[[Verbs], None]] = MappingProxyType({})) -> None:
    """Add the verb and its actions to the command line; ADDERS are those of jobs' verbs that lie above this one."""
    parser = add_verb(
        verbs,
        "schedule",
        "Drill or audit regularly, by a systemd timer or cron, and report changes of the outcome.",
        epilog="examples:\n"
        "  kdump-harness schedule install debian-12 rocky-9 --at 02:30 --metrics /var/lib/node_exporter/kdump.prom\n"
        "  kdump-harness schedule install debian-12 --user --at weekly --hook 'mail -s kdump root'\n"
        "  kdump-harness schedule install --domain web1 --job 'drill ./my.qcow2 --family debian --as-is' \\\n"
        "      --job 'kernel trixie-backports' --report /var/www/html/kdump --max-age 3d\n"
        "  kdump-harness schedule install --job 'audit --inventory hosts.ini --metrics audit.prom' --name kdump-audit\n"
        "  kdump-harness schedule run debian-12 --options '--level 1'    # what the timer runs, for cron and CI\n",
    )
    actions = add_actions(parser)
    parser.set_defaults(adders=adders)
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
    drilling = add_verb(actions, "run", "Drill now, one job after the other.", run=run)
    for made in (installing, drilling):
        made.add_argument(
            "image", nargs="*", metavar="IMAGE", help="names from the catalogue, or paths of qcow2 or raw disk images"
        )
        made.add_argument(
            "--domain", action="append", default=[], metavar="NAME", help="libvirt domain to clone (repeatable)"
        )
        made.add_argument(
            "--options",
            default="",
            metavar="TEXT",
            help="more options of drill for each IMAGE and NAME, in one argument",
        )
        made.add_argument(
            "--job",
            action="append",
            default=[],
            metavar="TEXT",
            help="drill or audit with options that differ, as the arguments of the verb drill, kernel or audit"
            " (repeatable)",
        )
        made.add_argument(
            "--evidence", type=Path, metavar="DIR", help="directory of the evidence (default: in the state directory)"
        )
        made.add_argument(
            "--history", metavar="FILE", help="file that records the runs (default: in the state directory)"
        )
        made.add_argument("--metrics", type=Path, metavar="FILE", help="textfile to write for Prometheus")
        made.add_argument(
            "--report",
            type=Path,
            metavar="DIR",
            help="directory for index.html, summary.md and junit.xml of all drills",
        )
        made.add_argument(
            "--max-age", type=span, metavar="SPAN", help="maximum age of the last success of a job, as in 36h or 3d"
        )
        add_hook(
            made,
            EVENTS,
            ("change", "stale"),
            "events that run the hook: start and end of each drill, change of its outcome, and stale (no success within"
            " --max-age) (default: change,stale)",
        )
    for made in (installing, asking, drilling):
        add_state(made)


def install(arguments: argparse.Namespace) -> int:
    from ...base.output import out
    from ...schedule.units import Schedule

    jobs(arguments)
    schedule = Schedule(name=arguments.name, user=arguments.user)
    state = _state(arguments)
    units = schedule.render(
        [sys.executable, "-P", "-m", "kdump_harness", "schedule", "run", *_run_arguments(arguments, state)],
        at=arguments.at,
        delay=arguments.delay,
        limit=arguments.limit,
        directory=Path.cwd() if arguments.job or arguments.options else None,
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


def jobs(arguments: argparse.Namespace) -> list[Job]:
    """Return the jobs of the command line. Raises UsageError for arguments that every run would refuse."""
    from ...schedule.jobs import Job, image_jobs, split_verb

    found = list(image_jobs(arguments.image, arguments.domain, _split("--options", arguments.options)))
    for job in found:
        _subject(job.verb, job.words, arguments.adders)
    for text in arguments.job:
        verb, words = split_verb(_split("--job", text), text)
        found.append(Job(_subject(verb, words, arguments.adders), words, verb))
    if not found:
        raise UsageError("nothing to drill: give an IMAGE, --domain NAME or --job TEXT")
    if doubles := sorted({job.name for job in found if [one.name for one in found].count(job.name) > 1}):
        raise UsageError(f"the job {doubles[0]!r} is given twice")
    return found


def _split(option: str, text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UsageError(f"{option} {text!r}: {error}") from None


def _subject(verb: str, words: Sequence[str], adders: Mapping[str, Callable[[Verbs], None]]) -> str:
    """Return the image, domain, kernel or machines of a job. Raise UsageError for what the verb would refuse."""
    from ...images.catalog import load_catalog
    from ...schedule.jobs import AUDIT, KERNEL

    adder = adders.get(verb) or getattr(importlib.import_module(f".{verb}", __package__), f"add_{verb}")
    parser = make_parser([adder])
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            parsed = parser.parse_args([verb, *words])
    except SystemExit:
        lines = said.getvalue().splitlines() or ["it only prints"]
        raise UsageError(f"{verb} {shlex.join(words)}: {lines[-1].partition('error: ')[2] or lines[-1]}") from None
    if verb == AUDIT:
        machines = [*parsed.hosts, *([str(parsed.inventory)] if parsed.inventory else [])]
        if not machines and not parsed.local:
            raise UsageError(f"{verb} {shlex.join(words)}: no machine is named")
        if parsed.inventory and not parsed.inventory.is_file():
            raise UsageError(f"{verb} {shlex.join(words)}: {parsed.inventory} is not a file")
        return ", ".join(machines) or "local"
    if verb == KERNEL:
        if parsed.matrix is not None or parsed.git_bisect or len(parsed.kernel) != 1:
            raise UsageError(f"{verb} {shlex.join(words)}: a job is one drill of one kernel")
        return str(parsed.kernel[0])
    if parsed.domain is not None:
        return str(parsed.domain)
    if _is_path(parsed.image) or parsed.family is not None:
        from ..subject import subject_of  # needs what drills need

        subject_of(parsed)
    else:
        load_catalog().find(parsed.image)
    return str(parsed.image)


def _is_path(image: str) -> bool:
    return "/" in image or image.endswith((".qcow2", ".img", ".raw"))


def _state(arguments: argparse.Namespace) -> Path:
    from ...images.state import default_directory

    return arguments.state.absolute() if arguments.state is not None else default_directory()


def _run_arguments(arguments: argparse.Namespace, state: Path) -> list[str]:
    """Return the arguments of "schedule run" with absolute paths, since a service has another working directory."""
    words = [os.path.abspath(image) if _is_path(image) else image for image in arguments.image]
    words += ["--state", str(state)]
    for name in ("domain", "job"):
        words += [f"--{name}={text}" for text in getattr(arguments, name)]
    if arguments.options:
        words.append(f"--options={arguments.options}")
    if arguments.history is not None:
        words += ["--history", arguments.history if arguments.history == "none" else os.path.abspath(arguments.history)]
    for name in ("evidence", "metrics", "report"):
        if (path := getattr(arguments, name)) is not None:
            words += [f"--{name}", str(path.absolute())]
    if arguments.max_age is not None:
        words += ["--max-age", f"{arguments.max_age / 60:.0f}min"]
    if arguments.hook is not None:
        words += ["--hook", arguments.hook, "--hook-on", ",".join(arguments.hook_on)]
    return words


def run(arguments: argparse.Namespace) -> int:
    from ...base.output import check_output
    from ...history.database import History, history_path
    from ...history.metrics import write_metrics
    from ...schedule.jobs import AUDIT, VERBS
    from ...schedule.running import alone
    from .report import check_directory, write_pages

    found = jobs(arguments)
    state = _state(arguments)
    history = history_path(arguments.history, state)
    for name in ("metrics", "report"):
        if getattr(arguments, name) is not None and history is None:
            raise UsageError(f"--{name} needs a history, but --history none disables it")
    check_output(arguments.metrics)
    check_directory(arguments.report)
    evidence = arguments.evidence or state / "evidence"
    records = ["--history", str(history) if history is not None else "none"]
    places = {verb: records if verb == AUDIT else ["--evidence", str(evidence), *records] for verb in VERBS}
    with alone(state):
        try:
            statuses = [_run_job(job, arguments, state, places[job.verb]) for job in found]
        finally:  # an interrupted run has results, too
            if history is not None and history.exists():
                with History(history) as past:
                    if arguments.metrics is not None:
                        write_metrics(past, arguments.metrics)
                    if arguments.report is not None:
                        write_pages(past, arguments.report)
    return max(statuses, key=_WORST_LAST.index)


def _run_job(job: Job, arguments: argparse.Namespace, state: Path, places: Sequence[str]) -> int:
    """Run one job, remember and print its outcome, call the hook for each event, and return the exit status."""
    from ...base.output import out
    from ...schedule.hook import run_hook
    from ...schedule.memory import remember
    from ...schedule.running import event_json, run_drill

    def tell(event: str, data: dict[str, Any]) -> None:
        if arguments.hook and event in arguments.hook_on and (trouble := run_hook(arguments.hook, data)):
            out.print(f"{job.name}: {trouble}", markup=False, soft_wrap=True)

    tell("start", event_json("start", job, f"{job.name}: the {job.noun} starts"))
    result = run_drill(job, state, places=places)
    remembered = remember(state, job.name, result.word, wanted_s=arguments.max_age)
    out.print(result.text, markup=False, soft_wrap=True)
    if result.changed:
        tell("change", {"event": "change", **result.to_json()})
    tell("end", {"event": "end", **result.to_json()})
    if late := remembered.overdue(time.time()):
        out.print(f"{job.name}: {late}", markup=False, soft_wrap=True)
        about = {"word": result.word, "success_s": remembered.success_s}
        tell("stale", event_json("stale", job, f"{job.name}: {late}", **about))
    return result.status


def status(arguments: argparse.Namespace) -> int:
    from ...base.output import out
    from ...history.database import History, history_path, utc
    from ...schedule.memory import age, recall
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
    now_s = time.time()
    stale = False
    for job, known in sorted(recall(state).items()):
        when = f", {age(now_s - known.at_s)} ago" if known.at_s else ""
        out.print(f"{job}: {known.word}{when}", markup=False, soft_wrap=True)
        if late := known.overdue(now_s):
            stale = True
            out.print(f"{job}: {late}", markup=False, soft_wrap=True)
    history = history_path(None, state)
    if history is not None and history.exists():
        with History(history, create=False) as found:
            for newest in found.newest(limit=1):
                out.print(f"last recorded: {newest.image}, {utc(newest.at_s)}, {newest.summary}", markup=False)
    return EXIT_FAILED if stale else EXIT_OK


def remove(arguments: argparse.Namespace) -> int:
    from ...base.output import out
    from ...schedule.units import Schedule

    schedule = Schedule(name=arguments.name, user=arguments.user)
    out.print(f"{arguments.name}: {'removed' if schedule.remove() else 'was not installed'}")
    return EXIT_OK
