"""Follows a crash on the serial console, from the panic to the next login, and knows when it is hopeless."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from ..base.clock import PhaseClock, now_s
from ..base.stage import Stage
from ..distro.family import ConsoleSigns
from ..vm.console import LOGIN, PANIC, ConsoleLine
from ..vm.console_signs import find_sign
from .capture_memory import CAPTURE_KERNEL

# Unscaled, as for a guest under KVM on an idle machine.
PANIC_TIMEOUT_S = 15.0  # from the trigger to the panic text
SILENCE_TIMEOUT_S = 20.0  # without one byte: x86 prints nothing between the panic and the capture kernel
TOTAL_TIMEOUT_S = 150.0  # from the panic to the login prompt
LAST_WORDS_S = 5.0  # of silence after a panic that the hypervisor reported; enough for a pstore record, too

_LINUX = re.compile(r"Linux version \d\S+")
_COMMAND_LINE = re.compile(r"[Cc]ommand line: ")
_DEAD = re.compile(r"---\[ end Kernel panic")
_RESTART = re.compile(r"reboot: Restarting system|reboot: machine restart|kexec_core: Starting new kernel")
_POWER_DOWN = re.compile(r"reboot: (Power down|System halted)")
# systemd reports the jobs that it waits for repeatedly, on one line.
_JOB = re.compile(
    r"(?:A (?:start|stop) job is running for|Job) (.{1,120}?) ?"
    r"\((?:\d{1,9}[a-z]{1,9} ){0,7}\d{1,9}[a-z]{1,9} / no limit\)"
)
# Words of makedumpfile itself: some distributions report a saved vmcore over an empty file.
_WRITTEN = re.compile(r"The dumpfiles? (?:is|are) saved to ")
_NOT_WRITTEN = re.compile(r"makedumpfile Failed\.")
_PROGRESS = re.compile(r"(?:Copying data|Excluding unnecessary pages|Checking for memory holes)\s*: \[\s*([\d.]+) ?%\]")


@dataclass
class CrashMonitor:
    """The state machine of one crash; feed() it lines, then look at stage, hopeless and done."""

    signs: ConsoleSigns
    panic: str
    clock: PhaseClock
    stage: Stage = Stage.ARMED
    panic_text: str | None = None
    hopeless: str | None = None  # why nothing more can come
    failed: str | None = None  # kdump's own words that the dump failed; the guest may still come back
    handover_silence_s: float = 0.0  # unscaled, between the two kernels, where a machine needs longer than usual
    loaded: bool = True  # whether a capture kernel was loaded before the trigger
    done: bool = False  # the login prompt of the next boot was seen
    written: bool | None = None  # whether makedumpfile says that it wrote the vmcore; None: it has said nothing
    capture_seen: bool = False
    restart_seen: bool = False
    progress: str = ""
    percent: float = 0.0  # of the pages that makedumpfile has copied
    job: str = ""  # that systemd waits for without a limit, when there is nothing else to see
    news_s: float = field(default_factory=now_s)  # when something else than that was seen
    on_change: Callable[[Stage], None] = field(default=lambda _stage: None)

    def __post_init__(self) -> None:
        self._wanted_panic = re.compile(self.panic)
        self._capturing = re.compile(self.signs.capturing)
        self._dumping = re.compile(self.signs.dumping)
        self._saved = re.compile(self.signs.saved)
        self._failed = re.compile(self.signs.failed)
        self._kernel_at_s: float | None = None  # "Linux version" seen, its command line not yet

    def feed(self, line: ConsoleLine) -> None:
        """Look at one more line of the console."""
        text = line.text
        self.job, self.news_s = "", line.at_s
        if self.stage < Stage.CRASHED:
            self._before_panic(line)
        elif self.capture_seen and not self.restart_seen:
            self._in_capture(line)
        elif self.restart_seen or self._kernel_at_s is not None:
            self._booting(line)
        elif _DEAD.search(text):
            self.hopeless = "the kernel panicked and stopped: no capture kernel was loaded"
        else:
            self._after_panic(line)

    def _reach(self, stage: Stage) -> None:
        if stage > self.stage:
            self.stage = stage
            self.on_change(stage)

    def _before_panic(self, line: ConsoleLine) -> None:
        # After an oops the kernel may jump to the capture kernel without a word of panic.
        if found := PANIC.search(line.text) or self._wanted_panic.search(line.text):
            self.panic_text = found.group()
            self.clock.mark("panic", line.at_s)
            self._kernel_at_s = None  # what booted before it has nothing to do with it
            self._reach(Stage.CRASHED)
        elif _LINUX.search(line.text):
            self._kernel_at_s = line.at_s
        elif self._kernel_at_s is not None and CAPTURE_KERNEL.search(line.text):
            # From an NMI the kernel jumps before its words have reached the console; the dump's own log has them.
            self.clock.mark("panic", self._kernel_at_s)
            self._reach(Stage.CRASHED)
            self._capture_starts(self._kernel_at_s)

    def _after_panic(self, line: ConsoleLine) -> None:
        if _LINUX.search(line.text):
            self._kernel_at_s = line.at_s
        elif CAPTURE_KERNEL.search(line.text) or self._capturing.search(line.text):
            self._capture_starts(line.at_s)
        elif _POWER_DOWN.search(line.text):
            self.hopeless = "the guest powered off after the panic"
        elif LOGIN.search(line.text):
            # A quiet kernel: an ordinary boot came without a word.
            self._restarts(line.at_s)
            self._logged_in(line.at_s)

    def _capture_starts(self, at_s: float) -> None:
        self.capture_seen = True
        self.clock.mark("capture", at_s)
        self._reach(Stage.CAPTURING)

    def _in_capture(self, line: ConsoleLine) -> None:
        text = line.text
        self._note_progress(text)
        if found_word := _WRITTEN.search(text) or _NOT_WRITTEN.search(text):
            self.written = found_word.re is _WRITTEN
        if self._saved.search(text):
            self.clock.mark("saved", line.at_s)
            self._reach(Stage.SAVED)
        elif self._dumping.search(text):
            self.clock.mark("dump", line.at_s)
        elif self._failed.search(text):
            self.failed = self.failed or text.strip()  # the first words are the nearest to the cause
        elif found_panic := PANIC.search(text):
            self.hopeless = f"the capture kernel panicked: {found_panic.group()}"
        elif find_sign(text, "capture"):
            self.hopeless = f"the capture kernel dropped to a shell ({text.strip()!r})"
        elif _POWER_DOWN.search(text):
            self.hopeless = "the capture kernel powered the guest off"
        elif _RESTART.search(text):
            self._restarts(line.at_s)
        elif LOGIN.search(text):
            # A capture kernel offers no login: the guest booted normally and did not print the restart.
            self._restarts(line.at_s)
            self._logged_in(line.at_s)

    def glance(self, text: str) -> None:
        """Look at the end of a line that is not complete: a progress bar, or systemd's waiting."""
        found = _JOB.search(text)
        self.job = found.group(1) if found else ""
        if self.capture_seen and not self.restart_seen:
            self._note_progress(text)

    def _note_progress(self, text: str) -> None:
        if found := _PROGRESS.search(text):
            self.progress, self.news_s = f"{found.group(1)} %", now_s()
            if found.group().startswith("Copying"):
                self.percent = float(found.group(1))

    def _restarts(self, at_s: float) -> None:
        self.restart_seen = True
        self.clock.mark("restart", at_s)

    def _booting(self, line: ConsoleLine) -> None:
        """Note that a kernel starts after the crash: the capture kernel, or already the ordinary one."""
        text = line.text
        if not self.restart_seen and self._kernel_at_s is not None:
            if CAPTURE_KERNEL.search(text):
                self._capture_starts(self._kernel_at_s)
                return
            if _COMMAND_LINE.search(text):
                self._restarts(self._kernel_at_s)
                return
        if found := PANIC.search(text):
            when = "while rebooting" if self.restart_seen else "while the capture kernel started"
            self.hopeless = f"a second panic {when}: {found.group()}"
        elif (sign := find_sign(text)) and sign.shell:
            self.hopeless = f"the guest dropped to a shell while rebooting ({text.strip()!r})"
        elif sign:
            comes = "comes back without a login prompt" if sign.up else "does not come back"
            self.hopeless = f"the guest {comes}: {sign.meaning} ({text.strip()!r})"
        elif _POWER_DOWN.search(text):
            self.hopeless = "the guest powered off instead of coming back"
        elif self.restart_seen and LOGIN.search(text):
            self._logged_in(line.at_s)

    def _logged_in(self, at_s: float) -> None:
        self.clock.mark("login", at_s)
        self.done = True

    def why_panicked(self, silent_s: float) -> str | None:
        """Return why nothing can follow a panic that the hypervisor reported (the mark panicked), if nothing can.

        The event says that no capture kernel is loaded. Drivers before Linux 5.6 know no other event, so the word of a
        guest that had one loaded is its console.
        """
        if "panicked" not in self.clock.marks_s or (silent_s < LAST_WORDS_S and not self.restart_seen):
            return None
        if self.capture_seen:
            into_capture_s = self.clock.between_s("capture", "panicked") or 0.0
            return "the hypervisor saw the capture kernel panic (pvpanic)" if into_capture_s > 0 else None
        if self.loaded:
            return None
        return "the hypervisor saw the guest panic for good (pvpanic): no capture kernel was loaded"

    @property
    def may_lack_vmcore(self) -> bool:
        """Whether kdump or makedumpfile reported a failure, or makedumpfile did not report a vmcore that kdump did."""
        return bool(self.failed) or self.written is False or (self.stage >= Stage.SAVED and not self.written)

    def waiting_for(self) -> str:
        """Return the subject of the next deadline, for progress and messages."""
        if self.stage < Stage.CRASHED:
            return "the panic"
        if not self.capture_seen and not self.restart_seen:
            return "the capture kernel"
        if not self.restart_seen:
            return (
                "the capture kernel to save the vmcore" if self.stage < Stage.SAVED else "the capture kernel to reboot"
            )
        return "the login prompt"

    @property
    def silence_s(self) -> float:
        """How long the console may say nothing now; unscaled."""
        dumping = "dump" in self.clock.marks_s and self.stage < Stage.SAVED and not self.restart_seen
        handover = self.stage >= Stage.CRASHED and not (self.capture_seen or self.restart_seen)
        return max(
            SILENCE_TIMEOUT_S,
            self.signs.dump_silence_s if dumping else 0.0,
            self.handover_silence_s if handover else 0.0,
        )
