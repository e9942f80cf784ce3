"""The matrix: the report of each test, with and without workers, and the selection of images."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from fakes import REPORTS_OF_A_WORKER
from kdump_harness.base.evidence import EvidenceRoot
from kdump_harness.drill import warm_pool  # noqa: F401  # numpy, which nested runs need, can be imported only once
from kdump_harness.pytest_plugin.matrix import UNFINISHED, Matrix, MatrixEntry, Outcome, short_names

pytest_plugins = ["pytester"]

TRACKER = "https://bugs.example/16"

# In place of guests: a drill's level says what comes of it, and rocky-9 is nowhere to be had.
CONFTEST = """
import contextlib
import json
import pathlib
import pytest
from kdump_harness.base.errors import GuestError, HostError
from kdump_harness.base.evidence import EvidenceRoot
from kdump_harness.base.stage import Stage
from kdump_harness.base.verdict import Verdict
from kdump_harness.pytest_plugin.short_names import *

VERIFIED, FILTER, KNOWN, BROKEN = 31, 1, 16, 0
TRIED = pathlib.Path(__file__).with_name("tried")

class Run(contextlib.AbstractContextManager):
    def __init__(self, options, progress=None):
        if options.uri == "broken":
            raise HostError("libvirt does not answer")
        self.root = EvidenceRoot(options.evidence, part=options.evidence_part)
        self.evidence_directory = self.root.run

    def __exit__(self, *_): ...

def run_drill(run, plan):
    name, level = plan.subject.name, plan.config.level
    if name == "rocky-9":
        with TRIED.open("a") as file:
            file.write(name + "\\n")
        from kdump_harness.images.download import Unreachable

        where = "get x.qcow2 from https://vendor.example/ and put it into /cache/"
        raise Unreachable(f"{name} is behind a login: {where}\\nand more")
    evidence = run.root.drill(plan.name)
    evidence.close()
    if level == BROKEN:
        raise GuestError("the guest did not boot", see=evidence.directory)
    verdict = Verdict(
        image=name, family="debian", trigger="sysrq-c", target="local", accelerator="tcg", memory_mib=1024, vcpus=2,
        level=level, kernel="6.12.48+deb13-cloud-amd64", makedumpfile="1.7.6", evidence=str(evidence.directory),
        reached=Stage.VERIFIED if level == VERIFIED else Stage.RECOVERED, verified=level == VERIFIED,
        known_issue="https://bugs.example/16" if level == KNOWN else None,
    )
    verdict.check("filter", level == VERIFIED, expected="none " + 30 * "of it ", seen="all")
    (evidence.directory / "verdict.json").write_text(json.dumps(verdict.to_json()))
    return verdict

@pytest.fixture(scope="session", autouse=True)
def _no_guests():
    # Imported here: it takes 0.4 s, and the controller of xdist has no use for it.
    import kdump_harness.vm.run
    from kdump_harness.drill.warm_pool import WarmPool

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kdump_harness.vm.run, "Run", Run)
        patch.setattr(WarmPool, "drill", lambda pool, plan: run_drill(pool._run, plan))
        yield
"""

SCENARIOS = """
    import pytest
    from kdump_harness.kdump.service import KdumpConfig
    from kdump_harness.pytest_plugin import pin_image

    def judge(drill, level):
        verdict = drill(config=KdumpConfig(crashkernel=None, level=level, compress=None))
        assert verdict.verified, verdict.explain()

    def test_good(drill): judge(drill, 31)
    def test_bad(drill): judge(drill, 31); judge(drill, 1)
    def test_known(drill): judge(drill, 16)
    def test_broken(drill): judge(drill, 0)
    def test_a_lie_that_is_seen(drill):
        with pytest.raises(AssertionError): judge(drill, 1)
    @pytest.mark.parametrize("level", [31, 1, 30])
    @pytest.mark.parametrize("kdump_trigger", ["sysrq-c"], indirect=True)
    def test_dimensions(drill, trigger, level): judge(drill, level)
    @pytest.mark.skip(reason="no time for it")
    def test_skipped(drill): judge(drill, 31)
    def test_no_drill(image): assert image.name == "debian-13"
    @pytest.fixture
    def leaky():
        yield
        raise RuntimeError("left something behind")
    def test_fixture(drill, leaky): judge(drill, 31)
    @pin_image("debian-13", "debian-11")
    def test_pinned(drill): judge(drill, 31)
    def test_without_image(): pass
