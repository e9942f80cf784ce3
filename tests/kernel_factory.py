"""Kernel images, build directories and Debian packages that are as small as they can be."""

from __future__ import annotations

import gzip
import io
import lzma
import struct
import tarfile
from collections.abc import Mapping
from pathlib import Path

import zstandard

RELEASE = "6.12.0-mine+"
CONFIG = """\
# Linux/x86 6.12.0 Kernel Configuration
CONFIG_64BIT=y
CONFIG_X86_64=y
CONFIG_KEXEC=y
# CONFIG_KEXEC_FILE is not set
CONFIG_CRASH_DUMP=y
CONFIG_PROC_VMCORE=y
CONFIG_VIRTIO=y
CONFIG_VIRTIO_PCI=y
CONFIG_VIRTIO_BLK=m
CONFIG_EXT4_FS=m
"""
WITHOUT = CONFIG.replace("CONFIG_CRASH_DUMP=y", "# CONFIG_CRASH_DUMP is not set").replace("CONFIG_PROC_VMCORE=y\n", "")
COMPRESS = {
    "": bytes,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.compress,
}


def bzimage(
    release: str = RELEASE, *, version: int = 0x20F, flags: int = 1, said: str = " (me@here) #1 SMP\0"
) -> bytes:
    """A bzImage of one setup sector and a few bytes of kernel."""
    setup_sectors, kernel = 3, b"\x90" * 160
    image = bytearray((setup_sectors + 1) * 512) + kernel
    image[0x1F1] = setup_sectors
    struct.pack_into("<I", image, 0x1F4, len(kernel) // 16)
    image[0x1FE:0x200] = b"\x55\xaa"
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", image, 0x206, version)
    struct.pack_into("<H", image, 0x20E, 0x300)
    struct.pack_into("<H", image, 0x236, flags)
    text = f"{release}{said}".encode()
    image[0x500 : 0x500 + len(text)] = text
    return bytes(image)


def kernel_directory(
    place: Path, *, image: str = "vmlinuz", modules: str = f"lib/modules/{RELEASE}", config: str = ".config"
) -> Path:
    """The files that make and make modules_install leave; an empty name leaves that part out."""
    for name, content in ((image, bzimage()), (config, CONFIG.encode())):
        if name:
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes(content)
    if modules:
        driver = place / modules / "kernel/drivers/block/virtio_blk.ko.xz"
        driver.parent.mkdir(parents=True)
        driver.write_bytes(b"the driver")
        (place / modules / "modules.order").write_text("kernel/drivers/block/virtio_blk.ko\n", encoding="utf-8")
        (place / modules / "modules.dep").write_text("what depmod made\n", encoding="utf-8")
        (place / modules / "build").symlink_to("/usr/src/linux")
    return place


def tar_of(files: Mapping[str, bytes]) -> bytes:
    """An archive as dpkg-deb writes it."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return made.getvalue()


def ar_of(members: Mapping[str, bytes]) -> bytes:
    """An ar archive."""
    parts = [b"!<arch>\n"]
    for name, content in members.items():
        header = f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode()
        parts.append(header + content + b"\n"[: len(content) % 2])
    return b"".join(parts)


def deb(
    package: str = "makedumpfile",
    architecture: str = "amd64",
    files: Mapping[str, bytes] | None = None,
    *,
    suffix: str = ".xz",
) -> bytes:
    """A package with these files, its archives compressed as the suffix says."""
    control = f"Package: {package}\nVersion: 1.0-1\nArchitecture: {architecture}\nDescription: tiny\n more: words\n"
    compress = COMPRESS[suffix]
    return ar_of(
        {
            "debian-binary": b"2.0\n",
            f"control.tar{suffix}": compress(tar_of({"md5sums": b"", "control": control.encode()})),
            f"data.tar{suffix}": compress(tar_of(files or {})),
        }
    )


def kernel_deb(config: str = CONFIG, **how: str) -> bytes:
    """The package of a kernel."""
    files = {f"boot/config-{RELEASE}": config.encode(), f"boot/vmlinuz-{RELEASE}": bzimage()}
    return deb(f"linux-image-{RELEASE.rstrip('+')}", files=files, **how)
