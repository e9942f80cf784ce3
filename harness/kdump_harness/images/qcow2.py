"""The files that a qcow2 image names, read without opening any of them: qemu-img would open them to describe them."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..base.errors import UsageError

MAGIC = b"QFI\xfb"
_HEADER = struct.Struct(">4sIQI")  # magic, version, offset and length of the name of the backing file
_EXTENSION = struct.Struct(">II")
_BACKING_FORMAT, _DATA_FILE = 0xE2792ACA, 0x44415441
_INCOMPATIBLE, _EXTERNAL_DATA = 72, 1 << 2
_HEADER_LENGTH = 100
_V2_BYTES = 72
_MAX_HEADER_BYTES = 1 << 21  # the largest cluster
_MAX_NAME = 1023
_MAX_LAYERS = 32


@dataclass(frozen=True, kw_only=True)
class References:
    """The names in the header of an image, as they are written there."""

    backing: str | None
    backing_format: str | None
    data_file: str | None  # empty where the header says that there is one, and has no name


def read_references(path: Path) -> References:
    """Return the references of a qcow2 image. Raise UsageError for a header that is damaged."""
    try:
        with path.open("rb") as file:
            head = file.read(_MAX_HEADER_BYTES)
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror})") from None
    try:
        return _parse(head)
    except (struct.error, ValueError) as error:
        raise UsageError(f"{path} is a damaged qcow2 image (its header: {error})") from None


def _parse(head: bytes) -> References:
    magic, version, name_at, name_length = _HEADER.unpack_from(head)
    if magic != MAGIC or version not in (2, 3):
        raise ValueError(f"version {version}")
    if name_at and not (name_length <= _MAX_NAME and name_at + name_length <= len(head)):
        raise ValueError("the name of the backing file lies outside")
    features, length = 0, _V2_BYTES
    if version == 3:
        (features,) = struct.unpack_from(">Q", head, _INCOMPATIBLE)
        (length,) = struct.unpack_from(">I", head, _HEADER_LENGTH)
    extensions = _extensions(head, length, name_at or len(head))
    data_file = extensions.get(_DATA_FILE)
    return References(
        backing=_text(head[name_at : name_at + name_length]) if name_at and name_length else None,
        backing_format=_text(extensions[_BACKING_FORMAT]) if _BACKING_FORMAT in extensions else None,
        data_file=_text(data_file or b"") if features & _EXTERNAL_DATA or data_file is not None else None,
    )


def _extensions(head: bytes, at: int, end: int) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    while at + _EXTENSION.size <= end:
        kind, length = _EXTENSION.unpack_from(head, at)
        if kind == 0:
            break
        at += _EXTENSION.size
        if at + length > len(head):
            raise ValueError("an extension lies outside")
        found.setdefault(kind, head[at : at + length])
        at += -(-length // 8) * 8
    return found


def _text(name: bytes) -> str:
    text = name.rstrip(b"\0")
    if b"\0" in text:
        raise ValueError("a name has a NUL byte in it")
    return text.decode("utf-8", "surrogateescape")


def require_named(disk: Path, allowed: Sequence[Path]) -> None:
    """Raise UsageError where a qcow2 image, or one below it, needs a file in none of the allowed directories.

    The maker of the image chose these names, and a guest would read the files with the rights of QEMU.
    """
    named = [directory.resolve() for directory in allowed]
    image = disk.resolve()
    for _ in range(_MAX_LAYERS):
        references = read_references(image)
        if references.data_file is not None:
            raise UsageError(
                f"{image} names an external data file, {references.data_file!r}, which is not followed"
                " (make one file of them: qemu-img convert)"
            )
        name = references.backing
        if name is None:
            return
        if ":" in name.partition("/")[0]:  # a protocol, or options of QEMU
            raise UsageError(
                f"{image} names an address as its backing file, {name!r}, which is not followed"
                " (make one file of them: qemu-img convert)"
            )
        try:
            below = (image.parent / name).resolve()
        except (OSError, RuntimeError):  # too long, or links in a circle
            raise UsageError(f"{image} names a backing file that cannot be found, {name[:100]!r}") from None
        if not any(below.is_relative_to(directory) for directory in named):
            raise UsageError(
                f"{image} names the backing file {below}, which may be any file of this host"
                f" (if it is meant: --allow-backing {below.parent})"
            )
        if not below.is_file():
            raise UsageError(f"{image} names the backing file {below}, which is not a regular file of this host")
        kind = references.backing_format or _probed(below)
        if kind == "raw":
            return
        if kind != "qcow2":
            raise UsageError(f"{image} names a backing file of the format {kind!r}: only raw and qcow2 are followed")
        image = below
    raise UsageError(f"{disk} has more than {_MAX_LAYERS} backing files")


def _probed(path: Path) -> str:
    """Return the format that QEMU would find, where the image above does not name it."""
    try:
        with path.open("rb") as file:
            return "qcow2" if file.read(4) == MAGIC else "raw"
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror})") from None
