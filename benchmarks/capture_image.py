"""Measures the check capture-image on a disk that is off, for each bus that its system could be on.

Usage: python benchmarks/capture_image.py [--family debian] [--smoke] DISK.qcow2...

The limit is 5 s for each disk: open it, find the capture initramfs and the kernel's modules, and judge. --smoke judges
files that it makes, without a disk.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from kdump_harness.distro.family import find_family
from kdump_harness.drill.disk_reader import HostDisk
from kdump_harness.kdump.capture_image.gather import gather_off
from kdump_harness.kdump.capture_image.judge import judge
from kdump_harness.kernel.initramfs import Entry, write_archive
from kdump_harness.vm.hypervisor.buses import BUSES

KERNEL = "6.1.0"
LIMIT_S = 5.0


class Made:
    """The files of a disk whose capture initramfs has the drivers of a virtio disk."""

    def stat(self, patterns: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Return the capture initramfs."""
        yield patterns[0].replace("*", KERNEL), {}

    def read(self, path: PurePosixPath) -> str | None:
        """Return a list of modules, or a table of filesystems."""
        if path.name == "fstab":
            return "LABEL=root / ext4 defaults 0 1\n"
        return "".join(f"kernel/{module}.ko:\n" for bus in BUSES.values() for module in bus.modules)

    def fetch(self, _path: str, to: Path) -> int:
        """Write the capture initramfs."""
        modules = (f"lib/modules/{KERNEL}/kernel/{name}.ko" for name in BUSES["virtio"].modules)
        with to.open("wb") as file:
            write_archive(file, [Entry(path=path) for path in modules])
        return to.stat().st_size


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("disks", nargs="*", type=Path, metavar="DISK")
    parser.add_argument("--family", default="debian")
    parser.add_argument("--smoke", action="store_true")
    arguments = parser.parse_args(argv)
    if arguments.smoke:
        found = {name: gather_off(Made(), find_family("debian"), bus.modules) for name, bus in BUSES.items()}
        lacking = [name for name, facts in found.items() if facts is None or judge(facts)]
        print(f"lacking: {', '.join(lacking)}")
        return int(lacking != [name for name in BUSES if name != "virtio"])
    slowest_s = 0.0
    for disk in arguments.disks:
        for name, bus in BUSES.items():
            began_s = time.monotonic()
            with tempfile.TemporaryDirectory() as work, HostDisk(disk, Path(work) / "raw") as files:
                facts = gather_off(files, find_family(arguments.family), bus.modules)
            lacks = judge(facts) if facts is not None else []
            took_s = time.monotonic() - began_s
            slowest_s = max(slowest_s, took_s)
            listed = f"{len(facts.files)} files" if facts is not None else "no capture initramfs"
            print(f"{disk.parent.name} {name}: {took_s:.2f} s, {listed}: {'; '.join(map(str, lacks)) or 'ok'}")
    print(f"slowest {slowest_s:.2f} s (limit {LIMIT_S:.0f} s)")
    return int(slowest_s > LIMIT_S)


if __name__ == "__main__":
    sys.exit(main())
