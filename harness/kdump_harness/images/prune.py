"""The removal of superseded downloads, decided by the content of the cache alone.

Guests are made from the newest version of an image, so older ones are superseded, even if a newer version is published.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ..base.errors import UsageError
from .catalog import Catalog, Image
from .download import lock
from .downloaded import partials, versions
from .state import State, is_held, remove_tree

_FLOCK = struct.Struct("hhqqi4x")  # struct flock of fcntl(2) on 64-bit Linux
_QEMU_LOCKS = (100, 200)  # first byte and number of bytes where QEMU marks its use of an image


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """A superseded file or disk, and whether it was removed."""

    what: str  # path in the state directory
    size_bytes: int  # allocated size
    why: str
    kept_because: str = ""  # empty if removed (or, in a dry run, removable)

    def to_json(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class _Unwanted:
    path: Path
    why: str
    in_use: str = ""


def prune(
    state: State, catalog: Catalog, patterns: Sequence[str] = ("*",), *, keep: int = 1, dry_run: bool = False
) -> tuple[Pruned, ...]:
    """Remove all but the newest KEEP versions of each image, images without a row, and unfinished downloads.

    Installed and armed disks above a removed download are removed too. Files of users, downloads in progress and files
    that may be in use stay.
    """
    places = _places(state, catalog, patterns)
    since_s = state.running_since()
    rows = {image.name: image for image in catalog}
    found: list[Pruned] = []
    for place in places:
        unwanted = list(_unwanted(place, rows.get(place.name), keep, since_s))
        if not unwanted:
            continue
        with _alone(place, dry_run) as obstacle:
            for one in unwanted:
                found += _remove(state, one, obstacle or one.in_use, dry_run)
    return tuple(found)


def _places(state: State, catalog: Catalog, patterns: Sequence[str]) -> list[Path]:
    """Return the selected directories of the cache, also of images without a row."""
    places = sorted(path for path in state.images.iterdir() if path.is_dir())
    known = {*catalog.names, *(place.name for place in places)}
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in known):
            raise UsageError(f"no image in the catalogue or the cache matches {pattern!r}")
    return [place for place in places if any(fnmatchcase(place.name, pattern) for pattern in patterns)]


def _unwanted(place: Path, image: Image | None, keep: int, since_s: float | None) -> Iterator[_Unwanted]:
    if image is not None and image.manual:
        return
    yield from (_Unwanted(path, "an unfinished download") for path in partials(place))
    newer: Path | None = None
    for number, path in enumerate(versions(place)):
        if image is None:
            yield _Unwanted(path, "the catalogue has no image of this name", _use(path, newer, since_s))
        elif number >= keep:
            why = "superseded" if newer else "the newest version, with none to be kept"
            yield _Unwanted(path, why, _use(path, newer, since_s))
        newer = path


def _use(path: Path, newer: Path | None, since_s: float | None) -> str:
    """Return why a version may be in use, or an empty string.

    A run uses the newest version that it finds, so an active run may use this one if it began before the next newer
    version was complete. QEMU locks the version of a running guest.
    """
    if _is_open(path):
        return "a guest uses it"
    if since_s is not None and (newer is None or newer.stat().st_ctime >= since_s):
        return "an active run may use it"
    return ""


def _is_open(image: Path) -> bool:
    """Return whether a QEMU has an image open, also as a backing file and for guests of other users."""
    ask = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, *_QEMU_LOCKS, 0)
    try:
        with image.open("rb") as file:
            kind = _FLOCK.unpack(fcntl.fcntl(file, fcntl.F_OFD_GETLK, ask))[0]
    except OSError:
        return False
    return bool(kind != fcntl.F_UNLCK)


@contextlib.contextmanager
def _alone(place: Path, dry_run: bool) -> Iterator[str]:
    """Lock the image against downloads; yield why that is impossible, or an empty string."""
    busy = "it is being downloaded"
    if dry_run:
        yield busy if is_held(place) else ""
        return
    with contextlib.ExitStack() as resources:
        try:
            locked = resources.enter_context(lock(place, wait=None))
        except PermissionError as error:
            yield f"{error.strerror}: it belongs to another user"
            return
        yield "" if locked else busy


def _remove(state: State, one: _Unwanted, obstacle: str, dry_run: bool) -> Iterator[Pruned]:
    """Remove a download after the disks above it, so that no overlay is left without its backing file."""
    name = f"images/{one.path.parent.name}/{one.path.name}"
    for disk in state.resting_on(one.path) if not obstacle else ():
        what, size_bytes = f"{disk.parent.name}/{disk.name}", _size_bytes(disk)
        failed = obstacle or ("" if dry_run or remove_tree(disk) else "it cannot be removed")
        yield Pruned(what=what, size_bytes=size_bytes, why=f"its backing file is {name}", kept_because=failed)
        if failed:
            obstacle = f"{what} cannot be removed"
    size_bytes = _size_bytes(one.path)
    if not obstacle and not dry_run:
        try:
            one.path.unlink()
        except OSError as error:
            obstacle = str(error.strerror)
    yield Pruned(what=name, size_bytes=size_bytes, why=one.why, kept_because=obstacle)


def _size_bytes(path: Path) -> int:
    """Return the allocated size of a file, or of all files in a directory."""
    files = [path] if not path.is_dir() else list(path.iterdir())
    return sum(file.lstat().st_blocks * 512 for file in files)
