"""The steps that each drill has in common: the state before the crash, the crash, and the checks of its dump."""

from __future__ import annotations

import contextlib
import re
import secrets
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from ..base.clock import Deadline, now_s
from ..base.errors import CommandFailed, ConsoleLost, GuestError
from ..base.stage import Stage
from ..fallback.kinds import DUMP_NAME
from ..images.state import require_space
from ..kdump.capture_memory import capture_command_line
from ..kdump.command_line import not_in_force
from ..kdump.crash_monitor import LAST_WORDS_S, PANIC_TIMEOUT_S, TOTAL_TIMEOUT_S, CrashMonitor
from ..kdump.guest_state import GuestState
from ..kdump.hotplug import plug
from ..kdump.page_flags import CLASSES, FREE, MemoryState, from_flags, from_meminfo
from ..kdump.service import KdumpService
from ..kdump.target import Files, FoundFile
from ..vm.console import ConsoleLine
from ..vm.guest import Guest
from ..vm.hypervisor.domain import DIED, PANICKED
from ..vmcore import Inspection, Unreadable
from ..vmcore.packed import readable_packing, unpacked
from . import checks
from .checks import CrashFacts
from .judgement import DrillRecord
from .plan import MIB

TICK_S = 0.5
_PANIC_ENDED, _LAST_LINES = "---[ end Kernel panic", 3  # printed when the record is written
_BY_LIBVIRT = re.compile(r"[\d-]{10} [\d:.]+\+0000: ")  # in the log of QEMU
LAST_EVENT_S = 5.0  # from the end of the console to the event of libvirt
LAST_RECORD_S = 20.0  # longest wait for the record of a kernel that panicked
# Usual seconds of each step of an emulated drill; only for the progress line.
_USUAL_S = {"the capture kernel": 10, "the capture kernel to save the vmcore": 40, "the login prompt": 60}

# Names of the files next to a dump that are fetched, endings of the harness's own records, and the number of files.
_SMALL_FILE, _OWN_ENDINGS, _MOST_SMALL_FILES = (
    re.compile(r"[\w.:+=-]{1,120}", re.ASCII),
    (".json", ".jsonl", ".xml"),
    16,
)


