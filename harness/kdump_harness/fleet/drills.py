"""Drills on a fleet: the tasks, their outcomes and the reports."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from ..base.errors import EXIT_BROKEN, EXIT_FAILED, EXIT_HOST, EXIT_OK, EXIT_UNJUDGED, EXIT_USAGE, UsageError
from ..base.output import xml_text
from ..base.verdict import Verdict
from .client import Order
from .protocol.results import BadResult, TaskResult, verdict_of
from .protocol.tasks import DRILL, LOCAL_OPTIONS, FleetTask, asked_mib, drill_arguments, drill_needs, parse_drill

# Exit statuses from the worst to the best; the worst one counts.
_WORST = (EXIT_USAGE, EXIT_HOST, EXIT_BROKEN, EXIT_FAILED, EXIT_UNJUDGED, EXIT_OK)


def read_drills(path: Path) -> list[list[str]]:
    """Return the arguments in each line of a file. UsageError names an invalid line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read ({getattr(error, 'strerror', None) or error})") from None
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            words = shlex.split(line, comments=True)
        except ValueError as error:
            raise UsageError(f"{path}: line {number}: {error}") from None
        if words:
            found.append(words[1:] if words[0] == DRILL else words)
    if not found:
        raise UsageError(f"{path} has no drills")
    return found


def orders_of(drills: Sequence[Sequence[str]], *, vmcores: bool, evidence_mib: int) -> list[Order]:
    """Return the drills as orders. UsageError for invalid arguments or options that workers refuse."""
    orders, usual = [], parse_drill(["debian-12"])
    for number, arguments in enumerate(drills, start=1):
        found = parse_drill(arguments)
        for name in LOCAL_OPTIONS:
            setattr(found, name, getattr(usual, name))
        task = FleetTask(kind=DRILL, arguments=drill_arguments(found), vmcores=vmcores, evidence_mib=evidence_mib)
        kind = f"{DRILL}-{Path(found.image).stem}"
        orders.append(Order(number=number, task=task, needs=drill_needs(found), kind=kind))
    return orders


def local_options(arguments: Sequence[str], into: argparse.Namespace) -> None:
    """Copy the options of a drill that concern this host, such as --json."""
    found, usual = parse_drill(arguments), parse_drill(["debian-12"])
    for name in LOCAL_OPTIONS:
        if hasattr(into, name) and getattr(found, name) != getattr(usual, name):
            setattr(into, name, getattr(found, name))


@dataclass(frozen=True, kw_only=True)
class DrillOutcome:
    """The outcome of one drill."""

    order: Order
    result: TaskResult
    verdict: Verdict | None

    @property
    def status(self) -> int:
        """Return the exit status that the drill would have on this host."""
        if self.verdict is not None:
            return self.verdict.exit_status
        return self.result.status if self.result.status in (EXIT_USAGE, EXIT_HOST) else EXIT_BROKEN

    @property
    def line(self) -> str:
        """Return the outcome as one line of text."""
        label = self.order.task.label
        if self.verdict is None:
            return f"NO VERDICT {label}: {self.result.problem.splitlines()[0] if self.result.problem else ''}"
        word = "VERIFIED" if self.verdict.verified else "NOT VERIFIED"
        why = "" if self.verdict.verified else f": {self.verdict.reason()}"
        return f"{word} {label} ({self.result.worker}, {self.result.took_s:.0f} s){why}"

    def to_json(self) -> dict[str, Any]:
        """Return one entry of --json."""
        return {
            "arguments": list(self.order.task.arguments),
            "worker": self.result.worker,
            "status": self.status,
            "took_s": self.result.took_s,
            "problem": self.result.problem,
            "evidence": self.result.evidence,
            "left_out": self.result.left_out,
            "verdict": self.verdict.to_json() if self.verdict is not None else None,
        }


def outcome_of(order: Order, result: TaskResult) -> DrillOutcome:
    """Return the outcome of a drill; without verdict if the worker's one is invalid or on another drill."""
    try:
        verdict = verdict_of(result)
        if verdict is not None and (problem := _other(order, verdict)):
            raise BadResult(problem)
    except BadResult as error:
        return DrillOutcome(
            order=order,
            result=TaskResult(worker=result.worker, took_s=result.took_s, problem=str(error), evidence=result.evidence),
            verdict=None,
        )
    return DrillOutcome(order=order, result=result, verdict=verdict)


def _other(order: Order, verdict: Verdict) -> str:
    """Return how a verdict differs from the drill that was ordered; empty if not at all."""
    asked = parse_drill(order.task.arguments)
    pairs = [
        ("trigger", asked.trigger, verdict.trigger),
        ("target", asked.target or "local", verdict.target),
        ("memory", asked_mib(asked), verdict.memory_mib),
    ]
    if "/" not in asked.image:
        pairs.append(("image", asked.image, verdict.image))
    if asked.level is not None and verdict.level is not None:
        pairs.append(("level", asked.level, verdict.level))
    return "; ".join(f"the verdict is on {name} {seen}, not {wanted}" for name, wanted, seen in pairs if seen != wanted)


def worst(outcomes: Sequence[DrillOutcome]) -> int:
    """Return the worst exit status."""
    return min((one.status for one in outcomes), key=_WORST.index, default=EXIT_OK)


def junit(outcomes: Sequence[DrillOutcome]) -> str:
    """Return all drills as JUnit XML: failures of kdump are failures, those of the harness errors."""
    failures = sum(one.status == EXIT_FAILED for one in outcomes)
    errors = sum(one.status not in (EXIT_OK, EXIT_FAILED) for one in outcomes)
    root = ElementTree.Element("testsuites")
    suite = ElementTree.SubElement(
        root, "testsuite", name="kdump-harness fleet", tests=str(len(outcomes)), failures=str(failures),
        errors=str(errors), time=f"{sum(one.result.took_s for one in outcomes):.1f}",
    )  # fmt: skip
    for one in outcomes:
        case = ElementTree.SubElement(
            suite, "testcase", classname=one.order.kind, name=one.order.task.label, time=f"{one.result.took_s:.1f}"
        )
        table = ElementTree.SubElement(case, "properties")
        for name, value in (("worker", one.result.worker), ("evidence", one.result.evidence)):
            ElementTree.SubElement(table, "property", name=name, value=value)
        if one.status == EXIT_FAILED and one.verdict is not None:
            ElementTree.SubElement(case, "failure", message=one.verdict.reason())
        elif one.status != EXIT_OK:
            ElementTree.SubElement(
                case, "error", message=one.result.problem or (one.verdict.reason() if one.verdict else "")
            )
    return xml_text(root)
