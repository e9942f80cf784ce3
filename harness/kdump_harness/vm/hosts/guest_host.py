"""The host of the guests and their files: this host, or a remote one that is reached by ssh.

The caches are on this host. A remote host has copies of the disks that guests read. Everything that guests write is in
a directory of the run there; a shell on that host removes the directory when the connection ends.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

from ...base.progress import Progress
from ...images.state import RunDirectory, State
from ..hypervisor.connection import default_uri, is_local
from ..hypervisor.domain_xml import Layer
from .local_host import LocalHost
from .remote_host import TOOLS, RemoteHost


class GuestHost(Protocol):
    """The interface of a guest host, besides libvirt."""

    directory: Path  # directory of the run on the guest host, removed with the run
    address: str  # URI for libvirt

    @property
    def connection_fds(self) -> tuple[int, ...]:
        """Descriptors that keep the connection to the host for a process that survives this one."""

    def alive(self) -> bool:
        """Return whether the host can be reached."""

    def boot_id(self) -> str:
        """Return an identifier of the host's boot."""

    def require_local(self, what: str) -> None:
        """Raise HostError if the guests run on a remote host; WHAT is available only on the guest host."""

    def require_space(self, need_mib: int, what: str) -> None:
        """Raise HostError if there is too little disk space for the files of guests."""

    def require_memory(self, need_mib: int, what: str) -> None:
        """Raise HostError if the host has too little memory."""

    def active_runs(self) -> frozenset[str]:
        """Return the identities of the active runs."""

    def is_held(self, directory: Path) -> bool:
        """Return whether an active run holds the lock in this directory."""

    def blank(self, path: Path, size: str, *, mode: int = 0o644, kind: str = "qcow2") -> None:
        """Create an empty disk of a kind that qemu-img knows."""

    def overlay(self, path: Path, base: Path, *, base_format: str) -> None:
        """Create an overlay on BASE, a disk of the run or of this host."""

    def kept_overlay(self, path: Path, base: Path, *, base_format: str) -> contextlib.AbstractContextManager[Path]:
        """Provide an overlay on BASE; after a successful block it is at PATH on this host."""

    def layers(self, overlay: Path) -> tuple[Layer, ...]:
        """Return the backing files of an overlay, from the top down."""

    def readable(self, layers: Iterable[Layer], uid: int | None) -> contextlib.AbstractContextManager[None]:
        """Let QEMU's user, UID, open private backing files within the block."""

    def put(self, path: Path) -> Path:
        """Return the path on the guest host of a file in the run's directory on this host."""

    def take(self, path: Path) -> Path:
        """Return the path on this host of a file that guests or libvirt wrote, or of its copy."""

    def take_disk(self, path: Path) -> Path:
        """Return the path on this host of the disk of a guest that is shut off, or of its copy."""

    def private(self, path: Path) -> None:
        """Create an empty file for libvirt that only its owner can read."""

    def copy(self, path: Path, to: Path) -> None:
        """Copy a file of the run."""

    def remove(self, *paths: Path) -> None:
        """Remove files of the run, if they exist."""

    def connect(self, address: str, port: int, timeout_s: float) -> socket.socket:
        """Return a connection to a guest; OSError if it fails."""


@contextlib.contextmanager
def open_guest_host(
    uri: str | None, state: State, directory: RunDirectory, *, remote_state: Path | None, progress: Progress
) -> Iterator[GuestHost]:
    """Open the guest host of a hypervisor for a run."""
    uri = uri or default_uri()
    if is_local(uri):
        yield LocalHost(state, directory, uri)
        return
    host = RemoteHost(uri, directory.path, state=remote_state, run=directory.identity, tools=TOOLS, progress=progress)
    try:
        yield host
    finally:
        host.close()
