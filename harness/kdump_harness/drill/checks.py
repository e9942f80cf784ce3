"""The checks behind the word "verified": their table, and the functions that make them.

The checks look at the files and the dump that a crash left, and do not rely on messages of the guest. A new check is
a row of CHECKS and a call of record_check().
"""

from __future__ import annotations

import datetime
import enum
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..base.errors import EXIT_UNJUDGED
from ..base.stage import Stage
from ..base.verdict import Verdict
from ..distro.architecture import architecture_of_machine
from ..kdump.capture_memory import read_claim
from ..kdump.guest_state import GuestState
from ..kdump.page_flags import ZERO_BIT, MemoryState, names_dropped_by
from ..kdump.target import FoundFile
from ..kdump.trigger import Trigger
from ..vmcore import Inspection, Vmcore, VmcoreError, open_vmcore
from ..vmcore.classes import LevelViolations, PageClass, Tally, count_zeros
from ..vmcore.elfruns import spared
from ..vmcore.inspection import UNJUDGED, inspect_opened
from ..vmcore.registers import unreadable_tasks

# The guest's clock is read over SSH before the crash; this is how far CRASHTIME may lie outside what that allows.
CLOCK_SLACK_S = 5.0
# A user who may read a dump can read every secret of the machine.
DUMP_MODE = 0o600
# RHEL makes the directory 0755, and that is safe: its files are 0600, so others learn no more than names.
WORLD_WRITE = 0o002
# How many pages may have changed their class between the look at the memory and the crash, a few seconds later:
# this share of the class and this many more (1,111 user pages of a session that ended were seen). A filter that
# fails keeps all of a class. Small classes are for the struct pages in the dump to judge: these are of the crash.
CHANGED_SHARE = 0.05
CHANGED_PAGES = 2048
# A capture kernel also has the memory below 1 MiB, and firmware's tables as small ranges. Memory that it takes of the
# crashed kernel comes in blocks of 128 MiB.
UNRESERVED_KIB = 8 << 10
# Ranges of memory that are described to the capture kernel may end a few pages before, or after, those of the guest.
EDGE_FRAMES = 512
LOW_BYTES = 1 << 20
# At least this share of the kernel's slabs and page tables is in every dump: they are hardly ever empty.
SURE_SHARE = 0.5
# No file can show that its pages are swapped, or from another moment: a checksum does not name the page frame.
ONLY_THE_ORACLE = "only --oracle can show that each holds what its page frame held"


class Scope(enum.Flag):
    """The judgements that a check can be required for."""

    OPTIONAL = 0
    RECOVERED = enum.auto()  # a drill that ends with the guest armed again
    SAVED = enum.auto()  # a drill that ends with the saved dump
    SURVIVED = enum.auto()  # a drill whose trigger must not crash the guest
    RESERVATION = enum.auto()  # a trial of a reservation: how a dump was filtered has nothing to do with memory
    COMPUTED = enum.auto()  # a dump that a sweep computes from another one
    KERNEL = enum.auto()  # a kernel drill, whose userland has no service and no dump target


@dataclass(frozen=True)
class CheckKind:
    """One row of the table of checks."""

    name: str
    sentence: str  # completes "A good drill shows ..."
    required_for: Scope = Scope.OPTIONAL


