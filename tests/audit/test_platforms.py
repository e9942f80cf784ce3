"""The judgement of an audit on machines of other platforms: what is usual there is not a reason."""

from __future__ import annotations

import dataclasses
import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from audit_factory import KERNEL, NOW_S, SOUND, reasons
from kdump_harness.audit.asking.questions import _initramfs, about_kdump
from kdump_harness.audit.result import Severity
from kdump_harness.base import tables
from kdump_harness.distro.family import find_family
from kdump_harness.kdump.guest_state import FADUMP

SHELLS = [name for name in ("dash", "bash") if shutil.which(name)]
DIMM = {"acpi_memory": "/sys/bus/acpi/devices/PNP0C80:00/status"}
LEAP = {"os_release": 'ID=sles\nVERSION_ID="15.6"', "capture_default": ""}


def said(name: str, root: Path, shell: str, kernel: str = "6.1.0") -> str:
    """Return the answer to a question about the made-up system below ROOT."""
    return ran(about_kdump(find_family("debian"), kernel)[name], root, shell)


def ran(command: str, root: Path, shell: str) -> str:
    """Return the output of a command on the made-up system below ROOT."""
    for place in ("/sys/", "/proc/", "/boot/", "/lib/modules/", "/etc/", "/efi/", "/var/lib/"):
        command = command.replace(f" {place}", f" {root}{place}")
    path = f"{root / 'bin'}:{os.environ['PATH']}"
    done = subprocess.run([shell, "-c", command], capture_output=True, text=True, check=False, env={"PATH": path})
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
    "signature": "/boot/vmlinuz-5.14 appended 0",
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


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("family", "machine", "kernel", "path"),
    [
        ("redhat", "x86_64", "boot/vmlinuz-K", "boot/initramfs-Kkdump.img"),
        ("redhat", "x86_64", "boot/ostree/fedora-coreos-1/vmlinuz-K", "var/lib/kdump/initramfs-Kkdump.img"),
        ("redhat", "x86_64", "boot/ostree/fedora-1/vmlinuz-K", "boot/ostree/fedora-1/initramfs-Kkdump.img"),
        ("redhat", "x86_64", "boot/0123abcd/K/linux", "boot/0123abcd/K/initrdkdump"),
        ("suse", "s390x", "boot/image-K", "var/lib/kdump/initrd"),
        ("suse", "aarch64", "boot/Image-K", "var/lib/kdump/initrd"),
        ("debian", "ppc64le", "boot/vmlinux-K", "var/lib/kdump/initrd.img-K"),
    ],
)
def test_the_capture_initramfs_is_found_wherever_the_kernel_is(
    tmp_path: Path, shell: str, family: str, machine: str, kernel: str, path: str
) -> None:
    for name, content in ((kernel, "kernel"), (path, "NOT AN ARCHIVE")):
        write(tmp_path / name.replace("K", KERNEL), content)
    write(tmp_path / "bin" / "uname", f"#!/bin/sh\necho {KERNEL}\n")
    (tmp_path / "bin" / "uname").chmod(0o755)
    row = find_family(family, machine)
    commands = dataclasses.replace(row.commands, kernels=row.commands.kernels.replace("/boot", f"{tmp_path}/boot"))
    answer = ran(_initramfs(dataclasses.replace(row, commands=commands)), tmp_path, shell)
    assert answer.split()[0] == KERNEL
    assert answer.split()[-1] == str(tmp_path / path.replace("K", KERNEL))
    found = reasons({"os_release": SOUND["os_release"], "initramfs": answer})
    assert found["capture-init-failed"].severity is Severity.FAILURE


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("path", "there"),
    [
        ("boot/grub2/grub.cfg", True),
        ("boot/loader/entries/x.conf", True),
        ("etc/zipl.conf", True),
        ("boot/extlinux/extlinux.conf", True),
        ("boot/firmware/config.txt", True),
        ("boot/efi/EFI/Linux/x.efi", True),
        ("boot/grub/grub.cfg.away", False),
        ("boot/efi/EFI/debian/grub.cfg", False),  # it only names the other one
    ],
)
def test_a_boot_loader_without_a_menu_that_is_read_is_seen(tmp_path: Path, shell: str, path: str, there: bool) -> None:
    write(tmp_path / path)
    answer = said("entries", tmp_path, shell)
    assert ("no boot loader configuration" in answer) is not there
    assert ("no-boot-after-dump" in reasons({"entries": answer})) is not there


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("name", ["vmlinuz", "vmlinux", "image", "Image"])
def test_a_kernel_that_is_newer_than_the_capture_initramfs_is_found_by_any_name(
    tmp_path: Path, shell: str, name: str
) -> None:
    write(tmp_path / "boot" / f"{name}-6.1.0")
    os.utime(tmp_path / "boot" / f"{name}-6.1.0", (NOW_S, NOW_S))
    answer = said("kernel_files", tmp_path, shell)
    assert list(reasons({"kernel_files": answer})) == ["initramfs-outdated"]


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("device", "drivers"), [("nvme0n1p1", ["nvme", "nvme"]), ("nvme2n1", ["nvme"]), ("vda", ["virtio_blk"])]
)
def test_a_disk_of_several_nvme_paths_needs_the_drivers_of_its_controllers(
    tmp_path: Path, shell: str, device: str, drivers: list[str]
) -> None:
    sys = tmp_path / "sys"
    heads = sys / "devices/virtual/nvme-subsystem/nvme-subsys0"
    write(heads / "nvme0n1/nvme0n1p1/partition", "1")
    places = {
        "nvme0n1p1": heads / "nvme0n1/nvme0n1p1",
        "nvme2n1": sys / "devices/pci0000:00/0000:00:06.0/nvme/nvme2/nvme2n1",
        "vda": sys / "devices/pci0000:00/0000:00:07.0/virtio0/block/vda",
    }
    for number in (4, 5, 6):
        controller = sys / f"devices/pci0000:00/0000:00:0{number}.0"
        (controller / f"nvme/nvme{number - 4}").mkdir(parents=True)
        bind(controller, "nvme")
        if number < 6:
            (heads / f"nvme{number - 4}").symlink_to(controller / f"nvme/nvme{number - 4}")
    places[device].mkdir(parents=True, exist_ok=True)
    if device == "vda":
        bind(places[device].parents[1], "virtio_blk")
    (sys / "class/block").mkdir(parents=True)
    (sys / "class/block" / device).symlink_to(places[device])
    script = tables.read_text(tables.package_path("kdump", "capture_image", "probe.sh")).partition("\nplace root /")[0]
    script = script.replace("/sys/", f"{sys}/")
    done = subprocess.run([shell, "-c", f"{script}\nblock root {device}"], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"root driver {name}" for name in drivers]


