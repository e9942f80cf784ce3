"""The crash watch knows from the console alone how far a crash got, and when nothing more can come."""

from __future__ import annotations

import contextlib
import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fakes import FakeClock
from kdump_harness.base.clock import PhaseClock, now_s, pause
from kdump_harness.base.errors import ConsoleLost, GuestError
from kdump_harness.base.evidence import Evidence
from kdump_harness.base.progress import Progress
from kdump_harness.base.stage import Stage
from kdump_harness.distro.family import choose_release, find_family
from kdump_harness.drill.disks import SystemUnderTest
from kdump_harness.drill.plan import Plan
from kdump_harness.drill.steps import Drill
from kdump_harness.kdump import crash_monitor
from kdump_harness.kdump.crash_monitor import CrashMonitor
from kdump_harness.kdump.trigger import find_trigger
from kdump_harness.vm.console import ByteQueue, Console, ConsoleLine, clean
from kdump_harness.vm.console_signs import ConsoleSign, console_signs
from kdump_harness.vm.hypervisor.domain import DomainEvents

# A drill of Debian 12 under emulation; most lines of its three boots are cut out, the rest is as it came.
RECORD = (Path(__file__).parents[1] / "data" / "drills" / "debian-12-verified.log").read_bytes()


def until(marker: bytes, *, occurrence: int = 1) -> bytes:
    """The recording up to the end of the line that holds the marker for the nth time."""
    at = -1
    for _ in range(occurrence):
        at = RECORD.index(marker, at + 1)
    return RECORD[: RECORD.index(b"\n", at) + 1]


FIRST_BOOT = RECORD[: RECORD.index(b"debian-12-2 login: ")]
FIRST_LOGIN = RECORD[: RECORD.index(b"login: ") + len(b"login: ")]
PANIC_ONLY = until(b"</TASK>")
NEXT_BOOT = RECORD[RECORD.index(b"reboot: machine restart\r\n") + len(b"reboot: machine restart\r\n") :]
IN_CAPTURE = until(b"Run /init as init process", occurrence=2)
CAPTURE_INITRAMFS = until(b"Begin: Running /scripts/init-premount", occurrence=2)
DUMPING = until(b"running makedumpfile -F")
BUSYBOX = (
    b"\r\n\r\nBusyBox v1.35.0 (Debian 1:1.35.0-4+b3) built-in shell (ash)\r\n"
    b"Enter 'help' for a list of built-in commands.\r\n\r\n(initramfs) \x1b[6n"  # busybox asks where the cursor is
)


def make_watch() -> CrashMonitor:
    return CrashMonitor(find_family("debian").console, find_trigger("sysrq-c").panic, PhaseClock())


def make_console(data: bytes, chunk: int, *, ends: bool = True) -> Console:
    source = ByteQueue()
    for start in range(0, len(data), chunk):
        source.put(data[start : start + chunk])
    if ends:
        source.put(b"")
    return Console("guest", source)


def feed_all(watch: CrashMonitor, console: Console) -> CrashMonitor:
    """Read until the watch knows the end, or there is nothing more."""
    with console.expecting_panic(), contextlib.suppress(ConsoleLost):
        while not (watch.done or watch.hopeless) and (line := console.read_line(timeout_s=5)) is not None:
            watch.feed(line)
    return watch


@pytest.mark.parametrize("options", [b"-F -c -d 31", b"-c -d 1 -F", b"-d 0"])
def test_the_moment_that_writing_begins_is_seen_whatever_the_options(options: bytes) -> None:
    data = DUMPING.replace(b"makedumpfile -F -c -d 31 /proc", b"makedumpfile " + options + b" /proc")
    assert options in data
    watch = feed_all(make_watch(), make_console(data.removeprefix(FIRST_BOOT), 1 << 20))
    assert watch.clock.between_s("capture", "dump") is not None
    before = data.index(b"running makedumpfile --dump-dmesg")
    watch = feed_all(make_watch(), make_console(data[:before].removeprefix(FIRST_BOOT), 1 << 20))
    assert watch.clock.between_s("capture", "dump") is None


@pytest.fixture(params=[61, 1 << 20], ids="chunk{}".format)
def replay(request: pytest.FixtureRequest) -> Any:
    """Feed a recording to a new watch; the boot before the crash is left out where there is more than that."""

    def play(data: bytes) -> CrashMonitor:
        data = data.removeprefix(FIRST_BOOT) if len(data) > len(FIRST_LOGIN) else data
        return feed_all(make_watch(), make_console(data, request.param))

    return play


