"""The check that the images of the catalogue are still published; nothing is downloaded."""

from __future__ import annotations

import queue
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from ..base.clock import Deadline
from ..base.foreign import whole_number
from .catalog import Image
from .checksums import NoChecksum
from .download import Client, Unreachable, cached, length_bytes, make_client, resolve

OK, MOVED, ROTTED, UNREACHABLE, BY_HAND = "ok", "moved", "rotted", "unreachable", "by hand"
STATES = (OK, MOVED, ROTTED, UNREACHABLE, BY_HAND)
AT_ONCE = 8
ALL_MAX_S = 600.0  # limit for all rows, since a server may answer very slowly

# Statuses of servers that refuse HEAD; a ranged GET then decides.
_NO_HEAD = (400, 403, 405, 501)
# Temporary statuses, or caused by this host; other 4xx mean that the file is gone (object stores answer 403).
_NOT_GONE = (401, 407, 408, 425, 429)


@dataclass(frozen=True, kw_only=True)
class RowState:
    """The state of a row of the catalogue."""

    name: str
    state: str
    detail: str  # explanation in one line
    answered: bool = True  # whether a server answered
    url: str = ""
    digest: str = ""
    size_bytes: int | None = None
    cached: str = ""  # file in the cache: "" (none), "today's" or "older"

    def to_json(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class _Answer:
    """A server's answer about an image."""

    url: str  # after redirects
    size_bytes: int | None
    kind: str  # content type


def refresh(
    images: Sequence[Image],
    cache_dir: Path,
    *,
    client: Client | None = None,
    on_row: Callable[[RowState], None] = lambda row: None,
    all_max_s: float = ALL_MAX_S,
) -> tuple[RowState, ...]:
    """Return the states of the rows, in their order; ON_ROW gets each as it arrives, from parallel requests."""
    used = client or make_client(attempts=2, pause_s=1.0, silence_s=20.0)
    todo: queue.SimpleQueue[Image] = queue.SimpleQueue()
    done: queue.SimpleQueue[RowState | BaseException] = queue.SimpleQueue()
    for image in images:
        todo.put(image)

    def work() -> None:
        try:
            while True:
                done.put(row_state(todo.get_nowait(), cache_dir, used))
        except queue.Empty:
            pass
        except BaseException as error:  # raised again in the calling thread
            done.put(error)

    # Daemon threads, unlike those of a pool: Ctrl-C must not wait for a silent server.
    for number in range(min(AT_ONCE, len(images))):
        threading.Thread(target=work, name=f"refresh-{number}", daemon=True).start()
    deadline = Deadline(all_max_s)
    rows: dict[str, RowState] = {}
    while len(rows) < len(images):
        try:
            row = done.get(timeout=deadline.left_s)
        except queue.Empty:
            break
        if isinstance(row, BaseException):
            raise row
        rows[row.name] = row
        on_row(row)
    late = f"no answer within {all_max_s:.0f} s"
    return tuple(
        rows.get(image.name) or RowState(name=image.name, state=UNREACHABLE, detail=late, answered=False)
        for image in images
    )


def row_state(image: Image, cache_dir: Path, client: Client) -> RowState:
    """Return the state of a row: read its checksum document and request the headers of its image."""
    if image.manual:
        return RowState(name=image.name, state=BY_HAND, detail=f"{image.file} from {image.manual}")
    try:
        source = resolve(image, client)
        seen = client.persist(lambda: _ask(source.url, client))
    except NoChecksum as error:
        return RowState(name=image.name, state=ROTTED, detail=str(error))
    except Unreachable as error:
        gone = error.status is not None and 400 <= error.status < 500 and error.status not in _NOT_GONE
        return RowState(
            name=image.name,
            state=ROTTED if gone else UNREACHABLE,
            detail=str(error),
            answered=error.status is not None,
        )
    have = cached(image, cache_dir)
    size = "unknown size" if seen.size_bytes is None else f"{seen.size_bytes / 2**20:.0f} MiB"
    state, detail = OK, f"{source.url} ({size}, {source.digest.short})"
    if seen.kind == "text/html":
        state, detail = ROTTED, f"{source.url} answers with a web page"
    elif _file_name(seen.url) != _file_name(source.url):
        state, detail = MOVED, f"{source.url} leads to {seen.url}"
    return RowState(
        name=image.name,
        state=state,
        detail=detail,
        url=source.url,
        digest=str(source.digest),
        size_bytes=seen.size_bytes,
        cached="" if have is None else "today's" if have.stem == str(source.digest) else "older",
    )


def _ask(url: str, client: Client) -> _Answer:
    """Request the headers or, if the server refuses HEAD, the first byte."""
    try:
        with client.open(url, method="HEAD") as response:
            return _Answer(str(response.geturl()), length_bytes(response), response.headers.get_content_type())
    except Unreachable as error:
        if error.status not in _NO_HEAD:
            raise
    with client.open(url, headers={"Range": "bytes=0-0"}) as response:
        whole = re.fullmatch(r"bytes 0-0/(\d+)", response.headers.get("Content-Range", ""))
        size_bytes = whole_number(whole[1]) if whole else length_bytes(response)
        return _Answer(str(response.geturl()), size_bytes, response.headers.get_content_type())


def _file_name(url: str) -> str:
    return PurePosixPath(urlsplit(url).path).name
