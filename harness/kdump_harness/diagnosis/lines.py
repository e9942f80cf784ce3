"""Cut a stream of bytes into numbered lines, in constant memory."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

BLOCK_BYTES = 1 << 18
STAMP_BYTES = 14  # of "[    0.000000]"
LINE_MAX_BYTES = 1 << 13  # longer lines are looked at in pieces: no console line that means anything is longer

# Addresses and numbers in a message, which differ from boot to boot.
VARIABLE_NUMBER = re.compile(r"0x[0-9a-f]+|\b[0-9a-f]{8,}\b|\d+")

_ESCAPES = re.compile(rb"\x1b(?:\[[0-9;?]{0,16}[A-Za-z]|[()][0-9A-B]|[=>78cM])")
# Mailers and pagers eat the escape byte and leave the rest of a colour.
_LOST_COLOURS = re.compile(r"\[(?:[0-9]{1,2};){0,2}[0-9]{1,2}m")
_WORD_BYTES = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")
TO_WORDS = bytes(byte if byte in _WORD_BYTES or byte in b"\r\n" else 0x20 for byte in range(256))
_PROGRESS_BYTES = b" 0123456789.%|/-\\=>#"  # what changes in a progress bar from one state to the next

_SYSLOG = re.compile(
    r"^(?:<\d{1,3}>)?\s{0,4}"
    r"(?:[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d(?:\.\d{1,6})?"
    r"|\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d{1,6})?(?:Z|[+-]\d\d:?\d\d)?)"
    r" (?:(?!\S{1,64}:)\S{1,64} )?"
)
_STAMP = re.compile(r"^(?:<\d{1,3}>)?\s{0,4}(?:kernel: )?\[?\s{0,8}(\d{1,12}\.\d{1,6})\](?:\[\s{0,6}[TC]\d{1,8}\])? ?")
_NAME = r"(?P<name>[A-Za-z(][\w./@:+()-]{0,63})"
# After a stamp or the prefix of a tool that records consoles, only a program with its process number is certain.
_PROGRAM = re.compile(r"(?:^|[\]:] )" + _NAME + r"\[\d{1,10}\]: ")
_PROGRAM_OF_SYSLOG = re.compile(r"^" + _NAME + r": ")
_PROGRAM_OF_SHELL = re.compile(r"^(?P<name>[a-z][a-z0-9.-]{1,15}): ")


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line without colours, and the facts of its prefixes."""

    number: int
    text: str
    stamp_s: float | None
    from_syslog: bool
    program: str | None = None  # that printed it, without its process number

    @classmethod
    def parse(cls, number: int, raw: bytes) -> LogLine:
        """Return the line of these bytes."""
        text = raw.decode("utf-8", "replace").replace("\0", "").strip()
        if "m" in text:
            text = _LOST_COLOURS.sub("", text)
        rest = text
        syslog = _SYSLOG.match(rest)
        if syslog:
            rest = rest[syslog.end() :]
        is_kernels = rest.startswith("kernel: ")
        if is_kernels:
            rest = rest[len("kernel: ") :]
        stamp = _STAMP.match(rest)
        if stamp:
            rest = rest[stamp.end() :]
        named = _PROGRAM.search(rest[:200])
        if named is None and not stamp:
            named = (_PROGRAM_OF_SYSLOG if syslog else _PROGRAM_OF_SHELL).match(rest)
        program = "kernel" if is_kernels and named is None else named and named["name"].rpartition("/")[2]
        return cls(number, text, float(stamp.group(1)) if stamp else None, syslog is not None, program)


def stream_blocks(stream: BinaryIO, block_bytes: int = BLOCK_BYTES) -> Iterator[bytes]:
    """Yield the stream cut at ends of lines into pieces of about block_bytes; a line without end is cut anyway."""
    rest = b""
    while piece := stream.read(block_bytes):
        piece = rest + piece
        cut = piece.rfind(b"\n") + 1
        if not cut:
            cut = piece.rfind(b"\r") + 1 or len(piece)
        rest = piece[cut:]
        yield piece[:cut]
    if rest:
        yield rest


def cleaned(block: bytes) -> bytes:
    """Return a block without colours and the carriage returns at ends of lines."""
    if b"\r" in block:
        block = block.replace(b"\r\n", b"\n")
    return _ESCAPES.sub(b"", block) if b"\x1b" in block else block


def numbered(stream: BinaryIO) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield every line as (number, bytes, the same with blanks for all that is not a word); empty lines are left out.

    A carriage return within a line starts it again, as on a terminal; each state counts as a line of the same number.
    """
    number = 1
    for raw_block in stream_blocks(stream):
        ends = raw_block.count(b"\n")
        block = cleaned(raw_block)
        overwritten = b"\r" in block
        words = block.translate(TO_WORDS)
        at = number
        for raw, bag in zip(block.split(b"\n"), words.split(b"\n"), strict=True):
            if (overwritten and b"\r" in raw) or len(raw) > LINE_MAX_BYTES:
                for state, state_bag in _states(raw, bag):
                    yield at, state, state_bag
            elif raw:
                yield at, raw, bag
            at += 1
        number += ends


def states(raw: bytes) -> list[bytes]:
    """Return the states of a line, as numbered() yields them; an empty line has one."""
    if b"\r" not in raw and len(raw) <= LINE_MAX_BYTES:
        return [raw]
    return [state for state, _ in _states(raw, raw)] or [b""]


def _states(raw: bytes, bag: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the states of an overwritten line, none longer than LINE_MAX_BYTES; of a progress bar only the last."""
    held: tuple[bytes, bytes] | None = None
    held_shape = b""
    for state, words in zip(raw.split(b"\r"), bag.split(b"\r"), strict=True):
        if len(state) > LINE_MAX_BYTES:
            for start in range(0, len(state), LINE_MAX_BYTES):
                yield state[start : start + LINE_MAX_BYTES], words[start : start + LINE_MAX_BYTES]
            continue
        shape = state.translate(None, _PROGRESS_BYTES)
        if held is not None and shape != held_shape:
            yield held
        held, held_shape = (state, words), shape
    if held is not None:
        yield held
