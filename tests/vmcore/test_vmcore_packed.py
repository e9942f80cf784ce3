"""Dumps that were compressed as a whole are unpacked within bounds, and nothing is left of the unpacked file."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from kdump_harness.base.errors import HostError
from kdump_harness.vmcore import Unreadable, inspect, packed
from kdump_harness.vmcore.packed import unpacked
from vmcore_factory import Kdump, flatten

DUMP = flatten(Kdump().build(), 1000)
PACK: dict[str, Callable[[bytes], bytes]] = {
    "gzip": partial(gzip.compress, mtime=0),
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "lzma": partial(lzma.compress, format=lzma.FORMAT_ALONE),
}
STREAMS = [name for name in PACK if name != "lzma"]  # several of them may follow one another


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path of a dump next to an empty directory for temporary files."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return tmp_path / "dump"


@pytest.mark.parametrize("chunk_bytes", [7, 1 << 20])
@pytest.mark.parametrize("name", PACK)
def test_a_packed_dump_is_the_dump_again(
    path: Path, monkeypatch: pytest.MonkeyPatch, name: str, chunk_bytes: int
) -> None:
    monkeypatch.setattr(packed, "_CHUNK_BYTES", chunk_bytes)
    path.write_bytes(PACK[name](DUMP))
    with unpacked(path) as dump:
        assert dump.read_bytes() == DUMP
        assert inspect(dump).judgement == "whole"
        assert os.listdir(tempfile.gettempdir()) == []
    assert not dump.exists()
    assert path.read_bytes() == PACK[name](DUMP)


@pytest.mark.parametrize("name", STREAMS)
def test_streams_that_follow_one_another_are_one_file(path: Path, name: str) -> None:
    path.write_bytes(PACK[name](DUMP[:5000]) + PACK[name](DUMP[5000:]) + bytes(1000))
    with unpacked(path) as dump:
        assert dump.read_bytes() == DUMP


@pytest.mark.parametrize("keep", [20, 400, -1])
@pytest.mark.parametrize("name", PACK)
def test_a_packed_dump_that_was_cut_short_is_damaged(path: Path, name: str, keep: int) -> None:
    path.write_bytes(PACK[name](DUMP)[:keep])
    with pytest.raises(Unreadable, match=f"the {name}-compressed file ends too early") as caught, unpacked(path):
        pass
    assert caught.value.damage.kind == "truncated"
    assert os.listdir(tempfile.gettempdir()) == []


@pytest.mark.parametrize("name", STREAMS)
def test_a_changed_or_foreign_byte_is_damage(path: Path, name: str) -> None:
    data = bytearray(PACK[name](DUMP))
    for changed in (bytes(data) + b"more", bytes(data[:-9]) + bytes([data[-9] ^ 1]) + bytes(data[-8:])):
        path.write_bytes(changed)
        with pytest.raises(Unreadable, match=r"cannot be unpacked|ends too early"), unpacked(path):
            pass


@pytest.mark.parametrize("name", ["bzip2", "xz"])
def test_a_bomb_is_not_unpacked(path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(packed, "_LOOK_BYTES", 1 << 20)
    path.write_bytes(PACK[name](bytes(8 << 20)))
    with pytest.raises(Unreadable, match="more than 1,024 times as large") as caught, unpacked(path):
        pass
    assert caught.value.damage.kind == "unsupported"


def test_a_dictionary_that_needs_too_much_memory_is_not_made(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "_MEMORY_BYTES", 1 << 20)
    path.write_bytes(lzma.compress(DUMP))
    with pytest.raises(Unreadable, match="Memory usage limit") as caught, unpacked(path):
        pass
    assert caught.value.damage.kind == "unsupported"


def test_zeros_become_holes(path: Path) -> None:
    path.write_bytes(gzip.compress(DUMP + bytes(8 << 20)))
    with unpacked(path) as dump:
        status = dump.stat()
        assert status.st_size == len(DUMP) + (8 << 20)
        assert status.st_blocks * 512 < 4 << 20


@pytest.mark.parametrize("looks", [0, 1])
def test_without_room_nothing_is_unpacked_and_nothing_is_left(
    path: Path, monkeypatch: pytest.MonkeyPatch, looks: int
) -> None:
    """Before, and while the file grows."""
    monkeypatch.setattr(packed, "_LOOK_BYTES", 1 << 12)
    path.write_bytes(gzip.compress(DUMP))
    room = iter([True] * looks + [False] * 9)
    real = os.statvfs

    def statvfs(place: str) -> os.statvfs_result:
        fields = list(real(place))
        fields[4] = fields[4] if next(room) else 0
        return os.statvfs_result(fields)

    monkeypatch.setattr(packed.os, "statvfs", statvfs)
    with pytest.raises(HostError, match=r"to unpack the dump: 0 MiB free .* with TMPDIR=DIR"), unpacked(path):
        pass
    assert os.listdir(tempfile.gettempdir()) == []


def test_any_other_file_is_given_as_it_is(path: Path) -> None:
    for data in (DUMP, b"\x04\x22\x4d\x18 lz4", b""):
        path.write_bytes(data)
        with unpacked(path) as dump:
            assert dump == path
