"""The XML of a clone, with the hardware of its source domain."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from .domain_xml import DomainSpec, new_mac
from .erst_xml import commandline_xml, erst_arguments, free_address
from .source_description import SourceDescription, attribute, clonable_nics

# Features of a source domain under KVM that an emulated clone can have.
_PLAIN_FEATURES = ("acpi", "apic", "pae", "smm")
_OF_A_DISK = ("target", "serial", "wwn", "vendor", "product", "blockio", "geometry", "boot", "address")
_BY_CABLE = ("sata", "ide")  # buses without read-only disks, but with CD drives


@dataclass(frozen=True, kw_only=True)
class CloneParts:
    """The files of a clone in place of the source domain's."""

    disks: Mapping[str, Path]  # copies by target name
    media: Mapping[str, Path]  # CDs by target name; a drive without one is empty
    nvram: Path | None
    keep_macs: bool


def clone_xml(original: SourceDescription, spec: DomainSpec, parts: CloneParts) -> str:
    """Return the XML of a clone: the source domain's hardware, unless SPEC or PARTS differ.

    Machine type, processor, controllers and the addresses of disks and cards stay: an initramfs may have only the
    drivers of this hardware, and cards are named after their addresses.
    """
    source_root, root = ElementTree.fromstring(original.xml), ElementTree.fromstring(spec.xml())
    same_kind, dimms = original.kind == root.get("type"), source_root.findall("devices/memory[@model='dimm']")
    resized = spec.memory_mib != original.memory_mib or len(source_root.findall("devices/memory")) != len(dimms)
    _replace(root, _os(source_root, spec, parts))
    # A balloon may hold some of the memory. Slots for DIMMs need NUMA nodes.
    for name in () if resized else ("memory", "currentMemory", *(("maxMemory",) if dimms else ())):
        if (memory := source_root.find(name)) is not None:
            _replace(root, memory)
    if (vcpu := source_root.find("vcpu")) is not None and spec.vcpus == original.vcpus:
        plain = Element("vcpu", {"current": vcpu.get("current", vcpu.text or "")})
        plain.text = vcpu.text
        _replace(root, plain)
    _replace_cpu(source_root, root, same_kind=same_kind, resized=resized, same_cpus=spec.vcpus == original.vcpus)
    _replace(root, _features(source_root, root, same_kind=same_kind))
    if (clock := source_root.find("clock")) is not None:
        if not same_kind:
            clock[:] = []
        _replace(root, clock)
    for path in ("pm", *(() if spec.seed is not None else ("sysinfo",))):  # cloud-init reads the serial number there
        if (found := source_root.find(path)) is not None:
            for entry in found.findall("system/entry[@name='uuid']"):
                found.find("system").remove(entry)  # type: ignore[union-attr]
            root.append(found)
    _replace_devices(source_root, root, spec, parts)
    if spec.erst is not None:
        arguments = ElementTree.fromstring(commandline_xml(erst_arguments(spec.erst, free_address(root))))
        _replace(root, arguments)
    if not resized and spec.vcpus == original.vcpus:
        _replace_dimms(dimms, root.find("devices"))
    return ElementTree.tostring(root, encoding="unicode")


def _replace_cpu(source_root: Element, root: Element, *, same_kind: bool, resized: bool, same_cpus: bool) -> None:
    """Replace the processor, where it is of the same kind, and the NUMA nodes, where they still fit.

    A clone with DIMMs has NUMA nodes in any case.
    """
    old, new = source_root.find("cpu"), root.find("cpu")
    assert new is not None
    own, numa = new.find("numa"), old.find("numa") if old is not None else None
    if resized or not same_cpus or (not same_kind and own is None):
        numa = own
    if old is not None and same_kind:
        for gone in () if same_cpus else old.findall("topology"):
            old.remove(gone)
        _replace(root, old)
        new = old
    for gone in new.findall("numa"):
        new.remove(gone)
    if numa is not None:
        new.append(numa)


def _replace(root: Element, new: Element) -> None:
    """Replace the child of the same name, or append."""
    if (old := root.find(new.tag)) is not None:
        root[list(root).index(old)] = new
    else:
        root.append(new)


def _os(source_root: Element, spec: DomainSpec, parts: CloneParts) -> Element:
    """Return machine type and firmware; UEFI has a copy of the source domain's variables or new ones."""
    new, old = Element("os"), source_root.find("os")
    assert old is not None
    kept = ["type", "loader", "bios"] + (["smbios"] if spec.seed is None else [])
    loader = old.find("loader")
    if loader is None or not (loader.text or "").strip():  # libvirt has not chosen yet
        new.attrib.update(old.attrib)
        kept += ["firmware"]
    new.extend(copy.deepcopy(child) for child in old if child.tag in kept)
    if spec.firmware != "bios":
        nvram = copy.deepcopy(old.find("nvram"))
        nvram = Element("nvram") if nvram is None else nvram
        nvram[:] = []
        nvram.attrib.pop("type", None)
        if parts.nvram is not None:
            nvram.attrib.pop("template", None)
        nvram.text = str(parts.nvram or spec.nvram)
        new.append(nvram)
    if source_root.find("devices/disk/boot") is None:
        SubElement(new, "boot", {"dev": "hd"})
    return new