_DRILL = Scope.RECOVERED | Scope.SAVED
_DUMP = _DRILL | Scope.COMPUTED | Scope.KERNEL
_CRASH = _DUMP | Scope.RESERVATION
CHECKS = (
    CheckKind("single-dump", "exactly one new dump", _DRILL | Scope.RESERVATION),
    CheckKind("final-name", "only dumps under their final name", _DRILL | Scope.RESERVATION),
    CheckKind("permissions", "a dump that only its owner can read", _DRILL),
    CheckKind("format", "a format that the distribution writes", _CRASH),
    CheckKind("level", "the configured dump level", _DUMP),
    CheckKind("compression", "the configured compression", _DUMP),
    CheckKind("complete", "a whole dump", _CRASH),
    CheckKind("filter", "none of the pages that the level drops", _DUMP),
    CheckKind("pages", "the pages that the level keeps", _DUMP),
    CheckKind("kernel", "the release of the kernel that crashed", _CRASH),
    CheckKind("crash-time", "the time of the crash", _CRASH),
    CheckKind("nonce", "the kernel log of this very crash", _CRASH),
    CheckKind("panic-text", "the panic of the trigger", _CRASH),
    CheckKind("reboot-time", "a reboot within the time budget", Scope.RECOVERED),
    CheckKind("rebooted", "a boot other than the one before the crash", Scope.RECOVERED),
    CheckKind("rearmed", "kdump loaded as before the trigger", Scope.RECOVERED | Scope.SURVIVED),
    CheckKind("noticed", "a message of the trigger on the console", Scope.SURVIVED),
    CheckKind("lives", "the boot of before the trigger", Scope.SURVIVED),
    CheckKind("no-dump", "no new dump", Scope.SURVIVED),
    # Made where the capture kernel reports its memory on the console.
    # Made where the capture initramfs can be listed.
    CheckKind("capture-image", "a capture kernel that can reach root and dump target"),
    CheckKind("capture-memory", "a capture kernel with no more memory than was reserved for it"),
    CheckKind("crash", "a dump that the crash utility opens and analyses"),  # made with --crash
    # Made with --hotplug.
    CheckKind("hotplug", "all memory and processors of the moment of the crash, and none that was removed"),
    CheckKind("oracle", "every page as the hypervisor saw it when the capture kernel started"),  # made with --oracle
)
_BY_NAME = {check.name: check for check in CHECKS}


def required(scope: Scope) -> frozenset[str]:
    """Return the names of the checks without which a judgement is not complete."""
    return frozenset(check.name for check in CHECKS if scope in check.required_for)


def unmade(verdict: Verdict, scope: Scope, *, asked: Collection[str] = ()) -> frozenset[str]:
    """Return the names of the checks that the verdict lacks, of those that are required or were asked for."""
    return (required(scope) | set(asked)) - {check.name for check in verdict.checks}


REQUIRED_CHECKS = required(Scope.RECOVERED)


def record_check(verdict: Verdict, name: str, ok: bool, *, seen: object, expected: object = None) -> None:
    """Record a check of the table in the verdict; expected is the table's sentence by default.

    Raises KeyError for a check that is not in the table.
    """
    sentence = _BY_NAME[name].sentence
    verdict.check(name, ok, expected=sentence if expected is None else expected, seen=seen)


@dataclass(frozen=True, kw_only=True)
class CrashFacts:
    """The facts that a drill has about the crash it caused."""

    before: GuestState
    level: int
    compress: str
    trigger: Trigger
    nonce: str
    crashed_after_s: tuple[float, float]  # earliest and latest, in seconds after the guest's clock was read
    memory: MemoryState
    hotplug: bool = False  # memory or processors were added or removed
    oracle: bool = False  # another check compares each page with the hypervisor's picture


def check_capture_memory(verdict: Verdict, console: str, before: GuestState) -> None:
    """Check, by its own words, that the capture kernel took no memory of the kernel that it dumps as its own."""
    architecture = architecture_of_machine(verdict.arch)
    counts_other_memory = architecture is not None and architecture.counts_other_memory
    claim = read_claim(console, counts_other_memory=counts_other_memory)
    if claim is None:
        return
    reserved_bytes = before.reserved.total_bytes
    ok = claim.kib <= (reserved_bytes >> 10) + UNRESERVED_KIB and not claim.added
    if ok and before.acpi_memory and not claim.final:
        verdict.remarks.append(
            f"capture-memory is not judged: the capture kernel may have added the memory of {before.acpi_memory} ACPI"
            " memory devices to its own without a message (acpi_no_memhotplug on its command line prevents it)"
        )
        return
    record_check(
        verdict,
        "capture-memory",
        ok,
        expected=f"at most the {reserved_bytes >> 20:,} MiB that were reserved",
        seen=f"{claim.kib / 1024:,.0f} MiB ({claim.line})"
        + (f", and memory that was added after its start ({claim.added})" if claim.added else ""),
    )


