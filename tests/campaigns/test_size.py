"""A sizing follows the outcomes of its trials, reports them, and recommends only sizes that dumped."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kdump_harness import __main__ as command
from kdump_harness.base.errors import GuestError, UsageError
from kdump_harness.base.evidence import Evidence, EvidenceRoot
from kdump_harness.base.progress import Progress
from kdump_harness.base.stage import Stage
from kdump_harness.base.verdict import Check, Verdict
from kdump_harness.campaigns.resume import with_record
from kdump_harness.campaigns.size import run as sizing_run
from kdump_harness.campaigns.size.plan import SizePlan
from kdump_harness.campaigns.size.result import DUMPED, OTHER, TOO_SMALL, Size, Sizing, Trial, sizing_from_json
from kdump_harness.campaigns.size.run import outcome_of, run_size
from kdump_harness.campaigns.size.search import recommend
from kdump_harness.cli.verbs.size import parse_memories, show_size
from kdump_harness.distro.family import find_family
from kdump_harness.drill.disks import SystemUnderTest
from kdump_harness.kdump.reserved_memory import AddressRange, ReservedMemory
from kdump_harness.vm.run import Options

RECORD = (Path(__file__).parents[1] / "data" / "drills" / "debian-12-measured.log").read_text(encoding="utf-8")
GOOD = ("single-dump", "final-name", "format", "complete", "kernel", "crash-time", "nonce", "panic-text")


def verdict(outcome: str, directory: Path, reserved_mib: int = 256) -> Verdict:
    """Return the verdict of a drill with this outcome."""
    made = Verdict(
        image="debian-12", family="debian", trigger="sysrq-c", target="local", accelerator="tcg", memory_mib=1024,
        vcpus=2, reserved_mib=reserved_mib, evidence=str(directory), kernel="6.1",
    )  # fmt: skip
    made.reached = Stage.RECOVERED if outcome == DUMPED else Stage.CAPTURING
    if outcome == DUMPED:
        made.checks = [Check(name, True, "", "") for name in GOOD]
        made.dump = {"path": "/var/crash/1"}
    else:
        name = "capture-oom" if outcome == TOO_SMALL else "target-no-space"
        made.symptoms = [{"name": name, "severity": "failure", "line": "", "remedy": ""}]
    return made


# ---------------------------------------------------------------- outcomes


def test_a_good_dump_is_one_though_it_was_not_filtered_and_the_guest_came_back_late(tmp_path: Path) -> None:
    made = verdict(DUMPED, tmp_path)
    made.checks += [Check("filter", False, "", ""), Check("reboot-time", False, "", "")]
    assert outcome_of(made) == DUMPED


@pytest.mark.parametrize("name", GOOD)
def test_an_incomplete_dump_counts_as_a_failure(name: str, tmp_path: Path) -> None:
    made = verdict(DUMPED, tmp_path)
    made.checks = [Check(check.name, check.name != name, "", "") for check in made.checks]
    assert outcome_of(made) == OTHER
    made.checks = [check for check in made.checks if check.name != name]  # was not even made
    assert outcome_of(made) == OTHER


@pytest.mark.parametrize(
    ("symptoms", "outcome"),
    [
        (["capture-oom"], TOO_SMALL),
        (["kexec-load-bad-segments"], TOO_SMALL),
        (["capture-oom", "target-no-space"], TOO_SMALL),
        (["target-no-space", "capture-oom"], OTHER),  # the cause comes first
        ([], OTHER),
    ],
)
def test_only_a_lack_of_memory_means_too_small(symptoms: list[str], outcome: str, tmp_path: Path) -> None:
    made = verdict(OTHER, tmp_path)
    made.symptoms = [{"name": name, "severity": "failure"} for name in symptoms]
    assert outcome_of(made) == outcome


@pytest.mark.parametrize(("smallest", "wanted"), [(60, 96), (100, 144), (128, 160), (132, 176), (256, 320)])
def test_a_recommendation_has_a_margin_and_is_round(smallest: int, wanted: int) -> None:
    assert recommend(smallest) == wanted


# ---------------------------------------------------------------- the distribution's default


def sizing(smallest: int | None, default: int | None, *sizes: tuple[int, str]) -> Sizing:
    made = Sizing(memory_mib=1024, vcpus=2, target="local", smallest_mib=smallest, default_mib=default)
    made.recommended_mib = recommend(smallest) if smallest is not None else None
    for mib, outcome in sizes:
        made.trials.append(Trial(reserved_mib=mib, outcome=outcome, reason="", crashed=True, took_s=1.0, evidence=""))
    return made


@pytest.mark.parametrize(
    ("default", "word"),
    [
        (128, r"too small \(dumped 0 of 1 at 128M\)"),
        (136, "tight: 4 MiB above"),
        (192, "enough: 60 MiB above"),
        (512, "wasteful: 336 MiB more than recommended"),
        (0, "none: nothing is reserved"),
        (None, "not known"),
    ],
)
def test_the_default_is_judged_plainly(default: int | None, word: str) -> None:
    made = sizing(132, default, (128, TOO_SMALL), (132, DUMPED))
    assert re.match(word, made.default_verdict())


def test_without_an_answer_nothing_is_said_of_the_default() -> None:
    assert sizing(None, 128).default_verdict() == "not judged"


def test_the_proof_counts_the_trials_on_both_sides() -> None:
    trials = [(256, DUMPED), (128, TOO_SMALL), (132, DUMPED), (132, DUMPED), (132, DUMPED), (128, TOO_SMALL)]
    assert sizing(132, 128, *trials).proof() == "dumped 3 of 3 at 132M, 0 of 2 at 128M"
    assert sizing(None, 128, (256, DUMPED), (128, OTHER)).proof() == "0 of 1 at 128M, 1 of 1 at 256M"


# ---------------------------------------------------------------- the whole of it, without a guest


class FakeSession:
    """A guest that dumps from some size on, after so many trials only from another."""

    def __init__(self, world: World, memory_mib: int, reserved_mib: int) -> None:
        self.world, self.memory_mib, self.reserved_mib = world, memory_mib, reserved_mib

    def save(self, look: Any) -> Verdict | None:
        state = SimpleNamespace(
            reserved=self.world.reserved(self.reserved_mib), kernel="6.1", makedumpfile="1.7.2",
            reservation_remarks=lambda _memory_mib: [],
        )  # fmt: skip
        family = find_family("debian").releases[1][1]
        look(None, SimpleNamespace(state=lambda: state, suggested_mib=lambda: 180, family=family))
        self.world.boots += 1
        return None

    def drill(self, *, name: str, before_crash: Any, until: str) -> Verdict:
        wanted = [self.reserved_mib]
        service = SimpleNamespace(shrink=lambda mib: wanted.append(mib), family=find_family("debian"))
        shell = SimpleNamespace(run=lambda *_: None, write_text=lambda *_: None)
        before_crash(SimpleNamespace(shell=shell), service)
        if self.world.crashes + 1 == self.world.stop_at:
            raise GuestError("stopped")
        self.world.crashes += 1
        directory = self.world.base_directory / f"{name}-{self.world.crashes}"
        directory.mkdir(parents=True)
        (directory / "console.log").write_text(RECORD if self.world.measured else "", encoding="utf-8")
        edge = self.world.edges[self.memory_mib]
        outcome = DUMPED if wanted[-1] >= edge else self.world.below
        return verdict(outcome, directory, wanted[-1])


class World:
    """Stand-in for guests: plays their drills."""

    def __init__(self, base_directory: Path, **edges: int) -> None:
        self.base_directory = base_directory
        self.edges = {int(name.removeprefix("m")): edge for name, edge in edges.items()}
        self.below = TOO_SMALL
        self.measured = True
        self.boots = self.crashes = 0
        self.confirmed: list[str] = []
        self.confirms = True
        self.jobs = 1
        self.options = Options()
        self.low_mib = self.cma_mib = 0
        self.stop_at: int | None = None  # the crash in which it is stopped

    @contextlib.contextmanager
    def open_session(self, _run: Any, plan: Any) -> Iterator[FakeSession]:
        reserved = sizing_run.crashkernel.reserved_mib(plan.config.crashkernel or "256M", plan.machine.memory_mib)
        yield FakeSession(self, plan.machine.memory_mib, reserved)

    def reserved(self, main_mib: int) -> ReservedMemory:
        """The parts that a guest of this world has."""
        low, high = AddressRange(0, self.low_mib << 20), AddressRange(1 << 32, (1 << 32) + (main_mib << 20))
        fixed = (low, high) if self.low_mib else (AddressRange(0, main_mib << 20),)
        cma = (AddressRange(1 << 30, (1 << 30) + (self.cma_mib << 20)),) if self.cma_mib else ()
        return ReservedMemory(fixed=fixed, cma=cma)

    def run_drill(self, _run: Any, plan: Any) -> Verdict:
        self.confirmed.append(plan.config.crashkernel)
        mib = sizing_run.crashkernel.reserved_mib(plan.config.crashkernel, plan.machine.memory_mib) or 0
        good = self.confirms and mib >= self.edges[plan.machine.memory_mib]
        return verdict(DUMPED if good else TOO_SMALL, self.base_directory, mib)


def plan_of(**changes: Any) -> SizePlan:
    return SizePlan(subject=SystemUnderTest(name="debian-12", family=find_family("debian")), **changes)


def answer(world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, **changes: Any) -> Size:
    monkeypatch.setattr(sizing_run, "open_session", world.open_session)
    monkeypatch.setattr(sizing_run, "run_drill", world.run_drill)
    root = EvidenceRoot(tmp_path / "evidence", again=world.options.resume and world.options.resume.parents[1])
    run: Any = SimpleNamespace(
        open_evidence=lambda: None,
        evidence=root.drill,
        evidence_directory=root.run,
        progress=Progress(quiet=True),
        accelerator="tcg",
        factor=6.0,
        side_by_side=1,
        options=world.options,
        evidence_again=lambda directory: Evidence(directory, again=True),
        at_once=lambda tasks_mib, _disk_mib: min(world.jobs, len(tasks_mib)),
        abandon=lambda: None,
    )
    return run_size(run, plan_of(**changes))


@pytest.mark.parametrize(
    ("crashkernel", "low_mib", "cma_mib", "searched", "recommended"),
    [
        (
            "256M,high crashkernel=72M,low",
            72,
            0,
            "the part above 4 GiB, with 72 MiB below 4 GiB",
            "160M,high crashkernel=72M,low",
        ),
        (
            "160M crashkernel=256M,cma",
            0,
            256,
            "the fixed part, with 256 MiB of CMA",
            "1G-2G:144M,2G-:160M crashkernel=256M,cma",
        ),
    ],
)
def test_the_main_part_is_searched_while_the_others_stay(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    crashkernel: str,
    low_mib: int,
    cma_mib: int,
    searched: str,
    recommended: str,
) -> None:
    world = World(tmp_path, m1024=97, m2048=117)
    world.low_mib, world.cma_mib = low_mib, cma_mib
    found = answer(world, monkeypatch, tmp_path, memories_mib=(1024, 2048), crashkernel=crashkernel)
    assert [one.smallest_mib for one in found.sizings] == [100, 120]
    assert (found.crashkernel, {one.searched for one in found.sizings}) == (recommended, {searched})
    # The default reserves one part: a part among others is not compared with it.
    assert (found.default, {one.default_mib for one in found.sizings}) == (None, {None})
    assert found.ok
    assert world.confirmed == [recommended] * 2
    again = sizing_from_json(found.to_json()["sizings"][0])
    assert (again.low_mib, again.cma_mib, again.searched) == (low_mib, cma_mib, searched)


def test_a_part_that_is_too_small_is_doubled_and_the_others_stay(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    world = World(tmp_path, m1024=150)
    world.cma_mib = 128
    found = answer(world, monkeypatch, tmp_path, crashkernel="96M crashkernel=128M,cma")
    assert found.sizings[0].smallest_mib == 152
    wanted = "96M crashkernel=128M,cma is too small for any dump; trying 192M crashkernel=128M,cma"
    assert any(wanted in note for note in found.notes)


@pytest.mark.usefixtures("real_plots")
def test_it_answers_for_each_memory_size(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    world = World(tmp_path, m1024=97, m2048=119)
    found = answer(world, monkeypatch, tmp_path, memories_mib=(2048, 1024))
    assert [(one.memory_mib, one.smallest_mib) for one in found.sizings] == [(1024, 100), (2048, 120)]
    assert found.ok
    assert found.crashkernel == "1G-2G:144M,2G-:160M"
    assert world.confirmed == ["1G-2G:144M,2G-:160M"] * 2
    assert all(one.cold_boots == 1 and one.crashes <= 15 for one in found.sizings)
    assert all(one.tried()[one.smallest_mib or 0] == [True] * 3 for one in found.sizings)
    assert all(one.tried()[(one.smallest_mib or 0) - 4] == [False] * 3 for one in found.sizings)
    assert found.sizings[0].predicted_mib == 86
    assert found.sizings[0].default_mib == 128
    assert found.sizings[0].tried()[128] == [True]
    drawn = Path(found.evidence) / "size.svg"
    assert "smallest that dumps" in drawn.read_text(encoding="utf-8")


def test_machines_side_by_side_have_the_same_answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    world = World(tmp_path, m1024=97, m2048=119, m4096=141)
    world.jobs = 3
    found = answer(world, monkeypatch, tmp_path, memories_mib=(4096, 2048, 1024))
    assert [(one.memory_mib, one.smallest_mib) for one in found.sizings] == [(1024, 100), (2048, 120), (4096, 144)]
    assert found.ok
    assert found.crashkernel == "1G-2G:144M,2G-4G:160M,4G-:192M"
    assert world.confirmed == [found.crashkernel] * 3


@pytest.mark.parametrize("stop_at", [1, 2, 5, 9, 13])
def test_an_interrupted_sizing_keeps_its_trials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stop_at: int) -> None:
    whole = World(tmp_path / "whole", m1024=97, m2048=119)
    wanted = answer(whole, monkeypatch, tmp_path / "whole", memories_mib=(1024, 2048))
    world = World(tmp_path, m1024=97, m2048=119)
    world.stop_at = stop_at
    with pytest.raises(GuestError, match="stopped"):
        answer(world, monkeypatch, tmp_path, memories_mib=(1024, 2048))
    world.stop_at = None
    world.options = with_record(Options(evidence=tmp_path / "evidence"), "last", "size.json")
    found = answer(world, monkeypatch, tmp_path, memories_mib=(1024, 2048))
    assert found.ok
    assert [one.proof() for one in found.sizings] == [one.proof() for one in wanted.sizings]
    assert world.crashes == whole.crashes  # none was made twice
    assert found.crashkernel == wanted.crashkernel
    crashes, world.crashes = world.crashes, 0
    assert answer(world, monkeypatch, tmp_path, memories_mib=(1024, 2048)).ok  # nothing is left to do
    assert world.crashes == 0 < crashes
    with pytest.raises(UsageError, match="--memory was 1024,2048, and is 1024 now"):
        answer(world, monkeypatch, tmp_path, memories_mib=(1024,))


def test_a_size_of_one_kernel_is_not_confirmed_by_another(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    world = World(tmp_path, m1024=97)

    def stopped(_run: Any, _plan: Any) -> Verdict:
        raise GuestError("stopped")

    with monkeypatch.context() as patch:
        patch.setattr(world, "run_drill", stopped)
        with pytest.raises(GuestError, match="stopped"):
            answer(world, monkeypatch, tmp_path)

    def newer(run: Any, plan: Any) -> Verdict:
        return replace(World.run_drill(world, run, plan), kernel="6.12")

    monkeypatch.setattr(world, "run_drill", newer)
    world.options = with_record(Options(evidence=tmp_path / "evidence"), "last", "size.json")
    with pytest.raises(UsageError, match=r"the guest's kernel was 6\.1, and is 6\.12 now"):
        answer(world, monkeypatch, tmp_path)


def test_a_sizing_with_a_larger_reservation_is_resumed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    world = World(tmp_path, m4096=300)
    world.stop_at = 4
    with pytest.raises(GuestError, match="stopped"):
        answer(world, monkeypatch, tmp_path, memories_mib=(4096,))
    world.stop_at = None
    world.options = with_record(Options(evidence=tmp_path / "evidence"), "last", "size.json")
    found = answer(world, monkeypatch, tmp_path, memories_mib=(4096,))
    assert found.sizings[0].smallest_mib == 300
    assert world.boots == 3
    assert sorted(run for run in found.sizings[0].tried() if run >= 256)[0] == 256
    assert len(found.sizings[0].tried()[256]) == 1


def test_anything_but_a_lack_of_memory_stops_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    world = World(tmp_path, m1024=97)
    world.below = OTHER
    found = answer(world, monkeypatch, tmp_path)
    assert not found.ok
    assert found.crashkernel is None
    assert "failed for another reason than its size: target-no-space" in found.failures()[0]
    assert world.crashes == 2
    assert not world.confirmed


def test_a_recommendation_that_fails_is_refuted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    world = World(tmp_path, m1024=97)
    world.confirms = False
    found = answer(world, monkeypatch, tmp_path)
    assert not found.ok
    assert found.sizings[0].confirmed is False


def test_a_confirmation_reports_other_failures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    world = World(tmp_path, m1024=97)

    def unfiltered(run: Any, plan: Any) -> Verdict:
        made = World.run_drill(world, run, plan)
        made.checks.append(Check("filter", False, "none", "all of them"))
        return made

    monkeypatch.setattr(world, "run_drill", unfiltered)
    found = answer(world, monkeypatch, tmp_path)
    assert found.ok
    assert found.sizings[0].confirmation == "144 MiB reserved, a whole dump, though not verified: filter"


def test_it_begins_anew_with_more_where_nothing_dumps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    world = World(tmp_path, m4096=300)
    found = answer(world, monkeypatch, tmp_path, memories_mib=(4096,))
    assert found.sizings[0].smallest_mib == 300
    assert found.sizings[0].cold_boots == 2
    assert "256M is too small for any dump; trying 512M" in found.notes[0]


def test_a_default_that_fails_above_the_edge_shows_that_it_was_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    world = World(tmp_path, m1024=97)
    drill = FakeSession.drill

    def unlucky(self: FakeSession, **options: Any) -> Verdict:
        made = drill(self, **options)
        return verdict(TOO_SMALL, Path(made.evidence), 128) if "128M" in options["name"] else made

    monkeypatch.setattr(FakeSession, "drill", unlucky)
    found = answer(world, monkeypatch, tmp_path, most_crashes=30)
    assert found.sizings[0].smallest_mib == 132
    assert found.sizings[0].default_verdict().startswith("too small")


def test_a_larger_reservation_that_cannot_even_be_armed_is_not_asked_for_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    world = World(tmp_path, m4096=5000)
    save = FakeSession.save

    def refused(self: FakeSession, look: Any) -> Verdict | None:
        return verdict(TOO_SMALL, tmp_path) if self.reserved_mib > 256 else save(self, look)

    monkeypatch.setattr(FakeSession, "save", refused)
    found = answer(world, monkeypatch, tmp_path, memories_mib=(4096,))
    assert found.failures() == ["4096 MiB, 2 CPUs, local: even 2048M, the most that 4096 MiB allow, is too small"]


def test_it_gives_up_where_the_machine_is_too_small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = answer(World(tmp_path, m768=700), monkeypatch, tmp_path, memories_mib=(768,))
    assert not found.ok
    assert found.failures() == ["768 MiB, 2 CPUs, local: even 256M, the most that 768 MiB allow, is too small"]


def test_trials_have_a_limit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    world = World(tmp_path, m1024=241)
    world.measured = False
    found = answer(world, monkeypatch, tmp_path, most_crashes=8)
    assert world.crashes == 8
    assert "not decided after 8 crashes: the edge lies above" in found.failures()[0]


def test_the_record_and_the_table(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = answer(World(tmp_path, m1024=97), monkeypatch, tmp_path)
    record = found.to_json()
    assert record["ok"]
    assert record["sizings"][0]["proof"] == "dumped 3 of 3 at 100M, 0 of 3 at 96M"
    assert record["sizings"][0]["measured"]["used_kib"] == 87088
    show_size(found)
    shown = capsys.readouterr().out
    assert "crashkernel=1G-:144M" in shown
    assert "dumped 3 of 3 at 100M, 0 of 3 at 96M" in shown
    assert "answered: true" in shown


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(("text", "sizes"), [("1G,2G", (1024, 2048)), ("512M", (512,)), ("1024, 1G", (1024,))])
def test_memory_sizes(text: str, sizes: tuple[int, ...]) -> None:
    assert parse_memories(text) == sizes


@pytest.mark.parametrize("text", ["", "1X", "1G,", "-1", "1.5G"])
def test_an_invalid_memory_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="argument --memory: invalid size: got"):
        parse_memories(text)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--memory", "256M"], "the kernel refuses crashkernel=256M: the machine has only 256 MiB"),
        (["--memory", "1G", "--crashkernel", "2G"], "the kernel refuses crashkernel=2G: the machine has only 1024 MiB"),
        (["--crashkernel", "2G-:256M"], "nothing to size: crashkernel=2G-:256M reserves nothing on a machine with"),
        (["--crashkernel", "256M,cma"], "nothing to size: crashkernel=256M,cma reserves nothing: 256M,cma needs a"),
        (["--crashkernel", "none"], "is not a size to begin the search with"),
        (["--target", "local,tape"], "unknown target 'tape'"),
        (["--vcpus", "two"], "invalid number of processors: got"),
        (["--vcpus", "0"], "invalid number of processors"),
        (["--repeats", "0"], "invalid number of repeats: got 0"),
        (["--crashes", "4"], "are too few to try both sides of the edge"),
        (["--plot", "x.txt"], "a plot is written as"),
        (["--memory", ",".join(f"{n}G" for n in range(1, 50))], "machines are too many"),
    ],
)
def test_bad_input_is_one_sentence(
    options: list[str],
    sentence: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command.main(["size", "debian-12", *options, "--state", str(tmp_path / "state")]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())
