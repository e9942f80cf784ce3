"""Packages of a Debian suite, unpacked on this host without being installed."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..base.errors import HostError, UsageError
from ..base.progress import Progress
from ..base.units import MIB
from .apt import Apt, private_apt, require_tools
from .catalog import Image, load_catalog
from .state import State, locked, require_space

INDEX_MAX_AGE_S = 3600.0  # a newer index of a suite is not read again
_INDEX_MIB = 50
_UNPACKED_SHARE = 5  # the size of the unpacked files and of the packages, by that of the packages
_URI = re.compile(r"^'[^']+' (\S+\.deb) (\d+)", re.MULTILINE)
_MISSING = re.compile(r"Depends: (\S+(?: \([^)\n]*\))?) but it is not installable")
_BACKPORTS = re.compile(r"-(backports|updates|security|proposed-updates)$")


@dataclass(frozen=True)
class PackageFile:
    """A package in the version that a suite offers."""

    name: str
    file: str  # NAME_VERSION_ARCHITECTURE.deb
    size_bytes: int


class Archive:
    """The packages of one suite for one architecture."""

    def __init__(self, suite: str, state: State, progress: Progress, *, architecture: str = "amd64") -> None:
        """Raise UsageError for a suite of no known release, HostError for a host without apt."""
        require_tools(f"packages of {suite}", "apt-get", "dpkg-deb")
        self.suite, self._progress = suite, progress
        row = known_suite(suite, architecture)
        assert row.build is not None
        more = () if suite in (row.build.suite, row.build.updates_suite, row.build.security_suite) else (suite,)
        place = state.directory / "userlands" / f"index-{suite}-{architecture}"
        self._select = ("-t", suite) if more else ()
        with locked(place.with_name(f"{place.name}.lock"), lambda: None):
            self._apt: Apt = private_apt(place, row, architecture, more=more)
            self._sources = (place / row.build.suite / "sources.list").read_text(encoding="utf-8")
            self._refresh()

    def _refresh(self) -> None:
        stamp = self._apt.workdir / "read"  # has the sources of the index
        is_new = stamp.exists() and 0 <= time.time() - stamp.stat().st_mtime < INDEX_MAX_AGE_S
        if is_new and stamp.read_text(encoding="utf-8") == self._sources:
            return
        # On a full disk, apt does not end.
        require_space(self._apt.workdir, _INDEX_MIB, f"the index of {self.suite}", option="--state")
        with self._progress.step(f"reading the index of {self.suite}"):
            trouble = self._apt.run("update", progress=self._progress)
        if "E: " not in trouble:
            stamp.write_text(self._sources, encoding="utf-8")
            return
        told = f"the index of {self.suite} cannot be read: {trouble.partition('E: ')[2].partition('; E: ')[0][:300]}"
        if not any(self._apt.workdir.glob(f"*/state/lists/*_dists_{self.suite}_*Release")):
            raise HostError(told)
        self._progress.say(f"{told} (an older one is used)")

    def closure(self, *packages: str) -> tuple[PackageFile, ...]:
        """Return the packages and all that they depend on; UsageError where the suite lacks one.

        The answer is kept as long as the index, since apt needs more than a second for it.
        """
        kept = self._apt.workdir / f"closure-{'+'.join(packages)}.json"
        with contextlib.suppress(OSError, ValueError, TypeError):
            if kept.stat().st_mtime > (self._apt.workdir / "read").stat().st_mtime:
                return tuple(PackageFile(**one) for one in json.loads(kept.read_text(encoding="utf-8")))
        output = self._apt.run(
            "install", "-o", "quiet=1", "--print-uris", "-y", "--no-install-recommends", *self._select, *packages,
            progress=self._progress,
        )  # fmt: skip
        found = [PackageFile(file.split("_")[0], file, int(size)) for file, size in _URI.findall(output)]
        if not found:
            raise UsageError(f"{self.suite} cannot give {' '.join(packages)}: {_why(output)}")
        found.sort(key=lambda package: package.file)
        part = kept.with_name(f"{kept.name}.{os.getpid()}")
        part.write_text(json.dumps([vars(one) for one in found]), encoding="utf-8")
        part.replace(kept)
        return tuple(found)

    def unpack(self, packages: tuple[PackageFile, ...], to: Path, *, what: str) -> None:
        """Download packages and unpack them below a directory."""
        downloads = to.with_name(f"{to.name}-packages")
        downloads.mkdir()
        to.mkdir(exist_ok=True)
        full_bytes = sum(package.size_bytes for package in packages)
        require_space(to.parent, _UNPACKED_SHARE * full_bytes // MIB, what, option="--state")
        apt = Apt(downloads, self._apt.options)
        with self._progress.step(f"downloading {what} ({full_bytes // MIB} MiB)"):
            names = [f"{package.name}={_version(package.file)}" for package in packages]
            output = apt.run("download", *names, progress=self._progress, full_bytes=full_bytes)
        with self._progress.step(f"unpacking {what}"):
            files = sorted(downloads.glob("*.deb"))
            if len(files) < len(packages):
                raise HostError(f"{what} cannot be downloaded from {self.suite}: {output[-300:]}")
            for file in files:
                unpack_deb(file, to, tick=self._progress.tick)
                file.unlink()
        downloads.rmdir()


def _why(output: str) -> str:
    """Return why apt cannot install: the first dependency that is missing, else its own error."""
    if missing := _MISSING.search(output):
        return f"it depends on {missing[1]}, which the suite does not have"
    return output.partition("E: ")[2].split("; ")[0] or "it has no such package"


def unpack_deb(file: Path, to: Path, *, tick: Callable[[], None] = lambda: None) -> None:
    """Unpack the files of a package below a directory.

    Raises UsageError for a file that is not a package, HostError for a full disk.
    """
    _unpack(["dpkg-deb", "--extract", str(file), str(to)], file)
    tick()


def unpack_rpm(file: Path, to: Path) -> None:
    """Unpack the files of an RPM package below a directory; UsageError for another file, HostError without bsdtar."""
    require_tools("the kernel of an .rpm file", "bsdtar")  # of libarchive
    to.mkdir(exist_ok=True)
    _unpack(["bsdtar", "--no-same-owner", "-xf", str(file), "-C", str(to)], file)


def _unpack(command: list[str], file: Path) -> None:
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", env={**os.environ, "LC_ALL": "C"}, check=False
    )
    if done.returncode != 0:
        if (full := os.strerror(errno.ENOSPC)) in done.stderr:
            raise HostError(f"{file} cannot be unpacked: {full} (free some space, or choose another --state DIR)")
        raise UsageError(f"{file} cannot be unpacked: {done.stderr.strip().partition(chr(10))[0]}")


def digest(packages: tuple[PackageFile, ...]) -> str:
    """Return the key of what is made of packages."""
    return hashlib.sha256(repr(sorted(package.file for package in packages)).encode()).hexdigest()[:16]


def _version(file: str) -> str:
    return file.split("_")[1].replace("%3a", ":")


def known_suite(suite: str, architecture: str = "amd64") -> Image:
    """Return the catalogue's row of the release that a suite belongs to; UsageError names the known ones.

    A row for the architecture is preferred: not all have the same suites.
    """
    rows = [row for row in load_catalog() if row.family == "debian" and row.build is not None]
    base = _BACKPORTS.sub("", suite)
    found = [row for row in rows if row.build is not None and row.build.suite == base]
    if not found:
        known = ", ".join(dict.fromkeys(row.build.suite for row in rows if row.build is not None))
        raise UsageError(f"unknown suite {suite!r} (known: {known}, each also with -backports)")
    return next((row for row in found if row.architecture.name == architecture), found[0])
