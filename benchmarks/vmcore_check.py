"""Compares the speed of the whole-file check with a C loop that only decompresses the same pages.

Usage: python benchmarks/vmcore_check.py [--pages 200000] [--smoke] DUMP...

The pages of the given dumps (best: one of dump level 1 or 0) are stored again in every compression, by the usual C
libraries and with makedumpfile's settings. The C loop and the check then read the same file from the page cache.
Needs a C compiler and the headers of zlib, liblzo2, libsnappy and libzstd; --smoke needs none of them.
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
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from kdump_harness.vmcore import open_vmcore
from kdump_harness.vmcore.crew import check_pages
from kdump_harness.vmcore.formats.damage import DamageList
from vmcore_factory import FLAGS, PAGE, Kdump, compress

ROOT = Path(__file__).resolve().parents[1]
MAX_DIFFERENT_PAGES = 50_000
SMOKE_PAGES = 2000
LIBRARIES = ("-llzo2", "-lsnappy", "-lz", "-lzstd")
Bytes = npt.NDArray[np.uint8]


class Yardstick:
    """The C loop, and the C libraries' compression."""

    def __init__(self, directory: Path) -> None:
        library = directory / "pages.so"
        source = Path(__file__).with_name("vmcore_pages.c")
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", str(library), str(source), *LIBRARIES], check=True)
        self._library = ctypes.CDLL(str(library))
        size_t, bytes_at = ctypes.c_size_t, ctypes.c_char_p
        self._library.pack.argtypes = [ctypes.c_uint32, bytes_at, size_t, bytes_at, size_t]
        self._library.pack.restype = size_t
        self._library.unpack_all.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_long, size_t]
        self._library.unpack_all.restype = ctypes.c_long
        self._room = ctypes.create_string_buffer(4 * PAGE)

    def pack(self, page: bytes, compression: str) -> bytes:
        """Return the stored form of a page; empty if it does not shrink."""
        size = self._library.pack(FLAGS[compression], page, PAGE, self._room, len(self._room))
        return self._room.raw[:size]

    def unpack_all(self, whole: Bytes, table: Bytes, count: int) -> int:
        """Return how many of the pages unpack to exactly one page."""
        good: int = self._library.unpack_all(whole.ctypes.data, table.ctypes.data, count, PAGE)
        return good


class SmokeYardstick(Yardstick):
    """Compression by the Python libraries of the tests, and a loop that unpacks nothing."""

    def __init__(self) -> None:
        pass

    def pack(self, page: bytes, compression: str) -> bytes:
        stored, flags = compress(page, compression)
        return stored if flags else b""

    def unpack_all(self, whole: Bytes, table: Bytes, count: int) -> int:
        return count if int(whole.sum(dtype=np.int64)) and len(table) == 24 * count else 0


def guest_pages(dumps: list[Path]) -> Iterator[bytes]:
    """Yield the pages of the dumps that are not all zeros."""
    for path in dumps:
        with open_vmcore(path) as vmcore:
            bitmap = vmcore.kept_bitmap()
            for pfn in np.flatnonzero(np.unpackbits(bitmap, bitorder="little")).tolist():
                page = vmcore.read_page(pfn)
                if page.strip(b"\0"):
                    yield page


def store(path: Path, pages: list[bytes], count: int, compression: str, yardstick: Yardstick) -> None:
    """Write a dump of count compressed pages: the given ones that shrink, again and again."""
    packed = [stored for page in pages if (stored := yardstick.pack(page, compression))]
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
    """Wall time, and processor time of this process and its children, in seconds."""

    wall_s: float
    cpu_s: float


def best(runs: int, action: Callable[[], object]) -> Took:
    """Return the shortest of some runs; other programs of the host do not count towards processor time."""
    took = []
    for _ in range(runs):
        wall_s, cpu_s = time.perf_counter(), cpu_now_s()
        action()
        took.append(Took(time.perf_counter() - wall_s, cpu_now_s() - cpu_s))
    return Took(min(each.wall_s for each in took), min(each.cpu_s for each in took))


def cpu_now_s() -> float:
    """Return the processor time of this process and of its finished children."""
    both = (resource.getrusage(one) for one in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def measure(path: Path, yardstick: Yardstick, runs: int) -> dict[str, float]:
    """Return guest memory in MB per second of processor time and of wall time."""
    with open_vmcore(path) as vmcore:
        part = vmcore.kdumps[0]
        count = part.descriptors
        whole = np.memmap(path, dtype=np.uint8, mode="r")
        table = np.array(whole[part.header.descriptor_offset : part.table_end])

        def in_c() -> None:
            good = yardstick.unpack_all(whole, table, count)
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
    """Measure every compression and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "dumps", nargs="*", type=Path, metavar="DUMP", help="sources of pages (default: the small dumps of the tests)"
    )
    parser.add_argument("--pages", type=int, default=400_000, help="pages in each stored dump (default %(default)s)")
    parser.add_argument("--runs", type=int, default=2, help="runs, of which the best counts (default %(default)s)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument(
        "--smoke", action="store_true", help=f"check the benchmark itself: {SMOKE_PAGES} pages, no C compiler"
    )
    options = parser.parse_args()
    if options.smoke:
        options.pages, options.runs = SMOKE_PAGES, 1
    figures = {}
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        yardstick = SmokeYardstick() if options.smoke else Yardstick(directory)
        dumps = options.dumps or sorted((ROOT / "tests" / "data" / "vmcore").rglob("*.kdump"))
        pages = list(islice(guest_pages(dumps), min(options.pages, MAX_DIFFERENT_PAGES)))
        print("MB of guest memory per second of processor time (C, check) and of wall time (1 core, 2 cores)")
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
