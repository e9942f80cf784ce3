"""The peer cache on a worker: finished disks are copied between hosts in checked pieces, with their holes.

The key of an entry is the digest of its inputs, and the scheduler keeps a list of the workers that have it. An overlay
is sent with the name of its backing file, which must exist here; its path is rewritten for this host.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import random
import re
import shutil
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...base import foreign
from ...base.errors import CommandFailed, NoVerdict, UsageError
from ...images.qcow2 import read_references
from ...images.state import OVERLAYS, State, remove_tree
from ...vm.hosts.qemu_img import qemu_img

MIB = 1 << 20
PIECE_BYTES = 4 * MIB
LIMIT_MIB = 32 * 1024  # size of an entry's files without holes
SENDING_MAX = 2  # transfers at once; other peers ask elsewhere or build the disk
CACHES = ("built", "installed", "armed", "modules")
_KEY = re.compile(r"[0-9a-f]{12,64}")
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,60}")
_FILES_MAX = 8
_META_MAX_BYTES = 4 * MIB

Ask = Callable[..., Awaitable[Any]]  # a request to a peer, by the name of its handler


class NoCopy(NoVerdict):
    """An entry that could not be copied from a peer; it is built on this host instead."""


def entries(state: State) -> list[str]:
    """Return CACHE/KEY of the finished entries on this host."""
    return [
        f"{cache}/{path.parent.name}"
        for cache in CACHES
        for path in sorted((state.directory / cache).glob("*/meta.json"))
        if _KEY.fullmatch(path.parent.name)
    ]


class PeerServer:
    """The server of this host's entries."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._sending: dict[str, float] = {}  # deadline of each peer's transfer

    def describe(self, cache: str, key: str, *, by: str, now_s: float) -> dict[str, Any]:
        """Describe the files and meta.json of an entry; empty if missing, busy if other peers are served."""
        directory = self._entry(cache, key)
        if directory is None:
            return {}
        self._sending = {one: until for one, until in self._sending.items() if until > now_s and one != by}
        if len(self._sending) >= SENDING_MAX:
            return {"busy": True}
        self._sending[by] = now_s + 30.0
        meta = json.loads((directory / "meta.json").read_text(encoding="utf-8"))
        files = {
            path.name: path.stat().st_size
            for path in sorted(directory.iterdir())
            if path.name != "meta.json" and path.is_file() and not path.is_symlink()
        }
        return {"meta": json.dumps(meta), "files": files, "base": self._base(meta)}

    def piece(self, cache: str, key: str, file: str, offset: int, *, by: str, now_s: float) -> dict[str, Any]:
        """Return the next bytes of a file that are not a hole; no data at its end."""
        directory = self._entry(cache, key)
        if directory is None or not _FILE.fullmatch(file) or type(offset) is not int or offset < 0:
            return {}
        self._sending[by] = now_s + 30.0
        descriptor = os.open(directory / file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            try:
                start = os.lseek(descriptor, offset, os.SEEK_DATA)
                end = os.lseek(descriptor, start, os.SEEK_HOLE)
            except OSError:
                return {"offset": offset, "data": b"", "sha256": ""}  # only holes from here on
            data = os.pread(descriptor, min(PIECE_BYTES, end - start), start)
        finally:
            os.close(descriptor)
        return {"offset": start, "data": data, "sha256": hashlib.sha256(data).hexdigest()}

    def done(self, by: str) -> None:
        """End the transfer to a peer."""
        self._sending.pop(by, None)

    def _entry(self, cache: object, key: object) -> Path | None:
        if cache not in CACHES or not isinstance(key, str) or not _KEY.fullmatch(key):
            return None
        return self._state.ready(str(cache), key)

    def _base(self, meta: Mapping[str, Any]) -> str:
        """Return the backing file of an overlay relative to the state directory; empty if it has none."""
        base = meta.get("base")
        if not isinstance(base, dict):
            return ""
        try:
            return Path(base["path"]).resolve().relative_to(self._state.directory.resolve()).as_posix()
        except (KeyError, TypeError, ValueError):
            # The cache can be a link to another directory: take the last parts of the path.
            parts = Path(str(base.get("path", ""))).parts[-3:]
            return "/".join(parts) if len(parts) == 3 else ""


@dataclass(frozen=True)
class Copied:
    """The meta.json and size of a copied entry."""

    meta: dict[str, Any]
    data_bytes: int


async def copy_entry(ask: Ask, state: State, cache: str, key: str, *, me: str, limit_mib: int = LIMIT_MIB) -> Copied:
    """Copy an entry from a peer into its unfinished directory. NoCopy, with the directory emptied, on failure."""
    part = state.directory / cache / f"{key}.part"
    try:
        answer = await ask("kdump_entry", cache=cache, key=key, by=me)
        if not answer:
            raise NoCopy("it does not have the entry")
        if answer.get("busy"):
            raise NoCopy("it serves others")
        meta, files, base = _checked(answer)
        data_bytes = 0
        for name, size_bytes in files.items():
            data_bytes += await _copy_file(ask, part / name, cache, key, size_bytes, me, limit_mib * MIB - data_bytes)
        if cache in OVERLAYS:
            meta["base"] = await asyncio.to_thread(_rebase, state, part / "disk.qcow2", meta.get("base"), base)
        with contextlib.suppress(Exception):
            await ask("kdump_entry_done", by=me)
        return Copied(meta, data_bytes)
    except BaseException as error:
        for path in part.iterdir() if part.is_dir() else ():
            remove_tree(path)
        if isinstance(error, NoCopy) or not isinstance(error, Exception):
            raise
        raise NoCopy(f"{type(error).__name__}: {error}") from None


def _checked(answer: Any) -> tuple[dict[str, Any], dict[str, int], str]:
    """Return meta.json, file sizes and backing file from a peer's answer. NoCopy if it is invalid."""
    try:
        text, files, base = answer["meta"], answer["files"], answer["base"]
        if len(text) > _META_MAX_BYTES or not 0 < len(files) <= _FILES_MAX or not isinstance(base, str):
            raise ValueError
        meta = foreign.parse_object(text)
        if not meta:
            raise ValueError
        for name, size_bytes in files.items():
            if not _FILE.fullmatch(name) or name == "meta.json" or type(size_bytes) is not int or size_bytes < 0:
                raise ValueError
    except (KeyError, TypeError, ValueError, AttributeError):
        raise NoCopy("its answer is invalid") from None
    return meta, dict(files), base


async def _copy_file(ask: Ask, path: Path, cache: str, key: str, size_bytes: int, me: str, limit_bytes: int) -> int:
    """Copy one file with its holes and return the number of data bytes."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    done = offset = 0
    try:
        os.ftruncate(descriptor, size_bytes)
        while offset < size_bytes:
            answer = await ask("kdump_piece", cache=cache, key=key, file=path.name, offset=offset, by=me)
            if not answer:
                raise NoCopy("its entry is gone")
            data, start = answer["data"], answer["offset"]
            if not data:
                break
            if type(start) is not int or start < offset or start + len(data) > size_bytes or len(data) > PIECE_BYTES:
                raise NoCopy("it sent a piece outside the file")
            if hashlib.sha256(data).hexdigest() != answer["sha256"]:
                raise NoCopy("a piece was damaged in transfer")
            done += len(data)
            free_bytes = shutil.disk_usage(path.parent).free
            if done > limit_bytes or free_bytes < 512 * MIB + len(data):
                raise NoCopy(f"not enough space for more than {done // MIB} MiB")
            await asyncio.to_thread(_write, descriptor, data, start)
            offset = start + len(data)
        path.chmod(0o644)
    finally:
        os.close(descriptor)
    return done


def _write(descriptor: int, data: bytes, offset: int) -> None:
    rest = memoryview(data)
    while rest:
        written = os.pwrite(descriptor, rest, offset)
        rest, offset = rest[written:], offset + written


def _rebase(state: State, disk: Path, old: object, base: str) -> dict[str, Any]:
    """Set a copied overlay's backing file and return its row for meta.json. NoCopy if it is not an overlay."""
    parts = base.split("/")
    if not isinstance(old, dict) or len(parts) != 3 or parts[0] not in ("images", *CACHES):
        raise NoCopy("it does not name the backing file of its overlay")
    here = state.directory / base
    if ".." in parts or not here.is_file():
        raise NoCopy("the backing file of its overlay is missing on this host")
    # A data file would be read as a file of this host; the name of the backing file is replaced.
    try:
        plain = read_references(disk).data_file is None
    except UsageError:
        plain = False
    if not plain:
        raise NoCopy("its disk is not a plain overlay")
    kind = "raw" if here.suffix == ".raw" else "qcow2"
    _qemu_img("rebase", "-u", "-f", "qcow2", "-F", kind, "-b", str(here), str(disk))
    return {**old, "path": str(here), "format": kind}


def _qemu_img(*arguments: str) -> str:
    try:
        return qemu_img(*arguments)
    except CommandFailed as error:
        raise NoCopy(str(error)[:200]) from None


def shuffled(holders: Mapping[str, Any] | None, me: str) -> list[str]:
    """Return the other holders of an entry in random order, to spread simultaneous requests."""
    others = [address for address in (holders or {}) if address != me]
    random.shuffle(others)
    return others
