"""A kernel drill: boot a kernel directly, load its capture kernel, crash it, and judge the vmcore on the disk."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ..base.crashkernel import require_cma
from ..base.errors import CommandFailed, ConsoleLost, GuestError, NotArmed, UsageError, WaitedInVain
from ..base.stage import Stage
from ..base.tables import package_path
from ..base.units import MIB
from ..base.verdict import Verdict
from ..distro.architecture import Architecture, find_architecture
from ..distro.family import Family, load_family
from ..drill.checks import CHECKS, CrashFacts, Scope
from ..drill.disks import SystemUnderTest
from ..drill.known_issues import KERNEL
from ..drill.plan import SAVED, Plan
from ..drill.steps import Drill
from ..fallback.erst import STORE_BYTES
from ..fallback.kinds import HYPERVISOR, PSTORE
from ..images.state import require_space
from ..kdump.command_line import check_arguments
from ..kdump.crash_monitor import CrashMonitor
from ..kdump.hotplug import updated_by_kernel
from ..kdump.hotplug_steps import VIRTIO_MEM, HotplugStep, room_for
from ..kdump.service import GuestState, KdumpConfig, KdumpService
from ..kdump.target import FoundFile, Target
from ..kdump.trigger import find_trigger
from ..triage.crash import CrashRequest
from ..vm.guest import Guest
from ..vm.run import Machine, Run
from ..vm.serial_shell import ControlLine
from .initramfs import Entry, write_archive
from .layouts import Layout
from .machine import INSTRUCTIONS, WALL, BareMachine, DirectBoot
from .modules import NEEDED, Modules
from .source import KernelFiles
from .userland import Userland

# Unscaled, as for a guest under KVM on an idle machine.
READY_TIMEOUT_S = 60.0  # from the power-on to the answer of the init
LAST_REPORT_S = 10.0  # of the capture kernel, after it restarted
LOADS = {"auto": "", "file": "-s", "syscall": "-c"}
_COPY_BYTES = MIB
_CLOCK = re.compile(r"kdump-harness: clock (\w+) ([\d.]+) (\d+) ([1-9]\d*)")
_CRASHES = re.compile(r"kdump-harness: the clock at the crash is (\d+)")
_CRASH_SLACK_S = 2.0  # of a clock that is read in whole seconds
MEMORY_MIB = 768
_DISK = "/dev/vda"
_VMCOREINFO_DRIVER = "qemu_fw_cfg"  # gives the hypervisor the VMCOREINFO for its dump
_DISK_IS_THERE = f"for _ in 1 2 3 4 5; do [ -b {_DISK} ] && exit; sleep 1; done; false"


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

    def drill_plan(self) -> Plan:
        """Return the plan of the drill; raise UsageError for what is known to be wrong."""
        plan = Plan(
            subject=SystemUnderTest(name=self.kernel.name, family=userland_family()),
            machine=self.machine,
            config=KdumpConfig(
                crashkernel=self.crashkernel or self.architecture.crashkernel, level=self.level, compress=self.compress
            ),
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
        if self.kernel.release:
            require_cma(plan.config.reservation, self.kernel.release, self.kernel.config)
        trigger = find_trigger(self.trigger, vcpus=self.machine.vcpus)
        if self.clock == INSTRUCTIONS and trigger.from_host:
            raise UsageError(f"--clock instructions needs a trigger inside the guest, which {self.trigger} is not")
        if trigger.from_host == "nmi" and not self.architecture.nmi:
            name = self.architecture.name
            raise UsageError(f"{self.trigger} needs an NMI, which QEMU cannot send to a guest for {name}")
        if trigger.module or trigger.while_booting or not trigger.panics:
            raise UsageError(f"a kernel drill cannot be crashed by {self.trigger}: it needs a whole system")
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
            spare=room_for(self.hotplug, machine.vcpus),
            fallback=self.fallback,
        )
        hardware.check()
        return hardware


def userland_family() -> Family:
    """Return the table of the userland."""
    return load_family(package_path("kernel", "userland.toml"))


def run_kernel_drill(run: Run, plan: KernelPlan) -> Verdict:
    """Drill a kernel once."""
    run.host.require_local("a kernel drill")
    inner = plan.drill_plan()
    machine = run.fit(plan.machine, needs=1 if plan.architecture.name == "amd64" else None)
    run.state.require_space(2 * machine.memory_mib, f"the drill of {plan.kernel.release}")
    kept_mib = machine.memory_mib // 4 + (machine.memory_mib if HYPERVISOR in plan.fallback else 0)
    require_space(run.evidence_directory, kept_mib, "the evidence of a drill", option="--evidence")
    with contextlib.closing(run.evidence(inner.name or inner.subject.name)) as evidence:
        drill = KernelDrill(run, inner, evidence, plan)
        if PSTORE in plan.fallback:
            drill.fallback.store = run.erst_store(STORE_BYTES)
        bare = plan.hardware(run.accelerator, machine)
        name = run.domain_name(plan.kernel.release)
        boot = drill.make_boot(name)
        try:
            most_mib = machine.memory_mib + bare.spare.memory_mib
            with run.bare_guest(name, bare.xml(name, boot), most_mib, evidence) as guest:
                return drill.take_directly(guest)
        finally:
            for path in filter(None, (boot.kernel, boot.initrd, boot.dump_disk, boot.erst)):
                path.unlink(missing_ok=True)


class RawDisk(Target):
    """The disk that the capture kernel writes the vmcore to."""

    def __init__(self, family: Family, disk: Path) -> None:
        super().__init__("local", family)
        self._disk = disk
        self.size_bytes = 0  # of the vmcore

    def look(self, guest: Guest, directory: str | None = None) -> dict[str, FoundFile]:
        """Return nothing: the disk is empty before the crash."""
        return {}

    def dump_files(self, _system: object) -> RawDisk:  # type: ignore[override]
        return self

    def fetch(self, _path: str, to: Path, *, progress: Callable[[int], None] | None = None) -> int:
        """Copy the vmcore from the beginning of the disk."""
        left_bytes = self.size_bytes
        with self._disk.open("rb") as disk, to.open("xb") as file:
            while left_bytes and (part := disk.read(min(_COPY_BYTES, left_bytes))):
                file.write(part)
                left_bytes -= len(part)
                if progress is not None:
                    progress(file.tell())
            return file.tell()

    def small_files(self, _directory: str) -> list[str]:
        """Return nothing: there is only the vmcore."""
        return []


class KernelDrill(Drill):
    """The state of one kernel drill on its way."""

    def __init__(self, run: Run, plan: Plan, evidence: object, kernel_plan: KernelPlan) -> None:
        super().__init__(run, plan, evidence)  # type: ignore[arg-type]
        self._kernel_plan = kernel_plan
        self._disk = run.directory.path / "unset"
        self._control: ControlLine | None = None
        self._load = ""
        self.verdict.target = "raw-disk"
        self.verdict.kernel_asked = kernel_plan.kernel.asked
        self.verdict.arch = kernel_plan.architecture.machine
        self.handover_silence_s = kernel_plan.architecture.handover_silence_s
        self.verdict.append, self.verdict.capture_append = kernel_plan.append, kernel_plan.capture_append

    @property
    def _config(self) -> str:
        """The text of the userland's configuration file."""
        config = self.plan.subject.family.config
        return config.with_collection("", *self.plan.config.core_collector(self.plan.subject.family))

    @property
    def _init_arguments(self) -> str:
        """The arguments for the init: the device of the control line, and a clock of instructions."""
        clock = f" kdump_harness.clock={INSTRUCTIONS}" if self._kernel_plan.clock == INSTRUCTIONS else ""
        return f"kdump_harness.control={self._kernel_plan.architecture.control_device}{clock}"

    def make_boot(self, name: str) -> DirectBoot:
        """Write the initramfs of both kernels and the empty disk."""
        plan, directory = self._kernel_plan, self.run.directory.path
        second = plan.second or plan.kernel
        capture = directory / f"{name}.capture"
        # The capture kernel has none of them: a balloon would take the memory of its reservation.
        layout_modules = [module for layout in plan.layouts for module in layout.modules]
        if any(step.thing == VIRTIO_MEM for step in plan.hotplug):
            layout_modules.append("virtio_mem")
        if HYPERVISOR in plan.fallback:
            layout_modules.append(_VMCOREINFO_DRIVER)
        with self.progress.step("making the initramfs"):
            with capture.open("wb") as file:
                write_archive(file, self._entries(second, plan.modules))
            initrd, kernel = directory / f"{name}.initrd", directory / f"{name}.kernel"
            with initrd.open("wb") as file:
                write_archive(
                    file,
                    [
                        *self._entries(plan.kernel, (*plan.modules, *layout_modules)),
                        Entry(path="kexec/kernel", content=second.image),
                        Entry(path="kexec/initrd", content=capture),
                    ],
                )
            capture.unlink()
            kernel.write_bytes(plan.kernel.image.read_bytes())
            self._disk = directory / f"{name}.dump"
            with self._disk.open("wb") as file:
                memory_mib = plan.machine.memory_mib + room_for(plan.hotplug, plan.machine.vcpus).memory_mib
                file.truncate((memory_mib * 5 // 4 + 16) * MIB)
            for path in (initrd, kernel):
                path.chmod(0o644)
        appended = [layout.append for layout in plan.layouts]
        reserved = self.plan.config.reservation.arguments
        return DirectBoot(
            kernel=kernel,
            initrd=initrd,
            command_line=" ".join(
                filter(None, (plan.architecture.arguments, self._init_arguments, reserved, *appended, plan.append))
            ),
            dump_disk=self._disk,
            erst=self.fallback.store,
        )

    def _entries(self, kernel: KernelFiles, more_modules: tuple[str, ...]) -> list[Entry]:
        wanted = (*NEEDED, *more_modules)
        modules = Modules(kernel.modules).closure(wanted, unknown_is_built_in=kernel.modules is None)
        return [
            *self._kernel_plan.userland.entries,
            *(Entry(path=f"modules/{name}.ko", content=content) for name, content in modules.items()),
            Entry(path="modules/order", content="".join(f"{name}.ko\n" for name in modules).encode()),
            Entry(path=self.plan.subject.family.config.file.lstrip("/"), content=self._config.encode()),
            Entry(path="etc/os-release", content=b'ID=kdump-harness\nPRETTY_NAME="the userland of kernel drills"\n'),
        ]

    def take_directly(self, guest: Guest) -> Verdict:
        """Boot, load, crash, and judge; the failures of the guest end up in the verdict."""
        unsubscribe = guest.console.subscribe(lambda line: self.console.append(line.text))
        service = KdumpService(guest, self.plan.subject.family)
        try:
            self._boot_directly(guest)
            try:
                before, dumps_before = self._prepare(guest, service)
            except NotArmed as error:
                error.state = service.state()
                self.refuse(error)
                return self.verdict
            facts, monitor = self._crash(guest, service, before)
            if self._is_enough(monitor):
                self._read_off(guest, service, facts, dumps_before)
            self.keep_records(None, facts)
            self.verdict.remarks.append(not_judged())
            if self._kernel_plan.clock == INSTRUCTIONS:
                self.verdict.processor_s = processor_times("\n".join(self.console))
            self.conclude(monitor)
            return self.verdict
        finally:
            self.fallback.drop_memory(self.run)
            unsubscribe()

    def _boot_directly(self, guest: Guest) -> None:
        with self.progress.step(f"{self.plan.subject.name}: booting", usual_s=15 if self.run.factor > 1 else 4):
            self._control = guest.open_control_line()
            self.clock.mark("power-on")
            guest.power_on()

            def look() -> None:
                self.progress.tick()
                guest.console.drain()

            try:
                self._control.wait_for("ready", timeout_s=READY_TIMEOUT_S * self.run.factor, look=look)
            except WaitedInVain as error:
                last = guest.console.last_line
                raise GuestError(
                    f"{self.plan.subject.name} did not boot: {error.args[0]}; the last line of its console is {last!r}",
                    see=self.evidence.console_path,
                ) from None
            self.clock.mark("first-login")
            guest.connect_by(self._control)
        if self._kernel_plan.second is None and not guest.shell.succeeds(_DISK_IS_THERE):
            raise GuestError(
                f"{self.plan.subject.name} cannot write a vmcore: {_DISK} did not appear (it needs virtio_pci and"
                " virtio_blk built in, or a KERNEL with modules)",
                see=self.evidence.console_path,
            )

    def _configure(self, guest: Guest, service: KdumpService) -> None:
        """Load the capture kernel."""
        plan, family = self._kernel_plan, service.family
        self.verdict.release = self.verdict.family
        self.target = self._raw = RawDisk(family, self._disk)
        collector = family.config.get(self._config, "collector") or ""
        append = " ".join(
            [
                plan.architecture.arguments,
                plan.architecture.capture_arguments,
                self._init_arguments,
                f"kdump_harness.disk={_DISK}",
                f"kdump_harness.collector={','.join(collector.split())}",
                plan.capture_append,
            ]
        ).strip()
        if self.plan.config.reservation.none:
            return
        self._load = f"kexec -p {LOADS[plan.load]} /kexec/kernel --initrd=/kexec/initrd --append={shlex.quote(append)}"
        self._load_capture(guest)
        if not plan.hotplug:
            guest.shell.run("rm -rf /kexec")
        for layout in plan.layouts:
            if layout.prepare:
                guest.shell.run(layout.prepare, timeout_s=60 * guest.factor)

    def crash_suite(self, _facts: CrashFacts) -> str:
        """Return the suite that the kernel came from, else that of the userland."""
        return self._kernel_plan.kernel.suite or self._kernel_plan.userland.suite

    def _load_capture(self, guest: Guest) -> None:
        try:
            guest.shell.run(self._load, timeout_s=60 * guest.factor)
        except CommandFailed as error:
            raise NotArmed(f"kexec cannot load the capture kernel: {error}", said=str(error)) from None

    def _after_hotplug(self, guest: Guest, _service: KdumpService) -> None:
        """Load the capture kernel anew where the kernel does not describe to it what was added, as udev's rules do."""
        if self.plan.config.reservation.none:
            return
        if not updated_by_kernel(guest, self.plan.hotplug):
            self.verdict.remarks.append("the capture kernel was loaded anew after the hotplug")
            self._load_capture(guest)
        guest.shell.run("rm -rf /kexec")

    def goal(self) -> tuple[Scope, Stage]:
        """Return the checks of a kernel drill."""
        return Scope.KERNEL, Stage.SAVED

    def _let_it_boot(self, _service: KdumpService) -> None:
        return

    def _crash(self, guest: Guest, service: KdumpService, before: GuestState) -> tuple[CrashFacts, CrashMonitor]:
        """Crash the guest. A clock of instructions runs ahead while the guest waits, so it is read once more."""
        if self._kernel_plan.clock != INSTRUCTIONS:
            return super()._crash(guest, service, before)
        now = "echo kdump-harness: the clock at the crash is $(date +%s) >/dev/console"
        self.trigger = dataclasses.replace(self.trigger, command=f"{now}; {self.trigger.command or 'true'}")
        facts, monitor = super()._crash(guest, service, before)
        if found := _CRASHES.search("\n".join(self.console)):
            before = dataclasses.replace(before, clock_s=float(found.group(1)))
            facts = dataclasses.replace(facts, before=before, crashed_after_s=(0.0, _CRASH_SLACK_S))
        return facts, monitor

    def _read_off(self, guest: Guest, service: KdumpService, facts, dumps_before) -> None:  # type: ignore[no-untyped-def]
        """Switch the guest off, and judge what is on the disk."""
        assert self._control is not None
        with contextlib.suppress(ConsoleLost):
            words = self._control.wait_for("vmcore", timeout_s=LAST_REPORT_S * guest.factor)
            guest.destroy()
            if len(words) != 2 or not re.fullmatch(r"[0-9]{1,18}", words[1]):
                raise GuestError(f"the capture kernel reported {' '.join(words)!r} instead of the size of the vmcore")
            # A guest that reports more than its disk has is judged by the disk.
            size_bytes = self._raw.size_bytes = min(int(words[1]), self._disk.stat().st_size)
            chosen = FoundFile(
                path="vmcore", size_bytes=size_bytes, mode=0o600, owner="root", directory_mode=0o700, final=True
            )
            self._fetch_and_check(self._raw, service, chosen, facts)  # type: ignore[arg-type]


def processor_times(console: str) -> dict[str, float]:
    """Return the processor time of each phase by the guest's own clock, without idle time, in seconds."""
    busy = {}
    for mark, uptime_s, idle_hundredths, processors in _CLOCK.findall(console):
        busy[mark] = float(uptime_s) - int(idle_hundredths) / 100 / int(processors)
    spans = {"boot": ("", "ready"), "capture_boot": ("", "writing"), "dump": ("writing", "saved")}
    return {
        name: round(busy[end] - busy.get(start, 0.0), 3)
        for name, (start, end) in spans.items()
        if end in busy and (not start or start in busy)
    }


def not_judged() -> str:
    """Return the remark on the checks of a whole drill that a kernel drill does not make."""
    names = [
        check.name
        for check in CHECKS
        if Scope.RECOVERED in check.required_for and Scope.KERNEL not in check.required_for
    ]
    return f"not judged by a kernel drill: {', '.join(names)}, the kdump service and the boot loader"