def choose_dump(
    verdict: Verdict, files: dict[str, FoundFile], before: dict[str, FoundFile], *, away: str = ""
) -> FoundFile | None:
    """Return the one new dump, after the checks single-dump and final-name.

    A dump that kdump has sent AWAY, to a machine that the harness does not look at, is not judged.
    """
    new = [file for path, file in sorted(files.items()) if path not in before or file != before[path]]
    if away and not new and verdict.reached >= Stage.SAVED:
        verdict.not_judged = f"kdump has sent it {away}, where a drill does not look (kdump-harness inspect judges it)"
        return None
    finished = [file for file in new if file.final]
    unfinished = [file for file in new if not file.final]
    wanted = [file for file in finished if file.wanted]
    seen = ", ".join(f"{file.where} ({file.size_bytes:,} bytes)" for file in new) or "none"
    place = "" if verdict.target == "local" else f", by the target {verdict.target}, and none elsewhere"
    record_check(
        verdict, "single-dump", len(finished) == len(wanted) == 1, expected=f"exactly one new dump{place}", seen=seen
    )
    record_check(
        verdict,
        "final-name",
        bool(finished) and not unfinished,
        expected="only dumps under their final name",
        seen=", ".join(_with_reason(file) for file in unfinished)
        or ", ".join(file.where for file in finished)
        or "none",
    )
    return wanted[0] if wanted else None


def _with_reason(file: FoundFile) -> str:
    return f"{file.where} ({file.unfinished})" if file.unfinished else file.where


def check_permissions(verdict: Verdict, file: FoundFile, *, owner: str) -> None:
    """Mode, owner and directory of the dump where it was written."""
    record_check(
        verdict,
        "permissions",
        file.mode == DUMP_MODE and file.owner == owner and not file.directory_mode & WORLD_WRITE,
        expected=f"{DUMP_MODE:04o} {owner}, in a directory that others cannot write",
        seen=f"{file.mode:04o} {file.owner}, in a directory {file.directory_mode:04o}",
    )


def check_dump(
    verdict: Verdict, path: Path, facts: CrashFacts, *, expected_formats: tuple[str, ...]
) -> Inspection | None:
    """Open the dump and make every check that needs only the file; a dump that cannot be judged has none."""
    expected_format = " or ".join(expected_formats)
    try:
        with open_vmcore(path) as vmcore:
            found = inspect_opened(vmcore)
            try:
                dmesg = vmcore.dmesg()
            except VmcoreError as error:
                dmesg, trouble = "", str(error)
            else:
                trouble = ""
            check_pages(verdict, vmcore, found, facts)
            if facts.hotplug:
                check_hotplug(verdict, vmcore, facts.before)
    except VmcoreError as error:
        record_unreadable(verdict, error, path.stat().st_size, expected_format)
        return None
    record_check(verdict, "format", found.format in expected_formats, expected=expected_format, seen=found.format)
    silent = found.level is None and vmcore.elf is not None
    seen_level = "an ELF dump does not say it; the check filter counts its pages" if silent else found.level
    misread = facts.before.misread
    record_check(
        verdict,
        "level",
        misread is None and (silent or found.level == facts.level),
        expected=facts.level if misread is None else f"a number of 0 to 31, which {misread!r} is not",
        seen=seen_level if misread is None else f"{seen_level}, as which makedumpfile reads {misread!r}",
    )
    compressors = facts.before.compressors
    lacks = f" (makedumpfile was built without {facts.compress})"
    record_check(
        verdict,
        "compression",
        found.compression == facts.compress,
        expected=facts.compress,
        seen=f"{found.compression}{lacks if compressors and facts.compress not in compressors else ''}",
    )
    if found.judgement == UNJUDGED:
        verdict.not_judged = found.why
    else:
        expected = "whole, every page readable"
        seen = found.why or (expected if facts.oracle else f"{expected}; {ONLY_THE_ORACLE}")
        record_check(verdict, "complete", found.whole, expected=expected, seen=seen)
    record_check(
        verdict, "kernel", found.kernel == facts.before.kernel, expected=facts.before.kernel, seen=found.kernel
    )
    _check_crash_time(verdict, found, facts)
    record_check(
        verdict,
        "nonce",
        facts.nonce in dmesg,
        expected=f"{facts.nonce} in the dump's own kernel log",
        seen="it is there" if facts.nonce in dmesg else trouble or f"not among {len(dmesg.splitlines())} lines",
    )
    _check_panic_text(verdict, dmesg, facts, trouble)
    return found


