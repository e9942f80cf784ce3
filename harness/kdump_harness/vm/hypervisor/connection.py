"""A connection to libvirt: capabilities, networks, domains and events."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import threading
import weakref
from collections.abc import Callable, Container
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import libvirt

from ...base.clock import poll
from ...base.errors import HostError, UsageError, WaitedInVain
from ...images.state import is_held
from .byte_queue import ByteQueue
from .domain import CRASHLOADED, PANICKED, Domain, DomainEvents
from .domain_xml import NETWORK, USER_NETWORK, DomainSpec, Nic, SavedDomain, new_mac
from .libvirt_call import first_line, in_background
from .source_domain import SourceDomain

SYSTEM_LOGS = Path("/var/log/libvirt/qemu")
SYSTEM, SESSION = "qemu:///system", "qemu:///session"
PREFIX = "kdh-"  # of the names of all domains of the harness
_NAMESPACE = "urn:kdump-harness"  # XML namespace of the harness's metadata
CONNECT_TIMEOUT_S = 20.0
RESTART_TIMEOUT_S = 20.0
# The loss of a remote host is noticed after about half a minute.
KEEPALIVE_S, KEEPALIVE_COUNT = 6, 5
_EVENTS = {
    libvirt.VIR_DOMAIN_EVENT_STARTED: "started",
    libvirt.VIR_DOMAIN_EVENT_SUSPENDED: "suspended",
    libvirt.VIR_DOMAIN_EVENT_RESUMED: "resumed",
    libvirt.VIR_DOMAIN_EVENT_STOPPED: "stopped",
    libvirt.VIR_DOMAIN_EVENT_SHUTDOWN: "shutdown",
    libvirt.VIR_DOMAIN_EVENT_CRASHED: "crashed",
}
_LOG_BYTES = 64 << 10
_CRASHES = {
    libvirt.VIR_DOMAIN_EVENT_CRASHED_PANICKED: PANICKED,
    libvirt.VIR_DOMAIN_EVENT_CRASHED_CRASHLOADED: CRASHLOADED,
}
# Features that each x86-64 level adds, by libvirt's names; xsave stands for OSXSAVE, which the system sets.
_LEVEL_FEATURES = {
    1: (),
    2: ("cx16", "lahf_lm", "popcnt", "pni", "sse4.1", "sse4.2", "ssse3"),
    3: ("abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave"),
}
_CLOSE_REASONS = {
    libvirt.VIR_CONNECT_CLOSE_REASON_ERROR: "an I/O error",
    libvirt.VIR_CONNECT_CLOSE_REASON_EOF: "libvirtd closed it",
    libvirt.VIR_CONNECT_CLOSE_REASON_KEEPALIVE: "libvirtd no longer answers",
    libvirt.VIR_CONNECT_CLOSE_REASON_CLIENT: "closed by this process",
}


class Hypervisor:
    """A connection to libvirt."""

    def __init__(
        self, uri: str | None = None, *, address: str | None = None, is_held: Callable[[Path], bool] = is_held
    ) -> None:
        """Connect; HostError when libvirt does not answer.

        ADDRESS is the URI for libvirt where it differs from the user's. IS_HELD returns whether a run on the guest host
        holds the lock in a directory there.
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
        """End all consoles when libvirtd is gone, since their streams do not end by themselves."""
        self._closed_by = _CLOSE_REASONS.get(reason, f"reason {reason}")
        for console in tuple(self._consoles):
            console.put(b"")

    def close(self) -> None:
        """Close the connection; libvirt destroys the domains that it started."""
        with contextlib.suppress(libvirt.libvirtError):
            self._connection.close()

    def alive(self) -> bool:
        """Return whether the connection still works."""
        if self._closed_by:
            return False
        with contextlib.suppress(libvirt.libvirtError):
            return bool(self._connection.isAlive())
        return False

    @property
    def is_session(self) -> bool:
        """Whether it is the instance of one user, which has no networks that reach guests."""
        return is_session(self.uri)

    @property
    def is_local(self) -> bool:
        """Whether the hypervisor runs on this host and shares its files."""
        return is_local(self.uri)

    def versions(self) -> dict[str, str]:
        """Return the versions of libvirt and QEMU."""
        return {"libvirt": _version(self._connection.getLibVersion()), "qemu": _version(self._connection.getVersion())}

    def accelerators(self) -> tuple[str, ...]:
        """Return the domain types that libvirt reports for x86_64: kvm, qemu."""
        root = ElementTree.fromstring(self._connection.getCapabilities())
        found = root.findall("./guest/arch[@name='x86_64']/domain")
        return tuple(sorted({element.get("type", "") for element in found}))

    def owner_of_files(self) -> tuple[int, int] | None:
        """Return user and group of QEMU's processes, where they differ from those of this process."""
        root = ElementTree.fromstring(self._connection.getCapabilities())
        for module in root.findall("./host/secmodel"):
            label = module.findtext("baselabel", "")
            if module.findtext("model") == "dac" and re.fullmatch(r"\+\d+:\+\d+", label):
                user, group = label.replace("+", "").split(":")
                return int(user), int(group)
        return None

    def lacks(self, accelerator: str, cpu_level: int) -> str | None:
        """Return the features of an x86-64 level that guests here would lack, or None.

        A libvirt that cannot compare processors counts as lacking none.
        """
        wanted = [name for level in range(2, cpu_level + 1) for name in _LEVEL_FEATURES[level]]
        if not wanted:
            return None
        features = "".join(f'<feature policy="require" name="{name}"/>' for name in wanted)
        # kvm64 stands for every 64-bit processor: unlike qemu64, it has no feature of a single vendor.
        cpu = f"<cpu><arch>x86_64</arch><model>kvm64</model>{features}</cpu>"
        kind = "kvm" if accelerator == "kvm" else "qemu"
        try:
            self._connection.compareHypervisorCPU(
                None, "x86_64", None, kind, cpu, libvirt.VIR_CONNECT_COMPARE_CPU_FAIL_INCOMPATIBLE
            )
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_CPU_INCOMPATIBLE:
                return first_line(error).rpartition(": ")[2]
        return None

    def firmware(self) -> tuple[str, ...]:
        """Return the names in FIRMWARE that guests here can boot with."""
        try:
            capabilities = self._connection.getDomainCapabilities(None, "x86_64", "q35", None)
        except libvirt.libvirtError:
            return ("bios",)
        os_element = ElementTree.fromstring(capabilities).find("./os")
        offered = set() if os_element is None else {value.text for value in os_element.findall("./enum/value")}
        secure = os_element is not None and any(
            value.text == "yes" for value in os_element.findall("./loader/enum[@name='secure']/value")
        )
        if "efi" not in offered:
            return ("bios",)
        return ("bios", "uefi", "uefi-secure") if secure else ("bios", "uefi")

    def ensure_network(self) -> None:
        """Start libvirt's default NAT network if it is stopped; no other object of the user is changed."""
        try:
            network = self._connection.networkLookupByName(NETWORK)
            if not network.isActive():
                network.create()
        except libvirt.libvirtError as error:
            raise HostError(
                f"cannot use libvirt's network {NETWORK!r} at {self.uri}: {first_line(error)}"
                " (run kdump-harness doctor to find the cause)"
            ) from None

    def make_network(
        self, name: str, address: str, prefix: int, *, run: Path, leases: tuple[str, str] | None = None
    ) -> None:
        """Start a transient isolated network with this host at ADDRESS; HostError if the address is in use.

        RUN is the directory of the run that owns it. LEASES are the first and the last address of its DHCP server;
        without them it has none.
        """
        owner = f'<metadata><kdh:run xmlns:kdh="{_NAMESPACE}">{escape(str(run))}</kdh:run></metadata>'
        dhcp = f'<dhcp><range start="{leases[0]}" end="{leases[1]}"/></dhcp>' if leases else ""
        xml = (
            f'<network><name>{escape(name)}</name>{owner}<dns enable="no"/>'  # without DHCP no dnsmasq is started
            f'<ip address="{address}" prefix="{prefix}">{dhcp}</ip></network>'
        )
        try:
            self._connection.networkCreateXML(xml)
        except libvirt.libvirtError as error:
            raise HostError(f"libvirt at {self.uri} cannot start the network {name}: {first_line(error)}") from None

    def stale_networks(self, active: Container[str]) -> tuple[str, ...]:
        """Return the networks of stale runs; ACTIVE are the active runs of this state directory."""
        return tuple(
            sorted(
                network.name()
                for network in self._connection.listAllNetworks()
                if network.name().startswith(PREFIX)
                and network.name().split("-")[1] not in active
                and not self._is_used(network)
            )
        )

    def _is_used(self, network: Any) -> bool:
        """Return whether the run of a network is active; without a recorded run, whether guests are connected."""
        with contextlib.suppress(libvirt.libvirtError):  # the network is gone
            owner = ElementTree.fromstring(network.XMLDesc()).findtext(f"metadata/{{{_NAMESPACE}}}run")
            return self._is_held(Path(owner)) if owner is not None else bool(network.listAllPorts())
        return False

    def remove_network(self, name: str) -> None:
        """Remove a network of the harness, if it still exists."""
        with contextlib.suppress(libvirt.libvirtError):
            self._connection.networkLookupByName(name).destroy()

    def network_problem(self) -> str | None:
        """Return why guests cannot use the default network, or in a session user networking, which is tried."""
        if self.is_session:
            try:
                self.spawn_raw(*_user_network_probe()).destroy()
            except HostError as error:
                return str(error)
            return None
        try:
            network = self._connection.networkLookupByName(NETWORK)
        except libvirt.libvirtError as error:
            return first_line(error)
        return None if network.isActive() else f"network {NETWORK} is not started"

    def spawn(self, spec: DomainSpec, xml: str | None = None) -> Domain:
        """Start a transient domain, paused, so that its console can be opened before its first byte.

        XML replaces the XML of SPEC.
        """
        return self._spawn(spec.name, xml or spec.xml(), spec.nic, spec.nics)

    def spawn_raw(self, name: str, xml: str, nic: Nic | None = None) -> Domain:
        """Start a domain from XML, paused; for probes rather than guests."""
        return self._spawn(name, xml, nic)

    def _spawn(self, name: str, xml: str, nic: Nic | None = None, nics: tuple[Nic, ...] = ()) -> Domain:
        flags = libvirt.VIR_DOMAIN_START_PAUSED | libvirt.VIR_DOMAIN_START_AUTODESTROY
        try:
            handle = self._connection.createXML(xml, flags)
        except libvirt.libvirtError as error:
            raise HostError(f"libvirt at {self.uri} cannot start {name}: {first_line(error)}") from None
        try:
            return Domain(self, handle, name, nic, nics)
        except HostError:
            with contextlib.suppress(libvirt.libvirtError):
                handle.destroy()
            raise

    def restore(self, path: Path, saved: SavedDomain, *, tick: Callable[[], None] | None = None) -> Domain:
        """Restore a domain, paused, from the file of Domain.save(); no domain of its name may run.

        libvirt does not destroy a restored domain when the connection ends: the reaper and `clean` do.
        """
        flags = libvirt.VIR_DOMAIN_SAVE_PAUSED
        try:
            in_background(lambda: self._connection.restoreFlags(str(path), saved.xml, flags), tick)
            handle = self._connection.lookupByName(saved.name)
        except libvirt.libvirtError as error:
            raise HostError(f"libvirt at {self.uri} cannot restore {saved.name}: {first_line(error)}") from None
        except BaseException:  # interrupted, but the domain exists by now
            self.destroy_named(saved.name)
            raise
        try:
            return Domain(self, handle, saved.name, saved.nic, saved.nics, saved.address)
        except HostError:
            self.destroy_named(saved.name)
            raise

    def own_domains(self) -> tuple[str, ...]:
        """Return the names of the domains of the harness."""
        return tuple(sorted(d.name() for d in self._connection.listAllDomains() if d.name().startswith(PREFIX)))

    def logs(self) -> tuple[Path, ...]:
        """Return libvirt's logs of the guests of the harness, as far as this user may remove them."""
        directory = log_directory(self.uri)
        if directory is None or not os.access(directory, os.W_OK | os.X_OK):
            return ()
        return tuple(sorted(directory.glob(f"{PREFIX}*.log*")))

    def log_of(self, name: str) -> str:
        """Return the end of libvirt's log of a guest; empty where this user cannot read it."""
        directory = log_directory(self.uri)
        try:
            return (
                (directory / f"{name}.log").read_bytes()[-_LOG_BYTES:].decode("utf-8", "replace") if directory else ""
            )
        except OSError:
            return ""

    def remove_logs(self, run: str) -> None:
        """Remove libvirt's logs of the guests of a run, which libvirt would keep for ever."""
        for path in self.logs():
            if path.name.startswith(f"{PREFIX}{run}-"):
                with contextlib.suppress(OSError):
                    path.unlink()

    def find(self, name: str) -> SourceDomain:
        """Return a source domain, running or shut off; UsageError lists the known names."""
        known = [domain.name() for domain in self._connection.listAllDomains()]
        candidates = sorted(other for other in known if not other.startswith(PREFIX))
        if name.startswith(PREFIX):
            raise UsageError(f"{name} is a guest of kdump-harness: choose another domain")
        if name not in candidates:
            raise UsageError(f"no domain {name!r} at {self.uri} (known: {', '.join(candidates) or 'none'})")
        return SourceDomain(self._connection, name)

    def copies(self) -> tuple[tuple[str, Path], ...]:
        """Return the copies of running domains in progress: domain and target file."""
        found = []
        for domain in self._connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE):
            with contextlib.suppress(libvirt.libvirtError):  # most domains have no copy in progress
                for target in ElementTree.fromstring(domain.backupGetXMLDesc()).iterfind(".//target[@file]"):
                    found.append((domain.name(), Path(target.get("file", ""))))
        return tuple(found)

    def disks_of(self, name: str) -> tuple[Path, ...]:
        """Return the files of a domain's disks."""
        try:
            root = ElementTree.fromstring(self._connection.lookupByName(name).XMLDesc())
        except libvirt.libvirtError:
            return ()
        return tuple(Path(source.get("file", "")) for source in root.findall("./devices/disk/source"))

    def destroy_named(self, name: str) -> None:
        """Destroy a domain by its name, if it exists."""
        with contextlib.suppress(libvirt.libvirtError):
            self._connection.lookupByName(name).destroy()

    def destroy_run(self, identity: str) -> None:
        """Destroy what is left of a run: a second signal may have interrupted the end of a guest."""
        with contextlib.suppress(libvirt.libvirtError):
            for name in self.own_domains():
                if name.startswith(f"{PREFIX}{identity}-"):
                    self.destroy_named(name)

    def destroy_after_reconnect(self, name: str) -> None:
        """Destroy a domain over a new connection, after this one was lost; wait for libvirtd to restart."""

        def attempt() -> bool | None:
            try:
                fresh = Hypervisor(self.uri, address=self.address)
            except HostError:
                return None
            fresh.destroy_named(name)
            gone = name not in fresh.own_domains()
            fresh.close()
            return gone or None

        try:
            poll(f"libvirt at {self.uri} to answer again", attempt, timeout_s=RESTART_TIMEOUT_S)
        except WaitedInVain as error:
            raise HostError(f"{error}; {name} may still run (remove it with kdump-harness clean)") from None

    def end_when_lost(self, console: ByteQueue) -> None:
        """End this console when the connection is lost."""
        self._consoles.add(console)

    def new_stream(self) -> Any:
        """Return a non-blocking stream."""
        return self._connection.newStream(libvirt.VIR_STREAM_NONBLOCK)

    def watch(self, handle: Any, events: DomainEvents) -> None:
        """Collect the lifecycle events of a domain."""

        def lifecycle(_c: object, _d: object, event: int, detail: int, _o: object) -> None:
            events.add(event_name(event, detail))

        def reboot(_c: object, _d: object, _o: object) -> None:
            events.add("reboot")

        register = self._connection.domainEventRegisterAny
        self._watched[handle.UUIDString()] = [
            register(handle, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, lifecycle, None),
            register(handle, libvirt.VIR_DOMAIN_EVENT_ID_REBOOT, reboot, None),
        ]

    def unwatch(self, handle: Any) -> None:
        """Stop collecting the events of a domain."""
        for number in self._watched.pop(handle.UUIDString(), ()):
            with contextlib.suppress(libvirt.libvirtError):
                self._connection.domainEventDeregisterAny(number)


