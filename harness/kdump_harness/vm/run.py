"""One run of the harness: hypervisor, state, evidence, accelerator; starts guests and removes all of them."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..base.clock import EMULATION_FACTOR, Deadline, pause, raise_if_stopped
from ..base.errors import GuestError, HostError, UsageError
from ..base.evidence import Evidence, EvidenceRoot
from ..base.progress import Progress, console_echo
from ..images.catalog import CPU_LEVELS
from ..images.state import RunDirectory, State
from . import accel, capacity
from .cloud_init import KeyPair, make_key, write_seed
from .guest import Guest, SavedGuest
from .hosts.guest_host import GuestHost, open_guest_host
from .hypervisor.connection import PREFIX, Hypervisor
from .hypervisor.domain import Domain
from .hypervisor.domain_xml import FIRMWARE, NETWORK, Disk, DomainSpec, Layer, new_mac
from .isolated_network import IsolatedNetwork, Port
from .reaper import Reaper
from .shell import Access

MIN_MEMORY_MIB = 256
MAX_MEMORY_MIB = 4 * 1024 * 1024
MAX_VCPUS = 255
# For how long a guest waits for the memory that others have: some drills of theirs.
MEMORY_WAIT_S = 3600.0
MEMORY_LOOK_S = 2.0


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the user chose for a run, on the command line or through pytest."""

    uri: str | None = None
    state: Path | None = None
    remote_state: Path | None = None  # on the hypervisor's host, where that is another one
    evidence: Path = Path("evidence")
    evidence_part: tuple[str, str] | None = None  # as of EvidenceRoot
    accelerator: str = "auto"
    timeout_factor: float = 1.0
    jobs: int | None = 1  # drills side by side, where there are several; None: as many as the host is good for
    resume: Path | None = None  # the record of a run that was stopped (resume.py), which goes on in its evidence
    beside: int = 0  # other processes of the same run, each of which has a guest
    keep: str = "failed"
    verbose: bool = False
    quiet: bool = False


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The virtual hardware of a drill."""

    memory_mib: int = 1024
    vcpus: int = 2
    firmware: str = "bios"
    devices: tuple[str, ...] = ()  # that only some drills need (domain.DEVICES)
    cpu_level: int | None = None  # of x86-64; None: what the image needs, or all there is where that is not known

    def check(self) -> None:
        """UsageError for what no host of ours could run."""
        if not MIN_MEMORY_MIB <= self.memory_mib <= MAX_MEMORY_MIB:
            raise UsageError(
                f"{self.memory_mib} MiB is no sensible guest memory ({MIN_MEMORY_MIB} to {MAX_MEMORY_MIB})"
            )
        if self.firmware not in FIRMWARE:
            raise UsageError(f"unknown firmware {self.firmware!r} (known: {', '.join(FIRMWARE)})")
        if not 1 <= self.vcpus <= MAX_VCPUS:
            raise UsageError(f"{self.vcpus} is no sensible number of processors (1 to {MAX_VCPUS})")
        if self.cpu_level is not None and self.cpu_level not in CPU_LEVELS:
            known = ", ".join(map(str, CPU_LEVELS))
            raise UsageError(f"x86-64 level {self.cpu_level} is none that a guest can be given ({known})")


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What makes a guest itself to the network and to cloud-init."""

    name: str
    host_name: str
    mac: str
    host_key: KeyPair


@dataclass(frozen=True, kw_only=True)
class CloneTemplate:
    """How a guest that is like another machine differs from the guests that are ours altogether."""

    describe: Callable[[DomainSpec], str]  # libvirt's description of it
    network: str  # that it is reached over
    seeded: bool  # cloud-init is told our key, the host name and the network


