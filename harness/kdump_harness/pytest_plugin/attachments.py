"""The evidence of drills as attachments of pytest-html and allure."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .session import VERDICTS

# The files that people read first; the others are large, or for programs.
NAMES = ("console.log", "panic.txt", "verdict.json")
_MOST_BYTES = 1 << 20  # of a file; the end of a longer one is attached


def attach(item: pytest.Item, report: Any) -> None:
    """Attach the evidence of a test's drills to its report, for the plugins that are there."""
    if report.when != "call":
        return
    plugins = item.config.pluginmanager
    if plugins.hasplugin("html"):
        from pytest_html import extras

        found = [extras.text(text, name=name) for name, text in _files(item)]
        report.extras = [*getattr(report, "extras", []), *found]
    if plugins.hasplugin("allure_pytest"):
        import allure

        for name, text in _files(item):
            kind = allure.attachment_type.JSON if name.endswith(".json") else allure.attachment_type.TEXT
            allure.attach(text, name=name, attachment_type=kind)


def _files(item: pytest.Item) -> Iterator[tuple[str, str]]:
    """Yield name and text of each file that is there."""
    directories = [Path(verdict.evidence) for verdict in item.stash.get(VERDICTS, []) if verdict.evidence]
    for directory in directories:
        for path in (directory / name for name in NAMES):
            if path.is_file():
                label = path.name if len(directories) == 1 else f"{directory.name}/{path.name}"
                yield label, path.read_bytes()[-_MOST_BYTES:].decode("utf-8", errors="replace")
