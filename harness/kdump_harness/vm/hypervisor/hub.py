"""A hub for the network cards of guests, where libvirt has no networks: in the session of an ordinary user.

QEMU connects such a card by TCP and sends each Ethernet frame behind its length (docs of QEMU: -netdev socket). The
hub belongs to this process and ends with it. It listens on the loopback address and accepts only processes of this
user, since the frames of a dump hold every secret of a machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from pathlib import Path

from .user_network import LOOPBACK

# A guest that is paused reads nothing: frames for it are dropped, as by any switch whose queue is full.
MOST_QUEUED_BYTES = 4 << 20
MOST_FRAME_BYTES = 68 << 10  # QEMU's own limit
_HEAD_BYTES = 4


class Hub:
    """A running hub; each frame of a card is sent to all other cards."""

    def __init__(self) -> None:
        self._cards: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        listener = socket.create_server((LOOPBACK, 0))
        self.port: int = listener.getsockname()[1]
        self._server = self._loop.run_until_complete(asyncio.start_server(self._serve, sock=listener))
        self._thread = threading.Thread(target=self._loop.run_forever, name="hub", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Close all connections and end the thread."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        self._server.close()
        for card in tuple(self._cards):
            card.transport.abort()
        serving = asyncio.all_tasks() - {asyncio.current_task()}
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if owner_of(*writer.get_extra_info("peername")) != os.getuid():
            writer.close()
            return
        self._cards.add(writer)
        try:
            while True:
                head = await reader.readexactly(_HEAD_BYTES)
                if (size := int.from_bytes(head)) > MOST_FRAME_BYTES:
                    break
                frame = head + await reader.readexactly(size)
                for card in self._cards - {writer}:
                    if card.transport.get_write_buffer_size() < MOST_QUEUED_BYTES:
                        card.write(frame)
        except (asyncio.IncompleteReadError, asyncio.CancelledError, OSError):
            pass  # the guest or the hub has ended
        finally:
            self._cards.discard(writer)
            writer.close()


def owner_of(address: str, port: int, table: Path = Path("/proc/net/tcp")) -> int | None:
    """Return the user of the process at this end of a TCP connection of this host, if it exists."""
    wanted = f"{int.from_bytes(socket.inet_aton(address), 'little'):08X}:{port:04X}"
    with contextlib.suppress(OSError):
        for line in table.read_text(encoding="ascii").splitlines()[1:]:
            words = line.split()
            if words[1] == wanted:
                return int(words[7])
    return None
