"""Verified and resumable downloads of images into a cache, once for many processes.

The cache has a directory for each image. A file in it is named by its digest and exists only after verification.
"""

# urllib rather than requests, httpx or pooch: it honours http_proxy and no_proxy and follows redirects, which is
# enough. None of the others covers resuming, locking and disk space.

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import errno
import fcntl
import http.client
import os
import re
import shutil
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import urljoin, urlsplit

from ..base import clock
from ..base.errors import HostError
from ..base.foreign import whole_number
from . import checksums
from .catalog import Image
from .checksums import Digest, NoChecksum
from .downloaded import versions

T = TypeVar("T")
Report = Callable[[str], None]
Progress = Callable[[int, int | None], None]  # bytes so far, and in total if the server reports them

CHUNK_BYTES = 256 << 10
LOCK_EVERY_S = 0.2
SILENCE_S = 30.0  # longest time without a byte from a connection
DOCUMENT_MAX_BYTES = 16 << 20  # Fedora's releases.json is the largest, below 1 MB
SLOW_S, SLOWEST_BYTES_PER_S = 60.0, 256  # a server that sends less than this for so long is given up
SPARE_BYTES = 64 << 20  # left free by a download

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# A negative size of a chunk is a ValueError of http.client.
LYING_ANSWERS = (OSError, http.client.HTTPException, ValueError, OverflowError)
_PASSING_STATUS = (408, 425, 429, 500, 502, 503, 504)


class Unreachable(HostError):
    """The image is unavailable now, because of the network or a server."""

    def __init__(self, message: str, *, status: int | None = None, passing: bool = False) -> None:
        super().__init__(message)
        self.status = status  # HTTP status, if a server answered
        self.passing = passing  # whether another attempt may succeed


class NeedsLogin(Unreachable):
    """The image needs a login and is not in the cache; the message names the file and its place."""


class ChecksumMismatch(HostError):
    """A download does not match its digest; it was removed."""


class NoSpace(HostError):
    """The cache's file system is too small for the image; the message has the sizes."""


@dataclass(frozen=True)
class DownloadSource:
    """The current address and digest of an image."""

    url: str
    digest: Digest


@dataclass(frozen=True, kw_only=True)
class Client:
    """An HTTP client with a number of attempts and timeouts."""

    opener: urllib.request.OpenerDirector
    attempts: int = 4
    pause_s: float = 2.0  # doubled after each failure
    silence_s: float = SILENCE_S
    report: Report = lambda text: None

    def open(self, url: str, *, method: str = "GET", headers: dict[str, str] | None = None) -> Any:
        """Return an open response; Unreachable for an error or an error status."""
        # Some mirrors refuse urllib's default user agent.
        request = urllib.request.Request(url, method=method, headers={"User-Agent": "kdump-harness", **(headers or {})})
        try:
            return self.opener.open(request, timeout=self.silence_s)
        except urllib.error.HTTPError as error:
            error.close()
            passing = error.code in _PASSING_STATUS
            reason = " ".join(str(error.reason).split())
            raise Unreachable(f"{url}: HTTP {error.code} {reason}", status=error.code, passing=passing) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise _unreachable(url, error) from None

    def text(self, url: str) -> tuple[str, str]:
        """Return the final address and the text of a small document."""
        return self.persist(lambda: self._text(url))

    def _text(self, url: str) -> tuple[str, str]:
        with self.open(url) as response:
            body = b""
            for chunk in chunks(response, url):
                body += chunk
                if len(body) >= DOCUMENT_MAX_BYTES:
                    break
            promised = length_bytes(response)
            if promised is not None and len(body) < min(promised, DOCUMENT_MAX_BYTES):
                raise Unreachable(f"{url}: cut off after {len(body)} of {promised} bytes", passing=True)
            found_at = str(response.geturl())
        # Digests are only as trustworthy as their transport.
        if url.startswith("https:") and not found_at.startswith("https:"):
            raise NoChecksum(f"{url} redirects to {found_at}, which is not protected by TLS")
        return found_at, body.decode("utf-8", errors="replace")

    def persist(self, action: Callable[[], T], *, gained: Callable[[], bool] = lambda: False) -> T:
        """Return the action's result; repeat it after temporary errors, whose count starts again after a gain."""
        failures = 0
        while True:
            try:
                return action()
            except Unreachable as error:
                failures = 1 if gained() else failures + 1
                if not error.passing or failures >= self.attempts:
                    raise
                self.report(f"{error}; trying again")
            clock.pause(self.pause_s * 2 ** (failures - 1))


