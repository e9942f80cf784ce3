"""Records of pstore are read as QEMU's ERST device stores them, and damaged ones harm nothing."""

from __future__ import annotations

import gzip
import random
import struct
import uuid
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from kdump_harness.fallback.erst import STORE_BYTES, read_store
from kdump_harness.fallback.pstore import PstoreRecord, is_part, join_records, unpacked
from kdump_harness.fallback.uefi import read_variables
from kdump_harness.triage.log import read_log

RECORD_BYTES = 8192
CREATOR = uuid.UUID("75a574e3-5052-4b29-8a8e-be2c6490b89d").bytes_le


def deflated(text: str) -> bytes:
    """Return a text as Linux compresses it."""
    engine = zlib.compressobj(wbits=-11)
    return engine.compress(text.encode()) + engine.flush()


def cper(number: int, data: bytes, creator: bytes = CREATOR) -> bytes:
    """Return a record of the Linux kernel with one section."""
    header = struct.pack("<4sHIHIIIQ", b"CPER", 0x101, 0xFFFFFFFF, 1, 3, 0, 200 + len(data), 0)
    header += bytes(32) + creator + bytes(16) + struct.pack("<QIQ12x", number, 0, 0)
    assert len(header) == 128
    return header + struct.pack("<II64x", 200, len(data)) + data


def store(*records: bytes | None) -> bytes:
    """Return a store of QEMU's device with records in its slots; None is an empty one."""
    head = struct.pack("<8sIIHHI", b"ERSTSTOR", RECORD_BYTES, RECORD_BYTES, 0x100, 0, len(records))
    slots = [head, *(record or b"\xff" * RECORD_BYTES for record in records)]
    return b"".join(slot.ljust(RECORD_BYTES, b"\0") for slot in slots).ljust(STORE_BYTES, b"\0")


NEW = "Panic#1 Part1\n<0>[    9.2] Kernel panic - not syncing: sysrq triggered crash\n"
OLD = "Panic#1 Part2\n<6>[    9.0] before it\n<6>[    9.1] nearer\n"


def test_the_records_of_a_panic_are_one_log_in_the_order_of_its_lines() -> None:
    found = read_store(store(None, cper(12, deflated(OLD)), cper(11, deflated(NEW))))
    assert [record.number for record in found] == [11, 12]
    assert join_records(found) == [
        "<6>[    9.0] before it\n<6>[    9.1] nearer\n<0>[    9.2] Kernel panic - not syncing: sysrq triggered crash\n"
    ]


def test_two_panics_are_two_logs() -> None:
    texts = [NEW, OLD, "Panic#1 Part1\nthe capture kernel\n"]
    records = [PstoreRecord(number=number, text=text) for number, text in enumerate(texts)]
    assert [log.splitlines()[-1] for log in join_records(records)] == [NEW.splitlines()[-1], "the capture kernel"]


@pytest.mark.parametrize("data", [OLD.encode(), OLD.encode() + bytes(40), deflated(OLD)])
def test_a_record_is_read_packed_or_not(data: bytes) -> None:
    assert unpacked(data) == OLD
    assert is_part(unpacked(data))


def test_what_is_no_record_of_the_kernel_is_left_out() -> None:
    other = cper(1, deflated(OLD), creator=bytes(16))
    assert read_store(store(other, cper(2, b"\xff" * 40))) == [PstoreRecord(number=2, text="")]
    assert join_records([PstoreRecord(number=1, text=""), PstoreRecord(number=2, text="dmesg of a program")]) == []
    assert not is_part("<6>[    0.0] Linux version")


@pytest.mark.parametrize("bad", [b"", b"ERSTSTOR", bytes(STORE_BYTES), b"\xff" * 4096])
def test_a_store_that_is_empty_or_foreign_has_no_records(bad: bytes) -> None:
    assert read_store(bad) == []


def test_sizes_in_a_record_are_not_believed() -> None:
    record = bytearray(cper(1, deflated(NEW)))
    for offset, length in ((0xFFFFFFFF, 40), (200, 0xFFFFFFFF), (8190, 100), (200, 0)):
        struct.pack_into("<II", record, 128, offset, length)
        assert read_store(store(bytes(record))) == []
    huge = bytearray(store(cper(1, deflated(NEW))))
    struct.pack_into("<I", huge, 8, 0)
    assert read_store(bytes(huge)) == []


