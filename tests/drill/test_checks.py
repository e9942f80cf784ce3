"""The checks behind the word verified, and the shape of the verdict that holds them."""

from __future__ import annotations

import ast
import dataclasses
import functools
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from kdump_harness.base.errors import EXIT_UNJUDGED
from kdump_harness.base.progress import Progress
from kdump_harness.base.stage import Stage
from kdump_harness.base.verdict import Verdict
from kdump_harness.distro.family import find_family
from kdump_harness.drill import checks
from kdump_harness.drill.checks import (
    CHECKS,
    CrashFacts,
    Scope,
    check_capture_memory,
    check_dump,
    check_permissions,
    check_recovery,
    choose_dump,
    record_check,
    required,
)
from kdump_harness.drill.steps import Drill
from kdump_harness.kdump.guest_state import GuestState
from kdump_harness.kdump.page_flags import CLASSES, MemoryState, from_meminfo
from kdump_harness.kdump.reserved_memory import AddressRange, ReservedMemory
from kdump_harness.kdump.target import FoundFile
from kdump_harness.kdump.trigger import find_trigger
from kdump_harness.vmcore import PageClass, classify, open_vmcore
from kdump_harness.vmcore import inspect as inspect_anew
from kdump_harness.vmcore.classes import dropped_by
from kdump_harness.vmcore.elfruns import in_short_run
from kdump_harness.vmcore.registers import unreadable_tasks
from vmcore_factory import Kdump, Stored, elf_of, stored_again

DUMPS = Path(__file__).parents[1] / "data" / "vmcore"
CRASH_S = 1_780_000_000
LOGGED = DUMPS / "logs" / "6.1.0.kdump"  # a dump whose kernel log can be read
NEW = "/var/crash/202611221705/dump.202611221705"
PART = "/var/crash/202611221705/dump-incomplete"

CONTRACT = {
    "schema", "image", "family", "kernel", "makedumpfile", "accelerator", "memory_mib", "vcpus", "crashkernel",
    "reserved_mib", "trigger", "target", "level", "compress", "reached", "verified", "stopped_by", "checks",
    "phases_s", "dump", "symptoms", "known_issue", "evidence",
}  # fmt: skip


@pytest.fixture
def verdict() -> Verdict:
    return Verdict(
        image="debian-12",
        family="debian",
        trigger="sysrq-c",
        target="local",
        accelerator="tcg",
        memory_mib=1024,
        vcpus=2,
    )


def outcome(verdict: Verdict) -> dict[str, bool]:
    return {check.name: check.ok for check in verdict.checks}


def found(path: str = NEW, *, final: bool = True, **facts: Any) -> FoundFile:
    known = {"size_bytes": 1 << 20, "mode": 0o600, "owner": "root", "directory_mode": 0o700}
    return FoundFile(path=path, final=final, **{**known, **facts})


def by_path(*files: FoundFile) -> dict[str, FoundFile]:
    return {file.path: file for file in files}


# ---------------------------------------------------------------- the capture kernel's memory


def state(reserved_mib: int, *, acpi_memory: int = 0) -> Any:
    fixed = (AddressRange(0, reserved_mib << 20),)
    return SimpleNamespace(reserved=ReservedMemory(fixed=fixed), acpi_memory=acpi_memory)


def capture_boot(kib: int) -> str:
    return f"Command line: elfcorehdr=0x6f000000 ro\nMemory: 1K/{kib}K available (2K kernel code)\n"


@pytest.mark.parametrize(
    ("kib", "reserved_mib", "ok"),
    [
        (262124, 256, True),
        (328308, 320, True),  # with the memory below 1 MiB
        (262144 + (128 << 10), 256, False),  # the smallest DIMM
        (1310716, 256, False),
        (262124, 0, False),
    ],
)
def test_a_capture_kernel_has_no_more_memory_than_was_reserved(
    verdict: Verdict, kib: int, reserved_mib: int, ok: bool
) -> None:
    check_capture_memory(verdict, capture_boot(kib), state(reserved_mib))
    assert outcome(verdict) == {"capture-memory": ok}
    assert verdict.checks[0].expected == f"at most the {reserved_mib} MiB that were reserved"


def test_a_capture_kernel_that_adds_memory_after_its_start_fails_whatever_it_had_there(verdict: Verdict) -> None:
    added = "Built 1 zonelists, mobility grouping on.  Total pages: 48287"
    check_capture_memory(verdict, f"{capture_boot(262124)}[    1.7] {added}\n", state(256, acpi_memory=1))
    assert outcome(verdict) == {"capture-memory": False}
    assert verdict.checks[0].seen.endswith(f", and memory that was added after its start ({added})")


