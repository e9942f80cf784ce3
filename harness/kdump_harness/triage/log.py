"""The crash by the kernel log: task, place, taints, modules."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ..vmcore.dmesg import panic_line

MAX_TRACE_LINES = 256
_MAX_LINE = 2048  # the kernel writes at most half of it into one line
_NEAR = 12  # lines between "BUG: ..." and the "CPU: ..." line of the same report

# [   81.144548], and behind it [    T648] or [    C1] where the kernel has CONFIG_PRINTK_CALLER.
_STAMP = re.compile(r"^(?:<\d+>)?\[ *\d+\.\d+\](?: ?\[ *[TC]\d+\])? ?")

# lib/dump_stack.c, dump_stack_print_info(): "UID:" came with 6.11, "Kdump: loaded" is RHEL's, and since 5.7 upstream.
_WHO = re.compile(
    r"CPU: (?P<cpu>\d+)(?: UID: \d+)? PID: (?P<pid>\d+) Comm: (?P<comm>.*?) (?:Kdump: loaded )?"
    r"(?:Not tainted|Tainted: (?P<flags>[A-Z ]*[A-Z]))(?: \([a-z]+\))? +(?P<release>[0-9]\S*)"
)
_REASON = re.compile(
    r"(?:BUG: |Oops\b|general protection fault|kernel BUG at|Internal error|Unable to handle kernel|double fault|"
    r"Kernel panic - not syncing: |watchdog: BUG: |INFO: task |WARNING: |SysRq : Trigger|NMI watchdog: )"
)
_PANIC = re.compile(r"Kernel panic - not syncing: ")
_END = re.compile(r"---\[ end |Kernel Offset: ")
_TRACE = re.compile(r"^Call [Tt]race:")
# 3.10 and earlier put the address in front: [<ffffffff81636401>] dump_stack+0x19/0x1b.
_FRAME = re.compile(
    r"^ *(?:\[<[0-9a-f]+>\] )?(?P<guess>\? )?"
    r"(?P<at>[\w.$]+\+0x[0-9a-f]+/0x[0-9a-f]+|0x[0-9a-f]{8,})(?: \[(?P<of>[^ \]]+))?"
)
_MARK = re.compile(r"^ *</?(?:TASK|IRQ|NMI|SOFTIRQ|ENTRY_TRAMPOLINE|#\w+|EOE|EOI)>")
_REGISTERS = re.compile(r"^ *(?:Code|[A-Z][A-Z0-9]{1,2}|EFLAGS|PKRU|CR\d|[DFG]S): ?")
_RIP = re.compile(r"(?:RIP: (?P<segment>[0-9a-f]{4}):|pc : )(?P<at>.*)")
_MODULES = "Modules linked in:"
_UNLOADED = "[last unloaded:"
_MODULE = re.compile(r"(?P<name>[A-Za-z0-9_-]+)(?:\((?P<taints>[A-Z]*)[+-]?\))?")


@dataclass(frozen=True, kw_only=True)
class CrashedTask:
    """The task that was running on the CPU that crashed."""

    comm: str
    pid: int
    cpu: int


@dataclass(frozen=True, kw_only=True)
class Module:
    """A loaded module; taints are the letters of what it did to the kernel, mostly none."""

    name: str
    taints: str


@dataclass(frozen=True, kw_only=True)
class LogFacts:
    """The facts of a crash in the log; missing facts are None or empty."""

    panic: str | None = None
    reason: str | None = None  # the line that began the report, where it is not the panic itself
    task: CrashedTask | None = None
    taint_flags: str | None = None
    stack: tuple[str, ...] = ()
    call_trace: tuple[str, ...] = ()
    rip: str | None = None
    modules: tuple[Module, ...] = ()


def read_log(log: str) -> LogFacts:
    """Return the facts of the crash; of several reports (a warning, then an oops) the one that the kernel died of."""
    lines = [_STAMP.sub("", line[:_MAX_LINE], count=1).rstrip() for line in log.splitlines()]
    panic = panic_line(log)
    whole = _report(lines)
    if whole is None:
        return LogFacts(panic=panic, modules=_modules(lines))
    first, who_at, end = whole
    who = _WHO.search(lines[who_at])
    assert who is not None
    report = lines[first:end]
    trace = _trace(lines[who_at:end])
    reason = next((line.strip() for line in report if _REASON.search(line)), None)
    return LogFacts(
        panic=panic,
        reason=reason if reason and reason != panic else None,
        task=CrashedTask(comm=who["comm"], pid=int(who["pid"]), cpu=int(who["cpu"])),
        taint_flags="".join((who["flags"] or "").replace("G", "").split()),
        stack=tuple(_frames(trace)),
        call_trace=trace,
        rip=_rip(report),
        modules=_modules(report) or _modules(lines),
    )


def _report(lines: Sequence[str]) -> tuple[int, int, int] | None:
    """Return the first line, "CPU: ..." line and end of the report that belongs to the crash."""
    whos = [at for at, line in enumerate(lines) if _WHO.search(line)]
    if not whos:
        return None
    panics = [at for at, line in enumerate(lines) if _PANIC.search(line) and not _END.search(line)]
    if panics:
        # panic() prints its report behind the line, unless an oops has printed one before.
        behind = [at for at in whos if panics[0] < at <= panics[0] + _NEAR]
        before = [at for at in whos if at < panics[0]]
        who_at = behind[0] if behind else before[-1] if before else whos[0]
    else:
        fatal = [at for at in whos if any(_fatal(line) for line in lines[max(0, at - _NEAR) : at])]
        who_at = (fatal or whos)[-1]
    earlier = max((at for at in whos if at < who_at), default=-1)
    start = max(0, who_at - _NEAR, earlier + 1)
    first = next((at for at in range(start, who_at) if _REASON.search(lines[at])), who_at)
    end = next((at for at in whos if at > who_at), len(lines))
    end = next((at + 1 for at in range(who_at, end) if lines[at].startswith("---[ end ")), end)
    return first, who_at, end


def _fatal(line: str) -> bool:
    return _REASON.search(line) is not None and not line.startswith(("WARNING: ", "INFO: "))


def _trace(report: Sequence[str]) -> tuple[str, ...]:
    """Return the lines of the call trace: frames, stack names and exceptions, without register dumps."""
    start = next((at + 1 for at, line in enumerate(report) if _TRACE.search(line)), None)
    if start is None:
        return ()
    kept: list[str] = []
    for line in report[start : start + 2 * MAX_TRACE_LINES]:
        if _FRAME.search(line) or _MARK.search(line) or _RIP.search(line):
            kept.append(line.strip())
        elif not _REGISTERS.search(line):
            break
    return tuple(kept[:MAX_TRACE_LINES])


def _frames(trace: Iterable[str]) -> Iterator[str]:
    """Yield the frames that the unwinder vouched for: those with a question mark were only lying on the stack."""
    for line in trace:
        frame = _FRAME.search(line)
        if frame is not None and not frame["guess"]:
            yield f"{frame['at']} [{frame['of']}]" if frame["of"] else frame["at"]


def _rip(report: Sequence[str]) -> str | None:
    """Return the place in the kernel where it failed, or in the user's program where the log gives no other."""
    found = [match for line in report if (match := _RIP.search(line))]
    kernel = [match for match in found if match["segment"] is None or not int(match["segment"], 16) & 3]
    return next((match[0].strip() for match in kernel or found), None)


def _modules(lines: Sequence[str]) -> tuple[Module, ...]:
    """Return the modules of the last list; it is only printed for an oops or a warning."""
    start = next((at for at in reversed(range(len(lines))) if lines[at].startswith(_MODULES)), None)
    if start is None:
        return ()
    words = lines[start].removeprefix(_MODULES).split(_UNLOADED)[0].split()
    for line in lines[start + 1 :]:  # a list that is longer than a record continues in the next one
        more = line.split(_UNLOADED)[0].split()
        if _UNLOADED in lines[start] or not more or not all(_MODULE.fullmatch(word) for word in more):
            break
        words += more
    listed = [match for word in words if (match := _MODULE.fullmatch(word))]
    return tuple(Module(name=match["name"], taints=match["taints"] or "") for match in listed)
