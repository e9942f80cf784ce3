"""A libvirt domain: define, start, NMI, link up and down, memory dump, destroy, lifecycle events."""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
import weakref
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.sax.saxutils import escape, quoteattr

import libvirt

from ...base.clock import now_s, poll
from ...base.errors import GuestError, HostError, UsageError, WaitedInVain
from ...images.state import is_held
from .byte_queue import ByteQueue

PREFIX = "kdh-"  # every domain of ours is found by it
NETWORK = "default"
_OURS = "urn:kdump-harness"  # the namespace of what we note in descriptions
CONNECT_TIMEOUT_S = 20.0
CONSOLE_GATHER_MS = 40  # between two looks at a serial line; the times of its lines are as exact as that
RESTART_TIMEOUT_S = 20.0
# A dead remote host is noticed after about half a minute.
KEEPALIVE_S, KEEPALIVE_COUNT = 6, 5
# libvirt reports these while a domain is on its way out.
_GONE = (libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_OPERATION_INVALID)

# What QEMU has translated outlives a reset, and every page of it that the next kernel overwrites is slow to write.
# A smaller cache than the default (1 GiB) holds less of the past; too small a one translates all the time.
_TCG_CACHE = '<tcg><tb-cache unit="MiB">256</tb-cache></tcg>'

_EVENTS = {
    libvirt.VIR_DOMAIN_EVENT_STARTED: "started",
    libvirt.VIR_DOMAIN_EVENT_SUSPENDED: "suspended",
    libvirt.VIR_DOMAIN_EVENT_RESUMED: "resumed",
    libvirt.VIR_DOMAIN_EVENT_STOPPED: "stopped",
    libvirt.VIR_DOMAIN_EVENT_SHUTDOWN: "shutdown",
    libvirt.VIR_DOMAIN_EVENT_CRASHED: "crashed",
}


# What each x86-64 level adds to the one before, by libvirt's names; xsave stands for OSXSAVE, which the system sets.
_LEVEL_FEATURES = {
    1: (),
    2: ("cx16", "lahf_lm", "popcnt", "pni", "sse4.1", "sse4.2", "ssse3"),
    3: ("abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave"),
}

_CLOSE_REASONS = {
    libvirt.VIR_CONNECT_CLOSE_REASON_ERROR: "an I/O error",
    libvirt.VIR_CONNECT_CLOSE_REASON_EOF: "libvirtd closed it",
    libvirt.VIR_CONNECT_CLOSE_REASON_KEEPALIVE: "libvirtd no longer answers",
    libvirt.VIR_CONNECT_CLOSE_REASON_CLIENT: "closed by us",
}


# What libvirt is asked for by each name; nothing is the BIOS that the machine has.
FIRMWARE: Mapping[str, Mapping[str, bool]] = {
    "bios": {},
    "uefi": {"secure-boot": False},
    "uefi-secure": {"secure-boot": True, "enrolled-keys": True},  # with the keys that a shim is signed for
}


# linux/input-event-codes.h
_KEYS: Mapping[str, int] = {"KEY_LEFTALT": 56, "KEY_SYSRQ": 99, "KEY_C": 46}
KEYS_HELD_MS = 200

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
        return _written_by(self.xml)

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


@dataclass
class DomainEvents:
    """What libvirt told of one domain, with the moment on the monotonic clock."""

    seen: list[tuple[float, str]] = field(default_factory=list)
    listener: Callable[[str], None] | None = None

    def add(self, what: str) -> None:
        """Note an event."""
        self.seen.append((now_s(), what))
        if self.listener is not None:
            self.listener(what)

    def has(self, prefix: str) -> bool:
        """Whether an event starting with prefix was seen."""
        return any(what.startswith(prefix) for _, what in self.seen)

    def count(self, prefix: str) -> int:
        """How often an event starting with prefix was seen."""
        return sum(what.startswith(prefix) for _, what in self.seen)


