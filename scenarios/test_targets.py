"""Each dump target gets the complete dump, and no other place does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from kdump_harness.distro.family import Family
from kdump_harness.drill.disks import SystemUnderTest
from kdump_harness.drill.dump_server import DumpServer
from kdump_harness.drill.session import Session
from kdump_harness.kdump.target import ON_SERVER
from kdump_harness.pytest_plugin import Verdict


def packages(family: Family) -> tuple[str, ...]:
    """Return the packages of all targets, so that one armed disk serves all tests."""
    return tuple(sorted({package for target in family.targets.values() for package in target.packages}))


@pytest.mark.parametrize("kdump_target", ["ext4", "xfs", "ssh", "nfs"], indirect=True)
def test_a_dump_arrives_at_each_target(drill: Callable[..., Verdict], image: SystemUnderTest) -> None:
    """The dump passes all checks of a local dump at its target, including format and permissions."""
    verdict = drill(more_packages=packages(image.family))
    assert verdict.verified, verdict.explain()
    assert verdict.dump is not None
    assert verdict.dump["place"] == ("collector" if verdict.target in ON_SERVER else "kdump-target")


def test_the_target_of_a_running_guest_changes_without_a_reboot(
    drill_session: Callable[..., Session], collector: DumpServer, image: SystemUnderTest
) -> None:
    """After a local dump the target is changed to SSH: the next dump goes to the dump server."""
    session = drill_session(more_packages=packages(image.family), server=collector.server)
    local = session.drill()
    assert local.verified, local.explain()
    assert local.dump is not None
    assert local.dump["place"] is None
    booted = session.guest.boot_id()
    moved = session.drill(target="ssh", on_trigger=lambda guest: check_boot(guest.boot_id(), booted))
    assert moved.verified, moved.explain()
    assert moved.dump is not None
    assert moved.dump["place"] == "collector"
    check = next(check for check in moved.checks if check.name == "single-dump")
    assert "none elsewhere" in check.expected


def check_boot(now: str, before: str) -> None:
    assert now == before, "the guest was rebooted to change its target"
