"""Kernels as a build leaves them: what an image says of itself, its modules, its configuration, a package of it all.

The header of an image is the one that boot loaders read: Documentation/arch/x86/boot.rst of the kernel.
"""

from __future__ import annotations

import hashlib
import os
import re
import struct
from dataclasses import dataclass, field
from pathlib import Path

from ..base.errors import UsageError
from ..base.units import MIB
from .architecture import Architecture, find_architecture
from .deb import ArchiveMember, write_deb

CONFIG_MAX_BYTES = 4 * MIB
IMAGE_MAX_BYTES = 256 * MIB
MODULES_MAX_MIB = 2048  # of a disk that holds a system, an initramfs of the modules, and dumps

# Where a build, its "make install" and "make modules_install", and people who copy by hand put the other files.
MODULES = ("lib/modules", "modules", "usr/lib/modules")
CONFIGS = ("boot/config-{release}", "config-{release}", "config", ".config", "lib/modules/{release}/config")
# In packages and in guests; the second is where Fedora, SUSE and Debian's kernels since 7.2 have it.
CONFIG_FILES = r"boot/config-[^/]+|(?:usr/)?lib/modules/[^/]+/config"

# kdump is nothing without these; one of a group is enough.
REQUIRED = (("CRASH_DUMP",), ("KEXEC", "KEXEC_FILE"), ("PROC_VMCORE",))
# The drivers of a guest's disk, seed and network.
BOOT_DRIVERS = ("VIRTIO", "VIRTIO_PCI", "VIRTIO_BLK", "EXT4_FS", "ISO9660_FS", "VIRTIO_NET")

_HEADER_BYTES = 0x268
_PROTOCOL = 0x20C  # 2.12, the first that marks 64-bit kernels: Linux 3.8
_RELEASE = re.compile(rb"(\d{1,3}\.\d{1,4}(?![0-9])[A-Za-z0-9.+~_-]{0,56})[\0 ]")
_BANNER = re.compile(rb"Linux version (\d{1,3}\.\d{1,4}[A-Za-z0-9.+~_-]{0,56}) \(")
_GENERATED = re.compile(
    r"modules\.(?:alias|builtin\.alias|builtin|dep|symbols)\.bin|modules\.(?:alias|dep|devname|softdep|symbols|weakdep)"
)

# As the scripts of Debian's own kernels; linux-run-hooks also knows the hooks that newer packages have elsewhere.
_POSTINST = """#!/bin/sh
set -e
release={release}
image=/boot/vmlinuz-$release
[ "$1" = configure ] || exit 0
depmod "$release"
linux-update-symlinks install "$release" "$image"
if command -v linux-run-hooks >/dev/null; then
    linux-run-hooks image postinst "$release" "$image" -- "$@"
elif [ -d /etc/kernel/postinst.d ]; then
    DEB_MAINT_PARAMS="$*" run-parts --report --exit-on-error --arg="$release" --arg="$image" /etc/kernel/postinst.d
fi
"""
_POSTRM = """#!/bin/sh
set -e
release={release}
image=/boot/vmlinuz-$release
[ "$1" = remove ] || exit 0
rm -f "/lib/modules/$release"/modules.*
if command -v linux-update-symlinks >/dev/null; then
    linux-update-symlinks remove "$release" "$image"
fi
if [ -d /etc/kernel/postrm.d ]; then
    DEB_MAINT_PARAMS="$*" run-parts --report --exit-on-error --arg="$release" --arg="$image" /etc/kernel/postrm.d
fi
"""


@dataclass(frozen=True, kw_only=True)
class KernelTree:
    """A kernel in a directory; its digest is its content."""

    place: Path
    image: Path
    release: str
    modules: Path | None
    config: Path | None
    digest: str
    size_bytes: int
    remark: str = field(default="", repr=False)  # what its user should know

    @property
    def package(self) -> str:
        """The name of the package that is made of it: the one that a package of the same kernel would have."""
        return "linux-image-" + re.sub(r"[^a-z0-9+.-]", "-", self.release.lower())

    @property
    def package_file(self) -> str:
        return f"{self.package}_{self.version}_amd64.deb"

    @property
    def version(self) -> str:
        number = re.match(r"[\d.]*\d", self.release)
        assert number is not None
        return f"{number.group()}-0.{self.digest[:12]}"


# ---------------------------------------------------------------- configuration


def lacking(config: str) -> str:
    """Return the options that kdump needs and the kernel's configuration leaves unset.

    A whole configuration omits options whose dependency is unset; a fragment omits unchanged options.
    """
    values = _values(config)
    whole = any(values.get(name) == "y" for name in ("X86_64", "ARM64", "PPC64", "RISCV"))
    for group in REQUIRED:
        if all(values.get(name, "n" if whole else "y") == "n" for name in group):
            return " and ".join(f"CONFIG_{name}" for name in group)
    return ""


