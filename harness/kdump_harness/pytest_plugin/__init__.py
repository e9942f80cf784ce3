"""The pytest plugin: options, fixtures and markers for scenarios, and their outcomes as a matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from ..base.verdict import Verdict

pytest_plugins = [f"{__name__}.entry", f"{__name__}.fixtures"]


def __getattr__(name: str) -> Any:
    """Return the class Verdict, which only scenarios import."""
    if name != "Verdict":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ..base.verdict import Verdict

    return Verdict


def pin_image(*names: str) -> pytest.MarkDecorator:
    """Run this scenario on these images only."""
    return pytest.mark.parametrize("kdump_image", names, indirect=True, ids=str)


def pin_trigger(*names: str) -> pytest.MarkDecorator:
    """Run this scenario with these triggers only."""
    return pytest.mark.parametrize("kdump_trigger", names, indirect=True, ids=str)


def pin_crashkernel(*sizes: str) -> pytest.MarkDecorator:
    """Run this scenario with these reservations only."""
    return pytest.mark.parametrize("kdump_crashkernel", sizes, indirect=True, ids=str)


__all__ = ["Verdict", "pin_crashkernel", "pin_image", "pin_trigger"]
