"""Write a flattened stream as the file that it represents, like makedumpfile -R."""

from __future__ import annotations

import os
from pathlib import Path

from .formats.damage import VmcoreError
from .formats.source import FlattenedFile
from .vmcore import open_vmcore

_CHUNK_BYTES = 1 << 22
# No dump is that much larger than its stream; a file of nothing but holes would be.
_MAX_HOLES_BYTES = 1 << 36


def rearrange(path: Path, to: Path) -> int:
    """Write the flattened dump at path to a new file with mode 0600; its size in bytes.

    Gaps become holes. The file to must not exist. Raise Unreadable for a file that is not a dump, and VmcoreError for
    one that is not flattened.
    """
    with open_vmcore(path) as vmcore:
        stream = vmcore.flattened
        if stream is None:
            raise VmcoreError("the dump is not flattened")
        if stream.size_bytes - vmcore.size_bytes > _MAX_HOLES_BYTES:
            raise VmcoreError(f"the dump would become a file of {stream.size_bytes:,} bytes, nearly all of them holes")
        descriptor = os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            _write(stream, descriptor)
        finally:
            os.close(descriptor)
        return stream.size_bytes


def _write(stream: FlattenedFile, descriptor: int) -> None:
    os.ftruncate(descriptor, stream.size_bytes)
    for start, end in stream.written():
        while start < end:
            piece = stream.read(start, min(_CHUNK_BYTES, end - start))
            done = os.pwrite(descriptor, piece, start)
            start += done
    os.fsync(descriptor)
