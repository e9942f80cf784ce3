"""How long a store of 2,000 dumps takes to list, to look for patterns and to plan what goes, as whole commands."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from kdump_harness.store.store import Store
from store_factory import make_dump, put
from vmcore_factory import Kdump

DUMPS = 2000
LIMIT_S = 2.0


def main() -> int:
    """Exit status 1 when one of them takes longer than it may."""
    content = Kdump().build()
    slow = False
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch) / "store"
        with Store(directory, create=True) as store:
            for number in range(DUMPS):
                dump = make_dump(number, host=f"host{number % 300}", signature=f"{number % 40:010}")
                put(store, dump, {"firmware": str(number % 7), "hardware": "X1", "microcode": "0x1"}, content)
        for action in (["list"], ["patterns"], ["prune", "--dry-run", "--keep-per-host", "3"]):
            command = [sys.executable, "-m", "kdump_harness", "store", *action, "--store", str(directory)]
            started_s = time.monotonic()
            subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
            took_s = time.monotonic() - started_s
            slow |= took_s > LIMIT_S
            print(f"store {action[0]:<9} of {DUMPS:,} dumps: {took_s:.2f} s (limit {LIMIT_S:.0f} s)")
    return int(slow)


if __name__ == "__main__":
    sys.exit(main())
