"""A process that outlives the harness and destroys restored guests if the harness is killed.

libvirt destroys started domains when the connection ends (VIR_DOMAIN_START_AUTODESTROY), but has no such flag for
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

_DONE = "/"  # not a possible name of a domain
# A restore that was in progress shows its domain only after libvirt has read the head of the file.
_LOOKS, _EVERY_S = 4, 2.0


class Reaper:
    """The process that knows which domains must not outlive this one."""

    def __init__(self, uri: str, connection_fds: tuple[int, ...] = ()) -> None:
        """CONNECTION_FDS are descriptors that keep the connection to the guest host open."""
        self._process = subprocess.Popen(
            # -P: files of the current directory are not imported. A separate session does not receive Ctrl-C.
            [sys.executable, "-P", "-m", "kdump_harness.vm.reaper", uri],
            stdin=subprocess.PIPE,
            text=True,
            start_new_session=True,
            pass_fds=connection_fds,
        )
        self._lock = threading.Lock()

    def hold(self, name: str) -> None:
        """Add a domain that the reaper destroys if this process is killed."""
        self._send(name)

    def close(self) -> None:
        """End the reaper: all domains have been destroyed."""
        self._send(_DONE)
        with contextlib.suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        self._process.wait()

    def _send(self, line: str) -> None:
        assert self._process.stdin is not None
        with (
            self._lock,
            contextlib.suppress(OSError),
        ):  # the reaper was killed; `clean` removes the guests
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()


def wait_and_destroy(uri: str) -> None:
    """Read names from standard input and destroy the domains, unless the last line reports a regular end."""
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
