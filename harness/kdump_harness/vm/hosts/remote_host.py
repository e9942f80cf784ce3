"""A remote guest host, reached by ssh."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import shutil
import socket
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ...base.errors import CommandFailed, HostError, UsageError
from ...base.progress import Progress
from ...base.units import MIB
from ...images.state import Leftover
from ..hypervisor.domain_xml import Layer
from . import remote_scripts as scripts
from .local_host import BOOT_ID
from .qemu_img import backing_chain, is_private, qemu_img
from .ssh_host import SshHost, by_command, where_of

TOOLS = ("qemu-img", "tar", "flock")  # required on the remote host, besides libvirt and a shell
LONG_S = 600.0  # timeout of commands that process a whole disk


class RemoteHost:
    """A remote guest host."""

    def __init__(
        self,
        uri: str,
        directory: Path,
        *,
        state: Path | None = None,
        run: str = "",
        tools: tuple[str, ...] = (),
        progress: Progress,
    ) -> None:
        """Connect and make the directory of a run on the host; HostError if that fails or tools are missing.

        DIRECTORY is on this host, for the files of the connection. Without RUN, nothing is created.
        """
        self._local, self._progress = directory, progress
        self._ssh = SshHost(where_of(uri), directory)
        self._numbers = itertools.count(1)
        self._sent: dict[str, Path] = {}
        self._below: dict[Path, tuple[Path, str]] = {}  # backing files of remote overlays, by their paths on this host
        self._taken: dict[Path, Path] = {}  # remote disks and their copies on this host
        try:
            line = self._ssh.hold(scripts.HOLD, str(state or ""), run, *tools)
            word, _, rest = line.partition(" ")
            if word != "ready":
                why = rest if word == "cannot" else f"its login shell prints {line!r} before the output of commands"
                raise HostError(f"{self._ssh.where} cannot run guests: {why}")
            self.state = Path(rest)
            self.directory = self.state / "runs" / run
            self.address = by_command(uri, self._ssh.command)
            if run:
                for leftover in self._stale_files():
                    leftover.remove()
        except BaseException:
            self._ssh.close()
            raise

    def close(self) -> None:
        """Close the connection, which removes the run's directory."""
        self._ssh.close()

    @property
    def connection_fds(self) -> tuple[int, ...]:
        """The descriptor that keeps the connection, and with it the run's directory."""
        return (self._ssh.life,)

    def alive(self) -> bool:
        """Return whether the connection still works."""
        return self._ssh.alive()

    def boot_id(self) -> str:
        """Return the kernel's random identifier of this boot."""
        return self._ssh.run("cat", BOOT_ID).strip()

    def require_local(self, what: str) -> None:
        """Raise HostError: this is not the guest host."""
        raise HostError(f"{what} works only on the guest host: run kdump-harness on {self._ssh.where}")

    def free_mib(self) -> int:
        """Return the free disk space for the files of guests."""
        lines = self._ssh.run("df", "-Pk", str(self.state)).splitlines()
        return int(lines[-1].split()[3]) // 1024

    def require_space(self, need_mib: int, what: str) -> None:
        """Raise HostError if there is too little disk space for the files of guests."""
        free_mib = self.free_mib()
        if free_mib < need_mib:
            raise HostError(
                f"not enough disk space in {self.state} on {self._ssh.where} for {what}: {need_mib} MiB needed,"
                f" {free_mib} MiB free (run kdump-harness clean --caches with the same --uri, or choose another"
                " directory with --remote-state DIR)"
            )

    def require_memory(self, need_mib: int, what: str) -> None:
        """Raise HostError if the host has too little memory."""
        meminfo = dict(line.partition(":")[::2] for line in self._ssh.run("cat", "/proc/meminfo").splitlines())
        free_mib = int(meminfo["MemAvailable"].split()[0]) // 1024
        if free_mib < need_mib:
            raise HostError(
                f"not enough memory on {self._ssh.where} for {what}: {need_mib} MiB needed, {free_mib} MiB free"
            )

    def lacking(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return the commands, or files by absolute path, that the host lacks."""
        return tuple(self._ssh.shell(scripts.LACKING, *names).splitlines())

    # ------------------------------------------------------------ runs and leftovers

    def _runs(self, kind: str) -> list[str]:
        listed = (line.partition(" ") for line in self._ssh.shell(scripts.RUNS, self.state).splitlines())
        return sorted(name for word, _, name in listed if word == kind)

    def active_runs(self) -> frozenset[str]:
        """Return the identities of the active runs."""
        return frozenset(self._runs("active"))

    def stale_runs(self) -> dict[str, Path]:
        """Return the directories of stale runs, by identity."""
        return {name: self.state / "runs" / name for name in self._runs("stale")}

    def is_held(self, directory: Path) -> bool:
        """Return whether an active run holds the lock in this directory."""
        return bool(self._ssh.shell(scripts.IS_HELD, directory))

    def _stale_files(self) -> list[Leftover]:
        """Return the files of stale runs."""
        on = f"on {self._ssh.where}"
        return [
            Leftover(f"files of the stale run {name} {on}", lambda path=path: self._removed(scripts.REMOVE_RUN, path))  # type: ignore[misc]
            for name, path in self.stale_runs().items()
        ]

    def leftovers(self) -> list[Leftover]:
        """Return the files of stale runs and the unfinished copies."""
        parts = self._ssh.shell(scripts.UNFINISHED, self.state).splitlines()
        return [*self._stale_files(), *(self._copy(part, "unfinished copy") for part in parts)]

    def cached(self) -> list[Leftover]:
        """Return the copies of disks; none while a run is active, which may use them."""
        if self.active_runs():
            return []
        return [self._copy(path, "copy") for path in self._ssh.shell(scripts.COPIES, self.state).splitlines()]

    def _copy(self, path: str, what: str) -> Leftover:
        name = f"{what} {Path(path).stem} on {self._ssh.where}"
        return Leftover(name, lambda: self._removed(scripts.REMOVE_COPY, path))

    def _removed(self, script: str, path: object) -> bool:
        try:
            self._ssh.shell(script, path, timeout_s=LONG_S)
        except CommandFailed:
            return False
        return True

    # ------------------------------------------------------------ disks

    def blank(self, path: Path, size: str, *, mode: int = 0o644, kind: str = "qcow2") -> None:
        """Create an empty disk of a kind that qemu-img knows."""
        self._ssh.shell(scripts.BLANK, path, size, f"{mode:o}", kind)

    def overlay(self, path: Path, base: Path, *, base_format: str) -> None:
        """Create an overlay on a disk of the run, or on the copy of a disk of this host."""
        below = base if self._is_there(base) else self._bring(base, base_format)
        self._ssh.shell(scripts.OVERLAY, path, below, base_format)
        self._below[path] = (base, base_format)

    @contextlib.contextmanager
    def kept_overlay(self, path: Path, base: Path, *, base_format: str) -> Iterator[Path]:
        """Provide an overlay on the remote host; afterwards fetch it to PATH and keep the remote file as its copy."""
        home = self.directory / f"kept-{next(self._numbers)}"
        self._ssh.shell('mkdir "$1"', home)
        disk = home / "disk"
        self.overlay(disk, base, base_format=base_format)
        try:
            yield disk
            self._fetch(disk, path)
            qemu_img("rebase", "-u", "-f", "qcow2", "-b", str(base), "-F", base_format, str(path))
            path.chmod(0o644)
            name = _name_of(path, self._bring(base, base_format).parent.name)
            self._ssh.shell(scripts.ADOPT, self.state / "copies", name, disk)
        finally:
            self._below.pop(disk, None)
            with contextlib.suppress(HostError, CommandFailed):  # the directory of the run is removed later
                self._ssh.shell('rm -rf "$1"', home)

    def layers(self, overlay: Path) -> tuple[Layer, ...]:
        """Return the backing files of an overlay; QEMU's user can read all of them."""
        chain = self._ssh.run("qemu-img", "info", "--force-share", "--output=json", "--backing-chain", str(overlay))
        return tuple(Layer(path=Path(one["filename"]), format=one["format"]) for one in json.loads(chain)[1:])

    def readable(self, layers: Iterable[Layer], uid: int | None) -> contextlib.AbstractContextManager[None]:
        """Do nothing: all users can read the copies."""
        return contextlib.nullcontext()

    def _bring(self, base: Path, base_format: str) -> Path:
        """Return the copy on the host of a disk of this host; send it and its backing files unless they are there."""
        copy, kind = Path(), ""
        name = ""
        for path, path_format in reversed(backing_chain(base, base_format)):
            name = _name_of(path, name)
            if name not in self._sent:
                self._send(path, name, below=(str(copy), kind) if kind else ("", ""))
                self._sent[name] = self.state / "copies" / name / "disk"
            copy, kind = self._sent[name], path_format
        return copy

    def _send(self, path: Path, name: str, *, below: tuple[str, str]) -> None:
        copies = self.state / "copies"
        if self._ssh.shell('if [ -e "$1" ]; then echo exists; fi', copies / name):
            return
        if is_private(path):  # root only: other users were refused
            raise UsageError(
                f"refusing to copy {path} to {self._ssh.where}: it is readable by its owner only, its copy by all users"
            )
        size_mib = path.stat().st_blocks * 512 // MIB + 1
        self.require_space(size_mib, f"the copy of {path}")
        if shutil.which("tar") is None:
            raise HostError("cannot send a disk to a remote host: tar is not installed")
        # GNU tar keeps holes, of which a disk has many.
        pack = ["tar", "-cSf", "-", "--transform", "s,.*,disk,", "-C", str(path.parent), "--", path.name]
        with (
            self._progress.step(f"sending {path.name} to {self._ssh.where}, {size_mib} MiB"),
            subprocess.Popen(pack, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True) as tar,
        ):
            assert tar.stdout is not None
            try:
                self._ssh.feed(
                    tar.stdout, scripts.RECEIVE, copies, name, *below,
                    progress=lambda done: self._progress.detail(f"{done // MIB} MiB"),
                )  # fmt: skip
            finally:
                tar.stdout.close()
                tar.terminate()

    # ------------------------------------------------------------ other files

    def put(self, path: Path) -> Path:
        """Copy a small file to the run's directory on the host."""
        to = self.directory / path.name
        with path.open("rb") as file:
            self._ssh.feed(file, 'cat > "$1"', to, progress=lambda _: None)
        return to

    def take(self, path: Path) -> Path:
        """Move a file to the run's directory on this host."""
        to = self._local / f"{next(self._numbers)}-{path.name}"
        self._fetch(path, to)
        self.remove(path)
        return to

    def take_disk(self, path: Path) -> Path:
        """Copy a disk to the run's directory on this host, with the backing file that it has on this host.

        Disks of snapshots are fetched once rather than for each drill.
        """
        if path in self._taken:
            return self._taken[path]
        to = self._local / f"{next(self._numbers)}-{path.name}"
        self._fetch(path, to)
        if path in self._below:
            base, base_format = self._below[path]
            below = self.take_disk(base) if self._is_there(base) else base
            qemu_img("rebase", "-u", "-f", "qcow2", "-b", str(below), "-F", base_format, str(to))
        self._taken[path] = to
        return to

    def _is_there(self, disk: Path) -> bool:
        """Return whether a disk is one of the run rather than of this host."""
        return disk.is_relative_to(self.directory)

    def _fetch(self, path: Path, to: Path) -> None:
        with self._progress.step(f"fetching {to.name} from {self._ssh.where}"):
            self._ssh.fetch(path, to, progress=lambda done: self._progress.detail(f"{done // MIB} MiB"))

    def private(self, path: Path) -> None:
        """Create an empty file that only its owner can read."""
        self._ssh.shell('umask 077; set -C; : > "$1"', path)

    def copy(self, path: Path, to: Path) -> None:
        """Copy a file of the run."""
        self._ssh.run("cp", "--", str(path), str(to))

    def remove(self, *paths: Path) -> None:
        """Remove files of the run; if the connection is lost, they are removed with its directory."""
        for path in paths:
            self._below.pop(path, None)
            if (copy := self._taken.pop(path, None)) is not None:
                copy.unlink(missing_ok=True)
        if paths:
            with contextlib.suppress(HostError, CommandFailed):
                self._ssh.run("rm", "-f", "--", *map(str, paths))

    def connect(self, address: str, port: int, timeout_s: float) -> socket.socket:
        """Return a connection to a guest through the host; a refused one ends at once."""
        tunnel = self._ssh.connect(address, port)
        tunnel.settimeout(timeout_s)
        return tunnel


def _name_of(path: Path, below: str) -> str:
    """Return the name of a disk's copy, which depends on host, file, content and backing file."""
    status = path.stat()
    parts = (socket.gethostname(), status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, below)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