@pytest.mark.parametrize(
    ("option", "line", "made"),
    [
        ("", "", False),
        (" acpi_no_memhotplug", "", True),
        ("", "kdump-harness: MemTotal 220000 kB MemAvailable 1 kB\n", True),
    ],
)
def test_memory_that_acpi_may_have_added_silently_is_a_remark(
    verdict: Verdict, option: str, line: str, made: bool
) -> None:
    """A zone that has memory already, as with crashkernel=...,high, is not built again."""
    check_capture_memory(verdict, capture_boot(262124).replace(" ro", f"{option} ro") + line, state(256, acpi_memory=2))
    assert outcome(verdict) == ({"capture-memory": True} if made else {})
    assert [remark.partition(":")[0] for remark in verdict.remarks] == (
        [] if made else ["capture-memory is not judged"]
    )


def test_memory_of_the_firmware_is_not_taken_by_the_capture_kernel(verdict: Verdict) -> None:
    """Linux 6.12 of arm64 under UEFI counts it as reserved; in a guest of amd64 so much is not the kernel's own."""
    for machine, made in (("aarch64", {}), ("x86_64", {"capture-memory": False})):
        verdict.checks, verdict.arch = [], machine
        check_capture_memory(verdict, capture_boot(400192), state(320))
        assert outcome(verdict) == made


def test_a_capture_kernel_that_does_not_report_its_memory_is_not_judged_by_it(verdict: Verdict) -> None:
    check_capture_memory(verdict, "Command line: elfcorehdr=0x6f000000 ro quiet\n", state(256, acpi_memory=1))
    assert verdict.checks == []
    assert verdict.remarks == []
    assert not any("capture-memory" in required(scope) for scope in Scope)


# ---------------------------------------------------------------- the table of checks


def test_each_check_is_declared_once() -> None:
    names = [check.name for check in CHECKS]
    assert len(set(names)) == len(names)
    assert all(check.sentence for check in CHECKS)


def test_a_drill_until_the_dump_is_saved_lacks_only_checks_of_the_reboot() -> None:
    assert required(Scope.RECOVERED) - required(Scope.SAVED) == {"reboot-time", "rebooted", "rearmed"}
    for scope in (Scope.SAVED, Scope.RESERVATION, Scope.COMPUTED):
        assert required(scope) < required(Scope.RECOVERED)


def test_a_check_that_is_not_in_the_table_cannot_be_recorded(verdict: Verdict) -> None:
    with pytest.raises(KeyError, match="luck"):
        record_check(verdict, "luck", True, seen="it")
    assert verdict.checks == []


def test_only_the_function_of_the_table_records_checks() -> None:
    """Verdict.check() takes any name, so no other code of the harness may call it."""
    sources = {path: path.read_text(encoding="utf-8") for path in Path(checks.__file__).parents[1].rglob("*.py")}
    calls = [
        (path.name, node.lineno)
        for path, source in sources.items()
        if ".check(" in source
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and getattr(node.func, "attr", "") == "check"
        and {"expected", "seen"} <= {keyword.arg for keyword in node.keywords}
    ]
    assert [name for name, _ in calls] == ["checks.py"]


# ---------------------------------------------------------------- which dump


def test_one_new_dump_under_its_final_name_is_chosen(verdict: Verdict) -> None:
    old = found("/var/crash/1/dump.1")
    assert choose_dump(verdict, by_path(old, found()), by_path(old)) == found()
    assert outcome(verdict) == {"single-dump": True, "final-name": True}


def test_a_dump_that_was_sent_where_nobody_looks_is_not_judged(verdict: Verdict) -> None:
    away = "by SSH to kdump@vault"
    assert choose_dump(verdict, {}, {}, away=away) is None
    assert outcome(verdict) == {"single-dump": False, "final-name": False}  # it was not saved
    verdict.checks.clear()
    verdict.reached = Stage.SAVED
    assert choose_dump(verdict, by_path(found()), {}, away=away) == found()
    verdict.checks.clear()
    assert choose_dump(verdict, {}, {}, away=away) is None
    assert (verdict.checks, verdict.exit_status) == ([], EXIT_UNJUDGED)
    assert "kdump has sent it by SSH to kdump@vault" in verdict.reason()


