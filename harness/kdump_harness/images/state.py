"""The state directory: caches, private directories of runs, and the leftovers of stale runs."""

from __future__ import annotations

import contextlib
import fcntl
import grp
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base import foreign
from ..base.clock import pause
from ..base.errors import HostError
from ..base.units import MIB
from . import file_access, peer_cache
from .downloaded import brought, partials, versions

STATE_VARIABLE = "KDUMP_HARNESS_STATE"
SHARED = Path("/var/lib/kdump-harness")
GROUP = "libvirt"
STARTING_S = 10.0  # longest time between making a run's directory and locking it
LOOK_EVERY_S = 0.2  # interval between attempts to lock
CACHES = (
    "images", "packages", "built", "installed", "armed", "modules", "debuginfo", "kernels", "userlands",
)  # fmt: skip
_UNFINISHED = {
    "debuginfo": "debug info",
    "modules": "crash module",
    "packages": "package",
}  # entries of other caches are disks
OVERLAYS = ("installed", "armed")  # caches of overlays


def default_directory() -> Path:
    """Return KDUMP_HARNESS_STATE, else the directory of the libvirt group, else one of this user.

    It is not below the home directory, which QEMU's user cannot enter.
    """
    if named := os.environ.get(STATE_VARIABLE):
        return Path(named).absolute()
    if os.access(SHARED, os.W_OK) or (not SHARED.exists() and os.access(SHARED.parent, os.W_OK)):
        return SHARED
    return Path(f"/var/tmp/kdump-harness-{os.getuid()}")


@dataclass(frozen=True)
class Leftover:
    """A leftover of a stale run, and the function that removes it."""

    what: str
    remove: Callable[[], bool]


def require_space(directory: Path, need_mib: int, what: str, *, option: str) -> None:
    """Raise HostError if a directory has too little disk space; OPTION chooses another directory."""
    free_mib = shutil.disk_usage(directory).free // MIB
    if free_mib < need_mib:
        raise HostError(
            f"not enough disk space in {directory} for {what}: {need_mib} MiB needed, {free_mib} MiB free"
            f" (free some, or choose another directory with {option} DIR)"
        )


