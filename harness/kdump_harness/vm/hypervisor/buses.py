"""The buses that the system's disk of a guest can be on, and the XML of a disk there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import quoteattr

NAMESPACE = "http://libvirt.org/schemas/domain/qemu/1.0"
_FIRST_PATH = 1  # index of the SCSI controller; the system's disk may be on the one before
_NVME = "ua-kdump-harness-nvme"  # libvirt keeps aliases that begin with ua-


@dataclass(frozen=True, kw_only=True)
class Bus:
    """One bus."""

    name: str  # libvirt's
    target: str  # libvirt's name of the first disk
    controller: str = ""
    driver: str = ""  # of QEMU, in place of libvirt's choice
    modules: tuple[str, ...]  # of Linux


BUSES: Mapping[str, Bus] = {
    "virtio": Bus(name="virtio", target="vda", modules=("virtio_blk", "virtio_pci")),
    "virtio-scsi": Bus(
        name="scsi",
        target="sda",
        controller='<controller type="scsi" model="virtio-scsi"/>',
        modules=("virtio_scsi", "virtio_pci", "sd_mod"),
    ),
    "sata": Bus(name="sata", target="sda", modules=("ahci", "sd_mod")),
    # libvirt before 11.5 has no emulated NVMe disk: QEMU gets another driver for a virtio disk.
    "nvme": Bus(name="virtio", target="vda", driver="nvme", modules=("nvme",)),
    "usb": Bus(
        name="usb",
        target="sda",
        controller='<controller type="usb" model="qemu-xhci"/>',
        modules=("xhci_pci", "usb_storage", "sd_mod"),
    ),
}


def paths_xml(path: Path, number: int, paths: int) -> tuple[str, ...]:
    """Return one raw SCSI disk as it is seen by several paths, each on a separate controller; see wwn_of()."""
    return tuple(
        f'<disk type="file" device="disk"><driver name="qemu" type="raw" cache="unsafe"/>'
        f"<source file={quoteattr(str(path))}/><shareable/>"
        f'<target dev="sd{chr(ord("g") + number)}{chr(ord("a") + way)}" bus="scsi"/><wwn>{wwn_of(number)}</wwn>'
        f'<address type="drive" controller="{_FIRST_PATH + way}" bus="0" target="0" unit="{number}"/></disk>'
        for way in range(paths)
    )


def path_controllers_xml(paths: int) -> str:
    """Return the controllers of the paths."""
    return "".join(f'<controller type="scsi" index="{_FIRST_PATH + way}" model="virtio-scsi"/>' for way in range(paths))


def wwn_of(number: int) -> str:
    """Return the name of a disk that its paths share, as in /dev/disk/by-id/wwn-0x..."""
    return f"5254{number:012x}"


def disk_xml(path: Path, target: str, kind: str, *, bus: Bus = BUSES["virtio"], more: str = "") -> str:
    """Return a disk; cache=unsafe, since a throw-away overlay need not reach the host's disk."""
    serial = f'<serial>system</serial><alias name="{_NVME}"/>' if bus.driver else ""
    return (
        f'<disk type="file" device="disk"><driver name="qemu" type="{kind}" cache="unsafe" discard="unmap"/>'
        f"<source file={quoteattr(str(path))}/>"
        f'<target dev="{target}" bus="{bus.name}"/>{more}{serial}</disk>'
    )


def override_xml(bus: Bus) -> str:
    """Return the element of a domain that gives the system's disk another driver of QEMU."""
    if not bus.driver:
        return ""
    return (
        f'<override xmlns="{NAMESPACE}"><device alias="{_NVME}"><frontend>'
        f'<property name="driver" type="string" value="{bus.driver}"/></frontend></device></override>'
    )
