"""Commands and file copies over SSH."""

from __future__ import annotations

import base64
import contextlib
import io
import logging
import shlex
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import paramiko

from ...base.clock import Deadline
from ...base.errors import CommandFailed, GuestError
from .shell import TIMEOUT_S, Access, Shell

# Errors that mean "not up yet" while a guest boots, or "gone" when it crashes.
GONE = (paramiko.SSHException, OSError, EOFError)
CHUNK = 1 << 20
SILENCE_S = 120.0  # without a byte during a copy

# paramiko would print a traceback for each failed attempt to connect to a booting guest.
logging.getLogger("paramiko").addHandler(logging.NullHandler())


class SshShell(Shell):
    """An SSH connection to a guest."""

    def __init__(
        self,
        address: str,
        *,
        user: str,
        access: Access,
        host_key: str | None,
        port: int = 22,
        connect_timeout_s: float = 10.0,
        connection: socket.socket | None = None,
        load: Callable[[], float] = lambda: 1.0,
    ) -> None:
        """HOST_KEY is the guest's public host key; None accepts any, for a guest without a seed.

        CONNECTION is used for a guest that this host cannot reach by its address. LOAD returns the factor for default
        timeouts.
        """
        super().__init__(address, load)
        self._user, self._password = user, access.password
        self._sudo: str | None = None  # prefix of commands that need sudo, after the first attempt
        self._client = paramiko.SSHClient()
        if host_key is None:
            self._client.set_missing_host_key_policy(_AcceptAny())
        else:
            kind, blob = host_key.split()[:2]
            key = paramiko.PKey.from_type_string(kind, base64.b64decode(blob))
            name = address if port == 22 else f"[{address}]:{port}"
            self._client.get_host_keys().add(name, kind, key)
        try:
            self._client.connect(
                address,
                port=port,
                username=user,
                pkey=paramiko.Ed25519Key.from_private_key(io.StringIO(access.private_key))
                if access.private_key
                else None,
                key_filename=str(access.key_file) if access.key_file else None,
                password=access.password,
                timeout=connect_timeout_s,
                banner_timeout=connect_timeout_s * 6,  # an emulated guest that still boots answers late
                auth_timeout=connect_timeout_s * 6,
                allow_agent=False,
                look_for_keys=False,
                sock=connection,
            )
        except BaseException:  # a failed login would leave the connection open
            self._client.close()
            raise

    def _call(self, line: str, timeout_s: float, on_line: Callable[[str], None] | None) -> tuple[int, str, str]:
        deadline = Deadline(timeout_s)
        with self._connected(f"run {line!r}"):
            channel = self._transport().open_session(timeout=timeout_s)
            try:
                self._execute(channel, line)
                out, err = _collect(channel, deadline, line, on_line)
                return channel.recv_exit_status(), out, err
            finally:
                channel.close()

    def start(self, command: str) -> None:
        """Start a command without waiting, for commands that shut the guest down."""
        with self._connected(f"start {command!r}"):
            self._execute(self._transport().open_session(timeout=TIMEOUT_S * self._load()), command)

    def put(self, local: Path, path: str, *, silence_s: float | None = None) -> None:
        """Copy a file into the guest, readable by root only."""
        silence_s = SILENCE_S * self._load() if silence_s is None else silence_s
        command = f"umask 077; cat > {shlex.quote(path)}"
        with self._connected(f"write {path!r}"), local.open("rb") as source:
            channel = self._transport().open_session(timeout=silence_s)
            try:
                channel.settimeout(silence_s)
                self._execute(channel, command)
                _feed(channel, source)
                status = channel.recv_exit_status()
            except TimeoutError:
                raise GuestError(f"{self.address}: the copy of {local.name} to the guest stopped") from None
            finally:
                channel.close()
        if status != 0:
            raise CommandFailed(f"{self.address}: cannot write {path} (status {status})")

    def save(
        self, command: str, to: Path, *, progress: Callable[[int], None] | None = None, silence_s: float | None = None
    ) -> int:
        """Write the output of a command to a new file and return its size in bytes."""
        silence_s = SILENCE_S * self._load() if silence_s is None else silence_s
        copied = 0
        with self._connected(f"run {command!r}"), to.open("xb") as out:
            channel = self._transport().open_session(timeout=silence_s)
            try:
                channel.settimeout(silence_s)
                self._execute(channel, command)
                while chunk := channel.recv(CHUNK):
                    out.write(chunk)
                    copied += len(chunk)
                    if progress is not None:
                        progress(copied)
                status = channel.recv_exit_status()
            except TimeoutError:
                raise GuestError(f"{self.address}: the output of {command!r} stopped after {copied:,} bytes") from None
            finally:
                channel.close()
        if status != 0:
            raise CommandFailed(f"{self.address}: {command!r} ended with status {status} after {copied:,} bytes")
        return copied

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _execute(self, channel: paramiko.Channel, line: str) -> None:
        """Start a command as root; other users need sudo, perhaps with the password."""
        if self._user == "root":
            channel.exec_command(line)
            return
        if self._sudo is None:
            self._sudo = self._find_sudo()
        channel.exec_command(f"{self._sudo} sh -c {shlex.quote(line)}")
        if "-S" in self._sudo:
            channel.sendall(f"{self._password}\n".encode())

    def _find_sudo(self) -> str:
        """Return the sudo command: without a password if possible, else always with it, so that no command reads it."""
        if self._password is None:
            return "sudo -n"
        channel = self._transport().open_session(timeout=TIMEOUT_S * self._load())
        try:
            channel.exec_command("sudo -k -n true")
            return "sudo -n" if channel.recv_exit_status() == 0 else "sudo -k -S -p ''"
        finally:
            channel.close()

    def _transport(self) -> paramiko.Transport:
        transport = self._client.get_transport()
        if transport is None or not transport.is_active():
            raise GuestError(f"{self.address}: SSH connection lost")
        return transport

    @contextlib.contextmanager
    def _connected(self, what: str) -> Iterator[None]:
        """Turn the loss of the connection into a GuestError that names the action."""
        try:
            yield
        except (paramiko.SSHException, OSError, EOFError) as error:
            if isinstance(error, FileNotFoundError | FileExistsError | PermissionError):
                raise
            raise GuestError(f"{self.address}: SSH connection lost while trying to {what} ({error})") from error


