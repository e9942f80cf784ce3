"""Commands and files over SSH, against a server in this process that runs them here."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import paramiko
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from kdump_harness.base.errors import CommandFailed, UsageError
from kdump_harness.base.evidence import Evidence
from kdump_harness.vm.cloud_init import make_key
from kdump_harness.vm.shells.shell import Access, Shell
from kdump_harness.vm.shells.ssh_shell import SshShell

PASSWORD = "open sesame"
KEY = make_key("test")
# A fake sudo: it accepts the options of the shell, and reads a required password as the first line of input.
SUDO = """#!/bin/sh
while :; do
    case $1 in
    -n) never_ask=1; shift ;;
    -S) from_input=1; shift ;;
    -k) shift ;;
    -p) shift 2 ;;
    *) break ;;
    esac
done
test -n "$SUDO_ASKS" || exec "$@"
if test -n "$never_ask" || test -z "$from_input"; then echo 'sudo: a password is required' >&2; exit 1; fi
IFS= read -r password
test "$password" = "$SUDO_ASKS" || { echo 'Sorry, try again.' >&2; exit 1; }
exec "$@"
"""


class Server(paramiko.ServerInterface):
    """A server that accepts the key or the password and runs commands."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment
        self.commands: list[str] = []

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return paramiko.OPEN_SUCCEEDED

    def check_auth_password(self, username: str, password: str) -> int:
        return paramiko.AUTH_SUCCESSFUL if password == PASSWORD else paramiko.AUTH_FAILED

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        return paramiko.AUTH_SUCCESSFUL if key.get_base64() == KEY.public.split()[1] else paramiko.AUTH_FAILED

    def get_allowed_auths(self, username: str) -> str:
        return "publickey,password"

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        self.commands.append(command.decode())
        threading.Thread(target=self._run, args=(channel, command.decode()), daemon=True).start()
        return True

    def _run(self, channel: paramiko.Channel, command: str) -> None:
        with contextlib.suppress(OSError, EOFError):  # the client may hang up at any time
            # Its answer is read by the thread that confirms the request, so no output overtakes the confirmation.
            channel.get_transport().global_request("settled@kdump-harness", wait=True)
            self._serve(channel, command)

    def _serve(self, channel: paramiko.Channel, command: str) -> None:
        process = subprocess.Popen(
            ["sh", "-c", command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.environment,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        feeding = threading.Thread(target=self._feed, args=(channel, process.stdin), daemon=True)
        feeding.start()
        with process.stdout, process.stderr:  # closed even where closing the channel fails, too
            try:
                while data := process.stdout.read1(1 << 16):  # type: ignore[attr-defined]
                    channel.sendall(data)
                channel.sendall_stderr(process.stderr.read())
                channel.send_exit_status(process.wait())
            finally:
                channel.close()
                feeding.join(timeout=60)
        process.wait()

    def _feed(self, channel: paramiko.Channel, to: Any) -> None:
        try:
            while data := channel.recv(1 << 16):
                to.write(data)
                to.flush()
        except OSError:  # the command did not read it
            return
        finally:
            with contextlib.suppress(OSError):
                to.close()


@pytest.fixture
def connect(tmp_path: Path) -> Iterator[Callable[..., Shell]]:
    """Open a shell to a fresh server; sudo_asks is the password of its sudo."""
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "sudo").write_text(SUDO)
    (tools / "sudo").chmod(0o755)
    closing: list[Callable[[], object]] = []

    def open_shell(
        *, user: str, access: Access, sudo_asks: str = "", host_key: str | None = None, way: list[Any] | None = None
    ) -> Shell:
        listener = socket.create_server(("127.0.0.1", 0))
        server = Server({"PATH": f"{tools}:/usr/bin:/bin", "SUDO_ASKS": sudo_asks})
        # paramiko 3 makes no ed25519 keys; this one is in OpenSSH's format.
        key = paramiko.Ed25519Key.from_private_key_file(str(write_key(tmp_path / "host")))

        def serve() -> None:
            connection, _ = listener.accept()
            transport = paramiko.Transport(connection)
            closing.append(transport.close)
            transport.add_server_key(key)
            # With an event it does not wait: a client that is refused may have left before the wait looks.
            transport.start_server(threading.Event(), server)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            port = listener.getsockname()[1]
            if way is not None:  # to a host that has another address as seen from here
                way.append(socket.create_connection(("127.0.0.1", port)))
            shell = SshShell(
                "127.0.0.1" if way is None else "192.0.2.7",
                user=user,
                access=access,
                host_key=host_key,
                port=port if way is None else 22,
                connection=way[0] if way is not None else None,
            )
        finally:
            thread.join(timeout=60)
            listener.close()
        closing.append(shell.close)
        shell.server = server  # type: ignore[attr-defined]
        return shell

    yield open_shell
    for close in reversed(closing):
        close()


def write_key(path: Path, *, passphrase: bytes | None = None) -> Path:
    encryption: Any = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    path.write_bytes(
        Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, encryption
        )
    )
    return path


def test_root_with_the_key_of_the_run_needs_no_sudo(connect: Any) -> None:
    shell = connect(user="root", access=Access(private_key=KEY.private))
    assert shell.run("echo %s; echo no >&2; exit 3", "a b'c", check=False).out == "a b'c\n"
    assert not [command for command in shell.server.commands if "sudo" in command]
    with pytest.raises(CommandFailed, match="'exit 3' ended with status 3: no output"):
        shell.run("exit 3")


