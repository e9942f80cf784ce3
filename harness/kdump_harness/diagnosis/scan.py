"""One pass over a log: patterns are tried only on lines that have one of their words."""

from __future__ import annotations

import collections
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import BinaryIO

from .boots import Boot, Tracker, shortened
from .lines import LogLine, numbered
from .table import MarkRow, Matcher, SymptomRow, SymptomTable, load_marks


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One pattern of one row, as found under each of its rare words."""

    order: int
    row: SymptomRow | MarkRow
    regex: re.Pattern[str]
    unless: tuple[re.Pattern[str], ...]
    others: tuple[frozenset[bytes], ...]

    def match(self, line: LogLine) -> str | None:
        """Return the part of the line that the pattern matches, or None; an exception matches none of it."""
        found = self.regex.search(line.text)
        if found is None or any(regex.search(line.text) for regex in self.unless):
            return None
        return found.group()


_STAMP_BYTES = 14
# A time of day, a kernel's time stamp, a program with its process number, or a word of kernels and of kdump.
_LOG_LINE = re.compile(
    rb"\b[0-2]\d:[0-5]\d:[0-5]\d\b|\[ {0,8}\d{1,9}\.\d{1,6}\]|\w\[\d{1,8}\]: |"
    rb"\b(kdump|kexec|vmcore|crashkernel|makedumpfile|initramfs|Linux version|[Kk]ernel panic|GRUB)\b"
)
_DULL_MAX = 10_000  # remembered lines that no pattern can fit: some megabytes
_DULL_BYTES = 300
_WORDS_MANY = 50  # in longer lines words come again, and each would be tried again

Index = dict[bytes, tuple[IndexEntry, ...]]


def _index(rows: Iterable[tuple[int, SymptomRow | MarkRow, Matcher]]) -> Index:
    """Return all patterns of the rows, filed under their rare words."""
    filed: dict[bytes, list[IndexEntry]] = collections.defaultdict(list)
    for order, row, matcher in rows:
        unless = tuple(pattern.regex for pattern in matcher.unless)
        for pattern in matcher.patterns:
            others = tuple(frozenset(word.encode() for word in words) for words in pattern.others)
            for word in pattern.words:
                filed[word.encode()].append(IndexEntry(order, row, pattern.regex, unless, others))
    return {word: tuple(entries) for word, entries in filed.items()}


class _View:
    """An index, and the lines met so far that none of its patterns can fit."""

    def __init__(self, index: Index) -> None:
        self.index = index
        self.has_no_word = frozenset(index).isdisjoint
        self.dull: set[bytes] = set()

    def remember(self, body: bytes) -> None:
        """Remember a line that no pattern fits, so that it is skipped from then on."""
        if len(body) > _DULL_BYTES:
            return
        if len(self.dull) >= _DULL_MAX:
            self.dull.clear()
        self.dull.add(body)


class Scanner:
    """The words of all patterns, and the patterns to try on a line that has them."""

    def __init__(self, table: SymptomTable) -> None:
        marks = [(order, row, matcher) for order, (row, matcher) in enumerate(load_marks())]
        rows = [
            (order, row, matcher) for order, (row, matcher) in enumerate(zip(table.rows, table.matchers, strict=True))
        ]
        self._all = _index([*marks, *rows])
        # Every line of systemd shows that user space runs; once that is known, such lines are skipped.
        self._in_userspace = _index([*(mark for mark in marks if mark[1].name != "userspace"), *rows])

    def scan(self, stream: BinaryIO, *, within_kdump: bool = False) -> Tracker:
        """Return the boots of the log; within_kdump means that a command of kdump printed it."""
        tracker = Tracker(within_kdump=within_kdump)
        outside, inside = _View(self._all), _View(self._in_userspace)
        view = outside
        boots = len(tracker.boots)
        every_line = False
        last: tuple[int, bytes] | None = None
        for number, raw, bag in numbered(stream):
            if not tracker.is_log and _LOG_LINE.search(raw):
                tracker.is_log = True
            # Boots repeat themselves but for their timestamps, "[    0.000000]".
            body = raw[_STAMP_BYTES:] if raw[:1] == b"[" and raw[_STAMP_BYTES - 1 : _STAMP_BYTES] == b"]" else raw
            likely: list[IndexEntry] = []
            if body not in view.dull:
                words = bag.split()
                if not words:
                    continue
                if not view.has_no_word(words):
                    likely = _likely(view.index, words)
                if not likely:
                    view.remember(body)
            if likely or every_line:
                if self._look(tracker, likely, number, raw, last):
                    view.remember(body)
                every_line = tracker.wants_every_line
                if len(tracker.boots) != boots:
                    boots = len(tracker.boots)
                    _close(tracker.boots[-2:-1], last)
                view = outside if tracker.boot.userspace is None else inside
            last = (number, raw)
        _close(tracker.boots[-1:], last)
        return tracker

    @staticmethod
    def _look(
        tracker: Tracker, likely: list[IndexEntry], number: int, raw: bytes, last: tuple[int, bytes] | None
    ) -> bool:
        """Report a line's marks and symptoms to the tracker, in the tables' order; return whether it can have none."""
        settled = bool(likely) and all(_is_settled(tracker, entry) for entry in likely)
        if settled and not tracker.wants_every_line:
            return False
        line = LogLine.parse(number, raw)
        if last is not None and tracker.boot.stamp_max_s is None:
            tracker.see(LogLine.parse(*last))
        boot = tracker.boot
        tracker.see(line)
        if settled and tracker.boot is boot:
            return False
        marks: dict[int, MarkRow] = {}
        rows: dict[int, str] = {}
        is_dull = True
        for entry in likely:
            if _is_settled(tracker, entry):
                is_dull = False
            elif (matched := entry.match(line)) is not None:
                is_dull = False
                if isinstance(entry.row, MarkRow):
                    marks[entry.order] = entry.row
                else:
                    rows.setdefault(entry.order, matched)
        for order in sorted(marks):
            tracker.mark(marks[order].name, line, marks[order].family)
        for order in sorted(rows):
            tracker.add_match(order, line, rows[order])
        return is_dull


def _is_settled(tracker: Tracker, entry: IndexEntry) -> bool:
    """Return whether one more line of this kind would change nothing."""
    if isinstance(entry.row, MarkRow):
        return tracker.knows(entry.row.name)
    return tracker.is_saturated(entry.order)


def _likely(index: Index, words: list[bytes]) -> list[IndexEntry]:
    """Return the patterns all of whose words are there."""
    if len(words) > _WORDS_MANY:
        words = list(dict.fromkeys(words))
    found = []
    for word in words:
        for entry in index.get(word, ()):
            for others in entry.others:
                if others.isdisjoint(words):
                    break
            else:
                found.append(entry)
    return found


def _close(ended: list[Boot], last: tuple[int, bytes] | None) -> None:
    """Note the last line of the boot that has ended."""
    for boot in ended:
        boot.last = shortened(LogLine.parse(*last)) if last is not None else None
