"""Download debug info by build id from debuginfod servers."""

# The HTTP interface is one GET (debuginfod(8), "WEBAPI"): libdebuginfod, where it is installed, does no more.

from __future__ import annotations

import http.client
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..base.foreign import whole_number
from ..base.progress import Progress
from ..images.download import Client, Unreachable, chunks, length_bytes, make_client

VARIABLE = "DEBUGINFOD_URLS"
SILENCE_S = 90.0  # debuginfod's own default: a server may have to unpack a package before the first byte
MAX_BYTES = 8 << 30

RequireSpace = Callable[[int], None]


def servers() -> tuple[str, ...]:
    """Return the servers of the environment, without words that are not web addresses (ima:enforcing, file:)."""
    words = os.environ.get(VARIABLE, "").split()
    return tuple(word.rstrip("/") for word in words if urlsplit(word).scheme in ("http", "https"))


def fetch(
    urls: tuple[str, ...],
    build_id: str,
    to: Path,
    *,
    require_space: RequireSpace,
    progress: Progress,
    attempts: int = 2,
) -> str:
    """Download the debug info of a build from the first server that has it; Unreachable has the reasons."""
    client = make_client(attempts=attempts, silence_s=SILENCE_S, report=progress.say)
    refused = []
    for server in urls:
        url = f"{server}/buildid/{build_id}/debuginfo"
        host = urlsplit(server).netloc.rpartition("@")[2]
        try:
            with progress.step(f"debug info of {build_id[:12]} from {host}"):
                client.persist(lambda url=url: _transfer(client, url, to, require_space, progress))  # type: ignore[misc]
            return url
        except Unreachable as error:
            refused.append(f"{host} has none" if error.status == http.client.NOT_FOUND else str(error))
    raise Unreachable(f"debuginfod: {', '.join(refused)}")


def _transfer(client: Client, url: str, to: Path, require_space: RequireSpace, progress: Progress) -> None:
    with client.open(url) as response, to.open("wb") as file:
        total_bytes = _size_bytes(response)
        if (total_bytes or 0) > MAX_BYTES:
            raise Unreachable(f"{url} has {total_bytes:,} bytes, which is not debug info")
        require_space((total_bytes or 0) >> 20)
        done_bytes = 0
        for chunk in chunks(response, url):
            done_bytes += file.write(chunk)
            progress.detail(
                f"{done_bytes >> 20} of {total_bytes >> 20} MiB" if total_bytes else f"{done_bytes >> 20} MiB"
            )
            if done_bytes > MAX_BYTES:
                raise Unreachable(f"{url} sends more than {MAX_BYTES >> 30} GiB, which is not debug info")
    promised_bytes = length_bytes(response)
    if promised_bytes is not None and done_bytes < promised_bytes:
        raise Unreachable(f"{url}: cut off after {done_bytes:,} of {promised_bytes:,} bytes", passing=True)


def _size_bytes(response: Any) -> int | None:
    """Return the size as debuginfod announces it, also where it sends the file packed."""
    for header in ("X-DEBUGINFOD-SIZE", "Content-Length"):
        if (size_bytes := whole_number(response.headers.get(header, ""))) is not None:
            return size_bytes
    return None
