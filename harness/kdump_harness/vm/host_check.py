"""The host check: findings about this host, each with the command that fixes the problem."""

from __future__ import annotations

import contextlib
import getpass
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..base import tables
from ..base.errors import HarnessError, HostError
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
from .hypervisor.connection import Hypervisor, default_uri, is_local, is_session

NEED_FREE_MIB = 8 * 1024  # one base disk, one armed disk, two drills


DEBIAN = "debian"

# Returns the commands, and files by absolute path, that a host lacks.
Lacking = Callable[[Sequence[str]], Sequence[str]]


@dataclass(frozen=True, kw_only=True)
class Need:
    """A row of host.toml."""

    name: str
    packages: tuple[str, ...]  # of Debian and Ubuntu
    redhat: tuple[str, ...] = ()
    suse: tuple[str, ...] = ()
    arch: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()  # each may be alternatives, separated by a bar
    files: tuple[str, ...] = ()  # alternatives, one of which must exist
    on: str = "here"  # "here", "guests" or "both": the host that needs it, if the guest host is remote
    optional: bool = False
    libvirt: bool = False  # a libvirt that answers shows that the host has it
    system: bool = False  # needed by libvirt's system instance only, not by that of a user
    setup: str = ""  # command for hosts of Debian that do more than install packages

    def missing(self, lacking: Lacking) -> tuple[str, ...]:
        """Return the commands and files that a host lacks; the first one of alternatives."""
        choices = [names.split("|") for names in self.commands]
        if self.files:
            choices.append(list(self.files))
        gone = set(lacking([name for names in choices for name in names]))
        return tuple(names[0] for names in choices if gone.issuperset(names))

    def install(self, manager: Manager | None) -> str:
        """Return the command that installs it, or a sentence."""
        if manager is None:
            return f"install it (on Debian: {' '.join(self.packages)})"
        if self.setup and manager.name == DEBIAN:
            return self.setup
        if not (packages := self.packages if manager.name == DEBIAN else getattr(self, manager.name)):
            return f"the distribution has no package of it that is known here (on Debian: {' '.join(self.packages)})"
        return f"{manager.install} {' '.join(packages)}"


@dataclass(frozen=True, kw_only=True)
class Manager:
    """A row of package_managers.toml."""

    name: str
    ids: tuple[str, ...]
    command: str
    install: str
    quiet: str
    refresh: str
    query: str
    installed: str


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


def load_managers() -> tuple[Manager, ...]:
    """Return the table of package managers."""
    return tables.load_rows(tables.package_path("vm", "package_managers.toml"), "manager", Manager)


def manager_here() -> Manager | None:
    """Return the package manager of this host, by its os-release."""
    try:
        found = platform.freedesktop_os_release()
    except OSError:
        found = {}
    ids = [found.get("ID", ""), *found.get("ID_LIKE", "").split()]
    rows = [row for name in ids for row in load_managers() if name in row.ids]
    return rows[0] if rows else manager_by_command(_lacking_here)


def manager_by_command(lacking: Lacking) -> Manager | None:
    """Return the first package manager whose command a host has."""
    rows = load_managers()
    gone = lacking([row.command for row in rows])
    return next((row for row in rows if row.command not in gone), None)


def needs_of_other_architectures() -> tuple[Need, ...]:
    """Return the requirements of drills for architectures other than this package's own."""
    others = [one for one in load_architectures().values() if one.name != "amd64"]
    drills = [
        Need(
            name=f"kernel drills for {one.name}",
            commands=(one.emulator,),
            packages=one.packages,
            redhat=one.redhat,
            suse=one.suse,
            arch=one.arch,
            optional=True,
        )
        for one in others
    ]
    disks = [
        Need(
            name=f"disks for {one.name}",
            commands=one.build_commands,
            files=one.build_files,
            packages=one.packages,
            setup=one.setup,
            optional=True,
        )
        for one in others
        if one.disk is not None
    ]
    return (*drills, *disks)


def set_up() -> None:
    """Set up this host. Raise HostError where that fails."""
    script = tables.package_path("vm", "setup_host.sh")
    if (status := subprocess.run(["sh", str(script)], stdout=sys.stderr).returncode) != 0:
        raise HostError(f"the set-up of this host ended with status {status}: read its last lines")


