"""The kernel of a kernel drill: its image, modules and configuration, from wherever the user has it."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from ..base.errors import UsageError
from ..base.progress import Progress
from ..distro.architecture import Architecture, find_architecture
from ..distro.kernels import CONFIG_MAX_BYTES, CONFIGS, MODULES, check_config, find_image, release_of
from ..images.archive import Archive, digest, known_suite, unpack_deb, unpack_rpm
from ..images.checksums import digest_of
from ..images.state import State, remove_tree

HOST = "host"  # the word for the kernel that this host runs
_PACKAGE_PARTS = re.compile(r"linux-(?:image|modules|modules-extra|base|binary)-\d\S*")
_PACKAGE_FILES = (".deb", ".rpm")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9+.~_-]*")


@dataclass(frozen=True, kw_only=True)
class KernelFiles:
    """A kernel on this host."""

    asked: str
    image: Path
    release: str
    modules: Path | None
    config: str  # empty where it is not known
    suite: str = ""  # that its package came from

    @property
    def name(self) -> str:
        """Return the name of the kernel's drills: what the user named, without its place."""
        word = re.sub(r"[^A-Za-z0-9.-]+", "-", self.asked.rstrip("/").rpartition("/")[2]).strip("-.")
        return f"kernel-{word or self.release}"[:40]


def not_yet_found(text: str) -> KernelFiles:
    """Return what stands for a kernel until it is built, downloaded or unpacked."""
    return KernelFiles(asked=text, image=Path(), release="", modules=None, config="")


def check_kernel(text: str, architecture: Architecture) -> None:
    """Raise UsageError for a word that is neither a path nor the kernel of a known suite."""
    if text != HOST and not text.endswith(_PACKAGE_FILES) and not _is_path(text):
        known_suite(_suite_and_package(text, architecture)[0])


def _is_path(text: str) -> bool:
    """Return whether a text means a path, also of a file that a build has yet to write."""
    place = Path(text)
    return text.startswith((".", "/", "~")) or place.exists() or (place.parent != Path() and place.parent.exists())


def _suite_and_package(text: str, architecture: Architecture) -> tuple[str, str]:
    """Return the two parts of SUITE, SUITE:PACKAGE or PACKAGE/SUITE; UsageError for another text."""
    if ":" in text:
        suite, package = text.split(":", 1)
    else:
        package, slash, suite = text.rpartition("/")
        package = package if slash else architecture.kernel_package
    if not (_NAME.fullmatch(package) and _NAME.fullmatch(suite)):
        raise UsageError(f"{text!r} does not name a kernel (a file, a directory, SUITE, SUITE:PACKAGE, or {HOST})")
    return suite, package


def find_kernel(text: str, state: State, progress: Progress, architecture: Architecture | None = None) -> KernelFiles:
    """Return the kernel that a user named, for an architecture (amd64 by default).

    That is a file (a kernel image, or .deb and .rpm files with commas between them), a kernel's tree or the directory
    of an installed one, SUITE, PACKAGE/SUITE or SUITE:PACKAGE, or "host". Raises UsageError for everything else, and
    for a kernel without what kdump needs.
    """
    place = Path(text).expanduser()
    architecture = architecture or find_architecture("amd64")
    if text == HOST:
        if not architecture.is_of_host:
            raise UsageError(f"this host does not run a kernel for {architecture.name}")
        found = _of_host()
    elif text.endswith(_PACKAGE_FILES):
        found = _of_package_files(text, state, architecture)
    elif place.is_file():
        release = release_of(place, architecture)
        found = KernelFiles(asked=text, image=place, release=release, modules=None, config="")
    elif place.is_dir():
        found = _of_directory(place.resolve(), str(place.resolve()), architecture)
    elif place.exists():
        raise UsageError(f"{text} is not a kernel: neither a file nor a directory")
    elif _is_path(text):
        raise UsageError(f"{text} does not exist")
    else:
        found = _of_suite(text, state, progress, architecture)
    if found.config:
        check_config(found.config, f"the kernel {found.release}")
    return found


def _of_host() -> KernelFiles:
    release = os.uname().release
    modules = Path("/lib/modules", release)
    for image in (Path(f"/boot/vmlinuz-{release}"), modules / "vmlinuz"):
        if image.is_file():
            if not os.access(image, os.R_OK):
                raise UsageError(f"{image} cannot be read (copy it, or run as root)")
            return KernelFiles(
                asked=HOST,
                image=image,
                release=release,
                modules=modules if modules.is_dir() else None,
                config=_config((Path(f"/boot/config-{release}"), modules / "config")),
            )
    raise UsageError(
        f"this host has no image of the kernel that it runs ({release}): neither in /boot nor in {modules}"
    )


