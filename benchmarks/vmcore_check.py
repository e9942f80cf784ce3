"""How fast the whole-file check is, beside a C loop that only decompresses the same pages.

    python benchmarks/vmcore_check.py [--pages 200000] DUMP...

The pages of the given dumps (best: one with -d 1 or -d 0) are stored anew in every compression, by the usual C
libraries and with makedumpfile's settings, so that the C loop and the check read the same file from the page cache.
Needs a C compiler and the headers of zlib, liblzo2, libsnappy and libzstd.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import resource
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from kdump_harness.vmcore import open_vmcore  # noqa: E402
from kdump_harness.vmcore.crew import check_pages  # noqa: E402
from kdump_harness.vmcore.formats.damage import DamageList  # noqa: E402
from vmcore_factory import FLAGS, PAGE, Kdump  # noqa: E402 - the paths above come first, for a clone not installed

MAX_DIFFERENT_PAGES = 50_000
LIBRARIES = ("-llzo2", "-lsnappy", "-lz", "-lzstd")


def compile_yardstick(directory: Path) -> ctypes.CDLL:
    """The C loop."""
    library = directory / "pages.so"
    source = Path(__file__).with_name("vmcore_pages.c")
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", str(library), str(source), *LIBRARIES], check=True)
    yardstick = ctypes.CDLL(str(library))
    size_t, bytes_at = ctypes.c_size_t, ctypes.c_char_p
    yardstick.pack.argtypes = [ctypes.c_uint32, bytes_at, size_t, bytes_at, size_t]
    yardstick.pack.restype = size_t
    yardstick.unpack_all.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_long, size_t]
    yardstick.unpack_all.restype = ctypes.c_long
    return yardstick


def guest_pages(dumps: list[Path]) -> Iterator[bytes]:
    """The pages of the dumps that are not all zeros."""
    for path in dumps:
        with open_vmcore(path) as vmcore:
            bitmap = vmcore.kept_bitmap()
            for pfn in np.flatnonzero(np.unpackbits(bitmap, bitorder="little")).tolist():
                page = vmcore.read_page(pfn)
                if page.strip(b"\0"):
                    yield page


def store(path: Path, pages: list[bytes], count: int, compression: str, yardstick: ctypes.CDLL) -> None:
    """A dump of count pages, the given ones over and over, packed by the C libraries; those that shrink."""
    packed = []
    room = ctypes.create_string_buffer(4 * PAGE)
    for page in pages:
        size = yardstick.pack(FLAGS[compression], page, PAGE, room, len(room))
        if size:
            packed.append(room.raw[:size])
    empty = Kdump(pages={}, max_mapnr=count, compression=compression, level=0)
    head = bytearray(empty.build())
    half = -(-count // (8 * PAGE)) * PAGE
    head[-half:] = Kdump.bitmap(range(count), half)
    at = len(head) + 24 * count
    table = bytearray()
    for stored in islice(cycle(packed), count):
        table += struct.pack("<qIIQ", at, len(stored), FLAGS[compression], 0)
        at += len(stored)
    with path.open("wb") as file:
        file.write(head + table)
        for stored in islice(cycle(packed), count):
            file.write(stored)


@dataclass(frozen=True)
class Took:
    """Seconds by the clock, and seconds of processor time here and in the helpers."""

    wall_s: float
    cpu_s: float


def best(runs: int, action: Callable[[], object]) -> Took:
    """The shortest of some runs; processor time does not count what other programs take from us."""
    took = []
    for _ in range(runs):
        wall_s, cpu_s = time.perf_counter(), cpu_now_s()
        action()
        took.append(Took(time.perf_counter() - wall_s, cpu_now_s() - cpu_s))
    return Took(min(each.wall_s for each in took), min(each.cpu_s for each in took))


def cpu_now_s() -> float:
    """Processor time of this process and of the helpers that have ended."""
    here, helpers = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return here.ru_utime + here.ru_stime + helpers.ru_utime + helpers.ru_stime


def measure(path: Path, yardstick: ctypes.CDLL, runs: int) -> dict[str, float]:
    """Guest memory in MB per second, of processor time or by the clock."""
    with open_vmcore(path) as vmcore:
        part = vmcore.kdumps[0]
        count = part.descriptors
        whole = np.memmap(path, dtype=np.uint8, mode="r")
        table = np.array(whole[part.header.descriptor_offset : part.table_end])

        def in_c() -> None:
            good = yardstick.unpack_all(whole.ctypes.data, table.ctypes.data, count, PAGE)
            assert good == count, f"the C loop unpacked {good} of {count}"

        def in_python(processes: int) -> None:
            damage = DamageList()
            check_pages(part, damage, processes=processes)
            assert not damage, damage.as_tuple()[:3]

        megabytes = count * PAGE / 1e6
        in_c_took = best(runs, in_c)
        one, two = (best(runs, partial(in_python, processes)) for processes in (1, 2))
        return {
            "c_mb_per_cpu_s": megabytes / in_c_took.cpu_s,
            "check_mb_per_cpu_s": megabytes / one.cpu_s,
            "one_core_mb_per_s": megabytes / one.wall_s,
            "two_cores_mb_per_s": megabytes / two.wall_s,
            "two_cores_extra_cpu_s": two.cpu_s - one.cpu_s,
        }


def main() -> None:
    """Store, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "dumps", nargs="*", type=Path, metavar="DUMP", help="whose pages (default: the small dumps of the tests)"
    )
    parser.add_argument("--pages", type=int, default=400_000, help="pages in each stored dump (default %(default)s)")
    parser.add_argument("--runs", type=int, default=2, help="the best of so many counts (default %(default)s)")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    figures = {}
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        yardstick = compile_yardstick(directory)
        dumps = options.dumps or sorted((ROOT / "tests" / "data" / "vmcore").rglob("*.kdump"))
        pages = list(islice(guest_pages(dumps), min(options.pages, MAX_DIFFERENT_PAGES)))
        print("MB of guest memory, per second of processor time (C, check) and by the clock (1 core, 2 cores)")
        print(f"{'':8}{'C':>8}{'check':>8}{'ratio':>8}{'1 core':>10}{'2 cores':>10}{'ratio':>8}")
        for compression in ("zlib", "lzo", "snappy", "zstd"):
            path = directory / compression
            store(path, pages, options.pages, compression, yardstick)
            row = measure(path, yardstick, options.runs)
            figures[compression] = row
            per_core = row["check_mb_per_cpu_s"] / row["c_mb_per_cpu_s"]
            scaling = row["two_cores_mb_per_s"] / row["one_core_mb_per_s"]
            print(
                f"{compression:8}{row['c_mb_per_cpu_s']:8.0f}{row['check_mb_per_cpu_s']:8.0f}{per_core:8.2f}"
                f"{row['one_core_mb_per_s']:10.0f}{row['two_cores_mb_per_s']:10.0f}{scaling:8.2f}"
            )
            path.unlink()
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
