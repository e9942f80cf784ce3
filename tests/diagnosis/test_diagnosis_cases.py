"""Packed logs are read, other files are refused, and the files of one crash get one answer."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from kdump_harness.base.errors import TableError, UsageError
from kdump_harness.base.stage import Stage
from kdump_harness.diagnosis import diagnose_case, diagnose_file, diagnose_text
from test_diagnosis_modes import ARMED_CRASH, CAPTURE_BOOT, CRASHED, FIRST_BOOT, NEXT_BOOT, REDHAT, REDHAT_SAVED

DATA = Path(__file__).parents[1] / "data"
CONSOLE = CRASHED + CAPTURE_BOOT + REDHAT_SAVED + NEXT_BOOT
SYSLOG = "Mar  1 10:00:0{} sut kdumpctl[800]: kdump: {}\n"
CHANGE_LOG = b"""\
linux (6.1.1-1) stable; urgency=medium

  * New upstream stable update:
    - kdump: update the list of segments before kexec -p
    - [arm64] efi: keep the memory map for kdump
    - NFS: clear the inode cache when lookup failed
    - nvme: report the error when the controller is gone
    - kexec: fix the case in which no kernel is loaded

 -- A Maintainer <maintainer@example.org>  Sat, 07 Nov 2026 10:11:12 +0100
