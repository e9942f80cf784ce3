"""A known issue excuses a failure that shows its evidence, for a while, and nothing else."""

from __future__ import annotations

import ast
import contextlib
import datetime
import fnmatch
import json
import xml.etree.ElementTree as ET
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fakes import REPORTS_OF_A_WORKER, fake_run
from kdump_harness.__main__ import main
from kdump_harness.base import tables
from kdump_harness.base.errors import EXIT_FAILED, EXIT_OK, EXIT_USAGE, TableError
from kdump_harness.base.evidence import Evidence
from kdump_harness.base.stage import Stage
from kdump_harness.base.verdict import Verdict
from kdump_harness.distro.family import find_family
from kdump_harness.drill import judgement, steps
from kdump_harness.drill.checks import CHECKS, REQUIRED_CHECKS
from kdump_harness.drill.disks import SystemUnderTest
from kdump_harness.drill.known_issues import KnownIssue, judge, load_known_issues
from kdump_harness.drill.plan import Plan
from kdump_harness.images.catalog import load_catalog
from kdump_harness.pytest_plugin.session import scenario_name

pytest_plugins = ["pytester"]

TRACKER = "https://bugs.example/16"
TODAY = datetime.date(2026, 12, 1)
CONSOLE = "[    9.1] kdump-tools[442]: The kernel version is not supported.\n[   12.0] kdump-tools[442]: saved vmcore"
ROW = """
[[issue]]
tracker       = "https://bugs.example/16"
scenario      = ["drill", "test_smoke.py::*"]
images        = ["debian-1[34]"]
failed_checks = ["filter"]
may_fail      = ["pages"]
level_bits    = 16
kernel        = ">= 6.12"
makedumpfile  = "< 1.7.7"
until         = 2099-12-31
"""


def issue(**changes: Any) -> KnownIssue:
    row = {
        "tracker": TRACKER,
        "scenario": "*",
        "images": ("debian-13",),
        "until": datetime.date(2027, 6, 30),
        "failed_checks": ("filter",),
    }
    return KnownIssue(**{**row, **changes})


def verdict_of(*failed: str, **changes: Any) -> Verdict:
    """A drill of Debian 13 that came back, with these checks failed."""
    known = {
        "image": "debian-13",
        "family": "debian",
        "trigger": "sysrq-c",
        "target": "local",
        "accelerator": "tcg",
        "memory_mib": 1024,
        "vcpus": 2,
        "kernel": "6.12.48+deb13-cloud-amd64",
        "makedumpfile": "1.7.6",
        "level": 31,
        "reached": Stage.RECOVERED if failed else Stage.VERIFIED,
        "verified": not failed,
    }
    verdict = Verdict(**{**known, **changes})
    for name in sorted(REQUIRED_CHECKS | set(failed)):
        verdict.check(name, name not in failed, expected="no free pages", seen="12,345 free pages")
    return verdict


def judged(verdict: Verdict, *issues: KnownIssue, **how: Any) -> Verdict:
    judge(verdict, issues, **{"today": TODAY, **how})
    return verdict


# ---------------------------------------------------------------- the table that comes with the scenarios


