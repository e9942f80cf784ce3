"""What several test files use: a web site on this host, reached without a proxy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes import FakeClock
from image_site import Site, serve


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxies of this host's environment are for nobody here."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The state of this host, with the history of its drills, is for nobody here."""
    monkeypatch.setenv("KDUMP_HARNESS_STATE", str(tmp_path / "state"))


@pytest.fixture
def site() -> Iterator[Site]:
    """A site whose answers a test chooses."""
    with serve() as site:
        yield site


@pytest.fixture
def fake_clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    """Replace the clock of base.clock by one that advances with each wait: no wait of the test takes time."""
    fake = FakeClock()
    fake.install(monkeypatch)
    return fake
