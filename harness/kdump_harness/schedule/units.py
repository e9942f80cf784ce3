"""The systemd units of a schedule: written, checked, installed, removed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..base.errors import HostError, UsageError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,100}")
_SPAN = re.compile(r"\d+(?:s|sec|m|min|h|hr|d)?(?: \d+(?:s|sec|m|min|h|hr|d)?)*")
# What a shell may have set up for drills, and a service would not see.
_PASSED_ON = ("LIBVIRT_DEFAULT_URI", "http_proxy", "https_proxy", "no_proxy")
_SYSTEM = Path("/etc/systemd/system")

# The units of others, which are never written over or removed, do not have it.
_OURS = "Description=kdump drill "

_SERVICE = """\
[Unit]
Description=kdump drill ({name})
Wants=network-online.target
After=network-online.target libvirtd.service virtqemud.service

[Service]
Type=oneshot
ExecStart={command}
{environment}Nice=10
# A stopped run tells its drill, which removes its guest.
KillMode=mixed
TimeoutStartSec={limit}
TimeoutStopSec=120
"""

_TIMER = """\
[Unit]
Description=kdump drill by the clock ({name})

[Timer]
OnCalendar={at}
RandomizedDelaySec={delay}
# After downtime it catches up.
Persistent=true

[Install]
WantedBy=timers.target
"""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A timer and its service."""

    name: str
    user: bool  # of the user's own systemd, instead of the system's

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise UsageError(f"{self.name!r} is no name for a unit (letters, digits, '.', '_' and '-')")

    @property
    def directory(self) -> Path:
        """Where the units go."""
        if not self.user:
            return _SYSTEM
        return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "systemd" / "user"

    @property
    def files(self) -> tuple[Path, Path]:
        """The service and the timer."""
        return self.directory / f"{self.name}.service", self.directory / f"{self.name}.timer"

    def render(self, command: Sequence[str], *, at: str, delay: str, limit: str) -> dict[str, str]:
        """The units' texts by file name; UsageError for what systemd would not understand."""
        for what, text in (("--delay", delay), ("--limit", limit)):
            if not _SPAN.fullmatch(text):
                raise UsageError(f"{what} {text!r} is no time span (as in 90min)")
        if "\n" in at or not at.strip():
            raise UsageError(f"--at {at!r} is no calendar time (systemd.time(7))")
        values = {
            "name": self.name,
            "command": " ".join(quote(word) for word in command),
            "environment": "".join(
                f"Environment={quote(f'{name}={os.environ[name]}', command=False)}\n"
                for name in _PASSED_ON
                if name in os.environ
            ),
            "limit": limit,
            "at": at,
            "delay": delay,
        }
        return {f"{self.name}.service": _SERVICE.format(**values), f"{self.name}.timer": _TIMER.format(**values)}

    def systemctl(self, *arguments: str, check: bool = True) -> str:
        """What systemctl printed; HostError unless it succeeds."""
        command = ["systemctl", *(["--user"] if self.user else []), *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            raise HostError("there is no systemd here: put kdump-harness schedule run into cron") from None
        if check and done.returncode != 0:
            said = done.stderr.strip().splitlines()[-1:] or [f"status {done.returncode}"]
            raise HostError(f"{' '.join(command)}: {said[0]}")
        return done.stdout

    def install(self, units: Mapping[str, str]) -> None:
        """Check, write and start; nothing is left when that fails, and an older schedule of the name stays."""
        verify(units, user=self.user)
        self._require_ours()
        before = {path: path.read_text(encoding="utf-8") for path in self.files if path.exists()}
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            for name, text in units.items():
                (self.directory / name).write_text(text, encoding="utf-8")
            self.systemctl("daemon-reload")
            self.systemctl("enable", "--now", f"{self.name}.timer")
        except (OSError, HostError) as error:
            for path in self.files:
                if path in before:
                    path.write_text(before[path], encoding="utf-8")
                else:
                    path.unlink(missing_ok=True)
            self.systemctl("daemon-reload", check=False)
            if isinstance(error, HostError):
                raise
            raise HostError(f"{self.directory} cannot be written: {error.strerror}") from None

    def _require_ours(self) -> None:
        """UsageError for a name that somebody else's unit has."""
        for path in self.files:
            if path.exists() and _OURS not in path.read_text(encoding="utf-8", errors="replace"):
                raise UsageError(f"{path} is no schedule of kdump-harness (--name NAME)")

    def remove(self) -> bool:
        """Stop and remove; whether there was anything."""
        there = [path for path in self.files if path.exists()]
        self._require_ours()
        if there:
            self.systemctl("disable", "--now", f"{self.name}.timer", check=False)
            for path in there:
                path.unlink()
            self.systemctl("daemon-reload", check=False)
        return bool(there)


def quote(word: str, *, command: bool = True) -> str:
    """A word as systemd reads it back: specifiers and, in a command, variables are taken literally."""
    text = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("\n", "\\n")
    if command:
        text = text.replace("$", "$$")
    return f'"{text}"' if text != word or not re.fullmatch(r"[\w@%+=:,./-]+", word) else word


def verify(units: Mapping[str, str], *, user: bool) -> None:
    """UsageError with systemd's own words for what is wrong; nothing where systemd is not there."""
    if shutil.which("systemd-analyze") is None:
        return
    with tempfile.TemporaryDirectory() as scratch:
        for name, text in units.items():
            (Path(scratch) / name).write_text(text, encoding="utf-8")
        command = ["systemd-analyze", *(["--user"] if user else []), "verify", "--recursive-errors=no"]
        done = subprocess.run(
            [*command, *(str(Path(scratch) / name) for name in units)], capture_output=True, text=True, check=False
        )
        # A warning about another unit of this host is none of ours.
        wrong = [line.replace(f"{scratch}/", "") for line in done.stderr.splitlines() if scratch in line]
    if wrong:
        raise UsageError(f"systemd does not understand it: {wrong[0]}")
