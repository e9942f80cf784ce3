"""What several test files use: a web site on this host, reached without a proxy."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from image_site import Site, serve


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxies of this host's environment are for nobody here."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def site() -> Iterator[Site]:
    """A site whose answers a test chooses."""
    with serve() as site:
        yield site
