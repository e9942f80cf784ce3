"""Lies that kdump tells, and that a harness must not pass on."""

from __future__ import annotations

from collections.abc import Callable

from kdump_harness.base.stage import Stage
from kdump_harness.pytest_plugin import Verdict, pin_image


@pin_image("debian-12")
def test_an_empty_dump_is_not_a_saved_one(drill: Callable[..., Verdict]) -> None:
    """Without makedumpfile Debian's kdump-tools prints "saved vmcore" over an empty file."""
    verdict = drill(packages=("kdump-tools",))
    assert verdict.makedumpfile is None
    assert not verdict.verified
    assert verdict.reached < Stage.VERIFIED
    assert {"format", "complete"} <= {check.name for check in verdict.failed()}, verdict.explain()
    assert "makedumpfile-missing" in {symptom["name"] for symptom in verdict.symptoms}, verdict.explain()


@pin_image("debian-12")
def test_a_guest_without_a_reservation_is_known_at_once(drill: Callable[..., Verdict]) -> None:
    """No crashkernel=: the panic is the end, and the verdict must not wait for anything more."""
    from kdump_harness.kdump.service import KdumpConfig

    verdict = drill(config=KdumpConfig(crashkernel="none", level=None, compress=None))
    assert not verdict.verified
    assert verdict.reached is Stage.CRASHED, verdict.explain()
    names = [symptom["name"] for symptom in verdict.symptoms]
    assert names[:2] == ["no-reserved-memory", "panic-without-kdump"], verdict.explain()
