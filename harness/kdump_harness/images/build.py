"""The build of a bootable disk from a distribution's packages, without root, loop devices or a running guest.

The disk is like a cloud image: GPT with the partitions of the boot loader, GRUB, one ext4 root, cloud-init with
NoCloud, a serial console. All tools (sfdisk, mke2fs -d, mtools) write into a file, so that an ordinary user can run
them where user namespaces are allowed. Package scripts of another architecture are run by QEMU's user mode emulation.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import struct
import subprocess
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..base.errors import CommandFailed, HostError, UsageError
from ..base.tables import package_path
from ..base.units import MIB
from ..distro.architecture import Architecture, BootDisk, find_architecture
from ..distro.packages import GUEST_PLACE, LocalPackage, refusal
from ..distro.serial_line import serial_line_files
from .mirror import Mirror

RECIPE_VERSION = 2  # to be raised when the files below change, so that cached disks are built again
DISK_MIB = 8192  # sparse; enough for the system and a full dump (-d 0) of a 4 GiB guest
NEED_MIB = 4096  # disk space on the host for package cache, tree and disk

OTHER_SUITE_PRIORITY = 100  # the default priority of backports: packages are used only on request

SECTOR = 512
BIOS_BOOT_LBA = 2048  # or PReP
ESP_LBA = 4096
ESP_MIB = 32
ROOT_LBA = ESP_LBA + ESP_MIB * MIB // SECTOR

# A release's GRUB and kernel must read the filesystem of the host's newer mke2fs, so its defaults are not used.
# orphan_file and metadata_csum_seed (e2fsprogs 1.47) stop GRUB 2.06 from booting.
EXT4_FEATURES = (
    "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,"
    "sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum"
)

# Partitions of boot loaders by their place in [disk.loaders]: number, first and last sector, type.
PARTITIONS: Mapping[str, tuple[int, int, int, str]] = {
    "bios": (14, BIOS_BOOT_LBA, ESP_LBA, "21686148-6449-6E6F-744E-656564454649"),
    "prep": (14, BIOS_BOOT_LBA, ESP_LBA, "9E1A2D38-C612-4316-AA26-8B49521E5A8B"),
    "esp": (15, ESP_LBA, ROOT_LBA, "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"),
}

BASE_PACKAGES = (
    "ca-certificates",
    "cloud-init",
    "dbus",
    "e2fsprogs",
    "grub2-common",
    "ifupdown",
    "iproute2",
    "kmod",
    "netbase",
    "openssh-server",
    "procps",
    "systemd-sysv",
    "udev",
    "zstd",  # without it initramfs-tools uses gzip, unlike on an installed system
)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The inputs of a built disk."""

    name: str
    suite: str
    updates_suite: str
    security_suite: str
    components: tuple[str, ...]
    kernel: str  # PACKAGE or PACKAGE/SUITE; empty if a file has the kernel
    packages: tuple[str, ...]
    mirror: Mirror
    kernel_suite: str = ""
    files: tuple[LocalPackage, ...] = ()  # package files of this host, installed last
    more: tuple[str, ...] = field(default=(), repr=False)  # PACKAGE or PACKAGE/SUITE, in place of the release's version
    architecture: Architecture = field(default_factory=lambda: find_architecture("amd64"), repr=False)

    def key(self) -> str:
        """Return a digest of all inputs."""
        disk = self.architecture.boot_disk
        inputs = (RECIPE_VERSION, DISK_MIB, EXT4_FEATURES, disk.arguments, self.base_packages, self)
        # Only if present, so that disks built without them keep their key.
        boot = (self.architecture.name, disk.loaders, disk.grub_formats, disk.grub_terminal, disk.kernel)
        other = self.architecture.name != "amd64" and boot
        also = tuple(part for part in (self.more, self.pins(), other) if part)
        return hashlib.sha256(repr((*inputs, *also)).encode()).hexdigest()[:16]

    @property
    def base_packages(self) -> tuple[str, ...]:
        """The packages of every built disk."""
        return tuple(sorted((*BASE_PACKAGES, *self.architecture.boot_disk.boot_packages)))

    @property
    def other_suites(self) -> tuple[str, ...]:
        """The suites of single packages, besides those of the release."""
        named = (self.kernel_suite, *(package.partition("/")[2] for package in self.more))
        own = ("", self.suite, self.updates_suite, self.security_suite)
        return tuple(dict.fromkeys(suite for suite in named if suite not in own))

    @property
    def singles(self) -> tuple[str, ...]:
        """The packages that are installed last, one by one: PACKAGE or PACKAGE/SUITE."""
        return (*((self.kernel,) if self.kernel_suite else ()), *self.more)

    def sources(self) -> tuple[str, ...]:
        """Return the lines of sources.list."""
        return self.mirror.sources(
            self.suite,
            self.updates_suite,
            *self.other_suites,
            security_suite=self.security_suite,
            components=self.components,
        )

    def pins(self) -> str:
        """Return apt's preferences: from other suites, only the requested packages and their dependencies.

        A suite is named by its code name (n) or its archive name (a); see apt_preferences(5).
        """
        return "\n".join(
            f"Package: *\nPin: release {key}={suite}\nPin-Priority: {OTHER_SUITE_PRIORITY}\n"
            for suite in self.other_suites
            for key in ("n", "a")
        )