class Domain:
    """A running transient domain; libvirt destroys it when our connection ends, whatever ended us."""

    def __init__(
        self,
        hypervisor: Hypervisor,
        handle: Any,
        name: str,
        mac: str,
        nics: tuple[Nic, ...] = (),
        address: str | None = None,
    ) -> None:
        self._hypervisor = hypervisor
        self._handle = handle
        self.name = name
        self.mac = mac
        self.nics = nics  # beside the one that it is reached by
        self._address = address  # the last that it was seen to have
        self._saved = False
        self.events = DomainEvents()
        self._console_source: ByteQueue | None = None
        self._stream: Any = None
        self._console_timer: int | None = None
        self._hypervisor.watch(handle, self.events)

    def open_console(self, on_bytes: Callable[[bytes], None]) -> ByteQueue:
        """The serial line through libvirt, which works for remote hosts too; on_bytes sees every chunk first."""
        source = ByteQueue()
        stream = self._hypervisor.new_stream()
        with _saying(f"{self.name}: its serial console cannot be opened"):
            self._handle.openConsole(None, stream, libvirt.VIR_DOMAIN_CONSOLE_FORCE)

        ended = libvirt.VIR_STREAM_EVENT_HANGUP | libvirt.VIR_STREAM_EVENT_ERROR

        def pump(stream: Any, events: int, _: object) -> None:
            """Take all that is there, then look away for a moment: a serial line brings a few bytes each time."""
            try:
                while True:
                    data = stream.recv(65536)
                    if data == -2:  # nothing more just now
                        if events & ended:
                            break
                        stream.eventUpdateCallback(ended)
                        libvirt.virEventUpdateTimeout(timer, CONSOLE_GATHER_MS)
                        return
                    if not data:
                        break
                    try:
                        on_bytes(data)
                    except OSError as error:  # nobody above this thread would hear of it
                        source.fail(error)
                        break
                    source.put(data)
            except libvirt.libvirtError:
                pass
            source.put(b"")
            with contextlib.suppress(libvirt.libvirtError):
                stream.eventRemoveCallback()

        def look_again(_timer: int, _opaque: object) -> None:
            libvirt.virEventUpdateTimeout(timer, -1)
            with contextlib.suppress(libvirt.libvirtError):  # it may have ended meanwhile
                stream.eventUpdateCallback(libvirt.VIR_STREAM_EVENT_READABLE | ended)

        timer = libvirt.virEventAddTimeout(-1, look_again, None)
        self._console_timer = timer
        stream.eventAddCallback(libvirt.VIR_STREAM_EVENT_READABLE | ended, pump, None)
        self._console_source, self._stream = source, stream
        self._hypervisor.tell_when_lost(source)
        return source

    def resume(self) -> None:
        """Let a domain that was started paused run."""
        with _saying(f"{self.name}: cannot be started"):
            self._handle.resume()

    def pause(self) -> None:
        """Stop the processors."""
        with _saying(f"{self.name}: cannot be paused"):
            self._handle.suspend()

    def reset(self) -> None:
        """The reset button."""
        with _saying(f"{self.name}: cannot be reset"):
            self._handle.reset()

    def inject_nmi(self) -> None:
        """The NMI button."""
        with _saying(f"{self.name}: refuses the NMI"):
            self._handle.injectNMI()

    def press_keys(self, *names: str) -> None:
        """Press keys of Linux's names all at once, and let them go."""
        codes = [_KEYS[name] for name in names]
        with _saying(f"{self.name}: refuses the keys {', '.join(names)}"):
            self._handle.sendKey(libvirt.VIR_KEYCODE_SET_LINUX, KEYS_HELD_MS, codes, len(codes))

    def set_link(self, up: bool, nic: Nic | None = None) -> None:
        """Plug a network cable in or out: that by which we reach the guest, unless another is named."""
        xml = (nic or Nic(mac=self.mac)).xml(up=up)
        with _saying(f"{self.name}: its network link cannot be changed"):
            self._handle.updateDeviceFlags(xml, libvirt.VIR_DOMAIN_AFFECT_LIVE)

    def dump_memory(self, path: Path, *, tick: Callable[[], None] | None = None) -> None:
        """Write the guest's memory, as the hypervisor sees it, as an ELF core; the guest stands still meanwhile.

        The file is there already, and ours: libvirt's own would be readable by root alone.
        """
        kind, only = libvirt.VIR_DOMAIN_CORE_DUMP_FORMAT_RAW, libvirt.VIR_DUMP_MEMORY_ONLY
        with _saying(f"{self.name}: its memory cannot be dumped"):
            _in_background(lambda: self._handle.coreDumpWithFormat(str(path), kind, only), tick)

    def save(self, path: Path, *, tick: Callable[[], None] | None = None) -> str:
        """Write memory and devices to a new file, which ends the domain, and return its description.

        Hypervisor.restore() goes on from there.
        """
        with _saying(f"{self.name}: its memory cannot be saved"):
            xml = str(self._handle.XMLDesc(libvirt.VIR_DOMAIN_XML_MIGRATABLE))
            self._close_console()
            _in_background(lambda: self._handle.saveFlags(str(path), None, libvirt.VIR_DOMAIN_SAVE_PAUSED), tick)
        self._saved = True
        self._hypervisor.unwatch(self._handle)
        return xml

    def state(self) -> str:
        """running, paused, crashed, or gone."""
        try:
            code, _ = self._handle.state()
        except libvirt.libvirtError as error:
            if error.get_error_code() in _GONE:
                return "gone"
            raise GuestError(f"{self.name}: libvirt no longer answers ({_first_line(error)})") from None
        names = {
            libvirt.VIR_DOMAIN_RUNNING: "running",
            libvirt.VIR_DOMAIN_PAUSED: "paused",
            libvirt.VIR_DOMAIN_CRASHED: "crashed",
            libvirt.VIR_DOMAIN_SHUTOFF: "gone",
        }
        return names.get(code, f"state {code}")

    def address(self) -> str | None:
        """The IPv4 address that libvirt's DHCP server gave to it, also when that was long ago."""
        try:
            leases = self._handle.interfaceAddresses(libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_LEASE)
        except libvirt.libvirtError as error:
            if error.get_error_code() in _GONE:
                return None
            raise GuestError(f"{self.name}: libvirt does not tell its address ({_first_line(error)})") from None
        for nic in leases.values():
            if nic["hwaddr"] == self.mac:
                for address in nic["addrs"] or ():
                    if address["type"] == libvirt.VIR_IP_ADDR_TYPE_IPV4:
                        self._address = str(address["addr"])
        return self._address

    def xml(self) -> str:
        """The description as libvirt completed it."""
        try:
            return str(self._handle.XMLDesc())
        except libvirt.libvirtError as error:
            return f"<!-- {_first_line(error)} -->\n"

    def disks(self) -> tuple[Path, ...]:
        """The files behind the disks that it writes to, that of the system first."""
        with _saying(f"{self.name}: libvirt does not tell its disks"):
            return _written_by(str(self._handle.XMLDesc()))

    def shutdown(self) -> None:
        """Press the power button."""
        with contextlib.suppress(libvirt.libvirtError):
            self._handle.shutdown()

    def destroy(self) -> None:
        """Pull the plug; a domain that is gone already is fine."""
        if self._saved:
            return  # what has its name now is another one
        self._close_console()
        try:
            self._handle.destroy()
        except libvirt.libvirtError as error:
            if error.get_error_code() in _GONE:
                pass
            elif self._hypervisor.alive():
                raise GuestError(f"{self.name}: cannot be destroyed ({_first_line(error)})") from None
            else:
                # libvirtd was restarted under us: the new one has adopted the domain, but not our auto-destroy.
                self._hypervisor.destroy_anew(self.name)
        self._hypervisor.unwatch(self._handle)

    def kill(self) -> None:
        """Pull the plug and nothing else: it is another thread's, which notices and cleans up."""
        with contextlib.suppress(libvirt.libvirtError):
            self._handle.destroy()

    def _close_console(self) -> None:
        """Read no more of it."""
        if self._stream is not None:
            with contextlib.suppress(libvirt.libvirtError):
                self._stream.eventRemoveCallback()
                self._stream.abort()
            self._stream = None
        if self._console_timer is not None:
            libvirt.virEventRemoveTimeout(self._console_timer)
            self._console_timer = None

    def connection_lost(self) -> bool:
        """Whether it is libvirt that is gone, and not the guest."""
        return not self._hypervisor.alive()


