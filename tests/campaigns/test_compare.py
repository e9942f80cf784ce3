"""A comparison finds regressions between the drills of two sides, and reports them to people and to a CI."""

from __future__ import annotations

import contextlib
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from kdump_harness import __main__ as command
from kdump_harness.base.errors import GuestError, UsageError
from kdump_harness.base.evidence import Evidence, EvidenceRoot
from kdump_harness.base.progress import Progress
from kdump_harness.base.stage import Stage
from kdump_harness.base.verdict import Verdict
from kdump_harness.campaigns.compare import run as comparing
from kdump_harness.campaigns.compare.bisection import bisect
from kdump_harness.campaigns.compare.differences import find_differences, splats
from kdump_harness.campaigns.compare.plan import (
    ComparedDrill,
    ComparePlan,
    Side,
    choose_scenarios,
    load_scenarios,
    usual_max_slower,
)
from kdump_harness.campaigns.compare.result import Comparison, Sample
from kdump_harness.campaigns.compare.run import run_compare
from kdump_harness.campaigns.resume import with_record
from kdump_harness.cli.verbs.compare import _side, share, show_comparison, to_junit, to_markdown
from kdump_harness.distro.family import find_family, load_families
from kdump_harness.drill.disks import SystemUnderTest
from kdump_harness.kdump.target import TARGETS
from kdump_harness.kdump.trigger import find_trigger
from kdump_harness.vm.run import Options

MEASURED = (Path(__file__).parents[1] / "data" / "drills" / "debian-12-measured.log").read_text(encoding="utf-8")

FIGURES = {"panic_to_login, s": 60.0, "size, MiB": 20.0, "free pages kept": 0.0, "capture memory, MiB": 86.0}


def sample(side: int, number: int, **changes: Any) -> Sample:
    good: dict[str, Any] = {
        "side": side,
        "scenario": "smoke",
        "round": number,
        "verified": True,
        "reached": "VERIFIED",
        "reason": "verified",
        "failed": (),
        "symptoms": (),
        "splats": (),
        "figures": dict(FIGURES),
        "evidence": "",
    }
    return Sample(**{**good, **changes})


def comparison(new: dict[str, Any], *, rounds: int = 5) -> Comparison:
    """Five rounds of one drill, in which the new side has these changes."""
    found = Comparison(image="debian-12", thing="kernel", sides=("6.1", "6.<12>"), kernels=["6.1", "6.12"])
    for number in range(1, rounds + 1):
        wobble = {"panic_to_login, s": 60.0 + number}
        found.samples.append(sample(0, number, figures=FIGURES | wobble))
        figures = FIGURES | wobble | new.get("figures", {})
        found.samples.append(sample(1, number, **{**new, "figures": figures}))
    found.findings = list(find_differences(found, 6.0))
    return found


def worse(found: Comparison) -> list[str]:
    return [one.what for one in found.regressions()]


def test_equal_drills_are_not_a_regression() -> None:
    found = comparison({})
    assert found.ok
    assert {one.word for one in found.findings} == {"same"}


@pytest.mark.parametrize(
    ("new", "what"),
    [
        ({"verified": False, "reached": "CAPTURING", "failed": ("complete",)}, ["verdict", "check complete"]),
        ({"symptoms": ("capture-oom",)}, ["symptom capture-oom"]),
        ({"splats": ("WARNING: CPU: N at kernel/x.c:N",)}, ["console WARNING: CPU: N at kernel/x.c:N"]),
        ({"figures": {"panic_to_login, s": 90.0}}, ["panic_to_login, s"]),
        ({"figures": {"size, MiB": 133.0, "free pages kept": 180000.0}}, ["size, MiB", "free pages kept"]),
        ({"figures": {"capture memory, MiB": 110.0}}, ["capture memory, MiB"]),
    ],
)
def test_regressions_are_named(new: dict[str, Any], what: list[str]) -> None:
    found = comparison(new)
    assert worse(found) == what
    assert not found.ok
    assert all(one in found.explain() for one in what)


def test_improvements_are_not_regressions() -> None:
    assert comparison({"figures": {"panic_to_login, s": 30.0, "size, MiB": 10.0}}).ok


def test_a_check_that_was_not_reached_is_not_better() -> None:
    found = comparison({"verified": False, "reached": "CAPTURING", "symptoms": ("capture-oom",)})
    found.samples = [
        replace(one, verified=False, reached="SAVED", failed=("filter",)) if one.side == 0 else one
        for one in found.samples
    ]
    found.findings = list(find_differences(found, 6.0))
    assert worse(found) == ["verdict", "symptom capture-oom"]
    assert "better" not in {one.word for one in found.findings}


