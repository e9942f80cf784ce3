"""The verb audit: judge the kdump of real machines without a crash."""

from __future__ import annotations

import argparse
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..base.errors import UsageError
from ..cli.options import add_json, add_state
from ..cli.parser import Verbs, add_verb
from ..cli.types import count, seconds

if TYPE_CHECKING:
    from .asking.inventory import Host
    from .result import Audit, HostAudit

_SIDE_BY_SIDE_MAX = 512
_LINE_MAX = 300
_ABOUT = """Read the kdump of real machines, over SSH, and judge it without a crash.

Nothing is changed on a machine. Each one is ready, at risk, or will fail; each reason has its evidence and a remedy.
"""
_EXAMPLES = """examples:
  kdump-harness audit web1 root@db1:2222
  kdump-harness audit --inventory hosts.ini --json audit.json
  kdump-harness audit --local
"""


def add_audit(verbs: Verbs) -> None:
    """Add the verb to the command line."""
    parser = add_verb(
        verbs,
        "audit",
        "Judge the kdump of real machines, without a crash.",
        run=audit,
        about=_ABOUT,
        epilog=_EXAMPLES,
    )
    which = parser.add_argument_group("machines")
    which.add_argument(
        "hosts", nargs="*", metavar="HOST", help="machine as [USER@]HOST[:PORT], or a name of ssh's configuration"
    )
    which.add_argument(
        "--inventory",
        type=Path,
        metavar="FILE",
        help="file with machines: one a line, an Ansible inventory, or the JSON of ansible-inventory --list",
    )
    which.add_argument("--local", action="store_true", help="audit this machine, too")
    how = parser.add_argument_group("connection")
    how.add_argument(
        "--ssh", default="ssh", metavar="COMMAND", help="ssh program with its options, as in 'ssh -F FILE'"
    )
    how.add_argument(
        "--side-by-side",
        type=count(least=1, most=_SIDE_BY_SIDE_MAX),
        default=32,
        metavar="N",
        help="number of machines that are asked at the same time",
    )
    how.add_argument(
        "--timeout",
        type=seconds(least=5, most=3600),
        default=90,
        metavar="SECONDS",
        help="time for the answers of one machine",
    )
    add_json(parser)
    parser.add_argument(
        "--before",
        type=Path,
        metavar="FILE",
        help="JSON of an earlier audit; print what changed since (default: the last one in the history)",
    )
    parser.add_argument("--metrics", type=Path, metavar="FILE", help="write the answers as a textfile for Prometheus")
    parser.add_argument("--quiet", action="store_true", help="print no line when a machine is done")
    parser.add_argument(
        "--history",
        metavar="FILE",
        help="file that records the audits, with past drills, which are found by machine id (default: history.sqlite"
        " in the state directory; none reads and records nothing)",
    )
    parser.add_argument(
        "--store",
        type=Path,
        metavar="DIR",
        help="store whose dumps are found by host name (default: KDUMP_HARNESS_STORE, else in the state directory)",
    )
    add_state(parser)


def audit(arguments: argparse.Namespace) -> int:
    from ..base.output import check_output, replace_text, write_json
    from ..history.database import history_path
    from .changes import read_earlier, with_changes
    from .past import last_audits, read_past, remember
    from .result import metrics
    from .run import Options
    from .run import audit as run_audit

    read = [arguments.inventory] if arguments.inventory else []
    check_output(arguments.json, not_over=read)
    check_output(arguments.metrics, not_over=[*read, *([arguments.before] if arguments.before else [])])
    earlier = read_earlier(arguments.before) if arguments.before else None
    hosts = _hosts(arguments)
    options = Options(ssh=program(arguments.ssh), timeout_s=arguments.timeout, side_by_side=arguments.side_by_side)
    count_done = iter(range(1, len(hosts) + 1))

    def say(host: HostAudit) -> None:
        if not arguments.quiet:
            headline = f": {host.headline}" if host.headline else ""
            line = f"{next(count_done)}/{len(hosts)} {host.host}: {host.answer}{headline}"
            sys.stderr.write(f"{line[:_LINE_MAX]}\n")

    past = read_past(arguments.history, arguments.state, arguments.store)
    before = last_audits(arguments.history, arguments.state) if earlier is None else {}
    result = run_audit(hosts, options, past=past, on_host=say)
    if earlier is not None:
        result = replace(result, hosts=tuple(with_changes(host, earlier.get(host.host)) for host in result.hosts))
    else:
        changed = (with_changes(host, before[host.host]) if host.host in before else host for host in result.hosts)
        result = replace(result, hosts=tuple(changed))
    remember(history_path(arguments.history, arguments.state), result, log=_log)
    write_json(arguments.json, result.to_json())
    if arguments.metrics is not None:
        replace_text(arguments.metrics, metrics(result))
    if arguments.json != "-":
        print_audit(result)
    return result.exit_status


