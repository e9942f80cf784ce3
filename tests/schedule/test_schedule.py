"""Scheduled drills: valid systemd units, one run at a time, a hook for changes, and metrics."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from history_factory import VERDICT, failed, unjudged
from kdump_harness.__main__ import main
from kdump_harness.base.clock import poll
from kdump_harness.base.errors import HostError, UsageError
from kdump_harness.history.database import DRILL, History, word_of
from kdump_harness.schedule import hook, running, units
from kdump_harness.schedule.hook import run_hook
from kdump_harness.schedule.jobs import Job
from kdump_harness.schedule.memory import Remembered, recall, remember
from kdump_harness.schedule.running import (
    AlreadyRunning,
    ScheduledResult,
    alone,
    run_drill,
)
from kdump_harness.schedule.units import Schedule, quote, verify

JOB = Job("debian-12", ("debian-12",))
SPANS = {"at": "*-*-* 02:30", "delay": "30min", "limit": "12h"}
needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")


def _drill_command(tmp_path: Path, verdict: dict[str, Any] | None, *, status: int = 0, said: str = "") -> list[str]:
    """A stand-in for the command line: it writes the verdict to the requested file."""
    (tmp_path / "given.json").write_text(json.dumps(verdict))
    given = str(tmp_path / "given.json")
    script = (
        "import shutil, sys\n"
        f"print({said!r}, file=sys.stderr)\n"
        f"if {verdict is not None}: shutil.copy({given!r}, sys.argv[sys.argv.index('--json') + 1])\n"
        f"sys.exit({status})\n"
    )
    return [sys.executable, "-c", script]


# ---------------------------------------------------------------- units


@needs_systemd
@pytest.mark.parametrize(
    "command",
    [
        ["/usr/bin/python3", "-P", "-m", "kdump_harness", "schedule", "run", "debian-12"],
        ["/usr/bin/python3", "--hook", 'mail -s "100% kdump; $HOME" root | tee \\x', "--options=--level 1"],
    ],
)
@pytest.mark.parametrize("at", ["*-*-* 02:30", "weekly", "Mon..Fri 04:00"])
@pytest.mark.parametrize("user", [False, True])
def test_systemd_understands_the_units(
    command: list[str], at: str, user: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIBVIRT_DEFAULT_URI", "qemu:///system?socket=/a b%c")
    verify(Schedule(name="kdump-drill", user=user).render(command, **{**SPANS, "at": at}), user=user)


@needs_systemd
def test_a_time_that_systemd_does_not_know_is_refused() -> None:
    found = Schedule(name="kdump-drill", user=False).render(["/bin/true"], **{**SPANS, "at": "nonsense"})
    with pytest.raises(UsageError, match=r"kdump-drill\.timer:5: Failed to parse calendar specification"):
        verify(found, user=False)


def _store_unit() -> str:
    """The unit in the documentation of the store."""
    page = (Path(__file__).parents[2] / "docs" / "store.md").read_text()
    return page.partition("```ini\n")[2].partition("```")[0]


@needs_systemd
@pytest.mark.parametrize("what", ["schedule", "store"])
def test_the_exposure_of_each_unit_is_low(tmp_path: Path, what: str) -> None:
    """systemd's own measure, from 0 to 10; a service without restrictions has more than 9."""
    schedule = Schedule(name="kdump-drill", user=False).render(["/bin/true"], **SPANS)
    unit = tmp_path / f"kdump-{what}.service"
    unit.write_text(schedule["kdump-drill.service"] if what == "schedule" else _store_unit())
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=40", unit], capture_output=True, text=True
    )
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd-analyze reads no files (before systemd 250)")
    assert done.returncode == 0, (done.stdout + done.stderr)[-200:]


@pytest.mark.parametrize(
    ("words", "tmp", "home"),
    [
        (["run", "debian-12", "--state", "/var/lib/x"], "yes", "read-only"),
        (["run", "debian-12", "--state", "/tmp/x"], "no", "read-only"),
        (["run", "--evidence=/var/tmp"], "no", "read-only"),
        (["run", "--hook", "tee /root/last"], "yes", "no"),
        (["run", "--history", "/home/a/h.sqlite"], "yes", "no"),
        (["run", "--state", "/srv/tmp/x", "--evidence", "/srv/home/x"], "yes", "read-only"),
    ],
)
def test_directories_that_a_schedule_names_are_not_hidden(words: list[str], tmp: str, home: str) -> None:
    unit = Schedule(name="x", user=False).render(words, **SPANS)["x.service"]
    assert f"PrivateTmp={tmp}\n" in unit
    assert f"ProtectHome={home}\n" in unit
    assert "PrivateTmp" not in Schedule(name="x", user=True).render(words, **SPANS)["x.service"]


