"""The diagnosis distinguishes causes from consequences, and the lines of one kernel from those of another."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from kdump_harness.base.errors import TableError, UsageError
from kdump_harness.base.stage import Stage
from kdump_harness.diagnosis import Diagnosis, diagnose_file, diagnose_text, load_symptoms
from test_diagnosis_modes import (
    ARMED_CRASH,
    CAPTURE_BOOT,
    CAPTURING,
    CRASHED,
    DEBIAN,
    DEBIAN_SAVED,
    FIRST_BOOT,
    NEXT_BOOT,
    REDHAT,
    REDHAT_SAVED,
    UNARMED_CRASH,
    USERSPACE,
)

CONSOLES = Path(__file__).parents[1] / "data" / "consoles"
END_OF_PANIC = "[  712.900000] ---[ end Kernel panic - not syncing: sysrq triggered crash ]---\n"
OOM = "[    4.000000] swapper/0 invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0\n"


def names(diagnosis: Diagnosis) -> list[str]:
    """Return the names of the symptoms, cause first."""
    return [symptom.name for symptom in diagnosis.symptoms]


@pytest.mark.parametrize("path", sorted(CONSOLES.glob("*.log")), ids=lambda path: path.stem)
def test_recorded_drills_get_the_mode_that_they_are_named_for(path: Path) -> None:
    expected = re.search(rb"^# expected: (\S+)", path.read_bytes())
    assert expected
    diagnosis = diagnose_file(path)
    assert diagnosis.mode == expected.group(1).decode(), diagnosis.explain()


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("suse-2.1-saved", "ok"),
        ("suse-2.1-lzo-verified", "ok"),
        ("suse-1.0-saved", "ok"),
        ("suse-2.1-aborted", "makedumpfile-crashed"),
    ],
)
def test_drills_of_suse_are_distinguished(name: str, mode: str) -> None:
    diagnosis = diagnose_file(CONSOLES.parent / "drills" / f"{name}.log")
    assert diagnosis.mode == mode, diagnosis.explain()


# ---------------------------------------------------------------- stages of a whole crash


@pytest.mark.parametrize(
    ("console", "stage"),
    [
        (FIRST_BOOT, Stage.NOTHING),
        (FIRST_BOOT + "[   30.1] kdumpctl[800]: kdump: Starting kdump: [OK]\n", Stage.ARMED),
        (CRASHED, Stage.CRASHED),
        (CAPTURING, Stage.CAPTURING),
        (CAPTURING + REDHAT_SAVED, Stage.SAVED),
        (CAPTURING + REDHAT_SAVED + NEXT_BOOT, Stage.RECOVERED),
    ],
)
def test_the_stage_is_the_last_that_the_console_shows(console: str, stage: Stage) -> None:
    assert diagnose_text(console).stage is stage


def test_a_good_dump_has_no_symptoms() -> None:
    diagnosis = diagnose_text(CAPTURING + REDHAT_SAVED + NEXT_BOOT)
    assert (diagnosis.mode, diagnosis.symptoms) == ("ok", ())
    assert diagnosis.to_json()["symptoms"] == []
    assert diagnosis.family == "redhat"


def test_a_second_crash_after_a_good_one_counts() -> None:
    diagnosis = diagnose_text(CAPTURING + REDHAT_SAVED + NEXT_BOOT + ARMED_CRASH + CAPTURE_BOOT + OOM)
    assert diagnosis.mode == "capture-oom"
    assert diagnosis.stage is Stage.CAPTURING


# ---------------------------------------------------------------- hand-over


def test_a_panic_with_nothing_loaded_is_known_from_its_end() -> None:
    diagnosis = diagnose_text(FIRST_BOOT + UNARMED_CRASH + END_OF_PANIC)
    assert diagnosis.mode == "panic-without-kdump"
    assert diagnosis.stage is Stage.NOTHING
    assert "end Kernel panic" in diagnosis.symptoms[0].line


def test_a_panic_with_nothing_loaded_is_known_from_its_trace() -> None:
    assert diagnose_text(UNARMED_CRASH).mode == "panic-without-kdump"


def test_a_panic_with_nothing_loaded_is_known_from_the_reboot_timer() -> None:
    assert (
        diagnose_text(FIRST_BOOT + UNARMED_CRASH + "[  713.0] Rebooting in 10 seconds..\n" + NEXT_BOOT).mode
        == "panic-without-kdump"
    )


def test_the_reason_why_nothing_was_loaded_comes_first() -> None:
    missing = "[   20.1] kdump-tools[480]: no crashkernel= parameter in the kernel cmdline ... failed!\n"
    boot = FIRST_BOOT.replace(" crashkernel=192M", "")
    diagnosis = diagnose_text(boot + missing + UNARMED_CRASH + END_OF_PANIC)
    assert names(diagnosis) == ["no-reserved-memory", "panic-without-kdump"]
    assert "update-grub" in diagnosis.symptoms[0].remedy


def test_a_panic_with_kdump_loaded_and_then_silence_is_a_lost_handoff() -> None:
    assert diagnose_text(CRASHED).mode == "handoff-no-capture-boot"
    assert (
        diagnose_text(CRASHED + "[  713.0] Starting crashdump kernel...\n[  713.1] Bye!\n").mode
        == "handoff-no-capture-boot"
    )
    assert diagnose_text(CRASHED + "SeaBIOS (version 1.16.2)\n" + NEXT_BOOT).mode == "handoff-no-capture-boot"


def test_the_dmesg_of_a_dump_may_end_with_the_panic(tmp_path: Path) -> None:
    path = tmp_path / "vmcore-dmesg.txt"
    path.write_text(CRASHED)
    diagnosis = diagnose_file(path)
    assert diagnosis.mode == "indeterminate"
    assert diagnosis.stage is Stage.CAPTURING


def test_a_fault_on_the_way_into_the_capture_kernel_is_named() -> None:
    fault = (
        "[  713.0] Oops: 0011 [#1] SMP\n[  713.1]  ? machine_kexec+0x1f0/0x2a0\n[  713.2]  __crash_kexec+0x6a/0x100\n"
    )
    assert diagnose_text(CRASHED + fault).mode == "panic-in-crash-path"
    assert diagnose_text(CRASHED + fault + CAPTURE_BOOT + REDHAT_SAVED).mode == "ok"


@pytest.mark.parametrize(
    ("lines", "mode"),
    [
        (
            "[  713.0] Starting crashdump kernel...\n[  713.1] Some CPUs may be stale, kdump will be unreliable.\n"
            "[  713.2] WARNING: CPU: 3 PID: 9 at arch/arm64/kernel/machine_kexec.c:174 machine_kexec+0x4c/0x2a0\n",
            "panic-in-crash-path",
        ),
        ("[  713.0] SMP: failed to stop secondary CPUs 0-2\n[  713.1] Bye!\n", "handoff-no-capture-boot"),
        ("[  713.0] Sending IPI to other CPUs\n[  723.0] ERROR: 15 cpu(s) not responding\n", "handoff-no-capture-boot"),
    ],
)
def test_processors_that_could_not_be_stopped_are_the_cause(lines: str, mode: str) -> None:
    (symptom,) = diagnose_text(CRASHED + lines + "SeaBIOS (version 1.16.2)\n" + NEXT_BOOT).symptoms
    assert (symptom.name, "could not stop its other processors" in symptom.meaning) == (mode, True)
    assert diagnose_text(CRASHED + lines + CAPTURE_BOOT + REDHAT_SAVED).mode == "ok"


def test_a_missing_dump_is_explained_by_an_oops_that_the_kernel_survives() -> None:
    oops = "[  100.0] Oops: 0002 [#1] SMP\n[  100.1] ---[ end trace 0000000000000000 ]---\n"
    assert diagnose_text(FIRST_BOOT + oops + "[  200.0] fine\n" * 9).mode == "oops-no-panic"


# ---------------------------------------------------------------- which kernel speaks


def test_an_oom_killer_before_the_panic_is_not_the_capture_kernels() -> None:
    diagnosis = diagnose_text(FIRST_BOOT + OOM + ARMED_CRASH + CAPTURE_BOOT + REDHAT_SAVED)
    assert diagnosis.mode == "ok"
    assert any("first kernel" in line and "capture-oom" in line for line in diagnosis.explain())


@pytest.mark.parametrize(
    "evidence",
    [
        "[29925.4] CPU: 0 PID: 1874 Comm: nfsd Kdump: loaded Tainted: G E 6.1.119 #1\n",
        "[29925.4] 33554432 pages RAM\n",
        "[  300.4] Total swap = 8388604kB\n",
        "[29925.4] anything\n",
        "Mar  1 10:00:00 sut kernel: anything\n",
    ],
)
def test_an_oom_killer_outside_the_capture_kernel_decides_nothing(evidence: str) -> None:
    prefix = "Mar  1 10:00:00 sut kernel: " if evidence.startswith("Mar") else ""
    diagnosis = diagnose_text(prefix + OOM + evidence)
    assert (diagnosis.mode, diagnosis.failed) == ("indeterminate", False), diagnosis.explain()


def test_a_capture_kernel_is_known_by_its_timestamps_when_it_prints_no_banner() -> None:
    diagnosis = diagnose_text(CRASHED + "[    0.900000] random line of a quiet kernel\n" + OOM)
    assert diagnosis.mode == "capture-oom"


def test_the_device_tree_of_arm64_locates_the_memory_of_the_old_kernel() -> None:
    boot = """\
