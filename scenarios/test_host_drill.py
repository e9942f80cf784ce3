"""Drills of a guest as of a machine that exists: its console is the output of virsh, and virsh resets it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from as_host import NAME, SERVER, ssh_to
from kdump_harness.__main__ import main
from kdump_harness.base.evidence import Evidence
from kdump_harness.drill.disks import SystemUnderTest
from kdump_harness.drill.dump_server import DumpServer
from kdump_harness.kdump.service import KdumpService
from kdump_harness.kdump.target import find_target
from kdump_harness.pytest_plugin import pin_image
from kdump_harness.vm.guest import Guest
from kdump_harness.vm.run import Run

HANG = """
printf '[Service]\\nExecStartPre=/bin/sh -c "echo 1 > /proc/sys/kernel/sysrq; echo c > /proc/sysrq-trigger"\\n' \\
    > /etc/systemd/system/kdump-tools-dump.service.d/sabotage.conf; systemctl daemon-reload; sync"""


@pytest.fixture
def vcpus() -> int:
    """Return one processor: enough for a drill and cheaper to emulate."""
    return 1


def drilled(
    guest: Guest,
    run: Run,
    evidence: Evidence,
    place: Path,
    *,
    console: bool = True,
    dumps_on: DumpServer | None = None,
) -> tuple[int, dict[str, Any]]:
    """Drill the guest by the command line; return exit status and verdict."""
    virsh = f"virsh -c {run.hypervisor.uri}"
    result = place / "verdict.json"
    more = ["--console", f"{virsh} console --force {guest.domain.name}"] if console else []
    if dumps_on is not None:
        more += ["--dumps-on", f"root@{SERVER}:{dumps_on.server.directory}"]
    ssh = ssh_to(guest, place, server=dumps_on.guest if dumps_on is not None else None)
    options = ["--json", str(result), "--evidence", str(evidence.directory / "host"), "--history", "none"]
    status = main(
        [
            "drill", "--host", NAME, "--ssh", " ".join(ssh),
            # After a panic for good, the panic device has paused the guest.
            "--reset", f"sh -c '{virsh} reset {guest.domain.name}; {virsh} resume {guest.domain.name}'",
            "--yes-crash", guest.shell.run("hostname").out.strip(),
            "--timeout-factor", str(run.slowness), *options, *more,
        ]
    )  # fmt: skip
    return status, json.loads(result.read_text(encoding="utf-8"))


@pin_image("debian-12")
def test_a_machine_that_dumps(armed_guest: Guest, harness_run: Run, evidence: Evidence, tmp_path: Path) -> None:
    """The machine is audited, crashed, and verified."""
    status, verdict = drilled(armed_guest, harness_run, evidence, tmp_path)
    assert verdict["verified"], verdict
    assert status == 0


@pin_image("debian-12")
def test_a_machine_whose_dump_goes_to_a_server(
    connected_guest: Guest,
    image: SystemUnderTest,
    harness_run: Run,
    evidence: Evidence,
    collector: DumpServer,
    tmp_path: Path,
) -> None:
    """The dump is found by a second ssh on the server that it was sent to."""
    service = KdumpService(connected_guest, image.family)
    service.identify()
    service.wait_until_loaded()
    if find_target("ssh", service.family, collector.server).configure(connected_guest, service):
        service.arm()
    status, verdict = drilled(connected_guest, harness_run, evidence, tmp_path, dumps_on=collector)
    assert verdict["verified"], verdict
    assert (status, verdict["target"]) == (0, "ssh")


@pin_image("debian-12")
def test_a_machine_without_a_console(armed_guest: Guest, harness_run: Run, evidence: Evidence, tmp_path: Path) -> None:
    """The machine is verified by its next boot and its dump."""
    status, verdict = drilled(armed_guest, harness_run, evidence, tmp_path, console=False)
    assert verdict["verified"], verdict
    assert status == 0
    assert any("--console was not given" in remark for remark in verdict["remarks"])


@pin_image("debian-12")
def test_a_machine_that_hangs(armed_guest: Guest, harness_run: Run, evidence: Evidence, tmp_path: Path) -> None:
    """The command of --reset brings back a machine whose capture kernel panics, and stays so."""
    armed_guest.shell.run(HANG)
    status, verdict = drilled(armed_guest, harness_run, evidence, tmp_path)
    assert (status, verdict["verified"], verdict["reached"]) == (1, False, "CAPTURING")
    assert verdict["stopped_by"].startswith("the capture kernel panicked"), verdict["stopped_by"]
    assert any("was reset by" in remark and "it answers again" in remark for remark in verdict["remarks"])
