"""The listing of a capture initramfs, and what is foreseen from it."""

from __future__ import annotations

import dataclasses
import gzip
import lzma
import os
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cramjam
import pytest
import zstandard
from kdump_harness.base import tables
from kdump_harness.diagnosis.table import all_symptoms
from kdump_harness.distro.family import load_families
from kdump_harness.kdump.capture_image.archive import CannotList, list_archive
from kdump_harness.kdump.capture_image.gather import ImageReader, probe_command
from kdump_harness.kdump.capture_image.judge import (
    ImageFacts,
    judge,
    load_pieces,
    load_remedies,
    modules_of,
    stacks_of,
)  # fmt: skip
from kdump_harness.kernel.initramfs import Entry, write_archive

KERNEL = "6.1.0-57-amd64"
MODULES = f"usr/lib/modules/{KERNEL}/kernel/drivers"
FILES = ("kernel/x86/microcode/GenuineIntel.bin",), (f"{MODULES}/block/virtio_blk.ko", "usr/sbin/lvm", "init")


def lz4(data: bytes) -> bytes:
    """Compress as lz4 -l does, which the kernel's build calls."""
    block = bytes(cramjam.lz4.compress_block(data, store_size=False))
    return b"\x02\x21\x4c\x18" + struct.pack("<I", len(block)) + block


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "xz": lambda data: lzma.compress(data, check=lzma.CHECK_CRC32),
    "zstd": zstandard.ZstdCompressor().compress,
    "lz4": lz4,
}


def archive(path: Path, names: tuple[str, ...], content: bytes = b"x" * 5) -> bytes:
    with path.open("wb") as file:
        write_archive(file, [Entry(path=name, content=content) for name in names])
    return path.read_bytes()


OF_256_MIB = "and of the 256 MiB that are reserved the capture kernel itself takes 48 MiB or more"


@pytest.fixture
def initramfs(tmp_path: Path) -> Path:
    """Microcode, some zeros, and the compressed files."""
    return tmp_path / "initrd.img"


@pytest.mark.parametrize("packer", PACKERS)
@pytest.mark.parametrize("microcode", [True, False])
def test_an_initramfs_is_listed_however_it_is_compressed(initramfs: Path, packer: str, microcode: bool) -> None:
    early = archive(initramfs, FILES[0]) + b"\0" * 4100 if microcode else b""
    late = archive(initramfs, FILES[1], content=bytes(600 << 10))
    initramfs.write_bytes(early + PACKERS[packer](late))
    found = list_archive(initramfs)
    assert set(FILES[1]) <= found
    assert (FILES[0][0] in found) is microcode


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: b"", "it has no cpio archive"),
        (lambda data: b"#!/bin/sh\n" + data, "not a cpio archive or a known compression"),
        (lambda data: data[: len(data) // 2], "too early"),
        (lambda data: data[:40] + bytes(200) + data[240:], "cannot be listed"),
        (lambda data: b"070701" + b"F" * 104 + data, "cannot be listed"),
    ],
)
@pytest.mark.parametrize("packer", ["plain", "gzip", "zstd"])
def test_a_damaged_initramfs_is_a_sentence(
    initramfs: Path, packer: str, damage: Callable[[bytes], bytes], message: str
) -> None:
    packed = PACKERS[packer](archive(initramfs, FILES[1], content=bytes(range(256)) * 64))
    initramfs.write_bytes(damage(packed))
    with pytest.raises(CannotList, match=message):
        list_archive(initramfs)


# ---------------------------------------------------------------- what is foreseen

VIRTIO = ("fs ext4", "mount / /dev/vda1", "driver virtio_blk", "driver virtio_pci", "driver pcieport")
SATA = ("fs ext4", "mount / /dev/sda1", "driver sd_mod", "driver ahci")
USB = ("fs ext4", "mount / /dev/sda1", "driver sd_mod", "driver usb_storage", "driver usbcore", "driver xhci_pci")
LVM = (*VIRTIO, "dm LVM-AAAABBBB")
LOADABLE = frozenset({"virtio_blk", "virtio_pci", "sd_mod", "ahci", "dm_mod", "usb_storage", "xhci_pci", "raid1"})
HAS = frozenset({f"{MODULES}/block/virtio_blk.ko", f"{MODULES}/virtio/virtio_pci.ko.xz", "usr/bin/sh"})


