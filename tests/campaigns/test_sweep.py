"""A sweep crashes as little as possible, marks computed cells, and rejects cells that contradict the others."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kdump_harness.base.errors import CommandFailed, GuestError, UsageError
from kdump_harness.base.evidence import Evidence, EvidenceRoot
from kdump_harness.base.progress import Progress
from kdump_harness.base.stage import Stage
from kdump_harness.base.verdict import Verdict
from kdump_harness.campaigns.plot import Point, check_format, draw_sizes
from kdump_harness.campaigns.resume import with_record
from kdump_harness.campaigns.sweep import run as sweeping
from kdump_harness.campaigns.sweep.cells import COMPUTED, REAL, REFUSED, SweepCell, compare_cells
from kdump_harness.campaigns.sweep.plan import SweepPlan, choose_crashes, parse_compressions, parse_levels, parse_real
from kdump_harness.campaigns.sweep.refilter import CannotRun
from kdump_harness.campaigns.sweep.result import Sweep
from kdump_harness.campaigns.sweep.run import run_sweep
from kdump_harness.cli.verbs.sweep import show_sweep
from kdump_harness.distro.family import COMPRESS_FLAGS, Family, find_family
from kdump_harness.drill.checks import CrashFacts, Scope, required
from kdump_harness.drill.disks import SystemUnderTest
from kdump_harness.drill.plan import Plan
from kdump_harness.images.state import State
from kdump_harness.kdump.guest_state import built_in
from kdump_harness.vm.run import Machine, Options
from kdump_harness.vmcore import Inspection, inspect
from vmcore_factory import Kdump, flatten, text_page

VERSION_TEXT = "makedumpfile: version 1.7.2 (released on 20 Oct 2022)\nlzo\tenabled\nsnappy\tdisabled\nzstd\tdisabled\n"

# ---------------------------------------------------------------- what was asked for


@pytest.mark.parametrize(
    ("text", "levels"), [("0,1,16,31", (0, 1, 16, 31)), ("31", (31,)), ("31, 0,31", (0, 31)), ("007", (7,))]
)
def test_levels_are_a_list(text: str, levels: tuple[int, ...]) -> None:
    assert parse_levels(text) == levels


@pytest.mark.parametrize("text", ["32", "-1", "0,99", "0,x", "1-5", "٣", "1e1"])
def test_a_level_that_does_not_exist_is_named(text: str) -> None:
    with pytest.raises(UsageError, match=r"^dump level '.*' does not exist \(0 to 31"):
        parse_levels(text)


@pytest.mark.parametrize("text", ["", ",", "0,,1", "0,1,"])
def test_a_malformed_list_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a list of levels"):
        parse_levels(text)
    with pytest.raises(UsageError, match="is not a list of compressions"):
        parse_compressions(text)


def test_compressions_keep_the_order_they_were_asked_in() -> None:
    assert parse_compressions("zlib,none,zlib") == ("zlib", "none")
    with pytest.raises(UsageError, match="unknown compression 'gzip'"):
        parse_compressions("zlib,gzip")


@pytest.mark.parametrize(("text", "real"), [("1", 1), ("12", 12), ("all", None)])
def test_real_is_a_number_or_all(text: str, real: int | None) -> None:
    assert parse_real(text) == real


@pytest.mark.parametrize("text", ["0", "-1", "none", "", "1000"])
def test_real_is_nothing_else(text: str) -> None:
    with pytest.raises(UsageError, match="invalid number of real crashes"):
        parse_real(text)


def test_an_unknown_plot_format_is_refused() -> None:
    with pytest.raises(UsageError, match=r"sizes\.txt: a plot is written as \.svg, \.png, \.pdf"):
        check_format(Path("sizes.txt"))


# ---------------------------------------------------------------- what the guest can do


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (VERSION_TEXT, ("none", "zlib", "lzo")),
        (VERSION_TEXT.replace("disabled", "enabled"), ("none", "zlib", "lzo", "snappy", "zstd")),
        (VERSION_TEXT.replace("enabled", "disabled"), ("none", "zlib")),
        ("makedumpfile: version 1.5.0 (released on 6 Sep 2012)\n", ("none", "zlib")),
    ],
)
def test_makedumpfile_lists_its_compressors(text: str, names: tuple[str, ...]) -> None:
    assert built_in(text) == names


# ---------------------------------------------------------------- which cells are crashes


@pytest.mark.parametrize(
    ("compressions", "first"),
    [
        (("none", "zlib", "lzo"), "lzo"),
        (("none", "zlib"), "zlib"),
        (("none",), "none"),
        (("zlib", "zstd"), "zstd"),
    ],
)
def test_everything_is_captured_with_the_cheapest_compression(compressions: tuple[str, ...], first: str) -> None:
    chosen = choose_crashes((0, 1, 31), compressions, real=1, favourite="zlib")
    assert chosen.real == ((0, first),)
    assert len(chosen.computed) == 3 * len(compressions) - 1


def test_the_check_is_the_highest_level_with_the_familys_compression() -> None:
    chosen = choose_crashes((0, 1, 16, 31), ("none", "zlib", "lzo"), real=2, favourite="zlib")
    assert chosen.real == ((0, "lzo"), (31, "zlib"))
    assert len(chosen.computed) == 10


def test_more_checks_vary_level_and_compression() -> None:
    chosen = choose_crashes((0, 1, 16, 31), ("none", "zlib", "lzo"), real=4, favourite="zlib")
    assert chosen.real == ((0, "lzo"), (31, "zlib"), (16, "none"), (1, "zlib"))


def test_everything_is_captured_even_if_not_requested() -> None:
    chosen = choose_crashes((16, 31), ("none", "zlib", "lzo"), real=2, favourite="zlib")
    assert chosen.real == ((0, "lzo"), (31, "zlib"))
    assert len(chosen.computed) == 5


@pytest.mark.parametrize("real", [None, 4, 99])
def test_nothing_is_computed_where_that_saves_no_crash(real: int | None) -> None:
    chosen = choose_crashes((16, 31), ("none", "zlib"), real=real, favourite="zlib")
    assert chosen.real == ((16, "none"), (16, "zlib"), (31, "none"), (31, "zlib"))
    assert chosen.computed == ()


# ---------------------------------------------------------------- what must hold between cells


PAGES = {0: 1000, 1: 1000, 16: 400, 31: 300}
SIZES = {"none": 4096, "zlib": 1000, "lzo": 1200}


def cell(level: int, compress: str, **facts: Any) -> SweepCell:
    known = {
        "how": COMPUTED,
        "ok": True,
        "crash": 1,
        "pages_kept": PAGES[level],
        "pages_total": 1000,
        "size_bytes": PAGES[level] * SIZES[compress],
        "frames": f"frames-{level}",
    }
    return SweepCell(level=level, compress=compress, **{**known, **facts})


def good_cells() -> list[SweepCell]:
    """A capture, a check of another crash, the cells computed, and the two of the crashes computed again."""
    cells = [cell(level, compress) for level in PAGES for compress in SIZES]
    capture = cell(0, "lzo", how=REAL, dump_s=40.0)
    check = cell(31, "zlib", how=REAL, crash=2, pages_kept=330, size_bytes=320_000, frames=None, dump_s=12.0)
    return [capture, check, *cells]


def outcome(cells: list[SweepCell]) -> dict[str, list[bool]]:
    found: dict[str, list[bool]] = {}
    for relation in compare_cells(cells):
        found.setdefault(relation.name, []).append(relation.ok)
    return found


def failing(cells: list[SweepCell]) -> list[str]:
    return [relation.name for relation in compare_cells(cells) if not relation.ok]


def changed(level: int, compress: str, how: str = COMPUTED, **facts: Any) -> list[SweepCell]:
    """The good cells with one that is different."""
    return [
        replace(one, **facts) if (one.level, one.compress, one.how) == (level, compress, how) else one
        for one in good_cells()
    ]


def test_good_cells_fit() -> None:
    found = outcome(good_cells())
    assert {name: len(held) for name, held in found.items()} == {
        "drops-more": 5,  # 1, 16 and 31 against 0; 31 against 1 and 16
        "same-pages": 4,
        "not-larger": 8,
        "exact": 1,
        "agrees": 1,
    }
    assert all(all(held) for held in found.values())


@pytest.mark.parametrize(
    ("cells", "relations"),
    [
        (changed(31, "none", pages_kept=401), ["drops-more", "same-pages"]),
        (changed(16, "zlib", pages_kept=399), ["same-pages"]),
        (changed(16, "zlib", frames="others"), ["same-pages"]),
        (changed(1, "lzo", size_bytes=1000 * 4096 + 1), ["not-larger"]),
        (changed(0, "lzo", frames="others"), ["exact"]),
        (changed(31, "zlib", REAL, pages_kept=376), ["agrees"]),
        (changed(31, "zlib", REAL, pages_kept=239), ["agrees"]),
        (changed(31, "zlib", REAL, size_bytes=300_000 * 2), ["agrees"]),
    ],
    ids=[
        "keeps-more", "other-count", "other-pages", "larger", "not-exact", "too-many", "too-few", "other-size",
    ],
)  # fmt: skip
def test_a_contradicting_cell_fails_its_relation(cells: list[SweepCell], relations: list[str]) -> None:
    assert failing(cells) == relations


def test_a_failing_relation_shows_the_numbers() -> None:
    reported = {relation.name: relation for relation in compare_cells(changed(31, "none", pages_kept=401))}
    assert reported["drops-more"].expected == "-d 31 keeps no more pages than -d 16"
    assert reported["drops-more"].seen == "401 (-d 31 none), 400 (-d 16 none)"


def test_levels_that_drop_different_things_are_not_compared() -> None:
    assert compare_cells([cell(1, "none", pages_kept=10), cell(16, "none", pages_kept=20)]) == []


def test_real_crashes_may_differ_a_little() -> None:
    def crashes(small: int, big: int) -> list[SweepCell]:
        return [
            cell(16, "zlib", how=REAL, crash=1, pages_kept=big, frames=None),
            cell(31, "zlib", how=REAL, crash=2, pages_kept=small, frames=None),
        ]

    assert failing(crashes(420, 400)) == []
    assert failing(crashes(600, 400)) == ["drops-more"]


def test_refused_and_missing_cells_are_left_out() -> None:
    refused = SweepCell(level=0, compress="snappy", how=REFUSED, ok=False, reason="no")
    missing = SweepCell(level=1, compress="none", how=COMPUTED, ok=False, reason="no")
    assert compare_cells([refused, missing]) == []


# ---------------------------------------------------------------- the whole of it, without a guest


FRAMES = {0: range(3, 40), 1: range(3, 40), 16: range(3, 20), 31: range(3, 15)}


def dump_bytes(level: int, compress: str, *, flattened: bool) -> bytes:
    pages = {pfn: text_page(pfn) for pfn in FRAMES[level]}
    plain = Kdump(pages=pages, level=level, compression=compress).build()
    return flatten(plain) if flattened else plain


class FakeRefilter:
    """Stand-in for the guest's makedumpfile."""

    flattened = True
    trouble: Exception | None = None
    fails_at: tuple[int, str] | None = None

    def __init__(self) -> None:
        self.loaded = False

    @classmethod
    def of_guest(cls, shell: object, directory: Path, **_: Any) -> FakeRefilter:
        if cls.trouble is not None:
            raise cls.trouble
        return cls()

    def need_mib(self, dump: Path) -> int:
        return 1

    def load(self, dump: Path, *, flattened: bool) -> None:
        assert flattened == self.flattened
        assert (dump.read_bytes()[:12] == b"makedumpfile") == flattened
        self.loaded = True

    def compute(self, to: Path, *, level: int, compress: str, flattened: bool) -> None:
        assert self.loaded
        assert flattened == self.flattened
        if (level, compress) == self.fails_at:
            raise CommandFailed("makedumpfile -F on this host ended with status 1: no")
        to.write_bytes(dump_bytes(level, compress, flattened=flattened))

    def remove(self) -> None: ...


