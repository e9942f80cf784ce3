"""Reads a libvirt domain of the user's: what a clone can have of it, what it cannot, and how a clone is described."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from ...base.errors import UsageError
from .domain import DomainSpec, new_mac

ARCH = "x86_64"
KINDS = ("qemu", "kvm")
_MEMORY_UNITS = {"b": 1, "bytes": 1, "KB": 1000, "MB": 10**6, "GB": 10**9, "k": 1 << 10, "KiB": 1 << 10}
_MEMORY_UNITS |= {"M": 1 << 20, "MiB": 1 << 20, "G": 1 << 30, "GiB": 1 << 30, "T": 1 << 40, "TiB": 1 << 40}
_AGENT = "org.qemu.guest_agent.0"
_QEMU = "{http://libvirt.org/schemas/domain/qemu/1.0}"
# Of an original under KVM that is emulated here: the rest of its features is KVM's.
_PLAIN_FEATURES = ("acpi", "apic", "pae", "smm")
_OF_A_DISK = ("target", "serial", "wwn", "vendor", "product", "blockio", "geometry", "boot", "address")
_BY_CABLE = ("sata", "ide")  # no read-only disks there, but CD drives

FindVolume = Callable[[str, str], str | None]


@dataclass(frozen=True, kw_only=True)
class OriginalDisk:
    """A disk whose content a clone gets."""

    target: str  # its name in the description, as vda
    source: Path
    format: str
    backing: tuple[Path, ...] = ()  # what it rests on, as far as libvirt has looked


@dataclass(frozen=True, kw_only=True)
class SourceDescription:
    """A domain as it was when it was looked at."""

    name: str
    kind: str  # of KINDS
    memory_mib: int
    vcpus: int
    firmware: str  # of domain.FIRMWARE
    disks: tuple[OriginalDisk, ...]  # the system's first
    media: Mapping[str, Path]  # what lies in its CD drives
    left_out: tuple[str, ...]  # what a clone cannot have
    macs: tuple[str, ...]  # of the network cards that a clone has
    nvram: Path | None  # where UEFI keeps its variables
    agent: bool  # a guest agent listens
    other_targets: tuple[str, ...]  # of drives whose content a clone does not get
    xml: str = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class CloneParts:
    """What a clone has in place of the original's."""

    disks: Mapping[str, Path]  # the copies, by target
    media: Mapping[str, Path]  # of the CDs; a drive without one is empty
    nvram: Path | None
    keep_macs: bool


# ---------------------------------------------------------------- reading


def read_original(name: str, xml: str, find_volume: FindVolume = lambda _pool, _volume: None) -> SourceDescription:
    """What the description says; UsageError for a domain that cannot be cloned here."""
    root = ElementTree.fromstring(xml)
    kind, arch = root.get("type", ""), _attribute(root, "os/type", "arch")
    if kind not in KINDS:
        raise UsageError(f"{name} is a domain of type {kind}, and only QEMU's can be cloned")
    if arch != ARCH:
        raise UsageError(f"{name} has the architecture {arch}, and guests here are {ARCH}")
    if root.find("os/kernel") is not None:
        raise UsageError(f"{name} boots a kernel file of the host's, which is none of its own (<kernel> in its <os>)")
    disks, media, left_out = _disks(name, root, find_volume)
    vcpu = root.find("vcpu")
    copied = {disk.target for disk in disks}
    targets = [_attribute(disk, "target", "dev") for disk in root.iterfind("devices/disk")]
    return SourceDescription(
        name=name,
        kind=kind,
        memory_mib=_memory_bytes(root.find("memory")) >> 20,
        vcpus=int(vcpu.get("current") or vcpu.text or 1) if vcpu is not None else 1,
        firmware=_firmware(root),
        disks=disks,
        media=media,
        left_out=(*left_out, *_not_cloned(root)),
        macs=tuple(_attribute(nic, "mac", "address") for nic in _nics(root)),
        nvram=_nvram(root),
        agent=any(
            _attribute(channel, "target", "name") == _AGENT
            and _attribute(channel, "target", "state") == "connected"
            for channel in root.iterfind("devices/channel")
        ),
        other_targets=tuple(target for target in targets if target not in copied),
        xml=xml,
    )  # fmt: skip


