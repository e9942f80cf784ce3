"""The verb audit on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from audit_factory import SOUND
from kdump_harness.__main__ import main
from kdump_harness.audit import run


class Replay:
    """A connection that gives the answers of a sound machine, or of one without its capture kernel."""

    def __init__(self, host: run.Host, **_: object) -> None:
        self._loaded = "0" if host.name == "bad" else "1"

    def __enter__(self) -> Replay:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def ask(self, commands: dict[str, str]) -> dict[str, str]:
        return {name: {**SOUND, "loaded": self._loaded}.get(name, "") for name in commands}


@pytest.fixture(autouse=True)
def replay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the connections."""
    monkeypatch.setattr(run, "Connection", Replay)


def audit(*arguments: str) -> int:
    """Run the verb without a history."""
    return main(["audit", "--history", "none", *arguments])


def test_each_machine_has_a_line_while_it_goes_on_and_its_reasons_at_the_end(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert audit("good", "bad") == 1
    printed = capsys.readouterr()
    assert sorted(line[4:] for line in printed.err.splitlines())[1] == "good: ready"
    assert "bad: will fail: capture-kernel-unloaded: kexec_crash_loaded is 0" in printed.err
    assert "2 machines in" in printed.out
    assert "→ systemctl restart kdump-tools.service" in printed.out


def test_the_result_is_written_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert audit("good", "--quiet", "--json", "-") == 0
    printed = capsys.readouterr()
    (host,) = json.loads(printed.out)["hosts"]
    assert (host["answer"], host["facts"]["machine_id"]) == ("ready", SOUND["machine_id"])
    assert not printed.err


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ([], "audit needs a machine: name hosts, --inventory FILE or --local"),
        (["web", "--ssh", "'"], '--ssh "\'" is not a command'),
        (["web", "--ssh", ""], "--ssh is empty"),
        (["--inventory", "/nowhere/hosts"], "/nowhere/hosts cannot be read"),
        (["web", "--json", "/nowhere/x.json"], "/nowhere/x.json cannot be written"),
    ],
)
def test_bad_input_is_one_sentence(arguments: list[str], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit(*arguments) == 2
    printed = capsys.readouterr().err
    assert why in printed
    assert len(printed.splitlines()) == 1


def test_a_slip_in_the_inventory_is_a_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "hosts").write_text("good\nevil\x1b[2J\n", encoding="utf-8")
    assert audit("--inventory", str(tmp_path / "hosts")) == 4
    printed = capsys.readouterr()
    assert "\x1b" not in printed.err + printed.out
    assert "is not the name or address of a host" in printed.err