def test_the_table_speaks_of_images_scenarios_and_checks_that_exist() -> None:
    scenarios = {"drill", "kernel", "inspect"}
    for path in tables.data_path("scenarios").glob("test_*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        scenarios |= {f"{path.name}::{node.name}" for node in tree.body if isinstance(node, ast.FunctionDef)}
    for row in load_known_issues():
        assert {*row.failed_checks, *row.may_fail} <= {check.name for check in CHECKS}
        for glob in row.images:
            assert fnmatch.filter((*load_catalog().names, "kernel-any", "inspect"), glob), glob
        for glob in [row.scenario] if isinstance(row.scenario, str) else row.scenario:
            assert fnmatch.filter(scenarios, glob), glob


def test_debian_13_with_its_backports_kernel_shows_two_known_issues_at_once() -> None:
    rows = load_known_issues()
    backports = "7.3.4+deb13-cloud-amd64"
    both = judged(verdict_of("filter", "pages", kernel=backports), *rows, today=rows[-1].until)
    assert both.known_issue == f"{rows[0].tracker} and {rows[2].tracker}"
    assert judged(verdict_of("filter", "pages"), *rows).known_issue is None
    assert judged(verdict_of("filter", "pages", "nonce", kernel=backports), *rows).known_issue is None


@pytest.mark.parametrize(
    ("changes", "excused"),
    [
        ({}, True),
        ({"until": TODAY - datetime.timedelta(days=1)}, False),
        ({"crash": "< 8.0.2"}, False),
        ({"images": ("debian-14",)}, False),
        ({"evidence": "another word"}, False),
    ],
)
def test_issues_of_several_programs_excuse_a_drill_together(changes: dict[str, Any], excused: bool) -> None:
    other = issue(**{"tracker": "crash", "failed_checks": ("crash",), "crash": "< 8.0.4", **changes})
    verdict = verdict_of("filter", "crash", crash={"version": "8.0.2"})
    assert judged(verdict, issue(), other).known_issue == (f"{TRACKER} and crash" if excused else None)


def test_the_version_of_crash_is_looked_at() -> None:
    row = issue(failed_checks=("crash",), crash="< 8.0.4")
    for version, known in (("8.0.2", TRACKER), ("8.0.4", None), ("9.0.2", None)):
        assert judged(verdict_of("crash", crash={"version": version}), row).known_issue == known
    assert judged(verdict_of("crash"), row).known_issue is None


def test_the_slab_pages_that_debian_12_loses_of_its_backports_kernel_are_known() -> None:
    verdict = verdict_of("pages", image="debian-12", kernel="6.12.95+deb12-cloud-amd64", makedumpfile="1.7.2")
    tracker = judged(verdict, *load_known_issues(), today=load_known_issues()[0].until).known_issue
    assert tracker is not None
    assert tracker.endswith("/commit/bad2a7c4fa75d37a41578441468584963028bdda")
    released = verdict_of("pages", image="debian-12", kernel="6.1.0-57-cloud-amd64", makedumpfile="1.7.2")
    assert judged(released, *load_known_issues()).known_issue is None


def test_the_free_pages_in_the_dumps_of_debian_13_are_known() -> None:
    (first, *_) = load_known_issues()
    verdict = judged(verdict_of("filter"), first, today=first.until)
    assert verdict.known_issue == "https://github.com/makedumpfile/makedumpfile/issues/16"
    assert judged(verdict_of("filter", image="debian-12", kernel="6.1.0-56-amd64"), first).known_issue is None
    assert judged(verdict_of("filter", makedumpfile="1.7.7"), first).known_issue is None


def test_the_table_is_found_in_a_wheel_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "data" / "scenarios" / "known_issues.toml"
    table.parent.mkdir(parents=True)
    table.write_text(ROW, encoding="utf-8")
    monkeypatch.setattr(tables, "_PACKAGE", tmp_path)
    assert [row.tracker for row in load_known_issues()] == [TRACKER]


# ---------------------------------------------------------------- bad rows


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("until ", "untill ", "unknown untill (known: arch, crash, evidence, "),
        ("until         = 2099-12-31", "", "missing until"),
        ("2099-12-31", '"2099-12-31"', "until must be a date, not '2099-12-31'"),
        ("2099-12-31", "2099-12-31T12:00:00", "until must be a date without a time"),
        ('"https://bugs.example/16"', '" "', "tracker must name the place of the report"),
        ('["drill", "test_smoke.py::*"]', "7", "scenario must be a glob or a list of globs, not 7"),
        ('["drill", "test_smoke.py::*"]', "[]", "scenario must not be empty"),
        ('["debian-1[34]"]', "[]", "images must not be empty"),
        ('["debian-1[34]"]', '"debian-13"', "images must be a list, not 'debian-13'"),
        ('["filter"]', '[""]', "failed_checks must not be empty"),
        ('failed_checks = ["filter"]', "", "missing evidence or failed_checks"),
        ('failed_checks = ["filter"]', "evidence = 'x'", "may_fail needs failed_checks"),
        ('failed_checks = ["filter"]', "evidence = '('", "may_fail needs failed_checks"),
        ('may_fail      = ["pages"]', "evidence = '('", "evidence is not a regular expression: "),
        ('may_fail      = ["pages"]', "evidence = 'x?'", "evidence fits any text"),
        ("= 16", "= 32", "level_bits must be 0 to 31, not 32"),
        (">= 6.12", "6.12", 'kernel must be like "< 1.7.7" or ">= 6.12, < 6.15", not \'6.12\''),
        ("< 1.7.7", "<= 1.7.7,", "makedumpfile must be like "),
    ],
)
def test_a_bad_row_is_named_by_file_row_and_key(old: str, new: str, complaint: str, tmp_path: Path) -> None:
    assert old in ROW
    table = tmp_path / "known_issues.toml"
    table.write_text(ROW + ROW.replace(old, new), encoding="utf-8")
    with pytest.raises(TableError) as refused:
        load_known_issues(table)
    assert str(refused.value).startswith(f"known_issues.toml: [[issue]] 2: {complaint}")
    assert refused.value.exit_code == EXIT_USAGE


