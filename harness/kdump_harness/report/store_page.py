"""Page of a store: new crashes, patterns, hosts and dumps."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..store.index import Dump, Index
from ..store.patterns import CrashPattern, find_patterns
from .render import render_page

NEW_DAYS = 7
_MOST_DUMPS, _MOST_REFUSED, _MOST_HOSTS, _MOST_PATTERNS = 300, 50, 1000, 200


@dataclass(frozen=True, kw_only=True)
class HostRow:
    """Crashes of one host."""

    name: str
    dumps: int
    crashes: int  # number of distinct signatures
    last: Dump


@dataclass(frozen=True, kw_only=True)
class StorePage:
    """Content of the page."""

    made_s: float
    dumps: Sequence[Dump]
    total: int
    total_bytes: int
    new: Sequence[Dump]  # first dump of each signature that is new
    patterns: Sequence[CrashPattern]
    hosts: Sequence[HostRow]
    refused: Sequence[Mapping[str, Any]]
    left_out: Mapping[str, int]


def crashed_s(dump: Dump) -> float:
    """Return the time of the crash, or of the arrival if that is unknown."""
    return float(dump.crash_s or dump.added_s)


def gather_store(index: Index) -> StorePage:
    """Read the index of a store."""
    made_s = time.time()
    dumps = index.dumps()
    by_host: dict[str, list[Dump]] = defaultdict(list)
    first: dict[str, Dump] = {}
    for dump in reversed(dumps):  # the oldest first
        by_host[dump.host].append(dump)
        if dump.signature:
            first.setdefault(dump.signature, dump)
    hosts = [
        HostRow(
            name=name,
            dumps=len(some),
            crashes=len({dump.signature for dump in some if dump.signature}),
            last=max(some, key=crashed_s),
        )
        for name, some in by_host.items()
    ]
    hosts.sort(key=lambda host: -crashed_s(host.last))
    new = [dump for dump in first.values() if dump.added_s > made_s - NEW_DAYS * 86400]
    patterns, refused = find_patterns(index), index.refused()
    return StorePage(
        made_s=made_s,
        dumps=dumps[:_MOST_DUMPS],
        total=len(dumps),
        total_bytes=index.total_bytes(),
        new=sorted(new, key=lambda dump: -dump.added_s)[:_MOST_REFUSED],
        patterns=patterns[:_MOST_PATTERNS],
        hosts=hosts[:_MOST_HOSTS],
        refused=refused[:_MOST_REFUSED],
        left_out={
            "hosts": max(0, len(hosts) - _MOST_HOSTS),
            "patterns": max(0, len(patterns) - _MOST_PATTERNS),
            "files": max(0, len(refused) - _MOST_REFUSED),
            "crashes": max(0, len(new) - _MOST_REFUSED),
            "dumps": max(0, len(dumps) - _MOST_DUMPS),
        },
    )


def render_store(index: Index) -> str:
    """Return the page of a store as HTML."""
    page = gather_store(index)
    return render_page("store.html.j2", directory=Path(), store=page, crashed=crashed_s, new_days=NEW_DAYS)
