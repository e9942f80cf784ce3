"""Steps of hotplug: the refused ones, the room that they need, and the calls by which they are taken."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest
from fakes import FakeClock
from kdump_harness.base.errors import GuestError, UsageError
from kdump_harness.distro.family import find_family
from kdump_harness.drill.disks import SystemUnderTest
from kdump_harness.drill.plan import Plan
from kdump_harness.kdump.hotplug import plug, updated_by_kernel
from kdump_harness.kdump.hotplug_steps import parse_steps, room_for
from kdump_harness.kdump.reserved_memory import AddressRange, ram_ranges
from kdump_harness.vm.hypervisor.memory_xml import Spare, dimm_xml, memory_xml, vcpu_xml, virtio_mem_xml
from kdump_harness.vm.run import Machine


@pytest.mark.parametrize(
    "text", ["add-dimm", "add-virtio-mem", "remove-dimm:128", "add-cpu:1", "add-disk", "+cpu", "1"]
)
def test_an_unknown_step_is_named(text: str) -> None:
    with pytest.raises(UsageError, match=rf"--hotplug: '{re.escape(text)}' is not a step \(expected a list of add-cpu"):
        parse_steps(f"add-cpu,{text}")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("remove-dimm", "remove-dimm finds no DIMM"),
        ("add-dimm:128,remove-dimm,remove-dimm", "remove-dimm finds no DIMM"),
        ("remove-virtio-mem", "remove-virtio-mem finds no memory"),
        ("remove-cpu,remove-cpu", "remove-cpu leaves no processor"),
        ("add-dimm:100", "invalid DIMM: got 100 MiB, expected a multiple of 128 MiB"),
        ("add-virtio-mem:1", "invalid DIMM: got 1 MiB, expected a multiple of 128 MiB"),
        (",".join(["add-dimm:128"] * 17), "invalid DIMMs: got 17 and "),
        (",".join(["add-cpu"] * 300), "invalid number of processors"),
    ],
)
def test_steps_that_no_machine_can_take_are_refused(text: str, why: str) -> None:
    subject = SystemUnderTest(name="mine", family=find_family("debian"))
    with pytest.raises(UsageError, match=why):
        Plan(subject=subject, machine=Machine(vcpus=2), hotplug=parse_steps(text)).check()


@pytest.mark.parametrize(
    ("text", "room"),
    [
        ("", Spare()),
        ("remove-cpu", Spare(fewer_cpus=True)),
        ("remove-cpu,add-cpu,add-cpu", Spare(cpus=1, fewer_cpus=True)),
        ("add-dimm:128,remove-dimm,add-dimm:256", Spare(dimms_mib=(128, 256))),
        ("add-virtio-mem:128,add-virtio-mem:128,remove-virtio-mem,add-virtio-mem:128", Spare(virtio_mem_mib=256)),
    ],
)
def test_the_machine_has_room_for_the_steps(text: str, room: Spare) -> None:
    assert room_for(parse_steps(text), 2) == room


def test_the_room_is_in_the_xml() -> None:
    spare = Spare(dimms_mib=(256,), virtio_mem_mib=128, cpus=1)
    assert memory_xml(1024, (512,), spare) == (
        '<maxMemory unit="MiB" slots="3">1920</maxMemory><memory unit="MiB">1664</memory>'
    )
    assert vcpu_xml(2, spare) == (
        '<vcpu current="2">3</vcpu><vcpus><vcpu id="0" hotpluggable="no" enabled="yes" order="1"/>'
        '<vcpu id="1" hotpluggable="no" enabled="yes" order="2"/><vcpu id="2" hotpluggable="yes" enabled="no"/></vcpus>'
    )
    assert vcpu_xml(2, Spare(fewer_cpus=True)) == (
        '<vcpu current="2">2</vcpu><vcpus><vcpu id="0" hotpluggable="no" enabled="yes" order="1"/>'
        '<vcpu id="1" hotpluggable="yes" enabled="yes" order="2"/></vcpus>'
    )
    assert (memory_xml(1024, ()), vcpu_xml(2)) == ('<memory unit="MiB">1024</memory>', "<vcpu>2</vcpu>")


class Domain:
    """A domain that adds and removes at once."""

    def __init__(self) -> None:
        self.cpus, self.mib = 2, 1024
        self.looks_until_gone, self.looks = 0, 0
        self.devices = [ElementTree.fromstring(virtio_mem_xml(256, 0))]

    def memory_devices(self, model: str) -> list[ElementTree.Element]:
        return [device for device in self.devices if device.get("model") == model]

    def set_vcpus(self, number: int) -> None:
        """A processor that is still going is there for libvirt: adding it then does nothing."""
        if number == self.vcpus():
            return
        self.looks = self.looks_until_gone if number < self.cpus else 0
        self.cpus = number

    def vcpus(self) -> int:
        self.looks -= 1
        return self.cpus + (self.looks > 0)

    def attach(self, xml: str) -> None:
        self.devices.append(ElementTree.fromstring(xml))
        self.mib += int(self.devices[-1].findtext("target/size") or 0)

    def detach(self, xml: str) -> None:
        gone = self.devices.pop()
        assert ElementTree.tostring(gone, encoding="unicode") == xml
        self.mib -= int(gone.findtext("target/size") or 0)

    def update(self, xml: str) -> None:
        device = ElementTree.fromstring(xml)
        asked = int(device.findtext("target/requested") or 0)
        current = device.find("target/current")
        if current is None:
            current = ElementTree.SubElement(device.find("target"), "current")  # type: ignore[arg-type]
        current.text = str(asked)
        before = int(self.devices[0].findtext("target/current") or 0)
        self.mib += (asked - before) >> 10
        self.devices[0] = device


class Shell:
    """The shell of a guest that uses what it is given."""

    def __init__(self, domain: Domain, *, stuck: bool = False) -> None:
        self.domain, self.stuck = domain, stuck
        self.commands: list[str] = []
        self.possible, self.has_memory = "0-7\n", True

    def run(self, command: str, *arguments: str, **_: object) -> Any:
        self.commands.append(command % arguments if arguments else command)
        out = ""
        if "block_size_bytes" in command:
            out = f"{1024 // 128 if self.stuck else self.domain.mib // 128} 8000000"
        elif "cpuinfo" in command:
            out = f"{self.domain.cpus}\n{self.domain.cpus}\n"
        elif command.endswith("possible"):
            out = self.possible
        elif "crash_hotplug" in command:
            out = "1" if "memory" in command else "0"
        return SimpleNamespace(out=out)

    def succeeds(self, command: str) -> bool:
        return self.has_memory


def guest_of(domain: Domain, shell: Shell) -> Any:
    return SimpleNamespace(
        name="kdh-1", domain=domain, shell=shell, factor=1.0, evidence=SimpleNamespace(console_path=None)
    )


def test_each_step_waits_for_the_guest(fake_clock: FakeClock) -> None:
    domain = Domain()
    shell = Shell(domain)
    said: list[str] = []
    steps = parse_steps("add-dimm:256,add-cpu,add-virtio-mem:128,remove-virtio-mem,remove-dimm,remove-cpu")
    plug(guest_of(domain, shell), steps, said.append)
    assert said == [
        "adding dimm of 256 MiB", "adding cpu", "adding virtio-mem of 128 MiB", "removing virtio-mem", "removing dimm",
        "removing cpu",
    ]  # fmt: skip
    assert (domain.cpus, len(domain.devices)) == (2, 1)
    assert "echo 0 >/sys/devices/system/cpu/cpu2/online" in shell.commands
    assert "udevadm settle" in shell.commands[-1]


def test_a_processor_is_gone_when_the_machine_has_lost_it(fake_clock: FakeClock) -> None:
    domain = Domain()
    domain.looks_until_gone = 3
    plug(guest_of(domain, Shell(domain)), parse_steps("remove-cpu,add-cpu"), lambda _: None)
    assert domain.cpus == 2


def test_a_kernel_without_room_is_named_before_anything_is_added() -> None:
    domain = Domain()
    shell = Shell(domain)
    shell.possible = "0-1\n"
    with pytest.raises(UsageError, match="the guest's kernel has room for 2 processors, and add-cpu makes 3"):
        plug(guest_of(domain, shell), parse_steps("add-dimm:256,remove-cpu,add-cpu,add-cpu"), lambda _: None)
    shell.has_memory = False
    with pytest.raises(UsageError, match="add-dimm:256 needs a kernel with memory hotplug, which this one lacks"):
        plug(guest_of(domain, shell), parse_steps("add-dimm:256"), lambda _: None)
    assert domain.mib == 1024


def test_memory_that_a_guest_does_not_use_is_no_failure_of_its_kdump(fake_clock: FakeClock) -> None:
    domain = Domain()
    with pytest.raises(GuestError, match=r"kdh-1: adding dimm of 256 MiB failed: 1280 MiB of memory: not seen in 20 s"):
        plug(guest_of(domain, Shell(domain, stuck=True)), parse_steps("add-dimm:256"), lambda _: None)


@pytest.mark.parametrize(
    ("text", "by_kernel"), [("add-dimm:128", True), ("add-cpu", False), ("add-cpu,add-dimm:128", False)]
)
def test_the_kernel_says_whether_it_updates_what_was_loaded(text: str, by_kernel: bool) -> None:
    domain = Domain()
    assert updated_by_kernel(guest_of(domain, Shell(domain)), parse_steps(text)) is by_kernel


def test_the_memory_of_every_device_is_ram() -> None:
    iomem = (
        "00001000-0009fbff : System RAM\n00100000-2fffffff : System RAM\n"
        "  140000000-147ffffff : System RAM (virtio_mem)\n2f000000-3effffff : Crash kernel\n"
    )
    assert ram_ranges(iomem) == (
        AddressRange(0x1000, 0x9FC00), AddressRange(0x100000, 0x30000000), AddressRange(0x140000000, 0x148000000),
    )  # fmt: skip


def test_a_dimm_has_the_size_that_was_asked_for() -> None:
    assert ElementTree.fromstring(dimm_xml(512)).findtext("target/size") == "512"
