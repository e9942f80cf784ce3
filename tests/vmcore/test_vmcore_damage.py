"""Each visible damage of a file is reported by its kind; a file that is not a dump is refused in a sentence."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from kdump_harness.base.errors import UsageError
from kdump_harness.vmcore import Inspection, Unreadable, VmcoreError, inspect, open_vmcore
from kdump_harness.vmcore.formats import descriptors, intervals, source
from kdump_harness.vmcore.formats.notes import parse
from vmcore_factory import FLAGS, PAGE, VMCOREINFO, Kdump, elf, flat_stream, flatten, note, text_page

SAMPLES = Path(__file__).parents[1] / "data" / "vmcore"


@pytest.fixture
def inspect_bytes(tmp_path):
    """Inspects a file with the given bytes."""

    def look(data: bytes, **options: bool) -> Inspection:
        path = tmp_path / "vmcore"
        path.write_bytes(data)
        return inspect(path, **options)

    return look


def kinds(result: Inspection) -> set[str]:
    """Return the kinds of damage found."""
    return {damage.kind for damage in result.damage}


def patched(data: bytes, at: int, layout: str, *values: int) -> bytes:
    """Return the data with some numbers overwritten."""
    patch = struct.pack(layout, *values)
    return data[:at] + patch + data[at + len(patch) :]


def table_at(data: bytes) -> int:
    """Return the offset of the first page descriptor of a dump."""
    block, sub_blocks, bitmap_blocks = struct.unpack_from("<iiI", data, 428)
    return (1 + sub_blocks + bitmap_blocks) * block


SOUND = Kdump().build()
TABLE = table_at(SOUND)
BITMAPS = TABLE - 2 * PAGE

# Offset, layout, values, kind, what the message must name.
BROKEN_HEADERS = {
    "version": (8, "<i", 7, "header", "version 7"),
    "block-size": (428, "<i", 4095, "header", "block size 4,095"),
    "no-sub-header": (432, "<i", 0, "header", "sub-header of 0 blocks"),
    "huge-sub-header": (432, "<i", 2**31 - 1, "header", "sub-header"),
    "bitmap-blocks": (436, "<I", 4, "header", "need 2 bitmap blocks, the header has 4"),
    "huge-max-mapnr": (PAGE + 96, "<Q", 1 << 60, "header", "1,152,921,504,606,846,976 page frames"),
    "no-max-mapnr": (PAGE + 96, "<Q", 0, "header", "0 page frames"),
    "other-max-mapnr": (440, "<I", 65, "header", "65 page frames"),
    "incomplete": (424, "<I", 0x8 | FLAGS["zlib"], "incomplete", "incomplete"),
    "two-compressions": (424, "<I", 0x3, "header", "status 0x3"),
    "unknown-status": (424, "<I", 0x81, "header", "status 0x81"),
    "wrong-compression": (424, "<I", FLAGS["lzo"], "header", "says lzo, some pages are zlib"),
    "level": (PAGE + 8, "<i", 99, "header", "level is 99"),
    "notes-outside": (PAGE + 48, "<q", 1 << 40, "notes", "outside"),
    "notes-negative": (PAGE + 48, "<q", -8, "notes", "outside"),
    "notes-huge": (PAGE + 56, "<Q", 1 << 60, "notes", "outside"),
    "vmcoreinfo-outside": (PAGE + 32, "<q", 1 << 40, "vmcoreinfo", "outside"),
    "vmcoreinfo-elsewhere": (PAGE + 32, "<q", TABLE, "vmcoreinfo", "no kernel writes"),
    "release": (142, "<B", ord("5"), "vmcoreinfo", "release"),
    "utsname-not-text": (77, "<B", 7, "header", "utsname.nodename"),
}


@pytest.mark.parametrize("name", BROKEN_HEADERS)
def test_a_broken_header_is_reported(inspect_bytes, name):
    at, layout, value, kind, message = BROKEN_HEADERS[name]
    result = inspect_bytes(patched(SOUND, at, layout, value))
    assert not result.whole
    assert any(damage.kind == kind and message in damage.message for damage in result.damage), result.damage


BROKEN_DESCRIPTORS = {
    "missing": (0, "<q", 0, "descriptor"),
    "negative": (0, "<q", -4096, "descriptor"),
    "in-header": (0, "<q", 5000, "descriptor"),
    "beyond": (0, "<q", 1 << 40, "descriptor"),
    "huge": (0, "<q", 2**63 - 1, "descriptor"),
    "no-size": (8, "<I", 0, "descriptor"),
    "large-size": (8, "<I", PAGE + 1, "descriptor"),
    "short": (8, "<I", 30, "page"),
    "long": (8, "<I", 200, "overlap"),
    "raw": (12, "<I", 0, "descriptor"),
    "other-compression": (12, "<I", FLAGS["snappy"], "page"),
    "unknown-flags": (12, "<I", 0x40, "descriptor"),
}


@pytest.mark.parametrize("name", BROKEN_DESCRIPTORS)
def test_a_broken_descriptor_is_reported_with_its_page_frame(inspect_bytes, name):
    at, layout, value, kind = BROKEN_DESCRIPTORS[name]
    result = inspect_bytes(patched(SOUND, TABLE + 24 * 4 + at, layout, value))
    assert 11 in [damage.pfn for damage in result.damage if damage.kind == kind]


@pytest.mark.parametrize("compression", ["zlib", "lzo", "snappy", "zstd"])
def test_a_page_of_another_length_is_reported(inspect_bytes, compression):
    dump = Kdump(compression=compression)
    dump.pages = {**dump.pages, 21: text_page(21, PAGE - 1), 23: text_page(23, 2 * PAGE)}
    result = inspect_bytes(dump.build())
    assert [damage.pfn for damage in result.damage if damage.kind == "page"] == [21, 23]


@pytest.mark.parametrize("compression", ["snappy", "zstd"])
def test_a_page_that_claims_gigabytes_is_reported_without_allocating_them(inspect_bytes, compression):
    huge = {
        "snappy": b"\xff\xff\xff\xff\x0f" + bytes(20),
        "zstd": b"\x28\xb5\x2f\xfd\xe0" + (1 << 40).to_bytes(8, "little") + b"\x03\x00\x00" + bytes(9),
    }[compression]
    dump = Kdump(compression=compression)
    data = dump.build()
    at, _, _, _ = struct.unpack_from("<qIIQ", data, TABLE)
    result = inspect_bytes(data[:at] + huge + data[at + len(huge) :])
    assert [damage.pfn for damage in result.damage if damage.kind == "page"][:1] == [3]


def test_zlib_pages_carry_a_checksum(inspect_bytes):
    data = bytearray(SOUND)
    data[-1] ^= 1
    assert [(damage.kind, damage.pfn) for damage in inspect_bytes(bytes(data)).damage] == [("page", 39)]


def test_a_raw_page_of_zeros_is_a_hole_where_no_writer_stores_one(inspect_bytes):
    pages = {3: text_page(3), 5: os.urandom(PAGE), 7: text_page(7)}
    data = Kdump(pages=pages).build()
    at = data.index(pages[5])
    result = inspect_bytes(data[:at] + bytes(PAGE) + data[at + PAGE :])
    assert [(damage.kind, damage.pfn, damage.offset) for damage in result.damage] == [("hole", 5, at)]


def test_a_raw_page_of_zeros_is_fine_in_a_raw_dump_of_everything(inspect_bytes):
    assert inspect_bytes(Kdump(pages={1: bytes(PAGE), 2: text_page(2)}, compression="none", level=0).build()).whole


def test_the_shared_page_of_zeros_must_be_zeros(inspect_bytes):
    dump = Kdump(pages={1: bytes(PAGE), 2: bytes(PAGE), 3: text_page(3)}, compression="none")
    assert inspect_bytes(dump.build()).whole
    data = bytearray(dump.build())
    data[table_at(data) + 24 * 3 + 100] = 1
    assert kinds(inspect_bytes(bytes(data))) == {"page"}


def test_the_shared_page_of_zeros_must_be_there(inspect_bytes):
    """A dump has it exactly if its level has bit 0, also without empty pages."""
    for level, first_data in ((31, TABLE + 24 * 19 + PAGE), (30, TABLE + 24 * 19)):
        data = Kdump(level=level).build()
        assert struct.unpack_from("<q", data, TABLE) == (first_data,)
        assert kinds(inspect_bytes(patched(data, PAGE + 8, "<i", level ^ 1))) == {"bitmap"}


@pytest.mark.parametrize("level", [31, 30])
@pytest.mark.parametrize("compression", ["zlib", "none"])
def test_no_writer_shares_a_page_that_is_not_zeros(inspect_bytes, level, compression):
    result = inspect_bytes(Kdump(level=level, compression=compression, shares={13: 11}).build())
    assert [(damage.kind, damage.pfn) for damage in result.damage] == [("overlap", 11)]
    result = inspect_bytes(Kdump(level=level, shares=dict.fromkeys(range(5, 40, 2), 3)).build())
    assert [(damage.kind, damage.pfn) for damage in result.damage] == [("overlap", pfn) for pfn in range(3, 39, 2)]


def test_no_writer_leaves_a_gap_in_the_data(inspect_bytes):
    for pfn, kind, before in ((3, "bitmap", None), (13, "gap", 11), (39, "gap", 37)):
        result = inspect_bytes(Kdump(gaps={pfn: 100_000}).build())
        assert [(damage.kind, damage.pfn) for damage in result.damage] == [(kind, before)]
        assert inspect_bytes(Kdump(gaps={pfn: 100_000}).build(), quick=True).damage == result.damage


def test_pages_on_both_sides_of_a_block_of_descriptors_follow_each_other(inspect_bytes, monkeypatch):
    for at_once in (1, 2, 5):
        monkeypatch.setattr(descriptors, "AT_ONCE", at_once)
        assert inspect_bytes(SOUND).whole
        assert inspect_bytes(SOUND, quick=True).whole
        for pfn in (3, 13, 39):
            assert len(inspect_bytes(Kdump(gaps={pfn: 1}).build()).damage) == 1


def test_a_descriptor_that_is_wrong_by_itself_is_not_reported_again_by_its_neighbours(inspect_bytes):
    result = inspect_bytes(patched(SOUND, TABLE + 24 * 4, "<q", 2**63 - 1))
    assert [(damage.kind, damage.pfn) for damage in result.damage] == [("descriptor", 11)]


@pytest.mark.parametrize("gap_bytes", [0, 1])
def test_erase_info_follows_the_data(inspect_bytes, gap_bytes):
    data = patched(SOUND, PAGE + 64, "<qQ", len(SOUND) + gap_bytes, 4) + b"?" * gap_bytes + b"DATA"
    assert kinds(inspect_bytes(data)) == ({"gap"} if gap_bytes else set())


@pytest.mark.parametrize("bit", [4, 3])
def test_bitmap_and_descriptors_must_agree(inspect_bytes, bit):
    data = bytearray(SOUND)
    data[BITMAPS + PAGE] ^= 1 << bit
    assert "bitmap" in kinds(inspect_bytes(bytes(data)))


def test_a_lost_bitmap_is_distinguished_from_an_empty_dump(inspect_bytes):
    data = SOUND[: BITMAPS + PAGE] + bytes(PAGE) + SOUND[BITMAPS + 2 * PAGE :]
    assert kinds(inspect_bytes(data)) == {"bitmap"}


def test_a_page_outside_ram_is_reported(inspect_bytes):
    result = inspect_bytes(Kdump(ram=range(39)).build())
    assert [(damage.kind, damage.pfn) for damage in result.damage] == [("bitmap", 39)]


def test_bits_behind_the_last_page_frame_are_reported(inspect_bytes):
    data = bytearray(Kdump(max_mapnr=61).build())
    data[BITMAPS + 7] |= 1 << 6
    assert kinds(inspect_bytes(bytes(data))) == {"bitmap"}


def test_data_without_a_page_is_reported_but_padding_is_not(inspect_bytes):
    assert kinds(inspect_bytes(SOUND + b"more")) == {"bitmap"}
    assert inspect_bytes(SOUND + bytes(512)).whole


@pytest.mark.parametrize("vmcoreinfo", [b"", b"\xff\xfe", b"hello", VMCOREINFO.replace("=5a", "=zz").encode()], ids=str)
def test_vmcoreinfo_must_be_one(inspect_bytes, vmcoreinfo):
    assert "vmcoreinfo" in kinds(inspect_bytes(Kdump(vmcoreinfo=vmcoreinfo).build()))


def test_a_dump_of_a_live_guest_has_no_crash_time(inspect_bytes):
    text = VMCOREINFO.format(page_size=PAGE, more="").split("CRASHTIME")[0].encode()
    result = inspect_bytes(Kdump(vmcoreinfo=text).build())
    assert result.whole
    assert result.crash_time is None


def test_broken_notes_are_reported(inspect_bytes):
    data = SOUND.replace(note(b"CORE", 1, b"")[:4], struct.pack("<I", 1 << 30), 1)
    assert "notes" in kinds(inspect_bytes(data))


@pytest.mark.parametrize("keep", [0, 1, 15, 100, 463, 464, 4096, 5000, TABLE - 1, TABLE + 30, len(SOUND) - 1])
def test_a_plain_file_that_was_cut_short_is_reported(inspect_bytes, keep):
    assert not inspect_bytes(SOUND[:keep]).whole


@pytest.mark.parametrize("lost", [1, 20, 60])
def test_a_cut_page_has_no_bytes_that_belong_to_no_page(inspect_bytes, lost):
    assert kinds(inspect_bytes(SOUND[:-lost])) == {"descriptor"}


@pytest.mark.parametrize("name", ["lzo.flat", "zstd.kdump"])
def test_a_real_dump_that_was_cut_short_anywhere_is_reported(inspect_bytes, name):
    data = (SAMPLES / name).read_bytes()
    for keep in range(0, len(data), len(data) // 60):
        assert not inspect_bytes(data[:keep]).whole, keep


def test_a_flattened_stream_without_end_marker_is_reported(inspect_bytes):
    stream = flatten(SOUND, 1000)
    assert kinds(inspect_bytes(stream[:-16])) == {"end-marker"}
    assert kinds(inspect_bytes(stream[:-7])) == {"end-marker"}
    assert "truncated" in kinds(inspect_bytes(stream[:-20]))


@pytest.mark.parametrize(
    ("offset", "size"),
    [(-5, 10), (10, -5), (1 << 62, 1 << 62), (0, 1 << 60), (2**63 - 1, 2**63 - 1), (-1, 0), (0, 0), (9, 0)],
)
def test_an_impossible_segment_is_reported(inspect_bytes, offset, size):
    stream = flatten(SOUND, 1000)
    result = inspect_bytes(stream[:-16] + struct.pack(">qq", offset, size) + b"\xff" * 16)
    assert kinds(result) & {"segment", "truncated"}


def test_a_tail_of_zeros_ends_a_stream_at_once(tmp_path):
    """A full disk leaves one; a walk of 16 bytes a step through it would take hours."""
    path = tmp_path / "vmcore"
    path.write_bytes(flatten(SOUND, 1000)[:-16])
    length = path.stat().st_size
    os.truncate(path, 100 << 30)
    started_s = time.process_time()
    assert [(damage.kind, damage.offset) for damage in inspect(path).damage] == [("segment", length)]
    assert time.process_time() - started_s < 5


@pytest.mark.parametrize("step", [1, 0])
def test_a_stream_of_too_many_segments_is_refused_with_the_remedy(tmp_path, monkeypatch, step):
    """Segments one after the other need an index; segments at the same place need a sweep as well."""
    monkeypatch.setattr(*((source, "MAX_SEGMENTS", 99) if step else (intervals, "MAX_OVERLAPPING", 99)))
    path = tmp_path / "vmcore"
    path.write_bytes(flat_stream([(number * step, b"x") for number in range(100)]))
    with pytest.raises(Unreadable, match=r"makedumpfile -R" if step else "overlap") as caught:
        open_vmcore(path)
    assert caught.value.damage.kind == "unsupported"


def test_notes_without_an_end_are_not_walked_for_ever():
    found = parse(note(b"CORE", 1, b"") * (1 << 17))
    assert (found.cpus, found.broken_at) == (1 << 16, 20 << 16)


def test_descriptors_behind_the_end_of_the_file_are_not_looked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(descriptors, "AT_ONCE", 4)
    path = tmp_path / "vmcore"
    path.write_bytes(SOUND[: TABLE + 24 * 6])
    with open_vmcore(path) as vmcore:
        assert [len(table) for _, table in descriptors.tables(vmcore.kdumps[0])] == [4, 2]


def test_a_segment_far_away_allocates_nothing(inspect_bytes):
    far = flat_stream([(0, SOUND), ((1 << 62) - 64, b"x")])
    assert not inspect_bytes(far).whole


def test_page_data_in_a_gap_of_the_stream_is_reported(inspect_bytes):
    at, size, _, _ = struct.unpack_from("<qIIQ", SOUND, TABLE + 24)
    result = inspect_bytes(flat_stream([(0, SOUND[:at]), (at + size, SOUND[at + size :])]))
    assert [(damage.kind, damage.pfn) for damage in result.damage] == [("descriptor", 5)]
    assert "gap" in result.damage[0].message


def test_descriptors_in_a_gap_of_the_stream_are_reported(inspect_bytes):
    assert "hole" in kinds(inspect_bytes(flat_stream([(0, SOUND[: TABLE + 24]), (TABLE + 48, SOUND[TABLE + 48 :])])))


ELF = elf([(0x1000, text_page(1) * 3), (0x100000, text_page(9))])
LAST_LOAD = 64 + 2 * 56 + 8
BROKEN_ELFS = {
    "no-class": (patched(ELF, 4, "<B", 9), "header"),
    "executable": (patched(ELF, 16, "<H", 2), "header"),
    "no-segments": (patched(ELF, 56, "<H", 0), "header"),
    "many-segments": (patched(ELF, 56, "<H", 0xFFFE), "truncated"),
    "extended-segments": (patched(ELF, 56, "<H", 0xFFFF), "header"),
    "segments-elsewhere": (patched(ELF, 32, "<Q", 1 << 60), "truncated"),
    "incomplete": (patched(ELF, 48, "<I", 1), "incomplete"),
    "only-notes": (elf([]), "segment"),
    "cut": (ELF[:-1], "truncated"),
    "segment-beyond": (patched(ELF, 64 + 56 + 8, "<Q", 1 << 40), "truncated"),
    "segment-overflow": (patched(ELF, 64 + 56 + 8, "<Q", (1 << 64) - 8), "segment"),
    "segment-type": (patched(ELF, 64 + 56, "<I", 3), "segment"),
    "segment-larger-than-memory": (patched(ELF, 64 + 56 + 40, "<Q", 1), "segment"),
    "more-memory-than-any-machine": (patched(ELF, 64 + 56 + 40, "<Q", 1 << 55), "segment"),
    "segments-overlap": (patched(ELF, LAST_LOAD, "<Q", 2 * PAGE), "overlap"),
    "rest": (ELF + b"x", "segment"),
    "gap": (patched(ELF, LAST_LOAD, "<Q", len(ELF) + 200_000 - PAGE)[:-PAGE] + bytes(200_000) + ELF[-PAGE:], "gap"),
    "no-vmcoreinfo": (elf([(0, text_page(1))], vmcoreinfo=b""), "vmcoreinfo"),
}


@pytest.mark.parametrize("name", BROKEN_ELFS)
def test_a_broken_elf_file_is_reported(inspect_bytes, name):
    data, kind = BROKEN_ELFS[name]
    assert kind in kinds(inspect_bytes(data))


def test_an_elf_file_whose_memory_is_one_hole_is_damaged(tmp_path):
    path = tmp_path / "vmcore"
    memory = elf([(0, text_page(1) * 64)])
    path.write_bytes(memory)
    assert inspect(path).whole
    path.write_bytes(memory[: -64 * PAGE])
    os.truncate(path, len(memory))
    result = inspect(path)
    assert [damage.kind for damage in result.damage] == ["hole"]
    assert "nothing was written" in result.why


NO_DUMPS = {
    "empty": (b"", "empty", "nothing was saved"),
    "text": (b"makedumpfile Completed.\n", "signature", "begins with"),
    "zeros": (bytes(8192), "signature", "begins with"),
    "flattened-nothing": (flat_stream([]), "signature", "inside the flattened stream"),
    "flattened-text": (flat_stream([(0, b"hello")]), "signature", "inside the flattened stream"),
}


@pytest.mark.parametrize("name", NO_DUMPS)
def test_files_that_are_not_dumps_are_named(inspect_bytes, tmp_path, name):
    data, kind, message = NO_DUMPS[name]
    result = inspect_bytes(data)
    assert [damage.kind for damage in result.damage] == [kind]
    assert message in result.damage[0].message
    with pytest.raises(Unreadable):
        open_vmcore(tmp_path / "vmcore")


UNSUPPORTED = {
    "machine": (
        Kdump(machine="sparc64").build(),
        "the machine is 'sparc64', not x86_64, aarch64, ppc64le, riscv64 or s390x",
    ),
    "elf-32-bit": (patched(ELF, 4, "<B", 1), "not 64-bit"),
    "elf-big-endian": (patched(patched(ELF, 5, "<B", 2), 16, ">HH", 4, 43), "ELF machine 43, big endian"),
    "elf-machine": (patched(ELF, 18, "<H", 258), "ELF machine 258, little endian"),
    "diskdump": (b"DISKDUMP" + bytes(4096), "diskdump"),
    "gzip": (b"\x1f\x8b\x08" + bytes(100), "gunzip"),
    "bzip2": (b"BZh9" + bytes(100), "bunzip2"),
    "lz4": (b"\x04\x22\x4d\x18" + bytes(100), "lz4 -d"),
    "lzop": (b"\x89LZO\0\r\n\x1a\n" + bytes(100), "lzop -d"),
    "lzma": (b"\x5d\0\0\x80\0" + bytes(100), "unlzma"),
    "xz": (b"\xfd7zXZ\0" + bytes(100), "unxz"),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(100), "unzstd"),
    "qemu": (b"QEVM\0\0\0\x03" + bytes(100), "--memory-only"),
    "libvirt": (b"LibvirtQemudSave" + bytes(100), "--memory-only"),
    "encrypted": (b"Salted__" + bytes(100), "openssl"),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_is_not_supported_is_not_judged_and_not_damaged(inspect_bytes, tmp_path, name):
    data, message = UNSUPPORTED[name]
    result = inspect_bytes(data)
    assert (result.judgement, result.whole, result.damage) == ("not judged", False, ())
    assert message in result.why
    assert str(tmp_path) not in result.why
    assert result.to_json()["whole"] is None


def test_damage_counts_also_where_a_dump_cannot_be_judged(inspect_bytes):
    result = inspect_bytes(patched(Kdump(machine="sparc64").build(), 424, "<I", 0x8 | FLAGS["zlib"]))
    assert (result.judgement, kinds(result)) == ("damaged", {"incomplete"})
    assert result.unsupported


def test_a_path_that_is_not_a_file_is_a_usage_error(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo", tmp_path / "absent", Path("/dev/null"), Path("nul\0")):
        with pytest.raises(UsageError):
            inspect(path)


def test_much_damage_is_counted_and_not_listed(inspect_bytes):
    dump = Kdump(pages={pfn: text_page(pfn) for pfn in range(60)})
    data = dump.build()
    result = inspect_bytes(data[: table_at(data)] + bytes(60 * 24) + data[table_at(data) + 60 * 24 :])
    assert [damage.message for damage in result.damage if "more" in damage.message] == ["40 more of kind descriptor"]


def test_memory_stays_small_for_a_tib_guest(tmp_path):
    """A header, bitmaps and descriptors for 2^28 page frames, in a child whose peak can be measured."""
    frames = 1 << 28
    half = frames // 8
    head = bytearray(Kdump(pages={}, max_mapnr=64).build()[: 2 * PAGE])
    struct.pack_into("<I", head, 436, 2 * half // PAGE)
    struct.pack_into("<I", head, 440, frames)
    struct.pack_into("<Q", head, PAGE + 96, frames)
    path = tmp_path / "tib"
    with path.open("wb") as file:
        file.write(head)
        file.seek(2 * PAGE)
        for _ in range(half >> 20):
            file.write(b"\xff" * (1 << 20))
        file.seek(2 * PAGE + half)
        file.write(b"\xff" * (1 << 20))  # a million and more pages dumped, their descriptors are zeros
        file.truncate(2 * PAGE + 2 * half + 24 * (8 << 20) + 4096)
    code = (
        "import re, sys, time; from kdump_harness.vmcore import inspect; started = time.process_time();"
        "quick = inspect(sys.argv[1], quick=True); took_s = time.process_time() - started;"
        "deep = inspect(sys.argv[1]);"
        # Not ru_maxrss: that one counts what the process was before it became this program, which is pytest.
        "peak_kib = re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read()).group(1);"
        "print(took_s, quick.pages_total, deep.pages_kept, peak_kib)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True, cwd=SAMPLES.parents[2]
    )
    took_s, total, kept, resident_kib = answer.stdout.split()
    assert (int(total), int(kept)) == (frames, 8 << 20)
    assert float(took_s) < 5  # some hundredths on an idle machine
    assert int(resident_kib) < 200 * 1024


def test_a_damaged_page_does_not_keep_the_others_from_being_read(tmp_path):
    path = tmp_path / "vmcore"
    path.write_bytes(patched(SOUND, TABLE + 24, "<q", 1 << 50))
    with open_vmcore(path) as vmcore:
        assert vmcore.read_page(3) == text_page(3)
        with pytest.raises(VmcoreError, match="page frame 0x5"):
            vmcore.read_page(5)