def event_name(event: int, detail: int) -> str:
    """Return KIND/DETAIL of a lifecycle event; the details of a panic by name, all others as libvirt's number."""
    name = f"{_EVENTS.get(event, str(event))}/{detail}"
    return _CRASHES.get(detail, name) if event == libvirt.VIR_DOMAIN_EVENT_CRASHED else name


def is_local(uri: str) -> bool:
    """Return whether a URI names no other host; an invalid URI counts as local and libvirt refuses it."""
    rest = uri.partition("://")[2]
    return not rest or rest.startswith("/")


def is_session(uri: str) -> bool:
    """Return whether a URI names libvirt's instance of one user; that of root is the system's instance."""
    return urlsplit(uri).path == "/session" and not (is_local(uri) and os.getuid() == 0)


def log_directory(uri: str) -> Path | None:
    """Return where libvirt keeps the logs of guests on this host; None for another host."""
    if not is_local(uri):
        return None
    if is_session(uri):
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        return Path(cache) / "libvirt" / "qemu" / "log"
    return SYSTEM_LOGS


def default_uri() -> str:
    """Return LIBVIRT_DEFAULT_URI, else the system's instance, or the session of a user whom that refuses.

    libvirt's own default for an ordinary user is the session even where the system's instance, which is faster and has
    networks, can be used.
    """
    return os.environ.get("LIBVIRT_DEFAULT_URI") or _usable_uri()