"""


class Outcomes:
    """The results of a pytest run: its output, the matrix and JUnit XML."""

    def __init__(self, result: pytest.RunResult, directory: Path, matrix: Path | None) -> None:
        self.status, self.text = int(result.ret), result.stdout.str() + result.stderr.str()
        head = [at for at, line in enumerate(result.stdout.lines) if re.match("=+ images × scenarios =+", line)]
        after = result.stdout.lines[head[0] + 1 :] if head else []
        self.lines = after[: next((at for at, line in enumerate(after) if line.startswith("===")), len(after))]
        path = matrix or next(iter(directory.glob("evidence/2*/matrix.json")), None)
        self.path = path
        self.matrix = json.loads(path.read_text(encoding="utf-8")) if path and path.exists() else None
        self.cases = list(ET.parse(directory / "junit.xml").iter("testcase"))

    def outcomes(self) -> dict[str, str]:
        """Return the outcome of each test, by the name of the test with its parameters."""
        return {one["nodeid"].partition("::test_")[2]: one["outcome"] for one in self.matrix["tests"]}

    def test(self, name: str) -> dict[str, Any]:
        (found,) = (one for one in self.matrix["tests"] if one["nodeid"].endswith(f"::test_{name}"))
        return found  # type: ignore[no-any-return]

    def properties(self, name: str) -> dict[str, str]:
        (case,) = (one for one in self.cases if one.get("name") == f"test_{name}")
        return {str(one.get("name")): str(one.get("value")) for one in case.iter("property")}


@pytest.fixture
def run_matrix(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run scenarios with other pytest arguments."""

    def run(*arguments: str, scenarios: str = SCENARIOS, conftest: str = CONFTEST, columns: int = 100) -> Outcomes:
        monkeypatch.setenv("COLUMNS", str(columns))
        pytester.makeconftest(conftest)
        pytester.makepyfile(test_some=scenarios)
        command = ("-p", "no:cacheprovider", "-p", "no:randomly", "--junitxml=junit.xml", *arguments)
        if "-n" in arguments:
            result = pytester.runpytest_subprocess(*command)
        else:
            result = pytester.runpytest_inprocess(*command, no_reraise_ctrlc=True)
        named = [argument.partition("=")[2] for argument in arguments if argument.startswith("--matrix=")]
        return Outcomes(result, pytester.path, pytester.path / named[0] if named else None)

    return run


TABLE = """\
           1       2                   3      4                       5      6         7
debian-12  passed  FAILED (RECOVERED)  error  FAILED (RECOVERED) 2/3  error  verified  known issue
debian-13  passed  FAILED (RECOVERED)  error  FAILED (RECOVERED) 2/3  error  verified  known issue

           8       9         10
debian-12  FAILED  -         skipped
debian-13  passed  verified  skipped

 1  test_some.py::test_a_lie_that_is_seen
 2  test_some.py::test_bad
 3  test_some.py::test_broken
 4  test_some.py::test_dimensions
 5  test_some.py::test_fixture
 6  test_some.py::test_good
 7  test_some.py::test_known
 8  test_some.py::test_no_drill
 9  test_some.py::test_pinned
10  test_some.py::test_skipped
"""


