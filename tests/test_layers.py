"""Imports go down only, and each third-party driver is imported in one place."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

HARNESS = Path(__file__).parent.parent / "harness"

# From the bottom up; a module may import from its own row and from the rows above it in this list.
LAYERS = (
    ("errors", "stage", "facts", "neighbour"),
    (
        "timing",
        "database",
        "output",
        "mirror",
        "checksums",
        "verdict",
        "config",
        "plot",
        "matrix",
        "records",
        "capacity",
    ),
    ("crashkernel", "search", "difference", "deb", "kernels", "partition"),
    ("evidence", "catalog", "seed", "progress", "family"),
    ("board",),
    ("vmcore", "diagnosis", "download", "build", "packages", "state", "refresh", "prune"),
    ("console", "shell", "sshhost", "triage"),
    ("domain", "store", "history"),
    ("accel", "crashnet", "freeze", "guest", "lifeline", "original", "place"),
    ("runtime",),
    ("faults", "stack", "trigger", "target", "memstate"),
    ("measure", "hostdisk"),
    ("disk", "checks", "oracle", "watch", "known", "cells", "refilter"),
    ("clone", "collector", "crasher"),
    ("drill", "doctor", "report", "schedule"),
    ("pool", "jobs", "resume"),
    ("sweep", "size", "compare"),
    ("bisection",),
    ("verbs", "support"),
    ("size_verbs", "compare_verbs"),
    ("plugin", "cli", "fleet"),
)
RANK = {module: rank for rank, modules in enumerate(LAYERS) for module in modules}
ONLY_IN = {
    "dask": "fleet",
    "distributed": "fleet",
    "drgn": "triage",
    "jinja2": "report",
    "libvirt": "domain",
    "matplotlib": "plot",
    "paramiko": "shell",
    "pexpect": "console",
    "pytest": "plugin",
    "tenacity": "timing",
}


def sources() -> Iterator[tuple[str, Path]]:
    for path in sorted(HARNESS.rglob("*.py")):
        parts = path.relative_to(HARNESS).with_suffix("").parts
        if parts[0] != "__init__":
            yield parts[0], path


@functools.cache
def imports(path: Path) -> tuple[tuple[str, bool], ...]:
    """Top-level names that a file imports, and whether they are modules of ours."""
    return tuple(_imports(path))


def _imports(path: Path) -> Iterator[tuple[str, bool]]:
    depth = len(path.relative_to(HARNESS).parts)  # 1 for harness/x.py, 2 for harness/vmcore/x.py
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name.split(".")[0], False) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level == 0:
                assert node.module is not None
                yield node.module.split(".")[0], False
            elif node.level == depth:  # from the package itself
                names = [node.module.split(".")[0]] if node.module else [alias.name for alias in node.names]
                yield from ((name, True) for name in names if not name.startswith("__"))


def test_every_module_has_its_layer() -> None:
    assert {module for module, _ in sources()} == set(RANK)


@pytest.mark.parametrize(
    ("module", "path"), list(sources()), ids=lambda value: value if isinstance(value, str) else value.stem
)
def test_imports_go_down_only(module: str, path: Path) -> None:
    upwards = [name for name, ours in imports(path) if ours and RANK.get(name, -1) > RANK[module]]
    assert not upwards, f"{path.name} imports {upwards}, which lie above {module}"


@pytest.mark.parametrize("library", ONLY_IN)
def test_a_driver_is_imported_in_one_place(library: str) -> None:
    users = {module for module, path in sources() for name, ours in imports(path) if not ours and name == library}
    assert users == {ONLY_IN[library]}


def test_nothing_but_timing_sleeps() -> None:
    sleepers = [
        path.name for module, path in sources() if "sleep(" in path.read_text(encoding="utf-8") and module != "timing"
    ]
    assert sleepers == []
