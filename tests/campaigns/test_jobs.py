"""Jobs run in parallel as far as the host has room, end together, and show their steps."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kdump_harness import __main__ as command
from kdump_harness.base import clock, progress
from kdump_harness.base.clock import Deadline, ending_when, pause, poll
from kdump_harness.base.errors import GuestError, HostError, Stopped
from kdump_harness.base.progress import Progress
from kdump_harness.campaigns import jobs
from kdump_harness.campaigns.jobs import Job, Jobs
from kdump_harness.images.state import State
from kdump_harness.pytest_plugin import entry
from kdump_harness.vm import capacity
from kdump_harness.vm import run as vm_run
from kdump_harness.vm.capacity import GUEST_MIB, OVERHEAD_MIB, Room, guest_mib, how_many, running_guests
from kdump_harness.vm.run import Options, Run
from rich.console import Console as RichConsole


class Host:
    """Stand-in for the run of the jobs."""

    def __init__(self, *, quiet: bool = True) -> None:
        self.progress = Progress(quiet=quiet)
        self.side_by_side = 1
        self.abandoned = threading.Event()

    def abandon(self) -> None:
        self.abandoned.set()


def start(host: Any, at_once: int, works: list[Any]) -> None:
    tasks = [Job(label=f"task {number}", kind="drill", work=work) for number, work in enumerate(works)]
    with Jobs(host, at_once, ["drill"] * len(tasks)) as made:
        made.run(tasks)


# ---------------------------------------------------------------- side by side


def test_tasks_run_in_parallel() -> None:
    host, meeting, seen = Host(), threading.Barrier(3), []

    def work() -> None:
        meeting.wait(60)  # all three are there at once, twice
        seen.append((threading.current_thread().name, host.side_by_side))

    start(host, 3, [work] * 6)
    assert len({thread for thread, _ in seen}) == 3
    assert len(seen) == 6
    assert {beside for _, beside in seen} <= {1, 2, 3}
    assert seen[0][1] == 3
    assert host.side_by_side == 1


def test_one_at_a_time_needs_no_thread() -> None:
    seen = []
    start(Host(), 1, [lambda: seen.append(threading.current_thread())] * 2)
    assert seen == [threading.main_thread()] * 2


def test_the_first_error_stops_the_other_jobs_and_is_raised() -> None:
    host, ended, begun = Host(), [], threading.Barrier(3)

    def waits() -> None:
        begun.wait(60)
        try:
            poll("a guest", lambda: None, timeout_s=60, every_s=30)
        except Stopped:
            pause(0.01)  # cleaning up may wait
            ended.append(True)
            raise

    def breaks() -> None:
        begun.wait(60)
        raise GuestError("no login prompt")

    with pytest.raises(GuestError, match="no login prompt"):
        start(host, 3, [waits, breaks, waits, lambda: ended.append(False)])
    assert ended == [True, True]


def test_a_job_that_waits_for_its_guest_ends_when_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "NOTICE_S", 0.05)
    host, ended, begun = Host(), [], threading.Barrier(2)

    def waits() -> None:
        begun.wait(60)
        assert host.abandoned.wait(60)
        try:
            Deadline(60).passed  # noqa: B018
        finally:
            ended.append(True)

    def interrupted() -> None:
        begun.wait(60)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        start(host, 2, [waits, interrupted])
    assert ended == [True]


def test_each_thread_is_stopped_once() -> None:
    with ending_when(lambda: True):
        with pytest.raises(Stopped):
            pause(0)
        pause(0)
    with ending_when(lambda: False):
        pause(0)
    Progress(quiet=True).tick()


# ---------------------------------------------------------------- what is shown


def test_in_a_log_each_line_says_whose_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    reported = io.StringIO()
    monkeypatch.setattr(progress, "err", RichConsole(file=reported, width=200))
    host, begun = Host(quiet=False), threading.Barrier(2)

    def work() -> None:
        begun.wait(60)
        with host.progress.step("booting"):
            host.progress.say("  verified")

    start(host, 2, [work, work])
    lines = reported.getvalue().splitlines()
    for number in (0, 1):
        mine = [line for line in lines if f"task {number}" in line]
        assert mine[:2] == [f"  task {number}: booting ...", f"task {number}: verified"]
        assert mine[2].startswith(f"  task {number}: booting: ")


def test_the_board_shows_the_step_and_its_clock() -> None:
    host, shown = Host(quiet=False), []
    with host.progress.job("-d 31 zlib", shown.append), host.progress.step("waiting", usual_s=40):
        host.progress.detail("7.1 %")
    assert shown == ["waiting 0 s, usually 40 s", "waiting 0 s, usually 40 s  7.1 %", ""]


# ---------------------------------------------------------------- how many


def room(**changes: Any) -> Room:
    return Room(**{"memory_mib": 20_000, "cores_guests": 2, "disk_mib": 100_000, "kvm": False, **changes})


@pytest.mark.parametrize(
    ("asked", "changes", "number", "why"),
    [
        (None, {}, 2, "one emulated guest per core"),
        (None, {"cores_guests": 4, "kvm": True}, 4, "two guests per core under KVM"),
        (8, {}, 8, "as requested"),
        (8, {"memory_mib": 3000}, 2, "instead of the requested 8: 3,000 MiB of memory are free"),
        (8, {"memory_mib": -500}, 1, "0 MiB of memory are free"),
        (8, {"disk_mib": 17_000}, 3, "17,000 MiB of disk are free, a drill takes 5,000 MiB"),
        (20, {}, 9, "9 at once: the number of tasks"),
    ],
)
def test_the_number_has_its_reason(asked: int | None, changes: dict[str, Any], number: int, why: str) -> None:
    found, reported = how_many(asked, [guest_mib(GUEST_MIB)] * 9, 5_000, room(**changes))
    assert found == number
    assert why in reported


def test_the_largest_of_guests_of_different_sizes_must_fit_together() -> None:
    assert how_many(8, [8_000, 4_000, 2_000], 1, room(memory_mib=12_500))[0] == 2
    assert how_many(8, [8_000, 4_000, 2_000], 1, room(memory_mib=14_000))[0] == 3


def test_load_stretches_waits_and_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    for average, guests, kvm, factor in (
        (0.5, 1, False, 1.0),
        (0.5, 2, False, 1.0),
        (0.5, 8, False, 4.0),
        (0.5, 8, True, 2.0),
        (5.0, 1, False, 2.5),
        (99.0, 8, False, capacity.MOST_LOAD),
    ):
        monkeypatch.setattr(os, "getloadavg", lambda average=average: (average, 0.0, 0.0))
        assert capacity.load(guests, kvm=kvm) == factor


# ---------------------------------------------------------------- never out of memory


def process(proc: Path, pid: int, name: str, memory: str, resident_mib: int) -> None:
    (proc / str(pid)).mkdir(parents=True)
    words = ["/usr/bin/qemu-system-x86_64", "-name", f"guest={name},debug-threads=on", "-m", memory, "-smp", "2"]
    (proc / str(pid) / "cmdline").write_bytes(b"\0".join(word.encode() for word in words) + b"\0")
    pages = (resident_mib << 20) // os.sysconf("SC_PAGE_SIZE")
    (proc / str(pid) / "statm").write_text(f"999 {pages} 1 1 0 1 0\n")


def test_guests_of_all_runs_are_seen_with_what_they_may_still_take(tmp_path: Path) -> None:
    process(tmp_path, 1, "kdh-aaaaaa-1-debian-12", "1024", 600)
    process(tmp_path, 2, "kdh-bbbbbb-1-debian-13", "size=2097152k", 3000)
    process(tmp_path, 3, "web", "4096", 1)
    (tmp_path / "4").mkdir()
    (tmp_path / "4" / "cmdline").write_bytes(b"")
    process(tmp_path, 5, "kdh-cccccc-1-with-a-dimm", "size=1048576k,slots=1,maxmem=2097152k", 100)
    found = {one.name: one for one in running_guests("kdh-", tmp_path)}
    assert set(found) == {"kdh-aaaaaa-1-debian-12", "kdh-bbbbbb-1-debian-13", "kdh-cccccc-1-with-a-dimm"}
    assert found["kdh-cccccc-1-with-a-dimm"].untouched_mib == 2048 + OVERHEAD_MIB - 100
    assert found["kdh-aaaaaa-1-debian-12"].untouched_mib == 1024 + OVERHEAD_MIB - 600
    assert found["kdh-bbbbbb-1-debian-13"].untouched_mib == 0


@pytest.fixture
def host_with(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A run on a host with so much free memory at each look, and these guests."""

    def make(*free_mib: int, guests: int = 1) -> Run:
        left = list(free_mib)
        monkeypatch.setattr(capacity, "available_mib", lambda: left.pop(0) if len(left) > 1 else left[0])
        others = [capacity.RunningGuest(name=f"kdh-x-{n}", memory_mib=1024, resident_mib=1408) for n in range(guests)]
        monkeypatch.setattr(capacity, "running_guests", lambda _prefix: others)
        monkeypatch.setattr(vm_run, "MEMORY_LOOK_S", 0.0)
        run = Run(Options(quiet=True))
        run.state = State(tmp_path / "state")
        return run

    return make


