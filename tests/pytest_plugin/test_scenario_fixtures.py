"""The scenarios ask only for fixtures that exist, which pytest itself checks only when a guest is about to start."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from kdump_harness.pytest_plugin import short_names
from layers import ROOT

BUILTIN = {"capsys", "monkeypatch", "pytestconfig", "record_property", "request", "tmp_path", "tmp_path_factory"}
SHORT = {short_names._OWN.get(f"kdump_{name}", name) for name in short_names.__all__}


def _functions(path: Path) -> list[ast.FunctionDef]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node for node in tree.body if isinstance(node, ast.FunctionDef)]


def _is_fixture(function: ast.FunctionDef) -> bool:
    return any("fixture" in ast.unparse(decorator) for decorator in function.decorator_list)


def _parametrized(function: ast.FunctionDef) -> set[str]:
    """Return the names of the function's parametrize marks."""
    names: set[str] = set()
    for decorator in function.decorator_list:
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func).endswith("parametrize"):
            given = ast.literal_eval(decorator.args[0])
            names.update(given.replace(" ", "").split(",") if isinstance(given, str) else given)
    return names


CONFTEST = {function.name for function in _functions(ROOT / "scenarios" / "conftest.py") if _is_fixture(function)}


@pytest.mark.parametrize("path", sorted((ROOT / "scenarios").glob("test_*.py")), ids=lambda path: path.stem)
def test_each_argument_is_a_fixture_or_a_parameter(path: Path) -> None:
    functions = _functions(path)
    known = BUILTIN | SHORT | CONFTEST | {function.name for function in functions if _is_fixture(function)}
    for function in functions:
        if function.name.startswith("test_") or _is_fixture(function):
            arguments = {argument.arg for argument in (*function.args.args, *function.args.kwonlyargs)}
            assert arguments <= known | _parametrized(function), function.name