def test_a_guest_is_reached_by_a_connection_that_others_made_which_ends_with_a_refusal(connect: Any) -> None:
    way: list[socket.socket] = []
    assert connect(user="root", access=Access(private_key=KEY.private), way=way).run("echo hello").out == "hello\n"
    refused: list[socket.socket] = []
    with pytest.raises(paramiko.AuthenticationException):
        connect(user="root", access=Access(password="wrong"), way=refused)
    assert refused[0].fileno() == -1


def test_the_last_line_is_shown_while_a_command_runs(connect: Any) -> None:
    shell = connect(user="root", access=Access(private_key=KEY.private))
    seen: list[str] = []
    shell.run("echo one; sleep 0.3; printf '10%%\\r 90%%\\r'; sleep 0.3; echo; echo three", on_line=seen.append)
    assert list(dict.fromkeys(seen))[:2] == ["one", "90%"]


@pytest.mark.parametrize("sudo_asks", ["", PASSWORD])
def test_a_login_with_a_password_becomes_root_and_writes_files(connect: Any, tmp_path: Path, sudo_asks: str) -> None:
    """The password is never part of the input of a command, even if sudo does not need it."""
    shell = connect(user="admin", access=Access(password=PASSWORD), sudo_asks=sudo_asks)
    assert shell.run("echo hello").out == "hello\n"
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.write_bytes(bytes(range(256)) * 10_000)
    shell.put(source, str(copy))
    assert copy.read_bytes() == source.read_bytes()
    assert copy.stat().st_mode & 0o777 == 0o600
    assert shell.fetch(str(source), tmp_path / "back") == source.stat().st_size
    assert (tmp_path / "back").read_bytes() == source.read_bytes()
    assert not [command for command in shell.server.commands if PASSWORD in command]


def test_a_planted_password_is_in_no_evidence_and_on_no_command_line(connect: Any, tmp_path: Path) -> None:
    evidence = Evidence(tmp_path / "evidence")
    shell = connect(user="admin", access=Access(password=PASSWORD), sudo_asks=PASSWORD)
    shell.subscribe(lambda done: evidence.command(done.command, done.status, done.out, done.err, done.took_s))
    shell.run("cat /proc/self/cmdline; env")
    with pytest.raises(CommandFailed) as caught:
        shell.run("env; exit 3")
    evidence.event("failed", error=str(caught.value), shell=repr(shell), access=repr(Access(password=PASSWORD)))
    evidence.close()
    told = b"".join(path.read_bytes() for path in evidence.directory.rglob("*") if path.is_file())
    told += b"".join(path.read_bytes() for path in Path("/proc/self").glob("cmdline"))
    assert b"exit 3" in told
    assert PASSWORD.encode() not in told.replace(b"SUDO_ASKS=" + PASSWORD.encode(), b"")  # of the fake server


def test_a_secret_is_written_without_a_trace(connect: Any, tmp_path: Path) -> None:
    evidence = Evidence(tmp_path / "evidence")
    shell = connect(user="root", access=Access(private_key=KEY.private))
    shell.subscribe(lambda done: evidence.command(done.command, done.status, done.out, done.err, done.took_s))
    shell.write_secret(str(tmp_path / "key"), KEY.private)
    assert (tmp_path / "key").read_text() == KEY.private
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    assert shell.run("cat %s", tmp_path / "key").out == KEY.private
    with pytest.raises(CommandFailed) as caught:
        shell.run("FTP_PASSWORD=%s; exit 3", PASSWORD)
    evidence.close()
    shown = (tmp_path / "evidence" / "commands.log").read_text() + str(caught.value)
    secret = KEY.private.splitlines()[2]
    assert secret not in shown
    assert secret not in "".join(shell.server.commands)
    assert PASSWORD not in shown
    assert "exit 3" in shown


def test_a_wrong_password_is_refused(connect: Any) -> None:
    with pytest.raises(paramiko.AuthenticationException):
        connect(user="admin", access=Access(password="wrong"))


def test_a_key_file_lets_in(connect: Any, tmp_path: Path) -> None:
    path = tmp_path / "id"
    path.write_text(KEY.private)
    access = Access(key_file=path)
    access.check()
    assert connect(user="root", access=access).run("echo yes").out == "yes\n"


def test_a_file_that_cannot_be_written_is_named(connect: Any, tmp_path: Path) -> None:
    shell = connect(user="root", access=Access(private_key=KEY.private))
    with pytest.raises(CommandFailed, match=r"cannot write /nowhere/x \(status "):
        shell.put(write_key(tmp_path / "file"), "/nowhere/x")


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, r"cannot read .*: No such file"), (b"hello\n", "is not a private key for SSH")],
)
def test_a_key_file_that_is_none_is_refused_at_once(tmp_path: Path, content: bytes | None, reason: str) -> None:
    path = tmp_path / "id"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=reason):
        Access(key_file=path).check()


def test_a_key_with_a_passphrase_is_refused_at_once(tmp_path: Path) -> None:
    pytest.importorskip("bcrypt")
    with pytest.raises(UsageError, match="has a passphrase"):
        Access(key_file=write_key(tmp_path / "id", passphrase=b"x")).check()


def test_nothing_secret_is_shown() -> None:
    assert PASSWORD not in repr(Access(password=PASSWORD, private_key=KEY.private))
    assert "PRIVATE" not in repr(Access(private_key=KEY.private))
