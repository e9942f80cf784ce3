"""The pytest plugin: options, fixtures and markers for scenarios, and their outcomes as a matrix."""

from __future__ import annotations

import pytest

from ..base.verdict import Verdict

pytest_plugins = [f"{__name__}.hooks", f"{__name__}.fixtures"]


def pin_image(*names: str) -> pytest.MarkDecorator:
    """Run this scenario on these images only."""
    return pytest.mark.parametrize("image", names, indirect=True, ids=str)


def pin_trigger(*names: str) -> pytest.MarkDecorator:
    """Run this scenario with these triggers only."""
    return pytest.mark.parametrize("trigger", names, indirect=True, ids=str)


def pin_crashkernel(*sizes: str) -> pytest.MarkDecorator:
    """Run this scenario with these reservations only."""
    return pytest.mark.parametrize("crashkernel", sizes, indirect=True, ids=str)


__all__ = ["Verdict", "pin_crashkernel", "pin_image", "pin_trigger"]
