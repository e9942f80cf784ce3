"""The analysis of a dump by the crash utility: a few commands in a limited process, judged by their words.

The exit status of crash proves nothing: it is 0 although commands fail.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import resource
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..base import tables
from ..base.progress import Progress
from ..base.tables import package_path
from ..images.state import State
from ..vmcore import Vmcore, VmcoreError, open_vmcore
from ..vmcore.dmesg import panic_line
from ..vmcore.formats.vmcoreinfo import NO_VMCOREINFO
from .child import kill_group
from .crash_program import CrashProgram, NoCrash, check_asked, find_program, suite_of
from .debuginfo import Wanted, check_given, find

PROCESSOR_LIMIT_S = 120  # of which the dump of a small guest takes 8
# For a crash that waits; a busy one ends by the other limit. With 15 times more to do than the host has processors, the
# dump of a small guest took 385 s.
TIME_LIMIT_S = 3600
# Address space, not memory: vmlinux is mapped, and gdb reads all of its debug info.
_BASE_BYTES = 4 << 30
_BYTES_OF_VMLINUX = 4
_OUTPUT_LIMIT_BYTES = 64 << 20  # of each command
_MAX_READ_BYTES = 4 << 20
_MAX_COMPLAINTS = 5
_MAX_WORDS = 200  # characters of one message
_WARNING = re.compile(r"(?:WARNING|[\w-]+: WARNING): ")


@dataclass(frozen=True, kw_only=True)
class CrashCommand:
    """A command of crash, and the lines that its output must have."""

    run: str
    shows: tuple[str, ...]
    means: str
    crashed: bool = False

    @property
    def name(self) -> str:
        """The word in front of its errors."""
        return self.run.split()[0]

    def lacks(self, output: str, *, kernel: str, log: str) -> bool:
        """Return whether the output lacks one of the lines."""
        words = {"{kernel}": re.escape(kernel), "{log}": re.escape(log)}
        patterns = [functools.reduce(lambda text, word: text.replace(*word), words.items(), p) for p in self.shows]
        return not all(re.search(pattern, output, re.MULTILINE) for pattern in patterns)


@dataclass(frozen=True, kw_only=True)
class CrashWord:
    """The meaning of a warning or an error of crash."""

    pattern: str
    complaint: bool
    note: str


@functools.cache
def load_commands() -> tuple[CrashCommand, ...]:
    """Return the questions to crash."""
    return _table()[0]


@functools.cache
def _table() -> tuple[tuple[CrashCommand, ...], tuple[CrashWord, ...]]:
    path = package_path("triage", "crash.toml")
    data = tables.load_toml(path)
    commands = tuple(tables.build(row, CrashCommand, where=f"{path.name}: [[command]]") for row in data["command"])
    return commands, tuple(tables.build(row, CrashWord, where=f"{path.name}: [[word]]") for row in data["word"])


@dataclass(frozen=True, kw_only=True)
class CrashRequest:
    """The crash and the debug info that a user wants for the analysis."""

    program: str = ""  # a Debian suite or a program; empty: that of the dump's distribution, else this host's
    debuginfo: Path | None = None

    def check(self) -> None:
        """Raise UsageError for a program or debug info that does not exist, HostError if no crash can be had."""
        check_asked(self.program)
        if self.debuginfo is not None:
            check_given(self.debuginfo)


@dataclass(frozen=True, kw_only=True)
class CrashReport:
    """The answers of crash about one dump."""

    version: str
    source: str
    debuginfo: str
    tasks: int | None = None
    panic: str | None = None
    frames: int = 0  # of the stack of the crashed task
    complaints: tuple[str, ...] = ()  # the errors, and the commands whose output lacks something
    warnings: tuple[str, ...] = ()
    outputs: dict[str, str] = field(default_factory=dict)  # by command; "" has the words of the start

    @property
    def ok(self) -> bool:
        """Return whether crash opened the dump and answered every command."""
        return not self.complaints

    def summary(self) -> str:
        """Return the answers, or the complaints, in one line."""
        facts = [f"{self.tasks} tasks" if self.tasks is not None else None, self.panic or None]
        if self.frames:
            facts.append(f"a stack of {self.frames} frames")
        said = [*self.complaints[:_MAX_COMPLAINTS], *filter(None, facts)] if self.complaints else filter(None, facts)
        return f"crash {self.version}: {'; '.join(said)}"

    def transcript(self) -> str:
        """Return all that crash said, by command."""
        return "".join(f"{f'crash> {name}' if name else ''}\n{text}\n" for name, text in self.outputs.items()).lstrip()

    def to_json(self) -> dict[str, Any]:
        """Return the record in the form of JSON, without the transcript."""
        record = asdict(self)
        del record["outputs"]
        return {**record, "ok": self.ok}


def ask_crash(
    path: Path | str,
    *parts: Path | str,
    request: CrashRequest,
    suite: str = "",
    log: str | None = None,
    state: Path | None = None,
    progress: Progress | None = None,
) -> CrashReport:
    """Let crash open a dump and answer the commands of the table.

    SUITE is the Debian suite of the dump's kernel; LOG is a text that the kernel log must have, by default its panic.
    Raise HostError if no crash or no debug info can be had, UsageError if debug info that was given is of another
    kernel, and Unreadable for a dump that cannot be opened.
    """
    progress = progress or Progress(quiet=True)
    with open_vmcore(path, *parts) as vmcore:
        if vmcore.by_hypervisor and not vmcore.vmcoreinfo:
            raise NoCrash(NO_VMCOREINFO)
        wanted = Wanted.of(vmcore)
        if wanted.machine != (host := os.uname().machine):
            raise NoCrash(f"crash of this host is for dumps of {host}, this one is of {wanted.machine or '?'}")
        panic = _panic_of(vmcore)
    suite = suite or suite_of(wanted.release)
    program = find_program(request.program, suite, State(state), progress)
    vmlinux = find(replace(wanted, suite=suite), given=request.debuginfo, package=True, state=state, progress=progress)
    with progress.step(f"opening the dump with crash {program.version}"):
        outputs, ending = _run(program, vmlinux, [Path(path), *map(Path, parts)])
    report = CrashReport(version=program.version, source=program.source, debuginfo=str(vmlinux), outputs=outputs)
    return judge_answers(
        report, kernel=wanted.release, log=log or panic or "", crashed=panic is not None, ending=ending
    )


def _panic_of(vmcore: Vmcore) -> str | None:
    """Return the panic in the kernel log; empty if the log cannot be read, None if the kernel did not panic."""
    try:
        return panic_line(vmcore.dmesg())
    except VmcoreError:
        return ""


def _run(program: CrashProgram, vmlinux: Path, files: Sequence[Path]) -> tuple[dict[str, str], str | None]:
    """Return the outputs by command, and the reason if crash did not end by itself with status 0."""
    with tempfile.TemporaryDirectory(prefix="kdump-harness-crash-") as place:
        directory = Path(place)
        commands = load_commands()
        script = directory / "commands"
        script.write_text("".join(f"{one.run} > {one.name}\n" for one in commands) + "quit\n", encoding="utf-8")
        words = directory / "words"
        with words.open("wb") as out:
            process = subprocess.Popen(
                [*program.command, "-s", "-i", str(script), str(vmlinux), *(str(file.absolute()) for file in files)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=directory,  # crash obeys a .crashrc of the current and of the home directory
                env={"HOME": place, "TMPDIR": place, "PATH": "/usr/bin:/bin", "TERM": "dumb", "LC_ALL": "C"},
                start_new_session=True,
            )
            try:
                _limit(process.pid, vmlinux)
                try:
                    status = process.wait(TIME_LIMIT_S)
                except subprocess.TimeoutExpired:
                    status = None
            finally:
                kill_group(process)
                process.wait()
        outputs = {"": _read(words), **{one.run: _read(directory / one.name) for one in commands}}
    return outputs, _ending(status)


def _limit(pid: int, vmlinux: Path) -> None:
    """Limit the resources of crash; an orphan ends by them, too."""
    memory_bytes = _BASE_BYTES + _BYTES_OF_VMLINUX * vmlinux.stat().st_size
    with contextlib.suppress(ProcessLookupError):  # it has ended already
        for what, most in (
            (resource.RLIMIT_AS, memory_bytes),
            (resource.RLIMIT_CPU, PROCESSOR_LIMIT_S),
            (resource.RLIMIT_FSIZE, _OUTPUT_LIMIT_BYTES),
            (resource.RLIMIT_CORE, 0),
        ):
            resource.prlimit(pid, what, (most, most))


def _read(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            text = stream.read(_MAX_READ_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""
    # crash 8.0.2 writes its prompt into the file of the command.
    return "".join(f"{line}\n" for line in text.splitlines() if not line.startswith("crash> "))


def _ending(status: int | None) -> str | None:
    if status == 0:
        return None
    if status is None:
        return f"it did not end within {TIME_LIMIT_S} s and was stopped"
    return f"it ended with status {status}" if status > 0 else f"it was ended by signal {-status}"


def judge_answers(
    report: CrashReport, *, kernel: str, log: str, crashed: bool, ending: str | None = None
) -> CrashReport:
    """Return the report with the facts and the complaints that its outputs hold."""
    names = "|".join({"crash", *(re.escape(one.name) for one in load_commands())})
    complaints, warnings = [], []
    for line in _messages(report.outputs[""], re.compile(rf"(?:{names}): ")):
        rule = next((word for word in _table()[1] if re.search(word.pattern, line)), None)
        if rule.complaint if rule is not None else not _WARNING.match(line):
            complaints.append(line)
        elif rule is None:
            warnings.append(line)
    sys_output = report.outputs.get("sys", "")
    opened = bool(sys_output.strip())
    if ending is not None or not opened:
        complaints.append(f"the dump was not opened: {ending or 'the command sys printed nothing'}")
    for one in load_commands():
        if opened and (crashed or not one.crashed):
            output = report.outputs.get(one.run, "") + report.outputs[""]
            if one.lacks(output, kernel=kernel, log=log):
                complaints.append(f"{one.run} does not show {one.means}")
    tasks = re.search(r"^ *TASKS: (\d+)", sys_output, re.MULTILINE)
    panic = re.search(r'^ *PANIC: "(.*)"', sys_output, re.MULTILINE)
    return replace(
        report,
        tasks=int(tasks[1]) if tasks else None,
        panic=panic[1] if panic else None,
        frames=len(re.findall(r"^ *#\d+ \[", report.outputs.get("bt", ""), re.MULTILINE)),
        complaints=tuple(dict.fromkeys(complaints)),
        warnings=tuple(dict.fromkeys(warnings)),
    )


def _messages(text: str, error: re.Pattern[str]) -> Iterator[str]:
    """Yield the warnings and errors among the words of crash, one line each."""
    for line in text.splitlines():
        line = line.strip()
        if _WARNING.match(line) or error.match(line):
            yield "".join(char for char in line if char.isprintable())[:_MAX_WORDS]
