"""Result of a sizing: its trials, the recommendation, their JSON and their plot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ...kdump.capture_memory import CaptureMemory
from .. import plot
from .plan import STEP_MIB

SCHEMA = 1
WASTEFUL = 1.5  # multiple of the recommendation
TIGHT = 1.1  # multiple of the smallest reservation

DUMPED, TOO_SMALL, OTHER = "dumped", "too small", "something else"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One crash, or one refusal to load the capture kernel."""

    reserved_mib: int
    outcome: str  # DUMPED, TOO_SMALL or OTHER
    reason: str
    crashed: bool
    took_s: float
    evidence: str


@dataclass(kw_only=True)
class Sizing:
    """Result for one machine and target."""

    memory_mib: int
    vcpus: int
    target: str
    largest_mib: int | None = None  # first reservation: its main part, as all sizes here
    high: bool = False  # the main part is above 4 GiB
    low_mib: int = 0  # part below 4 GiB in addition to a high one, which the trials leave as it is
    cma_mib: int = 0  # CMA ranges, which the trials leave as they are
    trials: list[Trial] = field(default_factory=list)
    smallest_mib: int | None = None
    measured: CaptureMemory | None = None  # memory of the capture kernel that had the whole reservation
    predicted_mib: int | None = None  # prediction from the measurement
    default_mib: int | None = None  # default of the distribution
    estimate_mib: int | None = None  # estimate of the distribution's tool
    recommended_mib: int | None = None
    stopped_by: str | None = None  # reason for the lack of an answer
    cold_boots: int = 0
    confirmed: bool | None = None  # outcome of a cold drill of the recommendation; None: not tried
    confirmation: str = ""  # explanation of that outcome
    took_s: float = 0.0
    reservation: str | None = None  # first reservation of the last search; None: the family's
    finished: bool = False  # true when the search is complete

    @property
    def name(self) -> str:
        """Machine and target as text."""
        return f"{self.memory_mib} MiB, {self.vcpus} CPU{'s' if self.vcpus != 1 else ''}, {self.target}"

    @property
    def others_mib(self) -> int:
        """Size of the parts that the trials leave as they are."""
        return self.low_mib + self.cma_mib

    @property
    def searched(self) -> str:
        """The part that the sizes are about, and the parts that stay; empty for a reservation of one part."""
        stay = [f"{self.low_mib} MiB below 4 GiB"] if self.low_mib else []
        stay += [f"{self.cma_mib} MiB of CMA"] if self.cma_mib else []
        if not (self.high or stay):
            return ""
        part = "the part above 4 GiB" if self.high else "the fixed part"
        return f"{part}, with {' and '.join(stay)}" if stay else part

    @property
    def crashes(self) -> int:
        """Number of trials that were crashes."""
        return sum(trial.crashed for trial in self.trials)

    def tried(self) -> dict[int, list[bool]]:
        """Return whether each trial dumped, by size."""
        found: dict[int, list[bool]] = {}
        for trial in sorted(self.trials, key=lambda trial: trial.reserved_mib):
            found.setdefault(trial.reserved_mib, []).append(trial.outcome == DUMPED)
        return found

    def proof(self) -> str:
        """Return the trials on both sides of the edge, as in "dumped 3 of 3 at 132M, 0 of 3 at 128M"."""
        tried = self.tried()
        if self.smallest_mib is None:
            return ", ".join(_count(size, worked) for size, worked in tried.items()) or "nothing was tried"
        below = max((size for size in tried if size < self.smallest_mib), default=None)
        parts = [f"dumped {_count(self.smallest_mib, tried[self.smallest_mib])}"]
        if below is not None:
            parts.append(_count(below, tried[below]))
        return ", ".join(parts)

    def default_verdict(self) -> str:
        """Return the judgement of the distribution's default."""
        default, smallest, wanted = self.default_mib, self.smallest_mib, self.recommended_mib
        if smallest is None or wanted is None:
            return "not judged"
        if default is None:
            return "not known"
        if default == 0:
            return "none: nothing is reserved on such a machine"
        tried = self.tried().get(default, [])
        seen = f" (dumped {_count(default, tried)})" if tried else ""
        if default < smallest:
            return f"too small{seen}"
        if default < smallest * TIGHT:
            return f"tight: {default - smallest} MiB above the smallest that dumps{seen}"
        if default > wanted * WASTEFUL:
            return f"wasteful: {default - wanted} MiB more than recommended{seen}"
        return f"enough: {default - smallest} MiB above the smallest that dumps{seen}"