@pytest.mark.parametrize("conftest", [CONFTEST, CONFTEST + REPORTS_OF_A_WORKER], ids=["alone", "as of workers"])
def test_each_test_is_in_the_table_in_json_and_in_junit(run_matrix: Any, conftest: str) -> None:
    found = run_matrix("--image", "debian-1[23]", conftest=conftest)
    assert found.status == 1
    assert "\n".join(found.lines).startswith(TABLE)
    assert found.outcomes() == {
        f"{test}[{image}{parameters}]": outcome
        for image in ("debian-12", "debian-13")
        for test, parameters, outcome in (
            ("good", "", "verified"),
            ("bad", "", "failed"),
            ("known", "", "known issue"),
            ("broken", "", "error"),
            ("a_lie_that_is_seen", "", "passed"),
            ("dimensions", "-sysrq-c-31", "verified"),
            ("dimensions", "-sysrq-c-1", "failed"),
            ("dimensions", "-sysrq-c-30", "failed"),
            ("skipped", "", "skipped"),
            ("no_drill", "", "failed" if image == "debian-12" else "passed"),
            ("fixture", "", "error"),
            *([("pinned", "", "verified")] if image == "debian-13" else []),
        )
    }
    assert found.matrix["counts"] == {
        "failed": 7, "error": 4, "known issue": 2, "skipped": 2, "passed": 3, "verified": 5,
    }  # fmt: skip
    assert (found.matrix["images"], found.matrix["unavailable"]) == (["debian-12", "debian-13"], {})

    bad = found.test("bad[debian-13]")
    assert [verdict["verified"] for verdict in bad["verdicts"]] == [True, False]
    assert bad["verdicts"][1] == json.loads((Path(bad["evidence"][1]) / "verdict.json").read_text(encoding="utf-8"))
    assert bad["reason"].startswith("filter: expected none of it")
    assert 0 <= bad["duration_s"] < 60
    assert found.test("broken[debian-13]")["reason"] == "GuestError: the guest did not boot"
    assert found.test("fixture[debian-13]")["reason"] == "RuntimeError: left something behind"
    assert found.test("no_drill[debian-12]")["reason"].startswith("assert 'debian-12' == 'debian-13'")

    assert found.properties("bad[debian-13]").items() >= {
        "image": "debian-13", "scenario": "test_some.py::test_bad", "outcome": "failed", "verified": "false",
    }.items()  # fmt: skip
    assert found.properties("fixture[debian-12]")["outcome"] == "error"
    assert found.properties("skipped[debian-12]")["skip_reason"] == "no time for it"
    assert "skip_reason" not in found.properties("known[debian-12]")
    assert found.properties("known[debian-12]")["outcome"] == "known issue"
    assert found.properties("without_image") == {}

    below = "\n".join(found.lines).removeprefix(TABLE)
    for name, label in (("bad[debian-12]", "FAILED (RECOVERED)"), ("broken[debian-13]", "error")):
        evidence = found.test(name)["evidence"][-1]
        head, path = re.escape(f"{label} test_some.py::test_{name}: "), re.escape(evidence)
        assert re.search(rf"^{head}.*\n(    (?!evidence).*\n){{0,2}}    evidence: {path}$", below, re.MULTILINE)
        assert Path(evidence).is_dir()
    assert f"known issue test_some.py::test_known[debian-12]:\n    {TRACKER}\n" in below
    assert "skipped test_some.py::test_skipped[debian-12]: no time for it" in below
    assert f"JSON: {found.path.relative_to(Path.cwd())}" in below

    (run,) = Path("evidence").glob("2*")
    assert Path("evidence/last").resolve() == run.resolve() == found.path.parent
    places = [Path(path) for one in found.matrix["tests"] for path in one["evidence"]]
    assert len(set(places)) == len(places) == 21
    assert {path.relative_to(run).parts[:-2] for path in places} == {()}
    assert all(len(line) <= 100 for line in found.lines if "evidence: " not in line)


