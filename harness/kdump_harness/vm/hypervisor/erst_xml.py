"""The ACPI ERST device, which libvirt before 10.6 does not know: arguments for QEMU, and the machines that lack it."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree
from xml.sax.saxutils import quoteattr

from .buses import NAMESPACE

_MACHINES = re.compile(r"(pc|q35)(-|$)")


def erst_arguments(store: Path, address: str = "bus=pcie.0,addr=0x1c") -> tuple[str, ...]:
    """Return QEMU's arguments for a device whose records are in a file of the host.

    Without an address QEMU would put it where libvirt puts another device.
    """
    path, size = str(store).replace(",", ",,"), store.stat().st_size
    return (
        "-object",
        f"memory-backend-file,id=kdump-harness-erst,mem-path={path},size={size},share=on",
        "-device",
        f"acpi-erst,memdev=kdump-harness-erst,{address}",
    )


def free_address(root: ElementTree.Element) -> str:
    """Return an address on the root bus of a domain that no device has; libvirt takes the low ones."""
    kind = root.find("os/type")
    bus = "pci.0" if kind is not None and re.search(r"i440fx|^pc(-\d|$)", kind.get("machine", "")) else "pcie.0"
    used = {
        int(address.get("slot", "0"), 0)
        for address in root.iter("address")
        if address.get("type") == "pci" and int(address.get("bus", "0"), 0) == 0
    }
    slot = next(slot for slot in range(0x1C, 0, -1) if slot not in used)
    return f"bus={bus},addr={slot:#x}"


def commandline_xml(arguments: tuple[str, ...]) -> str:
    """Return QEMU's arguments as an element of a domain."""
    if not arguments:
        return ""
    inner = "".join(f"<arg value={quoteattr(argument)}/>" for argument in arguments)
    return f'<commandline xmlns="{NAMESPACE}">{inner}</commandline>'


def lacks_erst(xml: str) -> str | None:
    """Return why the machine of a domain cannot have the device, if it cannot."""
    root = ElementTree.fromstring(xml)
    kind = root.find("os/type")
    machine = kind.get("machine", "") if kind is not None else ""
    if not _MACHINES.match(machine):
        return f"its machine type {machine or 'unknown'} has no ACPI ERST device"
    if root.find("features/acpi") is None:
        return "it has no ACPI"
    return None