def _features(source_root: Element, root: Element, *, same_kind: bool) -> Element:
    """Return the source domain's features and those that drills need."""
    features, needed = Element("features"), root.find("features")
    assert needed is not None
    for feature in source_root.findall("features/*"):
        if same_kind or feature.tag in _PLAIN_FEATURES:
            features.append(feature)
    for name in ("vmcoreinfo", "tcg"):
        ask = needed.find(name)
        if ask is not None and (name == "vmcoreinfo" or features.find(name) is None):
            _replace(features, ask)
    return features


def _replace_devices(source_root: Element, root: Element, spec: DomainSpec, parts: CloneParts) -> None:
    """Replace devices by the source domain's where a clone can have them; keep those that drills need."""
    old, new = source_root.find("devices"), root.find("devices")
    assert old is not None
    assert new is not None
    template = new.find("interface")
    assert template is not None
    for gone in (*new.findall("disk"), *new.findall("interface")):
        new.remove(gone)
    for device in (*old.findall("emulator"), *old.findall("controller"), *old.findall("iommu")):
        for part in (*device.findall("alias"), *(device.findall("driver") if device.tag == "controller" else ())):
            device.remove(part)
        new.append(device)
    if new.find("watchdog") is None and (watchdog := old.find("watchdog")) is not None:
        if watchdog.get("action") == "dump":
            watchdog.set("action", "reset")  # a memory dump would stay on the host
        for alias in watchdog.findall("alias"):
            watchdog.remove(alias)
        new.append(watchdog)
    new.extend(_described_disks(old, spec, parts))
    cards = clonable_nics(source_root)
    for number, card in enumerate(cards):
        mac = spec.nic.mac if number == 0 else attribute(card, "mac", "address") if parts.keep_macs else new_mac()
        new.append(_card(card, template, mac))
    if not cards:
        new.append(template)


def _replace_dimms(dimms: list[Element], devices: Element | None) -> None:
    """Replace the DIMMs by the source domain's, at their addresses; the memory behind them is ordinary memory."""
    assert devices is not None
    for gone in devices.findall("memory"):
        devices.remove(gone)
    for dimm in dimms:
        for part in (*dimm.findall("alias"), *dimm.findall("source")):
            dimm.remove(part)
        devices.append(dimm)


def _card(card: Element, template: Element, mac: str) -> Element:
    """Return a card of the source domain's model and address on the network of the clone."""
    new = copy.deepcopy(template)
    new.find("mac").set("address", mac)  # type: ignore[union-attr]
    for name in ("model", "address"):
        if (found := card.find(name)) is not None:
            _replace(new, found)
    return new


def _described_disks(old: Element, spec: DomainSpec, parts: CloneParts) -> Iterator[Element]:
    """Yield the copies at their originals' addresses, the CD drives, and last the seed."""
    system = ""
    bus = "virtio"
    for disk in old.findall("disk"):
        target = attribute(disk, "target", "dev")
        drive = disk.get("device") == "cdrom"
        source = parts.media.get(target) if drive else parts.disks.get(target)
        if source is None and not drive:
            continue
        new = Element("disk", {"type": "file", "device": "cdrom" if drive else "disk"})
        kind = "raw" if drive else "qcow2"
        SubElement(
            new,
            "driver",
            {"name": "qemu", "type": kind} | ({} if drive else {"cache": "unsafe", "discard": "unmap"}),
        )
        if source is not None:
            SubElement(new, "source", {"file": str(source)})
        if drive:
            SubElement(new, "readonly")
        elif source == spec.disk:
            system, bus = target, attribute(disk, "target", "bus")
        new.extend(found for name in _OF_A_DISK if (found := disk.find(name)) is not None)
        yield new
    if spec.seed is not None:
        taken = {attribute(disk, "target", "dev") for disk in old.findall("disk")}
        stem = re.sub(r"[a-z]$", "", system)
        target = next(name for letter in "abcdefghijklmnopqrstuvwxyz" if (name := stem + letter) not in taken)
        new = Element("disk", {"type": "file", "device": "cdrom" if bus in _BY_CABLE else "disk"})
        SubElement(new, "driver", {"name": "qemu", "type": "raw"})
        SubElement(new, "source", {"file": str(spec.seed)})
        SubElement(new, "target", {"dev": target, "bus": bus})
        SubElement(new, "readonly")
        yield new
