"""An interrupted run is found, is readable whenever it was killed, and is resumed only once at a time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kdump_harness import __main__ as command
from kdump_harness.base.errors import UsageError
from kdump_harness.base.evidence import Evidence, EvidenceRoot
from kdump_harness.campaigns.resume import find_record, read_record, record_of, taken_up
from kdump_harness.vm.run import Options


def leave(evidence: Path, run: str, name: str = "sweep", *, at_s: float = 0.0, **record: Any) -> Path:
    path = evidence / run / f"{name}-debian-12" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"asked": {"IMAGE": "debian-12"}, **record}))
    os.utime(path, (at_s, at_s))
    return path


def test_the_newest_run_of_the_verb_is_meant_unless_one_is_named(tmp_path: Path) -> None:
    old, new = leave(tmp_path, "a", at_s=1), leave(tmp_path, "b", at_s=2)
    leave(tmp_path, "c", "size", at_s=3)
    (tmp_path / "last").symlink_to("c")
    assert find_record("last", tmp_path, "sweep.json") == new.resolve()
    for where in (old.parent, old.parents[1]):
        assert find_record(str(where), tmp_path, "sweep.json") == old.resolve()


def test_a_missing_record_is_reported(tmp_path: Path) -> None:
    leave(tmp_path, "a", "size")
    with pytest.raises(UsageError, match=r"nothing to resume: .* has no sweep\.json"):
        find_record("last", tmp_path, "sweep.json")
    with pytest.raises(UsageError, match=r"has no sweep\.json"):
        find_record(str(tmp_path / "a"), tmp_path, "sweep.json")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"asked": 3}', '{"schema": 1}', "\x00\xff"])
def test_an_unreadable_record_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "sweep.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(UsageError, match="is not a readable record of a run"):
        read_record(path, {})


def test_restored_fields_become_the_result(tmp_path: Path) -> None:
    path = leave(tmp_path, "a", took_s=3.0)
    result = SimpleNamespace(asked={"IMAGE": "debian-12"}, took_s=0.0)
    with taken_up(path, result, "took_s") as record:
        assert record["asked"] == {"IMAGE": "debian-12"}
    assert result.took_s == 3.0
    with pytest.raises(UsageError, match="is damaged"), taken_up(path, result, "rounds"):
        pass
    with pytest.raises(UsageError, match="is damaged"), taken_up(path, result) as record:
        _ = record["cells"]


def test_it_is_read_for_the_same_request_only(tmp_path: Path) -> None:
    path = leave(tmp_path, "a", took_s=3.0)
    assert read_record(path, {"IMAGE": "debian-12"})["took_s"] == 3.0
    with pytest.raises(UsageError, match="IMAGE was debian-12, and is debian-13 now"):
        read_record(path, {"IMAGE": "debian-13"})
    with pytest.raises(UsageError, match="--level was nothing, and is 31 now"):
        read_record(path, {"IMAGE": "debian-12", "--level": "31"})


def test_a_run_is_resumed_in_its_directory_and_once_at_a_time(tmp_path: Path) -> None:
    path = leave(tmp_path / "evidence", "a")
    root = EvidenceRoot(tmp_path / "evidence", again=path.parents[1])
    assert root.run == path.parents[1]
    assert (tmp_path / "evidence" / "last").resolve() == root.run.resolve()
    run: Any = SimpleNamespace(
        options=Options(resume=path), evidence_again=lambda directory: Evidence(directory, again=True)
    )
    with record_of(run, "any") as evidence:
        assert evidence.directory == path.parent
        with pytest.raises(UsageError, match="the run is still active"), record_of(run, "any"):
            pass
    with record_of(run, "any"):
        pass


def test_a_record_can_be_read_whenever_its_writer_was_killed(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from kdump_harness.base.evidence import Evidence\n"
        "evidence = Evidence(Path(sys.argv[1])); number = 0\n"
        "while True:\n"
        "    number += 1; evidence.json('sweep.json', {'number': number, 'cells': ['x' * 100] * 5000})\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "run")]) as writer:
        path, read = tmp_path / "run" / "sweep.json", 0
        while read < 20:
            assert writer.poll() is None
            if path.exists():
                assert len(json.loads(path.read_text())["cells"]) == 5000
                read += 1
        writer.send_signal(signal.SIGKILL)
    assert json.loads(path.read_text())["number"] > 0


@pytest.mark.parametrize("verb", [["sweep", "debian-12"], ["size", "debian-12"], ["compare", "debian-12", "debian-13"]])
def test_without_a_run_to_resume_no_drill_begins(
    verb: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command.main([*verb, "--uri", "nobody:///here", "--resume"]) == 2
    said = capsys.readouterr().err
    assert f"nothing to resume: evidence has no {verb[0]}.json" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("jobs", ["0", "-1", "many", "1001", "1.5"])
def test_jobs_are_a_number(jobs: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["sweep", "debian-12", "--jobs", jobs])
    assert f"invalid number of jobs: got {jobs}, expected 1 to 1000, or auto" in capsys.readouterr().err
