"""Removes the downloads that nobody needs any more, by what lies in the cache alone.

The newest version of an image is the one that guests are made from, so the older ones are superseded; whether the
network has a newer one yet does not matter.
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
from .download import lock, partials, versions
from .state import State, is_held, remove_tree

_FLOCK = struct.Struct("hhqqi4x")  # struct flock of fcntl(2) on 64-bit Linux
_QEMU_LOCKS = (100, 200)  # first byte, and how many: where QEMU marks what it does with an image


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """A file or disk that nobody needs, and whether it was removed."""

    what: str  # its path in the state directory
    size_bytes: int  # that the disk gives to it
    why: str
    kept_because: str = ""  # empty: removed, or would be

    def to_json(self) -> dict[str, Any]:
        """The record as JSON takes it."""
        return asdict(self)


@dataclass(frozen=True)
class _Unwanted:
    path: Path
    why: str
    in_use: str = ""


def prune(
    state: State, catalog: Catalog, patterns: Sequence[str] = ("*",), *, keep: int = 1, dry_run: bool = False
) -> tuple[Pruned, ...]:
    """Remove all but the newest keep versions of each image, what no row names, and unfinished downloads.

    Installed and armed disks that rest on a removed download go with it. Files that people brought stay, and so
    does what is being downloaded or may be in use.
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
    """The directories of the cache that are meant; rows that are gone can be named too."""
    places = sorted(path for path in state.images.iterdir() if path.is_dir())
    known = {*catalog.names, *(place.name for place in places)}
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in known):
            raise UsageError(f"no image matches {pattern!r}, neither in the catalogue nor in the cache")
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
            why = "superseded" if newer else "the newest version, and none is to be kept"
            yield _Unwanted(path, why, _use(path, newer, since_s))
        newer = path


def _use(path: Path, newer: Path | None, since_s: float | None) -> str:
    """Why a version may be in use, or nothing.

    A run takes the newest version that it finds, so this one may be meant by the runs that began before the next
    newer one had its name; one that a guest runs on is locked by QEMU.
    """
    if _is_open(path):
        return "a guest runs on it"
    if since_s is not None and (newer is None or newer.stat().st_ctime >= since_s):
        return "a run that still goes on may have chosen it"
    return ""


def _is_open(image: Path) -> bool:
    """Whether a QEMU has it open, be it behind an overlay; also tells of other users' guests."""
    ask = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, *_QEMU_LOCKS, 0)
    try:
        with image.open("rb") as file:
            kind = _FLOCK.unpack(fcntl.fcntl(file, fcntl.F_OFD_GETLK, ask))[0]
    except OSError:
        return False
    return bool(kind != fcntl.F_UNLCK)


@contextlib.contextmanager
def _alone(place: Path, dry_run: bool) -> Iterator[str]:
    """Keep downloads of this image away meanwhile; yields why that cannot be done, or nothing."""
    busy = "it is being downloaded"
    if dry_run:
        yield busy if is_held(place) else ""
        return
    with contextlib.ExitStack() as stack:
        try:
            locked = stack.enter_context(lock(place, wait=None))
        except PermissionError as error:
            yield f"{error.strerror}: it is another user's"
            return
        yield "" if locked else busy


def _remove(state: State, one: _Unwanted, obstacle: str, dry_run: bool) -> Iterator[Pruned]:
    """Remove a download after the disks that rest on it, so that none is ever left without its base."""
    name = f"images/{one.path.parent.name}/{one.path.name}"
    for disk in state.resting_on(one.path) if not obstacle else ():
        what, size_bytes = f"{disk.parent.name}/{disk.name}", _size_bytes(disk)
        failed = obstacle or ("" if dry_run or remove_tree(disk) else "it cannot be removed")
        yield Pruned(what=what, size_bytes=size_bytes, why=f"it rests on {name}", kept_because=failed)
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
    """What the disk gives to a file, or to all files of a directory."""
    files = [path] if not path.is_dir() else list(path.iterdir())
    return sum(file.lstat().st_blocks * 512 for file in files)