@dataclass(frozen=True, kw_only=True)
class CopyJob:
    """How far libvirt is with copying a domain's disks; error says why it ended before its end."""

    ended: bool
    done_bytes: int = 0
    total_bytes: int = 0
    error: str = ""


class SourceDomain:
    """A domain of the user's: it is looked at and copied from, and never changed."""

    def __init__(self, connection: Any, name: str) -> None:
        self._connection, self.name = connection, name
        with _saying(f"{name} is gone"):
            self._handle = connection.lookupByName(name)

    def xml(self) -> str:
        """What it is now; while it runs, not what it would be after the next start."""
        with _saying(f"{self.name} cannot be described"):
            return str(self._handle.XMLDesc())

    def life(self) -> int | None:
        """A number that is another after each start; None while it is shut off."""
        try:
            number = int(self._handle.ID())
            return number if self._handle.isActive() and number >= 0 else None
        except libvirt.libvirtError as error:
            if error.get_error_code() in _GONE:
                return None
            raise GuestError(f"{self.name}: libvirt no longer answers ({_first_line(error)})") from None

    def is_saved(self) -> bool:
        """Whether it is shut off with its memory in a file, as virsh managedsave leaves it."""
        with contextlib.suppress(libvirt.libvirtError):
            return bool(self._handle.hasManagedSaveImage())
        return False

    def volume(self, pool: str, volume: str) -> str | None:
        """Where a volume of a storage pool lies; None when the pool does not tell."""
        with contextlib.suppress(libvirt.libvirtError):
            return str(self._connection.storagePoolLookupByName(pool).storageVolLookupByName(volume).path())
        return None

    def capacity_bytes(self, disk: str) -> int:
        """The size of a disk as the guest sees it, by the disk's name in the description."""
        with _saying(f"{self.name}: the size of {disk} is not known"):
            return int(self._handle.blockInfo(disk)[0])

    def freeze(self) -> None:
        """Have the guest agent write everything out and hold all writes; thaw() must follow."""
        with _saying(f"{self.name}: its guest agent does not freeze the filesystems"):
            self._handle.fsFreeze()

    def thaw(self) -> None:
        """Let writes go on."""
        with _saying(f"{self.name}: its guest agent does not thaw the filesystems"):
            self._handle.fsThaw()

    def begin_copy(self, xml: str) -> None:
        """Have QEMU copy disks, as they are at this moment, into files that are there already."""
        try:
            self._handle.backupBegin(xml, None, libvirt.VIR_DOMAIN_BACKUP_BEGIN_REUSE_EXTERNAL)
        except libvirt.libvirtError as error:
            raise HostError(f"{self.name} runs, and libvirt cannot copy its disks: {_first_line(error)}") from None

    def copy_job(self) -> CopyJob:
        """How far the copying is."""
        try:
            now = self._handle.jobStats()
            if now.get("type", libvirt.VIR_DOMAIN_JOB_NONE) != libvirt.VIR_DOMAIN_JOB_NONE:
                done, total = now.get("disk_processed", 0), now.get("disk_total", 0)
                return CopyJob(ended=False, done_bytes=done, total_bytes=total)
            flags = libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED | libvirt.VIR_DOMAIN_JOB_STATS_KEEP_COMPLETED
            last = self._handle.jobStats(flags)
        except libvirt.libvirtError as error:
            return CopyJob(ended=True, error=_first_line(error))
        if last.get("type") == libvirt.VIR_DOMAIN_JOB_COMPLETED and last.get("success", True):
            return CopyJob(ended=True)
        return CopyJob(ended=True, error=str(last.get("errmsg") or "the copying was ended"))

    def end_copy(self, file: Path) -> None:
        """End the copying into this file before its end, if it goes on; no other job is touched."""
        with contextlib.suppress(libvirt.libvirtError):
            told = ElementTree.fromstring(self._handle.backupGetXMLDesc())
            if str(file) in {target.get("file") for target in told.iterfind(".//target")}:
                self._handle.abortJob()


