"""The verb kernel: one kernel, booted directly, crashed, and judged."""

from __future__ import annotations

import argparse
import dataclasses
import re
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...base.errors import EXIT_FAILED, EXIT_OK, HarnessError, HostError, UsageError
from ...distro.architecture import Architecture, find_architecture, load_architectures
from ...distro.family import COMPRESS_FLAGS
from ...fallback.kinds import parse_kinds
from ...kdump.hotplug_steps import parse_steps
from ...kernel.layouts import find_layout, load_layouts
from ...kernel.machine import INSTRUCTIONS, WALL
from ..bare_sides import choose_session
from ..options import (
    add_campaign,
    add_crash,
    add_crashkernel,
    add_fallback,
    add_hotplug,
    add_oracle,
    add_trigger,
    crash_request,
)
from ..parser import Verbs, add_verb
from .drill import report_drill
from .size import parse_memories

if TYPE_CHECKING:
    from ...base.verdict import Verdict
    from ...campaigns.kernels.result import Kernels
    from ...kernel.plan import KernelPlan
    from ...kernel.userland import UserlandRequest
    from ...vm.run import Options

# git-bisect(1): 125 skips a commit, and 128 and more stop the bisection.
BISECT_SKIP, BISECT_STOP = 125, 128
# Options that the file of a matrix has keys for, and their defaults.
_IN_FILE: dict[str, Any] = {
    "memory": None, "level": "31", "compress": "zlib", "trigger": "sysrq-c", "userland": None,
    "crashkernel": None, "arch": None, "vcpus": None, "makedumpfile": None, "layout": [],
}  # fmt: skip


def add_kernel(verbs: Verbs) -> None:
    """Add the verb to the command line."""
    parser = add_verb(
        verbs,
        "kernel",
        "Drill one kernel without a distribution: boot it directly, crash it, and verify the vmcore.",
        run=kernel,
        epilog="examples:\n  kdump-harness kernel trixie-backports\n"
        "  kdump-harness kernel ~/linux --build 'make -j8' --append kasan=off\n"
        "  kdump-harness kernel ./bzImage --makedumpfile ./makedumpfile --level 1\n"
        "  kdump-harness kernel host\n"
        "  git bisect run kdump-harness kernel . --build 'make -j8' --git-bisect",
    )
    guest = parser.add_argument_group("guest")
    guest.add_argument(
        "kernel",
        nargs="*",
        metavar="KERNEL",
        help="bzImage, kernel tree after make, directory with boot and lib/modules, .deb or .rpm files (a.rpm,b.rpm),"
        " Debian suite, SUITE:PACKAGE, or host for the kernel that runs here",
    )
    guest.add_argument("--build", metavar="CMD", help="command to run in the directory KERNEL first")
    guest.add_argument(
        "--second-kernel", metavar="K", help="capture kernel, in the same forms (default: the same kernel)"
    )
    guest.add_argument("--append", default="", metavar="ARGS", help="more arguments for the first kernel")
    guest.add_argument("--capture-append", default="", metavar="ARGS", help="more arguments for the capture kernel")
    guest.add_argument(
        "--arch",
        metavar="A",
        help=f"architecture of the guest: {', '.join(load_architectures())} (default: that of this host);"
        " another one is emulated",
    )
    guest.add_argument("--memory", metavar="S", help="memory of the guest, as 1G or 768 (default: 768; ppc64el: 1024)")
    guest.add_argument(
        "--vcpus",
        type=int,
        metavar="N",
        help="processors of the guest (default: 2; with --clock instructions 1)",
    )
    guest.add_argument(
        "--cpu", type=int, metavar="N", help="x86-64 level of the guest's processor, 1 to 3 (default: 1)"
    )
    guest.add_argument(
        "--module", action="append", default=[], metavar="NAME", help="module to load as well (repeatable)"
    )
    guest.add_argument(
        "--layout", action="append", default=[], metavar="L",
        help=f"layout of the guest's memory: {', '.join(load_layouts())} (repeatable)",
    )  # fmt: skip
    add_hotplug(guest)
    guest.add_argument(
        "--clock",
        choices=(WALL, INSTRUCTIONS),
        default=WALL,
        help="clock of the guest; instructions makes its times independent of the load of the host (emulation only)",
    )
    userland = parser.add_argument_group("userland")
    userland.add_argument(
        "--userland",
        metavar="SUITE",
        help="Debian suite of busybox, kexec and makedumpfile (default: trixie; riscv64: sid)",
    )
    for program in ("makedumpfile", "kexec", "busybox"):
        userland.add_argument(f"--{program}", metavar="P", help=f"other {program}: a program file or a Debian suite")
    kdump = parser.add_argument_group("kdump")
    add_trigger(kdump)
    kdump.add_argument("--level", default=_IN_FILE["level"], metavar="N", help="dump level of makedumpfile, 0 to 31")
    kdump.add_argument(
        "--compress",
        default=_IN_FILE["compress"],
        metavar="C",
        help=f"compression of the dump: {', '.join(COMPRESS_FLAGS)}",
    )
    add_crashkernel(kdump, 'crashkernel= value or "none" (default: 192M; arm64, riscv64: 256M; ppc64el: 320M)')
    kdump.add_argument(
        "--load",
        choices=("auto", "file", "syscall"),
        default="auto",
        help="system call of kexec: kexec_file_load (file), kexec_load (syscall), or the choice of kexec",
    )
    verdict = parser.add_argument_group("verdict")
    add_fallback(verdict)
    add_oracle(verdict)
    add_crash(verdict)
    verdict.add_argument(
        "--bad",
        metavar="CHECKS",
        help="checks whose failure counts, separated by commas (default: every check and every stop)",
    )
    verdict.add_argument(
        "--git-bisect",
        action="store_true",
        help="exit with the statuses of git bisect run: 0 good, 1 bad, 125 not judged, 128 to stop",
    )
    matrix = parser.add_argument_group("matrix")
    matrix.add_argument(
        "--matrix",
        nargs="?",
        const="",
        metavar="FILE",
        help="drill all combinations of kernels and of comma-separated values of --makedumpfile, --level, --compress,"
        " --memory and --layout; FILE is a TOML file with kernels, makedumpfiles, levels, compressions, memories_mib"
        " and layouts",
    )
    run = parser.add_argument_group("run and output")
    add_campaign(run)