def test_a_bad_table_is_found_before_a_guest_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "known_issues.toml").write_text(ROW.replace("images", "image"), encoding="utf-8")
    real = tables.data_path
    monkeypatch.setattr(
        tables, "data_path", lambda *parts: real(*parts) if parts[0] != "scenarios" else tmp_path / parts[-1]
    )
    monkeypatch.setattr("kdump_harness.vm.run.Run", lambda _options: pytest.fail("a run was started"))
    assert main(["drill", "debian-13", "--evidence", str(tmp_path / "evidence")]) == EXIT_USAGE
    assert "known_issues.toml: [[issue]] 1: unknown image (known: " in capfd.readouterr().err


# ---------------------------------------------------------------- what is excused


def test_an_excused_drill_is_not_verified() -> None:
    verdict = judged(verdict_of("filter"), issue())
    assert verdict.known_issue == TRACKER
    assert verdict.known_issue_note is None
    assert verdict.verified is False
    assert verdict.reached is Stage.RECOVERED


@pytest.mark.parametrize(
    ("failed", "excused"),
    [
        (("filter",), True),
        (("filter", "pages"), True),
        (("pages",), False),
        (("filter", "permissions"), False),
        (("permissions",), False),
    ],
    ids=["one", "both", "the other alone", "one beside it", "another"],
)
def test_all_of_failed_checks_and_nothing_beside_may_fail(failed: tuple[str, ...], excused: bool) -> None:
    verdict = judged(verdict_of(*failed), issue(may_fail=("pages",)))
    assert (verdict.known_issue == TRACKER) is excused


def test_had_the_check_held_the_drill_would_be_verified() -> None:
    """A drill that stopped on its way, or left a check out, failed in more than the known issue."""
    assert judged(verdict_of("filter", stopped_by="the console has been silent"), issue()).known_issue is None
    assert judged(verdict_of("filter", reached=Stage.CAPTURING), issue()).known_issue is None
    assert judged(verdict_of("filter"), issue(), unmade={"rearmed"}).known_issue is None


@pytest.mark.parametrize(
    ("pattern", "seen"),
    [
        (r"kdump-tools\[\d+\]: The kernel version is not supported\.$", True),
        (r"filter: expected no free pages, seen 12,\d+ free pages", True),
        (r"makedumpfile Failed", False),
    ],
    ids=["console", "reason", "neither"],
)
def test_evidence_is_looked_for_in_the_console_and_the_reason(pattern: str, seen: bool) -> None:
    alone = judged(verdict_of("filter", "complete"), issue(evidence=pattern, failed_checks=()), console=CONSOLE)
    assert (alone.known_issue == TRACKER) is seen
    both = judged(verdict_of("filter"), issue(evidence=pattern), console=CONSOLE)
    assert (both.known_issue == TRACKER) is seen
    other_check = judged(verdict_of("complete"), issue(evidence=pattern), console=CONSOLE)
    assert other_check.known_issue is None


