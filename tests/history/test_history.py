"""History: results are recorded completely or not at all; only changes beyond the noise are regressions."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
from history_factory import VERDICT, drill, failed
from kdump_harness.__main__ import main
from kdump_harness.base.errors import UsageError
from kdump_harness.base.stage import Stage
from kdump_harness.base.verdict import Check, Verdict
from kdump_harness.history import database
from kdump_harness.history.database import DRILL, SIZE, SWEEP, History, RecordedRun, history_path, shrunk
from kdump_harness.history.figures import figures_of, load_figures
from kdump_harness.history.importing import _results, import_file, result_files, sizing_results
from kdump_harness.history.recording import record
from kdump_harness.history.trend import find, regressions
from kdump_harness.pytest_plugin import outcomes

KERNELS = ("6.1.0-55-cloud-amd64", "6.1.0-56-cloud-amd64")
SWEEP_RESULT = {
    "schema": 1,
    "ok": True,
    "image": "debian-12",
    "kernel": KERNELS[0],
    "accelerator": "tcg",
    "took_s": 600.0,
    "relations": [],
    "cells": [{"level": 31, "compress": "zlib", "size_bytes": 27_000_000, "how": "real"}],
    "evidence": "evidence/x",
}


@pytest.fixture
def past(tmp_path: Path) -> Iterator[History]:
    """An empty history."""
    with History(tmp_path / "history.sqlite") as made:
        yield made


def _thirty(past: History, *, slower_by: float = 1.6, from_day: int = 24) -> list[RecordedRun]:
    """A drill each night; a new kernel in the end."""
    runs = []
    for day in range(30):
        new = day >= from_day
        run = past.add(DRILL, drill(day, kernel=KERNELS[new], slower_by=slower_by if new else 1.0))
        assert run is not None
        runs.append(run)
    return runs


# ---------------------------------------------------------------- worse than before


def test_a_new_kernel_that_is_slower_is_named(past: History) -> None:
    runs = _thirty(past)
    found = {one.figure: one for one in regressions(past, runs[-1])}
    assert set(found) == {"panic_to_login", "capture_boot"}
    worse = found["panic_to_login"]
    assert (worse.since_kernel, worse.before_kernel, worse.drills) == (KERNELS[1], KERNELS[0], 6)
    assert worse.text.startswith("panic to login: 5")
    assert "usually 338.9 s (+6" in worse.text
    assert worse.text.endswith(f"slower since {KERNELS[1]}, 6 drills)")


def test_a_regression_is_reported_from_the_first_slow_drill_on(past: History) -> None:
    runs = _thirty(past)
    reported = [bool(regressions(past, run)) for run in runs]
    assert reported == [False] * 24 + [True] * 6


def test_noise_is_nothing(past: History) -> None:
    runs = _thirty(past, slower_by=1.1)
    assert not any(regressions(past, run) for run in runs)


def test_one_slow_night_is_not_a_later_regression(past: History) -> None:
    for day in range(10):
        run = past.add(DRILL, drill(day, slower_by=3.0 if day == 6 else 1.0))
    assert run is not None
    assert regressions(past, run) == []


def test_a_larger_dump_says_so(past: History) -> None:
    for day in range(8):
        run = past.add(DRILL, drill(day, larger_by=4.0 if day == 7 else 1.0))
    assert run is not None
    (worse,) = regressions(past, run)
    assert (worse.figure, worse.since_kernel) == ("dump_size", None)
    assert "larger with the same kernel as before" in worse.text


def test_only_drills_of_one_series_are_compared(past: History) -> None:
    for day in range(8):
        past.add(DRILL, drill(day))
    for changes in ({"memory_mib": 4096}, {"accelerator": "kvm"}, {"level": 1}, {"target": "nfs"}, {"image": "x"}):
        run = past.add(DRILL, drill(9, slower_by=5.0, **changes))
        assert run is not None
        assert regressions(past, run) == []


def test_failed_drills_do_not_count_as_a_measurement(past: History) -> None:
    for day in range(8):
        past.add(DRILL, drill(day, slower_by=9.0, verified=False) if day % 2 else drill(day))
    run = past.add(DRILL, drill(8, slower_by=1.02))
    assert run is not None
    assert regressions(past, run) == []


def test_two_drills_are_too_few_for_a_comparison(past: History) -> None:
    runs = [past.add(DRILL, drill(day, slower_by=1.0 if day < 2 else 9.0)) for day in range(3)]
    assert runs[-1] is not None
    assert find(load_figures()["panic_to_login"], past.past(runs[-1], most=9)) is None


def test_a_trial_with_a_part_of_its_reservation_is_not_compared_with_drills_of_the_whole(past: History) -> None:
    for day in range(8):
        past.add(DRILL, drill(day, crashkernel="256M", reserved_mib=256))
    run = past.add(DRILL, drill(8, slower_by=9.0, crashkernel="256M", reserved_mib=100))
    assert run is not None
    assert regressions(past, run) == []


@pytest.mark.parametrize(
    ("crashkernel", "parts", "left"),
    [
        ("256M,high crashkernel=72M,low", (256, 72), {}),
        ("256M,high crashkernel=72M,low", (0, 256), {}),  # without room above 4 GiB
        ("256M,high crashkernel=72M,low", (100, 72), {"reserved_mib": 100}),
        ("160M crashkernel=256M,cma", (0, 160), {}),
        ("160M crashkernel=256M,cma", (0, 96), {"reserved_mib": 96}),
    ],
)
def test_only_the_main_part_shows_that_a_reservation_was_given_back(
    crashkernel: str, parts: tuple[int, int], left: dict[str, int]
) -> None:
    reserved = {"high_mib": parts[0], "low_mib": parts[1], "cma_mib": 0}
    result = {"crashkernel": crashkernel, "memory_mib": 4096, "reserved_mib": sum(parts), "reserved": reserved}
    assert shrunk(result) == left


def test_a_dump_that_cannot_be_read_is_imported_and_one_bad_file_spoils_no_other(
    past: History, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unreadable = {**VERDICT, "verified": False, "dump": {**VERDICT["dump"], "format": None, "pages_kept": None}}
    for name, content in (("a", unreadable), ("b", {"checks": 1, "verified": 2}), ("c", VERDICT)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "verdict.json").write_text(json.dumps(content), encoding="utf-8")
    history = str(tmp_path / "history.sqlite")
    assert main(["history", "--import", str(tmp_path), "--history", history]) == 2
    reported = capsys.readouterr()
    assert reported.out == "2 recorded, 0 were known\n"
    assert "b/verdict.json is not a result of kdump-harness" in reported.err
    assert reported.err.count("\n") == 1


def sizing(smallest_mib: int | None, memory_mib: int = 1024) -> dict[str, Any]:
    row = {"memory_mib": memory_mib, "vcpus": 2, "target": "local", "proof": "dumped 3 of 3", "predicted_mib": 86}
    return {
        "image": "debian-12",
        "ok": smallest_mib is not None,
        "kernel": "6.1",
        "accelerator": "tcg",
        "sizings": [{**row, "smallest_mib": smallest_mib, "confirmed": True}],
    }


def test_a_kernel_that_needs_more_memory_is_said_so(past: History, tmp_path: Path) -> None:
    file = tmp_path / "size.json"
    for day, smallest_mib in enumerate([100, 104, 100, 104, 100, 160]):
        file.write_text(json.dumps({**sizing(smallest_mib), "evidence": str(day)}), encoding="utf-8")
        (kind, result, _), *_ = _results(file, json.loads(file.read_text(encoding="utf-8")))
        run = past.add(kind, {**result, "started": f"2026-11-{10 + day}T00:00:00+00:00"})
        assert run is not None
        worse = [found.text for found in regressions(past, run)]
        assert bool(worse) == (smallest_mib == 160), worse
    assert "smallest reservation that dumps: 160" in worse[0]
    other = past.add(SIZE, {**next(sizing_results(sizing(300, 4096))), "started": "2026-11-20T00:00:00+00:00"})
    assert other is not None
    assert regressions(past, other) == []  # another machine


def test_figures_are_taken_from_their_places() -> None:
    figures = figures_of(VERDICT)
    assert figures["panic_to_login"] == 338.887
    assert figures["dump_size"] == 27_749_729
    assert figures["reserved"] == 256
    assert set(figures) == set(load_figures()) - {"smallest_reservation", "capture_memory"}  # these are a sizing's
    assert figures_of({"phases_s": None, "dump": None, "reserved_mib": None}) == {}


# ---------------------------------------------------------------- the file


def test_a_history_of_the_first_version_gets_trigger_target_and_architecture(tmp_path: Path) -> None:
    path = tmp_path / "history.sqlite"
    with patch.object(database, "_MIGRATIONS", database._MIGRATIONS[:1]):
        History(path)._database.close()
    old = sqlite3.connect(path)
    for number, result in enumerate((json.dumps({**VERDICT, "trigger": "nmi"}), "{damaged", json.dumps(SWEEP_RESULT))):
        kind = SWEEP if number == 2 else DRILL
        row = (number, str(number), kind, 1e9 + number, "x", "", "s", 1, "", "", result)
        columns = "number, key, kind, at_s, image, scenario, series, ok, summary, evidence, result"
        old.execute(f"INSERT INTO run ({columns}) VALUES ({', '.join('?' * len(row))})", row)
    old.commit()
    old.close()
    with History(path) as past:
        sweep, damaged, nmi = past.newest()
        assert (nmi.topic, nmi.arch, nmi.target) == ("nmi → local", None, "local")
        assert (damaged.trigger, sweep.trigger) == (None, None)
        with pytest.raises(UsageError, match="is damaged: the result of run 1 is not JSON"):
            past.result(damaged)


def test_another_architecture_is_another_system(past: History) -> None:
    usual, foreign = past.add(DRILL, drill(1)), past.add(DRILL, drill(1, arch="aarch64"))
    assert usual is not None
    assert foreign is not None
    assert usual.series != foreign.series
    assert (usual.system, foreign.system) == ("debian-12", "debian-12 (aarch64)")
    assert past.add(DRILL, drill(2, arch="x86_64")).series == usual.series  # type: ignore[union-attr]


def test_sizings_of_another_architecture_are_a_series_of_their_own(past: History) -> None:
    usual, same, foreign = (
        past.add(
            SIZE, {**next(sizing_results({**sizing(300), "arch": arch})), "started": f"2026-11-2{day}T00:00:00+00:00"}
        )
        for day, arch in enumerate(("x86_64", None, "aarch64"))
    )
    assert usual is not None
    assert same is not None
    assert foreign is not None
    assert usual.series == same.series != foreign.series
    assert (usual.system, same.system, foreign.system) == ("debian-12", "debian-12", "debian-12 (aarch64)")


def test_pruning_keeps_the_newest_of_each_architecture(past: History) -> None:
    for number in range(3):
        past.add(DRILL, drill(number))
    foreign = past.add(DRILL, drill(-9, verified=False, arch="aarch64"))
    assert foreign is not None
    gone = past.prune(keep=1, days=None, dry_run=True)
    assert len(gone) == 2
    assert foreign.number not in [run.number for run in gone]


def test_evidence_is_found_from_any_directory(past: History, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    record(past.path, DRILL, drill(1, evidence="evidence/run/debian-12"), log=print)
    moved = tmp_path / "archive" / "run" / "debian-12"
    moved.mkdir(parents=True)
    (moved / "verdict.json").write_text(json.dumps(drill(2, evidence="evidence/run/debian-12")))
    matrix = {"tests": [{"scenario": "a", "verdicts": [drill(3, evidence="evidence/run/debian-12")]}]}
    (moved.parent / "matrix.json").write_text(json.dumps(matrix))
    for name in ("debian-12/verdict.json", "matrix.json"):
        import_file(past, moved.parent / name)
    assert [run.evidence for run in past.newest()] == [str(moved), str(moved), f"{tmp_path}/evidence/run/debian-12"]


def test_a_result_is_recorded_once(past: History, tmp_path: Path) -> None:
    assert past.add(DRILL, VERDICT) is not None
    (tmp_path / "run" / "debian-12").mkdir(parents=True)
    (tmp_path / "last").symlink_to("run")
    file = tmp_path / "run" / "debian-12" / "verdict.json"
    file.write_text(json.dumps({**VERDICT, "remarks": ["said since"], "evidence": "elsewhere"}))
    assert import_file(past, file) == (0, 1)


def test_matrices_and_sweeps_are_imported(past: History, tmp_path: Path) -> None:
    matrix = {"schema": 1, "tests": [{"scenario": "test_smoke.py::test_dump", "verdicts": [drill(1), failed(2)]}]}
    (tmp_path / "matrix.json").write_text(json.dumps(matrix))
    (tmp_path / "sweep.json").write_text(json.dumps(SWEEP_RESULT))
    assert import_file(past, tmp_path / "matrix.json") == (2, 0)
    assert import_file(past, tmp_path / "sweep.json") == (1, 0)
    assert import_file(past, tmp_path / "sweep.json") == (0, 1)
    sweep = next(run for run in past.newest() if run.kind == SWEEP)
    assert sweep.figures == {"size_d31_zlib": 27_000_000}
    bad = next(run for run in past.newest() if not run.ok)
    assert bad.summary == "capture-oom; the capture kernel ran out of memory; single-dump: none"
    assert bad.scenario == "test_smoke.py::test_dump"


def test_drills_of_a_comparison_are_not_imported_separately(tmp_path: Path) -> None:
    for name in ("compare-x/compare.json", "compare-x/smoke-1-old/verdict.json", "debian-12/verdict.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    found = [str(path.relative_to(tmp_path)) for path in result_files(tmp_path)]
    assert found == ["compare-x/compare.json", "debian-12/verdict.json"]
    assert result_files(tmp_path / "compare-x/smoke-1-old/verdict.json")


def test_drills_that_a_test_wanted_to_fail_are_not_imported(past: History, tmp_path: Path) -> None:
    tests = [
        {"scenario": "a", "outcome": "passed", "verdicts": [drill(1), failed(2)]},
        {"scenario": "b", "outcome": "FAILED", "verdicts": [failed(3)]},
    ]
    (tmp_path / "matrix.json").write_text(json.dumps({"schema": 1, "tests": tests}))
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "verdict.json").write_text("{}")
    assert result_files(tmp_path) == [tmp_path / "matrix.json"]
    assert import_file(past, tmp_path / "matrix.json") == (2, 0)
    assert sorted((run.scenario, run.ok) for run in past.newest()) == [("a", True), ("b", False)]


def test_other_results_are_recorded_too(past: History) -> None:
    result = {"image": "debian-12", "ok": False, "summary": "192 MiB are too few", "figures": {"smallest": 208.0}}
    run = past.add("size", result)
    assert run is not None
    assert (run.kind, run.ok, run.summary, run.figures) == ("size", False, "192 MiB are too few", {"smallest": 208.0})
    assert main(["history", "--history", str(past.path)]) == 0


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"checks": [], "verified": true}', '{"tests": [1]}', "\xff"])
def test_files_that_are_not_results_are_refused(past: History, tmp_path: Path, text: str) -> None:
    path = tmp_path / "verdict.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(UsageError, match=r"verdict\.json is "):
        import_file(past, path)
    assert past.newest() == []


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"checks": [{"ok": False}]}, r"verdict\.checks\[0\]\.name is not a text"),
        ({"symptoms": ["x"]}, r"verdict\.symptoms\[0\] is not a table"),
        ({"dump": {"size_bytes": 5}}, r"verdict\.dump\.path is not a text"),
        ({"phases_s": {"dump": "x"}}, r"verdict\.phases_s\.dump is not a number"),
        ({"phases_s": {"dump": -1}}, r"verdict\.phases_s\.dump is not a valid figure"),
        ({"phases_s": {"dump": float("inf")}}, "Infinity is not a number"),
        ({"reserved_mib": 10**400}, r"verdict\.reserved_mib is not a valid figure"),
        ({"kernel": 5}, r"verdict\.kernel is not a text"),
        ({"started": "9999-12-31T23:59:59-23:59"}, "is not a date from 1970 to 9998"),
        ({"started": "0001-01-01T00:00:00+23:59"}, "is not a date from 1970 to 9998"),
        ({"stopped_by": "\ud800"}, "is not JSON"),
    ],
)
def test_results_of_a_wrong_shape_are_refused(
    past: History, tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    (tmp_path / "verdict.json").write_text(json.dumps({**VERDICT, **changes}))
    with pytest.raises(UsageError, match=sentence):
        import_file(past, tmp_path / "verdict.json")
    assert past.newest() == []


@pytest.mark.parametrize("text", ["[" * 100_000, json.dumps({"image": "x", "ok": True, "cells": [{"compress": "no"}]})])
def test_deep_or_incomplete_results_are_refused(past: History, tmp_path: Path, text: str) -> None:
    (tmp_path / "sweep.json").write_text(text)
    with pytest.raises(UsageError):
        import_file(past, tmp_path / "sweep.json")


def test_names_are_printed_without_markup_and_control_codes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with History(tmp_path / "history.sqlite") as past:
        past.add(DRILL, drill(1, image="a[/b]\x1b[31m", kernel="[/x]"))
    for more in ([], ["--trend", "dump_size"]):
        assert main(["history", "--history", str(past.path), *more]) == 0
        said = capsys.readouterr().out
        assert "a[/b]�[31m" in said
        assert "[/x]" in said


def test_nothing_that_is_read_is_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verdict, history = tmp_path / "evidence" / "verdict.json", str(tmp_path / "history.sqlite")
    verdict.parent.mkdir()
    verdict.write_text(json.dumps(VERDICT))
    assert main(["history", "--import", str(verdict.parent), "--history", history, "--json", str(verdict)]) == 2
    assert json.loads(verdict.read_text()) == VERDICT
    assert main(["history", "--import", str(verdict), "--history", history]) == 0
    assert main(["history", "--metrics", history, "--history", history]) == 2
    assert main(["history", "--json", history, "--history", history]) == 2
    assert capsys.readouterr().err.count("is what is read") == 3
    assert main(["history", "--history", history]) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")
def test_a_history_that_one_may_only_read_is_read(tmp_path: Path) -> None:
    location = tmp_path / "place"
    location.mkdir()
    with History(location / "history.sqlite") as past:
        past.add(DRILL, VERDICT)
    if subprocess.run(["mount", "--bind", "-o", "ro", location, location], check=False).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        assert main(["history", "--history", str(past.path)]) == 0
    finally:
        subprocess.run(["umount", location], check=True)


def test_retention_keeps_the_last_success_of_each_scenario(past: History) -> None:
    past.add(DRILL, drill(1), scenario="test_smoke")
    past.add(DRILL, drill(2, target="nfs"))
    past.add(DRILL, drill(3))
    past.add(DRILL, failed(4))
    assert past.prune(keep=1, days=None, dry_run=True) == []


def test_retention_keeps_the_last_success(past: History) -> None:
    past.add(DRILL, drill(0))
    for day in range(1, 6):
        past.add(DRILL, failed(day))
    assert len(past.prune(keep=2, days=None, dry_run=True)) == 3
    assert len(past.newest()) == 6
    past.prune(keep=2, days=None, dry_run=False)
    assert [run.ok for run in past.newest()] == [False, False, True]


def test_old_runs_go_by_age(past: History) -> None:
    past.add(SWEEP, SWEEP_RESULT, at_s=time.time() - 100 * 86400)
    past.add(SWEEP, {**SWEEP_RESULT, "took_s": 1.0}, at_s=time.time())
    assert len(past.prune(keep=None, days=30, dry_run=False)) == 1


_WRITER = """
import sys
from kdump_harness.history.database import DRILL, History
sys.path.insert(0, sys.argv[2])
from history_factory import drill
for number in range(int(sys.argv[4])):
    with History(__import__("pathlib").Path(sys.argv[1])) as history:
        history.add(DRILL, drill(number, image=sys.argv[3]))
    print(number, flush=True)