"""
NOT_ARMED = SYSLOG.format(1, "No memory reserved for crash kernel") + SYSLOG.format(2, "Starting kdump: [FAILED]")


@pytest.mark.parametrize(
    "packed",
    [
        gzip.compress,
        bz2.compress,
        lzma.compress,
        lambda text: text.decode().encode("utf-16"),
        lambda text: text.decode().encode("utf-16-le"),
        lambda text: b"\xef\xbb\xbf" + text,
    ],
    ids=["gzip", "bzip2", "xz", "utf-16", "utf-16-le", "utf-8-mark"],
)
def test_a_log_is_read_whatever_its_packing(tmp_path: Path, packed: Callable[[bytes], bytes]) -> None:
    text = (DATA / "consoles" / "rhel-96m-oom.log").read_bytes()
    path = tmp_path / "console.log"
    path.write_bytes(packed(text))
    assert diagnose_file(path).to_json() == diagnose_file(DATA / "consoles" / "rhel-96m-oom.log").to_json()


def test_a_log_with_a_list_in_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "console.log"
    path.write_text("Steps:\n" + "- start the guest, and crash it\n" * 6 + CONSOLE, encoding="utf-8")
    assert diagnose_file(path).mode == "ok"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (os.urandom(1 << 16), "is not a text"),
        (b"\x7fELF\2\1\1" + bytes(200), "is not a log"),
        (b"root:x:0:0:root:/root:/bin/bash\nsystemd-network:x:998:998::/:/usr/sbin/nologin\n", "is not a log"),
        (b"KDUMP   \6\0\0\0" + bytes(200), "inspect"),
        (gzip.compress(b"[ 1.0] Linux version 6.1\n" * 99)[:-9], "cannot be unpacked"),
        (b"\x1f\x8b" + os.urandom(99), "cannot be"),
        (CHANGE_LOG, "is a document with lists, not a log"),
        (gzip.compress(CHANGE_LOG), "is a document with lists, not a log"),
        (b"#!/bin/sh\necho 'kdump: kexec: failed to load kdump kernel'\n", "is a script, not a log"),
    ],
    ids=["random", "program", "passwd", "dump", "cut", "damaged", "change log", "packed change log", "script"],
)
def test_a_file_that_is_not_a_log_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=said) as caught:
        diagnose_file(path)
    assert "\n" not in str(caught.value)


def case(folder: Path, files: dict[str, str]) -> Path:
    """Write the files of one crash, and return their folder."""
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def test_the_logs_of_a_good_crash_are_one_good_answer(tmp_path: Path) -> None:
    failed_first = SYSLOG.format(1, "Starting kdump: [FAILED]") + SYSLOG.format(2, "Starting kdump: [OK]")
    logs = {"console.log": CONSOLE, "journal.txt": failed_first, "vmcore-dmesg.txt": FIRST_BOOT + ARMED_CRASH}
    found = diagnose_case([case(tmp_path, logs)])
    assert (found.mode, found.stage, found.failed) == ("ok", Stage.RECOVERED, False), found.explain()
    # The log of the dump alone does not show what followed.
    assert diagnose_file(tmp_path / "vmcore-dmesg.txt").mode == "indeterminate"


def test_a_kernel_that_does_not_arm_next_time_is_a_warning_after_a_dump(tmp_path: Path) -> None:
    found = diagnose_case([case(tmp_path, {"console.log": CONSOLE, "journal.txt": NOT_ARMED})])
    assert (found.mode, found.failed) == ("ok", False)
    reported = [(one.name, one.severity, one.file) for one in found.symptoms]
    assert reported == [("no-reserved-memory", "warning", "journal.txt")]


def test_the_cause_in_one_file_explains_the_panic_in_another(tmp_path: Path) -> None:
    panic = (FIRST_BOOT + ARMED_CRASH).replace("Kdump: loaded ", "") + "[  713.0] Rebooting in 10 seconds..\n"
    folder = case(tmp_path, {"console.log": panic, "journal.txt": NOT_ARMED})
    found = diagnose_case([folder / "console.log", folder / "journal.txt"])
    assert [(one.name, one.file) for one in found.symptoms] == [
        ("no-reserved-memory", "journal.txt"),
        ("panic-without-kdump", "console.log"),
    ]


def test_a_console_that_ends_too_early_is_overruled_by_the_whole_dump(tmp_path: Path) -> None:
    console = CRASHED + CAPTURE_BOOT + REDHAT + "Copying data   : [ 47.3 %] /\r"
    folder = case(tmp_path, {"console.log": console, "verdict.json": '{"line": "Kernel panic - not syncing"}'})
    assert diagnose_case([folder]).mode == "poweroff-mid-dump"
    shutil.copy(DATA / "vmcore" / "zlib.kdump", folder / "vmcore")
    whole = diagnose_case([folder])
    assert (whole.mode, whole.stage) == ("ok", Stage.SAVED), whole.explain()
    (folder / "vmcore").write_bytes((folder / "vmcore").read_bytes()[:9000])
    damaged = diagnose_case([folder])
    assert (damaged.mode, damaged.symptoms[0].file) == ("dump-truncated", "vmcore")


def test_a_case_without_a_log_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no file"):
        diagnose_case([tmp_path])
    (tmp_path / "noise").write_bytes(os.urandom(4096))
    with pytest.raises(UsageError, match="has no log"):
        diagnose_case([tmp_path])
    with pytest.raises(UsageError, match="not a text"):
        diagnose_case([tmp_path / "noise", DATA / "consoles" / "rhel-96m-oom.log"])


# ---------------------------------------------------------------- the user's symptoms

OWN = """
[[symptom]]
name = "lab-switch-down"
where = ["capture"]
stage = "CAPTURING"
meaning = "The lab's switch was off."
remedy = "Switch it on"
patterns = ['lab: the switch is off']

[[symptom]]
name = "capture-oom"
where = ["capture"]
generic = true
stage = "CAPTURING"
meaning = "Too little."
remedy = "Ask the lab for more"
patterns = ['invoked oom-killer']
"""


@pytest.mark.parametrize("place", ["project", "home"])
def test_a_symptom_of_the_user_works_as_the_others_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    path = {"project": tmp_path / "kdump-harness.toml", "home": tmp_path / "config/kdump-harness/symptoms.toml"}[place]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(OWN, encoding="utf-8")
    console = CRASHED + CAPTURE_BOOT + "[    9.0] lab: the switch is off\n"
    assert diagnose_text(console).mode == "lab-switch-down"
    oom = CRASHED + CAPTURE_BOOT + "[    4.0] swapper/0 invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0\n"
    assert diagnose_text(oom).symptoms[0].remedy == "Ask the lab for more"
    path.write_text(OWN.replace("'lab: the", "'lab.*the"), encoding="utf-8")
    with pytest.raises(TableError, match=rf"{path.name}: \[\[symptom\]\] lab-switch-down"):
        diagnose_text(console)
