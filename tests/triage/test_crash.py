"""The crash utility: found, run with limits, and judged by its words; a script stands for it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from kdump_harness.__main__ import main
from kdump_harness.base.errors import HostError, UsageError
from kdump_harness.base.progress import Progress
from kdump_harness.images.state import State
from kdump_harness.triage import crash as crash_module
from kdump_harness.triage import crash_program
from kdump_harness.triage.crash import CrashReport, CrashRequest, ask_crash, judge_answers, load_commands
from kdump_harness.triage.crash_program import check_asked, find_program, suite_of
from test_triage import vmlinux
from vmcore_factory import RELEASE, Kdump

QUIET = Progress(quiet=True)
# As crash 9.0.2 prints them for Linux 6.1.
SYS = f"""
    DUMPFILE: vmcore  [PARTIAL DUMP]
        CPUS: 1
       TASKS: 53
     RELEASE: {RELEASE}
       PANIC: "Kernel panic - not syncing: sysrq triggered crash"
"""
BT = """PID: 138      TASK: ffff8c8b17226000  CPU: 0    COMMAND: "sh"
 #0 [ffffced0405d3c10] machine_kexec at ffffffff9286c53f
 #1 [ffffced0405d3c68] __crash_kexec at ffffffff92964067
"""
LOG = "[   18.885150] Kernel panic - not syncing: sysrq triggered crash\n"
PS = """      PID    PPID  CPU       TASK        ST  %MEM      VSZ      RSS  COMM
        0       0   0  ffffffff9421aa40  RU   0.0        0        0  [swapper/0]