def make_client(
    *, attempts: int = 4, pause_s: float = 2.0, silence_s: float = SILENCE_S, report: Report = lambda text: None
) -> Client:
    """Return a client with the proxies of the environment."""
    opener = urllib.request.build_opener()
    return Client(opener=opener, attempts=attempts, pause_s=pause_s, silence_s=silence_s, report=report)


def resolve(image: Image, client: Client) -> DownloadSource:
    """Return the current address and digest of an image from its checksum document."""
    where, text = client.text(image.checksums)
    wanted = PurePosixPath(urlsplit(image.url).path).name if image.url else image.file
    entry = checksums.find(text, image.checksum_form, wanted, where=image.checksums)
    url = image.url or urljoin(where, entry.location)
    if urlsplit(url).scheme not in ("http", "https"):
        raise NoChecksum(f"{image.checksums} leads to {url}, which is not an http or https address")
    return DownloadSource(url, entry.digest)


def fetch(
    image: Image,
    cache_dir: Path,
    *,
    progress: Progress | None = None,
    report: Report = lambda text: None,
    client: Client | None = None,
) -> Path:
    """Return the verified image in the cache, downloaded unless it exists; it must not be written to.

    If the network fails, an older verified copy is used, and REPORT gets a line about that.
    Raises Unreachable (NeedsLogin for a manual image), NoChecksum, ChecksumMismatch or NoSpace.
    """
    if image.manual:
        return _brought(image, cache_dir)
    client = dataclasses.replace(client or make_client(), report=report)
    place = _place(cache_dir, image)
    try:
        source = resolve(image, client)
        return _once(image, place, source, client, progress or (lambda done, total: None))
    except Unreachable as error:
        older = cached(image, cache_dir)
        if older is None:
            raise
        day = datetime.date.fromtimestamp(older.stat().st_mtime)
        report(f"{error}; using the copy of {image.name} downloaded on {day}")
        return older


def cached(image: Image, cache_dir: Path) -> Path | None:
    """Return the newest verified copy of an image, or the user's file of a manual one; None without either."""
    place = cache_dir / image.name
    if image.manual:
        return max(place.glob(image.file), key=lambda path: path.stat().st_mtime, default=None)
    return next(iter(versions(place)), None)


def _brought(image: Image, cache_dir: Path) -> Path:
    """Return the user's file of a manual image; NeedsLogin names the file and its place."""
    path = cached(image, cache_dir)
    if path is None:
        place = _place(cache_dir, image)
        raise NeedsLogin(
            f"{image.name} needs a login: download {image.file} from {image.manual} and put it into {place}/"
        )
    return path


def _place(cache_dir: Path, image: Image) -> Path:
    place = cache_dir / image.name
    with _disk_errors(place):
        if not place.exists():
            place.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(PermissionError):
                place.chmod(0o2775)  # for all users of the cache
    return place


def _once(image: Image, place: Path, source: DownloadSource, client: Client, progress: Progress) -> Path:
    """Return the verified file, downloaded by this process or another one."""
    target = place / f"{source.digest}.qcow2"
    if target.exists():
        return target

    def wait(holder: str) -> None:
        client.report(f"{image.name} is being downloaded by {holder}; waiting for it")

    with _disk_errors(place), lock(place, wait=wait):
        return target if target.exists() else _download(image, place, source, client, progress)


