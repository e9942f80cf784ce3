"""The verb size: the smallest crashkernel= that dumps."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...base.errors import EXIT_FAILED, EXIT_OK, UsageError
from ...kdump.target import TARGETS
from ..options import (
    add_campaign,
    add_command_lines,
    add_crashkernel,
    add_filter,
    add_image,
    add_plot,
    add_shape,
    add_software,
)
from ..parser import Verbs, add_verb
from ..types import mib

if TYPE_CHECKING:
    from ...base.verdict import Verdict
    from ...campaigns.size.result import Size, Sizing

_MEMORY = "1G"


def add_size(verbs: Verbs) -> None:
    """Add the verb to the command line."""
    parser = add_verb(
        verbs,
        "size",
        "Find the smallest crashkernel= that dumps, by real crashes, and recommend one.",
        run=size,
        epilog="examples:\n  kdump-harness size debian-12 --memory 1G,2G\n"
        "  kdump-harness size debian-13 --target nfs --plot sizing.png\n"
        "  kdump-harness size ./my.qcow2 --family redhat --memory 4G --crashkernel 512M\n"
        "  kdump-harness size bullseye --bare --arch arm64 --userland bullseye\n"
        "  kdump-harness size --model --memory 1536G --vcpus 256 --target nfs --part mlx5_core --part kdump-utils",
    )
    guest = parser.add_argument_group("guest")
    add_image(guest, optional=True)
    add_software(guest)
    add_shape(guest)
    guest.add_argument(
        "--memory",
        metavar="S,S",
        help=f"memory sizes of the guest, as in 1G,1536M (default: {_MEMORY}; with --bare kernel's)",
    )
    guest.add_argument("--vcpus", default="2", metavar="N,N", help="numbers of processors of the guest")
    bare = parser.add_argument_group("kernel drills")
    bare.add_argument(
        "--bare",
        action="store_true",
        help="crash kernels without a distribution; IMAGE is then a kernel, in the forms of the verb kernel",
    )
    bare.add_argument("--userland", metavar="SUITE", help="suite of the userland of --bare (default: kernel's)")
    bare.add_argument("--arch", metavar="A", help="architecture of the guests of --bare (default: that of this host)")
    kdump = parser.add_argument_group("kdump")
    kdump.add_argument("--target", default="local", metavar="T,T", help=f"dump targets: {', '.join(TARGETS)}")
    add_crashkernel(kdump, "crashkernel= value that the search begins with (default: the family's)")
    add_filter(kdump)
    add_command_lines(kdump)
    search = parser.add_argument_group("search")
    search.add_argument(
        "--step", type=mib, default=4, metavar="S", help="precision of the result, as 4M or a number of MiB"
    )
    search.add_argument(
        "--repeats", type=int, default=3, metavar="N", help="crashes that must agree on either side of the edge"
    )
    search.add_argument("--crashes", type=int, default=15, metavar="N", help="maximum number of crashes per machine")
    search.add_argument(
        "--no-confirm", action="store_true", help="skip the drill of the recommendation, which starts at power-on"
    )
    model = parser.add_argument_group("model")
    model.add_argument(
        "--model",
        action="store_true",
        help="predict the need of machines that cannot be tried, from measured points; no IMAGE, and no crash",
    )
    model.add_argument(
        "--part",
        action="append",
        default=[],
        metavar="NAME",
        help="driver, userland or other part of the capture kernel, by its name in the table of the model; repeatable",
    )
    model.add_argument(
        "--initramfs",
        default="30:80",
        metavar="P:U",
        help="size of the capture initramfs in MiB, packed and unpacked",
    )
    model.add_argument(
        "--points", type=Path, metavar="FILE", help="table of measured points, in place of the package's"
    )
    run = parser.add_argument_group("run and output")
    add_plot(run)
    add_campaign(run)


def size(arguments: argparse.Namespace) -> int:
    if arguments.bare and arguments.model:
        raise UsageError("--model predicts without a guest, so it cannot go with --bare")
    for option, value in (("--userland", arguments.userland), ("--arch", arguments.arch)):
        if value is not None and not arguments.bare:
            raise UsageError(f"{option} is for --bare")
    if arguments.model:
        return _predict(arguments)
    if arguments.image is None:
        raise UsageError("size needs an IMAGE, or --model for machines that cannot be tried")
    if arguments.bare:
        return _size_bare(arguments)
    from ...campaigns import plot
    from ...campaigns.resume import with_record
    from ...campaigns.size.plan import SizePlan
    from ...campaigns.size.run import run_size
    from ...drill.shapes.table import find_shapes
    from ...vm.run import Machine, Run
    from ..runs import check_outputs, options_of
    from ..subject import subject_of

    subject = subject_of(arguments)
    plan = SizePlan(
        subject=subject,
        memories_mib=_memories(arguments),
        machine=Machine(
            firmware=arguments.firmware or subject.firmware,
            cpu_level=arguments.cpu,
            architecture=subject.architecture,
        ),
        shapes=find_shapes(arguments.shape),
        crashkernel=arguments.crashkernel,
        **_settings(arguments),
    )
    plan.check()
    if arguments.plot is not None:
        plot.check_format(Path(arguments.plot))
    check_outputs(arguments, arguments.plot)

    options = with_record(options_of(arguments, architecture=subject.architecture), arguments.resume, "size.json")
    with Run(options) as run:
        found = run_size(run, plan, on_verdict=_recorder(arguments))
    return _conclude(arguments, found)


def _settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what a sizing of an image and one of a kernel have in common."""
    return {
        "vcpus": _parse_vcpus(arguments.vcpus),
        "targets": tuple(dict.fromkeys(part.strip() for part in arguments.target.split(","))),
        "append": arguments.append,
        "capture_append": arguments.capture_append,
        "level": arguments.level,
        "compress": arguments.compress,
        "step_mib": arguments.step,
        "repeats": arguments.repeats,
        "most_crashes": arguments.crashes,
        "confirm": not arguments.no_confirm,
    }


