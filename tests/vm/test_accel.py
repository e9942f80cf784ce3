"""The boot sector that tests whether KVM runs a guest, and the stored result."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest
from kdump_harness.base.errors import UsageError
from kdump_harness.images.state import State
from kdump_harness.vm import accel


def test_the_boot_sector_is_one_that_a_bios_starts() -> None:
    sector = accel.boot_sector()
    assert len(sector) == 512
    assert sector[510:] == b"\x55\xaa"


def test_the_boot_sector_writes_the_word_to_the_first_serial_port_and_halts() -> None:
    code = accel.boot_sector().rstrip(b"\x55\xaa").rstrip(b"\0")
    assert code.startswith(b"\xfa\xba\xf8\x03")  # cli; mov dx, 0x3f8
    assert code.endswith(b"\xf4\xeb\xfd")  # hlt; jump back to it
    out = code[4:-3]
    assert (out[0::3], out[2::3]) == (b"\xb0" * (len(out) // 3), b"\xee" * (len(out) // 3))
    assert out[1::3] == f"{accel.WORD}\r\n".encode()


def test_the_probe_is_a_small_guest_under_kvm_whatever_its_path(tmp_path: Path) -> None:
    sector = tmp_path / 'a & b "quoted"' / "kvm-probe.img"
    root = ElementTree.fromstring(accel._probe_xml("kdh-abc-kvm-probe", sector))
    assert root.get("type") == "kvm"
    assert root.findtext("name") == "kdh-abc-kvm-probe"
    source = root.find("./devices/disk/source")
    assert source is not None
    assert source.get("file") == str(sector)


@pytest.fixture
def hypervisor() -> Any:
    return SimpleNamespace(uri="qemu:///system", versions=lambda: {"libvirt": "9.0.0", "qemu": "7.2.0"})


@pytest.fixture
def place() -> Any:
    return SimpleNamespace(boot_id=lambda: "this boot")


@pytest.fixture
def choose(tmp_path: Path, hypervisor: Any, place: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Choose an accelerator, with a given result of a trial; also return the number of trials."""
    state = State(tmp_path / "state")
    trials: list[str | None] = []

    def run(wanted: str, problem: str | None = None) -> tuple[str, str, int]:
        def trial(_hypervisor: object, _directory: Path, _place: object) -> str | None:
            trials.append(problem)
            return problem

        monkeypatch.setattr(accel, "kvm_problem", trial)
        kind, why = accel.choose(wanted, hypervisor, state, tmp_path, place)
        return kind, why, len(trials)

    return run


@pytest.mark.parametrize("wanted", ["kvm", "tcg"])
def test_what_is_asked_for_is_taken_without_a_trial(choose: Any, wanted: str) -> None:
    assert choose(wanted) == (wanted, f"{wanted}, as requested", 0)


def test_what_is_not_known_is_refused(choose: Any) -> None:
    with pytest.raises(UsageError, match=r"unknown accelerator 'xen' \(known: auto, kvm, tcg\)"):
        choose("xen")


def test_kvm_that_ran_a_guest_is_taken(choose: Any) -> None:
    assert choose("auto") == ("kvm", "kvm (a guest ran under it)", 1)


def test_kvm_that_runs_nothing_leads_to_emulation_and_one_line_says_why(choose: Any) -> None:
    kind, why, _ = choose("auto", "the guest executed nothing")
    assert kind == "tcg"
    assert why == "emulation (tcg), several times slower: the guest executed nothing"
    assert "\n" not in why


def test_the_outcome_is_remembered_until_qemu_or_the_boot_changes(choose: Any, hypervisor: Any, place: Any) -> None:
    assert choose("auto", "nothing ran")[2] == 1
    assert choose("auto", "nothing ran")[::2] == ("tcg", 1)
    hypervisor.versions = lambda: {"libvirt": "9.0.0", "qemu": "8.0.0"}
    assert choose("auto")[::2] == ("kvm", 2)
    place.boot_id = lambda: "another boot"
    assert choose("auto")[2] == 3


def test_that_kvm_ran_nothing_is_not_believed_for_ever(choose: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now_s=1000.0)
    monkeypatch.setattr(accel, "utc_s", lambda: clock.now_s)
    assert choose("auto", "the guest executed nothing within 8 s")[2] == 1
    clock.now_s += accel.AGAIN_S - 1
    assert choose("auto")[::2] == ("tcg", 1)
    clock.now_s += 1
    assert choose("auto")[::2] == ("kvm", 2)
    clock.now_s += 10 * accel.AGAIN_S
    assert choose("auto")[::2] == ("kvm", 2)


@pytest.mark.parametrize("note", ["", "{", "\xff"])
def test_a_broken_note_is_a_new_trial(choose: Any, tmp_path: Path, note: str) -> None:
    (tmp_path / "state" / "kvm-probe.json").write_text(note, encoding="utf-8")
    assert choose("auto")[::2] == ("kvm", 1)