def _download(image: Image, place: Path, source: DownloadSource, client: Client, progress: Progress) -> Path:
    """Download, verify and name the file; the caller holds the lock."""
    # One attempt more than there are harmless reasons for a wrong digest: a partial file from another mirror, and a
    # "latest" name that changed during the download.
    for _ in range(3):
        partial = place / f"{source.digest}.part"
        for stale in set(place.glob("sha*-*.part")) - {partial}:
            stale.unlink()
        pieced = _assemble(image, source, partial, client, progress)
        seen = checksums.digest_of(partial, source.digest.algorithm)
        if seen == source.digest:
            return _seal(partial)
        size_bytes = partial.stat().st_size
        partial.unlink()
        if pieced:
            client.report(f"{source.url}: the parts of the download do not match; starting again")
            continue
        today = resolve(image, client)
        if today == source:
            break
        source = today
    raise ChecksumMismatch(
        f"{source.url} does not match {image.checksums}: got {seen.short} in {size_bytes} bytes,"
        f" expected {source.digest.short}; it was removed (try again later, when the mirrors are in sync)"
    )


def _assemble(image: Image, source: DownloadSource, partial: Path, client: Client, progress: Progress) -> bool:
    """Complete the partial file and return whether it came in several parts.

    The name of the partial file has the digest, so that its content belongs to the same image on any mirror.
    If-Range with the ETag of one mirror would only make the next one start from zero.
    """
    longest_bytes = _have_bytes(partial)

    def gained() -> bool:
        nonlocal longest_bytes
        before_bytes, longest_bytes = longest_bytes, max(longest_bytes, _have_bytes(partial))
        return longest_bytes > before_bytes

    return client.persist(lambda: _transfer(image, source.url, partial, client, progress), gained=gained)


def _transfer(image: Image, url: str, partial: Path, client: Client, progress: Progress) -> bool:
    """Get the missing rest of the partial file and return whether it was continued; Unreachable if it is cut off."""
    have_bytes = _have_bytes(partial)
    try:
        response = client.open(url, headers={"Range": f"bytes={have_bytes}-"} if have_bytes else {})
    except Unreachable as error:
        if error.status == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            return True  # the file is complete; the digest decides whether it is correct
        raise
    with response:
        continued = have_bytes > 0 and _continues_at(response) == have_bytes
        if not continued:
            have_bytes = 0  # a server without Range sends everything again
        rest_bytes = length_bytes(response)
        total_bytes = None if rest_bytes is None else have_bytes + rest_bytes
        _need_space(image, partial, total_bytes)
        with _disk_errors(partial.parent, partial):
            file = os.open(partial, os.O_WRONLY | os.O_CREAT | (os.O_APPEND if continued else os.O_TRUNC), 0o664)
            with contextlib.suppress(PermissionError):
                os.fchmod(file, 0o664)  # other users of the cache may continue the download
        try:
            progress(have_bytes, total_bytes)
            for chunk in chunks(response, url):
                if total_bytes is None:  # nothing was asked for beforehand
                    _leave_space(image, partial, len(chunk))
                with _disk_errors(partial.parent, partial):
                    _write(file, chunk)
                have_bytes += len(chunk)
                progress(have_bytes, total_bytes)
        finally:
            os.close(file)
    if total_bytes is not None and have_bytes < total_bytes:
        raise Unreachable(f"{url}: cut off after {have_bytes} of {total_bytes} bytes", passing=True)
    return continued


def chunks(response: Any, url: str) -> Iterator[bytes]:
    """Yield the parts of a response as they come. Raise Unreachable for one that is cut off or hardly moves."""
    began_s, fresh_bytes = clock.now_s(), 0
    while True:
        try:
            chunk = bytes(response.read1(CHUNK_BYTES))
        except LYING_ANSWERS as error:
            raise _unreachable(url, error) from None
        if not chunk:
            return
        yield chunk
        fresh_bytes += len(chunk)
        if (took_s := clock.now_s() - began_s) >= SLOW_S:
            if fresh_bytes < SLOWEST_BYTES_PER_S * took_s:
                raise Unreachable(f"{url}: only {fresh_bytes} bytes in {took_s:.0f} s", passing=True)
            began_s, fresh_bytes = clock.now_s(), 0