class World:
    """Stand-in for a host: the abilities of its guest, the requested drills, and their faults."""

    def __init__(self, directory: Path) -> None:
        self.family = find_family("debian")
        self.flattened = True
        self.remarks: list[str] = []
        self.rearmed = 0
        self.compressors: tuple[str, ...] = ("none", "zlib", "lzo")
        self.makedumpfile: str | None = "1.7.2"
        self.crashes: list[tuple[int, str]] = []
        self.broken: tuple[int, str] | None = None
        self.known_issue: str | None = None
        self.verdicts: list[Verdict] = []
        self.options = Options(evidence=directory / "evidence", quiet=True)
        self.progress = Progress(quiet=True)
        self.accelerator = "tcg"
        self.factor = self.load = 1.0
        self.jobs = self.side_by_side = 1
        self.said_of_jobs: tuple[list[int], int] | None = None
        self.state = State(directory / "state")
        self.root = EvidenceRoot(self.options.evidence)
        self.evidence_directory = self.root.run
        self.evidence = self.root.drill

    def open_evidence(self) -> None: ...

    def abandon(self) -> None: ...

    def evidence_again(self, directory: Path) -> Evidence:
        return Evidence(directory, again=True)

    def at_once(self, tasks_mib: list[int], disk_mib: int) -> int:
        self.said_of_jobs = (tasks_mib, disk_mib)
        return self.jobs

    def drill(self, _run: object, plan: Plan) -> Verdict:
        asked: list[Any] = [plan.config.level, plan.config.compress]

        def collect_with(level: int, compress: str) -> bool:
            asked[:] = [level, compress]
            return True

        def arm() -> None:
            self.rearmed += 1

        service: Any = SimpleNamespace(
            family=self.family,
            state=lambda: SimpleNamespace(compressors=self.compressors, makedumpfile=self.makedumpfile, kernel="6.1"),
            formats=lambda _before, target: self.family.dumps.formats[target],
            set_core_collector=collect_with,
            arm=arm,
        )
        with contextlib.closing(self.root.drill(plan.name)) as evidence:
            return self._drill(plan, evidence, asked, service)

    def _drill(self, plan: Plan, evidence: Evidence, asked: list[Any], service: Any) -> Verdict:
        if plan.before_crash is not None:
            guest: Any = SimpleNamespace(shell=None)
            plan.before_crash(guest, service)
        level, compress = asked
        self.crashes.append((level, compress))
        verdict = Verdict(
            image="debian-12", family=self.family.name, trigger="sysrq-c", target="local", accelerator="tcg",
            memory_mib=1024, vcpus=2, kernel="6.1", makedumpfile=self.makedumpfile, level=level, compress=compress,
            reached=Stage.VERIFIED, verified=True, evidence=str(evidence.directory), phases_s={"dump": 12.3},
            remarks=list(self.remarks),
        )  # fmt: skip
        broken = self.broken == (level, compress)
        verdict.check("complete", not broken, expected="whole", seen="cut" if broken else "whole")
        if broken:
            verdict.reached, verdict.verified, verdict.known_issue = Stage.RECOVERED, False, self.known_issue
        path = evidence.directory / "dump"
        path.write_bytes(dump_bytes(level, compress, flattened=self.flattened))
        found = inspect(path)
        verdict.dump = {
            "format": found.format, "size_bytes": found.size_bytes,
            "pages_total": found.pages_total, "pages_kept": found.pages_kept,
        }  # fmt: skip
        if plan.on_dump is not None:
            before: Any = None
            memory: Any = None
            trigger: Any = None
            facts = CrashFacts(
                before=before, level=level, compress=compress, trigger=trigger, nonce="", crashed_after_s=(0, 1),
                memory=memory,
            )  # fmt: skip
            plan.on_dump(path, facts)
        path.unlink()
        return verdict

    def check_dump(
        self, verdict: Verdict, path: Path, facts: CrashFacts, *, expected_formats: tuple[str, ...]
    ) -> Inspection:
        found = inspect(path)
        expected = " or ".join(expected_formats)
        verdict.check("format", found.format in expected_formats, expected=expected, seen=found.format)
        verdict.check("level", found.level == facts.level, expected=facts.level, seen=found.level)
        for name in required(Scope.COMPUTED) - {"format", "level"}:
            verdict.check(name, True, expected="", seen="")
        return found

    def sweep(self, **changes: Any) -> Sweep:
        subject = SystemUnderTest(name="debian-12", family=find_family(self.family.name))
        run: Any = self
        with self.state.run() as self.directory:
            return run_sweep(run, SweepPlan(subject=subject, **changes), on_verdict=self.verdicts.append)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    made = World(tmp_path)
    fake = type("Fake", (FakeRefilter,), {})
    monkeypatch.setattr(sweeping.WarmPool, "drill", lambda pool, plan: made.drill(pool._run, plan))
    monkeypatch.setattr(sweeping, "Refilter", fake)
    monkeypatch.setattr(sweeping.checks, "check_dump", made.check_dump)
    made.refilter = fake  # type: ignore[attr-defined]
    yield made
    assert not list((tmp_path / "state" / "runs").iterdir())


