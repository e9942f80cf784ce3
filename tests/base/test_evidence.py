"""Each run and each drill has a separate directory, and existing files are never replaced."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from kdump_harness.base.errors import HostError
from kdump_harness.base.evidence import Evidence, EvidenceRoot, check_writable


@pytest.fixture
def evidence(tmp_path: Path) -> Evidence:
    return Evidence(tmp_path / "drill")


def test_every_byte_of_the_console_is_kept_in_order(evidence: Evidence) -> None:
    echoed: list[bytes] = []
    evidence.console_bytes(b"\xff\x00first\r\n")
    evidence.echo_console(echoed.append)
    evidence.console_bytes(b"second")
    assert evidence.console_path.read_bytes() == b"\xff\x00first\r\nsecond"  # before close: a kill must not lose it
    assert echoed == [b"second"]
    evidence.close()


def test_events_are_lines_of_json_with_their_moment(evidence: Evidence) -> None:
    evidence.event("stage", reached="CRASHED", where=Path("x"))
    evidence.event("verdict", verified=False)
    lines = (evidence.directory / "events.jsonl").read_text(encoding="utf-8").splitlines()
    first, second = map(json.loads, lines)
    assert first | {"at_s": 0} == {"at_s": 0, "event": "stage", "reached": "CRASHED", "where": "x"}
    assert 0 <= first["at_s"] <= second["at_s"]
    evidence.close()


def test_commands_are_kept_with_their_status(evidence: Evidence) -> None:
    evidence.command("uname -r", 0, "6.1.0\n", "", 0.25)
    evidence.close()
    assert (evidence.directory / "commands.log").read_text(encoding="utf-8") == (
        "$ uname -r\n6.1.0\n[0 after 0.2 s]\n\n"
    )


def test_small_files_are_written_also_into_directories(evidence: Evidence) -> None:
    assert evidence.text("pulled/notes.txt", "text").read_text(encoding="utf-8") == "text"
    assert json.loads(evidence.json("verdict.json", {"path": Path("x")}).read_text(encoding="utf-8")) == {"path": "x"}
    evidence.close()


def test_what_comes_after_the_end_is_dropped(evidence: Evidence) -> None:
    """libvirt's thread may deliver a last chunk after the drill has closed its logs."""
    evidence.close()
    evidence.console_bytes(b"late")
    evidence.event("late")
    evidence.command("late", 0, "", "", 0.0)
    assert evidence.console_path.read_bytes() == b""


def test_a_directory_that_is_there_already_is_not_used_again(evidence: Evidence) -> None:
    evidence.close()
    with pytest.raises(HostError, match="cannot be written: File exists"):
        Evidence(evidence.directory)


def test_runs_of_one_second_get_directories_of_their_own(tmp_path: Path) -> None:
    runs = [EvidenceRoot(tmp_path / "evidence").run for _ in range(3)]
    assert len(set(runs)) == 3
    assert all(run.is_dir() for run in runs)


def test_last_points_to_the_newest_run_by_its_name(tmp_path: Path) -> None:
    EvidenceRoot(tmp_path)
    newest = EvidenceRoot(tmp_path).run
    assert (tmp_path / "last").readlink() == Path(newest.name)  # relative: the whole tree can be moved
    assert (tmp_path / "last").resolve() == newest
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_link_that_points_nowhere_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "last").symlink_to("gone")
    assert (tmp_path / "last").resolve() != EvidenceRoot(tmp_path).run.parent
    assert (tmp_path / "last").exists()


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_something_of_the_users_named_last_is_left_alone(tmp_path: Path, kind: str) -> None:
    mine = tmp_path / "last"
    if kind == "file":
        mine.write_text("mine", encoding="utf-8")
    else:
        mine.mkdir()
    assert EvidenceRoot(tmp_path).run.is_dir()
    assert not mine.is_symlink()


def test_drills_of_one_name_are_numbered(tmp_path: Path) -> None:
    root = EvidenceRoot(tmp_path)
    drills = [root.drill("debian-12") for _ in range(3)]
    assert [drill.directory.name for drill in drills] == ["debian-12", "debian-12-2", "debian-12-3"]
    for drill in drills:
        drill.close()


def test_no_two_write_to_one_log(tmp_path: Path) -> None:
    root = EvidenceRoot(tmp_path)
    logs = [root.log("build-debian-12.log") for _ in range(3)]
    assert [path.name for path in logs] == ["build-debian-12.log", "build-debian-12-2.log", "build-debian-12-3.log"]
    assert all(path.exists() for path in logs)


def test_a_root_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    for place in (tmp_path / "file", tmp_path / "file" / "below" / "it"):
        for attempt in (EvidenceRoot, check_writable):
            with pytest.raises(HostError, match=r"cannot be written: .* \(choose another with --evidence DIR\)"):
                attempt(place)


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_root_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    for attempt in (EvidenceRoot, check_writable):
        with pytest.raises(HostError, match="cannot be written"):
            attempt(tmp_path / "evidence")
    tmp_path.chmod(0o700)


def test_looking_whether_a_place_can_be_written_makes_nothing(tmp_path: Path) -> None:
    check_writable(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []
