"""Download a kernel's debug info from Debian's linux-image-*-dbg packages, by the host's own apt."""

from __future__ import annotations

import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..base.errors import HostError
from ..base.progress import Progress
from ..images.apt import Apt, announced_bytes, private_apt, require_tools
from ..images.catalog import Image, load_catalog
from ..vmcore.formats.machines import machines

_CHUNK_BYTES = 1 << 20
_MAX_VMLINUX_BYTES = 8 << 30
# A vmlinux has 0.6 to 1 GiB; how much it is exactly stands in the package.
_VMLINUX_MIB = 1024

RequireSpace = Callable[[int], None]


@dataclass(frozen=True)
class Package:
    """A -dbg package, in the version that the kernel was built with."""

    name: str
    version: str
    architecture: str

    def __str__(self) -> str:
        return f"{self.name}:{self.architecture}={self.version}"


def package_of(release: str, version: str, machine: str) -> Package:
    """Return the package for a kernel. Raise HostError when the kernel is not Debian's."""
    # "#1 SMP PREEMPT_DYNAMIC Debian 6.1.192-2 (2026-11-16)"
    built = re.search(r"\bDebian ([0-9][\w.+~-]*)", version)
    facts = machines().get(machine)
    if built is None or facts is None or not release:
        raise HostError(f"--debuginfo-package is for Debian's kernels, this one is {release or '?'} {version or '?'}")
    return Package(f"linux-image-{release}-dbg", built[1], facts.debian)


def fetch(
    package: Package, to: Path, *, workdir: Path, require_space: RequireSpace, progress: Progress, suite: str = ""
) -> str:
    """Download the package and unpack its vmlinux to a file; SUITE is where it is looked for first.

    Raise HostError when no suite that apt reaches has it.
    """
    require_tools("--debuginfo-package", "apt-get", "dpkg-deb")
    workdir.mkdir()
    try:
        apt, size_bytes = _locate(package, suite, workdir, progress)
        require_space((size_bytes >> 20) + _VMLINUX_MIB)
        with progress.step(f"downloading {package.name} {package.version} ({size_bytes >> 20} MiB)"):
            output = apt.run("download", str(package), progress=progress, full_bytes=size_bytes)
        debs = list(workdir.glob("*.deb"))
        if not debs:
            raise HostError(f"apt cannot download {package}: {output}")
        with progress.step(f"unpacking vmlinux from {package.name}"):
            _unpack_vmlinux(debs[0], to, progress)
    finally:
        shutil.rmtree(workdir, ignore_errors=True)
    return str(package)


def _locate(package: Package, suite: str, workdir: Path, progress: Progress) -> tuple[Apt, int]:
    """Return an apt that knows the package, and the package's size; the host's own lists come first."""
    looked = ["the host's apt lists"]
    apt = Apt(workdir)
    output = apt.run("download", "--print-uris", str(package), progress=progress)
    if size_bytes := announced_bytes(output):
        return apt, size_bytes
    for row in _suites(package, suite):
        assert row.build is not None
        with progress.step(f"apt: reading the index of {row.build.suite}"):
            apt = private_apt(workdir, row, package.architecture)
            trouble = apt.run("update", progress=progress)
        output = apt.run("download", "--print-uris", str(package), progress=progress)
        if size_bytes := announced_bytes(output):
            return apt, size_bytes
        looked.append(row.build.suite + (f" ({trouble.split('; ')[0][:200]})" if trouble.startswith("E: ") else ""))
    raise HostError(
        f"{package.name} {package.version} is not in {', '.join(looked)}"
        " (Debian keeps superseded packages in its snapshot archive: give that one's vmlinux with --debuginfo PATH)"
    )


def _suites(package: Package, suite: str) -> Iterator[Image]:
    """Return the Debian releases of the catalogue: SUITE, the one that the version names (6.12.117+deb13), others."""
    rows = [
        (image.build.suite != suite, image)
        for image in load_catalog()
        if image.family == "debian" and image.build is not None
    ]
    named = re.search(r"[+~](?:deb|bpo)(\d+)", package.name)
    return (row for _, row in sorted(rows, key=lambda row: (row[0], named is None or row[1].release != named[1])))


def _unpack_vmlinux(deb: Path, to: Path, progress: Progress) -> None:
    """Write the one vmlinux of the package; nothing else of it touches the disk."""
    with subprocess.Popen(
        ["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as unpacker:
        try:
            with tarfile.open(fileobj=unpacker.stdout, mode="r|", bufsize=_CHUNK_BYTES) as archive:
                for member in archive:
                    progress.tick()
                    name = PurePosixPath(member.name).name
                    if not member.isreg() or not (name == "vmlinux" or name.startswith("vmlinux-")):
                        continue
                    _copy(archive, member, to, progress)
                    return
        except tarfile.TarError as error:
            raise HostError(f"{deb.name} cannot be unpacked: {error}") from None
        finally:
            unpacker.kill()
    raise HostError(f"{deb.name} has no vmlinux")


def _copy(archive: tarfile.TarFile, member: tarfile.TarInfo, to: Path, progress: Progress) -> None:
    if member.size > _MAX_VMLINUX_BYTES:
        raise HostError(f"{member.name} has {member.size:,} bytes, which is not a vmlinux")
    free_bytes = shutil.disk_usage(to.parent).free
    if member.size > free_bytes:
        raise HostError(f"{to.parent} needs {member.size >> 20} MiB for {member.name}, {free_bytes >> 20} MiB are free")
    source = archive.extractfile(member)
    assert source is not None
    with to.open("wb") as file:
        while chunk := source.read(_CHUNK_BYTES):
            file.write(chunk)
            progress.detail(f"{file.tell() >> 20} of {member.size >> 20} MiB")
