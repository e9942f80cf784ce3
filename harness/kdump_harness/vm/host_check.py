"""The host check: findings about this host, each with the command that fixes the problem."""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..base import tables
from ..base.errors import HarnessError
from ..base.progress import Progress
from ..base.units import MIB
from ..distro.architecture import load_architectures
from ..images.mirror import find_mirror
from ..images.state import GROUP, State
from . import accel
from .hosts.guest_host import GuestHost
from .hosts.local_host import LocalHost
from .hosts.remote_host import TOOLS, RemoteHost
from .hosts.ssh_host import where_of
from .hypervisor.connection import Hypervisor, default_uri, is_local

NEED_FREE_MIB = 8 * 1024  # one base disk, one armed disk, two drills


# Returns the commands, and files by absolute path, that a host lacks.
Lacking = Callable[[Sequence[str]], Sequence[str]]


@dataclass(frozen=True, kw_only=True)
class Need:
    """A row of host.toml."""

    name: str
    packages: tuple[str, ...]
    commands: tuple[str, ...] = ()
    files: tuple[str, ...] = ()  # alternatives, one of which must exist
    on: str = "here"  # "here", "guests" or "both": the host that needs it, if the guest host is remote
    optional: bool = False

    def missing(self, lacking: Lacking) -> tuple[str, ...]:
        """Return the commands and files that a host lacks."""
        gone = lacking((*self.commands, *self.files))
        commands = [name for name in self.commands if name in gone]
        return (*commands, *self.files[:1]) if self.files and set(self.files) <= set(gone) else tuple(commands)


@dataclass(frozen=True, kw_only=True)
class HostFinding:
    """One finding of the host check."""

    name: str
    ok: bool
    seen: str
    remedy: str = ""
    optional: bool = False


def load_needs() -> tuple[Need, ...]:
    """Return the table of requirements."""
    return tables.load_rows(tables.package_path("vm", "host.toml"), "need", Need)


def needs_of_other_architectures() -> tuple[Need, ...]:
    """Return the requirements of kernel drills for architectures other than this package's own."""
    return tuple(
        Need(name=f"kernel drills for {one.name}", commands=(one.emulator,), packages=one.packages, optional=True)
        for one in load_architectures().values()
        if one.name != "amd64"
    )


def examine(*, uri: str | None, state_directory: Path | None, remote_state: Path | None = None) -> list[HostFinding]:
    """Check everything that drills need, in the order of need; takes seconds."""
    uri = uri or default_uri()
    if is_local(uri):
        needs = _packages((*load_needs(), *needs_of_other_architectures()), _lacking_here)
        return [*needs, *_kvm_device(), *_libvirt(uri, state_directory), *_space(state_directory), _mirror()]
    needs = _packages((need for need in load_needs() if need.on != "guests"), _lacking_here)
    return [*needs, *_remote_host(uri, state_directory, remote_state), *_space(state_directory), _mirror()]


def _packages(needs: Iterable[Need], lacking: Lacking, on: str = "") -> Iterator[HostFinding]:
    """Check the rows of the table; ON names a remote host."""
    for need in needs:
        missing = need.missing(lacking)
        install = f"apt-get install --no-install-recommends {' '.join(need.packages)}"
        yield HostFinding(
            name=f"{need.name}{on}",
            ok=not missing,
            seen=f"missing: {', '.join(missing)}" if missing else "installed",
            remedy=(f"{install}{on}" if on else f"{_sudo()}{install}") if missing else "",
            optional=need.optional,
        )


def _remote_host(uri: str, state_directory: Path | None, remote_state: Path | None) -> Iterator[HostFinding]:
    """Check a remote guest host through one connection."""
    host = where_of(uri)
    with contextlib.ExitStack() as resources:
        try:
            state = State(state_directory)
            run = resources.enter_context(state.run())
            place = RemoteHost(uri, run.path, state=remote_state, run=run.identity, progress=Progress(quiet=True))
        except HarnessError as error:
            yield HostFinding(
                name=f"ssh to {host}", ok=False, seen=str(error), remedy=f"make ssh {host} work without kdump-harness"
            )
            return
        resources.callback(place.close)
        yield HostFinding(name=f"ssh to {host}", ok=True, seen=f"files of guests are in {place.state} there")
        yield from _packages((need for need in load_needs() if need.on != "here"), place.lacking, f" on {host}")
        if lacking := place.lacking(TOOLS):
            yield HostFinding(name=f"tools on {host}", ok=False, seen=f"missing: {', '.join(lacking)}")
            return
        yield from _libvirt(uri, state_directory, place, run.path)
        yield _enough(place.free_mib(), f"{place.state} on {host}", "--remote-state", f"space on {host}")


