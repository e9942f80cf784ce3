"""The ways to crash a guest, each with what it needs and the panic it must show."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..base import tables
from ..base.errors import TableError, UsageError
from ..base.foreign import whole_number
from ..configuration.own_tables import Merged, merged

if TYPE_CHECKING:
    from ..distro.architecture import Architecture
    from ..vm.guest import Guest

FROM_HOST = ("nmi", "alt-sysrq-c")
DEVICES = ("watchdog",)
MODULE_PATH = "/var/tmp/kdump_harness_crash.ko"  # in the guest


class CannotTrigger(UsageError):
    """The guest cannot be crashed in this way; its kdump is not to blame."""


@dataclass(frozen=True, kw_only=True)
class Trigger:
    """One way to crash; triggers.toml describes the keys."""

    name: str
    panic: str  # regular expression
    meaning: str
    prepare: str = ""
    command: str = ""
    from_host: str = ""
    module: str = ""
    also: str = ""  # regular expression
    takes_s: float = 0.0
    probe: str = ""
    lacks: str = ""
    devices: tuple[str, ...] = ()
    any_cpu: bool = False
    panics: bool = True
    memory_moves: bool = False
    while_booting: str = ""  # regular expression

    @property
    def command_in_guest(self) -> str:
        """The command that crashes the guest; empty for a trigger from the host."""
        return f"insmod {MODULE_PATH} how={self.module}" if self.module else self.command

    def check_architecture(self, architecture: Architecture) -> None:
        """CannotTrigger when the machine of an architecture lacks what this needs."""
        cannot = f"{self.name} cannot crash a guest for {architecture.name}"
        for need in (self.from_host, *self.devices):
            if reason := architecture.lacks.get(need):
                raise CannotTrigger(f"{cannot}: {reason}")
        if self.module and architecture.name != "amd64":
            raise CannotTrigger(f"{cannot}: its module is made for amd64")

    def check_guest(self, guest: Guest) -> None:
        """CannotTrigger when the guest lacks what this needs."""
        if self.probe and not guest.shell.succeeds(self.probe, timeout_s=60 * guest.factor):
            raise CannotTrigger(f"this guest cannot be crashed by {self.name}: it lacks {self.lacks}")

    def make_ready(self, guest: Guest) -> None:
        """All settings of the guest's that it needs."""
        if self.prepare:
            guest.shell.run(self.prepare, timeout_s=60 * guest.factor)

    def fire(self, guest: Guest) -> None:
        """Crash the guest; returns at once, because no answer will come."""
        if self.from_host == "nmi":
            guest.domain.inject_nmi()
        elif self.from_host == "alt-sysrq-c":
            guest.domain.press_keys("KEY_LEFTALT", "KEY_SYSRQ", "KEY_C")
        else:
            guest.shell.start(self.command_in_guest)


def load_triggers() -> Mapping[str, Trigger]:
    """All triggers by name: those of the harness and of the user."""
    return _merged().rows


def _merged() -> Merged[Trigger]:
    return merged("trigger", Trigger, shipped_triggers(), _fault)


@functools.cache
def shipped_triggers() -> tuple[Trigger, ...]:
    """Return the triggers of the harness."""
    path = tables.package_path("kdump", "triggers.toml")
    rows = tables.load_rows(path, "trigger", Trigger)
    names = [row.name for row in rows]
    for row in rows:
        if fault := _fault(row, names):
            raise TableError(f"{path.name}: [[trigger]] {row.name}: {fault}")
    return rows


def _fault(row: Trigger, names: Sequence[str] = ()) -> str | None:
    """Return the fault of a row, starting with the key; None for a valid row."""
    if not re.fullmatch(r"[a-z][a-z0-9-]*", row.name):
        return "name must be lower-case letters, digits and dashes"
    if names.count(row.name) > 1:
        return "name is not unique"
    if [bool(row.command), bool(row.from_host), bool(row.module)].count(True) != 1:
        return "command, from_host or module must be there, and one of them only"
    if row.from_host and row.from_host not in FROM_HOST:
        return f"from_host must be one of {', '.join(FROM_HOST)}, not {row.from_host!r}"
    if set(row.devices) - set(DEVICES):
        return f"devices must be a choice of {', '.join(DEVICES)}"
    if bool(row.probe) != bool(row.lacks):
        return "probe and lacks must be there both, or neither"
    if row.while_booting and not row.from_host:
        return "while_booting needs from_host: a booting guest cannot run a command"
    for key, pattern in (("panic", row.panic), ("also", row.also), ("while_booting", row.while_booting)):
        try:
            re.compile(pattern)
        except re.error as error:
            return f"{key} is not a regular expression: {error}"
    return None


def find_trigger(name: str, *, vcpus: int = 1) -> Trigger:
    """Find a trigger by name, perhaps on one processor (NAME@N); UsageError names the known ones."""
    found = _merged()
    triggers = found.rows
    plain, at, cpu = name.partition("@")
    found.check(plain)
    if plain not in triggers:
        near = difflib.get_close_matches(plain, triggers, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UsageError(f"unknown trigger {name!r} (known: {', '.join(triggers)}{hint})")
    trigger = triggers[plain]
    if not at:
        return trigger
    if not trigger.any_cpu:
        able = ", ".join(row.name for row in triggers.values() if row.any_cpu)
        raise UsageError(f"{plain} cannot crash on a chosen processor ({able} can)")
    number = {"first": 0, "last": vcpus - 1}.get(cpu, whole_number(cpu, most=vcpus - 1))
    if number is None:
        raise UsageError(f"{name[:100]}: the guest has no such processor (0 to {vcpus - 1}, first, last)")
    return dataclasses.replace(
        trigger,
        name=name,
        command=f"taskset -c {number} sh -c '{trigger.command}'",
        also=rf"CPU: {number} .*PID: ",
    )
