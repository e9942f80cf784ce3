"""Where the files of guests are: on this host, or on that of a hypervisor elsewhere, which ssh reaches.

Caches are this host's. The other one gets copies of the disks that guests read, and has everything that guests write in
a directory of the run, which its own shell removes when it hears no more of us.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from ...base.progress import Progress
from ...images.state import RunDirectory, State
from ..hypervisor.connection import default_uri, is_local
from ..hypervisor.domain_xml import Layer
from .local_host import LocalHost
from .remote_host import TOOLS, RemoteHost


class GuestHost(Protocol):
    """What a run needs of the host that its guests run on, beside libvirt."""

    directory: Path  # of the run, over there: what lies in it is thrown away with the run
    address: str  # the URI that libvirt is given

    @property
    def connection_fds(self) -> tuple[int, ...]:
        """Descriptors for a process that still needs libvirt's connection when we are dead."""

    def alive(self) -> bool:
        """Whether the host can still be asked."""

    def boot_id(self) -> str:
        """What tells one boot of the host from the next."""

    def require_local(self, what: str) -> None:
        """HostError where the guests' host is another one, for what can only be done on it."""

    def require_space(self, need_mib: int, what: str) -> None:
        """HostError when there is too little room for what guests write."""

    def require_memory(self, need_mib: int, what: str) -> None:
        """HostError where a guest could not have so much memory."""

    def active_runs(self) -> frozenset[str]:
        """Identities of the runs that go on."""

    def is_held(self, directory: Path) -> bool:
        """Whether a living run holds the lock in this directory."""

    def blank(self, path: Path, size: str, *, mode: int = 0o644) -> None:
        """A new qcow2 with nothing on it."""

    def overlay(self, path: Path, base: Path, *, base_format: str) -> None:
        """A new qcow2 whose unchanged parts are read from base, a disk of the run or of this host."""

    def kept_overlay(self, path: Path, base: Path, *, base_format: str) -> contextlib.AbstractContextManager[Path]:
        """A disk on base for guests to write to, which is at path on this host when the block has ended well."""

    def layers(self, overlay: Path) -> tuple[Layer, ...]:
        """The files below an overlay, from the top down; UsageError for one that QEMU's user could not read."""

    def put(self, path: Path) -> Path:
        """Where guests find a file of the run's directory on this host."""

    def take(self, path: Path) -> Path:
        """Where this host finds a file that guests or libvirt wrote; it may be the copy of it."""

    def take_disk(self, path: Path) -> Path:
        """The same for a disk of a guest that is off."""

    def private(self, path: Path) -> None:
        """A new and empty file that only its owner can read, for libvirt to write to."""

    def copy(self, path: Path, to: Path) -> None:
        """Copy a file of the run."""

    def remove(self, *paths: Path) -> None:
        """Remove files of the run, as far as they are there."""

    def connect(self, address: str, port: int, timeout_s: float) -> socket.socket:
        """A connection to a guest; OSError where there is none."""


@contextlib.contextmanager
def open_guest_host(
    uri: str | None, state: State, directory: RunDirectory, *, remote_state: Path | None, progress: Progress
) -> Iterator[GuestHost]:
    """The host of the hypervisor, for as long as a run needs it."""
    uri = uri or default_uri()
    if is_local(uri):
        yield LocalHost(state, directory, uri)
        return
    there = RemoteHost(uri, directory.path, state=remote_state, run=directory.identity, tools=TOOLS, progress=progress)
    try:
        yield there
    finally:
        there.close()