def test_two_crashes_make_a_table(world: World) -> None:
    found = world.sweep()
    assert found.ok, found.explain()
    assert world.crashes == [(0, "lzo"), (31, "zlib")]
    assert len(world.verdicts) == found.crashes == 2
    assert [(one.level, one.compress) for one in found.cells] == [
        (level, name) for level in (0, 1, 16, 31) for name in ("none", "zlib", "lzo")
    ]
    real = [one for one in found.cells if one.how == REAL]
    assert [(one.name, one.dump_s) for one in real] == [("-d 0 lzo", 12.3), ("-d 31 zlib", 12.3)]
    assert all(one.dump_s is None for one in found.cells if one.how == COMPUTED)
    assert all(one.took_s is not None for one in found.cells)
    assert {one.name for one in found.controls} == {"-d 0 lzo", "-d 31 zlib"}
    assert [one.pages_kept for one in found.cells[::3]] == [37, 37, 17, 12]
    assert {relation.name for relation in found.relations} == {
        "drops-more", "same-pages", "not-larger", "exact", "agrees",
    }  # fmt: skip


@pytest.mark.usefixtures("real_plots")
def test_files_that_a_sweep_leaves(world: World) -> None:
    found = world.sweep()
    directory = Path(found.evidence)
    reported = json.loads((directory / "sweep.json").read_text(encoding="utf-8"))
    assert reported["ok"] is True
    assert reported["schema"] == 1
    assert (reported["image"], reported["kernel"], reported["makedumpfile"]) == ("debian-12", "6.1", "1.7.2")
    assert {one["how"] for one in reported["cells"]} == {REAL, COMPUTED}
    assert len(reported["relations"]) == 19
    assert "<svg" in (directory / "sweep.svg").read_text(encoding="utf-8")
    assert (directory / "computed-16-none" / "inspect.json").exists()
    assert (directory / "crash-1").is_dir()
    assert not list(directory.rglob("*vmcore*"))  # computed dumps are as large as real ones


