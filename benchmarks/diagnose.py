"""Measures the diagnosis: a console of 100 MB against GNU grep, and the process time of one of 50 KiB.

Usage: python benchmarks/diagnose.py [--smoke] [LOG...]

The consoles are a recorded drill, repeated, and lines of ordinary services; LOG adds others.
"""

from __future__ import annotations

import argparse
import collections
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from kdump_harness.diagnosis import load_symptoms
from kdump_harness.diagnosis.table import load_marks

ROOT = Path(__file__).parents[1]
DRILL = ROOT / "tests" / "data" / "drills" / "debian-12-verified.log"
LARGE_BYTES, SMALL_BYTES = 100_000_000, 50 << 10
AIM, MUST = 2.0, 5.0  # times the processor time of grep
MEMORY_MAX_MIB, PROCESS_MAX_S = 100, 0.25
RUNS = 3
SERVICES = (
    "sshd[{0}]: Accepted publickey for user from 192.0.2.7 port {0} ssh2",
    "CRON[{0}]: (root) CMD (run-parts /etc/cron.hourly)",
    "systemd[1]: Started session-{0}.scope - Session {0} of User root.",
    "kernel: [{0}.123456] eth0: link up, 1000 Mbps",
    "postfix/smtpd[{0}]: connect from unknown[203.0.113.9]",
)


def words() -> list[str]:
    """Return the 20 words under which most patterns of the table are filed."""
    counts: collections.Counter[str] = collections.Counter()
    for matcher in (*load_symptoms().matchers, *(matcher for _, matcher in load_marks())):
        for pattern in matcher.patterns:
            counts.update(pattern.words)
    return [word for word, _ in counts.most_common(20)]


def ordinary(number: int) -> bytes:
    """Return one line of the log of an ordinary server."""
    at = f"{number // 3600 % 24:02}:{number // 60 % 60:02}:{number % 60:02}"
    return f"Nov 11 {at} host {SERVICES[number % len(SERVICES)].format(number % 9973)}\n".encode()


def written(path: Path, piece: Callable[[int], bytes], size_bytes: int) -> Path:
    """Write pieces into a file until it has the size."""
    with path.open("wb") as stream:
        number = written_bytes = 0
        while written_bytes < size_bytes:
            written_bytes += stream.write(piece(number))
            number += 1
    return path


def process_s(*command: str) -> tuple[float, float]:
    """Return the least processor time in seconds of a command, and its largest memory in MiB."""
    times, memory = [], 0.0
    for _ in range(RUNS):
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert child.stdout is not None
        while child.stdout.read(1 << 20):
            pass
        _, _, usage = os.wait4(child.pid, 0)
        times.append(usage.ru_utime + usage.ru_stime)
        memory = max(memory, usage.ru_maxrss / 1024)
    return min(times), memory


def compare(path: Path, patterns: Path) -> None:
    """Print the times of the diagnosis and of grep."""
    diagnosis_s, memory_mib = process_s(sys.executable, "-m", "kdump_harness", "diagnose", str(path))
    grep_s, _ = process_s("grep", "-a", "-F", "-o", "-f", str(patterns), str(path))
    print(
        f"{path.name}: {path.stat().st_size / 1e6:.1f} MB in {diagnosis_s:.2f} s, {diagnosis_s / grep_s:.1f} times grep"
        f" ({grep_s:.2f} s; aim {AIM}, must {MUST}), {memory_mib:.0f} MiB (limit {MEMORY_MAX_MIB} MiB)"
    )


def main() -> None:
    """Measure the large consoles and the small one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="measure consoles of 3 MB, which say little")
    parser.add_argument("log", metavar="LOG", nargs="*", type=Path, help="further large consoles")
    arguments = parser.parse_args()
    size_bytes = LARGE_BYTES // 33 if arguments.smoke else LARGE_BYTES
    drill = DRILL.read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        patterns = Path(folder, "words")
        patterns.write_text("\n".join(words()) + "\n", encoding="utf-8")
        compare(written(Path(folder, "drills.log"), lambda _: drill, size_bytes), patterns)
        compare(written(Path(folder, "services.log"), ordinary, size_bytes), patterns)
        for path in arguments.log:
            compare(path, patterns)
        small = written(Path(folder, "small.log"), lambda _: drill, SMALL_BYTES)
        small_s, _ = process_s(sys.executable, "-m", "kdump_harness", "diagnose", str(small))
        print(f"{SMALL_BYTES >> 10} KiB as a whole process: {small_s:.2f} s (limit {PROCESS_MAX_S} s)")


if __name__ == "__main__":
    main()
