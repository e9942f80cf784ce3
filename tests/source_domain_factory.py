"""XML of source domains, as libvirt returns it."""

from __future__ import annotations

from typing import Any

from kdump_harness.vm.hypervisor.source_description import SourceDescription, read_original

SYSTEM = """<disk type="file" device="disk"><driver name="qemu" type="raw" iothread="1"/>
<source file="/images/my.raw" index="2"><seclabel model="dac" relabel="yes"/></source>
<backingStore/><target dev="sda" bus="scsi"/><serial>S1</serial><alias name="scsi0-0-0-0"/>
<address type="drive" controller="0" bus="0" target="0" unit="0"/></disk>"""
MAC, OTHER_MAC = "52:54:00:aa:00:01", "52:54:00:aa:00:02"
CARDS = f"""<interface type="bridge"><mac address="{MAC}"/><source bridge="br0"/><target dev="vnet7"/>
<model type="e1000e"/><driver name="vhost" queues="4"/><boot order="2"/><alias name="net0"/>
<address type="pci" domain="0x0000" bus="0x05" slot="0x00" function="0x0"/></interface>
<interface type="direct"><mac address="{OTHER_MAC}"/><source dev="eth0" mode="bridge"/>
<model type="virtio"/></interface>"""


def machine(
    devices: str = SYSTEM + CARDS,
    *,
    kind: str = "kvm",
    arch: str = "x86_64",
    os: str = '<boot dev="network"/><boot dev="hd"/>',
    more: str = "",
) -> str:
    return f"""<domain type="{kind}" id="7" xmlns:qemu="http://libvirt.org/schemas/domain/qemu/1.0">
<name>my</name><uuid>2b4a1a4e-7f8a-4ef9-8b8e-0f5f4a0e0001</uuid><title>mine</title>
<memory unit="KiB">4194304</memory><currentMemory unit="KiB">2097152</currentMemory>
<vcpu placement="static" cpuset="0-3" current="2">4</vcpu>
<memoryBacking><hugepages/></memoryBacking>
<os><type arch="{arch}" machine="pc-q35-8.2">hvm</type>{os}</os>
<features><acpi/><apic/><smm state="on"/><hyperv><relaxed state="on"/></hyperv></features>
<cpu mode="host-passthrough"><topology sockets="1" cores="4" threads="1"/></cpu>
<clock offset="localtime"><timer name="kvmclock" present="yes"/></clock>
<on_poweroff>destroy</on_poweroff><on_reboot>restart</on_reboot><on_crash>restart</on_crash>
<devices><emulator>/usr/bin/theirs</emulator>
<controller type="scsi" index="0" model="virtio-scsi"><driver iothread="1"/><alias name="scsi0"/></controller>
{devices}
<graphics type="vnc" port="5900"/><channel type="spicevmc"/></devices>{more}</domain>"""


def read(devices: str = SYSTEM + CARDS, **facts: Any) -> SourceDescription:
    return read_original("my", machine(devices, **facts), facts.pop("find_volume", lambda _pool, _volume: None))


def disk(target: str, inner: str = "", *, kind: str = "file", device: str = "disk", source: str = "") -> str:
    source = source or f'<source file="/images/{target}.qcow2"/>'
    return (
        f'<disk type="{kind}" device="{device}"><driver name="qemu" type="qcow2"/>{source}'
        f'<target dev="{target}" bus="virtio"/>{inner}</disk>'
    )
