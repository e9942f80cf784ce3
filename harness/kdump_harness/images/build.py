"""Builds a bootable disk from a distribution's packages, without root, loop devices or a running guest.

The result is what a cloud image is: GPT with BIOS boot partition and ESP, GRUB for both firmwares, one ext4
root, cloud-init waiting for a NoCloud seed, a serial console. Everything is written into one file by tools
that work on files: sfdisk, mke2fs -d, mtools; so an ordinary user can do it where user namespaces are allowed.
"""

from __future__ import annotations

import hashlib
import shlex
import shutil
import struct
import subprocess
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ..base.errors import CommandFailed, HostError, UsageError
from ..base.units import MIB
from ..distro.packages import GUEST_PLACE, LocalPackage, refusal
from .mirror import Mirror

RECIPE_VERSION = 1  # raise it when the files below change: cached disks are then made anew
DISK_MIB = 8192  # sparse; room for a full dump (-d 0) of a 4 GiB guest beside the system
NEED_MIB = 4096  # of host space: package cache, tree and disk at the same time

OTHER_SUITE_PRIORITY = 100  # what backports have by themselves: no package is of it unless told

SECTOR = 512
BIOS_BOOT_LBA = 2048
ESP_LBA = 4096
ESP_MIB = 32
ROOT_LBA = ESP_LBA + ESP_MIB * MIB // SECTOR

# A release's own GRUB and kernel must read what the host's newer mke2fs writes, so nothing is left to its defaults.
# orphan_file and metadata_csum_seed (e2fsprogs 1.47) stop GRUB 2.06 from booting.
EXT4_FEATURES = (
    "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,"
    "sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum"
)

# The consoles of Debian's official cloud images: the serial line last, so that it is /dev/console. no_timer_check is of
# Fedora's: without it an emulated guest may panic over a late timer on a busy host, before arming can say so.
KERNEL_ARGUMENTS = "console=tty0 console=ttyS0,115200 earlyprintk=ttyS0,115200 consoleblank=0 no_timer_check"

BASE_PACKAGES = (
    "ca-certificates",
    "cloud-init",
    "dbus",
    "e2fsprogs",
    "grub-efi-amd64-bin",
    "grub-efi-amd64-signed",
    "grub-pc-bin",
    "grub2-common",
    "ifupdown",
    "initramfs-tools",
    "iproute2",
    "kmod",
    "netbase",
    "openssh-server",
    "procps",
    "shim-signed",
    "systemd-sysv",
    "udev",
    "zstd",  # otherwise initramfs-tools falls back to gzip, unlike an installed system
)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that goes into a built disk."""

    name: str
    suite: str
    updates_suite: str
    security_suite: str
    components: tuple[str, ...]
    kernel: str  # a package, PACKAGE/SUITE, or nothing where files bring it
    packages: tuple[str, ...]
    mirror: Mirror
    kernel_suite: str = ""
    files: tuple[LocalPackage, ...] = ()  # of this host, installed at the end
    more: tuple[str, ...] = field(default=(), repr=False)  # PACKAGE or PACKAGE/SUITE, instead of the release's own

    def key(self) -> str:
        """A digest of everything that went in."""
        ours = (RECIPE_VERSION, DISK_MIB, EXT4_FEATURES, KERNEL_ARGUMENTS, BASE_PACKAGES, self)
        # Only where there are any, so that what was built without them is still known.
        also = tuple(part for part in (self.more, self.pins()) if part)
        return hashlib.sha256(repr((*ours, *also)).encode()).hexdigest()[:16]

    @property
    def other_suites(self) -> tuple[str, ...]:
        """The suites beside the release's own that single packages come from."""
        named = (self.kernel_suite, *(package.partition("/")[2] for package in self.more))
        own = ("", self.suite, self.updates_suite, self.security_suite)
        return tuple(dict.fromkeys(suite for suite in named if suite not in own))

    @property
    def singles(self) -> tuple[str, ...]:
        """What is installed after everything else, each for itself: PACKAGE or PACKAGE/SUITE."""
        return (*((self.kernel,) if self.kernel_suite else ()), *self.more)

    def sources(self) -> tuple[str, ...]:
        """Where its packages come from, as lines of sources.list."""
        return self.mirror.sources(
            self.suite,
            self.updates_suite,
            *self.other_suites,
            security_suite=self.security_suite,
            components=self.components,
        )

    def pins(self) -> str:
        """apt's preferences: of another suite only what is asked for by that suite, and what it cannot do without.

        A suite is known by its code name (n) or by what it is at present (a); apt_preferences(5).
        """
        return "\n".join(
            f"Package: *\nPin: release {key}={suite}\nPin-Priority: {OTHER_SUITE_PRIORITY}\n"
            for suite in self.other_suites
            for key in ("n", "a")
        )


