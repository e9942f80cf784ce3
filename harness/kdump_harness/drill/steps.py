"""The steps of a drill, their times and checks, and the resulting Verdict.

A drill returns the guest's failures and raises the harness's own: a kdump that fails is a verdict, a guest that
cannot be booted or a host without space is an exception.
"""

from __future__ import annotations

import contextlib
import re
import secrets
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

from ..base.clock import Deadline, now_s
from ..base.errors import CommandFailed, ConsoleLost, GuestError, NotArmed
from ..base.stage import Stage
from ..base.verdict import Verdict
from ..fallback.kinds import DUMP_NAME
from ..images.state import require_space
from ..kdump.capture_memory import capture_command_line
from ..kdump.command_line import not_in_force
from ..kdump.crash_monitor import LAST_WORDS_S, PANIC_TIMEOUT_S, TOTAL_TIMEOUT_S, CrashMonitor
from ..kdump.hotplug import plug
from ..kdump.page_flags import CLASSES, FREE, MemoryState, from_flags, from_meminfo
from ..kdump.service import GuestState, KdumpService
from ..kdump.target import Files, FoundFile, ShellFiles, find_target
from ..vm.console import ConsoleLine
from ..vm.guest import Guest
from ..vm.hypervisor.domain import PANICKED
from ..vmcore import Inspection, Unreadable
from ..vmcore.packed import readable_packing, unpacked
from . import checks
from .checks import CrashFacts
from .clone import family_of
from .crash_module import put_module
from .disk_reader import CannotRead, HostDisk
from .judgement import DrillRecord
from .plan import COPY_MIB, MIB, REBOOT_BUDGET_S, SAVED

_TICK_S = 0.5
_PANIC_ENDED, _LAST_LINES = "---[ end Kernel panic", 3  # printed when the record is written
LAST_RECORD_S = 20.0  # longest wait for the record of a kernel that panicked
# Usual seconds of each step of an emulated drill; only for the progress line.
_USUAL_S = {"the capture kernel": 10, "the capture kernel to save the vmcore": 40, "the login prompt": 60}


