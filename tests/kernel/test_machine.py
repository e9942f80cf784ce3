"""The domain of a kernel drill, its layouts and its clock."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from kdump_harness.base.errors import UsageError
from kdump_harness.distro.architecture import find_architecture
from kdump_harness.drill.checks import REQUIRED_CHECKS, Scope, required
from kdump_harness.kernel.drill import not_judged, processor_times
from kdump_harness.kernel.layouts import find_layout, load_layouts
from kdump_harness.kernel.machine import INSTRUCTIONS, BareMachine, DirectBoot
from kdump_harness.vm.hypervisor.memory_xml import Spare

BOOT = DirectBoot(kernel=Path("/run/k"), initrd=Path("/run/i"), command_line="a=b & c", dump_disk=Path("/run/d"))
QEMU = "{http://libvirt.org/schemas/domain/qemu/1.0}"


def bare(*layouts: str, **more: Any) -> BareMachine:
    given = {"accelerator": "tcg", "memory_mib": 768, "vcpus": 2, "cpu_level": 1, **more}
    return BareMachine(layouts=tuple(map(find_layout, layouts)), **given)


def domain(*layouts: str, **more: Any) -> ElementTree.Element:
    return ElementTree.fromstring(bare(*layouts, **more).xml("kdh-1", BOOT))


def attribute(root: ElementTree.Element, path: str, name: str) -> str | None:
    found = root.find(path)
    return found.get(name) if found is not None else None


def test_the_domain_boots_directly_and_has_no_network() -> None:
    root = domain()
    assert (root.findtext("./os/kernel"), root.findtext("./os/initrd")) == ("/run/k", "/run/i")
    assert root.findtext("./os/cmdline") == "a=b & c"
    assert root.find("./devices/interface") is None
    assert len(root.findall("./devices/serial")) == 2
    assert root.find("./devices/panic") is None
    assert root.find(f"{QEMU}commandline") is None
    assert attribute(root, "./devices/disk/address", "bus") == "0"  # without a root port in between


def test_other_architectures_have_their_machine() -> None:
    expected = {
        "arm64": ("aarch64", "virt", "cortex-a57", True),
        "ppc64el": ("ppc64le", "pseries", "POWER9", False),
        "riscv64": ("riscv64", "virt", None, False),
    }
    for name, (machine, kind, model, vmcoreinfo) in expected.items():
        root = domain(architecture=find_architecture(name), cpu_level=None)
        place = root.find("./os/type")
        assert place is not None
        assert (place.get("arch"), place.get("machine")) == (machine, kind)
        assert root.findtext("./cpu/model") == model
        assert (root.find("./features/vmcoreinfo") is not None) == vmcoreinfo
        assert root.find("./features/acpi") is None  # it needs UEFI there
        assert len(root.findall("./devices/serial")) == 2


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"accelerator": "kvm", "cpu_level": None}, "a kernel for arm64 needs --accelerator tcg"),
        ({"cpu_level": 2}, "--cpu is a level of x86-64 processors"),
    ],
)
def test_hardware_that_another_architecture_lacks_is_refused(more: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        bare(architecture=find_architecture("arm64"), **more).check()
    with pytest.raises(UsageError, match="the layout dimm needs a machine for amd64"):
        bare("dimm", architecture=find_architecture("arm64"), cpu_level=None).check()


def test_layouts_change_the_machine() -> None:
    cells = domain("numa").findall("./cpu/numa/cell")
    assert [(cell.get("cpus"), cell.get("memory")) for cell in cells] == [("0-0", "384"), ("1-1", "384")]
    balloon = domain("balloon")
    assert balloon.findtext("./currentMemory") == "512"
    plugged = domain("virtio-mem")
    assert (plugged.findtext("./memory"), plugged.findtext("./maxMemory")) == ("1024", "1024")
    assert plugged.findtext("./devices/memory/target/requested") == "256"
    assert plugged.find("./cpu/numa/cell") is not None
    dimm = domain("dimm", "virtio-mem")
    assert (dimm.findtext("./memory"), attribute(dimm, "./maxMemory", "slots")) == ("1536", "2")
    assert [one.get("model") for one in dimm.findall("./devices/memory")] == ["virtio-mem", "dimm"]
    assert attribute(domain("notifiers"), "./devices/panic", "model") == "isa"
    assert domain("la57").find("./cpu/feature") is None


@pytest.mark.parametrize("name", load_layouts())
def test_each_layout_is_a_valid_domain(name: str) -> None:
    assert domain(name).tag == "domain"


def test_a_clock_of_instructions_is_one_processor_of_an_emulated_guest() -> None:
    root = domain(clock=INSTRUCTIONS, vcpus=1)
    assert [arg.get("value") for arg in root.findall(f"{QEMU}commandline/{QEMU}arg")] == [
        "-icount",
        "shift=2,sleep=off",
    ]
    with pytest.raises(UsageError, match="one processor: got 2"):
        bare(clock=INSTRUCTIONS).check()
    with pytest.raises(UsageError, match="emulated processor"):
        bare(clock=INSTRUCTIONS, vcpus=1, accelerator="kvm").check()


@pytest.mark.parametrize(
    ("layouts", "more", "message"),
    [
        (("numa",), {"vcpus": 1}, "2 NUMA nodes need as many processors"),
        (("balloon",), {"memory_mib": 512}, "needs a guest with more"),
        (("la57",), {"accelerator": "kvm"}, "needs --accelerator tcg"),
    ],
)
def test_a_layout_that_the_guest_cannot_have_is_refused(
    layouts: tuple[str, ...], more: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        bare(*layouts, **more).check()
    bare().check()


def test_an_unknown_layout_is_told() -> None:
    with pytest.raises(UsageError, match="unknown layout 'holes'"):
        find_layout("holes")


def test_the_processor_time_leaves_idle_time_out() -> None:
    console = """\
