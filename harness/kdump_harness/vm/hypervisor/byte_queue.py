"""A serial line as pexpect reads it: chunks that libvirt brings, in a queue."""

from __future__ import annotations

import queue
from contextlib import suppress

import pexpect
from pexpect.spawnbase import SpawnBase

from ...base.clock import Deadline, now_s


class ByteQueue(SpawnBase):  # type: ignore[misc]  # pexpect has no types
    """What pexpect reads from: a queue that somebody else fills with chunks of the serial line."""

    gather_s = 0.02  # libvirt hands over what came in some 40 ms at once

    def __init__(self) -> None:
        super().__init__(timeout=None, maxread=65536, searchwindowsize=None)
        self.delayafterread = None  # pexpect would sleep after each read, for the sake of a child on a pty
        self._chunks: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()
        self._rest = b""
        self._ended = False
        self.arrived_s = now_s()  # when the bytes read last came in
        self.last_byte_s = now_s()
        self.failure: OSError | None = None

    def put(self, data: bytes) -> None:
        """Add bytes; empty ones say that the line has ended."""
        at_s = now_s()
        if data:
            self.last_byte_s = at_s
        self._chunks.put((at_s, data))

    def fail(self, error: OSError) -> None:
        """Say that what came could not be kept: reading raises error from here on."""
        self.failure = error
        self._chunks.put((now_s(), b""))

    def read_nonblocking(self, size: int = 1, timeout: float | None = None) -> bytes:
        """At most size bytes, as pexpect wants them."""
        if not self._rest:
            if self._ended:
                raise pexpect.EOF("the serial line ended")
            try:
                self.arrived_s, self._rest = self._chunks.get(timeout=timeout)
            except queue.Empty:
                raise pexpect.TIMEOUT("nothing on the serial line") from None
            # All that comes within a moment at once: pexpect's cost is by the read, and a serial line brings a few
            # bytes each time.
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
        """Whether more may come."""
        return not self._ended