def check_config(config: str, what: str) -> None:
    """UsageError for a kernel that was built without what kdump needs."""
    if names := lacking(config):
        verb = "are" if " and " in names else "is"
        raise UsageError(f"{what} cannot be drilled: its configuration says that {names} {verb} not set")


def _values(config: str) -> dict[str, str]:
    found = re.findall(r"(?m)^(?:CONFIG_(\w+)=(.*)|# CONFIG_(\w+) is not set)$", config)
    return {name or unset: value if name else "n" for name, value, unset in found}


# ---------------------------------------------------------------- the image


def release_of(image: Path, architecture: Architecture | None = None) -> str:
    """Return the release of a kernel image, without an architecture of an x86-64 bzImage.

    Raises UsageError for any other file.
    """
    if not os.access(image, os.R_OK):
        raise UsageError(f"{image} cannot be read (no permission)")
    if architecture is not None and architecture.image_magic:
        return _release_in_image(image, architecture)
    with image.open("rb") as file:
        head = file.read(_HEADER_BYTES)
        size_bytes = os.fstat(file.fileno()).st_size
        if reason := _no_bzimage(head, size_bytes):
            raise UsageError(f"{image} is not an x86-64 bzImage ({reason})")
        (offset,) = struct.unpack_from("<H", head, 0x20E)
        file.seek(offset + 0x200)
        text = file.read(256)
    found = _RELEASE.match(text) if offset else None
    if found is None:
        raise UsageError(f"{image} is not a usable x86-64 bzImage (its header names no release)")
    return found.group(1).decode("ascii")


def _release_in_image(image: Path, architecture: Architecture) -> str:
    """Return the release in the banner of an image that is not packed."""
    magic, at = architecture.image_magic.encode(), architecture.image_magic_at
    with image.open("rb") as file:
        content = file.read(IMAGE_MAX_BYTES)
    found = _BANNER.search(content) if content[at : at + len(magic)] == magic else None
    if found is None:
        raise UsageError(f"{image} is not an unpacked kernel image for {architecture.name}")
    return found.group(1).decode("ascii")


def _no_bzimage(head: bytes, size_bytes: int) -> str | None:
    """Return the reason why a file with this beginning is not a bzImage."""
    if head[:4] == b"\x7fELF":
        return "it is an ELF file, as vmlinux is; a build leaves the bzImage in arch/x86/boot"
    if head[0x38:0x3C] == b"ARM\x64":
        return "it is an Image for arm64"
    if head[0x1FE:0x200] != b"\x55\xaa" or head[0x202:0x206] != b"HdrS":
        return "it has no boot header"
    if len(head) < _HEADER_BYTES:
        return "it is cut short"
    (version,) = struct.unpack_from("<H", head, 0x206)
    if version < _PROTOCOL:
        return "it is older than Linux 3.8, or for 32 bits"
    if not struct.unpack_from("<H", head, 0x236)[0] & 1:
        return "it is for 32 bits"
    (paragraphs,) = struct.unpack_from("<I", head, 0x1F4)
    need_bytes = ((head[0x1F1] or 4) + 1) * 512 + paragraphs * 16
    if size_bytes < need_bytes:
        return f"it is cut short: {size_bytes} of {need_bytes} bytes"
    return None


# ---------------------------------------------------------------- the directory


def image_patterns(architecture: Architecture | None = None) -> tuple[str, ...]:
    """Return where a build, its make install and modules_install, and people who copy by hand put an image."""
    architecture = architecture or find_architecture("amd64")
    words = architecture.images
    copied = [pattern for word in words for pattern in (word, f"boot/{word}-*", f"{word}-*")]
    return (*copied, architecture.built_image, *(f"lib/modules/*/{word}" for word in words))


def find_image(place: Path, architecture: Architecture | None = None) -> Path | None:
    """Find the kernel image of a directory; raise UsageError if there are several in one place."""
    for pattern in image_patterns(architecture):
        found = [path for path in sorted(place.glob(pattern)) if path.is_file() and path.suffix != ".old"]
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise UsageError(f"{place} has {len(found)} kernels ({names}), so which one to drill is not known")
        if found:
            return found[0]
    return None


