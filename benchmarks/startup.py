"""Measures the start of the command line and the duration of the quick tests; needs neither guest nor libvirt.

Usage: python benchmarks/startup.py [--smoke]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

RUNS = 5
HELP_LIMIT_S, TESTS_LIMIT_S = 0.5, 60.0


def took_s(*command: str) -> float:
    """Return the wall time in seconds of a command that must succeed."""
    started = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.monotonic() - started


def main() -> None:
    """Measure --help, an empty Python for comparison, and the quick tests."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="run each command once, and of the tests one file only")
    smoke = parser.parse_args().smoke
    runs = 1 if smoke else RUNS
    tests = ["tests/test_setup.py"] if smoke else ["-n", "auto", "--dist", "worksteal", "tests"]
    bare_s = statistics.median(took_s(sys.executable, "-c", "pass") for _ in range(runs))
    help_s = statistics.median(took_s(sys.executable, "-m", "kdump_harness", "--help") for _ in range(runs))
    print(
        f"kdump-harness --help: {help_s:.2f} s (limit {HELP_LIMIT_S} s),"
        f" {help_s / bare_s:.1f} times an empty Python ({bare_s:.2f} s)"
    )
    tests_s = took_s(sys.executable, "-m", "pytest", "-q", *tests)
    print(f"quick tests: {tests_s:.1f} s (limit {TESTS_LIMIT_S:.0f} s)")


if __name__ == "__main__":
    main()
