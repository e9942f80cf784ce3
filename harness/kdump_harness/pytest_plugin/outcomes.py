"""The outcome of each scenario: its reason, known issues, the matrix and the history."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from ..base.errors import HarnessError
from ..base.evidence import EvidenceRoot
from ..base.verdict import Verdict
from .matrix import KERNEL, Matrix, MatrixEntry, Outcome
from .options import option
from .session import FAILED_DRILLS, MISSING, OLD_PROPERTIES, RUN, VERDICTS, run_name, scenario_name


def report_verdict(item: Any, verdict: Verdict) -> None:
    """Put the verdict's figures into the test's properties, for JUnit XML, and keep it for the matrix."""
    item.stash.setdefault(VERDICTS, []).append(verdict)
    if verdict.verified:
        verdict.remarks += _record(item, verdict)
    else:
        item.stash.setdefault(FAILED_DRILLS, []).append(verdict)
    properties = {
        "evidence": verdict.evidence,
        "reached": verdict.reached.name,
        "verified": str(verdict.verified).lower(),
        "kernel": verdict.kernel,
        "makedumpfile": verdict.makedumpfile,
        **{f"phase_{name}_s": seconds for name, seconds in verdict.phases_s.items()},
    }
    for name in ("known_issue", "known_issue_note"):
        if text := getattr(verdict, name):
            properties[name] = text
    item.user_properties.extend(properties.items())


def record_failed(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    """Record failed drills if the test failed: a drill that is meant to fail says nothing about the image's kdump."""
    if call.excinfo is None and call.when == "setup":
        return
    failed = item.stash.get(FAILED_DRILLS, [])
    item.stash[FAILED_DRILLS] = []
    if call.excinfo is not None:
        for verdict in failed:
            verdict.remarks += _record(item, verdict)


def _record(item: Any, verdict: Verdict) -> list[str]:
    """Record the verdict in the history; return remarks on the metrics that became worse."""
    from ..history.database import DRILL, history_path
    from ..history.recording import record

    return record(
        history_path(option(item.config, "history"), option(item.config, "state")),
        DRILL,
        verdict.to_json(),
        log=lambda text: item.user_properties.append(("history", text)),
        scenario=scenario_name(item),
    )


def excuses(item: pytest.Item, call: pytest.CallInfo[None]) -> list[str]:
    """Return the known issues that excuse a failed assertion; empty unless every failing drill of the test has one."""
    if call.when != "call" or call.excinfo is None or not call.excinfo.errisinstance(AssertionError):
        return []
    failing = [verdict for verdict in item.stash.get(VERDICTS, []) if not verdict.verified]
    trackers = dict.fromkeys(verdict.known_issue for verdict in failing if verdict.known_issue)
    unknown = any(verdict.known_issue is None for verdict in failing)
    return [] if unknown or option(item.config, "run_known") else list(trackers)


def update_entry(entry: MatrixEntry, item: pytest.Item, call: pytest.CallInfo[None], report: Any) -> None:
    """Add one phase of a test to its entry of the matrix; after the last phase, also to JUnit XML."""
    error = call.excinfo.value if call.excinfo is not None else None
    if error is not None and str(error) == item.config.stash[MISSING].get(entry.image):
        entry.unavailable = True
        if option(item.config, "strict_images") and report.skipped:  # a scenario that is expected to fail
            report.outcome = "failed"
            report.__dict__.pop("wasxfail", None)
    verdicts = item.stash[VERDICTS]
    if entry.image == KERNEL and verdicts:
        entry.image = verdicts[0].image
    found = Outcome.ERROR if entry.unavailable and report.failed else _outcome(call, report, verdicts)
    # A fixture that breaks afterwards must not hide a failure.
    if found is not None and not (report.when == "teardown" and entry.outcome is Outcome.FAILED):
        entry.outcome, entry.reason = found, _reason(entry.image, found, call, report, verdicts)
    entry.duration_s = round(entry.duration_s + report.duration, 3)
    entry.verdicts = [verdict.to_json() for verdict in verdicts]
    reported = [str(value) for name, value in item.user_properties[item.stash[OLD_PROPERTIES] :] if name == "evidence"]
    see = [str(error.see)] if isinstance(error, HarnessError) and error.see is not None else []
    entry.evidence = list(dict.fromkeys([*reported, *entry.evidence, *see]))
    if report.when == "teardown":
        report.user_properties += [
            ("image", entry.image),
            ("scenario", entry.scenario),
            ("outcome", entry.outcome.value),
        ]
        if entry.outcome is Outcome.SKIPPED or entry.unavailable:
            report.user_properties.append(("skip_reason", entry.reason))