@pytest.mark.parametrize(
    ("files", "single", "final", "chosen"),
    [
        ((), False, False, None),
        ((found(PART, final=False),), False, False, None),
        ((found(), found(PART, final=False)), True, False, NEW),
        ((found(), found("/var/crash/3/dump.3")), False, True, NEW),
    ],
    ids=["none", "incomplete", "both", "two"],
)
def test_anything_else_is_told(
    verdict: Verdict, files: tuple[FoundFile, ...], single: bool, final: bool, chosen: str | None
) -> None:
    dump = choose_dump(verdict, by_path(*files), {})
    assert (dump.path if dump else None) == chosen
    assert outcome(verdict) == {"single-dump": single, "final-name": final}


def test_an_old_dump_is_not_taken_for_a_new_one(verdict: Verdict) -> None:
    assert choose_dump(verdict, by_path(found()), by_path(found())) is None
    assert verdict.checks[0].seen == "none"


def test_a_dump_that_was_written_again_is_new(verdict: Verdict) -> None:
    """Debian names dumps by the minute: two crashes in one minute collide."""
    assert choose_dump(verdict, by_path(found(size_bytes=7)), by_path(found())) == found(size_bytes=7)


# ---------------------------------------------------------------- who may read it


@pytest.mark.parametrize(
    ("facts", "good"),
    [
        ({}, True),
        ({"mode": 0o644}, False),
        ({"mode": 0o640}, False),
        ({"owner": "nobody"}, False),
        ({"directory_mode": 0o777}, False),
    ],
)
def test_a_dump_belongs_to_root_alone(verdict: Verdict, facts: dict[str, Any], good: bool) -> None:
    check_permissions(verdict, found(**facts), owner="root")
    assert outcome(verdict) == {"permissions": good}


def test_the_permissions_seen_are_told_as_people_write_them(verdict: Verdict) -> None:
    check_permissions(verdict, found(mode=0o644, owner="nobody", directory_mode=0o755), owner="root")
    assert verdict.checks[0].seen == "0644 nobody, in a directory 0755"


# ---------------------------------------------------------------- the file


inspect = functools.cache(inspect_anew)  # the files do not change


@functools.cache
def memory_of(path: Path, *, kept: str = "kernel", share: float = 1.0, others: str = "free") -> MemoryState:
    """The memory of a guest whose kept pages (or a share of them) were of one class, and all others of another."""
    with open_vmcore(path) as vmcore:
        bits = np.unpackbits(vmcore.kept_bitmap(), bitorder="little")[: vmcore.max_pfn]
    frames = np.flatnonzero(bits)
    codes = np.where(bits, CLASSES.index("kernel"), CLASSES.index(others)).astype(np.uint8)
    codes[frames[: int(len(frames) * share)]] = CLASSES.index(kept)
    pages = {name: int((codes == number).sum()) for number, name in enumerate(CLASSES)}
    return MemoryState(pages=pages, sure=0, codes=codes)


def facts_of(path: Path, **other: Any) -> CrashFacts:
    """The facts of a drill whose crash left this dump."""
    dump = inspect(path)
    state = GuestState(
        boot_id="b",
        kernel=other.get("kernel", dump.kernel),
        cmdline="",
        loaded=True,
        reserved=ReservedMemory(),
        meminfo_kib={},
        clock_s=CRASH_S - other.get("ago_s", 1.0),
        os_release={},
        makedumpfile=None,
        level=dump.level,
        compress=dump.compression,
        hostname="guest",
    )
    return CrashFacts(
        before=state,
        level=other.get("level", dump.level),
        compress=other.get("compress", dump.compression),
        trigger=find_trigger("sysrq-c"),
        nonce=other.get("nonce", "sysrq triggered crash"),
        crashed_after_s=(0.0, 2.0),
        memory=other.get("memory") or memory_of(path),
    )


def judge(verdict: Verdict, path: Path, **other: Any) -> dict[str, bool]:
    known = inspect(path)
    check_dump(verdict, path, facts_of(path, **other), expected_formats=(other.get("format", known.format),))
    return outcome(verdict)


