"""The verb doctor: check this host."""

from __future__ import annotations

import argparse

from ...base.errors import EXIT_HOST, EXIT_OK
from ..options import add_host, add_json
from ..parser import Verbs, add_verb


def add_doctor(verbs: Verbs) -> None:
    """Add the verb to the command line."""
    parser = add_verb(verbs, "doctor", "Check this host, and print the command that fixes each problem.", run=doctor)
    add_host(parser)
    parser.add_argument(
        "--fix",
        action="store_true",
        help="first install the packages that this host lacks, start libvirt and make the state directory (by sudo)",
    )
    add_json(parser)


def doctor(arguments: argparse.Namespace) -> int:
    from rich.markup import escape

    from ...base.output import out, write_json
    from ...vm.host_check import examine, set_up

    if arguments.fix:
        set_up()
    findings = examine(uri=arguments.uri, state_directory=arguments.state, remote_state=arguments.remote_state)
    write_json(
        arguments.json, {"fit": all(f.ok or f.optional for f in findings), "findings": [vars(f) for f in findings]}
    )
    if arguments.json != "-":
        for finding in findings:
            mark = "[green]ok[/]" if finding.ok else "[yellow]--[/]" if finding.optional else "[red]NO[/]"
            remedy = f"  → {finding.remedy}" if finding.remedy else ""
            out.print(f"{mark}  {escape(finding.name)}: {escape(finding.seen)}{escape(remedy)}", soft_wrap=True)
    return EXIT_OK if all(finding.ok or finding.optional for finding in findings) else EXIT_HOST
