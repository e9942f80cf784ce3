"""The plugin in other projects' pytest runs: cheap, and without effect on their tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from kdump_harness.cli import options
from kdump_harness.pytest_plugin import hooks
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
    result = pytester.runpytest_inprocess("-v", "--image", "debian-13", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=2)
    result.stdout.no_fnmatch_line("*images × scenarios*")


def test_no_driver_is_imported_before_a_scenario_needs_it(tmp_path: Path) -> None:
    code = """
import sys, pytest
from _pytest.config import get_config
config = get_config()
config.parse(["-p", "no:randomly"])  # which imports numpy
config._do_configure()
assert config.pluginmanager.has_plugin("kdump_harness.pytest_plugin.fixtures")
print(*sorted({"libvirt", "paramiko", "numpy", "pexpect", "matplotlib", "sqlite3", "rich"} & set(sys.modules)))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert result.stdout.split() == []


def test_choices_are_those_of_the_command_line() -> None:
    assert hooks.KEEP == options.KEEP
    assert tuple(FIRMWARE) == hooks.FIRMWARE