def test_fewer_pages_that_belong_in_the_dump_are_not_better() -> None:
    """Linux 6.12 and makedumpfile 1.7.2: a third of the slab's pages is missing, and the check pages fails."""
    found = comparison({"figures": {"slab pages kept": 4629.0, "free pages kept": 0.0}})
    for one in found.samples:
        one.figures.update({"slab pages kept": 6961.0, "free pages kept": 138000.0} if one.side == 0 else {})
    words = {one.what: one.word for one in find_differences(found, 6.0)}
    assert (words["slab pages kept"], words["free pages kept"]) == ("fewer", "better")


def test_a_drill_that_gets_less_far_is_worse_though_neither_is_verified() -> None:
    found = comparison({"verified": False, "reached": "CAPTURING"})
    found.samples = [replace(one, verified=False, reached="SAVED") if one.side == 0 else one for one in found.samples]
    found.findings = list(find_differences(found, 6.0))
    assert worse(found) == ["verdict"]


def test_times_are_believed_later_than_sizes() -> None:
    slower = {"figures": {"panic_to_login, s": 90.0}}
    larger = {"figures": {"size, MiB": 133.0}}
    assert comparison(slower, rounds=4).ok
    assert {one.word for one in comparison(slower, rounds=4).findings} == {"same", "unclear"}
    assert not comparison(larger, rounds=4).ok
    assert comparison(larger, rounds=3).ok


def test_processor_times_by_instructions_are_believed_after_two_rounds() -> None:
    """A slowdown of 10 % of the boot of a small capture kernel, 0.84 s, is found; the spread of repeats is not one."""
    counted = "processor time of capture_boot, s"
    for new_s, found in ((0.924, [counted]), (0.848, []), (0.76, [])):
        both = comparison({"figures": {counted: new_s}}, rounds=2)
        both.max_slower = 0.05
        for one in both.samples:
            one.figures.setdefault(counted, 0.84 + one.round / 1000)
        assert [one.what for one in find_differences(both, 6.0) if one.word == "worse"] == found


def test_only_possible_regressions_are_drilled_again() -> None:
    """A drill that seems faster does not cause another round."""
    slower, faster = (comparison({"figures": {"panic_to_login, s": time_s}}, rounds=2) for time_s in (90.0, 30.0))
    assert [one.what for one in slower.findings if one.open] == ["panic_to_login, s"]
    assert {one.word for one in faster.findings} == {"same", "unclear"}
    assert not any(one.open for one in faster.findings)


def test_times_of_emulated_guests_have_a_wider_default_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (usual_max_slower("kvm"), usual_max_slower("tcg")) == (0.2, 0.5)
    assert compared(World(tmp_path / "a", 2), monkeypatch).max_slower == 0.5
    assert compared(World(tmp_path / "b", 2), monkeypatch, max_slower=0.2).max_slower == 0.2


def test_a_comparison_without_drills_is_not_ok() -> None:
    assert not Comparison(image="x", thing="kernel", sides=("a", "b")).ok


def test_budgets_are_the_users() -> None:
    found = comparison({"figures": {"panic_to_login, s": 90.0}})
    found.max_slower = 0.6
    assert not [one for one in find_differences(found, 6.0) if one.word != "same"]


def test_for_people_and_for_a_ci(capsys: pytest.CaptureFixture[str]) -> None:
    found = comparison({"figures": {"size, MiB": 133.0}, "symptoms": ("capture-oom",)})
    show_comparison(found)
    shown = capsys.readouterr().out
    assert "2 WORSE" in shown
    assert "133.0" in shown
    assert "no regression: false" in shown
    suites = ET.fromstring(to_junit(found))
    assert [len(suite.findall("testcase/failure")) for suite in suites] == [2]
    markdown = to_markdown(found)
    assert "**2 worse**" in markdown
    assert r"6.\<12\>" in markdown


@pytest.mark.parametrize(("text", "expected"), [("20%", 0.2), ("0.5", 0.5), ("0", 0.0), (" 150% ", 1.5)])
def test_shares(text: str, expected: float) -> None:
    assert share(text) == expected


@pytest.mark.parametrize("text", ["", "x", "-5%", "nan", "1e9"])
def test_an_invalid_share_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="invalid budget: got"):
        share(text)


