"""Takes the steps of a drill, times them, runs the checks, returns a Verdict.

A drill returns what the guest did and raises what we did wrong: a kdump that fails is a verdict, a guest that
cannot be booted or a host without space is an exception.
"""

from __future__ import annotations

import contextlib
import re
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from ..base.clock import Deadline, PhaseClock, now_s, raise_if_stopped
from ..base.errors import CommandFailed, ConsoleLost, GuestError, HarnessError, NotArmed, UsageError
from ..base.evidence import Evidence
from ..base.stage import Stage
from ..base.verdict import Verdict
from ..diagnosis import diagnose_text
from ..images.state import require_space
from ..kdump.crash_monitor import PANIC_TIMEOUT_S, TOTAL_TIMEOUT_S, CrashMonitor
from ..kdump.page_flags import MemoryState, from_flags, from_meminfo
from ..kdump.service import GuestState, KdumpConfig, KdumpService
from ..kdump.target import LABEL, ON_DISK, ON_SERVER, Files, FoundFile, Server, ShellFiles, Target, find_target
from ..kdump.trigger import CannotTrigger, Trigger, find_trigger
from ..vm.console import ConsoleLine
from ..vm.guest import Guest, SavedGuest
from ..vm.hypervisor.domain import Disk
from ..vm.run import Machine, Run
from ..vmcore import VmcoreError, open_vmcore
from . import checks
from .checks import CrashFacts
from .clone import Clone, family_of
from .crash_module import put_module
from .disk_reader import CannotRead, HostDisk
from .disks import ArmedDisk, BaseDisk, SystemUnderTest, armed_disk, base_disk
from .dump_server import open_dump_server
from .known_issues import DRILL, judge, load_known_issues
from .oracle import compare

# From the panic to the login prompt; unscaled, as for a guest under KVM.
REBOOT_BUDGET_S = 90.0
MIB = 1 << 20
TARGET_DISK_MIB = 4096  # sparse
EVIDENCE_NEED_MIB = 64  # logs, and a vmcore of a small guest
OVERLAY_MIB = 512  # beside what goes with the guest's memory
COPY_MIB = 3072  # of what a guest's disk rests on
_TICK_S = 0.5
LAST_WORDS_S = 1.0
# What a person waits for at each step of an emulated drill; only for the progress line.
_USUAL_S = {"the capture kernel": 10, "the capture kernel to save the vmcore": 40, "the login prompt": 60}


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
    until: str = RECOVERED  # or SAVED: switch the guest off when the dump is written, and judge no reboot
    clone: Clone | None = None  # a machine of the user's; what the plan does not name of its kdump stays as it is
    packages: tuple[str, ...] | None = None  # instead of the family's
    more_packages: tuple[str, ...] = ()  # beside those, and those that the target needs
    server: Server | None = None  # that dumps are sent to; one is made where the target needs it
    target_disk: Disk | None = None  # for dumps; a blank one is made where the target needs it
    budget_s: float | None = None  # panic to login
    oracle: bool = False  # compare the vmcore with the hypervisor's picture of the memory
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
        self.machine.check()
        self.subject.check(self.machine)
        if self.as_is and (self.subject.kernel or self.subject.files or self.subject.more):
            raise UsageError("--as-is installs nothing, so it cannot go with --kernel, --makedumpfile or --packages")
        if self.as_is and self.target != "local":
            raise UsageError("--as-is leaves the guest's target as it is, so it cannot go with --target")
        if self.until not in (RECOVERED, SAVED):
            raise UsageError(f"a drill goes until {SAVED} or {RECOVERED}, not {self.until!r}")
        if self.until == SAVED and self.target in ON_DISK:
            raise UsageError(f"--until {SAVED} cannot go with --target {self.target}: it reads the system's disk only")
        if self.knows_family:
            self.config.check(self.subject.family)
            find_target(self.target, self.subject.family)
        find_trigger(self.trigger, vcpus=self.machine.vcpus)
        load_known_issues()

    @property
    def knows_family(self) -> bool:
        """Whether the subject's family is more than what stands for it until the guest is asked."""
        return self.clone is None or self.clone.family is not None

    @property
    def image(self) -> str:
        """What the verdict is about."""
        return self.subject.name if self.clone is None else self.clone.image


def disk_need_mib(memory_mib: int) -> int:
    """The disk that a guest takes at most that is saved and drilled: its memory, its overlay, a copy of its disk."""
    return 2 * memory_mib + EVIDENCE_NEED_MIB + OVERLAY_MIB + COPY_MIB


def run_drill(run: Run, plan: Plan) -> Verdict:
    """Drill once: boot, armed, crash, capture, saved, recovered, verified."""
    with open_session(run, plan) as session:
        return session.drill()


def _no_report(_verdict: Verdict) -> None:
    return


def _no_look(_guest: Guest, _stack: KdumpService) -> None:
    return