class State:
    """The directory of disks between and during runs."""

    def __init__(self, directory: Path | None = None) -> None:
        """Create missing directories; HostError if the state directory is not writable."""
        self.directory = directory.absolute() if directory is not None else default_directory()
        try:
            fresh = not self.directory.exists()
            self.directory.mkdir(parents=True, exist_ok=True)
            if fresh and os.getuid() == 0:
                _share(self.directory)
            for name in (*CACHES, "runs"):
                part = self.directory / name
                if not part.exists():
                    part.mkdir(exist_ok=True)
                    with contextlib.suppress(PermissionError):
                        part.chmod(0o2775)
            if not os.access(self.directory / "runs", os.W_OK):
                raise PermissionError(13, "no write permission")
        except OSError as error:
            raise HostError(
                f"cannot use the state directory {self.directory}: {error.strerror}"
                f" (choose another with --state DIR or {STATE_VARIABLE})"
            ) from None

    @property
    def images(self) -> Path:
        """The directory of downloads."""
        return self.directory / "images"

    def free_mib(self) -> int:
        """Return the free disk space."""
        return shutil.disk_usage(self.directory).free // MIB

    def require_space(self, need_mib: int, what: str) -> None:
        """Raise HostError if there is too little disk space, before anything is started."""
        require_space(self.directory, need_mib, what, option="--state")

    def ready(self, cache: str, key: str) -> Path | None:
        """Return the directory of a finished cache entry, or None."""
        path = self.directory / cache / key
        return path if (path / "meta.json").exists() else None

    def metas(self, cache: str) -> list[dict[str, Any]]:
        """Return the metadata of the finished entries of a cache."""
        found = []
        for path in sorted((self.directory / cache).glob("*/meta.json")):
            with contextlib.suppress(OSError, ValueError):
                found.append(foreign.parse_object(path.read_text(encoding="utf-8")))
        return found

    def make_once(
        self, cache: str, key: str, make: Callable[[Path], dict[str, Any]], *, report: Callable[[str], None], what: str
    ) -> Path:
        """Return the directory of a cache entry, made now unless it exists; other processes wait and use it.

        MAKE fills a private directory and returns the content of meta.json. Only a finished directory gets its name.
        """
        if done := self.ready(cache, key):
            return done
        final = self.directory / cache / key
        with locked(
            final.with_name(f"{key}.lock"), lambda: report(f"waiting for another process that is making {what}")
        ):
            if done := self.ready(cache, key):
                return done
            part = final.with_name(f"{key}.part")
            try:
                remove_tree(part)  # of a killed process
                part.mkdir()
                part.chmod(0o755)
                meta = peer_cache.bring(cache, key, report) or make(part)
                (part / "meta.json").write_text(json.dumps(meta, indent=1, default=str) + "\n", encoding="utf-8")
                remove_tree(final)
                part.rename(final)
            except OSError as error:
                remove_tree(part)
                raise HostError(f"cannot make {what} in {final.parent}: {error.strerror or error}") from error
            except BaseException:
                remove_tree(part)
                raise
        return final

    @contextlib.contextmanager
    def starting(self) -> Iterator[None]:
        """Within the block, no other thread and no other run with this state starts a guest."""
        with locked(self.directory / "starting.lock", lambda: None):
            yield

    @contextlib.contextmanager
    def run(self) -> Iterator[RunDirectory]:
        """Provide a private directory for a run, removed at its end; its lock marks the run as active."""
        while True:
            identity = secrets.token_hex(3)
            path = self.directory / "runs" / identity
            try:
                path.mkdir()
                break
            except FileExistsError:
                continue
        path.chmod(0o711)  # QEMU's user must reach the disks, but does not need to list them
        lock = _open_lock(path / "lock")
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield RunDirectory(identity, path)
        finally:
            remove_tree(path)
            os.close(lock)

    def running_since(self) -> float | None:
        """Return the start of the oldest active run, by the system's clock; None without active runs."""
        began = []
        for name in self.active_runs():
            path = self.directory / "runs" / name
            for mark in (path / "lock", path):  # the lock is made at the start and never written to
                with contextlib.suppress(OSError):
                    began.append(mark.stat().st_mtime)
                    break
        return min(began, default=None)

    def stale_runs(self) -> dict[str, Path]:
        """Return the directories of stale runs, by identity."""
        return {path.name: path for path in sorted((self.directory / "runs").iterdir()) if not _is_active(path)}

    def active_runs(self) -> frozenset[str]:
        """Return the identities of the active runs."""
        return frozenset(path.name for path in (self.directory / "runs").iterdir() if _is_active(path))

    def leftovers(self) -> list[Leftover]:
        """Return the directories of stale runs and the unfinished cache entries."""
        found = [
            Leftover(f"files of the stale run {name}", lambda path=path: file_access.undo(path) and remove_tree(path))  # type: ignore[misc]
            for name, path in self.stale_runs().items()
        ]
        for cache in CACHES[1:]:
            for part in sorted((self.directory / cache).glob("*.part")):
                if not _held(part.with_suffix(".lock")):
                    what = _UNFINISHED.get(cache, f"{cache} disk")
                    found.append(Leftover(f"unfinished {what} {part.stem}", lambda path=part: remove_tree(path)))  # type: ignore[misc]
        return found

    def resting_on(self, base: Path) -> list[Path]:
        """Return the installed and armed disks above a backing file, each before its own backing file."""
        found = []
        for path in sorted(path for cache in OVERLAYS for path in (self.directory / cache).glob("*/meta.json")):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                meta = foreign.parse_object(path.read_text(encoding="utf-8"))
                if os.path.realpath(meta["base"]["path"]) == os.path.realpath(base):
                    found += [*self.resting_on(path.with_name("disk.qcow2")), path.parent]
        return found

    def cached(self) -> list[Leftover]:
        """Return all cache entries that no process is making, without the files that users put there."""
        found = []
        for cache in reversed(CACHES):  # overlays before their backing files
            for path in sorted((self.directory / cache).iterdir()):
                # Lock files stay: a new file would let a process pass another one that waits for the old file.
                lock = path.with_name(f"{path.name.removesuffix('.part')}.lock")
                if path.suffix == ".lock" or _held(lock) or ((path / "lock").exists() and _held(path / "lock")):
                    continue
                remove: Callable[[Path], bool] = remove_tree
                if cache == "images" and path.is_dir() and brought(path):
                    if not (versions(path) or partials(path)):
                        continue
                    remove = _remove_downloads
                found.append(Leftover(f"{cache}/{path.name}", lambda path=path, remove=remove: remove(path)))  # type: ignore[misc]
        return found


def is_held(directory: Path) -> bool:
    """Return whether a process holds the lock in a directory, of any state directory."""
    return _held(directory / "lock")


@dataclass(frozen=True)
class RunDirectory:
    """The private directory of an active run."""

    identity: str
    path: Path


def _share(directory: Path) -> None:
    """Share a directory of root with the libvirt group."""
    with contextlib.suppress(KeyError, PermissionError):
        os.chown(directory, 0, grp.getgrnam(GROUP).gr_gid)
        directory.chmod(0o2775)


def _open_lock(path: Path) -> int:
    """Open a lock file that members of the group can open too."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o664)
    with contextlib.suppress(PermissionError):
        os.fchmod(descriptor, 0o664)
    return descriptor


@contextlib.contextmanager
def locked(path: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold an exclusive lock; call WAITING if another process holds it."""
    descriptor = _open_lock(path)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            _wait_for(descriptor)
        yield
    finally:
        os.close(descriptor)


def _wait_for(descriptor: int) -> None:
    """Try to lock until it works: a thread that waited in the kernel could not be cancelled."""
    while True:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        pause(LOOK_EVERY_S)


def _held(path: Path) -> bool:
    """Return whether a process holds the lock."""
    try:
        # Read access is enough for a lock, and all that another user may have.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except PermissionError:
        return True  # another user's run, which must not count as stale
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)


def _is_active(run: Path) -> bool:
    """Return whether a run is active; a run that has just begun may not have its lock yet."""
    if _held(run / "lock"):
        return True
    with contextlib.suppress(OSError):
        return not (run / "lock").exists() and time.time() - run.stat().st_mtime < STARTING_S
    return False


def _remove_downloads(place: Path) -> bool:
    """Remove the downloads, but not users' files; return whether all downloads are gone."""
    for path in (*versions(place), *partials(place)):
        remove_tree(path)
    return not (versions(place) or partials(place))


def remove_tree(path: Path) -> bool:
    """Remove a directory or file, if it exists; return whether it is gone (it may be another user's)."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()
    return not path.is_symlink() and not path.exists()
