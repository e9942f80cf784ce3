"""Measures what the check `crash` adds to a drill: processor time and memory, next to those of crash alone.

Usage: python benchmarks/crash.py [VMCORE] [--crash-package SUITE] [-n REPEATS] [--smoke]

Without VMCORE, a kernel drill of Debian 13 makes one. The debug info is downloaded before the measurement. The limits
are 15 s of processor time, and 1.2 times the peak memory of crash.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kdump_harness.base.progress import Progress
from kdump_harness.images.state import State
from kdump_harness.triage.crash import CrashRequest, ask_crash, load_commands
from kdump_harness.triage.crash_program import find_program, suite_of
from kdump_harness.vmcore import inspect

PROCESSOR_LIMIT_S, MEMORY_LIMIT = 15.0, 1.2
QUIET = Progress(quiet=True)


@dataclass(frozen=True)
class Cost:
    """The resources of one call, with those of its processes."""

    processor_s: float
    own_growth_mib: float
    child_peak_mib: float
    wall_s: float


def measure(action: Callable[[], object]) -> Cost:
    """Return what an action costs; the peak of the children is that of the largest one so far."""
    before = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    began_s = time.monotonic()
    action()
    wall_s = time.monotonic() - began_s
    after = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return Cost(
        processor_s=sum(a.ru_utime + a.ru_stime - b.ru_utime - b.ru_stime for a, b in zip(after, before, strict=True)),
        own_growth_mib=(after[0].ru_maxrss - before[0].ru_maxrss) / 1024,
        child_peak_mib=after[1].ru_maxrss / 1024,
        wall_s=wall_s,
    )


def crash_alone(command: tuple[str, ...], vmlinux: str, vmcore: Path) -> None:
    """Run crash with the commands of the check, and nothing else."""
    with tempfile.TemporaryDirectory() as place:
        script = Path(place, "commands")
        script.write_text("".join(f"{one.run}\n" for one in load_commands()) + "quit\n")
        subprocess.run(
            [*command, "-s", "-i", str(script), vmlinux, str(vmcore)],
            cwd=place, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False,
        )  # fmt: skip


def make_vmcore(evidence: Path) -> Path:
    """Return the vmcore of a kernel drill."""
    from kdump_harness.kernel.drill import run_kernel_drill
    from kdump_harness.kernel.plan import KernelPlan
    from kdump_harness.kernel.source import find_kernel
    from kdump_harness.kernel.userland import UserlandRequest, make_userland
    from kdump_harness.vm.run import Options, Run

    with Run(Options(evidence=evidence, keep="always", network=False)) as run:
        plan = KernelPlan(
            kernel=find_kernel("trixie", run.state, run.progress),
            userland=make_userland(UserlandRequest(), run.state, run.progress),
        )
        verdict = run_kernel_drill(run, plan)
    return Path(verdict.evidence) / "vmcore"


def show(vmcore: Path, package: str, repeats: int) -> bool:
    """Print the figures; return whether they are within the limits."""
    found = inspect(vmcore)
    request = CrashRequest(program=package)
    report = ask_crash(vmcore, request=request, progress=QUIET)
    program = find_program(package, suite_of(found.kernel or ""), State(None), QUIET)
    print(f"{vmcore}: {found.kernel}, {program}: {report.summary()}")
    alone, checks = [], []
    for _ in range(repeats):
        alone.append(measure(lambda: crash_alone(program.command, report.debuginfo, vmcore)))
        checks.append(measure(lambda: ask_crash(vmcore, request=request, progress=QUIET)))
    check_s = statistics.median(cost.processor_s for cost in checks)
    alone_s = statistics.median(cost.processor_s for cost in alone)
    peak_mib = max(cost.child_peak_mib for cost in alone)
    ratio = (max(cost.child_peak_mib for cost in checks) + max(cost.own_growth_mib for cost in checks)) / peak_mib
    print(f"crash alone: {alone_s:.1f} s of processor time, {peak_mib:.0f} MiB")
    print(f"the check:   {check_s:.1f} s of processor time (limit {PROCESSOR_LIMIT_S:.0f} s), {ratio:.2f} times the"
          f" memory of crash (limit {MEMORY_LIMIT})")  # fmt: skip
    return check_s <= PROCESSOR_LIMIT_S and ratio <= MEMORY_LIMIT


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("vmcore", nargs="?", type=Path, metavar="VMCORE")
    parser.add_argument("--crash-package", default="", metavar="SUITE")
    parser.add_argument("-n", type=int, default=3, metavar="REPEATS", dest="repeats")
    parser.add_argument("--smoke", action="store_true", help="measure a program that does nothing")
    asked = parser.parse_args(arguments)
    if asked.smoke:
        cost = measure(lambda: subprocess.run(["true"], check=True))
        print(f"{cost.processor_s:.3f} s of processor time, {cost.child_peak_mib:.0f} MiB")
        return 0
    if asked.vmcore is not None:
        return 0 if show(asked.vmcore, asked.crash_package, asked.repeats) else 1
    with tempfile.TemporaryDirectory() as place:
        return 0 if show(make_vmcore(Path(place)), asked.crash_package, asked.repeats) else 1


if __name__ == "__main__":
    sys.exit(main())