@contextlib.contextmanager
def open_session(run: Run, plan: Plan, *, on_verdict: Callable[[Verdict], None] = _no_report) -> Iterator[Session]:
    """A guest for one drill or more, one after the other in the same guest; destroyed at the end of the block.

    on_verdict is told of each.
    """
    plan.check()
    machine = run.fit(plan.machine, needs=plan.subject.needs_cpu)
    devices = {*machine.devices, *find_trigger(plan.trigger, vcpus=machine.vcpus).devices}
    plan = replace(plan, machine=replace(machine, devices=tuple(sorted(devices))))
    run.open_evidence()
    disk: ArmedDisk | BaseDisk
    if plan.clone is not None:
        disk = plan.clone.base
    elif plan.as_is:
        disk = base_disk(run, plan.subject, ())
    else:
        more = (*plan.subject.family.targets[plan.target].packages, *plan.more_packages)
        try:
            disk = armed_disk(run, plan.subject, plan.machine, plan.config, plan.packages, tuple(sorted(set(more))))
        except NotArmed as error:
            verdict = _not_armed(run, plan, error)
            yield _Refused(verdict, on_verdict)
            return
    need_mib = plan.machine.memory_mib * (2 if plan.oracle else 1) + OVERLAY_MIB
    run.host.require_space(need_mib, f"the drill of {plan.subject.name}")
    require_space(run.evidence_directory, EVIDENCE_NEED_MIB, "the evidence of a drill", option="--evidence")
    with contextlib.ExitStack() as stack:
        if plan.server is None and plan.target in ON_SERVER:
            plan = replace(plan, server=stack.enter_context(open_dump_server(run)).server)
        target_disk = plan.target_disk
        if target_disk is None and plan.target in ON_DISK:
            target_disk = run.blank_disk(TARGET_DISK_MIB, serial=LABEL)
        evidence = run.evidence(plan.name or plan.subject.name)
        stack.callback(evidence.close)
        subject = plan.subject
        base_format = disk.format if isinstance(disk, BaseDisk) else "qcow2"
        guest = run.guest(
            disk.path if plan.clone is not None else run.overlay(disk.path, base_format=base_format),
            plan.machine,
            evidence,
            label=subject.name,
            user=subject.login,
            access=subject.access,
            ports=(run.crash_network().port(),) if plan.server is not None else (),
            disks=(target_disk,) if target_disk is not None else (),
            identity=plan.clone.identity if plan.clone is not None else None,
            like=plan.clone.like if plan.clone is not None else None,
        )
        with _blamed(evidence):
            yield Session(run, plan, stack.enter_context(guest), evidence, disk, on_verdict)


@contextlib.contextmanager
def _blamed(evidence: Evidence) -> Iterator[None]:
    """Errors of ours point to where the rest is."""
    try:
        yield
    except HarnessError as error:
        evidence.event("broken", error=str(error))
        if error.see is None:
            error.see = evidence.directory
        raise


class Session:
    """A guest that is drilled, perhaps more than once."""

    def __init__(
        self,
        run: Run,
        plan: Plan,
        guest: Guest,
        evidence: Evidence,
        disk: ArmedDisk | BaseDisk,
        on_verdict: Callable[[Verdict], None],
    ) -> None:
        self.run, self.plan, self.guest = run, plan, guest
        self.stack = KdumpService(guest, plan.subject.family)
        self._evidence: Evidence | None = evidence  # of the first drill
        self._disk, self._on_verdict = disk, on_verdict
        self._last: Verdict | None = None
        self._saved: SavedGuest | None = None

    def drill(self, **changes: Any) -> Verdict:
        """One drill by the session's plan with these changes; the first one boots the guest, unless it was saved.

        The target may be changed to one whose disk or server the session was opened with.
        """
        plan = replace(self.plan, **changes)
        plan.check()
        needed = find_trigger(plan.trigger, vcpus=plan.machine.vcpus).devices
        if missing := set(needed) - set(plan.machine.devices):
            raise UsageError(f"the guest was started without {', '.join(missing)}, which {plan.trigger} needs")
        with contextlib.ExitStack() as stack:
            fresh, evidence = self._evidence is not None, self._directory(plan, stack)
            drill = self._drill(plan, evidence)
            before, self._last = self._last, drill.verdict
            start = drill.boot if fresh else None
            if self._saved is not None:
                drill.verdict.warm, start = True, drill.resume
                self.guest = self.stack.guest = stack.enter_context(self.run.restored(self._saved, evidence))
                stack.enter_context(_blamed(evidence))
            try:
                verdict = drill.take(self.guest, self.stack, start)
            except CannotTrigger:
                self._last = before  # nothing was done to the guest
                raise
        self._on_verdict(verdict)
        return verdict

    def save(self, look: Callable[[Guest, KdumpService], None] = _no_look) -> Verdict | None:
        """Boot the guest, make its kdump ready, and keep its memory: each drill from now on starts from there.

        look is shown the guest before. A guest that cannot be made ready gives the verdict that says why.
        """
        need_mib = self.plan.machine.memory_mib + EVIDENCE_NEED_MIB
        self.run.host.require_space(need_mib, f"the saved memory of {self.plan.subject.name}")
        with contextlib.ExitStack() as stack:
            drill = self._drill(self.plan, self._directory(self.plan, stack))
            verdict = drill.get_ready(self.guest, self.stack, look)
            if verdict is not None:
                self._last = verdict
                self._on_verdict(verdict)
                return verdict
            self._saved = self.run.save(self.guest)
        return None

    def _directory(self, plan: Plan, stack: contextlib.ExitStack) -> Evidence:
        """Where this drill's evidence goes: that of the session, the first time."""
        if self._evidence is not None:
            evidence, self._evidence = self._evidence, None
            return evidence
        evidence = self.run.evidence(plan.name or plan.subject.name)
        stack.callback(evidence.close)
        if self._saved is None:
            self.guest.switch_evidence(evidence)
        return evidence

    def _drill(self, plan: Plan, evidence: Evidence) -> _Drill:
        drill = _Drill(self.run, plan, evidence)
        if isinstance(self._disk, ArmedDisk):
            drill.verdict.disk = self._disk.base.source
            drill.verdict.remarks.extend(self._disk.remarks)
        else:
            drill.verdict.disk = self._disk.source
        if plan.clone is not None:
            drill.verdict.remarks.extend(plan.clone.remarks)
        return drill

    @property
    def ready(self) -> bool:
        """Whether the guest can be drilled once more: it has not been yet, was saved before, or came back armed."""
        if self._last is None or self._saved is not None:
            return True
        seen = {check.name for check in self._last.checks if check.ok}
        return "rearmed" in seen and ("rebooted" in seen or "lives" in seen)


