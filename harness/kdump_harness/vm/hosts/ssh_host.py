"""A remote host over the user's ssh: commands, files, guests' SSH and libvirt share one connection.

The ssh program is used, as by virsh: the user's configuration, keys, agent and known hosts apply, and a passphrase is
asked for once.
"""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import socket
import subprocess
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import parse_qsl, quote, unquote, urlencode

from ...base.clock import Deadline
from ...base.errors import CommandFailed, HostError, UsageError
from ...base.foreign import whole_number

HOLD_TIMEOUT_S = 120.0  # the user may have to type a passphrase
COMMAND_TIMEOUT_S = 60.0
END_TIMEOUT_S = 20.0
LAST_S = 2.0
GRACE_S = 0.5
CHUNK = 1 << 20
_CONTROL = "control"  # relative, since the path of a socket must be short
_LOG = "ssh.log"
_FORBIDDEN = "administratively prohibited"  # in ssh's message when a server does not forward
_UNREACHED = 255  # ssh's exit status when the connection failed rather than the command
# Commands use the held connection or fail: a new connection could ask for a passphrase at any time.
_BY_MASTER = ("-S", _CONTROL, "-o", "ControlMaster=no", "-o", "ProxyCommand=false")
_MASTER = (
    "-M", "-S", _CONTROL,
    "-o", "ControlPersist=no",
    "-o", "ClearAllForwardings=yes",
    "-o", "ConnectTimeout=20",
    "-o", "ServerAliveInterval=10",
    "-o", "ServerAliveCountMax=3",
)  # fmt: skip
# Ctrl-C reaches all processes of the terminal, but the connection must last until the guests are destroyed.
_DEAF = 'trap "" INT QUIT; exec "$@"'


@dataclass(frozen=True, kw_only=True)
class Where:
    """The host of a libvirt URI, with the options of ssh that its parameters stand for."""

    host: str
    options: tuple[str, ...]  # options of ssh
    binary: str = "ssh"

    def __str__(self) -> str:
        return self.host


def where_of(uri: str) -> Where:
    """Return the host of a qemu+ssh:// URI; UsageError for other transports."""
    scheme, _, rest = uri.partition("://")
    if not scheme.endswith("+ssh"):
        raise UsageError(
            f"{uri} is a remote hypervisor without ssh: expected qemu+ssh://host/system, since disks are copied by ssh"
        )
    # Not by urlsplit(), which lower-cases host names: in an ssh configuration they may be aliases in mixed case.
    place, _, query = rest.partition("?")
    user, _, host = place.partition("/")[0].rpartition("@")
    port = ""
    if host.startswith("["):
        host, _, port = host[1:].partition("]")
        port = port.removeprefix(":")
    else:
        host, _, port = host.partition(":")
    if not host or host.startswith("-") or (port and not whole_number(port, most=65535)):
        raise UsageError(f"{uri} does not name a host for ssh: expected qemu+ssh://user@host:port/system")
    asked = dict(parse_qsl(query, keep_blank_values=True))
    options = [*(["-l", unquote(user)] if user else []), *(["-p", port] if port else [])]
    if asked.get("keyfile"):
        options += ["-i", os.path.abspath(asked["keyfile"])]
    if asked.get("known_hosts"):  # libvirt itself ignores the parameter for ssh
        known = os.path.abspath(asked["known_hosts"]).replace("\\", "\\\\").replace('"', '\\"')
        options += ["-o", f'UserKnownHostsFile="{known}"']
    if asked.get("no_verify", "0") != "0":
        options += ["-o", "StrictHostKeyChecking=no"]
    if asked.get("no_tty", "0") != "0":
        options += ["-o", "BatchMode=yes"]
    return Where(host=unquote(host), options=tuple(options), binary=asked.get("command") or "ssh")


def by_command(uri: str, command: Path) -> str:
    """Return the URI with another command in place of ssh, for libvirt."""
    address, _, query = uri.partition("?")
    kept = [(name, value) for name, value in parse_qsl(query, keep_blank_values=True) if name != "command"]
    return f"{address}?{urlencode([*kept, ('command', str(command))], quote_via=quote, safe='/')}"


class Tunnel(socket.socket):
    """A connection through the remote host; its ssh process ends with it."""

    carrier: subprocess.Popen[bytes] | None = None

    def close(self) -> None:
        """Close the connection and end its ssh process."""
        super().close()
        carrier, self.carrier = self.carrier, None
        if carrier is not None:
            carrier.terminate()
            carrier.wait()