class CrashDrill(DrillRecord, ABC):
    """A drill without its beginning and its end: those of a whole system and of a kernel alone differ."""

    @abstractmethod
    def is_enough(self, monitor: CrashMonitor) -> bool:
        """Return whether the guest may be switched off: the capture kernel has written all that it will."""

    @abstractmethod
    def after_hotplug(self, guest: Guest, service: KdumpService) -> None:
        """Make kdump ready again after memory and processors were added or removed."""

    @contextlib.contextmanager
    def listening(self, guest: Guest) -> Iterator[None]:
        """Record the console of a guest within the block."""
        unsubscribe = guest.console.subscribe(lambda line: self.console.append(line.text))
        try:
            yield
        finally:
            self.fallback.drop_memory(self.run)
            unsubscribe()

    def look_before(self, guest: Guest, service: KdumpService) -> tuple[GuestState, dict[str, FoundFile]]:
        """Take the steps of --hotplug, and return the state of the guest just before the crash, and its dumps."""
        if self.plan.hotplug:
            plug(guest, self.plan.hotplug, self.progress.detail)
            self.after_hotplug(guest, service)
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
            return from_meminfo(before.meminfo_kib, before.page_bytes)

    def _note_left_out(self, memory: MemoryState, before: GuestState) -> MemoryState:
        """Say in the verdict how much memory no dump of this guest can have; return the state of the rest."""
        frames = before.reserved.cma_frames(before.page_bytes)
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

    def crash(self, guest: Guest, service: KdumpService, before: GuestState) -> tuple[CrashFacts, CrashMonitor]:
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
        while not (monitor.done or self.is_enough(monitor)):
            waiting = monitor.waiting_for()
            with self.progress.step(f"waiting for {waiting}", usual_s=_USUAL_S.get(waiting) if factor > 1 else None):
                while monitor.waiting_for() == waiting and not (monitor.done or self.is_enough(monitor)):
                    line: ConsoleLine | None
                    try:
                        line = guest.console.read_line(timeout_s=TICK_S)
                    except ConsoleLost:
                        if self.run.lost(guest.domain):
                            raise  # no verdict on the guest; Run.guest() says what broke
                        self._raise_if_hypervisor_died(guest, waiting)
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
                    if monitor.may_lack_vmcore and not monitor.restart_seen:
                        self._take_fallback(guest)  # before the guest reboots
                    self._let_panic_end(guest)
                    silent_s = guest.console.silent_s
                    if stopped := monitor.why_panicked(silent_s) or self._too_late(guest, monitor):
                        self._raise_if_paused(guest, waiting)
                        return stopped
        return None

    def _raise_if_hypervisor_died(self, guest: Guest, waiting: str) -> None:
        """Raise GuestError if QEMU ended by itself, which proves nothing about the guest's kdump."""
        guest.domain.events.wait_for("stopped", timeout_s=LAST_EVENT_S)
        if not guest.domain.events.has(DIED):
            return
        self.evidence.text("qemu.log", log := guest.domain.log())
        said = [line for line in log.splitlines() if line.strip() and not _BY_LIBVIRT.match(line)]
        raise GuestError(
            f"{guest.name}: QEMU ended by itself while waiting for {waiting}: {said[-1] if said else 'without a word'}",
            see=self.evidence.console_path,
        )

    def _raise_if_paused(self, guest: Guest, waiting: str) -> None:
        """Raise GuestError if another program paused the guest, which proves nothing about its kdump."""
        if guest.domain.state() == "paused":
            raise GuestError(
                f"{guest.name}: it was paused by another program while waiting for {waiting} (virsh suspend?)",
                see=self.evidence.console_path,
            )

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
        if not self.plan.fallback or monitor.done or self.is_enough(monitor) or monitor.stage < Stage.CRASHED:
            return
        deadline = Deadline(LAST_RECORD_S * self.run.factor)
        ended = any(_PANIC_ENDED in line for line in self.console[-_LAST_LINES:])
        with contextlib.suppress(ConsoleLost), self.progress.step("waiting for the guest's last words"):
            while not ended and guest.console.silent_s < LAST_WORDS_S * self.run.factor and not deadline.passed:
                line = guest.console.read_line(timeout_s=TICK_S)
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

    def fetch_and_check(self, system: Files, service: KdumpService, chosen: FoundFile, facts: CrashFacts) -> None:
        local = self.evidence.directory / chosen.name
        require_space(self.evidence.directory, chosen.size_bytes // MIB + 16, "the vmcore", option="--evidence")
        with self.progress.step(f"fetching the vmcore, {chosen.size_bytes / MIB:.1f} MiB"):
            files = self.target.dump_files(system)
            files.fetch(chosen.path, local, progress=lambda done: self.progress.detail(f"{done / MIB:.1f} MiB"))
            local.chmod(0o600)
        self.dumps.append(local)
        self.pull_small_files(system, chosen)
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

    def pull_small_files(self, system: Files, chosen: FoundFile) -> None:
        """Fetch the kernel log and notes that kdump wrote next to the dump."""
        files = self.target.dump_files(system) if chosen.wanted else system
        fetched = 0
        for path in files.small_files(str(PurePosixPath(chosen.path).parent)):
            name = PurePosixPath(path).name
            # The guest chooses the names; the harness's own records end like the forbidden ones.
            fits = _SMALL_FILE.fullmatch(name) and not name.endswith(_OWN_ENDINGS)
            if fits and path != chosen.path and not (self.evidence.directory / name).exists():
                if fetched == _MOST_SMALL_FILES:
                    break
                files.fetch(path, self.evidence.directory / name)
                fetched += 1


def _events(guest: Guest) -> str:
    return ", ".join(what for _, what in guest.domain.events.seen) or "none"
