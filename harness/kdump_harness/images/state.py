"""The state directory: caches that are made once, private directories of runs, and what dead runs left behind."""

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

from ..base.clock import pause
from ..base.errors import HostError
from ..base.units import MIB
from . import peer_cache
from .download import brought, partials, versions

STATE_VARIABLE = "KDUMP_HARNESS_STATE"
SHARED = Path("/var/lib/kdump-harness")
GROUP = "libvirt"
STARTING_S = 10.0  # between making a run's directory and locking it
LOOK_EVERY_S = 0.2  # of who waits for a lock
CACHES = ("images", "packages", "built", "installed", "armed", "modules", "debuginfo")
_UNFINISHED = {"debuginfo": "debug info", "modules": "crash module", "packages": "package"}  # else a disk
OVERLAYS = ("installed", "armed")  # of these caches, what has only the difference from a base


def default_directory() -> Path:
    """KDUMP_HARNESS_STATE, else the directory that setup shares with the libvirt group, else one of the user's own.

    Not below the home directory: QEMU runs as a user of its own, which cannot enter there.
    """
    if named := os.environ.get(STATE_VARIABLE):
        return Path(named).absolute()
    if os.access(SHARED, os.W_OK) or (not SHARED.exists() and os.access(SHARED.parent, os.W_OK)):
        return SHARED
    return Path(f"/var/tmp/kdump-harness-{os.getuid()}")


@dataclass(frozen=True)
class Leftover:
    """Something that a dead run left, and how to remove it."""

    what: str
    remove: Callable[[], bool]


def require_space(directory: Path, need_mib: int, what: str, *, option: str) -> None:
    """HostError when a directory has too little room; option is how to choose another."""
    free_mib = shutil.disk_usage(directory).free // MIB
    if free_mib < need_mib:
        raise HostError(
            f"{directory} needs {need_mib} MiB for {what}, {free_mib} MiB are free"
            f" (free some, or choose another place with {option} DIR)"
        )


