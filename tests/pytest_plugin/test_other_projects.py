"""The plugin in other projects' pytest runs: cheap, and without effect on their tests."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from fakes import FakeClock
from kdump_harness.cli import options
from kdump_harness.pytest_plugin import options as plugin_options
from kdump_harness.pytest_plugin.attachments import attach
from kdump_harness.pytest_plugin.session import VERDICTS
from kdump_harness.vm.hypervisor.domain_xml import FIRMWARE

pytest_plugins = ["pytester"]


def test_fixtures_of_other_projects_are_theirs(pytester: pytest.Pytester) -> None:
    """A project may have a folder harness/ and fixtures of the same names."""
    package = pytester.mkpydir("harness")
    (package / "code.py").write_text("VALUE = 7\n")
    pytester.makeconftest("""
        import pytest

        @pytest.fixture
        def image(): return "logo.png"

        @pytest.fixture(params=["door", "wall"])
        def target(request): return request.param
    """)
    pytester.makepyfile("""
        from harness.code import VALUE

        def test_image(image, target):
            assert (image, VALUE) == ("logo.png", 7)
            assert target in ("door", "wall")
    """)
    result = pytester.runpytest_inprocess("-v", "--kdump-image", "debian-13", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=2)
    result.stdout.no_fnmatch_line("*images × scenarios*")


def test_the_example_of_another_project_has_its_own_tests_and_a_drill(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The project of docs/examples/lab has a folder harness/, an option --image, and its own image and family."""
    shutil.copytree(Path(__file__).parents[2] / "docs" / "examples" / "lab", pytester.path, dirs_exist_ok=True)
    monkeypatch.chdir(pytester.path)
    listed = pytester.runpytest_inprocess("--collect-only", "-q", "-p", "no:cacheprovider")
    assert sorted(line for line in listed.outlines if "::" in line) == [
        "drills/test_lab_kdump.py::test_the_lab_dumps[lab-12]",
        "test_posters.py::test_a_poster_hangs[door]",
        "test_posters.py::test_a_poster_hangs[wall]",
    ]
    pytester.runpytest_inprocess("test_posters.py", "-p", "no:cacheprovider").assert_outcomes(passed=2)


def test_a_project_may_have_options_of_the_same_names(pytester: pytest.Pytester) -> None:
    pytester.makeconftest("""
        def pytest_addoption(parser):
            for name in ("image", "keep", "uri", "kernel", "state", "history", "matrix", "shard", "evidence"):
                parser.addoption(f"--{name}")
                parser.addini(name, "mine")
    """)
    pytester.makepyfile("def test_it(pytestconfig): assert pytestconfig.getoption('image') == 'logo.png'")
    pytester.runpytest_inprocess("--image", "logo.png", "-p", "no:cacheprovider").assert_outcomes(passed=1)


LOADED = """
import sys, pytest
status = pytest.main(["-q", "-p", "no:randomly", "-p", "no:cacheprovider", "test_it.py"])  # randomly imports numpy
print(status, *sorted(name for name in sys.modules if name.startswith("kdump_harness")))
drivers = {"libvirt", "paramiko", "numpy", "pexpect", "sqlite3", "rich", "tomllib", "platformdirs"}
print(*sorted(drivers & set(sys.modules)))
"""


