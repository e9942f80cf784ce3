"""The ways to crash a guest, each with what it needs and the panic it must show."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import facts
from .errors import UsageError

if TYPE_CHECKING:
    from .guest import Guest


@dataclass(frozen=True, kw_only=True)
class Trigger:
    """One way to crash."""

    name: str
    command: str
    panic: str  # regular expression
    meaning: str

    def fire(self, guest: Guest) -> None:
        """Crash the guest; returns at once, because no answer will come."""
        guest.shell.start(self.command)


@functools.cache
def load_triggers() -> Mapping[str, Trigger]:
    """All triggers by name."""
    rows = facts.load_rows(facts.package_path("triggers.toml"), "trigger", Trigger)
    return {row.name: row for row in rows}


def find_trigger(name: str) -> Trigger:
    """A trigger by name; UsageError names the known ones."""
    triggers = load_triggers()
    if name not in triggers:
        near = difflib.get_close_matches(name, triggers, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UsageError(f"unknown trigger {name!r} (known: {', '.join(triggers)}{hint})")
    return triggers[name]
