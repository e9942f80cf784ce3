"""Folders are layers: imports go down only, and each third-party driver is imported in one place."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "harness" / "kdump_harness"

# From the bottom up: a module may import from its own folder and from the folders before it in this list.
FOLDERS = (
    "base",
    "vmcore/formats",
    "vmcore",
    "diagnosis",
    "distro",
    "images",
    "vm/hypervisor",
    "vm/hosts",
    "vm",
    "kdump",
    "drill",
    "campaigns",
    "campaigns/sweep",
    "campaigns/size",
    "campaigns/compare",
    "triage",
    "store/intake",
    "store",
    "store/bundles",
    "history",
    "report",
    "schedule",
    "cli/verbs",
    "cli",
    "pytest_plugin",
    "fleet/protocol",
    "fleet/worker",
    "fleet",
    "",  # __main__.py, which brings everything together
)
MOST_FILES = 14
ONLY_IN = {
    "dask": "fleet",
    "distributed": "fleet",
    "drgn": "triage",
    "jinja2": "report",
    "libvirt": "vm",
    "matplotlib": "base",
    "paramiko": "vm",
    "pexpect": "vm",
    "pytest": "pytest_plugin",
    "tenacity": "base",
}


def folder_of(path: Path) -> str:
    folder = path.parent.relative_to(PACKAGE).as_posix()
    return "" if folder == "." else folder


def sources() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


@functools.cache
def imports(path: Path) -> tuple[tuple[str, bool], ...]:
    """Folders of ours, and top-level names of libraries, that a file imports, also inside functions."""
    return tuple(_imports(path))


def _imports(path: Path) -> Iterator[tuple[str, bool]]:
    package = path.parent.relative_to(PACKAGE).parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name.split(".")[0], False) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            assert node.module is not None
            yield node.module.split(".")[0], False
        elif isinstance(node, ast.ImportFrom):
            base = PACKAGE.joinpath(*package[: len(package) - node.level + 1], *(node.module or "").split("."))
            for alias in node.names:
                found = base / alias.name if (base / alias.name).is_dir() else base
                if found != PACKAGE:  # the version
                    yield (found if found.is_dir() else found.parent).relative_to(PACKAGE).as_posix(), True


def test_every_folder_has_its_layer_and_its_sentence() -> None:
    assert {folder_of(path) for path in sources()} == set(FOLDERS)
    for folder in FOLDERS:
        sentence = ast.get_docstring(ast.parse((PACKAGE / folder / "__init__.py").read_text(encoding="utf-8")))
        assert sentence is not None, folder
        assert sentence.splitlines()[0].endswith((".", ":")), folder


def test_no_folder_is_crowded() -> None:
    counts = {folder: len(list((PACKAGE / folder).glob("*.py"))) - 1 for folder in FOLDERS}
    assert not {folder: count for folder, count in counts.items() if count > MOST_FILES}


@pytest.mark.parametrize("path", sources(), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_go_down_only(path: Path) -> None:
    rank = {folder: number for number, folder in enumerate(FOLDERS)}
    mine = folder_of(path)
    upwards = sorted({name for name, ours in imports(path) if ours and rank[name] > rank[mine]})
    assert not upwards, f"{path.relative_to(PACKAGE)} imports from {upwards}, which lie above {mine}"


@pytest.mark.parametrize("library", ONLY_IN)
def test_a_driver_is_imported_in_one_folder(library: str) -> None:
    users = {
        folder_of(path).split("/")[0]
        for path in sources()
        for name, ours in imports(path)
        if not ours and name == library
    }
    assert users == {ONLY_IN[library]}


def test_nothing_but_the_clock_sleeps() -> None:
    sleepers = [path.name for path in sources() if "sleep(" in path.read_text(encoding="utf-8")]
    assert sleepers == ["clock.py"]
