"""Any change of a dump gives an inspection: never a traceback, and never a truncated dump called whole."""

from __future__ import annotations

import contextlib
import tempfile
from functools import cache
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from kdump_harness.vmcore import VmcoreError, inspect, open_vmcore
from kdump_harness.vmcore.formats.source import FlattenedFile, PlainFile
from vmcore_factory import Kdump, elf, flat_stream, flatten, text_page

SAMPLES = Path(__file__).parents[1] / "data" / "vmcore"
QUICKLY = settings(max_examples=60, deadline=None)


@cache
def originals() -> tuple[bytes, ...]:
    """Sound dumps of every format."""
    small = [Kdump(version=version, compression=name).build() for version, name in ((6, "zlib"), (3, "lzo"))]
    core = elf([(0x1000, text_page(1) * 3), (0x100000, text_page(9))])
    real = [(SAMPLES / name).read_bytes() for name in ("lzo.flat", "snappy.kdump")]
    return (*small, flatten(small[0], 777), core, flatten(core, 5000), *real)


def looked_at(data: bytes) -> bool:
    """Return whether the dump is whole, after reading everything else from it."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        whole = inspect(file.name).whole
        with contextlib.suppress(VmcoreError), open_vmcore(file.name) as vmcore:
            for ask in (vmcore.dmesg, lambda: vmcore.read_page(5), lambda: vmcore.read_phys(0x1000, 9000)):
                with contextlib.suppress(VmcoreError):
                    ask()
        return whole


which = st.integers(0, len(originals()) - 1)


@QUICKLY
@given(which, st.floats(0, 1, exclude_max=True))
def test_a_dump_that_was_cut_short_is_never_whole(index, where):
    data = originals()[index]
    assert not looked_at(data[: int(len(data) * where)])


@QUICKLY
@given(which, st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=64))
def test_overwritten_bytes_never_lead_to_a_traceback(index, where, patch):
    data = originals()[index]
    at = int(len(data) * where)
    looked_at(data[:at] + patch + data[at + len(patch) :])


@QUICKLY
@given(which, st.integers(0, 6000), st.sampled_from([0, 2**31, 2**32 - 1, 2**60, 2**63 - 1, 2**64 - 1]))
def test_nasty_numbers_in_the_headers_never_lead_to_a_traceback(index, at, number):
    data = originals()[index]
    at = at // 4 * 4
    looked_at(data[:at] + number.to_bytes(8, "little") + data[at + 8 :])


@QUICKLY
@given(st.binary(max_size=200), st.sampled_from([b"KDUMP   ", b"\x7fELF\x02\x01\x01", b"makedumpfile\0\0\0\0", b""]))
def test_garbage_is_refused(garbage, signature):
    assert not looked_at(signature + garbage * 50)


@QUICKLY
@given(st.randoms(use_true_random=False), st.integers(1, 12))
def test_segments_in_any_order_give_the_same_file(dice, pieces):
    data = originals()[0]
    size = -(-len(data) // pieces)
    order = list(range(-(-len(data) // size)))
    dice.shuffle(order)
    assert looked_at(flatten(data, size, order))


@QUICKLY
@given(st.lists(st.tuples(st.integers(0, 60), st.binary(min_size=1, max_size=30)), max_size=12), st.integers(0, 90))
def test_overlapping_segments_read_as_if_written_one_after_the_other(segments, at):
    written = bytearray(max((offset + len(piece) for offset, piece in segments), default=0))
    for offset, piece in segments:
        written[offset : offset + len(piece)] = piece
    with tempfile.NamedTemporaryFile() as file:
        file.write(flat_stream(segments))
        file.flush()
        source = FlattenedFile(PlainFile(file.name))
        assert source.read(0, 200) == bytes(written)
        assert source.read(at, 10) == bytes(written[at : at + 10])
