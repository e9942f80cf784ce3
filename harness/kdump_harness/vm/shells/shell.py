"""Commands and file copies in a guest, with quoted arguments."""

from __future__ import annotations

import shlex
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from ...base.clock import now_s
from ...base.errors import CommandFailed, UsageError
from ...redaction.texts import COMMAND_LINES, redact_text

TIMEOUT_S = 60.0  # for a command


@dataclass(frozen=True, kw_only=True)
class CommandResult:
    """The result of a command."""

    command: str
    status: int
    out: str
    err: str
    took_s: float

    @property
    def ok(self) -> bool:
        """Whether the exit status is zero."""
        return self.status == 0


@dataclass(frozen=True, kw_only=True)
class Access:
    """The credentials for a guest."""

    private_key: str | None = field(default=None, repr=False)  # in OpenSSH's format
    key_file: Path | None = None
    password: str | None = field(default=None, repr=False)  # for the login and for sudo

    def check(self) -> None:
        """Raise UsageError if the key file is not a private key or cannot be read."""
        if self.key_file is None:
            return
        import paramiko  # a kernel drill has no SSH, and its import takes longer than the rest of the harness

        try:
            paramiko.PKey.from_path(self.key_file)
        except (paramiko.PasswordRequiredException, TypeError):  # cryptography raises the latter
            raise UsageError(f"{self.key_file} has a passphrase: expected a key without one") from None
        except OSError as error:
            raise UsageError(f"cannot read {self.key_file}: {error.strerror}") from None
        except (paramiko.SSHException, ValueError):
            raise UsageError(f"{self.key_file} is not a private key for SSH") from None


class Shell(ABC):
    """A way to run commands as root in a guest; their arguments are quoted here."""

    def __init__(self, address: str, load: Callable[[], float]) -> None:
        """LOAD returns the factor for default timeouts."""
        self.address, self._load = address, load
        self._on_result: list[Callable[[CommandResult], None]] = []

    def subscribe(self, listener: Callable[[CommandResult], None]) -> None:
        """Pass every finished command to LISTENER, without the secrets in its texts."""
        self._on_result.append(listener)

    def run(
        self,
        command: str,
        *arguments: object,
        timeout_s: float | None = None,
        check: bool = True,
        on_line: Callable[[str], None] | None = None,
    ) -> CommandResult:
        """Run COMMAND with %s replaced by quoted arguments; CommandFailed if it fails and CHECK is set.

        ON_LINE gets the last line of the output whenever there is more of it.
        """
        line = command % tuple(shlex.quote(str(argument)) for argument in arguments) if arguments else command
        started_s = now_s()
        timeout_s = TIMEOUT_S * self._load() if timeout_s is None else timeout_s
        status, out, err = self._call(line, timeout_s, on_line)
        result = CommandResult(command=line, status=status, out=out, err=err, took_s=now_s() - started_s)
        if self._on_result:
            shown = replace(result, command=_shown(line), out=_shown(out), err=_shown(err))
            for listener in self._on_result:
                listener(shown)
        if check and not result.ok:
            said = (result.err or result.out).strip().splitlines()
            raise CommandFailed(
                f"{self.address}: {_shown(line)!r} ended with status {status}: {said[-1] if said else 'no output'}"
            )
        return result

    def succeeds(self, command: str, *arguments: object, timeout_s: float | None = None) -> bool:
        """Run a command and return whether its exit status is zero."""
        return self.run(command, *arguments, timeout_s=timeout_s, check=False).ok

    @abstractmethod
    def _call(self, line: str, timeout_s: float, on_line: Callable[[str], None] | None) -> tuple[int, str, str]:
        """Return status, output and errors of a command line; CommandFailed when it does not end in time."""

    @abstractmethod
    def start(self, command: str) -> None:
        """Start a command without waiting, for commands that shut the guest down."""

    @abstractmethod
    def put(self, local: Path, path: str, *, silence_s: float | None = None) -> None:
        """Copy a file into the guest, readable by root only."""

    @abstractmethod
    def save(
        self, command: str, to: Path, *, progress: Callable[[int], None] | None = None, silence_s: float | None = None
    ) -> int:
        """Write the output of a command to a new file and return its size in bytes."""

    @abstractmethod
    def close(self) -> None:
        """Close the connection."""

    def read_text(self, path: str) -> str:
        """Return the text of a file in the guest."""
        return self.run("cat -- %s", path).out

    def write_text(self, path: str, text: str, *, mode: int = 0o644) -> None:
        """Replace a file in the guest."""
        self.run("umask 077; printf %%s %s > %s && chmod %s %s", text, path, f"{mode:o}", path)

    def write_secret(self, path: str, text: str) -> None:
        """Replace a file that root alone may read; no command line, log or record of commands has the text."""
        with tempfile.NamedTemporaryFile("w", encoding="utf-8") as local:
            local.write(text)
            local.flush()
            self.put(Path(local.name), path)
        self.run("chmod 600 %s", path)

    def fetch(
        self, path: str, to: Path, *, progress: Callable[[int], None] | None = None, silence_s: float | None = None
    ) -> int:
        """Copy a file out of the guest and return its size in bytes; TO must not exist.

        By cat rather than SFTP: minimal systems lack sftp-server, and root's files are read through sudo.
        """
        return self.save(f"cat -- {shlex.quote(path)}", to, progress=progress, silence_s=silence_s)


def _shown(text: str) -> str:
    """Return a text as evidence may have it."""
    return redact_text(text, keep=COMMAND_LINES)[0]
