"""The verb sweep: dumps of all levels and compressions."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ...base.errors import EXIT_FAILED, EXIT_OK
from ...distro.family import COMPRESS_FLAGS
from ..options import (
    add_budget,
    add_campaign,
    add_command_lines,
    add_crashkernel,
    add_guest_size,
    add_image,
    add_plot,
    add_shape,
    add_software,
)
from ..parser import Verbs, add_verb

if TYPE_CHECKING:
    from ...base.verdict import Verdict
    from ...campaigns.sweep.cells import SweepCell
    from ...campaigns.sweep.result import Sweep


MIB = 1 << 20


def add_sweep(verbs: Verbs) -> None:
    """Add the verb to the command line."""
    parser = add_verb(
        verbs,
        "sweep",
        "Measure size and pages of the dump by level and compression: a few real crashes, the rest computed from them.",
        run=sweep,
        epilog="examples:\n  kdump-harness sweep debian-12\n"
        "  kdump-harness sweep debian-12 --levels 0,1,17,31 --compress none,zlib,lzo --plot sizes.png\n"
        "  kdump-harness sweep ./my.qcow2 --family debian --real all",
    )
    guest = parser.add_argument_group("guest")
    add_image(guest)
    add_software(guest)
    add_shape(guest)
    add_guest_size(guest)
    kdump = parser.add_argument_group("kdump")
    kdump.add_argument("--levels", default="0,1,16,31", metavar="N,N", help="dump levels of makedumpfile, 0 to 31")
    kdump.add_argument(
        "--compress",
        default="none,zlib,lzo",
        metavar="C,C",
        help=f"compressions of the dump: {', '.join(COMPRESS_FLAGS)}",
    )
    kdump.add_argument(
        "--real",
        default="2",
        metavar="N|all",
        help="number of real crashes; the other cells are computed from the first crash, which dumps everything",
    )
    add_crashkernel(kdump)
    add_command_lines(kdump)
    verdict = parser.add_argument_group("verdict")
    add_budget(verdict)
    run = parser.add_argument_group("run and output")
    add_plot(run)
    add_campaign(run)


def sweep(arguments: argparse.Namespace) -> int:
    from ...base.output import write_json
    from ...campaigns import plot
    from ...campaigns.resume import with_record
    from ...campaigns.sweep.plan import SweepPlan, parse_compressions, parse_levels, parse_real
    from ...campaigns.sweep.run import run_sweep
    from ...drill.shapes.table import find_shapes
    from ...history.database import DRILL, SWEEP
    from ...vm.run import Run
    from ..runs import check_outputs, options_of, record_result
    from ..subject import machine_of, subject_of

    subject = subject_of(arguments)
    plan = SweepPlan(
        subject=subject,
        levels=parse_levels(arguments.levels),
        compressions=parse_compressions(arguments.compress),
        real=parse_real(arguments.real),
        machine=machine_of(arguments, subject),
        shapes=find_shapes(arguments.shape),
        crashkernel=arguments.crashkernel,
        append=arguments.append,
        capture_append=arguments.capture_append,
        budget_s=arguments.budget,
    )
    plan.check()
    if arguments.plot is not None:
        plot.check_format(Path(arguments.plot))
    check_outputs(arguments, arguments.plot)

    def crashed(verdict: Verdict) -> None:
        verdict.remarks += record_result(arguments, DRILL, verdict.to_json())

    options = with_record(options_of(arguments, architecture=subject.architecture), arguments.resume, "sweep.json")
    with Run(options) as run:
        found = run_sweep(run, plan, on_verdict=crashed)
    if arguments.plot is not None:
        found.draw(Path(arguments.plot))
    record_result(arguments, SWEEP, found.to_json())
    write_json(arguments.json, found.to_json())
    if arguments.json != "-":
        show_sweep(found)
    return EXIT_OK if found.ok else EXIT_FAILED


def show_sweep(found: Sweep) -> None:
    """Print the relations that do not hold, and the table of the sweep."""
    from rich.markup import escape
    from rich.table import Table

    from ...base.output import out
    from ...campaigns.sweep.cells import COMPUTED
    from ..runs import at_once

    out.print()
    title = "[bold green]HOLDS[/]" if found.ok else "[bold red]DOES NOT HOLD[/]"
    out.print(f"{escape(found.image)}  {title}")
    facts = (
        f"kernel {found.kernel}",
        f"makedumpfile {found.makedumpfile or 'not installed'}",
        f"{found.memory_mib} MiB, {found.vcpus} CPUs, {found.accelerator}",
        f"real crashes: {found.crashes}, {at_once(found.jobs)}all in {found.took_s:.0f} s",
    )
    out.print(escape("  " + "; ".join(facts)), soft_wrap=True)
    for failure in found.failures():
        out.print(f"[red]NO[/] {escape(failure)}", soft_wrap=True)
    if found.relations:
        held = sum(relation.ok for relation in found.relations)
        out.print(f"  {held} of {len(found.relations)} relations between the cells hold")
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column("-d", justify="right")
    for name in found.compressions:
        table.add_column(name, justify="right", no_wrap=True)
    for level in sorted({cell.level for cell in found.cells}):
        table.add_row(str(level), *(_cell_text(found.cell(level, name)) for name in found.compressions))
    out.print(table)
    if any(cell.how == COMPUTED for cell in found.cells):
        out.print(
            "~ computed by the guest's makedumpfile from the crash at -d 0; the others are real crashes, with the"
            " seconds that the dump took",
            soft_wrap=True,
        )
    for note in found.notes:
        out.print(f"[yellow]{escape(note)}[/]", soft_wrap=True)
    out.print(f"evidence: {escape(found.evidence)}", soft_wrap=True)
    out.print(f"holds: {'true' if found.ok else 'false'}")


def _cell_text(cell: SweepCell | None) -> str:
    from ...campaigns.sweep.cells import COMPUTED, REFUSED

    if cell is None:
        return ""
    if cell.how == REFUSED:
        return "[yellow]refused[/]"
    mark = "~" if cell.how == COMPUTED else ""
    size = f"{mark}{cell.size_bytes / MIB:,.1f} MiB" if cell.size_bytes is not None else f"{mark}no dump"
    took = f" in {cell.dump_s:.0f} s" if cell.dump_s is not None else ""
    pages = f"\n{cell.pages_kept:,} pages" if cell.pages_kept is not None else ""
    return f"{'' if cell.ok else '[red]NO[/] '}{size}{took}[dim]{pages}[/]"