@pytest.fixture
def crash_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The small dumps were cut down without their CRASHTIME; give them one."""
    really = checks.inspect_opened
    monkeypatch.setattr(
        checks, "inspect_opened", lambda vmcore: dataclasses.replace(really(vmcore), crash_time_s=CRASH_S)
    )


def test_a_dump_without_a_crash_time_is_not_known_to_be_of_this_crash(verdict: Verdict) -> None:
    assert [name for name, ok in judge(verdict, LOGGED).items() if not ok] == ["crash-time"]


@pytest.mark.parametrize("what", ["compression", "machine"])
def test_a_dump_that_cannot_be_judged_fails_no_check_of_its_content(
    verdict: Verdict, tmp_path: Path, what: str
) -> None:
    """A drill with such a dump is not verified, and has its own exit status if nothing else is wrong."""
    path = tmp_path / "dump"
    path.write_bytes(b"\x04\x22\x4d\x18" + bytes(99) if what == "compression" else Kdump(machine="sparc64").build())
    check_dump(verdict, path, facts_of(LOGGED), expected_formats=("kdump",))
    assert verdict.not_judged == (
        "the file is lz4-compressed (unpack it with lz4 -d first)"
        if what == "compression"
        else "the machine is 'sparc64', not x86_64, aarch64, ppc64le, riscv64 or s390x"
    )
    assert "complete" not in outcome(verdict)
    verdict.checks.clear()
    assert verdict.exit_status == 5
    assert verdict.reason() == f"the dump was not judged: {verdict.not_judged}"
    record_check(verdict, "single-dump", False, seen="none")
    assert verdict.exit_status == 1


@pytest.mark.usefixtures("crash_time")
def test_a_dump_of_this_crash_passes_every_check(verdict: Verdict) -> None:
    assert judge(verdict, LOGGED) == dict.fromkeys(
        [
            "format",
            "level",
            "compression",
            "complete",
            "filter",
            "pages",
            "kernel",
            "crash-time",
            "nonce",
            "panic-text",
        ],
        True,
    )


@pytest.mark.usefixtures("crash_time")
@pytest.mark.parametrize(
    ("other", "failing"),
    [
        ({"format": "elf"}, "format"),
        ({"level": 5}, "level"),
        ({"compress": "zstd"}, "compression"),
        ({"kernel": "9.9.9"}, "kernel"),
        ({"ago_s": 60.0}, "crash-time"),
        ({"ago_s": -60.0}, "crash-time"),
        ({"nonce": "0123456789abcdef"}, "nonce"),
    ],
)
def test_each_difference_fails_its_own_check_alone(verdict: Verdict, other: dict[str, Any], failing: str) -> None:
    memory = memory_of(LOGGED, others="cache")  # which each of the levels here drops
    assert [name for name, ok in judge(verdict, LOGGED, memory=memory, **other).items() if not ok] == [failing]


def test_another_panic_is_not_the_triggers(verdict: Verdict) -> None:
    facts = facts_of(LOGGED)
    other = dataclasses.replace(facts, trigger=dataclasses.replace(facts.trigger, panic="Out of memory"))
    check_dump(verdict, LOGGED, other, expected_formats=(str(inspect(LOGGED).format),))
    assert not outcome(verdict)["panic-text"]


@pytest.mark.parametrize("name", ["raw", "zlib", "lzo", "snappy", "zstd"])
def test_the_compression_of_real_dumps_is_seen(verdict: Verdict, name: str) -> None:
    judge(verdict, DUMPS / f"{name}.kdump", compress="none" if name == "raw" else name)
    assert outcome(verdict)["compression"]
    assert outcome(verdict)["complete"]


@pytest.mark.parametrize("keep", [0.2, 0.6, 0.99])
def test_a_dump_that_was_cut_off_is_not_complete(verdict: Verdict, tmp_path: Path, keep: float) -> None:
    whole = DUMPS / "zlib.kdump"
    cut = tmp_path / "dump"
    cut.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * keep)])
    check_dump(verdict, cut, facts_of(whole), expected_formats=(str(inspect(whole).format),))
    assert not outcome(verdict)["complete"]


def test_an_empty_file_is_no_dump_whatever_its_name(verdict: Verdict, tmp_path: Path) -> None:
    """Debian prints "saved vmcore" over one where makedumpfile is missing."""
    empty = tmp_path / "dump.202611221705"
    empty.touch()
    formats = find_family("debian").dumps.formats["local"]
    assert check_dump(verdict, empty, facts_of(LOGGED), expected_formats=formats) is None
    assert outcome(verdict) == dict.fromkeys(["format", "complete", "pages", "filter"], False)
    assert verdict.checks[0].seen.endswith("(0 bytes)")


# ---------------------------------------------------------------- the right pages


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch) -> None:
    """The small dump keeps fewer pages than may change their class on a real guest."""
    monkeypatch.setattr(checks, "CHANGED_PAGES", 4)


@pytest.mark.usefixtures("crash_time", "strict")
@pytest.mark.parametrize("code", ["free", "cache", "private cache", "user"])
def test_pages_that_the_level_drops_and_the_dump_keeps_fail_the_filter(verdict: Verdict, code: str) -> None:
    others = "cache" if code == "free" else "free"
    memory = memory_of(LOGGED, kept=code, others=others)
    failing = [name for name, ok in judge(verdict, LOGGED, memory=memory).items() if not ok]
    assert failing == ["filter"]
    seen = next(check.seen for check in verdict.checks if check.name == "filter")
    assert f"{memory.pages[code]:,} of the {code} pages" in seen


@pytest.mark.usefixtures("strict")
@pytest.mark.parametrize("pages_of_longer_runs", [0, 2000])
def test_short_runs_in_an_elf_dump_do_not_fail_the_filter(
    verdict: Verdict, tmp_path: Path, pages_of_longer_runs: int
) -> None:
    """710 cache pages are left, and makedumpfile -E keeps all of them; a longer run is a fault of the filter."""
    path = tmp_path / "dump"
    with open_vmcore(DUMPS / "classes" / "6.12.107.kdump") as vmcore:
        codes = classify(vmcore).codes
        to_drop = np.isin(codes, list(dropped_by(31)))
        kept = ~to_drop & (codes != PageClass.HOLE) | in_short_run(to_drop)
        kept[np.flatnonzero(to_drop & ~in_short_run(to_drop))[:pages_of_longer_runs]] = True
        path.write_bytes(elf_of(vmcore, kept))
    guest = np.where(to_drop, CLASSES.index("cache"), CLASSES.index("kernel")).astype(np.uint8)
    memory = MemoryState(pages={name: int((guest == index).sum()) for index, name in enumerate(CLASSES)}, sure=0)
    for state in (dataclasses.replace(memory, codes=guest), memory):
        verdict.checks.clear()
        made = judge(verdict, path, memory=state, level=31)
        assert made["level"]
        assert made["filter"] == (pages_of_longer_runs == 0)
    seen = next(check.seen for check in verdict.checks if check.name == "filter")
    assert "1,056 more in runs that are too short for makedumpfile -E to leave them out" in seen


@pytest.mark.usefixtures("crash_time", "strict")
def test_the_kernels_own_pages_are_nothing_to_drop(verdict: Verdict) -> None:
    assert all(judge(verdict, LOGGED, memory=memory_of(LOGGED)).values())


@pytest.mark.usefixtures("crash_time", "strict")
def test_a_few_pages_that_changed_their_class_do_not_matter(verdict: Verdict) -> None:
    with open_vmcore(LOGGED) as vmcore:
        share = 3 / vmcore.pages_kept
    assert all(judge(verdict, LOGGED, memory=memory_of(LOGGED, kept="free", share=share, others="cache")).values())


@pytest.mark.usefixtures("crash_time", "strict")
def test_pages_that_a_balloon_took_are_not_missed(verdict: Verdict) -> None:
    """Before the crash they are of no class that the level drops, and makedumpfile leaves them out."""
    memory = memory_of(LOGGED, others="kernel")
    with open_vmcore(LOGGED) as vmcore:
        taken = vmcore.pages_total - vmcore.pages_kept
    assert not judge(verdict, LOGGED, memory=memory)["pages"]
    verdict.checks.clear()
    assert judge(verdict, LOGGED, memory=dataclasses.replace(memory, offline=taken))["pages"]


@pytest.mark.usefixtures("crash_time", "strict")
def test_without_page_flags_the_sums_decide(verdict: Verdict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "CHANGED_SHARE", 0.0)  # the small dump keeps next to nothing of its guest
    with open_vmcore(LOGGED) as vmcore:
        total, kept = vmcore.pages_total, vmcore.pages_kept
    good = from_meminfo({"MemTotal": 4 * total, "MemFree": 4 * (total - kept), "Slab": 4}, 4096)
    assert all(judge(verdict, LOGGED, memory=good).values())
    verdict.checks.clear()
    bad = from_meminfo({"MemTotal": 4 * total, "MemFree": 4 * (total - kept // 2)}, 4096)
    assert [name for name, ok in judge(verdict, LOGGED, memory=bad).items() if not ok] == ["filter"]


@pytest.mark.usefixtures("crash_time", "strict")
def test_too_few_pages_for_what_the_level_keeps(verdict: Verdict) -> None:
    memory = memory_of(LOGGED, others="kernel")
    assert [name for name, ok in judge(verdict, LOGGED, memory=memory).items() if not ok] == ["pages"]


def made_of(path: Path, change: Callable[[list[Stored | None]], None], to: Path) -> Path:
    """Write a dump again with other pages."""
    with open_vmcore(path) as vmcore:
        to.write_bytes(stored_again(vmcore, change))
    return to


def needed(path: Path) -> set[int]:
    """Return the indexes of the pages without which the end of the log, utsname and stacks cannot be read."""
    asked: set[int] = set()
    with open_vmcore(path) as vmcore:
        really = vmcore.page
        vmcore.page = lambda pfn: asked.add(pfn) or really(pfn)  # type: ignore[assignment, func-returns-value]
        vmcore.dmesg(last=60)
        assert vmcore.utsname_in_memory
        unreadable_tasks(vmcore)
        part = vmcore.kdumps[0]
        return {index for index in range(part.descriptors) if part.pfn_of(index) in asked}


def sure_of(path: Path) -> MemoryState:
    """The memory of a guest whose kept pages were slabs and page tables before the crash."""
    with open_vmcore(path) as vmcore:
        bits = np.unpackbits(vmcore.kept_bitmap(), bitorder="little")[: vmcore.max_pfn].astype(np.bool_)
    return dataclasses.replace(memory_of(path), sure_frames=bits)


@pytest.mark.usefixtures("crash_time")
def test_a_dump_of_zeros_where_the_kernel_had_its_slabs_fails(verdict: Verdict, tmp_path: Path) -> None:
    """All other checks find what they read: the end of the kernel log, utsname, stacks, page descriptors."""
    spared = needed(LOGGED)

    def lose(pages: list[Stored | None]) -> None:
        pages[:] = [page if index in spared else None for index, page in enumerate(pages)]

    path = made_of(LOGGED, lose, tmp_path / "dump")
    assert inspect(path).whole
    facts = facts_of(LOGGED, memory=sure_of(LOGGED))
    check_dump(verdict, path, facts, expected_formats=("kdump",))
    assert [check.name for check in verdict.failed()] == ["pages"]
    lost = 147 - len(spared)
    assert f"{lost} of 147 pages that were slabs or page tables before the crash" in verdict.reason()
    verdict.checks.clear()
    moving = dataclasses.replace(facts, trigger=find_trigger("oom"))  # slabs are freed before that crash
    check_dump(verdict, path, moving, expected_formats=("kdump",))
    assert "slabs" not in verdict.reason()
    verdict.checks.clear()
    check_dump(verdict, LOGGED, facts, expected_formats=("kdump",))
    assert not list(verdict.failed())


@pytest.mark.usefixtures("crash_time")
def test_swapped_pages_are_for_the_oracle_which_the_verdict_says_in_a_line(verdict: Verdict, tmp_path: Path) -> None:
    """No file can show them: zlib's checksums are right, and each page could be the page of its frame."""
    spared = needed(LOGGED)

    def swap(pages: list[Stored | None]) -> None:
        others = [index for index in range(len(pages)) if index not in spared]
        for one, other in zip(others[::2], others[1::2], strict=False):
            pages[one], pages[other] = pages[other], pages[one]

    path = made_of(LOGGED, swap, tmp_path / "dump")
    assert path.read_bytes() != LOGGED.read_bytes()
    for oracle in (False, True):
        facts = dataclasses.replace(facts_of(LOGGED, memory=sure_of(LOGGED)), oracle=oracle)
        check_dump(verdict, path, facts, expected_formats=("kdump",))
        assert not list(verdict.failed())
        seen = next(check.seen for check in verdict.checks if check.name == "complete")
        assert ("only --oracle can show that each holds what its page frame held" in seen) is not oracle
        verdict.checks.clear()


