"""A queue of chunks of a serial line, which pexpect reads."""

from __future__ import annotations

import queue
from contextlib import suppress

import pexpect
from pexpect.spawnbase import SpawnBase

from ...base.clock import Deadline, now_s


class ByteQueue(SpawnBase):  # type: ignore[misc]  # pexpect has no types
    """A source for pexpect that another thread fills with chunks of the serial line."""

    gather_s = 0.02  # libvirt delivers the bytes of about 40 ms at once

    def __init__(self) -> None:
        super().__init__(timeout=None, maxread=65536, searchwindowsize=None)
        self.delayafterread = None  # pexpect would otherwise sleep after each read, which only a child on a pty needs
        self._chunks: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()
        self._rest = b""
        self._ended = False
        self.arrived_s = now_s()  # arrival of the bytes read last
        self.last_byte_s = now_s()
        self.failure: OSError | None = None

    def put(self, data: bytes) -> None:
        """Add bytes; an empty chunk ends the line."""
        at_s = now_s()
        if data:
            self.last_byte_s = at_s
        self._chunks.put((at_s, data))

    def fail(self, error: OSError) -> None:
        """End the line because its bytes could not be kept; readers raise ERROR."""
        self.failure = error
        self._chunks.put((now_s(), b""))

    def read_nonblocking(self, size: int = 1, timeout: float | None = None) -> bytes:
        """Return at most SIZE bytes, for pexpect."""
        if not self._rest:
            if self._ended:
                raise pexpect.EOF("the serial line ended")
            try:
                self.arrived_s, self._rest = self._chunks.get(timeout=timeout)
            except queue.Empty:
                raise pexpect.TIMEOUT("nothing on the serial line") from None
            # Chunks of a moment are joined: each read costs pexpect the same, and a serial line brings a few bytes at
            # a time.
            chunks = [self._rest]
            gather = Deadline(min(self.gather_s, timeout or 0.0))
            while chunks[-1] and not (self._chunks.empty() and gather.passed):
                with suppress(queue.Empty):
                    self.arrived_s, chunk = self._chunks.get(timeout=gather.left_s)
                    chunks.append(chunk)
            self._ended = not chunks[-1]
            self._rest = b"".join(chunks)
            if not self._rest:
                raise pexpect.EOF("the serial line ended")
        data, self._rest = self._rest[:size], self._rest[size:]
        return data

    def isalive(self) -> bool:
        """Return whether the line has not ended."""
        return not self._ended