def missing_tools() -> tuple[str, ...]:
    """The commands of the build that this host does not have."""
    needed = ("mmdebstrap", "mke2fs", "sfdisk", "mkfs.vfat", "mcopy")
    return tuple(tool for tool in needed if shutil.which(tool) is None and not Path("/usr/sbin", tool).exists())


def _sbin(tool: str) -> str:
    """A tool that an ordinary user's PATH may not lead to."""
    return shutil.which(tool) or f"/usr/sbin/{tool}"


def build(recipe: Recipe, disk: Path, *, workdir: Path, log: Path, progress: Callable[[str], None]) -> None:
    """Write a raw disk; workdir holds what is needed on the way, boot/packages in it the installed versions."""
    if missing := missing_tools():
        raise HostError(f"building {recipe.name} needs {', '.join(missing)} (make setup installs them)")
    root_uuid = str(uuid.uuid5(uuid.NAMESPACE_URL, f"kdump-harness:{recipe.key()}"))
    early, late = workdir / "early", workdir / "late"
    _write_files(early, _early_files(recipe, root_uuid))
    _write_files(late, _late_files(root_uuid))
    _partition(disk)
    boot = workdir / "boot"
    boot.mkdir(mode=0o777)
    boot.chmod(0o777)  # in a user namespace the hooks run under another id
    disk.chmod(0o666)
    files = workdir / "files"
    _copy_files(files, recipe.files)
    hook = workdir / "finish"
    hook.write_text(_finish_hook(disk, boot, root_uuid), encoding="utf-8")
    hook.chmod(0o755)
    kernel = recipe.kernel or "a kernel of this host's"
    progress(f"installing {recipe.suite} with {kernel} from {recipe.mirror.archive}")
    hooks = (
        f"--essential-hook=sync-in {shlex.quote(str(early))} /",
        *_install_hooks(recipe, files),
        f"--customize-hook=sync-in {shlex.quote(str(late))} /",
        f'--customize-hook={shlex.quote(str(hook))} "$1"',
    )
    try:
        usual = () if recipe.kernel_suite else (recipe.kernel,)
        make_tree(recipe, (*BASE_PACKAGES, *usual, *recipe.packages), hooks, log=log, progress=progress)
    except BuildRefused as error:
        raise BuildRefused(f"{recipe.name} cannot be built with what was asked for: {error.args[0]}", see=log) from None
    progress("writing the boot loader")
    _install_bios_grub(disk, boot)
    _install_esp(disk, boot, root_uuid)
    disk.chmod(0o644)


def _copy_files(directory: Path, files: tuple[LocalPackage, ...]) -> None:
    """The package files, in a place that the build can read whoever it runs as."""
    directory.mkdir(mode=0o755)
    for file in files:
        shutil.copyfile(file.path, directory / file.name)
        (directory / file.name).chmod(0o644)


