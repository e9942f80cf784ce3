"""How long --help and the quick tests take; needs neither guest nor libvirt."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

RUNS = 5


def took_s(*command: str) -> float:
    """Wall seconds of a command that must succeed."""
    started = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.monotonic() - started


def main() -> None:
    """Measure and print, beside what an empty Python costs in the same minute."""
    bare_s = statistics.median(took_s(sys.executable, "-c", "pass") for _ in range(RUNS))
    help_s = statistics.median(took_s(sys.executable, "-m", "kdump_harness", "--help") for _ in range(RUNS))
    print(
        f"kdump-harness --help: {help_s:.2f} s (must 0.5 s),"
        f" {help_s / bare_s:.1f} times an empty Python ({bare_s:.2f} s)"
    )
    tests_s = took_s(sys.executable, "-m", "pytest", "-q", "-n", "auto", "--dist", "worksteal", "tests")
    print(f"quick tests: {tests_s:.1f} s; must 60 s")


if __name__ == "__main__":
    main()
