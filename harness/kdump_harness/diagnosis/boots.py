"""Cut a log into boots: the kernel that printed each line, and its facts about itself."""

from __future__ import annotations

import dataclasses
import enum
import re
from dataclasses import dataclass, field

from ..base.crashkernel import counted, joined, words_in
from .lines import STAMP_BYTES, LogLine
from .speakers import Speaker, names_an_ordinary_module, names_an_ordinary_program, speaker

MATCHES_PER_ROW = 3  # of one symptom in one boot; more would only repeat it
NEW_BANNER_LINES = 40  # the banner's lines ("Booting Linux", "Linux version") stand close together

# A capture kernel that starts anew counts from zero; a crash in the first second is rarer than a quiet capture kernel.
_RESTARTED_BELOW_S = 30.0
_LINUX_VERSION = re.compile(r"Linux version (\S{1,120})")
_MOST_OF_A_WORD = 120  # characters of one crashkernel= that are kept
_TAINTED = re.compile(r"ainted(?:: ?[A-Z ]{0,40})? (\d{1,2}\.\d{1,3}\.\S{1,100})")
_PAGES_RAM = re.compile(r"\b(\d{1,12}) pages RAM")
_KIB_TOTAL = re.compile(r"Memory: \d{1,12}K/(\d{1,12})K")
_PROGRESS = re.compile(r"\[ {0,3}(\d{1,3}\.\d)")


class KernelRole(enum.Enum):
    """The kernel that printed a line."""

    UNKNOWN = "unknown"
    FIRST = "first"
    HANDOVER = "handover"
    CAPTURE = "capture"
    NEXT = "next"


# Marks of which a boot needs the first line only; every systemd line would be one.
_ONCE = frozenset(
    (
        "userspace", "login", "shutdown", "save-failed", "dump-start", "panic", "panic-end", "oops", "handover",
        "fault", "console", "sysrq", "crash-listing", "firmware",
    )
)  # fmt: skip
_OF_KERNELS = frozenset(
    (
        "boot", "command-line", "elfcorehdr", "trace-header", "oops", "oldmem-frame", "fault", "panic", "panic-end",
        "panic-reboot", "handover", "restart", "firmware", "memory", "program", "modules", "ordinary", "sysrq",
    )
)  # fmt: skip
_CHANGING = frozenset(("kdump-begin", "kdump-end"))  # marks that count again in the same boot
_HINTS = frozenset(("ordinary", "program", "modules"))
_FAMILY_WORDS_ENOUGH = 100  # of one family: more would decide nothing


@dataclass(frozen=True, slots=True)
class Match:
    """A line that a symptom's pattern fits."""

    row: int
    line: LogLine
    during: str
    speaker: Speaker


@dataclass
class Boot:
    """The facts in one kernel's lines, from its banner to the next kernel's."""

    start: int
    capture: LogLine | str | None = None  # the evidence that it is a capture kernel
    first: LogLine | None = None  # the evidence that it is not
    banner: LogLine | None = None
    plain_command_line: LogLine | None = None  # x86 names elfcorehdr= there, so this one is not a capture kernel
    armed: LogLine | None = None
    trace_header: LogLine | None = None
    oops: LogLine | None = None
    console: LogLine | None = None  # that no kernel prints
    sysrq: LogLine | None = None  # the crash was made on purpose
    crash_listing: LogLine | None = None  # the command that lists the directory of dumps
    fault: LogLine | None = None  # the instruction at which the kernel faulted
    oldmem_frame: LogLine | None = None  # the first, after the oops if there is one
    panic: LogLine | None = None
    panic_end: LogLine | None = None
    handover: LogLine | None = None
    restart: LogLine | None = None
    shutdown: LogLine | None = None
    firmware: LogLine | None = None
    login: LogLine | None = None
    userspace: LogLine | None = None
    dump_start: LogLine | None = None
    saved: LogLine | None = None
    dumpfile_complete: LogLine | None = None  # makedumpfile's own word
    save_failed: LogLine | None = None
    warning_trace: LogLine | None = None
    trace_end: LogLine | None = None
    progress: LogLine | None = None
    last: LogLine | None = None
    lines: int = 0
    memory_kib: int | None = None
    added_memory: LogLine | None = None  # the first line about memory that was added after the start
    kernel: str | None = None
    crashkernel: str | None = None
    from_syslog: bool = False
    stamp_max_s: float | None = None
    during: str = "any"
    ordinary: LogLine | None = None  # a hint that it is not a capture kernel
    within_kdump: bool = False  # whether kdump has begun to work, and has not ended
    signs: set[str] = field(default_factory=set)
    matches: list[Match] = field(default_factory=list)
    counts: dict[int, int] = field(default_factory=dict)

    @property
    def kdump_loaded(self) -> bool | None:
        """Return whether the kernel said that a capture kernel was loaded when it crashed; None when it did not say."""
        if self.handover is not None:
            return True
        if self.trace_header is None:
            return None
        return "Kdump: loaded" in self.trace_header.text

    @property
    def latest_s(self) -> float | None:
        """Return the largest timestamp, or None."""
        last_s = self.last.stamp_s if self.last is not None else None
        return max((stamp_s for stamp_s in (self.stamp_max_s, last_s) if stamp_s is not None), default=None)

    @property
    def is_kernel_log(self) -> bool:
        """Return whether all lines may be of the kernel's own log, as a dump has it."""
        others = (self.console, self.firmware, self.login, self.restart)
        return not self.from_syslog and all(line is None for line in others)

    @property
    def ended(self) -> bool:
        """Return whether its last words were said: what comes next is another kernel."""
        return self.restart is not None or self.firmware is not None

    @property
    def progress_percent(self) -> float | None:
        """The last progress of the copying that the log shows."""
        found = _PROGRESS.findall(self.progress.text) if self.progress else []
        return float(found[-1]) if found else None