def _native_tools(hook: str, *steps: str) -> tuple[str, ...]:
    """Return the hooks for steps of native_tools.sh."""
    script = shlex.quote(str(package_path("images", "native_tools.sh")))
    return tuple(f'--{hook}-hook=sh {script} {step} "$1"' for step in steps)


def _make_initramfs(link: str) -> tuple[str, ...]:
    """Return the hooks that make the initramfs of each kernel, and take back the host's tools.

    LINK is the menu's name of the kernel, which packages of ppc64el do not use.

    initramfs-tools makes one for a kernel, and again at the end for all that was installed with it. Under emulation
    each takes minutes: with INITRD=No kernels are installed without one, and without a link to it.
    """
    script = f"""for kernel in "$1"/boot/vmlinu[xz]-*; do
    release=${{kernel##*/vmlinu?-}}
    test -e "$1/boot/initrd.img-$release" || chroot "$1" update-initramfs -c -k "$release"
    ln -sfn "boot/initrd.img-$release" "$1/initrd.img"
    ln -sfn "boot/${{kernel##*/}}" "$1{link}"
done"""
    return (
        *_native_tools("customize", "use"),
        f"--customize-hook={script}",
        *_native_tools("customize", "remove"),
    )


def missing_tools(architecture: Architecture) -> tuple[str, ...]:
    """Return the commands, and the entry of binfmt_misc, that the build needs and this host lacks."""
    needed = ("mmdebstrap", "mke2fs", "sfdisk", "mkfs.vfat", "mcopy", *architecture.build_commands)
    lacking = [tool for tool in needed if shutil.which(tool) is None and not Path("/usr/sbin", tool).exists()]
    return (*lacking, *(file for file in architecture.build_files if not Path(file).exists()))


def _sbin(tool: str) -> str:
    """Return the path of a tool that an ordinary user's PATH may not contain."""
    return shutil.which(tool) or f"/usr/sbin/{tool}"


def build(recipe: Recipe, disk: Path, *, workdir: Path, log: Path, progress: Callable[[str], None]) -> None:
    """Write a raw disk; WORKDIR is for temporary files, and boot/packages in it lists the installed versions."""
    architecture = recipe.architecture
    boot_disk = architecture.boot_disk
    if missing := missing_tools(architecture):
        raise HostError(f"cannot build {recipe.name}: {', '.join(missing)} missing (run {architecture.setup})")
    root_uuid = str(uuid.uuid5(uuid.NAMESPACE_URL, f"kdump-harness:{recipe.key()}"))
    early, late = workdir / "early", workdir / "late"
    _write_files(early, _early_files(recipe, root_uuid))
    _write_files(late, _late_files(recipe, root_uuid))
    _partition(disk, boot_disk.loaders)
    boot = workdir / "boot"
    boot.mkdir(mode=0o777)
    boot.chmod(0o777)  # in a user namespace the hooks run under another id
    disk.chmod(0o666)
    files = workdir / "files"
    _copy_files(files, recipe.files)
    hook = workdir / "finish"
    hook.write_text(_finish_hook(boot_disk, disk, boot, root_uuid), encoding="utf-8")
    hook.chmod(0o755)
    kernel = recipe.kernel or "a kernel of this host"
    progress(f"installing {recipe.suite} with {kernel} from {recipe.mirror.archive}")
    foreign = not architecture.is_of_host
    hooks = (
        *((*_native_tools("extract", "put", "use"), *_native_tools("essential", "use")) if foreign else ()),
        f"--essential-hook=sync-in {shlex.quote(str(early))} /",
        *_install_hooks(recipe, files),
        *(_make_initramfs(boot_disk.kernel) if foreign else ()),
        f"--customize-hook=sync-in {shlex.quote(str(late))} /",
        f'--customize-hook={shlex.quote(str(hook))} "$1"',
    )
    try:
        usual = () if recipe.kernel_suite else (recipe.kernel,)
        make_tree(recipe, (*recipe.base_packages, *usual, *recipe.packages), hooks, log=log, progress=progress)
    except BuildRefused as error:
        raise BuildRefused(f"cannot build {recipe.name} as requested: {error.args[0]}", see=log) from None
    progress("writing the boot loader")
    _install_boot_loaders(disk, boot, boot_disk, root_uuid)
    disk.chmod(0o644)