def _of_directory(place: Path, asked: str, architecture: Architecture) -> KernelFiles:
    """Return the kernel of a built tree, or of a directory that has boot and lib/modules."""
    if not os.access(place, os.R_OK | os.X_OK):
        raise UsageError(f"{place} cannot be read (no permission)")
    image = find_image(place, architecture)
    if image is None:
        word = architecture.images[0]
        raise UsageError(f"{place} has no kernel: expected {architecture.built_image}, {word} or boot/{word}-RELEASE")
    release = release_of(image, architecture)
    built = place if (place / "modules.order").exists() or (place / "modules.builtin").exists() else None
    modules = next((path for name in MODULES if (path := place / name / release).is_dir()), built)
    return KernelFiles(
        asked=asked,
        image=image,
        release=release,
        modules=modules,
        config=_config(place / name.format(release=release) for name in CONFIGS),
    )


def _config(paths: Iterable[Path]) -> str:
    """Return the first readable configuration; empty without one."""
    for path in paths:
        if path.is_file() and os.access(path, os.R_OK) and path.stat().st_size <= CONFIG_MAX_BYTES:
            return path.read_text(encoding="utf-8", errors="replace")
    return ""


def _of_package_files(text: str, state: State, architecture: Architecture) -> KernelFiles:
    """Return the kernel of package files, unpacked once."""
    places = [Path(part).expanduser() for part in text.split(",")]
    for place in places:
        if not place.is_file():
            raise UsageError(f"{place} does not exist")
    key = hashlib.sha256(" ".join(digest_of(place, "sha256").hexdigest for place in places).encode()).hexdigest()[:16]

    def make(part: Path) -> dict[str, object]:
        for place in places:
            (unpack_rpm if place.suffix == ".rpm" else unpack_deb)(place, part / "root")
        _unpacked(part / "root", architecture, asked=text)  # a package without a kernel is not kept
        return {"files": list(map(str, places))}

    directory = state.make_once("kernels", key, make, report=lambda _line: None, what=f"the kernel of {text}")
    return _unpacked(directory / "root", architecture, asked=text)


def _of_suite(text: str, state: State, progress: Progress, architecture: Architecture) -> KernelFiles:
    """Return the kernel of a suite, downloaded once for each version."""
    suite, package = _suite_and_package(text, architecture)
    archive = Archive(suite, state, progress, architecture=architecture.name)
    parts = tuple(part for part in archive.closure(package) if _PACKAGE_PARTS.fullmatch(part.name))
    if not parts:
        raise UsageError(f"{package} of {suite} is not a kernel: it brings no linux-image-RELEASE")

    def make(part: Path) -> dict[str, object]:
        archive.unpack(parts, part / "root", what=f"{package} of {suite}")
        _keep_kernel_only(part / "root")
        _unpacked(part / "root", architecture, asked=text)
        return {"packages": [vars(one) for one in parts], "suite": suite}

    directory = state.make_once("kernels", digest(parts), make, report=progress.say, what=f"{package} of {suite}")
    return replace(_unpacked(directory / "root", architecture, asked=text), suite=suite)


def _keep_kernel_only(root: Path) -> None:
    for path in root.iterdir():
        if path.name not in ("boot", "lib", "usr"):
            remove_tree(path)
    shutil.rmtree(root / "usr" / "share", ignore_errors=True)


def _unpacked(root: Path, architecture: Architecture, *, asked: str) -> KernelFiles:
    """Return the kernel of unpacked packages, whose files lie in /boot or, since Debian 14, in /usr/lib/modules."""
    images = [
        path
        for word in architecture.images
        for pattern in (f"boot/{word}-*", f"usr/lib/modules/*/{word}", f"lib/modules/*/{word}")
        for path in sorted(root.glob(pattern))
        if path.is_file()
    ]
    if not images:
        raise UsageError(f"{asked} is not a kernel: its packages have no {architecture.images[0]}")
    release = release_of(images[0], architecture)
    modules = next((path for name in MODULES if (path := root / name / release).is_dir()), None)
    config = _config((root / f"boot/config-{release}", *((modules / "config",) if modules else ())))
    return KernelFiles(asked=asked, image=images[0], release=release, modules=modules, config=config)
