"""A guest's XML for libvirt, and the events of its domain."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import libvirt
import libvirt_qemu
import pytest
from kdump_harness.base.errors import GuestError, HostError, UsageError
from kdump_harness.images.catalog import CPU_LEVELS
from kdump_harness.images.state import RunDirectory, State
from kdump_harness.vm.hosts import qemu_img
from kdump_harness.vm.hosts.local_host import LocalHost
from kdump_harness.vm.hypervisor import connection
from kdump_harness.vm.hypervisor.connection import Hypervisor, default_uri, event_name, log_directory
from kdump_harness.vm.hypervisor.domain import CRASHLOADED, PANICKED, Domain, DomainEvents
from kdump_harness.vm.hypervisor.domain_xml import USER_NETWORK, Disk, DomainSpec, Layer, Nic
from kdump_harness.vm.hypervisor.user_network import forwarded_port
from kdump_harness.vm.run import Machine, Options, Run


def described(**facts: Any) -> ElementTree.Element:
    known: dict[str, Any] = {
        "name": "kdh-abc123-1-debian-12",
        "accelerator": "tcg",
        "memory_mib": 1024,
        "vcpus": 2,
        "disk": Path("/state/runs/abc123/disk-1.qcow2"),
        "layers": (Layer(path=Path("/a/armed.qcow2"), format="qcow2"), Layer(path=Path("/a/mine.raw"), format="raw")),
        "seed": Path("/state/runs/abc123/seed-1.iso"),
        "nic": Nic(mac="52:54:00:ab:cd:ef"),
    }
    return ElementTree.fromstring(DomainSpec(**{**known, **facts}).xml())


def text(root: ElementTree.Element, path: str) -> str:
    found = root.find(path)
    assert found is not None
    return found.text or ""


def attribute(root: ElementTree.Element, path: str, name: str) -> str | None:
    found = root.find(path)
    assert found is not None
    return found.get(name)


def test_size_and_name_are_as_asked() -> None:
    root = described(memory_mib=2048, vcpus=4)
    assert (text(root, "name"), text(root, "memory"), text(root, "vcpu")) == ("kdh-abc123-1-debian-12", "2048", "4")
    assert attribute(root, "memory", "unit") == "MiB"
    assert attribute(root, "./devices/interface/mac", "address") == "52:54:00:ab:cd:ef"


def test_the_seed_is_read_only_and_the_disk_is_not() -> None:
    disks = described().findall("./devices/disk")
    assert [(attribute(disk, "target", "dev"), disk.find("readonly") is not None) for disk in disks] == [
        ("vda", False),
        ("vdb", True),
    ]
    assert [attribute(disk, "driver", "type") for disk in disks] == ["qcow2", "raw"]


def test_a_guest_without_a_seed_has_one_disk() -> None:
    assert len(described(seed=None).findall("./devices/disk")) == 1


def test_more_disks_come_after_the_seed() -> None:
    root = described(extra_disks=(Disk(path=Path("/a")), Disk(path=Path("/b"))))
    assert [disk.get("dev") for disk in root.findall("./devices/disk/target")] == ["vda", "vdb", "vdc", "vdd"]


def test_names_and_paths_are_escaped() -> None:
    odd = Path("/state/<a> & \"b\" 'c'/disk.qcow2")
    root = described(name="kdh-<a>&b", disk=odd, seed=odd)
    assert text(root, "name") == "kdh-<a>&b"
    assert [source.get("file") for source in root.findall("./devices/disk/source")] == [str(odd)] * 2


@pytest.mark.parametrize(("accelerator", "kind"), [("kvm", "kvm"), ("tcg", "qemu")])
def test_the_accelerator_is_the_type_of_the_domain(accelerator: str, kind: str) -> None:
    assert described(accelerator=accelerator).get("type") == kind


def test_firmware_is_chosen_by_libvirt_where_it_is_uefi() -> None:
    for name, secure in (("uefi", "no"), ("uefi-secure", "yes")):
        xml = described(firmware=name, nvram=Path("/run/mine.nvram"))
        assert attribute(xml, "os", "firmware") == "efi"
        assert attribute(xml, "os/firmware/feature[@name='secure-boot']", "enabled") == secure
        assert text(xml, "os/nvram") == "/run/mine.nvram"
    assert attribute(described(), "os", "firmware") is None


def test_the_processor_is_the_hosts_under_kvm_and_as_cheap_as_possible_without() -> None:
    assert attribute(described(accelerator="kvm", cpu_level=3), "cpu", "mode") == "host-passthrough"
    assert text(described(cpu_level=1), "./cpu/model") == "qemu64"
    assert attribute(described(cpu_level=1), "cpu/feature[@name='cx16']", "policy") == "disable"  # breaks Linux 6.12
    for level in (2, 3, None):
        modern = described(cpu_level=level)
        assert attribute(modern, "cpu", "mode") == "maximum"
        assert attribute(modern, "./cpu/feature", "name") == "la57"
        assert attribute(modern, "./cpu/feature", "policy") == "disable"


@pytest.mark.parametrize(
    ("code", "refused"), [(libvirt.VIR_ERR_OPERATION_TIMEOUT, False), (libvirt.VIR_ERR_CONFIG_UNSUPPORTED, True)]
)
def test_a_guest_may_give_a_processor_back_later(code: int, refused: bool) -> None:
    """libvirt waits for 5 s, in which a busy emulated guest does not answer."""

    def refuse(_number: int, _flags: int) -> None:
        error = libvirt.libvirtError("")
        error.err = (code, 0, "vcpu unplug request timed out", 0, "", None, None, 0, 0)
        raise error

    domain = object.__new__(Domain)
    domain.name, domain._handle = "kdh-1", SimpleNamespace(setVcpusFlags=refuse)
    with pytest.raises(GuestError, match="cannot change the number") if refused else contextlib.nullcontext():
        domain.set_vcpus(1)


class Comparing:
    """A libvirt whose hosts have some features; its requests are in asked."""

    def __init__(self, *features: str, error: int = libvirt.VIR_ERR_CPU_INCOMPATIBLE) -> None:
        self.features, self.error = features, error
        self.asked: list[tuple[str, str, list[str | None]]] = []

    def compareHypervisorCPU(self, *arguments: Any) -> int:  # noqa: N802  # libvirt's own name
        _, arch, _, kind, cpu, flags = arguments
        root = ElementTree.fromstring(cpu)
        wanted = [feature.get("name") for feature in root.findall("feature")]
        self.asked.append((arch, kind, wanted))
        assert flags == libvirt.VIR_CONNECT_COMPARE_CPU_FAIL_INCOMPATIBLE
        missing = [str(name) for name in wanted if name not in self.features]
        if missing:
            raised = libvirt.libvirtError("")
            said = f"the CPU is incompatible: Host CPU does not provide required features: {', '.join(missing)}"
            raised.err = (self.error, 0, said, 0, "", None, None, 0, 0)
            raise raised
        return int(libvirt.VIR_CPU_COMPARE_SUPERSET)


V2 = ("cx16", "lahf_lm", "popcnt", "pni", "sse4.1", "sse4.2", "ssse3")


def lacks(connection: Comparing, accelerator: str, level: int) -> str | None:
    hypervisor = object.__new__(Hypervisor)
    hypervisor._connection = connection
    return hypervisor.lacks(accelerator, level)


def test_every_processor_will_do_for_the_first_level() -> None:
    connection = Comparing()
    assert lacks(connection, "kvm", 1) is None
    assert connection.asked == []


@pytest.mark.parametrize(("accelerator", "kind"), [("kvm", "kvm"), ("tcg", "qemu")])
def test_libvirt_is_asked_for_all_features_of_the_level_under_the_accelerator(accelerator: str, kind: str) -> None:
    connection = Comparing(*V2)
    assert lacks(connection, accelerator, 2) is None
    assert connection.asked == [("x86_64", kind, list(V2))]
    missing = lacks(connection, accelerator, 3)
    assert missing is not None
    assert set(missing.split(", ")) == {"abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave"}


def test_a_libvirt_that_cannot_compare_does_not_stand_in_the_way() -> None:
    assert lacks(Comparing(error=libvirt.VIR_ERR_NO_SUPPORT), "kvm", 3) is None


def test_every_level_of_the_catalogue_is_known_here() -> None:
    for level in CPU_LEVELS:
        assert lacks(Comparing(error=libvirt.VIR_ERR_NO_SUPPORT), "kvm", level) is None


def fitted(machine: Machine, *, needs: int | None, accelerator: str = "tcg", features: tuple[str, ...] = V2) -> Machine:
    run: Any = object.__new__(Run)
    run.accelerator = accelerator
    run.hypervisor = object.__new__(Hypervisor)
    run.hypervisor._connection = Comparing(*features)
    return Run.fit(run, machine, needs=needs)


def test_a_machine_gets_the_processor_that_the_image_needs_unless_it_names_one() -> None:
    assert fitted(Machine(), needs=2).cpu_level == 2
    assert fitted(Machine(cpu_level=1), needs=2).cpu_level == 1
    assert fitted(Machine(memory_mib=2048), needs=None) == Machine(memory_mib=2048), "all there is"


@pytest.mark.parametrize(
    ("accelerator", "sentence"),
    [
        ("kvm", r"^the guest needs a processor of x86-64-v3, but this host's lacks abm, avx, .* \(--accelerator tcg"),
        ("tcg", r"^the guest needs a processor of x86-64-v3, but this QEMU does not emulate abm, avx, .*"),
    ],
)
def test_a_host_that_has_no_such_processor_says_so_in_one_sentence(accelerator: str, sentence: str) -> None:
    with pytest.raises(HostError, match=sentence) as caught:
        fitted(Machine(), needs=3, accelerator=accelerator)
    assert "\n" not in str(caught.value)
    with pytest.raises(HostError):
        fitted(Machine(cpu_level=3), needs=1, accelerator=accelerator)


@pytest.mark.parametrize(
    ("facts", "processor"), [({}, "qemu64"), ({"cpu_level": None}, None), ({"accelerator": "kvm"}, None)]
)
def test_dimms_are_memory_beside_that_of_the_one_node(facts: dict[str, Any], processor: str | None) -> None:
    root = described(dimms_mib=(512, 128), **facts)
    assert (text(root, "memory"), text(root, "maxMemory"), attribute(root, "maxMemory", "slots")) == (
        "1664",
        "1664",
        "2",
    )
    assert [cell.attrib for cell in root.findall("cpu/numa/cell")] == [
        {"id": "0", "cpus": "0-1", "memory": "1024", "unit": "MiB"}
    ]
    assert root.findtext("cpu/model") == processor
    assert [size.text for size in root.findall("devices/memory[@model='dimm']/target/size")] == ["512", "128"]
    without = described(**facts)
    assert without.find("maxMemory") is without.find("cpu/numa") is without.find("devices/memory") is None


@pytest.mark.parametrize(
    ("dimms_mib", "why"),
    [
        ((100,), "invalid DIMM: got 100 MiB, expected a multiple of 128 MiB"),
        ((0,), "invalid DIMM: got 0 MiB"),
        ((-128,), "invalid DIMM: got -128 MiB"),
        ((128,) * 17, "invalid DIMMs: got 17 and 3200 MiB of memory in all, expected at most 16 and"),
        ((4 << 20,), r"invalid DIMMs: got 1 and \d+ MiB"),
    ],
)
def test_dimms_that_no_guest_can_have_are_refused(dimms_mib: tuple[int, ...], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        Machine(dimms_mib=dimms_mib).check()


def test_a_panic_is_seen_and_nothing_but_the_guest_restarts_it() -> None:
    root = described()
    assert attribute(root, "./devices/panic", "model") == "isa"
    assert (text(root, "on_crash"), text(root, "on_reboot"), text(root, "on_poweroff")) == (
        "preserve",
        "restart",
        "destroy",
    )
    assert attribute(root, "./devices/serial/target", "port") == "0"


def test_events_are_found_by_kind_or_detail_and_passed_on() -> None:
    told: list[str] = []
    events = DomainEvents(listener=told.append)
    for what in ("started/0", "reboot", "stopped/5", "crashed/crashloaded", "reboot"):
        events.add(what)
    assert events.has("stopped")
    assert events.has("stopped/5")
    assert not events.has("stopped/0")
    assert not events.has("stop")
    assert events.has("crashed")
    assert not events.has(PANICKED)
    assert told == ["started/0", "reboot", "stopped/5", "crashed/crashloaded", "reboot"]
    assert events.first_s("reboot") == events.seen[1][0]
    assert events.first_s("reboot", since_s=events.seen[-1][0] + 1) is None


def test_the_detail_of_a_panic_event_is_named() -> None:
    """libvirt/libvirt-domain.h: VIR_DOMAIN_EVENT_CRASHED is 8; its details are 0 and 1."""
    assert [event_name(8, detail) for detail in (0, 1, 2)] == [PANICKED, CRASHLOADED, "crashed/2"]
    assert [event_name(5, 1), event_name(99, 0)] == ["stopped/1", "99/0"]


@pytest.mark.parametrize(
    ("uri", "local"),
    [
        ("qemu:///system", True),
        ("qemu:///session", True),
        ("qemu+unix:///system?socket=/run/mine", True),
        ("qemu+ssh://host/system", False),
        ("qemu://host/system", False),
    ],
)
def test_a_hypervisor_elsewhere_is_told_from_the_one_here(uri: str, local: bool) -> None:
    hypervisor = object.__new__(Hypervisor)  # the check needs no connection
    hypervisor.uri = uri
    assert hypervisor.is_local is local


def test_the_hypervisor_is_libvirts_own_choice_or_the_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LIBVIRT_DEFAULT_URI", raising=False)
    monkeypatch.setattr(connection.os, "getuid", lambda: 0)
    connection._usable_uri.cache_clear()
    assert default_uri() == "qemu:///system"
    monkeypatch.setenv("LIBVIRT_DEFAULT_URI", "qemu:///session")
    assert default_uri() == "qemu:///session"


@pytest.mark.parametrize("refuses", [False, True])
def test_a_user_whom_the_systems_instance_refuses_has_one_of_their_own(
    refuses: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect(uri: str, _address: str) -> Any:
        assert uri == "qemu:///system"
        if refuses:
            raise HostError("libvirt at qemu:///system does not answer: Permission denied")
        return SimpleNamespace(close=lambda: None)

    monkeypatch.delenv("LIBVIRT_DEFAULT_URI", raising=False)
    monkeypatch.setattr(connection.os, "getuid", lambda: 1000)
    monkeypatch.setattr(connection, "_connect", connect)
    connection._usable_uri.cache_clear()
    assert default_uri() == ("qemu:///session" if refuses else "qemu:///system")
    connection._usable_uri.cache_clear()


def test_a_network_card_is_connected_as_the_hypervisor_can() -> None:
    def card(**network: Any) -> tuple[str | None, str]:
        root = ElementTree.fromstring(Nic(mac="52:54:00:ab:cd:ef", **network).xml(up=False))
        assert root.find("link") is not None
        source = root.find("source")
        return root.get("type"), "" if source is None else " ".join(source.attrib.values())

    assert card() == ("network", "default")
    assert card(network=USER_NETWORK) == ("user", "")
    assert card(hub_port=4711) == ("client", "127.0.0.1 4711")


USERNET = """Hub -1 (hostnet0):
  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ
  TCP[ESTABLISHED]   31       127.0.0.1 40122       10.0.2.15    22     0     0
  TCP[HOST_FORWARD]  12       127.0.0.1 46239       10.0.2.15    22     0     0
