"""One connection to a host, by a program in place of ssh."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

import pytest
from kdump_harness.audit.asking.connection import ANSWER_BYTES_MAX, OUTPUT_BYTES_MAX, Connection, Unaudited
from kdump_harness.audit.asking.inventory import Host
from kdump_harness.audit.asking.questions import about_kdump
from kdump_harness.distro.family import find_family
from kdump_harness.kdump.guest_state import read_state

LOCAL = Host(name="here", local=True)


def open_connection(tmp_path: Path, program: str, *, timeout_s: float = 20.0) -> Connection:
    """Return a connection by a program that is started as ssh would be."""
    ssh = tmp_path / "ssh"
    ssh.write_text(f"#!/bin/sh\nprintf '%s\\n' \"$@\" > {tmp_path}/asked\n{program}\n", encoding="utf-8")
    ssh.chmod(0o755)
    host = Host(name="far", user="ops", port=2222)
    return Connection(host, ssh=[str(ssh)], connect_timeout_s=3.0, timeout_s=timeout_s)


def test_questions_are_answered_by_name_over_one_connection(tmp_path: Path) -> None:
    program = 'while [ $# -gt 1 ]; do shift; done; exec sh -c "$1"'
    with open_connection(tmp_path, program) as connection:
        first = connection.ask({"two": "echo 1; echo 2", "error": "echo no >&2; false", "input": "cat"})
        second = connection.ask({"quoted": "printf '%s' \"it's\"", "control": "printf 'a\\033[2Jb\\r'"})
    assert first == {"two": "1\n2", "error": "no", "input": ""}
    assert second == {"quoted": "it's", "control": "a�[2Jb"}
    asked = (tmp_path / "asked").read_text().splitlines()
    assert asked[:3] == ["-T", "-o", "BatchMode=yes"]
    assert "ConnectTimeout=3" in asked
    assert asked[-6:-1] == ["-l", "ops", "-p", "2222", "--"] or "--" in asked


def test_the_questions_about_kdump_are_understood_by_a_shell() -> None:
    with Connection(LOCAL, connect_timeout_s=3, timeout_s=60) as connection:
        answers = connection.ask(about_kdump(find_family("debian"), "6.1"))
    assert answers["kernel"] == platform.release()
    assert answers["meminfo"].startswith("MemTotal:")
    assert read_state(answers, find_family("debian")).meminfo_kib["MemTotal"]
    assert not [name for name, text in answers.items() if ": not found" in text and "show" in text]


def test_a_long_output_is_cut_and_a_stuck_command_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdump_harness.audit.asking.connection._PROLOGUE", "t='timeout -k 1 1'\n")
    with Connection(LOCAL, connect_timeout_s=3, timeout_s=20) as connection:
        answers = connection.ask({"zeros": "yes 0123456", "stuck": "echo before; sleep 60", "after": "echo done"})
    assert len(answers["zeros"]) == OUTPUT_BYTES_MAX - 1
    assert answers["stuck"] == "before"
    assert answers["after"] == "done"


@pytest.mark.parametrize(
    ("program", "why"),
    [
        (
            "echo 'ops@far: Permission denied (publickey).' >&2; exit 255",
            "it refuses the ssh login: ops@far: Permission",
        ),
        ("echo 'Host key verification failed.' >&2; exit 255", "it has an unknown host key"),
        (
            "echo 'WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!' >&2; echo 'Host key' >&2; exit 255",
            "it has a host key that does not match known_hosts",
        ),
        (
            "echo 'ssh: connect to host far port 22: Connection refused' >&2; exit 255",
            "it cannot be reached by ssh: ssh: ",
        ),
        ("echo 'This account is not available.'; exit 1", "its shell ended before it had answered: exit status 1"),
        ("exec yes 'answers that lie'", f"its answers are longer than {ANSWER_BYTES_MAX >> 20} MiB"),
    ],
)
def test_a_host_that_cannot_be_asked_says_why(tmp_path: Path, program: str, why: str) -> None:
    with open_connection(tmp_path, program) as connection, pytest.raises(Unaudited) as raised:
        connection.ask({"system": "uname -s"})
    assert str(raised.value).startswith(why)


def test_a_host_that_never_answers_is_left_and_its_process_ends(tmp_path: Path) -> None:
    connection = open_connection(tmp_path, f"echo $$ > {tmp_path}/pid; exec sleep 600", timeout_s=0.5)
    with connection, pytest.raises(Unaudited, match="it did not answer within"):
        connection.ask({"system": "uname -s"})
    pid = (tmp_path / "pid").read_text().strip()
    assert subprocess.run(["kill", "-0", pid], capture_output=True).returncode


def test_a_missing_ssh_is_named() -> None:
    with pytest.raises(Unaudited, match="cannot start /nowhere/ssh: No such file"):
        Connection(Host(name="far"), ssh=["/nowhere/ssh"], connect_timeout_s=3, timeout_s=3)


def test_the_shell_is_roots_only_where_sudo_needs_no_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fake id and sudo stand for a user: sudo that refuses leaves the user's shell."""
    for name, text in (
        ("id", "echo 1000"),
        ("sudo", '[ -e $0.allowed ] || exit 1; shift; echo as-root >&2; exec "$@"'),
    ):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with Connection(LOCAL, connect_timeout_s=3, timeout_s=20) as connection:
        assert connection.ask({"system": "uname -s"}) == {"system": "Linux"}
    (tmp_path / "sudo.allowed").touch()
    with Connection(LOCAL, connect_timeout_s=3, timeout_s=20) as connection:
        assert connection.ask({"system": "uname -s"}) == {"system": "Linux"}
        assert b"as-root" in connection._said
