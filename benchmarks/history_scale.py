"""Measures how long the report and the verb history take with a history of 20,000 drills.

Usage: python benchmarks/history_scale.py [--smoke]
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from history_factory import drill, failed
from kdump_harness.history.database import DRILL, History

DRILLS, SMOKE_DRILLS = 20_000, 60
# Images and scenarios: few with a long past, and many with a short one.
SHAPES = ((18, 8), (40, 50))
# Processor time, since other work on the host affects the time of the clock.
REPORT_LIMIT_S, VERB_LIMIT_S, PAGE_LIMIT_BYTES = 5.0, 0.5, 3_000_000
VERBS = {"history": [], "history --trend": ["--trend", "panic_to_login"], "history --prune": ["--prune", "--days", "9"]}


def main() -> int:
    """Return 1 if a limit is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help=f"use {SMOKE_DRILLS} drills, without a limit")
    smoke = parser.parse_args().smoke
    slow = False
    for images, scenarios in SHAPES:
        print(f"{SMOKE_DRILLS if smoke else DRILLS:,} drills of {images} images, {scenarios} scenarios:")
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "history.sqlite"
            _fill(path, SMOKE_DRILLS if smoke else DRILLS, images, scenarios)
            page = Path(scratch) / "report.html"
            slow |= _measure("report", ["report", "--out", str(page)], path, REPORT_LIMIT_S)
            size_bytes = page.stat().st_size
            slow |= size_bytes > PAGE_LIMIT_BYTES
            print(f"  page              {size_bytes / 1e6:.2f} MB (limit {PAGE_LIMIT_BYTES / 1e6:.0f} MB)")
            for name, options in VERBS.items():
                dry_run = ["--dry-run"] if "--prune" in options else []
                slow |= _measure(name, ["history", *options, *dry_run], path, VERB_LIMIT_S)
            metrics = ["history", "--metrics", str(Path(scratch) / "kdump.prom")]
            slow |= _measure("history --metrics", metrics, path, VERB_LIMIT_S)
    return int(slow and not smoke)


def _fill(path: Path, count: int, images: int, scenarios: int) -> None:
    with History(path) as history:
        history._database.run("PRAGMA synchronous = OFF")  # 20,000 transactions, not needed after a crash
        for number in range(count):
            night, place = divmod(number, images * scenarios)
            image, scenario = divmod(place, scenarios)
            made = failed if (night + place) % 97 == 0 else drill
            verdict = made(night + place / 5000, image=f"image-{image}", kernel=f"6.1.0-{50 + night // 9}")
            history.add(DRILL, verdict, scenario=f"scenarios/test_all.py::test_{scenario}")


def _measure(name: str, command: list[str], history: Path, limit_s: float) -> bool:
    """Run a verb and return whether it takes more processor time than its limit."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    program = [sys.executable, "-m", "kdump_harness", *command, "--history", str(history)]
    subprocess.run(program, stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    took_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"  {name:<17} {took_s:.2f} s of processor time (limit {limit_s:.1f} s)")
    return took_s > limit_s


if __name__ == "__main__":
    sys.exit(main())
