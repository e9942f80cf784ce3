"""A machine in place of a domain: its console is a command, and ssh's own settings reach it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from kdump_harness.base.clock import Deadline
from kdump_harness.base.errors import ConsoleLost, UsageError
from kdump_harness.vm import external
from kdump_harness.vm.console import Console
from kdump_harness.vm.external import ExternalMachine, access_by, known_key, ssh_settings

SSH = ("ssh", "-F", "/dev/null")


def lines_of(command: list[str], count: int) -> tuple[list[str], bytes]:
    """Return the first lines of a console, and all bytes of them."""
    seen = bytearray()
    machine = ExternalMachine("db1", "192.0.2.7", 22, command)
    console, deadline, lines = Console("db1", machine.open_console(seen.extend)), Deadline(20.0), []
    try:
        while len(lines) < count and not deadline.passed:
            if (line := console.read_line(timeout_s=0.2)) is not None:
                lines.append(line.text)
    finally:
        machine.destroy()
    return lines, bytes(seen)


def test_the_output_of_a_command_on_a_terminal_is_the_console() -> None:
    lines, seen = lines_of(["sh", "-c", "tty >/dev/null && echo it is a terminal; echo db1 >&2; sleep 9"], 2)
    assert lines == ["it is a terminal", "db1"]
    assert b"terminal\r\n" in seen


def test_a_command_that_ends_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(external, "AGAIN_S", 0.01)
    assert lines_of(["echo", "boot"], 3)[0] == ["boot"] * 3


def test_a_command_that_always_ends_at_once_is_not_a_console(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(external, "AGAIN_S", 0.01)
    with pytest.raises(ConsoleLost, match="the serial line ended; its last line was 'no such domain'"):
        lines_of(["echo", "no such domain"], 99)


def test_evidence_that_cannot_be_written_ends_the_console() -> None:
    def full(_data: bytes) -> None:
        raise OSError(28, "No space left on device")

    machine = ExternalMachine("db1", "192.0.2.7", 22, ["echo", "boot"])
    console = Console("db1", machine.open_console(full))
    with pytest.raises(OSError, match="No space left"):
        console.wait_for("a line", "never", timeout_s=20)
    machine.destroy()


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, list[str]]:
    """Return the settings of a machine with a key and a known host key."""
    for name in ("id", "host"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)]
        subprocess.run(command, check=True)
    host_key = " ".join((tmp_path / "host.pub").read_text().split()[:2])
    (tmp_path / "known").write_text(f"[192.0.2.7]:2222 {host_key}\nvault {host_key}\n", encoding="utf-8")
    config = tmp_path / "config"
    config.write_text(
        f"Host db1\n HostName 192.0.2.7\n Port 2222\n User admin\n IdentityFile {tmp_path}/missing\n"
        f" IdentityFile {tmp_path}/id\n UserKnownHostsFile {tmp_path}/known\n",
        encoding="utf-8",
    )
    return dict(ssh_settings(("ssh", "-F", str(config)), ("--", "db1")))


def test_keys_and_addresses_are_those_of_ssh(settings: dict[str, list[str]], tmp_path: Path) -> None:
    assert [settings[name][0] for name in ("hostname", "port", "user")] == ["192.0.2.7", "2222", "admin"]
    assert access_by(settings).key_file == tmp_path / "id"
    kind, blob = known_key("192.0.2.7", 2222, settings).split()
    assert f"{kind} {blob}" in (tmp_path / "host.pub").read_text()
    assert known_key("192.0.2.9", 22, {**settings, "hostkeyalias": ["vault"]}).endswith(blob)


def test_a_machine_without_a_known_host_key_or_a_key_file_is_refused(settings: dict[str, list[str]]) -> None:
    with pytest.raises(UsageError, match=r"the host key of 192\.0\.2\.9 is not known: log in once by ssh"):
        known_key("192.0.2.9", 22, settings)
    with pytest.raises(UsageError, match=r"ssh names no key file that exists for this machine \(--key FILE\)"):
        access_by({"identityfile": ["/nowhere/id"]})