def record_unreadable(verdict: Verdict, error: VmcoreError, size_bytes: int, expected_format: str) -> None:
    """Record that the dump cannot be opened: a failure where it is damaged, else only that it was not judged."""
    if error.exit_code == EXIT_UNJUDGED:
        verdict.not_judged = str(error)
        return
    why = f"{error} ({size_bytes:,} bytes)"
    record_check(verdict, "format", False, expected=expected_format, seen=why)
    for name in ("complete", "pages", "filter"):
        record_check(verdict, name, False, seen=why)


def _check_crash_time(verdict: Verdict, found: Inspection, facts: CrashFacts) -> None:
    earliest_s = facts.before.clock_s + facts.crashed_after_s[0] - CLOCK_SLACK_S
    latest_s = facts.before.clock_s + facts.crashed_after_s[1] + CLOCK_SLACK_S
    crash_s = found.crash_time_s
    record_check(
        verdict,
        "crash-time",
        crash_s is not None and earliest_s <= crash_s <= latest_s,
        expected=f"{_utc(earliest_s)} to {_utc(latest_s)}",
        seen=_utc(crash_s) if crash_s is not None else "no CRASHTIME in VMCOREINFO",
    )


def _check_panic_text(verdict: Verdict, dmesg: str, facts: CrashFacts, trouble: str) -> None:
    wanted = [facts.trigger.panic, *([facts.trigger.also] if facts.trigger.also else [])]
    found = [re.search(pattern, dmesg) for pattern in wanted]
    missing = [pattern for pattern, match in zip(wanted, found, strict=True) if match is None]
    record_check(
        verdict,
        "panic-text",
        not missing,
        expected=" and ".join(wanted),
        seen=trouble or f"not in the dump's kernel log: {', '.join(missing)}"
        if missing
        else "; ".join(match.group().strip() for match in found if match),
    )