def _disks(
    name: str, root: Element, find_volume: FindVolume
) -> tuple[tuple[OriginalDisk, ...], dict[str, Path], list[str]]:
    """The disks that a clone gets, the system's first; the CDs; and what it does not get."""
    media: dict[str, Path] = {}
    left_out: list[str] = []
    candidates: list[Element] = []
    for disk in root.iterfind("devices/disk"):
        target, device = _attribute(disk, "target", "dev"), disk.get("device", "disk")
        _resolve(disk, find_volume)
        if device in ("disk", "lun"):
            candidates.append(disk)
        elif device == "cdrom" and disk.get("type") == "file" and _attribute(disk, "source", "file"):
            media[target] = Path(_attribute(disk, "source", "file"))
        elif disk.find("source") is not None:
            left_out.append(f"the medium in the {device} drive {target}")
    if not candidates:
        raise UsageError(f"{name} has no disk")
    candidates.sort(key=lambda disk: int(_attribute(disk, "boot", "order") or 1 << 30))  # stable: else as they come
    system, *others = candidates
    if why := _why_not(system):
        raise UsageError(
            f"{name} cannot be cloned: its system disk {_attribute(system, 'target', 'dev')} is {why},"
            " and only files and block devices of this host can be copied"
        )
    disks = [_disk(system)]
    for disk in others:
        why = _why_not(disk) or (f"the block device {_source(disk)} of this host" if _is_block(disk) else "")
        if why:
            left_out.append(f"the disk {_attribute(disk, 'target', 'dev')}: {why}")
        else:
            disks.append(_disk(disk))
    return tuple(disks), media, left_out


def _resolve(disk: Element, find_volume: FindVolume) -> None:
    """A volume of a storage pool is a file or a block device, where the pool says so."""
    source = disk.find("source")
    if disk.get("type") != "volume" or source is None:
        return
    path = find_volume(source.get("pool", ""), source.get("volume", ""))
    if path is not None and path.startswith("/"):
        key = "dev" if path.startswith("/dev/") else "file"
        disk.set("type", "block" if key == "dev" else "file")
        source.set(key, path)


def _is_block(disk: Element) -> bool:
    return disk.get("type") == "block"


def _source(disk: Element) -> str:
    return _attribute(disk, "source", "dev" if _is_block(disk) else "file")


def _why_not(disk: Element) -> str:
    """What a disk is whose content cannot be copied; nothing for one whose content can."""
    kind = disk.get("type", "")
    if kind == "network":
        source = [_attribute(disk, "source", key) for key in ("protocol", "name")]
        return f"on a network ({' '.join(filter(None, source))})"
    if disk.find("encryption") is not None or disk.find("source/encryption") is not None:
        return "encrypted"
    if disk.get("device") == "lun":
        return f"a SCSI device that is passed through ({_source(disk)})"
    if kind not in ("file", "block") or not _source(disk):
        return f"of the type {kind}" if kind not in ("file", "block") else "empty"
    return "read-only" if disk.find("readonly") is not None else ""


def _disk(disk: Element) -> OriginalDisk:
    below = (Path(_attribute(store, "source", "file")) for store in disk.iterfind(".//backingStore[@type='file']"))
    return OriginalDisk(
        target=_attribute(disk, "target", "dev"),
        source=Path(_source(disk)),
        # Never found out by looking: a guest can write into a raw disk what looks like another format.
        format=_attribute(disk, "driver", "type") or "raw",
        backing=tuple(below),
    )