def test_splats_are_reported_without_variable_numbers() -> None:
    console = "[    1.5] WARNING: CPU: 0 PID: 17 at kernel/x.c:99 do_it+0x1f/0x30\n[ 2.0] systemd[1]: ok\n" * 2
    assert splats(console) == ("WARNING: CPU: N PID: N at kernel/x.c:N do_it+N/N",)
    assert splats("Kernel panic - not syncing: sysrq triggered crash\nCall Trace:\n") == ()


# ---------------------------------------------------------------- the drills


def test_every_scenario_can_be_drilled_by_some_family() -> None:
    for scenario in load_scenarios().values():
        find_trigger(scenario.trigger, vcpus=2)
        assert scenario.target in TARGETS
    usual = choose_scenarios((), ())
    assert [one.name for one in usual] == ["smoke", "level-1", "other-compression", "tight"]
    assert [one.name for one in choose_scenarios(("nmi",), ())] == [*(one.name for one in usual), "nmi"]
    assert [one.name for one in choose_scenarios((), ("smoke",))] == ["smoke"]
    with pytest.raises(UsageError, match="unknown scenario 'smok'"):
        choose_scenarios(("smok",), ())


def test_the_other_compression_is_one_that_the_family_can_set() -> None:
    other = ComparedDrill(name="x", compress="other")
    for family in load_families().values():
        name = other.compression(family)
        assert name is not None
        assert name in family.config.compressions
        assert name != family.compress


class World:
    """Stand-in for guests: plays their drills."""

    def __init__(self, base_directory: Path, at_once: int) -> None:
        self.base_directory, self.most = base_directory, at_once
        self.drilled: list[tuple[str, str]] = []  # what, and when: began or ended
        self.boots = 0
        self.stop_at = -1  # events
        self.meeting = threading.Barrier(at_once)
        root = EvidenceRoot(base_directory / "evidence")
        self.run: Any = SimpleNamespace(
            open_evidence=lambda: None, evidence=root.drill, evidence_directory=root.run, accelerator="tcg",
            progress=Progress(quiet=True), slowness=6.0, side_by_side=1, abandon=lambda: None,
            options=Options(evidence=base_directory / "evidence"),
            evidence_again=lambda directory: Evidence(directory, again=True),
            at_once=lambda tasks_mib, _disk_mib: min(at_once, len(tasks_mib)),
        )  # fmt: skip

    @contextlib.contextmanager
    def open_session(self, _run: Any, _plan: Any) -> Iterator[Any]:
        self.boots += 1
        yield SimpleNamespace(save=lambda *_: None, drill=self.drill)

    def drill(self, *, name: str, before_crash: Any, **_: Any) -> Verdict:
        what = name.partition("/")[2]
        if len(self.drilled) == self.stop_at:
            raise GuestError("stopped")
        self.drilled.append((what, "began"))
        self.meeting.wait(60)
        shrunk: list[int] = []
        given_back: list[str] = []
        shell = SimpleNamespace(run=lambda *_: None, write_text=lambda *_: None)
        service = SimpleNamespace(
            family=find_family("debian"), shrink=shrunk.append, give_back_free_pages=lambda: given_back.append(name)
        )
        before_crash(SimpleNamespace(shell=shell), service)
        assert given_back
        if what.startswith("tight"):
            assert shrunk == [108]
        directory = self.base_directory / name.replace("/", "-")
        directory.mkdir()
        (directory / "console.log").write_text(MEASURED, encoding="utf-8")
        self.drilled.append((what, "ended"))
        return Verdict(
            image="debian-12", family="debian", trigger="sysrq-c", target="local", accelerator="tcg", memory_mib=1024,
            vcpus=2, reached=Stage.VERIFIED, verified=True, evidence=str(directory), kernel="6.1",
        )  # fmt: skip