def check_pages(verdict: Verdict, vmcore: Vmcore, found: Inspection, facts: CrashFacts) -> None:
    """Were the right pages dropped?

    Two witnesses that know nothing of makedumpfile must agree: what the guest's kernel said of each page frame just
    before the crash, and the kernel's own page structures in the dump, where they can be read.
    """
    memory, level = facts.memory, facts.level
    total, kept = vmcore.pages_total, vmcore.pages_kept
    dropped = names_dropped_by(level)
    droppable = {name: memory.pages[name] for name in dropped}
    # Pages that were free before prove nothing where the crash itself fills the memory; then only the dump counts.
    moved = facts.trigger.memory_moves
    allowed = {
        name: total if moved else int(count * CHANGED_SHARE) + CHANGED_PAGES for name, count in droppable.items()
    }
    spared_codes = spared(vmcore, level)
    spared_pages = np.bincount(spared_codes, minlength=len(PageClass))
    spared_pages[PageClass.HOLE] = 0
    counts = {
        each: Tally(tally["total"], tally["kept"] - int(spared_pages[each]))
        for each, tally in ((PageClass[name.upper()], tally) for name, tally in found.classes.items())
    }
    struct_pages = LevelViolations.of(counts, level, zeros_absent=vmcore.elf is not None and bool(level & ZERO_BIT))

    leftover = _leftover(vmcore, memory, dropped, spared_codes)
    if leftover is not None:
        seen = ", ".join(f"{leftover[name]:,} of the {name} pages" for name in dropped)
        ok = all(leftover[name] <= allowed[name] for name in dropped)
    else:
        most = total - sum(droppable.values()) + sum(allowed.values()) + int(spared_pages.sum())
        seen, ok = f"{kept:,} pages in all, at most {most:,} expected", kept <= most
    if counts:
        tallies = (f"{tally.kept:,} of {tally.total:,} {each.label}" for each, tally in struct_pages.dropped.items())
        seen += "; by the dump's own struct pages " + (", ".join(tallies) or "nothing was to be dropped")
    if spared_pages.any():
        seen += f"; {spared_pages.sum():,} more in runs that are too short for makedumpfile -E to leave them out"
    record_check(
        verdict,
        "filter",
        ok and not list(struct_pages.too_many()) and (bool(counts) or not moved),
        expected=f"-d {level} keeps none of "
        + (", ".join(dropped) if moved else f"{_listed(dropped, droppable)} (by {memory.source})"),
        seen=f"kept {seen}" if dropped else f"kept {kept:,} of {total:,} pages",
    )
    # An ELF dump leaves out empty pages, which were not counted before the crash; the other formats mark each of them.
    unknown = vmcore.elf is not None and level & ZERO_BIT
    slack = total if moved else int(total * CHANGED_SHARE) + CHANGED_PAGES
    gone = sum(droppable.values()) + (memory.offline if dropped else 0)
    least = max(0, int(memory.sure * SURE_SHARE) if unknown else total - gone - slack)
    missing = [
        *struct_pages.too_few(),
        *(damage.message for damage in found.damage if damage.kind == "zeros"),
        *_zeros(vmcore, facts),
        *(f"not in the dump: {what}" for what in unreadable_tasks(vmcore)),
    ]
    record_check(
        verdict,
        "pages",
        kept >= least and not missing,
        expected=f"at least {least:,} of {total:,} pages, with the stack and code of every CPU",
        seen="; ".join([f"{kept:,} of {total:,} pages", *missing]),
    )