class Run:
    """Everything that lives as long as one run; use as a context manager."""

    def __init__(self, options: Options, *, progress: Progress | None = None) -> None:
        self.options = options
        self.progress = progress or Progress(quiet=options.quiet)
        self._stack = contextlib.ExitStack()
        self._numbers = itertools.count(1)
        self._evidence: EvidenceRoot | None = None
        self._dump_network: IsolatedNetwork | None = None
        self._reaper: Reaper | None = None
        self._lock = threading.RLock()  # for what is made once, by whichever job asks for it first
        self._guests: dict[str, tuple[int, Domain]] = {}  # guests by name, with the thread that they are of
        self._thread = threading.get_ident()  # which jobs are of, and which waits for them
        self.side_by_side = 1  # jobs that go on now, each of which has a guest or will soon
        self.accelerator = ""
        self._elsewhere = False  # the hypervisor is another host's

    def __enter__(self) -> Run:
        with contextlib.ExitStack() as stack:
            self.state = State(self.options.state)
            self.directory: RunDirectory = stack.enter_context(self.state.run())
            self.host: GuestHost = stack.enter_context(
                open_guest_host(
                    self.options.uri,
                    self.state,
                    self.directory,
                    remote_state=self.options.remote_state,
                    progress=self.progress,
                )
            )
            self.hypervisor = Hypervisor(self.options.uri, address=self.host.address, is_held=self.host.is_held)
            stack.callback(self.hypervisor.close)
            self._elsewhere = not self.hypervisor.is_local
            self.accelerator, why = accel.choose(
                self.options.accelerator, self.hypervisor, self.state, self.directory.path, self.host
            )
            self.progress.say(f"accelerator: {why}")
            self.hypervisor.ensure_network()
            self.login: KeyPair = make_key("kdump-harness")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self.abandon()  # of jobs that did not end in time: the lifeline is about to be told that all is well
        self._stack.close()

    @property
    def beside(self) -> int:
        """How many other drills of this run share the host now."""
        return self.side_by_side - 1 + self.options.beside

    @property
    def slowness(self) -> float:
        """By how much waits are stretched on this host while it has nothing else to do."""
        return self.options.timeout_factor * (EMULATION_FACTOR if self.accelerator == accel.TCG else 1.0)

    @property
    def load(self) -> float:
        """By how much more, for what the host has to do at this moment."""
        guests = max(len(self._guests), self.side_by_side) + self.options.beside
        if self._elsewhere:
            return float(min(capacity.MOST_LOAD, guests))
        return capacity.load(guests, kvm=self.accelerator == accel.KVM)

    @property
    def factor(self) -> float:
        """By how much all waits are stretched that begin now."""
        return self.slowness * self.load

    def at_once(self, tasks_mib: Sequence[int], disk_mib: int) -> int:
        """How many of the tasks may go side by side, which is said; each has a guest with so much memory.

        disk_mib is what one of them needs of the disk.
        """
        if self.options.jobs == 1 or not tasks_mib:
            return 1
        if self._elsewhere:  # its processors and its other guests are not seen from here
            number = min(self.options.jobs or 1, len(tasks_mib))
            self.progress.say(f"jobs: {number} at once on another host, which must be good for them (--jobs)")
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
        """Pull the plug of all guests, so that whoever waits for one learns that there is nothing to wait for."""
        for _, domain in list(self._guests.values()):
            domain.kill()

    def _room(self, name: str, memory_mib: int) -> contextlib.ExitStack:
        """Wait for the memory that one more guest takes; nobody else starts one until what is returned is closed.

        HostError where it will not come: the host's kernel must never have to choose a process to end.
        """
        need_mib = capacity.guest_mib(memory_mib)
        if self._elsewhere:
            self.host.require_memory(need_mib, name)
            return contextlib.ExitStack()
        deadline = Deadline(MEMORY_WAIT_S)
        if (held := self._try_room(name, need_mib, deadline)) is None:
            with self.progress.step(f"{name}: waiting for {need_mib:,} MiB of memory, which other guests have"):
                while (held := self._try_room(name, need_mib, deadline)) is None:
                    pause(MEMORY_LOOK_S)
                    self.progress.tick()
        return held

    def _try_room(self, name: str, need_mib: int, deadline: Deadline) -> contextlib.ExitStack | None:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.state.starting())
            guests = capacity.running_guests(PREFIX)
            free_mib = capacity.available_mib() - sum(guest.untouched_mib for guest in guests)
            # Who waits for this job has guests that stay, like the collector of a comparison.
            stay = (threading.get_ident(), self._thread)
            ours = {other: thread for other, (thread, _) in list(self._guests.items())}
            # Those of other jobs are known also where /proc shows no processes of other users.
            others = {name for name in (*ours, *(guest.name for guest in guests)) if ours.get(name) not in stay}
            if free_mib >= need_mib + (capacity.SPARE_MIB if others else 0):
                return stack.pop_all()
            if not others or deadline.passed:
                instead = f", and none of {len(others)} other guests has ended" if others else ""
                raise HostError(
                    f"{name} takes {need_mib:,} MiB of memory, {max(free_mib, 0):,} MiB are free on this host{instead}"
                    " (free some, or give the guest less with --memory)"
                )
            return None

    def evidence(self, name: str) -> Evidence:
        """A new evidence directory of this run."""
        self.open_evidence()
        assert self._evidence is not None
        evidence = self._evidence.drill(name)
        if self.options.verbose:
            evidence.echo_console(console_echo)
        return evidence

    def evidence_again(self, directory: Path) -> Evidence:
        """A directory of the run that was stopped, to go on in."""
        self.open_evidence()
        return Evidence(directory, again=True)

    @property
    def evidence_directory(self) -> Path:
        """What this run leaves behind."""
        self.open_evidence()
        assert self._evidence is not None
        return self._evidence.run

    def log_path(self, name: str) -> Path:
        """Where a log of this run goes that belongs to no drill: a file that nobody else writes to."""
        self.open_evidence()
        assert self._evidence is not None
        return self._evidence.log(name)

    def open_evidence(self) -> None:
        """Make the run's evidence directory now, so that a place that cannot be written is known before work begins."""
        with self._lock:
            if self._evidence is None:
                again = self.options.resume.parents[1] if self.options.resume is not None else None
                root = again.parent if again is not None else self.options.evidence
                self._evidence = EvidenceRoot(root, part=self.options.evidence_part, again=again)

    def dump_network(self) -> IsolatedNetwork:
        """The network of this run that dumps travel over, made when it is first asked for."""
        with self._lock:
            if self._dump_network is None:
                self._dump_network = self._own_network("crash", dhcp=False)
            return self._dump_network

    def clone_network(self) -> str:
        """The name of a new network that leads nowhere, on which this host gives addresses to one clone."""
        return self._own_network(f"clone{next(self._numbers)}", dhcp=True).name

    def _own_network(self, label: str, *, dhcp: bool) -> IsolatedNetwork:
        for left in self.hypervisor.stale_networks(self.host.active_runs()):
            self.hypervisor.remove_network(left)  # of runs that were killed: nothing else takes them down
        name = f"{PREFIX}{self.directory.identity}-{label}"
        network = IsolatedNetwork(self.hypervisor, name, run=self.host.directory, dhcp=dhcp)
        self._stack.callback(self.hypervisor.remove_network, name)
        return network

    def private_disk(self, capacity_bytes: int) -> Path:
        """A throw-away qcow2 that only its owner can read, for what is copied from a machine of the user's."""
        path = self.host.directory / f"disk-{next(self._numbers)}.qcow2"
        self.host.private(path)
        self.host.blank(path, str(capacity_bytes), mode=0o600)
        return path

    def fit(self, machine: Machine, *, needs: int | None) -> Machine:
        """The machine with the processor that a guest needs, unless it names another; HostError where there is none."""
        level = needs if machine.cpu_level is None else machine.cpu_level
        missing = self.hypervisor.lacks(self.accelerator, level) if level is not None else None
        if missing:
            what = f"the guest needs a processor of x86-64-v{level}, and"
            if self.accelerator == accel.KVM:
                raise HostError(f"{what} this host's lacks {missing} (--accelerator tcg emulates one, slowly)")
            raise HostError(f"{what} the one that this QEMU emulates lacks {missing} (QEMU 7.2 emulates x86-64-v3)")
        return replace(machine, cpu_level=level)

    def overlay(self, base: Path, *, base_format: str) -> Path:
        """A throw-away qcow2 on base in the run's private directory."""
        path = self.host.directory / f"disk-{next(self._numbers)}.qcow2"
        self.host.overlay(path, base, base_format=base_format)
        return path

    def blank_disk(self, size_mib: int, *, serial: str) -> Disk:
        """A throw-away disk with nothing on it in the run's private directory."""
        path = self.host.directory / f"disk-{next(self._numbers)}.qcow2"
        self.host.blank(path, f"{size_mib}M")
        return Disk(path=path, serial=serial)

    def identity(self, label: str) -> Identity:
        """A new identity for a guest."""
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
    ) -> Iterator[Guest]:
        """A guest that is defined and paused; destroyed at the end of the block, whatever happens in it.

        identity is for the same machine once more; a new one makes cloud-init start from nothing. access is for
        guests that know the run's own key from nobody. like is for a guest that is a clone of another machine.
        """
        machine = self.fit(machine, needs=None)
        identity = identity or self.identity(label)
        seed = self.directory.path / f"seed-{identity.name}.iso"
        nvram = self.host.directory / f"{identity.name}.nvram"
        mac, host_key = identity.mac, identity.host_key
        write_seed(
            seed,
            name=identity.host_name,
            mac=mac,
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
            vcpus=machine.vcpus,
            disk=disk,
            layers=layers,
            seed=seed if like is None or like.seeded else None,
            mac=mac,
            network=like.network if like is not None else NETWORK,
            cpu_level=machine.cpu_level,
            firmware=machine.firmware,
            nvram=nvram,
            devices=machine.devices,
            nics=tuple(port.nic for port in ports),
            extra_disks=disks,
        )
        owners = {layer.path: layer.path.stat() for layer in layers if layer.relabel}
        description = like.describe(spec) if like is not None else None
        with self._room(label, machine.memory_mib):
            domain = self.hypervisor.spawn(spec, description)
        try:
            with self._living(
                domain,
                evidence,
                user=user,
                access=access or Access(private_key=self.login.private),
                # Without cloud-init, which the user's own access is for, nobody has told the guest our key.
                host_key=host_key.public if access is None else None,
            ) as guest:
                yield guest
        finally:
            for private, owner in owners.items():
                os.chown(private, owner.st_uid, owner.st_gid)
            self._remove(seed, nvram, disk, *(extra.path for extra in disks))

    def save(self, guest: Guest) -> SavedGuest:
        """Keep the memory of a guest of this run in a file of the run, which ends it.

        Its disks must stay as they are from now on: restored() puts overlays on them.
        """
        with self.progress.step(f"{guest.name}: saving its memory"):
            saved = guest.save(self.host.directory / f"{guest.name}.saved")
        self._guests.pop(guest.name, None)
        return saved

    def memory_of(self, guest: Guest) -> Path:
        """A new file of the run with the guest's memory as the hypervisor sees it; place.take() brings it here."""
        # Numbered, since the same guest may be drilled again.
        path = self.host.directory / f"{guest.name}-{next(self._numbers)}.memory"
        self.host.private(path)
        guest.domain.dump_memory(path, tick=self.progress.tick)
        return path

    @contextlib.contextmanager
    def restored(self, saved: SavedGuest, evidence: Evidence) -> Iterator[Guest]:
        """A guest that goes on from where another was saved, with disks of its own; paused, and destroyed at the end.

        Only one can be there at a time: they have one name, one address and one host key.
        """
        with self._lock:
            if self._reaper is None:
                self._reaper = Reaper(self.hypervisor.address, self.host.connection_fds)
                self._stack.callback(self._reaper.close)
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
                self.progress.step(f"{saved.domain.name}: restoring its memory", usual_s=15),
            ):
                domain = self.hypervisor.restore(saved.memory, moved, tick=self.progress.tick)
            with self._living(domain, evidence, user=saved.user, access=saved.access, host_key=saved.host_key) as guest:
                yield guest
        finally:
            self._remove(nvram, *(overlay for overlay, _ in overlays.values()))

    def lost(self, domain: Domain) -> bool:
        """Whether it is the way to a guest that is gone, of which nothing can be said then, and not the guest."""
        return domain.connection_lost() or not self.host.alive()

    @contextlib.contextmanager
    def _living(
        self, domain: Domain, evidence: Evidence, *, user: str, access: Access, host_key: str | None
    ) -> Iterator[Guest]:
        """The guest on a domain, which is destroyed at the end."""
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
            domain.events.listener = lambda what: guest.evidence.event("domain", what=what)
            try:
                yield guest
            finally:
                guest.close_shell()  # one that nobody closes lives as long as we do, with its thread
        except GuestError as error:
            if self.lost(domain):
                said = error.args[0]
                where = "libvirt" if self.host.alive() else "its host"
                raise HostError(f"the connection to {where} broke while {domain.name} was in use ({said})") from None
            raise
        finally:
            domain.destroy()
            self._guests.pop(domain.name, None)

    def _remove(self, *paths: Path | None) -> None:
        """Those of the files that are the run's own."""
        self.host.remove(*(path for path in paths if path is not None and path.parent == self.host.directory))


def _host_name(label: str, number: int) -> str:
    return f"{label}-{number}".replace(".", "-").replace("_", "-")
