"""Is this host fit? One finding each, with the command that mends it."""

from __future__ import annotations

import glob
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from . import accel, facts
from .domain import Hypervisor, default_uri
from .errors import HarnessError
from .mirror import find_mirror
from .state import GROUP, State

MIB = 1 << 20
NEED_FREE_MIB = 8 * 1024  # one base disk, one armed disk, two drills


@dataclass(frozen=True, kw_only=True)
class Need:
    """One row of host.toml."""

    name: str
    packages: tuple[str, ...]
    commands: tuple[str, ...] = ()
    files: tuple[str, ...] = ()  # one of them is enough
    optional: bool = False

    def missing(self) -> tuple[str, ...]:
        """What is not on this host."""
        lacking = [name for name in self.commands if not _has_command(name)]
        if self.files and not any(Path(path).exists() for path in self.files):
            lacking.append(self.files[0])
        return tuple(lacking)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    name: str
    ok: bool
    seen: str
    remedy: str = ""
    optional: bool = False


def load_needs() -> tuple[Need, ...]:
    """The table of what a host must have."""
    return facts.load_rows(facts.package_path("host.toml"), "need", Need)


def examine(*, uri: str | None, state_directory: Path | None) -> list[Finding]:
    """Everything a drill needs, in the order in which it is needed; takes seconds."""
    return [*_packages(), *_kvm_device(), *_libvirt(uri, state_directory), *_space(state_directory), _mirror()]


def _packages() -> Iterator[Finding]:
    for need in load_needs():
        missing = need.missing()
        yield Finding(
            name=need.name,
            ok=not missing,
            seen=f"no {', '.join(missing)}" if missing else "there",
            remedy=f"{_sudo()}apt-get install --no-install-recommends {' '.join(need.packages)}" if missing else "",
            optional=need.optional,
        )


def _libvirt(uri: str | None, state_directory: Path | None) -> Iterator[Finding]:
    where = uri or default_uri()
    try:
        hypervisor = Hypervisor(uri)
    except HarnessError as error:
        yield Finding(
            name=f"libvirt at {where}", ok=False, seen=str(error).split(" (kdump")[0], remedy=_start_libvirt()
        )
        return
    try:
        versions = hypervisor.versions()
        yield Finding(
            name=f"libvirt at {where}", ok=True, seen=f"libvirt {versions['libvirt']}, QEMU {versions['qemu']}"
        )
        problem = hypervisor.network_problem()
        # A stopped network is started by the first drill.
        startable = problem is not None and problem.endswith("is not started")
        yield Finding(
            name="network default",
            ok=problem is None or startable,
            seen=problem or "started",
            remedy="" if problem is None or startable else "virsh net-define /usr/share/libvirt/networks/default.xml",
        )
        try:
            state = State(state_directory)
            with state.run() as run:
                kind, why = accel.choose("auto", hypervisor, state, run.path)
        except HarnessError as error:
            yield Finding(name="accelerator", ok=False, seen=str(error))
        else:
            yield Finding(
                name="KVM",
                ok=kind == accel.KVM,
                seen=why,
                remedy=""
                if kind == accel.KVM
                else "drills work, but slowly; use a host whose KVM runs guests for speed",
                optional=True,
            )
    finally:
        hypervisor.close()


def _kvm_device() -> Iterator[Finding]:
    """libvirt asks QEMU for its abilities again at every call while only root may open /dev/kvm."""
    device = Path("/dev/kvm")
    if device.exists() and device.stat().st_mode & 0o077 == 0:
        yield Finding(
            name="/dev/kvm",
            ok=False,
            seen="only root may open it, so libvirt takes a minute to start each guest",
            remedy=f"{_sudo()}chgrp kvm /dev/kvm && {_sudo()}chmod 660 /dev/kvm",
        )


def _space(state_directory: Path | None) -> Iterator[Finding]:
    try:
        state = State(state_directory)
    except HarnessError as error:
        yield Finding(name="state directory", ok=False, seen=str(error), remedy="make setup (as root, once)")
        return
    free_mib = shutil.disk_usage(state.directory).free // MIB
    yield Finding(
        name="space",
        ok=free_mib >= NEED_FREE_MIB,
        seen=f"{free_mib // 1024} GiB free in {state.directory}",
        remedy="" if free_mib >= NEED_FREE_MIB else f"free {NEED_FREE_MIB // 1024} GiB there, or choose --state DIR",
    )


def _mirror() -> Finding:
    try:
        found = find_mirror()
    except HarnessError as error:
        return Finding(name="package mirror", ok=False, seen=str(error), optional=True)
    return Finding(name="package mirror", ok=True, seen=found.archive)


def _has_command(name: str) -> bool:
    """Whether a command is there; daemons and mkfs live where an ordinary user's PATH does not lead."""
    return shutil.which(name) is not None or bool(glob.glob(f"/usr/sbin/{name}") or glob.glob(f"/sbin/{name}"))


def _sudo() -> str:
    return "" if os.getuid() == 0 else "sudo "


def _start_libvirt() -> str:
    if Path("/run/systemd/system").exists():
        start = f"{_sudo()}systemctl start libvirtd"
    else:
        start = f"{_sudo()}virtlogd -d && {_sudo()}libvirtd -d"
    return start if os.getuid() == 0 else f"{start}, and be a member of the group {GROUP}"