def test_a_good_crash_is_followed_to_the_next_login(replay: Any) -> None:
    watch = replay(RECORD)
    assert watch.done
    assert (watch.stage, watch.hopeless, watch.failed) == (Stage.SAVED, None, None)
    assert watch.panic_text == "Kernel panic - not syncing: sysrq triggered crash"


def test_the_moments_of_a_good_crash_are_marked_in_their_order(replay: Any) -> None:
    marks = replay(RECORD).clock.marks_s
    assert list(marks) == ["panic", "capture", "dump", "saved", "restart", "login"]
    assert sorted(marks.values()) == list(marks.values())


@pytest.mark.parametrize(
    "sign",
    [
        "[    0.000000] OF: fdt: Reserving 1 KiB of memory at 0x7abff000 for elfcorehdr",
        "[    0.000000] Kernel command line: console=hvc0 elfcorehdr=565824K",
    ],
)
def test_a_capture_kernel_has_its_header_in_the_device_tree_or_on_the_command_line(sign: str) -> None:
    watch = make_watch()
    lines = [
        "[   35.000000] Kernel panic - not syncing: sysrq triggered crash",
        "[   35.100000] Bye!",
        "[    0.000000] Booting Linux on physical CPU 0x0000000000 [0x411fd070]",
        "[    0.000000] Linux version 6.1.0-50-cloud-arm64 (debian-kernel@lists.debian.org)",
        sign,
        "[    0.000000] Kernel command line: console=ttyAMA0 nr_cpus=1 reset_devices",
        "kdump-tools: saved vmcore",
    ]
    for number, line in enumerate(lines):
        watch.feed(ConsoleLine(line, float(number)))
    assert (watch.capture_seen, watch.restart_seen) == (True, False)
    assert watch.clock.between_s("panic", "capture") == 3.0


def test_a_machine_may_be_silent_for_longer_between_the_kernels() -> None:
    watch = make_watch()
    watch.handover_silence_s = 40.0
    assert watch.silence_s == 20.0
    watch.feed(ConsoleLine("[   35.000000] Kernel panic - not syncing: sysrq triggered crash", 0.0))
    assert watch.silence_s == 40.0
    watch.feed(ConsoleLine("[    0.0] Linux version 6.1.0", 30.0))
    watch.feed(ConsoleLine("[    0.0] Kernel command line: elfcorehdr=565824K", 30.0))
    assert watch.silence_s == 20.0


def test_each_stage_is_told_once() -> None:
    told: list[Stage] = []
    watch = make_watch()
    watch.on_change = told.append
    feed_all(watch, make_console(RECORD, 4096))
    assert told == [Stage.CRASHED, Stage.CAPTURING, Stage.SAVED]


def test_the_boot_before_the_crash_moves_nothing(replay: Any) -> None:
    watch = replay(FIRST_LOGIN)
    assert (watch.stage, watch.done, watch.hopeless) == (Stage.ARMED, False, None)
    assert watch.waiting_for() == "the panic"


@pytest.mark.parametrize(
    ("data", "waiting"),
    [
        (PANIC_ONLY, "the capture kernel"),
        (IN_CAPTURE, "the capture kernel to save the vmcore"),
        (until(b"saved vmcore in"), "the capture kernel to reboot"),
        (until(b"reboot: Restarting system"), "the login prompt"),
        (RECORD[: RECORD.rindex(b"login: ") - len(b"debian-12-2 ")], "the login prompt"),
    ],
    ids=["panic", "capture", "saved", "restart", "booting"],
)
def test_a_console_that_falls_silent_tells_what_is_missing(replay: Any, data: bytes, waiting: str) -> None:
    watch = replay(data)
    assert not watch.done
    assert watch.hopeless is None
    assert watch.waiting_for() == waiting


def test_a_login_prompt_is_seen_when_a_kernel_message_follows_at_once(replay: Any) -> None:
    """Where prompt and message arrive in one piece, they are one line."""
    assert RECORD[RECORD.rindex(b"login: ") :].startswith(b"login: [")
    assert replay(RECORD).done


def test_a_panic_with_nothing_loaded_is_hopeless_at_once(replay: Any) -> None:
    end = b"[   61.090360] ---[ end Kernel panic - not syncing: sysrq triggered crash ]---\r\n"
    watch = replay(PANIC_ONLY.replace(b" Kdump: loaded", b"") + end)
    assert watch.stage is Stage.CRASHED
    assert watch.hopeless == "the kernel panicked and stopped: no capture kernel was loaded"


