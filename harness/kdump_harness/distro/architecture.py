"""The architectures of guests: their virtual machines, kernels and consoles, one file in architectures/ for each."""

from __future__ import annotations

import functools
import platform
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ..base.errors import HostError, UsageError
from ..base.tables import load, package_path

_DEFAULT = "amd64"


@dataclass(frozen=True, kw_only=True)
class BootDisk:
    """A disk that is built from packages, and the machine that boots it."""

    boot_packages: tuple[str, ...]  # the boot loader's
    grub_formats: tuple[str, ...]  # directories of GRUB's modules
    # The places of the boot loader (PARTITIONS in images/build.py), each with its files.
    loaders: Mapping[str, Mapping[str, str]]
    grub_terminal: str  # GRUB_TERMINAL
    arguments: str  # of the kernel's command line
    kernel: str = "/vmlinuz"  # link to the kernel
    firmware: tuple[str, ...] = ("uefi",)  # names in FIRMWARE; the first one is the default
    features: str = ""  # in the domain's XML
    panic_device: str = ""  # in the domain's XML, where libvirt adds none by itself
    memory_mib: int = 1024  # of the guest of a drill


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The facts about one architecture."""

    machine: str  # as uname -m prints it, and libvirt names it
    machine_type: str  # of QEMU
    emulator: str  # QEMU's program
    packages: tuple[str, ...]  # Debian's packages that a host of its guests needs, on one line for setup_host.sh
    redhat: tuple[str, ...]  # the same packages of Fedora, RHEL and its rebuilds
    suse: tuple[str, ...]  # of openSUSE and SLES
    arch: tuple[str, ...]  # of Arch Linux
    control_device: str  # the guest's device of the control line
    control_xml: str  # the control line in the domain's XML
    arguments: str  # of each kernel's command line: the console, with every message on it
    capture_arguments: str  # of the capture kernel's command line, in addition
    crashkernel: str  # that suffices for a kernel drill
    memory_mib: int  # of the guest of a kernel drill
    kernel_package: str  # Debian's usual kernel for virtual machines
    userland: str  # the suite of the userland
    images: tuple[str, ...]  # the first word of the names of kernel images
    built_image: str  # place of the image in a tree after make
    console_device: str  # the guest's device of the serial console
    disk: BootDisk | None = None  # None: no drills of images
    image_magic: str = ""  # text in a kernel image
    image_magic_at: int = 0
    disk_address: str = ""  # of the disk for the vmcore, in the domain's XML; empty: libvirt's choice
    cpu_model: str = ""  # for emulation; empty: the machine's own default, or domain_xml's choice
    features: str = ""  # in the domain's XML
    counts_other_memory: bool = False  # whether a capture kernel counts memory that it cannot use
    vmcoreinfo: bool = False  # whether the machine has QEMU's device that takes VMCOREINFO
    lacks: Mapping[str, str] = field(default_factory=dict)  # reasons, by what a trigger needs of the virtual machine
    handover_silence_s: float = 0.0  # unscaled, from the last words of a kernel to the first ones of the capture kernel
    name: str = ""  # Debian's word, which is the name of the file

    @property
    def is_of_host(self) -> bool:
        """Whether this host has the same architecture."""
        return platform.machine() == self.machine

    @property
    def may_use_kvm(self) -> bool:
        """Whether guests are known to run under KVM."""
        return self.name == _DEFAULT

    @property
    def setup(self) -> str:
        """The command that installs on this host what its guests need."""
        return "make setup" if self.name == _DEFAULT else f"make setup ARCH={self.name}"

    @property
    def build_commands(self) -> tuple[str, ...]:
        """The commands of a host that builds its disks, besides the usual ones."""
        return () if self.is_of_host else ("arch-test",)

    @property
    def build_files(self) -> tuple[str, ...]:
        """The files of a host that builds its disks: the registration of QEMU's user mode emulation."""
        return () if self.is_of_host else (f"/proc/sys/fs/binfmt_misc/qemu-{self.machine}",)

    @property
    def boot_disk(self) -> BootDisk:
        """The disk of drills of images; UsageError for an architecture without one."""
        if self.disk is None:
            known = ", ".join(one.name for one in load_architectures().values() if one.disk is not None)
            raise UsageError(f"images for {self.name} cannot be drilled (known: {known}; kernel drills can)")
        return self.disk

    def require_emulator(self) -> None:
        """Raise HostError on a host without the program that emulates it."""
        if shutil.which(self.emulator) is None:
            raise HostError(f"guests for {self.name} need {self.emulator} ({self.setup})")


def architecture_of_machine(machine: str) -> Architecture | None:
    """Return the architecture by the word of uname -m; None for one without a file."""
    return next((one for one in load_architectures().values() if one.machine == machine), None)


@functools.cache
def load_architectures() -> Mapping[str, Architecture]:
    """Return all architectures by Debian's words for them."""
    paths = sorted(package_path("distro", "architectures").glob("*.toml"))
    return {path.stem: replace(load(path, Architecture), name=path.stem) for path in paths}


def find_architecture(name: str | None = None) -> Architecture:
    """Return an architecture by name, without a name that of this host; UsageError names the known ones."""
    known = load_architectures()
    if name is None:
        return next((one for one in known.values() if one.is_of_host), known[_DEFAULT])
    if name not in known:
        raise UsageError(f"unknown architecture {name!r} (known: {', '.join(known)})")
    return known[name]
