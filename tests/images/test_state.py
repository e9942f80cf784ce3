"""The state directory: entries made once, unfinished entries, active and stale runs."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from kdump_harness.base.errors import HostError
from kdump_harness.images import state as state_module
from kdump_harness.images.state import State, default_directory

MAKER = """
import sys
from pathlib import Path
from kdump_harness.images.state import State

def make(part):
    with open(sys.argv[2], "a") as log:
        log.write("made\\n")
    (part / "disk").write_text("half")
    print("making", flush=True)
    sys.stdin.readline()
    (part / "disk").write_text("whole")
    return {"by": "test"}

path = State(Path(sys.argv[1])).make_once("armed", "k1", make,
    report=lambda text: print(text, flush=True), what="a disk")
print((path / "disk").read_text(), flush=True)
"""

RUNNER = """
import sys
from pathlib import Path
from kdump_harness.images.state import State

with State(Path(sys.argv[1])).run() as run:
    (run.path / "disk").write_text("overlay")
    print(run.identity, flush=True)
    sys.stdin.read()
"""


def start(script: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


@pytest.fixture
def state(tmp_path: Path) -> State:
    return State(tmp_path / "state")


def make_now(state: State, key: str = "k1", text: str = "whole") -> Path:
    def make(part: Path) -> dict[str, Any]:
        (part / "disk").write_text(text, encoding="utf-8")
        return {"by": "test"}

    return state.make_once("armed", key, make, report=lambda _text: None, what="a disk")


# ---------------------------------------------------------------- made once


def test_parallel_processes_make_a_disk_once_and_all_get_it(state: State, tmp_path: Path) -> None:
    log = tmp_path / "log"
    makers = [start(MAKER, state.directory, log) for _ in range(3)]
    said = {first_line(maker): maker for maker in makers}
    (waiting,) = {*said} - {"making"}
    assert "waiting for another process that is making a disk" in waiting
    assert said["making"].communicate("continue\n", timeout=60)[0] == "whole\n"
    others = [maker for maker in makers if maker is not said["making"]]
    assert [maker.communicate(timeout=60)[0] for maker in others] == ["whole\n", "whole\n"]
    assert [maker.returncode for maker in makers] == [0, 0, 0]
    assert log.read_text(encoding="utf-8") == "made\n"


def test_a_finished_disk_is_not_made_again(state: State) -> None:
    assert make_now(state, text="first") == make_now(state, text="second")
    assert (state.directory / "armed" / "k1" / "disk").read_text(encoding="utf-8") == "first"
    assert json.loads((state.directory / "armed" / "k1" / "meta.json").read_text(encoding="utf-8")) == {"by": "test"}
    assert state.metas("armed") == [{"by": "test"}]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_maker_that_fails_leaves_nothing_but_its_lock(state: State, error: type[BaseException]) -> None:
    def make(part: Path) -> dict[str, Any]:
        (part / "disk").write_text("half", encoding="utf-8")
        raise error

    with pytest.raises(error):
        state.make_once("armed", "k1", make, report=lambda _text: None, what="a disk")
    assert [path.name for path in (state.directory / "armed").iterdir()] == ["k1.lock"]
    assert state.ready("armed", "k1") is None


def test_a_full_disk_is_a_sentence_and_leaves_nothing(state: State) -> None:
    def make(part: Path) -> dict[str, Any]:
        (part / "disk").write_text("half", encoding="utf-8")
        raise OSError(28, "No space left on device", str(part / "disk"))

    with pytest.raises(HostError, match=r"cannot make a disk in .*armed: No space left on device"):
        state.make_once("armed", "k1", make, report=lambda _text: None, what="a disk")
    assert not (state.directory / "armed" / "k1.part").exists()


def test_a_killed_maker_leaves_no_disk_and_the_next_one_starts_afresh(state: State, tmp_path: Path) -> None:
    maker = start(MAKER, state.directory, tmp_path / "log")
    assert first_line(maker) == "making"
    assert state.leftovers() == []  # it lives
    kill(maker)
    assert state.ready("armed", "k1") is None
    assert [leftover.what for leftover in state.leftovers()] == ["unfinished armed disk k1"]
    assert (make_now(state) / "disk").read_text(encoding="utf-8") == "whole"
    assert state.leftovers() == []


def test_clean_removes_what_a_killed_maker_left(state: State, tmp_path: Path) -> None:
    maker = start(MAKER, state.directory, tmp_path / "log")
    assert first_line(maker) == "making"
    kill(maker)
    for leftover in state.leftovers():
        leftover.remove()
    assert list((state.directory / "armed").glob("*.part")) == []


def test_a_disk_in_the_making_is_not_cached(state: State, tmp_path: Path) -> None:
    make_now(state, "k2")
    maker = start(MAKER, state.directory, tmp_path / "log")
    assert first_line(maker) == "making"
    whats = [leftover.what for leftover in state.cached()]
    kill(maker)
    assert "armed/k2" in whats
    assert "armed/k1.part" not in whats


def test_armed_disks_are_removed_before_what_they_are_based_on(state: State) -> None:
    """After an interruption, no overlay may be left without its backing file."""
    make_now(state)
    state.make_once("built", "b1", lambda _part: {}, report=lambda _text: None, what="a base")
    (state.images / "debian-12").mkdir()
    whats = [leftover.what for leftover in state.cached()]
    assert whats == ["armed/k1", "built/b1", "images/debian-12"]


def test_what_people_put_into_the_cache_is_not_ours_to_remove(state: State) -> None:
    theirs = state.images / "rhel-9" / "rhel-9.8-x86_64-kvm.qcow2"
    ours = state.images / "debian-12" / f"sha512-{'0' * 128}.qcow2"
    beside = ours.with_name("notes.txt")
    for path in (theirs, ours, beside):
        path.parent.mkdir(exist_ok=True)
        path.write_text("disk", encoding="utf-8")
    (found,) = state.cached()
    assert found.what == "images/debian-12"
    assert found.remove()
    assert (theirs.exists(), ours.exists(), beside.exists()) == (True, False, True)
    assert state.cached() == []


def test_the_disks_that_rest_on_a_file_are_found(state: State) -> None:
    base = state.images / "debian-12" / "base.qcow2"
    for key, meta in (("k1", {"base": {"path": base}}), ("k2", {"base": {"path": "/elsewhere"}}), ("k3", {})):
        state.make_once("armed", key, lambda _part, meta=meta: meta, report=lambda _text: None, what="a disk")  # type: ignore[misc]
    (state.directory / "armed" / "k3" / "meta.json").write_text("[", encoding="utf-8")
    assert state.resting_on(base) == [state.directory / "armed" / "k1"]


# ---------------------------------------------------------------- runs


def test_the_oldest_living_run_tells_since_when_files_may_be_in_use(state: State) -> None:
    assert state.running_since() is None
    with state.run() as first, state.run():
        os.utime(first.path / "lock", (1000, 1000))
        assert state.running_since() == 1000
    assert state.running_since() is None


def test_a_run_has_a_directory_of_its_own_that_goes_with_it(state: State) -> None:
    with state.run() as run:
        assert run.path == state.directory / "runs" / run.identity
        assert state.active_runs() == {run.identity}
        assert state.stale_runs() == {}
        assert stat.S_IMODE(run.path.stat().st_mode) == 0o711
    assert list((state.directory / "runs").iterdir()) == []


def test_a_dead_run_is_found_and_removed_and_a_living_one_is_not(state: State) -> None:
    living, dying = start(RUNNER, state.directory), start(RUNNER, state.directory)
    alive, dead = first_line(living), first_line(dying)
    assert state.active_runs() == {alive, dead}
    kill(dying)
    assert state.active_runs() == {alive}
    assert set(state.stale_runs()) == {dead}
    (leftover,) = state.leftovers()
    assert leftover.what == f"files of the stale run {dead}"
    leftover.remove()
    assert state.leftovers() == []
    assert (state.directory / "runs" / alive / "disk").exists()
    living.communicate("")
    assert living.returncode == 0
    assert list((state.directory / "runs").iterdir()) == []


def test_a_run_that_has_not_locked_its_directory_yet_is_not_dead(state: State) -> None:
    fresh = state.directory / "runs" / "abc123"
    fresh.mkdir()
    assert state.stale_runs() == {}
    os.utime(fresh, (0, 0))
    assert set(state.stale_runs()) == {"abc123"}


def test_a_lock_that_can_only_be_read_still_tells_that_its_run_lives(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another user's run, as clean sees it."""
    really_open = os.open

    def read_only(path: Any, flags: int, *more: Any, **named: Any) -> int:
        if flags & os.O_ACCMODE == os.O_RDWR:
            raise PermissionError(13, "Permission denied", str(path))
        return really_open(path, flags, *more, **named)

    with state.run() as run:
        monkeypatch.setattr(state_module.os, "open", read_only)
        assert state.active_runs() == {run.identity}
        assert state.stale_runs() == {}
        monkeypatch.undo()


# ---------------------------------------------------------------- the place


def test_the_parts_of_the_state_directory_are_the_groups(state: State) -> None:
    for name in ("images", "built", "armed", "runs"):
        assert stat.S_IMODE((state.directory / name).stat().st_mode) == 0o2775


def test_the_environment_names_the_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KDUMP_HARNESS_STATE", str(tmp_path / "named"))
    assert default_directory() == tmp_path / "named"
    assert State().directory == tmp_path / "named"


def test_a_place_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(HostError, match=r"cannot use the state directory .*file.*: .*--state DIR"):
            State(place)
    assert (tmp_path / "file").read_text(encoding="utf-8") == "mine"


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(HostError, match=r"cannot use the state directory .*: Permission denied"):
        State(tmp_path / "state")
    tmp_path.chmod(0o700)


def test_too_little_room_is_told_before_anything_starts_with_how_much_is_needed(state: State) -> None:
    with pytest.raises(HostError, match=r"for the drill: 999999999 MiB needed, \d+ MiB free \(free some, or"):
        state.require_space(999_999_999, "the drill")
    state.require_space(1, "nearly nothing")