def facts(root: tuple[str, ...] = VIRTIO, target: tuple[str, ...] = VIRTIO, **changes: Any) -> ImageFacts:
    known = ImageFacts(
        family="debian", kernel=KERNEL, opens="root", files=HAS, loadable=LOADABLE,
        stacks={"root": root, "target": target}, arguments="nr_cpus=1", fixed_kib=256 << 10, least_mib=25,
    )  # fmt: skip
    return dataclasses.replace(known, **changes)


def lacks(found: ImageFacts) -> list[str]:
    return [lack.lacks for lack in judge(found)]


def test_nothing_is_missed_where_all_drivers_are_there_or_built_in() -> None:
    assert not judge(facts())


def test_the_drivers_of_a_disk_that_moved_are_missed_with_the_remedy() -> None:
    found = judge(facts(SATA))
    assert [lack.lacks for lack in found] == [
        "the capture initramfs lacks the module sd_mod", "the capture initramfs lacks the module ahci",
    ]  # fmt: skip
    assert KERNEL in found[0].remedy
    assert str(found[1]) == "the hardware of the root filesystem: the capture initramfs lacks the module ahci"


@pytest.mark.parametrize("family", ["debian", "redhat", "suse"])
def test_an_array_that_lacks_a_disk_may_not_start_after_a_crash(family: str) -> None:
    lines = (*VIRTIO, "md raid5", "md-degraded raid5")
    found = facts(target=lines, family=family)
    (lack,) = judge(found)
    assert lack.lacks.startswith(
        "a disk is missing, and the kernel does not start such an array if it was being written"
    )
    assert (lack.symptom, lack.sure) == ("array-dirty-degraded", False)
    assert not judge(dataclasses.replace(found, arguments="nr_cpus=1 md-mod.start_dirty_degraded=1"))
    assert not judge(facts(target=(*VIRTIO, "md raid5"), family=family))


def test_a_stack_that_the_initramfs_does_not_open_is_left_to_the_system() -> None:
    """kdump-tools boots the whole system, which has all modules, and mounts the dump directory like any other."""
    assert not judge(facts(target=("fs xfs", "md raid1", "dm LVM-CCCC", "dm LVM-CCCC-tpool")))
    assert lacks(facts(target=(*SATA, "md raid1"), opens="target", family="redhat")) == [
        "the capture initramfs lacks the module sd_mod", "the capture initramfs lacks the module ahci",
        "the capture initramfs lacks the module raid1", "the capture initramfs lacks the program mdadm",
    ]  # fmt: skip


@pytest.mark.parametrize("lines", [("luks-key none",), ("md raid5", "md-degraded raid5"), ("driver usb_storage",)])
def test_an_initramfs_that_opens_the_target_does_not_need_root(lines: tuple[str, ...]) -> None:
    """kdump-utils and openSUSE's kdump leave root= out, and mount the target only."""
    arguments = "nr_cpus=1 nousb"
    for family in ("redhat", "suse"):
        elsewhere = ("net eth0", "driver virtio_net")
        options: dict[str, Any] = {"opens": "target", "family": family, "arguments": arguments, "loadable": frozenset()}
        assert not judge(facts((*VIRTIO, *lines), elsewhere, **options))
        assert judge(facts((*VIRTIO, *lines), (*VIRTIO, *lines), **options))
    assert judge(facts((*VIRTIO, *lines), arguments=arguments, loadable=frozenset()))


def test_a_volume_needs_its_program_and_a_module_only_where_it_is_not_built_in() -> None:
    with_program = HAS | {"usr/sbin/lvm"}
    assert lacks(facts(LVM, files=with_program, loadable=frozenset())) == []
    assert lacks(facts(LVM, files=with_program)) == ["the capture initramfs lacks the module dm_mod"]
    (lack,) = judge(facts(LVM, loadable=frozenset()))
    assert (lack.lacks, "apt-get install lvm2" in lack.remedy) == ("the capture initramfs lacks the program lvm", True)


