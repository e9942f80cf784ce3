"""The facts about a capture initramfs: of a running guest, by a script there, or of a disk that is off."""

from __future__ import annotations

import contextlib
import functools
import shlex
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from ...base import tables
from ...base.errors import CommandFailed
from ...distro.family import Family, fill
from ...vm.shells.shell import Shell
from .archive import list_archive
from .judge import ROOT, ImageFacts, modules_of, stacks_of

PROBE_TIMEOUT_S = 20.0  # unscaled


class ImageReader:
    """The capture initramfs of one guest, whose listing is kept while the file does not change."""

    def __init__(self) -> None:
        self._known: tuple[str, frozenset[str]] | None = None

    def files(self, shell: Shell, family: Family, kernel: str) -> tuple[str, frozenset[str]]:
        """Return path and files of the initramfs that the guest's kdump loads; empty without one.

        CannotList if the file cannot be read.
        """
        places = " ".join(shlex.quote(fill(place, kernel=kernel)) for place in family.capture_initramfs)
        found = shell.run(f"for f in {places}; do stat -L -c '%n %s %Y %i' \"$f\" 2>/dev/null && break; done; true").out
        if not found.strip():
            return "", frozenset()
        if self._known is None or self._known[0] != found:
            with tempfile.TemporaryDirectory(prefix="kdump-harness-") as directory:
                copy = Path(directory) / "initramfs"
                shell.fetch(found.split()[0], copy)
                self._known = (found, list_archive(copy))
        return found.split()[0], self._known[1]


def gather(
    shell: Shell,
    family: Family,
    reader: ImageReader,
    *,
    kernel: str,
    directory: str,
    address: str = "",
    protocol: str = "",
    arguments: str = "",
    fixed_kib: int | None = None,
    least_mib: int = 0,
    factor: float = 1.0,
) -> ImageFacts | None:
    """Return the facts; None where the guest has no capture initramfs at the family's places.

    DIRECTORY is where dumps go, ADDRESS is that of the dump server, and PROTOCOL is ssh or nfs.
    """
    image, files = reader.files(shell, family, kernel)
    if not files:
        return None
    out = ""
    with contextlib.suppress(CommandFailed):
        probe = probe_command(image, directory, address, protocol)
        out = shell.run(probe, timeout_s=PROBE_TIMEOUT_S * factor, check=False).out
    stacks, loadable = stacks_of(out)
    return ImageFacts(
        family=family.name,
        kernel=kernel,
        opens=family.initramfs_opens,
        files=files,
        loadable=loadable,
        stacks=stacks,
        arguments=arguments,
        fixed_kib=fixed_kib,
        least_mib=least_mib,
    )


def probe_command(image: str, directory: str, address: str = "", protocol: str = "") -> str:
    """Return the command that describes what is below root and dump target, for stacks_of().

    ADDRESS is the name or the address of the dump server, and PROTOCOL is ssh or nfs; or a disk, and device.
    """
    words = " ".join(shlex.quote(word) for word in (image, directory, *([address, protocol] if address else [])))
    return f"sh -c {shlex.quote(_probe())} probe {words}"


class DiskFiles(Protocol):
    """The files of a disk that is off."""

    def stat(self, patterns: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Return the path of each file that the patterns match, with its facts."""

    def read(self, path: PurePosixPath) -> str | None:
        """Return a small text file's content; None where it does not exist."""

    def fetch(self, path: str, to: Path) -> int:
        """Copy a file to a new one of this host and return its size in bytes."""


def gather_off(files: DiskFiles, family: Family, drivers: tuple[str, ...]) -> ImageFacts | None:
    """Return the facts of a disk that will be on hardware with these drivers; None without a capture initramfs.

    The last initramfs by name counts. CannotList if it cannot be read.
    """
    found = None
    for place in reversed(family.capture_initramfs):
        for path, _ in sorted(files.stat([fill(place, kernel="*")])):
            before, after = place.partition("{kernel}")[::2]
            found = (path, path.removeprefix(before).removesuffix(after))
    if found is None:
        return None
    path, kernel = found
    with tempfile.TemporaryDirectory(prefix="kdump-harness-") as directory:
        copy = Path(directory) / "initramfs"
        files.fetch(path, copy)
        names = list_archive(copy)
    table = files.read(PurePosixPath(f"/usr/lib/modules/{kernel}/modules.dep")) or ""
    fields = [line.split() for line in (files.read(PurePosixPath("/etc/fstab")) or "").splitlines()]
    root = [f"fs {words[2]}" for words in fields if len(words) > 2 and words[1] == "/"]
    return ImageFacts(
        family=family.name,
        kernel=kernel,
        opens=family.initramfs_opens,
        files=names,
        loadable=modules_of(table),
        stacks={ROOT: (*root, *(f"driver {name}" for name in drivers))},
    )


@functools.cache
def _probe() -> str:
    return tables.read_text(tables.package_path("kdump", "capture_image", "probe.sh"))
