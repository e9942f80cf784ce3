"""Failures that are known: excused only with their evidence, never verified, and not for ever."""

from __future__ import annotations

import datetime
import fnmatch
import operator
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base import tables
from ..base.errors import TableError
from ..base.stage import Stage
from ..base.verdict import Check, Verdict
from ..configuration.own_tables import own_rows
from ..vmcore.formats.machines import machines

DRILL, KERNEL, INSPECT = "drill", "kernel", "inspect"  # the scenarios that the verbs are
USERLAND = "userland"  # the family of kernel drills
MAX_LEVEL = 31

_ORDERS = {"<": operator.lt, ">=": operator.ge}
_BOUND = re.compile(r"\s*(<|>=)\s*(\d+(?:\.\d+)*)\s*")
_LEADING_VERSION = re.compile(r"\d+(?:\.\d+)*")


@dataclass(frozen=True, kw_only=True)
class KnownIssue:
    """One row: what fails, where, how it is recognised, and how long it is excused."""

    tracker: str
    scenario: Any  # a glob, or a list of them
    images: tuple[str, ...]
    until: datetime.date  # the last day on which it excuses
    evidence: str = ""  # a regular expression, looked for in the console log and in the verdict's reason
    failed_checks: tuple[str, ...] = ()  # all of these failed,
    may_fail: tuple[str, ...] = ()  # some of these perhaps, and no other check
    arch: str = ""  # of the guest, as uname -m prints it; empty: any
    except_kernel: str = ""  # a glob of the releases of kernels that it is not about
    level_bits: int = 0  # only drills whose dump level has all of these bits
    kernel: str = ""  # ">= 6.12", "< 6.15" or both with a comma
    makedumpfile: str = ""
    crash: str = ""
    note: str = ""

    def concerns(self, verdict: Verdict, scenario: str) -> bool:
        """Whether this drill is one in which the issue can be expected."""
        return (
            _matches(verdict.image, self.images)
            and self.arch in ("", verdict.arch)
            and not fnmatch.fnmatchcase(verdict.kernel or "unknown", self.except_kernel)
            and _matches(scenario, _globs(self.scenario))
            and (verdict.level or 0) & self.level_bits == self.level_bits
        )

    def covers(self, *, kernel: str, makedumpfile: str, level: int, scenario: str, arch: str = "x86_64") -> bool:
        """Return whether checks of a dump that these programs write fail in drills, on an image of any name."""
        return (
            bool(self.makedumpfile and self.failed_checks)
            and not self.crash
            and self.arch in ("", arch)
            and _matches(scenario, _globs(self.scenario))
            and level & self.level_bits == self.level_bits
            and (not self.kernel or _holds(self.kernel, kernel))
            and _holds(self.makedumpfile, makedumpfile)
        )

    def is_of(self, distribution: str) -> bool:
        """Return whether the row names an image of the distribution, by its ID in os-release."""
        return any(image.startswith(f"{distribution}-") for image in self.images)

    def could_be_seen(self, verdict: Verdict) -> bool:
        """Return whether the issue, unless it is fixed, would have failed this drill."""
        made = {check.name for check in verdict.checks}
        return set(self.failed_checks) <= made and all(
            not wanted or _holds(wanted, seen, only=">=") for _, wanted, seen in self._versions(verdict)
        )

    def is_seen(self, verdict: Verdict, console: str, unmade: Collection[str]) -> bool:
        """Whether a drill that is not verified shows the evidence; checks that were not made count as failed."""
        if not self._has_evidence(verdict, console):
            return False
        return not self.failed_checks or _explained((self,), verdict, unmade)

    def is_part(self, verdict: Verdict, console: str, unmade: Collection[str]) -> bool:
        """Return whether a drill shows the evidence of the issue, perhaps next to that of others."""
        return self._has_evidence(verdict, console) and set(self.failed_checks) <= _failed(verdict, unmade)

    def _has_evidence(self, verdict: Verdict, console: str) -> bool:
        texts = (verdict.reason(), console)
        return not self.evidence or any(re.search(self.evidence, text, re.MULTILINE) for text in texts)

    def outside(self, verdict: Verdict) -> str | None:
        """Which version lies outside the row; an unknown one does."""
        for what, wanted, seen in self._versions(verdict):
            if wanted and not _holds(wanted, seen):
                return f"its row is for {what} {wanted}, this is {seen or 'unknown'}"
        return None

    def _versions(self, verdict: Verdict) -> tuple[tuple[str, str, str | None], ...]:
        """Return the programs whose versions matter, each with the bounds of the row and the drill's version."""
        return (
            ("kernel", self.kernel, verdict.kernel),
            ("makedumpfile", self.makedumpfile, verdict.makedumpfile),
            ("crash", self.crash, (verdict.crash or {}).get("version")),
        )