def test_a_panic_of_the_capture_kernel_is_hopeless_and_quoted(replay: Any) -> None:
    watch = replay(
        IN_CAPTURE + b"[    4.2] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)\r\n"
    )
    assert watch.stage is Stage.CAPTURING
    assert watch.hopeless == (
        "the capture kernel panicked: Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)"
    )


def test_a_panic_before_the_capture_kernel_told_its_command_line_is_a_second_one(replay: Any) -> None:
    started = until(b"Linux version", occurrence=2)
    watch = replay(started + b"[    0.000000] Kernel panic - not syncing: Out of memory and no killable processes\r\n")
    assert watch.hopeless is not None
    assert watch.hopeless.startswith("a second panic while the capture kernel started: ")


def test_a_panic_while_rebooting_is_told_from_one_in_the_capture_kernel(replay: Any) -> None:
    watch = replay(until(b"Linux version", occurrence=3) + b"[    1.0] Kernel panic - not syncing: no init found\r\n")
    assert watch.stage is Stage.SAVED
    assert watch.hopeless == "a second panic while rebooting: Kernel panic - not syncing: no init found"


@pytest.mark.parametrize(
    "words",
    [
        b"ALERT!  UUID=ac5a3fd4-bfa4 does not exist.  Dropping to a shell!" + BUSYBOX,
        BUSYBOX,
        b"\r\n(initramfs) ",
        b'You are in emergency mode. After logging in, type "journalctl -xb" to view\r\n',
        b"Give root password for maintenance\r\n",
        b'Generating "/run/initramfs/rdsosreport.txt"\r\nEntering emergency mode. Exit the shell to continue.\r\n',
        b"Entering kdump emergency mode.\r\n",
        b"kdump:/# ",
        b"Something failed. Running a debug shell.\r\n",
        b"Dump saving completed. Running a shell; exit will reboot.\r\n",
        b"Something failed. You can try to debug it here.\r\n",
    ],
    ids=[
        *["alert", "busybox", "initramfs", "emergency", "password", "dracut", "kdump-emergency", "kdump-prompt"],
        *["suse-debug", "suse-no-reboot", "suse-older"],
    ],
)
def test_a_shell_in_the_capture_kernel_is_hopeless(replay: Any, words: bytes) -> None:
    watch = replay(CAPTURE_INITRAMFS + words)
    assert watch.stage is Stage.CAPTURING
    assert watch.hopeless is not None
    assert watch.hopeless.startswith("the capture kernel dropped to a shell (")


@pytest.mark.parametrize(
    "sign", [sign for sign in console_signs() if "capture" in sign.where], ids=lambda sign: sign.name
)
def test_every_sign_of_a_stuck_capture_kernel_is_hopeless(replay: Any, sign: ConsoleSign) -> None:
    watch = replay(CAPTURE_INITRAMFS + b"\r\n" + sign.example.encode() + b"\r\n")
    assert watch.hopeless == f"the capture kernel dropped to a shell ({sign.example.strip()!r})"


def test_a_shell_after_the_dump_is_blamed_on_the_reboot(replay: Any) -> None:
    watch = replay(
        until(b"Run /init as init process", occurrence=2)
        + RECORD[len(IN_CAPTURE) :].partition(b"reboot: machine restart\r\n")[0]
        + b"reboot: machine restart\r\n"
        + BUSYBOX
    )
    assert watch.stage is Stage.SAVED
    assert watch.hopeless is not None
    assert watch.hopeless.startswith("the guest dropped to a shell while rebooting (")


def test_a_serial_login_that_is_lost_after_the_dump_is_not_taken_for_a_guest_that_does_not_come_back(
    replay: Any,
) -> None:
    lost = b"[ TIME ] Timed out waiting for device /dev/ttyS0.\r\n"
    watch = replay(until(b"reboot: machine restart") + NEXT_BOOT.partition(b"Reached target")[0] + b"\r\n" + lost)
    assert watch.stage is Stage.SAVED
    assert not watch.done
    assert str(watch.hopeless).startswith("the guest comes back without a login prompt: systemd waited too short")
    assert replay(CAPTURE_INITRAMFS + b"\r\n" + lost).hopeless is None


