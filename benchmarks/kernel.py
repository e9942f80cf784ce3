"""Compares a kernel drill with the same boot, crash and copy by QEMU alone, and the spread of its clocks.

Usage: python benchmarks/kernel.py [KERNEL] [-n PAIRS] [--spread REPEATS] [--jobs DRILLS] [--smoke]

Bare runs and drills use the same kernel and initramfs and take turns. --spread repeats drills with the clock of
instructions with 0, 2 and 6 busy loops at once. --jobs compares so many drills in parallel with one after the other.
libvirt starts the guests of drills with the usual priority: run it without nice, or the bare runs are slowed down.
"""

from __future__ import annotations

import argparse
import contextlib
import shlex
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from kdump_harness.base.verdict import Verdict
from kdump_harness.campaigns.kernels.plan import KernelMatrix
from kdump_harness.campaigns.kernels.run import run_kernels
from kdump_harness.kernel.boot import capture_command_line, write_boot
from kdump_harness.kernel.drill import run_kernel_drill
from kdump_harness.kernel.machine import INSTRUCTIONS, DirectBoot
from kdump_harness.kernel.plan import KernelPlan
from kdump_harness.kernel.source import find_kernel
from kdump_harness.kernel.userland import UserlandRequest, make_userland
from kdump_harness.vm.run import Machine, Options, Run
from kdump_harness.vm.shells.serial_shell import escaped

RATIO_LIMIT, JOBS_LIMIT, SPREAD_LIMIT = 1.10, 0.75, 0.01
BUSY_LOOPS = (0, 2, 6)


def qemu_command(boot: DirectBoot, accelerator: str, memory_mib: int, directory: Path) -> list[str]:
    """Return the command line of QEMU alone."""
    tcg = ["-accel", "tcg,thread=multi,tb-size=256", "-cpu", "qemu64,-cx16"]
    kvm = ["-accel", "kvm", "-cpu", "host"]
    return [
        "qemu-system-x86_64", "-machine", "q35", *(kvm if accelerator == "kvm" else tcg), "-m", str(memory_mib),
        "-smp", "2", "-display", "none", "-no-reboot", "-nodefaults",
        "-kernel", str(boot.kernel), "-initrd", str(boot.initrd), "-append", boot.command_line,
        "-drive", f"file={boot.dump_disk},if=virtio,format=raw,cache=unsafe",
        "-serial", f"file:{directory}/console", "-serial", f"unix:{directory}/control,server=on,wait=on",
    ]  # fmt: skip


def bare(command: list[str], capture: str, directory: Path, disk: Path) -> float:
    """Return the seconds from the start of QEMU to the end of the vmcore's copy."""
    began_s = time.monotonic()
    qemu = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with socket.socket(socket.AF_UNIX) as control:
            while True:
                with contextlib.suppress(OSError):
                    control.connect(f"{directory}/control")
                    break
                time.sleep(0.05)
            lines = control.makefile("rw")
            wait_for(lines.readline, "ready")
            load = f"kexec -p /kexec/kernel --initrd=/kexec/initrd --append={shlex.quote(capture)}"
            for number, (how, script) in enumerate((("run", load), ("start", "echo c > /proc/sysrq-trigger")), start=1):
                lines.write(f"{number} {how} {escaped(script)}\n")
                lines.flush()
                if how == "run":
                    assert wait_for(lines.readline, "1")[0] == "0"
            status, size = wait_for(lines.readline, "vmcore")
            assert status == "0"
        with disk.open("rb") as source:
            (directory / "vmcore").write_bytes(source.read(int(size)))
        return time.monotonic() - began_s
    finally:
        qemu.kill()
        qemu.wait()


def wait_for(read: Callable[[], str], word: str) -> list[str]:
    """Return the words behind a word at the beginning of a line."""
    while line := read():
        if line.split()[:1] == [word]:
            return line.split()[1:]
    sys.exit(f"the control line ended before {word!r}")


@contextlib.contextmanager
def busy(loops: int) -> Iterator[None]:
    """Let so many processes compute meanwhile."""
    running = [subprocess.Popen(["sh", "-c", "while :; do :; done"]) for _ in range(loops)]
    try:
        yield
    finally:
        for one in running:
            one.kill()
            one.wait()


