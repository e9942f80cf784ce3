"""Fixtures of several test files: a web site, a clock, an environment and stubbed plots."""

from __future__ import annotations

import gc
import html
import itertools
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis.configuration
import pytest
from fakes import FakeClock
from hypothesis import settings
from image_site import Site, serve
from kdump_harness.campaigns import plot
from kdump_harness.configuration import own_tables

PROXIES = [f(f"{kind}_proxy") for kind in ("http", "https", "all", "no") for f in (str.lower, str.upper)]

# A read-only checkout must do: Hypothesis looks for its directory even where it keeps no examples.
hypothesis.configuration.set_hypothesis_home_dir(Path(tempfile.gettempdir()) / f"hypothesis-{os.getuid()}")
settings.register_profile("quick", database=None)
settings.load_profile("quick")
_numbers = itertools.count()


def pytest_collection_finish() -> None:
    """Keep the collected tests away from the garbage collector: its passes over them took a tenth of all time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@pytest.fixture(scope="session", autouse=True)
def no_proxies() -> Iterator[None]:
    """Hide the proxies of this host."""
    with pytest.MonkeyPatch.context() as patch:
        for name in PROXIES:
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(autouse=True)
def own_state(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the state of this host, with the history of its drills, and the tables of its user."""
    # A path of each test, which costs nothing: tmp_path would make a directory for each of some 3,600 tests.
    monkeypatch.setenv("KDUMP_HARNESS_STATE", f"{tmp_path_factory.getbasetemp()}/state-{next(_numbers)}")
    monkeypatch.setenv("XDG_CONFIG_HOME", f"{tmp_path_factory.getbasetemp()}/no-config")
    monkeypatch.setattr(own_tables, "HOST_DIRECTORY", tmp_path_factory.getbasetemp() / "no-tables")


@pytest.fixture(scope="session", autouse=True)
def stub_plots() -> Iterator[pytest.MonkeyPatch]:
    """Spare tests the time of matplotlib (0.3 s a figure), unless they use the fixture real_plots."""
    with pytest.MonkeyPatch.context() as patch:
        _stub_plots(patch)
        yield patch


@pytest.fixture
def real_plots(stub_plots: pytest.MonkeyPatch) -> Iterator[None]:
    """Let matplotlib draw the plots of this test."""
    stub_plots.undo()
    yield
    _stub_plots(stub_plots)


def _stub_plots(patch: pytest.MonkeyPatch) -> None:
    for name in ("draw_sizes", "draw_reservations"):
        patch.setattr(plot, name, lambda path, *_args, **_more: path.write_text("not drawn", encoding="utf-8"))
    for name in ("inline_sizes",):
        patch.setattr(plot, name, lambda _lines, *, title, **_more: f"<svg>{html.escape(title)}</svg>")


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