@pytest.mark.parametrize(
    ("before", "reason"),
    [
        (PANIC_ONLY, "the guest powered off after the panic"),
        (DUMPING, "the capture kernel powered the guest off"),
        (until(b"reboot: machine restart"), "the guest powered off instead of coming back"),
    ],
    ids=["after-panic", "while-dumping", "while-rebooting"],
)
@pytest.mark.parametrize("words", [b"reboot: Power down", b"reboot: System halted"])
def test_a_guest_that_powers_off_does_not_come_back(replay: Any, before: bytes, reason: str, words: bytes) -> None:
    assert replay(before + b"[   46.1] " + words + b"\r\n").hopeless == reason


def test_a_reboot_without_a_capture_kernel_ends_at_crashed(replay: Any) -> None:
    """panic=10 with nothing loaded: the guest comes back, and that is all."""
    watch = replay(PANIC_ONLY + b"[   61.1] Rebooting in 10 seconds..\r\n" + NEXT_BOOT)
    assert watch.done
    assert watch.stage is Stage.CRASHED
    assert not watch.capture_seen
    assert "capture" not in watch.clock.marks_s
    assert "login" in watch.clock.marks_s


def test_a_quiet_kernel_that_reboots_without_capture_is_known_by_its_login_prompt(replay: Any) -> None:
    watch = replay(PANIC_ONLY + b"\r\nDebian GNU/Linux 12 guest ttyS0\r\n\r\nguest login: ")
    assert watch.done
    assert watch.stage is Stage.CRASHED


def test_a_capture_kernel_that_is_reset_without_a_word_did_not_save(replay: Any) -> None:
    watch = replay(DUMPING + NEXT_BOOT)
    assert watch.done
    assert watch.stage is Stage.CAPTURING
    assert "saved" not in watch.clock.marks_s


def test_kdumps_own_words_of_failure_are_kept_and_the_guest_is_still_awaited(replay: Any) -> None:
    watch = replay(RECORD.replace(b"kdump-tools: saved vmcore in", b"kdump-tools: failed to save vmcore in"))
    assert watch.done
    assert watch.stage is Stage.CAPTURING
    assert watch.failed is not None
    assert "failed to save vmcore in /var/crash" in watch.failed


def test_a_saved_dmesg_is_not_a_saved_vmcore(replay: Any) -> None:
    assert replay(until(b"saved dmesg content in")).stage is Stage.CAPTURING


def test_the_progress_of_makedumpfile_is_told() -> None:
    data = DUMPING + b"[   40.0] x: \rCopying data    : [ 42.5 %] -   \r\n"
    watch = feed_all(make_watch(), make_console(data, 4096))
    assert watch.progress == "42.5 %"


@pytest.mark.parametrize(
    ("text", "right"),
    [("sysrq triggered crash", True), ("Fatal exception", True), ("Out of memory", False)],
)
def test_the_panic_of_the_trigger_is_told_from_another(replay: Any, text: str, right: bool) -> None:
    watch = replay(f"[   61.0] Kernel panic - not syncing: {text}\r\n".encode())
    assert bool(re.search(watch.panic, watch.panic_text or "")) is right


# ---------------------------------------------------------------- the consoles of the other families

# Recordings of the real code of both, each in a separate guest; some are shortened.
CONSOLES = Path(__file__).parents[1] / "data" / "consoles"
SAVED_MARKS = ["panic", "capture", "dump", "saved", "restart"]


@pytest.mark.parametrize(
    ("name", "stage", "marks", "failed"),
    [
        ("rhel-local-path-zlib-ok", Stage.SAVED, SAVED_MARKS, None),
        ("rhel-local-without-grep-ok", Stage.SAVED, [*SAVED_MARKS, "login"], None),
        (
            "rhel-local-no-space",
            Stage.CAPTURING,
            ["panic", "capture", "dump", "restart", "login"],
            "[   80.625990] kdump[321]: saving vmcore failed, exitcode:1",
        ),
        ("rhel-ssh-ok", Stage.SAVED, SAVED_MARKS, None),
        ("suse-local-ok", Stage.SAVED, SAVED_MARKS, None),
        ("suse-ssh-lzo-ok", Stage.SAVED, SAVED_MARKS, None),
        (
            "suse-local-makedumpfile-abort",
            Stage.CAPTURING,
            ["panic", "capture", "dump", "restart", "login"],
            "Error: Failed saving vmcore",
        ),
    ],
)
def test_the_consoles_of_red_hat_and_suse_are_followed(
    name: str, stage: Stage, marks: list[str], failed: str | None
) -> None:
    family = find_family("redhat" if name.startswith("rhel") else "suse")
    watch = CrashMonitor(family.console, find_trigger("sysrq-c").panic, PhaseClock())
    for at_s, raw in enumerate((CONSOLES / f"{name}.log").read_bytes().split(b"\n")):
        watch.feed(ConsoleLine(clean(raw), float(at_s)))
    assert (watch.stage, watch.failed, watch.hopeless) == (stage, failed, None)
    assert list(watch.clock.marks_s) == marks
    assert re.search(watch.panic, watch.panic_text or "")
    assert watch.done == ("login" in marks)  # most recordings end before the login prompt
    assert watch.waiting_for() == "the login prompt"