def kernel(arguments: argparse.Namespace) -> int:
    """Drill the kernel, and translate the outcome for git bisect where asked."""
    from ...base.progress import err

    if arguments.matrix is not None:
        return _drill_matrix(arguments)
    if not arguments.git_bisect:
        return _drill(arguments, *_asked(arguments))
    try:
        asked = _asked(arguments)
    except HarnessError as error:
        return _stop_bisection(str(error))  # what was asked is wrong for every commit
    try:
        return _drill(arguments, *asked)
    except HostError as error:
        return _stop_bisection(str(error))
    except HarnessError as error:
        err.print(f"kdump-harness: this commit is not judged: {error}", markup=False)
        return BISECT_SKIP
    except OSError as error:
        return _stop_bisection(f"{error.filename or 'the host'}: {error.strerror or error}")
    except Exception:  # its usual status, 1, would say that the commit is bad
        return _stop_bisection(traceback.format_exc())


def _stop_bisection(why: str) -> int:
    from ...base.progress import err

    err.print(f"kdump-harness: {why}", markup=False)
    return BISECT_STOP


def _asked(arguments: argparse.Namespace) -> tuple[KernelPlan, frozenset[str]]:
    """Return the plan of a drill whose kernel is not yet found, and the checks that count.

    Raises HarnessError for what is known to be wrong before anything is built or downloaded.
    """
    from ...drill.checks import Scope, required
    from ...kernel.build import check_build
    from ...kernel.plan import KernelPlan
    from ...kernel.source import check_kernel, not_yet_found
    from ...kernel.userland import check_userland
    from ...vm.run import Machine
    from ..runs import check_outputs

    if len(arguments.kernel) != 1:
        raise UsageError(f"expected one KERNEL, got {len(arguments.kernel)} (--matrix drills several)")
    if arguments.resume is not None:
        raise UsageError("--resume is for --matrix: a single drill starts afresh")
    arguments.kernel = arguments.kernel[0]
    bad = frozenset(() if arguments.bad is None else _words("--bad", arguments.bad))
    if unknown := bad - required(Scope.KERNEL) - {"oracle", "crash"}:
        known = ", ".join(sorted(required(Scope.KERNEL)))
        raise UsageError(f"--bad: unknown check {min(unknown)!r} (known: {known})")
    vcpus = arguments.vcpus if arguments.vcpus is not None else 1 if arguments.clock == INSTRUCTIONS else 2
    architecture = find_architecture(arguments.arch)
    memory_mib = _one_memory(arguments.memory) if arguments.memory else architecture.memory_mib
    machine = Machine(memory_mib=memory_mib, vcpus=vcpus, cpu_level=arguments.cpu)
    plan = KernelPlan(
        kernel=not_yet_found(arguments.kernel),
        architecture=architecture,
        machine=machine,
        crashkernel=arguments.crashkernel,
        level=_number("--level", arguments.level),
        compress=arguments.compress,
        trigger=arguments.trigger,
        append=arguments.append,
        capture_append=arguments.capture_append,
        load=arguments.load,
        modules=tuple(arguments.module),
        layouts=tuple(map(find_layout, arguments.layout)),
        clock=arguments.clock,
        oracle=arguments.oracle,
        crash=crash_request(arguments),
        fallback=parse_kinds(arguments.fallback),
        hotplug=parse_steps(arguments.hotplug),
    )
    plan.drill_plan()
    check_kernel(arguments.kernel, architecture)
    if arguments.second_kernel:
        check_kernel(arguments.second_kernel, architecture)
    check_userland(_userland(arguments, architecture))
    if arguments.build:
        check_build(arguments.kernel)
    check_outputs(arguments)
    return plan, bad


