"""The catalogue of images: one row each, with where it comes from and what is odd about it."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from ..base import tables
from ..base.errors import TableError, UsageError
from .checksums import FORMS

FAMILIES = ("debian", "redhat", "suse")
ARCHES = ("x86_64", "aarch64")
FIRMWARE = ("bios", "uefi")
CPU_LEVELS = (1, 2, 3)  # of x86-64; nothing that is published needs the fourth

_NAME = re.compile(r"[a-z0-9][a-z0-9.+-]*")  # it becomes a directory of the cache and a part of test ids


@dataclass(frozen=True, kw_only=True)
class Build:
    """What a release is made of where it is built from packages instead of downloaded.

    The mirror is not here: it is the one that the host itself is set up with.
    """

    suite: str
    kernel: str
    components: tuple[str, ...] = ("main",)
    updates_suite: str = ""  # empty: the release has none
    security_suite: str = ""
    packages: tuple[str, ...] = ()  # beside what every built disk has


@dataclass(frozen=True, kw_only=True)
class Image:
    """A cloud image: where it is published, how it is verified, and what a guest of it is like."""

    name: str
    family: str
    release: str
    login: str  # the image's own user, by hearsay; the seed makes ours
    arch: str = "x86_64"
    url: str = ""
    file: str = ""  # a glob: the file is looked up in the checksum document (or, if manual, in the cache)
    checksums: str = ""
    checksum_form: str = "lines"
    firmware: tuple[str, ...] = FIRMWARE
    cpu: int = 1  # the x86-64 level that its programs need
    root_filesystem: str = ""  # empty: not known, probe it
    manual: str = ""  # where people get the file from when it is behind a login
    notes: str = ""
    build: Build | None = None

    @property
    def source(self) -> str:
        """Where it comes from, for people."""
        return self.url or self.checksums or self.manual


@dataclass(frozen=True)
class Catalog:
    """All images of one table, in its order."""

    images: tuple[Image, ...]
    path: Path

    def __iter__(self) -> Iterator[Image]:
        return iter(self.images)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all images."""
        return tuple(image.name for image in self.images)

    def find(self, name: str) -> Image:
        """The image of that name; UsageError with near names when there is none."""
        for image in self.images:
            if image.name == name:
                return image
        near = difflib.get_close_matches(name.lower(), self.names, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(self.names)}"
        raise UsageError(f"unknown image {name!r} ({hint})")

    def match(self, globs: Iterable[str]) -> tuple[Image, ...]:
        """The images that any of the globs names, once each, in the catalogue's order; a glob must match something."""
        found: set[str] = set()
        for glob in globs:
            if not set(glob) & set("*?["):
                found.add(self.find(glob).name)
                continue
            names = fnmatch.filter(self.names, glob)
            if not names:
                raise UsageError(f"no image matches {glob!r} (known: {', '.join(self.names)})")
            found.update(names)
        return tuple(image for image in self.images if image.name in found)


def load_catalog(path: Path | None = None) -> Catalog:
    """The images of a table, the one that comes with the harness unless told; TableError names file, row and key."""
    path = path or tables.data_path("images", "catalog.toml")
    images = tables.load_rows(path, "image", Image)
    seen: set[str] = set()
    for image in images:
        fault = "name is there twice" if image.name in seen else _fault(image)
        if fault:
            raise TableError(f"{path.name}: [[image]] {image.name}: {fault}")
        seen.add(image.name)
    return Catalog(images, path)


def _fault(image: Image) -> str | None:
    """What is wrong with a row, starting with the key."""
    if not _NAME.fullmatch(image.name):
        return "name must be lower-case letters, digits, dots, pluses and dashes"
    for key, value, known in (
        ("family", image.family, FAMILIES),
        ("arch", image.arch, ARCHES),
        ("checksum_form", image.checksum_form, tuple(FORMS)),
    ):
        if value not in known:
            return f"{key} must be one of {', '.join(known)}, not {value!r}"
    if not image.firmware or set(image.firmware) - set(FIRMWARE):
        return f"firmware must be a choice of {', '.join(FIRMWARE)}, not {list(image.firmware)}"
    if image.cpu not in CPU_LEVELS:
        return f"cpu must be one of {', '.join(map(str, CPU_LEVELS))}, not {image.cpu}"
    return _source_fault(image)


def _source_fault(image: Image) -> str | None:
    """What is wrong with the keys that say where the file comes from."""
    if "/" in image.file:
        return f"file must be the name of a file, not {image.file!r}"
    if image.manual:
        if image.url or image.checksums:
            return "manual images have no url and no checksums"
        return None if image.file else "missing file (the name that a manual image is expected under)"
    if not image.checksums:
        return "missing checksums (the address of the checksum document)"
    if bool(image.url) == bool(image.file):
        return "url or file must be there, and not both"
    for key, address in (("url", image.url), ("checksums", image.checksums)):
        if address and not _is_web_address(address):
            return f"{key} must be the http or https address of a file, not {address!r}"
    return None


def _is_web_address(address: str) -> bool:
    try:
        parts = urlsplit(address)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and bool(PurePosixPath(parts.path).name)
