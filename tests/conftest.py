"""Fixtures of several test files: a web site, a clock, an environment and stubbed plots."""

from __future__ import annotations

import html
import itertools
from collections.abc import Iterator

import pytest
from fakes import FakeClock
from hypothesis import settings
from image_site import Site, serve
from kdump_harness.base import plot

PROXIES = [f(f"{kind}_proxy") for kind in ("http", "https", "all", "no") for f in (str.lower, str.upper)]

settings.register_profile("quick", database=None)  # a read-only checkout must do
settings.load_profile("quick")
_numbers = itertools.count()


@pytest.fixture(autouse=True)
def own_environment(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the proxies and the state of this host, with the history of its drills."""
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
    # A path of each test, which costs nothing: tmp_path would make a directory for each of some 3,600 tests.
    monkeypatch.setenv("KDUMP_HARNESS_STATE", str(tmp_path_factory.getbasetemp() / f"state-{next(_numbers)}"))


@pytest.fixture(autouse=True)
def stub_plots(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare tests the time of matplotlib (0.3 s a figure), unless they use the fixture real_plots."""
    if "real_plots" in request.fixturenames:
        return
    for name in ("draw_sizes", "draw_reservations"):
        monkeypatch.setattr(plot, name, lambda path, *_args, **_more: path.write_text("not drawn", encoding="utf-8"))
    for name in ("inline_sizes", "inline_trend", "inline_reservations"):
        monkeypatch.setattr(plot, name, lambda _lines, *, title, **_more: f"<svg>{html.escape(title)}</svg>")


@pytest.fixture
def real_plots() -> None:
    """Let matplotlib draw the plots of this test."""


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
