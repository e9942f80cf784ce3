"""A guest: boot, login, reboot, snapshot and the loss of its connection."""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..base.clock import Deadline, poll, utc_s
from ..base.errors import GuestError, WaitedInVain
from ..base.evidence import Evidence
from .console import LOGIN, Console, ConsoleLine
from .console_signs import find_sign
from .hypervisor.domain import Domain
from .hypervisor.domain_xml import SavedDomain
from .shells.serial_shell import ControlLine, SerialShell
from .shells.shell import Access, CommandResult, Shell

# Timeouts for a guest under KVM on an idle host; timeout_factor stretches them.
# Total times are generous: silence or a sign of a stuck guest ends a wait much earlier.
BOOT_TIMEOUT_S = 150.0
SSH_TIMEOUT_S = 60.0
SILENCE_TIMEOUT_S = 40.0
POWER_OFF_TIMEOUT_S = 40.0  # a guest without a serial console shows no progress
CONSOLE_PAUSE_S = 15.0  # after a longer pause while SSH answers, no prompt is expected
SSH_LOOK_EVERY_S = 5.0  # not stretched: a property of this host's network
BANNER_TIMEOUT_S = 2.0  # for sshd's banner; an idle emulated guest took up to 2 s


class _SilentConsole(Exception):
    """SSH answers while the serial console is silent."""


_CLOUD_INIT_TROUBLE = re.compile(r"cloud-init\[\d+\]: .*(?:WARNING|ERROR|CRITICAL)|FAILED.*cloud-init")


def boot_trouble(line: ConsoleLine, *, by_ssh: bool = False) -> str | None:
    """Return why a guest that printed this line while booting is stuck, or None.

    BY_SSH asks about a guest that needs no login prompt.
    """
    sign = find_sign(line.text, "boot")
    return f"{sign.meaning} ({line.text.strip()!r})" if sign and not (by_ssh and sign.up) else None


def _prompt_lost(text: str) -> bool:
    """Return whether this line of the console says that the guest boots on without a login prompt."""
    sign = find_sign(text, "boot")
    return sign is not None and sign.up


@dataclass(frozen=True, kw_only=True)
class SavedGuest:
    """A snapshot of a guest: its memory is in a file."""

    memory: Path
    domain: SavedDomain
    user: str
    access: Access
    host_key: str | None