class _Refused(Session):
    """What stands for a guest whose disk could not be armed: there is nothing to crash it for."""

    def __init__(self, verdict: Verdict, on_verdict: Callable[[Verdict], None]) -> None:
        self._refusal, self._on_verdict = verdict, on_verdict
        self._last = verdict

    def drill(self, **_changes: Any) -> Verdict:
        """The verdict on what could not be armed."""
        self._on_verdict(self._refusal)
        return self._refusal

    def save(self, _look: Callable[[Guest, KdumpService], None] = _no_look) -> Verdict | None:
        """The same."""
        return self.drill()


def _not_armed(run: Run, plan: Plan, error: NotArmed) -> Verdict:
    """The verdict on a guest whose kdump could not be armed: there is nothing to crash it for."""
    evidence = run.evidence(plan.name or plan.subject.name)
    try:
        drill = _Drill(run, plan, evidence)
        drill.refuse(error)
        return drill.verdict
    finally:
        evidence.close()


class _Drill:
    """The state of one drill on its way."""

    def __init__(self, run: Run, plan: Plan, evidence: Evidence) -> None:
        self.run, self.plan, self.evidence = run, plan, evidence
        self.progress = run.progress
        self.clock = PhaseClock()
        self.trigger: Trigger = find_trigger(plan.trigger, vcpus=plan.machine.vcpus)
        self.target: Target = find_target(plan.target, plan.subject.family, plan.server)
        self.verdict = Verdict(
            image=plan.image,
            family=plan.subject.family.name,
            trigger=plan.trigger,
            target=plan.target,
            accelerator=run.accelerator,
            memory_mib=plan.machine.memory_mib,
            vcpus=plan.machine.vcpus,
            firmware=plan.machine.firmware,
            until=plan.until,
            beside=run.beside,
            kernel_asked=plan.subject.kernel.asked if plan.subject.kernel is not None else None,
            evidence=str(evidence.directory),
        )
        self.console: list[str] = []
        self.dumps: list[Path] = []
        self.picture: Path | None = None  # the guest's memory from the hypervisor
        self.stretched = 1.0  # the most that a wait since the trigger was stretched by
        self.known_issues = load_known_issues()

    def get_ready(
        self, guest: Guest, stack: KdumpService, look: Callable[[Guest, KdumpService], None]
    ) -> Verdict | None:
        """Boot the guest and make its kdump ready, but do not crash it; a verdict when it cannot be made ready."""
        unsubscribe = guest.console.subscribe(lambda line: self.console.append(line.text))
        try:
            self.boot(guest)
            with self.progress.step("making the guest ready"):
                self._configure(guest, stack)
                look(guest, stack)
                self._let_it_boot(stack)
                guest.shell.run("sync")
        except NotArmed as error:
            error.state = stack.state()
            self.refuse(error)
            return self.verdict
        finally:
            unsubscribe()
        return None

    def take(self, guest: Guest, stack: KdumpService, start: Callable[[Guest], None] | None) -> Verdict:
        """All steps; whatever the guest did ends up in the verdict. start brings up a guest that does not run yet."""
        unsubscribe = guest.console.subscribe(lambda line: self.console.append(line.text))
        try:
            if start is not None:
                start(guest)
            stack = self._acquainted(guest, stack)
            try:
                before, dumps_before = self._prepare(guest, stack)
            except NotArmed as error:
                error.state = stack.state()
                self.refuse(error)
                return self.verdict
            if not self.trigger.panics:
                self._survive(guest, stack, before, dumps_before)
                return self.verdict
            facts, watch = self._crash(guest, stack, before)
            if self._is_enough(watch):
                self._read_off(guest, stack, facts, dumps_before)
            elif watch.done:
                self._recover(guest, stack, facts, dumps_before)
            self._judge(watch)
            return self.verdict
        finally:
            unsubscribe()

    def _survive(
        self, guest: Guest, stack: KdumpService, before: GuestState, dumps_before: dict[str, FoundFile]
    ) -> None:
        """Pull a trigger that must do no harm: the guest notices it, goes on, and nothing is dumped."""
        self.trigger.make_ready(guest)
        wanted = re.compile(self.trigger.panic)
        noticed = ""
        self.clock.mark("trigger")
        self.evidence.event("trigger", trigger=self.trigger.name)
        deadline = Deadline(PANIC_TIMEOUT_S * self.run.factor)
        with self.progress.step(f"seeing that the guest lives through {self.trigger.name}"):
            try:
                self.trigger.fire(guest)
                while not deadline.passed and not noticed:
                    line = guest.console.read_line(timeout_s=_TICK_S)
                    if line is not None and (found := wanted.search(line.text)):
                        noticed = found.group()
                after = stack.state()
                left = self.target.look(guest, before.directory)
            except GuestError as error:  # an unexpected panic is one
                if self.run.lost(guest.domain):
                    raise
                self.verdict.check("lives", False, expected="the guest goes on", seen=str(error.args[0]))
                self.verdict.stopped_by = f"after the trigger {self.trigger.name}: {error.args[0]}"
                self._judge(None)
                return
        self.verdict.check("noticed", bool(noticed), expected=self.trigger.panic, seen=noticed or "not on the console")
        self.verdict.check(
            "lives", after.boot_id == before.boot_id, expected=before.boot_id[:8], seen=after.boot_id[:8]
        )
        new = sorted(set(left) - set(dumps_before))
        self.verdict.check("no-dump", not new, expected="no new dump", seen=", ".join(new) or "none")
        self.verdict.check("rearmed", after.loaded == before.loaded, expected=before.loaded, seen=after.loaded)
        self._judge(None)

    def refuse(self, error: NotArmed) -> None:
        """Judge a guest that is not armed by what its kdump said."""
        self.evidence.event("not armed", error=error.reason, see=str(error.see or ""))
        self._note_status(error.said)
        self.verdict.stopped_by = error.reason
        if error.state is not None:
            self._note(error.state)
        self._judge(None)

    def resume(self, guest: Guest) -> None:
        """Let a guest that was restored run."""
        with self.progress.step(f"{self.plan.subject.name}: going on"):
            guest.resume()

    def boot(self, guest: Guest) -> None:
        """From the power-on to the login prompt."""
        with self.progress.step(f"{self.plan.subject.name}: booting", usual_s=60 if self.run.factor > 1 else 15):
            self.clock.mark("power-on")
            if self.plan.clone is not None:
                if remark := self.plan.clone.boot(guest, self.progress.say):
                    self.verdict.remarks.append(remark)
                self.clock.mark("first-login")
                return
            guest.power_on()
            self.clock.mark("first-login", guest.wait_for_login().at_s)
            guest.connect()

    def _acquainted(self, guest: Guest, stack: KdumpService) -> KdumpService:
        """The stack of the family that the guest turns out to be of, where nobody has told."""
        if self.plan.clone is None or self.plan.clone.family is not None:
            return stack
        family = family_of(guest)
        clone, subject = replace(self.plan.clone, family=family), replace(self.plan.subject, family=family)
        self.plan = replace(self.plan, clone=clone, subject=subject)
        self.plan.check()
        self.verdict.family = family.name
        return KdumpService(guest, family)

    def _configure(self, guest: Guest, stack: KdumpService) -> None:
        """Tell kdump what the drill wants of it, and see it armed."""
        verdict = self.verdict
        wanted = self.plan.config
        stack.identify()
        family = stack.family
        verdict.release = family.release
        if stack.remark:
            verdict.remarks.append(stack.remark)
            self.progress.say(f"{self.plan.subject.name}: {stack.remark}")
        self.target = find_target(self.plan.target, family, self.plan.server)
        if self.plan.as_is:
            stack.settle()
            if self.plan.clone is not None and (away := self.plan.clone.dumps_away(guest, family)):
                verdict.remarks.append(away)
            return
        stack.family = family = self.target.family_for(family)
        collection = wanted.core_collector(family) if self.plan.clone is None else (wanted.level, wanted.compress)
        changed = stack.set_core_collector(*collection)
        aimed = self.target.configure(guest, stack)
        if wanted.crashkernel != "none":
            if aimed or (changed and family.config.in_initramfs):
                stack.arm()
            stack.wait_until_loaded()

    def _let_it_boot(self, stack: KdumpService) -> None:
        """Wait for what comes after the login prompt; a guest that never is done with it is drilled all the same."""
        with self.progress.step("waiting for the guest's boot to end"):
            late = stack.wait_until_booted()
        if late:
            remark = f"the guest was still starting {late}"
            self.progress.say(f"{self.plan.subject.name}: {remark}")
            self.verdict.remarks.append(remark)

    def _prepare(self, guest: Guest, stack: KdumpService) -> tuple[GuestState, dict[str, FoundFile]]:
        """The state before the crash; raises when the guest is not what the drill needs."""
        with self.progress.step("looking at the guest before the crash"):
            self._configure(guest, stack)
            self.trigger.check_guest(guest)
            if self.trigger.module:
                put_module(self.run, self.plan.subject, guest)
            if not self.verdict.warm:
                self._let_it_boot(stack)
            if self.plan.before_crash is not None:
                self.plan.before_crash(guest, stack)
            # What follows the reading takes a busy host many seconds, which count: CRASHTIME lies behind all of them.
            self.clock.mark("asked")
            before = stack.state()
            dumps = self.target.look(guest, before.directory)
            self.memory = self._memory_state(guest, before)
        self._note(before)
        if before.loaded:
            self._reach(Stage.ARMED)
        else:
            self._note_status(stack.says())
        facts = {"dumps": [vars(file) for file in dumps.values()], "pages": dict(self.memory.pages)}
        self.evidence.json("before.json", {**vars(before), **facts})
        return before, dumps

    def _note_status(self, said: str) -> None:
        """What kdump says of itself where it has loaded nothing; the console does not tell why."""
        self.evidence.text("status.txt", said + "\n")
        self.console += said.splitlines()

    def _note(self, state: GuestState) -> None:
        """What the verdict tells of the guest."""
        verdict = self.verdict
        verdict.kernel, verdict.makedumpfile = state.kernel, state.makedumpfile
        verdict.crashkernel, verdict.reserved_mib = state.crashkernel, state.reserved_bytes // MIB
        verdict.level, verdict.compress = state.level, state.compress

    def _memory_state(self, guest: Guest, before: GuestState) -> MemoryState:
        """What the memory holds now; the guest's own account of each page frame, or at least the sums."""
        path = self.evidence.directory / "kpageflags.gz"
        try:
            guest.shell.save("gzip -1 -c /proc/kpageflags", path)
            # As many frames as the guest has memory, and the hole below 4 GiB.
            frames_max = (self.plan.machine.memory_mib + 4096) * MIB // 4096
            return from_flags(path.read_bytes(), page_frames_max=frames_max)
        except (CommandFailed, ValueError) as error:
            self.progress.say(f"no page flags ({error}): the filter is judged by /proc/meminfo")
            self.evidence.event("no page flags", error=str(error))
            return from_meminfo(before.meminfo_kib)

    def _crash(self, guest: Guest, stack: KdumpService, before: GuestState) -> tuple[CrashFacts, CrashMonitor]:
        """Leave the nonce, pull the trigger, follow the console."""
        nonce = secrets.token_hex(8)
        guest.shell.run("echo %s > /dev/kmsg; sync", f"kdump-harness: this is crash {nonce}")
        self.trigger.make_ready(guest)
        if self.plan.on_trigger is not None:
            self.plan.on_trigger(guest)
        watch = CrashMonitor(stack.family.console, self.trigger.panic, self.clock, on_change=self._reach)
        watch.stage = self.verdict.reached if self.verdict.reached >= Stage.ARMED else Stage.ARMED
        if self.trigger.while_booting:
            with self.progress.step("waiting for the guest to reboot"):
                guest.boot_until(self.trigger.while_booting)
        guest.console.drain()
        with guest.console.expecting_panic():
            self.evidence.event("trigger", trigger=self.trigger.name)
            self.clock.mark("trigger")
            self.trigger.fire(guest)
            self.verdict.stopped_by = self._follow(guest, watch)
            if guest.console.pending:
                self.console.append(guest.console.pending)  # the last word of a console that stopped in mid-line
        guest.close_shell()
        if watch.stage > Stage.ARMED:
            self._reach(watch.stage)
        facts = CrashFacts(
            before=before,
            level=before.level or 0,
            compress=before.compress or "none",
            trigger=self.trigger,
            nonce=nonce,
            crashed_after_s=(0.0, self.clock.between_s("asked", "panic") or 0.0),
            memory=self.memory,
        )
        return facts, watch

    def _follow(self, guest: Guest, watch: CrashMonitor) -> str | None:
        """Read the console until the guest is back or cannot come back; returns what stopped it."""
        factor = self.stretched = self.run.factor
        while not (watch.done or self._is_enough(watch)):
            waiting = watch.waiting_for()
            with self.progress.step(f"waiting for {waiting}", usual_s=_USUAL_S.get(waiting) if factor > 1 else None):
                while watch.waiting_for() == waiting and not watch.done:
                    line: ConsoleLine | None
                    try:
                        line = guest.console.read_line(timeout_s=_TICK_S)
                    except ConsoleLost:
                        if self.run.lost(guest.domain):
                            raise  # no verdict on the guest; Run.guest() says what broke
                        return f"the guest disappeared while waiting for {waiting} (domain events: {_events(guest)})"
                    if line is not None:
                        watch.feed(line)
                        self._take_memory(guest, watch)
                    else:
                        watch.glance(guest.console.pending)
                    if self.plan.meanwhile is not None:
                        self.plan.meanwhile(guest, watch)
                    self.progress.detail(watch.progress)
                    if watch.hopeless:
                        return watch.hopeless
                    if guest.domain.events.has("crashed"):
                        # The event is quicker than the serial line, whose last words are still on their way.
                        with contextlib.suppress(ConsoleLost):
                            while (line := guest.console.read_line(timeout_s=LAST_WORDS_S)) is not None:
                                watch.feed(line)
                        if watch.capture_seen:
                            return watch.hopeless or "the hypervisor saw the capture kernel panic (pvpanic)"
                        return "the hypervisor saw the guest panic for good (pvpanic): no capture kernel was loaded"
                    if stopped := self._too_late(guest, watch):
                        return stopped
        return None

    def _is_enough(self, watch: CrashMonitor) -> bool:
        """Whether the guest may be switched off: the capture kernel has written all that it will, and restarts."""
        return self.plan.until == SAVED and watch.restart_seen

    def _take_memory(self, guest: Guest, watch: CrashMonitor) -> None:
        """For the oracle: the memory of the crashed kernel, as soon as the capture kernel shows itself."""
        if not self.plan.oracle or self.picture is not None or not watch.capture_seen:
            return
        with (
            self.progress.step(f"taking the guest's memory from the hypervisor, {self.plan.machine.memory_mib} MiB"),
            self.clock.held(),
        ):
            self.picture = self.run.memory_of(guest)
        self.evidence.event("memory taken")

    def _ask_oracle(self, path: Path) -> None:
        """Compare the vmcore with the picture taken before."""
        if not self.plan.oracle:
            return
        expected = "every page as the hypervisor saw it when the capture kernel started"
        if self.picture is None:
            self.verdict.check("oracle", False, expected=expected, seen="the capture kernel was never seen")
            return
        picture = self.run.host.take(self.picture)
        try:
            with (
                self.progress.step("comparing the vmcore with the hypervisor's picture"),
                open_vmcore(path) as vmcore,
                open_vmcore(picture) as memory,
            ):
                found = compare(
                    vmcore, memory, progress=lambda done, total: self.progress.detail(f"{done:,} of {total:,} pages")
                )
        except VmcoreError as error:
            self.verdict.check("oracle", False, expected=expected, seen=str(error))
            return
        finally:
            picture.unlink(missing_ok=True)  # as large as the guest's memory, and the run may drill for long
        # The true classes, where they can be known, judge our own judgement of the filter, too.
        complaint = any(check.name in ("filter", "pages") for check in self.verdict.failed())
        agreed = not found.classes or complaint == bool(found.wrong_side)
        seen = found.summary() + ("" if agreed else "; the checks filter and pages say otherwise")
        self.verdict.check("oracle", found.ok and agreed, expected=expected, seen=seen)
        self.evidence.json("oracle.json", {**found.to_json(), "before": dict(self.memory.pages)})

    def _too_late(self, guest: Guest, watch: CrashMonitor) -> str | None:
        """The two kinds of deadline: silence and total.

        A host that becomes busier meanwhile widens them; one that becomes idle again has been busy all the same.
        """
        factor = self.stretched = max(self.stretched, self.run.factor)
        waiting = watch.waiting_for()
        if watch.stage < Stage.CRASHED:
            fired_s = self.clock.elapsed_s() - self.clock.marks_s["trigger"]
            if fired_s > PANIC_TIMEOUT_S * factor + self.trigger.takes_s:
                return f"no panic within {fired_s:.0f} s of the trigger {self.trigger.name}"
            return None
        since_panic_s = self.clock.elapsed_s() - self.clock.marks_s["panic"]
        waited_s = now_s() - watch.news_s
        if watch.job and waited_s > watch.silence_s * factor:
            return f"systemd has been waiting for {watch.job} for {waited_s:.0f} s, without a limit"
        if guest.console.silent_s > watch.silence_s * factor:
            return f"the console has been silent for {guest.console.silent_s:.0f} s while waiting for {waiting}"
        if since_panic_s > TOTAL_TIMEOUT_S * factor:
            return f"{since_panic_s:.0f} s after the panic still waiting for {waiting}"
        return None

    def _recover(
        self, guest: Guest, stack: KdumpService, facts: CrashFacts, dumps_before: dict[str, FoundFile]
    ) -> None:
        """Look at what the crash left, bring it here, and see whether the guest is ready for the next."""
        verdict = self.verdict
        new_boot: str | None = None
        armed: bool | None = None
        try:
            with self.progress.step("reaching the guest again"):
                new_boot = guest.connect()
                if new_boot != facts.before.boot_id and verdict.reached >= Stage.SAVED:
                    self._reach(Stage.RECOVERED)
            found = self.target.look(guest, facts.before.directory)
            self.evidence.json("found.json", [vars(file) for file in found.values()])
            chosen = checks.choose_dump(verdict, found, dumps_before)
            self._take_dump(ShellFiles(guest.shell), stack, chosen, found, dumps_before, facts)
            if facts.before.loaded or verdict.reached >= Stage.CAPTURING:
                with self.progress.step("waiting for kdump to be armed again"):
                    armed = self._armed_again(stack)
        except GuestError as error:
            if self.run.lost(guest.domain):
                raise
            verdict.stopped_by = f"after the reboot: {error}"
        took_s = self.clock.between_s("panic", "login")
        own = self.plan.budget_s is not None  # the user's is what it is, however busy the host
        budget_s = self.plan.budget_s if self.plan.budget_s is not None else REBOOT_BUDGET_S * self.stretched
        checks.check_recovery(
            verdict,
            old_boot=facts.before.boot_id,
            new_boot=new_boot,
            armed_again=armed,
            took_s=took_s,
            budget_s=budget_s,
            widened=1.0 if own else self.stretched / self.run.slowness,
        )

    def _read_off(
        self, guest: Guest, stack: KdumpService, facts: CrashFacts, dumps_before: dict[str, FoundFile]
    ) -> None:
        """Switch the guest off, and look at what the crash left on its disk or its server."""
        verdict = self.verdict
        disk = guest.domain.disks()[0]
        guest.destroy()
        raw = self.run.directory.path / f"{guest.name}.raw"
        try:
            with self.progress.step("reading the guest's disk"):
                disk = self.run.host.take_disk(disk)

            def before_copy(why: str) -> None:
                self.run.state.require_space(disk.stat().st_size // MIB + COPY_MIB, "a copy of the guest's disk")
                self.progress.say(f"the guest's disk is copied, since it cannot be shown as a file: {why}")

            with (
                self.progress.step("reading the guest's disk"),
                HostDisk(
                    disk,
                    raw,
                    tick=self.progress.tick,
                    stretch=lambda: self.run.options.timeout_factor * self.run.load,
                    before_copy=before_copy,
                ) as files,
            ):
                found = self.target.look_off(files, facts.before.directory)
                self.evidence.json("found.json", [vars(file) for file in found.values()])
                chosen = checks.choose_dump(verdict, found, dumps_before)
                self._take_dump(files, stack, chosen, found, dumps_before, facts)
        except CannotRead as error:
            raise GuestError(f"{error}; a drill until it has recovered needs no such reading") from None

    def _take_dump(
        self,
        system: Files,
        stack: KdumpService,
        chosen: FoundFile | None,
        found: dict[str, FoundFile],
        dumps_before: dict[str, FoundFile],
        facts: CrashFacts,
    ) -> None:
        """Bring the dump here and judge it; system is how to read the guest's own disk."""
        if trouble := self.target.trouble:
            self._note_status(f"kdump-harness: {trouble}")
        if chosen is not None:
            checks.check_permissions(self.verdict, chosen, owner=self.target.owner)
            self._fetch_and_check(system, stack, chosen, facts)
        for where, file in found.items():
            if chosen is None and where not in dumps_before:
                self._pull_small_files(system, file)  # what kdump wrote about a dump that it did not finish

    def _fetch_and_check(self, system: Files, stack: KdumpService, chosen: FoundFile, facts: CrashFacts) -> None:
        local = self.evidence.directory / chosen.name
        require_space(self.evidence.directory, chosen.size_bytes // MIB + 16, "the vmcore", option="--evidence")
        with self.progress.step(f"fetching the vmcore, {chosen.size_bytes / MIB:.1f} MiB"):
            shelf = self.target.dump_files(system)
            shelf.fetch(chosen.path, local, progress=lambda done: self.progress.detail(f"{done / MIB:.1f} MiB"))
            local.chmod(0o600)
        self.dumps.append(local)
        self._pull_small_files(system, chosen)
        with self.progress.step("checking the vmcore"):
            formats = stack.formats(facts.before, self.target.name)
            found = checks.check_dump(self.verdict, local, facts, expected_formats=formats)
        self._ask_oracle(local)
        self.verdict.dump = {
            "path": chosen.path,
            "place": chosen.place or None,
            "format": found.format if found else None,
            "size_bytes": chosen.size_bytes,
            "pages_total": found.pages_total if found else None,
            "pages_kept": found.pages_kept if found else None,
        }
        if found:
            self.evidence.json("inspect.json", found.to_json())
        if self.plan.on_dump is not None:
            self.plan.on_dump(local, facts)

    def _pull_small_files(self, system: Files, chosen: FoundFile) -> None:
        """The kernel log and notes that kdump wrote beside the dump."""
        shelf = self.target.dump_files(system) if chosen.wanted else system
        for path in shelf.small_files(str(PurePosixPath(chosen.path).parent)):
            name = PurePosixPath(path).name
            if path != chosen.path and not (self.evidence.directory / name).exists():
                shelf.fetch(path, self.evidence.directory / name)

    def _armed_again(self, stack: KdumpService) -> bool:
        try:
            stack.wait_until_loaded()
        except GuestError as error:
            if self.run.lost(stack.guest.domain):
                raise
            self.evidence.event("not armed again", error=str(error))
            return False
        return True

    def _judge(self, watch: CrashMonitor | None) -> None:
        """Phases, symptoms, and whether it all adds up to verified."""
        raise_if_stopped()  # a guest whose plug we pulled tells nothing
        verdict, clock = self.verdict, self.clock
        pairs = {
            "boot": ("power-on", "first-login"),
            "panic_to_capture": ("panic", "capture"),
            "capture_boot": ("capture", "dump"),
            "dump": ("dump", "saved"),
            "reboot": ("saved", "login"),
            "panic_to_login": ("panic", "login"),
        }
        spans = {name: clock.between_s(start, end) for name, (start, end) in pairs.items()}
        verdict.phases_s = {name: round(span, 3) for name, span in spans.items() if span is not None}
        if watch is not None and watch.panic_text is not None:
            self.evidence.text("panic.txt", watch.panic_text + "\n")
        if verdict.stopped_by is None and watch is not None and watch.failed:
            verdict.stopped_by = f"the capture kernel says: {watch.failed}"
        verdict.symptoms = self._symptoms()
        required, stage = REQUIRED_CHECKS, Stage.RECOVERED
        if not self.trigger.panics:
            required, stage = SURVIVAL_CHECKS, Stage.ARMED
        elif self.plan.until == SAVED:
            required, stage = REQUIRED_CHECKS - RECOVERY_CHECKS, Stage.SAVED
        unmade = required - {check.name for check in verdict.checks}
        if verdict.reached is stage and not unmade and not list(verdict.failed()) and not verdict.stopped_by:
            verdict.reached = Stage.VERIFIED
            verdict.verified = True
        judge(
            verdict,
            self.known_issues,
            scenario=self.plan.scenario,
            console="\n".join(self.console),
            unmade=unmade,
        )
        self.evidence.event("verdict", reached=verdict.reached.name, verified=verdict.verified)
        keep = self.run.options.keep
        if keep == "never" or (keep == "failed" and verdict.verified):
            for path in self.dumps:
                path.unlink(missing_ok=True)
        self.evidence.json("verdict.json", verdict.to_json())

    def _symptoms(self) -> list[dict[str, Any]]:
        """What the diagnosis makes of this drill's console."""
        verdict = self.verdict
        facts = {
            "kernel": verdict.kernel or "",
            "crashkernel": verdict.crashkernel or "",
            "image": verdict.image,
        }
        found = diagnose_text("\n".join(self.console), family=verdict.family, facts=facts)
        if not found.failed and verdict.stopped_by:
            # A console that falls silent tells nothing by itself; that somebody waited for more of it does.
            lines = [*self.console, f"kdump-harness: {verdict.stopped_by}"]
            found = diagnose_text("\n".join(lines), family=verdict.family, facts=facts)
        return [symptom.to_json() for symptom in found.symptoms]

    def _reach(self, stage: Stage) -> None:
        if stage > self.verdict.reached:
            self.verdict.reached = stage
            self.evidence.event("stage", reached=stage.name)


# What must be seen of a trigger that does no harm.
SURVIVAL_CHECKS = frozenset(["noticed", "lives", "no-dump", "rearmed"])
# A verdict without one of these was not made, whatever the others say.
REQUIRED_CHECKS = frozenset(
    [
        "single-dump",
        "final-name",
        "format",
        "level",
        "compression",
        "complete",
        "pages",
        "filter",
        "kernel",
        "crash-time",
        "nonce",
        "panic-text",
        "permissions",
        "reboot-time",
        "rebooted",
        "rearmed",
    ]
)
# What a drill that ends with the dump says nothing about.
RECOVERY_CHECKS = frozenset(["reboot-time", "rebooted", "rearmed"])


def _events(guest: Guest) -> str:
    return ", ".join(what for _, what in guest.domain.events.seen) or "none"
