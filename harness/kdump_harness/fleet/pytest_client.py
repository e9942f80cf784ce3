"""A plugin of pytest that runs each collected scenario on a fleet and takes over its reports.

Collection, selection, JUnit XML, the matrix and the exit status are those of pytest and the harness's plugin.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base.errors import HarnessError
from ..base.evidence import EvidenceRoot
from ..base.progress import err
from ..base.tables import data_path
from ..history.database import DRILL as DRILL_KIND
from ..history.database import history_path
from ..history.recording import record
from ..images.catalog import load_catalog
from ..kdump.target import ON_SERVER
from ..pytest_plugin.matrix import MatrixEntry, Outcome
from ..pytest_plugin.options import option
from ..pytest_plugin.session import RUN_NAME, run_name, scenario_name
from .client import Fleet, Order
from .journal import Journal
from .protocol.needs import COLLECTOR_MIB, Needs, guest_needs
from .protocol.results import TaskResult
from .protocol.tasks import SCENARIO, FleetTask, scenario_digest, scenario_options
from .protocol.wire_format import security

VARIABLE = "KDUMP_FLEET_RUN"
_WHEN = ("setup", "call", "teardown")
_OUTCOMES = ("passed", "failed", "skipped")


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """The options of the verb fleet run, passed to pytest."""

    scheduler: str
    ca: str | None
    cert: str | None
    key: str | None
    wait_s: float
    at_once: int | None
    direct: bool
    vmcores: bool
    evidence_mib: int
    resume: str | None  # directory of a run
    quiet: bool


def pytest_configure(config: Any) -> None:
    """Register the plugin if the verb set the variable."""
    if text := os.environ.pop(VARIABLE, None):
        options = RunOptions(**json.loads(text))
        if options.resume is not None:
            config.stash[RUN_NAME] = Path(options.resume).name
        config.pluginmanager.register(FleetRunner(config, options), "kdump-fleet-front")


class FleetRunner:
    """The plugin that runs the tests of a session on a fleet."""

    def __init__(self, config: Any, options: RunOptions) -> None:
        self.config, self.options = config, options

    def pytest_runtestloop(self, session: Any) -> bool:
        """Replace pytest's loop."""
        if session.testsfailed and not session.config.option.continue_on_collection_errors:
            raise session.Interrupted(f"{session.testsfailed} errors during collection")
        if session.config.option.collectonly:
            return True
        try:
            self._run(session)
        except HarnessError as error:
            # The reports hold the results so far; pytest ends with its status for an interrupted session.
            raise session.Interrupted(f"fleet: {error}") from None
        return True

    def _run(self, session: Any) -> None:
        items = dict(enumerate(session.items, start=1))
        orders = [self._order(number, item) for number, item in items.items()]
        root = option(self.config, "evidence")
        name = run_name(self.config)
        EvidenceRoot(root, part=(name, "fleet")).run.rmdir()  # creates the run's directory and the link "last"
        journal = Journal(root / name)
        known = journal.read() if self.options.resume is not None else {}
        missing = []
        for order in orders:
            if found := known.get(order.task.digest):
                self._report(items[order.number], found.pop(0))
            else:
                missing.append(order)
        if known:
            err.print(
                f"{len(orders) - len(missing)} of {len(orders)} results are known from the earlier run", markup=False
            )
        if not missing:
            return
        options = self.options
        files = {name: Path(path) if (path := getattr(options, name)) else None for name in ("ca", "cert", "key")}
        with Fleet(
            options.scheduler, security=security(**files), wait_s=options.wait_s, at_once=options.at_once,
            direct=options.direct, quiet=options.quiet,
        ) as fleet:  # fmt: skip
            for order, result in fleet.run(missing, evidence=root, run_name=name):
                if result.reports:
                    journal.add(order.task.digest, result)
                self._report(items[order.number], result)
                if session.shouldfail:
                    raise session.Failed(session.shouldfail)
                if session.shouldstop:
                    raise session.Interrupted(session.shouldstop)

    def _order(self, number: int, item: Any) -> Order:
        """Return the task of a test with the needs that follow from its parameters."""
        path = Path(str(item.path))
        if path.parent.resolve() != data_path("scenarios").resolve():
            raise HarnessError(f"{item.nodeid} is not a scenario of the harness; workers run no other tests")
        task = FleetTask(
            kind=SCENARIO,
            test=f"{path.name}::{item.nodeid.partition('::')[2]}",
            sha256=scenario_digest(path),
            arguments=scenario_options(lambda name: option(self.config, name)),
            vmcores=self.options.vmcores,
            evidence_mib=self.options.evidence_mib,
        )
        return Order(number=number, task=task, needs=_needs(item), kind=scenario_name(item).replace("::", "."))

    # ------------------------------------------------------------ reports

    def _report(self, item: Any, result: TaskResult) -> None:
        """Pass a test's reports to pytest."""
        hook = item.ihook
        hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for data in self._reports(item, result):
            report = self.config.hook.pytest_report_from_serializable(config=self.config, data=data)
            hook.pytest_runtest_logreport(report=report)
        hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)

    def _reports(self, item: Any, result: TaskResult) -> list[dict[str, Any]]:
        """Return the reports of a result, or those of an error if they are invalid."""
        try:
            found = [_checked(item, data) for data in result.reports]
            problem = result.problem or ("" if found and found[-1]["when"] == "teardown" else "it ended early")
        except (KeyError, TypeError, ValueError, AttributeError):
            found, problem = [], "reports from the worker do not match this test"
        if problem:
            return list(_broken(item, f"{result.worker}: {problem}", found))
        for data in found:
            data["sections"] = [*data["sections"], ("fleet", f"it ran on {result.worker}")]
        found[-1]["user_properties"] = [*found[-1]["user_properties"], ("worker", result.worker)]
        self._record(item, found)
        return found

    def _record(self, item: Any, reports: Sequence[Mapping[str, Any]]) -> None:
        """Record the verdicts in this host's history."""
        state = option(self.config, "state")
        path = history_path(option(self.config, "history"), state)
        for verdict in reports[-1].get("kdump", {}).get("verdicts", ()):
            record(
                path, DRILL_KIND, verdict, log=lambda text: err.print(text, markup=False), scenario=scenario_name(item)
            )


