"""Tests of the verdict: which drills are verified."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import platform
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fakes import fake_run
from kdump_harness import __version__
from kdump_harness.base.errors import HostError, UsageError
from kdump_harness.base.evidence import Evidence
from kdump_harness.base.stage import Stage
from kdump_harness.base.verdict import Verdict
from kdump_harness.distro.family import find_family
from kdump_harness.drill import judgement
from kdump_harness.drill.checks import Scope, record_check, required
from kdump_harness.drill.disks import SystemUnderTest
from kdump_harness.drill.judgement import DrillRecord
from kdump_harness.drill.plan import RECOVERED, SAVED, Plan
from kdump_harness.triage.crash import CrashReport, CrashRequest
from kdump_harness.vmcore import Unreadable
from kdump_harness.vmcore.formats.damage import UNSUPPORTED, Damage

SUBJECT = SystemUnderTest(name="debian-12", family=find_family("debian"))
REPORT = "The kernel version is not supported.\n    Free pages              : 0x0000000000000000\n"
KINDS = {
    Scope.RECOVERED: (Plan(subject=SUBJECT, until=RECOVERED), Stage.RECOVERED),
    Scope.SAVED: (Plan(subject=SUBJECT, until=SAVED), Stage.SAVED),
    Scope.SURVIVED: (Plan(subject=SUBJECT, trigger="nmi-ignored"), Stage.ARMED),
}


@pytest.mark.parametrize(("keep", "is_kept"), [("never", False), ("failed", True), ("always", True)])
def test_a_verdict_says_who_made_it_and_where_the_vmcore_lies(tmp_path: Path, keep: str, is_kept: bool) -> None:
    run = fake_run(options=SimpleNamespace(keep=keep))
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
    run = fake_run()
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


@pytest.mark.parametrize("scope", KINDS)
def test_a_drill_that_lacks_the_answers_of_crash_is_verified_only_if_it_makes_no_dump(
    scope: Scope, tmp_path: Path
) -> None:
    plan, reached = KINDS[scope]
    asked = dataclasses.replace(plan, crash=CrashRequest())
    assert conclude(tmp_path / "drill", asked, reached, required(scope)).verified is (scope is Scope.SURVIVED)


@pytest.mark.parametrize(("scope", "name"), [(scope, name) for scope in KINDS for name in sorted(required(scope))])
def test_a_required_check_that_was_not_made_or_failed_is_no_verified_drill(
    scope: Scope, name: str, tmp_path: Path
) -> None:
    plan, reached = KINDS[scope]
    lacking = conclude(tmp_path / "lacking", plan, reached, required(scope) - {name})
    failing = conclude(tmp_path / "failing", plan, reached, required(scope), failed=name)
    assert (lacking.verified, lacking.reached) == (failing.verified, failing.reached) == (False, reached)
    assert [check.name for check in failing.failed()] == [name]


@pytest.mark.parametrize(
    ("console", "reached"),
    [(REPORT, Stage.RECOVERED), (REPORT, Stage.CRASHED), ("", Stage.SAVED)],
    ids=["report", "no capture", "silent"],
)
def test_the_messages_of_makedumpfile_are_in_the_verdict(console: str, reached: Stage, tmp_path: Path) -> None:
    run = fake_run()
    with contextlib.closing(Evidence(tmp_path / "drill")) as evidence:
        record = DrillRecord(run, Plan(subject=SUBJECT), evidence)
        record.verdict.reached, record.verdict.makedumpfile, record.verdict.level = reached, "1.7.6", 31
        record.console += console.splitlines()
        record.classes = {"free": {"total": 138390, "kept": 138390}}
        record.conclude(None)
    said, remark = record.verdict.makedumpfile_said, "makedumpfile counted 0 free pages"
    assert (said is None) is (reached is Stage.CRASHED)
    assert any(one.startswith(remark) for one in record.verdict.remarks) is (said is not None and bool(console))
    if said is not None:
        assert (said["latest_kernel"], said["pages"]) == ("6.11.4", {"free": 0} if console else None)


def by_crash(directory: Path, answer: CrashReport | Exception, monkeypatch: pytest.MonkeyPatch) -> Verdict:
    """Return the verdict of a drill whose other checks hold, after this answer of crash."""
    asked: list[dict[str, Any]] = []

    def ask(_dump: Path, **how: Any) -> CrashReport:
        asked.append(how)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(judgement, "ask_crash", ask)
    run = fake_run(state=SimpleNamespace(directory=directory))
    facts: Any = SimpleNamespace(nonce="n0nce", before=SimpleNamespace(os_release={"VERSION_CODENAME": "trixie"}))
    with contextlib.closing(Evidence(directory / "drill")) as evidence:
        record = DrillRecord(run, Plan(subject=SUBJECT, crash=CrashRequest()), evidence)
        record.verdict.reached = Stage.RECOVERED
        for name in required(Scope.RECOVERED):
            record_check(record.verdict, name, True, seen="")
        record.ask_crash(Path("vmcore"), facts)
        record.conclude(None)
    assert (asked[0]["suite"], asked[0]["log"]) == ("trixie", "n0nce")
    return record.verdict


ANSWER = CrashReport(version="9.0.2", source="a package", debuginfo="vmlinux", tasks=53, outputs={"sys": "TASKS: 53"})


def test_a_dump_that_crash_opens_is_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verdict = by_crash(tmp_path, ANSWER, monkeypatch)
    assert (verdict.verified, verdict.exit_status) == (True, 0)
    assert verdict.crash is not None
    assert (verdict.crash["version"], verdict.crash["tasks"]) == ("9.0.2", 53)
    assert "crash> sys\nTASKS: 53" in (tmp_path / "drill" / "crash.txt").read_text()


def test_complaints_of_crash_fail_the_drill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verdict = by_crash(tmp_path, dataclasses.replace(ANSWER, complaints=("bt: seek error",)), monkeypatch)
    assert ([check.name for check in verdict.failed()], verdict.exit_status) == (["crash"], 1)
    assert "crash 9.0.2: bt: seek error; 53 tasks" in verdict.reason()


@pytest.mark.parametrize("error", [HostError("no debug info for 6.1"), UsageError("vmlinux is another kernel's")])
def test_a_check_that_was_asked_for_and_not_made_is_not_a_pass(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdict = by_crash(tmp_path, error, monkeypatch)
    assert (verdict.verified, verdict.exit_status) == (False, 5)
    assert verdict.not_judged == f"the check crash could not be made: {error}"


@pytest.mark.parametrize(("judged", "status"), [(True, 1), (False, 5)])
def test_a_dump_that_cannot_be_opened_is_not_shown_to_crash(
    judged: bool, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = Unreadable(Damage("signature" if judged else UNSUPPORTED, "it is not a dump"))
    assert by_crash(tmp_path, error, monkeypatch).exit_status == status
