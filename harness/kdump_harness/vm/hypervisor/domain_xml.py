"""libvirt's descriptions of guests: domains, disks, network cards and firmware."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree import ElementTree
from xml.sax.saxutils import escape, quoteattr

NETWORK = "default"
# What QEMU has translated outlives a reset, and every page of it that the next kernel overwrites is slow to write.
# A smaller cache than the default (1 GiB) holds less of the past; too small a one translates all the time.
_TCG_CACHE = '<tcg><tb-cache unit="MiB">256</tb-cache></tcg>'
# What libvirt is asked for by each name; nothing is the BIOS that the machine has.
FIRMWARE: Mapping[str, Mapping[str, bool]] = {
    "bios": {},
    "uefi": {"secure-boot": False},
    "uefi-secure": {"secure-boot": True, "enrolled-keys": True},  # with the keys that a shim is signed for
}
# Virtual hardware that only some drills need.
DEVICES: Mapping[str, str] = {"watchdog": '<watchdog model="i6300esb" action="inject-nmi"/>'}


def new_mac() -> str:
    """An address of QEMU's range that no other guest has."""
    return "52:54:00:" + ":".join(f"{byte:02x}" for byte in secrets.token_bytes(3))


@dataclass(frozen=True, kw_only=True)
class Nic:
    """A network card, and the network that it is plugged into."""

    mac: str
    network: str = NETWORK

    def xml(self, *, up: bool = True) -> str:
        """libvirt's description of it; the cable is in or out."""
        link = "" if up else '<link state="down"/>'
        return (
            f'<interface type="network"><mac address="{self.mac}"/><source network={quoteattr(self.network)}/>'
            f'<model type="virtio"/>{link}</interface>'
        )


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A file that an overlay rests on, and that is only read."""

    path: Path
    format: str
    relabel: bool = False  # libvirt may give it to QEMU's user, which cannot read it otherwise


@dataclass(frozen=True, kw_only=True)
class Disk:
    """A disk beside that of the system: a qcow2 file, or what an NBD server offers at a socket."""

    path: Path | None = None
    socket: Path | None = None
    serial: str = ""  # as the guest sees it below /dev/disk/by-id, after virtio-

    def xml(self, target: str) -> str:
        """libvirt's description of it."""
        serial = f"<serial>{escape(self.serial)}</serial>" if self.serial else ""
        if self.path is not None:
            return _disk_xml(self.path, target, "qcow2", more=serial)
        return (
            '<disk type="network" device="disk"><driver name="qemu" type="raw" error_policy="report"/>'
            f'<source protocol="nbd"><host transport="unix" socket={quoteattr(str(self.socket))}/></source>'
            f'<target dev="{target}" bus="virtio"/>{serial}</disk>'
        )


@dataclass(frozen=True, kw_only=True)
class DomainSpec:
    """The virtual machine that a guest runs on."""

    name: str
    accelerator: str  # kvm or tcg
    memory_mib: int
    vcpus: int
    disk: Path  # qcow2
    layers: tuple[Layer, ...]  # below it, from the top down
    seed: Path | None
    mac: str
    cpu_level: int | None = 1  # the x86-64 level that the guest's programs need; None: not known
    firmware: str = "bios"  # one of FIRMWARE
    devices: tuple[str, ...] = ()  # of DEVICES
    nvram: Path | None = None  # where UEFI keeps its variables; a place that goes with the run
    network: str = NETWORK  # that we reach it over
    nics: tuple[Nic, ...] = ()  # beside the one that we reach it by
    extra_disks: tuple[Disk, ...] = ()

    def xml(self) -> str:
        """libvirt's description of it."""
        kvm = self.accelerator == "kvm"
        disks = [_disk_xml(self.disk, "vda", "qcow2", more=_backing_xml(self.layers))]
        if self.seed is not None:
            disks.append(_disk_xml(self.seed, "vdb", "raw", read_only=True))
        disks += [disk.xml(f"vd{chr(ord('c') + n)}") for n, disk in enumerate(self.extra_disks)]
        nics = (Nic(mac=self.mac, network=self.network), *self.nics)
        return f"""<domain type="{"kvm" if kvm else "qemu"}">
  <name>{escape(self.name)}</name>
  <memory unit="MiB">{self.memory_mib}</memory>
  <vcpu>{self.vcpus}</vcpu>
  {_os_xml(self.firmware, self.nvram)}
  <features><acpi/><apic/><vmcoreinfo state="on"/>{"" if kvm else _TCG_CACHE}</features>
  {_cpu_xml(kvm, self.cpu_level)}
  <clock offset="utc"/>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>restart</on_reboot>
  <on_crash>preserve</on_crash>
  <devices>
    {"".join(disks)}
    {"".join(nic.xml() for nic in nics)}
    <serial type="pty"><target port="0"/></serial>
    <console type="pty"><target type="serial" port="0"/></console>
    <rng model="virtio"><backend model="random">/dev/urandom</backend></rng>
    <memballoon model="none"/>
    <panic model="isa"/>
    {"".join(DEVICES[name] for name in self.devices)}
  </devices>
</domain>
"""