class Tracker:
    """The boots of a log, cut at its marks; the middle ones are dropped when there are too many."""

    def __init__(self, boots_max: int = 256, *, within_kdump: bool = False) -> None:
        self.boots = [Boot(start=1, within_kdump=within_kdump)]
        self.families: dict[str, int] = {}
        self.signs: set[str] = set()
        self.is_log = False  # whether any line looks like one of a log
        self.dropped = 0
        self.boots_max = boots_max

    @property
    def boot(self) -> Boot:
        """The boot that the current line belongs to."""
        return self.boots[-1]

    @property
    def wants_every_line(self) -> bool:
        """Return whether the next kernel may start without a banner, to be seen only by its timestamps."""
        return self.boot.panic is not None and self.boot.capture is None

    def new_boot(self, line: LogLine, *, capture: LogLine | str | None = None) -> None:
        """Begin another kernel's lines."""
        self.boots.append(Boot(start=line.number, capture=capture))
        if len(self.boots) > self.boots_max:
            del self.boots[self.boots_max // 2]
            self.dropped += 1

    def leave_out(self, boots: int) -> None:
        """Note that boots are not read: the next line is of another one."""
        self.dropped += boots
        if self.boot.lines:
            self.boots.append(Boot(start=0))

    def see(self, line: LogLine) -> None:
        """Note any line that was worth parsing."""
        boot = self.boot
        if self.wants_every_line and boot.panic is not None and self._restarted(line, boot.panic.stamp_s):
            loaded = boot.kdump_loaded and boot.restart is None
            evidence = "its timestamps start again after a panic with kdump loaded"
            self.new_boot(line, capture=evidence if loaded else None)
            boot = self.boot
        boot.lines += 1
        boot.from_syslog = boot.from_syslog or line.from_syslog
        if line.stamp_s is not None:
            boot.stamp_max_s = max(line.stamp_s, boot.stamp_max_s or 0.0)

    @staticmethod
    def may_change(mark: str) -> bool:
        """Return whether lines with a mark may count again in a boot that knows it."""
        return mark in _CHANGING

    def knows(self, mark: str, family: str = "") -> bool:
        """Return whether one more line with this mark would change nothing."""
        boot = self.boot
        if mark in _ONCE:
            return getattr(boot, mark.replace("-", "_")) is not None
        if mark == "family":
            return self.families.get(family, 0) >= _FAMILY_WORDS_ENOUGH
        if mark == "kdump-begin":
            return boot.within_kdump
        if mark == "kdump-end":
            return not boot.within_kdump
        if mark == "capture":
            return isinstance(boot.capture, LogLine) and boot.userspace is not None
        if mark == "first":
            return boot.first is not None or boot.capture is not None
        if mark == "command-line":
            return boot.plain_command_line is not None and boot.crashkernel is not None
        if mark.startswith("sign-"):
            return mark.removeprefix("sign-") in self.boot.signs
        return mark in _HINTS and boot.ordinary is not None

    def is_later(self, stamp: bytes) -> bool:
        """Return whether "[   12.345678]" is of the kernel that panicked, and note it; False where it may not be."""
        boot = self.boot
        if len(stamp) != STAMP_BYTES or stamp[:1] != b"[" or stamp[-1:] != b"]" or boot.stamp_max_s is None:
            return False
        try:
            stamp_s = float(stamp[1:-1])
        except ValueError:
            return False
        if stamp_s < boot.stamp_max_s:
            return False
        boot.stamp_max_s = stamp_s
        return True

    @staticmethod
    def _restarted(line: LogLine, before_s: float | None) -> bool:
        """Return whether the line's timestamp is of a kernel that started after the moment before_s of another."""
        if line.stamp_s is None or before_s is None or line.stamp_s >= _RESTARTED_BELOW_S:
            return False
        return line.stamp_s == 0.0 or line.stamp_s < before_s - _RESTARTED_BELOW_S

    def add_match(self, row: int, line: LogLine) -> None:
        """Note that a symptom's pattern fits the line."""
        self.is_log = True
        boot = self.boot
        count = boot.counts[row] = boot.counts.get(row, 0) + 1
        # After a panic the same words mean something else, so they are kept once more.
        if count <= MATCHES_PER_ROW or (boot.panic is not None and count <= 2 * MATCHES_PER_ROW):
            by = speaker(line, within_kdump=boot.within_kdump)
            boot.matches.append(Match(row, shortened(line), boot.during, by))

    def is_saturated(self, row: int) -> bool:
        """Return whether more lines of this symptom would change nothing."""
        return self.boot.counts.get(row, 0) > 4 * MATCHES_PER_ROW

    def mark(self, name: str, line: LogLine, family: str) -> None:
        """Note a milestone."""
        self.is_log = True
        if name in _OF_KERNELS and line.program not in (None, "kernel") and f"{line.program}[" in line.text:
            return  # a program quotes the kernel
        if family:
            self.families[family] = self.families.get(family, 0) + 1
            # Only programs print a family's words, but for its options on the kernel's command line.
            by_program = name in ("capture", "saved") and "ommand line" not in line.text
            if by_program and self.boot.userspace is None:
                self.boot.userspace = shortened(line)
        if name.startswith("sign-"):
            self.signs.add(name.removeprefix("sign-"))
            self.boot.signs.add(name.removeprefix("sign-"))
            return
        handler = getattr(self, "_on_" + name.replace("-", "_"), None)
        if handler is not None:
            handler(line)
        else:
            attribute = name.replace("-", "_")
            if getattr(self.boot, attribute) is None:
                setattr(self.boot, attribute, shortened(line))

    def _on_boot(self, line: LogLine) -> None:
        boot = self.boot
        version = _LINUX_VERSION.search(line.text)
        if boot.banner is not None and boot.panic is None and not boot.ended:
            same = line.number - boot.start <= NEW_BANNER_LINES or line.text == boot.banner.text
            if same:
                self._name_kernel(version)
                return
        is_young = boot.banner is None and line.number - boot.start <= NEW_BANNER_LINES
        told_nothing = boot.panic is None and boot.first is None and not boot.matches
        if not (is_young and (told_nothing or boot.capture is not None)):
            after_crash = boot.panic is not None or boot.handover is not None
            loaded = after_crash and boot.kdump_loaded and not boot.ended and boot.capture is None
            self.new_boot(line, capture="it boots after a crash with kdump loaded" if loaded else None)
        self.boot.banner = shortened(line)
        self._name_kernel(version)

    def _name_kernel(self, version: re.Match[str] | None) -> None:
        if version and self.boot.kernel is None:
            self.boot.kernel = version.group(1)

    def _on_command_line(self, line: LogLine) -> None:
        boot = self.boot
        if "elfcorehdr=" in line.text:
            return
        words = [word[:_MOST_OF_A_WORD] for word in words_in(line.text)]
        if words and boot.crashkernel is None:
            boot.crashkernel = joined(counted(words) or words)
        # x86 prints "Command line:" early and "Kernel command line:" later; other machines print only the second.
        # Xen and old reports cut the line, so one with the usual words of a capture kernel stays undecided.
        if "Kernel command line:" not in line.text and "reset_devices" not in line.text:
            boot.plain_command_line = shortened(line)
            if isinstance(boot.capture, str):
                boot.capture = None

    def _on_elfcorehdr(self, line: LogLine) -> None:
        self._is_capture(line, by_banner=True)

    def _on_capture(self, line: LogLine) -> None:
        self._is_capture(line, by_banner=False)

    def _is_capture(self, line: LogLine, *, by_banner: bool) -> None:
        boot = self.boot
        if isinstance(boot.capture, LogLine):
            return
        crashed = boot.panic is not None or boot.handover is not None
        by_hand = boot.plain_command_line is not None and not by_banner and not crashed
        if by_hand and not self._restarted(line, boot.stamp_max_s):
            return
        told_otherwise = boot.capture is None and (boot.first is not None or boot.login is not None)
        fresh_banner = boot.banner is not None and line.number - boot.banner.number <= 400
        if crashed or (told_otherwise and not (by_banner and fresh_banner)) or (boot.ended and not by_banner):
            self.new_boot(line)
        self.boot.capture = shortened(line)

    def _on_trace_header(self, line: LogLine) -> None:
        boot = self.boot
        # After the panic other processors' traces follow; the one that panicked spoke first.
        if boot.panic_end is None and boot.handover is None:
            if boot.panic is None or boot.trace_header is None or boot.trace_header.number < boot.panic.number:
                boot.trace_header = shortened(line)
            if "Kdump: loaded" in line.text and boot.first is None and boot.capture is None:
                boot.first = shortened(line)
                boot.armed = boot.armed or boot.first
        if boot.kernel is None and (found := _TAINTED.search(line.text)):
            boot.kernel = found.group(1)

    def _on_panic(self, line: LogLine) -> None:
        boot = self.boot
        if boot.panic is None:
            boot.panic = shortened(line)

    def _on_panic_reboot(self, line: LogLine) -> None:
        if self.boot.panic is not None:
            self.boot.panic_end = self.boot.panic_end or shortened(line)
            self.boot.restart = self.boot.restart or shortened(line)

    def _on_firmware(self, line: LogLine) -> None:
        boot = self.boot
        if boot.banner is None and boot.panic is None and boot.capture is None and not boot.matches:
            return
        if boot.firmware is None:
            boot.firmware = shortened(line)

    def _on_family(self, line: LogLine) -> None:
        """Do nothing: the family was counted before."""

    def _on_kdump_begin(self, _line: LogLine) -> None:
        self.boot.within_kdump = True

    def _on_kdump_end(self, _line: LogLine) -> None:
        self.boot.within_kdump = False

    def _on_program(self, line: LogLine) -> None:
        if self.boot.ordinary is None and names_an_ordinary_program(line.text):
            self.boot.ordinary = shortened(line)

    def _on_modules(self, line: LogLine) -> None:
        if self.boot.ordinary is None and names_an_ordinary_module(line.text):
            self.boot.ordinary = shortened(line)

    def _on_boundary(self, line: LogLine) -> None:
        self.new_boot(line)

    def _on_armed(self, line: LogLine) -> None:
        self.boot.armed = shortened(line)
        if self.boot.capture is None and self.boot.first is None:
            self.boot.first = self.boot.armed

    def _on_oldmem_frame(self, line: LogLine) -> None:
        boot = self.boot
        if boot.oops is not None and (boot.oldmem_frame is None or boot.oldmem_frame.number < boot.oops.number):
            boot.oldmem_frame = shortened(line)

    def _on_first(self, line: LogLine) -> None:
        if self.boot.first is None and self.boot.capture is None:
            self.boot.first = shortened(line)

    def _on_dmesg_start(self, line: LogLine) -> None:
        self.boot.during = "dmesg"

    def _on_vmcore_start(self, line: LogLine) -> None:
        self.boot.during = "vmcore"

    def _on_saved(self, line: LogLine) -> None:
        self.boot.saved = shortened(line)

    def _on_dumpfile_complete(self, line: LogLine) -> None:
        if self.boot.during != "dmesg":
            self.boot.dumpfile_complete = shortened(line)

    def _on_trace_end(self, line: LogLine) -> None:
        self.boot.trace_end = shortened(line)

    def _on_warning_trace(self, line: LogLine) -> None:
        self.boot.warning_trace = shortened(line)

    def _on_progress(self, line: LogLine) -> None:
        self.boot.progress = shortened(line, keep_end=True)

    def _on_memory(self, line: LogLine) -> None:
        boot = self.boot
        if found := _PAGES_RAM.search(line.text):
            boot.memory_kib = int(found.group(1)) * 4
        elif found := _KIB_TOTAL.search(line.text):
            boot.memory_kib = int(found.group(1))
        elif (
            boot.memory_kib is not None and boot.userspace is None and boot.dump_start is None and boot.restart is None
        ):
            # Zones are built again for added memory; ACPI adds it before the first program starts.
            boot.added_memory = boot.added_memory or shortened(line)


def shortened(line: LogLine, *, keep_end: bool = False, characters_max: int = 300) -> LogLine:
    """Return the line with its text cut for keeping."""
    if len(line.text) <= characters_max:
        return line
    text = line.text[-characters_max:] if keep_end else line.text[:characters_max] + "…"
    return dataclasses.replace(line, text=text)