def compared(world: World, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Comparison:
    monkeypatch.setattr(comparing, "open_session", world.open_session)
    subject = SystemUnderTest(name="debian-12", family=find_family("debian"))
    sides = (Side(name="a", subject=subject), Side(name="b", subject=subject))
    scenarios = choose_scenarios((), ("smoke", "tight"))
    return run_compare(
        world.run, ComparePlan(image="debian-12", thing="kernel", sides=sides, scenarios=scenarios, **changes)
    )


def test_one_after_the_other_the_sides_take_turns(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    world = World(tmp_path, 1)
    found = compared(world, monkeypatch)
    assert [what for what, when in world.drilled if when == "began"] == [
        "smoke-1-old", "smoke-1-new", "tight-1-old", "tight-1-new",
        "smoke-2-new", "smoke-2-old", "tight-2-new", "tight-2-old",
    ]  # fmt: skip
    assert (found.rounds, world.boots, found.ok) == (2, 4, True)


@pytest.mark.parametrize("crashkernel", ["256M,high", "256M,high crashkernel=72M,low", "160M crashkernel=256M,cma"])
def test_a_reservation_of_several_parts_has_no_tight_drill(
    crashkernel: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = compared(World(tmp_path, 1), monkeypatch, crashkernel=crashkernel)
    assert {one.scenario for one in found.samples} == {"smoke"}
    assert any("it reserves by one part, and --crashkernel by several" in note for note in found.notes)


@pytest.mark.parametrize("at_once", [2, 4])
def test_side_by_side_all_do_the_same_at_a_time(at_once: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    world = World(tmp_path, at_once)  # whose barrier is passed by so many at once, or by none
    found = compared(world, monkeypatch)
    assert found.ok
    assert world.boots == 4
    assert sorted((one.scenario, one.round, one.side) for one in found.samples) == [
        (name, number, side) for name in ("smoke", "tight") for number in (1, 2) for side in (0, 1)
    ]
    for first in range(0, 16, 2 * at_once):
        batch = world.drilled[first : first + 2 * at_once]
        assert len({what.partition("-")[0] for what, _ in batch}) == 1
        assert {what[-3:] for what, _ in batch} == {"old", "new"}


def test_drills_to_one_server_take_turns(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On a shared server, the dump of the other side would be a second new one, of another crash."""
    world, one_at_a_time = World(tmp_path, 4), threading.Lock()
    world.meeting = threading.Barrier(1)
    together: list[str] = []

    def drill(**options: Any) -> Verdict:
        if not one_at_a_time.acquire(blocking=False):
            together.append(options["name"])
            return World.drill(world, **options)
        try:
            time.sleep(0.05)
            return World.drill(world, **options)
        finally:
            one_at_a_time.release()

    @contextlib.contextmanager
    def collector(_run: Any) -> Iterator[Any]:
        yield SimpleNamespace(server=None)

    monkeypatch.setattr(world, "drill", drill)
    monkeypatch.setattr(comparing, "open_session", world.open_session)
    monkeypatch.setattr(comparing, "open_dump_server", collector)
    subject = SystemUnderTest(name="debian-12", family=find_family("debian"))
    sides = (Side(name="a", subject=subject), Side(name="b", subject=subject))
    scenarios = choose_scenarios((), ("ssh", "nfs"))
    plan = ComparePlan(image="debian-12", thing="kernel", sides=sides, scenarios=scenarios)
    assert run_compare(world.run, plan).ok
    assert not together
    assert [what for what, when in world.drilled if when == "began"] == [
        f"{name}-{turn}" for name in ("ssh", "nfs") for turn in ("1-old", "1-new", "2-new", "2-old")
    ]


@pytest.mark.parametrize(("stop_at", "boots"), [(0, 4), (2, 4), (6, 3), (8, 2), (14, 1)])
def test_an_interrupted_comparison_makes_the_missing_drills(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stop_at: int, boots: int
) -> None:
    world = World(tmp_path, 1)
    world.stop_at = stop_at
    with pytest.raises(GuestError, match="stopped"):
        compared(world, monkeypatch)
    world.stop_at, world.boots = -1, 0
    world.run.options = with_record(world.run.options, "last", "compare.json")
    found = compared(world, monkeypatch)
    assert found.ok
    assert world.boots == boots
    assert len(world.drilled) == 16  # each drill once
    assert found.tight_mib == 108
    assert sorted((one.scenario, one.round, one.side) for one in found.samples) == [
        (name, number, side) for name in ("smoke", "tight") for number in (1, 2) for side in (0, 1)
    ]
    assert compared(world, monkeypatch).ok  # nothing is left to do
    assert len(world.drilled) == 16
    with pytest.raises(UsageError, match="--rounds was 2, and is 3 now"):
        compared(world, monkeypatch, rounds=3)


def test_a_round_that_was_begun_is_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With one side ahead, no question may seem open."""
    world = World(tmp_path, 1)
    monkeypatch.setattr(
        comparing.Compare,
        "_open_question",
        lambda self, one: [len(self.result.of(one.name, side)) for side in (0, 1)] == [2, 2],
    )
    world.stop_at = 18  # after the old side's first drill of the third round
    with pytest.raises(GuestError, match="stopped"):
        compared(world, monkeypatch)
    world.stop_at = -1
    world.run.options = with_record(world.run.options, "last", "compare.json")
    found = compared(world, monkeypatch)
    assert sorted((one.scenario, one.round, one.side) for one in found.samples) == [
        (name, number, side) for name in ("smoke", "tight") for number in (1, 2, 3) for side in (0, 1)
    ]


def test_an_initramfs_that_was_built_anew_is_another_side(tmp_path: Path) -> None:
    path = tmp_path / "initramfs"
    run: Any = SimpleNamespace(accelerator="tcg")
    subject = SystemUnderTest(name="debian-12", family=find_family("debian").releases[1][1])
    asked = []
    for content in (b"one", b"one", b"other"):
        path.write_bytes(content)
        sides = (Side(name="a", subject=subject), _side("initramfs", str(path), subject))
        asked.append(ComparePlan(image="debian-12", thing="initramfs", sides=sides).asked(run))
    assert asked[0] == asked[1]
    assert [name for name in asked[0] if asked[0][name] != asked[2][name]] == ["the new side"]


def test_an_initramfs_is_put_where_the_guest_keeps_its_own(tmp_path: Path) -> None:
    path = tmp_path / "initramfs"
    path.touch()
    subject = SystemUnderTest(name="rocky-10", family=find_family("redhat"))
    boot, state = "/boot/initramfs-6.12kdump.img", "/var/lib/kdump/initramfs-6.12kdump.img"
    for has, used in ((boot, boot), (state, state), ("", boot)):
        puts: list[str] = []
        shell = SimpleNamespace(
            run=lambda _command: SimpleNamespace(out="6.12\n"),
            succeeds=lambda _command, place, has=has: place == has,
            put=lambda _path, place, puts=puts: puts.append(place),
        )
        prepare = _side("initramfs", str(path), subject).prepare
        assert prepare is not None
        prepare(cast(Any, SimpleNamespace(shell=shell)), cast(Any, SimpleNamespace(arm=lambda: None)))
        assert puts == [used]


# ---------------------------------------------------------------- bisection


@pytest.mark.parametrize("count", [2, 3, 4, 5, 9, 16, 33])
def test_the_first_bad_one_is_found_in_log2_steps(count: int) -> None:
    for first_bad in range(1, count):
        asked: list[int] = []

        def is_good(number: int, first_bad: int = first_bad, asked: list[int] = asked) -> bool:
            asked.append(number)
            return number < first_bad

        assert bisect(count, is_good) == first_bad
        assert len(asked) == len(set(asked)) <= 2 + (count - 2).bit_length()


def test_a_list_without_a_bad_one_costs_one_drill() -> None:
    asked: list[int] = []
    assert bisect(9, lambda number: bool(asked.append(number)) or True) is None
    assert asked == [8]


def test_a_list_that_is_bad_from_the_start_has_no_first() -> None:
    with pytest.raises(ValueError, match="bad already"):
        bisect(9, lambda _: False)


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["debian-12"], "nothing to compare: give --kernel"),
        (["debian-12", "debian-13", "--kernel", "x"], "compare one thing at a time: kernel and image were given"),
        (["debian-12", "--kernel", "a", "--kernel", "b", "--kernel", "c"], "--bisect"),
        (["debian-12", "--kernel", "a b"], "names no kernel"),
        (["debian-12", "nosuch"], "unknown image 'nosuch'"),
        (["debian-12", "debian-13", "--only", "nosuch"], "unknown scenario 'nosuch'"),
        (["debian-12", "debian-13", "--max-slower", "x"], "invalid budget: got"),
        (["debian-12", "debian-13", "--memory", "1"], "invalid guest memory"),
        (["debian-12", "debian-13", "--rounds", "0"], "invalid rounds: got 0 to 5"),
        (["debian-12", "--initramfs", "/nonexistent"], "is not a file with a capture initramfs"),
        (["debian-12", "--packages", "/nonexistent"], "does not exist"),
        (["debian-12", "--bisect", "--kernel", "a", "--kernel", "b", "--junit", "x.xml"], "writes neither JUnit"),
    ],
)
def test_bad_input_is_one_sentence(
    arguments: list[str],
    sentence: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command.main(["compare", *arguments, "--state", str(tmp_path / "state")]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())
