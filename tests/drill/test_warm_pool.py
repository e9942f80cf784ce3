"""Drills of one kind share a saved guest; what is about booting, or holds hardware of others, is booted."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
from kdump_harness.base.errors import HostError
from kdump_harness.distro.family import find_family
from kdump_harness.drill import warm_pool
from kdump_harness.drill.disks import SystemUnderTest
from kdump_harness.drill.plan import SAVED, Plan
from kdump_harness.drill.session import GuestSession
from kdump_harness.drill.shapes.prepare import whole_script
from kdump_harness.drill.shapes.table import find_shapes
from kdump_harness.drill.warm_pool import WarmPool, can_be_warm, kind_of
from kdump_harness.kdump.service import KdumpConfig
from kdump_harness.vm.hypervisor.domain_xml import Disk
from kdump_harness.vm.run import Machine

DEBIAN = Plan(subject=SystemUnderTest(name="debian-12", family=find_family("debian")))
REDHAT = Plan(subject=SystemUnderTest(name="rocky-9", family=find_family("redhat")))


def level(plan: Plan, number: int) -> Plan:
    return replace(plan, config=KdumpConfig(crashkernel=None, level=number, compress="lzo"))


class FakeSession:
    """Counts what is done with a guest."""

    def __init__(self, plan: Plan, refusal: Any = None) -> None:
        self.plan, self.refusal = plan, refusal
        self.drilled: list[dict[str, Any]] = []
        self.closed = False

    def save(self) -> Any:
        return self.refusal

    def drill(self, **changes: Any) -> Any:
        self.drilled.append(changes)
        return f"warm {changes['name']}"


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> list[FakeSession]:
    """Every guest that is booted and saved."""
    opened: list[FakeSession] = []

    @contextlib.contextmanager
    def open_session(_run: Any, plan: Plan) -> Iterator[FakeSession]:
        opened.append(FakeSession(plan, refusal="refused" if plan.machine.memory_mib == 512 else None))
        yield opened[-1]
        opened[-1].closed = True

    monkeypatch.setattr(warm_pool, "open_session", open_session)
    monkeypatch.setattr(warm_pool, "run_drill", lambda _run, plan: f"cold {plan.name}")
    return opened


def make(most: int = 3) -> WarmPool:
    run: Any = None
    return WarmPool(run, most=most)


def drill(warm: WarmPool, plan: Plan, **changes: Any) -> Any:
    return warm.drill(replace(plan, **changes))


def test_drills_of_one_kind_share_a_guest(sessions: list[FakeSession]) -> None:
    warm = make()
    assert drill(warm, level(DEBIAN, 31), name="a") == "warm a"
    assert drill(warm, level(DEBIAN, 1), name="b", trigger="nmi", until=SAVED, budget_s=5.0) == "warm b"
    (session,) = sessions
    assert [one["config"].level for one in session.drilled] == [31, 1]
    assert session.drilled[1]["trigger"] == "nmi"
    assert session.drilled[1]["until"] == SAVED
    warm.close()
    assert session.closed


@pytest.mark.parametrize(
    "changes",
    [
        {"machine": Machine(memory_mib=2048)},
        {"machine": Machine(firmware="uefi")},
        {"target": "nfs"},
        {"trigger": "watchdog"},  # needs a device
        {"config": KdumpConfig(crashkernel="512M", level=None, compress=None)},
        {"packages": ("kdump-tools",)},
    ],
)
def test_another_machine_is_another_guest(sessions: list[FakeSession], changes: dict[str, Any]) -> None:
    warm = make()
    drill(warm, DEBIAN, name="a")
    drill(warm, DEBIAN, name="b", **changes)
    assert len(sessions) == 2


def shaped(*names: str, **changes: Any) -> Plan:
    return replace(DEBIAN, shapes=find_shapes(names), **changes)


def test_storage_of_any_shape_begins_with_one_saved_guest(sessions: list[FakeSession]) -> None:
    warm = make()
    for names in (["lvm"], ["raid1", "luks", "xfs"], ["full-target", "separate-var"]):
        assert drill(warm, shaped(*names), name="+".join(names)) is not None
    assert len(sessions) == 1
    kind = kind_of(shaped("raid5"))
    kind.check()
    assert kind.shapes.disks_mib == find_shapes(["raid5"]).disks_mib
    assert not whole_script(kind.shapes, DEBIAN.subject.family)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (["nvme", "lvm"], ["nvme", "raid1"], True),
        (["nvme", "lvm"], ["sata", "lvm"], False),
        (["lvm"], [], False),
        (["capture-cpus"], ["huge-pages"], True),
        (["uefi"], ["five-level-paging"], False),
    ],
)
def test_hardware_makes_another_guest_and_a_script_does_not(one: list[str], other: list[str], same: bool) -> None:
    assert (kind_of(shaped(*one)) == kind_of(shaped(*other))) is same


def test_a_server_that_was_prepared_is_another() -> None:
    by = [kind_of(shaped(*names, target="nfs")) for names in (["bond"], ["bond-lacp"], ["bond", "vlan"])]
    assert by[0] == by[1] != by[2]


@pytest.mark.parametrize("names", [["multipath"], ["lvm", "root"], ["firewall"]])
def test_some_shapes_need_a_guest_of_their_own(names: list[str]) -> None:
    assert not can_be_warm(shaped(*names, target="nfs" if names == ["firewall"] else "local"))


def test_a_configuration_in_the_initramfs_is_another_guest() -> None:
    assert kind_of(level(REDHAT, 1)) != kind_of(level(REDHAT, 31))
    assert kind_of(level(DEBIAN, 1)) == kind_of(level(DEBIAN, 31))


@pytest.mark.parametrize(
    "changes",
    [
        {"as_is": True},
        {"trigger": "nmi-while-booting"},
        {"target": "ext4", "target_disk": Disk(path=Path("x"))},
        {"config": KdumpConfig(crashkernel="none", level=None, compress=None)},
    ],
)
def test_what_needs_a_boot_gets_one(sessions: list[FakeSession], changes: dict[str, Any]) -> None:
    assert not can_be_warm(replace(DEBIAN, **changes))
    assert drill(make(), DEBIAN, name="a", **changes) == "cold a"
    assert not sessions


def test_the_guest_that_was_used_least_lately_goes_first(sessions: list[FakeSession]) -> None:
    warm = make(most=2)
    for memory_mib in (1024, 2048, 1024, 4096):
        drill(warm, DEBIAN, name="a", machine=Machine(memory_mib=memory_mib))
    assert [session.closed for session in sessions] == [False, True, False]


def test_a_guest_that_cannot_be_made_ready_is_not_kept(sessions: list[FakeSession]) -> None:
    warm = make()
    small = Machine(memory_mib=512)
    assert drill(warm, DEBIAN, name="a", machine=small) == "refused"
    assert drill(warm, DEBIAN, name="b", machine=small) == "refused"
    assert [session.closed for session in sessions] == [True, True]
    assert not sessions[0].drilled


def test_room_for_the_saved_memory_is_asked_for_where_it_is_saved() -> None:
    def no_room(_need_mib: int, what: str) -> NoReturn:
        raise HostError(f"no room for {what} over there")

    run: Any = SimpleNamespace(host=SimpleNamespace(require_space=no_room))
    nothing: Any = None
    session = GuestSession(run, DEBIAN, SimpleNamespace(), nothing, nothing, nothing)  # type: ignore[arg-type]
    with pytest.raises(HostError, match="no room for the saved memory of debian-12 over there"):
        session.save()