def _userland(arguments: argparse.Namespace, architecture: Architecture) -> UserlandRequest:
    """Return the userland that the options ask for."""
    from ...kernel.userland import PROGRAMS, UserlandRequest

    instead = {program: value for program in PROGRAMS if (value := getattr(arguments, program))}
    return UserlandRequest(suite=arguments.userland or "", instead=instead, architecture=architecture)


def _drill(arguments: argparse.Namespace, plan: KernelPlan, bad: frozenset[str]) -> int:
    from ...kernel.build import run_build
    from ...kernel.drill import run_kernel_drill
    from ...kernel.source import find_kernel
    from ...kernel.userland import make_userland
    from ...vm.run import Run

    choose_session(arguments)
    with Run(_options(arguments, plan.architecture)) as run:
        plan.hardware(run.accelerator, plan.machine)
        if arguments.build:
            run_build(arguments.build, arguments.kernel, log=run.log_path("build.log"), progress=run.progress)
        second = arguments.second_kernel
        plan = dataclasses.replace(
            plan,
            kernel=find_kernel(arguments.kernel, run.state, run.progress, plan.architecture),
            userland=make_userland(_userland(arguments, plan.architecture), run.state, run.progress),
            second=find_kernel(second, run.state, run.progress, plan.architecture) if second else None,
        )
        verdict = run_kernel_drill(run, plan)
    report_drill(arguments, verdict)
    return _status(verdict, bad)


def _options(arguments: argparse.Namespace, architecture: Architecture) -> Options:
    from ..runs import options_of

    return options_of(arguments, network=False, architecture=architecture)


def _number(option: str, text: str) -> int:
    """Return a number of an option that may be a list in a matrix."""
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise UsageError(f"{option}: expected one number, got {text!r} (--matrix takes lists)")
    return int(text)


def _one_memory(text: str) -> int:
    """Return a size of memory in MiB; --matrix takes lists."""
    if "," in text:
        raise UsageError(f"--memory: expected one size, got {text!r} (--matrix takes lists)")
    return parse_memories(text)[0]


def _numbers(option: str, text: str) -> tuple[int, ...]:
    return tuple(dict.fromkeys(_number(option, part.strip()) for part in text.split(",")))


def _words(option: str, text: str) -> tuple[str, ...]:
    words = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    if "" in words:
        raise UsageError(f"{option}: expected values separated by commas, got {text!r}")
    return words


