"""The catalogue of images: where each image is published, and its properties."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from ..base import tables
from ..base.errors import TableError, UsageError
from ..configuration import own_tables
from ..distro.architecture import Architecture, architecture_of_machine, load_architectures
from .checksums import FORMS

FIRMWARE = ("bios", "uefi", "slof")
_PUBLISHED = ("bios", "uefi")  # by an image that names none
CPU_LEVELS = (1, 2, 3)  # x86-64 levels; no published image needs level 4

_NAME = re.compile(r"[a-z0-9][a-z0-9.+-]*")  # used for directories of the cache and in test ids


@dataclass(frozen=True, kw_only=True)
class Build:
    """The sources of a release that is built from packages instead of downloaded.

    The mirror is the one of the host's own configuration.
    """

    suite: str
    kernel: str
    components: tuple[str, ...] = ("main",)
    updates_suite: str = ""  # empty if the release has none
    security_suite: str = ""
    packages: tuple[str, ...] = ()  # in addition to those of every built disk


@dataclass(frozen=True, kw_only=True)
class Image:
    """A cloud image: its address, its verification, and the properties of its guests."""

    name: str
    family: str
    release: str
    login: str  # the image's own user, as documented; the seed creates the harness's user
    arch: str = "x86_64"  # as uname -m prints it
    also: tuple[str, ...] = ()  # other architectures, which have the row with their names in place of this one's
    url: str = ""
    file: str = ""  # glob for a file in the checksum document or, if manual, in the cache
    checksums: str = ""
    checksum_form: str = "lines"
    firmware: tuple[str, ...] = _PUBLISHED
    cpu: int = 1  # x86-64 level of its programs
    root_filesystem: str = ""  # empty if unknown
    kernel: str = ""  # the package to install and drill, as --kernel; empty for the image's own kernel
    manual: str = ""  # address where users download a file that needs a login
    notes: str = ""
    build: Build | None = None

    @property
    def architecture(self) -> Architecture:
        """The architecture of its guests."""
        found = architecture_of_machine(self.arch)
        assert found is not None  # the loader has checked it
        return found

    def for_architecture(self, other: Architecture) -> Image:
        """Return the row of the image for another architecture."""
        own = self.architecture

        def named(text: str) -> str:
            return text.replace(own.machine, other.machine).replace(own.name, other.name)

        return replace(
            self,
            name=f"{other.name}-{self.name}",
            arch=other.machine,
            also=(),
            url=named(self.url),
            file=named(self.file),
            checksums=named(self.checksums),
            firmware=other.boot_disk.firmware,
            cpu=1,
        )

    @property
    def source(self) -> str:
        """The address of the image or its checksum document, for display."""
        return self.url or self.checksums or self.manual


@dataclass(frozen=True)
class Catalog:
    """The images of a table, in its order."""

    images: tuple[Image, ...]
    faults: Mapping[str, TableError] = field(default_factory=dict)  # in own rows, by name

    def __iter__(self) -> Iterator[Image]:
        return iter(self.images)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all images."""
        return tuple(image.name for image in self.images)

    def find(self, name: str) -> Image:
        """Return an image by its name; UsageError suggests similar names, TableError is the error of its row."""
        if name in self.faults:
            raise self.faults[name]
        for image in self.images:
            if image.name == name:
                return image
        near = difflib.get_close_matches(name.lower(), self.names, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(self.names)}"
        raise UsageError(f"unknown image {name!r} ({hint})")

    def find_for(self, name: str, architecture: Architecture) -> Image:
        """Return the image NAME for an architecture, which is the row ARCHITECTURE-NAME; UsageError if none."""
        usual = self.find(name)
        if usual.arch == architecture.machine:
            return usual
        prefix = f"{architecture.name}-"
        if (full := prefix + name) not in self.names:
            known = ", ".join(one.removeprefix(prefix) for one in self.names if one.startswith(prefix)) or "none"
            raise UsageError(f"no image {name} for {architecture.name} (known: {known})")
        return self.find(full)

    def match(self, globs: Iterable[str]) -> tuple[Image, ...]:
        """Return the images that match any glob, in the catalogue's order; UsageError for a glob without a match."""
        found: set[str] = set()
        for glob in globs:
            if not set(glob) & set("*?["):
                found.add(self.find(glob).name)
                continue
            names = fnmatch.filter((*self.names, *self.faults), glob)
            for name in names:
                self.find(name)
            if not names:
                raise UsageError(f"no image matches {glob!r} (known: {', '.join(self.names)})")
            found.update(names)
        return tuple(image for image in self.images if image.name in found)


def load_catalog(path: Path | None = None) -> Catalog:
    """Load one table of images, by default those of the harness and of the user; TableError names file, row and key."""
    if path is None:
        ours = _load(tables.data_path("images", "catalog.toml"))
        found = own_tables.merged("image", Image, ours, _fault)
        return Catalog(_with_others(found.rows.values()), found.faults)
    return Catalog(_with_others(_load(path)))


def _with_others(images: Iterable[Image]) -> tuple[Image, ...]:
    """Return the rows, and behind them those of their other architectures."""
    known, rows = load_architectures(), tuple(images)
    return (*rows, *(image.for_architecture(known[name]) for image in rows for name in image.also))


def _load(path: Path) -> tuple[Image, ...]:
    """Load the rows of one table."""
    images = tables.load_rows(path, "image", Image)
    seen: set[str] = set()
    for image in images:
        fault = "name is not unique" if image.name in seen else _fault(image)
        if fault:
            raise TableError(f"{path.name}: [[image]] {image.name}: {fault}")
        seen.add(image.name)
    return images


def _fault(image: Image) -> str | None:
    """Return the error in a row, starting with the key, or None."""
    if not _NAME.fullmatch(image.name):
        return "name must be lower-case letters, digits, dots, pluses and dashes"
    for key, value, known in (
        ("family", image.family, own_tables.family_names()),
        ("arch", image.arch, tuple(one.machine for one in load_architectures().values() if one.disk is not None)),
        *(("also", name, tuple(name for name, one in load_architectures().items() if one.disk)) for name in image.also),
        ("checksum_form", image.checksum_form, tuple(FORMS)),
    ):
        if value not in known:
            return f"{key} must be one of {', '.join(known)}, not {value!r}"
    if image.also and image.build:
        return "also cannot go with build, whose packages are of one architecture"
    if not image.firmware or set(image.firmware) - set(FIRMWARE):
        return f"firmware must be a choice of {', '.join(FIRMWARE)}, not {list(image.firmware)}"
    if image.cpu not in CPU_LEVELS:
        return f"cpu must be one of {', '.join(map(str, CPU_LEVELS))}, not {image.cpu}"
    return _source_fault(image)


def _source_fault(image: Image) -> str | None:
    """Return the error in the keys about the source of the file, or None."""
    if "/" in image.file:
        return f"file must be the name of a file, not {image.file!r}"
    if image.manual:
        if image.url or image.checksums:
            return "manual images have no url and no checksums"
        return None if image.file else "missing file (the name of a manual image in the cache)"
    if not image.checksums:
        return "missing checksums (the address of the checksum document)"
    if bool(image.url) == bool(image.file):
        return "expected either url or file"
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
