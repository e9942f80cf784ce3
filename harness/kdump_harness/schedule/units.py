"""The systemd units of a schedule: rendering, verification, installation and removal."""

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
# Environment variables that affect drills, and that a service does not inherit from a shell.
_PASSED_ON = ("LIBVIRT_DEFAULT_URI", "http_proxy", "https_proxy", "no_proxy")
_HAS_PASSWORD = re.compile(r"//[^/@\s]{0,200}:[^/@\s]{0,200}@")
_SYSTEM = Path("/etc/systemd/system")

# Mark of the harness's units; units without it are never overwritten or removed.
_MARK = "Description=kdump drill "

_SERVICE = """\
[Unit]
Description=kdump drill ({name})
Wants=network-online.target
After=network-online.target libvirtd.service virtqemud.service

[Service]
Type=oneshot
{directory}ExecStart={command}
{environment}Nice=10
# Only the run gets the signal: it stops its drill, which removes its guest.
KillMode=mixed
TimeoutStartSec={limit}
TimeoutStopSec=120
{sandbox}"""

# Restrictions of every schedule; guests run in libvirt's services, not in this one.
_SANDBOX = """\
NoNewPrivileges=yes
RestrictRealtime=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service @mount
SystemCallErrorNumber=EPERM
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
"""
# The manager of a user cannot enforce these. The capabilities, namespaces and mounts are those of a build of an image
# from packages, and of the export of a guest's disk; /proc stays visible, since the memory of other guests counts.
_SYSTEM_SANDBOX = """\
ProtectSystem=full
ProtectHome={home}
PrivateTmp={tmp}
PrivateMounts=yes
ProtectClock=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectControlGroups=yes
RestrictNamespaces=mnt uts ipc pid
DevicePolicy=closed
DeviceAllow=/dev/fuse rw
# mmdebstrap makes them in the disk that it builds.
DeviceAllow=/dev/console m
DeviceAllow=/dev/ptmx m
DeviceAllow=/dev/tty m
CapabilityBoundingSet=CAP_CHOWN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_FOWNER CAP_FSETID CAP_KILL
CapabilityBoundingSet=CAP_SETUID CAP_SETGID CAP_SETFCAP CAP_SYS_ADMIN CAP_SYS_CHROOT CAP_MKNOD
"""