def _count(size: int, worked: list[bool]) -> str:
    return f"{sum(worked)} of {len(worked)} at {size}M"


@dataclass(kw_only=True)
class Size:
    """Result of a sizing."""

    image: str
    arch: str = "x86_64"  # as uname -m prints it
    accelerator: str = ""
    kernel: str | None = None
    makedumpfile: str | None = None
    release: str | None = None
    step_mib: int = STEP_MIB
    sizings: list[Sizing] = field(default_factory=list)
    crashkernel: str | None = None  # recommended crashkernel= value
    default: str | None = None  # crashkernel= value of the distribution
    margin: str = ""  # reason for the margin of the recommendation
    notes: list[str] = field(default_factory=list)
    took_s: float = 0.0
    evidence: str = ""
    jobs: int = 1  # largest number of parallel drills, which affects the times
    asked: dict[str, str] = field(default_factory=dict)  # options that a resumed run must share

    @property
    def ok(self) -> bool:
        """Whether each machine has an answer that no confirmation refuted."""
        return bool(self.sizings) and all(
            one.smallest_mib is not None and one.confirmed is not False for one in self.sizings
        )

    def failures(self) -> list[str]:
        """Return the machines without an answer, or with a refuted one."""
        found = [
            f"{one.name}: {one.stopped_by or 'the search was not finished'}"
            for one in self.sizings
            if one.smallest_mib is None
        ]
        return found + [f"{one.name}: {one.confirmation}" for one in self.sizings if one.confirmed is False]

    def explain(self) -> str:
        """Return the result as the message of an assertion."""
        proofs = [f"{one.name}: {one.proof()}" for one in self.sizings]
        return "\n  ".join([f"{self.image}: {self.crashkernel}", *proofs, *self.failures(), self.evidence])

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON data."""
        record = asdict(self)
        for row, one in zip(record["sizings"], self.sizings, strict=True):
            row["measured"] = one.measured.to_json() if one.measured is not None else None
            row["searched"] = one.searched
            row["proof"], row["default_verdict"], row["crashes"] = one.proof(), one.default_verdict(), one.crashes
        return {"schema": SCHEMA, "ok": self.ok, **record}

    def draw(self, path: Path) -> None:
        """Draw the reservations to PATH, unless there is nothing to draw."""
        lines: dict[str, list[tuple[float, float]]] = {}
        for one in sorted(self.sizings, key=lambda one: one.memory_mib):
            for name, mib in (
                ("recommended", one.recommended_mib),
                ("smallest that dumps", one.smallest_mib),
                ("distribution's default", one.default_mib),
                ("distribution's estimate", one.estimate_mib),
            ):
                if mib is not None:
                    lines.setdefault(name, []).append((one.memory_mib, mib))
        if "smallest that dumps" not in lines:
            return
        failed = [
            (one.memory_mib, size) for one in self.sizings for size, worked in one.tried().items() if not all(worked)
        ]
        facts = [f"Linux {self.kernel}" if self.kernel else "", self.crashkernel or ""]
        plot.draw_reservations(
            path,
            lines,
            failed,
            title=f"{self.image}: memory to reserve for the capture kernel",
            subtitle=", ".join(fact for fact in facts if fact),
        )


def sizing_from_json(row: Mapping[str, Any]) -> Sizing:
    """Return the sizing of a row of a record."""
    parts = {one.name: row[one.name] for one in fields(Sizing) if one.name in row}
    parts["trials"] = [Trial(**trial) for trial in row["trials"]]
    if (measured := row["measured"]) is not None:
        parts["measured"] = CaptureMemory(**{one.name: measured[one.name] for one in fields(CaptureMemory)})
    return Sizing(**parts)
