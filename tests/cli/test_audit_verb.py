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
        (["web", "--before", "/nowhere/x.json"], "/nowhere/x.json cannot be read"),
        (["web", "--before", "/proc/self/status"], "/proc/self/status is not the JSON of an audit"),
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


def test_changes_since_an_earlier_audit_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "audit.json"
    assert audit("good", "bad", "--json", str(file)) == 1
    earlier = json.loads(file.read_text())
    earlier["hosts"][0]["facts"] |= {"kernel": "6.1.0-56-amd64", "firmware": None}
    earlier["hosts"][1] |= {"answer": "ready", "reasons": [{"name": "permissions", "severity": "risk"}]}
    file.write_text(json.dumps(earlier))
    assert audit("good", "bad", "other", "--before", str(file), "--json", str(file)) == 1
    good, bad, other = (host["changes"] for host in json.loads(file.read_text())["hosts"])
    assert good == [f"kernel: 6.1.0-56-amd64 became {SOUND['kernel']}", "firmware: nothing became 1.16.2 04/01/2014"]
    assert bad == ["ready became will fail", "new: capture-kernel-unloaded", "gone: permissions"]
    assert other == ["not in the earlier audit"]
    assert "since the earlier audit: ready became will fail" in capsys.readouterr().out


def test_the_answers_are_metrics(tmp_path: Path) -> None:
    file = tmp_path / "kdump.prom"
    assert audit("good", "bad", "--metrics", str(file)) == 1
    text = file.read_text()
    assert 'kdump_audit_answer{host="bad",answer="will fail"} 1' in text
    assert 'kdump_audit_answer{host="good",answer="will fail"} 0' in text
    assert 'kdump_audit_reason{host="bad",reason="capture-kernel-unloaded",severity="failure"} 1' in text
