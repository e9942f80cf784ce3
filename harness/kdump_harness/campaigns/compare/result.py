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
    failed: tuple[str, ...]  # names of failed checks
    symptoms: tuple[str, ...]  # names of failures and warnings
    splats: tuple[str, ...]  # kernel warnings on the console
    figures: dict[str, float]
    evidence: str
    known_issue: str | None = None


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One compared property of a drill."""

    scenario: str
    what: str
    word: str  # a word of statistics.py
    old: str
    new: str
    change: str = ""
    open: bool = False  # a possible regression, which further rounds may decide


@dataclass(kw_only=True)
class Comparison:
    """Result of a comparison."""

    image: str
    thing: str  # the difference between the sides
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
    jobs: int = 1  # largest number of parallel drills, which affects the times
    asked: dict[str, str] = field(default_factory=dict)  # options that a resumed run must share

    @property
    def ok(self) -> bool:
        """Whether something was compared, and nothing became worse."""
        return bool(self.findings) and not self.regressions()

    def regressions(self) -> list[Difference]:
        """Return the differences that are regressions."""
        return [finding for finding in self.findings if finding.word == WORSE]

    def of(self, scenario: str, side: int) -> list[Sample]:
        """Return the drills of one side."""
        return [sample for sample in self.samples if (sample.scenario, sample.side) == (scenario, side)]

    def scenarios(self) -> tuple[str, ...]:
        """Return the names of the drills in their order."""
        return tuple(dict.fromkeys(sample.scenario for sample in self.samples))

    def explain(self) -> str:
        """Return the regressions as the message of an assertion."""
        worse = [f"{one.scenario}: {one.what}: {one.old} → {one.new} {one.change}" for one in self.regressions()]
        return "\n  ".join([f"{self.image}: {self.sides[0]} → {self.sides[1]}", *worse, self.evidence])

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON data."""
        summary = f"{self.sides[0]} → {self.sides[1]}: {len(self.regressions())} worse"
        kernel = self.kernels[1]
        return {"schema": SCHEMA, "ok": self.ok, "kernel": kernel, "summary": summary, "figures": {}, **asdict(self)}


def sample_from_json(row: Mapping[str, Any]) -> Sample:
    """Return the drill of a row of a record."""
    parts: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}
    return Sample(**parts)
