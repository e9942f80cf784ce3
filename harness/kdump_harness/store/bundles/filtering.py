"""Remove the pages of users from a dump, by filtering it again."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...distro.config_file import COMPRESS_FLAGS
from ...vmcore import inspect

_LEVEL = 31
_DROPPED = ("free", "cache", "cache_private", "user")
_CPU_S = 3600
_ADDRESS_SPACE_BYTES = 8 << 30


def is_filtered(inspection: Mapping[str, Any]) -> bool:
    """Return whether a dump has no pages of users, as its level says and its own page structures confirm."""
    classes = inspection.get("classes") or {}
    return inspection.get("level") == _LEVEL and bool(classes) and not any(
        classes.get(name, {}).get("kept", 0) for name in _DROPPED
    )  # fmt: skip


def filter_again(dump: Path, to: Path, inspection: Mapping[str, Any]) -> str | None:
    """Write the dump at level 31 with this machine's makedumpfile; return the reason for a failure, or None."""
    flags = COMPRESS_FLAGS.get(str(inspection.get("header_compression")), "-c").split()
    command = [
        "prlimit", "--core=0", f"--cpu={_CPU_S}", f"--as={_ADDRESS_SPACE_BYTES}",
        f"--fsize={dump.stat().st_size + (64 << 20)}",
        "makedumpfile", *flags, "-d", str(_LEVEL), str(dump), str(to),
    ]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    except FileNotFoundError as error:
        return f"{error.filename} is not installed"
    if done.returncode != 0:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        return f"makedumpfile: {lines[-1].strip() if lines else f'status {done.returncode}'}"
    found = inspect(to)
    if not found.whole:
        return f"the dump that makedumpfile wrote is {found.judgement} ({found.why})"
    if not is_filtered(found.to_json()):
        return "the dump that makedumpfile wrote still has user pages, or its level is unknown"
    return None
