"""The capture kernel uses the memory that was reserved for it, and dumps the rest."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
from kdump_harness.base.stage import Stage
from kdump_harness.diagnosis.table import load_symptoms
from kdump_harness.drill.disks import SystemUnderTest
from kdump_harness.kdump.service import KdumpService
from kdump_harness.pytest_plugin import Verdict, pin_image
from kdump_harness.vm.guest import Guest
from kdump_harness.vm.run import Machine

DIMM_MIB = 1024
TAKEN = "capture-memory-taken"


@pytest.fixture
def kdump_machine(kdump_machine: Machine) -> Machine:
    """Return a machine with a DIMM, which ACPI reports and the firmware's memory map does not."""
    return dataclasses.replace(kdump_machine, dimms_mib=(DIMM_MIB,))


@pytest.fixture
def kdump_level() -> int:
    """Return a dump level that keeps nearly every page."""
    return 1


@pin_image("debian-13")
def test_a_capture_kernel_that_takes_a_dimm(drill: Callable[..., Verdict]) -> None:
    """Debian's capture kernel adds the DIMM to its memory and overwrites it; the dump looks whole all the same."""
    verdict = drill()
    assert not verdict.verified
    assert verdict.reached >= Stage.SAVED, verdict.explain()
    assert "capture-memory" in {check.name for check in verdict.failed()}, verdict.explain()
    assert verdict.symptoms[0]["name"] == TAKEN, verdict.explain()
    assert "acpi_no_memhotplug" in verdict.symptoms[0]["remedy"], verdict.explain()


@pin_image("debian-13")
def test_a_dimm_that_the_capture_kernel_leaves_alone(drill: Callable[..., Verdict], image: SystemUnderTest) -> None:
    """With the remedy of the symptom all memory is in the dump, and nothing wrote to it."""

    def follow_remedy(guest: Guest, service: KdumpService) -> None:
        guest.shell.run(load_symptoms().row(TAKEN).remedies[image.family.name], timeout_s=60 * guest.factor)
        service.wait_until_loaded()

    verdict = drill(before_crash=follow_remedy, oracle=True)
    assert verdict.verified, verdict.explain()
    assert "capture-memory" in {check.name for check in verdict.checks}, verdict.explain()
    assert verdict.dump is not None
    assert verdict.dump["pages_kept"] > DIMM_MIB << 20 >> 12, verdict.explain()