def _install_hooks(recipe: Recipe, files: Path) -> tuple[str, ...]:
    """Install packages of other suites, then package files, with the tree's own apt.

    It gets what they depend on from the mirror.
    """
    if not (recipe.singles or recipe.files):
        return ()
    place = GUEST_PLACE
    install = "DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends --allow-downgrades"
    # The capture initramfs has the drivers of the machine that it is built on, and that is not this one: arming builds
    # it in the guest. Kernels run only those hooks that may be executed.
    kdump = "/etc/kernel/postinst.d/kdump-tools"
    # A newer libc wants its release's base-files, whose os-release would make the guest one of that release: but its
    # kdump, its kernel and nearly everything else are not.
    keep = "cp /usr/lib/os-release /var/tmp/os-release && "
    put_back = " && mv /var/tmp/os-release /usr/lib/os-release"
    chroot = '--customize-hook=chroot "$1" sh -c '
    steps = []
    if recipe.singles:
        singles = " && ".join(f"{install} {_of_suite(package)}" for package in recipe.singles)
        steps.append(chroot + shlex.quote(keep + singles + put_back))
    if recipe.files:
        steps += [
            f'--customize-hook=mkdir "$1{place}"',
            f"--customize-hook=sync-in {shlex.quote(str(files))} {place}",
            chroot + shlex.quote(f"{install} {place}/*.deb && rm -rf {place}"),
        ]
    return (
        f'--customize-hook=test ! -e "$1{kdump}" || chmod -x "$1{kdump}"',
        *steps,
        f'--customize-hook=test ! -e "$1{kdump}" || chmod +x "$1{kdump}"',
    )


def _of_suite(package: str) -> str:
    """apt's arguments for PACKAGE or PACKAGE/SUITE: what the latter cannot do without may be of that suite, too."""
    suite = package.partition("/")[2]
    return f"{f'-t {shlex.quote(suite)} ' if suite else ''}{shlex.quote(package)}"


class BuildRefused(UsageError):
    """The package manager does not have what was asked for."""


def make_tree(
    recipe: Recipe, packages: tuple[str, ...], hooks: tuple[str, ...], *, log: Path, progress: Callable[[str], None]
) -> None:
    """A throw-away tree of the recipe's release with these packages, on which the hooks work.

    Raises Refused, with the package manager's own words, where the release does not have them, else CommandFailed.
    """
    command = [
        "mmdebstrap",
        "--mode=auto",
        "--variant=apt",
        "--format=null",
        f"--include={','.join(filter(None, packages))}",
        # A mirror may lag behind the date until which its index vouches for itself; signatures are checked anyway.
        '--aptopt=Acquire::Check-Valid-Until "false"',
        "--dpkgopt=path-exclude=/usr/share/doc/*",
        "--dpkgopt=path-exclude=/usr/share/man/*",
        "--dpkgopt=path-exclude=/usr/share/locale/*",
        *_pin_hooks(recipe),
        *hooks,
        recipe.suite,
        "-",
        *recipe.sources(),
    ]
    try:
        _run_logged(command, log, progress)
    except CommandFailed:
        if refused := refusal(log.read_text(encoding="utf-8", errors="replace")):
            raise BuildRefused(refused.removeprefix("E: "), see=log) from None
        raise


def _pin_hooks(recipe: Recipe) -> tuple[str, ...]:
    """Leave the preferences in the tree before apt looks for packages; they are for the guest's apt, too."""
    if not (pins := recipe.pins()):
        return ()
    return (f'--setup-hook=printf %s {shlex.quote(pins)} > "$1/etc/apt/preferences.d/kdump-harness"',)


def remove_workdir(workdir: Path) -> None:
    """Remove what a build needed on the way."""
    shutil.rmtree(workdir, ignore_errors=True)


def _run_logged(command: list[str], log: Path, progress: Callable[[str], None]) -> None:
    """Run a long command, passing on its milestones; CommandFailed quotes its last words."""
    with log.open("w", encoding="utf-8") as out:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        assert process.stdout is not None
        last: list[str] = []
        try:
            for line in process.stdout:
                out.write(line)
                if line.startswith("I: "):
                    progress(line[3:].strip().split(" sh -c")[0])
                last = [*last[-7:], line.rstrip()]
        except BaseException:
            process.terminate()  # mmdebstrap removes its own tree and mounts on SIGTERM
            process.wait()
            raise
        finally:
            process.stdout.close()
        if process.wait() != 0:
            raise CommandFailed(f"{command[0]} ended with status {process.returncode}: " + " | ".join(last), see=log)


