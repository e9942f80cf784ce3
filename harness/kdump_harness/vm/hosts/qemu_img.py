"""qemu-img on this host, and the backing files of a disk."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from ...base.errors import CommandFailed, HostError


def run_qemu_img(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run qemu-img; HostError where it is not installed."""
    try:
        return subprocess.run(["qemu-img", *map(str, arguments)], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise HostError("qemu-img is not installed (run kdump-harness doctor to see its package)") from None


def qemu_img(*arguments: str | Path) -> str:
    """Run qemu-img and return its output; CommandFailed with its message where it fails."""
    made = run_qemu_img(*arguments)
    if made.returncode != 0:
        raise CommandFailed(f"qemu-img: {made.stderr.strip()}")
    return made.stdout


def backing_chain(disk: Path, disk_format: str) -> list[tuple[Path, str]]:
    """Return a disk and its backing files, from the top down, with their formats; a raw disk has none."""
    if disk_format != "qcow2":
        return [(disk, disk_format)]
    chain = json.loads(qemu_img("info", "--force-share", "--output=json", "--backing-chain", str(disk)))
    return [(disk, disk_format), *((Path(one["filename"]), one["format"]) for one in chain[1:])]


def is_private(path: Path) -> bool:
    """Return whether only its owner can read a file."""
    return not path.stat().st_mode & 0o004