def _copy_files(directory: Path, files: tuple[LocalPackage, ...]) -> None:
    """Copy the package files to a directory that the build can read as any user."""
    directory.mkdir(mode=0o755)
    for file in files:
        shutil.copyfile(file.path, directory / file.name)
        (directory / file.name).chmod(0o644)


def _install_hooks(recipe: Recipe, files: Path) -> tuple[str, ...]:
    """Return the hooks that install packages of other suites, then package files, with the tree's apt.

    apt gets their dependencies from the mirror.
    """
    if not (recipe.singles or recipe.files):
        return ()
    place = GUEST_PLACE
    install = "DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends --allow-downgrades"
    # The capture initramfs has the drivers of the machine that builds it, so arming builds it in the guest rather than
    # here. Kernel packages run only executable hooks.
    kdump = "/etc/kernel/postinst.d/kdump-tools"
    # A newer libc needs the base-files of its release, whose os-release would name that release, although kdump, kernel
    # and nearly all packages of the guest are older.
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
    """Return apt's arguments for PACKAGE or PACKAGE/SUITE, whose dependencies may come from that suite."""
    suite = package.partition("/")[2]
    return f"{f'-t {shlex.quote(suite)} ' if suite else ''}{shlex.quote(package)}"


class BuildRefused(UsageError):
    """The package manager does not have a requested package."""


def make_tree(
    recipe: Recipe, packages: tuple[str, ...], hooks: tuple[str, ...], *, log: Path, progress: Callable[[str], None]
) -> None:
    """Make a temporary tree of the recipe's release with PACKAGES, and run the hooks on it.

    Raises BuildRefused with the package manager's message if the release lacks a package, otherwise CommandFailed.
    """
    command = [
        "mmdebstrap",
        "--mode=auto",
        "--variant=apt",
        "--format=null",
        *(() if recipe.architecture.is_of_host else _foreign(recipe.architecture)),
        f"--include={','.join(filter(None, packages))}",
        # The index of a lagging mirror may have expired; signatures are checked anyway.
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
        _run_logged(command, log, progress, {} if recipe.architecture.is_of_host else {"INITRD": "No"})
    except CommandFailed:
        if refused := refusal(log.read_text(encoding="utf-8", errors="replace")):
            raise BuildRefused(refused.removeprefix("E: "), see=log) from None
        raise


def _foreign(architecture: Architecture) -> tuple[str, ...]:
    """Return the options for a tree of another architecture.

    debconf's emulated programs would read each package for questions, which noninteractive builds skip. Debian 12's
    usrmerge cannot convert a tree with programs of the host.
    """
    return (
        f"--architectures={architecture.name}",
        "--aptopt=#clear DPkg::Pre-Install-Pkgs",
        "--hook-dir=/usr/share/mmdebstrap/hooks/maybe-merged-usr",
    )


def _pin_hooks(recipe: Recipe) -> tuple[str, ...]:
    """Return the hook that writes the preferences before apt selects packages; the guest's apt uses them too."""
    if not (pins := recipe.pins()):
        return ()
    return (f'--setup-hook=printf %s {shlex.quote(pins)} > "$1/etc/apt/preferences.d/kdump-harness"',)


def remove_workdir(workdir: Path) -> None:
    """Remove the temporary files of a build."""
    shutil.rmtree(workdir, ignore_errors=True)


def _run_logged(command: list[str], log: Path, progress: Callable[[str], None], environment: Mapping[str, str]) -> None:
    """Run a long command and report its milestones; CommandFailed quotes the end of its output."""
    with log.open("w", encoding="utf-8") as out:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**os.environ, **environment},
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
    """Return the files that packages need when they are configured."""
    name = recipe.name.replace("/", "-")
    disk = recipe.architecture.boot_disk
    return {
        "etc/fstab": f"UUID={root_uuid} / ext4 errors=remount-ro 0 1\n",
        "etc/hostname": f"{name}\n",
        "etc/hosts": f"127.0.0.1 localhost\n127.0.1.1 {name}\n",
        "etc/default/grub": (
            "GRUB_DEFAULT=0\nGRUB_TIMEOUT=0\nGRUB_DISTRIBUTOR=Debian\n"
            f'GRUB_CMDLINE_LINUX_DEFAULT=""\nGRUB_CMDLINE_LINUX="{disk.arguments}"\n'
            f'GRUB_TERMINAL="{disk.grub_terminal}"\n'
            'GRUB_SERIAL_COMMAND="serial --speed=115200"\nGRUB_DISABLE_OS_PROBER=true\n'
        ),
    }


