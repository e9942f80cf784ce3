"""The verb kernel: one kernel, booted directly, crashed, and judged."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from ...base.errors import EXIT_FAILED, EXIT_OK, HarnessError, HostError, UsageError
from ...kdump.trigger import load_triggers
from ..options import add_crashkernel, add_filter, add_json, add_keep, add_run
from ..parser import Verbs, add_verb
from .drill import show_verdict

if TYPE_CHECKING:
    from ...base.verdict import Verdict

# git-bisect(1): 125 skips a commit, and 128 and more stop the bisection.
BISECT_SKIP, BISECT_STOP = 125, 128


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
        metavar="KERNEL",
        help="bzImage, kernel tree after make, directory with boot and lib/modules, .deb, Debian suite, SUITE:PACKAGE,"
        " or host for the kernel that runs here",
    )
    guest.add_argument("--build", metavar="CMD", help="command to run in the directory KERNEL first")
    guest.add_argument(
        "--second-kernel", metavar="K", help="capture kernel, in the same forms (default: the same kernel)"
    )
    guest.add_argument("--append", default="", metavar="ARGS", help="more arguments for the first kernel")
    guest.add_argument("--capture-append", default="", metavar="ARGS", help="more arguments for the capture kernel")
    guest.add_argument("--memory", type=int, default=768, metavar="MIB", help="memory of the guest")
    guest.add_argument("--vcpus", type=int, default=2, metavar="N", help="processors of the guest")
    guest.add_argument(
        "--cpu", type=int, metavar="N", help="x86-64 level of the guest's processor, 1 to 3 (default: 1)"
    )
    guest.add_argument(
        "--module", action="append", default=[], metavar="NAME", help="module to load as well (repeatable)"
    )
    userland = parser.add_argument_group("userland")
    userland.add_argument(
        "--userland", default="trixie", metavar="SUITE", help="Debian suite of busybox, kexec and makedumpfile"
    )
    for program in ("makedumpfile", "kexec", "busybox"):
        userland.add_argument(f"--{program}", metavar="P", help=f"other {program}: a program file or a Debian suite")
    kdump = parser.add_argument_group("kdump")
    kdump.add_argument(
        "--trigger", default="sysrq-c", metavar="T", help=f"way to crash the guest: {', '.join(load_triggers())}"
    )
    add_filter(kdump)
    add_crashkernel(kdump, 'crashkernel= value or "none" (default: 192M)')
    kdump.add_argument(
        "--load",
        choices=("auto", "file", "syscall"),
        default="auto",
        help="system call of kexec: kexec_file_load (file), kexec_load (syscall), or the choice of kexec",
    )
    verdict = parser.add_argument_group("verdict")
    verdict.add_argument(
        "--oracle",
        action="store_true",
        help="compare the vmcore with the memory that the hypervisor saw (needs disk space for the guest's memory)",
    )
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
    run = parser.add_argument_group("run and output")
    add_keep(run)
    add_run(run)
    add_json(run)


def kernel(arguments: argparse.Namespace) -> int:
    """Drill the kernel, and translate the outcome for git bisect where asked."""
    from ...base.progress import err

    if not arguments.git_bisect:
        return _drill(arguments)
    try:
        return _drill(arguments)
    except HostError as error:
        err.print(f"kdump-harness: {error}", markup=False)
        return BISECT_STOP
    except HarnessError as error:
        err.print(f"kdump-harness: this commit is not judged: {error}", markup=False)
        return BISECT_SKIP


def _drill(arguments: argparse.Namespace) -> int:
    from ...base.evidence import check_writable
    from ...base.output import check_output, write_json
    from ...drill.checks import Scope, required
    from ...history.database import DRILL
    from ...kernel.build import run_build
    from ...kernel.drill import KernelPlan, run_kernel_drill
    from ...kernel.source import find_kernel
    from ...kernel.userland import UserlandRequest, make_userland
    from ...vm.run import Machine, Run
    from ..runs import options_of, record_result

    bad = frozenset(filter(None, (arguments.bad or "").split(",")))
    if unknown := bad - required(Scope.KERNEL) - {"oracle"}:
        known = ", ".join(sorted(required(Scope.KERNEL)))
        raise UsageError(f"--bad: unknown check {min(unknown)!r} (known: {known})")
    machine = Machine(memory_mib=arguments.memory, vcpus=arguments.vcpus, cpu_level=arguments.cpu)
    machine.check()
    check_writable(arguments.evidence)
    check_output(arguments.json)
    if arguments.uri is None and os.getuid() != 0:
        arguments.uri = os.environ.get("LIBVIRT_DEFAULT_URI") or "qemu:///session"
    with Run(options_of(arguments, network=False)) as run:
        if arguments.build:
            run_build(arguments.build, arguments.kernel, log=run.log_path("build.log"), progress=run.progress)
        second = arguments.second_kernel
        plan = KernelPlan(
            kernel=find_kernel(arguments.kernel, run.state, run.progress),
            userland=make_userland(
                UserlandRequest(
                    suite=arguments.userland,
                    instead={
                        program: value
                        for program in ("makedumpfile", "kexec", "busybox")
                        if (value := getattr(arguments, program))
                    },
                ),
                run.state,
                run.progress,
            ),
            second=find_kernel(second, run.state, run.progress) if second else None,
            machine=machine,
            crashkernel=arguments.crashkernel,
            level=arguments.level,
            compress=arguments.compress,
            trigger=arguments.trigger,
            append=arguments.append,
            capture_append=arguments.capture_append,
            load=arguments.load,
            modules=tuple(arguments.module),
            oracle=arguments.oracle,
        )
        verdict = run_kernel_drill(run, plan)
    verdict.remarks += record_result(arguments, DRILL, verdict.to_json())
    write_json(arguments.json, verdict.to_json())
    if arguments.json != "-":
        show_verdict(verdict)
    return _status(verdict, bad)


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