# Drills of both generations of SUSE's kdump in a guest of Debian 12; most lines are cut out.
DRILLS = Path(__file__).parents[1] / "data" / "drills"
TO_THE_LOGIN = [*SAVED_MARKS, "login"]


def follow_drill(name: str, version: str) -> CrashMonitor:
    """Feed a recording of a drill from its trigger on to the watch of that version of SLES."""
    family, _ = choose_release(find_family("suse"), {"ID": "sles", "VERSION_ID": version})
    watch = CrashMonitor(family.console, find_trigger("sysrq-c").panic, PhaseClock())
    lines = (DRILLS / f"{name}.log").read_bytes().split(b"\n")
    start = next(number for number, raw in enumerate(lines) if b"sysrq: Trigger a crash" in raw)
    for at_s, raw in enumerate(lines[start:]):
        watch.feed(ConsoleLine(clean(raw), float(at_s)))
    return watch


@pytest.mark.parametrize(
    ("name", "version", "progress"),
    [
        ("suse-2.1-saved", "16.0", ""),  # as it comes
        ("suse-2.1-lzo-verified", "16.0", "100.0 %"),  # as the harness configures it
        ("suse-1.0-saved", "15.6", "100.0 %"),
    ],
)
def test_a_drill_of_either_generation_of_suse_is_followed_to_the_login(name: str, version: str, progress: str) -> None:
    watch = follow_drill(name, version)
    assert watch.progress == progress
    assert (watch.stage, watch.failed, watch.hopeless, watch.done) == (Stage.SAVED, None, None, True)
    assert list(watch.clock.marks_s) == TO_THE_LOGIN


def test_an_aborted_makedumpfile_of_suse_is_told_in_its_own_words() -> None:
    watch = follow_drill("suse-2.1-aborted", "16.0")
    assert (watch.stage, watch.failed, watch.done) == (Stage.CAPTURING, "Error: Failed saving vmcore", True)
    assert list(watch.clock.marks_s) == ["panic", "capture", "dump", "restart", "login"]


def test_the_readme_of_an_older_kdump_does_not_make_a_dump_of_a_failed_one() -> None:
    """With the option to continue after errors, README.txt is written anyway."""
    family, _ = choose_release(find_family("suse"), {"ID": "sles", "VERSION_ID": "15.6"})
    watch = CrashMonitor(family.console, find_trigger("sysrq-c").panic, PhaseClock())
    for text in (
        "Kernel panic - not syncing: sysrq triggered crash",
        "Command line: elfcorehdr=0x22000000",
        "Extracting dmesg",
        "Running makedumpfile --dump-dmesg /proc/vmcore failed (1).",
        "Saving dump using makedumpfile",
        "makedumpfile Failed.",
        "Running makedumpfile  -d 31 -c /proc/vmcore failed (1).",
        "Generating README              Finished.",
    ):
        watch.feed(ConsoleLine(text, 0.0))
    assert watch.stage is Stage.CAPTURING
    assert watch.failed == "Running makedumpfile  -d 31 -c /proc/vmcore failed (1)."


def test_a_capture_kernel_without_memory_is_hopeless_when_it_says_so() -> None:
    """RHEL's panic=10 would restart the guest ten seconds later; a dump cannot follow."""
    watch = CrashMonitor(find_family("redhat").console, find_trigger("sysrq-c").panic, PhaseClock())
    for at_s, raw in enumerate((CONSOLES / "rhel-96m-oom.log").read_bytes().split(b"\n")):
        if watch.hopeless is None:
            watch.feed(ConsoleLine(clean(raw), float(at_s)))
    assert watch.stage is Stage.CAPTURING
    assert watch.hopeless == ("the capture kernel panicked: Kernel panic - not syncing: System is deadlocked on memory")