@pytest.mark.parametrize(
    ("changes", "scenario"),
    [
        ({"images": ("debian-12", "fedora-*")}, "drill"),
        ({"scenario": "test_smoke.py::test_dump"}, "drill"),
        ({"scenario": "drill"}, "test_smoke.py::test_dump"),
    ],
    ids=["image", "drill", "test"],
)
def test_other_images_and_scenarios_are_not_excused(changes: dict[str, Any], scenario: str) -> None:
    verdict = judged(verdict_of("filter"), issue(**changes), scenario=scenario)
    assert verdict.known_issue is verdict.known_issue_note is None


@pytest.mark.parametrize(("arch", "excused"), [("", True), ("x86_64", True), ("aarch64", False)])
def test_only_guests_of_the_architecture_are_excused(arch: str, excused: bool) -> None:
    verdict = verdict_of("filter")
    judge(verdict, [issue(arch=arch)], today=TODAY)
    assert (verdict.known_issue is not None) == excused


def test_a_kernel_of_another_flavour_neither_has_the_issue_nor_tells_that_it_is_gone() -> None:
    row = issue(kernel=">= 6.9", except_kernel="*-64k")
    assert judged(verdict_of("filter", kernel="6.12.95+deb12-powerpc64le"), row).known_issue == TRACKER
    assert judged(verdict_of("filter", kernel="6.12.95+deb12-powerpc64le-64k"), row).known_issue is None
    assert judged(verdict_of(kernel="6.12.95+deb12-powerpc64le-64k"), row).known_issue_note is None
    assert "no longer seen" in (judged(verdict_of(kernel="6.12.95+deb12-powerpc64le"), row).known_issue_note or "")


def test_a_level_without_the_bits_is_another_matter() -> None:
    """Level 1 keeps free pages: a drill without the failure proves nothing about the issue."""
    row = issue(level_bits=16)
    assert judged(verdict_of("filter", level=31), row).known_issue == TRACKER
    assert judged(verdict_of("filter", level=1), row).known_issue is None
    assert judged(verdict_of(level=1), row).known_issue_note is None
    assert judged(verdict_of(level=None), row).known_issue_note is None


def test_only_a_drill_that_could_have_shown_an_issue_tells_that_it_is_gone() -> None:
    row = issue(kernel=">= 7.1, < 7.9", makedumpfile="< 1.7.10")
    for changes, told in (
        ({"kernel": "7.3.4-amd64"}, True),
        ({"kernel": "7.3.4-amd64", "makedumpfile": "1.7.10"}, True),
        ({"kernel": "7.9.1-amd64"}, True),
        ({"kernel": "6.12.48-amd64"}, False),  # older than the issue
        ({"kernel": None}, False),
        ({"kernel": "7.3.4-amd64", "makedumpfile": None}, False),
    ):
        note = judged(verdict_of(**changes), row).known_issue_note  # type: ignore[arg-type]
        assert ("no longer seen" in (note or "")) is told, changes
    unmade = verdict_of()
    unmade.checks = [check for check in unmade.checks if check.name != "filter"]
    assert judged(unmade, issue()).known_issue_note is None


def test_only_dumps_without_user_pages_lose_pages_of_the_slab() -> None:
    """makedumpfile 1.7.6 dropped 240 of 1,924 slab pages of Linux 7.3.4 with -d 8, and none with -d 1, 2, 4 or 16."""
    for level, told in ((1, False), (23, False), (8, True), (31, True)):
        verdict = verdict_of(image="debian-sid", kernel="7.2.13-amd64", makedumpfile="1.7.8", level=level)
        note = judged(verdict, *load_known_issues()).known_issue_note or ""
        assert ("f50c015" in note) is told, level


