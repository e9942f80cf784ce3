"""The host of a remote hypervisor."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
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

TOOLS = ("qemu-img", "tar", "flock")  # that the other host must have, beside libvirt and a shell
LONG_S = 600.0  # for what works on a whole disk over there


class RemoteHost:
    """The host of a hypervisor elsewhere."""

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
        """Connect, and make the directory of a run over there; HostError where it cannot be, or lacks tools.

        directory is one of this host, for what the connection needs. Without a run it is only looked at what is there.
        """
        self._local, self._progress = directory, progress
        self._ssh = SshHost(where_of(uri), directory)
        self._numbers = itertools.count(1)
        self._sent: dict[str, Path] = {}
        self._below: dict[Path, tuple[Path, str]] = {}  # what the overlays over there rest on, as it was named here
        self._taken: dict[Path, Path] = {}  # disks over there, and the copies here, which go with them
        try:
            line = self._ssh.hold(scripts.HOLD, str(state or ""), run, *tools)
            word, _, told = line.partition(" ")
            if word != "ready":
                why = (
                    told if word == "cannot" else f"its login shell prints {line!r}, where nothing may come before ours"
                )
                raise HostError(f"{self._ssh.where} cannot run guests for us: {why}")
            self.state = Path(told)
            self.directory = self.state / "runs" / run
            self.address = by_command(uri, self._ssh.command)
            if run:
                for leftover in self._stale_files():
                    leftover.remove()
        except BaseException:
            self._ssh.close()
            raise

    def close(self) -> None:
        """Hang up, which removes the run's directory."""
        self._ssh.close()

    @property
    def connection_fds(self) -> tuple[int, ...]:
        """Who holds it keeps the connection, and with it the run's directory."""
        return (self._ssh.life,)

    def alive(self) -> bool:
        """Whether the connection still stands."""
        return self._ssh.alive()

    def boot_id(self) -> str:
        """The kernel's random identity of its boot."""
        return self._ssh.run("cat", BOOT_ID).strip()

    def require_local(self, what: str) -> None:
        """It is not."""
        raise HostError(
            f"{what} can only be had on the host of the guests, which is {self._ssh.where} (run kdump-harness there)"
        )

    def free_mib(self) -> int:
        """The room for what guests write."""
        told = self._ssh.run("df", "-Pk", str(self.state)).splitlines()
        return int(told[-1].split()[3]) // 1024

    def require_space(self, need_mib: int, what: str) -> None:
        """HostError when there is too little room for what guests write."""
        free_mib = self.free_mib()
        if free_mib < need_mib:
            raise HostError(
                f"{self.state} on {self._ssh.where} needs {need_mib} MiB for {what}, {free_mib} MiB are free"
                " (kdump-harness clean --caches with the same --uri frees some; --remote-state DIR is another place)"
            )

    def require_memory(self, need_mib: int, what: str) -> None:
        """HostError where a guest could not have so much memory."""
        told = dict(line.partition(":")[::2] for line in self._ssh.run("cat", "/proc/meminfo").splitlines())
        free_mib = int(told["MemAvailable"].split()[0]) // 1024
        if free_mib < need_mib:
            raise HostError(f"{what} needs {need_mib} MiB of memory, and {self._ssh.where} has {free_mib} MiB left")

    def lacking(self, names: Sequence[str]) -> tuple[str, ...]:
        """Which of these commands, or files by their whole path, are not over there."""
        return tuple(self._ssh.shell(scripts.LACKING, *names).splitlines())

    # ------------------------------------------------------------ who is there

    def _runs(self, kind: str) -> list[str]:
        listed = (line.partition(" ") for line in self._ssh.shell(scripts.RUNS, self.state).splitlines())
        return sorted(name for word, _, name in listed if word == kind)

    def active_runs(self) -> frozenset[str]:
        """Identities of the runs that go on."""
        return frozenset(self._runs("living"))

    def stale_runs(self) -> dict[str, Path]:
        """Directories of the runs that are gone, by identity."""
        return {name: self.state / "runs" / name for name in self._runs("dead")}

    def is_held(self, directory: Path) -> bool:
        """Whether a living run holds the lock in this directory."""
        return bool(self._ssh.shell(scripts.IS_HELD, directory))

    def _stale_files(self) -> list[Leftover]:
        """What dead runs left."""
        on = f"on {self._ssh.where}"
        return [
            Leftover(f"files of the dead run {name} {on}", lambda path=path: self._removed(scripts.REMOVE_RUN, path))  # type: ignore[misc]
            for name, path in self.stale_runs().items()
        ]

    def leftovers(self) -> list[Leftover]:
        """What dead runs left, and copies that are not whole."""
        parts = self._ssh.shell(scripts.UNFINISHED, self.state).splitlines()
        return [*self._stale_files(), *(self._copy(part, "unfinished copy") for part in parts)]

    def cached(self) -> list[Leftover]:
        """The copies of disks, unless somebody's run may be about to use one."""
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

    def blank(self, path: Path, size: str, *, mode: int = 0o644) -> None:
        """A new qcow2 with nothing on it."""
        self._ssh.shell(scripts.BLANK, path, size, f"{mode:o}")

    def overlay(self, path: Path, base: Path, *, base_format: str) -> None:
        """A new qcow2 on a disk of the run, or on the copy of a disk of this host."""
        below = base if self._is_there(base) else self._bring(base, base_format)
        self._ssh.shell(scripts.OVERLAY, path, below, base_format)
        self._below[path] = (base, base_format)

    @contextlib.contextmanager
    def kept_overlay(self, path: Path, base: Path, *, base_format: str) -> Iterator[Path]:
        """A disk that guests write to over there; its finished state is brought here, and stays there as a copy."""
        home = self.directory / f"kept-{next(self._numbers)}"
        self._ssh.shell('mkdir "$1"', home)
        there = home / "disk"
        self.overlay(there, base, base_format=base_format)
        try:
            yield there
            self._fetch(there, path)
            qemu_img("rebase", "-u", "-f", "qcow2", "-b", str(base), "-F", base_format, str(path))
            path.chmod(0o644)
            name = _name_of(path, self._bring(base, base_format).parent.name)
            self._ssh.shell(scripts.ADOPT, self.state / "copies", name, there)
        finally:
            self._below.pop(there, None)
            with contextlib.suppress(HostError, CommandFailed):  # it goes with the run's directory
                self._ssh.shell('rm -rf "$1"', home)

    def layers(self, overlay: Path) -> tuple[Layer, ...]:
        """The files below an overlay; all of them can be read by QEMU's user."""
        told = self._ssh.run("qemu-img", "info", "--force-share", "--output=json", "--backing-chain", str(overlay))
        return tuple(Layer(path=Path(one["filename"]), format=one["format"]) for one in json.loads(told)[1:])

    def _bring(self, base: Path, base_format: str) -> Path:
        """The copy over there of a disk of this host, with all that it rests on; sent now unless it is there."""
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
        if self._ssh.shell('if [ -e "$1" ]; then echo there; fi', copies / name):
            return
        if is_private(path):  # as root sees it; others were refused
            raise UsageError(f"{path} can be read by its owner alone, and on {self._ssh.where} everybody could read it")
        size_mib = path.stat().st_blocks * 512 // MIB + 1
        self.require_space(size_mib, f"the copy of {path}")
        if shutil.which("tar") is None:
            raise HostError("tar is not installed, which sending a disk to another host needs")
        # GNU tar knows holes, on both sides; a disk has many.
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
        """A copy of a small file in the run's directory over there."""
        to = self.directory / path.name
        with path.open("rb") as file:
            self._ssh.feed(file, 'cat > "$1"', to, progress=lambda _: None)
        return to

    def take(self, path: Path) -> Path:
        """A copy in the run's directory here, instead of the file over there."""
        to = self._local / f"{next(self._numbers)}-{path.name}"
        self._fetch(path, to)
        self.remove(path)
        return to

    def take_disk(self, path: Path) -> Path:
        """A copy in the run's directory here, which rests on the disk of this host that it rests on over there.

        What saved guests rest on is fetched once, and not for each drill.
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
        """Whether a disk is one of the run, and not one of this host."""
        return disk.is_relative_to(self.directory)

    def _fetch(self, path: Path, to: Path) -> None:
        with self._progress.step(f"fetching {to.name} from {self._ssh.where}"):
            self._ssh.fetch(path, to, progress=lambda done: self._progress.detail(f"{done // MIB} MiB"))

    def private(self, path: Path) -> None:
        """A new and empty file that only its owner can read."""
        self._ssh.shell('umask 077; set -C; : > "$1"', path)

    def copy(self, path: Path, to: Path) -> None:
        """Copy a file of the run."""
        self._ssh.run("cp", "--", str(path), str(to))

    def remove(self, *paths: Path) -> None:
        """Remove files of the run; where that cannot be asked for any more, they go with its directory."""
        for path in paths:
            self._below.pop(path, None)
            if (copy := self._taken.pop(path, None)) is not None:
                copy.unlink(missing_ok=True)
        if paths:
            with contextlib.suppress(HostError, CommandFailed):
                self._ssh.run("rm", "-f", "--", *map(str, paths))

    def connect(self, address: str, port: int, timeout_s: float) -> socket.socket:
        """A connection to a guest, from over there; where there is none it ends at once."""
        tunnel = self._ssh.connect(address, port)
        tunnel.settimeout(timeout_s)
        return tunnel


def _name_of(path: Path, below: str) -> str:
    """The name of a disk's copy: another one for each file of each host, for each content, and for what is below it."""
    status = path.stat()
    parts = (socket.gethostname(), status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, below)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
