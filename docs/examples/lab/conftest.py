"""A project with its own option --image and fixture target, which have nothing to do with kdump."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--image", default="logo.png")


@pytest.fixture(params=["door", "wall"])
def target(request: pytest.FixtureRequest) -> str:
    return str(request.param)