def _size_bare(arguments: argparse.Namespace) -> int:
    """Size the reservation of a kernel by kernel drills."""
    from ...campaigns import plot
    from ...campaigns.resume import with_record
    from ...campaigns.size.bare import BareSizePlan, run_bare_size
    from ...distro.architecture import find_architecture
    from ...drill.disks import SystemUnderTest
    from ...kernel.plan import KernelPlan, userland_family
    from ...kernel.source import check_kernel, find_kernel, not_yet_found
    from ...kernel.userland import UserlandRequest, check_userland, make_userland
    from ...vm.run import Machine, Run
    from ..bare_sides import choose_session
    from ..runs import check_outputs, options_of

    for option, value in (
        ("--family", arguments.family), ("--firmware", arguments.firmware), ("--kernel", arguments.kernel),
        ("--packages", arguments.packages), ("--allow-backing", arguments.allow_backing), ("--key", arguments.key),
        ("--password-file", arguments.password_file), ("--shape", arguments.shape),
    ):  # fmt: skip
        if value:
            raise UsageError(f"{option} cannot go with --bare: a kernel drill has no distribution")
    architecture = find_architecture(arguments.arch)
    userland = UserlandRequest(suite=arguments.userland or "", architecture=architecture)
    kernel_plan = KernelPlan(
        kernel=not_yet_found(arguments.image),
        architecture=architecture,
        level=arguments.level,
        compress=arguments.compress,
        append=arguments.append,
        capture_append=arguments.capture_append,
    )
    plan = BareSizePlan(
        subject=SystemUnderTest(name=kernel_plan.kernel.name, family=userland_family(), of_file=architecture),
        memories_mib=(architecture.memory_mib,) if arguments.memory is None else parse_memories(arguments.memory),
        machine=Machine(cpu_level=arguments.cpu, architecture=architecture),
        crashkernel=arguments.crashkernel or architecture.crashkernel,
        **_settings(arguments),
        kernel_plan=kernel_plan,
    )
    if plan.targets != ("local",):
        raise UsageError("--target cannot go with --bare: a kernel drill writes to a raw disk")
    plan.check()
    check_kernel(arguments.image, architecture)
    check_userland(userland)
    if arguments.plot is not None:
        plot.check_format(Path(arguments.plot))
    check_outputs(arguments, arguments.plot)
    choose_session(arguments)
    options = options_of(arguments, network=False, architecture=architecture)
    with Run(with_record(options, arguments.resume, "size.json")) as run:
        kernel_plan = dataclasses.replace(
            kernel_plan,
            kernel=find_kernel(arguments.image, run.state, run.progress, architecture),
            userland=make_userland(userland, run.state, run.progress),
        )
        plan = dataclasses.replace(plan, kernel_plan=kernel_plan)
        return _conclude(arguments, run_bare_size(run, plan, on_verdict=_recorder(arguments)))


