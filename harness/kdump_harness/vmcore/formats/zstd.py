"""Decompression of zstd frames: by the package zstandard where it is installed, else by the module of Python 3.14.

zstandard keeps its working memory from frame to frame: a page takes a microsecond with it, and nine without it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

zstandard: Any
try:
    import zstandard
except ImportError:
    zstandard = None


class ZstdUnpacker:
    """Turns frames into bytes; not to be shared between threads."""

    def __init__(self) -> None:
        self.unpack: Callable[[bytes, int], bytes] = _unpack
        if zstandard is not None:
            self.unpack = partial(
                zstandard.ZstdDecompressor().decompress, read_across_frames=False, allow_extra_data=False
            )

    @staticmethod
    def claimed_bytes(frame: bytes) -> int | None:
        """Return the size that a frame claims to have; None if it claims none."""
        if zstandard is not None:
            claimed: int = zstandard.frame_content_size(frame)
            return None if claimed == -1 else claimed
        size: int | None = standard().get_frame_info(frame).decompressed_size
        return size


def standard() -> Any:
    """Return the module of Python 3.14, or its backport."""
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return zstd


def _unpack(frame: bytes, size_bytes: int) -> bytes:
    """Return the first SIZE bytes of a frame that must be whole, with nothing behind it."""
    decompressor = standard().ZstdDecompressor()
    data: bytes = decompressor.decompress(frame, size_bytes)
    if not decompressor.eof:
        data += decompressor.decompress(b"", 1)  # the end of the frame, or more bytes than a page
    if not decompressor.eof or decompressor.unused_data:
        raise ValueError("the frame does not end with its data")
    return data
