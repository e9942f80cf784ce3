"""Tests of the site: every page is in its navigation, and the links of the root's pages lead to pages of the site."""

from __future__ import annotations

import re

import site_pages
from layers import ROOT


def test_each_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    named = re.findall(r"([\w-]+\.md)$", navigation, flags=re.MULTILINE)
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} | set(site_pages.PAGES)
    assert sorted(named) == sorted(pages)


def test_links_between_the_root_and_docs_become_links_of_the_site() -> None:
    text = "[a](docs/size.md) [b](docs/sweep.svg) [c](CONTRIBUTING.md#rules) [d](https://example.org/docs/)"
    assert site_pages.rewritten(text, in_root=True) == (
        "[a](size.md) [b](sweep.svg) [c](contributing.md#rules) [d](https://example.org/docs/)"
    )
    assert site_pages.rewritten("[r](../README.md) [s](size.md)", in_root=False) == "[r](start.md) [s](size.md)"
