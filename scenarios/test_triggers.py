"""Every way to crash that the field's tests know; kdump must not care which it was."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from kdump_harness.drill.session import Session
from kdump_harness.kdump.trigger import load_triggers
from kdump_harness.pytest_plugin import Verdict, pin_trigger
from kdump_harness.vm.run import Machine, Run

TRIGGERS = load_triggers().values()
CRASHING = [trigger.name for trigger in TRIGGERS if trigger.panics and not trigger.while_booting]
HARMLESS = [trigger.name for trigger in TRIGGERS if not trigger.panics]
MEETING_TIMEOUT_S = 300.0  # unscaled: one guest may boot while the other is armed


@pytest.fixture
def machine(machine: Machine) -> Machine:
    """With all devices that a trigger needs, so that one guest is crashed in every way."""
    devices = {device for trigger in TRIGGERS for device in trigger.devices}
    return dataclasses.replace(machine, devices=tuple(sorted(devices)))


@pytest.mark.slow
@pin_trigger(*HARMLESS, *CRASHING, "sysrq-c@first", "sysrq-c@last")
def test_what_each_trigger_does(drill_in_turn: Callable[..., Verdict]) -> None:
    """A whole vmcore of this very crash, with the words that it must leave in the kernel's log.

    A trigger that must do no harm is noticed, the guest goes on, and no dump appears.
    """
    verdict = drill_in_turn()
    assert verdict.verified, verdict.explain()


def test_a_second_crash_is_dumped_like_the_first(drill_session: Callable[..., Session]) -> None:
    """The guest comes back armed, and its next crash leaves a dump of its own beside the first."""
    session = drill_session()
    first, second = session.drill(), session.drill(trigger="panic")
    assert first.verified, first.explain()
    assert second.verified, second.explain()
    assert first.dump is not None
    assert second.dump is not None
    assert first.dump["path"] != second.dump["path"]


def test_two_guests_crash_at_the_same_moment(drill: Callable[..., Verdict], harness_run: Run) -> None:
    """Neither minds the other."""
    both = threading.Barrier(2)

    def take(number: int) -> Verdict:
        try:
            return drill(
                name=f"two-guests/{number}", on_trigger=lambda _guest: both.wait(MEETING_TIMEOUT_S * harness_run.factor)
            )
        finally:
            both.abort()  # who has not come by now waits in vain

    with ThreadPoolExecutor(2) as pool:
        for verdict in pool.map(take, (1, 2)):
            assert verdict.verified, verdict.explain()
