"""The judgement of an audit, on the answers of machines."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from audit_factory import CMDLINE, CONFIG, INITRD, KERNEL, NOW_S, ROOT, SAVE, SOUND, facts, reasons
from kdump_harness.audit.asking.place import Place, place_of
from kdump_harness.audit.asking.questions import about_kdump, about_place
from kdump_harness.audit.finding import reason_rows
from kdump_harness.audit.judge import judge
from kdump_harness.audit.result import Answer, Severity, Success, answer
from kdump_harness.audit.rules_drivers import load_drivers
from kdump_harness.audit.run import NOT_UNDERSTOOD
from kdump_harness.diagnosis.table import load_symptoms
from kdump_harness.distro.family import find_family

UNIT = "systemd.unit=kdump-tools-dump.service"
STOPPED = "LoadState=loaded\nActiveState=inactive\nUnitFileState=disabled"
UNLOADED = {"loaded": "0"}
UNRESERVED = {"loaded": "0", "crash_size_bytes": "0", "iomem": ""}
SSH = {"config": 'USE_KDUMP=1\nSSH="kdump@vault"\nSSH_KEY=/root/.ssh/id\n', "key": "600 root"}
LOCKED = {"lockdown": "none [integrity] confidentiality\n 01"}
DEGRADED = "target md raid5\ntarget md-degraded raid5"
UNSIGNED = {"signature": f"/boot/vmlinuz-{KERNEL} PE 0"}
BOUND = "/dev/vda1 / ext4 rw 0 0\n/dev/vda1 /var/crash ext4 ro 0 0"
IN_MEMORY = {"mounts": "/dev/vda1 / ext4 rw 0 0\ntmpfs /var/crash tmpfs rw 0 0", "mount": "/var/crash tmpfs tmpfs rw"}
LOGGED_IN = "writable\nFilesystem 1024-blocks Used Available Capacity Mounted on\n/dev/sda 9 1 8000000 1% /\nstatus 0"


def success_of(ago_s: float, firmware: str = "") -> Success:
    """Return a success of that long ago."""
    return Success(at_s=NOW_S - ago_s, seen="verified drill", firmware=firmware)


SUSE = {"os_release": 'ID=sles\nVERSION_ID="15.6"'}
DUMP = {"finished": f"{NOW_S}|9000|600|/var/crash/2026-11-30-01-01/vmcore"}


@pytest.mark.parametrize(
    ("changes", "name", "evidence"),
    [
        ({"config": 'KDUMP_CONTINUE_ON_ERROR="false"'}, "kdump-emergency-shell", "KDUMP_CONTINUE_ON_ERROR is 'false'"),
        (
            {**DUMP, "companion": "vmcore status: error while saving, return code: 1"},
            "last-dump-unfinished",
            "README.txt says 'vmcore status: error while saving, return code: 1'",
        ),
        ({**DUMP, "companion": "absent"}, "last-dump-unfinished", "README.txt is missing next to it, or empty"),
        ({**DUMP, "companion": ""}, "", ""),  # it cannot be read
        ({**DUMP, "companion": "vmcore status: saved successfully"}, "", ""),
        ({"companion": ""}, "", ""),
    ],
)
def test_settings_and_notes_of_opensuse_are_read(changes: dict[str, str], name: str, evidence: str) -> None:
    found = reasons({**SUSE, **changes}, family="suse")
    if name:
        assert evidence in found[name].evidence
    else:
        assert not {"kdump-emergency-shell", "last-dump-unfinished"} & set(found)


def of_suse(config: str) -> list[tuple[str, str]]:
    """Return names and severities of the reasons against a machine of SUSE with these settings."""
    changes = {**SUSE, "config": config, "makedumpfile": "makedumpfile: version 1.7.6\nlzo\tenabled"}
    return [(reason.name, reason.severity) for reason in reasons(changes, family="suse").values()]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ("KDUMP_DUMPFORMAT=lzo\nKDUMP_DUMPLEVEL=31", []),
        ("KDUMP_DUMPFORMAT=none", [("no-dump-configured", "failure")]),
        ("KDUMP_DUMPLEVEL=32", [("collector-misread", "risk")]),
        ("KDUMP_FREE_DISK_SIZE=100000", [("target-no-space", "failure")]),  # of 1953 MiB
        ("KDUMP_FREE_DISK_SIZE=1950", [("target-no-space", "failure")]),  # the dump itself needs more than 3 MiB
        ("KDUMP_FREE_DISK_SIZE=1920", [("target-no-space", "risk")]),
        ("KDUMP_FREE_DISK_SIZE=1800", []),
        ("KDUMP_FREE_DISK_SIZE=0", []),
        ("KDUMP_FREE_DISK_SIZE=-5", []),
        ("KDUMP_FREE_DISK_SIZE=100000\nKDUMP_SAVEDIR=cifs://vault/dumps", []),
    ],
)
def test_settings_of_suse_with_which_no_dump_remains_are_found(config: str, expected: list[tuple[str, str]]) -> None:
    assert of_suse(config) == expected


def test_the_remedy_names_the_setting_that_deletes_the_dump() -> None:
    found = reasons({**SUSE, "config": "KDUMP_FREE_DISK_SIZE=100000"}, family="suse")["target-no-space"]
    assert "KDUMP_FREE_DISK_SIZE keeps 100000 MiB free" in found.evidence
    assert found.remedy == (
        "Lower KDUMP_FREE_DISK_SIZE in /etc/sysconfig/kdump, or free space on the target; then restart kdump.service"
    )


URL = "ssh://dump@vault:2222/dumps"
DENIED = "dump@vault: Permission denied (publickey,password).\nConnection closed\nstatus 255"
STRANGE = "Host key verification failed.\nConnection closed\nstatus 255"


@pytest.mark.parametrize(
    ("url", "login", "expected"),
    [
        (URL, LOGGED_IN, {}),
        (URL, LOGGED_IN.replace("writable\n", ""), {"target-read-only": "failure"}),
        (URL, DENIED, {"ssh-auth-failed": "failure"}),
        ("ssh://dump:secret@vault/dumps", DENIED, {"place-not-examined": "note"}),
        ("ssh://dump:secret@vault/dumps", STRANGE, {"ssh-host-key": "failure"}),
        ("sftp://dump@vault/dumps", "sftp> pwd\nstatus 0", {"place-not-examined": "note"}),
        ("scp://dump@vault/dumps", DENIED, {"ssh-auth-failed": "failure"}),
        ("sftp://dump@vault/dumps", STRANGE, {"ssh-host-key": "failure"}),
        ("sftp://dump:secret@vault/dumps", DENIED, {"place-not-examined": "note"}),
        (
            "sftp://dump:secret@vault/dumps",
            "ssh: connect to host vault port 22: Connection refused\nConnection closed\nstatus 255",
            {"network-not-ready": "failure"},
        ),
    ],
)
def test_a_dump_server_of_suse_is_judged_by_what_kdump_needs_of_it(
    url: str, login: str, expected: dict[str, str]
) -> None:
    changes = {**SUSE, "config": f"KDUMP_SAVEDIR={url}", "makedumpfile": "makedumpfile: version 1.7.6", "login": login}
    found = reasons(changes, family="suse", notes=True)
    found.pop("never-tested")
    assert {name: reason.severity for name, reason in found.items()} == expected
    assert not any("secret" in reason.evidence or "Connection closed" in reason.evidence for reason in found.values())


@pytest.mark.parametrize("shell", [name for name in ("dash", "bash") if shutil.which(name)])
@pytest.mark.parametrize(
    ("settings", "program", "known", "strict"),
    [
        (f"KDUMP_SAVEDIR={URL}", "ssh", None, "yes"),
        (f"KDUMP_SAVEDIR={URL}\nKDUMP_HOST_KEY='ssh-rsa AAAA='", "ssh", "* ssh-rsa AAAA=\n", "yes"),
        (f"KDUMP_SAVEDIR={URL}\nKDUMP_HOST_KEY='*'", "ssh", "", "no"),
        ("KDUMP_SAVEDIR=sftp://dump@vault/\nKDUMP_HOST_KEY='ssh-rsa AAAA='", "sftp", "* ssh-rsa AAAA=\n", "yes"),
    ],
)
def test_the_host_key_of_the_configuration_is_the_one_that_ssh_gets(
    tmp_path: Path, shell: str, settings: str, program: str, known: str | None, strict: str
) -> None:
    (tmp_path / "key").touch()
    script = f"""#!/bin/sh