@dataclass(frozen=True, kw_only=True)
class SavedDomain:
    """What a domain was whose memory lies in a file."""

    name: str
    xml: str
    mac: str
    nics: tuple[Nic, ...]
    address: str | None

    def disks(self) -> tuple[Path, ...]:
        """The files behind the disks that it writes to, that of the system first."""
        return written_by(self.xml)

    @property
    def memory_mib(self) -> int:
        """The guest's memory."""
        return int(ElementTree.fromstring(self.xml).findtext("./memory", "0")) >> 10  # libvirt tells KiB

    def nvram(self) -> Path | None:
        """The file with the firmware's variables, where it has such."""
        found = ElementTree.fromstring(self.xml).findtext("./os/nvram")
        return Path(found) if found else None

    def moved(self, disks: Mapping[Path, tuple[Path, tuple[Layer, ...]]], nvram: Path | None) -> SavedDomain:
        """The same with some of its disks, and its variables, in other files; a disk's file rests on layers."""
        root = ElementTree.fromstring(self.xml)
        variables = root.find("./os/nvram")
        if variables is not None and nvram is not None:
            variables.text = str(nvram)
        for disk in root.findall("./devices/disk"):
            source = disk.find("source")
            new = disks.get(Path(source.get("file", ""))) if source is not None else None
            if source is None or new is None:
                continue
            for child in (source, *disk.findall("backingStore")):
                disk.remove(child)
            path, layers = new
            disk.append(ElementTree.fromstring(f"<source file={quoteattr(str(path))}/>"))
            disk.append(ElementTree.fromstring(_backing_xml(layers)))
        return replace(self, xml=ElementTree.tostring(root, encoding="unicode"))


def written_by(xml: str) -> tuple[Path, ...]:
    """The files behind the disks that a domain of this description writes to, in their order."""
    disks = ElementTree.fromstring(xml).findall("./devices/disk")
    sources = (disk.find("source") for disk in disks if disk.find("readonly") is None)
    return tuple(Path(source.get("file", "")) for source in sources if source is not None and source.get("file"))


def _os_xml(firmware: str, nvram: Path | None) -> str:
    """Machine and firmware; which file that is, libvirt knows by the features that are asked for."""
    features = FIRMWARE[firmware]
    kind = ' firmware="efi"' if features else ""
    asked = "".join(f'<feature enabled="{"yes" if on else "no"}" name="{name}"/>' for name, on in features.items())
    place = f"<nvram>{escape(str(nvram))}</nvram>" if features and nvram is not None else ""
    return (
        f'<os{kind}><type arch="x86_64" machine="q35">hvm</type>'
        f"{f'<firmware>{asked}</firmware>' if asked else ''}{place}"
        '<boot dev="hd"/></os>'
    )


def _disk_xml(path: Path, target: str, kind: str, *, read_only: bool = False, more: str = "") -> str:
    """One virtio disk; nothing on a throw-away overlay is worth waiting for the host's disk (cache=unsafe)."""
    only = "<readonly/>" if read_only else ""
    return (
        f'<disk type="file" device="disk"><driver name="qemu" type="{kind}" cache="unsafe" discard="unmap"/>'
        f"<source file={quoteattr(str(path))}/>"
        f'<target dev="{target}" bus="virtio"/>{only}{more}</disk>'
    )


def _backing_xml(layers: tuple[Layer, ...]) -> str:
    """What an overlay rests on, all of it; left to itself libvirt makes each of these files QEMU's user's, for good."""
    if not layers:
        return "<backingStore/>"
    layer, *below = layers
    label = "" if layer.relabel else '<seclabel model="dac" relabel="no"/>'
    return (
        f'<backingStore type="file"><format type="{layer.format}"/>'
        f"<source file={quoteattr(str(layer.path))}>{label}</source>{_backing_xml(tuple(below))}</backingStore>"
    )


def _cpu_xml(kvm: bool, level: int | None) -> str:
    """The processor: the host's under KVM, the cheapest that will do under emulation.

    With TCG "max" costs a fifth more time than qemu64, and Intel models make the kernel isolate its page
    tables, which is slower still; five-level paging (la57) is left out because crash tools trip over it.
    """
    if kvm:
        return '<cpu mode="host-passthrough"/>'
    if level == 1:
        # After CMPXCHG16B QEMU 7.2's emulation may leave the flags in disorder: Linux 6.12 of bookworm-backports, whose
        # allocator uses it, panics at each boot. x86-64-v1 does without that instruction.
        no_cx16 = '<feature policy="disable" name="cx16"/>'
        return f'<cpu mode="custom" match="exact" check="none"><model fallback="forbid">qemu64</model>{no_cx16}</cpu>'
    return '<cpu mode="maximum" check="none"><feature policy="disable" name="la57"/></cpu>'
