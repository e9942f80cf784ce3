"""Provoked failures: each must stop at the right stage and be diagnosed with a symptom and a remedy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import pytest
from faults import SABOTAGES, Sabotage, expect, failing_disk
from kdump_harness.base.clock import Deadline
from kdump_harness.base.stage import Stage
from kdump_harness.distro.family import fill
from kdump_harness.drill.disks import SystemUnderTest
from kdump_harness.drill.dump_server import DumpServer
from kdump_harness.drill.session import Session
from kdump_harness.kdump.crash_monitor import CrashMonitor
from kdump_harness.kdump.service import KdumpConfig, KdumpService
from kdump_harness.kdump.target import KEY, LABEL, MOUNT
from kdump_harness.pytest_plugin import Verdict, pin_image
from kdump_harness.vm.guest import Guest
from kdump_harness.vm.run import Run

HALF_BYTES = 4 << 20  # part of a dump of about 20 MiB
SEND_LOOK_EVERY_S = 2.0
LINK_DOWN_S = 20.0
INTO_THE_DUMP_S = 2.0


@pytest.fixture
def kdump_vcpus() -> int:
    """Return one processor: enough for a failure and cheaper to emulate."""
    return 1


# ------------------------------------------------------------------------------------------------ in the guest


@pytest.mark.parametrize("sabotage", [row for row in SABOTAGES if not row.guest], ids=lambda row: row.name)
def test_a_broken_guest_is_told_what_is_broken(
    drill: Callable[..., Verdict], image: SystemUnderTest, sabotage: Sabotage
) -> None:
    """Exactly one setting in the guest is broken."""
    verdict = drill(before_crash=partial(sabotage.do, image.family), trigger=sabotage.trigger)
    sabotage.expect(verdict)


def test_no_reservation(drill: Callable[..., Verdict]) -> None:
    """Without crashkernel= the drill ends at the panic, and the verdict does not wait for a dump."""
    verdict = drill(config=KdumpConfig(crashkernel="none", level=None, compress=None))
    expect(verdict, Stage.CRASHED, "no-reserved-memory")
    assert "panic-without-kdump" in {symptom["name"] for symptom in verdict.symptoms}, verdict.explain()


@pin_image("debian-12")
def test_a_reservation_that_is_too_small(drill: Callable[..., Verdict]) -> None:
    """The capture kernel starts and runs out of memory. A reservation can be made smaller at run time."""

    def shrink(guest: Guest, service: KdumpService) -> None:
        guest.shell.run("systemctl stop kdump-tools.service && echo $((88 << 20)) > /sys/kernel/kexec_crash_size")
        service.arm()

    verdict = drill(before_crash=shrink)
    expect(verdict, Stage.CAPTURING, "capture-oom")


def test_a_crash_before_the_service_is_up(drill: Callable[..., Verdict]) -> None:
    """No capture kernel is loaded yet; this is known at the panic."""
    verdict = drill(trigger="nmi-while-booting")
    expect(verdict, Stage.CRASHED, "panic-without-kdump")


def test_a_dump_that_is_reset_at_half(drill: Callable[..., Verdict]) -> None:
    """The remaining file is not accepted as a dump, whatever its size."""
    done: list[Deadline] = []

    def reset_in_mid_dump(guest: Guest, watch: CrashMonitor) -> None:
        # Debian's progress appears on the console at the end; the mark "dump" appears when writing begins.
        if not done and "dump" in watch.clock.marks_s and watch.stage < Stage.SAVED:
            done.append(Deadline(INTO_THE_DUMP_S))
        elif len(done) == 1 and done[0].passed:
            done.append(done[0])
            guest.domain.reset()

    # At -d 31 writing takes only seconds.
    verdict = drill(meanwhile=reset_in_mid_dump, config=KdumpConfig(crashkernel=None, level=1, compress=None))
    assert len(done) == 2, verdict.explain()
    expect(verdict, Stage.CAPTURING, "watchdog-reset", "poweroff-mid-dump", failed=("single-dump",))


# ------------------------------------------------------------------------------------------------ the disk for dumps


def test_a_target_disk_that_fails(drill: Callable[..., Verdict], harness_run: Run) -> None:
    """Every write ends with an I/O error from the moment of the crash."""
    with failing_disk(harness_run, 2048, serial=LABEL) as broken:
        verdict = drill(target="ext4", target_disk=broken.disk, on_trigger=lambda _guest: broken.fail())
    expect(verdict, Stage.CAPTURING, "target-io-error", "target-read-only", "target-mount-failed")


def test_a_target_disk_that_is_not_mounted(drill: Callable[..., Verdict]) -> None:
    """The dump is written to the mount point's own filesystem instead of the target."""

    def forget(guest: Guest, _service: KdumpService) -> None:
        guest.shell.run("sed -i '/LABEL=%s/d' /etc/fstab && umount %s", LABEL, MOUNT)

    verdict = drill(target="ext4", before_crash=forget)
    assert not verdict.verified
    check = next(check for check in verdict.failed() if check.name == "single-dump")
    assert check.seen.startswith(f"{MOUNT}/"), verdict.explain()
    assert [s["name"] for s in verdict.symptoms if s["severity"] == "failure"] == ["target-not-mounted"]


# ------------------------------------------------------------------------------------------------ the dump server


