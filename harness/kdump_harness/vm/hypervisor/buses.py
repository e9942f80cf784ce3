"""The buses that the system's disk of a guest can be on, and the XML of a disk there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import quoteattr

NAMESPACE = "http://libvirt.org/schemas/domain/qemu/1.0"
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