def test_a_guest_waits_for_the_memory_that_others_have(host_with: Any) -> None:
    run = host_with(1000, 2000, 2500)
    with run._room("debian-12", 1024):
        assert capacity.available_mib() == 2500  # with what the host itself needs


def test_alone_it_is_refused_and_never_waits(host_with: Any) -> None:
    run = host_with(1000, guests=0)
    with pytest.raises(
        HostError, match=r"not enough memory for debian-12: 1,408 MiB needed, 1,000 MiB free on this host \(free"
    ):
        run._room("debian-12", 1024)
    host_with(1500, guests=0)._room("debian-12", 1024).close()


def test_memory_of_this_job_does_not_become_free(host_with: Any) -> None:
    run = host_with(1000)
    domain: Any = SimpleNamespace()
    run._guests["kdh-x-0"] = (threading.get_ident(), domain)
    with pytest.raises(HostError, match="1,408 MiB needed"):
        run._room("debian-12", 1024)


def test_memory_of_the_run_does_not_become_free(host_with: Any) -> None:
    run = host_with(1000)
    domain: Any = SimpleNamespace()
    run._guests["kdh-x-0"] = (threading.get_ident(), domain)  # a collector
    reported: list[str] = []

    def job() -> None:
        stop = clock.now_s() + 5
        with ending_when(lambda: clock.now_s() > stop):
            try:
                run._room("debian-12", 1024)
            except (HostError, Stopped) as error:
                reported.append(str(error))

    thread = threading.Thread(target=job)
    thread.start()
    thread.join(60)
    assert reported
    assert "1,408 MiB needed" in reported[0]