class State:
    """Where disks live between and during runs."""

    def __init__(self, directory: Path | None = None) -> None:
        """Create what is missing; HostError when the place cannot be written."""
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
                raise PermissionError(13, "no permission to write there")
        except OSError as error:
            raise HostError(
                f"the state directory {self.directory} cannot be used: {error.strerror}"
                f" (choose another with --state DIR or {STATE_VARIABLE})"
            ) from None

    @property
    def images(self) -> Path:
        """The cache of downloads."""
        return self.directory / "images"

    def free_mib(self) -> int:
        """The room that is left on the disk."""
        return shutil.disk_usage(self.directory).free // MIB

    def require_space(self, need_mib: int, what: str) -> None:
        """HostError, before anything is started, when there is too little room."""
        require_space(self.directory, need_mib, what, option="--state")

    def ready(self, cache: str, key: str) -> Path | None:
        """The finished directory of a cache entry, if there is one."""
        path = self.directory / cache / key
        return path if (path / "meta.json").exists() else None

    def metas(self, cache: str) -> list[dict[str, Any]]:
        """What the finished entries of a cache were made from."""
        found = []
        for path in sorted((self.directory / cache).glob("*/meta.json")):
            with contextlib.suppress(OSError, ValueError):
                found.append(json.loads(path.read_text(encoding="utf-8")))
        return found

    def make_once(
        self, cache: str, key: str, make: Callable[[Path], dict[str, Any]], *, report: Callable[[str], None], what: str
    ) -> Path:
        """The directory of a cache entry, made now unless it is there; other processes wait and then use it.

        make fills a private directory and returns what meta.json shall hold; only a finished one gets its name.
        """
        if done := self.ready(cache, key):
            return done
        final = self.directory / cache / key
        with _locked(final.with_name(f"{key}.lock"), lambda: report(f"waiting for somebody else who is making {what}")):
            if done := self.ready(cache, key):
                return done
            part = final.with_name(f"{key}.part")
            try:
                remove_tree(part)  # of a process that died
                part.mkdir()
                part.chmod(0o755)
                meta = peer_cache.bring(cache, key, report) or make(part)
                (part / "meta.json").write_text(json.dumps(meta, indent=1, default=str) + "\n", encoding="utf-8")
                remove_tree(final)
                part.rename(final)
            except OSError as error:
                remove_tree(part)
                raise HostError(f"{what} cannot be made in {final.parent}: {error.strerror or error}") from error
            except BaseException:
                remove_tree(part)
                raise
        return final

    @contextlib.contextmanager
    def starting(self) -> Iterator[None]:
        """Within the block nobody else starts a guest, be it a thread of ours or another run with this state."""
        with _locked(self.directory / "starting.lock", lambda: None):
            yield

    @contextlib.contextmanager
    def run(self) -> Iterator[RunDirectory]:
        """A private directory for one run, removed at its end; a lock in it tells the living from the dead."""
        while True:
            identity = secrets.token_hex(3)
            path = self.directory / "runs" / identity
            try:
                path.mkdir()
                break
            except FileExistsError:
                continue
        path.chmod(0o711)  # QEMU's user must reach the disks, but nobody needs to list them
        lock = _open_lock(path / "lock")
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield RunDirectory(identity, path)
        finally:
            remove_tree(path)
            os.close(lock)

    def running_since(self) -> float | None:
        """When the oldest of the runs that go on began, by the system's clock; None when there is none."""
        began = []
        for name in self.active_runs():
            path = self.directory / "runs" / name
            for mark in (path / "lock", path):  # the lock is made at once, and never written to
                with contextlib.suppress(OSError):
                    began.append(mark.stat().st_mtime)
                    break
        return min(began, default=None)

    def stale_runs(self) -> dict[str, Path]:
        """Run directories whose process is gone, by identity."""
        return {path.name: path for path in sorted((self.directory / "runs").iterdir()) if not _lives(path)}

    def active_runs(self) -> frozenset[str]:
        """Identities of the runs that go on."""
        return frozenset(path.name for path in (self.directory / "runs").iterdir() if _lives(path))

    def leftovers(self) -> list[Leftover]:
        """Directories of dead runs and unfinished cache entries."""
        found = [
            Leftover(f"files of the dead run {name}", lambda path=path: remove_tree(path))  # type: ignore[misc]
            for name, path in self.stale_runs().items()
        ]
        for cache in CACHES[1:]:
            for part in sorted((self.directory / cache).glob("*.part")):
                if not _held(part.with_suffix(".lock")):
                    what = _UNFINISHED.get(cache, f"{cache} disk")
                    found.append(Leftover(f"unfinished {what} {part.stem}", lambda path=part: remove_tree(path)))  # type: ignore[misc]
        return found

    def resting_on(self, base: Path) -> list[Path]:
        """The installed and armed disks that read from this file, be it through one another; each before its base."""
        found = []
        for path in sorted(path for cache in OVERLAYS for path in (self.directory / cache).glob("*/meta.json")):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                meta = json.loads(path.read_text(encoding="utf-8"))
                if os.path.realpath(meta["base"]["path"]) == os.path.realpath(base):
                    found += [*self.resting_on(path.with_name("disk.qcow2")), path.parent]
        return found

    def cached(self) -> list[Leftover]:
        """Everything in the caches that no process is making; what people put there themselves is not meant."""
        found = []
        for cache in reversed(CACHES):  # what is based on something goes before it
            for path in sorted((self.directory / cache).iterdir()):
                # Lock files stay: a process that waits for one must not be overtaken by one that makes it anew.
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
    """Whether a living process holds the lock in this directory, whatever state directory it belongs to."""
    return _held(directory / "lock")


@dataclass(frozen=True)
class RunDirectory:
    """The private directory of a living run."""

    identity: str
    path: Path


def _share(directory: Path) -> None:
    """Let the members of libvirt's group use what root made."""
    with contextlib.suppress(KeyError, PermissionError):
        os.chown(directory, 0, grp.getgrnam(GROUP).gr_gid)
        directory.chmod(0o2775)


def _open_lock(path: Path) -> int:
    """A lock file that members of the group can open too."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o664)
    with contextlib.suppress(PermissionError):
        os.fchmod(descriptor, 0o664)
    return descriptor


@contextlib.contextmanager
def _locked(path: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold an exclusive lock; waiting is called when somebody else has it."""
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
    """Ask for the lock again and again: a thread that waited for it in the kernel could not be told to end."""
    while True:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        pause(LOOK_EVERY_S)


def _held(path: Path) -> bool:
    """Whether a living process holds the lock."""
    try:
        # Reading is enough for a lock, and all that another user may do with it.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except PermissionError:
        return True  # somebody else's, so it is not for us to call it dead
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


def _lives(run: Path) -> bool:
    """Whether the process of a run lives; one that has just begun may not have its lock yet."""
    if _held(run / "lock"):
        return True
    with contextlib.suppress(OSError):
        return not (run / "lock").exists() and time.time() - run.stat().st_mtime < STARTING_S
    return False


def _remove_downloads(place: Path) -> bool:
    """Remove what was downloaded and leave what people put beside it; whether all of it is gone."""
    for path in (*versions(place), *partials(place)):
        remove_tree(path)
    return not (versions(place) or partials(place))


def remove_tree(path: Path) -> bool:
    """Remove a directory or file, if it is there; whether it is gone (it may be another user's)."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()
    return not path.is_symlink() and not path.exists()
