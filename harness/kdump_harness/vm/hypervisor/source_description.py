"""The hardware of a source domain, and the part of it that a clone can have."""

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
    """A disk that is copied for a clone."""

    target: str  # name in the XML, such as vda
    source: Path
    format: str
    backing: tuple[Path, ...] = ()  # backing files, as far as libvirt knows them


@dataclass(frozen=True, kw_only=True)
class SourceDescription:
    """A source domain at the time when its XML was read."""

    name: str
    kind: str  # one of KINDS
    memory_mib: int  # at the power-on
    dimms_mib: tuple[int, ...]  # sizes of the DIMMs besides that memory
    vcpus: int
    firmware: str  # a name in domain_xml.FIRMWARE
    disks: tuple[OriginalDisk, ...]  # the system disk first
    media: Mapping[str, Path]  # files in the CD drives, by target
    left_out: tuple[str, ...]  # devices that a clone cannot have, in words
    macs: tuple[str, ...]  # addresses of the network cards that a clone has
    nvram: Path | None  # file with the variables of UEFI
    agent: bool  # whether a guest agent is connected
    other_targets: tuple[str, ...]  # drives that are not copied
    xml: str = field(repr=False)


def read_original(name: str, xml: str, find_volume: FindVolume = lambda _pool, _volume: None) -> SourceDescription:
    """Read a domain's XML; UsageError for a domain that cannot be cloned here, or an XML that libvirt never wrote."""
    try:
        return _read(name, ElementTree.fromstring(xml), xml, find_volume)
    except (ElementTree.ParseError, ValueError, KeyError) as error:
        raise UsageError(f"cannot clone {name}: its XML is malformed ({str(error)[:100]})") from None


def _read(name: str, root: Element, xml: str, find_volume: FindVolume) -> SourceDescription:
    kind, arch = root.get("type", ""), attribute(root, "os/type", "arch")
    if kind not in KINDS:
        raise UsageError(f"cannot clone {name}: its type is {kind}, expected {' or '.join(KINDS)}")
    if arch != ARCH:
        raise UsageError(f"cannot clone {name}: its architecture is {arch}, expected {ARCH}")
    if root.find("os/kernel") is not None:
        raise UsageError(f"cannot clone {name}: it boots a kernel file of the host (<kernel> in its <os>)")
    disks, media, left_out = _disks(name, root, find_volume)
    vcpu = root.find("vcpu")
    copied = {disk.target for disk in disks}
    targets = [attribute(disk, "target", "dev") for disk in root.iterfind("devices/disk")]
    return SourceDescription(
        name=name,
        kind=kind,
        memory_mib=(_memory_bytes(root.find("memory")) >> 20) - sum(_sizes_mib(root)),
        dimms_mib=tuple(_sizes_mib(root, "[@model='dimm']")),
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
    """Return the disks of a clone, the system disk first, the CDs, and the disks that are left out."""
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
        raise UsageError(f"cannot clone {name}: it has no disk")
    candidates.sort(
        key=lambda disk: int(attribute(disk, "boot", "order") or 1 << 30)
    )  # stable: the order of the XML otherwise
    system, *others = candidates
    if why := _why_not(system):
        raise UsageError(
            f"cannot clone {name}: its system disk {attribute(system, 'target', 'dev')} is {why},"
            " expected a file or a block device of this host"
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
    """Replace a volume of a storage pool by its file or block device, if the pool knows its path."""
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
    """Return why a disk cannot be copied, as the end of 'is ...'; empty if it can."""
    kind = disk.get("type", "")
    if kind == "network":
        source = [attribute(disk, "source", key) for key in ("protocol", "name")]
        return f"on a network ({' '.join(filter(None, source))})"
    if disk.find("encryption") is not None or disk.find("source/encryption") is not None:
        return "encrypted"
    if disk.get("device") == "lun":
        return f"a passed-through SCSI device ({_source(disk)})"
    if kind not in ("file", "block") or not _source(disk):
        return f"of the type {kind}" if kind not in ("file", "block") else "empty"
    return "read-only" if disk.find("readonly") is not None else ""


def _disk(disk: Element) -> OriginalDisk:
    below = (Path(attribute(store, "source", "file")) for store in disk.iterfind(".//backingStore[@type='file']"))
    return OriginalDisk(
        target=attribute(disk, "target", "dev"),
        source=Path(_source(disk)),
        # The format is never detected: a guest can write a header of another format into a raw disk.
        format=attribute(disk, "driver", "type") or "raw",
        backing=tuple(below),
    )


def _not_cloned(root: Element) -> Iterator[str]:
    """Yield the devices that only the source domain can have, in words."""
    for device in root.iterfind("devices/hostdev"):
        yield f"the passed-through {_named_hostdev(device)}"
    for nic in root.iterfind("devices/interface"):
        if not _is_clonable(nic):
            yield f"the passed-through network card {attribute(nic, 'mac', 'address')}"
    for share in root.iterfind("devices/filesystem"):
        where = attribute(share, "source", "dir") or "of the host"
        yield f"the shared directory {where} ({attribute(share, 'target', 'dir')})"
    for path, what in (
        ("tpm", "the TPM"),
        ("shmem", "the memory shared with the host"),
        ("vsock", "the vsock device"),
    ):
        if root.find(f"devices/{path}") is not None:
            yield what
    for device in root.iterfind("devices/memory"):
        if (model := device.get("model")) != "dimm":
            yield f"{_memory_bytes(device.find('target/size')) >> 20} MiB of memory of the model {model}"
    if root.find("launchSecurity") is not None:
        yield "the memory encryption"
    if root.find(f"{_QEMU}commandline") is not None:
        yield "the arguments for QEMU itself (qemu:commandline)"


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
    nvram = root.find("os/nvram")
    if nvram is None:
        return None
    path = (nvram.text or "").strip() or attribute(nvram, "source", "file")
    return Path(path) if path else None


def _sizes_mib(root: Element, which: str = "") -> list[int]:
    return [_memory_bytes(size) >> 20 for size in root.iterfind(f"devices/memory{which}/target/size")]


def _memory_bytes(memory: Element | None) -> int:
    return int(memory.text or 0) * _MEMORY_UNITS[memory.get("unit", "KiB")] if memory is not None else 0


def attribute(root: Element, path: str, name: str) -> str:
    found = root.find(path)
    return found.get(name, "") if found is not None else ""
