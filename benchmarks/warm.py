"""The same drills from saved memory and from the power-on: wall time of each way, as a ratio, and their verdicts.

    python benchmarks/warm.py [IMAGE]

Cold, each guest is booted and judged until it has rebooted; warm, each goes on from the memory of one that was booted
once, and is switched off when its dump is written. Levels and compressions are those of a sweep.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from itertools import product
from pathlib import Path

from kdump_harness.base.clock import now_s
from kdump_harness.base.verdict import Verdict
from kdump_harness.cli.subject import find_subject
from kdump_harness.drill.plan import SAVED, Plan
from kdump_harness.drill.session import run_drill
from kdump_harness.drill.warm_pool import WarmPool
from kdump_harness.kdump.service import KdumpConfig
from kdump_harness.vm.run import Options, Run

LEVELS = (0, 1, 16, 31)
COMPRESSIONS = ("none", "zlib", "lzo")


def main() -> None:
    """Drill everything twice and print what it took."""
    image = sys.argv[1] if len(sys.argv) > 1 else "debian-12"
    subject = find_subject(image, family=None)
    plans = [
        Plan(
            subject=subject,
            config=KdumpConfig(crashkernel=None, level=level, compress=compress),
            name=f"{level}-{compress}",
        )
        for level, compress in product(LEVELS, COMPRESSIONS)
    ]
    with (
        tempfile.TemporaryDirectory(prefix="kdump-harness-bench-", dir="/var/tmp") as evidence,
        Run(Options(evidence=Path(evidence), keep="never")) as run,
    ):
        run_drill(run, plans[0])  # disks are made, and files are in the page cache
        started_s = now_s()
        cold = [run_drill(run, plan) for plan in plans]
        cold_s = now_s() - started_s
        pool = WarmPool(run)
        started_s = now_s()
        warm = [pool.drill(replace(plan, until=SAVED)) for plan in plans]
        pool.close()
        warm_s = now_s() - started_s
    for plan, one, other in zip(plans, cold, warm, strict=True):
        print(f"{plan.name:10} cold {_told(one)}; warm {_told(other)}")
    same = sum(one.verified == other.verified for one, other in zip(cold, warm, strict=True))
    print(f"{len(plans)} drills: cold {cold_s:.0f} s, warm {warm_s:.0f} s, ratio {warm_s / cold_s:.2f}")
    print(f"verdicts that agree: {same} of {len(plans)}")


def _told(verdict: Verdict) -> str:
    size = (verdict.dump or {}).get("size_bytes") or 0
    return f"{'verified' if verdict.verified else verdict.reason()}, {size / (1 << 20):.1f} MiB"


if __name__ == "__main__":
    main()
