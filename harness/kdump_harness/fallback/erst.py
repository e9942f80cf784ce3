"""The store of QEMU's ACPI ERST device, a file on the host, and the kernel's records in it.

Formats: docs/specs/acpi_erst.rst of QEMU (the store), appendix N of the UEFI specification (a record), and
drivers/acpi/apei/erst.c of Linux (the one section of a record of pstore).
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Iterator

from .pstore import PstoreRecord, unpacked

STORE_BYTES = 256 << 10  # a panic takes three records, and kernels write up to 10 KiB of log
_HEADER = struct.Struct("<8sIIHHI")  # magic, record size, offset of the first record, version, reserved, count
_MAGIC = b"ERSTSTOR"
_RECORD_HEADER_BYTES = 128
_SECTION = struct.Struct("<II")  # offset and length of the section, at the begin of its descriptor
_RECORD_ID = struct.Struct("<Q")
_RECORD_ID_AT = 96
_CREATOR = slice(64, 80)
_PSTORE = uuid.UUID("75a574e3-5052-4b29-8a8e-be2c6490b89d").bytes_le  # CPER_CREATOR_PSTORE


def read_store(store: bytes) -> list[PstoreRecord]:
    """Return the records of the kernel's log in a store, in the order in which they were written."""
    return sorted(_records(store), key=lambda record: record.number)


def _records(store: bytes) -> Iterator[PstoreRecord]:
    if len(store) < _HEADER.size:
        return
    magic, size, first, *_ = _HEADER.unpack_from(store)
    if magic != _MAGIC or size < _RECORD_HEADER_BYTES + _SECTION.size or first < _HEADER.size:
        return
    for begin in range(first, len(store) - size + 1, size):
        record = store[begin : begin + size]
        if not record.startswith(b"CPER") or record[_CREATOR] != _PSTORE:
            continue
        offset, length = _SECTION.unpack_from(record, _RECORD_HEADER_BYTES)
        if not 0 < length <= size or offset + length > size:
            continue
        (number,) = _RECORD_ID.unpack_from(record, _RECORD_ID_AT)
        yield PstoreRecord(number=number, text=unpacked(record[offset : offset + length]))