def _recorder(arguments: argparse.Namespace) -> Callable[[Verdict], None]:
    from ...history.database import DRILL
    from ..runs import record_result

    def crashed(verdict: Verdict) -> None:
        # A trial may fail on purpose. Its outcome is in the record of the sizing, so only verified drills are recorded.
        if verdict.verified and not verdict.warm:
            record_result(arguments, DRILL, verdict.to_json())

    return crashed


def _conclude(arguments: argparse.Namespace, found: Size) -> int:
    """Record and show the result, and return the exit status."""
    from ...base.output import write_json
    from ...history.database import SIZE
    from ...history.importing import sizing_results
    from ..runs import record_result

    if arguments.plot is not None:
        found.draw(Path(arguments.plot))
    for result in sizing_results(found.to_json()):
        found.notes += record_result(arguments, SIZE, result)
    write_json(arguments.json, found.to_json())
    if arguments.json != "-":
        show_size(found)
    return EXIT_OK if found.ok else EXIT_FAILED


def _predict(arguments: argparse.Namespace) -> int:
    """Print what the model predicts."""
    from ...base.output import check_output, out, write_json
    from ...campaigns.size.model import Request, predict
    from ...campaigns.size.points import POINTS, load_points

    if arguments.image is not None:
        raise UsageError(f"--model predicts without a guest: leave {arguments.image} out")
    check_output(arguments.json, not_over=[arguments.points] if arguments.points else [])
    packed, unpacked = _parse_initramfs(arguments.initramfs)
    targets = [part.strip() for part in arguments.target.split(",")]
    for name in targets:
        if name not in TARGETS:
            raise UsageError(f"unknown target {name!r} (known: {', '.join(TARGETS)})")
    requests = [
        Request(
            memory_mib=memory_mib,
            vcpus=vcpus,
            kernel=arguments.kernel or "",
            packed_mib=packed,
            unpacked_mib=unpacked,
            parts=(*([target] if target in ("ssh", "nfs") else []), *arguments.part),
        )
        for memory_mib in _memories(arguments)
        for vcpus in _parse_vcpus(arguments.vcpus)
        for target in targets
    ]
    result = predict(load_points(arguments.points or POINTS), requests)
    write_json(arguments.json, result.to_json())
    if arguments.json != "-":
        for line in result.lines():
            out.print(line, markup=False, soft_wrap=True)
    return EXIT_OK


def _parse_initramfs(text: str) -> tuple[int, int]:
    """Return the sizes of an initramfs, packed and unpacked; UsageError for any other text."""
    parts = text.split(":")
    if len(parts) != 2 or not all(part.isascii() and part.isdigit() and len(part) < 6 for part in parts):
        raise UsageError(f"invalid --initramfs: got {text!r}, expected MiB packed and unpacked, as in 30:80")
    return int(parts[0]), int(parts[1])


def _memories(arguments: argparse.Namespace) -> tuple[int, ...]:
    return parse_memories(_MEMORY if arguments.memory is None else arguments.memory)


