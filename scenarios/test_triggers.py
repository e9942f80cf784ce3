"""Every way to crash that the field's tests know; kdump must not care which it was."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from harness.plugin import pin_trigger
from harness.trigger import load_triggers
from harness.verdict import Verdict

CRASHING = [trigger.name for trigger in load_triggers().values() if trigger.panics]
HARMLESS = [trigger.name for trigger in load_triggers().values() if not trigger.panics]


@pytest.mark.slow
@pin_trigger(*CRASHING, "sysrq-c@first", "sysrq-c@last")
def test_a_crash_of_each_kind_is_dumped(drill: Callable[..., Verdict]) -> None:
    """A whole vmcore of this very crash, with the words that it must leave in the kernel's log."""
    verdict = drill()
    assert verdict.verified, verdict.explain()


@pin_trigger(*HARMLESS)
def test_what_must_not_crash_a_guest_does_not(drill: Callable[..., Verdict]) -> None:
    """The guest notices, goes on, and no dump appears."""
    verdict = drill()
    assert verdict.verified, verdict.explain()
