"""The tasks of a fleet: one scenario or one drill as text, checked word by word before anything is run.

A task is data and never becomes part of a command line unchanged. The harness's own parser reads its options, the
command line is written from the parsed values, and everything that is not on a list is refused.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import hashlib
import json
import re
import stat
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from ... import __version__
from ...base import foreign
from ...base.errors import HarnessError, UsageError
from ...base.tables import data_path
from ...cli.options import KEEP
from ...cli.parser import make_parser
from ...cli.verbs.drill import add_drill
from ...distro.architecture import find_architecture
from ...images.catalog import Image, load_catalog
from ...kdump.target import ON_SERVER
from ...vm.capacity import GUEST_MIB
from ...vm.hypervisor.domain_xml import FIRMWARE
from .needs import COLLECTOR_MIB, Needs, guest_needs

DRILL, SCENARIO = "drill", "scenario"
TEXT_MAX_BYTES = 16 << 10
ARGUMENTS_MAX = 64
MIB = 1 << 20
EVIDENCE_MAX_MIB = 16 * 1024

# The options of drill that a worker accepts. Paths and the credentials for guests are set on the worker alone.
_DRILL_OPTIONS = (
    "family", "login", "arch", "kernel", "makedumpfile", "firmware", "cpu", "trigger", "target", "level", "compress",
    "crashkernel", "append", "capture_append", "memory", "dimm", "vcpus", "budget", "until", "oracle", "crash",
    "fallback", "hotplug", "as_is", "keep", "accelerator", "timeout_factor",
)  # fmt: skip
# The options that apply on the host of the client.
LOCAL_OPTIONS = ("evidence", "history", "json", "state", "quiet", "verbose")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~-]{0,80}")
_GLOB = re.compile(r"[A-Za-z0-9*?\[][A-Za-z0-9._*?\[\]-]{0,80}")
_PACKAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+~_-]*([/=][A-Za-z0-9][A-Za-z0-9.:+~_-]*)?")
_TEST = re.compile(r"(?P<file>test_[A-Za-z0-9_]{1,80}\.py)::(?P<test>[A-Za-z_][A-Za-z0-9_:]{0,200}(\[[ -~]{0,300}\])?)")
_LONGEST_STRETCH = 100.0


class TaskRefused(UsageError):
    """A task that the worker refuses; the message says why."""


@dataclass(frozen=True, kw_only=True)
class FleetTask:
    """One scenario or one drill, as sent."""

    kind: str
    arguments: tuple[str, ...] = ()  # arguments of drill, or options of the scenario
    test: str = ""  # FILE::TEST below scenarios/
    sha256: str = ""  # digest of the scenario's file, which must be the same on the worker
    version: str = __version__
    vmcores: bool = False  # whether the evidence includes vmcores
    evidence_mib: int = 64  # limit of the evidence

    def to_text(self) -> str:
        """Return the task as text; equal tasks give equal text."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, separators=(",", ":"))

    @property
    def digest(self) -> str:
        """Return a key that identifies the task in another run."""
        return hashlib.sha256(self.to_text().encode()).hexdigest()[:24]

    @property
    def label(self) -> str:
        """Return the task in words for messages."""
        return self.test if self.kind == SCENARIO else " ".join(self.arguments)


def read_task(text: object) -> FleetTask:
    """Return the task in a text after checking its form. Raise TaskRefused for an invalid one."""
    if not isinstance(text, str) or len(text.encode(errors="replace")) > TEXT_MAX_BYTES:
        raise TaskRefused("the task is not text, or too long")
    try:
        table = foreign.parse_json(text)
    except ValueError:
        raise TaskRefused("the task is not JSON") from None
    kinds: Mapping[str, type] = {
        "kind": str, "arguments": list, "test": str, "sha256": str, "version": str, "vmcores": bool,
        "evidence_mib": int,
    }  # fmt: skip
    if not isinstance(table, dict) or set(table) != set(kinds):
        raise TaskRefused(f"a task has exactly these fields: {', '.join(kinds)}")
    for name, kind in kinds.items():
        if type(table[name]) is not kind:
            raise TaskRefused(f"the task's {name} is not of type {kind.__name__}")
    arguments = table["arguments"]
    if len(arguments) > ARGUMENTS_MAX or not all(isinstance(one, str) and one.isprintable() for one in arguments):
        raise TaskRefused("the task's arguments are not a short list of printable texts")
    if not 0 < table["evidence_mib"] <= EVIDENCE_MAX_MIB:
        raise TaskRefused(f"{table['evidence_mib']} MiB of evidence are not between 1 and {EVIDENCE_MAX_MIB}")
    if table["kind"] not in (DRILL, SCENARIO):
        raise TaskRefused(f"a worker runs a {SCENARIO} or a {DRILL}, not {table['kind'][:40]!r}")
    task = FleetTask(**{**table, "arguments": tuple(arguments)})
    if task.version != __version__:
        raise TaskRefused(f"the task was made by version {task.version[:40]}, and this is {__version__}")
    return task


