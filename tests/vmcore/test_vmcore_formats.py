"""The facts that are read from undamaged dumps of every format."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from kdump_harness.base.errors import NoVerdict
from kdump_harness.vmcore import NotInDump, Unreadable, inspect, open_vmcore
from kdump_harness.vmcore.crew import _Helper, check_pages
from kdump_harness.vmcore.formats.damage import DamageList
from kdump_harness.vmcore.formats.source import FlattenedFile, PlainFile
from kdump_harness.vmcore.pagecheck import PageChecker
from vmcore_factory import PAGE, RELEASE, Kdump, elf, flat_stream, flatten, text_page

SAMPLES = Path(__file__).parents[1] / "data" / "vmcore"


@pytest.fixture
def dump(tmp_path):
    """Writes bytes to a file and returns its path."""
    numbers = itertools.count()

    def write(data: bytes) -> Path:
        path = tmp_path / f"vmcore{next(numbers)}"
        path.write_bytes(data)
        return path

    return write


@pytest.mark.parametrize("name", sorted(path.name for path in SAMPLES.glob("*.*")))
def test_a_real_sample_is_whole_and_knows_its_kernel(name):
    result = inspect(SAMPLES / name)
    assert result.whole, result.damage
    assert result.kernel == "6.1.0-56-cloud-amd64"
    assert result.machine == "x86_64"
    assert result.cpus == 1
    assert result.level == 31
    assert (result.pages_total, result.pages_kept) == (40928, 250)
    assert result.compression == name.split(".")[0].replace("raw", "none")
    assert result.format == ("kdump-flattened" if name.endswith(".flat") else "kdump")


def test_all_samples_hold_the_same_memory():
    dumps = [open_vmcore(path) for path in sorted(SAMPLES.glob("*.*"))]
    kept = np.flatnonzero(np.unpackbits(dumps[0].kept_bitmap(), bitorder="little")).tolist()
    assert len(kept) == 250
    for pfn in kept:
        assert len({vmcore.read_page(pfn) for vmcore in dumps}) == 1


@pytest.mark.parametrize("version", range(1, 7))
@pytest.mark.parametrize("compression", ["none", "zlib", "lzo", "snappy", "zstd"])
def test_every_header_version_in_every_compression(dump, version, compression):
    kdump = Kdump(version=version, compression=compression)
    result = inspect(dump(kdump.build()))
    assert result.whole, result.damage
    assert result.header_version == version
    assert result.compressions == {compression: len(kdump.pages)}
    assert result.kernel == RELEASE


@pytest.mark.parametrize("page_size", [4096, 16384, 65536])
def test_an_arm64_dump_with_any_page_size(dump, page_size):
    kdump = Kdump(pages={7: text_page(7, page_size)}, page_size=page_size, machine="aarch64")
    result = inspect(dump(kdump.build()))
    assert result.whole, result.damage
    assert (result.machine, result.page_size) == ("aarch64", page_size)


def test_pages_come_back_as_they_were(dump):
    kdump = Kdump(pages={1: bytes(PAGE), 2: text_page(2), 40: bytes(range(256)) * 16})
    with open_vmcore(dump(kdump.build())) as vmcore:
        assert {pfn: vmcore.read_page(pfn) for pfn in (1, 2, 40)} == kdump.pages
        assert vmcore.read_phys(2 * PAGE - 4, 8) == bytes(4) + text_page(2)[:4]
        with pytest.raises(NotInDump):
            vmcore.read_page(3)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_segments_of_a_flattened_stream_may_come_in_any_order(dump, order):
    data = Kdump().build()
    path = dump(flatten(data, -(-len(data) // 3), order))
    with open_vmcore(path) as vmcore:
        assert vmcore.sources[0].read(0, len(data)) == data
    assert inspect(path).whole


def test_a_later_segment_wins_over_an_earlier_one(dump):
    data = Kdump().build()
    at = data.index(b"Linux")
    segments = [(0, data[:at] + b"Minix" + data[at + 5 :]), (at, b"Linux"), (at + 1, b"inux")]
    with open_vmcore(dump(flat_stream(segments))) as vmcore:
        assert vmcore.flattened.overlapping == 3
        assert vmcore.sources[0].read(0, len(data)) == data


def test_any_cut_of_overlapping_segments_reads_like_the_file_that_would_be_written(dump):
    segments = [(40, b"a" * 30), (0, b"b" * 50), (100, b"c" * 10), (45, b"d" * 3), (46, b"e"), (60, b"f" * 45)]
    rearranged = bytearray(110)
    for offset, piece in segments:
        rearranged[offset : offset + len(piece)] = piece
    source = FlattenedFile(PlainFile(dump(flat_stream(segments))))
    for start in range(111):
        for length in (1, 7, 64, 200):
            assert source.read(start, length) == bytes(rearranged[start : start + length])


def test_gaps_of_a_flattened_stream_are_legal(dump):
    data = Kdump().build()
    header_end = 464
    block_end = PAGE
    result = inspect(dump(flat_stream([(block_end, data[block_end:]), (0, data[:header_end])])))
    assert result.whole, result.damage


def test_elf_facts_and_memory(dump):
    path = dump(elf([(0x1000, text_page(1) + text_page(2)), (0x100000, text_page(9))], memory_bytes=[0x5000, PAGE]))
    result = inspect(path)
    assert result.whole, result.damage
    assert (result.format, result.pages_total, result.pages_kept, result.cpus) == ("elf", 6, 3, 2)
    assert result.crash_time == "2026-05-28T20:26:40Z"
    with open_vmcore(path) as vmcore:
        assert vmcore.read_page(2) == text_page(2)
        assert vmcore.kept(0x100)
        assert not vmcore.kept(3)


def test_memory_that_two_elf_segments_share_counts_once(dump):
    memory = text_page(1) * 4
    result = inspect(dump(elf([(0, memory), (PAGE, memory[PAGE : 2 * PAGE])])))
    assert result.whole, result.damage
    assert (result.pages_total, result.pages_kept) == (4, 4)


def test_a_flattened_elf_file(dump):
    assert inspect(dump(flatten(elf([(0, text_page(1))]), 1000, None))).format == "elf-flattened"


def test_split_files_are_whole_only_together(dump):
    parts = [dump(Kdump(part=part).build()) for part in ((0, 20), (20, 64))]
    together = inspect(parts[1], parts[0])
    assert together.whole, together.damage
    assert together.format == "kdump-split"
    assert together.compressions == {"zlib": 19}
    alone = inspect(parts[1])
    assert [damage.kind for damage in alone.damage] == ["split"]
    with open_vmcore(*parts) as vmcore:
        assert vmcore.read_page(39) == text_page(39)


def test_files_of_different_dumps_are_not_joined(dump):
    with pytest.raises(Unreadable, match="is not a part of the same split dump"):
        open_vmcore(dump(Kdump(part=(0, 20)).build()), dump(Kdump().build()))


def test_page_bitmaps(dump):
    with open_vmcore(dump(Kdump(pages={3: text_page(3)}, ram=range(5)).build())) as vmcore:
        assert np.flatnonzero(np.unpackbits(vmcore.kept_bitmap(), bitorder="little")).tolist() == [3]
        assert np.flatnonzero(np.unpackbits(vmcore.ram_bitmap(), bitorder="little")).tolist() == [0, 1, 2, 3, 4]


def test_to_json_has_only_what_json_can_hold(dump):
    result = inspect(dump(Kdump().build()[:-1]))
    answer = json.loads(json.dumps(result.to_json()))
    assert answer["whole"] is False
    assert set(answer["damage"][0]) == {"kind", "message", "offset", "pfn"}
    assert answer["crash_time_s"] == 1780000000


def test_quick_leaves_the_pages_alone(dump):
    kdump = bytearray(Kdump().build())
    kdump[-1] ^= 0xFF
    path = dump(bytes(kdump))
    assert not inspect(path).whole
    assert inspect(path, quick=True).whole


def test_progress_ends_at_the_number_of_pages(dump):
    seen = []
    inspect(dump(Kdump().build()), progress=lambda done, total: seen.append((done, total)))
    assert set(seen) == {(19, 19)}


def test_a_helper_process_finds_what_this_process_finds(dump):
    """Call the helper directly: with so few pages this process would do all the work."""
    data = bytearray(Kdump().build())
    data[-3] ^= 0xFF
    for stream in (bytes(data), flatten(bytes(data), 1000)):
        with open_vmcore(dump(stream)) as vmcore:
            part = vmcore.kdumps[0]
            helper = _Helper(part)
            found = helper.check(0, 19)
            helper.end()
            helper.close()
            assert found == PageChecker(part, part.data_offset).check(0, 19)
            assert [part.pfn_of(damage.pfn) for damage in found.damage] == [39]


def test_vmcoreinfo_numbers(dump):
    more = "NUMBER(negative)=-129\nNUMBER(hex)=0x10\nOFFSET(list_head.prev)=8\nLENGTH(x)=5\nSIZE(page)=64\n"
    with open_vmcore(dump(Kdump(more_vmcoreinfo=more).build())) as vmcore:
        info = vmcore.vmcoreinfo
    assert info.number("negative") == -129
    assert info.number("hex") == 16
    assert (info.offset("list_head.prev"), info.length("x"), info.size("page")) == (8, 5, 64)
    assert info.symbol("init_uts_ns") == 0xFFFFFFFF82BF9B60
    assert info.number("absent", 7) == 7


def test_a_helper_process_that_dies_gives_no_verdict(dump, monkeypatch):
    monkeypatch.setattr("sys.executable", "/bin/false")
    monkeypatch.setattr("kdump_harness.vmcore.crew._TASK_PAGES", 1)
    data = Kdump(pages={pfn: text_page(pfn) for pfn in range(2000)}, max_mapnr=2000).build()
    with open_vmcore(dump(data)) as vmcore, pytest.raises(NoVerdict, match="died"):
        check_pages(vmcore.kdumps[0], DamageList(), processes=2)


def test_a_helper_process_whose_parent_died_ends_in_silence(dump, capfd):
    """A run that was killed by SIGKILL left a traceback on the terminal."""
    with open_vmcore(dump(Kdump().build())) as vmcore:
        helper = _Helper(vmcore.kdumps[0])
        helper._answers.close()
        helper._orders.write(b"0 1\n")
        helper._orders.flush()
        helper._process.wait(60)
        helper.close()
    assert capfd.readouterr().err == ""


def test_remarks_report_oddities_that_are_not_damage(dump):
    data = Kdump(compression="lzo").build()
    result = inspect(dump(flat_stream([(0, data), (8, data[8:16])]) + b"more"))
    assert result.whole
    assert result.remarks == (
        "flattened: 2 segments, 2 overlapping, 0 gaps",
        "4 bytes follow the end marker",
        "19 pages carry no checksum (only zlib's do): a changed byte in them may not be seen",
        "the kernel log cannot be read: VMCOREINFO does not say where the kernel log is",
        "the pages cannot be counted by class: VMCOREINFO has no SIZE(page)",
    )