@pytest.mark.parametrize(
    ("family", "lines", "stage", "failed"),
    [
        (
            "redhat",
            [
                "[   24.580824] kdump[438]: saving vmcore",
                "[   25.580824] kdump[439]: saving vmcore failed, exitcode:1",
                "[   25.600000] kdump[440]: saving the /run/initramfs/kexec-dmesg.log to /sysroot/var/crash/x///",
                "[   25.700000] kdump[441]: Executing failure action systemctl reboot -f && exit",
            ],
            Stage.CAPTURING,
            "[   25.580824] kdump[439]: saving vmcore failed, exitcode:1",
        ),
        (
            "redhat",
            ["kdump: saving to /sysroot//var/crash/127.0.0.1-2026-11-22-10:11:12/", "kdump: saving vmcore"],
            Stage.CAPTURING,
            None,
        ),
        (
            "redhat",
            [
                "kdump: saving vmcore-dmesg.txt",
                "kdump: saving vmcore-dmesg.txt failed",
                "kdump: saving vmcore complete",
            ],
            Stage.SAVED,
            None,
        ),
        (
            "suse",
            ["Error: Host not responding", "Saved temporary README.txt", "Saved dmesg", "Saved vmcore"],
            Stage.SAVED,
            None,
        ),
        (
            "suse",
            [
                "Saved vmcore",
                "Remaining space (3 MB) less than KDUMP_FREE_DISK_SIZE (64 MB)",
                "Deleting vmcore",
                "Saved final README.txt",
            ],
            Stage.SAVED,
            "Remaining space (3 MB) less than KDUMP_FREE_DISK_SIZE (64 MB)",
        ),
        ("suse", ["Extracting dmesg", "Saving dump using makedumpfile", "Generating README"], Stage.SAVED, None),
    ],
    ids=["rhel-failed", "rhel-7", "rhel-no-dmesg", "suse-no-ping", "suse-deleted", "suse-older"],
)
def test_what_the_capture_kernels_say_moves_the_stage(
    family: str, lines: list[str], stage: Stage, failed: str | None
) -> None:
    watch = CrashMonitor(find_family(family).console, find_trigger("sysrq-c").panic, PhaseClock())
    start = [
        "[   61.0] Kernel panic - not syncing: sysrq triggered crash",
        "[    0.0] Linux version 6.1.0",
        "[    0.0] Command line: elfcorehdr=0x6f000000 ro",
    ]
    for text in (*start, *lines):
        watch.feed(ConsoleLine(text, 0.0))
    assert (watch.stage, watch.failed) == (stage, failed)


@pytest.mark.parametrize(
    ("lines", "silence_s"),
    [
        (["Starting kdump-save.service - save kernel crash dump...", "Saved temporary README.txt"], 20.0),
        (["Saved temporary README.txt", "Saved dmesg"], 120.0),
        (["Saved temporary README.txt", "Saved dmesg", "Saved vmcore"], 20.0),
        (["Saved dmesg", "reboot: Restarting system"], 20.0),
    ],
    ids=["before", "dumping", "saved", "rebooting"],
)
def test_only_a_dump_that_tells_no_progress_may_be_silent_for_longer(lines: list[str], silence_s: float) -> None:
    watch = CrashMonitor(find_family("suse").console, find_trigger("sysrq-c").panic, PhaseClock())
    for text in ("Kernel panic - not syncing: sysrq triggered crash", "Command line: elfcorehdr=0x6f000000", *lines):
        watch.feed(ConsoleLine(text, 0.0))
    assert watch.silence_s == silence_s


# ---------------------------------------------------------------- the drill's deadlines, with a console that stops


@pytest.fixture
def follow(tmp_path: Path, fake_clock: FakeClock) -> Any:
    """Return a function that follows a recording which ends in silence."""

    def play(
        data: bytes,
        *,
        ends: bool = False,
        events: tuple[str, ...] = (),
        lost: bool = False,
        loaded: bool = True,
        before: tuple[str, ...] = (),
        log: str = "",
        state: str = "running",
    ) -> str | None:
        play.resumed = []  # type: ignore[attr-defined]
        seen = DomainEvents()
        for what in before:
            seen.add(what)
        pause(1.0)
        run: Any = SimpleNamespace(
            factor=1.0,
            slowness=1.0,
            beside=0,
            accelerator="tcg",
            progress=Progress(quiet=True),
            lost=lambda domain: domain.connection_lost(),
        )
        evidence = Evidence(tmp_path / "drill")
        drill = Drill(run, Plan(subject=SystemUnderTest(name="debian-12", family=find_family("debian"))), evidence)
        console = make_console(data, 4096, ends=ends)
        domain = SimpleNamespace(
            events=seen,
            connection_lost=lambda: lost,
            resume=lambda: play.resumed.append("resumed"),
            log=lambda: log,
            state=lambda: state,
        )
        for what in events:
            domain.events.add(what)
        guest: Any = SimpleNamespace(name="kdh-1", console=console, domain=domain)
        watch = CrashMonitor(drill.plan.subject.family.console, drill.trigger.panic, drill.clock)
        watch.loaded = loaded
        drill.clock.mark("trigger")
        play.watch = watch  # type: ignore[attr-defined]
        try:
            with console.expecting_panic():
                return drill._follow(guest, watch)
        finally:
            evidence.close()

    return play


