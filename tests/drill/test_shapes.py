"""Shapes: their tables, the choice of some, the machine and the guest that they make."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest
from kdump_harness.__main__ import main
from kdump_harness.base.errors import GuestError, NotArmed, TableError, UsageError
from kdump_harness.campaigns.compare.plan import ComparePlan, Side, choose_scenarios
from kdump_harness.campaigns.size.plan import SizePlan
from kdump_harness.campaigns.sweep.plan import SweepPlan
from kdump_harness.cli.subject import find_subject
from kdump_harness.configuration import own_tables
from kdump_harness.distro.architecture import find_architecture
from kdump_harness.distro.family import find_family
from kdump_harness.drill.disks import SystemUnderTest
from kdump_harness.drill.plan import RECOVERED, Plan
from kdump_harness.drill.shapes.prepare import prepare_guest, prepare_server, whole_script
from kdump_harness.drill.shapes.table import find_shapes, load_shapes
from kdump_harness.kdump.target import Server, find_target
from kdump_harness.vm.hypervisor.buses import BUSES
from kdump_harness.vm.hypervisor.domain_xml import Disk, DomainSpec, Nic
from kdump_harness.vm.run import Machine

DEBIAN = find_family("debian")
OWN = """
[[shape]]
name = "lab-disk"
about = "The lab's disk."
part = "system disk"
disk = "sata"
"""


def test_each_shape_makes_a_machine_and_has_a_valid_script() -> None:
    for name, shape in load_shapes().items():
        others = {"moved-disk": ["sata"], "lost-path": ["multipath"], "failed-disk": ["raid1"]}
        alone = find_shapes([*others.get(name, []), name])
        alone.check(DEBIAN, "ssh" if shape.network else "local")
        alone.machine(Machine()).check()
        assert shape.about.endswith("."), name
        assert shape.network or not (shape.cards or shape.server or shape.cut or shape.lost == "card"), name
        for script in (*shape.prepare.values(), shape.server, shape.cut):
            subprocess.run(["sh", "-n", "-c", script], check=True)


def test_the_scripts_of_all_shapes_are_one_in_the_order_of_the_tables() -> None:
    shapes = find_shapes(["lvm", "luks-pbkdf2", "raid5", "separate-var"])
    script = whole_script(shapes, DEBIAN)
    places = [script.index(words) for words in ("mdadm --create", "luksFormat", "vgcreate", "\nmount_dumps\nconnect")]
    assert places == sorted(places)
    disks = " ".join(f"/dev/disk/by-id/virtio-shape{number}" for number in range(3))
    assert script.startswith(f"DISKS='{disks}' DIRECTORY=/var\n")
    assert not whole_script(find_shapes(["nvme"]), DEBIAN)
    assert whole_script(find_shapes(["full-target"]), DEBIAN).startswith("DISKS='' DIRECTORY=/var/crash\n")


def test_the_scripts_for_the_dump_server_give_the_address_by_which_the_guest_knows_it() -> None:
    def run(command: str, script: str) -> Any:
        return subprocess.run([*command.split()[:-1], f"ip() {{ :; }}\n{script}"], capture_output=True, text=True)

    said = SimpleNamespace(run=lambda command, script: SimpleNamespace(out=run(command, script).stdout))
    server = Server(name="c", address="198.18.0.2", host_key="", user="kdump", directory="/d", shell=said)  # type: ignore[arg-type]
    for names, address in (
        (["vlan"], "192.0.2.1"), (["ipv6"], "fd00:6b64:0::1"), (["ipv6", "bond", "vlan"], "fd00:6b64:5::1"),
    ):  # fmt: skip
        assert prepare_server(server, find_shapes(names)) == replace(server, address=address)
    assert prepare_server(server, find_shapes(["bond"])) is server
    assert prepare_server(None, find_shapes([])) is None


def test_disks_with_several_paths_are_named_by_their_wwn() -> None:
    shapes = find_shapes(["multipath", "raid1", "lost-path"])
    assert (shapes.paths, shapes.loses("path"), shapes.loses("card")) == (2, True, False)
    assert whole_script(shapes, DEBIAN).startswith(
        "DISKS='/dev/disk/by-id/wwn-0x5254000000000000 /dev/disk/by-id/wwn-0x5254000000000001'"
    )
    spec = DomainSpec(
        name="g", accelerator="tcg", memory_mib=256, vcpus=1, disk=Path("/d"), layers=(), seed=None,
        nic=Nic(mac="m"), disk_bus="virtio-scsi",
        extra_disks=(Disk(path=Path("/a"), paths=2), Disk(path=Path("/b"), serial="b")),
    )  # fmt: skip
    root = ElementTree.fromstring(spec.xml())
    ways = root.findall("./devices/disk[wwn]")
    assert [way.findtext("wwn") for way in ways] == ["5254000000000000"] * 2
    assert len({way.find("address").get("controller") for way in ways}) == 2  # type: ignore[union-attr]
    assert len({one.get("dev") for one in root.findall("./devices/disk/target")}) == 4
    assert [one.get("index") for one in root.findall("./devices/controller[@type='scsi']")] == [None, "1", "2"]


def test_shapes_of_different_parts_combine() -> None:
    shapes = find_shapes(["lvm", "nvme", "five-level-paging", "lvm"])
    machine = shapes.machine(Machine(vcpus=4))
    assert (machine.disk_bus, machine.la57, machine.vcpus) == ("nvme", True, 4)
    assert shapes.names == ["nvme", "five-level-paging", "lvm"]
    assert (shapes.directory, shapes.disks_mib, shapes.rebuilds(DEBIAN)) == ("/var/crash", (2048,), True)
    assert "lvm2" in shapes.packages(DEBIAN)
    assert not find_shapes(["sata", "moved-disk"]).rebuilds(DEBIAN)
    assert [find_shapes(["lvm"]).rebuilds(find_family(name)) for name in ("debian", "suse")] == [False, True]
    moved = find_shapes(["raid1", "root", "moved-disk"])
    moved.check(DEBIAN, "local")
    assert (moved.directory, moved.disks_mib, moved.reboot, moved.rebuilds(DEBIAN)) == ("/", (4096, 4096), True, False)


@pytest.mark.parametrize(
    ("names", "family", "target", "message"),
    [
        (["sata", "nvme"], "debian", "local", "sata and nvme exclude one another: each is the guest's system disk"),
        (["root"], "redhat", "local", "root has no script for the family redhat \\(it has debian\\)"),
        (["raid1"], "debian", "nfs", "raid1 cannot go with --target nfs"),
        (["bond"], "debian", "local", "bond needs a dump server: --target ssh or nfs"),
        (["lost-path", "lvm"], "debian", "local", "lost-path needs a shape that has more than one path, such as multi"),
        (["failed-disk"], "debian", "local", "failed-disk needs a shape that is the guest's array, such as raid1"),
        (["moved-disk"], "debian", "local", "moved-disk needs a shape that moves the system, such as sata"),
    ],
)
def test_shapes_that_no_guest_can_have_are_refused(names: list[str], family: str, target: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        find_shapes(names).check(find_family(family), target)


def test_a_plan_refuses_a_shape_for_a_guest_that_stays_as_it_is() -> None:
    plan = Plan(subject=SystemUnderTest(name="g", family=DEBIAN), shapes=find_shapes(["sata"]), as_is=True)
    with pytest.raises(UsageError, match="--shape changes the guest"):
        plan.check()


def test_a_plan_refuses_a_shape_for_a_guest_of_another_architecture() -> None:
    subject, machine = find_subject("arm64-debian-13", family=None), Machine(architecture=find_architecture("arm64"))
    with pytest.raises(UsageError, match="--shape needs a guest for amd64, not for arm64"):
        Plan(subject=subject, machine=machine, shapes=find_shapes(["sata"])).check()


def test_an_unknown_shape_is_a_usage_error_with_the_nearest_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["drill", "debian-12", "--shape", "raid-1"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith("kdump-harness: unknown shape 'raid-1' (known: ")
    assert said.endswith("; did you mean raid1?)\n")


def test_an_own_shape_replaces_one_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / own_tables.PROJECT_FILE).write_text(OWN + OWN.replace("lab-disk", "nvme"))
    monkeypatch.chdir(tmp_path)
    assert find_shapes(["lab-disk"]).machine(Machine()).disk_bus == "sata"
    assert find_shapes(["nvme"]).machine(Machine()).disk_bus == "sata"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("sata", "floppy"), "disk must be one of virtio, virtio-scsi, sata, nvme, usb, not 'floppy'"),
        (("lab-disk", "Lab"), "name must be lower-case"),
        (('"sata"', '"sata"\nfirmware = "coreboot"'), "firmware must be one of"),
        (('"sata"', '"sata"\ndisks_mib = [1]'), "disks_mib must be at most 8 sizes"),
        (('"sata"', '"sata"\ndirectory = "/d"'), "directory must be an absolute path, and needs disks_mib"),
        (('"sata"', '"sata"\nlost = "cpu"'), "lost must be card or path, not 'cpu'"),
        (('"sata"', '"sata"\npaths = 0'), "paths must be 1 to 4"),
        (
            ('"sata"', '"sata"\nprepare = { plan9 = "true" }'),
            "prepare must be for one of debian, redhat, suse, any, not",
        ),
    ],
)
def test_a_bad_row_is_named(
    change: tuple[str, str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / own_tables.PROJECT_FILE).write_text(OWN.replace(*change))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TableError, match=message):
        find_shapes(["Lab" if "Lab" in change else "lab-disk"])


@pytest.mark.parametrize(
    ("bus", "target", "kind", "controller"),
    [
        ("virtio", "vda", "virtio", None),
        ("virtio-scsi", "sda", "scsi", "virtio-scsi"),
        ("sata", "sda", "sata", None),
        ("nvme", "vda", "virtio", None),
        ("usb", "sda", "usb", "qemu-xhci"),
    ],
)
def test_the_systems_disk_is_on_its_bus(bus: str, target: str, kind: str, controller: str | None) -> None:
    spec = DomainSpec(
        name="g", accelerator="tcg", memory_mib=256, vcpus=1, disk=Path("/d"), layers=(), seed=None,
        nic=Nic(mac="m"), disk_bus=bus,
    )  # fmt: skip
    root = ElementTree.fromstring(spec.xml())
    first = root.findall("./devices/disk/target")[0]
    assert (first.get("dev"), first.get("bus")) == (target, kind)
    models = [one.get("model") for one in root.findall("./devices/controller")]
    assert models == ([controller] if controller else [])
    properties = root.findall(".//{http://libvirt.org/schemas/domain/qemu/1.0}property")
    assert [one.get("value") for one in properties] == ([BUSES[bus].driver] if BUSES[bus].driver else [])


class Shell:
    """Keep the files that commands made; a script with the word FAILS fails."""

    def __init__(self, fails: str = "") -> None:
        self.files: set[str] = set()
        self.ran: list[str] = []
        self._fails = fails

    def run(self, command: str, *arguments: object, **_options: Any) -> Any:
        line = command % arguments if arguments else command
        if line.startswith("touch "):
            self.files.add(line.split()[1])
        self.ran.append(line)
        ok = not (self._fails and self._fails in line)
        words = "kdump-harness: shape raid1\none\ntwo\nno space left\n"
        return SimpleNamespace(out="" if ok else words, ok=ok, status=0 if ok else 1)

    def succeeds(self, command: str, *arguments: object) -> bool:
        return (command % arguments).removeprefix("test -e ") in self.files

    def write_text(self, path: str, _text: str) -> None:
        self.files.add(path)


def service(shell: Shell) -> Any:
    return SimpleNamespace(family=DEBIAN, rebuild_image=lambda: shell.ran.append("rebuild"))


def test_a_guest_is_prepared_once() -> None:
    shell = Shell()
    guest: Any = SimpleNamespace(shell=shell, factor=1.0)
    shapes = find_shapes(["sata", "raid1"])
    assert prepare_guest(guest, service(shell), shapes)
    script = next(line for line in shell.ran if "mdadm" in line)
    assert "/dev/disk/by-id/virtio-shape0 /dev/disk/by-id/virtio-shape1" in script
    assert shell.ran.index("rebuild") > shell.ran.index(script)
    assert any(path.endswith("kdump-harness-memory.service") for path in shell.files)
    shell.ran.clear()
    assert not prepare_guest(guest, service(shell), shapes)
    assert not [line for line in shell.ran if "mdadm" in line or line == "rebuild"]


def test_a_shape_that_cannot_be_made_is_no_error_of_the_harness() -> None:
    shell = Shell(fails="mdadm")
    guest: Any = SimpleNamespace(shell=shell, factor=1.0)
    with pytest.raises(NotArmed) as caught:
        prepare_guest(guest, service(shell), find_shapes(["raid1"]))
    assert caught.value.reason == (
        "the shape raid1 cannot be made: its script ended with status 1: one | two | no space left"
    )


def test_a_guest_whose_system_moves_boots_before_its_capture_initramfs_is_built() -> None:
    shell = Shell()
    guest: Any = SimpleNamespace(shell=shell, factor=1.0, reboot=lambda: shell.ran.append("reboot"))
    assert prepare_guest(guest, service(shell), find_shapes(["lvm", "root"]))
    places = [
        next(n for n, line in enumerate(shell.ran) if words in line) for words in ("vgcreate", "reboot", "rebuild")
    ]
    assert places == sorted(places)

    def stuck() -> None:
        raise GuestError("no login prompt")

    guest = SimpleNamespace(shell=Shell(), factor=1.0, reboot=stuck)
    with pytest.raises(NotArmed, match="the guest does not boot with the shape lvm root: no login prompt"):
        prepare_guest(guest, service(shell), find_shapes(["lvm", "root"]))


def test_a_guest_without_a_shape_is_left_alone() -> None:
    shell = Shell()
    guest: Any = SimpleNamespace(shell=shell, factor=1.0)
    assert not prepare_guest(guest, service(shell), find_shapes([]))
    assert not shell.ran
    assert not shell.files


@pytest.mark.parametrize("mounted", [True, False])
def test_a_dump_below_a_mount_point_that_is_not_mounted_is_in_the_wrong_place(mounted: bool) -> None:
    line = "9|600|root|12|755|/var/crash/2026/dump.2026\n"
    shell: Any = SimpleNamespace(
        succeeds=lambda *_: mounted, run=lambda command: SimpleNamespace(out=line if "dump.[" in command else "")
    )
    target = find_target("local", DEBIAN)
    target.mount_point = "/var/crash"
    (file,) = target.look(SimpleNamespace(shell=shell), "/var/crash").values()  # type: ignore[arg-type]
    assert (file.wanted, target.trouble) == (mounted, "" if mounted else "/var/crash is not mounted")


def test_campaigns_give_their_guests_a_shape_and_read_its_dumps_after_the_reboot() -> None:
    subject = SystemUnderTest(name="g", family=DEBIAN)
    lvm, paths = find_shapes(["lvm"]), find_shapes(["multipath"])
    size = SizePlan(subject=subject, shapes=lvm)
    assert size.drill("", Machine(), "local", None).shapes is lvm
    sweep = SweepPlan(subject=subject, shapes=lvm)
    assert sweep.drill("", level=31, compress="zlib").until == RECOVERED
    sides = (Side(name="a", subject=subject), Side(name="b", subject=subject))
    compare = ComparePlan(image="g", thing="t", sides=sides, shapes=lvm, scenarios=choose_scenarios([], []))
    assert compare.drill("", sides[0], compare.scenarios[0]).shapes is lvm
    for plan in (replace(size, shapes=paths), replace(compare, shapes=paths)):
        with pytest.raises(UsageError, match="--shape multipath is for single drills: a saved guest cannot"):
            plan.check()
    for option in ("--bare", "--bisect"):
        assert main(["compare", "debian-12", "--shape", "lvm", option]) == 2
