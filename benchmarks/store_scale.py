"""Measures how long the commands list, patterns and prune take with a store of 2,000 dumps.

Usage: python benchmarks/store_scale.py [--smoke]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from kdump_harness.store.store import Store
from store_factory import make_dump, put
from vmcore_factory import Kdump

DUMPS, SMOKE_DUMPS = 2000, 20
LIMIT_S = 2.0


def main() -> int:
    """Return 1 if a command exceeds its limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help=f"use {SMOKE_DUMPS} dumps, without a limit")
    smoke = parser.parse_args().smoke
    dumps = SMOKE_DUMPS if smoke else DUMPS
    content = Kdump().build()
    slow = False
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch) / "store"
        with Store(directory, create=True) as store:
            for number in range(dumps):
                dump = make_dump(number, host=f"host{number % 300}", signature=f"{number % 40:010}")
                put(store, dump, {"firmware": str(number % 7), "hardware": "X1", "microcode": "0x1"}, content)
        for action in (["list"], ["patterns"], ["prune", "--dry-run", "--keep-per-host", "3"]):
            command = [sys.executable, "-m", "kdump_harness", "store", *action, "--store", str(directory)]
            started_s = time.monotonic()
            subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
            took_s = time.monotonic() - started_s
            slow |= took_s > LIMIT_S
            print(f"store {action[0]:<9} of {dumps:,} dumps: {took_s:.2f} s (limit {LIMIT_S:.0f} s)")
    return int(slow and not smoke)


if __name__ == "__main__":
    sys.exit(main())