KERNEL_DRILLS = """
import kdump_harness.kernel.drill, kdump_harness.kernel.source, kdump_harness.kernel.userland
from types import SimpleNamespace

def drill_kernel(run, plan):
    return run_drill(run, SimpleNamespace(
        name=plan.name, config=SimpleNamespace(level=plan.level), subject=SimpleNamespace(name=f"kernel-{plan.kernel}")
    ))

Run.state = Run.progress = None

@pytest.fixture(scope="session", autouse=True)
def _no_kernels():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kdump_harness.kernel.drill, "run_kernel_drill", drill_kernel)
        patch.setattr(kdump_harness.kernel.source, "find_kernel", lambda kernel, *_: kernel)
        patch.setattr(kdump_harness.kernel.userland, "make_userland", lambda *_: None)
        yield
"""


def test_kernel_drills_are_rows_of_the_table(run_matrix: Any) -> None:
    scenarios = """
        import pytest

        @pytest.mark.parametrize("suite", ["sid", "trixie"])
        def test_suite(kernel_drill, suite):
            verdict = kernel_drill(suite, level=31 if suite == "sid" else 1)
            assert verdict.verified, verdict.explain()
        def test_none(kernel_drill): raise OSError("no kernel")
    """
    found = run_matrix(scenarios=scenarios, conftest=CONFTEST + KERNEL_DRILLS)
    assert found.matrix["images"] == ["kernel", "kernel-sid", "kernel-trixie"]
    assert found.outcomes() == {"suite[sid]": "verified", "suite[trixie]": "failed", "none": "error"}
    assert found.test("suite[trixie]")["reason"].startswith("filter: expected none of it")
    assert found.properties("suite[sid]")["image"] == "kernel-sid"


NEEDS_A_LOGIN = "rocky-9 is behind a login: get x.qcow2 from https://vendor.example/ and put it into /cache/"


def test_shards_are_parts_of_one_whole(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_some="import pytest\n@pytest.mark.parametrize('n', range(8))\ndef test_it(n): pass\ndef test_other(): pass"
    )
    parts = []
    for number in (1, 2, 3):
        command = ("--collect-only", "-q", "-p", "no:cacheprovider", "-k", "test_it", f"--kdump-shard={number}/3")
        result = pytester.runpytest_inprocess(*command)
        parts.append([line for line in result.stdout.lines if "::test_it" in line])
    assert sorted(map(len, parts)) == [2, 3, 3]
    assert len(set().union(*parts)) == 8
    result = pytester.runpytest_inprocess("--kdump-shard=2/3")
    result.assert_outcomes(passed=3, deselected=6)
    result.stdout.fnmatch_lines(["shard 2 of 3: 3 tests; the others are for the other shards"])
    for wrong in ("0/3", "4/3", "1", "a/b", "1/0"):
        result = pytester.runpytest_inprocess(f"--kdump-shard={wrong}")
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines([f"*invalid shard {wrong}: expected I/N*"])


EXPECTED_TO_FAIL = """
    @pytest.mark.xfail(strict=False)
    def test_expected_to_fail(drill): judge(drill, 31)
"""
DEADLY = """
    import os
    def test_deadly(image): os._exit(1) if image.name == "debian-12" else None
"""


