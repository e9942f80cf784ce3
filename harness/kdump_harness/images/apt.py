"""A private apt: the packages of one release, read and downloaded without root and without the host's own lists."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..base.errors import HostError
from ..base.progress import Progress
from .catalog import Image
from .mirror import find_mirror

_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


def require_tools(purpose: str, *tools: str) -> None:
    """Raise HostError where this host lacks a tool."""
    for tool in tools:
        if shutil.which(tool) is None:
            raise HostError(f"{purpose} needs {tool}, which this host does not have")


@dataclass(frozen=True)
class Apt:
    """An apt-get with options, and a directory for its downloads."""

    workdir: Path
    options: tuple[str, ...] = ()

    def run(self, *arguments: str, progress: Progress, full_bytes: int = 0) -> str:
        """Return its output, errors last."""
        process = subprocess.Popen(
            ["apt-get", "-q", "-q", *self.options, *arguments],
            cwd=self.workdir,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env={**os.environ, "LC_ALL": "C"},
        )
        while True:
            try:
                out, errors = process.communicate(timeout=1)
            except subprocess.TimeoutExpired:
                have_bytes = sum(path.stat().st_size for path in self.workdir.glob("*.deb*"))
                progress.detail(f"{have_bytes >> 20} of {full_bytes >> 20} MiB" if full_bytes else "")
            except BaseException:
                process.terminate()
                process.wait()
                raise
            else:
                complaints = [line for line in errors.splitlines() if line.startswith("E: ")]
                return out + "; ".join(complaints)


def announced_bytes(output: str) -> int | None:
    """Return the size in what apt-get download --print-uris says: 'address' file size digest."""
    found = re.search(r"^'[^']+' \S+\.deb (\d+)", output, re.MULTILINE)
    return int(found[1]) if found else None


def private_apt(workdir: Path, row: Image, architecture: str, *, more: Sequence[str] = ()) -> Apt:
    """Return an apt that sees one release and MORE suites, with the mirror and the proxy of this host."""
    assert row.build is not None
    build = row.build
    place = workdir / build.suite
    for needed in ("state/lists/partial", "cache/archives/partial"):
        (place / needed).mkdir(parents=True, exist_ok=True)
    lines = find_mirror().sources(
        build.suite, build.updates_suite, *more, security_suite=build.security_suite, components=build.components
    )
    if _KEYRING.exists():
        lines = tuple(line.replace("deb ", f"deb [signed-by={_KEYRING}] ", 1) for line in lines)
    (place / "sources.list").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    (place / "status").touch()
    settings = {
        "Dir::State": place / "state",
        "Dir::State::status": place / "status",
        "Dir::Cache": place / "cache",
        "Dir::Etc::SourceList": place / "sources.list",
        "Dir::Etc::SourceParts": "/dev/null",
        "APT::Architecture": architecture,
        "APT::Architectures": architecture,
        "Acquire::Languages": "none",
        # A mirror may lag behind the date until which its index vouches for itself; signatures are checked anyway.
        "Acquire::Check-Valid-Until": "false",
        # An index that cannot be fetched is an error; apt calls it a warning otherwise.
        "APT::Update::Error-Mode": "any",
    }
    return Apt(workdir, tuple(f"-o{key}={value}" for key, value in settings.items()))