def _log(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _hosts(arguments: argparse.Namespace) -> list[Host]:
    """Return the machines that the arguments name. Raise UsageError without any."""
    from .asking.inventory import LOCAL, Host, distinct, named, read_inventory

    hosts = [named(text) for text in arguments.hosts]
    if arguments.inventory:
        hosts += read_inventory(arguments.inventory)
    if arguments.local:
        hosts.append(Host(name=LOCAL, local=True))
    if not hosts:
        raise UsageError("audit needs a machine: name hosts, --inventory FILE or --local")
    return distinct(hosts)


def command_words(option: str, text: str) -> list[str]:
    """Return the words of an option's command; UsageError for a text that is not one."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UsageError(f"{option} {text!r} is not a command: {error}") from None


def program(text: str) -> tuple[str, ...]:
    """Return the words of --ssh; UsageError for a text that is not a command, or empty."""
    words = tuple(command_words("--ssh", text))
    if not words:
        raise UsageError("--ssh is empty: expected a command such as 'ssh -F FILE'")
    return words


def print_audit(result: Audit) -> None:
    """Print a line for each machine, and its reasons with their remedies."""
    from rich.markup import escape

    from ..base.output import out, print_table
    from .result import Answer, Severity

    colors = {Answer.READY: "green", Answer.AT_RISK: "yellow", Answer.WILL_FAIL: "red", Answer.NOT_AUDITED: "magenta"}
    marks = {Severity.FAILURE: "NO", Severity.RISK: "--", Severity.NOTE: "  "}
    if len(result.hosts) > 1:
        rows = [
            {
                "machine": host.host,
                "answer": str(host.answer),
                "kernel": host.facts.get("kernel", ""),
                "reserved": _reserved(host),
                "first reason": host.headline,
            }
            for host in result.hosts
        ]
        print_table(("machine", "answer", "kernel", "reserved", "first reason"), rows)
    for host in result.hosts:
        reported = host.changes or any(reason.severity is not Severity.NOTE for reason in host.reasons)
        if len(result.hosts) > 1 and not reported:
            continue
        color = colors[host.answer]
        out.print(
            f"\n[bold]{escape(host.host)}[/]  [{color}]{host.answer.upper()}[/] {escape(host.why)}", soft_wrap=True
        )
        if host.facts:
            out.print(escape(_in_words(host)), soft_wrap=True)
        for change in host.changes:
            out.print(f"  since the earlier audit: {escape(change)}", soft_wrap=True)
        for reason in host.reasons:
            out.print(f"{marks[reason.severity]}  {escape(reason.name)}: {escape(reason.evidence)}", soft_wrap=True)
            if reason.severity is not Severity.NOTE:
                out.print(f"      {escape(reason.meaning)}", soft_wrap=True)
                out.print(f"      → {escape(reason.remedy)}", soft_wrap=True)
    answers = [host.answer for host in result.hosts]
    counts = ", ".join(f"{answers.count(kind)} {kind}" for kind in Answer if kind in answers)
    out.print(
        f"\n{len(result.hosts)} machines in {result.took_s:.1f} s: {counts}" if len(answers) > 1 else "", soft_wrap=True
    )


def _reserved(host: HostAudit) -> str:
    from ..kdump.reserved_memory import in_words

    return in_words(host.facts["reserved"]) if host.facts else ""


def _in_words(host: HostAudit) -> str:
    """Return the facts of a machine in one line."""
    facts = host.facts
    room = "" if facts["free_mib"] is None else f", {facts['free_mib']:,} MiB free"
    return (
        f"  {facts['system']}; kernel {facts['kernel']}; makedumpfile {facts['makedumpfile'] or 'missing'};"
        f" {facts['memory_mib']} MiB, {_reserved(host)} reserved; level {facts['level']}, {facts['compress']};"
        f" to {facts['place']}{room}"
    )