def _failed(verdict: Verdict, unmade: Collection[str]) -> set[str]:
    """Return the checks that did not hold; those that were not made count as failed."""
    return {check.name for check in verdict.failed()} | set(unmade)


def _explained(issues: Collection[KnownIssue], verdict: Verdict, unmade: Collection[str]) -> bool:
    """Return whether issues whose checks failed explain every fault of the drill."""
    failed = _failed(verdict, unmade)
    needed = {name for issue in issues for name in issue.failed_checks}
    allowed = {name for issue in issues for name in issue.may_fail}
    return (
        bool(needed)
        and needed <= failed <= needed | allowed
        and verdict.reached is (Stage.SAVED if verdict.until == "saved" else Stage.RECOVERED)
        and verdict.stopped_by is None
    )


def load_known_issues(path: Path | None = None) -> tuple[KnownIssue, ...]:
    """Return the known issues of a table; by default those of the user, then those of the scenarios.

    Raise TableError with file, row and key.
    """
    issues = []
    if path is None:
        for table, label, row in own_rows("issue"):
            where = f"{table.path}: [[issue]] {label}"
            issues.append(_checked(tables.build(row, KnownIssue, where=where), where))
    path = path or tables.data_path("scenarios", "known_issues.toml")
    for number, issue in enumerate(tables.load_rows(path, "issue", KnownIssue), start=1):
        issues.append(_checked(issue, f"{path.name}: [[issue]] {number}"))
    return tuple(issues)


def _checked(issue: KnownIssue, where: str) -> KnownIssue:
    """Return the issue. Raise TableError for an invalid one."""
    if fault := _fault(issue):
        raise TableError(f"{where}: {fault}")
    return issue


def judge(
    verdict: Verdict,
    issues: Iterable[KnownIssue],
    *,
    scenario: str = DRILL,
    console: str = "",
    unmade: Collection[str] = (),
    today: datetime.date | None = None,
) -> None:
    """Set known_issue and known_issue_note of a finished verdict; what it says of kdump stays as it is."""
    today = today or datetime.date.today()
    verdict.known_issue = None
    notes: list[str] = []
    for issue in issues:
        if not issue.concerns(verdict, scenario):
            continue
        outside = issue.outside(verdict)
        if outside and verdict.family == USERLAND:
            continue  # kernel drills are of any version, so a row for another one says nothing
        if verdict.verified:
            if issue.could_be_seen(verdict):
                notes.append(f"known issue {issue.tracker} no longer seen" + (f" ({outside})" if outside else ""))
        elif issue.is_seen(verdict, console, unmade):
            expired = f"its row expired on {issue.until}" if today > issue.until else None
            if why := outside or expired:
                notes.append(f"known issue {issue.tracker} does not apply: {why}")
            else:
                verdict.known_issue = verdict.known_issue or issue.tracker
    if not verdict.verified and verdict.known_issue is None:
        parts = [
            issue
            for issue in issues
            if issue.failed_checks
            and issue.concerns(verdict, scenario)
            and not issue.outside(verdict)
            and today <= issue.until
            and issue.is_part(verdict, console, unmade)
        ]
        if _explained(parts, verdict, unmade):
            verdict.known_issue = " and ".join(dict.fromkeys(issue.tracker for issue in parts))
    verdict.known_issue_note = "; ".join(dict.fromkeys(notes)) or None