kdump-harness: clock ready 8.00 600 2
[    7.1] kdump-harness: clock writing 4.50 50 1
kdump-harness: clock saved 10.00 100 1
"""
    assert processor_times(console) == {"boot": 5.0, "capture_boot": 4.0, "dump": 5.0}
    assert processor_times("kdump-harness: clock ready 8.00 600 2\n") == {"boot": 5.0}
    assert processor_times("kdump-harness: clock ready 8.00 600 0\n") == {}  # no guest has no processor


def test_the_verdict_names_the_checks_that_a_kernel_drill_does_not_make() -> None:
    for name in REQUIRED_CHECKS - required(Scope.KERNEL):
        assert name in not_judged()
    assert {"complete", "filter", "pages", "nonce"} <= required(Scope.KERNEL)


def test_the_machine_has_room_for_hotplug_and_the_records(tmp_path: Path) -> None:
    store = tmp_path / "erst"
    store.write_bytes(bytes(4096))
    spare = Spare(dimms_mib=(256,), virtio_mem_mib=128, cpus=1)
    xml = bare("numa", spare=spare).xml("kdh-1", dataclasses.replace(BOOT, erst=store))
    root = ElementTree.fromstring(xml)
    assert (root.findtext("./maxMemory"), attribute(root, "./maxMemory", "slots")) == ("1152", "2")
    assert (root.findtext("./memory"), root.findtext("./vcpu")) == ("896", "3")
    assert attribute(root, "./vcpu", "current") == "2"
    assert [cell.get("cpus") for cell in root.iterfind("./cpu/numa/cell")] == ["0-0", "1-2"]
    assert root.findtext("./devices/memory[@model='virtio-mem']/target/requested") == "0"
    arguments = [argument.get("value", "") for argument in root.iterfind(f"{QEMU}commandline/{QEMU}arg")]
    assert str(store) in arguments[1]
    assert arguments[3].startswith("acpi-erst,")


@pytest.mark.parametrize(
    ("name", "more", "why"),
    [
        ("arm64", {"spare": Spare(cpus=1)}, "--hotplug needs a machine for amd64"),
        ("arm64", {"fallback": ("pstore",)}, "--fallback pstore: the machine type virt has no ACPI ERST device"),
        ("ppc64el", {"fallback": ("hypervisor",)}, "the machine type pseries has no vmcoreinfo device"),
    ],
)
def test_machines_that_lack_what_was_asked_for_are_named(name: str, more: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        bare(architecture=find_architecture(name), cpu_level=None, **more).check()
    bare(architecture=find_architecture("arm64"), cpu_level=None, fallback=("hypervisor",)).check()
