"""Commands over a serial line to a guest whose init answers them, for guests without a network."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Callable
from pathlib import Path

import pexpect

from ...base.clock import Deadline
from ...base.errors import CommandFailed, ConsoleLost, GuestError, WaitedInVain
from ..hypervisor.byte_queue import ByteQueue
from .shell import TIMEOUT_S, Shell

_READ_BYTES = 1 << 16
_TICK_S = 0.2
LINE_MAX_BYTES = 1 << 28
PART_BYTES = 48 * 1024  # of a file that is copied into the guest, in one line


class ControlLine:
    """The lines of a serial device, read and written."""

    def __init__(self, source: ByteQueue, send: Callable[[bytes], None]) -> None:
        self._source, self._send = source, send
        self._rest = b""

    def send(self, line: str) -> None:
        """Write a line."""
        self._send(line.encode() + b"\n")

    def read(self, *, timeout_s: float) -> str | None:
        """Return the next line, or None if none is complete in time; ConsoleLost at the end of the serial line."""
        deadline = Deadline(timeout_s)
        while b"\n" not in self._rest:
            if len(self._rest) > LINE_MAX_BYTES:
                raise GuestError(f"the guest sent a line of more than {LINE_MAX_BYTES:,} bytes on its control line")
            try:
                self._rest += self._source.read_nonblocking(_READ_BYTES, min(_TICK_S, deadline.left_s))
            except pexpect.TIMEOUT:
                if deadline.passed:
                    return None
            except pexpect.EOF:
                raise ConsoleLost("the control line of the guest ended") from None
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode("ascii", errors="replace").strip("\r\0")

    def wait_for(self, word: str, *, timeout_s: float, look: Callable[[], None] = lambda: None) -> list[str]:
        """Return the words of the first line that begins with a word; LOOK is called while nothing arrives.

        Raises WaitedInVain without such a line in time.
        """
        deadline = Deadline(timeout_s)
        while not deadline.passed:
            line = self.read(timeout_s=min(_TICK_S, deadline.left_s))
            look()
            if line is not None and line.split(" ")[0] == word:
                return line.split(" ")[1:]
        raise WaitedInVain(f"no {word!r} on the control line within {timeout_s:.0f} s")


class SerialShell(Shell):
    """The commands that the init of a kernel drill obeys."""

    def __init__(self, name: str, line: ControlLine, load: Callable[[], float] = lambda: 1.0) -> None:
        super().__init__(name, load)
        self._line = line
        self._number = 0

    def _request(self, how: str, command: str) -> int:
        self._number += 1
        self._line.send(f"{self._number} {how} {escaped(command)}")
        return self._number

    def _answer(self, command: str, timeout_s: float) -> tuple[int, bytes, bytes]:
        number = self._request("run", command)
        try:
            status, out, err = self._line.wait_for(str(number), timeout_s=timeout_s)
            return int(status), _unpack(out), _unpack(err)
        except WaitedInVain:
            raise CommandFailed(f"{command!r} did not end within {timeout_s:.0f} s") from None
        except ValueError as error:
            raise GuestError(f"{self.address}: the answer to {command!r} is damaged ({error})") from None

    def _call(self, line: str, timeout_s: float, on_line: Callable[[str], None] | None) -> tuple[int, str, str]:
        status, out, err = self._answer(line, timeout_s)
        return status, out.decode(errors="replace"), err.decode(errors="replace")

    def start(self, command: str) -> None:
        """Start a command without waiting."""
        self._request("start", command)

    def put(self, local: Path, path: str, *, silence_s: float | None = None) -> None:
        """Copy a file into the guest, readable by root only."""
        quoted = shlex.quote(path)
        self.run(f"umask 077; : > {quoted}")
        with local.open("rb") as file:
            while part := file.read(PART_BYTES):
                self.run(f"echo {base64.b64encode(part).decode()} | base64 -d >> {quoted}", timeout_s=silence_s)

    def save(
        self, command: str, to: Path, *, progress: Callable[[int], None] | None = None, silence_s: float | None = None
    ) -> int:
        """Write the output of a command to a new file and return its size in bytes."""
        timeout_s = TIMEOUT_S * self._load() if silence_s is None else silence_s
        status, out, _ = self._answer(command, timeout_s)
        if status != 0:
            raise CommandFailed(f"{self.address}: {command!r} ended with status {status}")
        with to.open("xb") as file:
            file.write(out)
        return len(out)

    def close(self) -> None:
        """Do nothing: the line ends with the guest."""


def escaped(script: str) -> str:
    """Return a script as one line, in the escapes of printf's %b."""
    safe = range(0x20, 0x7F)
    codes = script.replace("\\", "\\\\").encode()
    return "".join(chr(code) if code in safe else f"\\0{code:03o}" for code in codes)


def _unpack(word: str) -> bytes:
    """Return an output, which is in base64; ValueError for a damaged one."""
    return b"" if word == "-" else base64.b64decode(word, validate=True)