def test_computed_dumps_stay_on_request(world: World) -> None:
    world.options = replace(world.options, keep="always")
    directory = Path(world.sweep(levels=(0, 31), compressions=("zlib", "lzo")).evidence)
    assert inspect(directory / "computed-31-lzo" / "vmcore").whole


def test_a_compression_that_the_guest_lacks_is_refused_by_name(world: World) -> None:
    found = world.sweep(levels=(0, 31), compressions=tuple(COMPRESS_FLAGS))
    assert found.ok, found.explain()
    assert found.refused() == {
        "snappy": "makedumpfile 1.7.2 of this guest is built without snappy",
        "zstd": "makedumpfile 1.7.2 of this guest is built without zstd",
    }
    assert [one.compress for one in found.cells if one.how == REFUSED] == ["snappy", "zstd"] * 2
    assert world.crashes == [(0, "lzo"), (31, "zlib")]


def test_a_guest_that_has_none_of_them_is_not_crashed(world: World) -> None:
    found = world.sweep(compressions=("snappy", "zstd"))
    assert not found.ok
    assert world.crashes == []
    assert found.crashes == 0
    assert "makedumpfile 1.7.2 of this guest is built without snappy" in found.explain()
    assert (Path(found.evidence) / "sweep.json").exists()


def test_a_guest_without_makedumpfile_is_not_crashed(world: World) -> None:
    world.makedumpfile, world.compressors = None, ()
    assert "this guest has no makedumpfile" in world.sweep().explain()
    assert world.crashes == []