@pytest.fixture
def kept(collector: DumpServer) -> Iterator[None]:
    """Restore the dump server's link after the test and assert that no file on the server was lost."""
    before = collector.guest.shell.run(f"find {collector.server.directory} -type f -printf '%p %s %T@\n' | sort").out
    yield
    collector.guest.domain.set_link(True, collector.port.nic)
    after = collector.guest.shell.run(f"find {collector.server.directory} -type f -printf '%p %s %T@\n' | sort").out
    lost = set(before.splitlines()) - set(after.splitlines())
    assert not lost, f"lost or changed on the dump server: {lost}"


def test_a_collector_that_is_down(drill: Callable[..., Verdict], collector: DumpServer, kept: None) -> None:
    """The capture kernel reports that the dump server cannot be reached."""
    verdict = drill(target="ssh", on_trigger=lambda _guest: collector.guest.domain.set_link(False, collector.port.nic))
    expect(verdict, Stage.CAPTURING, "network-not-ready")


def test_a_collector_that_refuses_the_key(drill: Callable[..., Verdict], collector: DumpServer, kept: None) -> None:
    """The dump server accepted the guest's key while arming, but does so no longer."""
    verdict = drill(
        target="ssh",
        on_trigger=lambda guest: collector.server.dismiss(guest.shell.read_text(f"{KEY}.pub")),
    )
    expect(verdict, Stage.CAPTURING, "ssh-auth-failed")


def test_a_collector_with_another_host_key(drill: Callable[..., Verdict], collector: DumpServer, kept: None) -> None:
    """The guest knows another host key for the dump server's name."""

    def change(guest: Guest) -> None:
        guest.shell.run("rm -f /root/other*; ssh-keygen -q -t ed25519 -N '' -f /root/other")
        guest.shell.run(
            "echo %s $(cut -d' ' -f1,2 /root/other.pub) > /root/.ssh/known_hosts; sync", collector.server.name
        )

    verdict = drill(target="ssh", on_trigger=change)
    expect(verdict, Stage.CAPTURING, "ssh-host-key")


class Cutter:
    """A hook that cuts the link to the dump server once a part of the dump has arrived, and may restore it."""

    def __init__(self, collector: DumpServer, *, restore: bool) -> None:
        self._collector, self._restore = collector, restore
        self._look = Deadline(0.0)
        self._down: Deadline | None = None
        self.cut_at_bytes = 0

    def __call__(self, guest: Guest, watch: CrashMonitor) -> None:
        (nic,) = guest.domain.nics
        if self._down is None:
            if not watch.capture_seen or not self._look.passed:
                return
            self._look = Deadline(SEND_LOOK_EVERY_S)
            if (arrived := self._arrived()) >= HALF_BYTES:
                guest.domain.set_link(False, nic)
                self.cut_at_bytes, self._down = arrived, Deadline(LINK_DOWN_S)
        elif self._restore and self._down.passed:
            guest.domain.set_link(True, nic)
            self._restore = False

    def _arrived(self) -> int:
        server = self._collector.server
        sizes = server.shell.run(
            f"stat -c %s {server.directory}/*/*-incomplete 2>/dev/null | sort -n | tail -n 1", check=False
        )
        return int(sizes.out or 0)


def test_a_link_that_is_cut_in_mid_dump(drill: Callable[..., Verdict], collector: DumpServer, kept: None) -> None:
    """The incomplete file on the dump server is not accepted as a dump."""
    cutter = Cutter(collector, restore=False)
    verdict = drill(target="ssh", meanwhile=cutter)
    assert cutter.cut_at_bytes, verdict.explain()
    expect(verdict, Stage.CAPTURING, "poweroff-mid-dump", "dump-truncated")


def test_a_link_that_is_cut_and_restored(drill: Callable[..., Verdict], collector: DumpServer, kept: None) -> None:
    """The dump still arrives complete."""
    cutter = Cutter(collector, restore=True)
    verdict = drill(target="ssh", meanwhile=cutter)
    assert cutter.cut_at_bytes, verdict.explain()
    assert verdict.verified, verdict.explain()


# ------------------------------------------------------------------------------------------------ Secure Boot

_UNSIGNED = """
import shutil, struct
shutil.copyfile("/boot/vmlinuz-{kernel}", "/root/vmlinuz-unsigned")
with open("/root/vmlinuz-unsigned", "r+b") as file:
    head = file.read(4096)
    directories = struct.unpack_from("<I", head, 0x3C)[0] + 24 + 112  # of a PE32+ image
    file.seek(directories + 4 * 8)  # the certificate table
    file.write(bytes(8))
"""


@pin_image("debian-12")
@pytest.mark.parametrize("kdump_firmware", ["uefi-secure"], indirect=True)
def test_secure_boot(drill_session: Callable[..., Session]) -> None:
    """The signed kernel dumps; an unsigned one is refused and diagnosed."""
    session = drill_session()
    signed = session.drill()
    assert signed.verified, signed.explain()

    def remove_signature(guest: Guest, _service: KdumpService) -> None:
        kernel = guest.shell.run("uname -r").out.strip()
        guest.shell.run("python3 -c %s", fill(_UNSIGNED, kernel=kernel))
        guest.shell.run("sed -i 's,^KDUMP_KERNEL=.*,KDUMP_KERNEL=/root/vmlinuz-unsigned,' /etc/default/kdump-tools")
        guest.shell.run("systemctl restart kdump-tools.service", check=False, timeout_s=60 * guest.factor)

    unsigned = session.drill(before_crash=remove_signature)
    expect(unsigned, Stage.CRASHED, "kexec-signature-rejected")