@functools.cache
def _usable_uri() -> str:
    if os.getuid() != 0:
        try:
            _connect(SYSTEM, SYSTEM).close()
        except HostError:
            return SESSION
    return SYSTEM


def _connect(uri: str, address: str) -> Any:
    """Return an open connection; HostError without an answer within CONNECT_TIMEOUT_S."""
    libvirt.registerErrorHandler(lambda _context, _error: None, None)  # the harness prints errors itself
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
            raise UsageError(f"{uri!r} is not a libvirt URI, such as qemu:///system or qemu+ssh://host/system")
        raise HostError(
            f"libvirt at {uri} does not answer: {first_line(error)} (run kdump-harness doctor to see how to start it)"
        )
    return outcome[0]


def _user_network_probe() -> tuple[str, str, Nic]:
    """Return name, XML and network card of the smallest domain with user networking."""
    name, nic = f"{PREFIX}{os.getpid():x}-network", Nic(mac=new_mac(), network=USER_NETWORK)
    xml = (
        f'<domain type="qemu"><name>{name}</name><memory unit="MiB">16</memory><vcpu>1</vcpu>'
        f'<os><type arch="x86_64" machine="q35">hvm</type></os>'
        f'<devices>{nic.xml()}<memballoon model="none"/></devices></domain>'
    )
    return name, xml, nic


_loop_started = threading.Lock()
_loop_running = False


def _start_event_loop() -> None:
    """Start the one thread that serves streams, events and keep-alives of all connections."""
    global _loop_running
    with _loop_started:
        if _loop_running:
            return
        libvirt.virEventRegisterDefaultImpl()
        # The loop sleeps until something happens; a timer that never fires keeps it from returning at once.
        libvirt.virEventAddTimeout(3_600_000, lambda _timer, _opaque: None, None)

        def serve() -> None:
            while True:
                libvirt.virEventRunDefaultImpl()

        threading.Thread(target=serve, name="libvirt-events", daemon=True).start()
        _loop_running = True


def _version(number: int) -> str:
    """Return a version that libvirt encodes as major * 1,000,000 + minor * 1,000 + release."""
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"
