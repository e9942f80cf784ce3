"""Triage of a dump: the crashed task, its stack, the panic, taints; by drgn, else by the kernel log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..base.progress import Progress
from ..vmcore import Vmcore, VmcoreError, open_vmcore
from ..vmcore.formats.vmcoreinfo import NO_VMCOREINFO
from . import child
from .child import LIMIT_S, Answer
from .debuginfo import NoDebugInfo, Wanted, check_given, find
from .log import CrashedTask, LogFacts, Module, read_log
from .taint import Taint, explain

__all__ = ["Module", "NoDebugInfo", "Taint", "Task", "Triage", "check_given", "triage"]


@dataclass(frozen=True, kw_only=True)
class Triage:
    """One crash; facts that neither drgn nor the log gives are None or empty."""

    source: str  # "drgn with <vmlinux>", "kernel log only: <why>" or "neither drgn nor kernel log: <why>"
    kernel: str | None
    panic: str | None
    reason: str | None  # the oops, BUG or lockup behind the panic
    task: CrashedTask | None
    stack: tuple[str, ...]
    rip: str | None
    taint_flags: str | None  # letters; empty: not tainted
    taints: tuple[Taint, ...]
    modules: tuple[Module, ...]
    call_trace: tuple[str, ...]  # as the log has it, with the guesses of the unwinder
    remarks: tuple[str, ...]

    @property
    def tainting_modules(self) -> tuple[Module, ...]:
        """The modules that tainted the kernel."""
        return tuple(module for module in self.modules if module.taints)

    def to_json(self) -> dict[str, Any]:
        """Return the record in the form of JSON."""
        return asdict(self)


def triage(
    path: Path | str,
    *parts: Path | str,
    debuginfo: Path | None = None,
    package: bool | None = None,
    state: Path | None = None,
    progress: Progress | None = None,
    limit_s: int = LIMIT_S,
) -> Triage:
    """Read the crash out of a dump, with drgn where there is debug info for its kernel.

    debuginfo is a vmlinux or a directory with one; package allows the download of Debian's -dbg package into the
    state directory. Without debug info, or when drgn fails, the kernel log is read and source says why.
    UsageError when debuginfo is of another kernel, Unreadable for a dump that cannot be opened.
    """
    progress = progress or Progress(quiet=True)
    with open_vmcore(path, *parts) as vmcore:
        log, remarks = _log(vmcore)
        kernel = vmcore.utsname.get("release") or None
        if vmcore.by_hypervisor and not vmcore.vmcoreinfo:
            return _by_log(log, kernel, NO_VMCOREINFO, remarks)
        try:
            vmlinux = find(Wanted.of(vmcore), given=debuginfo, package=package, state=state, progress=progress)
        except NoDebugInfo as error:
            return _by_log(log, kernel, str(error), remarks)
        files = [file.path for file in vmcore.files]
    answer = child.ask(vmlinux, files, progress=progress, limit_s=limit_s)
    return _combine(answer, log, kernel, vmlinux, remarks)


def _log(vmcore: Vmcore) -> tuple[LogFacts | None, list[str]]:
    try:
        return read_log(vmcore.dmesg()), []
    except VmcoreError as error:
        return None, [f"the kernel log cannot be read: {error}"]


def _by_log(log: LogFacts | None, kernel: str | None, why: str, remarks: Sequence[str]) -> Triage:
    """Return the triage by the kernel log alone, if it could be read, with the reason why drgn was not used."""
    source = f"neither drgn nor kernel log: {why}" if log is None else f"kernel log only: {why}"
    log = log or LogFacts()
    return Triage(
        source=source,
        kernel=kernel,
        panic=log.panic,
        reason=log.reason,
        task=log.task,
        stack=log.stack,
        rip=log.rip,
        taint_flags=log.taint_flags,
        taints=explain(log.taint_flags or ""),
        modules=log.modules,
        call_trace=log.call_trace,
        remarks=tuple(remarks),
    )


def _combine(answer: Answer, log: LogFacts | None, kernel: str | None, vmlinux: Path, remarks: list[str]) -> Triage:
    """Combine drgn's facts with those of the log where drgn has none."""
    facts = answer.facts
    crashed = facts.get("crashed", True)
    if not facts.keys() & {"task", "stack"} and crashed:
        why, *more = answer.troubles or ["drgn reported nothing"]
        return _by_log(log, kernel, f"{why} (debug info: {vmlinux})", [*remarks, *more])
    log = log or LogFacts()
    stack = tuple(facts.get("stack", ()))
    if not crashed:
        remarks = [*remarks, "no CPU had panicked when the dump was taken"]
    elif not stack:
        remarks = [*remarks, "the stack is the kernel log's"]
    elif len(stack) < len(log.stack):
        remarks = [
            *remarks,
            "the stack ends early: the dump lacks some of its memory; the kernel log's call trace has more",
        ]
    flags = facts.get("taint", log.taint_flags)
    return Triage(
        source=f"drgn with {vmlinux}",
        kernel=kernel,
        panic=log.panic,
        reason=log.reason,
        task=CrashedTask(**facts["task"]) if "task" in facts else log.task,
        stack=stack or log.stack,
        rip=log.rip,
        taint_flags=flags,
        taints=explain(flags or ""),
        modules=tuple(Module(**module) for module in facts["modules"]) if "modules" in facts else log.modules,
        call_trace=log.call_trace,
        remarks=(*remarks, *answer.troubles),
    )
