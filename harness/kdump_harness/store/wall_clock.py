"""The wall clock of a store's machine: a jump of it must not delete dumps."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path

from .index import Index

_LONGEST_GAP_S = 7 * 86400.0  # between two looks, that is believed without another sign
_SLACK_S = 3600.0  # a correction of the clock that changes no decision
_PROOF_S = 86400.0  # of uptime in which a clock that jumped must keep its time to be believed
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_UPTIME = Path("/proc/uptime")


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The wall clock, and the time since a boot, which nothing sets."""

    wall_s: float
    up_s: float
    boot: str

    @classmethod
    def now(cls) -> Reading:
        """Read both clocks."""
        up_s, boot = 0.0, ""
        with contextlib.suppress(OSError, ValueError, IndexError):
            up_s = float(_UPTIME.read_text(encoding="ascii").split()[0])
            boot = _BOOT.read_text(encoding="ascii").strip()
        return cls(wall_s=time.time(), up_s=up_s, boot=boot)

    def follows(self, earlier: Reading) -> bool:
        """Return whether the wall clock has run on from an earlier reading, as far as can be known."""
        gap_s = self.wall_s - earlier.wall_s
        if self.boot and self.boot == earlier.boot:
            return abs(gap_s - (self.up_s - earlier.up_s)) <= _SLACK_S
        return -_SLACK_S <= gap_s <= _LONGEST_GAP_S


def check(index: Index, now: Reading, *, trust: bool = False, note: bool = True) -> str:
    """Return the reason why the clock must not decide about a removal, or an empty text; note keeps the reading.

    A clock that jumped is believed when a person says so (trust), or when it has kept its time for a day.
    """
    readings = {row["name"]: Reading(wall_s=row["wall_s"], up_s=row["up_s"], boot=row["boot"]) for row in index.clock()}
    believed, doubted = readings.get("believed"), readings.get("doubted")
    steady = doubted and now.boot == doubted.boot and now.follows(doubted) and now.up_s - doubted.up_s >= _PROOF_S
    if trust or believed is None or now.follows(believed) or steady:
        if note:
            _keep(index, now, "believed")
        return ""
    if note and not (doubted and now.follows(doubted)):
        _keep(index, now, "doubted")
    days = (now.wall_s - believed.wall_s) / 86400
    way = "ahead of" if days > 0 else "behind"
    return (
        f"this machine's clock is {abs(days):,.1f} days {way} that of the last look at the store"
        " (store prune --trust-clock, if it is right)"
    )


def _keep(index: Index, now: Reading, name: str) -> None:
    with index.database.writing():
        index.note_clock(name, wall_s=now.wall_s, up_s=now.up_s, boot=now.boot)
