"""The verb diagnose: symptoms in a console log."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ...base.errors import EXIT_FAILED, EXIT_OK
from ..options import add_json
from ..parser import Verbs, add_verb

if TYPE_CHECKING:
    from ...diagnosis import Symptom


def add_diagnose(verbs: Verbs) -> None:
    """Add the verb to the command line."""
    parser = add_verb(
        verbs,
        "diagnose",
        "Find what failed, where, and the remedy, in a console log alone.",
        run=diagnose,
        epilog="examples:\n  kdump-harness diagnose console.log\n"
        "  kdump-harness diagnose console.log journal.txt vmcore-dmesg.txt vmcore\n\n"
        "several files, or a directory, are one case: they get one answer",
    )
    parser.add_argument(
        "log",
        metavar="LOG",
        nargs="+",
        help="log of a serial console, text of a journal, or a vmcore-dmesg.txt, also compressed; the other logs and"
        " the dump of the same crash, or a directory with all of them",
    )
    parser.add_argument("--family", metavar="F", help="distribution family of the guest, if known")
    parser.add_argument(
        "--explain", action="store_true", help="show the lines that decided, and the symptoms that were rejected"
    )
    add_json(parser)


def diagnose(arguments: argparse.Namespace) -> int:
    from rich.markup import escape

    from ...base.output import check_output, out, write_json
    from ...diagnosis import diagnose_case

    check_output(arguments.json, not_over=arguments.log)
    found = diagnose_case(arguments.log, family=arguments.family)
    write_json(arguments.json, found.to_json())
    failures = [symptom for symptom in found.symptoms if symptom.severity == "failure"]
    if arguments.json != "-":
        out.print(f"{found.mode} (stage {found.stage.name})")
        for symptom in found.symptoms:
            out.print(
                escape(f"{symptom.severity} {symptom.name}: {place(symptom)}{symptom.line.strip()}"),
                soft_wrap=True,
            )
            out.print(escape(f"  {symptom.meaning}"), soft_wrap=True)
            if symptom.remedy:
                out.print(escape(f"  → {symptom.remedy}"), soft_wrap=True)
        if arguments.explain:
            for line in found.explain():
                out.print(escape(line), soft_wrap=True)
    return EXIT_FAILED if failures else EXIT_OK


def place(symptom: Symptom) -> str:
    """Return the file, in a case of several, and the line of a symptom; a dump has no lines."""
    line = f"line {symptom.line_number}: " if symptom.line_number else ""
    return f"{symptom.file} {line}" if symptom.file and line else line