def _not_cloned(root: Element) -> Iterator[str]:
    """Devices that only the original can have, in words."""
    for device in root.iterfind("devices/hostdev"):
        yield f"the {_named_hostdev(device)}, which is passed through"
    for nic in root.iterfind("devices/interface"):
        if not _is_clonable(nic):
            yield f"the network card {_attribute(nic, 'mac', 'address')}, which is passed through"
    for share in root.iterfind("devices/filesystem"):
        where = _attribute(share, "source", "dir") or "of the host"
        yield f"the shared directory {where} ({_attribute(share, 'target', 'dir')})"
    for path, what in (
        ("tpm", "the TPM"),
        ("shmem", "memory that is shared with the host"),
        ("memory[@model='nvdimm']", "an NVDIMM"),
        ("vsock", "the vsock device"),
    ):
        if root.find(f"devices/{path}") is not None:
            yield what
    if root.find("launchSecurity") is not None:
        yield "the encryption of its memory"
    if root.find(f"{_QEMU}commandline") is not None:
        yield "arguments for QEMU itself (qemu:commandline)"


def _named_hostdev(device: Element) -> str:
    kind = device.get("type", "").upper()
    if (address := device.find("source/address")) is not None and kind == "PCI":
        part = {key: int(address.get(key, "0"), 0) for key in ("domain", "bus", "slot", "function")}
        return "PCI device {domain:04x}:{bus:02x}:{slot:02x}.{function}".format(**part)
    vendor, product = (_attribute(device, f"source/{key}", "id").removeprefix("0x") for key in ("vendor", "product"))
    return f"{kind} device {vendor}:{product}" if vendor else f"{kind} device"


def _is_clonable(nic: Element) -> bool:
    return nic.get("type") not in ("hostdev", "vdpa")


def _nics(root: Element) -> list[Element]:
    return [nic for nic in root.iterfind("devices/interface") if _is_clonable(nic)]


def _firmware(root: Element) -> str:
    loader = root.find("os/loader")
    secure = loader is not None and loader.get("secure") == "yes"
    chosen = root.find("os/firmware/feature[@name='secure-boot'][@enabled='yes']") is not None
    if root.find("os").get("firmware") == "efi" or (loader is not None and loader.get("type") == "pflash"):  # type: ignore[union-attr]
        return "uefi-secure" if secure or chosen else "uefi"
    return "bios"


def _nvram(root: Element) -> Path | None:
    told = root.find("os/nvram")
    if told is None:
        return None
    path = (told.text or "").strip() or _attribute(told, "source", "file")
    return Path(path) if path else None


def _memory_bytes(told: Element | None) -> int:
    return int(told.text or 0) * _MEMORY_UNITS[told.get("unit", "KiB")] if told is not None else 0


def _attribute(root: Element, path: str, name: str) -> str:
    found = root.find(path)
    return found.get(name, "") if found is not None else ""


# ---------------------------------------------------------------- describing a clone


def clone_xml(original: SourceDescription, spec: DomainSpec, parts: CloneParts) -> str:
    """The hardware of the original, as far as spec and parts do not say otherwise.

    Machine, processor, controllers and the places of disks and cards stay: an initramfs may have the drivers of this
    hardware alone, and cards are named after their places.
    """
    theirs, ours = ElementTree.fromstring(original.xml), ElementTree.fromstring(spec.xml())
    same_kind = original.kind == ours.get("type")
    resized = spec.memory_mib != original.memory_mib or theirs.find("devices/memory") is not None
    _replace(ours, _os(theirs, spec, parts))
    for name in () if resized else ("memory", "currentMemory"):  # a balloon may have taken some of it
        if (memory := theirs.find(name)) is not None:
            _replace(ours, memory)
    if (vcpu := theirs.find("vcpu")) is not None and spec.vcpus == original.vcpus:
        plain = Element("vcpu", {"current": vcpu.get("current", vcpu.text or "")})
        plain.text = vcpu.text
        _replace(ours, plain)
    if (cpu := theirs.find("cpu")) is not None and same_kind:
        for part in ("numa" if resized else "", "topology" if spec.vcpus != original.vcpus else ""):
            if part and (found := cpu.find(part)) is not None:
                cpu.remove(found)
        _replace(ours, cpu)
    _replace(ours, _features(theirs, ours, same_kind=same_kind))
    if (clock := theirs.find("clock")) is not None:
        if not same_kind:
            clock[:] = []
        _replace(ours, clock)
    for path in ("pm", *(() if spec.seed is not None else ("sysinfo",))):  # cloud-init reads the serial number there
        if (found := theirs.find(path)) is not None:
            for entry in found.findall("system/entry[@name='uuid']"):
                found.find("system").remove(entry)  # type: ignore[union-attr]
            ours.append(found)
    _replace_devices(theirs, ours, spec, parts)
    return ElementTree.tostring(ours, encoding="unicode")


