"""The files of an image's directory in the cache: verified downloads, unfinished ones, and users' own."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

_DOWNLOADED = re.compile(r"sha(256|512)-[0-9a-f]+\.(?P<kind>qcow2|part)")


def versions(place: Path) -> list[Path]:
    """Return the verified files in an image's directory of the cache, the newest first."""
    dated = []
    for path in _files(place, "qcow2"):
        with contextlib.suppress(FileNotFoundError):  # removed by another process
            dated.append((path.stat().st_mtime, path))
    return [path for _, path in sorted(dated, reverse=True)]


def partials(place: Path) -> list[Path]:
    """Return the unfinished downloads in an image's directory."""
    return _files(place, "part")


def brought(place: Path) -> list[Path]:
    """Return the users' files in an image's directory."""
    return sorted(path for path in place.iterdir() if path.name != "lock" and not _DOWNLOADED.fullmatch(path.name))


def _files(place: Path, kind: str) -> list[Path]:
    """Return the downloaded files of one kind, recognised by their names."""
    if not place.is_dir():
        return []
    return sorted(
        path for path in place.iterdir() if (match := _DOWNLOADED.fullmatch(path.name)) and match["kind"] == kind
    )
