"""The findings of rules, which become reasons with a meaning and a remedy of the tables of symptoms and reasons."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..base import tables
from ..base.tables import package_path
from ..configuration.own_tables import family_lineage
from ..diagnosis.remedies import PLATFORMS, doubled, filled
from ..diagnosis.table import SymptomRow, all_symptoms
from ..distro.family import fill
from .facts import Facts
from .result import Reason, Severity


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A rule's word about a host."""

    name: str  # of a symptom, or of a row of reasons.toml
    severity: Severity
    evidence: str
    meaning: str = ""  # instead of the table's
    remedy: str = ""
    words: Mapping[str, str] = field(default_factory=dict)  # for the remedy


@dataclass(frozen=True, kw_only=True)
class ReasonRow:
    """A row of reasons.toml."""

    name: str
    meaning: str
    remedy: str
    remedies: dict[str, str] = field(default_factory=dict)


def failure(name: str, evidence: str, *, meaning: str = "", remedy: str = "", **words: str) -> Finding:
    """Return a finding that makes a good vmcore impossible."""
    return Finding(name=name, severity=Severity.FAILURE, evidence=evidence, meaning=meaning, remedy=remedy, words=words)


def risk(name: str, evidence: str, *, remedy: str = "", **words: str) -> Finding:
    """Return a finding that may prevent a good vmcore."""
    return Finding(name=name, severity=Severity.RISK, evidence=evidence, remedy=remedy, words=words)


def note(name: str, evidence: str) -> Finding:
    """Return a finding that does not change the answer."""
    return Finding(name=name, severity=Severity.NOTE, evidence=evidence)


def span(seconds: float) -> str:
    """Return a length of time in words."""
    for unit, unit_s in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * unit_s:
            return f"{seconds / unit_s:.0f} {unit}"
    return f"{seconds:.0f} s"


@functools.cache
def reason_rows() -> dict[str, ReasonRow]:
    """Return the rows of reasons.toml by name."""
    rows = tables.load_rows(package_path("audit", "reasons.toml"), "reason", ReasonRow)
    return {row.name: row for row in rows}


def reason_of(finding: Finding, facts: Facts) -> Reason:
    """Return the reason with its meaning and the remedy for this host."""
    row = reason_rows().get(finding.name) or all_symptoms().row(finding.name)
    state = facts.state
    crashkernel = facts.family.crashkernel
    given = {
        "kernel": state.kernel,
        "crashkernel": crashkernel,
        "crashkernel_more": doubled(state.crashkernel or crashkernel),
        **finding.words,
    }
    signs = [name for name in PLATFORMS if name in facts.text("platform").split()]
    if "transactional" in facts.family.release:
        signs.append("transactional")
    remedy = finding.remedy or _filled(row, facts.family.name, signs, given)
    image, install = facts.initramfs.path if facts.initramfs else "", facts.family.commands.install
    return Reason(
        name=finding.name,
        severity=finding.severity,
        evidence=finding.evidence,
        meaning=finding.meaning or row.meaning,
        remedy=fill(
            remedy,
            service=facts.family.service,
            file=facts.family.config.file,
            initramfs=image,
            install=fill(install, packages=" ".join(facts.family.packages)),
        ),
    )


def _filled(row: ReasonRow | SymptomRow, family: str, signs: list[str], given: Mapping[str, str | None]) -> str:
    """Return the remedy of a row with the diagnosis' placeholders filled; those of an audit stay."""
    if isinstance(row, SymptomRow):
        return filled(row.remedy, row.remedies, families=family_lineage(family), signs=signs, facts=given)
    kept = {name: f"{{{name}}}" for name in ("service", "file", "initramfs", "install")}
    platform = next((name for name in signs if name in row.remedies), family)
    return row.remedies.get(platform, row.remedy).format_map({**kept, **given})