def _replace(root: Element, new: Element) -> None:
    """Put an element in place of that of the same name."""
    if (old := root.find(new.tag)) is not None:
        root[list(root).index(old)] = new
    else:
        root.append(new)


def _os(theirs: Element, spec: DomainSpec, parts: CloneParts) -> Element:
    """Machine and firmware; a UEFI with a copy of the original's variables, or new ones."""
    new, old = Element("os"), theirs.find("os")
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
    if theirs.find("devices/disk/boot") is None:
        SubElement(new, "boot", {"dev": "hd"})
    return new


def _features(theirs: Element, ours: Element, *, same_kind: bool) -> Element:
    """The original's, and what drills need."""
    features, needed = Element("features"), ours.find("features")
    assert needed is not None
    for feature in theirs.find("features") or ():
        if same_kind or feature.tag in _PLAIN_FEATURES:
            features.append(feature)
    for name in ("vmcoreinfo", "tcg"):
        ask = needed.find(name)
        if ask is not None and (name == "vmcoreinfo" or features.find(name) is None):
            _replace(features, ask)
    return features


def _replace_devices(theirs: Element, ours: Element, spec: DomainSpec, parts: CloneParts) -> None:
    """The original's devices where a clone can have such, ours where drills need them, and nothing else."""
    old, new = theirs.find("devices"), ours.find("devices")
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
    cards = _nics(theirs)
    for number, card in enumerate(cards):
        mac = spec.mac if number == 0 else _attribute(card, "mac", "address") if parts.keep_macs else new_mac()
        new.append(_card(card, template, mac))
    if not cards:
        new.append(template)


def _card(card: Element, template: Element, mac: str) -> Element:
    """A network card like the original's, on the network of the clone."""
    new = copy.deepcopy(template)
    new.find("mac").set("address", mac)  # type: ignore[union-attr]
    for name in ("model", "address"):
        if (found := card.find(name)) is not None:
            _replace(new, found)
    return new


def _described_disks(old: Element, spec: DomainSpec, parts: CloneParts) -> Iterator[Element]:
    """The copies in the places of the originals, CD drives, and the seed behind them all."""
    system = ""
    bus = "virtio"
    for disk in old.findall("disk"):
        target = _attribute(disk, "target", "dev")
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
            system, bus = target, _attribute(disk, "target", "bus")
        new.extend(found for name in _OF_A_DISK if (found := disk.find(name)) is not None)
        yield new
    if spec.seed is not None:
        taken = {_attribute(disk, "target", "dev") for disk in old.findall("disk")}
        stem = re.sub(r"[a-z]$", "", system)
        target = next(name for letter in "abcdefghijklmnopqrstuvwxyz" if (name := stem + letter) not in taken)
        new = Element("disk", {"type": "file", "device": "cdrom" if bus in _BY_CABLE else "disk"})
        SubElement(new, "driver", {"name": "qemu", "type": "raw"})
        SubElement(new, "source", {"file": str(spec.seed)})
        SubElement(new, "target", {"dev": target, "bus": bus})
        SubElement(new, "readonly")
        yield new
