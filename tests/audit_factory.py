"""The answers of a sound Debian 12 machine to an audit, and facts with some of them changed."""

from __future__ import annotations

from typing import Any

from kdump_harness.audit.facts import Facts, read_facts
from kdump_harness.audit.judge import judge
from kdump_harness.audit.result import Reason, Severity
from kdump_harness.distro.family import Family, choose_release, find_family
from kdump_harness.kdump.guest_state import parse_os_release

KERNEL = "6.1.0-57-cloud-amd64"
DEFAULT = "reset_devices systemd.unit=kdump-tools-dump.service nr_cpus=1 irqpoll usbcore.nousb"
ROOT = "root=UUID=5f8a2d10-1111-4b4b-9c9c-0123456789ab"
CMDLINE = f"BOOT_IMAGE=/boot/vmlinuz-{KERNEL} {ROOT} ro console=ttyS0 crashkernel=256M"
INITRD = f"/var/lib/kdump/initrd.img-{KERNEL}"
CONFIG = "/etc/default/kdump-tools"
SAVE = "unit kdump-tools-dump.service"
NOW_S = 1796000000

SOUND: dict[str, str] = {
    "system": "Linux",
    "uid": "0",
    "kernel": KERNEL,
    "os_release": 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nVERSION_ID="12"\nVERSION_CODENAME=bookworm\nID=debian',
    "boot_id": "c2a9b6f4-0000-4000-8000-000000000000",
    "cmdline": CMDLINE,
    "loaded": "1",
    "crash_size_bytes": str(256 << 20),
    "iomem": "  2f000000-3effffff : Crash kernel",
    "crash_cma": "",
    "meminfo": "MemTotal: 738000 kB\nMemFree: 560000 kB\nBuffers: 8000 kB\nCached: 90000 kB\nSwapCached: 0 kB\n"
    "AnonPages: 20000 kB\nSlab: 40000 kB\nHugePages_Total: 0\nHugepagesize: 2048 kB",
    "clock_s": f"{NOW_S}.5",
    "ram": "00001000-0009fbff : System RAM\n00100000-3ffdafff : System RAM",
    "cpus": "2",
    "hostname": "web1",
    "machine_id": "0123456789abcdef0123456789abcdef",
    "acpi_memory": "",
    "makedumpfile": "makedumpfile: version 1.7.2 (released on 20 Oct 2022)\nlzo\tenabled\nzstd\tdisabled",
    "config": "USE_KDUMP=1\n",
    "kernel_log": f"[    0.000000] Kernel command line: {CMDLINE}",
    "sysctl": "kernel.panic_on_oops = 1\nkernel.sysrq = 438\nkernel.unknown_nmi_panic = 1",
    "sysctl_files": "",
    "notifiers": "N",
    "pstore": "efi_pstore",
    "lockdown": "[none] integrity confidentiality",
    "signature": f"/boot/vmlinuz-{KERNEL} PE 1528",
    "watchdogs": "",
    "entries": f"\tlinux\t/boot/vmlinuz-{KERNEL} {ROOT} ro console=ttyS0 crashkernel=256M\n"
    f"\tlinux\t/boot/vmlinuz-{KERNEL} {ROOT} ro single console=ttyS0",
    "mounts": "/dev/vda1 / ext4 rw,relatime 0 0\nproc /proc proc rw 0 0",
    "fstab": "UUID=5f8a2d10-1111-4b4b-9c9c-0123456789ab / ext4 errors=remount-ro 0 1",
    "modules": "virtio_blk\nvirtio_net\next4",
    "boot_s": str(NOW_S - 5000),
    "firmware": "1.16.2\n04/01/2014",
    "devices": "/dev/disk/by-uuid:\n5f8a2d10-1111-4b4b-9c9c-0123456789ab",
    "platform": "",
    "says": "current state:    ready to kdump",
    "service": "LoadState=loaded\nActiveState=active\nUnitFileState=enabled\nResult=success\n"
    "ActiveEnterTimestampMonotonic=60000000",
    "kernels": KERNEL,
    "initramfs": f"{KERNEL} {NOW_S - 6000} {20 << 20} 28b52ffd0458 {INITRD}",
    "kernel_files": f"{NOW_S - 9000} 8000000 /boot/vmlinuz-{KERNEL}\n"
    f"{NOW_S - 8000} 9000 /lib/modules/{KERNEL}/modules.dep",
    "config_files": f"{NOW_S - 7000} 4000 {CONFIG}",
    "config_check": "understood",
    "capture_default": DEFAULT,
    SAVE: "UMask=0077\nExecCondition=",
    "room": "Filesystem 1024-blocks Used Available Capacity Mounted on\n/dev/vda1 3000000 900000 2000000 31% /",
    "directory": "755 root",
    "mount": "/ /dev/vda1 ext4 rw,relatime",
    "stack": "".join(
        f"{place} fs ext4\n{place} mount / /dev/vda1\n{place} driver virtio_blk\n{place} driver virtio_pci\n"
        for place in ("root", "target")
    )
    + "- loaded virtio_blk\n- loaded virtio_pci\n- loaded megaraid_sas\n",
    "finished": "",
    "unfinished": "",
    "contents": "usr/lib/modules/x/virtio_blk.ko\nusr/lib/modules/x/virtio_pci.ko.xz\nbytes 60000000",
}


def facts(changes: dict[str, str] | None = None, *, family: str = "debian", **more: Any) -> Facts:
    """Return the facts of the sound machine with some answers changed."""
    answers = {**SOUND, **(changes or {})}
    if family == "debian":
        answers["config"] = SOUND["config"] + answers["config"]
    options = {"remark": None, "root": True, **more}
    return read_facts(driven(answers["os_release"], family), answers, **options)


def driven(os_release: str, family: str = "debian") -> Family:
    """Return the family's row for a system."""
    return choose_release(find_family(family), parse_os_release(os_release))[0]


def reasons(changes: dict[str, str] | None = None, *, notes: bool = False, **more: Any) -> dict[str, Reason]:
    """Return the reasons against a good vmcore by name; with the notes where they are asked for."""
    found = judge(facts(changes, **more))
    return {reason.name: reason for reason in found if notes or reason.severity is not Severity.NOTE}
