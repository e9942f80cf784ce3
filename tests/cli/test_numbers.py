"""Numbers that Python refuses, or takes for digits, are a sentence and status 2 wherever an option takes a number."""

from __future__ import annotations

from pathlib import Path

import pytest
from kdump_harness.__main__ import main

MANY = "9" * 5000


@pytest.mark.parametrize(
    "words",
    [
        ("drill", "debian-12", "--trigger", "sysrq-c@{}"),
        ("drill", "debian-12", "--level", "{}"),
        ("drill", "debian-12", "--crashkernel", "{}M"),
        ("drill", "debian-12", "--memory", "{}"),
        ("drill", "debian-12", "--vcpus", "{}"),
        ("sweep", "debian-12", "--levels", "{}"),
        ("sweep", "debian-12", "--real", "{}"),
        ("sweep", "debian-12", "--jobs", "{}"),
        ("size", "debian-12", "--memory", "{}"),
        ("size", "debian-12", "--vcpus", "{}"),
        ("kernel", "host", "--level", "{}"),
        ("kernel", "host", "--memory", "{}"),
        ("store", "prune", "--keep-days", "{}"),
    ],
    ids=lambda words: " ".join(words).replace("{}", "N"),
)
@pytest.mark.parametrize("number", ["²", MANY, "-1"], ids=["superscript", "5000 digits", "negative"])
def test_a_number_that_is_not_one_is_a_sentence(
    words: tuple[str, ...],
    number: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("KDUMP_HARNESS_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("LIBVIRT_DEFAULT_URI", f"qemu+unix:///system?socket={tmp_path}/nobody-listens")
    monkeypatch.chdir(tmp_path)
    try:
        status: object = main([word.format(number) for word in words])
    except SystemExit as end:  # of argparse
        status = end.code
    told = capsys.readouterr().err
    assert (status, "Traceback" in told) == (2, False), told[-300:]
    assert len(told.splitlines()[-1]) < 6000