def test_a_run_without_drills_loads_options_and_fixtures_only(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("def test_it(): pass")
    result = subprocess.run(
        [sys.executable, "-c", LOADED], capture_output=True, text=True, check=True, cwd=tmp_path,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_PLUGINS": "kdump_harness.pytest_plugin"},
    )  # fmt: skip
    loaded, drivers = result.stdout.splitlines()[-2:]
    plugin = "kdump_harness.pytest_plugin"
    assert loaded.split()[1:] == [
        "kdump_harness",
        plugin,
        *(f"{plugin}.{n}" for n in ("entry", "fixtures", "options", "session")),
    ]
    assert drivers.split() == []


@pytest.mark.parametrize("option", ["--collect-only", "--setup-plan", "--setup-only"])
def test_nothing_is_written_where_no_test_runs(pytester: pytest.Pytester, option: str) -> None:
    pytester.makepyfile("def test_it(kdump_level): pass\ndef test_drill(kdump_drill): pass")
    before = sorted(pytester.path.rglob("*"))
    only = ["-k", "test_it"] if option == "--setup-only" else []  # it runs fixtures
    result = pytester.runpytest_inprocess(option, *only, "-p", "no:cacheprovider")
    assert result.ret == 0
    result.stdout.no_fnmatch_line("*did not come to its end*")
    written = [path for path in pytester.path.rglob("*") if "__pycache__" not in path.parts]
    assert sorted(written) == [path for path in before if "__pycache__" not in path.parts]


def test_the_place_of_a_value_is_the_command_line_then_pytest_then_the_own_tables(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pytester.path)
    pytester.makepyfile("""
        from kdump_harness.pytest_plugin.options import option
        def test_it(pytestconfig, kdump_level):
            names = ("image", "keep", "timeout_factor", "cold", "firmware", "evidence")
            print(*(option(pytestconfig, name) for name in names))
    """)
    (pytester.path / "kdump-harness.toml").write_text(
        '[defaults]\nkeep = "always"\n[defaults.pytest]\nimage = ["debian-13"]\ntimeout-factor = 3\n'
    )
    command = ("-s", "-p", "no:cacheprovider", "--kdump-evidence", "mine")
    pytester.runpytest_inprocess(*command).stdout.fnmatch_lines(["*debian-13*always 3.0 False None mine*"])
    pytester.makeini("[pytest]\nkdump_image = debian-11\n  debian-12\nkdump_cold = true\nkdump_firmware = uefi\n")
    found = pytester.runpytest_inprocess(*command, "--kdump-keep", "never")
    found.stdout.fnmatch_lines(["*debian-11*debian-12*never 3.0 True uefi mine*"])
    pytester.makeini("[pytest]\nkdump_firmware = coreboot\n")
    pytester.runpytest_inprocess(*command).stdout.fnmatch_lines(["*kdump_firmware: invalid value 'coreboot'*"])


@pytest.mark.parametrize("options", [(), ("--kdump-crash",)])
def test_crash_is_asked_by_an_option_unless_the_test_says_otherwise(
    pytester: pytest.Pytester, options: tuple[str, ...]
) -> None:
    pytester.makepyfile(f"""
        def test_it(kdump_plan_drill):
            assert (kdump_plan_drill().crash is not None) is {bool(options)}
            assert kdump_plan_drill(crash=None).crash is None
    """)
    pytester.runpytest_inprocess("-p", "no:cacheprovider", *options).assert_outcomes(passed=1)


def test_a_test_runs_on_an_image_file(pytester: pytest.Pytester) -> None:
    """The file is opened when the test starts, and has its name in the id of the test."""
    pytester.makepyfile(
        "def test_it(kdump_image): assert (kdump_image.name, kdump_image.family.name) == ('mine', 'suse')"
    )
    (pytester.path / "mine.raw").write_bytes(bytes(510) + b"\x55\xaa")
    options = ("-v", "-p", "no:cacheprovider", "--kdump-image", "./mine.raw", "--kdump-family", "suse")
    result = pytester.runpytest_inprocess(*options)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*::test_it[[]mine.raw[]] PASSED*", "mine.raw *passed*"])


def test_the_steps_of_a_drill_are_lines_of_the_output_and_a_long_one_shows_its_clock(
    pytester: pytest.Pytester, fake_clock: FakeClock
) -> None:
    pytester.makepyfile("""
        from kdump_harness.base import clock
        from kdump_harness.pytest_plugin.progress_lines import progress_of

        def test_it(pytestconfig):
            progress = progress_of(pytestconfig)
            with progress.step("debian-12: booting"):
                for _ in range(130):
                    clock.pause(1)
                    progress.tick()
            print("captured")
    """)
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider")
    lines = [line for line in result.stdout.lines if line.startswith("  debian-12")]
    expected = [" ...", " 60 s", " 120 s", ": 130.0 s"]
    assert lines == [f"  debian-12: booting{end}" for end in expected]
    result.stdout.no_fnmatch_line("captured")


def test_the_steps_in_a_worker_of_xdist_are_lines_of_the_output(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        from kdump_harness.pytest_plugin.progress_lines import progress_of

        def test_it(pytestconfig):
            progress_of(pytestconfig).say("debian-12: booting")
    """)
    result = pytester.runpytest_subprocess("-n", "1", "-p", "no:cacheprovider")
    assert "[gw0] debian-12: booting" in result.stderr.lines


def test_the_evidence_is_attached_for_the_plugins_that_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "console.log").write_bytes(b"x" * (1 << 20) + b"the end")
    (tmp_path / "verdict.json").write_text("{}")
    attached: list[tuple[str, str]] = []
    html = SimpleNamespace(extras=SimpleNamespace(text=lambda text, name: (name, text)))
    kinds = SimpleNamespace(JSON="json", TEXT="text")
    allure = SimpleNamespace(
        attachment_type=kinds, attach=lambda text, name, attachment_type: attached.append((name, attachment_type))
    )
    monkeypatch.setitem(sys.modules, "pytest_html", html)
    monkeypatch.setitem(sys.modules, "allure", allure)
    stash = pytest.Stash()
    stash[VERDICTS] = [SimpleNamespace(evidence=str(tmp_path))]
    plugins = SimpleNamespace(hasplugin=lambda name: name in ("html", "allure_pytest"))
    report = SimpleNamespace(when="call")
    attach(SimpleNamespace(config=SimpleNamespace(pluginmanager=plugins), stash=stash), report)  # type: ignore[arg-type]
    assert [name for name, _ in report.extras] == ["console.log", "verdict.json"]
    assert report.extras[0][1].endswith("the end")
    assert len(report.extras[0][1]) == 1 << 20
    assert attached == [("console.log", "text"), ("verdict.json", "json")]


def test_the_example_of_the_readme_is_the_file_that_mypy_checks() -> None:
    root = Path(__file__).parents[2]
    (example,) = re.findall(r"```python\n(.*?)```", (root / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    assert (root / "docs" / "examples" / "test_kdump.py").read_text(encoding="utf-8") == example


def test_choices_are_those_of_the_command_line() -> None:
    assert plugin_options.KEEP == options.KEEP
    assert tuple(FIRMWARE) == plugin_options.FIRMWARE
