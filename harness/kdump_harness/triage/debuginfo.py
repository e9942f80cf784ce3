"""Find the vmlinux with the debug info of the crashed kernel, and refuse that of any other kernel."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..base.errors import HostError, UsageError
from ..base.progress import Progress
from ..images.state import State, default_directory
from ..vmcore import Vmcore
from . import debian, debuginfod
from .image import VmlinuxImage, read_image

CACHE = "debuginfo"
_DEBUG_ROOT = Path("/usr/lib/debug")
_RELEASE = re.compile(r"[0-9][\w.+~-]*")  # it becomes a part of paths and of package names


class NoDebugInfo(HostError):
    """No debug info of this kernel was found; the message names the places that were searched."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The kernel whose debug info is needed; what the dump does not say, or says impossibly, is empty."""

    release: str
    version: str
    machine: str
    build_id: str
    suite: str = ""  # of Debian, where it is known

    @classmethod
    def of(cls, vmcore: Vmcore) -> Wanted:
        """Return the kernel of a dump."""
        uts = vmcore.utsname
        release, build_id = uts.get("release", ""), vmcore.vmcoreinfo.get("BUILD-ID", "")
        return cls(
            release=release if _RELEASE.fullmatch(release) else "",
            version=uts.get("version", ""),
            machine=vmcore.machine,
            build_id=build_id if re.fullmatch(r"[0-9a-f]{32,64}", build_id) else "",
        )

    def __str__(self) -> str:
        return f"{self.release or 'an unknown kernel'}" + (f" (build id {self.build_id[:12]})" if self.build_id else "")

    @property
    def key(self) -> str:
        """The name in the cache."""
        return self.build_id or re.sub(r"[^\w.+~-]+", "_", f"{self.release}_{self.version}")[:120]

    def mismatch(self, image: VmlinuxImage) -> str | None:
        """Return the reason why the file is not this kernel's, or None when it is."""
        if self.build_id and image.build_id:
            if self.build_id == image.build_id:
                return None
            return f"it has the build id {image.build_id[:12]}, the dump's kernel has {self.build_id[:12]}"
        if image.banners and self.release:
            # The version behind the release distinguishes two builds of one release.
            start = f"Linux version {self.release} "
            if any(text.startswith(start) and text.endswith(self.version) for text in image.banners):
                return None
            return f"it says {image.banners[-1][:60]!a}, the dump is of {self.release} {self.version}"
        return "neither its build id nor its release shows whether it belongs to the dump's kernel"


def find(wanted: Wanted, *, given: Path | None, package: bool | None, state: Path | None, progress: Progress) -> Path:
    """Return a vmlinux of this kernel with debug info; NoDebugInfo names the places that were tried.

    A file that was given must be the right one (UsageError otherwise); a directory is looked through first. package
    is whether Debian's package may be fetched; None where the caller has no such option.
    """
    if given is not None and not given.is_dir():
        return _exactly(given, wanted)
    tried: list[str] = []
    if given is not None:
        found, near = _first(_below(given, wanted), wanted)
        if found is not None:
            return found
        tried += near or [f"not below {given}"]
    cached = (state or default_directory()) / CACHE / wanted.key / "vmlinux"
    found, near = _first([*usual_places(wanted), cached], wanted)
    if found is not None:
        return found
    tried += near or ["not in /usr/lib/debug or another usual place"]
    for way in (_from_debuginfod, _from_package) if package else (_from_debuginfod,):
        try:
            return way(wanted, state, progress)
        except HostError as error:
            tried.append(str(error))
    more = ", or try --debuginfo-package for Debian's" if package is False else ""
    hint = "" if package else f" (give a vmlinux with --debuginfo PATH{more})"
    raise NoDebugInfo(f"no debug info for {wanted}: {'; '.join(tried)}{hint}")


def check_given(given: Path) -> None:
    """Raise UsageError, before any work is done, for a path of debug info that does not exist or is not a vmlinux."""
    if not given.exists():
        raise UsageError(f"{given}: the file or directory with debug info does not exist")
    if not given.is_dir():
        read_image(given)