def test_workers_report_to_one_matrix(run_matrix: Any) -> None:
    """The only run with real workers: a third one replaces the one that dies."""
    found = run_matrix(
        "-n", "2", "-W", "error", "--image", "rocky-9", "--image", "debian-12", "--strict-images",
        "-k", "good or bad or expected or deadly", scenarios=SCENARIOS + EXPECTED_TO_FAIL + DEADLY,
    )  # fmt: skip
    assert found.status == 1
    assert found.outcomes() == {
        "good[debian-12]": "verified",
        "bad[debian-12]": "failed",
        "expected_to_fail[debian-12]": "verified",
        "deadly[debian-12]": "error",
        "deadly[rocky-9]": "passed",
        **{f"{name}[rocky-9]": "error" for name in ("good", "bad", "expected_to_fail")},
    }
    assert found.test("deadly[debian-12]")["reason"] == UNFINISHED
    assert found.test("bad[debian-12]")["reason"].startswith("filter: expected none of it")
    assert found.matrix["unavailable"] == {"rocky-9": NEEDS_A_LOGIN}
    assert len(Path("tried").read_text().splitlines()) <= 3  # each process tries once
    properties = found.properties("good[rocky-9]")
    assert (properties["outcome"], properties["skip_reason"]) == ("error", NEEDS_A_LOGIN)
    assert found.properties("bad[debian-12]")["outcome"] == "failed"
    (run,) = Path("evidence").glob("2*")
    assert Path("evidence/last").resolve() == run.resolve() == found.path.parent
    places = [Path(path) for one in found.matrix["tests"] for path in one["evidence"]]
    assert len(set(places)) == len(places) == 4
    assert {path.relative_to(run).parts[:-2] for path in places} <= {("gw0",), ("gw1",), ("gw2",)}


@pytest.mark.parametrize("strict", [False, True], ids=["skip", "strict"])
def test_an_image_that_cannot_be_had(run_matrix: Any, strict: bool) -> None:
    found = run_matrix(
        "--image", "rocky-9", "--image", "debian-12", "-k", "good or bad or expected",
        *(["--strict-images"] if strict else []), columns=120, scenarios=SCENARIOS + EXPECTED_TO_FAIL,
    )  # fmt: skip
    outcome = "error" if strict else "skipped"
    assert {name: one for name, one in found.outcomes().items() if "rocky" in name} == {
        f"{name}[rocky-9]": outcome for name in ("good", "bad", "expected_to_fail")
    }
    assert found.matrix["unavailable"] == {"rocky-9": NEEDS_A_LOGIN}
    assert found.lines.count(f"rocky-9 is unavailable: {NEEDS_A_LOGIN}") == 1
    assert Path("tried").read_text().splitlines() == ["rocky-9"]
    properties = found.properties("good[rocky-9]")
    assert (properties["outcome"], properties["skip_reason"]) == (outcome, NEEDS_A_LOGIN)
    assert (f"FAILED test_some.py::test_good[rocky-9] - Failed: {NEEDS_A_LOGIN[:20]}" in found.text) is strict


def test_a_run_without_any_image_fails_only_when_strict(run_matrix: Any) -> None:
    assert run_matrix("--image", "rocky-9", "-k", "good").status == 0
    assert run_matrix("--image", "rocky-9", "-k", "good", "--strict-images").status == 1


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ((), {"good[debian-12]", "pinned[debian-11]", "pinned[debian-13]"}),
        (("--image", "debian-13"), {"good[debian-13]", "pinned[debian-13]"}),
        (("--image", "debian-*"), {f"good[debian-{release}]" for release in ("11", "12", "13", "sid")}
            | {"pinned[debian-11]", "pinned[debian-13]"}),
        (("--image", "debian-12"), {"good[debian-12]"}),
    ],
    ids=["nothing asked", "one of them", "glob", "another"],
)  # fmt: skip
def test_pinned_scenarios_run_on_those_of_their_images_that_are_asked_for(
    run_matrix: Any, arguments: tuple[str, ...], names: set[str]
) -> None:
    found = run_matrix(*arguments, "-k", "good or pinned or without")
    assert set(found.outcomes()) == names
    assert 'name="test_without_image"' in Path("junit.xml").read_text()  # what needs no image is not left out


def test_a_glob_that_fits_no_image_is_a_usage_error(run_matrix: Any) -> None:
    found = run_matrix("--image", "solaris-*")
    assert found.status == pytest.ExitCode.USAGE_ERROR
    assert "no image matches 'solaris-*'" in found.text
    assert found.matrix is None


