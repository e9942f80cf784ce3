"""The resources of hosts and the needs of tasks as Dask's abstract resources: MiB, cores and named features.

A feature is not consumed: a host offers 1 of it, and a task requests 0.
"""

from __future__ import annotations

import platform
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from ... import __version__
from ...base.errors import HostError
from ...distro.architecture import load_architectures
from ...images.catalog import CPU_LEVELS
from ...vm.accel import KVM, TCG
from ...vm.capacity import GUEST_MIB, SPARE_MIB, available_mib, guest_mib, guests_by_cores
from ...vm.hypervisor.connection import Hypervisor
from ...vm.hypervisor.domain_xml import FIRMWARE

MIB, CORES = "MIB", "CORES"
VERSION = f"HARNESS-{__version__}"
_BUILT_IN = ("bios", "slof")  # firmware that comes with QEMU
COLLECTOR_MIB = 512  # memory of the dump server


@dataclass(frozen=True, kw_only=True)
class Needs:
    """The resources that a host needs for a task."""

    mib: int
    cores: int = 1
    features: frozenset[str] = frozenset()

    def resources(self) -> dict[str, float]:
        """Return the needs as Dask's resources."""
        return {MIB: self.mib, CORES: self.cores, **dict.fromkeys(sorted(self.features), 0)}

    def with_guest(self, memory_mib: int) -> Needs:
        """Return the needs with one more guest."""
        return replace(self, mib=self.mib + guest_mib(memory_mib))

    def lacking(self, has: Mapping[str, float]) -> list[str]:
        """Return what a host with these resources lacks."""
        wanted = self.resources()
        return [
            f"{wanted[name]} {name}" if wanted[name] else name
            for name in wanted
            if name not in has or has[name] < wanted[name]
        ]


def guest_needs(memory_mib: int | None, *, level: int | None, firmware: str, more: Iterable[str]) -> Needs:
    """Return the needs of one guest."""
    features = {VERSION, *more}
    if level is not None and level > 1:
        features.add(f"CPU-{level}")
    if firmware not in _BUILT_IN:
        features.add(firmware.upper())
    return Needs(mib=guest_mib(memory_mib or GUEST_MIB), features=frozenset(features))


def host_resources(
    hypervisor: Hypervisor, accelerator: str, *, memory_mib: int | None, cores: int | None
) -> dict[str, float]:
    """Return the resources of this host. Raise HostError if its memory is too small for a guest."""
    memory_mib = memory_mib or available_mib() - SPARE_MIB
    cores = cores or guests_by_cores(kvm=accelerator == KVM)
    if memory_mib < guest_mib(GUEST_MIB):
        raise HostError(
            f"{max(memory_mib, 0)} MiB for guests are not enough for one of {GUEST_MIB} MiB (--memory MIB sets"
            " the limit)"
        )
    features = [VERSION, TCG.upper(), *([KVM.upper()] if accelerator == KVM else [])]
    emulated = (one for one in load_architectures().values() if one.is_of_host or shutil.which(one.emulator))
    features += [f"ARCH-{one.machine}" for one in emulated]
    if platform.machine() == "x86_64":
        features.append("NMI")
    features += [f"CPU-{level}" for level in CPU_LEVELS if hypervisor.lacks(accelerator, level) is None]
    offered = hypervisor.firmware()
    features += [name.upper() for name in FIRMWARE if name in offered and name not in _BUILT_IN]
    return {MIB: memory_mib, CORES: cores, **dict.fromkeys(features, 1)}


def slots(resources: Mapping[str, float]) -> int:
    """Return how many ordinary drills fit at once."""
    return max(1, int(min(resources[CORES], resources[MIB] // guest_mib(GUEST_MIB))))
