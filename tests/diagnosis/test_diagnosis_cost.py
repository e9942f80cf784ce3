"""The diagnosis takes linear time and constant memory, whatever the log."""

from __future__ import annotations

import io
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from kdump_harness.diagnosis import load_symptoms
from kdump_harness.diagnosis.lines import LINE_MAX_BYTES, numbered
from kdump_harness.diagnosis.patterns import WORDS, TextPattern
from kdump_harness.diagnosis.scan import Scanner
from kdump_harness.diagnosis.table import load_marks
from pattern_words import pattern_words
from symptoms_page import symptoms_page

PAGE = Path(__file__).parents[2] / "docs" / "symptoms.md"
PATTERN_MAX_S = 0.5  # generous: the slowest takes a few hundredths of it on an idle machine


def all_patterns() -> Iterator[TextPattern]:
    """Every pattern of the table and of the marks."""
    for matcher in (*load_symptoms().matchers, *(matcher for _, matcher in load_marks())):
        yield from matcher.patterns
        yield from matcher.unless


def test_no_pattern_is_slow_on_a_line_made_of_its_own_pieces() -> None:
    for pattern in all_patterns():
        literal = "".join(character for character in pattern.regex.pattern if character.isalnum() or character in " :/")
        for piece in (literal, literal[:7], literal[:3], literal[:1] or "a", "a ", "1", " ", "["):
            line = piece * (LINE_MAX_BYTES // len(piece))
            started = time.process_time()
            pattern.regex.search(line)
            took_s = time.process_time() - started
            assert took_s < PATTERN_MAX_S, (pattern.regex.pattern, piece, took_s)


class Endless(io.RawIOBase):
    """A stream that repeats a piece until size_bytes are read."""

    def __init__(self, piece: bytes, size_bytes: int) -> None:
        super().__init__()
        self._piece = piece * (1 + (1 << 16) // len(piece))
        self._left_bytes = size_bytes

    def read(self, size: int = -1) -> bytes:
        """The next piece."""
        taken = self._piece[: min(len(self._piece), self._left_bytes)]
        self._left_bytes -= len(taken)
        return taken


@pytest.mark.parametrize(
    "piece",
    [
        b"[    1.0] Kernel panic - not syncing: again\n",
        b"[    0.0] Linux version 6.1.0\n[    0.0] Command line: elfcorehdr=0x1\n[    1.0] x invoked oom-killer: y\n",
        b"Copying data    : [ 42.0 %] |  eta: 0s\r",
        b"no end of a line ",
        bytes(range(256)),
    ],
    ids=["panics", "boots", "progress", "one-line", "noise"],
)  # fmt: skip
def test_memory_does_not_grow_with_the_log(piece: bytes) -> None:
    scanner = Scanner(load_symptoms())
    tracemalloc.start()
    try:
        tracker = scanner.scan(Endless(piece, 300_000))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 8 << 20
    assert len(tracker.boots) <= 256


def test_no_line_is_longer_than_the_patterns_are_tried_on() -> None:
    assert max(len(raw) for _, raw, _ in numbered(Endless(b"x" * 1000, 3_000_000))) <= LINE_MAX_BYTES


def test_the_words_of_the_patterns_are_up_to_date() -> None:
    """The loader checks other patterns only; the script, and so this test, checks all of the package's tables."""
    assert WORDS.read_text(encoding="utf-8") == pattern_words(), "run python docs/generate/pattern_words.py"


def test_the_symptoms_page_is_up_to_date() -> None:
    assert PAGE.read_text() == symptoms_page(load_symptoms()), (
        "run python docs/generate/symptoms_page.py > docs/symptoms.md"
    )
