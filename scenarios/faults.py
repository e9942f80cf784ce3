"""Injected faults in a guest: its settings, and its hardware."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from kdump_harness.base import tables
from kdump_harness.base.clock import poll
from kdump_harness.base.errors import HostError
from kdump_harness.base.stage import Stage
from kdump_harness.distro.family import Family, fill
from kdump_harness.kdump.service import KdumpService
from kdump_harness.pytest_plugin import Verdict
from kdump_harness.vm.guest import Guest
from kdump_harness.vm.hypervisor.domain_xml import Disk
from kdump_harness.vm.run import Run

START_TIMEOUT_S = 10.0
FIRST = "first"  # in place of the name of the first failure
BREAK_TIMEOUT_S = 300.0  # for a guest under KVM; some install packages


@dataclass(frozen=True, kw_only=True)
class Sabotage:
    """A row of sabotage.toml."""

    name: str
    reached: str
    symptom: tuple[str, ...]
    breaks: dict[str, str]
    stops: str = ""
    trigger: str = "sysrq-c"
    failed: tuple[str, ...] = ()
    guest: str = ""
    restart: bool = False
    remedies: tuple[str, ...] = (FIRST,)
    followed_by: dict[str, str] = field(default_factory=dict)

    def do(self, family: Family, guest: Guest, _service: KdumpService) -> None:
        """Break the guest; skip the test where the row has no commands for the family."""
        if family.name not in self.breaks:
            pytest.skip(f"sabotage.toml has no sabotage {self.name} for the family {family.name}")
        kernel = guest.shell.run("uname -r").out.strip()
        guest.shell.run(fill(self.breaks[family.name], kernel=kernel), timeout_s=BREAK_TIMEOUT_S * guest.factor)

    def expect(self, verdict: Verdict) -> None:
        """Assert that the drill failed as the row says."""
        expect(verdict, Stage[self.reached], *self.symptom, stops=self.stops, failed=self.failed)


SABOTAGES = tables.load_rows(Path(__file__).with_name("sabotage.toml"), "sabotage", Sabotage)


def expect(verdict: Verdict, reached: Stage, *symptoms: str, stops: str = "", failed: tuple[str, ...] = ()) -> None:
    """Assert that the drill stopped at a stage with one of these symptoms, a one-line reason and a remedy."""
    assert not verdict.verified
    assert verdict.reached is reached, verdict.explain()
    failures = [symptom for symptom in verdict.symptoms if symptom["severity"] == "failure"]
    assert failures, verdict.explain()
    assert failures[0]["name"] in symptoms, verdict.explain()
    assert failures[0]["remedy"], failures[0]
    assert "\n" not in verdict.reason()
    assert not re.search(r"s after the panic still waiting", verdict.stopped_by or ""), verdict.explain()
    assert re.search(stops, verdict.stopped_by or ""), verdict.explain()
    assert set(failed) <= {check.name for check in verdict.failed()}, verdict.explain()


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
