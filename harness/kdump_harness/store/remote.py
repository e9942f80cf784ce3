"""Run shell commands on this machine or, by the system's own ssh, on another one."""

from __future__ import annotations

import shlex
import subprocess
from dataclasses import dataclass
from typing import IO

from ..base.errors import HostError, UsageError

# No questions: the keys are the user's affair. A connection that has died is noticed within a minute.
_SSH = (
    "ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=20",
    "-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=4",
)  # fmt: skip


@dataclass(frozen=True)
class SourceMachine:
    """The machine on which commands run; host is None for this one, else a name for ssh."""

    host: str | None

    def __post_init__(self) -> None:
        if self.host is not None and (not self.host or self.host.startswith("-")):
            raise UsageError(f"{self.host!r} is not a host that ssh could reach")

    def run(
        self,
        command: str,
        *arguments: object,
        stdin: IO[bytes] | int | None = None,
        timeout_s: float | None = None,
        check: bool = True,
    ) -> str:
        """Return a command's output, its %s filled by quoted arguments. Raise HostError unless it succeeds."""
        line = command % tuple(shlex.quote(str(argument)) for argument in arguments) if arguments else command
        argv = ["sh", "-c", line] if self.host is None else [*_SSH, "--", self.host, f"sh -c {shlex.quote(line)}"]
        where = "here" if self.host is None else f"on {self.host}"
        try:
            done = subprocess.run(
                argv,
                stdin=subprocess.DEVNULL if stdin is None else stdin,
                capture_output=True,
                timeout=timeout_s,
                check=False,
            )
        except FileNotFoundError:
            raise HostError(f"{argv[0]} is not installed") from None
        except subprocess.TimeoutExpired:
            raise HostError(f"a command {where} was not done after {timeout_s:.0f} s") from None
        if check and done.returncode != 0:
            lines = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
            raise HostError(f"a command {where} failed: {lines[0] if lines else f'status {done.returncode}'}")
        return done.stdout.decode("utf-8", "replace")
