"""Injected faults in a guest's hardware."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kdump_harness.base.clock import poll
from kdump_harness.base.errors import HostError
from kdump_harness.vm.hypervisor.domain_xml import Disk
from kdump_harness.vm.run import Run

START_TIMEOUT_S = 10.0


@dataclass(frozen=True, kw_only=True)
class FailingDisk:
    """A disk that works until fail() is called."""

    disk: Disk
    switch: Path

    def fail(self) -> None:
        """Make every further write end with an I/O error; existing data can still be read."""
        self.switch.touch()


@contextlib.contextmanager
def failing_disk(run: Run, size_mib: int, *, serial: str) -> Iterator[FailingDisk]:
    """Serve a blank disk through nbdkit's error filter. HostError if nbdkit is not installed."""
    run.host.require_local("a disk that fails")
    if shutil.which("nbdkit") is None:
        raise HostError("a disk that fails needs nbdkit (package nbdkit)")
    place = run.directory.path
    image, socket, switch = place / f"{serial}.raw", place / f"{serial}.socket", place / f"{serial}.fails"
    with image.open("xb") as file:
        file.truncate(size_mib << 20)
    command = [
        "nbdkit", "--foreground", "--exit-with-parent",
        "--unix", str(socket),
        "--filter=error", "file", str(image),
        "error=EIO", "error-pwrite-rate=100%", f"error-pwrite-file={switch}",
        "error-zero-rate=100%", f"error-zero-file={switch}",
    ]  # fmt: skip
    log = run.log_path(f"nbdkit-{serial}.log")
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT)
    try:
        poll(
            "nbdkit to listen",
            lambda: True if socket.exists() else None,
            timeout_s=START_TIMEOUT_S,
            every_s=0.05,
            give_up=lambda: (
                f"it ended with status {process.returncode} (see {log})" if process.poll() is not None else None
            ),
        )
        socket.chmod(0o666)  # QEMU runs as another user
        yield FailingDisk(disk=Disk(socket=socket, serial=serial), switch=switch)
    finally:
        process.terminate()
        process.wait()
        for path in (image, socket, switch):
            path.unlink(missing_ok=True)
