import pytest

from harness import hang


def test_a_poster_hangs(pytestconfig: pytest.Config, target: str) -> None:
    assert hang(pytestconfig.getoption("image"), target) == f"logo.png hangs on the {target}"
