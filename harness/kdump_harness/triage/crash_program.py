"""The crash utility: that of a Debian suite, unpacked on this host, or a program of the user or of this host."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..base.errors import HarnessError, HostError, UsageError
from ..base.progress import Progress
from ..images.archive import Archive, digest, known_suite
from ..images.catalog import load_catalog
from ..images.state import State

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_LOADERS = ("ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1")
# Reads the kernels of all suites that are older.
DEFAULT_SUITE = "trixie"
_VERSION = re.compile(r"^crash (\d\S*)", re.MULTILINE)
_VERSION_TIMEOUT_S = 60


class NoCrash(HostError):
    """No crash utility was found; the message names the places that were searched."""


@dataclass(frozen=True, kw_only=True)
class CrashProgram:
    """A crash utility that runs on this host."""

    command: tuple[str, ...]
    version: str
    source: str  # "Debian package crash of SUITE", or the path of the program

    def __str__(self) -> str:
        return f"crash {self.version} ({self.source})"


def suite_of(release: str) -> str:
    """Return the Debian suite that a kernel release names (6.12.117+deb13-amd64); empty where it names none."""
    named = re.search(r"[+~](?:deb|bpo)(\d+)", release)
    rows = {row.release: row.build.suite for row in load_catalog() if row.family == "debian" and row.build is not None}
    return rows.get(named[1], "") if named else ""


def is_file_name(asked: str) -> bool:
    """Return whether the user named a file and not a suite."""
    return asked.startswith((".", "~")) or "/" in asked


def check_asked(asked: str) -> None:
    """Raise UsageError for a program that does not exist or a suite that is not known, HostError without any crash."""
    if is_file_name(asked):
        program = Path(asked).expanduser()
        if not (program.is_file() and os.access(program, os.X_OK)):
            raise UsageError(f"{asked} is not a program (expected an executable crash, or a Debian suite)")
    elif asked:
        known_suite(asked)
    elif shutil.which("crash") is None and not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise NoCrash("no crash utility: this host has neither a crash nor an apt that could download it")


def find_program(asked: str, suite: str, state: State, progress: Progress) -> CrashProgram:
    """Return the crash that the user asked for, else that of the dump's distribution, else this host's.

    ASKED is a program, a Debian suite, or empty; SUITE is that of the dump's distribution, or empty if it is unknown.
    A host without crash uses that of the stable suite.
    """
    check_asked(asked)
    if is_file_name(asked):
        return _of_file(Path(asked).expanduser())
    if asked:
        return _of_suite(asked, state, progress)
    own = shutil.which("crash")
    tried = []
    for usable in filter(None, (suite, own, None if suite == DEFAULT_SUITE else DEFAULT_SUITE)):
        try:
            return _of_file(Path(usable)) if usable == own else _of_suite(usable, state, progress)
        except HarnessError as error:
            tried.append(str(error))
    raise NoCrash(f"no crash utility: {'; '.join(tried)} (choose one with --crash-package)")


def _of_file(program: Path) -> CrashProgram:
    return _checked((str(program.absolute()),), str(program))


def _of_suite(suite: str, state: State, progress: Progress) -> CrashProgram:
    """Return the crash of a suite; its packages are downloaded once for each version."""
    machine = os.uname().machine
    architecture = _ARCHITECTURES.get(machine)
    if architecture is None:
        raise NoCrash(f"the packages of {suite} are not used on this host ({machine})")
    archive = Archive(suite, state, progress, architecture=architecture)
    packages = archive.closure("crash")

    def make(part: Path) -> dict[str, object]:
        archive.unpack(packages, part / "root", what=f"crash of {suite}")
        shutil.rmtree(part / "root" / "usr" / "share", ignore_errors=True)
        return {"packages": [vars(one) for one in packages], "suite": suite}

    root = state.make_once("userlands", digest(packages), make, report=progress.say, what=f"crash of {suite}") / "root"
    return _checked(_command(root), f"Debian package crash of {suite}")


def _command(root: Path) -> tuple[str, ...]:
    """Return the command that runs an unpacked crash with the loader and the libraries of its suite."""
    loaders = [
        path
        for place in ("lib64", "usr/lib64", "lib", "usr/lib")
        for name in _LOADERS
        for path in (root / place / name, *(root / place).glob(f"*-linux-gnu/{name}"))
        if path.exists()
    ]
    libraries = [str(path) for place in ("lib", "usr/lib") for path in sorted((root / place).glob("*-linux-gnu"))]
    program = root / "usr/bin/crash"
    if not (loaders and libraries and program.is_file()):
        raise NoCrash(f"the package crash in {root} lacks a program or its loader")
    return str(loaders[0]), "--library-path", ":".join(libraries), str(program)


def _checked(command: Sequence[str], source: str) -> CrashProgram:
    """Return the program with its version; NoCrash for a program that is not crash, or does not run."""
    try:
        done = subprocess.run(
            [*command, "-v"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_VERSION_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoCrash(f"{source} does not run: {error}") from None
    version = _VERSION.search(done.stdout)
    if version is None:
        said = (done.stdout + done.stderr).strip().partition("\n")[0][:200]
        raise NoCrash(f"{source} is not crash: its -v says {said!r}")
    return CrashProgram(command=tuple(command), version=version[1], source=source)
