"""qemu-img on this host, and the files below a disk."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from ...base.errors import CommandFailed, HostError, UsageError


def run_qemu_img(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run qemu-img; HostError where it is not installed."""
    try:
        return subprocess.run(["qemu-img", *map(str, arguments)], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise HostError("qemu-img is not installed (kdump-harness doctor tells which package has it)") from None


def qemu_img(*arguments: str | Path) -> str:
    """Run qemu-img and return its output; CommandFailed with its message where it fails."""
    made = run_qemu_img(*arguments)
    if made.returncode != 0:
        raise CommandFailed(f"qemu-img: {made.stderr.strip()}")
    return made.stdout


def backing_chain(disk: Path, disk_format: str) -> list[tuple[Path, str]]:
    """A disk of this host and what it rests on, from the top down, with their formats; a raw disk rests on nothing."""
    if disk_format != "qcow2":
        return [(disk, disk_format)]
    told = json.loads(qemu_img("info", "--force-share", "--output=json", "--backing-chain", str(disk)))
    return [(disk, disk_format), *((Path(one["filename"]), one["format"]) for one in told[1:])]


def is_private(path: Path) -> bool:
    """Whether nobody but its owner can read a file; UsageError where QEMU's user could not be given it."""
    private = not path.stat().st_mode & 0o004
    if private and os.geteuid() != 0:
        raise UsageError(
            f"{path} can be read by its owner alone, and QEMU runs as a user of its own (chmod o+r {path}, or"
            " drill a copy)"
        )
    return private