# Three guests' dumps, cut down to their struct pages: what the level dropped is absent in all of them.
CLASSED = sorted((DUMPS / "classes").glob("*.kdump"))


@pytest.mark.parametrize("path", CLASSED, ids=lambda path: path.stem)
def test_the_dumps_own_struct_pages_are_the_second_witness(verdict: Verdict, path: Path) -> None:
    judge(verdict, path, level=31)
    seen = {check.name: check.seen for check in verdict.checks}
    free = inspect(path).classes["free"]["total"]
    assert outcome(verdict)["filter"]
    assert f"by the dump's own struct pages 0 of {free:,} free" in seen["filter"]
    # Nothing of the slab is in these files.
    assert not outcome(verdict)["pages"]
    assert "level 31 keeps slab pages" in seen["pages"]


@pytest.mark.parametrize("path", CLASSED, ids=lambda path: path.stem)
def test_what_the_struct_pages_say_fails_the_filter_alone(
    verdict: Verdict, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = checks.inspect_opened

    def with_free_pages(vmcore: Any) -> Any:
        found = really(vmcore)
        free = {"total": found.classes["free"]["total"], "kept": found.classes["free"]["total"]}
        return dataclasses.replace(found, classes={**found.classes, "free": free})

    monkeypatch.setattr(checks, "inspect_opened", with_free_pages)
    judge(verdict, path, level=31)
    assert not outcome(verdict)["filter"]


@pytest.mark.usefixtures("crash_time", "strict")
def test_a_stack_that_is_not_in_the_dump_was_dropped_wrongly(verdict: Verdict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "unreadable_tasks", lambda _: ["the stack of CPU 1 at 0xffff"])
    assert [name for name, ok in judge(verdict, LOGGED).items() if not ok] == ["pages"]


# ---------------------------------------------------------------- coming back


@pytest.mark.parametrize(
    ("facts", "failing"),
    [
        ({}, []),
        ({"new_boot": "old"}, ["rebooted"]),
        ({"new_boot": None}, ["rebooted"]),
        ({"armed_again": False}, ["rearmed"]),
        ({"took_s": 91.0}, ["reboot-time"]),
        ({"took_s": None}, ["reboot-time"]),
    ],
)
def test_a_guest_comes_back_as_another_boot_in_time_and_armed(
    verdict: Verdict, facts: dict[str, Any], failing: list[str]
) -> None:
    known = {"old_boot": "old", "new_boot": "new", "armed_again": True, "took_s": 60.0, "budget_s": 90.0}
    check_recovery(verdict, **{**known, **facts})
    assert [name for name, ok in outcome(verdict).items() if not ok] == failing


def test_a_budget_that_was_widened_for_the_load_says_so(verdict: Verdict) -> None:
    check_recovery(verdict, old_boot="a", new_boot="b", armed_again=None, took_s=100.0, budget_s=180.0, widened=2.0)
    (check,) = [one for one in verdict.checks if one.name == "reboot-time"]
    assert check.ok
    assert check.expected == "panic to login within 180 s, 2.0 times the usual for the load of this host"


def test_a_guest_that_was_not_asked_is_not_said_to_be_armed(verdict: Verdict) -> None:
    check_recovery(verdict, old_boot="a", new_boot="b", armed_again=None, took_s=1.0, budget_s=2.0)
    assert "rearmed" not in outcome(verdict)


# ---------------------------------------------------------------- verdict.json


def test_the_verdict_has_every_key_of_the_contract(verdict: Verdict) -> None:
    data = verdict.to_json()
    assert set(data) >= CONTRACT
    assert (data["schema"], data["reached"], data["verified"]) == (1, "NOTHING", False)


def test_the_verdict_is_json_with_checks_and_phases(verdict: Verdict) -> None:
    verdict.check("level", 31 == 1, expected=1, seen=31)
    verdict.reached = Stage.RECOVERED
    verdict.phases_s = {"boot": 1.5}
    data = json.loads(json.dumps(verdict.to_json()))
    assert data["checks"] == [{"name": "level", "ok": False, "expected": "1", "seen": "31"}]
    assert data["phases_s"] == {"boot": 1.5}
    assert data["reached"] == "RECOVERED"


def test_the_reason_names_cause_stop_and_failed_checks(verdict: Verdict) -> None:
    verdict.symptoms = [{"name": "capture-oom", "severity": "failure"}, {"name": "noise", "severity": "info"}]
    verdict.stopped_by = "the console has been silent"
    verdict.check("level", False, expected=1, seen=31)
    assert verdict.reason() == "capture-oom; the console has been silent; level: expected 1, seen 31"
    assert "debian-12: reached NOTHING: capture-oom" in verdict.explain()


# ---------------------------------------------------------------- a dump that was compressed as a whole


class _Fetched:
    """The files of a guest whose only dump has the given bytes."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def small_files(self, _directory: str) -> list[str]:
        return []

    def fetch(self, _path: str, to: Path, **_: object) -> None:
        to.write_bytes(self.data)


@pytest.mark.usefixtures("crash_time")
@pytest.mark.parametrize(
    ("changes", "failed", "seen"),
    [
        ({}, "", ""),
        ({"compressors": ("none", "zlib", "lzo")}, "", ""),
        ({"misread": "0x1f", "level": 0}, "level", "as which makedumpfile reads '0x1f'"),
        (
            {"compress": "snappy", "compressors": ("none", "zlib", "lzo")},
            "compression",
            "zlib (makedumpfile was built without snappy)",
        ),
        ({"compress": "snappy", "compressors": ("none", "zlib", "snappy")}, "compression", "zlib"),
    ],
)
def test_a_setting_that_makedumpfile_does_not_obey_is_named(
    verdict: Verdict, changes: dict[str, Any], failed: str, seen: str
) -> None:
    known = facts_of(LOGGED)
    before = dataclasses.replace(known.before, **changes)
    facts = dataclasses.replace(known, before=before, compress=before.compress or "none")
    check_dump(verdict, LOGGED, facts, expected_formats=("kdump",))
    assert [check.name for check in verdict.failed()] == ([failed] if failed else [])
    assert all(check.seen.endswith(seen) for check in verdict.failed())
    assert bool(before.collection_remarks()) is ((bool(failed) and "without" in seen) or "reads" in seen)


@pytest.mark.usefixtures("crash_time")
@pytest.mark.parametrize(
    ("name", "failed", "why"),
    [
        ("dump.1.gz", [], None),
        ("cut.1.gz", ["complete", "filter", "format", "pages"], None),
        ("dump.1.lz4", [], "the file is lz4-compressed (unpack it with lz4 -d first)"),
    ],
)
def test_a_packed_dump_is_judged_like_any_other(
    verdict: Verdict, tmp_path: Path, name: str, failed: list[str], why: str | None
) -> None:
    packed = gzip.compress(LOGGED.read_bytes())
    data = {"dump.1.gz": packed, "cut.1.gz": packed[:-99], "dump.1.lz4": b"\x04\x22\x4d\x18"}[name]
    shown: list[str] = []
    drill: Any = Drill.__new__(Drill)
    drill.verdict, drill.progress, drill.dumps = verdict, Progress(quiet=True), []
    drill.evidence = SimpleNamespace(directory=tmp_path, json=lambda *_: None)
    drill.plan = SimpleNamespace(
        oracle=False, crash=None, on_dump=lambda dump, _: shown.append(inspect_anew(dump).judgement)
    )
    drill.target = SimpleNamespace(name="local", dump_files=lambda system: system)
    service: Any = SimpleNamespace(formats=lambda *_: ("kdump",))
    files: Any = _Fetched(data)
    drill.fetch_and_check(files, service, found(f"/var/crash/1/{name}"), facts_of(LOGGED))
    assert sorted(check.name for check in verdict.failed()) == failed
    assert verdict.not_judged == why
    assert shown == ["not judged" if failed or why else "whole"]
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert verdict.dump is not None
    assert verdict.dump["size_bytes"] == 1 << 20


def ram_of(path: Path) -> list[AddressRange]:
    """Return the ranges of memory that a dump describes."""
    with open_vmcore(path) as vmcore:
        bits = np.unpackbits(vmcore.ram_bitmap(), bitorder="little")[: vmcore.max_pfn].astype(np.int8)
    edges = np.flatnonzero(np.diff(np.concatenate(([0], bits, [0])))) * 4096
    return [AddressRange(int(first), int(last)) for first, last in edges.reshape(-1, 2)]


DIMM = AddressRange(0x1_4000_0000, 0x1_5000_0000)


@pytest.mark.parametrize(
    ("added", "removed", "cpus", "seen"),
    [
        ([], [], 0, None),
        ([], [AddressRange(0, 4096)], 0, None),  # what the firmware uses
        ([DIMM], [], 0, "missing: 65,536 page frames from 0x140000000 to 0x14fffffff"),
        ([], [AddressRange(16 << 20, 32 << 20)], 0, "not in the guest: 4,096 page frames from 0x1000000 to 0x1ffffff"),
        ([], [], 1, "CPUs"),
    ],
)
def test_a_dump_has_the_memory_and_processors_that_were_there(
    verdict: Verdict, added: list[AddressRange], removed: list[AddressRange], cpus: int, seen: str | None
) -> None:
    ram = [*ram_of(LOGGED), *added]
    for gone in removed:
        ram = [
            left
            for part in ram
            for left in (
                AddressRange(part.start, min(part.end, gone.start)), AddressRange(max(part.start, gone.end), part.end),
            )
            if left.size_bytes > 0
        ]  # fmt: skip
    with open_vmcore(LOGGED) as vmcore:
        before: Any = SimpleNamespace(ram=tuple(ram), reserved=ReservedMemory(), cpus=(vmcore.cpus or 0) + cpus)
        checks.check_hotplug(verdict, vmcore, before)
    (check,) = verdict.checks
    assert check.ok is (seen is None), check
    assert seen is None or seen in check.seen


def test_the_reservation_is_not_expected_in_the_dump(verdict: Verdict) -> None:
    reserved = ReservedMemory(fixed=(DIMM,))
    with open_vmcore(LOGGED) as vmcore:
        before: Any = SimpleNamespace(ram=(*ram_of(LOGGED), DIMM), reserved=reserved, cpus=vmcore.cpus)
        checks.check_hotplug(verdict, vmcore, before)
    assert verdict.checks[0].ok
