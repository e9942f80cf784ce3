"""The judgement of an audit on machines of other platforms: what is usual there is not a reason."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from audit_factory import reasons
from kdump_harness.audit.asking.questions import about_kdump
from kdump_harness.audit.result import Severity
from kdump_harness.distro.family import find_family

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
