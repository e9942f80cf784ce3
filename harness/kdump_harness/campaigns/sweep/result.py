"""Result of a sweep: its cells, their JSON and their plot."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ...base import plot
from ...base.units import MIB
from ...base.verdict import Check
from ...distro.family import COMPRESS_FLAGS
from .cells import COMPUTED, REFUSED, SweepCell

SCHEMA = 1


@dataclass(kw_only=True)
class Sweep:
    """Everything that a sweep found."""

    image: str
    memory_mib: int
    vcpus: int
    levels: tuple[int, ...]
    compressions: tuple[str, ...]
    accelerator: str = ""
    kernel: str | None = None
    makedumpfile: str | None = None
    cells: list[SweepCell] = field(default_factory=list)  # the table
    controls: list[SweepCell] = field(default_factory=list)  # computed although there is a real crash, to compare
    relations: list[Check] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    crashes: int = 0
    took_s: float = 0.0
    evidence: str = ""
    jobs: int = 1  # at once, at most; it shows in the times
    asked: dict[str, str] = field(default_factory=dict)  # by option, for who goes on with it
    real: list[list[Any]] = field(default_factory=list)  # the cells that are crashes, once that is decided
    computed: list[list[Any]] = field(default_factory=list)  # and those that are not

    @property
    def ok(self) -> bool:
        """Whether there are cells, and all of them and all relations hold; refused ones are neither good nor bad."""
        held = [cell.ok for cell in self.cells if cell.how != REFUSED]
        return bool(held) and all(held) and all(relation.ok for relation in self.relations)

    def cell(self, level: int, compress: str) -> SweepCell | None:
        """The cell of the table, if it was asked for."""
        return next((cell for cell in self.cells if (cell.level, cell.compress) == (level, compress)), None)

    def refused(self) -> dict[str, str]:
        """Why, for each compression that the guest does not have."""
        return {cell.compress: cell.reason or "" for cell in self.cells if cell.how == REFUSED}

    def failures(self, *, with_known: bool = True) -> list[str]:
        """What does not hold, the relations first; those that are known issues only on request."""
        found = [f"{one.name}: expected {one.expected}, seen {one.seen}" for one in self.relations if not one.ok]
        for cell in self.cells:
            if cell.how != REFUSED and not cell.ok and (with_known or cell.known_issue is None):
                issue = f" (known issue {cell.known_issue})" if cell.known_issue else ""
                found.append(f"{cell.name}, {cell.how}: {cell.reason}{issue}")
        if not any(cell.how != REFUSED for cell in self.cells):
            found.append("; ".join(self.refused().values()) or "nothing was swept")
        return found

    def explain(self) -> str:
        """What does not hold, for an assertion's message."""
        return "\n  ".join([f"{self.image}: {len(self.cells)} cells", *self.failures(), f"evidence: {self.evidence}"])

    def to_json(self) -> dict[str, Any]:
        """The record as JSON takes it."""
        return {"schema": SCHEMA, "ok": self.ok, **asdict(self), "refused": self.refused()}

    def draw(self, path: Path) -> None:
        """The plot of the sizes; none where there is nothing to draw."""
        lines: dict[str, list[plot.Point]] = {}
        for cell in self.cells:
            if cell.size_bytes:
                point = plot.Point(cell.level, cell.size_bytes / MIB, cell.how == COMPUTED)
                lines.setdefault(cell.compress, []).append(point)
        if not lines:
            return
        order = [name for name in COMPRESS_FLAGS if name in lines]
        facts = [
            f"Linux {self.kernel}" if self.kernel else "",
            f"makedumpfile {self.makedumpfile}" if self.makedumpfile else "",
            f"guest with {self.memory_mib:,} MiB",
        ]
        plot.draw_sizes(
            path,
            {name: lines[name] for name in order},
            title=f"{self.image}: size of the vmcore by dump level",
            subtitle=", ".join(fact for fact in facts if fact),
        )
