"""A machine that exists, in place of a domain: its console is the output of a command, and another one resets it."""

from __future__ import annotations

import contextlib
import shlex
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pexpect

from ..base.clock import Deadline, pause
from ..base.errors import HostError, UsageError
from ..images.state import State
from .hypervisor.byte_queue import ByteQueue
from .hypervisor.domain import SSH_PORT, Domain, DomainEvents
from .hypervisor.domain_xml import Nic
from .run import Run
from .shells.shell import Access

MACHINE = "machine"  # in place of an accelerator
AGAIN_S = 1.0  # before the command of a console that ended is started once more
SHORT_S, SHORT_MOST = 5.0, 5  # a command that ends so soon, so many times in a row, is not a console
ASK_TIMEOUT_S = 10.0
_CHUNK = 65536


class Console:
    """The command of a console, which is started again when it ends: a management controller may drop its line."""

    def __init__(self, command: Sequence[str], source: ByteQueue, on_bytes: Callable[[bytes], None]) -> None:
        self._command, self._source, self._on_bytes = command, source, on_bytes
        self._closed = False
        self._child = self._start()
        self._thread = threading.Thread(target=self._pump, name="console", daemon=True)
        self._thread.start()

    def _start(self) -> Any:
        # Programs for consoles want a terminal.
        return pexpect.spawn(self._command[0], list(self._command[1:]), timeout=None, echo=False, dimensions=(50, 200))

    def _pump(self) -> None:
        short = 0
        while not self._closed:
            since = Deadline(SHORT_S)
            while not self._closed:
                try:
                    data = self._child.read_nonblocking(_CHUNK, timeout=0.5)
                except pexpect.TIMEOUT:
                    continue
                except (pexpect.EOF, OSError):
                    break
                try:
                    self._on_bytes(data)
                except OSError as error:  # the evidence cannot be written
                    self._source.fail(error)
                    return
                self._source.put(data)
            short = 0 if since.passed else short + 1
            if self._closed or short >= SHORT_MOST:
                break
            pause(AGAIN_S)
            with contextlib.suppress(pexpect.ExceptionPexpect):
                self._child = self._start()
        self._source.put(b"")

    def close(self) -> None:
        """End the command."""
        self._closed = True
        self._thread.join(timeout=2.0)
        self._child.close(force=True)


class ExternalMachine(Domain):
    """A machine, with the part of a domain's interface that a drill as it is needs. Nothing can be done to it."""

    def __init__(self, name: str, address: str, port: int, console: Sequence[str]) -> None:
        self.name, self._address, self.ssh_port = name, address, port
        self.nic, self.nics = Nic(mac=""), ()
        self.events = DomainEvents()
        self._console_command = console
        self._console: Console | None = None

    def open_console(self, on_bytes: Callable[[bytes], None]) -> ByteQueue:
        """Return the output of the console's command; nothing without a command."""
        source = ByteQueue()
        if self._console_command:
            self._console = Console(self._console_command, source, on_bytes)
        return source

    def address(self) -> str | None:
        """Return the address for SSH."""
        return self._address

    def state(self) -> str:
        """Return that it runs: its state is not known."""
        return "running"

    def end_lines(self) -> None:
        """Do nothing: no hypervisor is known to stop it."""

    def resume(self) -> None:
        """Do nothing: it is not paused."""

    def destroy(self) -> None:
        """Close the console."""
        if self._console is not None:
            self._console.close()

    kill = destroy

    def log(self) -> str:
        """Return nothing: no hypervisor is known."""
        return ""

    def connection_lost(self) -> bool:
        """Return false: only SSH and the console connect to it, and their ends are reported by others."""
        return False


class ExternalRun(Run):
    """A run without a hypervisor."""

    def __enter__(self) -> ExternalRun:
        with contextlib.ExitStack() as resources:
            self.state = State(self.options.state)
            self.directory = resources.enter_context(self.state.run())
            self.accelerator = MACHINE
            self._resources = resources.pop_all()
        return self

    @property
    def load(self) -> float:
        """The additional factor for waits: the machine does not share this host."""
        return 1.0

    def lost(self, domain: Domain) -> bool:
        """Return false: what ends is the machine's console."""
        return False


def ssh_settings(ssh: Sequence[str], host: Sequence[str]) -> Mapping[str, list[str]]:
    """Return what the user's ssh program would use for a host, by keyword. Raise HostError without the program."""
    said = _said([*ssh, "-G", *host])
    found: dict[str, list[str]] = {}
    for line in said.splitlines():
        keyword, _, value = line.partition(" ")
        found.setdefault(keyword, []).append(value)
    return found


def access_by(settings: Mapping[str, list[str]]) -> Access:
    """Return the first key file of ssh's settings that exists. Raise UsageError without any."""
    for name in settings.get("identityfile", []):
        if (path := Path(name).expanduser()).is_file():
            access = Access(key_file=path)
            access.check()
            return access
    raise UsageError("ssh names no key file that exists for this machine (--key FILE)")


def known_key(name: str, port: int, settings: Mapping[str, list[str]]) -> str:
    """Return the machine's public host key from the user's known hosts. Raise UsageError where it is not known."""
    wanted = name if port == SSH_PORT else f"[{name}]:{port}"
    alias = next(iter(settings.get("hostkeyalias", [])), wanted)
    for file in " ".join(settings.get("userknownhostsfile", [])).split():
        path = Path(file).expanduser()
        if not path.is_file():
            continue
        lines = [line.split() for line in _said(["ssh-keygen", "-F", alias, "-f", str(path)]).splitlines()]
        keys = {words[1]: words[2] for words in lines if len(words) > 2 and words[0] != "#"}
        for kind in ("ssh-ed25519", *sorted(keys)):
            if kind in keys:
                return f"{kind} {keys[kind]}"
    raise UsageError(f"the host key of {alias} is not known: log in once by ssh, and compare it")


def _said(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=ASK_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HostError(f"cannot run {shlex.join(command)}: {error}") from None
    return done.stdout