def judge_crash(crash: dict[str, Any], kernel: str | None, issues: Iterable[KnownIssue]) -> str | None:
    """Return the tracker that excuses the complaints of crash about a dump file, by the rows of scenario inspect."""
    verdict = Verdict(
        image=INSPECT, family=USERLAND, trigger="", target="", accelerator="", memory_mib=0, vcpus=0,
        kernel=kernel, crash=crash, reached=Stage.RECOVERED,
        checks=[Check("crash", False, "no complaint", "; ".join(crash["complaints"]))],
    )  # fmt: skip
    judge(verdict, issues, scenario=INSPECT)
    return verdict.known_issue


def _matches(name: str, globs: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, glob) for glob in globs)


def _globs(scenario: Any) -> tuple[str, ...]:
    return (scenario,) if isinstance(scenario, str) else tuple(scenario)


def _holds(wanted: str, seen: str | None, *, only: str = "") -> bool:
    """Return whether a version lies within all bounds, such as ">= 6.12, < 6.15", or within those of one order."""
    found = _LEADING_VERSION.match(seen or "")
    if found is None:
        return False
    version = _numbers(found.group())
    bounds = [match.groups() for part in wanted.split(",") if (match := _BOUND.fullmatch(part))]
    return all(_ORDERS[order](version, _numbers(bound)) for order, bound in bounds if only in ("", order))


def _numbers(version: str) -> tuple[int, ...]:
    """6.12.0 is 6.12."""
    return tuple(int(part) for part in re.sub(r"(\.0+)+$", "", version).split("."))


def _fault(issue: KnownIssue) -> str | None:
    """Return the fault of a row, starting with the key."""
    if not issue.tracker.strip():
        return "tracker must name the place of the report"
    listed = isinstance(issue.scenario, list) and all(isinstance(glob, str) for glob in issue.scenario)
    if not (isinstance(issue.scenario, str) or listed):
        return f"scenario must be a glob or a list of globs, not {issue.scenario!r}"
    for key, names in (
        ("scenario", _globs(issue.scenario)),
        ("images", issue.images),
        ("failed_checks", issue.failed_checks),
        ("may_fail", issue.may_fail),
    ):
        if not all(name.strip() for name in names) or (not names and key in ("scenario", "images")):
            return f"{key} must not be empty"
    if isinstance(issue.until, datetime.datetime):
        return f"until must be a date without a time, not {issue.until}"
    if issue.arch and issue.arch not in machines():
        return f"unknown arch {issue.arch!r} (known: {', '.join(machines())})"
    if not 0 <= issue.level_bits <= MAX_LEVEL:
        return f"level_bits must be 0 to {MAX_LEVEL}, not {issue.level_bits}"
    for key, wanted in (("kernel", issue.kernel), ("makedumpfile", issue.makedumpfile), ("crash", issue.crash)):
        if wanted and not all(_BOUND.fullmatch(part) for part in wanted.split(",")):
            return f'{key} must be like "< 1.7.7" or ">= 6.12, < 6.15", not {wanted!r}'
    return _evidence_fault(issue)


def _evidence_fault(issue: KnownIssue) -> str | None:
    """Return the fault of the keys that excuse; a row that fits everything is refused."""
    if not issue.evidence and not issue.failed_checks:
        return "missing evidence or failed_checks"
    if issue.may_fail and not issue.failed_checks:
        return "may_fail needs failed_checks"
    try:
        fits_any = re.compile(issue.evidence, re.MULTILINE).search("") is not None
    except re.error as error:
        return f"evidence is not a regular expression: {error}"
    return "evidence fits any text" if issue.evidence and fits_any else None