def bind(device: Path, driver: str) -> None:
    """Give a made-up device a driver of a module."""
    module = device.parent / driver
    module.mkdir(exist_ok=True)
    (device / "driver").mkdir()
    (device / "driver/module").symlink_to(module)


MARK = b"~Module signature appended~\n"


def portable(certificate_bytes: int) -> bytes:
    """Return the head of a PE32+ image, as arch/x86/boot/header.S makes it."""
    return b"MZ" + bytes(58) + struct.pack("<I", 64) + bytes(24 + 112 + 36) + struct.pack("<I", certificate_bytes)


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("name", "content", "signed"),
    [
        ("vmlinuz", portable(1528), True),
        ("vmlinuz", portable(0), False),
        ("vmlinuz", portable(0) + MARK, False),  # x86 reads the table only
        ("vmlinux", b"\x7fELF" + bytes(300) + MARK, True),
        ("vmlinux", b"\x7fELF" + bytes(300), False),
        ("image", bytes(300) + MARK, True),
        ("image", bytes(10), False),
        ("image", bytes(300) + MARK + b"x", False),
    ],
)
def test_a_signature_is_in_a_table_or_appended(
    tmp_path: Path, shell: str, name: str, content: bytes, signed: bool
) -> None:
    write(tmp_path / "boot" / f"{name}-6.1.0")
    (tmp_path / "boot" / f"{name}-6.1.0").write_bytes(content)
    answer = said("signature", tmp_path, shell)
    assert len(answer.split()) == 3
    found = reasons({"lockdown": "none [integrity] confidentiality", "signature": answer})
    assert list(found) == ([] if signed else ["kexec-signature-rejected"])