def spread(values: list[float]) -> float:
    """Return the distance of the extremes, as a share of the median."""
    return (max(values) - min(values)) / statistics.median(values)


def show_spread(verdicts: list[Verdict]) -> bool:
    """Print the spread of each phase in both clocks; return whether every drill was verified."""
    for name in verdicts[0].processor_s:
        counted = spread([verdict.processor_s[name] for verdict in verdicts])
        wall = spread([verdict.phases_s[name] for verdict in verdicts])
        print(f"{name}: spread {counted:.2%} by instructions (limit {SPREAD_LIMIT:.0%}), {wall:.0%} by wall time")
    return all(verdict.verified for verdict in verdicts)


def smoke() -> int:
    """Check command line and arithmetic without a guest."""
    boot = DirectBoot(kernel=Path("k"), initrd=Path("i"), command_line="a b", dump_disk=Path("d"))
    assert "a b" in qemu_command(boot, "tcg", 768, Path("/tmp"))
    assert wait_for(iter(["noise\n", "vmcore 0 12\n"]).__next__, "vmcore") == ["0", "12"]
    assert spread([1.0, 1.0, 1.01]) < 0.011
    with busy(1):
        pass
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Return 1 if a drill is not verified."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kernel", nargs="?", default="bookworm")
    parser.add_argument("-n", type=int, default=3, help="number of pairs (default: 3)")
    parser.add_argument("--spread", type=int, default=0, help="repeats with the clock of instructions")
    parser.add_argument("--jobs", type=int, default=0, help="number of drills in parallel")
    parser.add_argument("--smoke", action="store_true", help="check the benchmark itself in seconds, without a guest")
    options = parser.parse_args(arguments)
    if options.smoke:
        return smoke()
    good = True
    with tempfile.TemporaryDirectory() as scratch:
        evidence = Path(scratch) / "evidence"
        with Run(Options(evidence=evidence, quiet=True, network=False, jobs=options.jobs or 1)) as run:
            kernel = find_kernel(options.kernel, run.state, run.progress)
            userland = make_userland(UserlandRequest(), run.state, run.progress)
            plan = KernelPlan(kernel=kernel, userland=userland)
            ratios = []
            for number in range(options.n):
                directory = Path(scratch) / str(number)
                directory.mkdir()
                boot = write_boot(plan, directory, "bare")
                memory_mib = plan.machine.memory_mib
                command = qemu_command(boot, run.accelerator, memory_mib, directory)
                bare_s = bare(command, capture_command_line(plan), directory, boot.dump_disk)
                began_s = time.monotonic()
                verdict = run_kernel_drill(run, plan)
                drill_s = time.monotonic() - began_s
                good = good and verdict.verified
                ratios.append(drill_s / bare_s)
                print(f"drill {drill_s:.1f} s (verified: {verdict.verified}), bare {bare_s:.1f} s", flush=True)
            if ratios:
                print(f"overhead: median ratio {statistics.median(ratios):.3f} (limit {RATIO_LIMIT})")
            if options.spread:
                counted = KernelPlan(
                    kernel=kernel,
                    userland=userland,
                    machine=Machine(memory_mib=plan.machine.memory_mib, vcpus=1),
                    clock=INSTRUCTIONS,
                )
                verdicts = []
                for number in range(options.spread):
                    with busy(BUSY_LOOPS[number % len(BUSY_LOOPS)]):
                        verdicts.append(run_kernel_drill(run, counted))
                    print(verdicts[-1].processor_s, flush=True)
                good = show_spread(verdicts) and good
        if options.jobs:
            took_s = {}
            for jobs in (1, options.jobs):
                with Run(Options(evidence=evidence, quiet=True, network=False, jobs=jobs)) as run:
                    matrix = KernelMatrix(kernels=(options.kernel,), levels=tuple(range(options.jobs)))
                    found = run_kernels(run, matrix)
                    took_s[jobs] = found.took_s
                    good = good and found.ok
            ratio = took_s[options.jobs] / took_s[1]
            print(f"{options.jobs} in parallel {took_s[options.jobs]:.0f} s, one by one {took_s[1]:.0f} s: {ratio:.2f}"
                  f" (limit {JOBS_LIMIT})")  # fmt: skip
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