def test_an_argument_that_disables_a_piece_is_named_for_any_place() -> None:
    arguments = "reset_devices nr_cpus=1 irqpoll usbcore.nousb"
    assert not judge(facts(USB, arguments="nr_cpus=1", loadable=frozenset()))
    for stacks in ({"root": USB}, {"target": USB}):
        (lack,) = judge(facts(stacks=stacks, arguments=arguments, loadable=frozenset()))
        assert (lack.piece, "usbcore.nousb" in lack.remedy) == ("USB disk", True)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (("luks-memory 524288", "luks-key /k"), [f"its key takes 512 MiB (Argon2), {OF_256_MIB}"]),
        (("luks-memory 252928", "luks-key /k"), [f"its key takes 247 MiB (Argon2), {OF_256_MIB}"]),
        (("luks-memory 65536", "luks-key /etc/k"), []),
        (("luks-key /etc/k",), []),
        (("luks-key none",), ["its key is not on this machine, and a capture kernel cannot ask for a passphrase"]),
        (("luks-key none noauto", "luks-token"), []),
        (
            ("md raid1", "stale /etc/mdadm/mdadm.conf"),
            ["the capture initramfs is older than /etc/mdadm/mdadm.conf, so the array is not named as in /etc/fstab"],
        ),
        (("free 4096",), ["4 MiB are free, and the dump needs 25 MiB at the least"]),
        (("free 26000",), []),
        (("unmounted /d",), ["nothing mounts /d at the next boot, so the dump goes to the filesystem below it"]),
    ],
)  # fmt: skip
def test_a_target_that_no_boot_opens_by_itself_is_foreseen(lines: tuple[str, ...], expected: list[str]) -> None:
    assert lacks(facts(target=(*VIRTIO, *lines))) == expected


@pytest.mark.parametrize(
    ("family", "opens", "file", "expected"),
    [
        ("redhat", "target", "etc/k", []),
        ("redhat", "target", "etc/other", ["the capture initramfs lacks the key file /etc/k"]),
        ("debian", "root", "etc/other", []),
    ],
)
def test_an_initramfs_that_opens_an_encrypted_target_needs_its_key(
    family: str, opens: str, file: str, expected: list[str]
) -> None:
    found = facts(target=(*VIRTIO, "luks-key /etc/k"), opens=opens, family=family, files=HAS | {file})
    assert lacks(found) == expected
    assert all("/etc/k" in lack.remedy and lack.symptom == "luks-target" for lack in judge(found))


def test_debian_copies_the_key_of_an_encrypted_root_to_a_place_of_its_own() -> None:
    root = (*VIRTIO, "luks-key /etc/k")
    assert lacks(facts(root)) == ["the capture initramfs lacks the key file /etc/k"]
    assert not judge(facts(root, files=HAS | {"cryptroot/keyfiles/dumps.key"}))


@pytest.mark.parametrize(
    ("family", "server", "limited"),
    [("debian", "nfs inet6", True), ("debian", "ssh inet6", False), ("redhat", "nfs inet6", False)],
)
def test_a_server_that_the_familys_kdump_never_reaches_is_foreseen(family: str, server: str, limited: bool) -> None:
    found = judge(facts(target=("net eth1", f"server {server}"), family=family))
    assert [(lack.piece, lack.symptom) for lack in found] == [("NFS over IPv6", "nfs-mount-failed")] * limited
    assert all("by SSH" in lack.remedy for lack in found)


def test_a_key_that_takes_too_much_memory_is_called_as_a_crash_shows_it() -> None:
    (lack,) = judge(facts(target=(*VIRTIO, "luks-memory 524288", "luks-key /etc/k")))
    assert lack.symptom == "luks-memory"


