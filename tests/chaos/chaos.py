"""Kill real runs at points spread over their whole time, and check that nothing of them is left.

    python tests/chaos/chaos.py --minutes 60                          # kernel drills: the cheapest guests
    python tests/chaos/chaos.py --kills 40 drill debian-12 --level 1  # any verb of the command line that uses guests
    python tests/chaos/chaos.py --kills 12 --resume kernel trixie --matrix --level 1,31

The first run is left alone and gives the time of a run. Each later run meets one misfortune at the next point of that
time: kill -9 of the harness, kill -9 of its whole session, SIGTERM, Ctrl-C three times, a stop of harness and guest for
some seconds (as of a host that sleeps), `clean` next to it, and a second run at once. --restart-libvirt adds a restart
of libvirt's daemon, --fill a full disk, for which the directory must be a separate file system. Afterwards,
`clean --own` of this state must leave no domain, process, mount, network, run directory, unfinished cache entry or
changed file, and the history must be sound. The state and the evidence are directories of this script only; other runs
are not touched.

Exit status 1 when anything was left, when a run that was not killed did not end as the first one did, or when a run had
a traceback.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KDUMP = [sys.executable, "-P", "-m", "kdump_harness"]
DEFAULT = ["kernel", "trixie", "--level", "1"]
GONE_S = 20.0  # a domain of a dead process must be gone after this time
LONGEST_S = 1800.0
STOPPED_S = 15.0
FULL_S = 30.0
TRACEBACK = b"Traceback (most recent call last)"
FULL, RESTART = "full disk", "restart of libvirt"
ENDS = (3, 4, 5)  # of a run whose host failed it: an unfit host, an error, or a drill that could not be judged


@dataclass
class Tally:
    """The figures of all rounds."""

    rounds: Counter[str] = field(default_factory=Counter)
    stages: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


class Bench:
    """The state, the evidence and the command of this script's runs."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.state, self.evidence = options.state / "state", options.state / "evidence"
        self.uri = options.uri
        self.where = [
            "--state", str(self.state), "--evidence", str(self.evidence),
            "--history", str(options.state / "history.sqlite"),
            *(["--uri", self.uri] if self.uri else []),
        ]  # fmt: skip
        self.history = options.state / "history.sqlite"
        self.restart = options.restart_libvirt
        self.log = options.state / "run.log"
        self.command = [*KDUMP, *options.command, "--quiet", *self.where]
        self.seen: set[str] = set()  # identities of all runs
        self.watched = {path: facts(path) for path in options.watch}

    def start(self, *more: str) -> subprocess.Popen[bytes]:
        """Start a run in a new session."""
        log = self.log.open("ab")
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "harness")}
        return subprocess.Popen(
            [*self.command, *more], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment,
            start_new_session=True,
        )  # fmt: skip

    def clean(self) -> int:
        """Remove what stale runs of this state left."""
        uri = ["--uri", self.uri] if self.uri else []
        done = subprocess.run(
            [*KDUMP, "clean", "--own", "--state", str(self.state), *uri], capture_output=True, text=True
        )
        if done.returncode != 0 or "skipped" in done.stderr:
            print(done.stdout, done.stderr)
        return done.returncode

    def identities(self) -> set[str]:
        """Return the identities of the runs that there are now."""
        runs = self.state / "runs"
        return {path.name for path in runs.iterdir()} if runs.is_dir() else set()

    def stage(self) -> str:
        """Return the last event of the newest drill, and with it how far the run had got."""
        found = sorted(self.evidence.glob("*/*/events.jsonl"), key=lambda path: path.stat().st_mtime)
        for path in reversed(found[-1:]):
            lines = path.read_text(errors="replace").splitlines()
            for line in reversed(lines):
                try:
                    event = json.loads(line)
                except ValueError:
                    continue
                return " ".join(str(event[key]) for key in ("event", "reached", "trigger", "what") if key in event)
        return "before the first event"


def facts(path: Path) -> tuple[object, ...]:
    """Return what must not change of a user's file."""
    status = path.stat()
    attributes = {name: os.getxattr(path, name) for name in os.listxattr(path)}
    return status.st_uid, status.st_gid, status.st_mode, status.st_mtime_ns, status.st_size, str(attributes)


def virsh(bench: Bench, *words: str) -> list[str]:
    """Return the lines of virsh."""
    uri = bench.uri or os.environ.get("LIBVIRT_DEFAULT_URI", "qemu:///system")
    return subprocess.run(["virsh", "-c", uri, *words], capture_output=True, text=True).stdout.splitlines()


