"""The userland of a kernel drill: busybox, kexec and makedumpfile with their libraries, from packages or files."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.dynamic import DynamicSegment
from elftools.elf.elffile import ELFFile
from elftools.elf.segments import InterpSegment

from ..base.errors import UsageError
from ..base.progress import Progress
from ..base.tables import package_path
from ..distro.architecture import Architecture, find_architecture
from ..images.archive import Archive, digest, known_suite
from ..images.state import State
from .initramfs import Entry

DEFAULT_SUITE = "trixie"
# The package and the places of each program.
PROGRAMS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "busybox": ("busybox-static", ("bin/busybox", "usr/bin/busybox")),
    "kexec": ("kexec-tools", ("sbin/kexec", "usr/sbin/kexec")),
    "makedumpfile": ("makedumpfile", ("usr/bin/makedumpfile", "bin/makedumpfile")),
}
_LIBRARIES = ("lib", "lib64", "usr/lib", "usr/lib64")


@dataclass(frozen=True, kw_only=True)
class Userland:
    """The programs of a kernel drill, by name, and what they need."""

    entries: tuple[Entry, ...]
    key: str
    suite: str = ""


@dataclass(frozen=True, kw_only=True)
class UserlandRequest:
    """The suite of the userland, and files or suites that replace single programs of it."""

    suite: str = ""  # empty: that of the architecture
    instead: Mapping[str, str] = field(default_factory=dict)
    architecture: Architecture = field(default_factory=lambda: find_architecture("amd64"))


def check_userland(request: UserlandRequest) -> None:
    """Raise UsageError for a suite that is not known; a missing file may still be built."""
    for suite in filter(None, (request.suite, *request.instead.values())):
        if not Path(suite).expanduser().is_file() and not suite.startswith((".", "/", "~")):
            known_suite(suite)


def make_userland(request: UserlandRequest, state: State, progress: Progress) -> Userland:
    """Return the userland; its packages are downloaded once for each version."""
    # The init needs applets that Debian 11's busybox lacks (base64); it is static, so its suite does not matter.
    usual = {"busybox": request.architecture.userland}
    suites = {
        program: request.instead.get(program) or usual.get(program) or request.suite or request.architecture.userland
        for program in PROGRAMS
    }
    roots: dict[str, Path] = {}
    entries: dict[str, Entry] = {}
    for program, (_, places) in PROGRAMS.items():
        wanted = request.instead.get(program, "")
        if wanted and Path(wanted).expanduser().is_file():
            file, root = Path(wanted).expanduser(), Path("/")
        elif wanted.startswith((".", "/", "~")):
            raise UsageError(f"{wanted} does not exist")
        else:
            suite = suites[program]
            if suite not in roots:
                packages = [package for name, (package, _) in PROGRAMS.items() if suites[name] == suite]
                roots[suite] = _unpacked(suite, packages, request.architecture, state, progress)
            root = roots[suite]
            file = next((path for place in places if (path := root / place).is_file()), root / places[0])
        wanted_entries = list(_with_libraries(program, file, root))
        if any(_differ(entries.get(entry.path), entry) for entry in wanted_entries):
            wanted_entries = _apart(program, wanted_entries)
        entries.update((entry.path, entry) for entry in wanted_entries)
    init = Entry(path="init", content=package_path("kernel", "init"))
    files = (*entries.values(), init)
    key = hashlib.sha256(b"".join(hashlib.sha256(_content(entry)).digest() for entry in files)).hexdigest()[:16]
    return Userland(entries=files, key=key, suite=request.suite)


def _content(entry: Entry) -> bytes:
    return entry.content if isinstance(entry.content, bytes) else entry.content.read_bytes()


def _differ(one: Entry | None, other: Entry) -> bool:
    return one is not None and one != other and _content(one) != _content(other)


def _apart(program: str, entries: list[Entry]) -> list[Entry]:
    """Return a program with its libraries in a separate directory, for programs of several suites in one userland.

    The path of the loader is fixed in a program, so a script calls the loader.
    """
    place = f"opt/{program}"
    moved = [replace(entry, path=f"{place}/{Path(entry.path).name}") for entry in entries]
    loader = next(entry.path for entry in moved if Path(entry.path).name.startswith("ld"))
    script = f'#!/bin/busybox sh\nexec /{loader} --library-path /{place} /{place}/{program} "$@"\n'
    return [*moved, Entry(path=f"bin/{program}", content=script.encode())]


def _unpacked(suite: str, names: list[str], architecture: Architecture, state: State, progress: Progress) -> Path:
    archive = Archive(suite, state, progress, architecture=architecture.name)
    packages = archive.closure(*names)

    def make(part: Path) -> dict[str, object]:
        archive.unpack(packages, part / "root", what=f"the userland of {suite}")
        return {"packages": [vars(one) for one in packages], "suite": suite}

    key = digest(packages)
    return state.make_once("userlands", key, make, report=progress.say, what=f"the userland of {suite}") / "root"


def _with_libraries(program: str, file: Path, root: Path) -> Iterator[Entry]:
    """Return the program as bin/PROGRAM, and the libraries that it needs, found below the root.

    Raises UsageError for a file that is not a program, and for a library that is missing.
    """
    yield Entry(path=f"bin/{program}", content=file)
    known: dict[str, Path] = {}
    waiting = [file]
    while waiting:
        current = waiting.pop()
        loader, needed = _needs(current)
        if loader:
            yield Entry(path=loader.lstrip("/"), content=_find(root, Path(loader).name, current))
        for name in needed:
            if name not in known:
                known[name] = _find(root, name, current)
                waiting.append(known[name])
                yield Entry(path=f"lib/{name}", content=known[name])


def _needs(file: Path) -> tuple[str, list[str]]:
    """Return the loader and the libraries that an ELF file names."""
    try:
        with file.open("rb") as stream:
            elf = ELFFile(stream)
            loader, needed = "", []
            for segment in elf.iter_segments():
                if isinstance(segment, InterpSegment):
                    loader = segment.get_interp_name()
                elif isinstance(segment, DynamicSegment):
                    needed += [tag.needed for tag in segment.iter_tags("DT_NEEDED")]  # type: ignore[attr-defined]
            return loader, needed
    except ELFError:
        raise UsageError(f"{file} is not a program: it is not an ELF file") from None
    except OSError as error:
        raise UsageError(f"{file} cannot be read ({error.strerror})") from None


def _find(root: Path, name: str, user: Path) -> Path:
    for place in _LIBRARIES:
        for pattern in (name, f"*-linux-gnu/{name}"):
            for path in sorted((root / place).glob(pattern)):
                if path.exists() and stat.S_ISREG(path.stat().st_mode):
                    return path
    raise UsageError(f"{user} needs the library {name}, which is not below {root}")
