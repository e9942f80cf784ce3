"""Fixtures and options without the prefix kdump, for a project that has no others of these names.

A conftest.py imports everything from here.
"""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from . import fixtures
from .options import add_short_options

_OWN = {"kdump_run": "harness_run"}
_UNCHANGED = ("kdump_config",)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    add_short_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers."""
    config.addinivalue_line("markers", "needs(feature, ...): as kdump_needs")
    config.addinivalue_line("markers", "slow: takes longer than a few drills")


def _short(name: str, scope: Any, doc: str | None) -> Any:
    """Return a fixture that gives what another one gives."""

    def fixture(**given: Any) -> Any:
        return given[name]

    fixture.__doc__ = doc
    # pytest reads from it which fixture is needed.
    fixture.__signature__ = inspect.Signature([inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY)])  # type: ignore[attr-defined]
    return pytest.fixture(scope=scope, name=_OWN.get(name, name.removeprefix("kdump_")))(fixture)


__all__ = ["pytest_addoption", "pytest_configure"]
for _name, _definition in vars(fixtures).items():
    # pytest 8.4 renamed it.
    _marker = getattr(_definition, "_fixture_function_marker", getattr(_definition, "_pytestfixturefunction", None))
    if _name.startswith("kdump_") and _marker is not None and _name not in _UNCHANGED:
        globals()[_name.removeprefix("kdump_")] = _short(_name, _marker.scope, _definition.__doc__)
        __all__ += [_name.removeprefix("kdump_")]