def test_a_guest_that_another_program_paused_has_no_verdict(follow: Any) -> None:
    with pytest.raises(GuestError, match="paused by another program while waiting for the capture kernel to save"):
        follow(DUMPING, state="paused")


def test_a_drill_of_a_good_crash_is_stopped_by_nothing(follow: Any) -> None:
    assert follow(RECORD) is None


def test_a_capture_kernel_gone_silent_is_given_up_and_named(follow: Any) -> None:
    stopped = follow(DUMPING)
    assert stopped == ("the console has been silent for 20 s while waiting for the capture kernel to save the vmcore")


def test_a_trigger_that_does_not_crash_is_given_up(follow: Any) -> None:
    stopped = follow(FIRST_LOGIN)
    assert stopped == "no panic within 15 s of the trigger sysrq-c"


def test_a_hopeless_console_stops_the_drill_with_its_reason(follow: Any) -> None:
    stopped = follow(PANIC_ONLY + b"---[ end Kernel panic - not syncing: sysrq triggered crash ]---\r\n")
    assert stopped == "the kernel panicked and stopped: no capture kernel was loaded"


def test_a_guest_that_disappears_is_told_with_libvirts_events(follow: Any) -> None:
    stopped = follow(DUMPING, ends=True, events=("stopped/0",))
    assert stopped == (
        "the guest disappeared while waiting for the capture kernel to save the vmcore (domain events: stopped/0)"
    )


@pytest.mark.parametrize(
    ("log", "said"),
    [
        ("", "without a word"),
        (
            "-msg timestamp=on\nqemu-system-x86_64: cpus.c:1: is_running: Assertion `cpu' failed.\n"
            "2026-11-30 14:53:47.123+0000: shutting down, reason=crashed\n",
            "qemu-system-x86_64: cpus.c:1: is_running: Assertion `cpu' failed.",
        ),
    ],
)
def test_a_hypervisor_that_dies_says_nothing_about_the_guest(follow: Any, log: str, said: str) -> None:
    with pytest.raises(GuestError, match="QEMU ended by itself while waiting for the capture kernel to save") as raised:
        follow(DUMPING, ends=True, events=("stopped/5",), log=log)
    assert raised.value.args[0].endswith(f": {said}")


DEAD = b"[   63.1] ---[ end Kernel panic - not syncing: sysrq triggered crash ]---\r\n"


def test_a_guest_that_panicked_for_good_is_resumed_and_its_last_words_are_read(follow: Any) -> None:
    """The event is there before the first line was looked at."""
    stopped = follow(PANIC_ONLY + DEAD, events=("crashed/panicked",), loaded=False)
    assert stopped == "the kernel panicked and stopped: no capture kernel was loaded"
    assert follow.resumed == ["resumed"]
    assert follow.watch.stage is Stage.CRASHED
    assert follow.watch.panic_text == "Kernel panic - not syncing: sysrq triggered crash"


@pytest.mark.parametrize("after", [b"", NEXT_BOOT], ids=["silent", "reboots"])
def test_a_panic_event_of_a_guest_without_a_capture_kernel_means_that_none_follows(follow: Any, after: bytes) -> None:
    started_s = now_s()
    stopped = follow(PANIC_ONLY + after, events=("crashed/panicked",), loaded=False)
    assert stopped == "the hypervisor saw the guest panic for good (pvpanic): no capture kernel was loaded"
    assert now_s() - started_s < 15
    assert (follow.watch.stage, follow.resumed) == (Stage.CRASHED, ["resumed"])