def read_tree(place: Path, image: Path) -> KernelTree:
    """Describe the kernel of a directory whose image was found; raise UsageError if it cannot be drilled."""
    release = release_of(image)
    modules = _modules(place, image, release)
    config = next((path for name in CONFIGS if (path := place / name.format(release=release)).is_file()), None)
    text = ""
    if config is not None:
        if config.stat().st_size > CONFIG_MAX_BYTES:
            raise UsageError(f"{config} is not a kernel configuration ({config.stat().st_size} bytes)")
        text = config.read_text(encoding="utf-8", errors="replace")
        check_config(text, f"the kernel in {place}")
    entries = _entries(release, image, modules, config)
    remark = ""
    if not any(re.search(r"\.ko(\.(gz|xz|zst))?$", entry.name) for entry in entries):
        remark = _without_modules(place, release, _values(text))
    size_bytes = sum(entry.file.stat().st_size for entry in entries if entry.file is not None)
    if size_bytes > MODULES_MAX_MIB * MIB:
        raise UsageError(
            f"the kernel in {place} takes {size_bytes // MIB} MiB, and guests have room for {MODULES_MAX_MIB}"
            " (make modules_install INSTALL_MOD_STRIP=1 leaves out what debuggers need)"
        )
    return KernelTree(
        place=place,
        image=image,
        release=release,
        modules=modules,
        config=config,
        digest=_digest(release, entries),
        size_bytes=size_bytes,
        remark=remark,
    )


def _modules(place: Path, image: Path, release: str) -> Path | None:
    """Return the release's modules; None without modules. Raise UsageError where only other releases have some."""
    others = []
    for parent in (place / name for name in MODULES):
        if (parent / release).is_dir():
            return parent / release
        if parent.is_dir():
            others += [path.name for path in sorted(parent.iterdir()) if path.is_dir() and path.name[:1].isdigit()]
    if others:
        raise UsageError(f"{image} is {release}, but the modules next to it are of {', '.join(dict.fromkeys(others))}")
    return None


def _without_modules(place: Path, release: str, values: dict[str, str]) -> str:
    """Return the remark on a kernel that needs no modules; raise UsageError where it may need them."""
    where = f"lib/modules/{release}, as make modules_install INSTALL_MOD_PATH={place} puts them there"
    if not values:
        raise UsageError(
            f"{place} has no modules for {release}, and no configuration that says that it needs none ({where})"
        )
    if needed := [f"CONFIG_{name}" for name in BOOT_DRIVERS if values.get(name) == "m"]:
        raise UsageError(f"{place} has no modules for {release}, which has {', '.join(needed)} as modules ({where})")
    return f"{release} has no modules: drivers that are not built into it are not there"


def _entries(release: str, image: Path, modules: Path | None, config: Path | None) -> list[ArchiveMember]:
    """Return the members of the package."""
    entries = [ArchiveMember(name=f"boot/config-{release}", file=config)] if config is not None else []
    entries.append(ArchiveMember(name=f"boot/vmlinuz-{release}", file=image))
    # depmod and the hooks want the directory, also where there is nothing to put into it.
    entries.append(ArchiveMember(name=f"lib/modules/{release}"))
    if modules is None:
        return entries
    for directory, below, names in os.walk(modules):
        below.sort()
        if Path(directory) == modules:
            below[:] = [name for name in below if name not in ("build", "source")]  # they point to where it was built
            names = [name for name in names if name not in ("build", "source") and not _GENERATED.fullmatch(name)]
        for path in sorted(Path(directory, name) for name in (*below, *names)):
            name = f"lib/modules/{release}/{path.relative_to(modules)}"
            if path.is_symlink():
                entries.append(ArchiveMember(name=name, link=os.readlink(path)))
            elif path.is_file():
                entries.append(ArchiveMember(name=name, file=path))
    return entries


def _digest(release: str, entries: list[ArchiveMember]) -> str:
    """Digest the content of the package and the way it is made."""
    digest = hashlib.sha256(repr((release, _POSTINST, _POSTRM)).encode())
    for entry in entries:
        content = ""
        if entry.file is not None:
            with entry.file.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(repr((entry.name, entry.link, content)).encode())
    return digest.hexdigest()


# ---------------------------------------------------------------- the package


def package_tree(tree: KernelTree, to: Path) -> None:
    """Write the .deb of a kernel; UsageError where the directory is another than the one that was looked at."""
    entries = _entries(tree.release, tree.image, tree.modules, tree.config)
    fields = {
        "Package": tree.package,
        "Version": tree.version,
        "Architecture": "amd64",
        "Maintainer": "kdump-harness <root@localhost>",
        "Installed-Size": str(tree.size_bytes // 1024 + 1),
        "Depends": "kmod, linux-base (>= 4.3~), initramfs-tools | linux-initramfs-tool",
        "Section": "kernel",
        "Priority": "optional",
        "Description": f"Linux {tree.release}, as its build left it",
    }
    scripts = {name: text.format(release=tree.release) for name, text in (("postinst", _POSTINST), ("postrm", _POSTRM))}
    write_deb(to, fields, scripts, entries)
    if read_tree(tree.place, tree.image).digest != tree.digest:
        to.unlink()
        raise UsageError(f"{tree.place} was changed while a package was made of it")
