"""Records of pstore: the parts of a kernel log, joined to whole records."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

_TEXT_MAX_BYTES = 1 << 20  # of one record
# The first line of each record (fs/pstore/platform.c); the newest part has the number 1.
_PART = re.compile(r"^(?P<reason>[A-Za-z]+)#(?P<count>\d+) Part(?P<part>\d+)\s*$")


@dataclass(frozen=True, kw_only=True)
class PstoreRecord:
    """One record, as a backend stores it."""

    number: int  # grows with time
    text: str


def unpacked(data: bytes) -> str:
    """Return the text of a record, which Linux compresses by deflate without a header."""
    if not _PART.match(data[:64].partition(b"\n")[0].decode("ascii", "replace")):
        engine = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
        try:
            data = engine.decompress(data, _TEXT_MAX_BYTES)
        except zlib.error:
            return ""
    return data.rstrip(b"\0").decode("utf-8", "replace")


def is_part(text: str) -> bool:
    """Return whether a text is a record, rather than a log that was joined from records."""
    return _PART.match(text.partition("\n")[0]) is not None


def join_records(records: Iterable[PstoreRecord]) -> list[str]:
    """Return the kernel logs that records hold, the oldest first, each in the order of its lines."""
    logs: list[list[str]] = []
    for record in records:
        head, _, text = record.text.partition("\n")
        if (found := _PART.match(head)) is None:
            continue
        # A panic writes its last lines first.
        if found["part"] == "1" or not logs:
            logs.append([])
        logs[-1].insert(0, text)
    return ["\n".join(part.strip("\n") for part in log) + "\n" for log in logs]
