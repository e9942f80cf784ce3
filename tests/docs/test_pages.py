"""Pages name files that exist, link to pages that exist, and are listed in the index."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
FILES = {
    path.relative_to(ROOT).as_posix()
    for folder in ("harness", "tests", "scenarios", "images", "docs", "benchmarks")
    for path in (ROOT / folder).rglob("*.*")
} | {path.name for path in ROOT.iterdir()}
_NAMED = re.compile(r"`(?:python )?([a-z_][a-z0-9_/]*\.(?:py|toml|sh))(?= |`)")
_LINK = re.compile(r"\]\((?!https?:)([^)#]+)[^)]*\)")
_WRITTEN_BY_USERS = {"store.toml"}


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=lambda page: page.name)
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    named = set(_NAMED.findall(page.read_text(encoding="utf-8"))) - _WRITTEN_BY_USERS
    assert not {name for name in named if not any(f"/{path}".endswith(f"/{name}") for path in FILES)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file(page: Path) -> None:
    assert not {link for link in _LINK.findall(page.read_text(encoding="utf-8")) if not (page.parent / link).exists()}


def test_every_page_is_in_the_index() -> None:
    index = ROOT / "docs" / "README.md"
    linked = set(_LINK.findall(index.read_text(encoding="utf-8")))
    assert {page.name for page in index.parent.glob("*.md")} - linked == {index.name}
