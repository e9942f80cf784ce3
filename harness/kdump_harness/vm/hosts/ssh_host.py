"""Another host by the user's own ssh: one connection that commands, files, guests' SSH and libvirt share.

ssh itself does the talking, as it does for virsh: the user's configuration, keys, agent and known hosts count here as
they do there, and whoever is asked for a passphrase is asked once.
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

HOLD_TIMEOUT_S = 120.0  # somebody may have to type a passphrase
COMMAND_TIMEOUT_S = 60.0
END_TIMEOUT_S = 20.0
LAST_S = 2.0
GRACE_S = 0.5
CHUNK = 1 << 20
_CONTROL = "control"  # relative: the path of a socket is short, and that of a state directory need not be
_LOG = "ssh.log"
_FORBIDDEN = "administratively prohibited"  # in what ssh says when a server does not forward
_UNREACHED = 255  # what ssh ends with when it was not the command that failed
# Commands go by the connection that we hold, or not at all: a new one could ask for a passphrase at any time.
_BY_MASTER = ("-S", _CONTROL, "-o", "ControlMaster=no", "-o", "ProxyCommand=false")
_MASTER = (
    "-M", "-S", _CONTROL,
    "-o", "ControlPersist=no",
    "-o", "ClearAllForwardings=yes",
    "-o", "ConnectTimeout=20",
    "-o", "ServerAliveInterval=10",
    "-o", "ServerAliveCountMax=3",
)  # fmt: skip
# Ctrl-C reaches all processes of the terminal, and the way to the guests must last until they are gone.
_DEAF = 'trap "" INT QUIT; exec "$@"'


@dataclass(frozen=True, kw_only=True)
class Where:
    """The host of a libvirt URI, and how its parameters have ssh reach it."""

    host: str
    options: tuple[str, ...]  # of ssh
    binary: str = "ssh"

    def __str__(self) -> str:
        return self.host


def where_of(uri: str) -> Where:
    """The host of a qemu+ssh:// URI; UsageError for one that ssh has no part in."""
    scheme, _, rest = uri.partition("://")
    if not scheme.endswith("+ssh"):
        raise UsageError(
            f"{uri} is on another host, which guests' disks can only be taken to by ssh (as in qemu+ssh://host/system)"
        )
    # By hand: urlsplit() makes lower-case of host names, which are names of the user's own in an ssh configuration.
    place, _, query = rest.partition("?")
    user, _, host = place.partition("/")[0].rpartition("@")
    port = ""
    if host.startswith("["):
        host, _, port = host[1:].partition("]")
        port = port.removeprefix(":")
    else:
        host, _, port = host.partition(":")
    if not host or host.startswith("-") or (port and not port.isdecimal()):
        raise UsageError(f"{uri} names no host that ssh could reach (as in qemu+ssh://user@host:port/system)")
    asked = dict(parse_qsl(query, keep_blank_values=True))
    options = [*(["-l", unquote(user)] if user else []), *(["-p", port] if port else [])]
    if asked.get("keyfile"):
        options += ["-i", os.path.abspath(asked["keyfile"])]
    if asked.get("known_hosts"):  # libvirt heeds it with other transports only
        known = os.path.abspath(asked["known_hosts"]).replace("\\", "\\\\").replace('"', '\\"')
        options += ["-o", f'UserKnownHostsFile="{known}"']
    if asked.get("no_verify", "0") != "0":
        options += ["-o", "StrictHostKeyChecking=no"]
    if asked.get("no_tty", "0") != "0":
        options += ["-o", "BatchMode=yes"]
    return Where(host=unquote(host), options=tuple(options), binary=asked.get("command") or "ssh")


def by_command(uri: str, command: Path) -> str:
    """The same URI with another command than ssh, for libvirt to start."""
    address, _, query = uri.partition("?")
    kept = [(name, value) for name, value in parse_qsl(query, keep_blank_values=True) if name != "command"]
    return f"{address}?{urlencode([*kept, ('command', str(command))], quote_via=quote, safe='/')}"