@pytest.mark.parametrize("trouble", [CannotRun("Exec format error"), CommandFailed("the guest has no tar")])
def test_where_the_guests_program_does_not_run_all_cells_are_crashes(world: World, trouble: Exception) -> None:
    world.refilter.trouble = trouble  # type: ignore[attr-defined]
    found = world.sweep(levels=(0, 31), compressions=("none", "zlib"))
    assert found.ok, found.explain()
    assert world.crashes == [(0, "none"), (0, "zlib"), (31, "none"), (31, "zlib")]
    assert all(one.how == REAL for one in found.cells)
    assert found.notes == [
        f"every cell is a real crash, because the guest's makedumpfile does not run on this host: {trouble}"
    ]


def test_all_crashes_for_every_cell(world: World) -> None:
    found = world.sweep(levels=(1, 31), compressions=("zlib", "none"), real=None)
    assert found.ok, found.explain()
    assert world.crashes == [(1, "zlib"), (1, "none"), (31, "zlib"), (31, "none")]


def test_a_failed_crash_fails_the_sweep_with_its_reason(world: World) -> None:
    world.broken, world.known_issue = (31, "zlib"), "https://bugs.example/1"
    found = world.sweep()
    assert not found.ok
    assert found.failures() == [
        "-d 31 zlib, real: complete: expected whole, seen cut (known issue https://bugs.example/1)"
    ]
    assert found.failures(with_known=False) == []


def test_without_a_whole_capture_nothing_is_computed(world: World) -> None:
    world.broken = (0, "lzo")
    found = world.sweep()
    assert not found.ok
    assert world.crashes == [(0, "lzo"), (31, "zlib")]
    computed = [one for one in found.cells if one.how == COMPUTED]
    assert len(computed) == 10
    assert all(one.reason and "for lack of a complete dump of everything: complete" in one.reason for one in computed)


def test_a_cell_that_cannot_be_computed_fails_alone(world: World) -> None:
    world.refilter.fails_at = (16, "none")  # type: ignore[attr-defined]
    found = world.sweep()
    assert found.failures() == ["-d 16 none, computed: makedumpfile -F on this host ended with status 1: no"]