class _AcceptAny(paramiko.MissingHostKeyPolicy):  # type: ignore[misc]  # paramiko has no types
    """A policy for guests whose host key is unknown."""

    def missing_host_key(self, client: object, hostname: str, key: object) -> None:
        return


def _collect(
    channel: paramiko.Channel, deadline: Deadline, line: str, on_line: Callable[[str], None] | None
) -> tuple[str, str]:
    """Return standard output and error of a command; CommandFailed after the deadline."""
    out, err = bytearray(), bytearray()
    shown = 0
    channel.settimeout(0.2)
    while True:
        if on_line is not None and len(out) > shown:
            shown = len(out)
            on_line(_last_line(out))
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
            raise CommandFailed(f"{line!r} did not end within {deadline.timeout_s:.0f} s")
        if not got:
            with contextlib.suppress(TimeoutError):
                chunk = channel.recv(CHUNK)  # blocks until output, the end, or 0.2 s have passed
                out += chunk
                if not chunk and not channel.recv_stderr_ready():
                    channel.status_event.wait(min(0.2, deadline.left_s))


def _feed(channel: paramiko.Channel, source: BinaryIO) -> None:
    """Send all of SOURCE; if the command ends before it has read it, its status is the error."""
    try:
        while chunk := source.read(CHUNK):
            channel.sendall(chunk)
        channel.shutdown_write()
    except TimeoutError:
        raise
    except OSError:
        if not channel.exit_status_ready() and not channel.closed:
            raise


def _last_line(out: bytearray) -> str:
    """Return the last line that is not empty, for display."""
    lines = out[-400:].decode(errors="replace").replace("\r", "\n").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
