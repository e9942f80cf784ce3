"""The verb inspect: facts about a dump, and whether it is whole."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ...base.errors import EXIT_FAILED, EXIT_OK
from ..options import add_json, add_state
from ..parser import Verbs, add_verb

if TYPE_CHECKING:
    from ...triage import Triage


def add_inspect(verbs: Verbs) -> None:
    """Add the verb to the command line."""
    parser = add_verb(
        verbs,
        "inspect",
        "Describe a dump file, and judge whether it is whole; needs no guest.",
        run=inspect,
        epilog="examples:\n  kdump-harness inspect vmcore --triage\n"
        "  kdump-harness inspect vmcore --quick --triage --debuginfo ./vmlinux",
    )
    parser.add_argument("vmcore", metavar="VMCORE", nargs="+", help="dump file, or all files of a split dump")
    parser.add_argument("--quick", action="store_true", help="do not read the pages")
    parser.add_argument("--dmesg", metavar="FILE", help="write the kernel log of the dump (- is standard output)")
    parser.add_argument(
        "--triage",
        action="store_true",
        help="report the crash: task, stack, panic message and taints; debug info gives the most",
    )
    parser.add_argument(
        "--debuginfo",
        type=Path,
        metavar="PATH",
        help="vmlinux, or a directory with one, for the triage (default: the usual places, then debuginfod)",
    )
    parser.add_argument(
        "--debuginfo-package",
        action="store_true",
        help="triage; download Debian's -dbg package if no other debug info is found",
    )
    add_state(parser, "state directory, where downloaded debug info is kept")
    add_json(parser)


def inspect(arguments: argparse.Namespace) -> int:
    from rich.markup import escape

    from ...base.output import check_output, out, write_json, write_text
    from ...base.progress import err
    from ...vmcore import VmcoreError, open_vmcore
    from ...vmcore import inspect as inspect_vmcore

    for to in (arguments.json, arguments.dmesg):
        check_output(to, not_over=arguments.vmcore)
    wanted = arguments.triage or arguments.debuginfo is not None or arguments.debuginfo_package
    crash = _triage(arguments) if wanted else None
    found = inspect_vmcore(arguments.vmcore[0], *arguments.vmcore[1:], quick=arguments.quick)
    if arguments.dmesg:
        try:
            with open_vmcore(arguments.vmcore[0], *arguments.vmcore[1:]) as vmcore:
                text = vmcore.dmesg()
        except VmcoreError as error:
            err.print(f"kdump-harness: cannot read the kernel log: {error}", markup=False)
        else:
            write_text(arguments.dmesg, text if text.endswith("\n") else text + "\n")
    about_crash = {"triage": crash.to_json() if crash is not None else None} if wanted else {}
    write_json(arguments.json, {**found.to_json(), **about_crash})
    if "-" not in (arguments.json, arguments.dmesg):
        for name, value in found.to_json().items():
            if name == "classes":
                for each, pages in value.items():
                    label = each.replace("_", " ") + " pages:"
                    out.print(f"{label:<20} {pages['kept']:,} of {pages['total']:,} kept", soft_wrap=True)
            elif name not in ("damage", "whole", "quick") and value not in (None, [], {}):
                out.print(f"{name + ':':<20} {escape(str(value))}", soft_wrap=True)
        for one in found.damage:
            where = f" at offset {one.offset:,}" if one.offset is not None else ""
            frame = f", page frame {one.pfn:#x}" if one.pfn is not None else ""
            out.print(f"[red]{escape(one.kind)}[/]: {escape(one.message)}{where}{frame}", soft_wrap=True)
        if crash is not None:
            _show_triage(crash)
        how = " (pages not read)" if found.quick else ""
        out.print(f"whole: {'true' if found.whole else 'false'}{how}")
    return EXIT_OK if found.whole else EXIT_FAILED


def _triage(arguments: argparse.Namespace) -> Triage | None:
    """Return the crash in the dump; report an error in one line and return None if the dump cannot be opened."""
    from ...base.progress import Progress, err
    from ...triage import check_given, triage
    from ...vmcore import VmcoreError

    if arguments.debuginfo is not None:
        check_given(arguments.debuginfo)
    try:
        return triage(
            *arguments.vmcore,
            debuginfo=arguments.debuginfo,
            package=arguments.debuginfo_package,
            state=arguments.state,
            progress=Progress(),
        )
    except VmcoreError as error:
        err.print(f"kdump-harness: cannot triage the crash: {error}", markup=False)
        return None


def _show_triage(crash: Triage) -> None:
    """Print the crash."""
    from rich.markup import escape

    from ...base.output import out

    out.print(f"triage: {escape(crash.source)}", soft_wrap=True)
    task = crash.task
    rows = [
        ("panic", crash.panic),
        ("reason", crash.reason),
        ("crashed task", f"{task.comm}, PID {task.pid}, on CPU {task.cpu}" if task else None),
        ("at", crash.rip),
        ("tainted", "no" if crash.taint_flags == "" else crash.taint_flags),
        *(("", f"{taint.letter} ({taint.name}): {taint.meaning}") for taint in crash.taints),
        ("modules", f"{len(crash.modules)} loaded" if crash.modules else None),
        *(("", f"{module.name} ({module.taints})") for module in crash.tainting_modules),
        *(("" if number else "stack", f"#{number} {frame}") for number, frame in enumerate(crash.stack)),
        *(("remark", remark) for remark in crash.remarks),
    ]
    for name, text in rows:
        if text is not None:
            out.print(f"  {name:<13} {escape(text)}", soft_wrap=True)