def test_measured_cells_are_saved_when_a_later_crash_breaks(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def drill(run: object, plan: Plan) -> Verdict:
        if world.crashes:
            raise GuestError("no login prompt")
        return world.drill(run, plan)

    monkeypatch.setattr(sweeping.WarmPool, "drill", lambda pool, plan: drill(pool._run, plan))
    with pytest.raises(GuestError, match="no login prompt"):
        world.sweep()
    [reported] = world.evidence_directory.rglob("sweep.json")
    assert len(json.loads(reported.read_text(encoding="utf-8"))["cells"]) == 11


def test_a_guest_whose_kdump_cannot_be_armed_ends_the_sweep_with_the_reason(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drill(_run: object, plan: Plan) -> Verdict:
        verdict = Verdict(
            image="mine", family="suse", trigger="sysrq-c", target="local", accelerator="tcg", memory_mib=1024, vcpus=2
        )
        verdict.stopped_by = "kdump is not armed: kdump.service has failed"
        return verdict

    monkeypatch.setattr(sweeping.WarmPool, "drill", lambda pool, plan: drill(pool._run, plan))
    with pytest.raises(CommandFailed, match="nothing to sweep: kdump is not armed"):
        world.sweep()


# ---------------------------------------------------------------- other families


def release(family: str, name: str) -> Family:
    return next(driven for row, driven in find_family(family).releases if row.name == name)


def test_each_family_has_its_own_format(world: World) -> None:
    world.family = release("redhat", "RHEL 9 and rebuilds")
    world.flattened = world.refilter.flattened = False  # type: ignore[attr-defined]
    found = world.sweep()
    assert found.ok, found.explain()
    assert world.crashes == [(0, "lzo"), (31, "none")]
    formats = {check.expected for one in found.cells for check in one.checks if check.name == "format"}
    assert formats == {"kdump"}


@pytest.mark.parametrize("flattened", [True, False])
def test_computed_cells_have_the_format_of_the_crash(world: World, flattened: bool) -> None:
    world.family = release("suse", "SLES 12 and 15, Leap 15")
    world.flattened = world.refilter.flattened = flattened  # type: ignore[attr-defined]
    found = world.sweep(compressions=("zlib", "lzo"))
    assert found.ok, found.explain()
    assert any(one.how == COMPUTED for one in found.cells)


def test_a_format_that_the_release_does_not_have_fails_the_computed_cells(world: World) -> None:
    world.flattened = world.refilter.flattened = False  # type: ignore[attr-defined]
    computed = [one for one in world.sweep().cells if one.how == COMPUTED]
    assert computed
    assert {one.reason for one in computed} == {"format: expected kdump-flattened, seen kdump"}


@pytest.mark.parametrize(("family", "times"), [("debian", 0), ("redhat", 1), ("suse", 1)])
def test_a_capture_initramfs_with_a_copy_of_the_settings_is_made_anew(world: World, family: str, times: int) -> None:
    world.family = find_family(family)
    world.flattened = world.refilter.flattened = family != "redhat"  # type: ignore[attr-defined]
    assert world.sweep(compressions=("zlib", "lzo")).ok
    assert world.rearmed == times


def test_a_compression_that_the_family_has_no_setting_for_is_refused_by_name(world: World) -> None:
    world.family = release("suse", "SLES 16 and Leap 16")
    found = world.sweep()
    assert found.ok, found.explain()
    assert found.refused() == {"none": "kdump of the family suse has no setting for none"}
    assert world.crashes == [(0, "lzo"), (31, "zlib")]


def test_nothing_is_started_for_compressions_that_the_family_has_no_setting_for(world: World) -> None:
    world.family = find_family("suse")
    with pytest.raises(UsageError, match="kdump of the family suse has no setting for compression none"):
        world.sweep(compressions=("none",))
    assert world.crashes == []


def test_a_guest_driven_as_another_release_is_noted_once(world: World) -> None:
    world.remarks = ["Debian 14 is not in the table"]
    found = world.sweep()
    assert found.ok, found.explain()
    assert found.notes == world.remarks


# ---------------------------------------------------------------- what people see


def test_the_table_distinguishes_real_computed_and_refused(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    show_sweep(world.sweep(levels=(0, 31), compressions=("none", "zlib", "lzo", "snappy")))
    text = capsys.readouterr().out
    lines = [line.split() for line in text.splitlines()]
    assert ["0", "~0.2", "MiB", "~0.0", "MiB", "0.0", "MiB", "in", "12", "s", "refused"] in lines
    assert ["37", "pages"] * 3 in lines
    assert "~ computed by the guest's makedumpfile from the crash at -d 0" in text
    assert "snappy is refused: makedumpfile 1.7.2 of this guest is built without snappy" in text
    assert text.rstrip().endswith("holds: true")


def test_failures_come_before_the_table(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.broken = (31, "zlib")
    show_sweep(world.sweep())
    text = capsys.readouterr().out
    assert text.index("NO -d 31 zlib, real: complete: expected whole, seen cut") < text.index("~0.0 MiB")
    assert text.rstrip().endswith("holds: false")


LINES = {
    "none": [Point(0, 800.0, True), Point(31, 100.0, True)],
    "zlib": [Point(0, 150.0, True), Point(31, 20.0, False)],
}


@pytest.mark.parametrize("name", ["sizes.svg", "sizes.PNG", "sizes.pdf"])
def test_a_plot_is_written_in_the_form_of_its_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    check_format(path)
    draw_sizes(path, LINES, title="debian-12", subtitle="Linux 6.1")
    starts = {".svg": b"<?xml", ".png": b"\x89PNG", ".pdf": b"%PDF"}
    assert path.read_bytes().startswith(starts[path.suffix.lower()])


def test_the_plot_keeps_its_text_and_is_the_same_each_time(tmp_path: Path) -> None:
    def drawn(name: str) -> str:
        draw_sizes(tmp_path / name, LINES, title="debian-12: sizes", subtitle="Linux 6.1")
        return (tmp_path / name).read_text(encoding="utf-8")

    text = drawn("a.svg")
    for words in ("debian-12: sizes", "Linux 6.1", "zlib", "real crash", "computed", "vmcore, MiB", "all classes"):
        assert f">{words}</text>" in text
    assert text == drawn("b.svg")


@pytest.mark.parametrize(
    "lines",
    [
        {"zlib": [Point(31, 20.0, False)]},
        {"none": [Point(level, 100.0 - level, True) for level in range(32)]},
        {name: [Point(16, 0.01, True)] for name in COMPRESS_FLAGS},
    ],
    ids=["one", "all-levels", "tiny"],
)
def test_odd_sweeps_are_drawn_too(tmp_path: Path, lines: dict[str, list[Point]]) -> None:
    draw_sizes(tmp_path / "a.svg", lines, title="x", subtitle="y")


def test_the_plan_is_checked_before_anything_is_started() -> None:
    subject = SystemUnderTest(name="debian-12", family=find_family("debian"))
    for changes, why in (
        ({"levels": (0, 40)}, "dump level 40 does not exist"),
        ({"levels": ()}, "nothing to sweep: give at least one dump level"),
        ({"compressions": ("gzip",)}, "unknown compression"),
        ({"real": 0}, "expected 1 or more"),
        ({"crashkernel": "none"}, "without a reservation"),
        ({"machine": Machine(memory_mib=1)}, "invalid guest memory"),
    ):
        with pytest.raises(UsageError, match=why):
            SweepPlan(subject=subject, **changes).check()  # type: ignore[arg-type]


# ---------------------------------------------------------------- side by side


def test_crashes_go_side_by_side_and_the_table_is_the_same(world: World) -> None:
    world.jobs = 3
    found = world.sweep(levels=(0, 1, 31), compressions=("zlib", "lzo"), real=4)
    assert found.ok, found.explain()
    assert world.said_of_jobs == ([1024] * 4, 2 * 1024 + 64 + 512 + 3072)  # three crashes and the computing
    assert world.crashes[0] == (0, "lzo")
    wanted = choose_crashes((0, 1, 31), ("zlib", "lzo"), real=4, favourite="zlib")
    assert sorted(world.crashes) == sorted(wanted.real)
    assert found.crashes == len(world.verdicts) == 4
    assert sorted(cell.crash or 0 for cell in found.cells if cell.how == REAL) == [1, 2, 3, 4]
    assert [(one.level, one.compress) for one in found.cells] == [
        (level, name) for level in (0, 1, 31) for name in ("zlib", "lzo")
    ]
    reported = json.loads((Path(found.evidence) / "sweep.json").read_text(encoding="utf-8"))
    assert len(reported["cells"]) == 6


def test_each_of_them_has_a_guest_of_its_own(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.jobs = 2
    pools: dict[int, list[str]] = {}
    meeting = threading.Barrier(2)

    def drill(pool: Any, plan: Plan) -> Verdict:
        pools.setdefault(id(pool), []).append(plan.name)
        if plan.name.endswith(("crash-2", "crash-3")):  # the first two in parallel
            meeting.wait(60)
        return world.drill(pool._run, plan)

    monkeypatch.setattr(sweeping.WarmPool, "drill", drill)
    assert world.sweep(levels=(0, 31), compressions=("zlib", "lzo", "none"), real=None).crashes == 6
    assert len(pools) == 2
    assert sum(map(len, pools.values())) == 6


def test_a_crash_that_breaks_ends_the_others(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.jobs = 2

    def drill(pool: Any, plan: Plan) -> Verdict:
        if plan.name.endswith("crash-2"):
            raise GuestError("no login prompt")
        return world.drill(pool._run, plan)

    monkeypatch.setattr(sweeping.WarmPool, "drill", drill)
    with pytest.raises(GuestError, match="no login prompt"):
        world.sweep(levels=(0, 31), compressions=("zlib", "lzo"), real=None)


# ---------------------------------------------------------------- a sweep that was stopped


def stop_at(world: World, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Break the drill of this number without a trace, as a kill would."""

    def drill(pool: Any, plan: Plan) -> Verdict:
        if len(world.crashes) + 1 == number:
            raise GuestError("stopped")
        return world.drill(pool._run, plan)

    monkeypatch.setattr(sweeping.WarmPool, "drill", drill)


def go_on(world: World, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Sweep:
    """Sweep once more, in the evidence of the run before."""
    monkeypatch.setattr(sweeping.WarmPool, "drill", lambda pool, plan: world.drill(pool._run, plan))
    world.options = with_record(world.options, "last", "sweep.json")
    assert world.options.resume is not None
    assert world.options.resume.parents[1] == world.evidence_directory.resolve()
    world.crashes.clear()
    return world.sweep(**changes)


REAL_CELLS: dict[str, Any] = {"levels": (0, 1, 31), "compressions": ("zlib", "lzo"), "real": None}


@pytest.mark.parametrize("jobs", [1, 2])
def test_only_the_cells_that_are_missing_are_crashed_for(
    world: World, monkeypatch: pytest.MonkeyPatch, jobs: int
) -> None:
    stop_at(world, monkeypatch, 4)
    with pytest.raises(GuestError, match="stopped"):
        world.sweep(**REAL_CELLS)
    world.jobs = jobs
    found = go_on(world, monkeypatch, **REAL_CELLS)
    assert found.ok, found.explain()
    assert sorted(world.crashes) == [(1, "lzo"), (31, "lzo"), (31, "zlib")]
    assert found.crashes == 6
    assert sorted(one.crash or 0 for one in found.cells) == [1, 2, 3, 4, 5, 6]
    assert len(found.relations) == len(compare_cells(found.cells))
    assert [path.name for path in world.evidence_directory.iterdir()] == ["sweep-debian-12"]
    world.crashes.clear()
    assert world.sweep(**REAL_CELLS).cells == found.cells  # nothing is left to do
    assert world.crashes == []


def test_computed_cells_are_not_computed_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_at(world, monkeypatch, 2)
    with pytest.raises(GuestError, match="stopped"):
        world.sweep()
    found = go_on(world, monkeypatch)
    assert found.ok, found.explain()
    assert world.crashes == [(31, "zlib")]
    assert len(found.relations) == 19


def test_without_its_dump_the_first_crash_is_repeated(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeping._Sweep, "_compute", lambda *_: (_ for _ in ()).throw(GuestError("stopped")))
    with pytest.raises(GuestError, match="stopped"):
        world.sweep(compressions=("zlib", "lzo", "snappy"))
    monkeypatch.undo()
    monkeypatch.setattr(sweeping, "Refilter", world.refilter)  # type: ignore[attr-defined]
    monkeypatch.setattr(sweeping.checks, "check_dump", world.check_dump)
    found = go_on(world, monkeypatch, compressions=("zlib", "lzo", "snappy"))
    assert found.ok, found.explain()
    assert world.crashes == [(0, "lzo"), (31, "zlib")]
    assert {one.crash for one in found.cells if one.how == COMPUTED} == {2}
    assert len([one for one in found.cells if one.how == REFUSED]) == 4
    assert len(found.notes) == 1


@pytest.mark.parametrize(
    ("changes", "reported"),
    [
        ({"levels": (0, 31)}, "--levels was 0,1,31, and is 0,31 now"),
        ({"real": 3}, "--real was all, and is 3 now"),
        ({"crashkernel": "512M"}, "--crashkernel was nothing, and is 512M now"),
        ({"machine": Machine(memory_mib=2048)}, "--memory was 1024, and is 2048 now"),
    ],
)
def test_another_sweep_cannot_be_resumed(
    world: World, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], reported: str
) -> None:
    world.sweep(**REAL_CELLS)
    with pytest.raises(UsageError, match=reported):
        go_on(world, monkeypatch, **{**REAL_CELLS, **changes})
    assert world.crashes == []


def test_a_guest_that_is_another_by_now_is_not_mixed_in(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_at(world, monkeypatch, 2)
    with pytest.raises(GuestError, match="stopped"):
        world.sweep(**REAL_CELLS)
    world.makedumpfile = "1.7.6"
    with pytest.raises(UsageError, match=r"makedumpfile was 1\.7\.2, and is 1\.7\.6 now"):
        go_on(world, monkeypatch, **REAL_CELLS)


def test_control_cells_are_computed_after_resuming(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    compute = sweeping._Sweep._computed_cell

    def stopped(self: Any, first: Verdict, level: int, compress: str) -> SweepCell:
        if len([one for one in self.result.cells if one.how == COMPUTED]) == 10:
            raise KeyboardInterrupt  # all of the table are there
        return compute(self, first, level, compress)

    with monkeypatch.context() as patch:
        patch.setattr(sweeping._Sweep, "_computed_cell", stopped)
        with pytest.raises(KeyboardInterrupt):
            world.sweep()
    found = go_on(world, monkeypatch)
    assert found.ok, found.explain()
    assert {one.name for one in found.controls} == {"-d 0 lzo", "-d 31 zlib"}
    assert len(found.relations) == 19


def both_crashes_and_nothing_computed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop a sweep with two jobs when its second crash is over."""

    def stopped(self: Any, *_: object) -> None:
        until_s = time.monotonic() + 120.0
        while self.result.crashes < 2 and time.monotonic() < until_s:
            time.sleep(0.01)
        assert self.result.crashes == 2
        raise GuestError("stopped")

    world.jobs = 2
    with monkeypatch.context() as patch:
        patch.setattr(sweeping._Sweep, "_compute", stopped)
        with pytest.raises(GuestError, match="stopped"):
            world.sweep()
    world.jobs = 1


def test_a_crash_of_before_still_shows_whether_computing_can_be_believed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    both_crashes_and_nothing_computed(world, monkeypatch)
    found = go_on(world, monkeypatch)
    assert found.ok, found.explain()
    assert world.crashes == [(0, "lzo")]
    assert [one.expected for one in found.relations if one.name == "agrees"] == [
        "-d 31 zlib: pages and size 0.8 to 1.25 times those computed from another crash"
    ]
    assert len(found.relations) == 19


def test_a_first_crash_that_is_repeated_must_be_of_the_same_guest(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    both_crashes_and_nothing_computed(world, monkeypatch)
    world.makedumpfile = "1.7.6"
    with pytest.raises(UsageError, match=r"makedumpfile was 1\.7\.2, and is 1\.7\.6 now"):
        go_on(world, monkeypatch)
