"""The plan of a drill, and the space it needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..base.errors import UsageError
from ..diagnosis.table import all_symptoms
from ..fallback.kinds import check_firmware
from ..kdump.crash_monitor import CrashMonitor
from ..kdump.hotplug_steps import HotplugStep, room_for
from ..kdump.own_arming import check_own_arming
from ..kdump.service import KdumpConfig, KdumpService
from ..kdump.target import ON_DISK, Server, find_target
from ..kdump.trigger import find_trigger
from ..triage.crash import CrashRequest
from ..vm.guest import Guest
from ..vm.hypervisor.domain_xml import Disk
from ..vm.run import Machine
from .budgets import load_budgets
from .checks import CrashFacts
from .clone import Clone
from .disks import SystemUnderTest
from .known_issues import DRILL, load_known_issues
from .shapes.table import Shapes

# From the panic to the login prompt; unscaled, as for a guest under KVM.
REBOOT_BUDGET_S = 90.0
MIB = 1 << 20
TARGET_DISK_MIB = 4096  # sparse
EVIDENCE_NEED_MIB = 64  # logs, and a vmcore of a small guest
OVERLAY_MIB = 512  # in addition to the guest's memory
COPY_MIB = 3072  # of what a guest's disk rests on

RECOVERED, SAVED = "recovered", "saved"  # how far a drill goes


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One drill, as it was asked for."""

    subject: SystemUnderTest
    machine: Machine = field(default_factory=Machine)
    config: KdumpConfig = field(default_factory=lambda: KdumpConfig(crashkernel=None, level=None, compress=None))
    trigger: str = "sysrq-c"
    target: str = "local"
    as_is: bool = False  # judge the guest as it was found
    arm_with: Path | None = (
        None  # the user's own script or playbook, which makes kdump ready; the guest is judged as it is then
    )
    until: str = RECOVERED  # or SAVED: switch the guest off when the dump is written, and judge no reboot
    clone: Clone | None = None  # a cloned domain; settings of its kdump that the plan does not name stay unchanged
    packages: tuple[str, ...] | None = None  # instead of the family's
    more_packages: tuple[str, ...] = ()  # in addition to those and to the target's
    server: Server | None = None  # that dumps are sent to; one is made where the target needs it
    target_disk: Disk | None = None  # for dumps; a blank one is made where the target needs it
    budget_s: float | None = None  # panic to login
    fallback: tuple[str, ...] = ()  # the records that a failed drill keeps: names in KINDS of fallback/records.py
    hotplug: tuple[HotplugStep, ...] = ()  # taken after the capture kernel was loaded
    shapes: Shapes = field(default_factory=Shapes)
    oracle: bool = False  # compare the vmcore with the hypervisor's picture of the memory
    crash: CrashRequest | None = None  # let the crash utility open the vmcore
    name: str = ""  # of the evidence directory
    scenario: str = DRILL  # whose known issues count
    before_crash: Callable[[Guest, KdumpService], None] | None = None  # has the last word on the guest's configuration
    on_trigger: Callable[[Guest], None] | None = None  # is called just before the trigger is pulled
    meanwhile: Callable[[Guest, CrashMonitor], None] | None = (
        None  # is called all the time, from the trigger to the end
    )
    on_dump: Callable[[Path, CrashFacts], None] | None = None  # is shown the vmcore, which may be removed afterwards

    def check(self) -> None:
        """UsageError for anything that can be known wrong before a guest is started."""
        check_firmware(self.fallback, self.machine.firmware)
        if self.hotplug and self.clone is not None:
            raise UsageError("--hotplug cannot go with --domain: a clone has no free slots for memory or processors")
        if self.shapes and (self.as_is or self.clone is not None):
            raise UsageError("--shape changes the guest, so it cannot go with --as-is or --domain")
        if self.shapes and self.machine.architecture.name != "amd64":
            raise UsageError(f"--shape needs a guest for amd64, not for {self.machine.architecture.name}")
        self.shapes.check(self.subject.family, self.target)
        replace(self.machine, spare=room_for(self.hotplug, self.machine.vcpus)).check()
        self.subject.check(self.machine)
        if self.arm_with is not None:
            check_own_arming(self.arm_with)
        alone = "--as-is" if self.arm_with is None else "--arm-with"
        if self.as_is and (self.subject.kernel or self.subject.files or self.subject.more):
            raise UsageError(
                f"{alone} installs nothing itself, so it cannot go with --kernel, --makedumpfile or --packages"
            )
        for option, given in (("--append", self.config.append), ("--capture-append", self.config.capture_append)):
            if given and (self.as_is or self.clone is not None):
                raise UsageError(f"{option} changes the guest, so it cannot go with {alone} or --domain")
        if self.as_is and self.target != "local":
            raise UsageError(f"{alone} leaves the guest's target as it is, so it cannot go with --target")
        if self.until not in (RECOVERED, SAVED):
            raise UsageError(f"a drill goes until {SAVED} or {RECOVERED}, not {self.until!r}")
        if self.until == SAVED and self.target in ON_DISK:
            raise UsageError(f"--until {SAVED} cannot go with --target {self.target}: it reads the system's disk only")
        if self.until == SAVED and self.shapes.directory:
            raise UsageError(f"--until {SAVED} cannot go with --shape {self.shapes.names[0]}: it reads one disk only")
        if self.knows_family:
            self.config.check(self.subject.family, self.machine.memory_mib)
            find_target(self.target, self.subject.family)
        find_trigger(self.trigger, vcpus=self.machine.vcpus).check_architecture(self.machine.architecture)
        if self.crash is not None:
            self.crash.check()
        load_known_issues()
        load_budgets()
        all_symptoms()

    @property
    def knows_family(self) -> bool:
        """Whether the subject's family is more than what stands for it until the guest is asked."""
        return self.clone is None or self.clone.family is not None

    @property
    def image(self) -> str:
        """The name of the system in the verdict."""
        return self.subject.name if self.clone is None else self.clone.image


def disk_need_mib(memory_mib: int) -> int:
    """Return the most disk that a saved and drilled guest takes: its memory, its overlay, a copy of its disk."""
    return 2 * memory_mib + EVIDENCE_NEED_MIB + OVERLAY_MIB + COPY_MIB