class Guest:
    """A virtual machine: its domain, serial console and SSH connection."""

    def __init__(
        self,
        domain: Domain,
        *,
        user: str,
        access: Access,
        host_key: str | None,
        evidence: Evidence,
        timeout_factor: float,
        load: Callable[[], float] = lambda: 1.0,
        tick: Callable[[], None] | None = None,
        connect: Callable[[str, int, float], socket.socket] = lambda address, port, timeout_s: socket.create_connection(
            (address, port), timeout_s
        ),
    ) -> None:
        """CONNECT returns a connection to an address and port within a timeout in seconds."""
        self.domain = domain
        self.name = domain.name
        self.evidence = evidence
        self._slowness, self._load = timeout_factor, load
        self._user, self._access, self._host_key = user, access, host_key
        self._tick, self._connect = tick, connect
        self._shell: Shell | None = None
        source = domain.open_console(lambda data: self.evidence.console_bytes(data))
        self.console = Console(self.name, source, see=evidence.console_path)
        self.console.subscribe(self._note_cloud_init)
        self._cloud_init_trouble = ""

    @property
    def factor(self) -> float:
        """The factor for waits that begin now, from the accelerator and the load of the host."""
        return self._slowness * self._load()

    def switch_evidence(self, evidence: Evidence) -> None:
        """Write all further evidence to another directory."""
        self.evidence = evidence
        self.console.see = evidence.console_path

    @property
    def shell(self) -> Shell:
        """The SSH connection; GuestError before connect()."""
        if self._shell is None:
            raise GuestError(f"{self.name}: no SSH connection yet")
        return self._shell

    def resume(self) -> None:
        """Start a guest restored from a snapshot, connect, and set its clock, which was stopped."""
        self.power_on()
        self.connect()
        self.shell.run("date -s @%s", f"{utc_s():.3f}")

    def save(self, path: Path) -> SavedGuest:
        """Save a snapshot to a file, which ends the guest; its disks must not be written to afterwards."""
        self.close_shell()
        address = self.domain.address()
        xml = self.domain.save(path, tick=self._tick)
        return SavedGuest(
            memory=path,
            domain=SavedDomain(name=self.name, xml=xml, nic=self.domain.nic, nics=self.domain.nics, address=address),
            user=self._user,
            access=self._access,
            host_key=self._host_key,
        )

    def power_on(self) -> None:
        """Start the processors."""
        self.domain.resume()

    def wait_for_login(self) -> ConsoleLine:
        """Wait for the login prompt on the serial console; the error reports whether SSH answers."""
        try:
            return self._wait_for_login(self._tick)
        except WaitedInVain as error:
            if _prompt_lost(self.console.last_line):
                raise
            raise WaitedInVain(f"{error.args[0]}; {self._seen_from_outside()}", see=error.see) from None

    def wait_until_up(self) -> bool:
        """Wait for the login prompt, or for SSH if no prompt will come; return whether there is a prompt.

        A guest that has requested an address is running, even if its console is silent.
        """
        deadline = Deadline(BOOT_TIMEOUT_S * self.factor)
        next_look = Deadline(SSH_LOOK_EVERY_S)

        def tick() -> None:
            nonlocal next_look
            if self._tick is not None:
                self._tick()
            if next_look.passed and self.console.silent_s > CONSOLE_PAUSE_S * self.factor:
                if self._ssh_answers(self.domain.address()):
                    raise _SilentConsole
                next_look = Deadline(SSH_LOOK_EVERY_S)

        try:
            self._wait_for_login(tick)
        except _SilentConsole:
            return False
        except WaitedInVain as error:
            silent = self.console.silent_s > SILENCE_TIMEOUT_S * self.factor and self.domain.address() is not None
            if (silent or _prompt_lost(self.console.last_line)) and self._ssh_within(deadline.left_s):
                return False
            raise WaitedInVain(f"{error.args[0]}; {self._seen_from_outside()}", see=error.see) from None
        return True

    def _ssh_within(self, timeout_s: float) -> bool:
        """Return whether a guest answers by SSH in time, and without a sign that it is stuck."""

        def answers() -> bool | None:
            self._look_at_console()
            return True if self._ssh_answers(self.domain.address()) else None

        try:
            return poll(f"{self.name} by SSH", answers, timeout_s=timeout_s, every_s=SSH_LOOK_EVERY_S)
        except WaitedInVain:
            return False

    def _wait_for_login(self, tick: Callable[[], None] | None) -> ConsoleLine:
        return self.console.wait_for(
            "login prompt on the serial console",
            LOGIN.pattern,
            timeout_s=BOOT_TIMEOUT_S,
            silence_s=SILENCE_TIMEOUT_S,
            stretch=lambda: self.factor,
            give_up=self._cannot_boot,
            tick=tick,
        )

    def _seen_from_outside(self) -> str:
        """Return what the network shows of a guest without a login prompt, for an error message."""
        address = self.domain.address()
        if address is None:
            return "and it has not requested an address on the network"
        if self._ssh_answers(address):
            return (
                f"but SSH answers at {address}: the guest is up without a serial console"
                " (add console=ttyS0,115200 to its kernel command line)"
            )
        return f"and SSH does not answer at {address} either"

    def _ssh_answers(self, address: str | None) -> bool:
        """Return whether an SSH server answers at an address."""
        if address is None:
            return False
        try:
            timeout_s = BANNER_TIMEOUT_S * max(1.0, self.factor)
            with self._connect(address, self.domain.ssh_port, timeout_s) as connection:
                return connection.recv(4) == b"SSH-"
        except OSError:
            return False

    def connect(self) -> str:
        """Connect to the guest by SSH and return its boot id."""
        if self._shell is not None:
            self._shell.close()
            self._shell = None
        from .shells.ssh_shell import GONE, SshShell  # a guest without a network does not need it

        deadline = Deadline(SSH_TIMEOUT_S * self.factor)
        last: list[str] = []

        def attempt() -> Shell | None:
            self._look_at_console()
            address = self.domain.address()
            if address is None:
                last[:] = ["no DHCP lease yet"]
                return None
            try:
                timeout_s = min(10.0 * self._load(), max(1.0, deadline.left_s))
                return SshShell(
                    address,
                    user=self._user,
                    access=self._access,
                    host_key=self._host_key,
                    connect_timeout_s=timeout_s,
                    connection=self._connect(address, self.domain.ssh_port, timeout_s),
                    load=self._load,
                )
            except GONE as error:
                last[:] = [f"{address}: {error or type(error).__name__}"]
                return None

        try:
            self._shell = poll(f"{self.name} by SSH", attempt, timeout_s=deadline.timeout_s, every_s=0.5)
        except WaitedInVain as error:
            why = last[0] if last else "no attempt was made"
            if self._cloud_init_trouble:
                why += f"; cloud-init has failed: {self._cloud_init_trouble}"
            raise GuestError(f"{error} ({why})", see=self.evidence.console_path) from None
        self._shell.subscribe(self._log_command)
        return self.boot_id()

    @property
    def password(self) -> str | None:
        """The password of the guest's user, where the user of the harness gave one."""
        return self._access.password

    def write_ssh_config(self, directory: Path) -> Path:
        """Write a configuration of OpenSSH, with the guest's name as the host; return its path."""
        address, port = self.domain.address(), self.domain.ssh_port
        key_file = self._access.key_file
        if self._access.private_key:
            key_file = directory / "key"
            key_file.touch(mode=0o600)
            key_file.write_text(self._access.private_key, encoding="utf-8")
        lines = [f"Host {self.name}", f"HostName {address}", f"Port {port}", f"User {self._user}", "IdentityAgent none"]
        if key_file is not None:
            lines += [f'IdentityFile "{key_file.resolve()}"', "IdentitiesOnly yes"]
        if self._host_key is None:
            lines += ["StrictHostKeyChecking no", "UserKnownHostsFile /dev/null"]
        else:
            (directory / "known_hosts").write_text(f"{self.name} {self._host_key}\n", encoding="utf-8")
            lines += ["StrictHostKeyChecking yes", f'UserKnownHostsFile "{directory}/known_hosts"']
            lines += [f"HostKeyAlias {self.name}"]
        config = directory / "ssh_config"
        config.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return config

    def open_control_line(self) -> ControlLine:
        """Return the second serial line, by which a guest without a network is controlled."""
        source, send = self.domain.open_control_line()
        return ControlLine(source, send)

    def connect_by(self, line: ControlLine) -> None:
        """Give commands by a control line from now on."""
        self._shell = SerialShell(self.name, line, self._load)
        self._shell.subscribe(self._log_command)

    def boot_id(self) -> str:
        """Return the kernel's random identifier of this boot."""
        return self.shell.read_text("/proc/sys/kernel/random/boot_id").strip()

    def boot_until(self, pattern: str) -> ConsoleLine:
        """Reboot, close the SSH connection, and return the line of the console that PATTERN matches."""
        self.shell.start("systemctl reboot")
        self.close_shell()
        self._wait_for("restart of the guest", r"reboot: Restarting system")
        return self._wait_for(f"line like {pattern!r}", pattern)

    def _wait_for(self, what: str, pattern: str) -> ConsoleLine:
        return self.console.wait_for(
            what,
            pattern,
            timeout_s=BOOT_TIMEOUT_S,
            silence_s=SILENCE_TIMEOUT_S,
            stretch=lambda: self.factor,
            tick=self._tick,
        )

    def reboot(self) -> str:
        """Reboot and return the new boot id; GuestError if it did not change."""
        before = self.boot_id()
        self.shell.start("systemctl reboot")
        self._wait_for("restart of the guest", r"reboot: Restarting system")
        self.wait_for_login()
        after = self.connect()
        if after == before:
            raise GuestError(f"{self.name}: the boot id is still {before[:8]} after the reboot")
        return after

    def power_off(self) -> None:
        """Shut down and wait until the domain is gone."""
        with contextlib.suppress(GuestError):
            self.shell.start("systemctl poweroff")
        self.close_shell()
        with contextlib.suppress(GuestError):  # the end of the serial line is expected
            self._wait_for("power off", r"reboot: Power down")
        poll(
            f"{self.name} to power off",
            lambda: True if self.domain.state() == "gone" else None,
            timeout_s=POWER_OFF_TIMEOUT_S * self.factor,
            every_s=0.2,
        )

    def close_shell(self) -> None:
        """Close the SSH connection."""
        if self._shell is not None:
            self._shell.close()
            self._shell = None

    def destroy(self) -> None:
        """Close the SSH connection and destroy the domain."""
        self.close_shell()
        self.domain.destroy()

    def _cannot_boot(self, line: ConsoleLine) -> str | None:
        if self.domain.events.has("stopped"):
            return "the domain stopped"
        return boot_trouble(line)

    def _look_at_console(self) -> None:
        """Read the console while waiting for SSH: panics and signs of a stuck guest are errors."""
        while (line := self.console.read_line(timeout_s=0)) is not None:
            if reason := boot_trouble(line, by_ssh=True):
                raise GuestError(f"{self.name}: {reason}", see=self.evidence.console_path)
        if self._tick is not None:
            self._tick()

    def _note_cloud_init(self, line: ConsoleLine) -> None:
        """Remember cloud-init's first error: without cloud-init the guest lacks the key for the login."""
        if not self._cloud_init_trouble and _CLOUD_INIT_TROUBLE.search(line.text):
            self._cloud_init_trouble = line.text.strip()

    def _log_command(self, result: CommandResult) -> None:
        self.evidence.command(result.command, result.status, result.out, result.err, result.took_s)
