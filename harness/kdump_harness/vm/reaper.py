"""A process that lives a moment longer than ours, to destroy guests that libvirt would leave running.

libvirt destroys what we started when our connection ends (VIR_DOMAIN_START_AUTODESTROY), but has no such flag for
domains that are restored from a file.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading

from ..base.clock import pause
from ..base.errors import HarnessError
from .hypervisor.connection import Hypervisor

_DONE = "/"  # no domain has this name
# A restore that libvirt was at when we died shows its domain only after it has read the head of the file.
_LOOKS, _EVERY_S = 4, 2.0


class Reaper:
    """Holds the names of the domains that must not survive us, however we end."""

    def __init__(self, uri: str, connection_fds: tuple[int, ...] = ()) -> None:
        """connection_fds are descriptors that keep the way to libvirt open after our death."""
        self._process = subprocess.Popen(
            # -P: what lies in the current directory is no module of ours. A session of its own hears no Ctrl-C.
            [sys.executable, "-P", "-m", "kdump_harness.vm.reaper", uri],
            stdin=subprocess.PIPE,
            text=True,
            start_new_session=True,
            pass_fds=connection_fds,
        )
        self._lock = threading.Lock()

    def hold(self, name: str) -> None:
        """From now on this domain goes when we go."""
        self._tell(name)

    def close(self) -> None:
        """All of them are gone in good order."""
        self._tell(_DONE)
        with contextlib.suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        self._process.wait()

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        with (
            self._lock,
            contextlib.suppress(OSError),
        ):  # it was killed: the guests are removed by whoever cleans up after us
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()


def wait_and_destroy(uri: str) -> None:
    """Read names until the other end is closed; unless it said that all is done, destroy them."""
    names = {line.strip() for line in sys.stdin}
    if _DONE in names:
        return
    with contextlib.suppress(HarnessError):
        hypervisor = Hypervisor(uri)
        for look in range(_LOOKS if names else 0):
            if look:
                pause(_EVERY_S)
            for name in names:
                hypervisor.destroy_named(name)
        hypervisor.close()


if __name__ == "__main__":
    wait_and_destroy(sys.argv[1])
