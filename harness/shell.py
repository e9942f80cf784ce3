"""Runs quoted commands and copies files over SSH, returning Result."""

from __future__ import annotations

import base64
import contextlib
import io
import logging
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import paramiko

from .errors import CommandFailed, GuestError
from .seed import KeyPair
from .timing import Deadline, now_s

# Errors that only mean "not there yet" while a guest boots, or "gone" when it crashes.
GONE = (paramiko.SSHException, OSError, EOFError)
CHUNK = 1 << 20

# It would print a traceback for each attempt to reach a guest that is still booting; ours say what matters.
logging.getLogger("paramiko").addHandler(logging.NullHandler())


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a command did."""

    command: str
    status: int
    out: str
    err: str
    took_s: float

    @property
    def ok(self) -> bool:
        """Whether the status was zero."""
        return self.status == 0


class Shell:
    """An SSH connection to a guest; commands run as root, and arguments are quoted here, not by the caller."""

    def __init__(
        self,
        address: str,
        *,
        user: str,
        login: KeyPair,
        host_key: str | None,
        port: int = 22,
        connect_timeout_s: float = 10.0,
    ) -> None:
        """host_key is the guest's public key line; None accepts any (a disk that we did not seed)."""
        self.address = address
        self._user = user
        self._on_result: list[Callable[[Result], None]] = []
        self._client = paramiko.SSHClient()
        if host_key is None:
            self._client.set_missing_host_key_policy(_AcceptAny())
        else:
            kind, blob = host_key.split()[:2]
            key = paramiko.PKey.from_type_string(kind, base64.b64decode(blob))
            name = address if port == 22 else f"[{address}]:{port}"
            self._client.get_host_keys().add(name, kind, key)
        self._client.connect(
            address,
            port=port,
            username=user,
            pkey=paramiko.Ed25519Key.from_private_key(io.StringIO(login.private)),
            timeout=connect_timeout_s,
            banner_timeout=connect_timeout_s * 6,  # sshd answers late while an emulated guest still boots
            auth_timeout=connect_timeout_s * 6,
            allow_agent=False,
            look_for_keys=False,
        )

    def subscribe(self, listener: Callable[[Result], None]) -> None:
        """Tell listener of every finished command."""
        self._on_result.append(listener)

    def run(self, command: str, *arguments: object, timeout_s: float = 60.0, check: bool = True) -> Result:
        """Run command with %s replaced by quoted arguments; CommandFailed unless it succeeds or check is off."""
        line = command % tuple(shlex.quote(str(argument)) for argument in arguments) if arguments else command
        started_s = now_s()
        deadline = Deadline(timeout_s)
        with self._connected(f"run {line!r}"):
            channel = self._transport().open_session(timeout=timeout_s)
            try:
                channel.exec_command(self._as_root(line))
                out, err = _collect(channel, deadline, line)
                status = channel.recv_exit_status()
            finally:
                channel.close()
        result = Result(command=line, status=status, out=out, err=err, took_s=now_s() - started_s)
        for listener in self._on_result:
            listener(result)
        if check and not result.ok:
            said = (result.err or result.out).strip().splitlines()
            raise CommandFailed(
                f"{self.address}: {line!r} ended with status {status}: {said[-1] if said else 'no output'}"
            )
        return result

    def succeeds(self, command: str, *arguments: object, timeout_s: float = 60.0) -> bool:
        """Whether command ends with status zero."""
        return self.run(command, *arguments, timeout_s=timeout_s, check=False).ok

    def start(self, command: str) -> None:
        """Start a command and do not wait: for those that take the guest down."""
        with self._connected(f"start {command!r}"):
            self._transport().open_session(timeout=30).exec_command(self._as_root(command))

    def read_text(self, path: str) -> str:
        """The text of a file in the guest."""
        return self.run("cat -- %s", path).out

    def write_text(self, path: str, text: str, *, mode: int = 0o644) -> None:
        """Replace a file in the guest."""
        self.run("umask 077; printf %%s %s > %s && chmod %s %s", text, path, f"{mode:o}", path)

    def fetch(
        self, path: str, to: Path, *, progress: Callable[[int], None] | None = None, silence_s: float = 120.0
    ) -> int:
        """Copy a file out of the guest and return its size in bytes; to must not exist.

        Through cat, not SFTP: minimal systems have no sftp-server, and root's files are read through sudo.
        """
        return self.save(f"cat -- {shlex.quote(path)}", to, progress=progress, silence_s=silence_s)

    def save(
        self, command: str, to: Path, *, progress: Callable[[int], None] | None = None, silence_s: float = 120.0
    ) -> int:
        """Write what a command prints, bytes of any kind, to a new file and return its size in bytes."""
        copied = 0
        with self._connected(f"run {command!r}"), to.open("xb") as out:
            channel = self._transport().open_session(timeout=silence_s)
            try:
                channel.settimeout(silence_s)
                channel.exec_command(self._as_root(command))
                while chunk := channel.recv(CHUNK):
                    out.write(chunk)
                    copied += len(chunk)
                    if progress is not None:
                        progress(copied)
                status = channel.recv_exit_status()
            except TimeoutError:
                raise GuestError(
                    f"{self.address}: the output of {command!r} stopped coming after {copied:,} bytes"
                ) from None
            finally:
                channel.close()
        if status != 0:
            raise CommandFailed(f"{self.address}: {command!r} ended with status {status} after {copied:,} bytes")
        return copied

    def close(self) -> None:
        """Hang up."""
        self._client.close()

    def _as_root(self, line: str) -> str:
        """The line as it must be sent: an ordinary login needs sudo."""
        return line if self._user == "root" else f"sudo -n sh -c {shlex.quote(line)}"

    def _transport(self) -> paramiko.Transport:
        transport = self._client.get_transport()
        if transport is None or not transport.is_active():
            raise GuestError(f"{self.address}: the SSH connection is gone")
        return transport

    @contextlib.contextmanager
    def _connected(self, what: str) -> Iterator[None]:
        """Say what we were about when the connection broke."""
        try:
            yield
        except (paramiko.SSHException, OSError, EOFError) as error:
            if isinstance(error, FileNotFoundError | FileExistsError | PermissionError):
                raise
            raise GuestError(f"{self.address}: the SSH connection broke on the way to {what} ({error})") from error


class _AcceptAny(paramiko.MissingHostKeyPolicy):  # type: ignore[misc]  # paramiko has no types
    """For guests whose host key nobody told us."""

    def missing_host_key(self, client: object, hostname: str, key: object) -> None:
        return


def _collect(channel: paramiko.Channel, deadline: Deadline, line: str) -> tuple[str, str]:
    """Both outputs until the command has ended; CommandFailed when it does not within the deadline."""
    out, err = bytearray(), bytearray()
    channel.settimeout(0.2)
    while True:
        got = False
        for ready, receive, into in (
            (channel.recv_ready, channel.recv, out),
            (channel.recv_stderr_ready, channel.recv_stderr, err),
        ):
            while ready():
                into += receive(CHUNK)
                got = True
        if channel.exit_status_ready() and not channel.recv_ready() and not channel.recv_stderr_ready():
            return out.decode(errors="replace"), err.decode(errors="replace")
        if deadline.passed:
            raise CommandFailed(f"{line!r} was not done after {deadline.timeout_s:.0f} s")
        if not got:
            with contextlib.suppress(TimeoutError):
                chunk = channel.recv(CHUNK)  # blocks until there is output, an end, or 0.2 s are over
                out += chunk
                if not chunk and not channel.recv_stderr_ready():
                    channel.status_event.wait(min(0.2, deadline.left_s))