"""


def _writer(path: Path, image: str, count: int) -> subprocess.Popen[str]:
    here = str(Path(__file__).parents[1])
    return subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(path), here, image, str(count)], stdout=subprocess.PIPE, text=True
    )


def test_two_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "history.sqlite"  # also made by both at once
    both = [_writer(path, image, 40) for image in ("a", "b")]
    assert [process.wait() for process in both] == [0, 0]
    with History(path) as past:
        assert sorted(run.image for run in past.newest()) == ["a"] * 40 + ["b"] * 40
    for process in both:
        assert process.stdout is not None
        process.stdout.close()


def test_a_writer_that_is_killed_loses_only_its_own_run(tmp_path: Path) -> None:
    path = tmp_path / "history.sqlite"
    victim, other = _writer(path, "victim", 100_000), _writer(path, "other", 60)
    assert victim.stdout is not None
    said = [victim.stdout.readline() for _ in range(30)]
    os.kill(victim.pid, signal.SIGKILL)
    said += victim.stdout.readlines()
    assert victim.wait() == -signal.SIGKILL
    assert other.wait() == 0
    whole = sum(line.endswith("\n") for line in said)
    with History(path) as past:
        images = [run.image for run in past.newest()]
        assert images.count("other") == 60
        assert whole <= images.count("victim") <= whole + 1
        assert past._database.rows("PRAGMA integrity_check")[0][0] == "ok"
        assert past.add(DRILL, VERDICT) is not None
    for process in (victim, other):
        assert process.stdout is not None
        process.stdout.close()


def test_a_newer_and_a_foreign_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "history.sqlite"
    with History(path) as past:
        past._database.run("PRAGMA user_version = 99")
    with pytest.raises(UsageError, match="was written by a newer kdump-harness"):
        History(path)
    other = tmp_path / "other.sqlite"
    with History(other) as past:
        past._database.run("PRAGMA application_id = 7")
    with pytest.raises(UsageError, match="a database of another kind"):
        History(other)


# ---------------------------------------------------------------- recording and words


def test_recording_never_spoils_a_verdict(tmp_path: Path) -> None:
    said: list[str] = []
    (tmp_path / "file").write_text("no database")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        assert record(path, DRILL, VERDICT, log=said.append) == []
    assert len(said) == 2
    assert all(text.startswith("this drill was not recorded: ") for text in said)
    assert record(None, DRILL, VERDICT, log=said.append) == []


def test_a_drill_that_passed_says_that_it_is_slower(tmp_path: Path) -> None:
    path = tmp_path / "history.sqlite"
    for day in range(6):
        assert record(path, DRILL, drill(day), log=print) == []
    (first, second) = record(path, DRILL, drill(6, slower_by=2.0), log=print)
    assert "slower with the same kernel as before" in first
    assert first.startswith("panic to login")
    assert second.startswith("boot of the capture kernel")


def _verdict(day: int, **changes: Any) -> Verdict:
    reported = drill(day, **changes)
    names = {field.name for field in dataclasses.fields(Verdict)}
    facts = {name: value for name, value in reported.items() if name in names}
    facts |= {"reached": Stage[reported["reached"]], "checks": [Check(**check) for check in reported["checks"]]}
    return Verdict(**facts)


def test_a_drill_of_the_command_line_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "h.sqlite"
    monkeypatch.setattr("kdump_harness.vm.run.Run", lambda _options: contextlib.nullcontext())
    for day in range(5):
        made = _verdict(day, slower_by=2.0 if day == 4 else 1.0)
        monkeypatch.setattr("kdump_harness.drill.session.run_drill", lambda _run, _plan, made=made: made)
        where = ["--evidence", str(tmp_path / "evidence"), "--history", str(path)]
        assert main(["drill", "debian-12", *where]) == 0
        reported = capsys.readouterr().out
        assert ("remark panic to login" in reported) is (day == 4)
    with History(path) as past:
        assert len(past.newest()) == 5
    assert main(["drill", "debian-12", "--evidence", str(tmp_path / "e"), "--history", "none"]) == 0
    assert not (Path(os.environ["KDUMP_HARNESS_STATE"]) / "history.sqlite").exists()


def test_a_drill_of_pytest_is_recorded_with_its_scenario(tmp_path: Path) -> None:
    options = {"kdump_history": str(tmp_path / "h.sqlite")}
    item = SimpleNamespace(
        stash=pytest.Stash(),
        user_properties=[],
        config=SimpleNamespace(getoption=lambda name, default=None: options.get(name, default), getini={}.get),
        path=tmp_path / "test_smoke.py",
        nodeid="scenarios/test_smoke.py::test_dump[debian-12]",
    )
    outcomes.report_verdict(item, _verdict(1))
    with History(tmp_path / "h.sqlite") as past:
        assert [run.scenario for run in past.newest()] == ["test_smoke.py::test_dump"]
    options["kdump_history"] = str(tmp_path / "h.sqlite" / "below")
    outcomes.report_verdict(item, _verdict(2))
    assert any(name == "history" and "was not recorded" in text for name, text in item.user_properties)


def test_where_the_history_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert history_path("none", tmp_path) is None
    assert history_path("x.sqlite", tmp_path) == Path("x.sqlite")
    assert history_path(None, tmp_path) == tmp_path / "history.sqlite"
    monkeypatch.setenv("KDUMP_HARNESS_STATE", str(tmp_path / "s"))
    assert history_path(None, None) == tmp_path / "s" / "history.sqlite"


def test_the_verb_lists_and_finds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "history.sqlite"
    with History(path) as past:
        _thirty(past)
        past.add(DRILL, failed(31, image="rocky-9"))
    assert main(["history", "--history", str(path), "--last", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "rocky-9" in lines[0]
    assert "capture-oom" in lines[0]
    assert any("slower since 6.1.0-56-cloud-amd64" in line for line in lines)
    assert main(["history", "debian-12", "--history", str(path), "--trend", "panic_to_login", "--json", "-"]) == 1
    (series,) = json.loads(capsys.readouterr().out)["series"]
    assert [(one["kernel"], one["drills"]) for one in series["kernels"]] == [(KERNELS[0], 24), (KERNELS[1], 6)]
    assert series["worse"]["since_kernel"] == KERNELS[1]


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        ([], "history.sqlite does not exist (name a history with --history FILE"),
        (["--trend", "speed"], "unknown figure 'speed' (known: panic_to_login, "),
        (["--keep", "3"], "--keep, --days and --dry-run need --prune"),
        (["--import", "no-such-file"], "no-such-file cannot be read"),
        (["--history", "none"], "nothing to show: --history none disables recording"),
    ],
)
def test_bad_input_is_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], argv: list[str], sentence: str
) -> None:
    where = [] if "--history" in argv else ["--history", str(tmp_path / "history.sqlite")]
    assert main(["history", *where, *argv]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1


def test_drills_that_shared_the_host_have_a_past_of_their_own(past: History) -> None:
    series = []
    for day, beside in enumerate((None, 0, 7)):
        reported = drill(day) if beside is None else {**drill(day), "beside": beside}
        run = past.add(DRILL, reported)
        assert run is not None
        series.append(run.series)
    assert series[0] == series[1] != series[2]


@pytest.mark.parametrize("wanted", [True, False])
def test_a_failed_drill_of_a_test_that_passed_is_not_recorded(monkeypatch: pytest.MonkeyPatch, wanted: bool) -> None:
    recorded: list[str] = []
    monkeypatch.setattr(outcomes, "_record", lambda _item, verdict: recorded.append(verdict.evidence) or [])
    item: Any = SimpleNamespace(stash=pytest.Stash(), user_properties=[])
    common: dict[str, Any] = {name: VERDICT[name] for name in ("image", "family", "trigger", "target", "accelerator")}
    for name, verified in (("good", True), ("bad", False)):
        verdict = Verdict(**common, memory_mib=1024, vcpus=2, verified=verified, evidence=name)
        outcomes.report_verdict(item, verdict)
    assert recorded == ["good"]
    for when in ("setup", "call", "teardown"):
        excinfo = None if wanted or when != "call" else "an AssertionError"
        outcomes.record_failed(item, SimpleNamespace(when=when, excinfo=excinfo))  # type: ignore[arg-type]
    assert recorded == (["good"] if wanted else ["good", "bad"])