def test_the_memory_of_a_key_does_not_matter_where_the_reservation_is_not_known() -> None:
    assert not judge(facts(target=("luks-memory 524288", "luks-key /etc/k"), fixed_kib=None))


def test_a_lack_of_both_places_is_said_once() -> None:
    assert len(judge(facts(USB, USB, arguments="nousb", loadable=frozenset()))) == 1


def test_the_output_of_the_script_is_understood_and_other_lines_are_not() -> None:
    text = "root fs ext4\nroot driver virtio_blk\nroot driver virtio_blk\nsh: x\n- loaded dm-mod\ntarget net eth0 \n"
    stacks, loaded = stacks_of(text)
    assert stacks == {"root": ("fs ext4", "driver virtio_blk"), "target": ("net eth0",)}
    assert loaded == {"dm_mod"}


def test_the_modules_of_a_kernel_are_those_of_modules_dep() -> None:
    text = "kernel/drivers/md/dm-mod.ko:\nkernel/drivers/scsi/sd_mod.ko.xz: kernel/drivers/scsi/scsi_mod.ko.xz\n"
    assert modules_of(text) == {"dm_mod", "sd_mod"}


def test_the_script_describes_this_host() -> None:
    script = tables.package_path("kdump", "capture_image", "probe.sh")
    done = subprocess.run(["sh", script, "/initrd.img", "/var/crash/none"], capture_output=True, text=True, check=True)
    assert not done.stderr
    stacks, _ = stacks_of(done.stdout)
    if not subprocess.run(["findmnt", "-n", "-T", "/"], capture_output=True, check=False).stdout:
        pytest.skip("the root directory is not a mount, as in a chroot")
    assert stacks["root"]
    assert [line for line in stacks["target"] if line.startswith("mount /")]


def test_the_script_describes_a_disk_that_is_named_and_not_the_directory(tmp_path: Path) -> None:
    for name, said in (("findfs", "/dev/none-such"), ("blkid", "xfs"), ("findmnt", "/dev/vda1 ext4 /")):
        (tmp_path / name).write_text(f"#!/bin/sh\necho '{said}'\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    command = probe_command("/initrd.img", "/", "LABEL=dumps", "device")
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True, env={"PATH": path})
    stacks, _ = stacks_of(done.stdout)
    assert stacks["target"] == ("fs xfs",)
    assert "fs ext4" in stacks["root"]