def _outcome(call: pytest.CallInfo[None], report: Any, verdicts: list[Verdict]) -> Outcome | None:
    """Return the outcome that a phase gives its test; None for a phase that gives none."""
    if report.skipped:
        return Outcome.KNOWN_ISSUE if hasattr(report, "wasxfail") else Outcome.SKIPPED
    if report.failed:
        # A failure without an exception is an unexpected pass.
        judged = call.excinfo is None or call.excinfo.errisinstance((AssertionError, pytest.fail.Exception))
        return Outcome.FAILED if judged and report.when == "call" else Outcome.ERROR
    if report.when != "call":
        return None
    return Outcome.VERIFIED if verdicts and all(verdict.verified for verdict in verdicts) else Outcome.PASSED


def _reason(
    image: str, outcome: Outcome, call: pytest.CallInfo[None], report: Any, verdicts: list[Verdict]
) -> str | None:
    """Return one line that explains an outcome."""
    if outcome in (Outcome.VERIFIED, Outcome.PASSED):
        return None
    if outcome is Outcome.KNOWN_ISSUE:
        return str(report.wasxfail).removeprefix("reason: ")
    error = call.excinfo.value if call.excinfo is not None else report.longrepr
    text = str(error).strip()
    if not text:
        return type(error).__name__
    line = text.splitlines()[0]
    if outcome is not Outcome.ERROR or isinstance(error, pytest.fail.Exception):
        # The matrix has the image and the stage, with which explain() begins.
        line = re.sub(rf"^{re.escape(image)}: reached [A-Z]+: ", "", line)
        if line == "verified":  # the drill is fine, and the assertion is about another value
            line = next((other for other in text.splitlines() if other.startswith("assert ")), line)
        failing = next((verdict for verdict in verdicts if not verdict.verified), None)
        return f"{line} (the drill: {failing.reason()})" if failing and line.startswith("assert ") else line
    return f"{type(error).__name__}: {line}"


class MatrixReporter:
    """Collects the outcome of each test, also from the workers of xdist, and prints the matrix at the end."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.matrix = Matrix()
        self.last_line = ""
        to = option(config, "matrix")
        self.path = config.invocation_params.dir / to if to else None
        if self.path is not None and (self.path.is_dir() or not os.access(self.path.parent, os.W_OK | os.X_OK)):
            raise pytest.UsageError(f"--kdump-matrix {to} cannot be written: expected a file in an existing directory")

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Add the entry that a report carries."""
        if found := getattr(report, "kdump", None):
            self.matrix.add(MatrixEntry.from_json(found))

    def pytest_sessionfinish(self) -> None:
        """Write the JSON; an empty matrix is written only with --matrix."""
        if self.config.getoption("collectonly") or not (self.matrix or self.path):
            return
        try:
            path = self.path or self._run_directory() / "matrix.json"
            self.matrix.write(path)
            self.last_line = f"JSON: {path}"
        except (OSError, HarnessError) as error:
            self.last_line = f"no JSON: {error}"

    def _run_directory(self) -> Path:
        """Return the evidence directory of this session's drills; create one if necessary."""
        config = self.config
        if (run := config.stash.get(RUN, None)) is not None:
            return run.evidence_directory
        root = option(config, "evidence")
        shared = root / run_name(config)
        return shared if shared.is_dir() else EvidenceRoot(root).run

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Print the matrix as plain text."""
        if self.matrix:
            terminalreporter.section("images × scenarios")
            for line in self.matrix.lines(shutil.get_terminal_size().columns):
                terminalreporter.line(line)
        if self.last_line:
            terminalreporter.line(self.last_line)
