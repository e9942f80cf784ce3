"""The steps of a drill, their times and checks, and the resulting Verdict.

A drill returns the guest's failures and raises the harness's own: a kdump that fails is a verdict, a guest that
cannot be booted or a host without space is an exception.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from ..base.clock import Deadline
from ..base.errors import GuestError, NotArmed
from ..base.stage import Stage
from ..base.verdict import Verdict
from ..kdump.capture_image.archive import CannotList
from ..kdump.capture_image.judge import judge
from ..kdump.crash_monitor import PANIC_TIMEOUT_S, CrashMonitor
from ..kdump.guest_state import GuestState
from ..kdump.service import KdumpService
from ..kdump.target import ON_SERVER, Files, FoundFile, ShellFiles, find_target, places_away
from ..vm.guest import Guest
from . import checks
from .checks import CrashFacts
from .clone import family_of
from .crash import TICK_S, CrashDrill
from .crash_module import put_module
from .disk_reader import CannotRead, HostDisk
from .plan import COPY_MIB, MIB, REBOOT_BUDGET_S, SAVED
from .shapes.prepare import prepare_guest, prepare_server
from .shapes.table import CARD, PATH


class Drill(CrashDrill):
    """The state of one drill on its way."""

    def get_ready(
        self, guest: Guest, service: KdumpService, look: Callable[[Guest, KdumpService], None]
    ) -> Verdict | None:
        """Boot the guest and make its kdump ready, but do not crash it; a verdict when it cannot be made ready."""
        try:
            with self.listening(guest):
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
        return None

    def take(self, guest: Guest, service: KdumpService, start: Callable[[Guest], None] | None) -> Verdict:
        """All steps; whatever the guest did ends up in the verdict. start brings up a guest that does not run yet."""
        with self.listening(guest):
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
            facts, monitor = self.crash(guest, service, before)
            if self.is_enough(monitor):
                self._read_off(guest, service, facts, dumps_before)
            elif monitor.done:
                self._recover(guest, service, facts, dumps_before)
            self.keep_records(guest if monitor.done else None, facts)
            self.conclude(monitor)
            return self.verdict

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
                    line = guest.console.read_line(timeout_s=TICK_S)
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
        self.target = find_target(self.plan.target, family, prepare_server(self.plan.server, self.plan.shapes))
        if self.plan.as_is:
            service.settle()
            if self.plan.clone is not None:
                if remark := self.plan.clone.dumps_away(guest, family):
                    verdict.remarks.append(remark)
            elif self.plan.server is None:
                self.away = places_away(family, guest.shell.read_text(family.config.file))
            return
        service.family = family = self.target.family_for(family)
        core_collector = wanted.core_collector(family) if self.plan.clone is None else (wanted.level, wanted.compress)
        changed = service.set_core_collector(*core_collector)
        prepared = prepare_guest(guest, service, self.plan.shapes)
        self.target.mount_point = self.plan.shapes.directory
        target_changed = self.target.configure(guest, service) or prepared
        line_changed = bool(wanted.capture_append) and service.append_to_capture(wanted.capture_append)
        if wanted.append and (remark := service.capture_line_replaced()):
            verdict.remarks.append(remark)
        if not wanted.reservation.none:
            if target_changed or line_changed or (changed and family.config.in_initramfs):
                service.arm()
            service.wait_until_loaded()

    def after_hotplug(self, _guest: Guest, service: KdumpService) -> None:
        """Wait until kdump is loaded, which udev's rules may have done anew."""
        if not self.plan.config.reservation.none:
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
            before, dumps = self.look_before(guest, service)
            if before.loaded:
                self._foresee(service, before)
            if self.plan.server is not None and (cut := self.plan.shapes.cut):
                self.plan.server.shell.run("sh -c %s", cut)
            if self.plan.shapes.loses(CARD):
                guest.domain.set_link(False, guest.domain.nics[0])
            if self.plan.shapes.loses(PATH):
                guest.domain.lose_path()
            return before, dumps

    def _foresee(self, service: KdumpService, before: GuestState) -> None:
        """Make the check capture-image, where the capture initramfs can be listed; a remark says why it cannot."""
        try:
            server = (self.target.server.address, self.target.name) if self.target.name in ON_SERVER else ()
            facts = service.image_facts(before, self.target.directory(before.directory), *server)
        except CannotList as error:
            self.verdict.remarks.append(f"the capture initramfs is not judged: {error}")
            return
        if facts is None or not facts.stacks:
            return
        self.evidence.json("capture-image.json", facts.to_json())
        lacks = judge(facts)
        self.verdict.foreseen = [vars(lack) for lack in lacks]
        for lack in lacks:
            self.progress.say(f"foreseen: {lack}")
        seen = "; ".join(map(str, lacks)) or f"{len(facts.files):,} files, with all that the disks and the network need"
        checks.record_check(self.verdict, "capture-image", not lacks, seen=seen)

    def is_enough(self, monitor: CrashMonitor) -> bool:
        """Whether the guest may be switched off: the capture kernel has written all that it will, and restarts."""
        return self.plan.until == SAVED and monitor.restart_seen

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
            chosen = checks.choose_dump(verdict, found, dumps_before, away=self.away)
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
                chosen = checks.choose_dump(verdict, found, dumps_before, away=self.away)
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
            self.fetch_and_check(system, service, chosen, facts)
        for where, file in found.items():
            if chosen is None and where not in dumps_before:
                self.pull_small_files(system, file)  # what kdump wrote about a dump that it did not finish

    def _armed_again(self, service: KdumpService) -> bool:
        try:
            service.wait_until_loaded()
        except GuestError as error:
            if self.run.lost(service.guest.domain):
                raise
            self.evidence.event("not armed again", error=str(error))
            return False
        return True