[    0.000000] Booting Linux on physical CPU 0x0000000000 [0x410fd083]
[    0.000000] Linux version 6.4.0 (build@example) #1 SMP
[    0.000000] cannot allocate crashkernel (size:0x20000000)
[    0.000000] OF: fdt: Reserving 1 KiB of memory at 0xbfdff000 for elfcorehdr
[    0.000000] Kernel command line: root=/dev/vda2 ro crashkernel=512M
"""
    diagnosis = diagnose_text(ARMED_CRASH + boot + OOM)
    assert names(diagnosis) == ["capture-oom"]
    assert diagnose_text(boot + OOM).mode == "capture-oom"


def test_without_a_start_the_first_line_may_already_be_the_capture_kernels() -> None:
    assert diagnose_text(OOM).mode == "capture-oom"
    assert diagnose_text(REDHAT_SAVED).mode == "ok"


def test_a_load_that_failed_and_then_worked_is_past() -> None:
    failed = "[   20.0] kdumpctl[800]: kdump: kexec: failed to load kdump kernel\n"
    diagnosis = diagnose_text(
        FIRST_BOOT
        + failed
        + "[   90.0] kdumpctl[990]: kdump: kexec: loaded kdump kernel\n"
        + ARMED_CRASH
        + CAPTURE_BOOT
        + OOM
    )
    assert names(diagnosis) == ["capture-oom"]
    assert any("loaded afterwards" in rejected.reason for rejected in diagnosis.rejected)


def test_a_next_boot_that_does_not_arm_is_a_warning_after_a_good_dump() -> None:
    unarmed = "[   20.1] kdumpctl[801]: kdump: No memory reserved for crash kernel\n"
    diagnosis = diagnose_text(CAPTURING + REDHAT_SAVED + NEXT_BOOT + unarmed)
    assert diagnosis.mode == "ok"
    assert [(symptom.name, symptom.severity) for symptom in diagnosis.symptoms] == [("no-reserved-memory", "warning")]


def test_journal_boots_are_distinguished() -> None:
    journal = (
        "Mar  1 10:00:00 sut kernel: Command line: root=/dev/vda1 ro crashkernel=192M\n"
        "Mar  1 10:00:09 sut systemd[1]: Started OpenSSH server.\n"
        "-- Boot 3f1c9a1c9f0e4dbb8a3f1c9a1c9f0e4d --\n"
        "Mar  1 10:05:00 sut kernel: Command line: elfcorehdr=0x6f000000 ro nr_cpus=1\n"
        "Mar  1 10:05:04 sut kernel: swapper/0 invoked oom-killer: gfp_mask=0xcc0, order=0\n"
    )
    assert diagnose_text(journal).mode == "capture-oom"


# ---------------------------------------------------------------- causes and consequences


def test_the_cause_stands_before_its_consequences() -> None:
    console = (
        CAPTURING
        + REDHAT
        + OOM
        + "[   10.0] kdump[330]: saving vmcore failed, exitcode:137\nEntering kdump emergency mode.\n"
    )
    assert names(diagnose_text(console)) == [
        "capture-oom",
        "makedumpfile-crashed",
        "makedumpfile-failed",
        "kdump-emergency-shell",
    ]


def test_a_shell_without_a_visible_cause_is_named_itself() -> None:
    assert (
        diagnose_text(CAPTURING + USERSPACE + "Entering kdump emergency mode.\n\nkdump:/# ").mode
        == "kdump-emergency-shell"
    )


def test_a_slow_device_is_not_a_failure_if_the_dump_was_saved() -> None:
    slow = "[    6.0] systemd-udevd[180]: nvme0n1: Worker [190] processing SEQNUM=1193 is taking a long time\n"
    assert diagnose_text(CAPTURING + slow + REDHAT_SAVED).mode == "ok"
    failing = CAPTURING + slow + REDHAT + "[   30.0] kdump[330]: saving vmcore failed, exitcode:1\n"
    assert diagnose_text(failing).mode == "makedumpfile-failed"


def test_debian_says_saved_over_an_empty_file() -> None:
    missing = "[    9.0] kdump-tools[310]: /usr/sbin/kdump-config: 814: makedumpfile: not found\n"
    diagnosis = diagnose_text(CAPTURING + DEBIAN + missing + DEBIAN_SAVED)
    assert diagnosis.mode == "makedumpfile-missing"
    assert diagnosis.stage is Stage.CAPTURING


def test_a_failed_dmesg_run_does_not_fail_the_vmcore() -> None:
    console = CAPTURING + DEBIAN + DEBIAN_SAVED + (
        "[   21.0] kdump-tools[305]: running makedumpfile --dump-dmesg /proc/vmcore /var/crash/1/dmesg.1.\n"
        "[   21.1] kdump-tools[340]: makedumpfile Failed.\n"
        "[   21.2] kdump-tools[305]: kdump-tools: makedumpfile --dump-dmesg failed. dmesg content will be unavailable\n"
    )  # fmt: skip
    diagnosis = diagnose_text(console)
    assert diagnosis.mode == "ok"
    assert names(diagnosis) == ["dmesg-extract-failed"]


def test_a_makedumpfile_that_is_older_than_the_kernel_is_not_worth_a_word() -> None:
    assert diagnose_text(CAPTURING + REDHAT + "The kernel version is not supported.\n" + REDHAT_SAVED).symptoms == ()


@pytest.mark.parametrize("path", sorted(CONSOLES.glob("*-ok.log")), ids=lambda path: path.stem)
def test_no_beginning_of_a_good_console_is_called_broken(path: Path) -> None:
    lines = path.read_text().splitlines(keepends=True)
    # A console that ends at any line may only be called unfinished, or still trying.
    unfinished = {
        "indeterminate",
        "handoff-no-capture-boot",
        "capture-hung-early",
        "poweroff-mid-dump",
        "network-not-ready",
        "ok",
    }
    assert {diagnose_text("".join(lines[:end])).mode for end in range(1, len(lines), 61)} <= unfinished


@pytest.mark.parametrize("path", sorted(CONSOLES.glob("*-[ls]*-*.log")), ids=lambda path: path.stem)  # local and ssh
def test_a_missing_start_changes_nothing_as_long_as_the_dump_is_there(path: Path) -> None:
    lines = path.read_text().splitlines(keepends=True)
    saving = next(at for at, line in enumerate(lines) if "kdump-save" in line or "saving to" in line)
    whole = diagnose_file(path).mode
    assert {diagnose_text("".join(lines[start:])).mode for start in range(0, saving, 61)} == {whole}


# ---------------------------------------------------------------- silence and sudden ends


def test_a_capture_kernel_that_falls_silent_early_is_named() -> None:
    diagnosis = diagnose_text(CAPTURING)
    assert diagnosis.mode == "capture-hung-early"
    assert "Run /init" in diagnosis.symptoms[0].line


def test_an_excerpt_around_a_warning_is_not_taken_for_a_hang() -> None:
    warning = "[    1.6] ------------[ cut here ]------------\n[    1.6] Found insecure W+X mapping at address 0xffff\n"
    assert diagnose_text(CAPTURING + warning).mode == "indeterminate"


def test_a_dump_that_stops_in_the_middle_is_named() -> None:
    bar = "Copying data   : [ 12.0 %] -\rCopying data   : [ 47.3 %] /\r"
    diagnosis = diagnose_text(CAPTURING + REDHAT + bar)
    assert diagnosis.mode == "poweroff-mid-dump"
    assert "47.3" in diagnosis.symptoms[0].line
    assert diagnose_text(CAPTURING + REDHAT + bar + "\n" + NEXT_BOOT).mode == "poweroff-mid-dump"


def test_a_reset_in_the_capture_kernel_is_named() -> None:
    assert diagnose_text(CAPTURING + REDHAT + "SeaBIOS (version 1.16.2)\n" + NEXT_BOOT).mode == "watchdog-reset"


def test_a_reboot_that_hangs_after_the_dump_is_a_failure_of_its_own() -> None:
    console = CAPTURING + REDHAT_SAVED.rsplit("[   29.9", 1)[0] + (
        "[   30.0] systemd-shutdown[1]: Rebooting.\n"
        "[  246.8] INFO: task kworker/0:1:11 blocked for more than 122 seconds.\n"
    )  # fmt: skip
    diagnosis = diagnose_text(console)
    assert diagnosis.mode == "reboot-hang-after-dump"
    assert diagnosis.stage is Stage.SAVED


# ---------------------------------------------------------------- what consoles do to lines


def test_a_console_that_prints_every_line_twice_changes_nothing() -> None:
    for console in (
        CAPTURING + REDHAT_SAVED + NEXT_BOOT,
        CAPTURING + USERSPACE + OOM,
        FIRST_BOOT + UNARMED_CRASH + END_OF_PANIC,
    ):
        twice = "".join(line * 2 for line in console.splitlines(keepends=True))
        assert diagnose_text(twice).mode == diagnose_text(console).mode


@pytest.mark.parametrize("ending", ["\r\n", "\r\r\n", "\n\r"])
def test_line_endings_change_nothing(ending: str) -> None:
    diagnosis = diagnose_text((CAPTURING + USERSPACE + OOM).replace("\n", ending))
    assert diagnosis.mode == "capture-oom"
    assert "oom-killer" in diagnosis.symptoms[0].line


def test_line_numbers_are_those_of_the_file() -> None:
    console = "a\r\nb\rc\r\n\n" + CAPTURING.replace("\n", "\r\n") + OOM
    number = console.split("\n").index(OOM.strip()) + 1
    assert diagnose_text(console).symptoms[0].line_number == number


def test_colours_and_half_lines_do_not_hide_a_symptom() -> None:
    console = (
        CAPTURING
        + USERSPACE
        + "[\x1b[0;1;31mFAIL\x1b[0m] \x1b[1mEntering kdump emergency mode\x1b[0m.[   12.0] usb 1-1: new dev\n"
    )
    assert diagnose_text(console).mode == "kdump-emergency-shell"
    cut = (
        CAPTURING
        + USERSPACE
        + "[  OK  ] Started foo.serv[    4.0] swapper/0 invoked oom-killer: gfp_mask=0x0, order=0\n"
    )
    assert diagnose_text(cut).mode == "capture-oom"


def test_bytes_that_are_not_text_do_not_hide_a_symptom() -> None:
    console = "\0\0\udcff\udcfe" + CAPTURING + "\udc80\udc81\n" + OOM
    assert diagnose_text(console).mode == "capture-oom"


# ---------------------------------------------------------------- remedies, explanation, JSON


def test_a_remedy_has_the_real_values() -> None:
    diagnosis = diagnose_text(CAPTURING + REDHAT + OOM)
    assert "crashkernel=384M" in diagnosis.symptoms[0].remedy
    told = diagnose_text(CAPTURING + OOM, family="debian", facts={"crashkernel": "128M"})
    assert "crashkernel=256M" in told.symptoms[0].remedy
    assert "update-grub" in told.symptoms[0].remedy


def test_json_has_the_fields_of_the_contract() -> None:
    symptom = diagnose_text(CAPTURING + OOM).to_json()["symptoms"][0]
    assert {"name", "severity", "stage", "line", "remedy"} <= set(symptom)
    assert symptom["stage"] == "CAPTURING"


def test_modules_that_dracut_leaves_out_as_unneeded_are_not_a_symptom() -> None:
    """mkdumprd of kdump 2.1.9 on a Debian guest, which then dumped without fault."""
    said = (CONSOLES.parent / "commands" / "mkdumprd.log").read_text(encoding="utf-8")
    assert "could not be found!" in said
    assert names(diagnose_text(said, family="suse")) == []
    failed = "dracut-install: ERROR: installing '/usr/sbin/makedumpfile' to '/var/tmp/dracut.x/initramfs'\n"
    assert names(diagnose_text(said + failed, family="suse")) == ["initramfs-build-failed"]


def test_the_remedy_for_suse_sets_what_kdumptool_understands() -> None:
    """kdumptool ignores a KDUMP_CRASHKERNEL without "crashkernel=" and then refuses the rest of the file."""
    said = (CONSOLES.parent / "drills" / "suse-not-loaded.txt").read_text(encoding="utf-8")
    diagnosis = diagnose_text(said, family="suse", facts={"crashkernel": "64M"})
    assert diagnosis.mode == "kexec-load-bad-segments"
    assert 'KDUMP_CRASHKERNEL="crashkernel=128M"/' in diagnosis.symptoms[0].remedy


@pytest.mark.parametrize(
    "command",
    [
        'load.sh[413]: /sbin/kexec -p /var/lib/kdump/kernel --append=" reset_devices root=kdump panic=1" --initrd=/x',
        'kdump-config[413]: /sbin/kexec -p -s --command-line="ro reset_devices systemd.unit=kdump-tools-dump.service'
        ' nr_cpus=1" --initrd=/var/lib/kdump/initrd.img /var/lib/kdump/vmlinuz',
    ],
    ids=["suse", "debian"],
)
def test_the_command_that_loads_a_capture_kernel_is_not_one_of_its_lines(command: str) -> None:
    failed = "Nov 22 23:25:33 guest kexec[472]: kexec_file_load failed: Cannot assign requested address"
    assert diagnose_text(f"Nov 22 23:25:32 guest {command}\n{failed}\n").mode == "kexec-load-bad-segments"


def test_every_remedy_can_be_filled_for_every_family() -> None:
    for row in load_symptoms().rows:
        for remedy in (row.remedy, *row.remedies.values()):
            assert "\n" not in remedy, row.name


# ---------------------------------------------------------------- bad input


def test_an_invalid_log_is_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "empty.log").touch()
    os.mkfifo(tmp_path / "fifo")
    for name, said in {
        "none.log": "no such file",
        "empty.log": "is empty",
        "fifo": "not a regular file",
        ".": "has no log",
    }.items():
        with pytest.raises(UsageError, match=said) as caught:
            diagnose_file(tmp_path / name)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"patterns": "['(unclosed']"}, "not a regular expression"),
        ({"patterns": "['panic .* and']"}, "unbounded repeat"),
        ({"patterns": "['panic (a{1,9}){1,9} and']"}, "repeat within a repeat"),
        ({"patterns": "['a.{0,90}b.{0,90}c panic']"}, "ways per character"),
        ({"patterns": "['x{3}']"}, "no whole word"),
        ({"stage": "'LANDED'"}, "unknown stage 'LANDED'"),
        ({"where": "['moon']"}, "unknown where 'moon'"),
        ({"severity": "'bad'"}, "unknown severity 'bad'"),
        ({"remedy": "'reboot {planet}'"}, "unknown placeholder 'planet'"),
        ({"rule": "'guess'"}, "unknown rule 'guess'"),
        ({"colour": "'red'"}, "unknown colour"),
    ],
)
def test_a_slip_in_the_table_is_named_by_file_and_row(tmp_path: Path, change: dict[str, str], said: str) -> None:
    row = {
        "name": "'mine'",
        "meaning": "'m'",
        "remedy": "'r'",
        "stage": "'ARMED'",
        "patterns": "['some panic']",
    } | change
    path = tmp_path / "own.toml"
    path.write_text("[[symptom]]\n" + "".join(f"{key} = {value}\n" for key, value in row.items()))
    with pytest.raises(TableError, match=re.escape("own.toml: [[symptom]] mine")) as caught:
        load_symptoms(path)
    assert said in str(caught.value)


ADDED = "[    0.700000] Built 1 zonelists, mobility grouping on.  Total pages: 63934\n"


def test_a_capture_kernel_that_adds_memory_is_named_although_it_saves_the_dump() -> None:
    zones = "[    0.000000] Built 1 zonelists, mobility grouping on.  Total pages: 64666\n"
    memory = "[    0.020000] Memory: "
    start = CRASHED + CAPTURE_BOOT.replace(memory, zones + memory)
    assert zones in start
    assert diagnose_text(start + REDHAT_SAVED).mode == "ok"
    taken = diagnose_text(start + ADDED + REDHAT_SAVED)
    assert (taken.mode, taken.stage) == ("capture-memory-taken", Stage.SAVED)
    assert taken.symptoms[0].line == ADDED.strip()
    assert "acpi_no_memhotplug" in taken.symptoms[0].remedy
    for family, file in (("debian", "default/kdump-tools"), ("suse", "sysconfig/kdump"), ("redhat", "sysconfig/kdump")):
        remedy = diagnose_text(start + ADDED + REDHAT_SAVED, family=family).symptoms[0].remedy
        assert "acpi_no_memhotplug" in remedy
        assert f"/etc/{file}" in remedy


def test_the_memory_of_the_next_kernel_is_not_the_capture_kernels() -> None:
    quiet_restart = REDHAT_SAVED + "[    0.000000] Built 1 zonelists, mobility grouping on.  Total pages: 515801\n"
    assert diagnose_text(CAPTURING + quiet_restart + NEXT_BOOT).mode == "ok"
    assert diagnose_text(FIRST_BOOT + ADDED + NEXT_BOOT).symptoms == ()
