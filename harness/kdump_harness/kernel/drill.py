"""A kernel drill: boot a kernel directly, load its capture kernel, crash it, and judge the vmcore on the disk."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import shlex
from collections.abc import Callable
from pathlib import Path

from ..base.errors import ConsoleLost, GuestError, NotArmed, WaitedInVain
from ..base.evidence import Evidence
from ..base.stage import Stage
from ..base.units import MIB
from ..base.verdict import Verdict
from ..distro.family import Family
from ..drill.checks import CHECKS, CrashFacts, Scope
from ..drill.crash import CrashDrill
from ..fallback.erst import STORE_BYTES
from ..fallback.kinds import HYPERVISOR, PSTORE
from ..images.state import require_space
from ..kdump.crash_monitor import CrashMonitor
from ..kdump.hotplug import updated_by_kernel
from ..kdump.service import KdumpService
from ..kdump.target import FoundFile, Target
from ..kdump.trigger import find_trigger
from ..vm.guest import Guest
from ..vm.run import Run
from ..vm.shells.serial_shell import ControlLine
from .boot import DISK, capture_command_line, write_boot
from .crash_module import make_module
from .machine import INSTRUCTIONS, DirectBoot
from .plan import KernelPlan

# Unscaled, as for a guest under KVM on an idle machine.
READY_TIMEOUT_S = 60.0  # from the power-on to the answer of the init
LAST_REPORT_S = 10.0  # of the capture kernel, after its last word on the console
LOADS = {"auto": "", "file": "-s", "syscall": "-c"}
_COPY_BYTES = MIB
_CLOCK = re.compile(r"kdump-harness: clock (\w+) ([\d.]+) (\d+) ([1-9]\d*)")
_CRASHES = re.compile(r"kdump-harness: the clock at the crash is (\d+)")
_SHOW_CLOCK = "echo kdump-harness: the clock at the crash is $(date +%s) >/dev/console"
_CRASH_SLACK_S = 2.0  # of a clock that is read in whole seconds
_CLEAR = "rm -rf /kexec"
_NO_DISK = 111
_AWAIT_DISK = f"for _ in 1 2 3 4 5; do [ -b {DISK} ] && break; sleep 1; done; [ -b {DISK} ] || exit {_NO_DISK}"


def run_kernel_drill(run: Run, plan: KernelPlan) -> Verdict:
    """Drill a kernel once."""
    run.host.require_local("a kernel drill")
    inner = plan.drill_plan()
    machine = run.fit(plan.machine, needs=1 if plan.architecture.name == "amd64" else None)
    run.state.require_space(2 * machine.memory_mib, f"the drill of {plan.kernel.release}")
    kept_mib = machine.memory_mib // 4 + (machine.memory_mib if HYPERVISOR in plan.fallback else 0)
    require_space(run.evidence_directory, kept_mib, "the evidence of a drill", option="--evidence")
    bare = plan.hardware(run.accelerator, machine)
    name = run.domain_name(plan.kernel.release)
    with contextlib.closing(run.evidence(inner.name or inner.subject.name)) as evidence:
        trigger = find_trigger(plan.trigger, vcpus=machine.vcpus)
        module = make_module(run, plan.kernel) if trigger.module else None
        store = run.erst_store(STORE_BYTES) if PSTORE in plan.fallback else None
        with run.progress.step("making the initramfs"):
            boot = write_boot(plan, run.directory.path, name, crash_module=module, erst=store)
        try:
            most_mib = machine.memory_mib + bare.spare.memory_mib
            with run.bare_guest(name, bare.xml(name, boot), most_mib, evidence) as guest:
                return KernelDrill(run, plan, evidence, boot).take(guest)
        finally:
            for path in filter(None, (boot.kernel, boot.initrd, boot.dump_disk, boot.erst)):
                path.unlink(missing_ok=True)


class RawDisk(Target):
    """The disk that the capture kernel writes the vmcore to."""

    def __init__(self, family: Family, disk: Path) -> None:
        super().__init__("local", family)
        self.disk = disk
        self.size_bytes = 0  # of the vmcore

    def look(self, guest: Guest, directory: str | None = None) -> dict[str, FoundFile]:
        """Return nothing: the disk is empty before the crash."""
        return {}

    def dump_files(self, _system: object) -> RawDisk:  # type: ignore[override]
        return self

    def fetch(self, _path: str, to: Path, *, progress: Callable[[int], None] | None = None) -> int:
        """Copy the vmcore from the beginning of the disk."""
        left_bytes = self.size_bytes
        with self.disk.open("rb") as disk, to.open("xb") as file:
            while left_bytes and (part := disk.read(min(_COPY_BYTES, left_bytes))):
                file.write(part)
                left_bytes -= len(part)
                if progress is not None:
                    progress(file.tell())
            return file.tell()

    def small_files(self, _directory: str) -> list[str]:
        """Return nothing: there is only the vmcore."""
        return []


class KernelDrill(CrashDrill):
    """The state of one kernel drill on its way."""

    def __init__(self, run: Run, plan: KernelPlan, evidence: Evidence, boot: DirectBoot) -> None:
        super().__init__(run, plan.drill_plan(), evidence)
        self._kernel_plan = plan
        self.target = self._raw = RawDisk(self.plan.subject.family, boot.dump_disk)
        self.fallback.store = boot.erst
        self._control: ControlLine
        self.verdict.target = "raw-disk"
        self.verdict.release = self.verdict.family
        self.verdict.kernel_asked = plan.kernel.asked
        self.verdict.arch = plan.architecture.machine
        self.handover_silence_s = plan.architecture.handover_silence_s
        self.verdict.append, self.verdict.capture_append = plan.append, plan.capture_append
        if plan.clock == INSTRUCTIONS:
            # This clock runs ahead while the guest waits, so it is read just before the crash.
            self.trigger = dataclasses.replace(
                self.trigger, module="", command=f"{_SHOW_CLOCK}; {self.trigger.command_in_guest or 'true'}"
            )

    def take(self, guest: Guest) -> Verdict:
        """Boot, load, crash, and judge; the failures of the guest end up in the verdict."""
        service = KdumpService(guest, self.plan.subject.family)
        with self.listening(guest):
            self._boot(guest)
            try:
                with self.progress.step("looking at the guest before the crash"):
                    self._load(guest)
                    self.trigger.check_guest(guest)
                    before, _ = self.look_before(guest, service)
            except NotArmed as error:
                error.state = service.state()
                self.refuse(error)
                return self.verdict
            facts, monitor = self.crash(guest, service, before)
            if self.is_enough(monitor):
                self._judge_disk(guest, service, self._crashed_at(facts))
            self.keep_records(None, facts)
            self.verdict.remarks.append(not_judged())
            if self._kernel_plan.clock == INSTRUCTIONS:
                self.verdict.processor_s = processor_times("\n".join(self.console))
            self.conclude(monitor)
            return self.verdict

    def _boot(self, guest: Guest) -> None:
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

    def _load(self, guest: Guest) -> None:
        """Load the capture kernel."""
        plan = self._kernel_plan
        if plan.reservation.none:
            return
        self._load_capture(guest, last=not plan.hotplug)
        for layout in plan.layouts:
            if layout.prepare:
                guest.shell.run(layout.prepare, timeout_s=60 * guest.factor)

    def _load_capture(self, guest: Guest, *, last: bool) -> None:
        """Load the capture kernel, and remove its files after the LAST time."""
        plan = self._kernel_plan
        append = shlex.quote(capture_command_line(plan))
        load = f"kexec -p {LOADS[plan.load]} /kexec/kernel --initrd=/kexec/initrd --append={append}"
        if plan.second is None:  # another capture kernel may have the driver that the first one lacks
            load = f"{_AWAIT_DISK}; {load}"
        if last:
            load = f"{load} && {_CLEAR}"
        result = guest.shell.run(load, timeout_s=60 * guest.factor, check=False)
        if result.status == _NO_DISK:
            raise GuestError(
                f"{self.plan.subject.name} cannot write a vmcore: {DISK} did not appear (it needs virtio_pci and"
                " virtio_blk built in, or a KERNEL with modules)",
                see=self.evidence.console_path,
            )
        if not result.ok:
            said = (result.err or result.out).strip() or f"it ended with status {result.status}"
            raise NotArmed(f"kexec cannot load the capture kernel: {said.splitlines()[-1]}", said=said)
        # Warnings of kexec, such as that it did not find the kernel's address, are not on the console.
        self.console += (result.out + result.err).splitlines()

    def after_hotplug(self, guest: Guest, _service: KdumpService) -> None:
        """Load the capture kernel anew where the kernel does not describe to it what was added, as udev's rules do."""
        if self._kernel_plan.reservation.none:
            return
        if updated_by_kernel(guest, self.plan.hotplug):
            guest.shell.run(_CLEAR)
        else:
            self.verdict.remarks.append("the capture kernel was loaded anew after the hotplug")
            self._load_capture(guest, last=True)

    def crash_suite(self, _facts: CrashFacts) -> str:
        """Return the suite that the kernel came from, else that of the userland."""
        return self._kernel_plan.kernel.suite or self._kernel_plan.userland.suite

    def goal(self) -> tuple[Scope, Stage]:
        """Return the checks of a kernel drill."""
        return Scope.KERNEL, Stage.SAVED

    def is_enough(self, monitor: CrashMonitor) -> bool:
        """Return whether the capture kernel has said its last word on the vmcore."""
        return monitor.stage >= Stage.SAVED or monitor.failed is not None or monitor.restart_seen

    def _crashed_at(self, facts: CrashFacts) -> CrashFacts:
        """Return the facts with the time of the crash, where the guest read its clock once more."""
        if self._kernel_plan.clock != INSTRUCTIONS or not (found := _CRASHES.search("\n".join(self.console))):
            return facts
        before = dataclasses.replace(facts.before, clock_s=float(found.group(1)))
        return dataclasses.replace(facts, before=before, crashed_after_s=(0.0, _CRASH_SLACK_S + self.trigger.takes_s))

    def _judge_disk(self, guest: Guest, service: KdumpService, facts: CrashFacts) -> None:
        """Judge what is on the disk while the guest is switched off."""
        try:
            words = self._control.wait_for("vmcore", timeout_s=LAST_REPORT_S * guest.factor)
        except ConsoleLost:
            if self.run.lost(guest.domain):
                raise
            return
        if len(words) != 2 or not re.fullmatch(r"[0-9]{1,18}", words[1]):
            raise GuestError(f"the capture kernel reported {' '.join(words)!r} instead of the size of the vmcore")
        # A guest that reports more than its disk has is judged by the disk.
        size_bytes = self._raw.size_bytes = min(int(words[1]), self._raw.disk.stat().st_size)
        chosen = FoundFile(
            path="vmcore", size_bytes=size_bytes, mode=0o600, owner="root", directory_mode=0o700, final=True
        )
        self.run.end(guest)
        self.fetch_and_check(self._raw, service, chosen, facts)  # type: ignore[arg-type]


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
