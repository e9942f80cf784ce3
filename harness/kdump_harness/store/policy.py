"""The retention policy of a store, and its time limits: store.toml in its directory."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields
from pathlib import Path

from ..base import tables
from ..base.errors import TableError

NAME = "store.toml"
_CENTRAL = re.compile(r"/|[^/:-][^/:]*:/")


@dataclass(frozen=True, kw_only=True)
class Policy:
    """The owner's rules; a limit of 0 means no limit."""

    keep_per_host: int = 0  # the newest ones
    keep_days: int = 0  # since they were taken in
    budget_mib: int = 0  # of all dumps together
    central: str = ""  # HOST:DIR or DIR; then only what is there, verified, may go from here
    max_dump_mib: int = 1 << 20  # a larger file is refused
    free_mib: int = 1024  # of the disk, which no dump may take
    settle_s: float = 30.0  # a file must be unchanged for so long
    abandoned_s: float = 3600.0  # after which a file that its sender never finished is looked at all the same

    @property
    def limited(self) -> bool:
        """Return whether anything is ever to be deleted."""
        return bool(self.keep_per_host or self.keep_days or self.budget_mib)


def load_policy(directory: Path) -> Policy:
    """Return the policy of a store; the defaults where it has none. TableError names file and key."""
    path = directory / NAME
    if not path.exists():
        return Policy()
    policy = tables.load(path, Policy)
    for field in fields(policy):
        value = getattr(policy, field.name)
        if not isinstance(value, str) and not 0 <= value < math.inf:
            raise TableError(f"{path.name}: {field.name} must not be negative, and must have an end")
    if policy.central and not _CENTRAL.match(policy.central):
        raise TableError(f"{path.name}: central must be HOST:DIR or an absolute path, not {policy.central!r}")
    return policy