def processes(*marks: str) -> list[str]:
    """Return the processes whose command line has one of the texts."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        if path.parent.name == str(os.getpid()):
            continue
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if any(mark in line for mark in marks):
            found.append(f"{path.parent.name}: {line[:120]}")
    return found


def remains(bench: Bench, identities: set[str]) -> list[str]:
    """Return what is there of runs that have ended."""
    names = [f"kdh-{identity}-" for identity in identities]
    left = [
        f"domain {line}" for line in virsh(bench, "list", "--all", "--name") if line.startswith(tuple(names) or "\0")
    ]
    left += [f"network {n}" for n in virsh(bench, "net-list", "--all", "--name") if n.startswith(tuple(names) or "\0")]
    left += [f"process {one}" for one in processes(*names, f"{bench.state}/runs/")]
    mounts = Path("/proc/self/mounts").read_text()
    left += [f"mount {line}" for line in mounts.splitlines() if f"{bench.state}/" in line]
    return left


def after_clean(bench: Bench) -> list[str]:
    """Return what `clean` has left, and what is damaged."""
    left = [f"run directory {identity}" for identity in bench.identities()]
    left += [f"unfinished {path}" for path in bench.state.glob("*/*.part")]
    for path in bench.state.glob("*/*/meta.json"):
        try:
            json.loads(path.read_text())
        except ValueError:
            left.append(f"damaged {path}")
    left += [f"changed {path}" for path, before in bench.watched.items() if facts(path) != before]
    left += (
        [f"unfinished {path}" for path in bench.evidence.glob("*/*/.*-[0-9]*-[0-9]*")]
        if bench.evidence.is_dir()
        else []
    )
    if bench.history.exists():
        with contextlib.closing(sqlite3.connect(bench.history)) as database:
            if (answer := database.execute("PRAGMA integrity_check").fetchone()[0]) != "ok":
                left.append(f"history: {answer}")
    logs = Path("/var/log/libvirt/qemu")
    if os.geteuid() == 0 and logs.is_dir():
        left += [f"log {path}" for path in logs.glob("kdh-*") if path.name.split("-")[1] in bench.seen]
    return left


def wait_gone(bench: Bench, identities: set[str]) -> list[str]:
    """Return what is still there of dead runs after the time that libvirt needs."""
    deadline = time.monotonic() + GONE_S
    while (left := remains(bench, identities)) and time.monotonic() < deadline:
        time.sleep(0.5)
    return left


def misfortune(bench: Bench, kind: str, run: subprocess.Popen[bytes], usual: int) -> tuple[int, ...]:
    """Let the misfortune happen; return the statuses with which the run may end, none where it was killed."""
    if kind == "kill -9":
        os.kill(run.pid, signal.SIGKILL)
    elif kind == "kill -9 of the session":
        os.killpg(run.pid, signal.SIGKILL)
    elif kind == "SIGTERM":
        os.kill(run.pid, signal.SIGTERM)
    elif kind == "Ctrl-C three times":
        for _ in range(3):
            os.killpg(run.pid, signal.SIGINT)
            time.sleep(0.3)
    elif kind == "sleep of the host":
        stopped = [int(one.split(":")[0]) for one in processes(*(f"guest=kdh-{one}-" for one in bench.identities()))]
        for pid in (run.pid, *stopped):
            os.kill(pid, signal.SIGSTOP)
        time.sleep(STOPPED_S)
        for pid in (*stopped, run.pid):
            os.kill(pid, signal.SIGCONT)
        return (usual,)
    elif kind == RESTART:
        subprocess.run(bench.restart, shell=True, check=True)
        return (usual, *ENDS)
    elif kind == FULL:
        fill(bench.state.parent / "filler", run)
        return (usual, *ENDS)
    elif kind == "clean next to it":
        bench.clean()
        return (usual,)
    elif kind == "a second run":
        other = bench.start()
        time.sleep(2)
        os.kill(other.pid, signal.SIGKILL)
        other.wait()
        bench.clean()
        return (usual,)
    return ()


def fill(path: Path, run: subprocess.Popen[bytes]) -> None:
    """Take all the room of a file system until the run ends, or for some seconds."""
    deadline = time.monotonic() + FULL_S
    try:
        with path.open("wb", buffering=0) as file:
            while run.poll() is None and time.monotonic() < deadline:
                with contextlib.suppress(OSError):  # no room: as it should be
                    file.write(bytes(1 << 20))
                    continue
                time.sleep(0.1)
    finally:
        path.unlink()


KINDS = (
    "kill -9", "kill -9 of the session", "kill -9", "SIGTERM", "kill -9", "Ctrl-C three times", "kill -9",
    "sleep of the host", "kill -9", "clean next to it", "kill -9", "a second run",
)  # fmt: skip


def one_round(bench: Bench, kind: str, at_s: float, usual: int, tally: Tally, *, resume: bool) -> None:
    """Start a run, let it meet a misfortune, and check what is left."""
    began_s = time.monotonic()
    said_bytes = bench.log.stat().st_size
    run = bench.start()
    while run.poll() is None and time.monotonic() - began_s < at_s:
        bench.seen |= bench.identities()
        time.sleep(0.05)
    identities = bench.identities()
    bench.seen |= identities
    where, stage = f"{kind} after {at_s:.1f} s", bench.stage()
    if run.poll() is not None:
        tally.rounds["ended before its misfortune"] += 1
    else:
        tally.rounds[kind] += 1
        tally.stages[stage] += 1
        ends = misfortune(bench, kind, run, usual)
        try:
            status = run.wait(LONGEST_S if ends else 120)
        except subprocess.TimeoutExpired:
            tally.wrong.append(f"{where} ({stage}): the run did not end")
            os.killpg(run.pid, signal.SIGKILL)
            status = run.wait()
        if ends and status not in ends:
            tally.wrong.append(f"{where} ({stage}): ended with {status}, and without misfortune with {usual}")
    bench.seen |= bench.identities()
    left = wait_gone(bench, bench.seen)
    if bench.clean() != 0:
        left.append("clean failed")
    left += [*remains(bench, bench.seen), *after_clean(bench)]
    if TRACEBACK in bench.log.read_bytes()[said_bytes:]:
        left.append(f"a traceback in {bench.log}")
    tally.wrong += [f"{where} ({stage}): {one}" for one in dict.fromkeys(left)]
    if resume and (bench.evidence / "last").exists():
        status = bench.start("--resume").wait(LONGEST_S)
        tally.rounds["resumed"] += 1
        if status not in (usual, 2):  # 2: it was killed before there was a record
            tally.wrong.append(f"{where} ({stage}): --resume ended with {status}, not {usual}")
        bench.clean()


def points(whole_s: float) -> Iterator[float]:
    """Yield points of time that fill the whole run ever more densely, in the order of van der Corput."""
    for number in itertools.count(1):
        share, part = 0.0, 0.5
        while number:
            share += part * (number & 1)
            number >>= 1
            part /= 2
        yield share * whole_s


def main() -> int:
    """Run, kill, check, count."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=0, metavar="N", help="rounds (default: until the time is over)")
    parser.add_argument("--minutes", type=float, default=60.0, metavar="N", help="time of all rounds (default: 60)")
    parser.add_argument("--resume", action="store_true", help="resume each run after its misfortune (campaigns only)")
    parser.add_argument(
        "--watch", type=Path, action="append", default=[], metavar="FILE", help="file that must not change"
    )
    parser.add_argument("--restart-libvirt", metavar="CMD", help=f"command for the misfortune {RESTART!r}")
    parser.add_argument("--fill", action="store_true", help=f"add the misfortune {FULL!r}")
    parser.add_argument("--uri", metavar="URI", help="hypervisor, as for kdump-harness")
    parser.add_argument(
        "--state", type=Path, default=Path("/var/tmp/kdump-chaos"), metavar="DIR", help="scratch directory"
    )
    parser.add_argument(
        "command", nargs=argparse.REMAINDER, help=f"verb and its arguments (default: {' '.join(DEFAULT)})"
    )
    options = parser.parse_args()
    options.command = options.command or DEFAULT
    options.state = options.state.absolute()
    options.state.mkdir(parents=True, exist_ok=True)
    if options.fill and not options.state.is_mount():
        parser.error(f"--fill would fill the disk of others: {options.state} is not the root of a file system")
    kinds = (*KINDS, *([RESTART] if options.restart_libvirt else []), *([FULL] if options.fill else []))
    bench, tally = Bench(options), Tally()
    began_s = time.monotonic()
    for _ in range(2):  # the first one fills the caches, the second one gives the time
        first_s = time.monotonic()
        usual = bench.start().wait(LONGEST_S * 2)
        whole_s = time.monotonic() - first_s
    print(f"a whole run: {whole_s:.0f} s, exit status {usual}", flush=True)
    if usual not in (0, 1, 5) or TRACEBACK in bench.log.read_bytes():
        print(f"the run that was left alone was not judged: see {options.state / 'run.log'}")
        return 1
    deadline = began_s + options.minutes * 60
    for number, (kind, at_s) in enumerate(zip(itertools.cycle(kinds), points(whole_s))):
        if (options.kills and number >= options.kills) or time.monotonic() > deadline:
            break
        known = len(tally.wrong)
        one_round(bench, kind, at_s, usual, tally, resume=options.resume)
        print(f"{number + 1}: {kind} after {at_s:.1f} s", *tally.wrong[known:], sep="\n    ", flush=True)
    print(f"{sum(tally.rounds.values())} rounds in {(time.monotonic() - began_s) / 60:.0f} min:")
    for what, count in tally.rounds.most_common():
        print(f"  {count:3} {what}")
    print("the runs were at:")
    for what, count in tally.stages.most_common():
        print(f"  {count:3} {what}")
    print(*tally.wrong, f"{len(tally.wrong)} wrong", sep="\n")
    if not tally.wrong:
        shutil.rmtree(options.state / "evidence", ignore_errors=True)
    return 1 if tally.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