class SshHost:
    """A host that is reached by ssh over one connection, which lasts until close() or the end of this process."""

    def __init__(self, where: Where, directory: Path) -> None:
        """DIRECTORY on this host is private and holds the connection's socket and messages."""
        self.where, self._directory = where, directory
        self._master: subprocess.Popen[bytes] | None = None
        self._tunnels: weakref.WeakSet[Tunnel] = weakref.WeakSet()

    @property
    def life(self) -> int:
        """The descriptor that keeps the connection: a process with a copy of it extends the connection's life."""
        assert self._master is not None
        assert self._master.stdin is not None
        return self._master.stdin.fileno()

    @property
    def command(self) -> Path:
        """The replacement of ssh for libvirt, which uses this connection."""
        return self._directory / "ssh"

    def hold(self, script: str, *arguments: str) -> str:
        """Connect, start a shell script on the host, and return the first line of its output.

        Its standard input ends with this process, which ends the script. At its end it prints another line.
        """
        line = shlex.join(["sh", "-c", script, "sh", *arguments])
        command = [self.where.binary, *_MASTER, *self.where.options, "-T", "--", self.where.host, line]
        with (self._directory / _LOG).open("wb") as log:
            try:
                self._master = subprocess.Popen(
                    ["sh", "-c", _DEAF, "sh", *command],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    cwd=self._directory,
                )
            except OSError as error:
                raise HostError(f"cannot start ssh: {error.strerror}") from None
        line = self._first_line()
        self._write_command()
        return line

    def _first_line(self) -> str:
        line = self._line(HOLD_TIMEOUT_S)
        if line is None:
            self.close(wait_s=0.0)
            raise HostError(f"no ssh login on {self.where} within {HOLD_TIMEOUT_S:.0f} s")
        if not line:
            self.close()
            raise HostError(refusal(self.where, _text(self._directory / _LOG)))
        return line.rstrip("\n")

    def _line(self, timeout_s: float) -> str | None:
        """Return the next line of the held script; empty at its end, None after TIMEOUT_S."""
        assert self._master is not None
        assert self._master.stdout is not None
        deadline, line = Deadline(timeout_s), b""
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([self._master.stdout], [], [], deadline.left_s)
            if not ready:
                return None
            byte = os.read(self._master.stdout.fileno(), 1)
            if not byte:
                return ""
            line += byte
        return line.decode(errors="replace")

    def _write_command(self) -> None:
        """Write the replacement of ssh for libvirt. Without the held connection, it makes a new one."""
        command = [self.where.binary, "-S", _CONTROL, "-o", "ControlMaster=no", *self.where.options]
        # A separate session does not receive Ctrl-C.
        text = (
            f'#!/bin/sh\ncd {shlex.quote(str(self._directory))} || exit 255\nexec setsid {shlex.join(command)} "$@"\n'
        )
        self.command.write_text(text, encoding="utf-8")
        self.command.chmod(0o700)

    def alive(self) -> bool:
        """Return whether the connection still works; wait a moment, since its loss shows elsewhere first."""
        if self._master is None:
            return False
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._master.wait(GRACE_S)
        return self._master.returncode is None

    def run(self, *argv: str, timeout_s: float = COMMAND_TIMEOUT_S, check: bool = True) -> str:
        """Run a command on the host and return its output; CommandFailed if it fails and CHECK is set."""
        process = self._start(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        try:
            out, said = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            raise HostError(f"{self.where}: {argv[0]} did not end within {timeout_s:.0f} s") from None
        finally:
            _end(process)
        if process.returncode == _UNREACHED:
            raise self._gone()
        if process.returncode and check:
            raise _failed(self.where, argv, process.returncode, said)
        return out.decode(errors="replace")

    def shell(self, script: str, *arguments: object, timeout_s: float = COMMAND_TIMEOUT_S) -> str:
        """Run a shell script on the host and return its output."""
        return self.run("sh", "-c", script, "sh", *map(str, arguments), timeout_s=timeout_s)

    def feed(self, source: IO[bytes], script: str, *arguments: object, progress: Callable[[int], None]) -> None:
        """Run a shell script on the host with SOURCE as its input; PROGRESS gets the bytes sent so far."""
        argv = ("sh", "-c", script, "sh", *map(str, arguments))
        process = self._start(argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        assert process.stdin is not None
        assert process.stderr is not None
        sent = 0
        try:
            # If a script ends before it has read everything, its status is the error.
            with contextlib.suppress(BrokenPipeError), process.stdin:
                while chunk := source.read(CHUNK):
                    process.stdin.write(chunk)
                    sent += len(chunk)
                    progress(sent)
            said = process.stderr.read()
            process.wait()
        finally:
            _end(process)
        self._judge(process, argv, said)

    def fetch(self, path: Path, to: Path, *, progress: Callable[[int], None]) -> None:
        """Copy a file from the host; TO must not exist."""
        argv = ("cat", "--", str(path))
        fetched = 0
        with to.open("xb") as out:
            process = self._start(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
            assert process.stdout is not None
            assert process.stderr is not None
            try:
                while chunk := process.stdout.read(CHUNK):
                    out.write(chunk)
                    fetched += len(chunk)
                    progress(fetched)
                said = process.stderr.read()
                process.wait()
            finally:
                _end(process)
        self._judge(process, argv, said)

    def _judge(self, process: subprocess.Popen[bytes], argv: tuple[str, ...], said: bytes) -> None:
        """Raise the error of a command that failed."""
        if process.returncode == _UNREACHED:
            raise self._gone()
        if process.returncode:
            raise _failed(self.where, argv, process.returncode, said)

    def connect(self, address: str, port: int) -> Tunnel:
        """Return a connection through the host to an address that it reaches; a refused one ends at once."""
        if _FORBIDDEN in _text(self._directory / _LOG):  # an earlier attempt while waiting for a guest
            raise HostError(
                f"{self.where} does not forward connections to its guests (enable AllowTcpForwarding of its sshd)"
            )
        local_end, carrier_end = socket.socketpair()
        tunnel = Tunnel(fileno=local_end.detach())
        with carrier_end, (self._directory / _LOG).open("ab") as log:
            tunnel.carrier = subprocess.Popen(
                [self.where.binary, *_BY_MASTER, "-W", f"{address}:{port}", "--", self.where.host],
                stdin=carrier_end.fileno(),
                stdout=carrier_end.fileno(),
                stderr=log,
                cwd=self._directory,
                start_new_session=True,
            )
        self._tunnels.add(tunnel)
        return tunnel

    def close(self, *, wait_s: float = END_TIMEOUT_S) -> None:
        """End the held script and close the connection."""
        for tunnel in tuple(self._tunnels):
            tunnel.close()
        master = self._master
        if master is None:
            return
        assert master.stdin is not None
        with contextlib.suppress(OSError):
            master.stdin.close()
        if master.poll() is None:
            self._line(wait_s)
        # ssh would otherwise wait for other users of the connection; libvirt uses it until this process ends.
        master.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            master.wait(LAST_S)
        _end(master)

    def _start(self, argv: tuple[str, ...], *, stdin: int, stdout: int) -> subprocess.Popen[bytes]:
        # QEMU's user must be able to read new files, whatever the login's umask.
        line = f"umask 022; {shlex.join(argv)}"
        return subprocess.Popen(
            [self.where.binary, *_BY_MASTER, "-T", "--", self.where.host, line],
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.PIPE,
            cwd=self._directory,
            start_new_session=True,  # does not receive Ctrl-C
        )

    def _gone(self) -> HostError:
        said = _last_line(self._directory / _LOG)
        return HostError(f"SSH connection to {self.where} lost{f' ({said})' if said else ''}")


# ssh's messages about hosts that it cannot log in to, and their meaning.
_REFUSALS: Mapping[str, str] = {
    "REMOTE HOST IDENTIFICATION HAS CHANGED": "has a host key that does not match known_hosts",
    "Host key verification failed": "has an unknown host key (compare it, by one login with ssh)",
    "Permission denied": "refuses the ssh login",
}


def refusal(where: object, said: str) -> str:
    """Return the reason why a connection failed, from ssh's messages."""
    last = next((line.strip() for line in reversed(said.split("\n")) if line.strip()), "ssh gave no reason")
    for sign, meaning in _REFUSALS.items():
        if sign in said:
            return f"{where} {meaning}: {last}"
    return f"{where} cannot be reached by ssh: {last}"


def _last_line(log: Path) -> str:
    return next((line.strip() for line in reversed(_text(log).split("\n")) if line.strip()), "")


def _text(log: Path) -> str:
    with contextlib.suppress(OSError):
        return log.read_text(encoding="utf-8", errors="replace")
    return ""


def _failed(where: Where, argv: tuple[str, ...], status: int, said: bytes) -> CommandFailed | HostError:
    """Return the error for a failed command, from its output."""
    lines = said.decode(errors="replace").strip().splitlines() or [f"{argv[0]} ended with status {status}"]
    if any("No space left on device" in line for line in lines):
        return HostError(f"no disk space left on {where} ({lines[-1]})")
    return CommandFailed(f"{where}: {lines[-1]}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and close its pipes."""
    if process.poll() is None:
        process.kill()
        process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
