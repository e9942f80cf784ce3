"""Tests of zstd frames: both libraries give one answer."""

from __future__ import annotations

import random

import pytest
import zstandard
from kdump_harness.vmcore.formats import pages, zstd

PAGE = b"".join(number.to_bytes(4, "little") for number in range(600)).ljust(4096, b"\0")
FRAMES = [zstandard.ZstdCompressor(level=3, write_content_size=size).compress(PAGE) for size in (True, False)]


def answer(stored: bytes) -> bytes | None:
    try:
        return pages.Unpacker(4096).page(pages.ZSTD, stored)
    except pages.BadPage:
        return None


def mutations() -> list[bytes]:
    chance = random.Random(7)
    found = [*FRAMES, b"", FRAMES[0] + b"x", FRAMES[0] * 2, zstandard.compress(PAGE + b"x"), zstandard.compress(b"")]
    for _ in range(300):
        frame = bytearray(chance.choice(FRAMES))
        for _ in range(chance.choice((1, 1, 3))):
            frame[chance.randrange(len(frame))] = chance.randrange(256)
        found.append(bytes(frame[: chance.choice((len(frame), chance.randrange(len(frame))))]))
    return found


def test_both_libraries_judge_each_frame_in_the_same_way(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = mutations()
    fast = [answer(frame) for frame in frames]
    monkeypatch.setattr(zstd, "zstandard", None)
    assert [answer(frame) for frame in frames] == fast
    assert fast[:2] == [PAGE, PAGE]
    assert None in fast
