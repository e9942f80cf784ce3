"""libvirt's XML of guests: domains, disks, network cards and firmware."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from xml.etree import ElementTree
from xml.sax.saxutils import escape, quoteattr

from ...distro.architecture import Architecture, find_architecture
from .buses import BUSES, disk_xml, override_xml, path_controllers_xml, paths_xml
from .erst_xml import commandline_xml, erst_arguments
from .memory_xml import Spare, dimm_xml, memory_xml, numa_xml, vcpu_xml, virtio_mem_xml

NETWORK = "default"
USER_NETWORK = ""  # in place of a name: QEMU's user networking, which needs no rights
# QEMU's translated code outlives a reset, and a page of which code was translated is slow to overwrite for the next
# kernel. A cache smaller than the default (1 GiB) holds less old code; a much smaller one translates all the time.
TCG_CACHE = '<tcg><tb-cache unit="MiB">256</tb-cache></tcg>'
# The firmware features that libvirt is asked for, by name; without any, the machine has its BIOS.
FIRMWARE: Mapping[str, Mapping[str, bool]] = {
    "bios": {},
    "uefi": {"secure-boot": False},
    "uefi-secure": {"secure-boot": True, "enrolled-keys": True},  # the keys that signed shims need
    "slof": {},  # of pseries, always there
}
# Virtual hardware for some drills only.
DEVICES: Mapping[str, str] = {"watchdog": '<watchdog model="i6300esb" action="inject-nmi"/>'}


def new_mac() -> str:
    """Return a random address of QEMU's range."""
    return "52:54:00:" + ":".join(f"{byte:02x}" for byte in secrets.token_bytes(3))


@dataclass(frozen=True, kw_only=True)
class Nic:
    """A network card and its network."""

    mac: str
    network: str = NETWORK  # a network of libvirt, or USER_NETWORK
    hub_port: int | None = None  # TCP port of the hub that takes the place of a network of libvirt

    def xml(self, *, up: bool = True) -> str:
        """Return the card as XML, with its link up or down."""
        link = "" if up else '<link state="down"/>'
        if self.hub_port is not None:
            kind, source = "client", f'<source address="127.0.0.1" port="{self.hub_port}"/>'
        elif self.network == USER_NETWORK:
            kind, source = "user", ""
        else:
            kind, source = "network", f"<source network={quoteattr(self.network)}/>"
        return f'<interface type="{kind}"><mac address="{self.mac}"/>{source}<model type="virtio"/>{link}</interface>'


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A backing file of an overlay; it is only read."""

    path: Path
    format: str
    private: bool = False  # a file that QEMU's user cannot read without GuestHost.readable()


@dataclass(frozen=True, kw_only=True)
class Disk:
    """An additional disk: a qcow2 file, or the export of an NBD server at a socket."""

    path: Path | None = None
    socket: Path | None = None
    serial: str = ""  # name below /dev/disk/by-id in the guest, after virtio-
    paths: int = 1  # to a raw file; two and more are SCSI disks

    def xml(self, target: str) -> str:
        """Return the disk as XML."""
        serial = f"<serial>{escape(self.serial)}</serial>" if self.serial else ""
        if self.path is not None:
            return disk_xml(self.path, target, "qcow2", more=serial)
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
    memory_mib: int  # at the power-on
    vcpus: int
    disk: Path  # qcow2
    layers: tuple[Layer, ...]  # backing files, from the top down
    seed: Path | None
    nic: Nic  # the card for SSH
    cpu_level: int | None = 1  # x86-64 level of the guest's programs; None: unknown
    firmware: str = "bios"  # a name in FIRMWARE
    devices: tuple[str, ...] = ()  # names in DEVICES
    dimms_mib: tuple[int, ...] = ()  # sizes of the DIMMs besides that memory
    spare: Spare = field(default_factory=Spare)
    nvram: Path | None = None  # file for the variables of UEFI, in the directory of the run
    nics: tuple[Nic, ...] = ()  # the cards besides the one for SSH
    extra_disks: tuple[Disk, ...] = ()
    erst: Path | None = None  # file with the records of an ACPI ERST device
    disk_bus: str = "virtio"  # of the system's disk: a name in BUSES
    la57: bool = False  # five-level paging
    architecture: Architecture = field(default_factory=lambda: find_architecture("amd64"))

    def xml(self) -> str:
        """Return the domain as XML."""
        kvm, architecture, machine = self.accelerator == "kvm", self.architecture, self.architecture.boot_disk
        vmcoreinfo = '<vmcoreinfo state="on"/>' if architecture.vmcoreinfo else ""
        bus = BUSES[self.disk_bus]
        disks = [disk_xml(self.disk, bus.target, "qcow2", bus=bus, more=_backing_xml(self.layers))]
        if self.seed is not None:
            disks.append(disk_xml(self.seed, "vdb", "raw", more="<readonly/>"))
        disks += [disk.xml(f"vd{chr(ord('c') + n)}") for n, disk in enumerate(self.extra_disks) if disk.paths == 1]
        disks += [xml for ways in self.ways() for xml in ways]
        nics = (self.nic, *self.nics)
        return f"""<domain type="{"kvm" if kvm else "qemu"}">
  <name>{escape(self.name)}</name>
  {memory_xml(self.memory_mib, self.dimms_mib, self.spare)}
  {vcpu_xml(self.vcpus, self.spare)}
  {_os_xml(architecture, self.firmware, self.nvram)}
  <features>{machine.features}{vmcoreinfo}{"" if kvm else TCG_CACHE}</features>
  {processor_xml(architecture, kvm, self.cpu_level, self._numa(), la57=self.la57)}
  <clock offset="utc"/>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>restart</on_reboot>
  <on_crash>preserve</on_crash>
  <devices>
    {"".join(disks)}
    {bus.controller}
    {path_controllers_xml(max((disk.paths for disk in self.extra_disks if disk.paths > 1), default=0))}
    {"".join(nic.xml() for nic in nics)}
    <serial type="pty"><target port="0"/></serial>
    <console type="pty"><target type="serial" port="0"/></console>
    <rng model="virtio"><backend model="random">/dev/urandom</backend></rng>
    <memballoon model="none"/>
    {machine.panic_device}
    {"".join(DEVICES[name] for name in self.devices)}
    {"".join(map(dimm_xml, self.dimms_mib))}
    {virtio_mem_xml(self.spare.virtio_mem_mib, 0) if self.spare.virtio_mem_mib else ""}
  </devices>
  {commandline_xml(erst_arguments(self.erst) if self.erst is not None else ())}
  {override_xml(bus)}
