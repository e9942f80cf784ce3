"""One pass over a log: patterns are tried only on lines that have one of their words."""

from __future__ import annotations

import collections
import dataclasses
import io
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import BinaryIO, cast

from .boots import Boot, Tracker, shortened
from .lines import STAMP_BYTES, TO_WORDS, LogLine, numbered
from .multiscan import LARGE_BYTES, MultiScan, database
from .patterns import TextPattern, literals
from .table import MarkRow, Matcher, SymptomRow, SymptomTable, load_marks


@dataclass(frozen=True, slots=True, eq=False)
class IndexEntry:
    """One pattern of one row, as found under each of its rare words."""

    order: int
    row: SymptomRow | MarkRow
    pattern: TextPattern
    unless: tuple[TextPattern, ...]
    others: tuple[frozenset[bytes], ...]

    def fits(self, line: LogLine) -> bool:
        """Return whether the pattern matches a part of the line, and no exception does."""
        text = line.text
        return bool(self.pattern.regex.search(text)) and not any(one.regex.search(text) for one in self.unless)


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
        for pattern in matcher.patterns:
            others = tuple(frozenset(word.encode() for word in words) for words in pattern.others)
            for word in pattern.words:
                filed[word.encode()].append(IndexEntry(order, row, pattern, matcher.unless, others))
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


class _Joined(io.RawIOBase):
    """A stream of which the head was read before."""

    def __init__(self, head: bytes, rest: BinaryIO) -> None:
        super().__init__()
        self._head = head
        self._rest = rest

    def read(self, size: int = -1) -> bytes:
        """Return the next piece."""
        if self._head:
            piece, self._head = (self._head[:size], self._head[size:]) if size >= 0 else (self._head, b"")
            return piece
        return self._rest.read(size)


@dataclass(frozen=True, slots=True)
class _Known:
    """A line, and the patterns that fit it."""

    line: LogLine
    matches: tuple[IndexEntry, ...]


class _Fast:
    """The literals of all patterns, and what is known of the lines that have them."""

    def __init__(self, index: Index) -> None:
        self._index = index
        filed: dict[bytes, list[IndexEntry]] = collections.defaultdict(list)
        for entry in {id(entry): entry for entries in index.values() for entry in entries}.values():
            for literal in literals(entry.pattern.text):
                filed[literal.encode()].append(entry)
        self.database = database(filed)
        self._entries = list(filed.values())
        self._changes = [any(Tracker.may_change(entry.row.name) for entry in entries) for entries in self._entries]

    def scan(self, stream: BinaryIO, tracker: Tracker) -> Tracker:
        """Return the boots of the log, of which only the lines with a literal are read."""
        boots = len(tracker.boots)
        # Boots repeat themselves but for their time stamps, so the facts of a line without them are remembered.
        known: dict[bytes, _Known] = {}

        def look(number: int, raw: bytes, before: Callable[[], tuple[int, bytes] | None]) -> None:
            nonlocal boots
            body = _body(raw)
            facts = known.get(body)
            if facts is None:
                facts = self._facts(number, raw)
                if len(known) >= _DULL_MAX:
                    known.clear()
                if len(body) <= _DULL_BYTES:
                    known[body] = facts
            wanted = [entry for entry in facts.matches if not _is_settled(tracker, entry)]
            if not wanted and not tracker.wants_every_line:
                return
            line = facts.line
            if len(body) < len(raw):
                stamp = raw[:STAMP_BYTES].decode()
                text = stamp + line.text[STAMP_BYTES:]
                line = LogLine(number, text, float(stamp[1:-1]), line.from_syslog, line.program)
            else:
                line = dataclasses.replace(line, number=number)
            last = before() if tracker.boot.stamp_max_s is None else None
            if last is not None:
                tracker.see(LogLine.parse(*last))
            tracker.see(line)
            _report(tracker, line, wanted)
            if len(tracker.boots) != boots:
                boots = len(tracker.boots)
                scan.quiet.clear()
                _close(tracker.boots[-2:-1], before())

        def settled(literal: int) -> bool:
            for entry in self._entries[literal]:
                if not _is_settled(tracker, entry):
                    return False
            if not self._changes[literal]:
                scan.quiet.add(literal)
            return True

        scan = MultiScan(self.database, tracker, look, settled)
        last = scan.run(stream)
        _close(tracker.boots[-1:], last)
        return tracker

    def _facts(self, number: int, raw: bytes) -> _Known:
        """Return the patterns that fit a line."""
        line = LogLine.parse(number, raw)
        likely = _likely(self._index, raw.translate(TO_WORDS).split())
        return _Known(line, tuple(entry for entry in likely if entry.fits(line)))