def parse_memories(text: str) -> tuple[int, ...]:
    """Return the memory sizes of a list like 1G,2G or 1024,2048 in MiB, each once; UsageError for any other part."""
    try:
        return tuple(dict.fromkeys(mib(part.strip()) for part in text.split(",")))
    except argparse.ArgumentTypeError as error:
        raise UsageError(f"argument --memory: {error}") from None


def _parse_vcpus(text: str) -> tuple[int, ...]:
    numbers = []
    for part in text.split(","):
        if not (part.strip().isascii() and part.strip().isdigit() and len(part.strip()) < 5):
            raise UsageError(f"invalid number of processors: got {part.strip()!r}, expected a list as in 2 or 1,2")
        numbers.append(int(part))
    return tuple(dict.fromkeys(numbers))


def show_size(found: Size) -> None:
    """Print the recommended kernel arguments, and the table of the sizing."""
    from rich.markup import escape
    from rich.table import Table

    from ...base.output import out
    from ..runs import at_once

    out.print()
    title = f"[bold green]crashkernel={escape(found.crashkernel or '')}[/]" if found.ok else "[bold red]NO ANSWER[/]"
    if not found.ok and any(one.confirmed is False for one in found.sizings):
        title = "[bold red]NOT CONFIRMED[/]"
    out.print(f"{escape(found.image)}  {title}", soft_wrap=True)
    facts = (f"kernel {found.kernel}", f"makedumpfile {found.makedumpfile or 'not installed'}", found.accelerator)
    out.print(escape(f"  {'; '.join(facts)}; {at_once(found.jobs)}all in {found.took_s:.0f} s"), soft_wrap=True)
    for failure in found.failures():
        out.print(f"[red]NO[/] {escape(failure)}", soft_wrap=True)
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for column in ("machine", "smallest", "measured", "advised", "default", "estimate", "confirmed"):
        table.add_column(column, justify="left" if column == "machine" else "right", no_wrap=True)
    for one in found.sizings:
        table.add_row(
            escape(one.name),
            _mib(one.smallest_mib),
            _mib(one.predicted_mib),
            _mib(one.recommended_mib),
            _mib(one.default_mib),
            _mib(one.estimate_mib),
            {True: "[green]yes[/]", False: "[red]NO[/]", None: "not tried"}[one.confirmed],
        )
    out.print(table)
    out.print(
        "measured: what the capture kernel used at its worst; default and estimate: the distribution's own",
        soft_wrap=True,
    )
    for one in found.sizings:
        _show_sizing(one, found.default)
    if found.margin:
        out.print(escape(f"margin: {found.margin}"), soft_wrap=True)
    for note in found.notes:
        out.print(f"[yellow]{escape(note)}[/]", soft_wrap=True)
    out.print(f"evidence: {escape(found.evidence)}", soft_wrap=True)
    out.print(f"answered: {'true' if found.ok else 'false'}")


def _show_sizing(one: Sizing, default: str | None) -> None:
    from rich.markup import escape

    from ...base.output import out

    out.print(escape(f"{one.name}: {one.proof()}"), soft_wrap=True)
    if one.searched:
        out.print(escape(f"  sizes are of {one.searched}"), soft_wrap=True)
    boots = f"{one.cold_boots} boot{'s' if one.cold_boots != 1 else ''}"
    out.print(f"  {one.crashes} crashes from {boots}, {one.took_s:.0f} s", soft_wrap=True)
    if one.measured is not None and one.measured.used_kib is not None and one.measured.left_kib is not None:
        out.print(
            f"  of {one.measured.all_kib / 1024:.0f} MiB the capture kernel used {one.measured.used_kib / 1024:.0f} at"
            f" most, and had {one.measured.left_kib / 1024:.0f} left",
            soft_wrap=True,
        )
    if default:
        out.print(escape(f"  the distribution's crashkernel={default}: {one.default_verdict()}"), soft_wrap=True)
    if one.confirmation:
        out.print(escape(f"  confirmed by a drill from the power-on: {one.confirmation}"), soft_wrap=True)


def _mib(mib: int | None) -> str:
    return str(mib) if mib is not None else "-"
