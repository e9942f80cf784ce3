"""Patterns across dumps: crashes that were seen before, and traits that stand out in a cluster."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .index import Dump, Index

_MOST = 0.8  # of a crash's dumps must share a trait for it to stand out
_RARER = 0.5  # and of all other dumps at most this part of that share
_FEW = 2


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """Something that nearly all dumps of one crash share and the others do not."""

    name: str
    value: str
    share: float  # of this crash's dumps that have it
    elsewhere: float  # of all others that have it


@dataclass(frozen=True, kw_only=True)
class CrashPattern:
    """One crash, seen more than once."""

    signature: str
    text: str
    dumps: tuple[str, ...]
    hosts: Mapping[str, int]
    kernels: Mapping[str, int]
    first_s: float
    last_s: float
    suspects: tuple[Suspect, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the record in the form of JSON."""
        return asdict(self)


def find_patterns(index: Index, *, least: int = _FEW) -> list[CrashPattern]:
    """Return the crashes with at least so many dumps, the most frequent first."""
    dumps, traits = index.dumps(), index.traits()
    known = {dump.id: _traits_of(dump, traits.get(dump.id, {})) for dump in dumps}
    groups: dict[str, list[Dump]] = defaultdict(list)
    for dump in dumps:
        if dump.signature:
            groups[dump.signature].append(dump)
    everywhere = _count(list(known.values()))
    found = [_pattern(group, known, everywhere) for group in groups.values() if len(group) >= least]
    return sorted(found, key=lambda one: (-len(one.dumps), -one.last_s))


def _traits_of(dump: Dump, traits: Mapping[str, str]) -> dict[str, str]:
    return {**traits, **({"kernel": dump.kernel} if dump.kernel else {}), "host": dump.host}


class _Counts:
    """The numbers of dumps that have a trait at all, and of those that give it a value."""

    def __init__(self) -> None:
        self.of: Counter[tuple[str, str]] = Counter()
        self.known: Counter[str] = Counter()


def _count(dumps: Sequence[Mapping[str, str]]) -> _Counts:
    counts = _Counts()
    for traits in dumps:
        counts.known.update(traits.keys())
        counts.of.update(traits.items())
    return counts


def _pattern(group: list[Dump], known: Mapping[str, Mapping[str, str]], everywhere: _Counts) -> CrashPattern:
    here = _count([known[dump.id] for dump in group])
    moments = [dump.crash_s or dump.added_s for dump in group]
    suspects = []
    for (name, value), count in here.of.items():
        others = everywhere.known[name] - here.known[name]
        share = count / here.known[name]
        elsewhere = (everywhere.of[name, value] - count) / others if others else 0.0
        if count >= _FEW and share >= _MOST and others and elsewhere <= _RARER * share:
            suspects.append(Suspect(name=name, value=value, share=round(share, 3), elsewhere=round(elsewhere, 3)))
    return CrashPattern(
        signature=group[0].signature or "",
        text=group[0].signature_text or "",
        dumps=tuple(dump.id for dump in group),
        hosts=dict(Counter(dump.host for dump in group).most_common()),
        kernels=dict(Counter(dump.kernel or "unknown" for dump in group).most_common()),
        first_s=min(moments),
        last_s=max(moments),
        suspects=tuple(sorted(suspects, key=lambda one: (one.elsewhere - one.share, one.name))),
    )


@dataclass(frozen=True, kw_only=True)
class SeenBefore:
    """Other dumps that share something with this one."""

    what: str
    value: str
    count: int
    hosts: int
    last_s: float

    def to_json(self) -> dict[str, Any]:
        """Return the record in the form of JSON."""
        return asdict(self)


def seen_before(index: Index, dump: Dump) -> list[SeenBefore]:
    """Count the other dumps with the same host, kernel, crash, firmware or driver."""
    others = [other for other in index.dumps() if other.id != dump.id]
    shared: list[tuple[str, str | None, list[Dump]]] = [
        ("signature", dump.signature, [other for other in others if other.signature == dump.signature]),
        ("host", dump.host, [other for other in others if other.host == dump.host]),
        ("kernel", dump.kernel, [o for o in others if (o.kernel, o.build_id) == (dump.kernel, dump.build_id)]),
    ]
    for name, value in sorted(index.traits_of(dump.id).items()):
        shared.append((name, value, [other for other in index.with_trait(name, value) if other.id != dump.id]))
    return [
        SeenBefore(
            what=what,
            value=value,
            count=len(found),
            hosts=len({one.host for one in found}),
            last_s=max(one.crash_s or one.added_s for one in found),
        )
        for what, value, found in shared
        if value and found
    ]