@pytest.mark.parametrize(
    ("bounds", "version", "within"),
    [
        (">= 6.12", "6.12.48+deb13-cloud-amd64", True),
        (">=6.12", "6.12-rc1", True),
        (">= 6.12.0", "6.12", True),
        (">= 6.12", "6.1.0-56-cloud-amd64", False),
        (">= 6.9, < 6.12", "6.11.4-301.fc41", True),
        (">= 6.9, < 6.12", "6.12.0", False),
        ("< 1.7.7", "1.7.6++", True),
        ("< 1.7.7", "1.7.10", False),
        ("< 1.7.7", None, False),
        ("< 1.7.7", "unknown", False),
    ],
)
def test_only_versions_within_the_bounds_are_excused(bounds: str, version: str | None, within: bool) -> None:
    verdict = judged(verdict_of("filter", makedumpfile=version), issue(makedumpfile=bounds))
    assert (verdict.known_issue == TRACKER) is within
    assert (verdict.known_issue_note is None) is within


def test_a_row_outside_its_versions_says_so() -> None:
    verdict = judged(verdict_of("filter", makedumpfile="1.7.8"), issue(makedumpfile="< 1.7.7"))
    assert verdict.known_issue_note == (
        f"known issue {TRACKER} does not apply: its row is for makedumpfile < 1.7.7, this is 1.7.8"
    )


def test_a_row_excuses_up_to_its_day_and_then_says_that_it_has_expired() -> None:
    until = datetime.date(2027, 6, 30)
    assert judged(verdict_of("filter"), issue(), today=until).known_issue == TRACKER
    late = judged(verdict_of("filter"), issue(), today=until + datetime.timedelta(days=1))
    assert late.known_issue is None
    assert late.known_issue_note == f"known issue {TRACKER} does not apply: its row expired on 2027-06-30"


def test_a_verified_drill_tells_that_the_issue_is_no_longer_seen() -> None:
    verdict = judged(verdict_of(), issue(), issue())
    assert verdict.verified
    assert verdict.known_issue is None
    assert verdict.known_issue_note == f"known issue {TRACKER} no longer seen"
    newer = judged(verdict_of(makedumpfile="1.7.8"), issue(makedumpfile="< 1.7.7"))
    assert newer.known_issue_note == (
        f"known issue {TRACKER} no longer seen (its row is for makedumpfile < 1.7.7, this is 1.7.8)"
    )


# ---------------------------------------------------------------- the drill and the command line


@pytest.mark.parametrize(("left_out", "tracker"), [((), TRACKER), (("rearmed",), None)], ids=["all made", "one not"])
def test_verdict_json_names_the_known_issue(
    left_out: tuple[str, ...], tracker: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judgement, "load_known_issues", lambda: (issue(scenario="drill"),))
    run = fake_run()
    plan = Plan(subject=SystemUnderTest(name="debian-13", family=find_family("debian")))
    with contextlib.closing(Evidence(tmp_path / "drill")) as evidence:
        one: Any = steps.Drill(run, plan, evidence)  # type: ignore[arg-type]  # no hypervisor is needed to judge
        one.verdict.reached = Stage.RECOVERED
        for name in sorted(REQUIRED_CHECKS - set(left_out)):
            one.verdict.check(name, name != "filter", expected="", seen="")
        one.conclude(SimpleNamespace(panic_text=None, failed=None))
    written = json.loads((tmp_path / "drill" / "verdict.json").read_text(encoding="utf-8"))
    assert (written["known_issue"], written["verified"]) == (tracker, False)