@dataclass(frozen=True, kw_only=True)
class TaskPaths:
    """The paths and the hypervisor that a worker uses for a task; tasks cannot change them."""

    uri: str | None
    state: Path | None
    evidence: Path  # directory of this task
    result: Path  # a file: verdict.json of a drill, the reports of a scenario
    scratch: Path  # an empty directory
    files: tuple[Path, ...] = ()  # images and directories of images that tasks may name by path


@dataclass(frozen=True, kw_only=True)
class TaskCommand:
    """The needs of a checked task and a function that returns its command line."""

    needs: Needs
    build: Callable[[TaskPaths], list[str]]


def command_of(task: FleetTask, *, files: Sequence[Path] = ()) -> TaskCommand:
    """Return the command that runs a task. Raise TaskRefused for a task that workers do not run."""
    if task.kind == DRILL:
        return _drill_command(task, files)
    return _scenario_command(task)


# ---------------------------------------------------------------- drills


def parse_drill(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments of a drill. Raise UsageError with the parser's message."""
    return _quiet_parser().parse_args([DRILL, *arguments])


@functools.cache
def _quiet_parser() -> argparse.ArgumentParser:
    """Return the harness's parser, which raises its messages: a worker's threads share standard error."""

    def refuse(message: str = "") -> NoReturn:
        raise UsageError(message or "these are not arguments of a drill")

    parser = make_parser([add_drill])
    verbs = [action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    for one in (parser, verbs[0][DRILL]):
        quiet = {"error": refuse, "exit": lambda *_: refuse(), "_print_message": lambda *_: None}
        vars(one).update(quiet)
    return parser


@functools.cache
def _usual() -> Mapping[str, Any]:
    """Return the defaults of a drill's options."""
    return vars(parse_drill(["debian-12"]))


def drill_arguments(found: argparse.Namespace, files: Sequence[Path] | None = None) -> tuple[str, ...]:
    """Return the arguments of a task, written from the parsed values of a drill.

    files are the images and directories that tasks may name by path; None on the client, which does not know them.
    """
    usual = _usual()
    given = {name: value for name, value in vars(found).items() if name != "image" and value != usual.get(name)}
    for name in given:
        if name not in _DRILL_OPTIONS:
            raise TaskRefused(f"a worker does not accept --{name.replace('_', '-')}")
    options: list[str] = []
    for name in filter(given.__contains__, _DRILL_OPTIONS):
        option, value = "--" + name.replace("_", "-"), given[name]
        values = value if isinstance(value, list) else [value]
        options += [option if value is True else f"{option}={one}" for one in values]
    for name in (found.kernel, found.makedumpfile):
        if name is not None:
            _check_package(name)
    if not _NAME.fullmatch(found.login):
        raise TaskRefused(f"{found.login[:40]!r} is not a valid user name")
    if not found.timeout_factor <= _LONGEST_STRETCH:
        raise TaskRefused(f"the timeout factor is at most {_LONGEST_STRETCH:.0f}")
    return (_image(found.image, files), *options)


def _image(text: str, files: Sequence[Path] | None) -> str:
    """Return an image's name in the catalogue, or the path of a file that the worker offers."""
    if "/" in text or text.endswith((".qcow2", ".img", ".raw")):
        path = Path(text).resolve() if files is not None else Path(text)
        if files is None:
            if not path.is_absolute():
                raise TaskRefused(f"{text} is a file: give its absolute path on the workers")
        elif not any(path == one or one in path.parents for one in (file.resolve() for file in files)):
            raise TaskRefused(f"{text} is not a file that this worker offers (fleet worker --allow-files PATH)")
        return str(path)
    return load_catalog().find(text).name


def _check_package(text: str) -> None:
    if not _PACKAGE.fullmatch(text) or text.endswith((".deb", ".rpm")):
        raise TaskRefused(f"a worker installs packages by the name of a package or suite, not {text[:80]!r}")


def _drill_command(task: FleetTask, files: Sequence[Path]) -> TaskCommand:
    if task.test or task.sha256:
        raise TaskRefused("a drill names no scenario")
    try:
        found = parse_drill(task.arguments)
        arguments = drill_arguments(found, files)
    except TaskRefused:
        raise
    except HarnessError as error:
        raise TaskRefused(str(error)) from None

    def command(paths: TaskPaths) -> list[str]:
        return [
            sys.executable, "-P", "-m", "kdump_harness", DRILL, *arguments, *_where(paths), "--history", "none",
            "--evidence", str(paths.evidence), "--json", str(paths.result),
        ]  # fmt: skip

    return TaskCommand(needs=drill_needs(found), build=command)


def asked_mib(found: argparse.Namespace) -> int:
    """Return the whole memory of a drill's guest."""
    memory_mib = found.memory
    if memory_mib is None:
        with contextlib.suppress(HarnessError):
            memory_mib = _row(found).architecture.boot_disk.memory_mib
    return int(memory_mib or GUEST_MIB) + sum(found.dimm or ())


def _row(found: argparse.Namespace) -> Image:
    """Return the image of a drill."""
    catalog = load_catalog()
    return catalog.find_for(found.image, find_architecture(found.arch)) if found.arch else catalog.find(found.image)


def drill_needs(found: argparse.Namespace) -> Needs:
    """Return the needs of a drill's guests."""
    features = {f"{found.accelerator.upper()}"} - {"AUTO"}
    level, firmware = found.cpu, found.firmware
    with contextlib.suppress(HarnessError):
        row = _row(found)
        level = level or row.cpu
        firmware = firmware or ("bios" if "bios" in row.firmware else row.firmware[0])
        features.add(f"ARCH-{row.arch}")
    needs = guest_needs(asked_mib(found), level=level, firmware=firmware or "bios", more=features)
    return needs.with_guest(COLLECTOR_MIB) if found.target in ON_SERVER else needs


def _where(paths: TaskPaths) -> list[str]:
    """Return the options that choose the hypervisor and the state directory."""
    uri = ["--uri", paths.uri] if paths.uri is not None else []
    return [*uri, *(["--state", str(paths.state)] if paths.state is not None else [])]


# ---------------------------------------------------------------- scenarios


def _one_of(*words: str) -> Callable[[str], bool]:
    return lambda text: text in words


def _is_factor(text: str) -> bool:
    try:
        return 0 < float(text) <= _LONGEST_STRETCH
    except ValueError:
        return False


def _is_kernel(text: str) -> bool:
    with contextlib.suppress(TaskRefused):
        _check_package(text)
        return True
    return False


# The options of pytest that a scenario may have, with a check of the value; None for an option without one.
_SCENARIO_OPTIONS: Mapping[str, Callable[[str], bool] | None] = {
    "image": lambda text: _GLOB.fullmatch(text) is not None,
    "strict_images": None,
    "cold": None,
    "crash": None,
    "keep": _one_of(*KEEP),
    "kernel": _is_kernel,
    "firmware": _one_of(*FIRMWARE),
    "timeout_factor": _is_factor,
    "run_known": None,
}


def scenario_options(config: Callable[[str], Any]) -> tuple[str, ...]:
    """Return the options of pytest that are sent with each scenario; config returns an option's value."""
    if config("packages"):
        raise UsageError("--packages names files of this host, which workers do not have")
    options = []
    for name, fits in _SCENARIO_OPTIONS.items():
        value, option = config(name), "--" + name.replace("_", "-")
        if fits is None:
            options += [option] if value else []
        else:
            options += [f"{option}={one}" for one in (value if isinstance(value, list) else [value]) if one is not None]
    for one in options:
        _check_option(one)
    return tuple(options)


def _check_option(text: str) -> None:
    option, equals, value = text.partition("=")
    name = option.removeprefix("--").replace("-", "_")
    known = option.startswith("--") and name in _SCENARIO_OPTIONS
    fits = _SCENARIO_OPTIONS[name] if known else None
    if not known or (fits is None) == bool(equals) or (fits is not None and not fits(value)):
        raise TaskRefused(f"a worker does not accept {text[:80]!r}")


def scenario_digest(path: Path) -> str:
    """Return the digest of a file of scenarios and of the tables and helper modules next to it."""
    digest = hashlib.sha256()
    helpers = (part for part in path.parent.glob("*.py") if not part.name.startswith("test_"))
    for part in (path, *sorted([*path.parent.glob("*.toml"), *helpers])):
        digest.update(part.name.encode() + b"\0" + hashlib.sha256(part.read_bytes()).digest())
    return digest.hexdigest()


def _scenario_command(task: FleetTask) -> TaskCommand:
    for one in task.arguments:
        _check_option(one)
    named = _TEST.fullmatch(task.test)
    if named is None:
        raise TaskRefused(f"{task.test[:120]!r} is not the id of a scenario (test_FILE.py::test_NAME[...])")
    path = data_path("scenarios") / named["file"]
    try:
        regular = stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        regular = False
    if not regular:
        raise TaskRefused(f"this worker has no {named['file']} among its scenarios")
    if scenario_digest(path) != task.sha256:
        raise TaskRefused(f"{named['file']}, or a table or helper module next to it, differs on this worker")

    def command(paths: TaskPaths) -> list[str]:
        # An empty configuration and no conftest: only the plugin and the scenario decide what is run.
        ini = paths.scratch / "pytest.ini"
        ini.write_text("[pytest]\n", encoding="ascii")
        return [
            sys.executable, "-P", "-m", "pytest", f"{path}::{named['test']}", "-c", str(ini), "--rootdir",
            str(path.parent.parent), "--noconftest", "-p", "no:cacheprovider", "-p",
            "kdump_harness.pytest_plugin.short_names", "-p", "kdump_harness.fleet.worker.pytest_worker", "-q",
            *task.arguments, *_where(paths), "--history", "none", "--evidence", str(paths.evidence),
        ]  # fmt: skip

    # The client, which collected the scenario, knows all its needs; the worker knows only that it has a guest.
    return TaskCommand(needs=guest_needs(None, level=None, firmware="bios", more=()), build=command)
