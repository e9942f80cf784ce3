"""Shapes of real servers: which of them dump, and which lacks are foreseen before the crash."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from kdump_harness.distro.packages import parse_kernel
from kdump_harness.drill.disks import SystemUnderTest
from kdump_harness.drill.shapes.table import find_shapes
from kdump_harness.pytest_plugin import Verdict, pin_image

KERNEL = "linux-image-amd64"  # the cloud kernel of the images has no SATA and no USB
GOOD = (
    ["multipath", "lost-path"],
    ["raid1", "luks-pbkdf2", "lvm", "btrfs-subvolume", "separate-var", "capture-cpus", "busy-filesystem"],
    ["virtio-scsi", "multipath", "lost-path", "luks-pbkdf2", "lvm-thin", "xfs", "busy-filesystem"],
    ["sata", "raid5", "lvm", "btrfs-subvolume"],
    ["nvme", "raid1", "separate-var", "capture-cpus", "five-level-paging"],
    ["uefi", "separate-crash"],
    ["raid1", "failed-disk"],
    ["virtio-scsi", "raid1", "luks-pbkdf2", "lvm", "root"],
)
ON_SERVER = (
    ["bond", "vlan", "bridge", "lost-card"],
    ["bond-lacp", "gateway"],
    ["team", "lost-card"],
    ["static-address"],
)
BAD = {
    "sata moved-disk": "the capture initramfs lacks the module ahci",
    "virtio-scsi moved-disk": "the capture initramfs lacks the module virtio_scsi",
    "lvm root moved-disk": "the capture initramfs lacks the program lvm",
    "usb-disk": "the capture kernel is started with usbcore.nousb",
    "luks-argon2": "(Argon2), and of the",
    "luks-passphrase": "its key is not on this machine",
    "raid1 by-name": "the capture initramfs is older than /etc/mdadm/mdadm.conf",
    "full-target": "MiB are free, and the dump needs",
    "raid5 failed-disk busy-filesystem": "a disk is missing, and the kernel does not start such an array",
    "separate-var read-only-root": "/tmp is read-only from the next boot on",
}


def with_kernel(subject: SystemUnderTest) -> SystemUnderTest:
    """Return the system with the kernel that has the drivers of all shapes."""
    return SystemUnderTest(
        name=subject.name,
        family=subject.family,
        image=subject.image,
        kernel=parse_kernel(KERNEL, subject.family, usual=subject.usual_kernel),
    )


@pin_image("debian-12")
@pytest.mark.parametrize("names", GOOD, ids="+".join)
def test_a_shape_that_dumps(drill: Callable[..., Verdict], image: SystemUnderTest, names: list[str]) -> None:
    """The dump arrives, and nothing is missed before the crash."""
    verdict = drill(subject=with_kernel(image), shapes=find_shapes(names))
    assert verdict.verified, verdict.explain()
    assert "capture-image" in {check.name for check in verdict.checks}
    assert not verdict.foreseen


@pin_image("debian-12")
@pytest.mark.parametrize("target", ["nfs", "ssh"])
@pytest.mark.parametrize("names", ON_SERVER, ids="+".join)
def test_a_network_that_reaches_its_dump_server(
    drill: Callable[..., Verdict], image: SystemUnderTest, names: list[str], target: str
) -> None:
    """The dump arrives, also where a bond or a team has lost its active card."""
    verdict = drill(subject=with_kernel(image), shapes=find_shapes(names), target=target)
    assert verdict.verified, verdict.explain()
    assert not verdict.foreseen


@pin_image("debian-12")
def test_nfs_over_ipv6_which_debian_cannot_dump_to(drill: Callable[..., Verdict], image: SystemUnderTest) -> None:
    """kdump-tools mounts with an option by which the server is not found; the check knows it."""
    verdict = drill(subject=with_kernel(image), shapes=find_shapes(["static-address", "ipv6"]), target="nfs")
    assert not verdict.verified, verdict.explain()
    assert "looks for IPv4 addresses only" in " ".join(str(one["lacks"]) for one in verdict.foreseen)


@pin_image("debian-12")
def test_a_firewall_that_comes_before_the_crash_is_not_foreseen(
    drill: Callable[..., Verdict], image: SystemUnderTest
) -> None:
    """The capture kernel reaches no dump server, and the verdict says so."""
    verdict = drill(subject=with_kernel(image), shapes=find_shapes(["static-address", "firewall"]), target="nfs")
    assert not verdict.verified, verdict.explain()
    assert "nfs-mount-failed" in {one["name"] for one in verdict.symptoms}
    assert not verdict.foreseen


@pin_image("debian-12")
@pytest.mark.parametrize("names", BAD)
def test_a_shape_whose_dump_does_not_arrive(drill: Callable[..., Verdict], image: SystemUnderTest, names: str) -> None:
    """The reason is known before the crash."""
    verdict = drill(subject=with_kernel(image), shapes=find_shapes(names.split()))
    assert not verdict.verified, verdict.explain()
    assert BAD[names] in " ".join(str(one["lacks"]) for one in verdict.foreseen)
