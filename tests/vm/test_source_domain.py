"""The XML of a source domain, and the XML of its clone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import pytest
from kdump_harness.base.errors import UsageError
from kdump_harness.vm.hypervisor.clone_xml import CloneParts, clone_xml
from kdump_harness.vm.hypervisor.domain_xml import DomainSpec, Nic
from kdump_harness.vm.hypervisor.source_description import SourceDescription, attribute, read_original
from source_domain_factory import CARDS, MAC, OTHER_MAC, SYSTEM, disk, machine, read

# ---------------------------------------------------------------- reading


def test_size_disks_and_cards_are_read() -> None:
    original = read()
    assert (original.kind, original.memory_mib, original.vcpus, original.firmware) == ("kvm", 4096, 2, "bios")
    (system,) = original.disks
    assert (system.target, system.source, system.format) == ("sda", Path("/images/my.raw"), "raw")
    assert original.macs == (MAC, OTHER_MAC)
    assert original.left_out == ()
    assert not original.agent


def test_the_system_is_on_the_disk_that_is_booted_first() -> None:
    boot = '<boot order="1"/>'
    assert [one.target for one in read(disk("vda") + disk("vdb", boot) + disk("vdc")).disks] == ["vdb", "vda", "vdc"]
    assert [one.target for one in read(disk("vda") + disk("vdb")).disks] == ["vda", "vdb"]


def test_what_a_disk_rests_on_is_told_since_it_needs_room() -> None:
    below = (
        '<backingStore type="file"><format type="qcow2"/><source file="/images/b"/>'
        '<backingStore type="file"><format type="raw"/><source file="/images/c"/><backingStore/></backingStore>'
        "</backingStore>"
    )
    assert read(disk("vda", below)).disks[0].backing == (Path("/images/b"), Path("/images/c"))


def test_a_volume_is_the_file_or_the_device_that_its_pool_tells() -> None:
    volume = disk("vda", kind="volume", source='<source pool="default" volume="my.qcow2"/>')
    found = read_original("my", machine(volume), lambda pool, name: f"/{pool}/{name}")
    assert found.disks[0].source == Path("/default/my.qcow2")
    with pytest.raises(UsageError, match="its system disk vda is of the type volume"):
        read(volume)


def test_a_system_on_a_block_device_of_the_host_is_copied_as_well() -> None:
    assert read(disk("vda", kind="block", source='<source dev="/dev/vg/my"/>')).disks[0].source == Path("/dev/vg/my")


@pytest.mark.parametrize(
    ("devices", "sentence"),
    [
        ("", "cannot clone my: it has no disk"),
        (disk("sda", device="cdrom"), "cannot clone my: it has no disk"),
        (
            disk("vda", kind="network", source='<source protocol="rbd" name="pool/my"/>'),
            "cannot clone my: its system disk vda is on a network (rbd pool/my), expected a file or a block device"
            " of this host",
        ),
        (disk("vda", '<encryption format="luks"/>'), "its system disk vda is encrypted"),
        (
            disk("vda", source='<source file="/i"><encryption format="luks"/></source>'),
            "its system disk vda is encrypted",
        ),
        (
            disk("sda", kind="block", device="lun", source='<source dev="/dev/sdx"/>'),
            "is a passed-through SCSI device (/dev/sdx)",
        ),
        (disk("vda", kind="nvme", source="<source/>"), "its system disk vda is of the type nvme"),
    ],
)
def test_a_domain_whose_system_cannot_be_copied_is_refused_in_one_sentence(devices: str, sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        read(devices)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        ({"arch": "aarch64"}, "cannot clone my: its architecture is aarch64, expected x86_64"),
        ({"kind": "xen"}, "cannot clone my: its type is xen, expected qemu or kvm"),
        ({"os": "<kernel>/boot/vmlinuz</kernel>"}, "cannot clone my: it boots a kernel file of the host"),
    ],
)
def test_a_domain_of_another_kind_is_refused(facts: dict[str, str], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        read(**facts)


@pytest.mark.parametrize(
    ("device", "said"),
    [
        (
            '<hostdev mode="subsystem" type="pci"><source><address domain="0x0000" bus="0x3b" slot="0x00"'
            ' function="0x1"/></source></hostdev>',
            "the passed-through PCI device 0000:3b:00.1",
        ),
        (
            '<hostdev mode="subsystem" type="usb"><source><vendor id="0x046d"/><product id="0xc52b"/></source>'
            "</hostdev>",
            "the passed-through USB device 046d:c52b",
        ),
        ('<hostdev mode="subsystem" type="mdev"/>', "the passed-through MDEV device"),
        (
            f'<interface type="hostdev"><mac address="{OTHER_MAC}"/></interface>',
            f"the passed-through network card {OTHER_MAC}",
        ),
        (
            '<filesystem type="mount"><driver type="virtiofs"/><source dir="/srv"/><target dir="share"/></filesystem>',
            "the shared directory /srv (share)",
        ),
        ('<tpm model="tpm-crb"><backend type="emulator"/></tpm>', "the TPM"),
        (
            disk("vdb", kind="block", source='<source dev="/dev/sdx"/>'),
            "the disk vdb: the block device /dev/sdx of this host",
        ),
        (
            disk("vdb", kind="network", source='<source protocol="nbd"/>'),
            "the disk vdb: on a network (nbd)",
        ),
        (disk("vdb", "<encryption/>"), "the disk vdb: encrypted"),
        (disk("vdb", "<readonly/>"), "the disk vdb: read-only"),
        (disk("fda", device="floppy"), "the medium in the floppy drive fda"),
    ],
)
def test_what_only_the_original_can_have_is_named(device: str, said: str) -> None:
    original = read(SYSTEM + device)
    assert original.left_out == (said,)
    assert [one.target for one in original.disks] == ["sda"]


def test_arguments_for_qemu_itself_are_not_passed_on() -> None:
    original = read(more='<qemu:commandline><qemu:arg value="-snapshot"/></qemu:commandline>')
    assert original.left_out == ("the arguments for QEMU itself (qemu:commandline)",)
    assert "-snapshot" not in clone_xml(original, spec(original), parts())


def test_only_a_guest_agent_that_listens_can_freeze() -> None:
    for state, agent in (("connected", True), ("disconnected", False)):
        channel = (
            f'<channel type="unix"><target type="virtio" name="org.qemu.guest_agent.0" state="{state}"/></channel>'
        )
        assert read(SYSTEM + channel).agent is agent


@pytest.mark.parametrize(
    ("os", "firmware"),
    [
        ('<loader readonly="yes" type="pflash">/usr/share/OVMF/OVMF_CODE.fd</loader>', "uefi"),
        ('<loader readonly="yes" secure="yes" type="pflash">/OVMF.fd</loader><nvram>/nv/my.fd</nvram>', "uefi-secure"),
        ("", "bios"),
    ],
)
def test_the_firmware_is_read(os: str, firmware: str) -> None:
    assert read(os=os).firmware == firmware


# ---------------------------------------------------------------- the clone


def spec(original: SourceDescription, **facts: Any) -> DomainSpec:
    known: dict[str, Any] = {
        "name": "kdh-abc123-3-my",
        "accelerator": "kvm",
        "memory_mib": original.memory_mib,
        "dimms_mib": original.dimms_mib,
        "vcpus": original.vcpus,
        "disk": Path("/run/disk-1.qcow2"),
        "layers": (),
        "seed": Path("/run/seed.iso"),
        "nic": Nic(mac="52:54:00:bb:00:01", network="kdh-abc123-clone2"),
        "firmware": original.firmware,
        "nvram": Path("/run/new.nvram"),
    }
    return DomainSpec(**{**known, **facts})


def parts(**facts: Any) -> CloneParts:
    known: dict[str, Any] = {
        "disks": {"sda": Path("/run/disk-1.qcow2"), "vdb": Path("/run/disk-2.qcow2")},
        "media": {},
        "nvram": None,
        "keep_macs": False,
    }
    return CloneParts(**{**known, **facts})


def cloned(original: SourceDescription | None = None, *, of: Any = None, **facts: Any) -> Element:
    original = original or read()
    return ElementTree.fromstring(clone_xml(original, spec(original, **facts), of or parts()))


def find(root: Element, path: str) -> Element:
    found = root.find(path)
    assert found is not None, path
    return found


def test_a_clone_has_the_hardware_of_the_original() -> None:
    root = cloned()
    assert root.findtext("name") == "kdh-abc123-3-my"
    assert find(root, "os/type").get("machine") == "pc-q35-8.2"
    assert (root.findtext("memory"), root.findtext("currentMemory")) == ("4194304", "2097152")
    assert (root.findtext("vcpu"), find(root, "vcpu").attrib) == ("4", {"current": "2"})
    assert find(root, "cpu/topology").get("cores") == "4"
    assert root.find("features/hyperv/relaxed") is not None
    assert find(root, "clock").get("offset") == "localtime"
    assert root.findtext("devices/emulator") == "/usr/bin/theirs"
    assert find(root, "devices/controller").get("model") == "virtio-scsi"


def test_a_clone_is_nobody_elses() -> None:
    root = cloned()
    text = ElementTree.tostring(root, encoding="unicode")
    names = ("uuid", "mine", "/images/", MAC, OTHER_MAC, "br0", "vnet7", "eth0", "vnc", "alias")
    for theirs in (*names, "hugepages", "cpuset", "iothread", "queues"):
        assert theirs not in text, theirs
    assert root.find("devices/graphics") is None


def test_disks_stay_in_their_places_since_an_initramfs_may_know_no_others() -> None:
    root = cloned(read(SYSTEM + disk("vdb") + CARDS))
    system, data, seed = root.findall("devices/disk")
    assert find(system, "source").get("file") == "/run/disk-1.qcow2"
    assert find(system, "driver").get("type") == "qcow2"
    assert (find(system, "target").get("dev"), find(system, "target").get("bus")) == ("sda", "scsi")
    assert find(system, "address").get("type") == "drive"
    assert system.findtext("serial") == "S1"
    assert find(data, "source").get("file") == "/run/disk-2.qcow2"
    assert find(seed, "source").get("file") == "/run/seed.iso"
    assert (find(seed, "target").get("dev"), find(seed, "target").get("bus")) == ("sdb", "scsi")
    assert seed.find("readonly") is not None


def test_where_disks_cannot_be_read_only_the_seed_is_a_cd() -> None:
    original = read(disk("sda").replace('bus="virtio"', 'bus="sata"'))
    assert cloned(original).findall("devices/disk")[-1].get("device") == "cdrom"


def test_a_disk_that_is_left_out_does_not_give_its_name_away() -> None:
    original = read(SYSTEM + disk("sdb", kind="block", source='<source dev="/dev/sdx"/>'))
    names = [find(one, "target").get("dev") for one in cloned(original).findall("devices/disk")]
    assert names == ["sda", "sdc"]


def test_without_a_seed_the_cds_that_were_brought_along_are_in_their_drives() -> None:
    original = read(SYSTEM + disk("hda", device="cdrom", source='<source file="/images/seed.iso"/>'))
    assert original.media == {"hda": Path("/images/seed.iso")}
    for media, found in (({"hda": Path("/run/medium.iso")}, "/run/medium.iso"), ({}, None)):
        drive = cloned(original, of=parts(media=media), seed=None).findall("devices/disk")[1]
        source = drive.find("source")
        assert (source.get("file") if source is not None else None) == found


def test_all_cards_are_on_the_clones_own_network() -> None:
    first, second = cloned().findall("devices/interface")
    assert [find(card, "source").get("network") for card in (first, second)] == ["kdh-abc123-clone2"] * 2
    assert [card.get("type") for card in (first, second)] == ["network"] * 2
    assert find(first, "mac").get("address") == "52:54:00:bb:00:01"
    assert find(second, "mac").get("address") not in (MAC, OTHER_MAC)
    assert find(first, "model").get("type") == "e1000e"
    assert find(first, "address").get("bus") == "0x05", "cards are named after their places"
    assert first.find("boot") is None, "no server answers PXE there"
    assert [find(cloned(), "os/boot").get("dev")] == ["hd"]


def test_macs_may_be_kept() -> None:
    cards = cloned(of=parts(keep_macs=True), nic=Nic(mac=MAC, network="kdh-abc123-clone2")).findall("devices/interface")
    assert [find(card, "mac").get("address") for card in cards] == [MAC, OTHER_MAC]


def test_a_machine_without_a_network_gets_a_card_to_be_reached_by() -> None:
    (card,) = cloned(read(SYSTEM)).findall("devices/interface")
    assert find(card, "source").get("network") == "kdh-abc123-clone2"


def test_a_clone_under_another_accelerator_has_a_processor_of_ours() -> None:
    root = cloned(accelerator="tcg")
    assert root.get("type") == "qemu"
    assert root.findtext("cpu/model") == "qemu64"
    assert root.find("features/hyperv") is None
    assert root.find("features/smm") is not None
    assert root.find("clock/timer") is None


DIMMS = """<memory model="dimm"><source><pagesize unit="KiB">2048</pagesize></source>
<target><size unit="KiB">1048576</size><node>1</node></target><alias name="dimm0"/>
<address type="dimm" slot="3" base="0x100000000"/></memory>
<memory model="dimm"><target><size unit="KiB">524288</size><node>0</node></target></memory>"""
NODES = """<numa><cell id="0" cpus="0-1" memory="1048576"/><cell id="1" cpus="2-3" memory="1572864"/></numa>"""


def with_dimms(devices: str = DIMMS) -> SourceDescription:
    xml = machine(SYSTEM + CARDS + devices).replace("</cpu>", f"{NODES}</cpu>")
    return read_original(
        "my", xml.replace("<memory ", '<maxMemory slots="8" unit="KiB">16777216</maxMemory><memory ', 1)
    )


@pytest.mark.parametrize("accelerator", ["kvm", "tcg"])
def test_a_clone_has_the_dimms_of_its_original_in_their_slots(accelerator: str) -> None:
    original = with_dimms()
    assert (original.memory_mib, original.dimms_mib, original.left_out) == (2560, (1024, 512), ())
    root = cloned(original, accelerator=accelerator)
    assert (root.findtext("maxMemory"), root.findtext("memory")) == ("16777216", "4194304")
    assert [cell.get("memory") for cell in root.iterfind("cpu/numa/cell")] == ["1048576", "1572864"]
    first, second = root.iterfind("devices/memory")
    assert attribute(first, "address", "base") == "0x100000000"
    assert first.findtext("target/node") == "1"
    assert first.find("source") is first.find("alias") is None
    assert second.findtext("target/size") == "524288"


@pytest.mark.parametrize("change", [{"memory_mib": 1024}, {"vcpus": 1}], ids=["memory", "vcpus"])
def test_a_clone_of_another_size_has_the_dimms_in_one_node(change: dict[str, int]) -> None:
    root = cloned(with_dimms(), **change)
    (cell,) = root.iterfind("cpu/numa/cell")
    assert cell.get("memory") == str(change.get("memory_mib", 2560))
    assert cell.get("cpus") == ("0-0" if "vcpus" in change else "0-1")
    assert [dimm.findtext("target/node") for dimm in root.iterfind("devices/memory")] == ["0", "0"]


def test_other_memory_devices_are_left_out_by_their_model_and_size() -> None:
    nvdimm = '<memory model="nvdimm"><target><size unit="KiB">1048576</size></target></memory>'
    virtio = '<memory model="virtio-mem"><target><size unit="KiB">1048576</size></target></memory>'
    original = with_dimms(nvdimm + virtio)
    assert (original.memory_mib, original.dimms_mib) == (2048, ())
    models = ("nvdimm", "virtio-mem")
    assert original.left_out == tuple(f"1024 MiB of memory of the model {model}" for model in models)
    root = cloned(original)
    assert (root.findtext("memory"), root.find("devices/memory"), root.find("cpu/numa")) == ("2048", None, None)


def test_a_clone_may_be_smaller() -> None:
    root = cloned(memory_mib=1024, vcpus=1)
    assert (root.findtext("memory"), find(root, "memory").get("unit")) == ("1024", "MiB")
    assert root.find("currentMemory") is None
    assert root.findtext("vcpu") == "1"
    assert root.find("cpu/topology") is None


def test_uefi_goes_on_with_a_copy_of_its_variables() -> None:
    loader = '<loader readonly="yes" type="pflash">/OVMF.fd</loader>'
    original = read(os=f'{loader}<nvram template="/VARS.fd">/nv/my.fd</nvram>')
    assert original.nvram == Path("/nv/my.fd")
    nvram = find(cloned(original, of=parts(nvram=Path("/run/clone.nvram"))), "os/nvram")
    assert (nvram.text, nvram.attrib) == ("/run/clone.nvram", {})
    nvram = find(cloned(original), "os/nvram")
    assert (nvram.text, nvram.attrib) == ("/run/new.nvram", {"template": "/VARS.fd"})
    undecided = replace(original, xml=machine(os="").replace("<os>", '<os firmware="efi">'), firmware="uefi")
    assert find(cloned(undecided), "os").get("firmware") == "efi"


def test_a_watchdog_of_the_original_may_bite_during_a_dump_as_well() -> None:
    original = read(SYSTEM + '<watchdog model="itco" action="dump"/>')
    watchdog = find(cloned(original), "devices/watchdog")
    assert watchdog.attrib == {"model": "itco", "action": "reset"}
    assert find(cloned(original, devices=("watchdog",)), "devices/watchdog").get("action") == "inject-nmi"


def test_a_drill_sees_the_panic_and_the_serial_line_of_a_clone() -> None:
    root = cloned()
    assert root.findtext("on_crash") == "preserve"
    assert root.find("devices/panic") is not None
    assert find(root, "devices/serial").get("type") == "pty"
    assert find(root, "features/vmcoreinfo").get("state") == "on"


@pytest.mark.parametrize(
    "part", ["<memory>1x</memory>", "<memory unit='pages'>1</memory>", f"<vcpu>{'9' * 5000}</vcpu>", "<memory>"]
)
def test_an_xml_that_libvirt_never_wrote_is_a_sentence(part: str) -> None:
    disk = "<disk type='file'><driver type='raw'/><source file='/d'/><target dev='vda' bus='virtio'/></disk>"
    xml = f"<domain type='kvm'><os><type arch='x86_64'/></os>{part}<devices>{disk}</devices></domain>"
    with pytest.raises(UsageError, match="cannot clone web: its XML is malformed"):
        read_original("web", xml)