_TIMER = """\
[Unit]
Description=kdump drill timer ({name})

[Timer]
OnCalendar={at}
RandomizedDelaySec={delay}
# Catch up on a missed run after downtime.
Persistent=true

[Install]
WantedBy=timers.target
"""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A timer and its service."""

    name: str
    user: bool  # true: the systemd of the user instead of the system's

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise UsageError(f"invalid name of a unit: got {self.name!r}, expected letters, digits, '.', '_' and '-'")

    @property
    def directory(self) -> Path:
        """Directory of the units."""
        if not self.user:
            return _SYSTEM
        return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "systemd" / "user"

    @property
    def files(self) -> tuple[Path, Path]:
        """Paths of the service and the timer."""
        return self.directory / f"{self.name}.service", self.directory / f"{self.name}.timer"

    def render(
        self, command: Sequence[str], *, at: str, delay: str, limit: str, directory: Path | None = None
    ) -> dict[str, str]:
        """Return the texts of the units by file name. Raises UsageError for an invalid time.

        Relative paths in COMMAND are those of DIRECTORY.
        """
        for what, text in (("--delay", delay), ("--limit", limit)):
            if not _SPAN.fullmatch(text):
                raise UsageError(f"invalid {what}: got {text!r}, expected a time span as in 90min")
        if not at.isprintable() or not at.strip():  # systemd ends a line at a carriage return and at NUL, too
            raise UsageError(f"invalid --at: got {at!r}, expected a calendar time (systemd.time(7))")
        for name in _PASSED_ON:
            if _HAS_PASSWORD.search(os.environ.get(name, "")):
                raise UsageError(
                    f"{name} has a password, which every user could read in the unit: unset it for this command, and"
                    f" give the service an EnvironmentFile= (systemctl edit {self.name}.service)"
                )
        values = {
            "name": self.name,
            # A directory that is gone must not stop the jobs without relative paths.
            "directory": f"WorkingDirectory=-{str(directory).replace('%', '%%')}\n" if directory else "",
            "command": " ".join(quote(word) for word in command),
            "environment": "".join(
                f"Environment={quote(f'{name}={os.environ[name]}', command=False)}\n"
                for name in _PASSED_ON
                if name in os.environ
            ),
            "limit": limit,
            "sandbox": _SANDBOX + ("" if self.user else self._system_sandbox(command, directory)),
            "at": at,
            "delay": delay,
        }
        return {f"{self.name}.service": _SERVICE.format(**values), f"{self.name}.timer": _TIMER.format(**values)}

    def _system_sandbox(self, command: Sequence[str], directory: Path | None) -> str:
        """Return the restrictions that only the system's manager can enforce.

        Directories that the command names stay writable, and visible to QEMU.
        """
        words = " ".join([*command, str(directory or "")])
        tmp = "no" if re.search(r"(?<![\w/.-])(?:/var)?/tmp\b", words) else "yes"
        home = "no" if re.search(r"(?<![\w/.-])/(?:home|root|run/user)\b", words) else "read-only"
        return _SYSTEM_SANDBOX.format(tmp=tmp, home=home)

    def systemctl(self, *arguments: str, check: bool = True) -> str:
        """Return the output of systemctl. Raises HostError unless it succeeds."""
        command = ["systemctl", *(["--user"] if self.user else []), *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            raise HostError(
                "systemctl not found: this host has no systemd (run 'kdump-harness schedule run' from cron)"
            ) from None
        if check and done.returncode != 0:
            said = done.stderr.strip().splitlines()[-1:] or [f"status {done.returncode}"]
            raise HostError(f"{' '.join(command)}: {said[0]}")
        return done.stdout

    def install(self, units: Mapping[str, str]) -> None:
        """Verify, write and start the units; on failure, restore an older schedule of the name."""
        verify(units, user=self.user)
        self._require_mark()
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
            raise HostError(f"cannot write {self.directory}: {error.strerror}") from None

    def _require_mark(self) -> None:
        """Raise UsageError if a unit of this name exists that is not a schedule of the harness."""
        for path in self.files:
            if path.exists() and _MARK not in path.read_text(encoding="utf-8", errors="replace"):
                raise UsageError(f"{path} is not a schedule of kdump-harness (choose another --name)")

    def remove(self) -> bool:
        """Stop and remove the units; return whether there were any."""
        found = [path for path in self.files if path.exists()]
        self._require_mark()
        if found:
            self.systemctl("disable", "--now", f"{self.name}.timer", check=False)
            for path in found:
                path.unlink()
            self.systemctl("daemon-reload", check=False)
        return bool(found)


def quote(word: str, *, command: bool = True) -> str:
    """Return a word quoted for systemd, with literal specifiers and, in a command, variables."""
    text = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("\n", "\\n")
    if command:
        text = text.replace("$", "$$")
    return f'"{text}"' if text != word or not re.fullmatch(r"[\w@%+=:,./-]+", word) else word


def verify(units: Mapping[str, str], *, user: bool) -> None:
    """Raise UsageError with systemd's message if a unit is invalid; do nothing on a host without systemd."""
    if shutil.which("systemd-analyze") is None:
        return
    _verify_times(units)
    with tempfile.TemporaryDirectory() as scratch:
        for name, text in units.items():
            (Path(scratch) / name).write_text(text, encoding="utf-8")
        command = ["systemd-analyze", *(["--user"] if user else []), "verify", "--recursive-errors=no"]
        done = subprocess.run(
            [*command, *(str(Path(scratch) / name) for name in units)], capture_output=True, text=True, check=False
        )
        # Warnings about other units of this host are ignored.
        wrong = [line.replace(f"{scratch}/", "") for line in done.stderr.splitlines() if scratch in line]
    if wrong:
        raise UsageError(f"systemd rejects the schedule: {wrong[0]}")


def _verify_times(units: Mapping[str, str]) -> None:
    """Check the calendar times alone, since systemd-analyze verify checks nothing of a user without a session."""
    for name, text in units.items():
        for number, line in enumerate(text.splitlines(), start=1):
            key, _, value = line.partition("=")
            if key == "OnCalendar":
                done = subprocess.run(
                    ["systemd-analyze", "calendar", "--", value], capture_output=True, text=True, check=False
                )
                if done.returncode != 0:
                    said = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[0]
                    raise UsageError(f"systemd rejects the schedule: {name}:{number}: {said}")