def _write(file: int, chunk: bytes) -> None:
    rest = memoryview(chunk)
    while rest:
        rest = rest[os.write(file, rest) :]


def _seal(partial: Path) -> Path:
    """Sync a verified file, make it read-only and give it its final name."""
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.chmod(0o444)
    return partial.rename(partial.with_suffix(".qcow2"))


def _need_space(image: Image, partial: Path, total_bytes: int | None) -> None:
    """Raise NoSpace before a download that does not fit."""
    if total_bytes is None:
        return
    need_bytes = total_bytes - _have_bytes(partial)
    free_bytes = shutil.disk_usage(partial.parent).free
    if need_bytes + SPARE_BYTES > free_bytes:
        raise NoSpace(
            f"not enough disk space in {partial.parent} for {image.name}: {_mib(need_bytes + SPARE_BYTES)} MiB needed,"
            f" {_mib(free_bytes)} MiB free (free some, or move the cache)"
        )


def _leave_space(image: Image, partial: Path, need_bytes: int) -> None:
    """Raise NoSpace, and remove the partial file, where a download of unknown length would fill the disk."""
    if shutil.disk_usage(partial.parent).free < need_bytes + SPARE_BYTES:
        taken_mib = _mib(_have_bytes(partial))
        partial.unlink(missing_ok=True)
        raise NoSpace(
            f"not enough disk space in {partial.parent} for {image.name}: {_mib(SPARE_BYTES)} MiB must stay free, and"
            f" its server does not say how large it is; {taken_mib} MiB were removed (free some, or move the cache)"
        )


@contextlib.contextmanager
def _disk_errors(place: Path, partial: Path | None = None) -> Iterator[None]:
    """Turn errors of the cache's file system into messages; remove a partial file that filled it."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise HostError(f"cannot use the image cache {place}: {error.strerror}") from None
        taken_mib = 0
        if partial is not None:
            taken_mib = _mib(_have_bytes(partial))
            partial.unlink(missing_ok=True)
        raise NoSpace(
            f"{place} is full after {taken_mib} MiB ({error.strerror}); the partial download was removed"
            " (free disk space, or move the cache)"
        ) from None


@contextlib.contextmanager
def lock(place: Path, *, wait: Callable[[str], None] | None) -> Iterator[bool]:
    """Hold the image's lock and yield True. If it is held, call WAIT with the holder; without WAIT, yield False.

    The kernel releases the lock when its holder ends. The file stays, since removing it would split the queue.
    """
    with (place / "lock").open("a+", encoding="utf-8") as file:
        with contextlib.suppress(PermissionError):
            os.fchmod(file.fileno(), 0o664)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if wait is None:
                yield False
                return
            file.seek(0)
            wait(f"process {file.read().strip() or '?'}")
            while True:  # not in the kernel, where a thread could not be cancelled
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                clock.pause(LOCK_EVERY_S)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield True


def _unreachable(url: str, error: Exception) -> Unreachable:
    """Return the error for a failed connection, with whether another attempt may succeed."""
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    # Unknown names and refused ports are not temporary; a build from packages should not wait for them.
    final = isinstance(cause, (socket.gaierror, ConnectionRefusedError, ssl.SSLCertVerificationError, ValueError))
    connected = not isinstance(error, urllib.error.URLError) or isinstance(cause, ConnectionResetError)
    text = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
    return Unreachable(f"cannot reach {url}: {text}", passing=connected and not final)


def length_bytes(response: Any) -> int | None:
    """Return the length of a response, if the server reports it."""
    return whole_number(response.headers.get("Content-Length", ""))


def _continues_at(response: Any) -> int | None:
    """Return the offset of a partial response, or None for a complete one."""
    match = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return whole_number(match[1]) if response.status == http.client.PARTIAL_CONTENT and match else None


def _have_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _mib(size_bytes: int) -> int:
    return -(-size_bytes >> 20) if size_bytes > 0 else 0
