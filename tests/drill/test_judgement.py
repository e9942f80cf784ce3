"""Tests of the verdict: which drills are verified."""

from __future__ import annotations

import contextlib
import json
import platform
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kdump_harness import __version__
from kdump_harness.base.evidence import Evidence
from kdump_harness.base.stage import Stage
from kdump_harness.base.verdict import Verdict
from kdump_harness.distro.family import find_family
from kdump_harness.drill.checks import Scope, record_check, required
from kdump_harness.drill.disks import SystemUnderTest
from kdump_harness.drill.judgement import DrillRecord
from kdump_harness.drill.plan import RECOVERED, SAVED, Plan

SUBJECT = SystemUnderTest(name="debian-12", family=find_family("debian"))
KINDS = {
    Scope.RECOVERED: (Plan(subject=SUBJECT, until=RECOVERED), Stage.RECOVERED),
    Scope.SAVED: (Plan(subject=SUBJECT, until=SAVED), Stage.SAVED),
    Scope.SURVIVED: (Plan(subject=SUBJECT, trigger="nmi-ignored"), Stage.ARMED),
}


@pytest.mark.parametrize(("keep", "is_kept"), [("never", False), ("failed", True), ("always", True)])
def test_a_verdict_says_who_made_it_and_where_the_vmcore_lies(tmp_path: Path, keep: str, is_kept: bool) -> None:
    run: Any = SimpleNamespace(progress=None, accelerator="tcg", beside=0, options=SimpleNamespace(keep=keep))
    (dump := tmp_path / "dump").touch()
    with contextlib.closing(Evidence(tmp_path / "drill")) as evidence:
        record = DrillRecord(run, KINDS[Scope.RECOVERED][0], evidence)
        record.dumps.append(dump)
        record.conclude(None)
    written = json.loads((tmp_path / "drill" / "verdict.json").read_text(encoding="utf-8"))
    assert written["vmcore"] == (str(dump) if is_kept else None)
    assert (written["harness"], written["host"]) == (__version__, platform.node())
    assert (
        f"drill/test_judgement.py::{test_a_verdict_says_who_made_it_and_where_the_vmcore_lies.__name__}["
        in written["test"]
    )


def conclude(directory: Path, plan: Plan, reached: Stage, names: frozenset[str], failed: str = "") -> Verdict:
    run: Any = SimpleNamespace(progress=None, accelerator="tcg", beside=0, options=SimpleNamespace(keep="never"))
    with contextlib.closing(Evidence(directory)) as evidence:
        record = DrillRecord(run, plan, evidence)
        record.verdict.reached = reached
        for name in sorted(names):
            record_check(record.verdict, name, name != failed, seen="")
        record.conclude(None)
    return record.verdict


@pytest.mark.parametrize("scope", KINDS)
def test_a_drill_with_all_its_required_checks_is_verified(scope: Scope, tmp_path: Path) -> None:
    verdict = conclude(tmp_path / "drill", *KINDS[scope], required(scope))
    assert (verdict.verified, verdict.reached) == (True, Stage.VERIFIED)


@pytest.mark.parametrize(("scope", "name"), [(scope, name) for scope in KINDS for name in sorted(required(scope))])
def test_a_required_check_that_was_not_made_or_failed_is_no_verified_drill(
    scope: Scope, name: str, tmp_path: Path
) -> None:
    plan, reached = KINDS[scope]
    lacking = conclude(tmp_path / "lacking", plan, reached, required(scope) - {name})
    failing = conclude(tmp_path / "failing", plan, reached, required(scope), failed=name)
    assert (lacking.verified, lacking.reached) == (failing.verified, failing.reached) == (False, reached)
    assert [check.name for check in failing.failed()] == [name]
