"""The retention of a store: dumps to remove, the reasons, and the protected dumps."""

from __future__ import annotations

import dataclasses
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..base.units import MIB
from . import wall_clock
from .index import UNTRIAGED, Dump
from .policy import Policy
from .push import Central
from .store import UNKNOWN_HOST, Store

_DAY_S = 86400.0


@dataclass(frozen=True, kw_only=True)
class Decision:
    """A dump beyond a limit; kept_because is the reason for which it stays nevertheless."""

    dump: Dump
    why: str
    kept_because: str = ""
    doubted: bool = False  # it stays only because the clock is not believed

    def to_json(self) -> dict[str, Any]:
        """Return the record in the form of JSON."""
        return {
            "id": self.dump.id,
            "host": self.dump.host,
            "size_bytes": self.dump.disk_bytes,
            "why": self.why,
            "kept_because": self.kept_because,
        }


def decide(dumps: Sequence[Dump], policy: Policy, *, now_s: float, doubt: str = "") -> list[Decision]:
    """Return the dumps beyond the limits, the oldest first; dumps are given in the reverse order of their arrival.

    doubt is the reason why the clock is not believed; then every dump is kept.
    """
    order = _order(dumps)
    by_host: dict[str, list[Dump]] = defaultdict(list)
    for dump in sorted(dumps, key=lambda dump: order[dump.id], reverse=True):
        by_host[dump.host].append(dump)
    last = {found[0].id for found in by_host.values()}
    place = {dump.id: number for found in by_host.values() for number, dump in enumerate(found, start=1)}
    decisions: dict[str, Decision] = {}
    left_bytes = sum(dump.disk_bytes for dump in dumps)
    oldest_first = sorted(dumps, key=lambda dump: order[dump.id])
    for budget in (False, True):  # the budget takes what is too much after the other limits
        for dump in oldest_first:
            if dump.id in decisions:
                continue
            if budget:
                over = policy.budget_mib and left_bytes > policy.budget_mib * MIB
                why = f"{left_bytes / MIB:,.0f} MiB are over the budget of {policy.budget_mib:,}" if over else ""
            else:
                why = _limit(dump, policy, place[dump.id], now_s=now_s)
            if not why:
                continue
            kept = protection(dump, policy) or ("it is the last one of its host" if dump.id in last else "")
            doubted = bool(doubt and not kept)
            kept = kept or doubt
            decisions[dump.id] = Decision(dump=dump, why=why, kept_because=kept, doubted=doubted)
            left_bytes -= 0 if kept else dump.disk_bytes
    return sorted(decisions.values(), key=lambda one: order[one.dump.id])


def _order(dumps: Sequence[Dump]) -> dict[str, tuple[float, int]]:
    """Return each dump's place: by its crash, or by its arrival where the crash is unknown or later than that.

    No dump arrives before its predecessors, whatever the clock said.
    """
    order, arrived_s = {}, 0.0
    for number, dump in enumerate(reversed(dumps)):
        arrived_s = max(arrived_s, dump.added_s)
        order[dump.id] = min(dump.crash_s or arrived_s, arrived_s), number
    return order


def _limit(dump: Dump, policy: Policy, place: int, *, now_s: float) -> str:
    # The dumps that name no host may be of many.
    if policy.keep_per_host and place > policy.keep_per_host and dump.host != UNKNOWN_HOST:
        return f"it is number {place} of {dump.host}, {policy.keep_per_host} are kept"
    # The machine of the store may have been without the time when the dump came.
    since_s = max(dump.added_s, dump.crash_s or 0)
    days = (now_s - since_s) / _DAY_S
    if policy.keep_days and days > policy.keep_days:
        return f"it has been here for {days:.0f} days, {policy.keep_days} are kept"
    return ""


def protection(dump: Dump, policy: Policy) -> str:
    """Return the reason why a dump must not be removed at all, or an empty text."""
    if dump.hold:
        return f"it is held: {dump.hold}"
    if dump.state == UNTRIAGED:
        return "it is not triaged yet"
    if policy.central and dump.central != Central.parse(policy.central).name:
        return f"no verified copy of it is in {policy.central}"
    return ""


def prune(store: Store, policy: Policy, *, dry_run: bool, trust_clock: bool = False) -> list[Decision]:
    """Remove the dumps that the policy does not keep; report protected dumps, and keep them.

    Nothing is removed after a jump of the clock, unless trust_clock says that the clock is right.
    """
    doubt = wall_clock.check(store.index, wall_clock.Reading.now(), trust=trust_clock, note=not dry_run)
    decisions = decide(store.index.dumps(), policy, now_s=time.time(), doubt=doubt)
    if dry_run:
        return decisions
    done = []
    for decision in decisions:
        if not decision.kept_because and not store.remove(
            decision.dump, why=decision.why, unless=lambda dump: bool(protection(dump, policy))
        ):
            decision = dataclasses.replace(decision, kept_because="it came under protection meanwhile")
        done.append(decision)
    return done