def _late_files(recipe: Recipe, root_uuid: str) -> dict[str, str]:
    """Return the files that would disturb the installation of packages."""
    disk = recipe.architecture.boot_disk
    serial = "serial --speed=115200\n" if "serial" in disk.grub_terminal else ""
    return {
        **serial_line_files(recipe.architecture.console_device),
        "etc/network/interfaces": "auto lo\niface lo inet loopback\nsource /etc/network/interfaces.d/*\n",
        # Only the seed disk is probed, which saves the time for other clouds.
        "etc/cloud/cloud.cfg.d/90-datasource.cfg": "datasource_list: [NoCloud, None]\n",
        # The first menu, which the guest's update-grub replaces later. With this file, package scripts would run
        # update-grub, which fails in a tree that is not a mounted disk.
        "boot/grub/grub.cfg": (
            f"{serial}terminal_input {disk.grub_terminal}\nterminal_output {disk.grub_terminal}\n"
            f"search --no-floppy --fs-uuid --set=root {root_uuid}\n"
            f"linux {disk.kernel} root=UUID={root_uuid} ro {disk.arguments}\ninitrd /initrd.img\nboot\n"
        ),
    }


def _write_files(tree: Path, files: dict[str, str]) -> None:
    """Write files below a tree, by their paths in the guest."""
    for path, text in files.items():
        target = tree / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")


def _partition(disk: Path, loaders: Iterable[str]) -> None:
    """Write a GPT like that of Debian's cloud images: root first, BIOS boot or PReP as 14, ESP as 15."""
    with disk.open("wb") as file:
        file.truncate(DISK_MIB * MIB)
    table = f"label: gpt\n1 : start={ROOT_LBA}, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4\n"
    for number, start, end, kind in (PARTITIONS[name] for name in loaders):
        table += f"{number} : start={start}, size={end - start}, type={kind}\n"
    made = subprocess.run(
        [_sbin("sfdisk"), "--quiet", str(disk)], input=table, capture_output=True, text=True, check=False
    )
    if made.returncode != 0:
        raise CommandFailed(f"sfdisk: {made.stderr.strip()}")


def _finish_hook(boot_disk: BootDisk, disk: Path, boot: Path, root_uuid: str) -> str:
    """Return the script that copies boot files out of the finished tree, and the tree to the root partition."""
    modules = "\n".join(f'cp -r "$tree/usr/lib/grub/{one}" "$tree/boot/grub/"' for one in boot_disk.grub_formats)
    loaders = "\n".join(_loader_lines(name, files, root_uuid) for name, files in boot_disk.loaders.items())
    root_mib = DISK_MIB - ROOT_LBA * SECTOR // MIB - 1  # the last MiB holds the backup partition table
    return f"""#!/bin/sh
set -eu
tree=$1
boot={shlex.quote(str(boot))}
# The core image has the modules for reaching /boot/grub; other modules are loaded from there.
mkdir -p "$tree/boot/grub"
{modules}
{loaders}
chroot "$tree" dpkg-query -W > "$boot/packages"
ls "$tree/boot" | sed -n 's/^vmlinu[xz]-//p' > "$boot/kernels"
for release in $(cat "$boot/kernels"); do
    cp "$tree/boot/config-$release" "$boot/" 2>/dev/null ||
        cp "$tree/lib/modules/$release/config" "$boot/config-$release" 2>/dev/null || true
done
chmod a+r "$boot"/*
rm -rf "$tree"/var/lib/apt/lists/* "$tree"/var/cache/apt/*.bin "$tree"/var/cache/apt/archives/*.deb
# Keys and identities are made at the first boot.
rm -f "$tree"/etc/ssh/ssh_host_*
: > "$tree/etc/machine-id"
rm -f "$tree/var/lib/dbus/machine-id" "$tree/etc/apt/apt.conf.d/99mmdebstrap" "$tree/etc/dpkg/dpkg.cfg.d/99mmdebstrap"
# A bind mount without its submounts leaves out /proc and /sys.
mkdir "$boot/root"
mount --bind "$tree" "$boot/root"
PATH=$PATH:/usr/sbin:/sbin mke2fs -q -F -t ext4 -O {EXT4_FEATURES} -b 4096 -L root -U {root_uuid} \\
    -E offset={ROOT_LBA * SECTOR} -d "$boot/root" {shlex.quote(str(disk))} {root_mib}M || status=$?
umount "$boot/root"
rmdir "$boot/root"
exit ${{status:-0}}
"""


