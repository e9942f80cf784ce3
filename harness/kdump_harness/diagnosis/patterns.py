"""Regular expressions that cannot take super-linear time, and the words that a match must contain.

Time is bounded by construction, not by trust: the loader reads each pattern's parse tree, refuses unbounded repeats and
nested ones, and counts the ways in which a match can continue from one starting point. A search then costs at most that
number of steps per character, whatever the line. Python's own engine is enough for that; google-re2 would promise the
same, but has no wheels for s390x and ppc64le, where kdump is used most.
"""

from __future__ import annotations

import enum
import functools
import importlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# The tree of Python's own parser: since 3.11 it has no public name, and no module before it has one that lasts.
_parser: Any = importlib.import_module("re._parser")
_constants: Any = importlib.import_module("re._constants")

WAYS_MAX = 2_000
_LITERAL_MIN = 3
_WORD = re.compile(r"[A-Za-z0-9_]+")

# Words of ordinary boots, the most frequent first: a pattern is filed under its least frequent word, so that few lines
# are looked at closely.
_COMMON_WORDS = (Path(__file__).resolve().parent / "common_words.txt").read_text().split()
_COMMONNESS = {word: len(_COMMON_WORDS) - at for at, word in enumerate(_COMMON_WORDS)}


class PatternError(ValueError):
    """A pattern that is not a regular expression, could be slow, or has no word to look for."""


# The words of the patterns of this package's tables, which docs/generate/pattern_words.py finds: it takes long.
WORDS = Path(__file__).resolve().parent / "words.json"


@dataclass(frozen=True)
class TextPattern:
    """A pattern, compiled when it is first tried, and its words.

    Every match contains one of words, which are rare where possible, and one of each set of others.
    """

    text: str
    words: frozenset[str]
    others: tuple[frozenset[str], ...]

    @functools.cached_property
    def regex(self) -> re.Pattern[str]:
        """The compiled pattern."""
        return re.compile(self.text)


def compile_pattern(text: str, *, needs_word: bool = True) -> TextPattern:
    """Return the pattern of a table's text. Raise PatternError with the reason where it is not allowed."""
    if text in _known_words():
        words, others, _ = _known_words()[text]
        return TextPattern(text, frozenset(words), tuple(map(frozenset, others)))
    return checked_pattern(text, needs_word=needs_word)


def checked_pattern(text: str, *, needs_word: bool = True) -> TextPattern:
    """Return the pattern, whether its words are known or not, from its parse tree."""
    try:
        regex = re.compile(text)
        tree = _parser.parse(text)
    except re.error as error:
        raise PatternError(f"not a regular expression: {error}") from None
    if regex.flags & ~re.UNICODE:
        raise PatternError("flags are not allowed")
    ways = _ways(tree)
    if ways > WAYS_MAX:
        raise PatternError(f"may try {ways} ways per character, at most {WAYS_MAX} are allowed (lower its bounds)")
    sets = _word_sets(list(tree), left=_Edge.PATTERN, right=_Edge.PATTERN)
    if needs_word and not sets:
        raise PatternError("has no whole word that every match contains")
    first, _ = min(sets.items(), key=_rank, default=(frozenset[str](), True))
    others = sorted((words for words in sets if sets[words] and words != first), key=sorted)
    return TextPattern(text, first, tuple(others))


@functools.cache
def _known_words() -> dict[str, tuple[list[str], list[list[str]], list[str]]]:
    """Return the words of the patterns of this package's tables, their other sets of words, and their literals."""
    known: dict[str, tuple[list[str], list[list[str]], list[str]]] = json.loads(WORDS.read_text(encoding="utf-8"))
    return known


def _ways(tree: Any) -> int:
    """Return the maximum number of ways in which a match can continue from one starting point."""
    product = 1
    for operation, argument in tree:
        if operation in (_constants.MAX_REPEAT, _constants.MIN_REPEAT, _constants.POSSESSIVE_REPEAT):
            least, most, body = argument
            if most is _constants.MAXREPEAT:
                raise PatternError("has an unbounded repeat (use {0,80} or the like instead of * and +)")
            if most > 1 and _repeats(body):
                raise PatternError("has a repeat within a repeat")
            # A possessive repeat never gives back what it took, so it continues in one way only.
            product *= _ways(body) if operation is _constants.POSSESSIVE_REPEAT else (most - least + 1) * _ways(body)
        elif operation is _constants.BRANCH:
            product *= sum(_ways(branch) for branch in argument[1])
        elif operation is _constants.SUBPATTERN:
            product *= _ways(argument[3])
        elif operation in (_constants.ASSERT, _constants.ASSERT_NOT):
            product *= _ways(argument[1])
        elif operation in (_constants.GROUPREF, _constants.GROUPREF_EXISTS):
            raise PatternError("has a back-reference")
    return product