def _libvirt(
    uri: str, state_directory: Path | None, place: GuestHost | None = None, directory: Path | None = None
) -> Iterator[HostFinding]:
    """Check libvirt; PLACE and the DIRECTORY of a run are given for a remote host."""
    where = uri
    try:
        hypervisor = Hypervisor(uri, address=place.address if place is not None else None)
    except HarnessError as error:
        yield HostFinding(
            name=f"libvirt at {where}", ok=False, seen=str(error).split(" (kdump")[0], remedy=_start_libvirt()
        )
        return
    try:
        versions = hypervisor.versions()
        yield HostFinding(
            name=f"libvirt at {where}", ok=True, seen=f"libvirt {versions['libvirt']}, QEMU {versions['qemu']}"
        )
        problem = hypervisor.network_problem()
        # A stopped network is started by the first drill.
        startable = problem is not None and problem.endswith("is not started")
        yield HostFinding(
            name="network default",
            ok=problem is None or startable,
            seen=problem or "started",
            remedy="" if problem is None or startable else "virsh net-define /usr/share/libvirt/networks/default.xml",
        )
        try:
            state = State(state_directory)
            if place is not None and directory is not None:
                kind, why = accel.choose("auto", hypervisor, state, directory, place)
            else:
                with state.run() as run:
                    kind, why = accel.choose("auto", hypervisor, state, run.path, LocalHost(state, run, uri))
        except HarnessError as error:
            yield HostFinding(name="accelerator", ok=False, seen=str(error))
        else:
            yield HostFinding(
                name="KVM",
                ok=kind == accel.KVM,
                seen=why,
                remedy="" if kind == accel.KVM else "drills work but are slow: use a host with working KVM",
                optional=True,
            )
    finally:
        hypervisor.close()


def _kvm_device() -> Iterator[HostFinding]:
    """Check /dev/kvm: if only root may open it, libvirt probes QEMU again at every call."""
    device = Path("/dev/kvm")
    if device.exists() and device.stat().st_mode & 0o077 == 0:
        yield HostFinding(
            name="/dev/kvm",
            ok=False,
            seen="only root may open it, so libvirt takes a minute to start each guest",
            remedy=f"{_sudo()}chgrp kvm /dev/kvm && {_sudo()}chmod 660 /dev/kvm",
        )


def _space(state_directory: Path | None) -> Iterator[HostFinding]:
    try:
        state = State(state_directory)
    except HarnessError as error:
        yield HostFinding(name="state directory", ok=False, seen=str(error), remedy="make setup (as root, once)")
        return
    yield _enough(shutil.disk_usage(state.directory).free // MIB, str(state.directory), "--state", "space")


def _enough(free_mib: int, place: str, option: str, name: str) -> HostFinding:
    enough = free_mib >= NEED_FREE_MIB
    return HostFinding(
        name=name,
        ok=enough,
        seen=f"{free_mib // 1024} GiB free in {place}",
        remedy="" if enough else f"free {NEED_FREE_MIB // 1024} GiB, or choose another directory with {option} DIR",
    )


def _mirror() -> HostFinding:
    try:
        found = find_mirror()
    except HarnessError as error:
        return HostFinding(name="package mirror", ok=False, seen=str(error), optional=True)
    return HostFinding(name="package mirror", ok=True, seen=found.archive)


def _lacking_here(names: Sequence[str]) -> list[str]:
    return [name for name in names if not (Path(name).exists() if name.startswith("/") else _has_command(name))]


def _has_command(name: str) -> bool:
    """Return whether a command exists, also where an ordinary user's PATH does not lead (daemons, mkfs)."""
    return shutil.which(name) is not None or bool(glob.glob(f"/usr/sbin/{name}") or glob.glob(f"/sbin/{name}"))


def _sudo() -> str:
    return "" if os.getuid() == 0 else "sudo "


def _start_libvirt() -> str:
    if Path("/run/systemd/system").exists():
        start = f"{_sudo()}systemctl start libvirtd"
    else:
        start = f"{_sudo()}virtlogd -d && {_sudo()}libvirtd -d"
    return start if os.getuid() == 0 else f"{start}, and become a member of the group {GROUP}"
