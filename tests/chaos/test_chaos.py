"""The checks of the chaos script see what a killed run would leave."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import chaos
import pytest


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> chaos.Bench:
    """A bench whose state is empty, without a hypervisor."""
    monkeypatch.setattr(chaos, "virsh", lambda *_: [])
    disk = tmp_path / "disk"
    disk.touch(mode=0o600)
    options = argparse.Namespace(state=tmp_path, uri=None, command=["kernel"], watch=[disk], restart_libvirt=None)
    bench = chaos.Bench(options)
    (bench.state / "runs").mkdir(parents=True)
    return bench


def test_nothing_is_found_where_nothing_is_left(bench: chaos.Bench) -> None:
    assert chaos.remains(bench, {"abc123"}) == []
    assert chaos.after_clean(bench) == []


def test_domains_networks_and_processes_are_found(bench: chaos.Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chaos, "virsh", lambda *_: ["kdh-abc123-1-x", "kdh-def456-1-x", "web", ""])
    process = subprocess.Popen(
        [sys.executable, "-c", "input('ready\\n')", f"{bench.state}/runs/abc123/disk"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.readline()  # the kernel shows no command line until the program runs
    try:
        left = chaos.remains(bench, {"abc123"})
    finally:
        process.communicate(b"\n")
    assert left[:2] == ["domain kdh-abc123-1-x", "network kdh-abc123-1-x"]
    assert left[2].startswith(f"process {process.pid}: ")
    assert len(left) == 3


def test_files_that_clean_left_or_that_have_changed_are_found(bench: chaos.Bench, tmp_path: Path) -> None:
    (bench.state / "runs" / "abc123").mkdir()
    (bench.state / "armed" / "k.part").mkdir(parents=True)
    (bench.state / "armed" / "k").mkdir()
    (bench.state / "armed" / "k" / "meta.json").write_text("{")
    (tmp_path / "disk").chmod(0o644)
    found = [one.split()[0] for one in chaos.after_clean(bench)]
    assert sorted(found) == ["changed", "damaged", "run", "unfinished"]


def test_the_points_fill_the_whole_run() -> None:
    points = chaos.points(100.0)
    assert sorted(next(points) for _ in range(7)) == [12.5, 25.0, 37.5, 50.0, 62.5, 75.0, 87.5]


def test_the_stage_at_which_a_run_was_killed_is_named(bench: chaos.Bench) -> None:
    assert bench.stage() == "before the first event"
    place = bench.evidence / "20261130-120000" / "kernel-trixie"
    place.mkdir(parents=True)
    (place / "events.jsonl").write_text('{"at_s": 1.5, "event": "stage", "reached": "CRASHED"}\n{"at_s": 2.0, "ev')
    assert bench.stage() == "stage CRASHED"


def test_no_disk_of_others_is_filled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["chaos.py", "--state", str(tmp_path), "--fill"])
    with pytest.raises(SystemExit):
        chaos.main()
    assert f"{tmp_path} is not the root of a file system" in capsys.readouterr().err
