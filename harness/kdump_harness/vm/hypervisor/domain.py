"""A domain that runs a guest: console, power, keys, memory and lifecycle events."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import libvirt

from ...base.clock import Deadline, now_s, pause
from ...base.errors import GuestError
from .byte_queue import ByteQueue
from .domain_xml import USER_NETWORK, Nic, written_by
from .libvirt_call import GONE, first_line, guest_error, in_background
from .user_network import forward

if TYPE_CHECKING:
    from .connection import Hypervisor

# Lifecycle events of a panic (pvpanic): a kernel that panics for good, and one that hands over to its capture kernel.
PANICKED, CRASHLOADED = "crashed/panicked", "crashed/crashloaded"
# The end of a QEMU by itself, neither by the guest's shutdown nor by a command.
DIED = "stopped/5"
# QEMU stops the processors when a disk's file on the guest host cannot be written, as on a full file system.
DISK_FULL = "suspended/2"
SSH_PORT = 22
CONSOLE_GATHER_MS = 40  # interval of reading a serial line, and thereby the precision of the times of its lines
SECOND = 2  # of the paths to a disk
SEND_AGAIN_S = 0.02
SEND_TIMEOUT_S = 60.0  # of a line that the guest does not read
# linux/input-event-codes.h
_KEYS: Mapping[str, int] = {"KEY_LEFTALT": 56, "KEY_SYSRQ": 99, "KEY_C": 46}
KEYS_HELD_MS = 200


@dataclass
class DomainEvents:
    """The events of one domain, each with its time on the monotonic clock."""

    seen: list[tuple[float, str]] = field(default_factory=list)
    listener: Callable[[str], None] | None = None

    def add(self, what: str) -> None:
        """Record an event."""
        self.seen.append((now_s(), what))
        if self.listener is not None:
            self.listener(what)

    def first_s(self, kind: str, *, since_s: float = 0.0) -> float | None:
        """Return the time of the first event of KIND, or of exactly KIND/DETAIL, at SINCE_S or later."""
        times = (at_s for at_s, what in self.seen if at_s >= since_s and kind in (what, what.partition("/")[0]))
        return next(times, None)

    def wait_for(self, kind: str, *, timeout_s: float) -> None:
        """Wait until an event of KIND was seen, or the time is over."""
        deadline = Deadline(timeout_s)
        while not (self.has(kind) or deadline.passed):
            pause(SEND_AGAIN_S)

    def has(self, kind: str) -> bool:
        """Return whether an event of KIND, or of exactly KIND/DETAIL, was seen."""
        return self.first_s(kind) is not None


class Domain:
    """A running transient domain; libvirt destroys it when the connection of this process ends."""

    def __init__(
        self,
        hypervisor: Hypervisor,
        handle: Any,
        name: str,
        nic: Nic | None = None,
        nics: tuple[Nic, ...] = (),
        address: str | None = None,
    ) -> None:
        """NIC is the card for SSH, and ADDRESS its last known address."""
        self._hypervisor = hypervisor
        self._handle = handle
        self.name = name
        self.nic, self.nics = nic or Nic(mac=""), nics  # the card for SSH, and the others
        self._address = address
        self.ssh_port = SSH_PORT
        if self.nic.network == USER_NETWORK:
            self._address, self.ssh_port = forward(handle, name, SSH_PORT)
        self._saved = False
        self.events = DomainEvents()
        self._serial_lines: list[tuple[Any, int]] = []  # streams, each with its timer
        self._sources: list[ByteQueue] = []
        self._hypervisor.watch(handle, self.events)

    def open_console(self, on_bytes: Callable[[bytes], None]) -> ByteQueue:
        """Return the serial console, read through libvirt, also of a remote host; ON_BYTES sees every chunk first."""
        return self._open_serial(None, on_bytes, ByteQueue())[0]

    def open_control_line(self) -> tuple[ByteQueue, Callable[[bytes], None]]:
        """Return what arrives on the second serial line, and the function that writes to it."""
        source = ByteQueue()
        source.gather_s = 0.0  # an answer is awaited
        source, stream = self._open_serial("serial1", lambda _data: None, source)

        def send(data: bytes) -> None:
            with guest_error(f"{self.name}: cannot write to the control line"):
                deadline = Deadline(SEND_TIMEOUT_S)
                while data:
                    sent = stream.send(data)
                    if sent == -2:  # the line takes no more just now
                        if deadline.passed:
                            raise GuestError(f"{self.name}: the guest reads nothing from its control line")
                        pause(SEND_AGAIN_S)
                    else:
                        data = data[sent:]

        return source, send

    def _open_serial(
        self, device: str | None, on_bytes: Callable[[bytes], None], source: ByteQueue
    ) -> tuple[ByteQueue, Any]:
        stream = self._hypervisor.new_stream()
        with guest_error(f"{self.name}: cannot open the serial line"):
            self._handle.openConsole(device, stream, libvirt.VIR_DOMAIN_CONSOLE_FORCE)

        ended = libvirt.VIR_STREAM_EVENT_HANGUP | libvirt.VIR_STREAM_EVENT_ERROR

        def pump(stream: Any, events: int, _: object) -> None:
            """Read everything, then pause for a moment: a serial line brings a few bytes each time."""
            try:
                while True:
                    data = stream.recv(65536)
                    if data == -2:  # nothing more just now
                        if events & ended:
                            break
                        if not source.gather_s:
                            return
                        stream.eventUpdateCallback(ended)
                        libvirt.virEventUpdateTimeout(timer, CONSOLE_GATHER_MS)
                        return
                    if not data:
                        break
                    try:
                        on_bytes(data)
                    except OSError as error:  # no caller of this thread could handle it
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
            with contextlib.suppress(libvirt.libvirtError):  # the stream may have ended meanwhile
                stream.eventUpdateCallback(libvirt.VIR_STREAM_EVENT_READABLE | ended)

        timer = libvirt.virEventAddTimeout(-1, look_again, None)
        self._serial_lines.append((stream, timer))
        self._sources.append(source)
        stream.eventAddCallback(libvirt.VIR_STREAM_EVENT_READABLE | ended, pump, None)
        self._hypervisor.end_when_lost(source)
        return source, stream

    def end_lines(self) -> None:
        """End the serial lines for their readers, of a guest that will say nothing more."""
        for source in self._sources:
            source.put(b"")

    def resume(self) -> None:
        """Start the processors of a paused domain."""
        with guest_error(f"{self.name}: cannot start the processors"):
            self._handle.resume()

    def reset(self) -> None:
        """Press the reset button."""
        with guest_error(f"{self.name}: cannot reset the machine"):
            self._handle.reset()

    def inject_nmi(self) -> None:
        """Inject an NMI."""
        with guest_error(f"{self.name}: cannot inject an NMI"):
            self._handle.injectNMI()

    def press_keys(self, *names: str) -> None:
        """Press keys, named as in Linux, all at once, and release them."""
        codes = [_KEYS[name] for name in names]
        with guest_error(f"{self.name}: cannot press the keys {', '.join(names)}"):
            self._handle.sendKey(libvirt.VIR_KEYCODE_SET_LINUX, KEYS_HELD_MS, codes, len(codes))

    def set_link(self, up: bool, nic: Nic | None = None) -> None:
        """Set the link of a network card up or down; without NIC, of the card for SSH."""
        xml = (nic or self.nic).xml(up=up)
        with guest_error(f"{self.name}: cannot change the network link"):
            self._handle.updateDeviceFlags(xml, libvirt.VIR_DOMAIN_AFFECT_LIVE)

    def attach(self, xml: str) -> None:
        """Add a device."""
        with guest_error(f"{self.name}: cannot add a device"):
            self._handle.attachDeviceFlags(xml, libvirt.VIR_DOMAIN_AFFECT_LIVE)

    def detach(self, xml: str) -> None:
        """Ask the guest to give a device back, as its XML is in the domain."""
        with guest_error(f"{self.name}: cannot remove a device"):
            self._handle.detachDeviceFlags(xml, libvirt.VIR_DOMAIN_AFFECT_LIVE)

    def update(self, xml: str) -> None:
        """Change a device, given as its XML is in the domain."""
        with guest_error(f"{self.name}: cannot change a device"):
            self._handle.updateDeviceFlags(xml, libvirt.VIR_DOMAIN_AFFECT_LIVE)

    def lose_path(self) -> None:
        """Remove the second path to each disk that has several."""
        with guest_error(f"{self.name}: libvirt does not report its disks"):
            root = ElementTree.fromstring(self._handle.XMLDesc())
        ways: dict[str | None, int] = {}
        for disk in root.findall("./devices/disk[wwn]"):
            name = disk.findtext("wwn")
            ways[name] = ways.get(name, 0) + 1
            if ways[name] == SECOND:
                self.detach(ElementTree.tostring(disk, encoding="unicode"))

    def set_vcpus(self, number: int) -> None:
        """Add processors, or ask the guest to give some back, which a busy guest does after the return."""
        with guest_error(f"{self.name}: cannot change the number of processors"):
            try:
                self._handle.setVcpusFlags(number, libvirt.VIR_DOMAIN_AFFECT_LIVE)
            except libvirt.libvirtError as error:
                # libvirt waits for 5 s; the request stands.
                if error.get_error_code() != libvirt.VIR_ERR_OPERATION_TIMEOUT:
                    raise

    def vcpus(self) -> int:
        """Return the number of processors that the machine has now."""
        with guest_error(f"{self.name}: libvirt does not report its processors"):
            return int(self._handle.vcpusFlags(libvirt.VIR_DOMAIN_AFFECT_LIVE))

    def log(self) -> str:
        """Return QEMU's log; empty where this user cannot read it."""
        return self._hypervisor.log_of(self.name)

    def nvram(self) -> Path | None:
        """Return the file with the variables of UEFI, if there is one."""
        found = ElementTree.fromstring(self.xml()).findtext("./os/nvram")
        return Path(found) if found else None

    def memory_devices(self, model: str) -> list[ElementTree.Element]:
        """Return the memory devices of a model, as they are in the domain now."""
        with guest_error(f"{self.name}: libvirt does not report its devices"):
            root = ElementTree.fromstring(self._handle.XMLDesc())
        return root.findall(f"./devices/memory[@model='{model}']")

    def dump_memory(self, path: Path, *, compressed: bool = False, tick: Callable[[], None] | None = None) -> None:
        """Write the guest's memory, as the hypervisor sees it; the guest is paused meanwhile.

        The file is an ELF core, or COMPRESSED a kdump-compressed dump of all pages.
        The file must exist and belong to this user: libvirt creates files that only root can read.
        """
        raw, zlib = libvirt.VIR_DOMAIN_CORE_DUMP_FORMAT_RAW, libvirt.VIR_DOMAIN_CORE_DUMP_FORMAT_KDUMP_ZLIB
        kind, only = zlib if compressed else raw, libvirt.VIR_DUMP_MEMORY_ONLY
        with guest_error(f"{self.name}: cannot dump the memory"):
            in_background(lambda: self._handle.coreDumpWithFormat(str(path), kind, only), tick)

    def save(self, path: Path, *, tick: Callable[[], None] | None = None) -> str:
        """Save memory and devices to a new file, which ends the domain, and return the domain's XML.

        Hypervisor.restore() continues from the file.
        """
        with guest_error(f"{self.name}: cannot save the memory"):
            xml = str(self._handle.XMLDesc(libvirt.VIR_DOMAIN_XML_MIGRATABLE))
            self._close_console()
            in_background(lambda: self._handle.saveFlags(str(path), None, libvirt.VIR_DOMAIN_SAVE_PAUSED), tick)
        self._saved = True
        self._hypervisor.unwatch(self._handle)
        return xml

    def state(self) -> str:
        """Return running, paused, crashed or gone."""
        try:
            code, _ = self._handle.state()
        except libvirt.libvirtError as error:
            if error.get_error_code() in GONE:
                return "gone"
            raise GuestError(f"{self.name}: libvirt no longer answers ({first_line(error)})") from None
        names = {
            libvirt.VIR_DOMAIN_RUNNING: "running",
            libvirt.VIR_DOMAIN_PAUSED: "paused",
            libvirt.VIR_DOMAIN_CRASHED: "crashed",
            libvirt.VIR_DOMAIN_SHUTOFF: "gone",
        }
        return names.get(code, f"state {code}")

    def address(self) -> str | None:
        """Return the IPv4 address that libvirt's DHCP server leased, even if the lease has expired.

        With user networking, it is the address of the forwarded port on the guest host.
        """
        if self.nic.network == USER_NETWORK:
            return self._address
        try:
            leases = self._handle.interfaceAddresses(libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_LEASE)
        except libvirt.libvirtError as error:
            if error.get_error_code() in GONE:
                return None
            raise GuestError(f"{self.name}: libvirt does not report its address ({first_line(error)})") from None
        for nic in leases.values():
            if nic["hwaddr"] == self.nic.mac:
                for address in nic["addrs"] or ():
                    if address["type"] == libvirt.VIR_IP_ADDR_TYPE_IPV4:
                        self._address = str(address["addr"])
        return self._address

    def xml(self) -> str:
        """Return the domain XML as libvirt completed it."""
        try:
            return str(self._handle.XMLDesc())
        except libvirt.libvirtError as error:
            return f"<!-- {first_line(error)} -->\n"

    def disks(self) -> tuple[Path, ...]:
        """Return the files of the writable disks, the system disk first."""
        with guest_error(f"{self.name}: libvirt does not report its disks"):
            return written_by(str(self._handle.XMLDesc()))

    def destroy(self) -> None:
        """Destroy the domain, if it still exists."""
        if self._saved:
            return  # another domain has its name now
        self._close_console()
        try:
            self._handle.destroy()
        except libvirt.libvirtError as error:
            if error.get_error_code() in GONE:
                pass
            elif self._hypervisor.alive():
                raise GuestError(f"{self.name}: cannot be destroyed ({first_line(error)})") from None
            else:
                # libvirtd was restarted: the new one has adopted the domain, but not its auto-destroy flag.
                self._hypervisor.destroy_after_reconnect(self.name)
        self._hypervisor.unwatch(self._handle)

    def kill(self) -> None:
        """Destroy the domain without clean-up: the thread that owns it notices and cleans up."""
        with contextlib.suppress(libvirt.libvirtError):
            self._handle.destroy()

    def _close_console(self) -> None:
        """Stop reading the serial lines."""
        for stream, timer in self._serial_lines:
            with contextlib.suppress(libvirt.libvirtError):
                stream.eventRemoveCallback()
                stream.abort()
            libvirt.virEventRemoveTimeout(timer)
        self._serial_lines.clear()

    def connection_lost(self) -> bool:
        """Return whether the connection to libvirt is lost, rather than the guest."""
        return not self._hypervisor.alive()
