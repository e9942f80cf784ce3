"""The judgement of an audit on machines of other platforms: what is usual there is not a reason."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from audit_factory import NOW_S, SOUND, reasons
from kdump_harness.audit.asking.questions import about_kdump
from kdump_harness.audit.result import Severity
from kdump_harness.distro.family import find_family
from kdump_harness.kdump.guest_state import FADUMP

SHELLS = [name for name in ("dash", "bash") if shutil.which(name)]
DIMM = {"acpi_memory": "/sys/bus/acpi/devices/PNP0C80:00/status"}
LEAP = {"os_release": 'ID=sles\nVERSION_ID="15.6"', "capture_default": ""}


def said(name: str, root: Path, shell: str, kernel: str = "6.1.0") -> str:
    """Return the answer to a question about the made-up system below ROOT."""
    question = about_kdump(find_family("debian"), kernel)[name]
    for place in ("/sys/", "/proc/", "/boot/", "/lib/modules/", "/etc/", "/efi/"):
        question = question.replace(f" {place}", f" {root}{place}")
    done = subprocess.run([shell, "-c", question], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def write(path: Path, text: str = "") -> None:
    """Make a file of the made-up system."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("path", "text", "platform"),
    [
        ("proc/sys/kernel/hyperv_record_panic_msg", "1\n", "Hyper-V"),
        ("sys/kernel/fadump/enabled", "1\n", "fadump"),
        ("sys/kernel/fadump/enabled", "0\n", ""),
        ("sys/module/kvm_amd/parameters/sev_snp", "Y\n", "hosts of SEV-SNP guests"),
        ("sys/module/kvm_amd/parameters/sev_snp", "N\n", ""),
    ],
)
def test_notifiers_are_a_note_where_the_kernel_itself_sets_them(
    tmp_path: Path, shell: str, path: str, text: str, platform: str
) -> None:
    write(tmp_path / path, text)
    assert said("notifiers_by", tmp_path, shell) == platform
    found = reasons({"notifiers": "Y", "notifiers_by": platform}, notes=True)["notifiers-before-dump"]
    assert found.severity is (Severity.NOTE if platform else Severity.RISK)
    assert not platform or found.evidence.endswith(f"the kernel itself sets it on {platform}")


@pytest.mark.parametrize(("machine", "fails"), [("x86_64", False), ("ppc64le", True), ("", False)])
def test_a_driver_that_fails_on_one_machine_is_a_risk_there_only(machine: str, fails: bool) -> None:
    changes = {"modules": "mlx5_core", "contents": "", "kernel": "5.14.0-503.el9", "machine": machine}
    assert ("driver-fails-in-capture" in reasons(changes)) is fails


@pytest.mark.parametrize(
    ("config", "taken"),
    [
        ("", False),
        ('KDUMP_COMMANDLINE=""', False),
        ('KDUMP_COMMANDLINE="root=/dev/vda1"', True),
        ('KDUMP_COMMANDLINE="root=/dev/vda1"\nKDUMP_COMMANDLINE_APPEND="acpi_no_memhotplug"', False),
    ],
)
def test_arguments_that_opensuse_adds_by_itself_count(config: str, taken: bool) -> None:
    assert ("capture-memory-taken" in reasons({**LEAP, **DIMM, "config": config}, family="suse")) is taken


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("driver", ["", "iTCO_wdt"])
def test_a_watchdog_without_a_device_stops_with_the_crashed_kernel(tmp_path: Path, shell: str, driver: str) -> None:
    """The device softdog is a timer of the crashed kernel, and has no driver in /sys."""
    dog = tmp_path / "sys/class/watchdog/watchdog0"
    for name, text in (("state", "active"), ("timeout", "60"), ("identity", driver or "Software Watchdog")):
        write(dog / name, text)
    if driver:
        (tmp_path / "module" / driver).mkdir(parents=True)
        write(dog / "device/driver/name")
        (dog / "device/driver/module").symlink_to(tmp_path / "module" / driver)
    answer = said("watchdogs", tmp_path, shell)
    assert answer == f"active|60|{driver}|{driver or 'Software Watchdog'}"
    assert ("watchdog-reset" in reasons({"watchdogs": answer})) is bool(driver)