def test_an_unfit_host_is_reported_for_each_test(run_matrix: Any) -> None:
    found = run_matrix("--uri", "broken", "-k", "good or pinned")
    assert set(found.outcomes().values()) == {"error"}
    assert {one["reason"] for one in found.matrix["tests"]} == {"HostError: libvirt does not answer"}
    assert f"JSON: {found.path.relative_to(Path.cwd())}" in found.lines


def test_evidence_that_cannot_be_written_is_only_reported(run_matrix: Any) -> None:
    Path("mine").write_text("not a directory")
    found = run_matrix("--evidence", "mine", "-k", "good")
    assert found.status == 1
    assert any(line.startswith("no JSON: the evidence directory mine cannot be written") for line in found.lines)
    assert Path("mine").read_text() == "not a directory"


REASONS = """
    def test_bare(drill):
        from kdump_harness.kdump.service import KdumpConfig
        verdict = drill(config=KdumpConfig(crashkernel=None, level=1, compress=None))
        assert verdict.verified
    def test_another_matter(drill):
        from kdump_harness.kdump.service import KdumpConfig
        verdict = drill(config=KdumpConfig(crashkernel=None, level=31, compress=None))
        assert verdict.vcpus == 4, verdict.explain()
    def test_silent(image): raise ValueError
"""


def test_the_reason_is_shown_for_any_form_of_assertion(run_matrix: Any) -> None:
    found = run_matrix("--image", "debian-12", scenarios=REASONS)
    reasons = {name: found.test(f"{name}[debian-12]")["reason"] for name in ("bare", "another_matter", "silent")}
    assert reasons["bare"].startswith("assert False (the drill: filter: expected none of it")
    assert reasons["another_matter"] == "assert 2 == 4"
    assert reasons["silent"] == "ValueError"


def test_an_interrupt_does_not_lose_the_matrix(run_matrix: Any) -> None:
    scenarios = (
        "    def test_a(image): pass\n    def test_b(image): raise KeyboardInterrupt\n    def test_c(image): pass\n"
    )
    found = run_matrix("--image", "debian-12", scenarios=scenarios)
    assert found.status == pytest.ExitCode.INTERRUPTED
    assert found.outcomes() == {"a[debian-12]": "passed", "b[debian-12]": "error"}
    assert any(re.match(r"debian-12 +passed +error", line) for line in found.lines)


def test_a_place_of_ones_own_for_the_json(run_matrix: Any) -> None:
    Path("mine.json").write_text("old")
    found = run_matrix("--matrix=mine.json", "-k", "good")
    assert set(found.outcomes()) == {"good[debian-12]"}
    assert list(Path("evidence").rglob("matrix.json")) == []
    nothing = run_matrix("--matrix=mine.json", "-k", "nothing")
    assert nothing.matrix["tests"] == []  # and not those of before


