"""Asks the network whether what the catalogue names is still there; nothing is downloaded."""

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
from .catalog import Image
from .checksums import NoChecksum
from .download import Client, Unreachable, cached, length_bytes, make_client, resolve

OK, MOVED, ROTTED, UNREACHABLE, BY_HAND = "ok", "moved", "rotted", "unreachable", "by hand"
STATES = (OK, MOVED, ROTTED, UNREACHABLE, BY_HAND)
AT_ONCE = 8
ALL_MAX_S = 600.0  # a server that trickles must not keep the others' answers from being told

# Servers that have a file and dislike the question; a ranged GET then decides.
_NO_HEAD = (400, 403, 405, 501)
# Ours to mend, or over in a while; any other 4xx says that the file is gone (object stores answer 403 then).
_NOT_GONE = (401, 407, 408, 425, 429)


@dataclass(frozen=True, kw_only=True)
class RowState:
    """How a row of the catalogue fares."""

    name: str
    state: str
    detail: str  # one line
    answered: bool = True  # whether any server did
    url: str = ""
    digest: str = ""
    size_bytes: int | None = None
    cached: str = ""  # what the cache has: nothing, today's, or an older one

    def to_json(self) -> dict[str, Any]:
        """The record as JSON takes it."""
        return asdict(self)


@dataclass(frozen=True)
class _Answer:
    """What a server says of an image."""

    url: str  # in the end
    size_bytes: int | None
    kind: str  # of content


def refresh(
    images: Sequence[Image],
    cache_dir: Path,
    *,
    client: Client | None = None,
    on_row: Callable[[RowState], None] = lambda row: None,
    all_max_s: float = ALL_MAX_S,
) -> tuple[RowState, ...]:
    """The state of each row, in their order; on_row is told of each as it comes, several being asked at once."""
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
        except BaseException as error:  # it belongs to who asked
            done.put(error)

    # Daemons, unlike those of a pool: nobody who presses Ctrl-C should wait for a server that is silent.
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
    """How one row fares: its checksum document is read, and its image asked after."""
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
    """Ask for the headers, or where that is refused for the first byte."""
    try:
        with client.open(url, method="HEAD") as response:
            return _Answer(str(response.geturl()), length_bytes(response), response.headers.get_content_type())
    except Unreachable as error:
        if error.status not in _NO_HEAD:
            raise
    with client.open(url, headers={"Range": "bytes=0-0"}) as response:
        whole = re.fullmatch(r"bytes 0-0/(\d+)", response.headers.get("Content-Range", ""))
        size_bytes = int(whole[1]) if whole else length_bytes(response)
        return _Answer(str(response.geturl()), size_bytes, response.headers.get_content_type())


def _file_name(url: str) -> str:
    return PurePosixPath(urlsplit(url).path).name
