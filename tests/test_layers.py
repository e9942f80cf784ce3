"""Folders are layers: imports go down only, and each third-party driver is imported in one place."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest
from layers import FOLDERS, PACKAGE, PAGE, ROOT, folder_of, imports, page_with, picture, sentence, sources

SCRIPTS = sorted([*ROOT.glob("benchmarks/*.py"), *ROOT.glob("scenarios/*.py"), *ROOT.glob("docs/generate/*.py")])
MOST_FILES = 14
ONLY_IN = {
    "dask": "fleet",
    "distributed": "fleet",
    "drgn": "triage",
    "jinja2": "report",
    "libvirt": "vm",
    "matplotlib": "campaigns",
    "paramiko": "vm",
    "pexpect": "vm",
    "pytest": "pytest_plugin",
    "tenacity": "base",
}


def test_every_folder_has_its_layer_and_its_sentence() -> None:
    assert {folder_of(path) for path in sources()} == set(FOLDERS)
    for folder in FOLDERS:
        assert (sentence(folder) or "").endswith((".", ":")), folder


def test_no_folder_is_crowded() -> None:
    counts = {folder: len(list((PACKAGE / folder).glob("*.py"))) - 1 for folder in FOLDERS}
    assert not {folder: count for folder, count in counts.items() if count > MOST_FILES}


def test_imports_go_down_only() -> None:
    rank = {folder: number for number, folder in enumerate(FOLDERS)}
    upwards = [
        f"{path.relative_to(PACKAGE)} imports from {name}, which lies above {folder_of(path)}"
        for path in sources()
        for name, internal in imports(path)
        if internal and rank[name] > rank[folder_of(path)]
    ]
    assert not upwards, "\n".join(upwards)


def test_a_driver_is_imported_in_one_folder() -> None:
    users: dict[str, set[str]] = {library: set() for library in ONLY_IN}
    for path in sources():
        for name, internal in imports(path):
            if not internal and name in ONLY_IN:
                users[name].add(folder_of(path).split("/")[0])
    assert users == {library: {folder} for library, folder in ONLY_IN.items()}


def test_a_drill_without_a_network_loads_no_ssh() -> None:
    """paramiko takes a quarter of the imports of a kernel drill."""
    loads_it = [
        path.name
        for path in sources()
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Import | ast.ImportFrom)
        and ("paramiko" in (text := ast.unparse(node)) or "ssh_shell" in text)
    ]
    assert loads_it == ["ssh_shell.py"]


def test_the_picture_in_the_page_is_what_the_command_prints() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert picture() in text, "out of date: python docs/generate/layers.py --write"
    assert page_with(picture()) == text


def test_nothing_but_the_clock_sleeps() -> None:
    sleepers = [path.name for path in sources() if "sleep(" in path.read_text(encoding="utf-8")]
    assert sleepers == ["clock.py"]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_script_imports_names_that_exist(path: Path) -> None:
    """Neither the quick tests nor mypy run these files."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("kdump_harness"):
            module = importlib.import_module(node.module or "")
            missing = [alias.name for alias in node.names if alias.name != "*" and not hasattr(module, alias.name)]
            for name in missing:
                importlib.import_module(f"{node.module}.{name}")
