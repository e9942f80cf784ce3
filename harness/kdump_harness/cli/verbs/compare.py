"""The verb compare: the same drills before and after a change."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...base.errors import EXIT_FAILED, EXIT_OK, UsageError
from ...campaigns.compare.statistics import BETTER, FEWER, SAME, UNCLEAR, WORSE
from ...distro.family import fill
from ...kernel.machine import INSTRUCTIONS, WALL
from ..bare_sides import NOTHING
from ..options import add_campaign, add_crashkernel, add_guest_size, add_image, add_shape
from ..parser import Verbs, add_verb

if TYPE_CHECKING:
    import xml.etree.ElementTree as ET

    from ...campaigns.compare.bisection import Bisection
    from ...campaigns.compare.plan import ComparePlan, Side
    from ...campaigns.compare.result import Comparison, Difference
    from ...drill.disks import SystemUnderTest
    from ...kdump.service import KdumpService
    from ...vm.guest import Guest
    from ...vm.run import Machine


OWN = "the image's own"
_COLOURS = {WORSE: "red", BETTER: "green", FEWER: "yellow", UNCLEAR: "yellow", SAME: "dim"}


def add_compare(verbs: Verbs) -> None:
    """Add the verb to the command line."""
    parser = add_verb(
        verbs,
        "compare",
        "Run the same drills before and after a change, in turns, and report what got worse.",
        run=compare,
        epilog="examples:\n  kdump-harness compare debian-12 --kernel linux-image-amd64 --kernel bookworm-backports\n"
        "  kdump-harness compare debian-12 --kernel ./build    # against the image's own\n"
        "  kdump-harness compare debian-12 debian-13 --only smoke --max-slower 50%\n"
        "  kdump-harness compare debian-12 --bisect --kernel OLD --kernel MIDDLE --kernel NEW",
    )
    parser.set_defaults(kernel=None, packages=None)
    guest = parser.add_argument_group("guest")
    add_image(guest, optional=True)
    add_shape(guest)
    guest.add_argument("other", metavar="IMAGE", nargs="?", help="second image, to compare with the first")
    add_guest_size(guest)
    change = parser.add_argument_group("change")
    for option, metavar, dest, what in (
        (
            "--kernel",
            "K",
            "kernels",
            "kernel: PACKAGE, PACKAGE/SUITE, a suite, package files, or a directory from a kernel build",
        ),
        ("--makedumpfile", "M", "makedumpfiles", "makedumpfile: a suite, makedumpfile=VERSION, or package files"),
        ("--packages", "DIR", "packages_of", "directory of package files"),
        ("--initramfs", "FILE", "initramfs", "capture initramfs"),
        ("--append", "ARGS", "appends", "arguments for the first kernel"),
        ("--capture-append", "ARGS", "capture_appends", "arguments for the capture kernel"),
    ):
        change.add_argument(
            option,
            metavar=metavar,
            action="append",
            default=[],
            dest=dest,
            help=f"{what}; given twice: old, then new; given once: new",
        )
    change.add_argument(
        "--bisect", action="store_true", help="find the first bad one of a list that is given from old to new"
    )
    bare = parser.add_argument_group("kernel drills")
    bare.add_argument(
        "--bare",
        action="store_true",
        help="compare kernel drills; IMAGE is then the kernel that is not changed, in the forms of the verb kernel",
    )
    bare.add_argument("--userland", default="trixie", metavar="SUITE", help="suite of the userland of --bare")
    bare.add_argument(
        "--clock",
        choices=(WALL, INSTRUCTIONS),
        default=WALL,
        help="clock of the guests of --bare; with instructions, times may grow by 5%% only",
    )
    kdump = parser.add_argument_group("kdump")
    add_crashkernel(kdump)
    kdump.add_argument(
        "--scenario", metavar="S", action="append", default=[], help="additional drill: nmi, ssh, nfs, oom, ..."
    )
    kdump.add_argument(
        "--only", metavar="S", action="append", default=[], help="drill to run instead of the usual ones"
    )
    verdict = parser.add_argument_group("verdict")
    verdict.add_argument("--rounds", type=int, default=2, metavar="N", help="rounds of all drills")
    verdict.add_argument(
        "--most-rounds",
        type=int,
        default=5,
        metavar="N",
        help="maximum rounds of drills whose difference may be noise",
    )
    verdict.add_argument(
        "--max-slower",
        metavar="P",
        help="allowed growth of the time of each phase (default: 20%%; 50%% for emulated guests)",
    )
    verdict.add_argument(
        "--max-larger",
        default="10%",
        metavar="P",
        help="allowed growth of dump size, kept pages and capture memory",
    )
    run = parser.add_argument_group("run and output")
    run.add_argument("--all", action="store_true", help="also show what is the same")
    run.add_argument("--junit", metavar="FILE", help="write the result as JUnit XML")
    run.add_argument("--markdown", metavar="FILE", help="write the result as Markdown, for a merge request")
    add_campaign(run)


def compare(arguments: argparse.Namespace) -> int:
    from ...campaigns.compare.run import run_compare
    from ...campaigns.resume import with_record
    from ...vm.run import Machine, Run
    from ..runs import check_outputs, options_of

    if arguments.shape and (arguments.bare or arguments.bisect):
        raise UsageError(f"--shape cannot go with {'--bare' if arguments.bare else '--bisect'}")
    if arguments.bare:
        return _compare_bare(arguments)
    if arguments.image is None:
        raise UsageError("IMAGE is required (--bare compares kernels without one)")
    if arguments.clock != WALL:
        raise UsageError("--clock is for --bare")
    thing, sides = _sides(arguments)
    machine = Machine(
        memory_mib=arguments.memory,
        vcpus=arguments.vcpus,
        firmware=arguments.firmware or sides[0].subject.firmware,
        cpu_level=arguments.cpu,
        architecture=sides[0].subject.architecture,
    )
    check_outputs(arguments, arguments.junit, arguments.markdown)
    if arguments.bisect:
        return _bisect(arguments, thing, sides, machine)
    plan = _plan_of(arguments, thing, sides, machine, usual=())
    plan.check()
    options = options_of(arguments, architecture=machine.architecture)
    with Run(with_record(options, arguments.resume, "compare.json")) as run:
        found = run_compare(run, plan)
    return _conclude(arguments, found)


def _plan_of(
    arguments: argparse.Namespace, thing: str, sides: Sequence[Side], machine: Machine, *, usual: Sequence[str]
) -> ComparePlan:
    """Return the plan of a comparison, with the scenarios USUAL if --only is not given; there must be two sides."""
    from ...campaigns.compare.plan import ComparePlan, choose_scenarios
    from ...drill.shapes.table import find_shapes

    if len(sides) != 2:
        raise UsageError(f"cannot compare {len(sides)} sides: give two, or --bisect to find the first bad one")
    return ComparePlan(
        image=sides[0].subject.name,
        thing=thing,
        sides=(sides[0], sides[1]),
        machine=machine,
        shapes=find_shapes(arguments.shape),
        crashkernel=arguments.crashkernel,
        scenarios=choose_scenarios(arguments.scenario, arguments.only or usual),
        rounds=arguments.rounds,
        most_rounds=max(arguments.rounds, arguments.most_rounds),
        max_slower=share(arguments.max_slower) if arguments.max_slower is not None else None,
        max_larger=share(arguments.max_larger),
    )


def _conclude(arguments: argparse.Namespace, found: Comparison) -> int:
    """Record, write and show a comparison, and return the exit status."""
    from ...base.output import write_json, write_text
    from ...history.database import COMPARE
    from ..runs import record_result

    found.notes += record_result(arguments, COMPARE, found.to_json())
    write_json(arguments.json, found.to_json())
    if arguments.junit is not None:
        write_text(arguments.junit, to_junit(found))
    if arguments.markdown is not None:
        write_text(arguments.markdown, to_markdown(found))
    if "-" not in (arguments.json, arguments.junit, arguments.markdown):
        show_comparison(found, everything=arguments.all)
    return EXIT_OK if found.ok else EXIT_FAILED


def _compare_bare(arguments: argparse.Namespace) -> int:
    """Compare kernels, versions of makedumpfile or command lines by kernel drills."""
    from ...campaigns.compare.bare import SCENARIOS, BareBisectPlan, check_bare, run_bare_compare, usual_bare_max_slower
    from ...campaigns.compare.bisection import run_bisect
    from ...campaigns.compare.plan import usual_max_slower
    from ...campaigns.resume import with_record
    from ...kdump.service import KdumpConfig
    from ...vm.run import Machine, Run
    from ..bare_sides import bare_sides, changed_thing, choose_session, found_sides
    from ..runs import check_outputs, options_of

    thing, values = changed_thing(arguments)
    vcpus = 1 if arguments.clock == INSTRUCTIONS else arguments.vcpus
    machine = Machine(memory_mib=arguments.memory, vcpus=vcpus, cpu_level=arguments.cpu)
    sides = bare_sides(arguments, thing, values, machine)
    check_outputs(arguments, arguments.junit, arguments.markdown)
    choose_session(arguments)
    options = options_of(arguments, network=False)
    if arguments.bisect:
        _check_bisect(arguments)
        plan = BareBisectPlan(
            image=sides[0].subject.name,
            thing=thing,
            sides=tuple(sides),
            machine=machine,
            config=KdumpConfig(crashkernel=arguments.crashkernel, level=None, compress=None),
        )
        plan.check()
        with Run(options) as run:
            found = found_sides(run, arguments, thing, sides)
            return _conclude_bisect(arguments, run_bisect(run, dataclasses.replace(plan, sides=found)))
    plan_compare = _plan_of(arguments, thing, sides, machine, usual=SCENARIOS)
    check_bare(plan_compare)
    with Run(with_record(options, arguments.resume, "compare.json")) as run:
        max_slower = plan_compare.max_slower
        if max_slower is None:
            max_slower = usual_bare_max_slower(arguments.clock, usual_max_slower(run.accelerator))
        old, new = found_sides(run, arguments, thing, sides)
        plan_compare = dataclasses.replace(plan_compare, sides=(old, new), max_slower=max_slower)
        return _conclude(arguments, run_bare_compare(run, plan_compare))


def _bisect(arguments: argparse.Namespace, thing: str, sides: Sequence[Side], machine: Machine) -> int:
    from ...campaigns.compare.bisection import BisectPlan, run_bisect
    from ...kdump.service import KdumpConfig
    from ...vm.run import Run
    from ..runs import options_of

    _check_bisect(arguments)
    plan = BisectPlan(
        image=sides[0].subject.name,
        thing=thing,
        sides=tuple(sides),
        machine=machine,
        config=KdumpConfig(crashkernel=arguments.crashkernel, level=None, compress=None),
    )
    plan.check()
    with Run(options_of(arguments)) as run:
        return _conclude_bisect(arguments, run_bisect(run, plan))


def _check_bisect(arguments: argparse.Namespace) -> None:
    """Raise UsageError for options that a bisection does not have."""
    if arguments.junit is not None or arguments.markdown is not None:
        raise UsageError("--bisect writes neither JUnit nor Markdown (--json does)")
    if arguments.jobs not in (None, 1):
        raise UsageError("--jobs cannot go with --bisect: each of its steps depends on the one before")
    if arguments.resume is not None:
        raise UsageError("--resume cannot go with --bisect")


def _conclude_bisect(arguments: argparse.Namespace, found: Bisection) -> int:
    """Record, write and show a bisection, and return the exit status."""
    from ...base.output import write_json
    from ...history.database import BISECT
    from ..runs import record_result

    record_result(arguments, BISECT, found.to_json())
    write_json(arguments.json, found.to_json())
    if arguments.json != "-":
        show_bisection(found)
    return EXIT_OK if found.ok else EXIT_FAILED


# ---------------------------------------------------------------- the sides


def _sides(arguments: argparse.Namespace) -> tuple[str, list[Side]]:
    """Return the thing in which the sides differ, and the sides.

    Raises UsageError unless the sides differ in exactly one thing.
    """
    from ...campaigns.compare.plan import Side
    from ..subject import find_subject, subject_of

    given = {
        "kernel": arguments.kernels,
        "makedumpfile": arguments.makedumpfiles,
        "packages": arguments.packages_of,
        "initramfs": arguments.initramfs,
        "append": arguments.appends,
        "capture-append": arguments.capture_appends,
        "image": [arguments.other] if arguments.other is not None else [],
    }
    things = [name for name, values in given.items() if values]
    if not things:
        raise UsageError(
            "nothing to compare: give --kernel, --makedumpfile, --packages, --initramfs, --append, --capture-append,"
            " or a second image"
        )
    if len(things) > 1:
        raise UsageError(f"compare one thing at a time: {' and '.join(things)} were given")
    thing = things[0]
    base = subject_of(arguments)
    if thing == "image":
        other = find_subject(
            arguments.other, family=arguments.family, login=arguments.login, allow_backing=arguments.allow_backing
        )
        other = dataclasses.replace(other, access=base.access)
        return thing, [Side(name=base.name, subject=base), Side(name=other.name, subject=other)]
    sides = [_side(thing, text, base) for text in given[thing]]
    if len(sides) == 1:
        own = NOTHING if thing in ("append", "capture-append") else OWN
        sides.insert(0, Side(name=own, subject=base))
    return thing, sides


def _side(thing: str, text: str, base: SystemUnderTest) -> Side:
    """Return a side that differs from the base in one thing."""
    from ...campaigns.compare.plan import Side
    from ...distro.packages import local_packages, parse_kernel, parse_package
    from ...images.checksums import digest_of

    if thing in ("append", "capture-append"):
        first, capture = (text, "") if thing == "append" else ("", text)
        return Side(name=text or NOTHING, subject=base, append=first, capture_append=capture)
    if thing == "kernel":
        kernel = parse_kernel(text, base.family, usual=base.usual_kernel)
        return Side(name=text, subject=dataclasses.replace(base, kernel=kernel))
    if thing == "makedumpfile":
        return Side(name=text, subject=dataclasses.replace(base, more=(parse_package(text, base.family),)))
    if thing == "packages":
        return Side(name=text, subject=dataclasses.replace(base, files=local_packages(Path(text), base.family)))
    prepare = _with_initramfs(Path(text), base)
    return Side(name=text, subject=base, prepare=prepare, content=digest_of(Path(text), "sha256").hexdigest[:8])


def _with_initramfs(path: Path, base: SystemUnderTest) -> Callable[[Guest, KdumpService], None]:
    """Return a function that copies a capture initramfs of this host into the guest."""
    places = base.family.capture_initramfs
    if not places:
        raise UsageError(
            f"--initramfs cannot be used: the path of the capture initramfs is not known for {base.family.name}"
        )
    if not path.is_file():
        raise UsageError(f"{path} is not a file with a capture initramfs")

    def prepare(guest: Guest, service: KdumpService) -> None:
        kernel = guest.shell.run("uname -r").out.strip()
        used = [fill(place, kernel=kernel) for place in places]
        guest.shell.put(path, next((place for place in used if guest.shell.succeeds("test -e %s", place)), used[0]))
        service.arm()

    return prepare


def share(text: str) -> float:
    """Return the share that a text like 20% or 0.2 means; raises UsageError for any other text."""
    number, percent = text.strip().removesuffix("%"), text.strip().endswith("%")
    try:
        share = float(number) / (100 if percent else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 100:
        raise UsageError(f"invalid budget: got {text!r}, expected a share as in 20%")
    return share


# ---------------------------------------------------------------- for people


def show_comparison(found: Comparison, *, everything: bool = False) -> None:
    """Print the differences, or everything that was compared, as a table."""
    from rich.markup import escape
    from rich.table import Table

    from ...base.output import out
    from ..runs import at_once

    out.print()
    worse = found.regressions()
    title = "[bold green]NO REGRESSION[/]" if found.ok else f"[bold red]{len(worse)} WORSE[/]"
    out.print(f"{escape(found.image)}, {found.thing}: {escape(' → '.join(found.sides))}  {title}", soft_wrap=True)
    for number, name in enumerate(("old", "new")):
        facts = f"kernel {found.kernels[number]}; makedumpfile {found.makedumpfiles[number] or 'not installed'}"
        out.print(escape(f"  {name}: {facts}"), soft_wrap=True)
    drills = f"{len(found.samples)} drills in {found.rounds} rounds, {at_once(found.jobs)}{found.took_s:.0f} s"
    machine = f"{found.memory_mib} MiB, {found.vcpus} CPUs, {found.accelerator}"
    out.print(escape(f"  {machine}; {drills}; worse is {_budgets(found)}"), soft_wrap=True)
    shown = [one for one in found.findings if everything or one.word != SAME or one.what == "verdict"]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("", "drill", "what", "old", "new", ""):
        table.add_column(column, overflow="fold")
    for one in shown:
        colour = _COLOURS[one.word]
        cells = (one.scenario, one.what, one.old, one.new, one.change)
        table.add_row(f"[{colour}]{one.word}[/]", *map(escape, cells))
    out.print(table)
    same = len(found.findings) - len(shown)
    if same:
        out.print(f"and {same} that are the same (--all shows them)")
    for note in found.notes:
        out.print(f"[yellow]{escape(note)}[/]", soft_wrap=True)
    out.print(f"evidence: {escape(found.evidence)}", soft_wrap=True)
    out.print(f"no regression: {'true' if found.ok else 'false'}")


def _budgets(found: Comparison) -> str:
    return f"slower by more than {found.max_slower:.0%}, or larger by more than {found.max_larger:.0%}"


def show_bisection(found: Bisection) -> None:
    """Print the steps of the bisection, and the first bad side."""
    from rich.markup import escape
    from rich.table import Table

    from ...base.output import out

    out.print()
    if found.stopped_by:
        title = "[bold red]NO ANSWER[/]"
    elif found.first_bad is None:
        title = "[bold green]NONE IS BAD[/]"
    else:
        title = f"[bold red]first bad: {escape(found.names[found.first_bad])}[/]"
    out.print(f"{escape(found.image)}, {found.thing}  {title}", soft_wrap=True)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("", found.thing, "kernel", "makedumpfile", "why"):
        table.add_column(column, overflow="fold")
    for number, name in enumerate(found.names):
        step = found.step(number)
        if step is None:
            table.add_row("[dim]-[/]", escape(name), "", "", "[dim]not drilled[/]")
            continue
        mark = "[green]good[/]" if step.verified else "[red]bad[/]"
        why = "" if step.verified else step.reason
        table.add_row(mark, escape(name), escape(step.kernel or ""), escape(step.makedumpfile or ""), escape(why))
    out.print(table)
    if found.stopped_by:
        out.print(f"[red]{escape(found.stopped_by)}[/]", soft_wrap=True)
    out.print(f"{len(found.steps)} drills, {found.took_s:.0f} s; evidence: {escape(found.evidence)}", soft_wrap=True)


# ---------------------------------------------------------------- for a CI


def to_markdown(found: Comparison) -> str:
    """Return the comparison as Markdown, for a merge request."""
    from ...base.output import markdown_cell

    worse = len(found.regressions())
    lines = [
        f"### kdump: {markdown_cell(found.image)}, {found.thing} {' → '.join(map(markdown_cell, found.sides))}: "
        + ("no regression" if found.ok else f"**{worse} worse**"),
        "",
        f"Old: {markdown_cell(found.kernels[0])}, makedumpfile {markdown_cell(found.makedumpfiles[0])}. "
        f"New: {markdown_cell(found.kernels[1])}, makedumpfile {markdown_cell(found.makedumpfiles[1])}. "
        f"{len(found.samples)} drills; worse is {_budgets(found)}.",
        "",
        "| | drill | what | old | new | change |",
        "|---|---|---|---|---|---|",
    ]
    for one in found.findings:
        if one.word != SAME or one.what == "verdict":
            cells = (one.word, one.scenario, one.what, one.old, one.new, one.change)
            lines.append(f"| {' | '.join(map(markdown_cell, cells))} |")
    return "\n".join(lines) + "\n"


def to_junit(found: Comparison) -> str:
    """Return JUnit XML with a test suite per drill and a test case per value that was compared."""
    import xml.etree.ElementTree as ET

    from ...base.output import xml_text

    root = ET.Element("testsuites", name="kdump-harness compare")
    for scenario in found.scenarios():
        rows = [one for one in found.findings if one.scenario == scenario]
        words = [one.word for one in rows]
        suite = ET.SubElement(
            root, "testsuite", name=f"{found.image} {scenario}", tests=str(len(rows)),
            failures=str(words.count(WORSE)), errors="0", skipped=str(words.count(UNCLEAR)),
        )  # fmt: skip
        for one in rows:
            case = ET.SubElement(suite, "testcase", classname=f"{found.image}.{scenario}", name=one.what)
            _add_outcome(case, one)
    return xml_text(root)


def _add_outcome(case: ET.Element, one: Difference) -> None:
    import xml.etree.ElementTree as ET

    text = f"{one.old} → {one.new} {one.change}".strip()
    if one.word == WORSE:
        ET.SubElement(case, "failure", message=text)
    elif one.word == UNCLEAR:
        ET.SubElement(case, "skipped", message=f"not clear: {text}")
