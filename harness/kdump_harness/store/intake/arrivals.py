"""Read a directory that untrusted senders write to: no link is followed, no device opened, depth is limited."""

from __future__ import annotations

import contextlib
import fnmatch
import functools
import itertools
import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from ...base.errors import UsageError
from ...distro.family import load_families
from ...vmcore.formats.elf import SIGNATURE as ELF_SIGNATURE
from ...vmcore.formats.kdump import SIGNATURE as KDUMP_SIGNATURE
from ...vmcore.formats.source import FLAT_SIGNATURE
from ...vmcore.vmcore import SAVED_STATES

_MAX_DEPTH = 6
_MAX_NAMES = 20_000  # in one directory
_MAX_DIRECTORIES = 20_000
_MAX_COMPANION_BYTES = 1 << 16
_SIGNATURES = (KDUMP_SIGNATURE, FLAT_SIGNATURE, ELF_SIGNATURE, *SAVED_STATES)
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_KINDS = {
    stat.S_IFLNK: "a symbolic link", stat.S_IFDIR: "a directory", stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class WatchedDirectory:
    """One directory, held open, so that it cannot become another one meanwhile."""

    path: Path  # for people; no access goes by it
    descriptor: int
    names: Sequence[str] = field(repr=False)

    def status(self, name: str) -> os.stat_result:
        """Return the status of the entry itself, not of the file that it points to."""
        return os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)

    def open(self, name: str) -> int:
        """Open a regular file of this directory for reading. Raise UsageError for anything else."""
        before = self.status(name)
        if not stat.S_ISREG(before.st_mode):  # asked first, since opening alone makes some devices do something
            raise UsageError(f"not a regular file but {_KINDS.get(stat.S_IFMT(before.st_mode), 'something else')}")
        descriptor = os.open(name, _OPEN, dir_fd=self.descriptor)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise UsageError("it was exchanged while it was opened")
        return descriptor

    def unlink(self, name: str) -> None:
        """Remove a file of this directory."""
        os.unlink(name, dir_fd=self.descriptor)

    def text(self, name: str) -> str | None:
        """Return the beginning of a small file, or None where it does not exist."""
        try:
            descriptor = self.open(name)
        except (OSError, UsageError):
            return None
        try:
            return os.pread(descriptor, _MAX_COMPANION_BYTES, 0).decode("utf-8", "replace")
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def place_of(path: Path) -> Iterator[tuple[WatchedDirectory, str]]:
    """Split a path that the user named into an open directory and the file's name in it."""
    try:
        descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise UsageError(f"{shown(path)} cannot be read ({error.strerror})") from None
    try:
        yield WatchedDirectory(path=path.parent, descriptor=descriptor, names=os.listdir(descriptor)), path.name
    finally:
        os.close(descriptor)


def walk(top: Path) -> Iterator[WatchedDirectory]:
    """Yield the directory and those below it, as far as they can be entered without following a link."""
    try:
        descriptor = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise UsageError(f"{shown(top)} cannot be read ({error.strerror})") from None
    yield from itertools.islice(_walk(top, descriptor, depth=0), _MAX_DIRECTORIES)


def _walk(path: Path, descriptor: int, *, depth: int) -> Iterator[WatchedDirectory]:
    try:
        with os.scandir(descriptor) as entries:
            found = list(itertools.islice(entries, _MAX_NAMES))
        found.sort(key=lambda entry: entry.name)
        yield WatchedDirectory(path=path, descriptor=descriptor, names=[entry.name for entry in found])
        for entry in found if depth < _MAX_DEPTH else ():
            with contextlib.suppress(OSError):  # gone, now a link, or not readable
                if entry.is_dir(follow_symlinks=False):
                    below = os.open(entry.name, _OPEN | os.O_DIRECTORY, dir_fd=descriptor)
                    yield from _walk(path / entry.name, below, depth=depth + 1)
    finally:
        os.close(descriptor)


def shown(path: Path | str) -> str:
    """Return a name in a form that can be printed, for any bytes in it."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


@dataclass(frozen=True, kw_only=True)
class _Names:
    """The families' names of finished and of unfinished dumps."""

    finished: re.Pattern[str]
    unfinished: re.Pattern[str]
    companions: tuple[tuple[str, re.Pattern[str]], ...]


@functools.cache
def _names() -> _Names:
    families = load_families().values()
    dumps = [each.dumps for family in families for each in (family, *(driven for _, driven in family.releases))]
    return _Names(
        finished=_any(pattern for each in dumps for pattern in each.finished),
        unfinished=_any(pattern for each in dumps for pattern in each.unfinished),
        companions=tuple({each.companion: re.compile(each.refuted) for each in dumps if each.companion}.items()),
    )


def _any(patterns: Iterator[str]) -> re.Pattern[str]:
    """Compile patterns for a file's own name; the sender chooses the names of the directories."""
    return re.compile("|".join(fnmatch.translate(name) for name in {PurePosixPath(text).name for text in patterns}))


def is_candidate(place: WatchedDirectory, name: str) -> bool:
    """Return whether this may be a dump, by its name or by how it begins; not when it cannot be looked at."""
    try:
        mode = place.status(name).st_mode
    except OSError:
        return False
    if _names().finished.fullmatch(name) or _names().unfinished.fullmatch(name):
        return not stat.S_ISDIR(mode)
    if not stat.S_ISREG(mode):
        return False
    try:
        descriptor = place.open(name)
    except (OSError, UsageError):
        return False
    try:
        return os.pread(descriptor, 16, 0).startswith(_SIGNATURES)
    finally:
        os.close(descriptor)


def unfinished_sign(place: WatchedDirectory, name: str) -> str | None:
    """Return the sign that the sender has not finished the file, or None."""
    if _names().unfinished.fullmatch(name):
        return "its name is that of an unfinished dump"
    for companion, refuted in _names().companions:
        if companion in place.names and (text := place.text(companion)) is not None:
            if not text.strip():
                return f"{companion} is empty"
            if match := refuted.search(text):
                return f"{companion}: {shown(match.group().strip())}"
    return None


# Files that the kdump services write next to a dump. Sources: kdump.sh, kdump-config, kdump-save.
_BESIDE = re.compile(r"(?:vmcore-dmesg|dmesg|README)(?:\.txt)?|kexec-dmesg\.log")


def beside(place: WatchedDirectory, dump: str) -> list[str]:
    """Return the small files that belong to a dump; Debian's dump.STAMP, also dump.STAMP.gz, has a dmesg.STAMP."""
    stamped = f"dmesg.{dump.removeprefix('dump.').partition('.')[0]}" if dump.startswith("dump.") else ""
    return [name for name in place.names if _BESIDE.fullmatch(name) or name == stamped]