class Hypervisor:
    """A connection to libvirt."""

    def __init__(
        self, uri: str | None = None, *, address: str | None = None, is_held: Callable[[Path], bool] = is_held
    ) -> None:
        """Connect; HostError in one sentence when nobody answers.

        address is what libvirt is given instead of the URI that people know; is_held tells whether a run on the
        hypervisor's host holds the lock in a directory there.
        """
        self.uri = uri or default_uri()
        self.address, self._is_held = address or self.uri, is_held
        _start_event_loop()
        self._connection = _connect(self.uri, self.address)
        with contextlib.suppress(libvirt.libvirtError):  # not every driver has it
            self._connection.setKeepAlive(KEEPALIVE_S, KEEPALIVE_COUNT)
        self._watched: dict[str, list[int]] = {}
        self._consoles: weakref.WeakSet[ByteQueue] = weakref.WeakSet()
        self._closed_by = ""
        with contextlib.suppress(libvirt.libvirtError):  # local drivers without a daemon have no connection to lose
            self._connection.registerCloseCallback(self._lost, None)

    def _lost(self, _connection: object, reason: int, _opaque: object) -> None:
        """libvirtd went away: streams do not end by themselves then, so whoever reads a console is told."""
        self._closed_by = _CLOSE_REASONS.get(reason, f"reason {reason}")
        for console in tuple(self._consoles):
            console.put(b"")

    def close(self) -> None:
        """Hang up; domains of ours that still run are destroyed by libvirt."""
        with contextlib.suppress(libvirt.libvirtError):
            self._connection.close()

    def alive(self) -> bool:
        """Whether the connection still works."""
        if self._closed_by:
            return False
        with contextlib.suppress(libvirt.libvirtError):
            return bool(self._connection.isAlive())
        return False

    @property
    def is_local(self) -> bool:
        """Whether the files that we make are the hypervisor's too."""
        return is_local(self.uri)

    def versions(self) -> dict[str, str]:
        """libvirt's and the hypervisor's version."""
        return {"libvirt": _version(self._connection.getLibVersion()), "qemu": _version(self._connection.getVersion())}

    def accelerators(self) -> tuple[str, ...]:
        """The domain types that libvirt claims for x86_64: kvm, qemu."""
        root = ElementTree.fromstring(self._connection.getCapabilities())
        found = root.findall("./guest/arch[@name='x86_64']/domain")
        return tuple(sorted({element.get("type", "") for element in found}))

    def lacks(self, accelerator: str, cpu_level: int) -> str | None:
        """The features that a processor of this x86-64 level has and the guests here would not; None when it has all.

        A libvirt that cannot tell is taken to have all.
        """
        wanted = [name for level in range(2, cpu_level + 1) for name in _LEVEL_FEATURES[level]]
        if not wanted:
            return None
        features = "".join(f'<feature policy="require" name="{name}"/>' for name in wanted)
        # kvm64 stands for every 64-bit processor: unlike qemu64, it has nothing that only one vendor's have.
        cpu = f"<cpu><arch>x86_64</arch><model>kvm64</model>{features}</cpu>"
        kind = "kvm" if accelerator == "kvm" else "qemu"
        try:
            self._connection.compareHypervisorCPU(
                None, "x86_64", None, kind, cpu, libvirt.VIR_CONNECT_COMPARE_CPU_FAIL_INCOMPATIBLE
            )
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_CPU_INCOMPATIBLE:
                return _first_line(error).rpartition(": ")[2]
        return None

    def firmware(self) -> tuple[str, ...]:
        """The names in FIRMWARE that guests can boot with here."""
        try:
            told = self._connection.getDomainCapabilities(None, "x86_64", "q35", None)
        except libvirt.libvirtError:
            return ("bios",)
        os_element = ElementTree.fromstring(told).find("./os")
        offered = set() if os_element is None else {value.text for value in os_element.findall("./enum/value")}
        secure = os_element is not None and any(
            value.text == "yes" for value in os_element.findall("./loader/enum[@name='secure']/value")
        )
        if "efi" not in offered:
            return ("bios",)
        return ("bios", "uefi", "uefi-secure") if secure else ("bios", "uefi")

    def ensure_network(self) -> None:
        """Start libvirt's default NAT network where it is not running; the only thing of the user's that we touch."""
        try:
            network = self._connection.networkLookupByName(NETWORK)
            if not network.isActive():
                network.create()
        except libvirt.libvirtError as error:
            raise HostError(
                f"libvirt's network {NETWORK!r} at {self.uri} cannot be used: {_first_line(error)}"
                " (kdump-harness doctor tells what is missing)"
            ) from None

    def make_network(
        self, name: str, address: str, prefix: int, *, run: Path, leases: tuple[str, str] | None = None
    ) -> None:
        """Start a transient network that leads nowhere, with this host at address; HostError where that is taken.

        It is there for the run with this directory. leases are the first and the last address that its DHCP server
        gives away, where it shall have one.
        """
        owner = f'<metadata><kdh:run xmlns:kdh="{_OURS}">{escape(str(run))}</kdh:run></metadata>'
        dhcp = f'<dhcp><range start="{leases[0]}" end="{leases[1]}"/></dhcp>' if leases else ""
        xml = (
            f'<network><name>{escape(name)}</name>{owner}<dns enable="no"/>'  # without DHCP no dnsmasq is started
            f'<ip address="{address}" prefix="{prefix}">{dhcp}</ip></network>'
        )
        try:
            self._connection.networkCreateXML(xml)
        except libvirt.libvirtError as error:
            raise HostError(f"libvirt at {self.uri} cannot start the network {name}: {_first_line(error)}") from None

    def left_networks(self, living: Container[str]) -> tuple[str, ...]:
        """Names of our networks whose run is not among the living, nor lives with another state directory."""
        return tuple(
            sorted(
                network.name()
                for network in self._connection.listAllNetworks()
                if network.name().startswith(PREFIX)
                and network.name().split("-")[1] not in living
                and not self._is_wanted(network)
            )
        )

    def _is_wanted(self, network: Any) -> bool:
        """Whether the run that made a network goes on; of one that does not say whose it is, whether it is in use."""
        with contextlib.suppress(libvirt.libvirtError):  # it is gone
            owner = ElementTree.fromstring(network.XMLDesc()).findtext(f"metadata/{{{_OURS}}}run")
            return self._is_held(Path(owner)) if owner is not None else bool(network.listAllPorts())
        return False

    def remove_network(self, name: str) -> None:
        """Stop a network of ours; one that is gone already is fine."""
        with contextlib.suppress(libvirt.libvirtError):
            self._connection.networkLookupByName(name).destroy()

    def network_problem(self) -> str | None:
        """Why the default network cannot be used, or None."""
        try:
            network = self._connection.networkLookupByName(NETWORK)
        except libvirt.libvirtError as error:
            return _first_line(error)
        return None if network.isActive() else f"network {NETWORK} is not started"

    def spawn(self, spec: DomainSpec, xml: str | None = None) -> Domain:
        """Start a transient domain, paused, so that its console can be opened before its first byte.

        xml is another description of what spec asks for.
        """
        return self._spawn(spec.name, xml or spec.xml(), mac=spec.mac, nics=spec.nics)

    def spawn_raw(self, name: str, xml: str) -> Domain:
        """Start a domain from its description, paused; for probes that are no guests."""
        return self._spawn(name, xml)

    def _spawn(self, name: str, xml: str, mac: str = "", nics: tuple[Nic, ...] = ()) -> Domain:
        flags = libvirt.VIR_DOMAIN_START_PAUSED | libvirt.VIR_DOMAIN_START_AUTODESTROY
        try:
            handle = self._connection.createXML(xml, flags)
        except libvirt.libvirtError as error:
            raise HostError(f"libvirt at {self.uri} cannot start {name}: {_first_line(error)}") from None
        return Domain(self, handle, name, mac, nics)

    def restore(self, path: Path, saved: SavedDomain, *, tick: Callable[[], None] | None = None) -> Domain:
        """Start a domain, paused, where Domain.save() ended it. Its like must not run.

        libvirt does not destroy this one when we die: whoever restores must remove what dead runs have left.
        """
        flags = libvirt.VIR_DOMAIN_SAVE_PAUSED
        try:
            _in_background(lambda: self._connection.restoreFlags(str(path), saved.xml, flags), tick)
            handle = self._connection.lookupByName(saved.name)
        except libvirt.libvirtError as error:
            raise HostError(f"libvirt at {self.uri} cannot restore {saved.name}: {_first_line(error)}") from None
        except BaseException:  # interrupted, and the domain is there by now
            self.destroy_named(saved.name)
            raise
        return Domain(self, handle, saved.name, saved.mac, saved.nics, saved.address)

    def ours(self) -> tuple[str, ...]:
        """Names of the domains that carry our prefix."""
        return tuple(sorted(d.name() for d in self._connection.listAllDomains() if d.name().startswith(PREFIX)))

    def find(self, name: str) -> SourceDomain:
        """A domain of the user's, running or not; UsageError names the known ones."""
        known = [domain.name() for domain in self._connection.listAllDomains()]
        theirs = sorted(other for other in known if not other.startswith(PREFIX))
        if name.startswith(PREFIX):
            raise UsageError(f"{name} is a guest of kdump-harness itself, which a run is drilling")
        if name not in theirs:
            raise UsageError(f"no domain {name!r} at {self.uri} (known: {', '.join(theirs) or 'none'})")
        return SourceDomain(self._connection, name)

    def copies(self) -> tuple[tuple[str, Path], ...]:
        """What libvirt is copying out of running domains: the domain, and a file that it copies to."""
        found = []
        for domain in self._connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE):
            with contextlib.suppress(libvirt.libvirtError):  # nothing is copied out of most
                for target in ElementTree.fromstring(domain.backupGetXMLDesc()).iterfind(".//target[@file]"):
                    found.append((domain.name(), Path(target.get("file", ""))))
        return tuple(found)

    def disks_of(self, name: str) -> tuple[Path, ...]:
        """The files behind a domain's disks."""
        try:
            root = ElementTree.fromstring(self._connection.lookupByName(name).XMLDesc())
        except libvirt.libvirtError:
            return ()
        return tuple(Path(source.get("file", "")) for source in root.findall("./devices/disk/source"))

    def destroy_named(self, name: str) -> None:
        """Remove a domain that a dead run left behind."""
        with contextlib.suppress(libvirt.libvirtError):
            self._connection.lookupByName(name).destroy()

    def destroy_anew(self, name: str) -> None:
        """Remove a domain over a new connection, after ours broke; a libvirtd that starts again is waited for."""

        def attempt() -> bool | None:
            try:
                fresh = Hypervisor(self.uri, address=self.address)
            except HostError:
                return None
            fresh.destroy_named(name)
            gone = name not in fresh.ours()
            fresh.close()
            return gone or None

        try:
            poll(f"libvirt at {self.uri} to answer again", attempt, timeout_s=RESTART_TIMEOUT_S)
        except WaitedInVain as error:
            raise HostError(f"{error}; {name} may still run: kdump-harness clean removes it") from None

    def tell_when_lost(self, console: ByteQueue) -> None:
        """End this console when the connection breaks."""
        self._consoles.add(console)

    def new_stream(self) -> Any:
        """A stream that never blocks."""
        return self._connection.newStream(libvirt.VIR_STREAM_NONBLOCK)

    def watch(self, handle: Any, events: DomainEvents) -> None:
        """Collect the lifecycle of a domain."""

        def lifecycle(_c: object, _d: object, event: int, detail: int, _o: object) -> None:
            events.add(f"{_EVENTS.get(event, str(event))}/{detail}")

        def reboot(_c: object, _d: object, _o: object) -> None:
            events.add("reboot")

        register = self._connection.domainEventRegisterAny
        self._watched[handle.UUIDString()] = [
            register(handle, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, lifecycle, None),
            register(handle, libvirt.VIR_DOMAIN_EVENT_ID_REBOOT, reboot, None),
        ]

    def unwatch(self, handle: Any) -> None:
        """Stop collecting."""
        for number in self._watched.pop(handle.UUIDString(), ()):
            with contextlib.suppress(libvirt.libvirtError):
                self._connection.domainEventDeregisterAny(number)


