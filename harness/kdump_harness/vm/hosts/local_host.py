"""This host as the guest host."""

from __future__ import annotations

import contextlib
import shutil
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path

from ...images import file_access
from ...images.state import RunDirectory, State, is_held
from ..hypervisor.domain_xml import Layer
from .qemu_img import backing_chain, is_private, qemu_img

BOOT_ID = "/proc/sys/kernel/random/boot_id"


class LocalHost:
    """This host as the guest host."""

    connection_fds: tuple[int, ...] = ()

    def __init__(self, state: State, directory: RunDirectory, uri: str) -> None:
        self._state, self.directory, self.address = state, directory.path, uri

    def alive(self) -> bool:
        """Return True."""
        return True

    def boot_id(self) -> str:
        """Return the kernel's random identifier of this boot."""
        return Path(BOOT_ID).read_text(encoding="ascii").strip()

    def require_local(self, what: str) -> None:
        """Do nothing: this is the guest host."""

    def require_space(self, need_mib: int, what: str) -> None:
        """Raise HostError if there is too little disk space for the files of guests."""
        self._state.require_space(need_mib, what)

    def require_memory(self, need_mib: int, what: str) -> None:
        """Do nothing: Run waits for memory on this host."""

    def active_runs(self) -> frozenset[str]:
        """Return the identities of the active runs."""
        return self._state.active_runs()

    def is_held(self, directory: Path) -> bool:
        """Return whether an active run holds the lock in this directory."""
        return is_held(directory)

    def blank(self, path: Path, size: str, *, mode: int = 0o644, kind: str = "qcow2") -> None:
        """Create an empty disk of a kind that qemu-img knows."""
        qemu_img("create", "-q", "-f", kind, str(path), size)
        path.chmod(mode)

    def overlay(self, path: Path, base: Path, *, base_format: str) -> None:
        """Create an overlay on BASE."""
        qemu_img("create", "-q", "-f", "qcow2", "-b", str(base), "-F", base_format, str(path))
        path.chmod(0o644)

    @contextlib.contextmanager
    def kept_overlay(self, path: Path, base: Path, *, base_format: str) -> Iterator[Path]:
        """Provide an overlay on BASE at its final path."""
        self.overlay(path, base, base_format=base_format)
        yield path

    def layers(self, overlay: Path) -> tuple[Layer, ...]:
        """Return the backing files of an overlay, from the top down."""
        return tuple(
            Layer(path=path, format=kind, private=is_private(path))
            for path, kind in backing_chain(overlay, "qcow2")[1:]
        )

    def readable(self, layers: Iterable[Layer], uid: int | None) -> contextlib.AbstractContextManager[None]:
        """Let QEMU's user open private backing files within the block; UsageError where that is not possible."""
        if uid is None:
            return contextlib.nullcontext()
        layers = tuple(layers)
        for path in (self.directory, *(layer.path for layer in layers)):
            file_access.require_reachable(path, uid)
        private = [layer.path for layer in layers if layer.private and layer.path.stat().st_uid != uid]
        return file_access.given(private, uid, self.directory)

    def put(self, path: Path) -> Path:
        """Return the path itself."""
        return path

    def take(self, path: Path) -> Path:
        """Return the path itself."""
        return path

    def take_disk(self, path: Path) -> Path:
        """Return the path itself."""
        return path

    def private(self, path: Path) -> None:
        """Create an empty file that only its owner can read."""
        path.touch(mode=0o600, exist_ok=False)

    def copy(self, path: Path, to: Path) -> None:
        """Copy a file of the run."""
        shutil.copyfile(path, to)

    def remove(self, *paths: Path) -> None:
        """Remove files of the run, if they exist."""
        for path in paths:
            path.unlink(missing_ok=True)

    def connect(self, address: str, port: int, timeout_s: float) -> socket.socket:
        """Return a connection to a guest; OSError if it fails."""
        return socket.create_connection((address, port), timeout=timeout_s)
