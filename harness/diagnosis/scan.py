"""One pass over a log: looks at every line's words, and closer only at lines that have a word of some pattern."""

from __future__ import annotations

import collections
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import BinaryIO

from .boots import Boot, Tracker, shortened
from .lines import Line, numbered
from .table import MarkRow, Matcher, SymptomRow, SymptomTable, load_marks

@dataclass(frozen=True, slots=True)
class Entry:
    """One pattern of one row, as found under each of its rare words."""

    order: int
    row: SymptomRow | MarkRow
    regex: re.Pattern[str]
    unless: tuple[re.Pattern[str], ...]
    others: tuple[frozenset[bytes], ...]

    def fits(self, line: Line) -> bool:
        """Whether the pattern matches the line and no exception does."""
        if not self.regex.search(line.text):
            return False
        return not any(regex.search(line.text) for regex in self.unless)


Index = dict[bytes, tuple[Entry, ...]]


def _index(rows: Iterable[tuple[int, SymptomRow | MarkRow, Matcher]]) -> Index:
    """All patterns of the rows, filed under their rare words."""
    filed: dict[bytes, list[Entry]] = collections.defaultdict(list)
    for order, row, matcher in rows:
        unless = tuple(pattern.regex for pattern in matcher.unless)
        for pattern in matcher.patterns:
            others = tuple(frozenset(word.encode() for word in words) for words in pattern.others)
            for word in pattern.words:
                filed[word.encode()].append(Entry(order, row, pattern.regex, unless, others))
    return {word: tuple(entries) for word, entries in filed.items()}


class Scanner:
    """The words of all patterns, and what to try on a line that has them."""

    def __init__(self, table: SymptomTable) -> None:
        marks = [(order, row, matcher) for order, (row, matcher) in enumerate(load_marks())]
        rows = [(order, row, matcher) for order, (row, matcher) in enumerate(zip(table.rows, table.matchers, strict=True))]
        self._all = _index([*marks, *rows])
        # Every line of systemd's tells that user space runs; once that is known they need no look.
        self._in_userspace = _index([*(mark for mark in marks if mark[1].name != "userspace"), *rows])

    def scan(self, stream: BinaryIO) -> Tracker:
        """The boots of the log."""
        tracker = Tracker()
        index = self._all
        is_dull = frozenset(index).isdisjoint
        boots = len(tracker.boots)
        every_line = False
        last: tuple[int, bytes] | None = None
        for number, raw, bag in numbered(stream):
            words = bag.split()
            if is_dull(words):
                if not words:
                    continue
                if not every_line:
                    last = (number, raw)
                    continue
                tracker.see(Line.parse(number, raw))
            elif not self._look(tracker, index, number, raw, words, last) and not every_line:
                last = (number, raw)
                continue
            every_line = tracker.wants_every_line
            if len(tracker.boots) != boots:
                boots = len(tracker.boots)
                _close(tracker.boots[-2:-1], last)
            wanted = self._all if tracker.boot.userspace is None else self._in_userspace
            if wanted is not index:
                index = wanted
                is_dull = frozenset(index).isdisjoint
            last = (number, raw)
        _close(tracker.boots[-1:], last)
        return tracker

    @staticmethod
    def _look(
        tracker: Tracker, index: Index, number: int, raw: bytes, words: list[bytes], last: tuple[int, bytes] | None
    ) -> bool:
        """Tell the tracker what marks and symptoms the line is, in the order of the tables; whether it was worth parsing."""
        likely = []
        for word in words:
            for entry in index.get(word, ()):
                for others in entry.others:
                    if others.isdisjoint(words):
                        break
                else:
                    likely.append(entry)
        if not likely and not tracker.wants_every_line:
            return False
        if all(isinstance(entry.row, SymptomRow) and tracker.is_saturated(entry.order) for entry in likely) and likely:
            return False
        line = Line.parse(number, raw)
        if last is not None and tracker.boot.stamp_max_s is None:
            tracker.see(Line.parse(*last))
        tracker.see(line)
        marks: dict[int, MarkRow] = {}
        rows: set[int] = set()
        for entry in likely:
            if isinstance(entry.row, MarkRow):
                if entry.order not in marks and not tracker.knows(entry.row.name) and entry.fits(line):
                    marks[entry.order] = entry.row
            elif entry.order not in rows and entry.fits(line):
                rows.add(entry.order)
        for order in sorted(marks):
            tracker.mark(marks[order].name, line, marks[order].family)
        for order in sorted(rows):
            tracker.add_match(order, line)
        return True


def _close(ended: list[Boot], last: tuple[int, bytes] | None) -> None:
    """Note the last line of the boot that has ended."""
    for boot in ended:
        boot.last = shortened(Line.parse(*last)) if last is not None else None
