"""Recognise the speaker of a line: kdump with the programs that it calls, the kernel, or a stranger to kdump."""

from __future__ import annotations

import enum
import functools
import re
from dataclasses import dataclass
from pathlib import Path

from ..base import tables
from .lines import LogLine

SPEAKERS = Path(__file__).resolve().parent / "speakers.toml"


class Speaker(enum.Enum):
    """The origin of a line."""

    KDUMP = "kdump"
    OTHER = "other"  # the kernel, or a program that the line does not name
    STRANGER = "stranger"  # a program that has nothing to do with kdump


@dataclass(frozen=True, kw_only=True)
class _Table:
    """The whole of speakers.toml."""

    kdump: frozenset[str]
    helpers: frozenset[str]
    words: re.Pattern[str]
    capture_programs: re.Pattern[str]
    ordinary_modules: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class _Lists:
    kdump: tuple[str, ...]
    helpers: tuple[str, ...]
    words: tuple[str, ...]
    capture_programs: tuple[str, ...]
    ordinary_modules: tuple[str, ...]


_PROGRAM_IN_TRACE = re.compile(
    r"\b[Cc]omm: (\S{1,40})|(\S{1,40}) invoked oom-killer|Killed process \d{1,10} \((.{1,40}?)\)"
    r"|\btask (\S{1,40}):\d{1,10} blocked"
)
_RELAYED = re.compile(r"([\w.-]{1,40})(?:\[\d{1,10}\])?: ")
_WORD = re.compile(r"\w{2,40}")


@functools.lru_cache(maxsize=1)
def _table() -> _Table:
    """Return the table with its words as one pattern."""
    lists = tables.load(SPEAKERS, _Lists)
    return _Table(
        kdump=frozenset(lists.kdump),
        helpers=frozenset(lists.helpers),
        words=re.compile("|".join(lists.words)),
        capture_programs=re.compile("|".join(lists.capture_programs)),
        ordinary_modules=frozenset(lists.ordinary_modules),
    )


def speaker(line: LogLine, *, within_kdump: bool) -> Speaker:
    """Return the speaker of a line; within_kdump means that kdump is at work."""
    table = _table()
    if line.program in table.kdump:
        return Speaker.KDUMP
    if line.program is not None and line.program not in table.helpers:
        return Speaker.KDUMP if _relays(line) else Speaker.STRANGER
    return Speaker.KDUMP if within_kdump or table.words.search(line.text) else Speaker.OTHER


def _relays(line: LogLine) -> bool:
    """Return whether a program passes on a line of kdump, with its name in front; monitors quote kdump elsewhere."""
    said = line.text.partition(f"{line.program}")[2].partition(": ")[2]
    relayed = _RELAYED.match(said)
    return relayed is not None and relayed[1] in _table().kdump


def names_an_ordinary_program(text: str) -> bool:
    """Return whether a line of a trace names a program that a capture initramfs does not have."""
    named = _PROGRAM_IN_TRACE.search(text)
    return named is not None and not _table().capture_programs.match(next(filter(None, named.groups())))


def names_an_ordinary_module(text: str) -> bool:
    """Return whether the list of a trace's modules has one that a capture initramfs does not have."""
    return not _table().ordinary_modules.isdisjoint(_WORD.findall(text))
