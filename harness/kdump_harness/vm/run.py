"""One run of the harness: its hypervisor, state, evidence and accelerator, and its guests."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..base.clock import EMULATION_FACTOR, Deadline, pause, raise_if_stopped
from ..base.errors import GuestError, HostError, UsageError
from ..base.evidence import Evidence, EvidenceRoot
from ..base.progress import Progress, console_echo
from ..distro.architecture import Architecture, find_architecture
from ..images.catalog import CPU_LEVELS
from ..images.state import RunDirectory, State
from . import accel, capacity
from .cloud_init import KeyPair, make_key, write_seed
from .guest import Guest, SavedGuest
from .hosts.guest_host import GuestHost, open_guest_host
from .hypervisor.buses import BUSES
from .hypervisor.connection import PREFIX, Hypervisor
from .hypervisor.domain import DISK_FULL, Domain
from .hypervisor.domain_xml import FIRMWARE, NETWORK, USER_NETWORK, Disk, DomainSpec, Layer, Nic, new_mac
from .hypervisor.hub import Hub
from .hypervisor.memory_xml import DIMM_BLOCK_MIB, MAX_DIMMS, Spare
from .isolated_network import IsolatedNetwork, Port, hub_network, libvirt_network
from .reaper import Reaper
from .shells.shell import Access

MIN_MEMORY_MIB = 256
MAX_MEMORY_MIB = 4 * 1024 * 1024
MAX_VCPUS = 255
# Longest wait of a guest for memory that other guests have: the time of some drills.
MEMORY_WAIT_S = 3600.0
MEMORY_LOOK_S = 2.0


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of a run, from the command line or pytest."""

    uri: str | None = None
    state: Path | None = None
    remote_state: Path | None = None  # state directory on a remote guest host
    evidence: Path = Path("evidence")
    evidence_part: tuple[str, str] | None = None  # part of EvidenceRoot
    accelerator: str = "auto"
    timeout_factor: float = 1.0
    jobs: int | None = 1  # drills in parallel; None: as many as the host can run
    resume: Path | None = None  # record of an interrupted run, to be continued in its evidence
    beside: int = 0  # other processes of the same run, each with a guest
    keep: str = "failed"
    verbose: bool = False
    quiet: bool = False
    network: bool = True  # whether guests need libvirt's network


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The virtual hardware of a drill."""

    memory_mib: int = 1024  # at the power-on
    dimms_mib: tuple[int, ...] = ()  # sizes of the DIMMs besides that memory
    spare: Spare = field(default_factory=Spare)  # room for what is added while it runs
    vcpus: int = 2
    firmware: str = "bios"
    devices: tuple[str, ...] = ()  # names in domain_xml.DEVICES
    cpu_level: int | None = None  # x86-64 level; None: the level of the image, or everything if that is unknown
    disk_bus: str = "virtio"  # of the system's disk: a name in BUSES
    la57: bool = False  # five-level paging
    architecture: Architecture = field(default_factory=lambda: find_architecture("amd64"))

    @property
    def total_mib(self) -> int:
        """The whole memory, with the DIMMs."""
        return self.memory_mib + sum(self.dimms_mib)

    @property
    def most_mib(self) -> int:
        """The whole memory, with all that can be added."""
        return self.total_mib + self.spare.memory_mib

    def check(self) -> None:
        """Raise UsageError for hardware that no guest can have."""
        if not MIN_MEMORY_MIB <= self.memory_mib <= MAX_MEMORY_MIB:
            raise UsageError(
                f"invalid guest memory: got {self.memory_mib} MiB, expected {MIN_MEMORY_MIB} to {MAX_MEMORY_MIB}"
            )
        for size_mib in (*self.dimms_mib, *self.spare.dimms_mib, *filter(None, [self.spare.virtio_mem_mib])):
            if size_mib < DIMM_BLOCK_MIB or size_mib % DIMM_BLOCK_MIB:
                raise UsageError(f"invalid DIMM: got {size_mib} MiB, expected a multiple of {DIMM_BLOCK_MIB} MiB")
        dimms = len(self.dimms_mib) + len(self.spare.dimms_mib)
        if dimms > MAX_DIMMS or self.most_mib > MAX_MEMORY_MIB:
            raise UsageError(
                f"invalid DIMMs: got {dimms} and {self.most_mib} MiB of memory in all,"
                f" expected at most {MAX_DIMMS} and {MAX_MEMORY_MIB} MiB"
            )
        if self.firmware not in FIRMWARE:
            raise UsageError(f"unknown firmware {self.firmware!r} (known: {', '.join(FIRMWARE)})")
        if self.disk_bus not in BUSES:
            raise UsageError(f"unknown bus {self.disk_bus!r} of the system's disk (known: {', '.join(BUSES)})")
        self._check_architecture()
        if not 1 <= self.vcpus <= MAX_VCPUS - self.spare.cpus:
            most = MAX_VCPUS - self.spare.cpus
            raise UsageError(f"invalid number of processors: got {self.vcpus}, expected 1 to {most}")
        if self.cpu_level is not None and self.cpu_level not in CPU_LEVELS:
            known = ", ".join(map(str, CPU_LEVELS))
            raise UsageError(f"invalid x86-64 level: got {self.cpu_level}, expected one of {known}")

    def _check_architecture(self) -> None:
        """Raise UsageError for hardware that guests of another architecture than amd64 lack."""
        architecture = self.architecture
        if architecture.name == "amd64":
            return
        if self.cpu_level is not None:
            raise UsageError("--cpu is a level of x86-64 processors")
        if self.dimms_mib or self.spare != Spare():
            raise UsageError(f"--dimm and --hotplug need a guest for amd64, not for {architecture.name}")


@dataclass(frozen=True, kw_only=True)
class Identity:
    """The identity of a guest for the network and cloud-init."""

    name: str
    host_name: str
    mac: str
    host_key: KeyPair


@dataclass(frozen=True, kw_only=True)
class CloneTemplate:
    """The differences between a clone and a guest that is made from an image."""

    describe: Callable[[DomainSpec], str]  # XML of the clone
    network: str  # network of the card for SSH
    seeded: bool  # whether a seed has the run's key, the host name and the network


class Run:
    """The resources of one run, as a context manager."""

    def __init__(self, options: Options, *, progress: Progress | None = None) -> None:
        self.options = options
        self.progress = progress or Progress(quiet=options.quiet)
        self._resources = contextlib.ExitStack()
        self._numbers = itertools.count(1)
        self._evidence: EvidenceRoot | None = None
        self._dump_network: IsolatedNetwork | None = None
        self._reaper: Reaper | None = None
        self._lock = threading.RLock()  # for things that are made once, by the first job that needs them
        self._guests: dict[str, tuple[int, Domain]] = {}  # guests by name, each with its thread
        self._thread = threading.get_ident()  # main thread, which waits for the jobs
        self.side_by_side = 1  # active jobs, each with a guest now or soon
        self.accelerator = ""
        self._remote = False  # whether the guest host is a remote one

    def __enter__(self) -> Run:
        with contextlib.ExitStack() as resources:
            self.state = State(self.options.state)
            self.directory: RunDirectory = resources.enter_context(self.state.run())
            self.host: GuestHost = resources.enter_context(
                open_guest_host(
                    self.options.uri,
                    self.state,
                    self.directory,
                    remote_state=self.options.remote_state,
                    progress=self.progress,
                )
            )
            self.hypervisor = Hypervisor(self.options.uri, address=self.host.address, is_held=self.host.is_held)
            resources.callback(self.hypervisor.close)
            resources.callback(self.hypervisor.remove_logs, self.directory.identity)
            resources.callback(self.hypervisor.destroy_run, self.directory.identity)
            self._ending = resources.enter_context(ThreadPoolExecutor(thread_name_prefix="end"))
            self._remote = not self.hypervisor.is_local
            if self.hypervisor.is_session and self.options.uri is None:
                self.progress.say(f"libvirt: {self.hypervisor.uri}, without the system's instance")
            with self._readable(()):  # before anything is built there
                pass
            self.accelerator, why = accel.choose(
                self.options.accelerator, self.hypervisor, self.state, self.directory.path, self.host
            )
            self.progress.say(f"accelerator: {why}")
            if self.options.network and not self.hypervisor.is_session:
                self.hypervisor.ensure_network()
            self.login: KeyPair = make_key("kdump-harness")
            self._resources = resources.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self.abandon()  # guests of jobs that did not end in time; afterwards the reaper has nothing to destroy
        self._resources.close()

    @property
    def beside(self) -> int:
        """The number of other drills of this run on the host now."""
        return self.side_by_side - 1 + self.options.beside

    @property
    def slowness(self) -> float:
        """The factor for waits on this host while it is idle."""
        return self.options.timeout_factor * (EMULATION_FACTOR if self.accelerator == accel.TCG else 1.0)

    @property
    def load(self) -> float:
        """The additional factor for waits because of the host's present load."""
        guests = max(len(self._guests), self.side_by_side) + self.options.beside
        if self._remote:
            return float(min(capacity.MOST_LOAD, guests))
        return capacity.load(guests, kvm=self.accelerator == accel.KVM)

    @property
    def factor(self) -> float:
        """The factor for waits that begin now."""
        return self.slowness * self.load

    def at_once(self, tasks_mib: Sequence[int], disk_mib: int) -> int:
        """Return and report how many tasks may run in parallel; TASKS_MIB is the guest memory of each.

        DISK_MIB is the disk space that one of them needs.
        """
        if self.options.jobs == 1 or not tasks_mib:
            return 1
        if self._remote:  # the processors and other guests of a remote host are unknown
            number = min(self.options.jobs or 1, len(tasks_mib))
            self.progress.say(f"jobs: {number} at once on a remote host, without a check of its resources (--jobs)")
            return number
        kvm = self.accelerator == accel.KVM
        untouched_mib = sum(guest.untouched_mib for guest in capacity.running_guests(PREFIX))
        room = capacity.Room(
            memory_mib=capacity.available_mib() - untouched_mib - capacity.SPARE_MIB,
            cores_guests=capacity.guests_by_cores(kvm=kvm),
            disk_mib=self.state.free_mib(),
            kvm=kvm,
        )
        needs = [capacity.guest_mib(mib) for mib in tasks_mib]
        number, why = capacity.how_many(self.options.jobs, needs, disk_mib, room)
        self.progress.say(f"jobs: {why}")
        return number

    def abandon(self) -> None:
        """Destroy all guests, so that threads that wait for one end."""
        for _, domain in list(self._guests.values()):
            domain.kill()

    def _room(self, name: str, memory_mib: int) -> contextlib.ExitStack:
        """Wait for the memory of one more guest; other guests start only after the returned lock is closed.

        HostError if the memory does not become free: the host's OOM killer must never have to act.
        """
        need_mib = capacity.guest_mib(memory_mib)
        if self._remote:
            self.host.require_memory(need_mib, name)
            return contextlib.ExitStack()
        deadline = Deadline(MEMORY_WAIT_S)
        if (held := self._try_room(name, need_mib, deadline)) is None:
            with self.progress.step(f"{name}: waiting for {need_mib:,} MiB of memory that other guests use"):
                while (held := self._try_room(name, need_mib, deadline)) is None:
                    pause(MEMORY_LOOK_S)
                    self.progress.tick()
        return held

    def _try_room(self, name: str, need_mib: int, deadline: Deadline) -> contextlib.ExitStack | None:
        with contextlib.ExitStack() as resources:
            resources.enter_context(self.state.starting())
            guests = capacity.running_guests(PREFIX)
            free_mib = capacity.available_mib() - sum(guest.untouched_mib for guest in guests)
            # Guests of the main thread stay while a job runs, such as the dump server of a comparison.
            stay = (threading.get_ident(), self._thread)
            own = {other: thread for other, (thread, _) in list(self._guests.items())}
            # Guests of other jobs count even where /proc hides processes of other users.
            others = {name for name in (*own, *(guest.name for guest in guests)) if own.get(name) not in stay}
            if free_mib >= need_mib + (capacity.SPARE_MIB if others else 0):
                return resources.pop_all()
            if not others or deadline.passed:
                instead = f" and none of {len(others)} other guests has ended" if others else ""
                raise HostError(
                    f"not enough memory for {name}: {need_mib:,} MiB needed, {max(free_mib, 0):,} MiB free on this host"
                    f"{instead} (free memory, or give the guest less with --memory)"
                )
            return None

    def evidence(self, name: str) -> Evidence:
        """Create an evidence directory of this run."""
        self.open_evidence()
        assert self._evidence is not None
        evidence = self._evidence.drill(name)
        if self.options.verbose:
            evidence.echo_console(console_echo)
        return evidence

    def evidence_again(self, directory: Path) -> Evidence:
        """Return the evidence in a directory of the interrupted run, to be continued."""
        self.open_evidence()
        return Evidence(directory, again=True)

    @property
    def evidence_directory(self) -> Path:
        """The evidence directory of this run."""
        self.open_evidence()
        assert self._evidence is not None
        return self._evidence.run

    def log_path(self, name: str) -> Path:
        """Return a new path for a log of this run outside its drills."""
        self.open_evidence()
        assert self._evidence is not None
        return self._evidence.log(name)

    def open_evidence(self) -> None:
        """Create the run's evidence directory now, so that an error is raised before work begins."""
        with self._lock:
            if self._evidence is None:
                again = self.options.resume.parents[1] if self.options.resume is not None else None
                root = again.parent if again is not None else self.options.evidence
                self._evidence = EvidenceRoot(root, part=self.options.evidence_part, again=again)

    def dump_network(self) -> IsolatedNetwork:
        """Return the isolated network for dumps, made at the first call."""
        with self._lock:
            if self._dump_network is None:
                self._dump_network = self._own_network("crash", dhcp=False)
            return self._dump_network

    def clone_network(self) -> str:
        """Create an isolated network with DHCP for one clone and return its name."""
        if self.hypervisor.is_session:
            raise HostError(
                f"a clone needs an isolated network, which libvirt at {self.hypervisor.uri} does not have"
                " (use --uri qemu:///system)"
            )
        return self._own_network(f"clone{next(self._numbers)}", dhcp=True).name

    def _own_network(self, label: str, *, dhcp: bool) -> IsolatedNetwork:
        name = f"{PREFIX}{self.directory.identity}-{label}"
        if self.hypervisor.is_session:
            self.host.require_local("a dump server in a user's session")
            hub = Hub()
            self._resources.callback(hub.close)
            return hub_network(name, hub.port)
        for left in self.hypervisor.stale_networks(self.host.active_runs()):
            self.hypervisor.remove_network(left)  # of killed runs, which could not remove them
        network = libvirt_network(self.hypervisor, name, run=self.host.directory, dhcp=dhcp)
        self._resources.callback(self.hypervisor.remove_network, name)
        return network

    def private_disk(self, capacity_bytes: int) -> Path:
        """Create a temporary qcow2 that only its owner can read, for the copy of a source domain's disk."""
        path = self.host.directory / f"disk-{next(self._numbers)}.qcow2"
        self.host.private(path)
        self.host.blank(path, str(capacity_bytes), mode=0o600)
        return path

    def fit(self, machine: Machine, *, needs: int | None) -> Machine:
        """Return the machine with the x86-64 level that a guest NEEDS; HostError if the host lacks it."""
        level = needs if machine.cpu_level is None else machine.cpu_level
        missing = self.hypervisor.lacks(self.accelerator, level) if level is not None else None
        if missing:
            what = f"the guest needs a processor of x86-64-v{level}, but"
            if self.accelerator == accel.KVM:
                raise HostError(f"{what} this host's lacks {missing} (--accelerator tcg emulates one, slowly)")
            raise HostError(f"{what} this QEMU does not emulate {missing} (QEMU 7.2 emulates x86-64-v3)")
        return replace(machine, cpu_level=level)

    def overlay(self, base: Path, *, base_format: str) -> Path:
        """Create an overlay on BASE in the run's directory."""
        path = self.host.directory / f"disk-{next(self._numbers)}.qcow2"
        self.host.overlay(path, base, base_format=base_format)
        return path

    def blank_disk(self, size_mib: int, *, serial: str, paths: int = 1) -> Disk:
        """Create an empty disk in the run's directory, with one or more paths to it."""
        kind = "qcow2" if paths == 1 else "raw"  # QEMU opens a qcow2 only once
        path = self.host.directory / f"disk-{next(self._numbers)}.{kind}"
        self.host.blank(path, f"{size_mib}M", kind=kind)
        return Disk(path=path, serial=serial, paths=paths)

    def identity(self, label: str) -> Identity:
        """Return a new identity for a guest."""
        number = next(self._numbers)
        name = f"{PREFIX}{self.directory.identity}-{number}-{label}"[:60]
        return Identity(name=name, host_name=_host_name(label, number), mac=new_mac(), host_key=make_key(name))

    @contextlib.contextmanager
    def guest(
        self,
        disk: Path,
        machine: Machine,
        evidence: Evidence,
        *,
        label: str,
        user: str = "root",
        identity: Identity | None = None,
        access: Access | None = None,
        ports: tuple[Port, ...] = (),
        disks: tuple[Disk, ...] = (),
        like: CloneTemplate | None = None,
        erst: Path | None = None,
        keep_disk: bool = False,
    ) -> Iterator[Guest]:
        """Provide a paused guest; it is destroyed at the end of the block.

        IDENTITY is given for the same machine again; with a new one cloud-init starts afresh. ACCESS is for guests
        without the run's key. LIKE is for clones. With KEEP_DISK, the run's later guests have DISK below theirs.
        """
        machine = self.fit(machine, needs=None)
        if self.accelerator == accel.KVM and not machine.architecture.may_use_kvm:
            raise UsageError(f"a guest for {machine.architecture.name} needs --accelerator tcg")
        identity = identity or self.identity(label)
        seed = self.directory.path / f"seed-{identity.name}.iso"
        nvram = self.host.directory / f"{identity.name}.nvram"
        host_key = identity.host_key
        usual = USER_NETWORK if self.hypervisor.is_session else NETWORK
        nic = Nic(mac=identity.mac, network=like.network if like is not None else usual)
        write_seed(
            seed,
            name=identity.host_name,
            mac=nic.mac,
            user=user,
            login=self.login,
            host=host_key,
            identity=identity.name,
            nics=tuple(port.seed for port in ports),
        )
        seed = self.host.put(seed)
        layers = self.host.layers(disk)
        spec = DomainSpec(
            name=identity.name,
            accelerator=self.accelerator,
            memory_mib=machine.memory_mib,
            dimms_mib=machine.dimms_mib,
            spare=machine.spare,
            vcpus=machine.vcpus,
            disk=disk,
            layers=layers,
            seed=seed if like is None or like.seeded else None,
            nic=nic,
            cpu_level=machine.cpu_level,
            firmware=machine.firmware,
            nvram=nvram,
            devices=machine.devices,
            nics=tuple(port.nic for port in ports),
            extra_disks=disks,
            erst=erst,
            disk_bus=machine.disk_bus,
            la57=machine.la57,
            architecture=machine.architecture,
        )
        description = like.describe(spec) if like is not None else None
        with self._room(label, machine.most_mib), self._readable(layers):
            domain = self.hypervisor.spawn(spec, description)
        try:
            with self._started(
                domain,
                evidence,
                user=user,
                access=access or Access(private_key=self.login.private),
                # The user's access is for guests without a seed, whose host key is unknown.
                host_key=host_key.public if access is None else None,
            ) as guest:
                yield guest
        finally:
            self._remove(seed, nvram, None if keep_disk else disk, erst, *(extra.path for extra in disks))

    def _readable(self, layers: Iterable[Layer]) -> contextlib.AbstractContextManager[None]:
        """Let QEMU open the user's private backing files; it opens them only when it starts."""
        owner = self.hypervisor.owner_of_files()
        return self.host.readable(layers, owner[0] if owner is not None else None)

    @contextlib.contextmanager
    def bare_guest(self, name: str, xml: str, memory_mib: int, evidence: Evidence) -> Iterator[Guest]:
        """Provide a paused guest from XML, without a seed or a network; it is destroyed at the end of the block."""
        with self._room(name, memory_mib):
            domain = self.hypervisor.spawn_raw(name, xml)
        with self._started(domain, evidence, user="root", access=Access(), host_key=None) as guest:
            yield guest

    def end(self, guest: Guest) -> None:
        """Destroy a guest in the background, since its process takes up to two seconds to end; the run waits for it."""
        guest.close_shell()
        self._guests.pop(guest.name, None)
        self._resources.callback(self._ending.submit(guest.domain.destroy).result)

    def domain_name(self, label: str) -> str:
        """Return a new name for a domain of this run."""
        return f"{PREFIX}{self.directory.identity}-{next(self._numbers)}-{label}"[:60]

    def save(self, guest: Guest) -> SavedGuest:
        """Save a snapshot of a guest to a file of the run, which ends the guest.

        Its disks must not change afterwards: restored() makes overlays on them.
        """
        with self.progress.step(f"{guest.name}: saving its memory"):
            saved = guest.save(self.host.directory / f"{guest.name}.saved")
        self._guests.pop(guest.name, None)
        return saved

    def erst_store(self, size_bytes: int) -> Path:
        """Create the empty store of an ACPI ERST device, which only QEMU's user and root can read."""
        self.host.require_local("--fallback pstore")
        path = self.host.directory / f"erst-{next(self._numbers)}"
        self.host.private(path)
        os.truncate(path, size_bytes)
        if os.geteuid() == 0 and (owner := self.hypervisor.owner_of_files()) is not None:
            os.chown(path, *owner)
        return path

    def memory_of(self, guest: Guest, *, compressed: bool = False) -> Path:
        """Dump the guest's memory, as the hypervisor sees it, to a file on the guest host; host.take() fetches it."""
        # Numbered, since the same guest may be drilled several times.
        path = self.host.directory / f"{guest.name}-{next(self._numbers)}.memory"
        self.host.private(path)
        guest.domain.dump_memory(path, compressed=compressed, tick=self.progress.tick)
        return path

    @contextlib.contextmanager
    def restored(self, saved: SavedGuest, evidence: Evidence) -> Iterator[Guest]:
        """Provide a paused guest restored from a snapshot, with overlays on its disks; it is destroyed at the end.

        Only one can exist at a time, since name, address and host key are the same.
        """
        with self._lock:
            if self._reaper is None:
                self._reaper = Reaper(self.hypervisor.address, self.host.connection_fds)
                self._resources.callback(self._reaper.close)
        self._reaper.hold(saved.domain.name)
        overlays: dict[Path, tuple[Path, tuple[Layer, ...]]] = {}
        nvram = None
        try:
            for disk in saved.domain.disks():
                if disk.parent == self.host.directory:
                    overlay = self.overlay(disk, base_format="qcow2")
                    overlays[disk] = (overlay, self.host.layers(overlay))
            if (variables := saved.domain.nvram()) is not None:
                nvram = self.host.directory / f"{saved.domain.name}-{next(self._numbers)}.nvram"
                self.host.copy(variables, nvram)
            moved = saved.domain.with_disks(overlays, nvram)
            with (
                self._room(saved.domain.name, saved.domain.memory_mib),
                self._readable([layer for _, layers in overlays.values() for layer in layers]),
                self.progress.step(f"{saved.domain.name}: restoring its memory", usual_s=15),
            ):
                domain = self.hypervisor.restore(saved.memory, moved, tick=self.progress.tick)
            with self._started(
                domain, evidence, user=saved.user, access=saved.access, host_key=saved.host_key
            ) as guest:
                yield guest
        finally:
            self._remove(nvram, *(overlay for overlay, _ in overlays.values()))

    def lost(self, domain: Domain) -> bool:
        """Return whether the host failed a domain, so that its end says nothing about the guest."""
        return bool(self._failure(domain))

    def _failure(self, domain: Domain) -> str:
        """Return how the host failed a domain, or nothing."""
        if not self.host.alive():
            return "the connection to its host was lost"
        if domain.connection_lost():
            return "the connection to libvirt was lost"
        if domain.events.has(DISK_FULL):
            return f"QEMU stopped it because its disk could not be written (make room in {self.host.directory})"
        return ""

    def raise_if_disk_full(self) -> None:
        """Raise HostError if QEMU stopped a guest of this run, maybe the dump server, for want of room."""
        for _, domain in list(self._guests.values()):
            if domain.events.has(DISK_FULL):
                raise HostError(f"{domain.name}: {self._failure(domain)}")

    @contextlib.contextmanager
    def _started(
        self, domain: Domain, evidence: Evidence, *, user: str, access: Access, host_key: str | None
    ) -> Iterator[Guest]:
        """Provide the guest of a domain, which is destroyed at the end."""
        self._guests[domain.name] = (threading.get_ident(), domain)
        try:
            raise_if_stopped()
            evidence.text("domain.xml", domain.xml())
            guest = Guest(
                domain,
                user=user,
                access=access,
                host_key=host_key,
                evidence=evidence,
                timeout_factor=self.slowness,
                load=lambda: self.load,
                tick=self.progress.tick,
                connect=self.host.connect,
            )

            def heard(what: str) -> None:
                guest.evidence.event("domain", what=what)
                if what == DISK_FULL:
                    domain.end_lines()

            domain.events.listener = heard
            try:
                yield guest
            finally:
                guest.close_shell()  # otherwise its thread runs until this process ends
        except GuestError as error:
            if failure := self._failure(domain):
                raise HostError(f"{domain.name}: {failure}", see=error.see) from None
            raise
        finally:
            if domain.name in self._guests:  # it was neither saved nor ended
                domain.destroy()
                self._guests.pop(domain.name, None)

    def _remove(self, *paths: Path | None) -> None:
        """Remove those of the files that are in the run's directory."""
        self.host.remove(*(path for path in paths if path is not None and path.parent == self.host.directory))


def _host_name(label: str, number: int) -> str:
    return f"{label}-{number}".replace(".", "-").replace("_", "-")
