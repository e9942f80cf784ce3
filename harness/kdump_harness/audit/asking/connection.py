"""One connection to a host: a shell that answers questions, reached by the user's own ssh or local.

The ssh program is used, so the user's configuration, keys, agent and known hosts apply. Nothing can ask for a password.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import selectors
import shlex
import subprocess
from collections.abc import Mapping, Sequence

from ...base.clock import Deadline, raise_if_stopped
from ...base.errors import HostError
from ...base.output import printable
from ...kdump.guest_state import SHOW, joined_commands, split_outputs
from ...vm.hosts.ssh_host import refusal
from .inventory import Host

ANSWER_BYTES_MAX = 2 << 20  # of all outputs of one host
OUTPUT_BYTES_MAX = 128 << 10  # of one command
COMMAND_TIMEOUT_S = 20  # of one command, on the host
_MESSAGES_BYTES_MAX = 16 << 10
_CHUNK = 1 << 16
_LOOK_EVERY_S = 0.5
_UNREACHED = 255  # ssh's exit status when the connection failed
# Without root the shell still answers what every user may read.
_LAUNCH = (
    'if [ "$(id -u)" = 0 ]; then exec sh -s; elif sudo -n true 2>/dev/null; then exec sudo -n sh -s;'
    " else exec sh -s; fi"
)
_PROLOGUE = (
    "PATH=$PATH:/usr/sbin:/sbin:/usr/local/sbin; LC_ALL=C; export PATH LC_ALL; unset DISPLAY;"
    f' t="timeout -k 2 {COMMAND_TIMEOUT_S}"; command -v timeout >/dev/null || t=\n'
)
_OPTIONS = (
    "-T",
    "-o", "BatchMode=yes",
    "-o", "ControlMaster=no",  # an existing master is used, and no new one stays
    "-o", "ClearAllForwardings=yes",
    "-o", "ServerAliveInterval=5",
    "-o", "ServerAliveCountMax=3",
)  # fmt: skip


class Unaudited(HostError):
    """A host that could not be asked; the message is the reason."""


class Connection:
    """A shell on a host, as root where that is allowed."""

    def __init__(
        self, host: Host, *, ssh: Sequence[str] = ("ssh",), connect_timeout_s: float, timeout_s: float
    ) -> None:
        """TIMEOUT_S is the time for all answers together."""
        self._host = host
        self._deadline = Deadline(timeout_s)
        self._got_bytes = 0
        self._said = b""
        launch = ["sh", "-c", _LAUNCH]
        connect = f"ConnectTimeout={max(1, round(connect_timeout_s))}"
        remote = shlex.join(launch)
        command = launch if host.local else [*ssh, *_OPTIONS, "-o", connect, *host.arguments, remote]
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,  # does not receive Ctrl-C
            )
        except OSError as error:
            raise Unaudited(f"cannot start {command[0]}: {error.strerror}") from None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            os.set_blocking(pipe.fileno(), False)
        self._unsent = _PROLOGUE.encode()

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, commands: Mapping[str, str]) -> dict[str, str]:
        """Run commands on the host and return their outputs by name; raise Unaudited where they do not come."""
        # A file on the host cannot contain a mark that is made now.
        mark = f"=====audit {secrets.token_hex(8)} "
        limited = {
            name: f"$t sh -c {shlex.quote(f'{SHOW}; {command}')} </dev/null 2>&1 | head -c {OUTPUT_BYTES_MAX}"
            for name, command in commands.items()
        }
        self._unsent += f"{joined_commands(limited, mark)}; echo '{mark}end'\n".encode()
        text = self._read_until(f"{mark}end".encode()).decode(errors="replace")
        return {name: printable(output.replace("\r", "")) for name, output in split_outputs(text, mark)}

    def _read_until(self, end: bytes) -> bytes:
        process, got = self._process, bytearray()
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        with selectors.DefaultSelector() as ready:
            ready.register(process.stdout, selectors.EVENT_READ)
            ready.register(process.stderr, selectors.EVENT_READ)
            ready.register(process.stdin, selectors.EVENT_WRITE)
            open_outputs = 2
            while end not in got[-len(end) - _CHUNK :]:
                raise_if_stopped()
                if self._deadline.passed:
                    raise Unaudited(self._late(bool(self._got_bytes)))
                if not open_outputs:
                    raise Unaudited(self._ended())
                for key, _ in ready.select(min(self._deadline.left_s, _LOOK_EVERY_S)):
                    if key.fileobj is process.stdin:
                        if not self._send():
                            ready.unregister(process.stdin)
                        continue
                    chunk = os.read(key.fd, _CHUNK)
                    if not chunk:
                        ready.unregister(key.fileobj)
                        open_outputs -= 1
                    elif key.fileobj is process.stderr:
                        self._said = (self._said + chunk)[-_MESSAGES_BYTES_MAX:]
                    else:
                        got += chunk
                        self._got_bytes += len(chunk)
                        if self._got_bytes > ANSWER_BYTES_MAX:
                            raise Unaudited(f"its answers are longer than {ANSWER_BYTES_MAX >> 20} MiB")
        return bytes(got[: got.index(end)])

    def _send(self) -> bool:
        """Send a part of the commands; return whether there are more."""
        assert self._process.stdin is not None
        try:
            sent = os.write(self._process.stdin.fileno(), self._unsent[:_CHUNK]) if self._unsent else 0
        except BrokenPipeError:  # the output's end says the reason
            self._unsent = b""
            return False
        self._unsent = self._unsent[sent:]
        return bool(self._unsent)

    def _late(self, answered: bool) -> str:
        wait = f"within {self._deadline.timeout_s:.0f} s"
        return f"it did not finish its answers {wait}" if answered else f"it did not answer {wait}"

    def _ended(self) -> str:
        """Return the reason why the shell ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(2.0)
        said = printable(self._said.decode(errors="replace").replace("\r", "")).strip()
        if not self._host.local and self._process.returncode == _UNREACHED:
            return refusal("it", said)
        last = said.splitlines()[-1][:200] if said else f"exit status {self._process.returncode}"
        return f"its shell ended before it had answered: {last}"

    def close(self) -> None:
        """End the shell and the connection."""
        process = self._process
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.5)
        if process.poll() is None:
            process.kill()
            process.wait()
