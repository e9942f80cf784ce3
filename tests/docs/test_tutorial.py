"""Each block of commands of docs/tutorial.md prints what the page shows; the others are valid commands."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
from kdump_harness.__main__ import main, make_parser
from layers import ROOT

PAGE = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
DATA = ROOT / "tests" / "data"
RUN = re.findall(r"```sh\n(.*?)```\n\n```text\n(.*?)```", PAGE, flags=re.DOTALL)
SHOWN = re.findall(r"```\n((?:(?!```).)*?)```", re.sub(r"```(?:sh|text)\n.*?```", "", PAGE, flags=re.DOTALL), re.DOTALL)


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files that a reader has."""
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(DATA / "vmcore" / "zlib.kdump", "vmcore")
    Path("cut").write_bytes(Path("vmcore").read_bytes()[:-5000])
    shutil.copyfile(DATA / "consoles" / "rhel-96m-oom.log", "console.log")
    shutil.copyfile(DATA / "verdicts" / "debian-12.json", "verdict.json")
    monkeypatch.setenv("KDUMP_HARNESS_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("COLUMNS", "200")


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize(("commands", "printed"), RUN, ids=[text.splitlines()[0] for text, _ in RUN])
def test_the_commands_print_what_the_page_shows(
    commands: str, printed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for line in commands.splitlines():
        command, _, comment = line.partition("#")
        words = shlex.split(command)
        assert words[0] == "kdump-harness"
        expected = re.fullmatch(r" exit status (\d)", comment)
        assert main(words[1:]) == (int(expected[1]) if expected else 0)
    lines = iter(capsys.readouterr().out.splitlines())
    for wanted in printed.splitlines():
        assert any(wanted in line for line in lines), f"not printed, or not in this order: {wanted}"


def test_the_other_commands_are_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = [shlex.split(line) for block in SHOWN for line in block.splitlines()]
    ours = [words for words in commands if words[0] == "kdump-harness"]
    assert len(RUN) == 5
    assert len(ours) == 6
    for words in ours:
        make_parser(words[1]).parse_args(words[1:])
