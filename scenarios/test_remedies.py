"""The remedy of a failure mends it: run in the failed guest as it is printed, it lets the next drill get further."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
from faults import FIRST, SABOTAGES, Sabotage
from kdump_harness.base.errors import GuestError
from kdump_harness.drill.disks import SystemUnderTest
from kdump_harness.drill.plan import SAVED
from kdump_harness.drill.session import Session
from kdump_harness.kdump.service import KdumpService
from kdump_harness.pytest_plugin import Verdict
from kdump_harness.vm.guest import Guest
from kdump_harness.vm.shells.shell import CommandResult

REMEDY_TIMEOUT_S = 300.0  # for a guest under KVM; some build an initramfs
START_TIMEOUT_S = 60.0
GUESTS = dict.fromkeys(row.guest for row in SABOTAGES if row.guest)


@pytest.fixture
def vcpus() -> int:
    """Return one processor: enough for a failure and cheaper to emulate."""
    return 1


def failed_by(verdict: Verdict, rows: list[Sabotage]) -> Sabotage:
    """Return the sabotage that the verdict names, one of the rows that are left."""
    failures = [symptom["name"] for symptom in verdict.symptoms if symptom["severity"] == "failure"]
    named = [row for row in rows if failures and failures[0] in row.symptom]
    assert named, verdict.explain()
    named[0].expect(verdict)
    return named[0]


def printed_remedies(verdict: Verdict, sabotage: Sabotage) -> list[str]:
    """Return the remedies to run, in the order of the row; words are replaced by the command that follows them."""
    failures = [symptom for symptom in verdict.symptoms if symptom["severity"] == "failure"]
    by_name = {FIRST: failures[0], **{symptom["name"]: symptom for symptom in reversed(verdict.symptoms)}}
    assert by_name.keys() >= set(sabotage.remedies), verdict.explain()
    symptoms = [by_name[name] for name in sabotage.remedies]
    return [sabotage.followed_by.get(symptom["name"], symptom["remedy"]) for symptom in symptoms]


def start_again(guest: Guest) -> None:
    """Press the reset button of a guest that did not come back from its crash."""
    with guest.console.expecting_panic():  # its last lines may still come
        guest.domain.reset()
        guest.console.wait_for(
            "next kernel", r"Linux version \d", timeout_s=START_TIMEOUT_S, stretch=lambda: guest.factor
        )
    guest.wait_for_login()
    guest.connect()


def follow(guest: Guest, remedy: str) -> None:
    """Run a remedy in the guest, and wait for the restart that it may end with."""
    before = guest.boot_id()
    restarts = remedy.endswith("reboot")
    result: CommandResult | None = None
    with contextlib.suppress(GuestError) if restarts else contextlib.nullcontext():
        result = guest.shell.run(remedy, timeout_s=REMEDY_TIMEOUT_S * guest.factor, check=False)
    assert result is None or result.ok, result
    if restarts:
        guest.wait_for_login()
        assert guest.connect() != before


@pytest.mark.slow
@pytest.mark.parametrize("name", GUESTS)
def test_the_printed_remedies_mend_a_guest(
    drill_session: Callable[..., Session], image: SystemUnderTest, name: str
) -> None:
    """A guest has one or more failures, each of which hides others.

    Each drill must name one of them, whose remedy is run on the same disk before the next drill. The last drill must be
    verified.
    """
    rows = [row for row in SABOTAGES if row.guest == name and image.family.name in row.breaks]
    if not rows:
        pytest.skip(f"sabotage.toml has no failure of such a guest for the family {image.family.name}")

    def break_it(guest: Guest, service: KdumpService) -> None:
        service.pause_cloud_init()
        for row in rows:
            row.do(image.family, guest, service)
        if any(row.restart for row in rows):
            guest.reboot()
            service.settle()

    session = drill_session()
    verdict = session.drill(before_crash=break_it)
    left = list(rows)
    while left:
        sabotage = failed_by(verdict, left)
        left.remove(sabotage)
        if not any(check.name == "rebooted" and check.ok for check in verdict.checks):
            start_again(session.guest)
        for remedy in printed_remedies(verdict, sabotage):
            follow(session.guest, remedy)
        verdict = session.drill(as_is=True, **({} if left else {"until": SAVED}))
    assert verdict.verified, verdict.explain()
