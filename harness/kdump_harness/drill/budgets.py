"""The user's own limits of the time from the panic to the login prompt, by image and conditions."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass

from ..base import tables
from ..base.errors import TableError
from ..base.verdict import Verdict
from ..configuration.own_tables import own_rows


@dataclass(frozen=True, kw_only=True)
class Budget:
    """One row: drills, and the seconds that they may take."""

    name: str
    panic_to_login_s: float
    images: tuple[str, ...] = ("*",)  # globs
    targets: tuple[str, ...] = ("*",)
    accelerators: tuple[str, ...] = ("*",)

    def concerns(self, verdict: Verdict) -> bool:
        """Return whether a drill is one of those."""
        pairs = ((verdict.image, self.images), (verdict.target, self.targets), (verdict.accelerator, self.accelerators))
        return all(any(fnmatch.fnmatchcase(value, glob) for glob in globs) for value, globs in pairs)


def load_budgets() -> tuple[Budget, ...]:
    """Return the rows of own tables. Raise TableError with file, row and key."""
    found = []
    for table, label, row in own_rows("budget"):
        where = f"{table.path}: [[budget]] {label}"
        budget = tables.build(row, Budget, where=where)
        if not 0 < budget.panic_to_login_s < 1e6:
            raise TableError(f"{where}: panic_to_login_s must be positive, not {budget.panic_to_login_s}")
        found.append(budget)
    return tuple(found)


def budget_s(verdict: Verdict) -> float | None:
    """Return the limit of a drill: that of the first row that concerns it."""
    return next((row.panic_to_login_s for row in load_budgets() if row.concerns(verdict)), None)
