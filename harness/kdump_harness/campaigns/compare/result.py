"""Result of a comparison: its drills, the differences between the sides, and their JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from .plan import MAX_LARGER, MAX_SLOWER, MOST_ROUNDS
from .statistics import WORSE

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One drill of one side."""

    side: int  # 0 old, 1 new
    scenario: str
    round: int
    verified: bool
    reached: str
    reason: str
    failed: tuple[str, ...]  # checks
    symptoms: tuple[str, ...]  # failures and warnings
    splats: tuple[str, ...]  # of kernels, on the console
    figures: dict[str, float]
    evidence: str
    known_issue: str | None = None


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One thing that was compared."""

    scenario: str
    what: str
    word: str  # of difference.py
    old: str
    new: str
    change: str = ""
    open: bool = False  # it may be a regression, which further rounds would show


@dataclass(kw_only=True)
class Comparison:
    """Everything that a comparison found."""

    image: str
    thing: str  # what the sides differ in
    sides: tuple[str, str]
    kernels: list[str | None] = field(default_factory=lambda: [None, None])
    makedumpfiles: list[str | None] = field(default_factory=lambda: [None, None])
    accelerator: str = ""
    memory_mib: int = 0
    vcpus: int = 0
    rounds: int = 0
    most_rounds: int = MOST_ROUNDS
    max_slower: float = MAX_SLOWER
    max_larger: float = MAX_LARGER
    tight_mib: int | None = None
    samples: list[Sample] = field(default_factory=list)
    findings: list[Difference] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    took_s: float = 0.0
    evidence: str = ""
    jobs: int = 1  # at once, at most; it shows in the times
    asked: dict[str, str] = field(default_factory=dict)  # by option, for who goes on with it

    @property
    def ok(self) -> bool:
        """Whether there is something to compare, and nothing got worse."""
        return bool(self.findings) and not self.regressions()

    def regressions(self) -> list[Difference]:
        """What got worse."""
        return [finding for finding in self.findings if finding.word == WORSE]

    def of(self, scenario: str, side: int) -> list[Sample]:
        """The drills of one side."""
        return [sample for sample in self.samples if (sample.scenario, sample.side) == (scenario, side)]

    def scenarios(self) -> tuple[str, ...]:
        """The drills in their order."""
        return tuple(dict.fromkeys(sample.scenario for sample in self.samples))

    def explain(self) -> str:
        """What got worse, for an assertion's message."""
        worse = [f"{one.scenario}: {one.what}: {one.old} → {one.new} {one.change}" for one in self.regressions()]
        return "\n  ".join([f"{self.image}: {self.sides[0]} → {self.sides[1]}", *worse, self.evidence])

    def to_json(self) -> dict[str, Any]:
        """The record as JSON takes it."""
        summary = f"{self.sides[0]} → {self.sides[1]}: {len(self.regressions())} worse"
        kernel = self.kernels[1]
        return {"schema": SCHEMA, "ok": self.ok, "kernel": kernel, "summary": summary, "figures": {}, **asdict(self)}


def sample_from_json(row: Mapping[str, Any]) -> Sample:
    """A drill of a record."""
    parts: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}
    return Sample(**parts)
