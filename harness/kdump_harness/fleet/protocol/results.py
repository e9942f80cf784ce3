"""The result of a task: a header of plain data and the evidence, read without trust."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ...base import foreign
from ...base.errors import EXIT_BROKEN, EXIT_FAILED, EXIT_OK, EXIT_UNJUDGED, NoVerdict
from ...base.output import printable
from ...base.stage import Stage
from ...base.verdict import Check, Verdict

HEADER_MAX_BYTES = 64 << 20
_DEPTH_MAX = 20


class BadResult(NoVerdict):
    """A worker's result is invalid."""


@dataclass(kw_only=True)
class TaskResult:
    """The outcome of one task."""

    worker: str
    status: int = EXIT_BROKEN  # exit status of the process
    took_s: float = 0.0
    problem: str = ""  # the reason for neither verdict nor report
    verdict: dict[str, Any] | None = None
    reports: list[dict[str, Any]] = field(default_factory=list)  # reports of pytest, serialized
    root: str = ""  # directory of the evidence on the worker
    left_out: list[str] = field(default_factory=list)
    evidence: str = ""  # directory of the evidence on this host

    def header(self) -> dict[str, Any]:
        """Return the result as plain data, for a message or the journal."""
        return dataclasses.asdict(self)


def write_result(result: TaskResult, archive: bytes = b"") -> bytes:
    """Return the result as bytes."""
    head = json.dumps(result.header(), default=str).encode()
    return len(head).to_bytes(8, "big") + head + archive


def read_result(data: object) -> tuple[TaskResult, memoryview]:
    """Return the result and its archive. Raise BadResult for an invalid one."""
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise BadResult("the worker did not send bytes")
    view = memoryview(data)
    length = int.from_bytes(view[:8], "big")
    if len(view) < 8 or length > min(HEADER_MAX_BYTES, len(view) - 8):
        raise BadResult("the worker's result is truncated")
    try:
        table = foreign.parse_json(bytes(view[8 : 8 + length]))
    except ValueError:
        raise BadResult("the worker's result is not JSON") from None
    return from_header(table), view[8 + length :]


def from_header(table: object) -> TaskResult:
    """Return the result that header() wrote. Raise BadResult for an invalid one."""
    kinds = {
        "worker": str, "status": int, "took_s": (int, float), "problem": str, "verdict": (dict, type(None)),
        "reports": list, "root": str, "left_out": list, "evidence": str,
    }  # fmt: skip
    if not isinstance(table, dict) or set(table) != set(kinds):
        raise BadResult("malformed result from the worker: unexpected fields")
    for name, kind in kinds.items():
        if not isinstance(table[name], kind):  # type: ignore[arg-type]
            raise BadResult(f"malformed result from the worker: invalid {name}")
    if not all(isinstance(one, dict) for one in table["reports"]):
        raise BadResult("malformed result from the worker: invalid reports")
    if not all(isinstance(one, str) for one in table["left_out"]):
        raise BadResult("malformed result from the worker: invalid left_out")
    return TaskResult(**_map(table, printable))


def relocate(result: TaskResult, here: str) -> None:
    """Replace the worker's directory of evidence by the one on this host, throughout the result."""
    if root := result.root:
        result.verdict = _map(result.verdict, lambda text: text.replace(root, here))
        result.reports = _map(result.reports, lambda text: text.replace(root, here))
        result.problem = result.problem.replace(root, here)
    result.evidence, result.root = here, here


def _map(value: Any, change: Callable[[str], str], depth: int = 0) -> Any:
    """Return the value with a change made to each text in it."""
    if depth > _DEPTH_MAX:
        raise BadResult("malformed result from the worker: nested too deeply")
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_map(one, change, depth + 1) for one in value]
    if isinstance(value, dict):
        return {change(name): _map(one, change, depth + 1) for name, one in value.items()}
    return value


def verdict_of(result: TaskResult) -> Verdict | None:
    """Return the verdict, if the result has one. Raise BadResult for an invalid one."""
    if result.verdict is None:
        return None
    names = {one.name for one in dataclasses.fields(Verdict)}
    table = {name: value for name, value in result.verdict.items() if name in names}
    try:
        table["checks"] = [Check(**one) for one in table["checks"]]
        table["reached"] = Stage[table["reached"]]
        verdict = Verdict(**table)
        texts = (verdict.image, verdict.family, verdict.trigger, verdict.target, verdict.accelerator, verdict.evidence)
        fits = (
            all(isinstance(one, str) for one in texts)
            and type(verdict.verified) is bool
            and all(type(one.ok) is bool and isinstance(one.seen, str) for one in verdict.checks)
            and all(isinstance(one, (int, float)) for one in verdict.phases_s.values())
            and all({"severity", "name", "line", "remedy"} <= set(one) for one in verdict.symptoms)
            and all(isinstance(one, str) for one in verdict.remarks)
            and (verdict.dump is None or {"path", "size_bytes", "pages_kept", "pages_total"} <= set(verdict.dump))
        )
        # A verified verdict needs checks, and all of them passed.
        fits = fits and not (verdict.verified and (not verdict.checks or not all(one.ok for one in verdict.checks)))
    except (KeyError, TypeError, ValueError, AttributeError):
        fits = False
    if not fits:
        raise BadResult("the worker's verdict is invalid")
    if result.status not in (EXIT_OK, EXIT_FAILED, EXIT_UNJUDGED):
        raise BadResult(f"the worker sent a verdict, but its process ended with {result.status}")
    return verdict