def _repeats(tree: Any) -> bool:
    """Return whether anything in the tree may repeat or vary in length."""
    low, high = tree.getwidth()
    return bool(low != high or any(operation is _constants.BRANCH for operation, _ in tree))


class _Edge(enum.IntEnum):
    """The certainty with which a word ends at the end of a sequence of items."""

    OPEN = 0  # perhaps a part of the same word
    PATTERN = 1  # nothing more of the pattern: taken for the end of a word, though "ommand line:" may begin within one
    SURE = 2


def _word_sets(items: list[Any], *, left: _Edge, right: _Edge) -> dict[frozenset[str], bool]:
    """Return sets of words, and whether each is sure; every match has a word of each set."""
    sets: dict[frozenset[str], bool] = {}
    for start, run, end in _runs(items):
        for found in _WORD.finditer(run):
            before = _Edge.SURE if found.start() > 0 else _edge(items, start - 1, left, right)
            behind = _Edge.SURE if found.end() < len(run) else _edge(items, end, left, right)
            # A number at the pattern's end continues in most matches ("+0x1d").
            is_cut_number = behind is _Edge.PATTERN and found.group()[0].isdigit()
            if before and behind and not is_cut_number:
                sets[frozenset([found.group()])] = min(before, behind) is _Edge.SURE
    for index, (operation, argument) in enumerate(items):
        before, behind = _edge(items, index - 1, left, right), _edge(items, index + 1, left, right)
        if operation is _constants.SUBPATTERN:
            sets |= _word_sets(list(argument[3]), left=before, right=behind)
        elif operation is _constants.BRANCH:
            arms = [_word_sets(list(branch), left=before, right=behind) for branch in argument[1]]
            if all(arms):
                best = [min(arm.items(), key=_rank) for arm in arms]
                sets[frozenset().union(*(words for words, _ in best))] = all(sure for _, sure in best)
    return sets


def literals(text: str) -> frozenset[str]:
    """Return the best set of literals of a pattern of which every match contains one: long ones, of rare words."""
    if text in _known_words():
        return frozenset(_known_words()[text][2])
    return checked_literals(text)


def checked_literals(text: str) -> frozenset[str]:
    """Return the literals of a pattern, whether they are known or not, from its parse tree."""
    sets = _literal_sets(list(_parser.parse(text)))
    return min(sets, key=_literal_rank, default=frozenset[str]())


def _literal_sets(items: list[Any]) -> list[frozenset[str]]:
    """Return sets of literals; every match contains one of each set."""
    sets = [frozenset([run]) for _, run, _ in _runs(items) if len(run) >= _LITERAL_MIN]
    for operation, argument in items:
        if operation is _constants.SUBPATTERN:
            sets += _literal_sets(list(argument[3]))
        elif operation is _constants.BRANCH:
            arms = [_literal_sets(list(branch)) for branch in argument[1]]
            if all(arms):
                sets.append(frozenset().union(*(min(arm, key=_literal_rank) for arm in arms)))
    return sets


def _literal_rank(found: frozenset[str]) -> tuple[int, int, list[str]]:
    """Return an order in which sets that fewer lines contain come first."""
    return (-min(map(_rarity, found)), len(found), sorted(found))


@functools.cache
def _rarity(literal: str) -> int:
    """Return a number that is larger for longer literals, and for those with a word that is not common."""
    words = _WORD.findall(literal)
    common = all(any(known.startswith(word) or known.endswith(word) for known in _COMMON_WORDS) for word in words)
    return len(literal) - (10 if common else 0)


def _runs(items: list[Any]) -> list[tuple[int, str, int]]:
    """Return the literal stretches of a sequence as (first item, text, item after the last)."""
    runs: list[tuple[int, str, int]] = []
    for index, (operation, argument) in enumerate(items):
        if operation is not _constants.LITERAL:
            continue
        if runs and runs[-1][2] == index:
            start, text, _ = runs[-1]
            runs[-1] = (start, text + chr(argument), index + 1)
        else:
            runs.append((index, chr(argument), index + 1))
    return runs


def _edge(items: list[Any], index: int, left: _Edge, right: _Edge) -> _Edge:
    """Return how the item at index bounds a word next to it; left and right stand for the text beyond the sequence."""
    if index < 0:
        return left
    if index >= len(items):
        return right
    operation, argument = items[index]
    is_boundary = operation is _constants.AT or (operation is _constants.LITERAL and not _WORD.fullmatch(chr(argument)))
    return _Edge.SURE if is_boundary else _Edge.OPEN


def _rank(item: tuple[frozenset[str], bool]) -> tuple[int, bool, int, int, list[str]]:
    """Return an order in which sets that fewer lines contain come first."""
    words, sure = item
    commonness = sum(_COMMONNESS.get(word, 0) for word in words)
    return (commonness, not sure, len(words), -min(map(len, words)), sorted(words))
