"""The hooks of a session that makes drills: the reports of their outcomes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from ..base.errors import HarnessError
from .attachments import attach
from .matrix import MatrixEntry
from .outcomes import excuses, record_failed, update_entry
from .session import ENTRY, FAILED_DRILLS, OLD_PROPERTIES, VERDICTS, row_of, scenario_name


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Forget the drills of an earlier run of the same test."""
    item.stash[VERDICTS] = []
    item.stash[FAILED_DRILLS] = []
    item.stash[OLD_PROPERTIES] = len(item.user_properties)
    if row := row_of(item):
        item.stash[ENTRY] = MatrixEntry(image=row, scenario=scenario_name(item), nodeid=item.nodeid)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Excuse known issues, shorten the harness's exceptions to one sentence, and update the matrix."""
    record_failed(item, call)
    report: Any = yield
    trackers = excuses(item, call)
    if trackers and report.failed:
        report.outcome = "skipped"
        report.wasxfail = f"known issue: {', '.join(trackers)}"
    if call.excinfo is not None and call.excinfo.errisinstance(HarnessError) and not report.skipped:
        report.longrepr = f"{call.excinfo.typename}: {call.excinfo.value}"
    if (entry := item.stash.get(ENTRY, None)) is not None:
        update_entry(entry, item, call, report)
        report.kdump = entry.to_json()  # travels with the report to the process that makes the matrix
        attach(item, report)
    return report  # type: ignore[no-any-return]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Report known issues that are gone, have expired, or did not excuse a failure."""
    lines = []
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            for name, text in getattr(report, "user_properties", ()):
                if name == "known_issue_note":
                    lines.append(f"{report.nodeid}: {text}")
                elif name == "known_issue" and outcome == "failed":
                    lines.append(f"{report.nodeid}: shows the known issue {text}, not excused")
    if lines:
        terminalreporter.section("known issues", yellow=True)
        for line in dict.fromkeys(lines):
            terminalreporter.line(line, yellow=True)
