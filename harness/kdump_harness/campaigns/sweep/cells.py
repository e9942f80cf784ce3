"""Cells of a sweep, and the relations that must hold between them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...base.units import MIB
from ...base.verdict import Check

REAL, COMPUTED, REFUSED = "real", "computed", "refused"
# Two crashes of a guest differ, because other processes run: by up to 12 % between drills of debian-12.
AGREES = (0.8, 1.25)


@dataclass(frozen=True, kw_only=True)
class SweepCell:
    """One level with one compression, and its outcome."""

    level: int
    compress: str
    how: str  # real, computed or refused
    ok: bool
    reason: str | None = None  # reason for the failure or refusal
    crash: int | None = None  # number of the crash that the dump stems from
    size_bytes: int | None = None
    pages_kept: int | None = None
    pages_total: int | None = None
    frames: str | None = None  # digest of the bitmap of the pages kept, if it was computed
    dump_s: float | None = None  # time in the guest; only real crashes have it
    took_s: float | None = None  # time of the whole drill, or of the computation
    checks: tuple[Check, ...] = ()
    known_issue: str | None = None
    evidence: str | None = None

    @property
    def name(self) -> str:
        """Options of makedumpfile that the cell stands for."""
        return f"-d {self.level} {self.compress}"


def cell_from_json(row: Mapping[str, Any]) -> SweepCell:
    """Return the cell of a row of a record."""
    return SweepCell(**{**row, "checks": tuple(Check(**check) for check in row["checks"])})


def compare_cells(cells: Sequence[SweepCell]) -> list[Check]:
    """Check the relations between cells: exactly within one crash, nearly between different crashes."""
    measured = [cell for cell in cells if cell.size_bytes is not None and cell.pages_kept is not None]
    return [*_drop_more(measured), *_same_pages(measured), *_not_larger(measured), *_exact(measured), *_agree(measured)]


def _drop_more(cells: Sequence[SweepCell]) -> Iterator[Check]:
    """Check that a level that drops more does not keep more pages."""
    levels = sorted({cell.level for cell in cells})
    for less, more in ((less, more) for less in levels for more in levels if less != more and less & more == less):
        pairs = [(big, small) for big in cells for small in cells if (big.level, small.level) == (less, more)]
        big, small = max(pairs, key=lambda pair: _excess(_pages(pair[1]), _pages(pair[0]), *pair))
        yield Check(
            "drops-more",
            _excess(_pages(small), _pages(big), big, small) <= 1,
            f"-d {more} keeps no more pages than -d {less}{_nearly(big, small)}",
            f"{_pages(small):,} ({small.name}), {_pages(big):,} ({big.name})",
        )


def _same_pages(cells: Sequence[SweepCell]) -> Iterator[Check]:
    """Check that the kept pages do not depend on the compression."""
    for crash, level in sorted({(cell.crash or 0, cell.level) for cell in cells}):
        group: dict[str, SweepCell] = {}
        for cell in cells:
            if (cell.crash or 0, cell.level) == (crash, level):
                group.setdefault(cell.compress, cell)
        if len(group) > 1:
            seen = ", ".join(f"{_pages(cell):,} with {name}" for name, cell in group.items())
            counts = len({cell.pages_kept for cell in group.values()}) == 1
            frames = len({cell.frames for cell in group.values() if cell.frames}) <= 1
            if counts and not frames:
                seen += ", and not the same ones"
            yield Check("same-pages", counts and frames, f"-d {level} keeps the same pages in any compression", seen)


def _not_larger(cells: Sequence[SweepCell]) -> Iterator[Check]:
    """Check that compressed dumps are not larger than raw ones."""
    packed = {(cell.level, cell.compress) for cell in cells if cell.compress != "none"}
    for level, compress in sorted(packed):
        pairs = [
            (raw, cell)
            for raw in cells
            for cell in cells
            if (raw.level, raw.compress, cell.level, cell.compress) == (level, "none", level, compress)
        ]
        if pairs:
            raw, cell = max(pairs, key=lambda pair: _excess(_bytes(pair[1]), _bytes(pair[0]), *pair))
            yield Check(
                "not-larger",
                _excess(_bytes(cell), _bytes(raw), raw, cell) <= 1,
                f"{cell.name} is not larger than {raw.name}{_nearly(raw, cell)}",
                f"{_bytes(cell) / MIB:,.1f} MiB, raw {_bytes(raw) / MIB:,.1f} MiB",
            )


def _exact(cells: Sequence[SweepCell]) -> Iterator[Check]:
    """Check that a cell computed from its own crash has exactly the pages of the real dump."""
    for real in (cell for cell in cells if cell.how == REAL):
        for again in cells:
            if (again.how, again.crash, again.name) == (COMPUTED, real.crash, real.name):
                same = again.pages_kept == real.pages_kept and again.frames == real.frames
                but = "" if again.pages_kept != real.pages_kept or same else ", and not the same ones"
                yield Check(
                    "exact",
                    same,
                    f"{real.name} computed from its own crash: the same {_pages(real):,} pages",
                    f"{_pages(again):,} pages{but}",
                )


def _agree(cells: Sequence[SweepCell]) -> Iterator[Check]:
    """Check that a real crash resembles a cell computed from another crash, or another real one of its level."""
    low, high = AGREES
    for cell in (cell for cell in cells if cell.how == REAL):
        # A computed cell may be of a later crash, if a sweep was interrupted and its first crash was repeated.
        others = [
            other
            for other in cells
            if other.level == cell.level
            and other.crash != cell.crash
            and (other.how == COMPUTED or (other.crash or 0) < (cell.crash or 0))
        ]
        if not others:
            continue
        other = next((other for other in others if other.compress == cell.compress), others[0])
        ratios = [_pages(cell) / max(1, _pages(other))]
        seen = f"{_pages(cell):,} pages (× {ratios[0]:.2f})"
        if other.compress == cell.compress:
            ratios.append(_bytes(cell) / max(1, _bytes(other)))
            seen += f", {_bytes(cell) / MIB:,.1f} MiB (× {ratios[1]:.2f})"
        what = "pages and size" if len(ratios) > 1 else "pages"
        source = "computed from another crash" if other.how == COMPUTED else f"of another crash ({other.name})"
        yield Check(
            "agrees",
            all(low <= ratio <= high for ratio in ratios),
            f"{cell.name}: {what} {low:g} to {high:g} times those {source}",
            seen,
        )


def _excess(small: int, big: int, one: SweepCell, other: SweepCell) -> float:
    """Return small / (tolerance * big): a value above 1 violates the relation."""
    return small / max(1, big) / (1.0 if one.crash == other.crash else AGREES[1])


def _nearly(one: SweepCell, other: SweepCell) -> str:
    return "" if one.crash == other.crash else f" (× {AGREES[1]:g} between crashes)"


def _pages(cell: SweepCell) -> int:
    return cell.pages_kept or 0


def _bytes(cell: SweepCell) -> int:
    return cell.size_bytes or 0
