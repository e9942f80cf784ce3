"""The fixtures and options of scenarios under their short names."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from kdump_harness.base.evidence import Evidence
from kdump_harness.drill.disks import ArmedDisk, SystemUnderTest
from kdump_harness.drill.dump_server import DumpServer
from kdump_harness.pytest_plugin.short_names import *  # noqa: F403
from kdump_harness.vm.guest import Guest
from kdump_harness.vm.run import Machine, Run


@pytest.fixture
def connected_guest(
    harness_run: Run,
    armed_disk: ArmedDisk,
    machine: Machine,
    evidence: Evidence,
    image: SystemUnderTest,
    collector: DumpServer,
) -> Iterator[Guest]:
    """Return an armed guest that shares a network with the dump server."""
    overlay, port = harness_run.overlay(armed_disk.path, base_format="qcow2"), harness_run.dump_network().port()
    with harness_run.guest(
        overlay, machine, evidence, label=image.name, user=image.login, access=image.access, ports=(port,)
    ) as guest:
        guest.power_on()
        guest.wait_for_login()
        guest.connect()
        yield guest