@pytest.mark.parametrize("word", ["plain", "a b", '"', "\\", "100%", "$HOME ${X}", "a\nb", "", "'", "--x=y z", "ü"])
def test_words_come_through_systemd_as_they_are(word: str) -> None:
    """Read back by the rules of systemd.service(5)."""
    quoted = quote(word)
    inner = quoted[1:-1] if quoted.startswith('"') else quoted
    back = re.sub(r"\\(.)", lambda found: "\n" if found[1] == "n" else found[1], inner)
    assert back.replace("%%", "%").replace("$$", "$") == word
    assert "\n" not in quoted


def test_a_password_of_a_proxy_does_not_get_into_a_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://me:planted@proxy:3128")
    with pytest.raises(UsageError, match="https_proxy has a password, which every user could read") as caught:
        Schedule(name="x", user=False).render(["/bin/true"], **SPANS)
    assert "planted" not in str(caught.value)
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    assert "https_proxy=http://proxy:3128" in Schedule(name="x", user=False).render(["/bin/true"], **SPANS)["x.service"]


@pytest.mark.parametrize("name", ["", "../x", "a b", "x" * 200, ".hidden", "a/b"])
def test_an_invalid_unit_name_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="invalid name of a unit"):
        Schedule(name=name, user=False)


@pytest.mark.parametrize(
    "changes",
    [
        {"delay": "soon"},
        {"limit": "12h\nExecStart=/bin/x"},
        {"at": "a\nb"},
        {"at": "a\rb"},
        {"at": "a\0b"},
        {"at": " "},
    ],
)
def test_spans_cannot_bring_lines_of_their_own(changes: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        Schedule(name="x", user=False).render(["/bin/true"], **{**SPANS, **changes})


@pytest.fixture
def fake_systemctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A systemctl that logs its arguments, and fails on request."""
    log, fake = tmp_path / "systemctl.log", tmp_path / "bin" / "systemctl"
    fake.parent.mkdir()
    fake.write_text(f'#!/bin/sh\necho "$@" >>{log}\n[ ! -e {tmp_path}/fail ] || {{ echo no bus >&2; exit 1; }}\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(units, "_SYSTEM", tmp_path / "system")
    return log


def test_install_and_remove(tmp_path: Path, fake_systemctl: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--user", "--at", "daily", "--hook", "cat >&2", "--metrics", "m.prom"]
    assert main(["schedule", "install", "debian-12", *options]) == 0
    service, timer = Schedule(name="kdump-drill", user=True).files
    assert service.parent == tmp_path / "config" / "systemd" / "user"
    assert "schedule run debian-12 --state" in service.read_text()
    assert f'--metrics {Path.cwd()}/m.prom --hook "cat >&2"' in service.read_text()
    assert "OnCalendar=daily\nRandomizedDelaySec=30min\n" in timer.read_text()
    assert fake_systemctl.read_text() == "--user daemon-reload\n--user enable --now kdump-drill.timer\n"
    assert main(["schedule", "status", "--user"]) == 0
    assert "kdump-drill: installed in " in capsys.readouterr().out
    assert main(["schedule", "remove", "--user"]) == 0
    assert not service.exists()
    assert not timer.exists()
    assert main(["schedule", "remove", "--user"]) == 0
    assert "was not installed" in capsys.readouterr().out


def test_foreign_units_are_left_alone(tmp_path: Path, fake_systemctl: Path, capsys: pytest.CaptureFixture[str]) -> None:
    theirs = tmp_path / "system" / "backup.service"
    theirs.parent.mkdir()
    theirs.write_text("[Service]\nExecStart=/usr/bin/backup\n")
    assert main(["schedule", "install", "debian-12", "--name", "backup"]) == 2
    assert main(["schedule", "remove", "--name", "backup"]) == 2
    assert capsys.readouterr().err.count("backup.service is not a schedule of kdump-harness") == 2
    assert theirs.read_text() == "[Service]\nExecStart=/usr/bin/backup\n"
    assert not fake_systemctl.exists()


def test_a_failed_install_restores_the_existing_units(tmp_path: Path, fake_systemctl: Path) -> None:
    schedule = Schedule(name="kdump-drill", user=False)
    (tmp_path / "fail").touch()
    with pytest.raises(HostError, match="no bus"):
        schedule.install(schedule.render(["/bin/true"], **SPANS))
    assert not any(path.exists() for path in schedule.files)
    (tmp_path / "fail").unlink()
    schedule.install(schedule.render(["/bin/true"], **SPANS))
    before = schedule.files[1].read_text()
    (tmp_path / "fail").touch()
    with pytest.raises(HostError, match="no bus"):
        schedule.install(schedule.render(["/bin/false"], **{**SPANS, "at": "weekly"}))
    assert schedule.files[1].read_text() == before


# ---------------------------------------------------------------- jobs


def test_a_job_is_whatever_drill_or_kernel_takes(
    tmp_path: Path, fake_systemctl: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.img").write_bytes(bytes(510) + b"\x55\xaa")
    jobs = ["drill ./my.img --family debian --as-is", "kernel trixie-backports --level 1"]
    options = [f"--job={text}" for text in jobs]
    pages = ["--report", "pages", "--max-age", "3d", "--hook", "true", "--hook-on", "start,end"]
    assert main(["schedule", "install", "debian-12", "--domain", "web1", *options, *pages]) == 0
    service = (tmp_path / "system" / "kdump-drill.service").read_text()
    assert f"WorkingDirectory=-{tmp_path}\n" in service
    for part in ("schedule run debian-12", "--domain=web1", *(f'"--job={text}"' for text in jobs)):
        assert part in service
    assert f"--report {tmp_path}/pages --max-age 4320min --hook true --hook-on start,end" in service


def test_files_of_a_schedule_have_whole_paths(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.img").write_bytes(bytes(510) + b"\x55\xaa")
    options = ["--options=--family debian"]
    assert main(["schedule", "install", "./my.img", "--print", *options]) == 0
    assert f"schedule run {tmp_path}/my.img " in capsys.readouterr().out


def test_each_kind_of_job_runs_as_its_verb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in writes its arguments down."""
    command = _drill_command(tmp_path, VERDICT)
    command[2] = (
        f"import sys; open({str(tmp_path / 'calls')!r}, 'a').write(' '.join(sys.argv[1:]) + chr(10));" + command[2]
    )
    monkeypatch.setattr(running, "run_drill", functools.partial(run_drill, command=command))
    jobs = ["--domain", "web1", "--job", "kernel trixie --level 1", "--job", "drill debian-12 --trigger nmi"]
    history = str(tmp_path / "h.sqlite")
    assert main(["schedule", "run", *jobs, "--state", str(tmp_path), "--history", history]) == 0
    calls = (tmp_path / "calls").read_text().splitlines()
    begins = [call.partition(" --json ")[0] for call in calls]
    assert begins == ["drill --domain web1", "kernel trixie --level 1", "drill debian-12 --trigger nmi"]
    assert all(
        call.endswith(f"--state {tmp_path} --evidence {tmp_path}/evidence --history {history}") for call in calls
    )
    assert list(recall(tmp_path)) == ["--domain web1", "kernel trixie --level 1", "debian-12 --trigger nmi"]


def audited(**answers: str) -> dict[str, Any]:
    """Return the result of an audit with these answers of machines."""
    reason = {"name": "target-no-space", "severity": "failure", "evidence": "full", "meaning": "m", "remedy": "r"}
    hosts = [
        {"host": name, "answer": answer, "why": "", "reasons": [] if answer == "ready" else [reason]}
        for name, answer in answers.items()
    ]
    return {"schema": 1, "ok": set(answers.values()) == {"ready"}, "hosts": hosts}


def test_an_audit_is_a_job_and_each_machine_that_changes_calls_the_hook(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, history = tmp_path / "calls", tmp_path / "h.sqlite"

    def run(result: dict[str, Any] | None, status: int) -> list[dict[str, Any]]:
        calls.write_text("")
        command = _drill_command(tmp_path, result, status=status, said="why")
        monkeypatch.setattr(running, "run_drill", functools.partial(run_drill, command=command))
        options = ["--state", str(tmp_path), "--history", str(history), "--hook", f"cat >> {calls}"]
        assert main(["schedule", "run", "--job", "audit web1 db1", *options]) == status
        return [json.loads(line) for line in calls.read_text().splitlines()]

    assert run(audited(web1="ready", db1="ready"), 0) == []
    (first,) = run(audited(web1="ready", db1="will fail"), 1)
    assert first["word"] == "will fail: db1"
    assert first["text"] == "audit web1 db1: will fail: db1 (before: ready): db1: target-no-space: full"
    assert (first["verdict"], first["audit"]["hosts"][0]["host"]) == (None, "web1")
    assert run(audited(web1="ready", db1="will fail"), 1) == []
    (second,) = run(audited(web1="will fail", db1="will fail"), 1)
    assert second["word"] == "will fail: db1, web1"
    (third,) = run(audited(web1="ready", db1="not audited"), 4)
    assert third["word"] == "not audited: db1"
    (broken,) = run(None, 2)
    assert (broken["word"], broken["said"]) == ("broken", "why")
    assert recall(tmp_path)["audit web1 db1"].success_s is not None


def test_the_arguments_of_an_audit_are_checked_before_it_is_scheduled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, why in (
        ("audit", "audit : no machine is named"),
        (f"audit --inventory {tmp_path}/none", f"audit --inventory {tmp_path}/none: {tmp_path}/none is not a file"),
        ("audit web1 --side-by-side 0", "--side-by-side"),
        ("audit web1 --evidence x", "unrecognized arguments: --evidence x"),
    ):
        assert main(["schedule", "install", "--print", "--job", words]) == 2
        printed = capsys.readouterr().err
        assert why in printed
        assert len(printed.splitlines()) == 1
    assert main(["schedule", "install", "--print", "--job", "audit --local"]) == 0
    assert '"--job=audit --local"' in capsys.readouterr().out


def test_a_run_writes_its_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "run_drill", functools.partial(run_drill, command=_drill_command(tmp_path, VERDICT)))
    with History(tmp_path / "h.sqlite") as past:
        past.add(DRILL, failed(1))
    pages = tmp_path / "www" / "kdump"
    options = ["--state", str(tmp_path), "--history", str(tmp_path / "h.sqlite"), "--report", str(pages)]
    assert main(["schedule", "run", "debian-12", *options]) == 0
    assert sorted(path.name for path in pages.iterdir()) == ["index.html", "junit.xml", "summary.md"]
    assert "capture-oom" in (pages / "index.html").read_text()
    assert (pages / "index.html").stat().st_mode & 0o777 == 0o644


def test_each_event_calls_the_hook_that_asked_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = tmp_path / "calls"
    hook_command = f"cat >> {calls}"

    def run(verdict: dict[str, Any], *options: str) -> list[tuple[str, str]]:
        calls.write_text("")
        command = _drill_command(tmp_path, verdict, status=int(not verdict["verified"]))
        monkeypatch.setattr(running, "run_drill", functools.partial(run_drill, command=command))
        main(["schedule", "run", "debian-12", "--state", str(tmp_path), "--hook", hook_command, *options])
        events = [json.loads(line) for line in calls.read_text().splitlines()]
        return [(event["event"], event["text"]) for event in events]

    assert run(VERDICT) == []
    assert [event for event, _ in run(failed(1))] == ["change"]
    every = run(VERDICT, "--hook-on", "start,change,end")
    assert [event for event, _ in every] == ["start", "change", "end"]
    assert every[1][1] == "debian-12: verified (before: failed): panic to login 339 s"
    assert run(VERDICT, "--hook-on", "end") == [("end", "debian-12: verified: panic to login 339 s")]


def test_a_success_that_is_too_old_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    day_s = 86400
    now_s = time.time()
    bad = _drill_command(tmp_path, failed(1), status=1)
    monkeypatch.setattr(running, "run_drill", functools.partial(run_drill, command=bad))
    remember(tmp_path, "debian-12", "verified", wanted_s=3 * day_s)
    calls = tmp_path / "calls"
    options = ["--state", str(tmp_path), "--max-age", "3d", "--hook", f"cat >> {calls}", "--hook-on", "stale"]
    for days, stale in ((2, False), (5, True)):
        monkeypatch.setattr(time, "time", lambda days=days: now_s + days * day_s)
        main(["schedule", "run", "debian-12", *options])
        assert calls.exists() == stale
    sentence = "debian-12: the last success was 5 days ago, wanted is one within 3 days"
    assert json.loads(calls.read_text())["text"] == sentence
    assert sentence in capsys.readouterr().out
    assert main(["schedule", "status", "--state", str(tmp_path)]) == 1
    assert sentence in capsys.readouterr().out
    monkeypatch.setattr(time, "time", lambda: now_s + 2 * day_s)
    assert main(["schedule", "status", "--state", str(tmp_path)]) == 0


def test_a_job_that_never_succeeded_is_stale_from_its_first_run_on() -> None:
    never = Remembered(word="failed", at_s=100 * 3600, first_s=0.0, wanted_s=36 * 3600.0)
    assert never.overdue(36 * 3600) is None
    assert never.overdue(40 * 3600) == "no success ever, first tried 40 h ago, wanted is one within 36 h"
    assert Remembered(word="failed").overdue(1e12) is None


def test_the_memory_of_an_older_version_is_read(tmp_path: Path) -> None:
    rows = {"a": "verified", "b": {"word": "failed", "success_s": "soon", "at_s": 5}, "c": 3, "d": {"word": 1}}
    (tmp_path / "schedule.json").write_text(json.dumps(rows))
    assert recall(tmp_path) == {"a": Remembered(word="verified"), "b": Remembered(word="failed", at_s=5.0)}
    again = remember(tmp_path, "a", "failed", wanted_s=None)
    assert again.success_s is None
    assert recall(tmp_path)["a"] == again


# ---------------------------------------------------------------- runs


@pytest.mark.parametrize(
    ("verdict", "status", "said", "word", "text"),
    [
        (VERDICT, 0, "", "verified", "panic to login 339 s"),
        (failed(1), 1, "", "failed", "reached CAPTURING: capture-oom; the capture kernel ran out of memory; "),
        (failed(1, known_issue="https://x"), 1, "", "known issue", "reached CAPTURING"),
        (unjudged(3), 5, "", "not judged", "reached RECOVERED: the dump was not judged: the file is lz4-compressed"),
        (None, 4, "kdump-harness: no boot\n", "broken", "kdump-harness: no boot"),
        (None, 4, "  a step\nkdump-harness: no boot\n  see /x/log\n", "broken", "kdump-harness: no boot see /x/log"),
        (None, 0, "", "broken", "the drill ended with status 0"),
        (None, -9, "", "broken", "the drill ended with status"),
    ],
)
def test_the_outcome_of_a_drill(
    tmp_path: Path, verdict: dict[str, Any] | None, status: int, said: str, word: str, text: str
) -> None:
    result = run_drill(JOB, tmp_path, command=_drill_command(tmp_path, verdict, status=status, said=said))
    assert result.word == word
    assert result.said.startswith(text)
    assert result.status == {"verified": 0, "broken": 4, "not judged": 5}.get(word, 1)


def test_the_history_has_the_same_word_as_the_schedule(tmp_path: Path) -> None:
    with History(tmp_path / "history.sqlite") as past:
        for verdict in (VERDICT, failed(1), failed(2, known_issue="https://x"), unjudged(3)):
            past.add(DRILL, verdict)
        words = [word_of(run) for run in past.runs()]
    assert sorted(words) == ["failed", "known issue", "not judged", "verified"]


def test_only_changes_call_the_hook(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    level_one = Job("debian-12", ("debian-12", "--level", "1"))
    good = _drill_command(tmp_path / "a", VERDICT)
    bad = _drill_command(tmp_path / "b", failed(1), status=1)
    changed = []
    for command in (good, good, bad, bad, good):
        result = run_drill(level_one, tmp_path, command=command)
        remember(tmp_path, level_one.name, result.word, wanted_s=None)
        changed.append((result.before, result.word, result.changed))
    assert changed == [
        (None, "verified", False),
        ("verified", "verified", False),
        ("verified", "failed", True),
        ("failed", "failed", False),
        ("failed", "verified", True),
    ]
    assert {name: one.word for name, one in recall(tmp_path).items()} == {"debian-12 --level 1": "verified"}


def test_a_first_drill_that_fails_calls_the_hook(tmp_path: Path) -> None:
    assert run_drill(JOB, tmp_path, command=_drill_command(tmp_path, failed(1), status=1)).changed


def test_two_runs_do_not_meet(tmp_path: Path) -> None:
    with alone(tmp_path), pytest.raises(AlreadyRunning, match="another scheduled run is active"), alone(tmp_path):
        pass
    with alone(tmp_path):
        pass


def _result(**changes: Any) -> ScheduledResult:
    fields: dict[str, Any] = {
        "image": "debian-12",
        "job": "debian-12",
        "word": "failed",
        "status": 1,
        "said": "x",
        "before": "verified",
    }
    return ScheduledResult(**{**fields, "verdict": VERDICT, **changes})


def test_the_hook_reads_the_verdict(tmp_path: Path) -> None:
    to = tmp_path / "result.json"
    assert run_hook(f"cat > {to}", _result().to_json()) is None
    result = json.loads(to.read_text())
    assert (result["image"], result["before"], result["word"], result["changed"]) == (
        "debian-12",
        "verified",
        "failed",
        True,
    )
    assert result["verdict"]["image"] == VERDICT["image"]


def test_the_processes_of_a_hook_die_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    note = tmp_path / "pids"
    command = f"for i in 1 2 3; do sleep 97 & echo $! >> {note}; done"
    monkeypatch.setattr("kdump_harness.schedule.hook._HOOK_S", 0.5)
    assert run_hook(command, _result().to_json()) is None
    assert run_hook(f"{command}; wait", _result().to_json()) == "the hook did not finish within 0 s"
    for pid in note.read_text().split():
        status = Path("/proc") / pid / "status"
        poll("the end", lambda status=status: not status.exists() or "State:\tZ" in status.read_text(), timeout_s=5)


def test_a_hook_gets_json_without_numbers_that_json_does_not_have(tmp_path: Path) -> None:
    verdict = {**VERDICT, "phases_s": {"boot": float("nan"), "dump": float("inf")}}
    assert run_hook(f"cat > {tmp_path / 'got'}", _result(verdict=verdict).to_json()) is None
    got = json.loads((tmp_path / "got").read_text(), parse_constant=pytest.fail)
    assert got["verdict"]["phases_s"] == {"boot": None, "dump": None}


@pytest.mark.parametrize(
    "text", ["[1]", "{}", '{"verified": 5}', "[" * 5000, '{"verified": true, "image": "a", "checks": 3}']
)
def test_a_verdict_of_the_wrong_shape_does_not_stop_the_next_drill(tmp_path: Path, text: str) -> None:
    command = _drill_command(tmp_path, {}, said="kdump-harness: it went wrong")
    (tmp_path / "given.json").write_text(text)
    result = run_drill(JOB, tmp_path, command=command)
    assert (result.word, result.said) == ("broken", "kdump-harness: it went wrong")


def test_a_verdict_of_few_fields_is_reported(tmp_path: Path) -> None:
    verdict = {"image": "debian-12", "verified": False, "checks": []}
    assert run_drill(JOB, tmp_path, command=_drill_command(tmp_path, verdict, status=1)).word == "failed"


@needs_systemd
def test_a_time_is_checked_without_a_session_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    units = Schedule(name="kdump-drill", user=True).render(["/bin/true"], **{**SPANS, "at": "*-*-* 25:00"})
    with pytest.raises(UsageError, match=r"kdump-drill\.timer:5: Failed to parse calendar specification"):
        verify(units, user=True)


def test_a_hook_that_fails_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_hook("echo no mailer >&2; exit 3", _result().to_json()) == "the hook ended with status 3: no mailer"
    assert run_hook("exec true", _result(said="x" * 500_000).to_json()) is None  # it need not read
    monkeypatch.setattr(hook, "_HOOK_S", 0.2)
    assert run_hook("exec sleep 5", _result().to_json()) == "the hook did not finish within 0 s"


def test_a_stopped_run_lets_its_drill_clean_up(tmp_path: Path) -> None:
    """The clean-up takes longer than the quarter of a second that subprocess.run would allow."""
    drill_code = (
        "import pathlib, signal, sys, time\n"
        f"place = pathlib.Path({str(tmp_path)!r})\n"
        "signal.signal(signal.SIGTERM, lambda *_: (time.sleep(1), (place / 'clean').touch(), sys.exit(130)))\n"
        "(place / 'began').touch()\n"
        "time.sleep(60)\n"
    )
    run_code = (
        "import pathlib, sys\n"
        "from kdump_harness import __main__ as cli\n"
        "from kdump_harness.schedule import running\n"
        f"command = [sys.executable, '-c', {drill_code!r}]\n"
        "real = running.run_drill\n"
        "running.run_drill = lambda *one, **more: real(*one, **more, command=command)\n"
        f"sys.exit(cli.main(['schedule', 'run', 'debian-12', '--state', {str(tmp_path)!r}]))\n"
    )
    run = subprocess.Popen([sys.executable, "-c", run_code], stderr=subprocess.DEVNULL)
    poll("the drill to begin", lambda: (tmp_path / "began").exists() or None, timeout_s=60)
    run.terminate()
    assert run.wait(60) == 130
    assert (tmp_path / "clean").exists()


def test_the_whole_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    command = _drill_command(tmp_path, failed(1), status=1)
    monkeypatch.setattr(running, "run_drill", functools.partial(run_drill, command=command))
    state, history = tmp_path / "state", tmp_path / "h.sqlite"
    with History(history) as past:
        past.add(DRILL, VERDICT)
    options = ["--state", str(state), "--history", str(history), "--metrics", str(tmp_path / "m.prom")]
    hook = ["--hook", f"cat >> {tmp_path / 'calls'}"]
    for _ in range(2):
        assert main(["schedule", "run", "debian-12", "debian-13", *options, *hook]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["debian-12", "debian-13"] * 2
    assert len((tmp_path / "calls").read_text().splitlines()) == 2  # the second time is not a change
    labels = 'image="debian-12",arch="x86_64",scenario="drill",trigger="sysrq-c",target="local"'
    assert f"kdump_drill_verified{{{labels}}} 1" in (tmp_path / "m.prom").read_text()


def test_a_run_during_another_run_is_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with alone(tmp_path):
        assert main(["schedule", "run", "debian-12", "--state", str(tmp_path)]) == 0
    assert "another scheduled run is active; this one is skipped" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["run", "debain-12"], "unknown image 'debain-12' (did you mean debian-12"),
        (["install", "debian-12", "--print", "--options", "'"], '--options "\'": No closing quotation'),
        (["run"], "nothing to drill: give an IMAGE, --domain NAME or --job TEXT"),
        (["run", "./none.qcow2"], "./none.qcow2 is a file of an unknown family: give --family"),
        (["install", "--job", "size debian-12"], "invalid --job: got 'size debian-12', expected arguments that begin"),
        (
            ["install", "--job", "drill debian-12 --levle 1"],
            "drill debian-12 --levle 1: unrecognized arguments: --levle",
        ),
        (["install", "--job", "kernel a b"], "kernel a b: a job is one drill of one kernel"),
        (["install", "--job", "kernel a --matrix"], "a job is one drill of one kernel"),
        (["install", "--job", "drill debian-12 --help"], "drill debian-12 --help: "),
        (["run", "debian-12", "debian-12"], "the job 'debian-12' is given twice"),
        (["run", "debian-12", "--report", "/proc/x"], "/proc/x cannot be made"),
        (["install", "debian-12", "--print", "--delay", "x"], "invalid --delay: got 'x'"),
        (["install", "debian-12", "--print", "--name", "a/b"], "invalid name of a unit: got 'a/b'"),
        (
            ["run", "debian-12", "--metrics", "m", "--history", "none"],
            "--metrics needs a history, but --history none disables it",
        ),
        (["run", "debian-12", "--metrics", "no-such/m.prom"], "no-such/m.prom cannot be written"),
    ],
)
def test_bad_input_is_a_sentence(capsys: pytest.CaptureFixture[str], argv: list[str], sentence: str) -> None:
    assert main(["schedule", *argv]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--hook-on", "never"], "invalid event: got 'never', expected start, change, end, stale"),
        (["--max-age", "soon"], "invalid time span: got soon, expected as in 90min"),
        (["--max-age", "0d"], "invalid time span: got 0d, expected as in 90min"),
    ],
)
def test_bad_values_are_a_sentence(capsys: pytest.CaptureFixture[str], argv: list[str], sentence: str) -> None:
    with pytest.raises(SystemExit):
        main(["schedule", "run", "debian-12", *argv])
    assert sentence in capsys.readouterr().err
