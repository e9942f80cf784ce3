"""The plan of a kernel drill."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, replace

from ..base.crashkernel import Reservation, require_cma
from ..base.errors import UsageError
from ..base.tables import package_path
from ..distro.architecture import Architecture, find_architecture
from ..distro.family import Family, load_family
from ..drill.disks import SystemUnderTest
from ..drill.known_issues import KERNEL
from ..drill.plan import SAVED, Plan
from ..kdump.command_line import check_arguments
from ..kdump.hotplug_steps import HotplugStep, room_for
from ..kdump.service import KdumpConfig
from ..kdump.trigger import find_trigger
from ..triage.crash import CrashRequest
from ..vm.hypervisor.memory_xml import Spare
from ..vm.run import Machine
from .layouts import Layout
from .machine import INSTRUCTIONS, WALL, BareMachine
from .source import KernelFiles
from .userland import Userland

MEMORY_MIB = 768


@dataclass(frozen=True, kw_only=True)
class KernelPlan:
    """One kernel drill, as it was requested."""

    kernel: KernelFiles
    userland: Userland = field(default_factory=lambda: Userland(entries=(), key=""))
    second: KernelFiles | None = None  # the capture kernel; None: the first kernel
    machine: Machine = field(default_factory=lambda: Machine(memory_mib=MEMORY_MIB))
    architecture: Architecture = field(default_factory=lambda: find_architecture("amd64"))
    crashkernel: str | None = None
    level: int | None = None
    compress: str | None = None
    trigger: str = "sysrq-c"
    append: str = ""  # to the command line of the first kernel
    capture_append: str = ""
    load: str = "auto"  # one of LOADS
    modules: tuple[str, ...] = ()  # in addition to those of the disk
    layouts: tuple[Layout, ...] = ()
    clock: str = WALL  # or INSTRUCTIONS
    oracle: bool = False
    crash: CrashRequest | None = None
    fallback: tuple[str, ...] = ()  # the records that a failed drill keeps
    hotplug: tuple[HotplugStep, ...] = ()
    name: str = ""  # of the evidence directory
    scenario: str = KERNEL  # whose known issues count

    @property
    def config(self) -> KdumpConfig:
        """The settings of kdump; those that the plan does not name are the userland's."""
        return KdumpConfig(
            crashkernel=self.crashkernel or self.architecture.crashkernel, level=self.level, compress=self.compress
        )

    @property
    def reservation(self) -> Reservation:
        """The memory that is reserved for the capture kernel."""
        return self.config.reservation

    def spare(self, machine: Machine) -> Spare:
        """Return the room of a machine for the steps of --hotplug."""
        return room_for(self.hotplug, machine.vcpus)

    def drill_plan(self) -> Plan:
        """Return the plan of the drill; raise UsageError for what is known to be wrong."""
        plan = Plan(
            subject=SystemUnderTest(name=self.kernel.name, family=userland_family(), of_file=self.architecture),
            machine=replace(self.machine, architecture=self.architecture),
            config=self.config,
            trigger=self.trigger,
            until=SAVED,
            scenario=self.scenario,
            oracle=self.oracle,
            crash=self.crash,
            fallback=self.fallback,
            hotplug=self.hotplug,
            name=self.name,
        )
        plan.check()
        plan = replace(plan, machine=replace(plan.machine, spare=self.spare(plan.machine)))
        if self.kernel.release:
            require_cma(plan.config.reservation, self.kernel.release, self.kernel.config)
        trigger = find_trigger(self.trigger, vcpus=self.machine.vcpus)
        if self.clock == INSTRUCTIONS and trigger.from_host:
            raise UsageError(f"--clock instructions needs a trigger inside the guest, which {self.trigger} is not")
        if trigger.while_booting or not trigger.panics:
            raise UsageError(
                f"a kernel drill cannot be crashed by {self.trigger}: it needs a reboot, or crashes nothing"
            )
        check_arguments("--append", self.append, shells=False)
        check_arguments("--capture-append", self.capture_append, shells=False)
        return plan

    def hardware(self, accelerator: str, machine: Machine) -> BareMachine:
        """Return the virtual hardware on a machine that fits the host; raise UsageError where it cannot exist."""
        hardware = BareMachine(
            accelerator=accelerator,
            memory_mib=machine.memory_mib,
            vcpus=machine.vcpus,
            cpu_level=machine.cpu_level,
            devices=find_trigger(self.trigger, vcpus=machine.vcpus).devices,
            layouts=self.layouts,
            clock=self.clock,
            architecture=self.architecture,
            spare=self.spare(machine),
            fallback=self.fallback,
        )
        hardware.check()
        return hardware


@functools.cache
def userland_family() -> Family:
    """Return the table of the userland."""
    return load_family(package_path("kernel", "userland.toml"))
