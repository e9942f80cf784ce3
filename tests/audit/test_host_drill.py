"""Drills of machines that exist: what is refused before the crash."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from audit_factory import SOUND
from kdump_harness.__main__ import main
from kdump_harness.audit import host_drill, run
from kdump_harness.base.errors import GuestError
from kdump_harness.base.evidence import Evidence
from kdump_harness.distro.family import Family

DRILL = host_drill._drill
HOST = ["drill", "--host", "root@web1", "--console", "cat", "--history", "none"]


class Replay:
    """A connection that gives the answers of a sound machine, or of one without its capture kernel."""

    changes: dict[str, str] = {}  # noqa: RUF012

    def __init__(self, _host: run.Host, **_: object) -> None:
        return

    def __enter__(self) -> Replay:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def ask(self, commands: dict[str, str]) -> dict[str, str]:
        return {name: {**SOUND, **self.changes}.get(name, "") for name in commands}


@pytest.fixture(autouse=True)
def crashes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Replace the connections and the crash; return the machines that were crashed."""
    found: list[str] = []

    def drill(_arguments: object, host: run.Host, _facts: object, _audited: object, family: Family) -> Any:
        assert family.releases
        found.append(host.name)
        raise GuestError("crashed")

    monkeypatch.setattr(run, "Connection", Replay)
    monkeypatch.setattr(Replay, "changes", {})
    monkeypatch.setattr(host_drill, "_drill", drill)
    monkeypatch.chdir(tmp_path)
    return found


def test_a_sound_machine_is_audited_and_crashed(crashes: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*HOST, "--yes-crash", "web1"]) == 4
    assert crashes == ["root@web1"]
    assert "READY" in capsys.readouterr().out


def test_a_machine_that_calls_itself_otherwise_is_not_crashed(
    crashes: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*HOST, "--yes-crash", "web2"]) == 2
    assert "--yes-crash names another machine: got 'web2', and root@web1 calls itself 'web1'" in capsys.readouterr().err
    assert not crashes


def test_a_machine_that_will_fail_is_crashed_only_on_request(
    crashes: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Replay, "changes", {"loaded": "0", "says": ""})
    assert main([*HOST, "--yes-crash", "web1"]) == 1
    assert "root@web1 was not crashed: capture-kernel-unloaded" in capsys.readouterr().err
    assert not crashes
    assert main([*HOST, "--yes-crash", "web1", "--anyway"]) == 4
    assert crashes


def test_a_machine_that_cannot_be_audited_is_not_crashed(
    crashes: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Replay, "changes", {"system": "Darwin"})
    assert main([*HOST, "--yes-crash", "web1"]) == 3
    assert "root@web1 was not audited, so it is not crashed: it is not a Linux host" in capsys.readouterr().err
    assert not crashes


@pytest.mark.parametrize(
    ("answers", "command", "said"),
    [
        ([True], "touch {}", "the machine answers, so it was not reset by 'touch {}'"),
        (
            [False, True, True],
            "touch {}",
            "the machine did not come back by itself, and was reset by 'touch {}': it answers again",
        ),
        ([False, False], "touch {}", "the machine did not come back after 'touch {}': no answer"),
        ([False], "false {}", "the machine did not come back, and 'false {}' ended with status 1"),
        ([False], "/nowhere/reset {}", "the machine did not come back, and '/nowhere/reset {}' could not reset it: "),
    ],
)
def test_only_a_machine_that_does_not_answer_is_reset(
    answers: list[bool], command: str, said: str, tmp_path: Path
) -> None:
    reset = tmp_path / "reset"

    def answer() -> str:
        if not answers.pop(0):
            raise GuestError("no answer")
        return "boot"

    guest: Any = SimpleNamespace(connect=answer, wait_until_up=answer)
    with contextlib.closing(Evidence(tmp_path / "evidence")) as evidence:
        assert host_drill._reset(command.format(reset), guest, evidence).startswith(said.format(reset))
    assert reset.exists() is ("touch" in command and "answers, so" not in said)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ([], "the dumps go to dump@vault:/srv: --dumps-on USER@HOST:DIRECTORY says where to read them"),
        (["--dumps-on", "vault"], "invalid --dumps-on: got 'vault', expected USER@HOST:/DIRECTORY"),
        (["--dumps-on", "root@vault.invalid:/srv"], "the host key of vault.invalid is not known"),
    ],
)
def test_a_machine_that_sends_its_dumps_is_not_crashed_where_they_cannot_be_read(
    arguments: list[str], why: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = "USE_KDUMP=1\nSSH=dump@vault\nKDUMP_COREDIR=/srv\n"
    monkeypatch.setattr(Replay, "changes", {"config": config})
    monkeypatch.setattr(host_drill, "_drill", DRILL)
    key = tmp_path / "key"
    key.touch()
    options = ["--yes-crash", "web1", "--anyway", "--key", str(key), "--ssh", "ssh -F /dev/null"]
    assert main([*HOST, *options, *arguments]) == 2
    assert why in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--host", "web1"], "--host needs --yes-crash"),
        (["--host", "web1", "--console", "cat"], "--host needs --yes-crash"),
        (["--host", "-oProxyCommand=x", "--console", "cat", "--yes-crash", "x"], "expected one argument"),
        (["--host", "a b", "--console", "cat", "--yes-crash", "x"], "--host: "),
        (["--host", "web1", "--console", "'", "--yes-crash", "x"], '--console "\'" is not a command'),
        (["--host", "web1", "--console", "c", "--yes-crash", "x", "--reset", "'"], '--reset "\'" is not a command'),
        (["--host", "web1", "--console", "c", "--yes-crash", "x", "--trigger", "nmi"], "nmi cannot crash a machine"),
        (["--host", "web1", "--console", "c", "--yes-crash", "x", "--memory", "2G"], "--memory cannot go with --host"),
        (["--host", "web1", "--console", "c", "--yes-crash", "x", "--oracle"], "--oracle cannot go with --host"),
        (["--host", "web1", "--console", "c", "--yes-crash", "x", "--until", "saved"], "--until saved cannot go"),
        (["debian-12", "--reset", "x"], "--reset is for --host"),
    ],
)
def test_bad_input_is_one_sentence_and_crashes_nothing(
    arguments: list[str], why: str, crashes: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status = main(["drill", *arguments])
    except SystemExit as error:  # argparse's own
        status = int(str(error.code))
    assert status == 2
    assert why in capsys.readouterr().err
    assert not crashes