def test_a_bomb_is_unpacked_up_to_a_limit() -> None:
    assert len(unpacked(deflated("Panic#1 Part1\n" + "x" * (8 << 20)))) <= 1 << 20


def test_random_damage_raises_nothing() -> None:
    random.seed(19)
    whole = store(cper(1, deflated(NEW)), cper(2, deflated(OLD)))
    for _ in range(200):
        damaged = bytearray(whole)
        for _ in range(20):
            damaged[random.randrange(3 * RECORD_BYTES)] = random.randrange(256)
        join_records(read_store(bytes(damaged)))


# ---------------------------------------------------------------- variables of UEFI

LINUX = uuid.UUID("cfc8fc79-be2e-4ddc-97f0-9f98bfe298a0").bytes_le


def variable(name: str, data: bytes, *, state: int = 0x3F, vendor: bytes = LINUX) -> bytes:
    """Return an authenticated variable of EDK II."""
    encoded = (name + "\0").encode("utf-16-le")
    header = struct.pack("<HBxIQ16xIII", 0x55AA, state, 7, 0, 0, len(encoded), len(data)) + vendor
    assert len(header) == 60
    whole = header + encoded + data
    return whole + b"\xff" * (-len(whole) % 4)


def flash(*variables: bytes) -> bytes:
    """Return the file that holds variables."""
    volume = struct.pack("<32xQ4sIH22x", 0x84000, b"_FVH", 0, 72)
    signature = uuid.UUID("aaf32c78-947b-439a-a180-2e144ec37792").bytes_le
    head = volume.ljust(72, b"\0") + signature + struct.pack("<IBB6x", 0x10000, 0x5A, 0xFE)
    return (head + b"".join(variables)).ljust(0x20000, b"\xff")


def test_the_records_among_the_variables_of_uefi_are_found() -> None:
    found = read_variables(
        flash(
            variable("BootOrder", b"\0\0", vendor=bytes(16)),
            variable("dump-type0-2-1-1790000000-C", deflated(OLD)),
            variable("dump-type0-1-1-1790000000-C", deflated("Panic#1 Part1\nremoved\n"), state=0x3C),
            variable("dump-type0-1-1-1790000000-D", NEW.encode()),
            variable("other", b"x"),
        )
    )
    (log,) = join_records(found)
    assert log.splitlines()[-1] == NEW.splitlines()[-1]
    assert "nearer" in log


@pytest.mark.parametrize("bad", [b"", bytes(0x20000), flash()[:80], b"QFI\xfb" + bytes(4096)])
def test_a_file_without_variables_has_no_records(bad: bytes) -> None:
    assert read_variables(bad) == []


def test_damaged_variables_raise_nothing() -> None:
    random.seed(20)
    whole = flash(*(variable(f"dump-type0-{part}-1-1790000000-C", deflated(OLD)) for part in range(1, 6)))
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(8):
            damaged[random.randrange(1200)] = random.randrange(256)
        join_records(read_variables(bytes(damaged)))


DATA = Path(__file__).parents[1] / "data" / "fallback"


@pytest.mark.parametrize(("name", "read", "count"), [("erst", read_store, 2), ("efi", read_variables, 15)])
def test_the_records_of_a_real_panic_are_read(
    name: str, read: Callable[[bytes], list[PstoreRecord]], count: int
) -> None:
    """The stores were written by Linux 6.12.118 of Debian 13 and by OVMF of Debian 12, in QEMU 7.2."""
    found = read(gzip.decompress((DATA / f"{name}.gz").read_bytes()))
    assert len(found) == count
    (log,) = join_records(found)
    assert "harness: this is crash 0123456789abcdef" in log
    facts = read_log(log)
    assert facts.panic == "Kernel panic - not syncing: sysrq triggered crash"
    assert facts.task is not None
    assert "sysrq_handle_crash+" in " ".join(facts.stack)
    stamps = [float(line.partition("[")[2].partition("]")[0]) for line in log.splitlines() if line.startswith("<")]
    late = [stamp for stamp in stamps if stamp > 1]  # the clock changes before
    assert late == sorted(late)
    assert stamps[0] < 1
