"""Tests of the light core: verbs that read work without the packages of any extra."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from kdump_harness import __main__
from kdump_harness.base import extras
from kdump_harness.base.errors import EXIT_HOST, HostError
from kdump_harness.campaigns import plot
from layers import ROOT, imports, sources

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OWN = {name for name in PYPROJECT["optional-dependencies"] if name not in ("all", "dev")}
DATA = ROOT / "tests" / "data"

# The imports of an extra's packages fail in the process that runs this; each line of its input is a command.
WITHOUT_EXTRAS = """
import json, sys
modules, commands = json.load(sys.stdin)
sys.modules.update(dict.fromkeys(modules))
from kdump_harness.__main__ import main
statuses = [main(command) for command in commands[:2]]
loaded = sorted({"http.client", "sqlite3", "kdump_harness.triage", "kdump_harness.images"} & set(sys.modules))
print(json.dumps([statuses + [main(command) for command in commands[2:]], loaded]), file=sys.stderr)
"""


def packages(requirements: list[str]) -> set[str]:
    return {requirement.split(">=")[0].split("[")[0] for requirement in requirements} - {"kdump-harness"}


def test_the_extras_in_the_code_are_those_of_the_package() -> None:
    known = {name: set(modules.values()) for name, modules in extras.EXTRAS.items()}
    assert known == {name: packages(PYPROJECT["optional-dependencies"][name]) for name in OWN}


def test_each_module_that_is_imported_is_of_the_core_or_of_an_extra() -> None:
    core = {name.partition(".")[0].lower() for name in packages(PYPROJECT["dependencies"])}
    of_plugins = {"allure", "pytest_html"}  # imported where pytest has loaded the plugin
    known = core.union(sys.stdlib_module_names, {"compression"}, of_plugins, *extras.EXTRAS.values())
    assert {name for path in sources() for name, internal in imports(path) if not internal} <= known


def test_the_verbs_that_read_need_no_extra(tmp_path: Path) -> None:
    console, verdict = DATA / "consoles" / "rhel-96m-oom.log", DATA / "verdicts" / "debian-12.json"
    dump = next((DATA / "vmcore").glob("zlib.kdump"))
    (tmp_path / "store").mkdir()
    history = ["--history", str(tmp_path / "history.sqlite")]
    commands = [
        ["diagnose", str(console)],
        ["inspect", str(dump)],
        ["history", "--import", str(verdict), *history],
        ["history", *history],
        ["report", *history, "--out", str(tmp_path / "report.html"), "--out", str(tmp_path / "report.md")],
        ["store", "add", str(dump), "--store", str(tmp_path / "store")],
        ["store", "list", "--store", str(tmp_path / "store")],
        ["schedule", "install", "debian-12", "--print"],
        ["drill", "debian-12"],
    ]
    ran = subprocess.run(
        [sys.executable, "-c", WITHOUT_EXTRAS],
        input=json.dumps([sorted(set().union(*extras.EXTRAS.values())), commands]),
        capture_output=True,
        text=True,
        check=True,
    )
    *said, last = ran.stderr.strip().splitlines()
    statuses, loaded_by_the_first_two = json.loads(last)
    assert loaded_by_the_first_two == []  # their imports are most of the time that they take
    assert statuses == [1, 0, 0, 0, 0, 0, 0, 0, EXIT_HOST], ran.stderr
    assert said[-1].endswith("is not installed (pip install 'kdump-harness[vm]')")
    assert any(
        "no charts of sweeps: matplotlib is not installed (pip install 'kdump-harness[plots]')" in line for line in said
    )


@pytest.mark.parametrize(
    ("module", "sentence"),
    [
        ("libvirt", "the package libvirt-python is not installed (pip install 'kdump-harness[vm]')"),
        ("distributed.security", "the package distributed is not installed (pip install 'kdump-harness[fleet]')"),
        ("zstandard", "the package zstandard is not installed (pip install 'kdump-harness[vm]')"),
        ("pytest", "the package pytest is not installed (pip install 'kdump-harness[pytest]')"),
    ],
)
def test_the_sentence_about_a_missing_package_names_its_extra(module: str, sentence: str) -> None:
    assert extras.missing_extra(ModuleNotFoundError(name=module)) == sentence


def test_a_package_that_cannot_be_loaded_is_a_sentence_too() -> None:
    error = ImportError("libvirt.so.0: cannot open shared object file", name="libvirtmod")
    assert "libvirt-python cannot be loaded (libvirt.so.0: " in (extras.missing_extra(error) or "")


def test_a_fault_of_the_harness_is_not_taken_for_a_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_verb: str | None) -> None:
        raise ImportError("cannot import name", name="kdump_harness.base")

    monkeypatch.setattr(__main__, "make_parser", broken)
    with pytest.raises(ImportError):
        __main__.main(["diagnose", "x"])


def test_a_plot_that_cannot_be_drawn_is_said_before_the_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(plot, "is_installed", lambda _module: False)
    with pytest.raises(HostError, match=r"matplotlib is not installed \(pip install 'kdump-harness\[plots\]'\)"):
        plot.check_format(tmp_path / "sizes.svg")