def _early_files(recipe: Recipe, root_uuid: str) -> dict[str, str]:
    """What the packages should already find when they are configured."""
    name = recipe.name.replace("/", "-")
    return {
        "etc/fstab": f"UUID={root_uuid} / ext4 errors=remount-ro 0 1\n",
        "etc/hostname": f"{name}\n",
        "etc/hosts": f"127.0.0.1 localhost\n127.0.1.1 {name}\n",
        "etc/default/grub": (
            "GRUB_DEFAULT=0\nGRUB_TIMEOUT=0\nGRUB_DISTRIBUTOR=Debian\n"
            f'GRUB_CMDLINE_LINUX_DEFAULT=""\nGRUB_CMDLINE_LINUX="{KERNEL_ARGUMENTS}"\n'
            'GRUB_TERMINAL="console serial"\nGRUB_SERIAL_COMMAND="serial --speed=115200"\nGRUB_DISABLE_OS_PROBER=true\n'
        ),
    }


def _late_files(root_uuid: str) -> dict[str, str]:
    """What packages would trip over or ask about if it were there before them."""
    return {
        "etc/network/interfaces": "auto lo\niface lo inet loopback\nsource /etc/network/interfaces.d/*\n",
        # Only the seed disk is asked, so that no time goes into probing for other clouds.
        "etc/cloud/cloud.cfg.d/90-datasource.cfg": "datasource_list: [NoCloud, None]\n",
        # The first menu; the guest's own update-grub replaces it as soon as something is configured. Package
        # scripts run update-grub where they find this file, and that fails in a tree that is no mounted disk yet.
        "boot/grub/grub.cfg": (
            "serial --speed=115200\nterminal_input console serial\nterminal_output console serial\n"
            f"search --no-floppy --fs-uuid --set=root {root_uuid}\n"
            f"linux /vmlinuz root=UUID={root_uuid} ro {KERNEL_ARGUMENTS}\ninitrd /initrd.img\nboot\n"
        ),
    }


def _write_files(tree: Path, files: dict[str, str]) -> None:
    """Files below tree, by their path in the guest."""
    for path, text in files.items():
        target = tree / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")


def _partition(disk: Path) -> None:
    """A GPT laid out like Debian's cloud images: root first, BIOS boot as 14, ESP as 15."""
    with disk.open("wb") as file:
        file.truncate(DISK_MIB * MIB)
    table = (
        "label: gpt\n"
        f"1 : start={ROOT_LBA}, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4\n"
        f"14 : start={BIOS_BOOT_LBA}, size={ESP_LBA - BIOS_BOOT_LBA}, type=21686148-6449-6E6F-744E-656564454649\n"
        f"15 : start={ESP_LBA}, size={ROOT_LBA - ESP_LBA}, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B\n"
    )
    made = subprocess.run(
        [_sbin("sfdisk"), "--quiet", str(disk)], input=table, capture_output=True, text=True, check=False
    )
    if made.returncode != 0:
        raise CommandFailed(f"sfdisk: {made.stderr.strip()}")