@pytest.mark.parametrize(("address", "line"), [("::1", True), ("127.0.0.1", False), ("no-such-host.invalid", False)])
def test_the_script_says_which_server_has_ipv6_only(address: str, line: bool) -> None:
    script = tables.package_path("kdump", "capture_image", "probe.sh")
    command = ["sh", str(script), "/initrd.img", "/var/crash", address, "nfs"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ("target server nfs inet6" in done.stdout.splitlines()) is line


def test_each_family_has_a_remedy_and_a_place() -> None:
    assert set(load_remedies()) == set(load_families())
    assert {family.name: family.initramfs_opens for family in load_families().values()} == {
        "debian": "root", "redhat": "target", "suse": "target",
    }  # fmt: skip
    for piece in load_pieces():
        assert set(piece.packages) == (set(load_families()) if piece.programs else set()), piece.name
        assert bool(piece.limits) == bool(piece.instead), piece.name
        assert piece.symptom in {row.name for row in all_symptoms().rows}


def test_a_listing_is_kept_until_the_file_changes(initramfs: Path) -> None:
    initramfs.write_bytes(archive(initramfs, FILES[1]))
    fetched = []

    def fetch(path: str, to: Path) -> int:
        fetched.append(path)
        return to.write_bytes(initramfs.read_bytes())

    family = load_families()["debian"]
    said = SimpleNamespace(out=f"{initramfs} 512 1 1\n")
    shell: Any = SimpleNamespace(run=lambda _command: said, fetch=fetch)
    reader = ImageReader()
    path, files = reader.files(shell, family, KERNEL)
    assert (path, "init" in files) == (str(initramfs), True)
    reader.files(shell, family, KERNEL)
    assert len(fetched) == 1
    said.out = f"{initramfs} 512 2 1\n"
    reader.files(shell, family, KERNEL)
    assert len(fetched) == 2
    said.out = "\n"
    assert reader.files(shell, family, KERNEL) == ("", frozenset())


def probed(tmp_path: Path, directory: str | Path, answers: str) -> dict[str, tuple[str, ...]]:
    """Run the script with a findmnt that has these ANSWERS, as branches of a case, and / as the only other mount."""
    found = tmp_path / "findmnt"
    found.write_text(
        f"""#!/bin/sh
case "$*" in
{answers}
*) echo '/dev/vda1 ext4 /' ;;
esac
""",
        encoding="utf-8",
    )
    found.chmod(0o755)
    script = tables.package_path("kdump", "capture_image", "probe.sh")
    command = ["sh", str(script), "/initrd.img", str(directory)]
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    return stacks_of(subprocess.run(command, capture_output=True, text=True, check=True, env=env).stdout)[0]


@pytest.mark.parametrize(
    ("under", "options", "read_only"),
    [("/", "errors=remount-ro,ro", True), ("/", "ro", True), ("/", "errors=remount-ro", False), ("/tmp", "ro", False)],
)
def test_makedumpfile_needs_temporary_files_in_the_system_that_is_booted(
    under: str, options: str, read_only: bool, tmp_path: Path
) -> None:
    answers = f"*--fstab*) echo '{options}' ;;\n*'TARGET -T /tmp') echo '{under}' ;;"
    stacks = probed(tmp_path, "/var/crash", answers)
    lines = (*VIRTIO, *(line for line in stacks["root"] if line.startswith("read-only")))
    expected = ["/tmp is read-only from the next boot on, and makedumpfile writes there"] if read_only else []
    assert lacks(facts(root=lines)) == expected
    assert not judge(facts(root=lines, opens="target", family="redhat"))


@pytest.mark.parametrize(
    ("mount", "below", "unmounted"),
    [
        ("/dev/vdb ext4", "/dev/vda1", True),
        ("server:/srv nfs4", "/dev/vda1", True),
        ("tmpfs tmpfs", "/dev/vda1", False),
        ("/dev/vda1[/srv/dumps] ext4", "/dev/vda1", False),
        ("/dev/vda1[/@crash] btrfs", "/dev/vda1[/@]", False),
    ],
)
def test_a_mount_is_missed_at_the_next_boot_where_it_leads_elsewhere(
    mount: str, below: str, unmounted: bool, tmp_path: Path
) -> None:
    directory = tmp_path / "crash"
    directory.mkdir()
    answers = f"""*--fstab*) ;;
*"SOURCE,FSTYPE,TARGET -T {directory}"*) echo '{mount} {directory}' ;;
*"-T {tmp_path}/"*) echo '{below}' ;;"""
    stacks = probed(tmp_path, directory, answers)
    assert (f"unmounted {directory}" in stacks["target"]) is unmounted, stacks


@pytest.mark.parametrize(("options", "unmounted"), [("noauto,x-systemd.automount", False), ("noauto,nofail", True)])
def test_an_automount_mounts_at_the_next_boot_and_an_unknown_room_ends_nothing(
    options: str, unmounted: bool, tmp_path: Path
) -> None:
    directory = tmp_path / "crash"
    directory.mkdir()
    programs = {
        "findmnt": f"""case "$*" in
*"--fstab -n -o OPTIONS"*) echo {options} ;;
*--fstab*) ;;
*"SOURCE,FSTYPE,TARGET -T {directory}"*) echo '/dev/vdb ext4 {directory}' ;;
*) echo '/dev/vda1 ext4 /' ;;
esac""",
        "stat": "exit 1",
    }
    for name, text in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    command = probe_command("/initrd.img", str(directory))
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True, env={"PATH": path})
    assert not done.stderr
    target = stacks_of(done.stdout)[0]["target"]
    assert f"mount {directory} /dev/vdb" in target
    assert (f"unmounted {directory}" in target) is unmounted
    assert not [line for line in target if line.startswith("free")]
