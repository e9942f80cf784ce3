"""Failures of kdump, and the records of the crash that remain: in pstore, and with the hypervisor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kdump_harness.kdump.service import KdumpService
from kdump_harness.pytest_plugin import Verdict, pin_image
from kdump_harness.vm.guest import Guest

BOTH = ("pstore", "hypervisor")
PANIC = "Kernel panic - not syncing: sysrq triggered crash"


def kept(verdict: Verdict) -> dict[str, dict[str, Any]]:
    """Return the records by their source."""
    assert not verdict.verified, verdict.explain()
    return {one["source"]: one for one in verdict.fallback}


def test_without_a_reservation_both_records_remain(kernel_drill: Callable[..., Verdict]) -> None:
    """The kernel panics for good: it writes its record, and its memory stays as it was."""
    records = kept(kernel_drill("trixie", crashkernel="none", fallback=BOTH))
    assert records["pstore"]["this_crash"]
    assert records["pstore"]["panic"] == PANIC
    assert records["hypervisor"]["panic"] == PANIC


def test_a_capture_kernel_that_panics_leaves_its_own_record(kernel_drill: Callable[..., Verdict]) -> None:
    """The first kernel jumps before it would write a record; the hypervisor's dump still has its crash."""
    missing = "rdinit=/missing root=/dev/missing"
    records = kept(kernel_drill("trixie", capture_append=missing, fallback=BOTH))
    assert not records["pstore"]["this_crash"]
    assert "Unable to mount root fs" in records["pstore"]["panic"]
    assert records["hypervisor"]["panic"] == PANIC


def test_notifiers_before_the_capture_kernel_leave_a_record(kernel_drill: Callable[..., Verdict]) -> None:
    """With crash_kexec_post_notifiers the first kernel writes its record, and then starts the capture kernel."""
    missing = "rdinit=/missing root=/dev/missing"
    first = "crash_kexec_post_notifiers=1"
    verdict = kernel_drill("trixie", append=first, capture_append=missing, fallback=("pstore",))
    assert not verdict.verified
    assert [one["this_crash"] for one in verdict.fallback] == [True, False], verdict.fallback


@pin_image("debian-12")
def test_a_full_target_leaves_the_memory_only(drill: Callable[..., Verdict]) -> None:
    """The hypervisor's dump is taken when kdump reports that it failed, before the guest reboots."""

    def fill(guest: Guest, _service: KdumpService) -> None:
        guest.shell.run(
            "dd if=/dev/zero of=/var/crash/fill bs=1M 2>/dev/null; sync; test -s /var/crash/fill",
            timeout_s=120 * guest.factor,
        )

    records = kept(drill(before_crash=fill, fallback=BOTH))
    assert records["pstore"]["path"] is None
    assert records["hypervisor"]["panic"] == PANIC