def examine(*, uri: str | None, state_directory: Path | None, remote_state: Path | None = None) -> list[HostFinding]:
    """Check everything that drills need, in the order of need; takes seconds."""
    uri = uri or default_uri()
    if is_local(uri):
        libvirt = list(_libvirt(uri, state_directory))
        rows = [*load_needs(), *needs_of_other_architectures()]
        if is_session(uri):
            rows = [need for need in rows if not need.system]
        needs = _packages(rows, _lacking_here, manager_here(), answers=libvirt[0].ok)
        return [*needs, *_kvm_device(uri), *libvirt, *_space(state_directory), _mirror()]
    needs = _packages((need for need in load_needs() if need.on != "guests"), _lacking_here, manager_here())
    return [*needs, *_remote_host(uri, state_directory, remote_state), *_space(state_directory), _mirror()]


def _packages(
    needs: Iterable[Need], lacking: Lacking, manager: Manager | None, on: str = "", *, answers: bool = False
) -> Iterator[HostFinding]:
    """Check the rows of the table; ON names a remote host, and ANSWERS means that libvirt does."""
    for need in needs:
        missing = need.missing(lacking)
        install = need.install(manager)
        shown = bool(missing) and need.libvirt and answers
        is_command = manager is not None and install.startswith(manager.install)
        remedy = f"{install}{on}" if on or not is_command else f"{_sudo()}{install}"
        yield HostFinding(
            name=f"{need.name}{on}",
            ok=not missing or shown,
            seen="libvirt answers" if shown else f"missing: {', '.join(missing)}" if missing else "installed",
            remedy=remedy if missing and not shown else "",
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
        there = [need for need in load_needs() if need.on != "here"]
        yield from _packages(there, place.lacking, manager_by_command(place.lacking), f" on {host}")
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
            name=f"libvirt at {where}",
            ok=False,
            seen=str(error).split(" (run kdump-harness doctor")[0],
            remedy=_join_group(GROUP) if "Permission denied" in str(error) else _start_libvirt(),
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
            name="user networking" if hypervisor.is_session else "network default",
            ok=problem is None or startable,
            seen=problem or ("a port was forwarded" if hypervisor.is_session else "started"),
            remedy="" if problem is None or startable else _get_network(hypervisor),
        )
        try:
            state = State(state_directory)
            if place is not None and directory is not None:
                kind, why = accel.choose("auto", hypervisor, state, directory, place)
            else:
                with state.run() as run:
                    here = LocalHost(state, run, uri)
                    with here.readable((), (hypervisor.owner_of_files() or (None,))[0]):
                        kind, why = accel.choose("auto", hypervisor, state, run.path, here)
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


def _get_network(hypervisor: Hypervisor) -> str:
    if hypervisor.is_session:
        return "install a QEMU with user networking (libslirp)"
    return "virsh net-define /usr/share/libvirt/networks/default.xml"


def _kvm_device(uri: str) -> Iterator[HostFinding]:
    """Check /dev/kvm: if only root may open it, libvirt probes QEMU again at every call."""
    device = accel.DEVICE
    if is_session(uri) and accel.may_not_open_kvm():
        yield HostFinding(
            name="/dev/kvm",
            ok=False,
            seen="this user may not open it",
            remedy=_join_group("kvm"),
            optional=True,
        )
    elif device.exists() and device.stat().st_mode & 0o077 == 0:
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
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])) is not None


def _systemd_runs() -> bool:
    """Return whether systemd answers; tools such as systemd-nspawn make /run/systemd/system where it does not run."""
    try:
        told = subprocess.run(
            ["systemctl", "show", "--property=Version"], capture_output=True, text=True, check=False, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return told.stdout.startswith("Version=")


def _sudo() -> str:
    return "" if os.getuid() == 0 else "sudo "


def _join_group(group: str) -> str:
    """Return the command that makes the user a member of a group."""
    return f"sudo usermod -a -G {group} {getpass.getuser()}, and log in again"


def _start_libvirt() -> str:
    modular = _has_command("virtqemud") and not _has_command("libvirtd")
    if _systemd_runs():
        units = "virtqemud.socket virtnetworkd.socket virtlogd.socket" if modular else "libvirtd"
        start = f"{_sudo()}systemctl start {units}"
    else:
        daemons = ("virtlogd", "virtnetworkd", "virtqemud") if modular else ("virtlogd", "libvirtd")
        start = " && ".join(f"{_sudo()}{daemon} -d" for daemon in daemons)
    return start if os.getuid() == 0 else f"{start}, and become a member of the group {GROUP}"