def _body(raw: bytes) -> bytes:
    """Return a line without its time stamp, "[    0.000000]"."""
    return raw[STAMP_BYTES:] if raw[:1] == b"[" and raw[STAMP_BYTES - 1 : STAMP_BYTES] == b"]" else raw


class Scanner:
    """The words of all patterns, and the patterns to try on a line that has them."""

    def __init__(self, table: SymptomTable) -> None:
        marks = [(order, row, matcher) for order, (row, matcher) in enumerate(load_marks())]
        rows = [
            (order, row, matcher) for order, (row, matcher) in enumerate(zip(table.rows, table.matchers, strict=True))
        ]
        self._all = _index([*marks, *rows])
        # Every line of systemd shows that user space runs; once that is known, such lines are skipped.
        self._fast: _Fast | None = None
        self._in_userspace = _index([*(mark for mark in marks if mark[1].name != "userspace"), *rows])

    def scan(self, stream: BinaryIO, *, within_kdump: bool = False) -> Tracker:
        """Return the boots of the log; within_kdump means that a command of kdump printed it."""
        tracker = Tracker(within_kdump=within_kdump)
        head = stream.read(LARGE_BYTES)
        whole = cast("BinaryIO", _Joined(head, stream))
        if len(head) == LARGE_BYTES and self.fast().database is not None:
            return self.fast().scan(whole, tracker)
        return self.read_each_line(whole, tracker)

    def fast(self) -> _Fast:
        """Return the way to read large logs, made once."""
        if self._fast is None:
            self._fast = _Fast(self._all)
        return self._fast

    def read_each_line(self, stream: BinaryIO, tracker: Tracker) -> Tracker:
        """Return the boots of the log, every line of which is read."""
        outside, inside = _View(self._all), _View(self._in_userspace)
        view = outside
        boots = len(tracker.boots)
        every_line = False
        last: tuple[int, bytes] | None = None
        for number, raw, bag in numbered(stream):
            if not tracker.is_log and _LOG_LINE.search(raw):
                tracker.is_log = True
            body = _body(raw)  # boots repeat themselves but for their time stamps
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
                if _look(tracker, likely, number, raw, last):
                    view.remember(body)
                every_line = tracker.wants_every_line
                if len(tracker.boots) != boots:
                    boots = len(tracker.boots)
                    _close(tracker.boots[-2:-1], last)
                view = outside if tracker.boot.userspace is None else inside
            last = (number, raw)
        _close(tracker.boots[-1:], last)
        return tracker


def _look(tracker: Tracker, likely: list[IndexEntry], number: int, raw: bytes, last: tuple[int, bytes] | None) -> bool:
    """Report the marks and symptoms of a line to the tracker, and return whether it can have none."""
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
    matches: list[IndexEntry] = []
    is_dull = True
    for entry in likely:
        if _is_settled(tracker, entry):
            is_dull = False
        elif entry.fits(line):
            is_dull = False
            matches.append(entry)
    _report(tracker, line, matches)
    return is_dull


def _report(tracker: Tracker, line: LogLine, matches: Iterable[IndexEntry]) -> None:
    """Report a line's marks and symptoms to the tracker, in the tables' order."""
    marks: dict[int, MarkRow] = {}
    rows: set[int] = set()
    for entry in matches:
        if isinstance(entry.row, MarkRow):
            marks[entry.order] = entry.row
        else:
            rows.add(entry.order)
    for order in sorted(marks):
        tracker.mark(marks[order].name, line, marks[order].family)
    for order in sorted(rows):
        tracker.add_match(order, line)


def _is_settled(tracker: Tracker, entry: IndexEntry) -> bool:
    """Return whether one more line of this kind would change nothing."""
    if isinstance(entry.row, MarkRow):
        return tracker.knows(entry.row.name, entry.row.family)
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