>     138       1   0  ffff8c8b17226000  RU   0.3     2260     1656  sh
"""
KMEM = "                 PAGES        TOTAL      PERCENTAGE\n    TOTAL MEM    71170       278 MB         ----\n"
MOD = "     MODULE       NAME                         BASE         SIZE  OBJECT FILE\n"
ANSWERS = {"sys": SYS, "bt": BT, "log": LOG, "ps": PS, "kmem -i": KMEM, "mod": MOD}
HASH = "WARNING: active task ffff8c8b17226000 on cpu 0 not found in PID hash"


@pytest.fixture(autouse=True)
def _nothing_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDUMP_HARNESS_STATE", str(tmp_path / "state"))
    monkeypatch.delenv("DEBUGINFOD_URLS", raising=False)


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    path = tmp_path / "vmcore"
    path.write_bytes(Kdump().build())
    (tmp_path / "vmlinux").write_bytes(vmlinux())
    return path


def fake(tmp_path: Path, body: str) -> str:
    """Return a program that answers -v as crash does, and otherwise runs BODY with the arguments of crash."""
    program = tmp_path / "bin" / "crash"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f'#!/bin/sh\n[ "$1" = -v ] && {{ echo "crash 9.0.2"; exit; }}\n{body}\n')
    program.chmod(0o755)
    return str(program)


def answering(**instead: str) -> str:
    """Return shell code that writes the answers, as crash does for "sys > sys"."""
    answers = {name.split()[0]: text for name, text in ANSWERS.items()} | instead
    return "\n".join(f"cat > {name} <<'END'\n{text}\nEND" for name, text in answers.items())


def asked(dump: Path, program: str) -> CrashReport:
    return ask_crash(dump, request=CrashRequest(program=program, debuginfo=dump.with_name("vmlinux")), log="panic")


def judged(words: str = "", *, crashed: bool = True, ending: str | None = None, **instead: str) -> CrashReport:
    outputs = {"": words, **ANSWERS, **instead}
    report = CrashReport(version="9.0.2", source="fake", debuginfo="vmlinux", outputs=outputs)
    return judge_answers(report, kernel=RELEASE, log="sysrq triggered", crashed=crashed, ending=ending)


def test_good_answers_are_no_complaint() -> None:
    report = judged()
    assert (report.ok, report.tasks, report.frames) == (True, 53, 2)
    assert report.summary() == (
        "crash 9.0.2: 53 tasks; Kernel panic - not syncing: sysrq triggered crash; a stack of 2 frames"
    )


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (HASH, HASH),
        ("ps: page excluded: kernel virtual address: ffff8c8b17226000  type: \"task_struct\"", "ps: page excluded"),
        ('crash: read error: kernel virtual address: ffff8c8b1ffd9000  type: "memory section"', "crash: read error"),
        ("crash: invalid structure member offset: module_num_gpl_syms\n  FILE: kernel.c  LINE: 3869", "module_num_gpl"),
        ("kmem: invalid structure member offset: kmem_cache_local_node", "kmem: invalid"),
        ("WARNING: vmcore: may be truncated or incomplete\n         PT_LOAD p_offset: 4096", "may be truncated"),
        ("bt: WARNING: cannot determine starting stack frame\nbt: invalid task", "bt: invalid task"),
    ],
)  # fmt: skip
def test_an_error_is_a_complaint_though_the_exit_status_is_0(words: str, complaint: str) -> None:
    report = judged(words)
    assert not report.ok
    assert complaint in report.summary()


@pytest.mark.parametrize(
    ("words", "warnings"),
    [
        ("mod: no modules loaded in this kernel", 0),
        ("crash: cpus: 2 online: 2 NT_PRSTATUS notes: 1 (remapping)", 0),
        ("WARNING: kernel relocated [386MB]: patching 98766 gdb minimal_symbol values", 0),
        ("kmem: page_cache_size went negative (-12), setting to 0", 0),
        ("WARNING: SLUB: cannot determine how compound pages are linked", 1),
        ("NOTE: stdin: not a tty\nplease wait... (gathering task table data)\n", 0),
    ],
)
def test_words_on_sound_dumps_are_no_complaint(words: str, warnings: int) -> None:
    report = judged(words)
    assert (report.ok, len(report.warnings)) == (True, warnings)


@pytest.mark.parametrize("name", [one.run for one in load_commands()])
def test_a_command_that_shows_nothing_is_a_complaint(name: str) -> None:
    report = judged(**{name: "\n"})
    assert not report.ok
    assert any(word in report.summary() for word in (f"{name} does not show", "the dump was not opened"))


def test_the_answers_must_be_of_this_kernel_and_of_this_crash() -> None:
    assert "sys does not show the release" in judged(sys=SYS.replace(RELEASE, f"{RELEASE}1")).summary()
    assert "log does not show the kernel log of the crash" in judged(log="[    0.000000] Linux\n").summary()


def test_only_a_kernel_that_crashed_has_the_stack_of_a_crash() -> None:
    running = BT.splitlines()[0] + "\n (active)\n"
    assert judged(bt=running, crashed=False).ok
    assert not judged(bt=running).ok


def test_crash_is_run_and_its_words_are_kept(dump: Path, tmp_path: Path) -> None:
    report = asked(
        dump, fake(tmp_path, f'echo "$@" > {tmp_path}/arguments; cat "$3" > {tmp_path}/script\n{answering()}')
    )
    assert report.ok, report.complaints
    arguments = (tmp_path / "arguments").read_text().split()
    assert (arguments[:2], arguments[3:]) == (["-s", "-i"], [str(tmp_path / "vmlinux"), str(dump)])
    assert (tmp_path / "script").read_text().splitlines()[-3:] == ["kmem -i > kmem", "mod > mod", "quit"]
    assert "crash> kmem -i\n" in report.transcript()
    assert "TOTAL MEM    71170" in report.transcript()
    assert json.loads(json.dumps(report.to_json()))["ok"] is True


def test_a_crashrc_of_the_user_or_of_the_directory_is_not_obeyed(
    dump: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for place in (tmp_path, tmp_path / "home"):
        place.mkdir(exist_ok=True)
        (place / ".crashrc").write_text("!touch obeyed\n")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    obedient = 'for rc in .crashrc "$HOME/.crashrc"; do [ -e "$rc" ] && echo "crash: obeyed $rc"; done\n'
    assert asked(dump, fake(tmp_path, obedient + answering())).ok


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("exit 1", "the dump was not opened: it ended with status 1"),
        ("kill -9 $$", "the dump was not opened: it was ended by signal 9"),
        ("exit 0", "the dump was not opened: the command sys printed nothing"),
        (f"echo '{HASH}'\n{answering()}", "not found in PID hash"),
        ("sleep 60", "did not end within 1 s"),
        (f"{answering()}\nyes > log", "it was ended by signal 25"),  # SIGXFSZ
    ],
)
def test_an_end_of_any_kind_is_a_complaint(
    body: str, complaint: str, dump: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "sleep" in body:
        monkeypatch.setattr(crash_module, "TIME_LIMIT_S", 1)
    if "yes" in body:
        monkeypatch.setattr(crash_module, "_OUTPUT_LIMIT_BYTES", 1 << 20)
        body = body.replace("yes > log", "exec yes > log")
    assert complaint in asked(dump, fake(tmp_path, body)).summary()


def test_a_dump_of_another_architecture_is_not_for_this_crash(
    dump: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crash_module.os, "uname", lambda: SimpleNamespace(machine="aarch64"))
    with pytest.raises(HostError, match="crash of this host is for dumps of aarch64, this one is of x86_64"):
        asked(dump, fake(tmp_path, answering()))


def test_debug_info_of_another_kernel_is_refused(dump: Path, tmp_path: Path) -> None:
    (tmp_path / "vmlinux").write_bytes(vmlinux("ab" * 20))
    with pytest.raises(UsageError, match="is not the kernel of the dump"):
        asked(dump, fake(tmp_path, answering()))


@pytest.mark.parametrize(
    ("word", "message"),
    [("./nowhere", "is not a program"), ("warty", "unknown suite 'warty'"), ("/etc/passwd", "is not a program")],
)
def test_a_crash_that_does_not_exist_is_told_at_once(word: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        CrashRequest(program=word).check()


def test_a_host_without_crash_and_apt_is_unfit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostError, match="neither a crash nor an apt"):
        check_asked("")


def test_a_program_of_another_kind_is_not_used(tmp_path: Path) -> None:
    program = tmp_path / "crash"
    program.write_text("#!/bin/sh\necho usage: nothing\n")
    program.chmod(0o755)
    with pytest.raises(HostError, match="is not crash: its -v says 'usage: nothing'"):
        find_program(str(program), "", State(tmp_path / "state"), QUIET)


def test_the_crash_of_the_distribution_comes_first_then_the_hosts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = fake(tmp_path, "")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    suites: list[str] = []

    def of_suite(suite: str, *_: object) -> object:
        suites.append(suite)
        raise HostError(f"the index of {suite} cannot be read")

    monkeypatch.setattr(crash_program, "_of_suite", of_suite)
    assert find_program("", "bookworm", State(tmp_path / "state"), QUIET).source == own
    assert suites == ["bookworm"]
    os.remove(own)
    with pytest.raises(HostError, match="of bookworm cannot be read; the index of trixie cannot be read"):
        find_program("", "bookworm", State(tmp_path / "state"), QUIET)


@pytest.mark.parametrize(
    ("release", "suite"),
    [
        ("6.12.117+deb13-amd64", "trixie"),
        ("6.12.9+bpo12-amd64", "bookworm"),
        ("6.1.0-57-amd64", ""),
        ("7.0.1+deb99-amd64", ""),
    ],
)
def test_a_kernel_release_names_its_suite(release: str, suite: str) -> None:
    assert suite_of(release) == suite


def test_an_unpacked_crash_runs_with_its_own_loader_and_libraries(tmp_path: Path) -> None:
    root = tmp_path / "root"
    for name in ("usr/lib64/ld-linux-x86-64.so.2", "usr/lib/x86_64-linux-gnu/libz.so.1", "usr/bin/crash"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    assert crash_program._command(root) == (
        str(root / "usr/lib64/ld-linux-x86-64.so.2"),
        "--library-path",
        str(root / "usr/lib/x86_64-linux-gnu"),
        str(root / "usr/bin/crash"),
    )
    (root / "usr/bin/crash").unlink()
    with pytest.raises(HostError, match="lacks a program or its loader"):
        crash_program._command(root)


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (answering(), 0, "crash: ok crash 9.0.2: 53 tasks"),
        ("exit 1", 1, "crash: NO crash 9.0.2: the dump was not opened: it ended with status 1"),
        (f"echo '{HASH}'\n{answering()}", 1, "not found in PID hash"),
    ],
)
def test_inspect_asks_crash(
    body: str, status: int, said: str, dump: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--crash-package", fake(tmp_path, body), "--debuginfo", str(tmp_path / "vmlinux")]
    to = tmp_path / "found.json"
    assert main(["inspect", str(dump), "--json", str(to), *arguments]) == status
    assert said in capsys.readouterr().out
    found = json.loads(to.read_text())
    assert (found["crash"]["ok"], found["crash"]["version"], found["whole"]) == (status == 0, "9.0.2", True)
    assert "triage" not in found


def test_inspect_without_debug_info_is_not_judged(
    dump: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def none(*_: object, **__: object) -> Path:
        raise HostError("no debug info for 6.1: it is in no suite")

    monkeypatch.setattr(crash_module, "find", none)
    assert main(["inspect", str(dump), "--crash-package", fake(tmp_path, "")]) == 5
    assert "not judged by crash: no debug info for 6.1" in capsys.readouterr().out