@pytest.mark.parametrize("place", ["nowhere/matrix.json", "."])
def test_a_place_that_cannot_be_written_is_a_usage_error_before_any_drill(
    pytester: pytest.Pytester, place: str
) -> None:
    pytester.makepyfile("def test_it(kdump_drill): pass")
    result = pytester.runpytest_inprocess(f"--kdump-matrix={place}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert f"--kdump-matrix {place} cannot be written" in result.stderr.str()


@pytest.mark.parametrize("arguments", [("-k", "without"), ("--collect-only",)], ids=["no image", "collect only"])
def test_nothing_is_written_where_no_image_was_run(run_matrix: Any, arguments: tuple[str, ...]) -> None:
    found = run_matrix(*arguments)
    assert (found.status, found.lines, found.matrix, Path("evidence").exists()) == (0, [], None, False)


# ---------------------------------------------------------------- the table by itself


def entry(image: str, scenario: str, outcome: Outcome = Outcome.VERIFIED, **more: Any) -> MatrixEntry:
    parameters = more.pop("parameters", "")
    return MatrixEntry(
        image=image, scenario=scenario, nodeid=f"scenarios/{scenario}[{image}{parameters}]", outcome=outcome, **more
    )


def matrix_of(*entries: MatrixEntry) -> Matrix:
    matrix = Matrix()
    for one in entries:
        matrix.add(one)
    return matrix


def test_names_of_scenarios_where_they_fit() -> None:
    matrix = matrix_of(
        entry("debian-12", "test_smoke.py::test_dump"),
        entry("debian-9", "test_smoke.py::test_dump", Outcome.ERROR, reason="broke"),
        entry("rocky-10", "test_net.py::test_ssh", Outcome.SKIPPED, reason="no network", unavailable=True),
    )
    assert list(matrix.lines(80)) == [
        "           ssh      dump",
        "debian-9   -        error",
        "debian-12  -        verified",
        "rocky-10   skipped  -",
        "",
        "error test_smoke.py::test_dump[debian-9]: broke",
        "rocky-10 is unavailable: no network",
    ]


def test_a_name_that_two_files_have_comes_with_its_file() -> None:
    names = ["test_a.py::test_dump", "test_b.py::test_dump", "test_b.py::TestC::test_d"]
    assert short_names(names) == ["a::dump", "b::dump", "TestC::d"]


@pytest.mark.parametrize("width", [10, 40, 66, 80, 132])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    matrix = matrix_of(
        *(
            entry(image, f"test_{'x' * number}.py::test_{'y' * number * 7}", Outcome.FAILED, reason="why " * number * 9)
            for image in ("debian-12", "an-image-with-a-name-that-nobody-would-type-twice")
            for number in range(12)
        ),
        entry("rocky-9", "test_x.py::test_y", Outcome.SKIPPED, unavailable=True, reason="no such host, " * 30),
    )
    lines = list(matrix.lines(width))
    assert max(map(len, lines)) <= max(width, 40)
    assert sum(line.startswith("debian-12") for line in lines) >= 2  # in parts


def test_a_long_reason_has_three_lines() -> None:
    found = entry("a", "t.py::t", Outcome.ERROR, reason="word " * 99, evidence=["evidence/of it"])
    lines = list(matrix_of(found).lines(60))[3:]
    assert (len(lines), lines[0][:22], lines[2][-5:]) == (4, "error t.py::t[a]: word", "word…")
    assert lines[3] == "    evidence: evidence/of it"


def test_the_reason_of_an_unavailable_image_is_not_shortened() -> None:
    reason = "get the-very-long-name-of-a-file.qcow2 from https://vendor.example/downloads/of/that/kind and put it here"
    lines = list(matrix_of(entry("a", "t.py::t", Outcome.SKIPPED, unavailable=True, reason=reason)).lines(40))
    assert " ".join(line.strip() for line in lines[-6:]).endswith(reason)


def test_the_newest_news_of_a_test_count() -> None:
    matrix = matrix_of(entry("a", "t.py::t", Outcome.ERROR, reason=UNFINISHED), entry("a", "t.py::t"))
    assert [one["outcome"] for one in matrix.to_json()["tests"]] == ["verified"]


def test_an_entry_travels_as_plain_values() -> None:
    one = entry("a", "t.py::t", Outcome.FAILED, verdicts=[{"dump": {"path": Path("x")}}], evidence=["e"])
    told = one.to_json()
    assert json.loads(json.dumps(told)) == told
    again = MatrixEntry.from_json(told)
    assert (again.outcome, again.evidence, again.verdicts) == (Outcome.FAILED, ["e"], [{"dump": {"path": "x"}}])


def test_processes_of_one_run_share_its_directory_and_nothing_in_it(tmp_path: Path) -> None:
    roots = [EvidenceRoot(tmp_path, part=("run", worker)) for worker in ("gw0", "gw1", "gw0")]
    assert [root.run.relative_to(tmp_path).as_posix() for root in roots] == ["run/gw0", "run/gw1", "run/gw0-2"]
    assert (tmp_path / "last").readlink() == Path("run")