def is_local(uri: str) -> bool:
    """Whether a hypervisor is on this host: its URI names no other. What is no URI is for libvirt to refuse."""
    rest = uri.partition("://")[2]
    return not rest or rest.startswith("/")


def default_uri() -> str:
    """LIBVIRT_DEFAULT_URI, else the system's hypervisor.

    For an ordinary user libvirt itself would choose the session, which has no network that reaches guests.
    """
    return os.environ.get("LIBVIRT_DEFAULT_URI") or "qemu:///system"


def _connect(uri: str, address: str) -> Any:
    """An open connection; a host that does not answer is given up after CONNECT_TIMEOUT_S."""
    outcome: list[Any] = []

    def attempt() -> None:
        try:
            outcome.append(libvirt.open(address))
        except libvirt.libvirtError as error:
            outcome.append(error)

    thread = threading.Thread(target=attempt, name="libvirt-connect", daemon=True)
    thread.start()
    thread.join(CONNECT_TIMEOUT_S)
    if not outcome:
        raise HostError(f"libvirt at {uri} does not answer within {CONNECT_TIMEOUT_S:.0f} s")
    if isinstance(outcome[0], libvirt.libvirtError):
        error = outcome[0]
        if error.get_error_code() in (libvirt.VIR_ERR_NO_CONNECT, libvirt.VIR_ERR_INVALID_ARG) and "://" not in uri:
            raise UsageError(f"{uri!r} is not a libvirt URI (as in qemu:///system or qemu+ssh://host/system)")
        raise HostError(
            f"libvirt at {uri} does not answer: {_first_line(error)} (kdump-harness doctor tells how to start it)"
        )
    return outcome[0]


