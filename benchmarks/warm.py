"""Compares drills of guests restored from a snapshot with the same drills from power-on: wall time and verdicts.

Usage: python benchmarks/warm.py [IMAGE] [--smoke]

Cold drills boot each guest and judge it until it has rebooted. Warm drills restore each guest from the snapshot of a
guest that was booted once, and end when the dump is written. Levels and compressions are those of a sweep.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
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


def make_plans(image: str) -> list[Plan]:
    """Return one plan per level and compression."""
    subject = find_subject(image, family=None)
    return [
        Plan(
            subject=subject,
            config=KdumpConfig(crashkernel=None, level=level, compress=compress),
            name=f"{level}-{compress}",
        )
        for level, compress in product(LEVELS, COMPRESSIONS)
    ]


def drill_all(plans: list[Plan], drill: Callable[[Plan], Verdict]) -> tuple[list[Verdict], float]:
    """Return the verdicts and the wall time in seconds."""
    started_s = now_s()
    verdicts = [drill(plan) for plan in plans]
    return verdicts, now_s() - started_s


def report(plans: list[Plan], cold: list[Verdict], cold_s: float, warm: list[Verdict], warm_s: float) -> int:
    """Print each pair of verdicts and the ratio; return the number of verdicts that agree."""
    for plan, one, other in zip(plans, cold, warm, strict=True):
        print(f"{plan.name:10} cold {_summary(one)}; warm {_summary(other)}")
    same = sum(one.verified == other.verified for one, other in zip(cold, warm, strict=True))
    print(f"{len(plans)} drills: cold {cold_s:.0f} s, warm {warm_s:.0f} s, ratio {warm_s / cold_s:.2f}")
    print(f"verdicts that agree: {same} of {len(plans)}")
    return same


def _summary(verdict: Verdict) -> str:
    size = (verdict.dump or {}).get("size_bytes") or 0
    return f"{'verified' if verdict.verified else verdict.reason()}, {size / (1 << 20):.1f} MiB"


def smoke(plans: list[Plan]) -> int:
    """Check plans and report with verdicts that no guest gave."""
    for plan in plans:
        replace(plan, until=SAVED).check()
    verdict = Verdict(
        image="image", family="debian", trigger="sysrq-c", target="local", accelerator="tcg", memory_mib=1, vcpus=1
    )
    verdicts, _ = drill_all(plans, lambda _plan: verdict)
    return int(report(plans, verdicts, 100.0, verdicts, 50.0) != len(plans))


def main(arguments: list[str] | None = None) -> int:
    """Run every drill twice and print the times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", nargs="?", default="debian-12")
    parser.add_argument("--smoke", action="store_true", help="check the benchmark itself in seconds, without a guest")
    options = parser.parse_args(arguments)
    plans = make_plans(options.image)
    if options.smoke:
        return smoke(plans)
    with (
        tempfile.TemporaryDirectory(prefix="kdump-harness-bench-", dir="/var/tmp") as evidence,
        Run(Options(evidence=Path(evidence), keep="never")) as run,
    ):
        run_drill(run, plans[0])  # builds the disks and fills the page cache
        cold, cold_s = drill_all(plans, lambda plan: run_drill(run, plan))
        pool = WarmPool(run)
        warm, warm_s = drill_all(plans, lambda plan: pool.drill(replace(plan, until=SAVED)))
        pool.close()
    report(plans, cold, cold_s, warm, warm_s)
    return 0


if __name__ == "__main__":
    sys.exit(main())