printf '%s\\n' "$0" "$@"
for word in "$@"; do case $word in UserKnown*) cat "${{word#*=}}" >{tmp_path}/known ;; esac; done
"""
    for name in ("ssh", "sftp"):
        (tmp_path / name).write_text(script, encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    family = find_family("suse")
    place = place_of(family, f"{settings}\nKDUMP_SSH_IDENTITY='{tmp_path}/missing {tmp_path}/key'")
    ran = subprocess.run(
        [shell, "-c", about_place(family, place, "")["login"]],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    said = ran.stdout.splitlines()
    assert said[0] == str(tmp_path / program)
    assert said[-1] == "status 0"
    assert f"StrictHostKeyChecking={strict}" in said
    assert ("Port=2222" in said) is (program == "ssh")
    assert str(tmp_path / "key") in said
    assert str(tmp_path / "missing") not in said
    assert (tmp_path / "known").exists() is (known is not None)
    assert known is None or (tmp_path / "known").read_text() == known
    files = [Path(word.partition("=")[2]) for word in said if word.startswith("UserKnownHostsFile=")]
    assert not [file for file in files if file.exists() and file != Path("/dev/null")]


@pytest.mark.parametrize(
    ("mode", "expected"), [("600 root\n644 root", []), ("644 root\n640 root", ["ssh-auth-failed"])]
)
def test_one_key_that_others_may_not_read_is_enough(mode: str, expected: list[str]) -> None:
    changes = {**SUSE, "config": f"KDUMP_SAVEDIR={URL}", "makedumpfile": "makedumpfile: version 1.7.6"}
    assert list(reasons({**changes, "login": LOGGED_IN, "key": mode}, family="suse")) == expected


@pytest.mark.parametrize(("note", "seen"), [("", "absent\n"), ("vmcore status: skipped", "vmcore status: skipped")])
def test_the_note_next_to_the_newest_dump_is_asked_for(tmp_path: Path, note: str, seen: str) -> None:
    for name in ("2026-11-29-01-01", "2026-11-30-01-01"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "vmcore").touch()
    os.utime(tmp_path / "2026-11-29-01-01" / "vmcore", (0, 0))
    (tmp_path / "2026-11-30-01-01" / "README.txt").write_text(note, encoding="utf-8")
    place = Place(kind="local", directory=str(tmp_path))
    question = about_place(find_family("suse"), place, "")["companion"]
    assert subprocess.run(["sh", "-c", question], capture_output=True, text=True, check=True).stdout == seen


def test_a_dump_that_is_not_whole_is_not_the_last_success() -> None:
    found = reasons({**SUSE, **DUMP, "companion": "vmcore status: skipped"}, family="suse", notes=True)
    assert "never-tested" in found


def test_a_sound_machine_is_ready() -> None:
    assert not reasons()
    assert answer(judge(facts())) is Answer.READY


@pytest.mark.parametrize(
    ("changes", "name", "severity"),
    [
        ({**UNLOADED, "service": STOPPED, "says": ""}, "service-not-started", "failure"),
        ({"service": "LoadState=loaded\nActiveState=active\nUnitFileState=disabled"}, "service-not-started", "risk"),
        ({**UNLOADED, "says": ""}, "capture-kernel-unloaded", "failure"),
        (
            {**UNLOADED, "says": "kexec_load failed: Operation not permitted\nkernel.kexec_load_disabled = 1"},
            "kexec-load-disabled",
            "failure",
        ),
        (
            {"service": "LoadState=not-found\nActiveState=inactive", "config_files": "", **UNLOADED},
            "kdump-not-installed",
            "failure",
        ),
        ({"config_files": f"{NOW_S - 100} 4000 {CONFIG}"}, "loaded-before-change", "risk"),
        ({"sysctl_files": "kernel.kexec_load_disabled=1"}, "kexec-load-disabled", "risk"),
        ({**UNRESERVED, "cmdline": f"{ROOT} ro"}, "no-reserved-memory", "failure"),
        ({**UNRESERVED, "cmdline": CMDLINE.replace("256M", "2G-:256M")}, "no-reserved-memory", "failure"),
        ({**UNRESERVED, "cmdline": CMDLINE.replace("256M", "auto")}, "crashkernel-syntax-invalid", "failure"),
        ({"entries": f"linux /boot/vmlinuz-{KERNEL} {ROOT} ro"}, "next-boot-without-reservation", "risk"),
        (
            {"entries": f"linux /boot/vmlinuz-{KERNEL} {ROOT} crashkernel=4G-:1G"},
            "next-boot-without-reservation",
            "risk",
        ),
        (
            {"entries": SOUND["entries"] + f"\nlinux /boot/vmlinuz-7.2 {ROOT} ro"},
            "next-boot-without-reservation",
            "risk",
        ),
        ({"entries": "no boot loader configuration"}, "no-boot-after-dump", "risk"),
        ({"crash_size_bytes": str(88 << 20), "iomem": "  2f000000-347fffff : Crash kernel"}, "capture-oom", "failure"),
        ({"initramfs": ""}, "capture-initramfs-not-built", "risk"),
        ({"initramfs": f"{KERNEL} {NOW_S - 6000} 900 93aa0c71ff00 {INITRD}"}, "capture-init-failed", "failure"),
        ({"initramfs": f"{KERNEL} 1500000000 9000000 28b52ffd0458 {INITRD}"}, "initramfs-outdated", "risk"),
        ({"stack": "root driver megaraid_sas\n- loaded megaraid_sas"}, "capture-no-root-device", "failure"),
        ({"stack": "root driver usb_storage"}, "capture-no-root-device", "failure"),
        ({"stack": "root dm LVM-1\n"}, "capture-no-root-device", "failure"),
        ({"stack": "target dm CRYPT-LUKS2-1\ntarget luks-key none"}, "luks-target", "failure"),
        ({"stack": "target unmounted /var/crash"}, "target-not-mounted", "failure"),
        ({"stack": DEGRADED}, "array-dirty-degraded", "risk"),
        (
            {
                "stack": DEGRADED,
                "cmdline": f"{CMDLINE} md_mod.start_dirty_degraded=1",
                "config": f'KDUMP_CMDLINE="{ROOT}"',
            },
            "array-dirty-degraded",
            "risk",
        ),
        ({"config": f'KDUMP_CMDLINE_APPEND="{UNIT} root=UUID=0000"'}, "capture-no-root-device", "failure"),
        ({"config": 'KDUMP_CMDLINE_APPEND="nr_cpus=1"'}, "capture-unit-missing", "risk"),
        ({"acpi_memory": "/sys/bus/acpi/devices/PNP0C80:00/status"}, "capture-memory-taken", "risk"),
        ({"config_check": f"sh: 9: {CONFIG}: Syntax error: ( unexpected"}, "config-invalid", "failure"),
        ({"config": 'MAKEDUMP_ARGS="-c -d 0x1f"'}, "collector-misread", "risk"),
        ({"config": 'MAKEDUMP_ARGS="-z -d 31"'}, "collector-misread", "risk"),
        ({"config": 'MAKEDUMP_ARGS="-c -d 32"'}, "no-dump-configured", "failure"),
        ({"config": 'KDUMP_FAIL_CMD="systemctl start emergency.target"'}, "kdump-emergency-shell", "risk"),
        (
            {SAVE: "UMask=0077\nExecStartPre={ path=/bin/sleep ; argv[]=/bin/sleep infinity }"},
            "program-before-dump",
            "risk",
        ),
        ({"makedumpfile": "sh: 1: makedumpfile: not found"}, "makedumpfile-missing", "failure"),
        ({"kernel": "6.12.9+bpo-amd64", "initramfs": "", "kernels": ""}, "known-issue", "failure"),
        ({SAVE: "UMask=0022"}, "permissions", "risk"),
        ({**LOCKED, **UNSIGNED}, "kexec-signature-rejected", "risk"),
        ({"lockdown": "[none] integrity\n 01", **UNSIGNED}, "kexec-signature-rejected", "risk"),
        ({"pstore": f"efi_pstore\n{NOW_S - 60}"}, "panic-not-captured", "risk"),
        ({"notifiers": "Y"}, "notifiers-before-dump", "risk"),
        ({"watchdogs": "active|60|iTCO_wdt|iTCO_wdt"}, "watchdog-reset", "risk"),
        ({"modules": "nouveau", "contents": ""}, "driver-fails-in-capture", "risk"),
        ({"unfinished": f"{NOW_S}|100|600|/var/crash/2026/dump-incomplete"}, "last-dump-unfinished", "risk"),
        ({"finished": f"{NOW_S}|0|600|/var/crash/2026/dump.2026"}, "last-dump-unfinished", "risk"),
        ({"room": "/dev/vda1 3000000 2990000 5000 99% /"}, "target-no-space", "failure"),
        ({"room": "/dev/vda1 3000000 2990000 40000 99% /"}, "target-no-space", "risk"),
        ({"mounts": "/dev/vda1 / ext4 ro 0 0", "fstab": ""}, "target-read-only", "failure"),
        ({"mounts": "/dev/vda1 / ext4 ro 0 0"}, "target-read-only", "risk"),
        ({"mounts": BOUND, "fstab": "/var/crash /var/crash none bind,ro 0 0"}, "target-read-only", "failure"),
        ({"mounts": BOUND}, "target-read-only", "risk"),
        ({**IN_MEMORY, "mount_unit": "FragmentPath=/run/systemd/generator/x.mount"}, "target-in-memory", "failure"),
        ({**IN_MEMORY, "mount_unit": "FragmentPath="}, "target-in-memory", "risk"),
        ({**IN_MEMORY, "fstab": "tmpfs /var/crash tmpfs defaults 0 0"}, "target-in-memory", "failure"),
        ({**SSH, "login": LOGGED_IN, "server_addresses": "127.0.1.1"}, "server-is-this-machine", "failure"),
        (
            {"config": "NFS=vault:/srv", "server_addresses": "192.0.2.7", "own_addresses": "127.0.0.1\n192.0.2.7"},
            "server-is-this-machine",
            "failure",
        ),
        (
            {"config": "KDUMP_COREDIR=/srv/dumps", "fstab": "LABEL=d /srv ext4 defaults 0 0"},
            "target-not-mounted",
            "failure",
        ),
        ({"config": "KDUMP_COREDIR=/mnt/dumps"}, "target-not-mounted", "risk"),
        ({**SSH, "login": "Host key verification failed.\nstatus 255"}, "ssh-host-key", "failure"),
        ({**SSH, "login": "kdump@vault: Permission denied (publickey).\nstatus 255"}, "ssh-auth-failed", "failure"),
        (
            {**SSH, "login": "ssh: connect to host vault port 22: Connection refused\nstatus 255"},
            "network-not-ready",
            "failure",
        ),
        ({**SSH, "login": LOGGED_IN.replace("writable\n", "")}, "target-read-only", "failure"),
        ({**SSH, "login": LOGGED_IN, "key": "644 root"}, "ssh-auth-failed", "failure"),
        ({**SSH, "login": LOGGED_IN.replace("8000000", "4000")}, "target-no-space", "failure"),
        ({"config": "NFS=vault:/srv", "nfs": "bash: connect: Connection refused"}, "nfs-mount-failed", "failure"),
        ({"config": "NFS=vault:/srv", "nfs": "mount.nfs is not installed\nreached"}, "nfs-mount-failed", "failure"),
    ],
)
def test_a_state_is_found_and_nothing_else(changes: dict[str, str], name: str, severity: str) -> None:
    found = reasons(changes)
    assert set(found) == {name}, found
    assert found[name].severity == severity
    assert found[name].evidence
    assert "{kernel}" not in found[name].evidence
    assert found[name].remedy
    assert not {"{service}", "{file}", "{initramfs}", "{install}"} & set(found[name].remedy.split())


@pytest.mark.parametrize(
    "changes",
    [
        {**SSH, "login": LOGGED_IN, "server_addresses": "192.0.2.8", "own_addresses": "127.0.0.1\n192.0.2.7"},
        {"config": "NFS=vault:/srv", "nfs": "/sbin/mount.nfs\nreached"},
        {"config": "KDUMP_COREDIR=/mnt/dumps", "mounts": "/dev/vda1 / ext4 rw 0 0\n/dev/vdb /mnt/dumps xfs rw 0 0"},
        {"fstab": "LABEL=d /srv ext4 defaults 0 0"},
        {"contents": "", "stack": "root driver megaraid_sas\n- loaded megaraid_sas"},
        {"stack": "target driver megaraid_sas\n- loaded megaraid_sas"},  # the system loads it
        {"stack": "target dm CRYPT-LUKS2-1\ntarget luks-key /etc/key"},
        {"stack": DEGRADED, "cmdline": f"{CMDLINE} md_mod.start_dirty_degraded=1"},
        LOCKED,
        UNSIGNED,
        {"lockdown": "[none] integrity\n 00", **UNSIGNED},
        {"pstore": f"efi_pstore\n{NOW_S - 90000}"},
        {"pstore": f"efi_pstore\n{NOW_S - 60}", "finished": f"{NOW_S - 10}|9000|600|/var/crash/2026/dump.2026"},
        {"watchdogs": "active|60||unknown"},
        {"watchdogs": "inactive|60|iTCO_wdt|iTCO_wdt"},
        {"finished": f"{NOW_S - 10}|9000|600|/var/crash/2026/dump.2026", "unfinished": f"{NOW_S - 90}|1|600|/x"},
        {"entries": f"{SOUND['entries']}\nlinux unified-image crashkernel=256M quiet"},
        {"entries": f"{SOUND['entries']}\nlinux /boot/memtest86+x64.bin\nlinux16 /memdisk iso\nlinux /boot/ipxe.lkrn"},
        {"entries": f"{SOUND['entries']}\nlinux /vmlinuz-0-rescue-0123456789abcdef0123456789abcdef {ROOT} ro"},
        {
            "acpi_memory": "/sys/bus/acpi/devices/PNP0C80:00/status",
            "config": f'KDUMP_CMDLINE_APPEND="acpi_no_memhotplug {UNIT}"',
        },
        {"kernel": "6.1.0-99-amd64", "initramfs": "", "kernels": ""},
    ],
)
def test_a_sound_variant_is_ready(changes: dict[str, str]) -> None:
    assert not reasons(changes)


@pytest.mark.parametrize(
    ("command", "returns"),
    [
        ("reboot -f", True),
        ("/sbin/reboot -f", True),
        ("systemctl reboot", True),
        ("/usr/local/sbin/kdump-fail.sh", True),
        ("/opt/rescue/emergency-report.sh --shell-quote now", True),
        ("sh /usr/local/sbin/kdump-fail", True),
        ("sh -c reboot", True),
        ("sh -c 'reboot'", True),
        ("sh -c 'sync; reboot -f'", False),
        ("sh -c 'reboot -f'", False),
        ("sync && reboot -f", False),
        ("echo 'makedumpfile FAILED.'; /bin/bash; reboot -f", False),  # the example of kdump-tools
        ("/bin/bash", False),
        ("sh -i", False),
        ("systemctl start emergency.target", False),
        ("systemctl rescue", False),
        ("/sbin/poweroff -f", False),
        ("halt", False),
    ],
)
def test_a_command_after_a_failed_dump_reboots_or_not(command: str, returns: bool) -> None:
    found = reasons({"config": f'USE_KDUMP=1\nKDUMP_FAIL_CMD="{command}"\n'})
    assert list(found) == ([] if returns else ["kdump-emergency-shell"])


@pytest.mark.parametrize("shell", [name for name in ("dash", "bash") if shutil.which(name)])
@pytest.mark.parametrize(
    ("command", "reboots"),
    [("sh -c reboot", True), ("sh -c 'reboot'", True), ("sh -c 'true; reboot'", False), ("true && reboot", False)],
)
def test_the_command_after_a_failed_dump_is_run_as_its_words(
    tmp_path: Path, shell: str, command: str, reboots: bool
) -> None:
    (tmp_path / "reboot").write_text(f"#!/bin/sh\ntouch {tmp_path}/rebooted\n", encoding="utf-8")
    (tmp_path / "reboot").chmod(0o755)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "KDUMP_FAIL_CMD": command}
    subprocess.run([shell, "-c", "$KDUMP_FAIL_CMD ;"], env=env, capture_output=True, check=False)
    assert (tmp_path / "rebooted").exists() is reboots


@pytest.mark.parametrize(
    ("directory", "private"),
    [
        ("700 root", True),
        ("2700 root", True),
        ("755 root", False),
        ("750 root", False),
        ("700 crash", False),
        ("", False),
    ],
)
def test_a_dump_in_a_directory_of_root_alone_is_not_readable(directory: str, private: bool) -> None:
    finished = f"{NOW_S}|9000|644|/var/crash/2026/dump.2026"
    for changes in ({SAVE: "UMask=0022"}, {"finished": finished}):
        assert ("permissions" in reasons({**changes, "directory": directory}, notes=True)) is not private


@pytest.mark.parametrize("shell", [name for name in ("dash", "bash") if shutil.which(name)])
@pytest.mark.parametrize(
    ("files", "disabled"),
    [
        ({"etc/sysctl.d/60-hardening.conf": "kernel.kexec_load_disabled=1"}, True),
        ({"etc/sysctl.d/60-hardening.conf": "-kernel/kexec_load_disabled = 1", "etc/sysctl.d/70-x.conf": "a=0"}, True),
        ({"usr/lib/sysctl.d/60-a.conf": "kernel.kexec_load_disabled=1", "etc/sysctl.d/60-a.conf": ""}, False),
        ({"usr/lib/sysctl.d/60-a.conf": "kernel.kexec_load_disabled=0", "etc/sysctl.d/50-b.conf": "k=1"}, False),
        ({"etc/sysctl.d/90-a.conf": "k=0", "usr/lib/sysctl.d/10-b.conf": "k=1"}, False),
        ({"etc/sysctl.d/10-a.conf": "k=0", "run/sysctl.d/90-b.conf": "k=1"}, True),
        ({"etc/sysctl.d/10-a.conf": "k=1\nk=0"}, False),
        ({"etc/sysctl.conf": "k=1"}, True),
        ({"etc/sysctl.conf": "k=1", "etc/sysctl.d/10-a.conf": "k=0"}, False),
        ({"etc/sysctl.conf": "k=1", "etc/sysctl.d/10-a.conf": "k=0", "etc/sysctl.d/99-sysctl.conf": None}, True),
        ({"etc/sysctl.d/a.conf.off": "k=1", "etc/sysctl.d/b.conf": "#k=1"}, False),
        ({}, False),
    ],
)
def test_the_last_value_of_a_sysctl_counts(
    tmp_path: Path, shell: str, files: dict[str, str | None], disabled: bool
) -> None:
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if text is None:
            path.symlink_to("../sysctl.conf")
        else:
            path.write_text(re.sub(r"\bk=", "kernel.kexec_load_disabled=", text) + "\n", encoding="utf-8")
    question = about_kdump(find_family("debian"), KERNEL)["sysctl_files"]
    command = re.sub(r"(?<=\s)/(?=etc/|run/|usr/)", f"{tmp_path}/", question)
    said = subprocess.run([shell, "-c", command], capture_output=True, text=True, check=False).stdout
    assert list(reasons({"sysctl_files": said})) == (["kexec-load-disabled"] if disabled else [])


@pytest.mark.parametrize("shell", [name for name in ("dash", "bash") if shutil.which(name)])
@pytest.mark.parametrize(
    ("value", "off"),
    [("1", False), ("01", False), ("2", False), ("-1", False), ("0", True), ("00", True), ("yes", True), ("", True)],
)
def test_a_kdump_that_is_turned_off_is_found(shell: str, value: str, off: bool) -> None:
    """The service of kdump-tools ends at once unless the value is a number that is not 0."""
    service = 'USE_KDUMP="$1"; [ "$USE_KDUMP" -ne 0 ] || exit 0; exit 9'
    assert subprocess.run([shell, "-c", service, "x", value], check=False, capture_output=True).returncode == 9 * (
        not off
    )
    config = {"config": f'USE_KDUMP="{value}"\n'}
    seen = {name: reason.severity for name, reason in reasons(config).items()}
    assert seen == ({"service-not-started": "risk"} if off else {})
    unloaded = {name: reason.severity for name, reason in reasons({**config, **UNLOADED, "says": ""}).items()}
    assert unloaded == ({"service-not-started": "failure"} if off else {"capture-kernel-unloaded": "failure"})


def test_notes_do_not_change_the_answer() -> None:
    found = reasons({"sysctl": "kernel.panic_on_oops = 0\nkernel.sysrq = 0\nkernel.unknown_nmi_panic = 0"}, notes=True)
    assert set(found) == {"oops-no-panic", "sysrq-disabled", "nmi-no-panic", "never-tested"}
    assert answer(tuple(found.values())) is Answer.READY


def test_the_last_drill_and_the_last_dump_are_compared_with_the_changes() -> None:
    assert "changed-since-test" in reasons(notes=True, success=success_of(7500))
    assert not reasons(notes=True, success=success_of(5000))
    assert not reasons(notes=True, success=success_of(5000, firmware="1.16.2 04/01/2014"))
    changed = reasons(notes=True, success=success_of(5000, firmware="1.15 01/01/2013"))["changed-since-test"]
    assert changed.evidence == (
        "the firmware '1.15 01/01/2013' became '1.16.2 04/01/2014' after the last verified drill"
    )


def test_an_image_that_will_be_refused_is_a_failure_where_nothing_is_loaded() -> None:
    found = reasons({**LOCKED, **UNSIGNED, **UNLOADED, "says": "", "service": STOPPED})
    assert found["kexec-signature-rejected"].severity == "failure"
    assert found["kexec-signature-rejected"].evidence == (
        f"lockdown is integrity, and /boot/vmlinuz-{KERNEL} has no signature"
    )


def test_a_panic_before_a_change_of_kdump_is_a_note() -> None:
    found = reasons({"pstore": f"efi_pstore\n{NOW_S - 90000}"}, notes=True)
    assert found["panic-not-captured"].severity == "note"
    assert "no-panic-record" in reasons({"pstore": "(null)"}, notes=True)
    assert not reasons({"finished": f"{NOW_S}|9000|600|/var/crash/2026/dump.2026"}, notes=True)


def test_a_login_without_root_and_an_unknown_release_are_named() -> None:
    assert set(reasons(root=False)) == {"not-root"}
    assert reasons(notes=True, remark="taken for Debian 13")["release-not-in-table"].severity is Severity.NOTE


def test_the_configuration_of_kdump_utils_is_read_by_its_release() -> None:
    changes = {
        "os_release": 'ID="rhel"\nVERSION_ID="10.0"\nPRETTY_NAME="RHEL 10"',
        "config": "path /var/crash\ncore_collector makedumpfile -l -d 31\nlink_delay 60\nfailure_action shell\n",
        "capture_line": 'KDUMP_COMMANDLINE_APPEND="nr_cpus=1"',
        "makedumpfile": "makedumpfile: version 1.7.7 (released on 1 Apr 2025)\nlzo\tenabled",
        "capture_default": "",
    }
    found = reasons(changes, family="redhat")
    assert set(found) == {"config-invalid", "kdump-emergency-shell"}
    assert "link_delay" in found["config-invalid"].evidence
    assert found["kdump-emergency-shell"].remedy.startswith("sed -i -E 's/^(failure_action|default) .*/\\1 reboot/'")
    of_old = reasons({**changes, "config": "path /var/crash\ndefault shell\n"}, family="redhat")
    assert set(of_old) == {"kdump-emergency-shell"}
    assert not reasons({**changes, "config": "path /var/crash\ndefault reboot\n"}, family="redhat")


RHEL = {
    "os_release": 'ID="rhel"\nVERSION_ID="9.6"\nPRETTY_NAME="RHEL 9"',
    "capture_line": 'KDUMP_COMMANDLINE_APPEND="nr_cpus=1"',
    "capture_default": "",
    "contents": "",
    "makedumpfile": "makedumpfile: version 1.7.2 (released on 1 Apr 2022)\nlzo\tenabled",
}


@pytest.mark.parametrize(
    ("config", "device", "name"),
    [
        ("ext4 UUID=77", "/dev/sdb1\n/srv rw,relatime", ""),
        ("ext4 UUID=77", "/dev/sdb1", ""),  # mkdumprd mounts it in a temporary directory
        ("ext4 UUID=77", "/dev/sdb1\nfstab /srv defaults,noauto", ""),
        ("ext4 UUID=77", "/dev/sdb1\nfstab /srv defaults", "target-not-mounted"),
        ("ext4 UUID=77", "/dev/sdb1\nfstab /srv noauto,nofail", "target-not-mounted"),
        ("ext4 UUID=77", "ls: cannot access 'UUID=77': No such file or directory", "config-invalid"),
        ("raw /dev/sdb1", "/dev/sdb1", ""),
        ("raw /dev/sdb1", "ls: cannot access '/dev/sdb1': No such file or directory", "config-invalid"),
        ("virtiofs myfs", "", ""),
    ],
)
def test_a_disk_of_kdump_conf_is_missed_only_where_mkdumprd_refuses_it(config: str, device: str, name: str) -> None:
    changes = {**RHEL, "config": f"{config}\npath /dumps\n", "device": device}
    assert set(reasons(changes, family="redhat")) == ({name} if name else set())
    noted = reasons(changes, family="redhat", notes=True)
    assert ("place-not-examined" in noted) is config.startswith("virtiofs")
    of_7 = {**changes, "os_release": 'ID="rhel"\nVERSION_ID="7.9"'}
    assert ("target-not-mounted" in reasons(of_7, family="redhat")) is (
        config.startswith("ext4") and device.startswith("/dev/sdb1") and "rw" not in device
    )


def of_rhel(**ages_s: int) -> dict[str, str]:
    """Return the answers of a RHEL 9 where files changed so many seconds before now; the service started 4940 s ago."""
    image, conf, sysconfig, modules = (ages_s.get(name, 6000) for name in ("image", "conf", "sysconfig", "modules"))
    return {
        **RHEL,
        "config": "path /var/crash\n",
        "initramfs": f"{KERNEL} {NOW_S - image} {20 << 20} 28b52ffd0458 /boot/initramfs-{KERNEL}kdump.img",
        "config_files": f"{NOW_S - conf} 4000 /etc/kdump.conf\n{NOW_S - sysconfig} 900 /etc/sysconfig/kdump",
        "kernel_files": f"{NOW_S - 9000} 8000000 /boot/vmlinuz-{KERNEL}\n"
        f"{NOW_S - modules} 9000 /lib/modules/{KERNEL}/modules.dep",
    }


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        (of_rhel(), set()),
        (of_rhel(sysconfig=5900), set()),  # kdumpctl builds nothing for it, and the service loaded it
        (of_rhel(sysconfig=100), {"loaded-before-change"}),
        (of_rhel(sysconfig=100, image=50), {"loaded-before-change"}),  # the initramfs has no copy of it
        (of_rhel(conf=5900), {"initramfs-outdated"}),
        (of_rhel(conf=100), {"initramfs-outdated", "loaded-before-change"}),
        (of_rhel(conf=100, image=50), set()),  # as after kdumpctl restart
        (of_rhel(conf=100, image=50, sysconfig=200), {"loaded-before-change"}),
        (of_rhel(modules=100), set()),
        ({**of_rhel(modules=100), "config": "path /var/crash\nextra_modules mpt3sas\n"}, {"initramfs-outdated"}),
    ],
)
def test_the_files_of_kdump_utils_are_compared_as_kdumpctl_does(changes: dict[str, str], names: set[str]) -> None:
    found = reasons(changes, family="redhat")
    assert set(found) == names
    assert not [reason.name for reason in found.values() if "kdumpctl restart" in reason.remedy]
    noted = reasons(changes, family="redhat", notes=True).get("loaded-before-change")
    assert noted is None or "by kdumpctl restart" in noted.evidence or "loaded-before-change" in names


def test_a_configuration_that_kdumpctl_may_have_loaded_since_is_a_note() -> None:
    noted = reasons(of_rhel(conf=100, image=50), family="redhat", notes=True)["loaded-before-change"]
    assert noted.severity is Severity.NOTE
    assert noted.remedy == "systemctl restart kdump.service"


EL8 = "4.18.0-553.22.1.el8_10.x86_64"
LARGE = {"ram": "00100000-1003ffffff : System RAM"}  # 64 GiB
AUTO = {
    **of_rhel(),
    **LARGE,
    "os_release": 'ID="rocky"\nID_LIKE="rhel"\nVERSION_ID="8.10"',
    "kernel": EL8,
    "kernels": EL8,
    "cmdline": f"BOOT_IMAGE=/vmlinuz-{EL8} {ROOT} ro crashkernel=auto",
    "entries": f"linux /vmlinuz-{EL8} {ROOT} ro crashkernel=auto\nlinux /vmlinuz-4.18.0-9.el8.x86_64 crashkernel=auto",
    "initramfs": f"{EL8} {NOW_S - 6000} {20 << 20} 28b52ffd0458 /boot/initramfs-{EL8}kdump.img",
    "kernel_files": "",
}
ML = "6.9.7-1.el8.elrepo.x86_64"


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, ""),
        ({"os_release": 'ID="centos"\nVERSION_ID="7"'}, "next-boot-without-reservation"),  # not kernels of RHEL 7
        ({"entries": f"linux /vmlinuz-{ML} {ROOT} crashkernel=auto"}, "next-boot-without-reservation"),
        ({"entries": f"linux /vmlinuz-{EL8} {ROOT} ro"}, "next-boot-without-reservation"),
        ({**UNRESERVED, "says": "", "ram": ""}, "no-reserved-memory"),  # a machine with 720 MiB
        ({**UNRESERVED, "says": ""}, "no-reserved-memory"),
        ({**UNRESERVED, "says": "", "kernel": ML, "kernels": ML, "entries": ""}, "crashkernel-syntax-invalid"),
        ({"os_release": RHEL["os_release"], "entries": ""}, ""),  # whatever the table says, this kernel took it
    ],
)
def test_kernels_of_rhel_8_take_crashkernel_auto(changes: dict[str, str], name: str) -> None:
    found = reasons({**AUTO, **changes}, family="redhat")
    assert set(found) == ({name} if name else set()), found
    if "ram" in changes:
        assert found[name].evidence == (
            "crashkernel=auto reserves nothing on a machine with 720 MiB; kexec_crash_size is 0"
        )


LOCKED_ROOT = "root fs xfs\nroot dm CRYPT-LUKS2-1\nroot luks-key none\nroot md-degraded raid5\n"


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"config": "nfs vault:/srv\n", "nfs": "reached", "stack": f"{LOCKED_ROOT}target net eth0"}, set()),
        ({"config": "ext4 UUID=77\n", "device": "/dev/vdb\n/srv rw", "stack": f"{LOCKED_ROOT}target fs ext4"}, set()),
        (
            {"config": "path /var/crash\n", "stack": LOCKED_ROOT + LOCKED_ROOT.replace("root ", "target ")},
            {"luks-target", "array-dirty-degraded"},
        ),
        (
            {
                "config": "ext4 /dev/mapper/dumps\n",
                "device": "/dev/mapper/dumps\n/srv rw",
                "stack": "root fs xfs\ntarget fs ext4\ntarget dm CRYPT-LUKS2-2\ntarget luks-key none",
            },
            {"luks-target"},
        ),
    ],
)
def test_kdump_utils_needs_the_target_and_not_root(changes: dict[str, str], names: set[str]) -> None:
    assert set(reasons({**RHEL, **changes}, family="redhat")) == names


def test_a_disk_that_is_named_is_examined_and_not_the_root_filesystem() -> None:
    place = Place(kind="device", directory="/", device="/dev/mapper/dumps")
    question = about_place(find_family("redhat"), place, "/boot/i.img")["stack"]
    assert question.endswith("probe /boot/i.img / /dev/mapper/dumps device 2>/dev/null")
    for config in ("ext4 /dev/mapper/dumps\n", "nfs vault:/srv\n"):
        assert facts({**RHEL, "config": config}, family="redhat").to_json()["free_mib"] is None
    assert facts({**RHEL, "config": "path /var/crash\n"}, family="redhat").to_json()["free_mib"] == 1953


def test_a_disk_that_is_not_mounted_is_looked_up_in_fstab(tmp_path: Path) -> None:
    fstab = tmp_path / "fstab"
    fstab.write_text("/dev/sdb1 /srv/my\\040dumps ext4 defaults,noauto 0 0\n", encoding="utf-8")
    for name, said in (("findfs", "echo /dev/sdb1"), ("findmnt", f'exec /usr/bin/findmnt --tab-file {fstab} "$@"')):
        text = said if name == "findfs" else f'case "$*" in *--fstab*) {said} ;; esac; exit 1'
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    question = about_place(find_family("redhat"), Place(kind="device", device="UUID=77"), "")["device"]
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(["sh", "-c", question], capture_output=True, text=True, check=True, env={"PATH": path})
    assert done.stdout == "/dev/sdb1\nfstab /srv/my\\x20dumps defaults,noauto\n"


def test_the_recorded_answers_of_a_debian_12_are_those_of_a_ready_machine() -> None:
    recorded = json.loads((Path(__file__).parents[1] / "data" / "audits" / "debian-12.json").read_text())
    found = facts(recorded)
    assert answer(judge(found)) is Answer.READY
    assert {"virtio_blk", "virtio_pci"} <= set(found.contents)
    assert [entry.repair for entry in found.entries] == [False, False, True]
    about = found.to_json()
    assert (about["unpacked_mib"], about["initramfs_mib"], about["level"], about["compress"]) == (15, 6, 31, "zlib")


def test_the_distributions_estimate_is_a_note() -> None:
    changes = {
        "os_release": 'ID=debian\nVERSION_ID="13"',
        "makedumpfile": "makedumpfile: version 1.7.9",
        "estimate": "crashkernel suggested size: 320M",
    }
    found = reasons(changes, notes=True)["reservation-below-estimate"]
    assert found.evidence == "256 MiB are reserved, the distribution's tool suggests 320 MiB"


def test_a_reservation_that_is_enough_for_a_guest_is_too_small_for_a_large_machine() -> None:
    """By the size model."""
    changes = {"crash_size_bytes": str(160 << 20), "iomem": "  35000000-3effffff : Crash kernel"}
    assert not reasons(changes)
    found = reasons({**changes, "ram": "00001000-0009fbff : System RAM\n00100000-7ffffffffff : System RAM"})
    assert found["capture-oom"].severity is Severity.RISK
    assert found["capture-oom"].evidence.startswith("160 MiB are reserved; by the size model this machine needs ")


def test_a_remedy_is_that_of_the_machines_platform() -> None:
    changes = {**UNRESERVED, "cmdline": ROOT, "platform": "ostree"}
    assert reasons(changes)["no-reserved-memory"].remedy.startswith("rpm-ostree kargs")


def test_a_row_of_another_distribution_is_a_risk_only() -> None:
    changes = {
        "os_release": "ID=ubuntu\nVERSION_ID=24.04",
        "kernel": "6.12.0-1-generic",
        "kernels": "",
        "initramfs": "",
    }
    assert reasons(changes)["known-issue"].severity is Severity.RISK


MEMINFO = "MemTotal: 264000000 kB\nMemFree: 40000000 kB\nCached: 2000000 kB\nAnonPages: 4000000 kB\n"
SMALL_PAGES = "HugePages_Total: 0\nHugepagesize: 2048 kB\n"


@pytest.mark.parametrize(
    ("huge", "kept_mib"),
    [
        (f"{SMALL_PAGES}Hugetlb: 209715200 kB", 8090),  # 200 pages of 1 GiB, which are not of the default size
        ("HugePages_Total: 200\nHugepagesize: 1048576 kB", 8090),  # before Linux 4.16
        (f"{SMALL_PAGES}Hugetlb: 0 kB", 212890),
    ],
)
def test_huge_pages_of_all_sizes_take_no_room(huge: str, kept_mib: int) -> None:
    changes = {"meminfo": MEMINFO + huge, "room": "/dev/vda1 50000000 30000000 20971520 61% /"}
    assert facts(changes).to_json()["kept_mib"] == kept_mib
    assert list(reasons(changes)) == ([] if kept_mib < 10000 else ["target-no-space"])


@pytest.mark.parametrize("shell", [name for name in ("dash", "bash") if shutil.which(name)])
@pytest.mark.parametrize(
    ("key", "there"),
    [("cryptroot/keyfiles/root_crypt.key", True), ("etc/keys/root.key", True), ("etc/keys/other.key", False)],
)
def test_a_key_in_the_capture_initramfs_is_seen(tmp_path: Path, shell: str, key: str, there: bool) -> None:
    listing = "".join(
        f"{mode} 1 root root {size} Nov 30 01:00 {name}\n"
        for mode, size, name in (
            ("drwx------", 0, "cryptroot/keyfiles"),
            ("-r--------", 4096, key),
            ("-rw-r--r--", 90000, "usr/lib/modules/6.1.0/kernel/drivers/md/dm-crypt.ko"),
            ("-rwxr-xr-x", 180000, "usr/sbin/cryptsetup"),
        )
    )
    (tmp_path / "lsinitramfs").write_text(f"#!/bin/sh\ncat <<X\n{listing}X\n", encoding="utf-8")
    (tmp_path / "lsinitramfs").chmod(0o755)
    crypttab = tmp_path / "crypttab"
    crypttab.write_text("# <target> <source> <key>\nswap /dev/vda2 none\nroot_crypt UUID=1 /etc/keys/root.key luks\n")
    command = about_place(find_family("debian"), Place(kind="local", directory="/"), INITRD)["contents"]
    ran = subprocess.run(
        [shell, "-c", command.replace("/etc/crypttab", str(crypttab))],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "bytes 274096" in ran.stdout
    stack = "root dm CRYPT-LUKS2-ab-root_crypt\nroot luks-memory 65536\nroot luks-key /etc/keys/root.key \n"
    found = reasons({"contents": ran.stdout, "stack": stack})
    assert list(found) == ([] if there else ["luks-target"])


def test_a_name_is_of_one_table() -> None:
    symptoms = {row.name for row in load_symptoms().rows}
    assert not symptoms & set(reason_rows())
    assert all(row.source and row.fails for row in load_drivers())


@pytest.mark.parametrize("name", sorted(SOUND))
def test_no_answer_is_trusted(name: str) -> None:
    """A missing, empty or hostile answer gives reasons, or the errors that the audit expects."""
    for text in (
        "",
        "\x00\x1b[2J" * 9,
        "9" * 5000,
        "a b c d e f g h\n" * 9,
        "-1 -1 /x",
        "{}" * 50,
        "%s %n {0} {kernel}",
    ):
        with contextlib.suppress(*NOT_UNDERSTOOD):
            judge(facts({name: text}))