@pytest.mark.parametrize(
    ("verdict", "status", "line"),
    [
        (judged(verdict_of("filter"), issue()), EXIT_FAILED, f"known issue: {TRACKER}\n"),
        (judged(verdict_of("filter", "nonce"), issue()), EXIT_FAILED, "verified: false\n"),
        (judged(verdict_of(), issue()), EXIT_OK, f"known issue {TRACKER} no longer seen\n"),
    ],
    ids=["known", "unknown", "gone"],
)
def test_the_command_line_shows_it_and_keeps_the_exit_status(
    verdict: Verdict,
    status: int,
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("kdump_harness.vm.run.Run", lambda _options: contextlib.nullcontext())
    monkeypatch.setattr("kdump_harness.drill.session.run_drill", lambda _run, _plan: verdict)
    result = tmp_path / "result.json"
    assert main(["drill", "debian-13", "--evidence", str(tmp_path / "evidence"), "--json", str(result)]) == status
    out = capfd.readouterr().out
    assert line in out
    assert ("known issue" in out) is ("known issue" in line)
    assert json.loads(result.read_text(encoding="utf-8"))["known_issue"] == verdict.known_issue


# ---------------------------------------------------------------- the pytest plugin

# In place of guests: the name of a drill lists the checks that fail in it.
CONFTEST = """
import pathlib
import pytest
from kdump_harness.base.errors import GuestError
from kdump_harness.base.stage import Stage
from kdump_harness.base.verdict import Verdict
from kdump_harness.pytest_plugin.short_names import *

@pytest.fixture(scope="session")
def kdump_run():
    return None

@pytest.fixture(autouse=True)
def _drills_without_guests(monkeypatch):
    # Imported here: it takes 0.4 s, and the controller of xdist has no use for it.
    from kdump_harness.drill.known_issues import judge, load_known_issues
    from kdump_harness.drill.warm_pool import WarmPool

    def run_drill(run, plan):
        failed = plan.name.split()
        if "broken" in failed:
            raise GuestError("the guest did not boot")
        verdict = Verdict(
            image=plan.subject.name, family="debian", trigger="sysrq-c", target="local", accelerator="tcg",
            memory_mib=1024, vcpus=2, level=31, kernel="6.12.48+deb13-cloud-amd64", makedumpfile="1.7.6",
            reached=Stage.RECOVERED if failed else Stage.VERIFIED, verified=not failed,
        )
        for name in ("complete", "filter", "nonce"):
            verdict.check(name, name not in failed, expected="good", seen="bad")
        table = pathlib.Path(__file__).with_name("known_issues.toml")
        judge(verdict, load_known_issues(table), scenario=plan.scenario)
        return verdict
    monkeypatch.setattr(WarmPool, "drill", lambda pool, plan: run_drill(None, plan))
"""

SCENARIOS = """
    def judge(drill, *failed):
        verdict = drill(name=" ".join(failed))
        assert verdict.verified, verdict.explain()

    def test_known(drill): judge(drill, "filter")
    def test_known_twice(drill): drill(name=""); drill(name="filter"); judge(drill, "filter")
    def test_gone(drill): judge(drill)
    def test_another_check(drill): judge(drill, "nonce")
    def test_another_check_beside_it(drill): judge(drill, "filter", "nonce")
    def test_another_drill(drill): drill(name="nonce"); judge(drill, "filter")
    def test_not_of_a_drill(drill): judge(drill); assert False
    def test_no_assertion(drill): drill(name="filter"); raise RuntimeError("ours")
    def test_no_verdict(drill): drill(name="filter"); judge(drill, "broken")
    def test_no_drill(): assert False
    def test_other_scenario(drill): judge(drill, "filter")
    def test_late(drill): judge(drill, "filter")
"""
KNOWN = ("test_known", "test_known_twice")
PASSED = ("test_gone",)
TABLE = ROW.replace("test_smoke.py::*", "test_smoke.py::test_[kgan]*") + (
    ROW.replace("test_smoke.py::*", "test_smoke.py::test_late").replace("2099", "2025")
)


class Outcome:
    """The output of pytest for the scenarios, as text and as JUnit XML."""

    def __init__(self, result: pytest.RunResult, junit: Path) -> None:
        self.lines, self.status = result.stdout.lines, int(result.ret)
        self.cases = {str(case.get("name")).partition("[")[0]: case for case in ET.parse(junit).iter("testcase")}

    def summary(self, test: str) -> list[str]:
        """The lines about a test in the section on known issues."""
        start = f"test_smoke.py::{test}[debian-13]: "
        return [line.removeprefix(start) for line in self.lines if line.startswith(start)]

    def excused(self) -> dict[str, str | None]:
        """The tests that were expected to fail, with the reason."""
        found = {name: case.find("skipped") for name, case in self.cases.items()}
        return {name: one.get("message") for name, one in found.items() if one is not None}

    def failed(self) -> set[str]:
        return {name for name, case in self.cases.items() if case.find("failure") is not None}

    def properties(self, test: str) -> dict[str | None, str | None]:
        return {one.get("name"): one.get("value") for one in self.cases[test].iter("property")}


@pytest.fixture
def run_scenarios(pytester: pytest.Pytester) -> Any:
    """Run SCENARIOS on debian-13 with other pytest arguments."""

    def run(*arguments: str, conftest: str = CONFTEST) -> Outcome:
        pytester.makeconftest(conftest)
        (pytester.path / "known_issues.toml").write_text(TABLE, encoding="utf-8")
        pytester.makepyfile(test_smoke=SCENARIOS)
        command = ("-p", "no:cacheprovider", "-rx", "--image", "debian-13", "--junitxml=junit.xml", *arguments)
        result = pytester.runpytest_inprocess(*command)
        return Outcome(result, pytester.path / "junit.xml")

    return run


@pytest.mark.parametrize("conftest", [CONFTEST, CONFTEST + REPORTS_OF_A_WORKER], ids=["alone", "as of workers"])
def test_the_plugin_excuses_known_issues_and_nothing_else(run_scenarios: Any, conftest: str) -> None:
    outcome = run_scenarios("-W", "error", conftest=conftest)
    assert outcome.excused() == dict.fromkeys(KNOWN, f"known issue: {TRACKER}")
    assert outcome.failed() == set(outcome.cases) - {*KNOWN, *PASSED}

    assert f"XFAIL test_smoke.py::test_known[debian-13] - known issue: {TRACKER}" in outcome.lines
    known = outcome.properties("test_known")
    assert (known["known_issue"], known["verified"], "known_issue_note" in known) == (TRACKER, "false", False)

    gone = f"known issue {TRACKER} no longer seen"
    assert outcome.summary("test_gone") == [gone]
    assert outcome.properties("test_gone")["known_issue_note"] == gone
    assert "known_issue" not in outcome.properties("test_gone")

    assert outcome.summary("test_known_twice") == []
    assert outcome.summary("test_late") == [f"known issue {TRACKER} does not apply: its row expired on 2025-12-31"]
    assert outcome.summary("test_no_assertion") == [f"shows the known issue {TRACKER}, not excused"]
    assert outcome.summary("test_other_scenario") == []


def test_run_known_excuses_nothing(run_scenarios: Any) -> None:
    outcome = run_scenarios("--run-known", "-k", "known or gone")
    assert (outcome.excused(), outcome.failed(), outcome.status) == ({}, set(KNOWN), 1)
    assert outcome.summary("test_known") == [f"shows the known issue {TRACKER}, not excused"]
    assert outcome.properties("test_known")["known_issue"] == TRACKER


def test_a_run_of_known_issues_and_passes_is_a_success(run_scenarios: Any) -> None:
    assert run_scenarios("-k", "known or gone").status == 0


def test_a_scenario_is_named_by_file_and_test() -> None:
    path = Path("/x/scenarios/test_smoke.py")
    node = SimpleNamespace(path=path, nodeid="scenarios/test_smoke.py::TestA::test_b[[c]-d::e]")
    assert scenario_name(node) == "test_smoke.py::TestA::test_b"
