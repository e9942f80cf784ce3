"""The kernel's records among the variables of UEFI, in the file that holds them on the host.

Formats: the authenticated variables of EDK II (VariableFormat.h), and the names that Linux gives to records
(drivers/firmware/efi/efi-pstore.c).
"""

from __future__ import annotations

import re
import struct
import uuid
from collections.abc import Iterator

from .pstore import PstoreRecord, unpacked

_VOLUME = struct.Struct("<32xQ4sIH")  # length, signature, attributes and length of the header
_STORE = struct.Struct("<16sIBB6x")  # signature, size, format, state
_STORE_SIGNATURE = uuid.UUID("aaf32c78-947b-439a-a180-2e144ec37792").bytes_le
_VARIABLE = struct.Struct("<HBxIQ16xIII16s")  # start, state, attributes, count, key, sizes of name and data, vendor
_START, _ADDED = 0x55AA, 0x3F
_LINUX = uuid.UUID("cfc8fc79-be2e-4ddc-97f0-9f98bfe298a0").bytes_le  # LINUX_EFI_CRASH_GUID
_NAME = re.compile(r"dump-type0-(\d{1,9})-\d{1,9}-(\d{1,12})-[CD]")


def read_variables(flash: bytes) -> list[PstoreRecord]:
    """Return the records of the kernel's log among the variables, the newest part of each panic first."""
    found = sorted(_records(flash))
    return [PstoreRecord(number=number, text=text) for number, (_, _, text) in enumerate(found)]


def _records(flash: bytes) -> Iterator[tuple[int, int, str]]:
    """Yield time, part and text of each record."""
    for name, data in _variables(flash):
        if found := _NAME.fullmatch(name):
            yield int(found[2]), int(found[1]), unpacked(data)


def _variables(flash: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield name and data of each variable of Linux."""
    if len(flash) < _VOLUME.size:
        return
    _, signature, _, begin = _VOLUME.unpack_from(flash)
    if signature != b"_FVH" or begin + _STORE.size > len(flash):
        return
    store, size, _, _ = _STORE.unpack_from(flash, begin)
    if store != _STORE_SIGNATURE:
        return
    end, at = min(len(flash), begin + size), begin + _STORE.size
    while at + _VARIABLE.size <= end:
        start, state, _, _, _, name_bytes, data_bytes, vendor = _VARIABLE.unpack_from(flash, at)
        name_at = at + _VARIABLE.size
        data_at = name_at + name_bytes
        at = (data_at + data_bytes + 3) & ~3
        if start != _START or at > end:
            return
        if state == _ADDED and vendor == _LINUX:
            name = flash[name_at:data_at].decode("utf-16-le", "replace").rstrip("\0")
            yield name, flash[data_at : data_at + data_bytes]