</domain>
"""

    def ways(self) -> tuple[tuple[str, ...], ...]:
        """Return the XML of the paths to each disk that has several."""
        shared = [disk for disk in self.extra_disks if disk.paths > 1 and disk.path is not None]
        return tuple(paths_xml(Path(str(disk.path)), number, disk.paths) for number, disk in enumerate(shared))

    def _numa(self) -> str:
        """Return the NUMA node of a machine with memory devices."""
        if not self.dimms_mib and not self.spare.memory_mib:
            return ""
        return numa_xml(self.memory_mib, self.vcpus + self.spare.cpus)


@dataclass(frozen=True, kw_only=True)
class SavedDomain:
    """A domain whose memory was saved in a file."""

    name: str
    xml: str
    nic: Nic
    nics: tuple[Nic, ...]
    address: str | None

    def disks(self) -> tuple[Path, ...]:
        """Return the files of the writable disks, the system disk first."""
        return written_by(self.xml)

    @property
    def memory_mib(self) -> int:
        """Return the size of the guest's memory."""
        return int(ElementTree.fromstring(self.xml).findtext("./memory", "0")) >> 10  # in KiB

    def nvram(self) -> Path | None:
        """Return the file with the variables of UEFI, if there is one."""
        found = ElementTree.fromstring(self.xml).findtext("./os/nvram")
        return Path(found) if found else None

    def with_disks(self, disks: Mapping[Path, tuple[Path, tuple[Layer, ...]]], nvram: Path | None) -> SavedDomain:
        """Return the domain with other files; DISKS maps the file of a disk to its overlay and the layers below."""
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
    """Return the files of the writable disks of a domain's XML, in their order."""
    disks = ElementTree.fromstring(xml).findall("./devices/disk")
    sources = (disk.find("source") for disk in disks if disk.find("readonly") is None)
    return tuple(Path(source.get("file", "")) for source in sources if source is not None and source.get("file"))


def _os_xml(architecture: Architecture, firmware: str, nvram: Path | None) -> str:
    """Return machine type and firmware; libvirt chooses the firmware's file by the features."""
    features = FIRMWARE[firmware]
    kind = ' firmware="efi"' if features else ""
    asked = "".join(f'<feature enabled="{"yes" if on else "no"}" name="{name}"/>' for name, on in features.items())
    place = f"<nvram>{escape(str(nvram))}</nvram>" if features and nvram is not None else ""
    return (
        f'<os{kind}><type arch="{architecture.machine}" machine="{architecture.machine_type}">hvm</type>'
        f"{f'<firmware>{asked}</firmware>' if asked else ''}{place}"
        '<boot dev="hd"/></os>'
    )


def _backing_xml(layers: tuple[Layer, ...]) -> str:
    """Return all backing files of an overlay; libvirt would otherwise chown each of them to QEMU's user for good."""
    if not layers:
        return "<backingStore/>"
    layer, *below = layers
    label = '<seclabel model="dac" relabel="no"/>'
    return (
        f'<backingStore type="file"><format type="{layer.format}"/>'
        f"<source file={quoteattr(str(layer.path))}>{label}</source>{_backing_xml(tuple(below))}</backingStore>"
    )


def processor_xml(
    architecture: Architecture, kvm: bool, level: int | None, numa: str = "", *, la57: bool = False
) -> str:
    """Return the processor of a guest; a level and LA57 are of x86-64."""
    if architecture.name == "amd64":
        return cpu_xml(kvm, level, numa, la57=la57)
    if model := architecture.cpu_model:
        return f'<cpu mode="custom" match="exact" check="none"><model fallback="forbid">{model}</model>{numa}</cpu>'
    return f"<cpu>{numa}</cpu>" if numa else ""


def cpu_xml(kvm: bool, level: int | None, numa: str = "", *, la57: bool = False) -> str:
    """Return the processor: the host's under KVM, the cheapest sufficient one under emulation.

    With TCG, "max" takes a fifth more time than qemu64. Intel models are slower still, because the kernel isolates its
    page tables. Five-level paging (LA57) is disabled unless asked for, because crash tools do not support it.
    """
    if kvm:
        return f'<cpu mode="host-passthrough">{numa}</cpu>'
    if level == 1 and not la57:
        # QEMU 7.2 emulates the flags after CMPXCHG16B wrongly: Linux 6.12 of bookworm-backports, whose allocator uses
        # the instruction, panics at each boot. x86-64-v1 does not have the instruction.
        no_cx16 = '<feature policy="disable" name="cx16"/>'
        model = f'<model fallback="forbid">qemu64</model>{no_cx16}'
        return f'<cpu mode="custom" match="exact" check="none">{model}{numa}</cpu>'
    without = "" if la57 else '<feature policy="disable" name="la57"/>'
    return f'<cpu mode="maximum" check="none">{without}{numa}</cpu>'
