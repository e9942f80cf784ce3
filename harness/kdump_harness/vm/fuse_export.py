"""A part of a guest's disk as a file on this host, through QEMU's FUSE export and without a copy."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from ..base.clock import poll
from ..base.errors import CommandFailed, WaitedInVain

DAEMON = "qemu-storage-daemon"  # of QEMU 6.0 and later; FUSE export is a build option
_HOLDER = "setpriv"  # ends the daemon with this process, even if killed (util-linux 2.33)
_START_S, _END_S = 10.0, 10.0
_LOOK_EVERY_S = 0.02


class CannotExport(CommandFailed):
    """This host cannot export a disk."""


def missing() -> str | None:
    """Return what this host lacks for an export; None if nothing is known to be missing."""
    for tool in (DAEMON, _HOLDER):
        if shutil.which(tool) is None:
            return f"{tool} is not installed"
    return None if Path("/dev/fuse").exists() else "/dev/fuse is missing"


@contextlib.contextmanager
def exported(disk: Path, file: Path, *, start_bytes: int, size_bytes: int) -> Iterator[Path]:
    """Provide a part of a qcow2 disk as a file within the block; writes go to a temporary overlay.

    Raises CannotExport. The file must not exist, and is removed afterwards.
    """
    overlay = file.with_name(f"{file.name}.overlay")
    arguments = [
        {"driver": "qcow2", "node-name": "disk", "file": {"driver": "file", "filename": str(overlay)}},
        {"driver": "raw", "node-name": "part", "file": "disk", "offset": start_bytes, "size": size_bytes},
    ]
    export = {"type": "fuse", "id": "part", "node-name": "part", "mountpoint": str(file), "writable": True}
    process: subprocess.Popen[str] | None = None
    try:
        _run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", str(disk), str(overlay))
        file.touch(mode=0o600)
        process = subprocess.Popen(
            [_HOLDER, "--pdeathsig", "TERM", DAEMON]
            + [word for one in arguments for word in ("--blockdev", json.dumps(one))]
            + ["--export", json.dumps(export)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,  # no Ctrl-C: this process ends the daemon after the last read
        )
        _wait(process, file, size_bytes)
        yield file
    finally:
        if process is not None:
            _end(process, file)
        file.unlink(missing_ok=True)
        overlay.unlink(missing_ok=True)


def _wait(process: subprocess.Popen[str], file: Path, size_bytes: int) -> None:
    def ended() -> str | None:
        if process.poll() is None:
            return None
        assert process.stderr is not None
        said = process.stderr.read().strip().splitlines() or [f"status {process.returncode}"]
        return said[-1]

    try:
        poll(
            "the export of the disk",
            lambda: True if file.stat().st_size == size_bytes else None,
            timeout_s=_START_S,
            every_s=_LOOK_EVERY_S,
            give_up=ended,
        )
    except (WaitedInVain, OSError) as error:
        raise CannotExport(f"{DAEMON}: {error}") from None


def _end(process: subprocess.Popen[str], file: Path) -> None:
    """End the daemon, which unmounts; after a timeout kill it and unmount."""
    process.terminate()
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        subprocess.run(["umount", "-l", str(file)], capture_output=True, check=False)
    if process.stderr is not None:
        process.stderr.close()


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise CannotExport(f"{command[0]}: {lines[-1]}")
