"""Tests of a whole drill, from its boot to its verdict, on a guest that replays a recorded console."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fakes import FakeClock, FakeGuest, FakeShell, fake_run
from kdump_harness.audit.host_drill import HostDrill
from kdump_harness.base.errors import EXIT_FAILED, EXIT_UNJUDGED
from kdump_harness.base.evidence import Evidence
from kdump_harness.base.stage import Stage
from kdump_harness.base.verdict import Verdict
from kdump_harness.distro.family import find_family
from kdump_harness.drill import checks, crash
from kdump_harness.drill.checks import REQUIRED_CHECKS
from kdump_harness.drill.disks import SystemUnderTest
from kdump_harness.drill.plan import Plan
from kdump_harness.drill.steps import Drill
from kdump_harness.fallback.records import Fallback
from kdump_harness.kdump.capture_image.archive import CannotList
from kdump_harness.kdump.capture_image.judge import ImageFacts
from kdump_harness.kdump.service import KdumpService
from kdump_harness.kdump.target import Server

DATA = Path(__file__).parents[1] / "data"
RECORD = (DATA / "drills" / "debian-12-verified.log").read_bytes()
BOOT_END = RECORD.index(b"login: ") + len(b"login: ")
BOOT, CRASH = RECORD[:BOOT_END], RECORD[BOOT_END:]
IN_CAPTURE = CRASH[: CRASH.index(b"Run /init as init process")]
CAPTURE_OOM = (
    b"\r\n[    9.1] Out of memory: Killed process 143 (makedumpfile) total-vm:29360kB"
    b"\r\n[    9.2] Kernel panic - not syncing: System is deadlocked on memory\r\n"
)
# A dump of another guest with the same panic, cut down to the pages of its kernel log.
VMCORE = DATA / "vmcore" / "logs" / "6.12.107.kdump"
NONCE = "0123456789abcdef"
CRASH_S = 1_780_000_000.0
DUMP = "/var/crash/202611221705/dump.202611221705"
PROBES = {
    "kernel": "6.12.107+deb13-cloud-amd64",
    "cmdline": "root=/dev/vda1 crashkernel=256M",
    "loaded": "1",
    "crash_size_bytes": str(256 << 20),
    "iomem": "  2f000000-3effffff : Crash kernel",
    "crash_cma": "",
    "os_release": 'ID=debian\nVERSION_ID="12"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"',
    "meminfo": "MemTotal: 138488 kB\nMemFree: 138300 kB\nSlab: 4 kB",
    "clock_s": str(CRASH_S),
    "hostname": "debian-12-2",
    "machine_id": "0123456789abcdef0123456789abcdef",
    "makedumpfile": "makedumpfile: version 1.7.2 (released on 20 Oct 2022)",
    "config": "",
}


@pytest.fixture
def drill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fake_clock: FakeClock) -> Any:
    """Return a function that drills a fake guest."""
    really = checks.inspect_opened
    monkeypatch.setattr(
        checks, "inspect_opened", lambda vmcore: dataclasses.replace(really(vmcore), crash_time_s=CRASH_S)
    )
    monkeypatch.setattr(crash.secrets, "token_hex", lambda _bytes: NONCE)
    monkeypatch.setattr(KdumpService, "formats", lambda *_: ("kdump",))

    def take(guest: FakeGuest, made: Any = Drill, **changes: Any) -> Verdict:
        run = fake_run()
        family = find_family("debian")
        plan = Plan(subject=SystemUnderTest(name="debian-12", family=family), **changes)
        replayed: Any = guest
        with contextlib.closing(Evidence(tmp_path / "drill")) as evidence:
            drill = made(run, plan, evidence)
            return drill.take(replayed, KdumpService(replayed, family), drill.boot)

    return take


def test_a_good_crash_is_followed_to_a_verified_verdict(drill: Any, tmp_path: Path) -> None:
    verdict = drill(FakeGuest(BOOT, CRASH, probes=PROBES, dump=(DUMP, VMCORE)))
    assert verdict.machine_id == PROBES["machine_id"]
    assert verdict.verified, verdict.explain()
    assert {check.name for check in verdict.checks} == REQUIRED_CHECKS | {"capture-memory"}
    assert list(verdict.phases_s) == ["boot", "panic_to_capture", "capture_boot", "dump", "reboot", "panic_to_login"]
    assert (verdict.release, verdict.crashkernel, verdict.reserved_mib) == ("Debian 12", "256M", 256)
    assert verdict.reserved == {
        "high_mib": 0, "low_mib": 256, "cma_mib": 0, "fixed_ranges": ["2f000000-3effffff"], "cma_ranges": [],
    }  # fmt: skip
    assert verdict.dump["path"] == DUMP
    left = {path.name for path in (tmp_path / "drill").iterdir()}
    assert {"before.json", "found.json", "inspect.json", "panic.txt", "verdict.json"} <= left
    assert "dump.202611221705" not in left  # keep is never


def test_the_memory_that_cma_keeps_from_the_dump_is_in_the_verdict(drill: Any) -> None:
    probes = {**PROBES, "cmdline": "crashkernel=256M crashkernel=64M,cma", "crash_cma": "20000000-23ffffff"}
    verdict = drill(FakeGuest(BOOT, CRASH, probes=probes, dump=(DUMP, VMCORE)))
    assert verdict.verified, verdict.explain()
    assert verdict.crashkernel == "256M crashkernel=64M,cma"
    assert verdict.reserved["cma_mib"] == 64
    assert verdict.left_out == {"page_frames": 16384, "mib": 64, "in_use": {}}
    assert "the dump leaves out the CMA range of the reservation: 16,384 page frames (64 MiB)" in verdict.remarks


@pytest.mark.parametrize("number", [0, 2])
def test_dimms_that_the_capture_kernel_may_have_added_are_counted(drill: Any, number: int) -> None:
    paths = "".join(f"/sys/bus/acpi/devices/PNP0C80:0{one}/status\n" for one in range(number))
    none = "grep: /sys/bus/acpi/devices/PNP0C80:*/status: No such file or directory"
    verdict = drill(FakeGuest(BOOT, CRASH, probes={**PROBES, "acpi_memory": paths or none}, dump=(DUMP, VMCORE)))
    assert verdict.verified, verdict.explain()
    assert any("the memory of 2 ACPI memory devices" in remark for remark in verdict.remarks) is bool(number)
    assert any(check.name == "capture-memory" for check in verdict.checks) is not bool(number)


def test_a_machine_without_a_console_is_judged_by_its_next_boot_and_its_dump(drill: Any) -> None:
    guest = FakeGuest(BOOT, b"", probes=PROBES, dump=(DUMP, VMCORE))
    verdict = drill(guest, functools.partial(HostDrill, console=False))
    assert verdict.verified, verdict.explain()
    assert "only the next boot of the machine and its dump were judged: --console was not given" in verdict.remarks


def test_a_machine_without_a_console_and_a_dump_has_crashed(drill: Any) -> None:
    verdict = drill(FakeGuest(BOOT, b"", probes=PROBES), functools.partial(HostDrill, console=False))
    assert (verdict.reached, verdict.verified) == (Stage.CRASHED, False)
    assert {check.name: check.ok for check in verdict.checks} == {
        "single-dump": False, "final-name": False, "reboot-time": True, "rebooted": True, "rearmed": True,
    }  # fmt: skip


def test_a_machine_whose_console_falls_silent_is_judged_by_its_next_boot(drill: Any) -> None:
    verdict = drill(
        FakeGuest(BOOT, IN_CAPTURE, probes=PROBES, dump=(DUMP, VMCORE)), functools.partial(HostDrill, console=True)
    )
    assert verdict.verified, verdict.explain()
    (remark,) = [remark for remark in verdict.remarks if "next boot" in remark]
    assert "were judged: the console has been silent for 20 s while waiting for the capture kernel" in remark


def test_a_machine_that_does_not_come_back_says_so(drill: Any) -> None:
    guest = FakeGuest(BOOT, IN_CAPTURE, probes=PROBES)
    guest.connect = lambda: "first-boot"  # type: ignore[method-assign]
    verdict = drill(guest, functools.partial(HostDrill, console=True))
    assert verdict.stopped_by.endswith("; the machine did not answer as another boot either")


def test_a_guest_with_nothing_loaded_is_judged_without_a_crash(drill: Any) -> None:
    guest = FakeGuest(BOOT, CRASH, probes={**PROBES, "loaded": "0"})
    verdict = drill(guest)
    assert (verdict.reached, verdict.verified, guest.shell.started) == (Stage.NOTHING, False, [])
    assert verdict.stopped_by == "kdump is not armed: kdump-tools.service has failed"


def test_a_capture_kernel_without_enough_memory_is_named(drill: Any) -> None:
    verdict = drill(FakeGuest(BOOT, IN_CAPTURE + CAPTURE_OOM, probes=PROBES))
    assert verdict.reached is Stage.CAPTURING
    assert verdict.stopped_by == (
        "the capture kernel panicked: Kernel panic - not syncing: System is deadlocked on memory"
    )
    assert verdict.symptoms[0]["name"] == "capture-oom"
    assert [(check.name, check.ok) for check in verdict.checks] == [("capture-memory", True)]


WRITTEN = b"The dumpfile is saved to STDOUT."


@pytest.mark.parametrize(
    "after",
    [
        IN_CAPTURE + CAPTURE_OOM,
        CRASH.replace(b"saved vmcore", b"failed to save vmcore"),
        CRASH.replace(WRITTEN, b"copy_vmcoreinfo: Can't write the vmcoreinfo file. No space left on device")
        .replace(b"makedumpfile Completed.", b"makedumpfile Failed."),
        CRASH.replace(WRITTEN, b"makedumpfile: command not found"),
    ],
    ids=["the capture kernel panics", "kdump reports a failure", "makedumpfile reports a failure", "an empty file"],
)  # fmt: skip
def test_the_memory_is_taken_while_a_drill_that_failed_shows_the_crash(
    drill: Any, after: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[str] = []
    monkeypatch.setattr(Fallback, "take_memory", lambda *_: taken.append("taken"))
    verdict = drill(FakeGuest(BOOT, after, probes=PROBES), fallback=("hypervisor",))
    assert not verdict.verified
    assert set(taken) == {"taken"}
    assert [(one["source"], one["path"]) for one in verdict.fallback] == [("hypervisor", None)]


def test_a_verified_drill_keeps_no_other_record(drill: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Fallback, "take_memory", lambda *_: pytest.fail("the memory of a good drill"))
    guest = FakeGuest(BOOT, CRASH, probes=PROBES, dump=(DUMP, VMCORE))
    verdict = drill(guest, fallback=("pstore", "hypervisor"))
    assert verdict.verified, verdict.explain()
    assert verdict.fallback == []


def test_a_crash_that_leaves_no_dump_fails_the_checks_of_the_dump(drill: Any) -> None:
    verdict = drill(FakeGuest(BOOT, CRASH, probes=PROBES))
    assert (verdict.reached, verdict.verified) == (Stage.RECOVERED, False)
    assert [check.name for check in verdict.failed()] == ["single-dump", "final-name"]


def test_a_dump_sent_to_a_server_is_fetched_from_there(drill: Any) -> None:
    shell = FakeShell({})
    shell.owner = "dumps"
    there: Any = shell
    server = Server(
        name="crash-server", address="192.0.2.1", host_key="ssh-ed25519 AAAA", user="dumps", directory="/srv/dumps",
        shell=there,
    )  # fmt: skip
    path = "/srv/dumps/debian-12-2-202611221705/dump.202611221705"
    guest = FakeGuest(BOOT, CRASH, probes=PROBES, dump=(path, VMCORE), dump_shell=shell)
    verdict = drill(guest, target="ssh", server=server)
    assert verdict.verified, verdict.explain()
    assert (verdict.dump["place"], verdict.dump["path"]) == ("crash-server", path)
    assert 'SSH="dumps@crash-server"' in guest.shell.files["/etc/default/kdump-tools"]


@pytest.mark.parametrize("looked_at", [False, True])
def test_a_dump_that_is_not_here_was_sent_elsewhere_or_is_missing(drill: Any, looked_at: bool) -> None:
    """Where the dumps of a guest as it is can be looked at, a dump that is not there is missing."""
    shell: Any = FakeShell({})
    server = Server(
        name="vault", address="192.0.2.1", host_key="ssh-ed25519 AAAA", user="kdump", directory="/srv/dumps",
        shell=shell,
    )  # fmt: skip
    guest = FakeGuest(BOOT, CRASH, probes=PROBES)
    guest.shell.files["/etc/default/kdump-tools"] = 'USE_KDUMP=1\nSSH="kdump@vault"\n'
    where = {"target": "ssh", "server": server} if looked_at else {}
    verdict = drill(guest, as_is=True, **where)
    assert verdict.exit_status == (EXIT_FAILED if looked_at else EXIT_UNJUDGED), verdict.explain()
    assert ("single-dump" in {check.name for check in verdict.failed()}) is looked_at
    assert bool(verdict.not_judged) is not looked_at


def test_files_next_to_a_dump_do_not_become_records_of_the_harness(tmp_path: Path) -> None:
    """The guest chooses their names and their number."""
    names = ["oracle.json", "domain.xml", "x.jsonl", "a\nb", "README.txt", "vmcore", "console.log", "é"]
    names += [f"dmesg.{number}" for number in range(50)]
    fetched: list[str] = []
    files = SimpleNamespace(
        small_files=lambda place: [f"{place}/{name}" for name in names],
        fetch=lambda path, to: fetched.append(to.name),
    )
    (tmp_path / "console.log").touch()
    one = SimpleNamespace(evidence=SimpleNamespace(directory=tmp_path))
    Drill.pull_small_files(one, files, SimpleNamespace(path="/var/crash/1/vmcore", wanted=False))  # type: ignore[arg-type]
    assert fetched == ["README.txt", *(f"dmesg.{number}" for number in range(15))]


@pytest.mark.parametrize("lacking", [True, False])
def test_a_capture_kernel_that_lacks_a_driver_is_foreseen_before_the_crash(
    drill: Any, monkeypatch: pytest.MonkeyPatch, lacking: bool
) -> None:
    facts = ImageFacts(
        family="debian", kernel="6.1", opens="root", loadable=frozenset({"ahci"}), stacks={"root": ("driver ahci",)},
        files=frozenset({"init"}) if lacking else frozenset({"lib/modules/6.1/kernel/drivers/ata/ahci.ko"}),
    )  # fmt: skip
    monkeypatch.setattr(KdumpService, "image_facts", lambda *_: facts)
    verdict = drill(FakeGuest(BOOT, CRASH, probes=PROBES, dump=(DUMP, VMCORE)))
    assert {check.name: check.ok for check in verdict.checks}["capture-image"] is not lacking
    assert [one["lacks"] for one in verdict.foreseen] == ["the capture initramfs lacks the module ahci"] * lacking
    assert verdict.verified is not lacking


def test_a_capture_initramfs_that_cannot_be_listed_is_a_remark(drill: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise CannotList("initrd.img cannot be listed: it has no cpio archive")

    monkeypatch.setattr(KdumpService, "image_facts", fail)
    verdict = drill(FakeGuest(BOOT, CRASH, probes=PROBES, dump=(DUMP, VMCORE)))
    assert verdict.verified
    assert "the capture initramfs is not judged: initrd.img cannot be listed: it has no cpio archive" in verdict.remarks
