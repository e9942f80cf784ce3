"""One archive with all that is known of a crash, and the checksums of every part."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ... import __version__
from ...base.errors import HostError, UsageError
from ...redaction.texts import kinds, redact_json
from .. import describe
from ..index import Dump
from ..intake.arrivals import shown
from ..intake.copying import sha256_of
from ..intake.examine import LOG_NAME
from ..patterns import seen_before
from ..remote import SourceMachine
from ..store import SENDERS, VMCORE, Store
from . import filtering
from .collect import collect, items

SCHEMA = 1
_MAX_TEXT_BYTES = 64 << 20
# A filtered dump is the kernel's memory all the same.
_IN_VMCORE = "the vmcore holds the kernel's own memory: its log, its command line, names of files and tasks, its keys"
_IN_TEXTS = "secrets in forms that no rule knows may be in any text"


@dataclass(frozen=True, kw_only=True)
class Request:
    """The planned content of the archive."""

    to: Path
    with_vmcore: bool = True
    redacted: bool = False
    machine: SourceMachine | None = None  # the one that crashed, where it can be asked
    change: str | None = None  # a file's name or a text
    attach: Sequence[Path] = ()


def make_bundle(store: Store, dump: Dump, request: Request) -> dict[str, Any]:
    """Write the archive and return its manifest; nothing is left behind when that fails."""
    if request.to.exists():
        raise UsageError(f"{request.to} is there already")
    for path in request.attach:
        if [other.name for other in request.attach].count(path.name) > 1:
            raise UsageError(f"two attached files are called {path.name}")
        if path.exists() and path.stat().st_size > _MAX_TEXT_BYTES:
            raise UsageError(f"{path} is larger than {_MAX_TEXT_BYTES:,} bytes, the most that a text may have")
    try:
        descriptor, name = tempfile.mkstemp(dir=request.to.absolute().parent, prefix=f".{request.to.name}.")
        try:
            with store.scratch() as scratch, os.fdopen(descriptor, "wb") as file:
                manifest = _Bundle(store, dump, request, scratch).write(file)
            os.rename(name, request.to)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:
        raise HostError(f"{request.to} cannot be written: {error.strerror}") from None
    return manifest


class _Bundle:
    """An archive while it is made."""

    def __init__(self, store: Store, dump: Dump, request: Request, scratch: Path) -> None:
        self._store, self._dump, self._request, self._scratch = store, dump, request, scratch
        self._place = store.place_of(dump)
        self._top = f"kdump-{dump.id}"
        self._files: list[dict[str, Any]] = []
        self._left_out: list[dict[str, str]] = []

    def write(self, file: io.BufferedWriter) -> dict[str, Any]:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
            self._tar = tar
            vmcore = self._add_vmcore()
            for name, value in self._parts():
                self._add(name, value)
            manifest = {
                "schema": SCHEMA,
                "made_by": f"kdump-harness {__version__}",
                "made_s": int(time.time()),
                "dump": self._redacted_value("manifest.json", self._dump.to_json()),
                "redacted": self._request.redacted,
                "vmcore": vmcore,
                "files": self._files,
                "left_out": self._left_out,
                "looked_for": kinds() if self._request.redacted else [],
                "still_in": self._still_in(with_vmcore=bool(vmcore["file"])),
            }
            sums = {one["name"]: one["sha256"] for one in self._files}
            written = self._put("manifest.json", json.dumps(manifest, indent=1) + "\n")
            sums["manifest.json"] = hashlib.sha256(written).hexdigest()
            self._put("SHA256SUMS", "".join(f"{sha256}  {name}\n" for name, sha256 in sums.items()))
        return manifest

    def _still_in(self, *, with_vmcore: bool) -> list[str]:
        """Return the confidential data that may remain in a redacted bundle."""
        if not self._request.redacted:
            return []
        return [_IN_TEXTS, _IN_VMCORE] if with_vmcore else [_IN_TEXTS]

    def _redacted_value(self, name: str, value: Any) -> Any:
        """Return a text or a record as it may be published."""
        if not self._request.redacted:
            return value
        counts: Counter[str] = Counter()
        value = redact_json(value, counts)
        for what, count in counts.items():
            self._leave_out(f"{what} in {name}", f"{count} times")
        return value

    def _leave_out(self, what: str, why: str) -> None:
        self._left_out.append({"what": what, "why": why})

    def _add_vmcore(self) -> dict[str, Any]:
        path = self._place / VMCORE
        entry: dict[str, Any] = {"file": None, "place": str(path), "size_bytes": self._dump.size_bytes,
                                "sha256": self._dump.sha256}  # fmt: skip
        if not self._request.with_vmcore:
            self._leave_out(VMCORE, "not asked for; its place and checksum are in the manifest")
            return entry
        if self._request.redacted:
            inspection = self._store.facts_of(self._dump, "inspection") or {}
            if not filtering.is_filtered(inspection):
                fresh = self._scratch / VMCORE
                if why := filtering.filter_again(path, fresh, inspection):
                    self._leave_out(VMCORE, f"it may have pages of users, and could not be filtered again: {why}")
                    return entry
                self._leave_out("pages of users, of the page cache and free ones", "filtered again with -d 31")
                path = fresh
        sha256 = sha256_of(path)
        if path == self._place / VMCORE and sha256 != self._dump.sha256:
            raise HostError(f"{path} has changed since it was taken in: its checksum is {sha256}")
        info = self._info(VMCORE, path.stat().st_size)
        with path.open("rb") as file:
            self._tar.addfile(info, file)
        self._files.append({"name": VMCORE, "size_bytes": info.size, "sha256": sha256})
        return {**entry, "file": VMCORE}

    def _parts(self) -> Iterator[tuple[str, Any]]:
        """Yield name and text (or record) of everything but the dump."""
        store, dump, request = self._store, self._dump, self._request
        triage = store.facts_of(dump, "triage")
        traits = store.index.traits_of(dump.id)
        yield "triage.json", triage
        yield "inspection.json", store.facts_of(dump, "inspection")
        yield "triage.txt", "\n".join(describe.lines(dump, triage, traits, seen_before(store.index, dump))) + "\n"
        if log := _read(self._place / LOG_NAME):
            yield "kernel.log", log
        else:
            self._leave_out("kernel.log", "the dump's kernel log cannot be read")
        for path in sorted((self._place / SENDERS).glob("*")):
            yield f"{SENDERS}/{path.name}", _read(path)
        if request.change is not None:
            yield "change.txt", _change(request.change)
        for path in request.attach:
            yield f"attached/{shown(path.name).replace('/', '_')}", _read(path, given=True)
        yield from self._asked()

    def _asked(self) -> Iterator[tuple[str, str]]:
        if self._request.machine is None:
            for item in items():
                self._leave_out(item.what, "the machine was not asked (--from HOST, or --from local)")
            inspection = self._store.facts_of(self._dump, "inspection") or {}
            names = (inspection.get(name) or "?" for name in ("nodename", "kernel", "kernel_version", "machine"))
            yield "uname.txt", f"Linux {' '.join(names)}\n"
            return
        for found in collect(self._request.machine, self._dump):
            if found.why:
                self._leave_out(found.what, found.why)
            elif found.private and self._request.redacted:
                self._leave_out(found.what, "it may hold user data that no rule finds")
            else:
                yield f"host/{found.name}", found.text

    def _add(self, name: str, value: Any) -> None:
        value = self._redacted_value(name, value)
        data = self._put(name, value if isinstance(value, str) else json.dumps(value, indent=1) + "\n")
        self._files.append({"name": name, "size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()})

    def _put(self, name: str, text: str) -> bytes:
        data = text.encode("utf-8", "replace")
        self._tar.addfile(self._info(name, len(data)), io.BytesIO(data))
        return data

    def _info(self, name: str, size_bytes: int) -> tarfile.TarInfo:
        info = tarfile.TarInfo(f"{self._top}/{name}")
        info.size, info.mode, info.mtime = size_bytes, 0o600, int(time.time())
        return info


def _read(path: Path, *, given: bool = False) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_TEXT_BYTES).decode("utf-8", "replace")
    except OSError as error:
        if given:
            raise UsageError(f"{path} cannot be read ({error.strerror})") from None
        return ""


def _change(given: str) -> str:
    """Return the change record: a file's contents, or the text itself."""
    path = Path(given)
    try:
        if path.is_file():
            return _read(path, given=True)
    except OSError:  # too long for a name, so it is a text
        pass
    return given.rstrip("\n") + "\n"


def free_name(dump: Dump) -> Path:
    """Return the default name of a bundle."""
    return Path(f"kdump-{dump.id}.tar")


__all__ = ["Request", "free_name", "make_bundle"]
