"""Disks from a neighbour: a finished entry of a cache is copied in checked pieces, with its holes, to whoever lacks it.

An entry is known by what it was made from, and whoever has one says so to the scheduler. An overlay comes with the
name of its base, which must be here already; where it lay over there is of no interest, and is written anew.
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
import subprocess
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...base.errors import NoVerdict
from ...images.state import OVERLAYS, State, remove_tree

MIB = 1 << 20
PIECE_BYTES = 4 * MIB
LIMIT_MIB = 32 * 1024  # of an entry's files, without their holes
SENDING_MAX = 2  # at once; others ask somebody else, or make it themselves
CACHES = ("built", "installed", "armed", "modules")
_KEY = re.compile(r"[0-9a-f]{12,64}")
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,60}")
_FILES_MAX = 8
_META_MAX_BYTES = 4 * MIB

Ask = Callable[..., Awaitable[Any]]  # a neighbour, by the name of what is wanted


class NoCopy(NoVerdict):
    """A neighbour's entry could not be copied; it is made here instead."""


def entries(state: State) -> list[str]:
    """CACHE/KEY of what is finished here, and can be copied."""
    return [
        f"{cache}/{path.parent.name}"
        for cache in CACHES
        for path in sorted((state.directory / cache).glob("*/meta.json"))
        if _KEY.fullmatch(path.parent.name)
    ]


class PeerServer:
    """Hands out pieces of this host's entries."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._sending: dict[str, float] = {}  # by whom, until when

    def describe(self, cache: str, key: str, *, by: str, now_s: float) -> dict[str, Any]:
        """The files of an entry and what it was made from; empty when it is not here, busy when others are served."""
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
        """The next bytes of a file that are no hole; without data at its end."""
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
        """The neighbour has all of it."""
        self._sending.pop(by, None)

    def _entry(self, cache: object, key: object) -> Path | None:
        if cache not in CACHES or not isinstance(key, str) or not _KEY.fullmatch(key):
            return None
        return self._state.ready(str(cache), key)

    def _base(self, meta: Mapping[str, Any]) -> str:
        """The base of an overlay, from the state directory on; empty where there is none."""
        base = meta.get("base")
        if not isinstance(base, dict):
            return ""
        try:
            return Path(base["path"]).resolve().relative_to(self._state.directory.resolve()).as_posix()
        except (KeyError, TypeError, ValueError):
            # A cache may be a link to another place; then its entry's own names tell.
            parts = Path(str(base.get("path", ""))).parts[-3:]
            return "/".join(parts) if len(parts) == 3 else ""


@dataclass(frozen=True)
class Copied:
    """What was copied."""

    meta: dict[str, Any]
    data_bytes: int


async def copy_entry(ask: Ask, state: State, cache: str, key: str, *, me: str, limit_mib: int = LIMIT_MIB) -> Copied:
    """Fill the entry's unfinished directory from a neighbour; NoCopy, and it is empty again, when that fails."""
    part = state.directory / cache / f"{key}.part"
    try:
        told = await ask("kdump_entry", cache=cache, key=key, by=me)
        if not told:
            raise NoCopy("it has none")
        if told.get("busy"):
            raise NoCopy("it serves others")
        meta, files, base = _checked(told)
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


def _checked(told: Any) -> tuple[dict[str, Any], dict[str, int], str]:
    """What a neighbour says of its entry, as far as it makes sense."""
    try:
        text, files, base = told["meta"], told["files"], told["base"]
        if len(text) > _META_MAX_BYTES or not 0 < len(files) <= _FILES_MAX or not isinstance(base, str):
            raise ValueError
        meta = json.loads(text)
        if not isinstance(meta, dict) or not meta:
            raise ValueError
        for name, size_bytes in files.items():
            if not _FILE.fullmatch(name) or name == "meta.json" or type(size_bytes) is not int or size_bytes < 0:
                raise ValueError
    except (KeyError, TypeError, ValueError):
        raise NoCopy("its answer makes no sense") from None
    return meta, dict(files), base


async def _copy_file(ask: Ask, path: Path, cache: str, key: str, size_bytes: int, me: str, limit_bytes: int) -> int:
    """Copy one file with its holes; how many bytes are in it."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    done = offset = 0
    try:
        os.ftruncate(descriptor, size_bytes)
        while offset < size_bytes:
            told = await ask("kdump_piece", cache=cache, key=key, file=path.name, offset=offset, by=me)
            if not told:
                raise NoCopy("its entry went away")
            data, start = told["data"], told["offset"]
            if not data:
                break
            if type(start) is not int or start < offset or start + len(data) > size_bytes or len(data) > PIECE_BYTES:
                raise NoCopy("it sent a piece that has no place in the file")
            if hashlib.sha256(data).hexdigest() != told["sha256"]:
                raise NoCopy("a piece was damaged on the way")
            done += len(data)
            free_bytes = shutil.disk_usage(path.parent).free
            if done > limit_bytes or free_bytes < 512 * MIB + len(data):
                raise NoCopy(f"there is no room for more than {done // MIB} MiB")
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
    """Put a copied overlay on this host's base; what its meta.json says of that. NoCopy for anything but an overlay."""
    parts = base.split("/")
    if not isinstance(old, dict) or len(parts) != 3 or parts[0] not in ("images", *CACHES):
        raise NoCopy("it does not say what its overlay rests on")
    here = state.directory / base
    if ".." in parts or not here.is_file():
        raise NoCopy("its overlay rests on a disk that is not here")
    told = _qemu_img("info", "-f", "qcow2", "--output=json", str(disk))
    image = json.loads(told)
    # Anything else that a qcow2 can refer to would be read as a file of this host.
    if "data-file" in json.dumps(image.get("format-specific", {})) or image.get("format") != "qcow2":
        raise NoCopy("its disk is no plain overlay")
    kind = "raw" if here.suffix == ".raw" else "qcow2"
    _qemu_img("rebase", "-u", "-f", "qcow2", "-F", kind, "-b", str(here), str(disk))
    return {**old, "path": str(here), "format": kind}


def _qemu_img(*arguments: str) -> str:
    made = subprocess.run(["qemu-img", *arguments], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        raise NoCopy(f"qemu-img: {made.stderr.strip()[:200]}")
    return made.stdout


def shuffled(holders: Mapping[str, Any] | None, me: str) -> list[str]:
    """The others that have an entry, in an order by which many who ask at once ask different ones."""
    others = [address for address in (holders or {}) if address != me]
    random.shuffle(others)
    return others
