"""Measure the memory that capture kernels need, by kernel drills, and add it to the points of size --model.

    python docs/generate/size_points.py bookworm --memory 1G,4G --vcpus 1,4 [--module nouveau] [--level 1]

Each combination is crashed. A verified drill is a point, which is added to campaigns/size/points.toml of the package.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from pathlib import Path

from kdump_harness.campaigns.size.points import POINTS, point_of, to_toml
from kdump_harness.cli.verbs.size import parse_memories
from kdump_harness.kernel.drill import run_kernel_drill
from kdump_harness.kernel.layouts import find_layout
from kdump_harness.kernel.plan import KernelPlan
from kdump_harness.kernel.source import find_kernel
from kdump_harness.kernel.userland import UserlandRequest, make_userland
from kdump_harness.vm.run import Machine, Options, Run


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kernel")
    parser.add_argument("--memory", default="1G")
    parser.add_argument("--vcpus", default="1")
    parser.add_argument("--module", action="append", default=[])
    parser.add_argument("--level", type=int, default=31)
    parser.add_argument("--compress", default="zlib")
    parser.add_argument("--crashkernel", default="256M")
    parser.add_argument("--layout", action="append", default=[])
    parser.add_argument("--makedumpfile", metavar="SUITE", help="for kernels that are too new for the usual one")
    parser.add_argument("--points", type=Path, default=POINTS)
    parser.add_argument("--evidence", type=Path, default=Path("evidence"))
    arguments = parser.parse_args()
    instead = {"makedumpfile": arguments.makedumpfile} if arguments.makedumpfile else {}
    done = 0
    with Run(Options(evidence=arguments.evidence)) as run:
        kernel = find_kernel(arguments.kernel, run.state, run.progress)
        userland = make_userland(UserlandRequest(instead=instead), run.state, run.progress)
        for memory_mib, vcpus in itertools.product(parse_memories(arguments.memory), arguments.vcpus.split(",")):
            plan = KernelPlan(
                kernel=kernel,
                userland=userland,
                machine=Machine(memory_mib=memory_mib, vcpus=int(vcpus)),
                crashkernel=arguments.crashkernel,
                level=arguments.level,
                compress=arguments.compress,
                modules=tuple(arguments.module),
                layouts=tuple(map(find_layout, arguments.layout)),
                capture_append="kdump_harness.measure=1",
                name=f"size-points/{kernel.release}-{memory_mib}M-{vcpus}cpu-{'-'.join(arguments.module)}",
            )
            verdict = run_kernel_drill(run, plan)
            console = Path(verdict.evidence, "console.log").read_text(encoding="utf-8", errors="replace")
            point = point_of(verdict, console, drivers=tuple(arguments.module))
            sys.stdout.write(f"{verdict.explain() if point is None else point}\n")
            if point is not None:
                with arguments.points.open("a", encoding="utf-8") as file:
                    file.write(f"\n{to_toml(point)}")
                done += 1
    return 0 if done else 1


if __name__ == "__main__":
    sys.exit(main())