def _finish_hook(disk: Path, boot: Path, root_uuid: str) -> str:
    """The shell that runs beside the finished tree: boot files out, then the tree into the root partition."""
    root_mib = DISK_MIB - ROOT_LBA * SECTOR // MIB - 1  # the last MiB holds the backup partition table
    return f"""#!/bin/sh
set -eu
tree=$1
boot={shlex.quote(str(boot))}
# The modules that the core image needs to reach /boot/grub; the rest is loaded from there.
mkdir -p "$tree/boot/grub"
cp -r "$tree/usr/lib/grub/i386-pc" "$tree/boot/grub/"
cp -r "$tree/usr/lib/grub/x86_64-efi" "$tree/boot/grub/"
chroot "$tree" grub-mkimage -O i386-pc -o /boot/grub/i386-pc/core.img -p '(,gpt1)/boot/grub' \\
    biosdisk part_gpt ext2 search_fs_uuid normal
cp "$tree/boot/grub/i386-pc/core.img" "$tree/usr/lib/grub/i386-pc/boot.img" "$boot/"
cp "$tree/usr/lib/shim/shimx64.efi.signed" "$boot/BOOTX64.EFI"
cp "$tree/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed" "$boot/grubx64.efi"
chroot "$tree" dpkg-query -W > "$boot/packages"
ls "$tree/boot" | sed -n 's/^vmlinuz-//p' > "$boot/kernels"
for release in $(cat "$boot/kernels"); do
    cp "$tree/boot/config-$release" "$boot/" 2>/dev/null ||
        cp "$tree/lib/modules/$release/config" "$boot/config-$release" 2>/dev/null || true
done
chmod a+r "$boot"/*
rm -rf "$tree"/var/lib/apt/lists/* "$tree"/var/cache/apt/*.bin "$tree"/var/cache/apt/archives/*.deb
# Keys and identities are made at the first boot, never shared.
rm -f "$tree"/etc/ssh/ssh_host_*
: > "$tree/etc/machine-id"
rm -f "$tree/var/lib/dbus/machine-id" "$tree/etc/apt/apt.conf.d/99mmdebstrap" "$tree/etc/dpkg/dpkg.cfg.d/99mmdebstrap"
# A bind mount without its submounts: /proc and /sys of the build do not belong on the disk.
mkdir "$boot/root"
mount --bind "$tree" "$boot/root"
PATH=$PATH:/usr/sbin:/sbin mke2fs -q -F -t ext4 -O {EXT4_FEATURES} -b 4096 -L root -U {root_uuid} \\
    -E offset={ROOT_LBA * SECTOR} -d "$boot/root" {shlex.quote(str(disk))} {root_mib}M || status=$?
umount "$boot/root"
rmdir "$boot/root"
exit ${{status:-0}}
"""


def _install_bios_grub(disk: Path, boot: Path) -> None:
    """Boot sector and core image with the two addresses that grub-bios-setup would have filled in.

    Fields: GRUB's boot/i386/pc/boot.S (kernel_sector at 0x5c) and diskboot.S (block list at the end of the sector).
    """
    boot_sector = bytearray((boot / "boot.img").read_bytes()[:SECTOR])
    core = bytearray((boot / "core.img").read_bytes())
    sectors = -(-len(core) // SECTOR)
    if sectors > ESP_LBA - BIOS_BOOT_LBA:
        raise CommandFailed(f"GRUB's core image of {len(core)} bytes does not fit into the BIOS boot partition")
    struct.pack_into("<Q", boot_sector, 0x5C, BIOS_BOOT_LBA)
    struct.pack_into("<QHH", core, 0x1F4, BIOS_BOOT_LBA + 1, sectors - 1, 0x820)
    with disk.open("r+b") as file:
        protective_mbr = bytearray(file.read(SECTOR))
        protective_mbr[:440] = boot_sector[:440]  # the rest is the disk's signature and partition entries
        file.seek(0)
        file.write(protective_mbr)
        file.seek(BIOS_BOOT_LBA * SECTOR)
        file.write(core)


def _install_esp(disk: Path, boot: Path, root_uuid: str) -> None:
    """Shim and GRUB as the distribution signed them, at the path that firmware tries by itself."""
    menu = boot / "grub.cfg"
    menu.write_text(
        f"search.fs_uuid {root_uuid} root\nset prefix=($root)/boot/grub\nconfigfile $prefix/grub.cfg\n",
        encoding="ascii",
    )
    drive = f"{disk}@@{ESP_LBA * SECTOR}"
    sectors = ESP_MIB * MIB // SECTOR
    for command in (
        [_sbin("mkfs.vfat"), "--offset", str(ESP_LBA), "-F", "16", "-n", "ESP", str(disk), str(sectors // 2)],
        ["mmd", "-i", drive, "::EFI", "::EFI/BOOT", "::EFI/debian"],
        ["mcopy", "-i", drive, str(boot / "BOOTX64.EFI"), str(boot / "grubx64.efi"), "::EFI/BOOT/"],
        ["mcopy", "-i", drive, str(menu), "::EFI/debian/grub.cfg"],
    ):
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        if made.returncode != 0:
            raise CommandFailed(f"{command[0]}: {made.stderr.strip()}")
