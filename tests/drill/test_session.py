"""Tests of sessions on a disk whose kdump cannot be armed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fakes import fake_run
from kdump_harness.base.errors import NotArmed
from kdump_harness.base.evidence import Evidence
from kdump_harness.base.verdict import Verdict
from kdump_harness.distro.family import find_family
from kdump_harness.drill import session
from kdump_harness.drill.disks import SystemUnderTest
from kdump_harness.drill.plan import Plan
from kdump_harness.drill.session import open_session
from kdump_harness.pytest_plugin.fixtures import Turns

REASON = "kdump is not armed: kdump.service has failed"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a run on which no disk can be armed."""

    def armed_disk(*_: object) -> None:
        raise NotArmed(REASON, said="kexec: failed")

    monkeypatch.setattr(session, "armed_disk", armed_disk)
    return fake_run(
        fit=lambda machine, needs: machine,
        open_evidence=lambda: None,
        evidence=lambda name: Evidence(tmp_path / name), options=SimpleNamespace(keep="failed"),
    )  # fmt: skip


@pytest.fixture
def plan() -> Callable[..., Plan]:
    """Return a maker of plans for one image."""
    subject = SystemUnderTest(name="mine", family=find_family("suse"))
    return lambda trigger: Plan(subject=subject, trigger=trigger, name=trigger)


def test_each_drill_in_turn_on_an_image_that_cannot_be_armed_gives_a_verdict(
    run: Any, plan: Callable[..., Plan], tmp_path: Path
) -> None:
    turns = Turns(run)
    triggers = ["sysrq-c", "nmi", "panic"]
    verdicts = [turns.session(plan(each)).drill(trigger=each, name=each) for each in triggers]
    turns.close()
    assert [verdict.trigger for verdict in verdicts] == triggers
    assert {verdict.reason() for verdict in verdicts} == {REASON}
    assert [(tmp_path / each / "verdict.json").exists() for each in triggers] == [True] * 3


def test_a_refused_session_reports_each_verdict_and_has_no_guest(run: Any, plan: Callable[..., Plan]) -> None:
    reported: list[Verdict] = []
    with open_session(run, plan("sysrq-c"), on_verdict=reported.append) as refused:
        assert refused.ready
        assert [refused.save(), refused.drill(name="again")] == reported
        with pytest.raises(NotArmed, match=REASON):
            refused.guest.boot_id()