def check_hotplug(verdict: Verdict, vmcore: Vmcore, before: GuestState) -> None:
    """Compare the memory and the processors in the dump with those that the kernel had."""
    page, reserved = vmcore.page_size, before.reserved
    there = np.unpackbits(vmcore.ram_bitmap(), bitorder="little")[: vmcore.max_pfn].astype(np.bool_)
    frames = max([len(there), *(part.end // page for part in before.ram)])
    there = np.pad(there, (0, frames - len(there)))
    wanted = np.zeros(frames, dtype=np.bool_)
    for part in before.ram:
        wanted[-(-part.start // page) : part.end // page] = True
    for part in (*reserved.fixed, *reserved.cma):
        wanted[part.start // page : -(-part.end // page)] = False
    low = LOW_BYTES // page  # used by the firmware and by the start of the capture kernel
    missing, gone = wanted & ~there, there & ~wanted
    missing[:low], gone[:low] = False, False
    cpus = vmcore.cpus
    seen = [f"{int((wanted & there).sum()):,} of {int(wanted.sum()):,} page frames, {cpus} of {before.cpus} CPUs"]
    seen += [f"missing: {_span(missing, page)}"] if missing.sum() > EDGE_FRAMES else []
    seen += [f"not in the guest: {_span(gone, page)}"] if gone.sum() > EDGE_FRAMES else []
    record_check(verdict, "hotplug", len(seen) == 1 and cpus == before.cpus, seen="; ".join(seen))


def _span(frames: NDArray[np.bool_], page: int) -> str:
    found = np.flatnonzero(frames)
    return f"{len(found):,} page frames from {int(found[0]) * page:#x} to {int(found[-1] + 1) * page - 1:#x}"


def _zeros(vmcore: Vmcore, facts: CrashFacts) -> Iterator[str]:
    """Yield a complaint if pages that were slabs and page tables before the crash are zeros in the dump.

    A crash that fills the memory frees slabs first, so that their page frames prove nothing.
    """
    if facts.memory.sure_frames is not None and not facts.trigger.memory_moves:
        what = f"pages that were slabs or page tables before the crash (by {facts.memory.source})"
        complaint = count_zeros(vmcore, facts.memory.sure_frames).complaint(what)
        if complaint is not None:
            yield complaint


def _leftover(
    vmcore: Vmcore, memory: MemoryState, dropped: tuple[str, ...], spared_codes: NDArray[np.uint8]
) -> dict[str, int] | None:
    """How many pages of each class that should have been dropped are in the dump; None where only sums are known."""
    if memory.codes is None:
        return None
    kept = np.unpackbits(vmcore.kept_bitmap(), bitorder="little")[: vmcore.max_pfn].astype(np.bool_)
    kept[: len(spared_codes)] &= spared_codes == PageClass.HOLE
    return {name: int((kept & memory.of_class(name, len(kept))).sum()) for name in dropped}


def _listed(dropped: tuple[str, ...], pages: dict[str, int]) -> str:
    return ", ".join(f"{pages[name]:,} {name} pages" for name in dropped) or "nothing"


def check_recovery(
    verdict: Verdict,
    *,
    old_boot: str,
    new_boot: str | None,
    armed_again: bool | None,
    took_s: float | None,
    budget_s: float,
    widened: float = 1.0,
) -> None:
    """Check that the guest is back in time, as another boot, and ready for the next crash.

    widened is by how much the budget is already larger than on a host with nothing else to do.
    """
    because = f", {widened:.1f} times the usual for the load of this host" if widened >= 1.05 else ""
    record_check(
        verdict,
        "reboot-time",
        took_s is not None and took_s <= budget_s,
        expected=f"panic to login within {budget_s:.0f} s{because}",
        seen=f"{took_s:.1f} s" if took_s is not None else "no login prompt",
    )
    record_check(
        verdict,
        "rebooted",
        new_boot is not None and new_boot != old_boot,
        expected=f"a boot other than {old_boot[:8]}",
        seen=new_boot[:8] if new_boot else "not reached",
    )
    if armed_again is not None:
        record_check(
            verdict,
            "rearmed",
            armed_again,
            expected="kexec_crash_loaded 1",
            seen=f"kexec_crash_loaded {int(armed_again)}",
        )


def check_survival(
    verdict: Verdict,
    *,
    expected: str,
    noticed: str,
    before: GuestState,
    after: GuestState,
    new_dumps: list[str],
) -> None:
    """Check that the guest noticed the trigger, lives in the same boot, and dumped nothing."""
    record_check(verdict, "noticed", bool(noticed), expected=expected, seen=noticed or "not on the console")
    same = after.boot_id == before.boot_id
    record_check(verdict, "lives", same, expected=before.boot_id[:8], seen=after.boot_id[:8])
    record_check(verdict, "no-dump", not new_dumps, seen=", ".join(new_dumps) or "none")
    record_check(verdict, "rearmed", after.loaded == before.loaded, expected=before.loaded, seen=after.loaded)


def _utc(at_s: float) -> str:
    return datetime.datetime.fromtimestamp(at_s, datetime.UTC).strftime("%Y-%m-%d %H:%M:%SZ")
