"""Every trigger leads to a dump, or to no effect if it is harmless."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from kdump_harness.drill.session import Session
from kdump_harness.kdump.service import KdumpConfig, KdumpService
from kdump_harness.kdump.trigger import load_triggers
from kdump_harness.pytest_plugin import Verdict, pin_trigger
from kdump_harness.vm.guest import Guest
from kdump_harness.vm.run import Machine, Run

TRIGGERS = load_triggers().values()
CRASHING = [trigger.name for trigger in TRIGGERS if trigger.panics and not trigger.while_booting]
HARMLESS = [trigger.name for trigger in TRIGGERS if not trigger.panics]
MEETING_TIMEOUT_S = 300.0  # before scaling; one guest may boot while the other is armed


@pytest.fixture
def kdump_machine(kdump_machine: Machine) -> Machine:
    """Return a machine with the devices of all triggers, so that one guest serves all of them."""
    devices = {device for trigger in TRIGGERS for device in trigger.devices}
    return dataclasses.replace(kdump_machine, devices=tuple(sorted(devices)))


@pytest.mark.slow
@pin_trigger(*HARMLESS, *CRASHING, "sysrq-c@first", "sysrq-c@last")
def test_what_each_trigger_does(drill_in_turn: Callable[..., Verdict]) -> None:
    """A panicking trigger leaves a complete vmcore of this crash and its message in the kernel log.

    A harmless trigger is noticed, the guest keeps running, and no dump appears.
    """
    verdict = drill_in_turn()
    assert verdict.verified, verdict.explain()


def test_a_second_crash_is_dumped_like_the_first(drill_session: Callable[..., Session]) -> None:
    """The guest reboots armed, and its next crash leaves a second dump."""
    session = drill_session()
    first, second = session.drill(), session.drill(trigger="panic")
    assert first.verified, first.explain()
    assert second.verified, second.explain()
    assert first.dump is not None
    assert second.dump is not None
    assert first.dump["path"] != second.dump["path"]


def test_a_panic_with_notifiers_before_the_capture_kernel(drill: Callable[..., Verdict]) -> None:
    """With crash_kexec_post_notifiers the hypervisor hears of the panic first, and the capture kernel still runs.

    Level 1 drops no pages, which a makedumpfile that is older than the kernel does wrongly.
    """

    def run_notifiers_first(guest: Guest, _service: KdumpService) -> None:
        guest.shell.run("modprobe -a pvpanic_mmio || modprobe pvpanic")
        guest.shell.run("echo Y > /sys/module/kernel/parameters/crash_kexec_post_notifiers")

    config = KdumpConfig(crashkernel=None, level=1, compress=None)
    verdict = drill(before_crash=run_notifiers_first, config=config)
    assert verdict.verified, verdict.explain()
    assert verdict.evidence is not None
    events = Path(verdict.evidence, "events.jsonl").read_text(encoding="utf-8").splitlines()
    seen = [record.get("what", record["event"]) for record in map(json.loads, events)]
    assert seen.index("trigger") < seen.index("crashed/crashloaded"), seen
    assert "crashed/panicked" not in seen, seen


def test_two_guests_crash_at_the_same_moment(drill: Callable[..., Verdict], harness_run: Run) -> None:
    """Two simultaneous crashes do not affect each other."""
    both = threading.Barrier(2)

    def take(number: int) -> Verdict:
        try:
            return drill(
                name=f"two-guests/{number}", on_trigger=lambda _guest: both.wait(MEETING_TIMEOUT_S * harness_run.factor)
            )
        finally:
            both.abort()  # release the other guest if this one failed

    with ThreadPoolExecutor(2) as pool:
        for verdict in pool.map(take, (1, 2)):
            assert verdict.verified, verdict.explain()
