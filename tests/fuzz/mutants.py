"""Damage sound dumps at random, repeatably, and check the inspection of each.

    python tests/fuzz/mutants.py [-n 1000] [--seed 1] DUMP...

Exit status 1 when an inspection ended in a traceback or took too long, when a sound dump was refused, when a dump
that was cut short passed, or when a page that carries a checksum changed unnoticed.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from kdump_harness.base.errors import UsageError  # noqa: E402 - the path above comes first, for a clone that is not installed
from kdump_harness.vmcore import Inspection, Vmcore, VmcoreError, inspect, open_vmcore  # noqa: E402

NASTY = (0, 1, 0x7F, 0xFF, 0x1000, 1 << 31, (1 << 32) - 1, 1 << 60, (1 << 63) - 1, (1 << 64) - 1)
HANG_S = 30
CHECKSUMMED = 0x1  # zlib; nothing else carries a checksum


class Hang(BaseException):
    """An inspection took too long."""


def cut(data: bytearray, dice: random.Random) -> str:
    """Cut short, anywhere."""
    at = dice.randrange(len(data))
    del data[at:]
    return f"cut at {at}"


def flip_anywhere(data: bytearray, dice: random.Random) -> str:
    """One bit, anywhere."""
    return _flip(data, dice.randrange(len(data)), dice)


def flip_in_front(data: bytearray, dice: random.Random) -> str:
    """One bit where the headers and tables are."""
    return _flip(data, dice.randrange(min(len(data), 1 << 16)), dice)


def _flip(data: bytearray, at: int, dice: random.Random) -> str:
    bit = dice.randrange(8)
    data[at] ^= 1 << bit
    return f"bit {bit} of byte {at} flipped"


def nasty_number(data: bytearray, dice: random.Random) -> str:
    """A number that breaks arithmetic, in front, where numbers are."""
    size = dice.choice((4, 8))
    at = dice.randrange(min(len(data), 1 << 16) // 4) * 4
    number = dice.choice(NASTY) & (1 << 8 * size) - 1
    data[at : at + size] = number.to_bytes(size, dice.choice(("little", "big")))
    return f"{number:#x} at {at}"


def hole(data: bytearray, dice: random.Random) -> str:
    """A stretch of zeros, as a lost sector or a full disk leaves it."""
    at, size = dice.randrange(len(data)), dice.choice((16, 512, 4096, 65536))
    end = min(at + size, len(data))
    data[at:end] = bytes(end - at)
    return f"zeros from {at} to {end}"


def noise(data: bytearray, dice: random.Random) -> str:
    """A stretch of garbage."""
    at, size = dice.randrange(len(data)), dice.choice((1, 8, 64, 4096))
    end = min(at + size, len(data))
    data[at:end] = dice.randbytes(end - at)
    return f"noise from {at} to {end}"


def moved(data: bytearray, dice: random.Random) -> str:
    """A block that lies where another should."""
    size = dice.choice((24, 512, 4096))
    source, target = dice.randrange(len(data)), dice.randrange(len(data))
    piece = data[source : source + size]
    data[target : target + len(piece)] = piece
    return f"{size} bytes of {source} at {target}"


def lost(data: bytearray, dice: random.Random) -> str:
    """A piece that was left out, so that all that follows moves up."""
    at, size = dice.randrange(len(data)), dice.choice((1, 24, 512, 4096))
    del data[at : at + size]
    return f"{size} bytes lost at {at}"


MUTATIONS: tuple[Callable[[bytearray, random.Random], str], ...] = (
    cut, flip_anywhere, flip_in_front, nasty_number, hole, noise, moved, lost,
)  # fmt: skip


def checksummed_pages(vmcore: Vmcore) -> dict[int, bytes]:
    """The pages whose damage a dump cannot hide."""
    found: dict[int, bytes] = {}
    for part in vmcore.kdumps:
        for index in range(part.descriptors):
            pfn = part.pfn_of(index)
            _, _, flags = part.descriptor(pfn)
            if flags == CHECKSUMMED:
                found[pfn] = vmcore.read_page(pfn)
    return found


def judge(path: Path, truth: dict[int, bytes], mutation: str, result: Inspection) -> str | None:
    """Return the error of the inspection, or None where it is right."""
    if not result.whole:
        return None
    if mutation == "cut":
        return "a dump that was cut short passed"
    with open_vmcore(path) as vmcore:
        now = checksummed_pages(vmcore)
    changed = [pfn for pfn, page in truth.items() if pfn in now and now[pfn] != page]
    if changed:
        return f"page frame {changed[0]} has changed unnoticed"
    return None


def use(path: Path) -> None:
    """Everything else one can ask of a dump; typed errors are answers."""
    try:
        with open_vmcore(path) as vmcore:
            for ask in (vmcore.dmesg, lambda: vmcore.read_page(5), lambda: vmcore.read_phys(0x1000, 8192)):
                with contextlib.suppress(VmcoreError):
                    ask()
    except (VmcoreError, UsageError):
        pass


def on_alarm(*_: object) -> None:
    """The clock ran out."""
    raise Hang


def main() -> int:
    """Damage, inspect, count."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("dumps", nargs="+", type=Path, metavar="DUMP")
    parser.add_argument("-n", "--mutants", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("-v", "--verbose", action="store_true", help="name the mutants that passed")
    options = parser.parse_args()
    faulthandler.enable()
    signal.signal(signal.SIGALRM, on_alarm)
    dice = random.Random(options.seed)
    wrong: list[str] = []
    kinds: Counter[str] = Counter()
    passed: Counter[str] = Counter()
    slowest_s, slowest = 0.0, ""
    sound: list[tuple[Path, bytes, dict[int, bytes]]] = []
    for path in options.dumps:
        if not path.is_file():
            parser.error(f"{path} is not a file")
        result = inspect(path)
        if not result.whole:
            wrong.append(f"{path}: refused, and it is sound: {result.why}")
            continue
        with open_vmcore(path) as vmcore:
            sound.append((path, path.read_bytes(), checksummed_pages(vmcore)))
    with tempfile.TemporaryDirectory() as directory:
        mutant = Path(directory) / "mutant"
        for number in range(options.mutants if sound else 0):
            path, original, truth = sound[number % len(sound)]
            mutate = dice.choice(MUTATIONS)
            data = bytearray(original)
            what = f"{path.name}, mutant {number}: {mutate(data, dice)}"
            mutant.write_bytes(data)
            started_s = time.monotonic()
            signal.alarm(HANG_S)
            try:
                result = inspect(mutant)
                use(mutant)
                slowest_s, slowest = max((slowest_s, slowest), (time.monotonic() - started_s, what))
                error = judge(mutant, truth, mutate.__name__, result)
                if error:
                    wrong.append(f"{what}: {error}")
                kinds.update({damage.kind for damage in result.damage})
                if result.whole:
                    passed["unchanged" if data == original else mutate.__name__] += 1
                    if options.verbose and data != original:
                        print(f"{what}: passed")
            except Hang:
                wrong.append(f"{what}: took more than {HANG_S} s")
            except Exception:
                wrong.append(f"{what}: traceback\n{traceback.format_exc()}")
            finally:
                signal.alarm(0)
    resident_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"{options.mutants} mutants of {len(sound)} dumps, seed {options.seed}")
    print("damage reported, by mutants that have it:", ", ".join(f"{kind} {n}" for kind, n in kinds.most_common()))
    print("nothing to see in the file:", ", ".join(f"{kind} {n}" for kind, n in passed.most_common()) or "none")
    print(f"slowest {slowest_s:.2f} s ({slowest}), {resident_mib} MiB resident with the originals")
    print(*wrong, f"{len(wrong)} wrong", sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