_loop_started = threading.Lock()
_loop_running = False


def _start_event_loop() -> None:
    """One thread that serves console streams, domain events and keep-alives of all connections."""
    global _loop_running
    with _loop_started:
        if _loop_running:
            return
        libvirt.registerErrorHandler(lambda _context, _error: None, None)  # errors are ours to print
        libvirt.virEventRegisterDefaultImpl()
        # The loop sleeps until something happens; a timer that never fires keeps it from returning at once.
        libvirt.virEventAddTimeout(3_600_000, lambda _timer, _opaque: None, None)

        def serve() -> None:
            while True:
                libvirt.virEventRunDefaultImpl()

        threading.Thread(target=serve, name="libvirt-events", daemon=True).start()
        _loop_running = True


def _written_by(xml: str) -> tuple[Path, ...]:
    """The files behind the disks that a domain of this description writes to, in their order."""
    disks = ElementTree.fromstring(xml).findall("./devices/disk")
    sources = (disk.find("source") for disk in disks if disk.find("readonly") is None)
    return tuple(Path(source.get("file", "")) for source in sources if source is not None and source.get("file"))


def _in_background(call: Callable[[], object], tick: Callable[[], None] | None) -> None:
    """A call to libvirt that takes seconds, with a sign of life meanwhile; raises what the call raised.

    It has ended when this returns, also when Ctrl-C came: what it makes must not appear after we have cleaned up.
    """
    failed: list[Any] = []

    def work() -> None:
        try:
            call()
        except libvirt.libvirtError as error:
            failed.append(error)

    thread = threading.Thread(target=work, name="libvirt-call", daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(0.2)
            if tick is not None:
                tick()
    finally:
        thread.join()
    if failed:
        raise failed[0]


@contextlib.contextmanager
def _saying(what: str) -> Iterator[None]:
    """Turn libvirt's exception into ours."""
    try:
        yield
    except libvirt.libvirtError as error:
        raise GuestError(f"{what}: {_first_line(error)}") from None


def _first_line(error: Any) -> str:
    """libvirt's message without the repetition that QEMU's output adds."""
    return str(error.get_error_message() or error).strip().splitlines()[0]


def _version(number: int) -> str:
    """libvirt packs versions as major * 1,000,000 + minor * 1,000 + release."""
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"