def _checked(item: Any, data: dict[str, Any]) -> dict[str, Any]:
    """Return the known fields of a report. KeyError, TypeError, ValueError or AttributeError if invalid."""
    if data["$report_type"] != "TestReport" or data["when"] not in _WHEN or data["outcome"] not in _OUTCOMES:
        raise ValueError
    known = {
        "nodeid": item.nodeid,
        "location": item.location,
        "keywords": dict.fromkeys(item.keywords, 1),
        "outcome": data["outcome"],
        "longrepr": data["longrepr"] if isinstance(data["longrepr"], (str, list, dict, type(None))) else None,
        "when": data["when"],
        "user_properties": [(str(name), value) for name, value in data["user_properties"]],
        "sections": [(str(name), str(text)) for name, text in data["sections"]],
        "duration": float(data["duration"]),
        "start": float(data.get("start", 0.0)),
        "stop": float(data.get("stop", 0.0)),
        "$report_type": "TestReport",
    }
    if isinstance(known["longrepr"], list):  # location and reason of a skip
        path, line, why = known["longrepr"]
        known["longrepr"] = (str(path), int(line), str(why))
    if "wasxfail" in data:
        known["wasxfail"] = str(data["wasxfail"])
    if "kdump" in data:
        entry = MatrixEntry.from_json(data["kdump"])
        image = item.callspec.params.get("kdump_image") if hasattr(item, "callspec") else None
        if entry.image != image or not all(isinstance(one, dict) for one in entry.verdicts):
            raise ValueError
        entry.nodeid, entry.scenario = item.nodeid, scenario_name(item)
        known["kdump"] = entry.to_json()
    return known


def _broken(item: Any, problem: str, before: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield reports that say why a test has no outcome."""
    for when, outcome in (("setup", "failed"), ("teardown", "passed")):
        data: dict[str, Any] = {
            "$report_type": "TestReport", "nodeid": item.nodeid, "location": item.location,
            "keywords": dict.fromkeys(item.keywords, 1), "outcome": outcome, "when": when,
            "longrepr": problem if outcome == "failed" else None, "user_properties": [], "sections": [],
            "duration": sum(one["duration"] for one in before) if when == "setup" else 0.0, "start": 0.0, "stop": 0.0,
        }  # fmt: skip
        if hasattr(item, "callspec") and "kdump_image" in item.callspec.params:
            entry = MatrixEntry(
                image=item.callspec.params["kdump_image"], scenario=scenario_name(item), nodeid=item.nodeid,
                outcome=Outcome.ERROR, reason=problem.splitlines()[0],
            )  # fmt: skip
            data["kdump"] = entry.to_json()
        yield data


def _needs(item: Any) -> Needs:
    """Return the needs of a test's guests."""
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    level, features = None, set()
    firmware = parameters.get("kdump_firmware") or option(item.config, "firmware")
    if image := parameters.get("kdump_image"):
        row = load_catalog().find(image)
        level = row.cpu
        firmware = firmware or ("bios" if "bios" in row.firmware else row.firmware[0])
        features.add(f"ARCH-{row.arch}")
    for name in ("needs", "kdump_needs"):
        features |= {str(one).upper() for mark in item.iter_markers(name) for one in mark.args}
    needs = guest_needs(parameters.get("kdump_memory_mib"), level=level, firmware=firmware or "bios", more=features)
    has_server = parameters.get("kdump_target") in ON_SERVER or "kdump_collector" in item.fixturenames
    return needs.with_guest(COLLECTOR_MIB) if has_server else needs
