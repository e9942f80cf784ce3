"""The hardware of a source domain: which of it a clone can have."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from ...base.errors import UsageError

ARCH = "x86_64"
KINDS = ("qemu", "kvm")
_MEMORY_UNITS = {"b": 1, "bytes": 1, "KB": 1000, "MB": 10**6, "GB": 10**9, "k": 1 << 10, "KiB": 1 << 10}
_AGENT = "org.qemu.guest_agent.0"
_QEMU = "{http://libvirt.org/schemas/domain/qemu/1.0}"
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


def read_original(name: str, xml: str, find_volume: FindVolume = lambda _pool, _volume: None) -> SourceDescription:
    """What the description says; UsageError for a domain that cannot be cloned here."""
    root = ElementTree.fromstring(xml)
    kind, arch = root.get("type", ""), attribute(root, "os/type", "arch")
    if kind not in KINDS:
        raise UsageError(f"{name} is a domain of type {kind}, and only QEMU's can be cloned")
    if arch != ARCH:
        raise UsageError(f"{name} has the architecture {arch}, and guests here are {ARCH}")
    if root.find("os/kernel") is not None:
        raise UsageError(f"{name} boots a kernel file of the host's, which is none of its own (<kernel> in its <os>)")
    disks, media, left_out = _disks(name, root, find_volume)
    vcpu = root.find("vcpu")
    copied = {disk.target for disk in disks}
    targets = [attribute(disk, "target", "dev") for disk in root.iterfind("devices/disk")]
    return SourceDescription(
        name=name,
        kind=kind,
        memory_mib=_memory_bytes(root.find("memory")) >> 20,
        vcpus=int(vcpu.get("current") or vcpu.text or 1) if vcpu is not None else 1,
        firmware=_firmware(root),
        disks=disks,
        media=media,
        left_out=(*left_out, *_not_cloned(root)),
        macs=tuple(attribute(nic, "mac", "address") for nic in clonable_nics(root)),
        nvram=_nvram(root),
        agent=any(
            attribute(channel, "target", "name") == _AGENT
            and attribute(channel, "target", "state") == "connected"
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
        target, device = attribute(disk, "target", "dev"), disk.get("device", "disk")
        _resolve(disk, find_volume)
        if device in ("disk", "lun"):
            candidates.append(disk)
        elif device == "cdrom" and disk.get("type") == "file" and attribute(disk, "source", "file"):
            media[target] = Path(attribute(disk, "source", "file"))
        elif disk.find("source") is not None:
            left_out.append(f"the medium in the {device} drive {target}")
    if not candidates:
        raise UsageError(f"{name} has no disk")
    candidates.sort(key=lambda disk: int(attribute(disk, "boot", "order") or 1 << 30))  # stable: else as they come
    system, *others = candidates
    if why := _why_not(system):
        raise UsageError(
            f"{name} cannot be cloned: its system disk {attribute(system, 'target', 'dev')} is {why},"
            " and only files and block devices of this host can be copied"
        )
    disks = [_disk(system)]
    for disk in others:
        why = _why_not(disk) or (f"the block device {_source(disk)} of this host" if _is_block(disk) else "")
        if why:
            left_out.append(f"the disk {attribute(disk, 'target', 'dev')}: {why}")
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
    return attribute(disk, "source", "dev" if _is_block(disk) else "file")


def _why_not(disk: Element) -> str:
    """What a disk is whose content cannot be copied; nothing for one whose content can."""
    kind = disk.get("type", "")
    if kind == "network":
        source = [attribute(disk, "source", key) for key in ("protocol", "name")]
        return f"on a network ({' '.join(filter(None, source))})"
    if disk.find("encryption") is not None or disk.find("source/encryption") is not None:
        return "encrypted"
    if disk.get("device") == "lun":
        return f"a SCSI device that is passed through ({_source(disk)})"
    if kind not in ("file", "block") or not _source(disk):
        return f"of the type {kind}" if kind not in ("file", "block") else "empty"
    return "read-only" if disk.find("readonly") is not None else ""


def _disk(disk: Element) -> OriginalDisk:
    below = (Path(attribute(store, "source", "file")) for store in disk.iterfind(".//backingStore[@type='file']"))
    return OriginalDisk(
        target=attribute(disk, "target", "dev"),
        source=Path(_source(disk)),
        # Never found out by looking: a guest can write into a raw disk what looks like another format.
        format=attribute(disk, "driver", "type") or "raw",
        backing=tuple(below),
    )


def _not_cloned(root: Element) -> Iterator[str]:
    """Devices that only the original can have, in words."""
    for device in root.iterfind("devices/hostdev"):
        yield f"the {_named_hostdev(device)}, which is passed through"
    for nic in root.iterfind("devices/interface"):
        if not _is_clonable(nic):
            yield f"the network card {attribute(nic, 'mac', 'address')}, which is passed through"
    for share in root.iterfind("devices/filesystem"):
        where = attribute(share, "source", "dir") or "of the host"
        yield f"the shared directory {where} ({attribute(share, 'target', 'dir')})"
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
    vendor, product = (attribute(device, f"source/{key}", "id").removeprefix("0x") for key in ("vendor", "product"))
    return f"{kind} device {vendor}:{product}" if vendor else f"{kind} device"


def _is_clonable(nic: Element) -> bool:
    return nic.get("type") not in ("hostdev", "vdpa")


def clonable_nics(root: Element) -> list[Element]:
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
    path = (told.text or "").strip() or attribute(told, "source", "file")
    return Path(path) if path else None


def _memory_bytes(told: Element | None) -> int:
    return int(told.text or 0) * _MEMORY_UNITS[told.get("unit", "KiB")] if told is not None else 0


def attribute(root: Element, path: str, name: str) -> str:
    found = root.find(path)
    return found.get(name, "") if found is not None else ""
