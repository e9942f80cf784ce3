"""Outcomes of a scenario by day, as a strip that shows since when it fails."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..history.database import FAILED, KNOWN_ISSUE, UNJUDGED, VERIFIED, RecordedRun, word_of

MOST_DAYS = 28
_LEAST_DAYS = 7
_DAY_S = 86400
# The worst outcome of a day is shown. The bars differ in height as well, for readers that cannot distinguish colours.
_WORST_FIRST = (FAILED, UNJUDGED, KNOWN_ISSUE, VERIFIED)
_HEIGHTS = {FAILED: 10, UNJUDGED: 8, KNOWN_ISSUE: 8, VERIFIED: 5}


@dataclass(frozen=True)
class Span:
    """Days that the strips of a report show: days since 1970 in UTC, the last one included."""

    first: int
    last: int

    @property
    def count(self) -> int:
        """Number of days."""
        return self.last - self.first + 1


def span_of(runs: Sequence[RecordedRun], made_s: float) -> Span:
    """Return the days up to the making of the report, or up to the newest run if that is older than a strip."""
    newest = max((run.at_s for run in runs), default=made_s)
    last = int((made_s if made_s - newest < MOST_DAYS * _DAY_S else newest) // _DAY_S)
    first = int(min((run.at_s for run in runs), default=made_s) // _DAY_S)
    return Span(max(min(first, last - _LEAST_DAYS + 1), last - MOST_DAYS + 1), last)


@dataclass(frozen=True)
class Strip:
    """Worst outcome of each day of a span; None is a day without drills."""

    words: tuple[str | None, ...]

    @property
    def bars(self) -> Iterator[tuple[str, str]]:
        """Yield an outcome with the path of its bars, one unit wide and at most ten high, for each outcome."""
        paths: dict[str, str] = {}
        at = 0
        for word, days in itertools.groupby(self.words):
            count = len(list(days))
            if word is not None:
                paths[word] = paths.get(word, "") + f"M{at} 10h{count}v-{_HEIGHTS[word]}h-{count}z"
            at += count
        yield from paths.items()

    @property
    def text(self) -> str:
        """Content as words."""
        drilled = [word for word in self.words if word is not None]
        counts = [f"{drilled.count(word)} {word}" for word in reversed(_WORST_FIRST) if word in drilled]
        return f"{len(self.words)} days: {', '.join(counts) or 'no drills'}"


def strip_of(runs: Sequence[RecordedRun], span: Span) -> Strip:
    """Return the strip of the runs of a scenario."""
    words: list[str | None] = [None] * span.count
    for run in runs:
        at = int(run.at_s // _DAY_S) - span.first
        if 0 <= at < span.count:
            word, before = word_of(run), words[at]
            words[at] = word if before is None else min(word, before, key=_WORST_FIRST.index)
    return Strip(tuple(words))
