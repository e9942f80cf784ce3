"""The table of triggers, and how each one is pulled."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from kdump_harness.base import tables
from kdump_harness.base.errors import TableError, UsageError
from kdump_harness.kdump import trigger
from kdump_harness.kdump.trigger import MODULE_PATH, CannotTrigger, Trigger, find_trigger, load_triggers
from kdump_harness.vm.hypervisor.domain_xml import DEVICES

ONE_OF_THEM = "command, from_host or module must be there, and one of them only"
SOURCE = (tables.package_path("drill", "crash_module_source") / "kdump_harness_crash.c").read_text(encoding="utf-8")


class Guest:
    """Remembers what was done to it."""

    factor = 1.0

    def __init__(self, *, able: bool = True) -> None:
        self.done: list[str] = []
        self.shell = SimpleNamespace(
            start=self.done.append,
            run=lambda command, **_: self.done.append(command),
            succeeds=lambda _command, **__: able,
        )
        self.domain = SimpleNamespace(
            inject_nmi=lambda: self.done.append("NMI"), press_keys=lambda *names: self.done.append("+".join(names))
        )


@pytest.mark.parametrize("name", load_triggers())
def test_each_trigger_is_pulled_by_one_thing(name: str) -> None:
    row, guest = load_triggers()[name], Guest()
    row.fire(guest)  # type: ignore[arg-type]
    (done,) = guest.done
    assert done in {"NMI", "KEY_LEFTALT+KEY_SYSRQ+KEY_C", row.command, f"insmod {MODULE_PATH} how={row.module}"}
    assert set(row.devices) <= set(DEVICES)


@pytest.mark.parametrize("row", [row for row in load_triggers().values() if row.module], ids=lambda row: row.name)
def test_the_module_knows_what_the_table_asks_of_it(row: Trigger) -> None:
    assert f'"{row.module}"' in SOURCE.partition("known[]")[2]
    assert f'strcmp(how, "{row.module}")' in SOURCE


@pytest.mark.parametrize("row", load_triggers().values(), ids=lambda row: row.name)
def test_the_shell_can_read_what_is_run(row: Trigger) -> None:
    for text in (row.prepare, row.command, row.probe):
        subprocess.run(["sh", "-n"], input=text, text=True, check=True)


# Lines of real kernels, for each trigger at least one.
PANIC_LINES = [
    ("sysrq-c", "[  66.0] Kernel panic - not syncing: sysrq triggered crash"),
    ("nmi", "[  66.0] Kernel panic - not syncing: NMI: Not continuing"),
    ("nmi-ignored", "[  66.0] Uhhuh. NMI received for unknown reason 30 on CPU 0."),
    ("oom", "Kernel panic - not syncing: Out of memory: system-wide panic_on_oom is enabled"),
    ("warn", "Kernel panic - not syncing: kernel: panic_on_warn set ..."),
    ("warn", "Kernel panic - not syncing: panic_on_warn set ..."),
    ("null-dereference", "BUG: kernel NULL pointer dereference, address: 0000000000000000"),
    ("bug", "kernel BUG at /source/kdump_harness_crash.c:62!"),
    ("alt-sysrq-c", "[  66.0] Kernel panic - not syncing: sysrq triggered crash"),
    ("hung-task", "[  66.0] Kernel panic - not syncing: hung_task: blocked tasks"),
    ("soft-lockup", "[  66.0] Kernel panic - not syncing: softlockup: hung tasks"),
    ("hard-lockup", "[  66.0] Kernel panic - not syncing: Hard LOCKUP"),
    ("rcu-stall", "[  66.0] Kernel panic - not syncing: RCU Stall"),
    ("panic", "[  66.0] Kernel panic - not syncing: kdump-harness: asked to panic"),
    ("interrupt", "[  66.0] BUG: kernel NULL pointer dereference, address: 0000000000000000"),
    ("watchdog", "[  66.0] Kernel panic - not syncing: NMI: Not continuing"),
    ("sysrq-c-under-load", "[  66.0] Kernel panic - not syncing: sysrq triggered crash"),
    ("nmi-while-booting", "[   1.0] Kernel panic - not syncing: NMI: Not continuing"),
]


@pytest.mark.parametrize(("name", "line"), PANIC_LINES)
def test_the_words_of_the_kernel_are_known(name: str, line: str) -> None:
    assert re.search(load_triggers()[name].panic, line)


def test_each_trigger_has_a_line_of_a_real_kernel() -> None:
    assert {name for name, _ in PANIC_LINES} == set(load_triggers())


@pytest.mark.parametrize(("cpu", "number"), [("0", 0), ("3", 3), ("first", 0), ("last", 3)])
def test_a_crash_on_a_chosen_processor(cpu: str, number: int) -> None:
    row = find_trigger(f"sysrq-c@{cpu}", vcpus=4)
    assert row.command.startswith(f"taskset -c {number} sh -c '")
    assert re.search(row.also, f"[   70.4] CPU: {number} PID: 803 Comm: sh Kdump: loaded Not tainted")
    assert re.search(row.also, f"[   70.4] CPU: {number} UID: 0 PID: 803 Comm: sh Kdump: loaded Not tainted")
    assert not re.search(row.also, f"[   70.4] CPU: {number}1 PID: 803 Comm: sh")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("sysrq-c@4", "sysrq-c@4: the guest has no such processor (0 to 3, first, last)"),
        ("sysrq-c@-1", "sysrq-c@-1: the guest has no such processor (0 to 3, first, last)"),
        ("sysrq-c@", "sysrq-c@: the guest has no such processor (0 to 3, first, last)"),
        ("nmi@1", "nmi cannot crash on a chosen processor (sysrq-c can)"),
    ],
)
def test_a_processor_that_cannot_be(name: str, reason: str) -> None:
    with pytest.raises(UsageError) as error:
        find_trigger(name, vcpus=4)
    assert str(error.value) == reason


def test_a_guest_that_cannot_be_crashed_so_is_told_why() -> None:
    row = load_triggers()["hard-lockup"]
    row.check_guest(Guest())  # type: ignore[arg-type]
    with pytest.raises(CannotTrigger, match="cannot be crashed by hard-lockup: it lacks a detector of hard lockups"):
        row.check_guest(Guest(able=False))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ('panic = "x"', "command, from_host or module must be there, and one of them only"),
        (
            'panic = "x"\ncommand = "a"\nmodule = "b"',
            "command, from_host or module must be there, and one of them only",
        ),
        ('panic = "x"\nfrom_host = "hammer"', "from_host must be one of nmi, alt-sysrq-c, not 'hammer'"),
        ('panic = "("\ncommand = "a"', "panic is not a regular expression"),
        ('panic = "x"\ncommand = "a"\nprobe = "b"', "probe and lacks must be there both, or neither"),
        ('panic = "x"\ncommand = "a"\ndevices = ["laser"]', "devices must be a choice of watchdog"),
        (
            'panic = "x"\ncommand = "a"\n[[trigger]]\nname = "mine"\nmeaning = "m"\npanic = "x"\ncommand = "b"',
            "name is not unique",
        ),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row: str, fault: str) -> None:
    (tmp_path / "triggers.toml").write_text(f'[[trigger]]\nname = "mine"\nmeaning = "m"\n{row}\n', encoding="utf-8")
    monkeypatch.setattr(tables, "package_path", lambda *parts: tmp_path / parts[-1])
    trigger.shipped_triggers.cache_clear()
    try:
        with pytest.raises(TableError) as error:
            load_triggers()
    finally:
        trigger.shipped_triggers.cache_clear()
    assert str(error.value).startswith(f"triggers.toml: [[trigger]] mine: {fault}")


def test_known_names_are_told() -> None:
    with pytest.raises(UsageError, match=r"unknown trigger 'sysrq-d' \(known: .*did you mean sysrq-c\?"):
        find_trigger("sysrq-d")


def test_nobody_can_run_a_command_in_a_guest_that_boots() -> None:
    row = {"name": "x", "panic": "p", "meaning": "m", "command": "true", "while_booting": "y"}
    assert trigger._fault(Trigger(**row)) == "while_booting needs from_host: a booting guest cannot run a command"


@pytest.mark.parametrize("name", ["mine@1", "my mine", "Mine", ""])
def test_a_name_that_no_command_line_could_have_is_refused(name: str) -> None:
    row = replace(load_triggers()["sysrq-c"], name=name)
    assert trigger._fault(row) == "name must be lower-case letters, digits and dashes"