class Tunnel(socket.socket):
    """A connection from the other host; the ssh that carries it ends with it."""

    carrier: subprocess.Popen[bytes] | None = None

    def close(self) -> None:
        """Hang up."""
        super().close()
        carrier, self.carrier = self.carrier, None
        if carrier is not None:
            carrier.terminate()
            carrier.wait()


class SshHost:
    """A host that is reached by ssh, through one connection that lasts until close() or our death."""

    def __init__(self, where: Where, directory: Path) -> None:
        """directory is a private one of this host, for the connection's socket and messages."""
        self.where, self._directory = where, directory
        self._master: subprocess.Popen[bytes] | None = None
        self._tunnels: weakref.WeakSet[Tunnel] = weakref.WeakSet()

    @property
    def life(self) -> int:
        """The descriptor that keeps the connection: whoever holds a copy keeps it for longer than we live."""
        assert self._master is not None
        assert self._master.stdin is not None
        return self._master.stdin.fileno()

    @property
    def command(self) -> Path:
        """A command that does what ssh does, by this connection: for libvirt."""
        return self._directory / "ssh"

    def hold(self, script: str, *arguments: str) -> str:
        """Connect, start a shell's script over there, and return the first line that it prints.

        Its standard input ends when we do: that is how it hears of our death. It prints another line at its end.
        """
        line = shlex.join(["sh", "-c", script, "sh", *arguments])
        ours = [self.where.binary, *_MASTER, *self.where.options, "-T", "--", self.where.host, line]
        with (self._directory / _LOG).open("wb") as log:
            try:
                self._master = subprocess.Popen(
                    ["sh", "-c", _DEAF, "sh", *ours],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    cwd=self._directory,
                )
            except OSError as error:
                raise HostError(f"ssh cannot be started: {error.strerror}") from None
        told = self._first_line()
        self._write_command()
        return told

    def _first_line(self) -> str:
        told = self._line(HOLD_TIMEOUT_S)
        if told is None:
            self.close(wait_s=0.0)
            raise HostError(f"{self.where} has not let us in by ssh within {HOLD_TIMEOUT_S:.0f} s")
        if not told:
            self.close()
            raise HostError(_refusal(self.where, self._directory / _LOG))
        return told.rstrip("\n")

    def _line(self, timeout_s: float) -> str | None:
        """The next line of the script that is held; empty at its end, None when nothing came in time."""
        assert self._master is not None
        assert self._master.stdout is not None
        deadline, told = Deadline(timeout_s), b""
        while not told.endswith(b"\n"):
            ready, _, _ = select.select([self._master.stdout], [], [], deadline.left_s)
            if not ready:
                return None
            byte = os.read(self._master.stdout.fileno(), 1)
            if not byte:
                return ""
            told += byte
        return told.decode(errors="replace")

    def _write_command(self) -> None:
        """What libvirt starts instead of ssh. When our connection is gone it makes one of its own."""
        ours = [self.where.binary, "-S", _CONTROL, "-o", "ControlMaster=no", *self.where.options]
        # A session of its own hears no Ctrl-C.
        text = f'#!/bin/sh\ncd {shlex.quote(str(self._directory))} || exit 255\nexec setsid {shlex.join(ours)} "$@"\n'
        self.command.write_text(text, encoding="utf-8")
        self.command.chmod(0o700)

    def alive(self) -> bool:
        """Whether the connection still stands; who asks because something went wrong may be a moment too early."""
        if self._master is None:
            return False
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._master.wait(GRACE_S)
        return self._master.returncode is None

    def run(self, *argv: str, timeout_s: float = COMMAND_TIMEOUT_S, check: bool = True) -> str:
        """What a command over there prints; CommandFailed unless it succeeds or check is off."""
        process = self._start(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        try:
            out, said = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            raise HostError(f"{self.where}: {argv[0]} has not ended within {timeout_s:.0f} s") from None
        finally:
            _end(process)
        if process.returncode == _UNREACHED:
            raise self._gone()
        if process.returncode and check:
            raise _failed(self.where, argv, process.returncode, said)
        return out.decode(errors="replace")

    def shell(self, script: str, *arguments: object, timeout_s: float = COMMAND_TIMEOUT_S) -> str:
        """What a shell's script over there prints."""
        return self.run("sh", "-c", script, "sh", *map(str, arguments), timeout_s=timeout_s)

    def feed(self, source: IO[bytes], script: str, *arguments: object, progress: Callable[[int], None]) -> None:
        """Run a shell's script over there that reads all of source; progress is told how much is on its way."""
        argv = ("sh", "-c", script, "sh", *map(str, arguments))
        process = self._start(argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        assert process.stdin is not None
        assert process.stderr is not None
        sent = 0
        try:
            # A script that ends before it has read everything says why by its status.
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
        """Copy a file from over there; to must not exist."""
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
        """Raise what the end of a command over there means."""
        if process.returncode == _UNREACHED:
            raise self._gone()
        if process.returncode:
            raise _failed(self.where, argv, process.returncode, said)

    def connect(self, address: str, port: int) -> Tunnel:
        """A connection from over there to what only that host reaches; one that is refused ends at once."""
        if _FORBIDDEN in _text(self._directory / _LOG):  # by an attempt before, since a guest is waited for
            raise HostError(f"{self.where} does not forward connections to its guests (AllowTcpForwarding of its sshd)")
        ours, theirs = socket.socketpair()
        tunnel = Tunnel(fileno=ours.detach())
        with theirs, (self._directory / _LOG).open("ab") as log:
            tunnel.carrier = subprocess.Popen(
                [self.where.binary, *_BY_MASTER, "-W", f"{address}:{port}", "--", self.where.host],
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=log,
                cwd=self._directory,
                start_new_session=True,
            )
        self._tunnels.add(tunnel)
        return tunnel

    def close(self, *, wait_s: float = END_TIMEOUT_S) -> None:
        """Let the script that is held come to its end, and hang up."""
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
        # By itself it would wait for what others have open, as libvirt has its connection until we end.
        master.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            master.wait(LAST_S)
        _end(master)

    def _start(self, argv: tuple[str, ...], *, stdin: int, stdout: int) -> subprocess.Popen[bytes]:
        # What is made over there is for QEMU's user to read, whatever the login's umask.
        line = f"umask 022; {shlex.join(argv)}"
        return subprocess.Popen(
            [self.where.binary, *_BY_MASTER, "-T", "--", self.where.host, line],
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.PIPE,
            cwd=self._directory,
            start_new_session=True,  # which hears no Ctrl-C
        )

    def _gone(self) -> HostError:
        said = _last_line(self._directory / _LOG)
        return HostError(f"the ssh connection to {self.where} is gone{f' ({said})' if said else ''}")


# What ssh says of a host that it cannot or must not log in to, and what that means.
_REFUSALS: Mapping[str, str] = {
    "REMOTE HOST IDENTIFICATION HAS CHANGED": "has another host key than the one that is known of it here",
    "Host key verification failed": "has a host key that nobody here knows (ssh to it once, or name a known_hosts file"
    " in the URI: ?known_hosts=FILE)",
    "Permission denied": "does not let us in by ssh",
}


def _refusal(where: Where, log: Path) -> str:
    """One sentence on a connection that did not come about."""
    said = _text(log)
    last = _last_line(log) or "ssh does not say why"
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
    """The error that a command's own words make."""
    lines = said.decode(errors="replace").strip().splitlines() or [f"{argv[0]} ended with status {status}"]
    if any("No space left on device" in line for line in lines):
        return HostError(f"there is no space left on {where} ({lines[-1]})")
    return CommandFailed(f"{where}: {lines[-1]}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Leave nothing of a process, whatever came of it."""
    if process.poll() is None:
        process.kill()
        process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