@pytest.mark.parametrize("event", ["crashed/crashloaded", "crashed/panicked"])
def test_a_capture_kernel_that_was_loaded_may_follow_a_panic_event(follow: Any, event: str) -> None:
    """With crash_kexec_post_notifiers the event comes before the capture kernel; drivers before 5.6 know only one."""
    assert follow(RECORD, events=(event,)) is None
    assert follow.watch.done


@pytest.mark.parametrize("event", ["crashed/crashloaded", "crashed/panicked"])
def test_a_capture_kernel_that_does_not_follow_is_given_up_after_the_usual_silence(follow: Any, event: str) -> None:
    silence = "the console has been silent for 20 s while waiting for the capture kernel"
    assert follow(PANIC_ONLY, events=(event,)) == silence


def test_a_panic_event_of_the_capture_kernel_is_named_as_such() -> None:
    watch = make_watch()
    watch.capture_seen = True
    watch.clock.mark("capture", now_s())
    watch.clock.mark("panicked", now_s() + 1)
    assert watch.why_panicked(1.0) is None
    assert watch.why_panicked(6.0) == "the hypervisor saw the capture kernel panic (pvpanic)"


def test_a_panic_event_of_the_drill_before_is_not_one_of_this_drill(follow: Any) -> None:
    assert follow(RECORD, before=("crashed/panicked",)) is None
    assert follow.resumed == []


def test_a_connection_that_broke_gives_no_verdict_on_the_guest(follow: Any) -> None:
    with pytest.raises(ConsoleLost):
        follow(DUMPING, ends=True, lost=True)


def seen_so_far(data: bytes) -> tuple[CrashMonitor, Console]:
    """A watch that has seen all complete lines, and the console with what is left."""
    watch, console = make_watch(), make_console(data, 4096, ends=False)
    with console.expecting_panic():
        while (line := console.read_line(timeout_s=0.05)) is not None:
            watch.feed(line)
    return watch, console


def test_a_job_that_systemd_waits_for_without_a_limit_is_no_news() -> None:
    job = b"\r\x1b[K[**    ] A start job is running for kdump-tools-dump.service (1min 3s / no limit)"
    watch, console = seen_so_far(DUMPING + job)
    news_s = watch.news_s
    watch.glance(console.pending)
    assert watch.job == "kdump-tools-dump.service"
    assert watch.news_s == news_s


def test_a_progress_bar_is_seen_before_its_line_ends() -> None:
    watch, console = seen_so_far(DUMPING + b"\rCopying data  : [  3.0 %] |\rCopying data  : [ 41.5 %] /")
    watch.glance(console.pending)
    assert (watch.percent, watch.progress, watch.job) == (41.5, "41.5 %", "")


def test_a_boot_loader_without_a_menu_after_the_dump_is_the_end() -> None:
    watch, _ = seen_so_far(until(b"reboot: machine restart"))
    watch.feed(ConsoleLine("GNU GRUB  version 2.06", 0.0))
    assert watch.hopeless is None
    watch.feed(ConsoleLine("   Minimal BASH-like line editing is supported. For the first word, TAB lists", 0.0))
    assert watch.hopeless is not None
    assert "does not come back: GRUB has nothing to boot" in watch.hopeless
    assert watch.stage is Stage.SAVED


def test_a_capture_kernel_without_a_panic_on_the_console_is_a_crash() -> None:
    watch = make_watch()
    watch.feed(ConsoleLine("[  170.2] kdump-harness: this is crash 78198fa1e45796a5", 1.0))
    watch.feed(ConsoleLine("[    0.000000] Linux version 6.1.0-56-cloud-amd64 (gcc-12) #1 SMP", 2.0))
    assert watch.stage is Stage.ARMED  # any kernel starts like this
    watch.feed(ConsoleLine("[    0.000000] Command line: root=/dev/vda1 ro console=ttyS0 elfcorehdr=0x6f000000", 3.0))
    assert watch.stage is Stage.CAPTURING
    assert watch.clock.between_s("panic", "capture") == 0.0
    assert watch.panic_text is None


def test_a_line_that_is_made_to_take_long_does_not() -> None:
    """Digits are not tried as digits and as letters of a unit in every way."""
    began_s = time.process_time()
    assert crash_monitor._JOB.search("Job x (" + "1" * 20_000) is None
    assert crash_monitor._JOB.search("Job x (" + "1s " * 7_000) is None
    assert time.process_time() - began_s < 0.3  # it took 9 s
    line = "A start job is running for /dev/x (1h 2min 3s / no limit)"
    assert crash_monitor._JOB.search(line)
