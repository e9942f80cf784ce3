"""Result of a sweep: its cells, their JSON and their plot."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ...base.units import MIB
from ...base.verdict import Check
from ...distro.family import COMPRESS_FLAGS
from .. import plot
from .cells import COMPUTED, REFUSED, SweepCell

SCHEMA = 1


@dataclass(kw_only=True)
class Sweep:
    """Result of a sweep."""

    image: str
    memory_mib: int
    vcpus: int
    levels: tuple[int, ...]
    compressions: tuple[str, ...]
    accelerator: str = ""
    kernel: str | None = None
    makedumpfile: str | None = None
    cells: list[SweepCell] = field(default_factory=list)  # the table
    controls: list[SweepCell] = field(
        default_factory=list
    )  # cells that are computed although there is a real crash, to compare both
    relations: list[Check] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    crashes: int = 0
    took_s: float = 0.0
    evidence: str = ""
    jobs: int = 1  # largest number of parallel drills, which affects the times
    asked: dict[str, str] = field(default_factory=dict)  # options that a resumed run must share
    real: list[list[Any]] = field(default_factory=list)  # cells that are real crashes, once that is decided
    computed: list[list[Any]] = field(default_factory=list)  # all other cells

    @property
    def ok(self) -> bool:
        """Whether there are cells, and all cells and relations hold; refused cells do not count."""
        held = [cell.ok for cell in self.cells if cell.how != REFUSED]
        return bool(held) and all(held) and all(relation.ok for relation in self.relations)

    def cell(self, level: int, compress: str) -> SweepCell | None:
        """Return the cell of the table, if it was requested."""
        return next((cell for cell in self.cells if (cell.level, cell.compress) == (level, compress)), None)

    def refused(self) -> dict[str, str]:
        """Return the reason for each refused compression."""
        return {cell.compress: cell.reason or "" for cell in self.cells if cell.how == REFUSED}

    def failures(self, *, with_known: bool = True) -> list[str]:
        """Return the failed relations and cells; those that are known issues only on request."""
        found = [f"{one.name}: expected {one.expected}, seen {one.seen}" for one in self.relations if not one.ok]
        for cell in self.cells:
            if cell.how != REFUSED and not cell.ok and (with_known or cell.known_issue is None):
                issue = f" (known issue {cell.known_issue})" if cell.known_issue else ""
                found.append(f"{cell.name}, {cell.how}: {cell.reason}{issue}")
        if not any(cell.how != REFUSED for cell in self.cells):
            found.append("; ".join(self.refused().values()) or "nothing was swept")
        return found

    def explain(self) -> str:
        """Return the failures as the message of an assertion."""
        return "\n  ".join([f"{self.image}: {len(self.cells)} cells", *self.failures(), f"evidence: {self.evidence}"])

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON data."""
        return {"schema": SCHEMA, "ok": self.ok, **asdict(self), "refused": self.refused()}

    def draw(self, path: Path) -> None:
        """Draw the sizes to PATH, unless there is nothing to draw."""
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
