"""The verb inspect: facts about a dump, and whether it is whole."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...base.errors import HostError, UsageError
from ..options import add_crash, add_json, add_state, crash_request
from ..parser import Verbs, add_verb

if TYPE_CHECKING:
    from ...triage import Triage
    from ...triage.crash import CrashReport, CrashRequest
    from ...vmcore import Inspection


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Result:
    """The findings about one dump."""

    found: Inspection
    triage: Triage | None = None
    crash: CrashReport | None = None
    no_crash: str | None = None  # the reason why crash was not asked
    known_issue: str | None = None  # the tracker that excuses the complaints of crash


def add_inspect(verbs: Verbs) -> None:
    """Add the verb to the command line."""
    parser = add_verb(
        verbs,
        "inspect",
        "Describe dump files, and judge whether each is whole; needs no guest.",
        run=inspect,
        epilog="examples:\n  kdump-harness inspect vmcore --triage\n"
        "  kdump-harness inspect vmcore --quick --triage --debuginfo ./vmlinux\n"
        "  kdump-harness inspect /var/crash/*/dump.*\n\n"
        "several dumps are judged one by one, and the worst judgement counts: damaged, then not judged;\n"
        "with --crash, complaints of crash count as damage, unless a known issue explains them",
    )
    parser.add_argument(
        "vmcore", metavar="VMCORE", nargs="+", help="dump files; the parts of a split dump are one dump"
    )
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
        help="vmlinux, or a directory with one, for --triage and --crash (default: the usual places, then debuginfod)",
    )
    parser.add_argument(
        "--debuginfo-package",
        action="store_true",
        help="triage; download Debian's -dbg package if no other debug info is found",
    )
    add_crash(parser, debuginfo=False)
    add_state(parser, "state directory, where downloaded debug info is kept")
    add_json(parser)


def inspect(arguments: argparse.Namespace) -> int:
    from ...base.output import check_output, out, write_json
    from ...vmcore import group_parts
    from ...vmcore.inspection import EXIT_STATUS

    for to in (arguments.json, arguments.dmesg):
        check_output(to, not_over=arguments.vmcore)
    dumps = group_parts(arguments.vmcore)
    if arguments.dmesg and len(dumps) > 1:
        raise UsageError(f"--dmesg is for one dump: got {len(dumps)} (inspect each dump by itself)")
    asked = arguments.crash or arguments.crash_package is not None
    crash = crash_request(arguments) if asked else None
    if crash is not None:
        crash.check()
    given = arguments.debuginfo is not None and crash is None
    triaged = arguments.triage or given or arguments.debuginfo_package
    results: list[_Result] = []
    for number, files in enumerate(dumps):
        results.append(_inspect(arguments, files, triaged=triaged, crash=crash))
        if "-" not in (arguments.json, arguments.dmesg):
            if number:
                out.print()
            _show(results[-1])
    rows = [_to_json(result, triaged=triaged, asked=asked) for result in results]
    write_json(arguments.json, rows if len(rows) > 1 else rows[0])
    judgements = {result.found.judgement for result in results} | {_judgement_by_crash(result) for result in results}
    return next(status for judgement, status in reversed(EXIT_STATUS.items()) if judgement in judgements)


def _judgement_by_crash(result: _Result) -> str:
    from ...vmcore.inspection import DAMAGED, UNJUDGED, WHOLE

    if result.no_crash is not None:
        return UNJUDGED
    return WHOLE if result.crash is None or result.crash.ok or result.known_issue else DAMAGED


def _to_json(result: _Result, *, triaged: bool, asked: bool) -> dict[str, Any]:
    row = result.found.to_json()
    if triaged:
        row["triage"] = result.triage.to_json() if result.triage is not None else None
    if asked:
        answers = result.crash.to_json() if result.crash is not None else {"not_asked": result.no_crash}
        row["crash"] = {**answers, "known_issue": result.known_issue}
    return row


def _inspect(
    arguments: argparse.Namespace, files: Sequence[Path | str], *, triaged: bool, crash: CrashRequest | None
) -> _Result:
    """Judge one dump, write its kernel log, triage it, and let crash open it, as the user asked for."""
    from ...base.progress import Progress
    from ...vmcore import Unreadable
    from ...vmcore import inspect as inspect_vmcore
    from ...vmcore.inspection import unreadable
    from ...vmcore.packed import readable_packing, unpacked

    first, *parts = files
    packing = readable_packing(first)
    if packing is None:
        triaged_crash = _triage(arguments, files) if triaged else None
        found = inspect_vmcore(first, *parts, quick=arguments.quick)
        _write_log(arguments.dmesg, files)
        return _ask_crash(arguments, _Result(found=found, triage=triaged_crash), files, crash)
    progress, size_bytes = Progress(), Path(first).stat().st_size
    try:
        with contextlib.ExitStack() as stack:
            with progress.step(f"unpacking {Path(first).name}, {size_bytes >> 20:,} MiB"):
                dump = stack.enter_context(unpacked(first, progress=progress.bytes))
            triaged_crash = _triage(arguments, [dump]) if triaged else None
            found = inspect_vmcore(dump, quick=arguments.quick)
            _write_log(arguments.dmesg, [dump])
            result = _ask_crash(arguments, _Result(found=found, triage=triaged_crash), [dump], crash)
    except Unreadable as error:
        result = _Result(found=unreadable(first, error, quick=arguments.quick))
    found = dataclasses.replace(result.found, path=str(first), size_bytes=size_bytes, packed=packing.name)
    return dataclasses.replace(result, found=found)


def _ask_crash(
    arguments: argparse.Namespace, result: _Result, files: Sequence[Path | str], request: CrashRequest | None
) -> _Result:
    """Return the result with the answers of crash, or the reason why it has none."""
    if request is None:
        return result
    from ...base.progress import Progress
    from ...drill.known_issues import judge_crash, load_known_issues
    from ...triage.crash import ask_crash
    from ...vmcore import VmcoreError

    try:
        report = ask_crash(*files, request=request, state=arguments.state, progress=Progress())
    except (HostError, VmcoreError) as error:
        return dataclasses.replace(result, no_crash=str(error))
    known_issue = None
    if not report.ok:
        known_issue = judge_crash(report.to_json(), result.found.kernel, load_known_issues())
    return dataclasses.replace(result, crash=report, known_issue=known_issue)


def _write_log(to: str | None, files: Sequence[Path | str]) -> None:
    """Write the kernel log of a dump, or the reason why it cannot be read."""
    from ...base.output import write_text
    from ...base.progress import err
    from ...vmcore import VmcoreError, open_vmcore

    if to is None:
        return
    try:
        with open_vmcore(*files) as vmcore:
            text = vmcore.dmesg()
    except VmcoreError as error:
        err.print(f"kdump-harness: cannot read the kernel log: {error}", markup=False)
    else:
        write_text(to, text if text.endswith("\n") else text + "\n")


def _show(result: _Result) -> None:
    """Print the facts of a dump, its damage, its crash, and the judgement."""
    from rich.markup import escape

    from ...base.output import out
    from ...vmcore.inspection import DAMAGED, WHOLE

    found = result.found
    for name, value in found.to_json().items():
        if name == "classes":
            for each, pages in value.items():
                label = each.replace("_", " ") + " pages:"
                out.print(f"{label:<20} {pages['kept']:,} of {pages['total']:,} kept", soft_wrap=True)
        elif name not in ("damage", "unsupported", "judgement", "whole", "quick") and value not in (None, [], {}):
            out.print(f"{name + ':':<20} {escape(str(value))}", soft_wrap=True)
    for one in found.damage:
        where = f" at offset {one.offset:,}" if one.offset is not None else ""
        frame = f", page frame {one.pfn:#x}" if one.pfn is not None else ""
        out.print(f"[red]{escape(one.kind)}[/]: {escape(one.message)}{where}{frame}", soft_wrap=True)
    for reason in found.unsupported:
        out.print(f"[yellow]unsupported[/]: {escape(reason)}", soft_wrap=True)
    if result.triage is not None:
        _show_triage(result.triage)
    _show_crash(result)
    how = " (pages not read)" if found.quick and found.whole else ""
    colour = {WHOLE: "green", DAMAGED: "red"}.get(found.judgement, "yellow")
    out.print(f"judgement: [{colour}]{found.judgement}[/]{how}")


def _show_crash(result: _Result) -> None:
    """Print the answers of crash."""
    from rich.markup import escape

    from ...base.output import out

    if result.no_crash is not None:
        out.print(f"[yellow]not judged by crash[/]: {escape(result.no_crash)}", soft_wrap=True)
    if (report := result.crash) is None:
        return
    mark = "[green]ok[/]" if report.ok else "[red]NO[/]"
    out.print(f"crash: {mark} {escape(report.summary())}", soft_wrap=True)
    rows = [("source", report.source), ("debug info", report.debuginfo)]
    for name, text in [*rows, *(("warning", warning) for warning in report.warnings)]:
        out.print(f"  {name:<13} {escape(text)}", soft_wrap=True)
    if result.known_issue:
        out.print(f"[yellow]known issue:[/] {escape(result.known_issue)}", soft_wrap=True)


def _triage(arguments: argparse.Namespace, files: Sequence[Path | str]) -> Triage | None:
    """Return the crash in the dump; report an error in one line and return None if the dump cannot be opened."""
    from ...base.progress import Progress, err
    from ...triage import check_given, triage
    from ...vmcore import VmcoreError

    if arguments.debuginfo is not None:
        check_given(arguments.debuginfo)
    try:
        return triage(
            *files,
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
