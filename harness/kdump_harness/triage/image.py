"""The kernel that a vmlinux file, or the debug file of a stripped one, belongs to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..base.errors import UsageError
from ..vmcore.formats.damage import VmcoreError
from ..vmcore.formats.machines import ByteOrder, in_both_orders
from ..vmcore.formats.source import PlainFile, read_exactly

_EHDR = in_both_orders("16sHHIQQQIHHHHHH")
_SHDR = in_both_orders("IIQQQQIIQQ")
_NOTE = in_both_orders("III")
_SHT_NOTE, _SHT_NOBITS = 7, 8
_NT_GNU_BUILD_ID = 3
_DWARF = (".debug_info", ".zdebug_info")
_BANNER = b"Linux version "

_MAX_SECTIONS = 1 << 16
_MAX_NAMES_BYTES = 16 << 20
_MAX_NOTES_BYTES = 1 << 20
_MAX_RODATA_BYTES = 64 << 20


class NotAKernel(UsageError):
    """The file is not a vmlinux; the message has the reason."""


@dataclass(frozen=True, kw_only=True)
class VmlinuxImage:
    """The identity of a vmlinux."""

    path: Path
    build_id: str | None
    # "Linux version 6.1.0 ...", where the file has it; since 6.1 a second one that lacks the number of the build.
    banners: tuple[str, ...]
    has_dwarf: bool


@dataclass(frozen=True)
class _Section:
    name: str
    kind: int
    offset: int
    size: int


def read_image(path: Path) -> VmlinuxImage:
    """Read build id and banners. Raise NotAKernel for a file that is not ELF or is damaged."""
    file = PlainFile(path)
    try:
        order = _byte_order(file)
        sections = list(_sections(file, order))
        rodata = next((s for s in sections if s.name == ".rodata" and s.kind != _SHT_NOBITS), None)
        return VmlinuxImage(
            path=path,
            build_id=next((found for s in sections if (found := _build_id(file, s, order))), None),
            banners=tuple(_banners(file, rodata)) if rodata is not None else (),
            has_dwarf=any(s.name in _DWARF and s.kind != _SHT_NOBITS and s.size for s in sections),
        )
    except VmcoreError as error:
        raise NotAKernel(f"{path} is a damaged ELF file: {error}") from None
    finally:
        file.close()


def _byte_order(file: PlainFile) -> ByteOrder:
    head = file.read(0, _EHDR["little"].size)
    orders: dict[bytes, ByteOrder] = {b"\x7fELF\x02\x01\x01": "little", b"\x7fELF\x02\x02\x01": "big"}
    if len(head) < _EHDR["little"].size or head[:7] not in orders:
        raise NotAKernel(f"{file.path} is not a 64-bit ELF file (a packed one must be unpacked first)")
    return orders[head[:7]]


def _sections(file: PlainFile, order: ByteOrder) -> Iterator[_Section]:
    fields = _EHDR[order].unpack(file.read(0, _EHDR[order].size))
    layout = _SHDR[order]
    table_at, entry_bytes, count, names_index = fields[6], fields[11], fields[12], fields[13]
    if entry_bytes != layout.size or not 0 < count <= _MAX_SECTIONS or names_index >= count:
        raise NotAKernel(f"{file.path} is an ELF file without sections, so without debug info")
    raw = read_exactly(file, table_at, count * layout.size, "the section headers")
    headers = list(layout.iter_unpack(raw))
    _, _, _, _, names_at, names_bytes, *_ = headers[names_index]
    if names_bytes > _MAX_NAMES_BYTES:
        raise NotAKernel(f"{file.path} is an ELF file with {names_bytes:,} bytes of section names")
    names = read_exactly(file, names_at, names_bytes, "the names of the sections")
    for name_at, kind, _, _, offset, size, *_ in headers:
        yield _Section(
            names[name_at:].split(b"\0", 1)[0].decode("latin-1") if name_at < names_bytes else "", kind, offset, size
        )


def _build_id(file: PlainFile, section: _Section, order: ByteOrder) -> str | None:
    """Return the GNU build id in a section of notes."""
    if section.kind != _SHT_NOTE or not 0 < section.size <= _MAX_NOTES_BYTES:
        return None
    data = read_exactly(file, section.offset, section.size, f"the section {section.name}")
    at, note = 0, _NOTE[order]
    while at + note.size <= len(data):
        name_bytes, text_bytes, kind = note.unpack_from(data, at)
        name_at = at + note.size
        text_at = name_at + (name_bytes + 3 & ~3)
        if data[name_at : name_at + name_bytes] == b"GNU\0" and kind == _NT_GNU_BUILD_ID:
            return data[text_at : text_at + text_bytes].hex()
        at = text_at + (text_bytes + 3 & ~3)
    return None


def _banners(file: PlainFile, rodata: _Section) -> Iterator[str]:
    data = file.read(rodata.offset, min(rodata.size, _MAX_RODATA_BYTES))
    at = data.find(_BANNER)
    while at >= 0:
        text = data[at : at + 1024].split(b"\0", 1)[0].rstrip(b"\n")
        if not text.startswith(_BANNER + b"%"):  # a format string of the same beginning
            yield text.decode("latin-1")
        at = data.find(_BANNER, at + 1)
