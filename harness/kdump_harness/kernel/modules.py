"""The modules that a kernel drill needs, from a directory of modules, in the order of their loading."""

from __future__ import annotations

import lzma
import re
import zlib
from pathlib import Path

import zstandard

from ..base.errors import UsageError

# The drivers of the disk that the vmcore is written to.
NEEDED = ("virtio_pci", "virtio_blk")
_SUFFIX = re.compile(r"\.ko(\.(?:gz|xz|zst))?$")
_DEPENDS = re.compile(rb"(?:^|\0)depends=([^\0]*)\0")


class Modules:
    """The modules of one kernel."""

    def __init__(self, directory: Path | None) -> None:
        """Find the modules; without a directory, a kernel counts as having each driver built in."""
        self._unknown_is_built_in = directory is None
        self._files: dict[str, Path] = {}
        self._built_in: frozenset[str] = frozenset()
        if directory is None:
            return
        for path in directory.rglob("*.ko*"):
            if _SUFFIX.search(path.name):
                self._files[_name(path.name)] = path
        listed = directory / "modules.builtin"
        if listed.exists():
            self._built_in = frozenset(_name(Path(line).name) for line in listed.read_text().splitlines())

    def closure(self, wanted: tuple[str, ...]) -> dict[str, bytes]:
        """Return the content of the wanted modules and of those that they depend on, each after its dependencies.

        Raises UsageError for a module that the kernel lacks.
        """
        found: dict[str, bytes] = {}

        def add(name: str) -> None:
            if name in found or name in self._built_in:
                return
            if name not in self._files:
                if self._unknown_is_built_in:
                    return
                raise UsageError(f"the kernel lacks the driver {name}: neither built in nor among its modules")
            content = unpack(self._files[name])
            depends = _DEPENDS.search(content)
            for needed in depends.group(1).decode().split(",") if depends else []:
                if needed:
                    add(_name(needed))
            found[name] = content

        for name in wanted:
            add(_name(name))
        return found


def _name(file: str) -> str:
    """Return the name of a module, in which dashes are underscores."""
    return _SUFFIX.sub("", file).replace("-", "_")


def unpack(path: Path) -> bytes:
    """Return the content of a module, decompressed; UsageError where it is damaged."""
    packed = path.read_bytes()
    try:
        match path.suffix:
            case ".xz":
                return lzma.decompress(packed)
            case ".gz":
                return zlib.decompress(packed, wbits=31)
            case ".zst":
                return zstandard.ZstdDecompressor().decompressobj().decompress(packed)
    except (lzma.LZMAError, zlib.error, zstandard.ZstdError) as error:
        raise UsageError(f"{path} is damaged: {error}") from None
    return packed
