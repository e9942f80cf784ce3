"""One pass over a large log with Hyperscan, which finds all literals of all patterns at once.

Every match of a pattern contains one of its literals, so that only lines with a literal are read in Python. The library
is optional: it has no wheels for some machines, and small logs are read as fast without it.
"""

from __future__ import annotations

import collections
import functools
import re
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO

from .boots import Tracker
from .lines import LINE_MAX_BYTES, STAMP_BYTES, cleaned, states, stream_blocks

LARGE_BYTES = 2 << 20
_BLOCK_BYTES = 1 << 20
_HELD_BYTES_MAX = 16 << 20  # of the last boots, where all are so large that fewer must do
_WORD = re.compile(rb"\w")
_BANNER = b"Linux version "

# Looks at one line: its number, its bytes, and a function that returns the line before it.
Before = Callable[[], tuple[int, bytes] | None]
Look = Callable[[int, bytes, Before], None]
Settled = Callable[[int], bool]


def database(literals: Iterable[bytes]) -> Any:
    """Return a Hyperscan database that reports the number of each literal, or None where the library cannot be used."""
    try:
        import hyperscan
    except ImportError:
        return None
    expressions = list(literals)
    try:
        found = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
        found.compile(
            expressions=expressions, ids=list(range(len(expressions))), elements=len(expressions), literal=True
        )
    except hyperscan.error:  # a processor without the instructions that it needs
        return None
    return found


class MultiScan:
    """The lines of a stream that have a literal which is not settled, and those where every line counts."""

    def __init__(self, found: Any, tracker: Tracker, look: Look, settled: Settled) -> None:
        self._database = found
        self._tracker = tracker
        self._look = look
        self._settled = settled
        self._number = 1  # of the line at self._counted
        self._counted = 0
        self.quiet: set[int] = set()  # literals that change nothing until the next boot
        self._done = 0  # the end of the lines of this block that were looked at
        self._block = b""
        self._last: tuple[int, bytes] | None = None
        self._is_cut = False  # whether lines were left out since the last boot that was read

    def run(self, stream: BinaryIO) -> tuple[int, bytes] | None:
        """Look at the lines of the stream, and return its last line."""
        held: collections.deque[tuple[bytes, int]] = collections.deque()  # blocks with the number of their boots
        half = self._tracker.boots_max // 2
        boots = held_bytes = 0
        for raw in stream_blocks(stream, _BLOCK_BYTES):
            if len(self._tracker.boots) < half:
                self._read(raw)
                continue
            # The tracker keeps the first boots and the last ones, so those between them need not be read.
            count = raw.count(_BANNER)
            held.append((raw, count))
            boots += count
            held_bytes += len(raw)
            while held and (boots - held[0][1] > half or held_bytes > _HELD_BYTES_MAX):
                oldest, count = held.popleft()
                boots -= count
                held_bytes -= len(oldest)
                if boots > half:
                    self._skip(oldest, count)
                else:
                    self._read(oldest)
        for raw, _ in held:
            self._read(raw)
        return self._last

    def _skip(self, raw: bytes, boots: int) -> None:
        """Leave out a block, and all that follows until the next boot."""
        self._number += raw.count(b"\n")
        self._tracker.leave_out(boots)
        self._is_cut = True

    def _read(self, raw: bytes) -> None:
        """Look at the lines of one block."""
        if self._is_cut:
            at = raw.find(_BANNER)
            if at < 0:
                self._number += raw.count(b"\n")
                return
            start = raw.rfind(b"\n", 0, at) + 1
            self._number += raw.count(b"\n", 0, start)
            raw = raw[start:]
            self._is_cut = False
        self._block = block = cleaned(raw)
        self._counted = self._done = 0
        self._database.scan(block, match_event_handler=self._on_literal)
        if self._tracker.wants_every_line:
            self._each_line(len(block))
        self._last = self._line_before(len(block)) or self._last
        self._number += block.count(b"\n", self._counted)

    def _on_literal(self, literal: int, _start: int, end: int, _flags: int, _context: object) -> None:
        """Look at the line in which a literal ends."""
        if end <= self._done or literal in self.quiet:
            return
        if self._tracker.wants_every_line:
            self._each_line(self._block.rfind(b"\n", 0, end) + 1)
            if end <= self._done:
                return
        if not self._settled(literal):
            start = self._block.rfind(b"\n", 0, end - 1) + 1
            self._line(start)

    def _each_line(self, end: int) -> None:
        """Look at the lines up to an offset, as long as every line counts."""
        block, tracker = self._block, self._tracker
        while self._done < end and tracker.wants_every_line:
            start = self._done
            stop = block.find(b"\n", start, end)
            stop = end if stop < 0 else stop
            # A line without a literal counts only where its time stamp shows that another kernel started.
            if tracker.is_later(block[start : min(stop, start + STAMP_BYTES)]):
                self._done = stop + 1
            else:
                self._line(start)

    def _line(self, start: int) -> None:
        """Look at the line that starts at an offset."""
        end = self._block.find(b"\n", start)
        end = len(self._block) if end < 0 else end
        self._number += self._block.count(b"\n", self._counted, start)
        self._counted = start
        raw = self._block[start:end]
        self._done = end + 1
        if b"\r" not in raw and len(raw) <= LINE_MAX_BYTES:
            if raw:
                self._look(self._number, raw, lambda: self._line_before(start) or self._last)
            return
        before = self._line_before(start) or self._last
        for state in states(raw):
            self._look(self._number, state, functools.partial(_same, before))
            before = (self._number, state) if _WORD.search(state) else before

    def _line_before(self, offset: int) -> tuple[int, bytes] | None:
        """Return the last line before an offset of the block that has a word."""
        end = offset
        while end > 0:
            start = self._block.rfind(b"\n", 0, end - 1) + 1
            spoken = [state for state in states(self._block[start:end].rstrip(b"\n")) if _WORD.search(state)]
            if spoken:
                backwards = start < self._counted
                ends = self._block.count(b"\n", *sorted((start, self._counted)))
                return self._number + (-ends if backwards else ends), spoken[-1]
            end = start
        return None


def _same(before: tuple[int, bytes] | None) -> tuple[int, bytes] | None:
    return before
