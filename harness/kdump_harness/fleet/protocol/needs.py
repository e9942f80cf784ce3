"""What a task takes and what a host has, as Dask's abstract resources: MiB, cores, and features by name.

A feature is had, not used up: a host states it as 1, and a task asks for 0 of it.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from ... import __version__
from ...base.errors import HostError
from ...images.catalog import CPU_LEVELS
from ...vm.accel import KVM, TCG
from ...vm.capacity import GUEST_MIB, SPARE_MIB, available_mib, guest_mib, guests_by_cores
from ...vm.hypervisor.connection import Hypervisor
from ...vm.hypervisor.domain_xml import FIRMWARE

MIB, CORES = "MIB", "CORES"
VERSION = f"HARNESS-{__version__}"
COLLECTOR_MIB = 512  # the guest that dumps are sent to


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a host must have for a task."""

    mib: int
    cores: int = 1
    features: frozenset[str] = frozenset()

    def resources(self) -> dict[str, float]:
        """As Dask wants them."""
        return {MIB: self.mib, CORES: self.cores, **dict.fromkeys(sorted(self.features), 0)}

    def beside(self, memory_mib: int) -> Needs:
        """The same with another guest."""
        return replace(self, mib=self.mib + guest_mib(memory_mib))

    def lacking(self, has: Mapping[str, float]) -> list[str]:
        """What a host that has this does not have."""
        wanted = self.resources()
        return [
            f"{wanted[name]} {name}" if wanted[name] else name
            for name in wanted
            if name not in has or has[name] < wanted[name]
        ]


def guest_needs(memory_mib: int | None, *, level: int | None, firmware: str, more: Iterable[str]) -> Needs:
    """What one guest takes."""
    features = {VERSION, *more}
    if level is not None and level > 1:
        features.add(f"CPU-{level}")
    if firmware != "bios":
        features.add(firmware.upper())
    return Needs(mib=guest_mib(memory_mib or GUEST_MIB), features=frozenset(features))


def host_resources(
    hypervisor: Hypervisor, accelerator: str, *, memory_mib: int | None, cores: int | None
) -> dict[str, float]:
    """What this host offers; memory and cores are found out unless they are told."""
    memory_mib = memory_mib or available_mib() - SPARE_MIB
    cores = cores or guests_by_cores(kvm=accelerator == KVM)
    if memory_mib < guest_mib(GUEST_MIB):
        raise HostError(
            f"{max(memory_mib, 0)} MiB for guests are not enough for one of {GUEST_MIB} MiB (--memory MIB says"
            " how much they may have)"
        )
    features = [VERSION, f"ARCH-{platform.machine()}", TCG.upper(), *([KVM.upper()] if accelerator == KVM else [])]
    if platform.machine() == "x86_64":
        features.append("NMI")
    features += [f"CPU-{level}" for level in CPU_LEVELS if hypervisor.lacks(accelerator, level) is None]
    offered = hypervisor.firmware()
    features += [name.upper() for name in FIRMWARE if name in offered and name != "bios"]
    return {MIB: memory_mib, CORES: cores, **dict.fromkeys(features, 1)}


def slots(resources: Mapping[str, float]) -> int:
    """How many usual drills fit at once."""
    return max(1, int(min(resources[CORES], resources[MIB] // guest_mib(GUEST_MIB))))
