"""Steps that add and remove memory and processors, and the room that a machine needs for them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..base.errors import UsageError
from ..vm.hypervisor.memory_xml import Spare

CPU, DIMM, VIRTIO_MEM = "cpu", "dimm", "virtio-mem"
STEPS = "add-cpu, remove-cpu, add-dimm:MIB, remove-dimm, add-virtio-mem:MIB, remove-virtio-mem"
_STEP = re.compile(r"(add|remove)-(cpu|dimm|virtio-mem)(?::(\d{1,9}))?")


@dataclass(frozen=True, kw_only=True)
class HotplugStep:
    """One step."""

    add: bool
    thing: str  # CPU, DIMM or VIRTIO_MEM
    mib: int = 0  # of added memory

    @property
    def word(self) -> str:
        """The step as --hotplug has it."""
        return f"{'add' if self.add else 'remove'}-{self.thing}" + (f":{self.mib}" if self.mib else "")

    def __str__(self) -> str:
        size = f" of {self.mib} MiB" if self.mib else ""
        return f"{'adding' if self.add else 'removing'} {self.thing}{size}"


def parse_steps(text: str) -> tuple[HotplugStep, ...]:
    """Return the steps of a list like add-dimm:512,add-cpu,remove-dimm; UsageError names the one that is wrong."""
    steps = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        found = _STEP.fullmatch(part)
        if found is None or (found[1] == "add" and found[2] != CPU) is not bool(found[3]):
            raise UsageError(f"--hotplug: {part!r} is not a step (expected a list of {STEPS})")
        steps.append(HotplugStep(add=found[1] == "add", thing=found[2], mib=int(found[3] or 0)))
    return tuple(steps)


def room_for(steps: tuple[HotplugStep, ...], vcpus: int) -> Spare:
    """Return the room that the machine needs; UsageError for a step that finds nothing to remove."""
    cpus = most = vcpus
    dimms, virtio_mem_mib, largest_mib = 0, 0, 0
    slots: list[int] = []
    for step in steps:
        if step.thing == CPU:
            cpus += 1 if step.add else -1
            most = max(most, cpus)
            if cpus < 1:
                raise UsageError("--hotplug: remove-cpu leaves no processor (--vcpus gives the guest more)")
        elif step.thing == DIMM:
            dimms += 1 if step.add else -1
            slots += [step.mib] if step.add else []
            if dimms < 0:
                raise UsageError("--hotplug: remove-dimm finds no DIMM that was added before")
        else:
            if not step.add and not virtio_mem_mib:
                raise UsageError("--hotplug: remove-virtio-mem finds no memory that was added before")
            virtio_mem_mib = virtio_mem_mib + step.mib if step.add else 0
            largest_mib = max(largest_mib, virtio_mem_mib)
    fewer = any(step.thing == CPU and not step.add for step in steps)
    return Spare(dimms_mib=tuple(slots), virtio_mem_mib=largest_mib, cpus=most - vcpus, fewer_cpus=fewer)
