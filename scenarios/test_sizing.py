"""The recommended reservation dumps, and a kernel does not differ from itself."""

from __future__ import annotations

import pytest
from kdump_harness.campaigns.compare.plan import ComparePlan, Side, choose_scenarios
from kdump_harness.campaigns.compare.run import run_compare
from kdump_harness.campaigns.size.plan import SizePlan
from kdump_harness.campaigns.size.run import run_size
from kdump_harness.drill.disks import SystemUnderTest
from kdump_harness.pytest_plugin.session import evidence_name
from kdump_harness.vm.run import Machine, Run


@pytest.mark.slow
def test_the_smallest_reservation_is_found_and_what_is_recommended_dumps(
    request: pytest.FixtureRequest, harness_run: Run, image: SystemUnderTest, machine: Machine
) -> None:
    """The verb size with less effort: each side of the limit is tried twice, to a precision of 8 MiB."""
    found = run_size(
        harness_run,
        SizePlan(
            subject=image,
            memories_mib=(machine.memory_mib,),
            vcpus=(machine.vcpus,),
            machine=machine,
            step_mib=8,
            repeats=2,
            name=evidence_name(request.node),
        ),
    )
    assert found.ok, found.explain()
    sizing = found.sizings[0]
    assert sizing.smallest_mib is not None
    assert sizing.tried()[sizing.smallest_mib] == [True, True], found.explain()
    assert not all(sizing.tried()[sizing.smallest_mib - 8]), found.explain()
    assert sizing.measured is None or sizing.predicted_mib is None or sizing.predicted_mib < sizing.smallest_mib + 16
    assert sizing.confirmed, found.explain()


@pytest.mark.slow
def test_a_kernel_does_not_differ_from_itself(
    request: pytest.FixtureRequest, harness_run: Run, image: SystemUnderTest, machine: Machine
) -> None:
    """The verb compare with one of its drills."""
    found = run_compare(
        harness_run,
        ComparePlan(
            image=image.name,
            thing="kernel",
            sides=(Side(name="once", subject=image), Side(name="again", subject=image)),
            machine=machine,
            scenarios=choose_scenarios((), ("smoke",)),
            name=evidence_name(request.node),
        ),
    )
    assert found.ok, found.explain()
    assert all(sample.reached in ("RECOVERED", "VERIFIED") for sample in found.samples), found.explain()