"""


def test_the_forwarded_port_is_the_one_that_qemu_shows() -> None:
    assert forwarded_port(USERNET, 22) == 46239
    assert forwarded_port(USERNET, 2) is None


def test_a_guest_with_user_networking_is_reached_by_its_forwarded_port(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"hostfwd_add hostnet0 tcp:127.0.0.1:0-:22": "", "info usernet": USERNET}
    monkeypatch.setattr(libvirt_qemu, "qemuMonitorCommand", lambda _handle, command, _flags: answers[command])
    hypervisor: Any = SimpleNamespace(watch=lambda *_: None)
    user = Nic(mac="52:54:00:ab:cd:ef", network=USER_NETWORK)
    domain = Domain(hypervisor, object(), "mine", user)
    assert (domain.address(), domain.ssh_port) == ("127.0.0.1", 46239)
    answers["hostfwd_add hostnet0 tcp:127.0.0.1:0-:22"] = "Error: No such network backend\r\n"
    with pytest.raises(HostError, match="QEMU forwards no port to the guest: Error: No such network backend"):
        Domain(hypervisor, object(), "mine", user)


def test_libvirts_logs_of_a_run_are_removed_and_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(connection.os, "getuid", lambda: 1000)
    hypervisor = object.__new__(Hypervisor)
    hypervisor.uri = "qemu:///session"
    assert hypervisor.logs() == ()
    place = tmp_path / "libvirt" / "qemu" / "log"
    place.mkdir(parents=True)
    names = ["kdh-abc123-1-a.log", "kdh-abc123-2-a.log.0", "kdh-def456-1-a.log", "mine.log", "kdh-abc123-1-a.txt"]
    for name in names:
        (place / name).touch()
    hypervisor.remove_logs("abc123")
    assert {path.name for path in place.iterdir()} == {"kdh-def456-1-a.log", "mine.log", "kdh-abc123-1-a.txt"}
    assert log_directory("qemu:///system") == Path("/var/log/libvirt/qemu")
    assert log_directory("qemu+ssh://far/system") is None
    monkeypatch.setattr(connection.os, "getuid", lambda: 0)
    assert log_directory("qemu:///session") == Path("/var/log/libvirt/qemu")
    assert connection.is_session("qemu+ssh://far/session")


def test_the_domains_of_a_run_that_are_left_at_its_end_are_destroyed_and_no_others() -> None:
    left = ["kdh-abc123-4-debian-12", "kdh-def456-1-debian-12", "abc123"]

    hypervisor = object.__new__(Hypervisor)
    hypervisor._connection = SimpleNamespace(
        listAllDomains=lambda: [SimpleNamespace(name=lambda name=name: name) for name in left],
        lookupByName=lambda name: SimpleNamespace(destroy=lambda: left.remove(name)),
    )
    hypervisor.destroy_run("abc123")
    assert left == ["kdh-def456-1-debian-12", "abc123"]


def test_what_a_disk_rests_on_keeps_its_owner() -> None:
    root = described()
    stores = root.findall(".//backingStore")
    assert [store.get("type") for store in stores] == ["file", "file", None]  # the chain has an end
    for label in (store.find("source/seclabel") for store in stores[:2]):
        assert label is not None
        assert (label.get("model"), label.get("relabel")) == ("dac", "no")


def test_a_disk_that_only_its_owner_can_read_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tmp_path / "base.qcow2"
    base.touch(mode=0o600)
    told = [{"filename": "top", "format": "qcow2"}, {"filename": str(base), "format": "qcow2"}]
    here = LocalHost(State(tmp_path / "state"), RunDirectory("abc123", tmp_path), "qemu:///system")
    monkeypatch.setattr(qemu_img, "qemu_img", lambda *_: json.dumps(told))
    layers = here.layers(tmp_path / "top")
    assert layers == (Layer(path=base, format="qcow2", private=True),)
    with here.readable(layers, os.geteuid()):  # QEMU runs as the owner
        assert not list(tmp_path.glob("given-access-*"))
    with here.readable(layers, None):
        assert not list(tmp_path.glob("given-access-*"))
    base.chmod(0o644)
    assert here.layers(tmp_path / "top") == (Layer(path=base, format="qcow2"),)


def test_the_memory_of_a_guest_is_taken_in_each_of_its_drills(tmp_path: Path) -> None:
    run = Run(Options(quiet=True))
    state = State(tmp_path)
    run.host = LocalHost(state, RunDirectory("abc123", tmp_path / "runs"), "qemu:///system")
    domain = SimpleNamespace(dump_memory=lambda path, compressed, tick: path.write_bytes(b"memory"))
    guest: Any = SimpleNamespace(name="kdh-abc123-1-debian-12", domain=domain)
    taken = [run.memory_of(guest) for _ in range(2)]
    assert [path.read_bytes() for path in dict.fromkeys(taken)] == [b"memory"] * 2