REGISTERED = "1\n1\n805306368"
# A RHEL 9 on ppc64le: crashkernel= and a capture initramfs are not there, and kexec loads nothing.
WITH_FADUMP = {
    "os_release": 'ID="rhel"\nVERSION_ID="9.5"',
    "machine": "ppc64le",
    "cmdline": "BOOT_IMAGE=/vmlinuz-5.14 root=/dev/mapper/rhel-root ro fadump=on",
    "kernel_log": "",
    "config": "path /var/crash\ncore_collector makedumpfile -l -d 31\n",
    "capture_line": "",
    "capture_default": "",
    "config_files": f"{NOW_S - 7000} 4000 /etc/kdump.conf",
    "contents": "",
    "loaded": "0",
    "crash_size_bytes": "0",
    "iomem": "",
    "initramfs": "",
    "fadump": REGISTERED,
    "notifiers": "Y",
    "notifiers_by": "fadump",
    "lockdown": "none [integrity] confidentiality",
    "signature": "/boot/vmlinuz-5.14 7f45 0",
    "sysctl_files": "kernel.kexec_load_disabled=1",
    "entries": "linux /vmlinuz-5.14 root=/dev/mapper/rhel-root ro fadump=on",
    "says": "kdump: Kdump is operational",
    "makedumpfile": "makedumpfile: version 1.7.6 (released on 1 Oct 2024)\nlzo\tenabled",
}
PLAIN = "linux /vmlinuz-5.14 root=/dev/mapper/rhel-root ro"


def test_a_machine_with_fadump_is_ready() -> None:
    assert not reasons(WITH_FADUMP, family="redhat")
    assert not reasons({**WITH_FADUMP, "fadump": "1\n1"}, family="redhat")  # before Linux 5.5
    assert not reasons({**WITH_FADUMP, "entries": f"{PLAIN} fadump=nocma"}, family="redhat")
    assert not reasons({**WITH_FADUMP, "entries": f"{PLAIN} crashkernel=512M"}, family="redhat")


@pytest.mark.parametrize(
    ("changes", "name", "severity"),
    [
        ({"fadump": "1\n0\n805306368"}, "capture-kernel-unloaded", "failure"),
        ({"fadump": "1\n0"}, "capture-kernel-unloaded", "failure"),
        ({"fadump": "0\n0\n0"}, "no-reserved-memory", "failure"),
        ({"fadump": ""}, "no-reserved-memory", "failure"),
        ({"entries": PLAIN}, "next-boot-without-reservation", "risk"),
        ({"entries": f"{PLAIN} fadump=off"}, "next-boot-without-reservation", "risk"),
        ({"service": SOUND["service"].replace("=enabled", "=disabled")}, "service-not-started", "risk"),
        ({"stack": "target dm CRYPT-LUKS2-1\ntarget luks-key none"}, "luks-target", "failure"),
        ({"room": "/dev/vda1 3000000 2990000 5000 99% /"}, "target-no-space", "failure"),
    ],
)
def test_faults_of_a_machine_with_fadump_are_found(changes: dict[str, str], name: str, severity: str) -> None:
    found = reasons({**WITH_FADUMP, **changes}, family="redhat")
    assert found[name].severity.value == severity
    fadump = changes.get("fadump", "1").startswith("1")
    assert not fadump or set(found) == {name}
    assert name != "capture-kernel-unloaded" or "fadump/registered is 0" in found[name].evidence
    assert name != "next-boot-without-reservation" or "fadump=on" in found[name].remedy


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("files", "answer"),
    [
        ({}, ""),
        ({"fadump/enabled": "1", "fadump/registered": "0", "fadump/mem_reserved": "805306368"}, "1\n0\n805306368"),
        ({"fadump_enabled": "1", "fadump_registered": "1"}, "1\n1"),
        ({"fadump/enabled": "1", "fadump/registered": "1", "fadump_enabled": "0"}, "1\n1"),
    ],
)
def test_fadump_is_asked_for_by_its_new_and_old_names(
    tmp_path: Path, shell: str, files: dict[str, str], answer: str
) -> None:
    for name, text in files.items():
        write(tmp_path / "sys/kernel" / name, f"{text}\n")
    command = FADUMP.replace("/sys/", f"{tmp_path}/sys/")
    done = subprocess.run([shell, "-c", command], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == (answer, "")