def _exactly(path: Path, wanted: Wanted) -> Path:
    image = read_image(path)
    if why := wanted.mismatch(image):
        raise UsageError(f"{path} is not the kernel of the dump: {why}")
    if not image.has_dwarf:
        raise UsageError(f"{path} has no debug info (it is stripped; the distribution has it in another package)")
    return path


def _first(candidates: list[Path], wanted: Wanted) -> tuple[Path | None, list[str]]:
    """Return the first file that belongs to the kernel, and why those before it do not."""
    near: list[str] = []
    for path in dict.fromkeys(candidates):
        with contextlib.suppress(OSError):
            if path.is_file():
                try:
                    return _exactly(path, wanted), near
                except UsageError as error:
                    near.append(str(error))
    return None, near


def _below(root: Path, wanted: Wanted) -> list[Path]:
    """Return the paths of a vmlinux in a directory: alone, in an unpacked package, or by its build id."""
    return [place for base in (root, root / "usr/lib/debug") for place in _layout(base, wanted)]


def _layout(base: Path, wanted: Wanted) -> Iterator[Path]:
    """Yield the places below a root of debug files; Debian's, Fedora's and SUSE's."""
    release = wanted.release
    if wanted.build_id:
        yield base / ".build-id" / wanted.build_id[:2] / f"{wanted.build_id[2:]}.debug"
    if release:
        for suffix in ("", ".debug"):
            yield base / f"boot/vmlinux-{release}{suffix}"
            yield base / f"lib/modules/{release}/vmlinux{suffix}"
            yield base / f"usr/lib/modules/{release}/vmlinux{suffix}"
            yield base / f"vmlinux-{release}{suffix}"
    for name in ("vmlinux", "vmlinux.debug"):
        yield base / name


def usual_places(wanted: Wanted) -> list[Path]:
    """Return the paths at which this system keeps debug info."""
    places = list(_layout(_DEBUG_ROOT, wanted))
    if wanted.release:
        places += [
            Path(f"/lib/modules/{wanted.release}/build/vmlinux"),
            Path(f"/lib/modules/{wanted.release}/vmlinux"),
            Path(f"/boot/vmlinux-{wanted.release}"),
        ]
    if wanted.build_id:
        places.append(_client_cache() / wanted.build_id / "debuginfo")
    return places


def _client_cache() -> Path:
    """Return the download cache of debuginfod's own client (of gdb, of drgn)."""
    if named := os.environ.get("DEBUGINFOD_CACHE_PATH"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "debuginfod_client"


def _from_debuginfod(wanted: Wanted, state: Path | None, progress: Progress) -> Path:
    servers = debuginfod.servers()
    if not servers:
        raise NoDebugInfo(f"{debuginfod.VARIABLE} is not set")
    if not wanted.build_id:
        raise NoDebugInfo("debuginfod cannot be asked, since the dump names no build id")

    def make(part: Path, kept: State) -> str:
        return debuginfod.fetch(
            servers,
            wanted.build_id,
            part / "vmlinux",
            require_space=lambda mib: kept.require_space(mib, f"the debug info of {wanted.release}"),
            progress=progress,
        )

    return _cached(wanted, state, progress, make)


def _from_package(wanted: Wanted, state: Path | None, progress: Progress) -> Path:
    package = debian.package_of(wanted.release, wanted.version, wanted.machine)

    def make(part: Path, kept: State) -> str:
        return debian.fetch(
            package,
            part / "vmlinux",
            workdir=part / "work",
            suite=wanted.suite,
            require_space=lambda mib: kept.require_space(mib, f"{package.name} and the vmlinux in it"),
            progress=progress,
        )

    return _cached(wanted, state, progress, make)


def _cached(wanted: Wanted, state: Path | None, progress: Progress, make: Callable[[Path, State], str]) -> Path:
    """Return the vmlinux that make brings into the cache; one that belongs to another kernel does not get there."""
    kept = State(state)

    def checked(part: Path) -> dict[str, str]:
        source = make(part, kept)
        try:
            _exactly(part / "vmlinux", wanted)
        except UsageError as error:
            raise NoDebugInfo(f"{source} cannot be used: {error}") from None
        return {"release": wanted.release, "build_id": wanted.build_id, "source": source}

    what = f"the debug info of {wanted.release}"
    return kept.make_once(CACHE, wanted.key, checked, report=progress.say, what=what) / "vmlinux"