def _drill_matrix(arguments: argparse.Namespace) -> int:
    """Drill all combinations, from the options or from a file."""
    from ...base.output import write_json
    from ...campaigns.kernels.plan import KernelMatrix, load_matrix
    from ...campaigns.kernels.run import run_kernels
    from ...campaigns.resume import with_record
    from ...history.database import DRILL
    from ...vm.run import Run
    from ..runs import check_outputs, record_result

    refused = {
        "--build": arguments.build, "--second-kernel": arguments.second_kernel, "--git-bisect": arguments.git_bisect,
        "--bad": arguments.bad, "--append": arguments.append, "--capture-append": arguments.capture_append,
        "--module": arguments.module, "--kexec": arguments.kexec, "--busybox": arguments.busybox,
        "--oracle": arguments.oracle, "--fallback": arguments.fallback, "--hotplug": arguments.hotplug,
        "--clock": arguments.clock != WALL, "--load": arguments.load != "auto", "--cpu": arguments.cpu,
        "--crash": arguments.crash, "--crash-package": arguments.crash_package, "--debuginfo": arguments.debuginfo,
    }  # fmt: skip
    for option, given in refused.items():
        if given:
            raise UsageError(f"{option} cannot go with --matrix")
    if arguments.matrix:
        if arguments.kernel:
            raise UsageError("KERNEL cannot go with --matrix FILE: the file names the kernels")
        for name, usual in _IN_FILE.items():
            if getattr(arguments, name) != usual:
                raise UsageError(f"--{name} cannot go with --matrix FILE: the file has a key for it")
        plan = load_matrix(Path(arguments.matrix))
    else:
        architecture = find_architecture(arguments.arch)
        userland = arguments.userland or architecture.userland
        plan = KernelMatrix(
            kernels=tuple(dict.fromkeys(arguments.kernel)),
            arch=architecture.name,
            makedumpfiles=_words("--makedumpfile", arguments.makedumpfile or userland),
            levels=_numbers("--level", arguments.level),
            compressions=_words("--compress", arguments.compress),
            memories_mib=parse_memories(arguments.memory or str(architecture.memory_mib)),
            layouts=_words("--layout", ",".join(arguments.layout)) if arguments.layout else ("",),
            userland=userland,
            crashkernel=arguments.crashkernel or "",
            vcpus=2 if arguments.vcpus is None else arguments.vcpus,
            trigger=arguments.trigger,
        )
    plan.check()
    check_outputs(arguments)
    choose_session(arguments)

    def drilled(verdict: Verdict) -> None:
        verdict.remarks += record_result(arguments, DRILL, verdict.to_json())

    options = with_record(_options(arguments, find_architecture(plan.arch or None)), arguments.resume, "kernels.json")
    with Run(options) as run:
        found = run_kernels(run, plan, on_verdict=drilled)
    write_json(arguments.json, found.to_json())
    if arguments.json != "-":
        show_kernels(found)
    return EXIT_OK if found.ok else EXIT_FAILED


def show_kernels(found: Kernels) -> None:
    """Print the matrix as a table."""
    from rich.markup import escape
    from rich.table import Table

    from ...base.output import out
    from ...campaigns.kernels.result import FAILED, KNOWN, NOT_JUDGED, VERIFIED
    from ..runs import at_once

    colours = {VERIFIED: "green", FAILED: "red", KNOWN: "yellow", NOT_JUDGED: "cyan"}
    out.print()
    counts = ", ".join(f"{found.count(status)} {status}" for status in colours if found.count(status))
    out.print(f"{found.cells} kernel drills: {counts}; {at_once(found.jobs)}all in {found.took_s:.0f} s")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("kernel", "makedumpfile", "-d", "compression", "MiB", "layout", "", "reason"):
        table.add_column(column, overflow="fold")
    order = {(one.cell.kernel, one.cell.makedumpfile): number for number, one in enumerate(found.outcomes)}
    for one in sorted(found.outcomes, key=lambda one: (one.cell.kernel, order[one.cell.kernel, one.cell.makedumpfile])):
        cell = one.cell
        table.add_row(
            escape(one.release or cell.kernel),
            escape(one.makedumpfile or cell.makedumpfile),
            str(cell.level),
            cell.compress,
            str(cell.memory_mib),
            cell.layout,
            f"[{colours[one.status]}]{one.status}[/]",
            escape(", ".join(one.failed) or one.reason[:200]),
        )
    out.print(table)
    for note in found.notes:
        out.print(f"[yellow]{escape(note)}[/]", soft_wrap=True)
    out.print(f"evidence: {escape(found.evidence)}", soft_wrap=True)
    out.print(f"all verified: {'true' if found.ok else 'false'}")


def _status(verdict: Verdict, bad: frozenset[str]) -> int:
    """Return the exit status; with BAD, only these checks count, and a check that was not made is not judged."""
    if verdict.verified:
        return EXIT_OK
    if not bad:
        return EXIT_FAILED
    made = {check.name: check.ok for check in verdict.checks}
    if missing := bad - set(made):
        raise HarnessError(f"the checks {', '.join(sorted(missing))} were not made: {verdict.reason()}")
    return EXIT_OK if all(made[name] for name in bad) else EXIT_FAILED