def _loader_lines(name: str, files: Mapping[str, str], root_uuid: str) -> str:
    """Return the lines of the script for one place of the boot loader."""
    if name == "esp":
        return "\n".join(f'cp "$tree/{source}" "$boot/{file}"' for file, source in files.items())
    core = f"/boot/grub/{files['format']}/core.img"
    copy = "".join(f' "$tree/{file}"' for file in files.get("copy", "").split())
    early = f"search.fs_uuid {root_uuid} root\nset prefix=($root)/boot/grub\n"
    return f"""printf %s {shlex.quote(early)} > "$tree/early.cfg"
chroot "$tree" grub-mkimage -O {files["format"]} -o {core} -p '(,gpt1)/boot/grub' {files.get("options", "")} \\
    {files["modules"]}
cp "$tree{core}"{copy} "$boot/"
rm "$tree"/early.cfg"""


def _install_boot_loaders(disk: Path, boot: Path, boot_disk: BootDisk, root_uuid: str) -> None:
    """Write the boot loader to each of its places."""
    for name, files in boot_disk.loaders.items():
        if name == "bios":
            _install_bios_grub(disk, boot)
        elif name == "prep":
            _install_prep_grub(disk, boot)
        else:
            _install_esp(disk, boot, tuple(files), root_uuid)


def _install_prep_grub(disk: Path, boot: Path) -> None:
    """Write the core image, an ELF file that Open Firmware loads whole."""
    core = _core_image(boot)
    with disk.open("r+b") as file:
        file.seek(BIOS_BOOT_LBA * SECTOR)
        file.write(core)


def _core_image(boot: Path) -> bytes:
    core = (boot / "core.img").read_bytes()
    if len(core) > (most := (ESP_LBA - BIOS_BOOT_LBA) * SECTOR):
        raise CommandFailed(f"GRUB's core image of {len(core)} bytes is larger than its partition of {most} bytes")
    return core


def _install_bios_grub(disk: Path, boot: Path) -> None:
    """Write boot sector and core image, with the two addresses that grub-bios-setup would fill in.

    Fields: GRUB's boot/i386/pc/boot.S (kernel_sector at 0x5c) and diskboot.S (block list at the end of the sector).
    """
    boot_sector = bytearray((boot / "boot.img").read_bytes()[:SECTOR])
    core = bytearray(_core_image(boot))
    sectors = -(-len(core) // SECTOR)
    struct.pack_into("<Q", boot_sector, 0x5C, BIOS_BOOT_LBA)
    struct.pack_into("<QHH", core, 0x1F4, BIOS_BOOT_LBA + 1, sectors - 1, 0x820)
    with disk.open("r+b") as file:
        protective_mbr = bytearray(file.read(SECTOR))
        protective_mbr[:440] = boot_sector[:440]  # followed by the disk's signature and partition entries
        file.seek(0)
        file.write(protective_mbr)
        file.seek(BIOS_BOOT_LBA * SECTOR)
        file.write(core)


def _install_esp(disk: Path, boot: Path, files: tuple[str, ...], root_uuid: str) -> None:
    """Write the distribution's signed shim and GRUB to the default path of the firmware."""
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
        ["mcopy", "-i", drive, *(str(boot / file) for file in files), "::EFI/BOOT/"],
        ["mcopy", "-i", drive, str(menu), "::EFI/debian/grub.cfg"],
    ):
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        if made.returncode != 0:
            raise CommandFailed(f"{command[0]}: {made.stderr.strip()}")