class Drill(DrillRecord):
    """The state of one drill on its way."""

    def get_ready(
        self, guest: Guest, service: KdumpService, look: Callable[[Guest, KdumpService], None]
    ) -> Verdict | None:
        """Boot the guest and make its kdump ready, but do not crash it; a verdict when it cannot be made ready."""
        unsubscribe = guest.console.subscribe(lambda line: self.console.append(line.text))
        try:
            self.boot(guest)
            with self.progress.step("making the guest ready"):
                self._configure(guest, service)
                look(guest, service)
                self._let_it_boot(service)
                guest.shell.run("sync")
        except NotArmed as error:
            error.state = service.state()
            self.refuse(error)
            return self.verdict
        finally:
            unsubscribe()
        return None

    def take(self, guest: Guest, service: KdumpService, start: Callable[[Guest], None] | None) -> Verdict:
        """All steps; whatever the guest did ends up in the verdict. start brings up a guest that does not run yet."""
        unsubscribe = guest.console.subscribe(lambda line: self.console.append(line.text))
        try:
            if start is not None:
                start(guest)
            service = self._acquainted(guest, service)
            try:
                before, dumps_before = self._prepare(guest, service)
            except NotArmed as error:
                error.state = service.state()
                self.refuse(error)
                return self.verdict
            if not self.trigger.panics:
                self._survive(guest, service, before, dumps_before)
                return self.verdict
            facts, monitor = self._crash(guest, service, before)
            if self._is_enough(monitor):
                self._read_off(guest, service, facts, dumps_before)
            elif monitor.done:
                self._recover(guest, service, facts, dumps_before)
            self.keep_records(guest if monitor.done else None, facts)
            self.conclude(monitor)
            return self.verdict
        finally:
            self.fallback.drop_memory(self.run)
            unsubscribe()

    def _survive(
        self, guest: Guest, service: KdumpService, before: GuestState, dumps_before: dict[str, FoundFile]
    ) -> None:
        """Pull a trigger that must do no harm: the guest reports it, keeps running, and writes no dump."""
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
                after = service.state()
                left = self.target.look(guest, before.directory)
            except GuestError as error:  # an unexpected panic is one
                if self.run.lost(guest.domain):
                    raise
                checks.record_check(self.verdict, "lives", False, seen=str(error.args[0]))
                self.verdict.stopped_by = f"after the trigger {self.trigger.name}: {error.args[0]}"
                self.conclude(None)
                return
        new = sorted(set(left) - set(dumps_before))
        checks.check_survival(
            self.verdict, expected=self.trigger.panic, noticed=noticed, before=before, after=after, new_dumps=new
        )
        self.conclude(None)

    def resume(self, guest: Guest) -> None:
        """Let a guest that was restored run."""
        with self.progress.step(f"{self.plan.subject.name}: resuming"):
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

    def _acquainted(self, guest: Guest, service: KdumpService) -> KdumpService:
        """Return the service of the guest's own family, where the plan does not name it."""
        if self.plan.clone is None or self.plan.clone.family is not None:
            return service
        family = family_of(guest)
        clone, subject = replace(self.plan.clone, family=family), replace(self.plan.subject, family=family)
        self.plan = replace(self.plan, clone=clone, subject=subject)
        self.plan.check()
        self.verdict.family = family.name
        return KdumpService(guest, family)

    def _configure(self, guest: Guest, service: KdumpService) -> None:
        """Configure kdump for the drill, and wait until it is armed."""
        verdict = self.verdict
        wanted = self.plan.config
        service.identify()
        family = service.family
        verdict.release = family.release
        if service.remark:
            verdict.remarks.append(service.remark)
            self.progress.say(f"{self.plan.subject.name}: {service.remark}")
        self.target = find_target(self.plan.target, family, self.plan.server)
        if self.plan.as_is:
            service.settle()
            if self.plan.clone is not None and (away := self.plan.clone.dumps_away(guest, family)):
                verdict.remarks.append(away)
            return
        service.family = family = self.target.family_for(family)
        core_collector = wanted.core_collector(family) if self.plan.clone is None else (wanted.level, wanted.compress)
        changed = service.set_core_collector(*core_collector)
        target_changed = self.target.configure(guest, service)
        line_changed = bool(wanted.capture_append) and service.append_to_capture(wanted.capture_append)
        if wanted.append and (remark := service.capture_line_replaced()):
            verdict.remarks.append(remark)
        if not wanted.reservation.none:
            if target_changed or line_changed or (changed and family.config.in_initramfs):
                service.arm()
            service.wait_until_loaded()

    def _let_it_boot(self, service: KdumpService) -> None:
        """Wait for what comes after the login prompt; a guest that never is done with it is drilled all the same."""
        with self.progress.step("waiting for the guest's boot to end"):
            late = service.wait_until_booted()
        if late:
            remark = f"the guest was still starting {late}"
            self.progress.say(f"{self.plan.subject.name}: {remark}")
            self.verdict.remarks.append(remark)

    def _prepare(self, guest: Guest, service: KdumpService) -> tuple[GuestState, dict[str, FoundFile]]:
        """Return the state before the crash; raise if the guest is not what the drill needs."""
        with self.progress.step("looking at the guest before the crash"):
            self._configure(guest, service)
            self.trigger.check_guest(guest)
            if self.trigger.module:
                put_module(self.run, self.plan.subject, guest)
            if not self.verdict.warm:
                self._let_it_boot(service)
            if self.plan.before_crash is not None:
                self.plan.before_crash(guest, service)
            if self.plan.hotplug:
                plug(guest, self.plan.hotplug, self.progress.detail)
                self._after_hotplug(guest, service)
            # The steps after the reading take many seconds on a busy host; CRASHTIME lies behind all of them.
            self.clock.mark("asked")
            before = service.state()
            dumps = self.target.look(guest, before.directory)
            memory = self._memory_state(guest, before)
        self.memory = self._note_left_out(memory, before)
        self.note_state(before)
        self.verdict.remarks += not_in_force("--append", self.verdict.append, before.cmdline)
        if before.packing:
            self.verdict.remarks.append(f"kdump compresses the dump as a whole: {before.packing}")
        if before.loaded:
            self.reach(Stage.ARMED)
        else:
            self.note_status(service.says())
        facts = {
            "reserved": before.reserved.to_json(),
            "dumps": [vars(file) for file in dumps.values()],
            "pages": dict(self.memory.pages),
        }
        self.evidence.json("before.json", {**vars(before), **facts})
        return before, dumps

    def _after_hotplug(self, _guest: Guest, service: KdumpService) -> None:
        """Wait until kdump is loaded, which udev's rules may have done anew."""
        if not self.plan.config.reservation.none:
            service.wait_until_loaded()

    def _memory_state(self, guest: Guest, before: GuestState) -> MemoryState:
        """Return the content of the memory: the class of each page frame by the guest, or at least the sums."""
        path = self.evidence.directory / "kpageflags.gz"
        try:
            guest.shell.save("gzip -1 -c /proc/kpageflags", path)
            # As many frames as the guest has memory, the hole below 4 GiB, and the gap before each DIMM.
            machine = self.plan.machine
            gaps_mib = 4096 + 1024 * (len(machine.dimms_mib) + len(machine.spare.dimms_mib))
            if machine.spare.virtio_mem_mib:  # lies at a multiple of its size, or of 1 GiB
                gaps_mib += 4096 + machine.spare.virtio_mem_mib
            frames_max = (machine.most_mib + gaps_mib) * MIB // 4096
            return from_flags(path.read_bytes(), page_frames_max=frames_max)
        except (CommandFailed, ValueError) as error:
            self.progress.say(f"no page flags ({error}): the filter is judged by /proc/meminfo")
            self.evidence.event("no page flags", error=str(error))
            return from_meminfo(before.meminfo_kib)

    def _note_left_out(self, memory: MemoryState, before: GuestState) -> MemoryState:
        """Say in the verdict how much memory no dump of this guest can have; return the state of the rest."""
        frames = before.reserved.cma_frames()
        if not frames:
            return memory
        found = [memory.in_frames(part) for part in frames]
        in_use = {name: sum(part[name] for part in found) for name in CLASSES if name != FREE and all(found)}
        count, mib = sum(map(len, frames)), before.reserved.cma_bytes // MIB
        self.verdict.left_out = {"page_frames": count, "mib": mib, "in_use": in_use}
        used = ", ".join(f"{number:,} {name}" for name, number in in_use.items() if number)
        self.verdict.remarks.append(
            f"the dump leaves out the CMA range of the reservation: {count:,} page frames ({mib} MiB)"
            + (f", of which in use before the crash: {used or 'none'}" if in_use else "")
        )
        return memory.without(frames)

    def _crash(self, guest: Guest, service: KdumpService, before: GuestState) -> tuple[CrashFacts, CrashMonitor]:
        """Leave the nonce, pull the trigger, follow the console."""
        self.fallback.look_before(guest)
        nonce = secrets.token_hex(8)
        guest.shell.run("echo %s > /dev/kmsg; sync", f"kdump-harness: this is crash {nonce}")
        self.trigger.make_ready(guest)
        if self.plan.on_trigger is not None:
            self.plan.on_trigger(guest)
        monitor = CrashMonitor(service.family.console, self.trigger.panic, self.clock, on_change=self.reach)
        monitor.handover_silence_s = self.handover_silence_s
        monitor.loaded = before.loaded and not self.trigger.while_booting
        monitor.stage = self.verdict.reached if self.verdict.reached >= Stage.ARMED else Stage.ARMED
        if self.trigger.while_booting:
            with self.progress.step("waiting for the guest to reboot"):
                guest.boot_until(self.trigger.while_booting)
        guest.console.drain()
        with guest.console.expecting_panic():
            self.evidence.event("trigger", trigger=self.trigger.name)
            self.clock.mark("trigger")
            self.trigger.fire(guest)
            self.verdict.stopped_by = self._follow(guest, monitor)
            self._wait_for_records(guest, monitor)
            if guest.console.pending:
                self.console.append(guest.console.pending)  # the last word of a console that stopped in mid-line
        checks.check_capture_memory(self.verdict, "\n".join(self.console), before)
        if line := capture_command_line("\n".join(self.console)):
            self.verdict.remarks += not_in_force("--capture-append", self.verdict.capture_append, line)
        guest.close_shell()
        if monitor.stage > Stage.ARMED:
            self.reach(monitor.stage)
        facts = CrashFacts(
            before=before,
            level=before.level or 0,
            compress=before.compress or "none",
            trigger=self.trigger,
            nonce=nonce,
            crashed_after_s=(0.0, self.clock.between_s("asked", "panic") or 0.0),
            memory=self.memory,
            oracle=self.plan.oracle,
            hotplug=bool(self.plan.hotplug),
        )
        return facts, monitor

    def _follow(self, guest: Guest, monitor: CrashMonitor) -> str | None:
        """Read the console until the guest is back or cannot come back; returns what stopped it."""
        factor = self.stretched = self.run.factor
        while not (monitor.done or self._is_enough(monitor)):
            waiting = monitor.waiting_for()
            with self.progress.step(f"waiting for {waiting}", usual_s=_USUAL_S.get(waiting) if factor > 1 else None):
                while monitor.waiting_for() == waiting and not monitor.done:
                    line: ConsoleLine | None
                    try:
                        line = guest.console.read_line(timeout_s=_TICK_S)
                    except ConsoleLost:
                        if self.run.lost(guest.domain):
                            raise  # no verdict on the guest; Run.guest() says what broke
                        return f"the guest disappeared while waiting for {waiting} (domain events: {_events(guest)})"
                    if line is not None:
                        monitor.feed(line)
                        self._take_memory(guest, monitor)
                    else:
                        monitor.glance(guest.console.pending)
                    if self.plan.meanwhile is not None:
                        self.plan.meanwhile(guest, monitor)
                    self.progress.detail(monitor.progress)
                    if monitor.hopeless:
                        return monitor.hopeless
                    if monitor.failed and not monitor.restart_seen:
                        self._take_fallback(guest)  # before the guest reboots
                    self._let_panic_end(guest)
                    silent_s = guest.console.silent_s
                    if stopped := monitor.why_panicked(silent_s) or self._too_late(guest, monitor):
                        return stopped
        return None

    def _let_panic_end(self, guest: Guest) -> None:
        """Resume a guest that the hypervisor paused because it panicked for good (pvpanic).

        A machine without that device continues, too: it writes its pstore record and its last words.
        """
        at_s = guest.domain.events.first_s(PANICKED, since_s=self.clock.zero_s)
        if at_s is None or "panicked" in self.clock.marks_s:
            return
        self.clock.mark("panicked", at_s)
        with contextlib.suppress(GuestError):  # it is gone, or was resumed by a user
            guest.domain.resume()

    def _wait_for_records(self, guest: Guest, monitor: CrashMonitor) -> None:
        """Let a guest that will not come back write its record, and take its memory while it shows the crash."""
        if not self.plan.fallback or monitor.done or self._is_enough(monitor) or monitor.stage < Stage.CRASHED:
            return
        deadline = Deadline(LAST_RECORD_S * self.run.factor)
        ended = any(_PANIC_ENDED in line for line in self.console[-_LAST_LINES:])
        with contextlib.suppress(ConsoleLost), self.progress.step("waiting for the guest's last words"):
            while not ended and guest.console.silent_s < LAST_WORDS_S * self.run.factor and not deadline.passed:
                line = guest.console.read_line(timeout_s=_TICK_S)
                ended = line is not None and _PANIC_ENDED in line.text
                self._let_panic_end(guest)
        if not monitor.restart_seen:
            self._take_fallback(guest)

    def _take_fallback(self, guest: Guest) -> None:
        with self.clock.held():
            self.fallback.take_memory(self.run, guest)

    def keep_records(self, guest: Guest | None, facts: CrashFacts) -> None:
        """Keep the other records of the crash where it left no good dump; GUEST is one that came back."""
        if not self.plan.fallback:
            return
        verdict = self.verdict
        if not verdict.stopped_by and not list(verdict.failed()) and verdict.reached >= self.goal()[1]:
            return
        verdict.fallback = self.fallback.collect(self.run, guest, self.evidence, facts.nonce)
        self.dumps += [self.evidence.directory / one["path"] for one in verdict.fallback if one["path"] == DUMP_NAME]

    def _is_enough(self, monitor: CrashMonitor) -> bool:
        """Whether the guest may be switched off: the capture kernel has written all that it will, and restarts."""
        return self.plan.until == SAVED and monitor.restart_seen

    def _take_memory(self, guest: Guest, monitor: CrashMonitor) -> None:
        """For the oracle: the memory of the crashed kernel, as soon as the capture kernel shows itself."""
        if not self.plan.oracle or self.picture is not None or not monitor.capture_seen:
            return
        with (
            self.progress.step(f"taking the guest's memory from the hypervisor, {self.plan.machine.total_mib} MiB"),
            self.clock.held(),
        ):
            self.picture = self.run.memory_of(guest)
        self.evidence.event("memory taken")

    def _too_late(self, guest: Guest, monitor: CrashMonitor) -> str | None:
        """Return the deadline that has passed, that for silence or the total one; None if neither has.

        A host that becomes busier meanwhile widens them; one that becomes idle again has been busy all the same.
        """
        factor = self.stretched = max(self.stretched, self.run.factor)
        waiting = monitor.waiting_for()
        if monitor.stage < Stage.CRASHED:
            fired_s = self.clock.elapsed_s() - self.clock.marks_s["trigger"]
            if fired_s > PANIC_TIMEOUT_S * factor + self.trigger.takes_s:
                return f"no panic within {fired_s:.0f} s of the trigger {self.trigger.name}"
            return None
        since_panic_s = self.clock.elapsed_s() - self.clock.marks_s["panic"]
        waited_s = now_s() - monitor.news_s
        if monitor.job and waited_s > monitor.silence_s * factor:
            return f"systemd has been waiting for {monitor.job} for {waited_s:.0f} s, without a limit"
        if guest.console.silent_s > monitor.silence_s * factor:
            return f"the console has been silent for {guest.console.silent_s:.0f} s while waiting for {waiting}"
        if since_panic_s > TOTAL_TIMEOUT_S * factor:
            return f"{since_panic_s:.0f} s after the panic still waiting for {waiting}"
        return None

    def _recover(
        self, guest: Guest, service: KdumpService, facts: CrashFacts, dumps_before: dict[str, FoundFile]
    ) -> None:
        """Look at what the crash left, bring it here, and see whether the guest is ready for the next."""
        verdict = self.verdict
        new_boot: str | None = None
        armed: bool | None = None
        try:
            with self.progress.step("reaching the guest again"):
                new_boot = guest.connect()
                if new_boot != facts.before.boot_id and verdict.reached >= Stage.SAVED:
                    self.reach(Stage.RECOVERED)
            found = self.target.look(guest, facts.before.directory)
            self.evidence.json("found.json", [vars(file) for file in found.values()])
            chosen = checks.choose_dump(verdict, found, dumps_before)
            self._take_dump(ShellFiles(guest.shell), service, chosen, found, dumps_before, facts)
            if facts.before.loaded or verdict.reached >= Stage.CAPTURING:
                with self.progress.step("waiting for kdump to be armed again"):
                    armed = self._armed_again(service)
        except GuestError as error:
            if self.run.lost(guest.domain):
                raise
            verdict.stopped_by = f"after the reboot: {error}"
        took_s = self.clock.between_s("panic", "login")
        own = self.budget_s is not None  # the user's is what it is, however busy the host
        budget_s = self.budget_s if self.budget_s is not None else REBOOT_BUDGET_S * self.stretched
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
        self, guest: Guest, service: KdumpService, facts: CrashFacts, dumps_before: dict[str, FoundFile]
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
                self._take_dump(files, service, chosen, found, dumps_before, facts)
        except CannotRead as error:
            raise GuestError(f"{error}; a drill until it has recovered needs no such reading") from None

    def _take_dump(
        self,
        system: Files,
        service: KdumpService,
        chosen: FoundFile | None,
        found: dict[str, FoundFile],
        dumps_before: dict[str, FoundFile],
        facts: CrashFacts,
    ) -> None:
        """Bring the dump here and judge it; system is how to read the guest's own disk."""
        if trouble := self.target.trouble:
            self.note_status(f"kdump-harness: {trouble}")
        if chosen is not None:
            checks.check_permissions(self.verdict, chosen, owner=self.target.owner)
            self._fetch_and_check(system, service, chosen, facts)
        for where, file in found.items():
            if chosen is None and where not in dumps_before:
                self._pull_small_files(system, file)  # what kdump wrote about a dump that it did not finish

    def _fetch_and_check(self, system: Files, service: KdumpService, chosen: FoundFile, facts: CrashFacts) -> None:
        local = self.evidence.directory / chosen.name
        require_space(self.evidence.directory, chosen.size_bytes // MIB + 16, "the vmcore", option="--evidence")
        with self.progress.step(f"fetching the vmcore, {chosen.size_bytes / MIB:.1f} MiB"):
            files = self.target.dump_files(system)
            files.fetch(chosen.path, local, progress=lambda done: self.progress.detail(f"{done / MIB:.1f} MiB"))
            local.chmod(0o600)
        self.dumps.append(local)
        self._pull_small_files(system, chosen)
        formats = service.formats(facts.before, self.target.name)
        found: Inspection | None = None
        try:
            with self._unpacked(local) as dump:
                with self.progress.step("checking the vmcore"):
                    found = checks.check_dump(self.verdict, dump, facts, expected_formats=formats)
                self._use_dump(dump, chosen, found, facts)
        except Unreadable as error:  # its compression
            checks.record_unreadable(self.verdict, error, chosen.size_bytes, " or ".join(formats))
            self._use_dump(local, chosen, None, facts)

    @contextlib.contextmanager
    def _unpacked(self, local: Path) -> Iterator[Path]:
        """Provide the dump itself where the guest compressed it as a whole."""
        if readable_packing(local) is None:
            yield local
            return
        with contextlib.ExitStack() as stack:
            with self.progress.step("unpacking the vmcore"):
                place, progress = self.evidence.directory, self.progress.bytes
                dump = stack.enter_context(unpacked(local, directory=place, option="--evidence ", progress=progress))
            yield dump

    def _use_dump(self, dump: Path, chosen: FoundFile, found: Inspection | None, facts: CrashFacts) -> None:
        """Let the oracle, crash and the plan have the dump, and note its facts."""
        self.ask_oracle(dump)
        self.ask_crash(dump, facts)
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
            self.classes = found.classes
        if self.plan.on_dump is not None:
            self.plan.on_dump(dump, facts)

    def _pull_small_files(self, system: Files, chosen: FoundFile) -> None:
        """Fetch the kernel log and notes that kdump wrote next to the dump."""
        files = self.target.dump_files(system) if chosen.wanted else system
        for path in files.small_files(str(PurePosixPath(chosen.path).parent)):
            name = PurePosixPath(path).name
            if path != chosen.path and not (self.evidence.directory / name).exists():
                files.fetch(path, self.evidence.directory / name)

    def _armed_again(self, service: KdumpService) -> bool:
        try:
            service.wait_until_loaded()
        except GuestError as error:
            if self.run.lost(service.guest.domain):
                raise
            self.evidence.event("not armed again", error=str(error))
            return False
        return True


def _events(guest: Guest) -> str:
    return ", ".join(what for _, what in guest.domain.events.seen) or "none"