def test_the_wait_has_an_end(host_with: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vm_run, "MEMORY_WAIT_S", 0.0)
    with pytest.raises(HostError, match="none of 2 other guests has ended"):
        host_with(1000, guests=2)._room("debian-12", 1024)


def test_only_one_starts_a_guest_at_a_time(host_with: Any) -> None:
    run, started = host_with(9000), []

    def other() -> None:
        with run._room("second", 1024):
            started.append("second")

    thread = threading.Thread(target=other)
    with run._room("first", 1024):
        thread.start()
        thread.join(0.3)
        started.append("first")
    thread.join(60)
    assert started == ["first", "second"]


@pytest.mark.usefixtures("fake_clock")
def test_sleeps_are_short_enough_to_be_ended() -> None:
    looks = []

    def asked() -> bool:
        looks.append(True)
        return len(looks) > 2

    began_s = clock.now_s()
    with ending_when(asked), pytest.raises(Stopped):
        pause(3600)
    assert clock.now_s() - began_s < 5


# ---------------------------------------------------------------- pytest -n auto


class FakeRun:
    """A run on a host that has room for three, or that is unfit."""

    unfit = False

    def __init__(self, options: Options) -> None:
        assert options.jobs is None

    def __enter__(self) -> FakeRun:
        if self.unfit:
            raise HostError("libvirt does not answer")
        return self

    def __exit__(self, *_: object) -> None: ...

    def at_once(self, tasks_mib: list[int], disk_mib: int) -> int:
        assert set(tasks_mib) == {1024}
        assert disk_mib > 1024
        return 3


def workers(monkeypatch: pytest.MonkeyPatch, *arguments: str, image: str = "") -> int | None:
    monkeypatch.setattr("kdump_harness.vm.run.Run", FakeRun)
    monkeypatch.delenv("PYTEST_XDIST_AUTO_NUM_WORKERS", raising=False)
    options = {"kdump_image": [image] if image else None}
    config: Any = SimpleNamespace(
        args=list(arguments), getoption=lambda name, default=None: options.get(name, default), getini={}.get
    )
    return entry.workers(config)


def test_scenarios_get_a_worker_for_each_guest_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    assert workers(monkeypatch, "scenarios/test_smoke.py::test_dump") == 3
    assert workers(monkeypatch, "mine", image="debian-12") == 3
    assert workers(monkeypatch, "tests") is None  # xdist's own number
    monkeypatch.setattr(FakeRun, "unfit", True)
    assert workers(monkeypatch, "scenarios") == 1


# ---------------------------------------------------------------- Ctrl-C


PROGRAM = r"""
import os
import signal
import threading
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it, and so do its children
from kdump_harness.campaigns import jobs
from kdump_harness import __main__ as cli
from kdump_harness.cli.verbs import sweep as verbs
from kdump_harness.base.progress import Progress
from kdump_harness.base.clock import pause

class Host:
    progress, side_by_side = Progress(), 1
    def abandon(self): print("abandoned", flush=True)

def sweep(_arguments):
    begun = threading.Barrier(3, action=lambda: print("begun", flush=True))
    def work():
        begun.wait(60)
        try:
            pause(600)
        finally:
            os.write(1, b"cleaned up\n")
    with jobs.Jobs(Host(), 3, []) as made:
        made.run([jobs.Job(label=str(n), kind="x", work=work) for n in range(9)])

verbs.sweep = sweep
raise SystemExit(cli.main(["sweep", "debian-12"]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_all_jobs_and_leaves_nothing(number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"begun\n"
        process.send_signal(number)
        try:
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert out.split(b"\n") == [b"cleaned up"] * 3 + [b"abandoned", b""]
    assert process.returncode == command.EXIT_INTERRUPTED
    assert b"interrupted: unfinished work was removed (--resume continues the run)" in err
