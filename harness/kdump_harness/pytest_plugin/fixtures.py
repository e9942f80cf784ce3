"""The pytest plugin: options, fixtures, markers, and what a report says of a drill."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from ..base.errors import HarnessError, UsageError
from ..base.evidence import Evidence, EvidenceRoot, run_stamp
from ..base.verdict import Verdict
from ..campaigns.sweep.run import Sweep, SweepPlan, run_sweep
from ..cli.parser import KEEP, REMOTE_STATE_HELP, URI_HELP
from ..cli.verbs.history_options import HISTORY_HELP
from ..distro.family import Family, find_family
from ..distro.packages import local_packages, parse_kernel
from ..drill.disks import ArmedDisk, BaseDisk, SystemUnderTest, armed_disk, base_disk
from ..drill.dump_server import DumpServer, open_dump_server
from ..drill.plan import Plan, disk_need_mib
from ..drill.session import Session, open_session, run_drill
from ..drill.warm_pool import WarmPool
from ..history.database import DRILL, history_path
from ..history.recording import record
from ..images.catalog import load_catalog
from ..images.download import Unreachable
from ..kdump.service import KdumpConfig, KdumpService
from ..kdump.target import ON_SERVER, Target, find_target
from ..kdump.trigger import CannotTrigger, Trigger, find_trigger
from ..vm.guest import Guest
from ..vm.hypervisor.domain_xml import FIRMWARE
from ..vm.run import Machine, Options, Run
from .matrix import Matrix, MatrixEntry, Outcome

T = TypeVar("T")

DEFAULT_IMAGES = ("debian-12",)
MOST_WORKERS = 256  # of -n auto, whatever the host has
_FAILED = pytest.StashKey[bool]()
_VERDICTS = pytest.StashKey[list[Verdict]]()
_FAILED_DRILLS = pytest.StashKey[list[Verdict]]()  # that are not in the history yet
_ENTRY = pytest.StashKey[MatrixEntry]()
_OLD_PROPERTIES = pytest.StashKey[int]()
_MISSING = pytest.StashKey[dict[str, str]]()
_RUN = pytest.StashKey[Run]()
_RUN_NAME = pytest.StashKey[str]()
_SHARD = pytest.StashKey[tuple[int, int] | None]()


def pin_image(*names: str) -> pytest.MarkDecorator:
    """Run this scenario on these images only."""
    return pytest.mark.parametrize("image", names, indirect=True, ids=str)


def pin_trigger(*names: str) -> pytest.MarkDecorator:
    """Run this scenario with these triggers only."""
    return pytest.mark.parametrize("trigger", names, indirect=True, ids=str)


def pin_crashkernel(*sizes: str) -> pytest.MarkDecorator:
    """Run this scenario with these reservations only."""
    return pytest.mark.parametrize("crashkernel", sizes, indirect=True, ids=str)


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of the contract."""
    group = parser.getgroup("kdump-harness", "real guests, real panics")
    group.addoption(
        "--image",
        action="append",
        default=[],
        metavar="NAME",
        help=f"image or glob of the catalogue, repeatable (default: {', '.join(DEFAULT_IMAGES)}, and the images that a "
        "scenario pins); where it is given, scenarios that pin others are left out",
    )
    group.addoption(
        "--strict-images", action="store_true", help="an image that cannot be had here is an error, and no skip"
    )
    group.addoption(
        "--matrix",
        metavar="FILE",
        help="where the matrix of images and scenarios goes as JSON (default: matrix.json in the run's evidence)",
    )
    group.addoption("--evidence", default="evidence", metavar="DIR", help="where evidence goes")
    group.addoption("--keep", choices=KEEP, default="failed", help="when vmcores stay in the evidence")
    group.addoption("--kernel", metavar="K", help="another kernel, as kdump-harness drill --kernel takes it")
    group.addoption("--packages", metavar="DIR", help="package files to install instead of the repositories'")
    group.addoption("--firmware", choices=tuple(FIRMWARE), help="of the guests (default: bios where the image has it)")
    group.addoption("--timeout-factor", type=float, default=1.0, metavar="F", help="stretch all waits by F")
    group.addoption(
        "--cold", action="store_true", help="boot a guest for each drill, and restore none from its saved memory"
    )
    group.addoption("--run-known", action="store_true", help="run scenarios with a known issue without excusing them")
    group.addoption("--uri", metavar="URI", help=URI_HELP)
    group.addoption("--state", metavar="DIR", help="where disks are kept")
    group.addoption("--remote-state", type=Path, metavar="DIR", help=REMOTE_STATE_HELP)
    group.addoption("--history", metavar="FILE", help=HISTORY_HELP)
    group.addoption(
        "--shard",
        metavar="I/N",
        help="run the I-th of N parts of what would be run, the same ones every time; for a CI's own matrix",
    )


def pytest_configure(config: pytest.Config) -> None:
    """The markers of the contract."""
    config.addinivalue_line("markers", "needs(feature, ...): skip where the hypervisor or the guest lacks a feature")
    config.addinivalue_line("markers", "slow: takes more than a few drills' time")
    config.stash[_MISSING] = {}
    config.stash[_SHARD] = _shard(config.getoption("--shard"))
    if not hasattr(config, "workerinput"):
        config.stash[_RUN_NAME] = f"{run_stamp()}-{os.getpid()}"
        config.pluginmanager.register(MatrixReporter(config), "kdump-matrix")


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """xdist's workers each have a directory in that of the run."""
    node.workerinput["kdump_run"] = node.config.stash[_RUN_NAME]


@pytest.hookimpl(optionalhook=True, tryfirst=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """With -n auto as many workers as the host has room for guests; tests without guests get xdist's own number."""
    if not _has_guests(config) or os.environ.get("PYTEST_XDIST_AUTO_NUM_WORKERS"):
        return None
    memory_mib = Machine().memory_mib
    try:
        with Run(dataclasses.replace(_options(config), jobs=None)) as run:
            return run.at_once([memory_mib] * MOST_WORKERS, disk_need_mib(memory_mib))
    except HarnessError:
        return 1  # which tells what is wrong


def _has_guests(config: pytest.Config) -> bool:
    """Whether guests are to be expected, before any test is known."""
    paths = (Path(argument.partition("::")[0]).absolute() for argument in config.args)
    return bool(config.getoption("--image")) or any("scenarios" in path.parts for path in paths)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A scenario that takes an image runs once per chosen image, unless it pins its own."""
    if "image" not in metafunc.fixturenames or not _is_ours(metafunc.definition, "image"):
        return
    pinned = any(
        "image" in str(mark.args[0]).replace(" ", "").split(",")
        for mark in metafunc.definition.iter_markers("parametrize")
    )
    if not pinned:
        metafunc.parametrize("image", chosen_images(metafunc.config), indirect=True, scope="session")


def _is_ours(test: Any, fixture: str) -> bool:
    """Whether a fixture is this plugin's; other projects' tests may have one of the same name."""
    found = test._fixtureinfo.name2fixturedefs.get(fixture)  # pytest has no public way to ask
    return found is not None and found[-1].func.__module__ == __name__


def _image_of(item: Any) -> str | None:
    """The image that a test is run on."""
    if "image" not in getattr(item, "fixturenames", ()) or not hasattr(item, "callspec") or not _is_ours(item, "image"):
        return None
    return item.callspec.params.get("image")  # type: ignore[no-any-return]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out scenarios that are pinned to images other than those which were asked for."""
    if not config.getoption("--image"):
        return
    wanted = {*chosen_images(config), None}
    if others := [item for item in items if _image_of(item) not in wanted]:
        items[:] = [item for item in items if _image_of(item) in wanted]
        config.hook.pytest_deselected(items=others)


@pytest.hookimpl(trylast=True, specname="pytest_collection_modifyitems")
def pytest_leave_out_other_shards(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Of the tests that all other options leave, by their ids, every N-th from the I-th on."""
    if (shard := config.stash[_SHARD]) is None:
        return
    number, of = shard
    mine = set(sorted(item.nodeid for item in items)[number - 1 :: of])
    if others := [item for item in items if item.nodeid not in mine]:
        items[:] = [item for item in items if item.nodeid in mine]
        config.hook.pytest_deselected(items=others)


def pytest_report_collectionfinish(config: pytest.Config, items: list[pytest.Item]) -> list[str]:
    """Say that a shard leaves something out; pytest counts it as deselected."""
    if (shard := config.stash[_SHARD]) is None:
        return []
    return [f"shard {shard[0]} of {shard[1]}: {len(items)} tests; the others are for the other shards"]


def _shard(text: str | None) -> tuple[int, int] | None:
    """I and N of --shard I/N."""
    if text is None:
        return None
    number, _, of = text.partition("/")
    if not (number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
        raise pytest.UsageError(f"--shard {text} is no part of a whole (2/5 is the second of five)")
    return int(number), int(of)


def chosen_images(config: pytest.Config) -> list[str]:
    """The names that --image asks for."""
    wanted = config.getoption("--image") or list(DEFAULT_IMAGES)
    try:
        return [image.name for image in load_catalog().match(wanted)]
    except UsageError as error:
        raise pytest.UsageError(str(error)) from None


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test that is run again counts its own drills only."""
    item.stash[_VERDICTS] = []
    item.stash[_FAILED_DRILLS] = []
    item.stash[_OLD_PROPERTIES] = len(item.user_properties)
    if image := _image_of(item):
        item.stash[_ENTRY] = MatrixEntry(image=image, scenario=scenario_name(item), nodeid=item.nodeid)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Remember failures for the fixtures, put our exceptions into one sentence, and excuse known issues."""
    _record_failed(item, call)
    report: Any = yield
    if report.failed:
        item.stash[_FAILED] = True
    trackers = _excuse(item, call)
    if trackers and report.failed:
        report.outcome = "skipped"
        report.wasxfail = f"known issue: {', '.join(trackers)}"
    if call.excinfo is not None and call.excinfo.errisinstance(HarnessError) and not report.skipped:
        report.longrepr = f"{call.excinfo.typename}: {call.excinfo.value}"
    if (entry := item.stash.get(_ENTRY, None)) is not None:
        _tell(entry, item, call, report)
        report.kdump = entry.to_json()  # goes with the report to where the matrix is made
    return report  # type: ignore[no-any-return]


def _tell(entry: MatrixEntry, item: pytest.Item, call: pytest.CallInfo[None], report: Any) -> None:
    """What this phase of a test adds to its entry of the matrix, and in the end to JUnit XML."""
    error = call.excinfo.value if call.excinfo is not None else None
    if error is not None and str(error) == item.config.stash[_MISSING].get(entry.image):
        entry.unavailable = True
        if item.config.getoption("--strict-images") and report.skipped:  # a scenario that is expected to fail
            report.outcome = "failed"
            report.__dict__.pop("wasxfail", None)
    verdicts = item.stash[_VERDICTS]
    found = Outcome.ERROR if entry.unavailable and report.failed else _outcome(call, report, verdicts)
    # A fixture that breaks afterwards does not make a failure any better.
    if found is not None and not (report.when == "teardown" and entry.outcome is Outcome.FAILED):
        entry.outcome, entry.reason = found, _reason(entry.image, found, call, report, verdicts)
    entry.duration_s = round(entry.duration_s + report.duration, 3)
    entry.verdicts = [verdict.to_json() for verdict in verdicts]
    told = [str(value) for name, value in item.user_properties[item.stash[_OLD_PROPERTIES] :] if name == "evidence"]
    see = [str(error.see)] if isinstance(error, HarnessError) and error.see is not None else []
    entry.evidence = list(dict.fromkeys([*told, *entry.evidence, *see]))
    if report.when == "teardown":
        report.user_properties += [
            ("image", entry.image),
            ("scenario", entry.scenario),
            ("outcome", entry.outcome.value),
        ]
        if entry.outcome is Outcome.SKIPPED or entry.unavailable:
            report.user_properties.append(("skip_reason", entry.reason))


def _outcome(call: pytest.CallInfo[None], report: Any, verdicts: list[Verdict]) -> Outcome | None:
    """What a phase says of its test; None where it says nothing."""
    if report.skipped:
        return Outcome.KNOWN_ISSUE if hasattr(report, "wasxfail") else Outcome.SKIPPED
    if report.failed:
        # Without an exception it is a pass that was not expected.
        judged = call.excinfo is None or call.excinfo.errisinstance((AssertionError, pytest.fail.Exception))
        return Outcome.FAILED if judged and report.when == "call" else Outcome.ERROR
    if report.when != "call":
        return None
    return Outcome.VERIFIED if verdicts and all(verdict.verified for verdict in verdicts) else Outcome.PASSED


def _reason(
    image: str, outcome: Outcome, call: pytest.CallInfo[None], report: Any, verdicts: list[Verdict]
) -> str | None:
    """One line on why a test has this outcome."""
    if outcome in (Outcome.VERIFIED, Outcome.PASSED):
        return None
    if outcome is Outcome.KNOWN_ISSUE:
        return str(report.wasxfail).removeprefix("reason: ")
    error = call.excinfo.value if call.excinfo is not None else report.longrepr
    told = str(error).strip()
    if not told:
        return type(error).__name__
    line = told.splitlines()[0]
    if outcome is not Outcome.ERROR or isinstance(error, pytest.fail.Exception):
        line = re.sub(rf"^{re.escape(image)}: reached [A-Z]+: ", "", line)  # explain() says what the matrix says, too
        if line == "verified":  # explain() beside an assertion that is about something else
            line = next((other for other in told.splitlines() if other.startswith("assert ")), line)
        failing = next((verdict for verdict in verdicts if not verdict.verified), None)
        return f"{line} (the drill: {failing.reason()})" if failing and line.startswith("assert ") else line
    return f"{type(error).__name__}: {line}"


def _excuse(item: pytest.Item, call: pytest.CallInfo[None]) -> list[str]:
    """The known issues that a failed assertion is put down to: every failing drill of the test has one."""
    if call.when != "call" or call.excinfo is None or not call.excinfo.errisinstance(AssertionError):
        return []
    failing = [verdict for verdict in item.stash.get(_VERDICTS, []) if not verdict.verified]
    trackers = dict.fromkeys(verdict.known_issue for verdict in failing if verdict.known_issue)
    unknown = any(verdict.known_issue is None for verdict in failing)
    return [] if unknown or item.config.getoption("--run-known") else list(trackers)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Tell what the outcomes alone do not: a known issue that is gone, has expired, or did not excuse."""
    lines = []
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            for name, text in getattr(report, "user_properties", ()):
                if name == "known_issue_note":
                    lines.append(f"{report.nodeid}: {text}")
                elif name == "known_issue" and outcome == "failed":
                    lines.append(f"{report.nodeid}: shows the known issue {text}, not excused")
    if lines:
        terminalreporter.section("known issues", yellow=True)
        for line in dict.fromkeys(lines):
            terminalreporter.line(line, yellow=True)


class MatrixReporter:
    """Collects what became of each test, also from xdist's workers, and tells it in the end."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.matrix = Matrix()
        self.told = ""
        to = config.getoption("--matrix")
        self.path = config.invocation_params.dir / to if to else None
        if self.path is not None and (self.path.is_dir() or not os.access(self.path.parent, os.W_OK | os.X_OK)):
            raise pytest.UsageError(f"--matrix {to} cannot be written: it must be a file in a directory that is there")

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Take what the report brings along."""
        if found := getattr(report, "kdump", None):
            self.matrix.add(MatrixEntry.from_json(found))

    def pytest_sessionfinish(self) -> None:
        """Write the JSON; where nothing was run, only if it was asked for."""
        if self.config.getoption("collectonly") or not (self.matrix or self.path):
            return
        try:
            path = self.path or self._run_directory() / "matrix.json"
            self.matrix.write(path)
            self.told = f"JSON: {path}"
        except (OSError, HarnessError) as error:
            self.told = f"no JSON: {error}"

    def _run_directory(self) -> Path:
        """Where this session's drills left their evidence; made where there was none."""
        config = self.config
        if (run := config.stash.get(_RUN, None)) is not None:
            return run.evidence_directory
        root = Path(config.getoption("--evidence"))
        shared = root / config.stash[_RUN_NAME]
        return shared if shared.is_dir() else EvidenceRoot(root).run

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """The matrix in plain text."""
        if self.matrix:
            terminalreporter.section("images × scenarios")
            for line in self.matrix.lines(shutil.get_terminal_size().columns):
                terminalreporter.line(line)
        if self.told:
            terminalreporter.line(self.told)


@pytest.fixture(scope="session")
def harness_run(request: pytest.FixtureRequest) -> Iterator[Run]:
    """Hypervisor, state and evidence of this session."""
    config = request.config
    options = _options(config)
    capture = config.pluginmanager.getplugin("capturemanager")
    # pytest dies of SIGTERM on the spot; this way the guests and their disks go first.
    before = (
        signal.signal(signal.SIGTERM, _interrupt) if threading.current_thread() is threading.main_thread() else None
    )
    with capture.global_and_fixture_disabled() if capture else _nothing(), Run(options) as run:
        config.stash[_RUN] = run
        yield run
    if before is not None:
        signal.signal(signal.SIGTERM, before)


def _options(config: pytest.Config) -> Options:
    """What pytest's options say of the run."""
    state = config.getoption("--state")
    worker = getattr(config, "workerinput", None)
    return Options(
        uri=config.getoption("--uri"),
        state=Path(state) if state else None,
        remote_state=config.getoption("--remote-state"),
        evidence=Path(config.getoption("--evidence")),
        evidence_part=(worker["kdump_run"], worker["workerid"]) if worker else None,
        timeout_factor=config.getoption("--timeout-factor"),
        beside=worker.get("workercount", 1) - 1 if worker else 0,
        keep=config.getoption("--keep"),
    )


def _interrupt(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt


class _nothing:  # noqa: N801  # used like contextlib.nullcontext, without its type parameter
    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


@pytest.fixture(scope="session")
def image(request: pytest.FixtureRequest) -> SystemUnderTest:
    """What is drilled; chosen with --image or pin_image()."""
    row = load_catalog().find(request.param)
    subject = SystemUnderTest(name=row.name, family=find_family(row.family), image=row)
    kernel, packages = request.config.getoption("--kernel"), request.config.getoption("--packages")
    return dataclasses.replace(
        subject,
        kernel=parse_kernel(kernel, subject.family, usual=subject.usual_kernel) if kernel else None,
        files=local_packages(Path(packages), subject.family) if packages else (),
    )


@pytest.fixture
def memory_mib(request: pytest.FixtureRequest) -> int:
    """Guest memory; override with indirect parametrize. Default: 1024."""
    return int(getattr(request, "param", 1024))


@pytest.fixture
def vcpus(request: pytest.FixtureRequest) -> int:
    """Guest processors; override with indirect parametrize. Default: 2."""
    return int(getattr(request, "param", 2))


@pytest.fixture
def crashkernel(request: pytest.FixtureRequest) -> str | None:
    """The reservation; override with pin_crashkernel(). Default: the family's."""
    return getattr(request, "param", None)


@pytest.fixture
def level(request: pytest.FixtureRequest) -> int | None:
    """The dump level; override with indirect parametrize. Default: the family's."""
    return getattr(request, "param", None)


@pytest.fixture
def compress(request: pytest.FixtureRequest) -> str | None:
    """The compression; override with indirect parametrize. Default: the family's."""
    return getattr(request, "param", None)


@pytest.fixture
def trigger(request: pytest.FixtureRequest) -> Trigger:
    """How the guest is crashed; override with pin_trigger(). Default: sysrq-c."""
    return find_trigger(getattr(request, "param", "sysrq-c"), vcpus=request.getfixturevalue("vcpus"))


@pytest.fixture
def target(request: pytest.FixtureRequest, image: SystemUnderTest) -> Target:
    """Where the dump goes; override with indirect parametrize. Default: local."""
    return find_target(getattr(request, "param", "local"), image.family)


@pytest.fixture
def firmware(request: pytest.FixtureRequest, image: SystemUnderTest) -> str:
    """bios, uefi or uefi-secure; override with indirect parametrize. Default: --firmware, else the image's."""
    return getattr(request, "param", None) or request.config.getoption("--firmware") or image.firmware


@pytest.fixture
def machine(memory_mib: int, vcpus: int, firmware: str, image: SystemUnderTest) -> Machine:
    """The virtual hardware."""
    return Machine(memory_mib=memory_mib, vcpus=vcpus, firmware=firmware, cpu_level=image.needs_cpu)


@pytest.fixture
def kdump_config(crashkernel: str | None, level: int | None, compress: str | None) -> KdumpConfig:
    """How kdump is to be configured."""
    return KdumpConfig(crashkernel=crashkernel, level=level, compress=compress)


@pytest.fixture(scope="session")
def base_disk_of(request: pytest.FixtureRequest, harness_run: Run) -> Callable[[SystemUnderTest], BaseDisk]:
    """Get the base disk of any subject."""
    return lambda subject: _available(
        request.config, subject, lambda: base_disk(harness_run, subject, subject.family.packages)
    )


@pytest.fixture(scope="session", name="base_disk")
def base_disk_fixture(image: SystemUnderTest, base_disk_of: Callable[[SystemUnderTest], BaseDisk]) -> BaseDisk:
    """The disk that guests of this image start from; read only."""
    return base_disk_of(image)


@pytest.fixture(name="armed_disk")
def armed_disk_fixture(
    request: pytest.FixtureRequest,
    harness_run: Run,
    image: SystemUnderTest,
    machine: Machine,
    kdump_config: KdumpConfig,
) -> ArmedDisk:
    """A disk whose kdump was seen loaded; made once and cached."""
    return _available(request.config, image, lambda: armed_disk(harness_run, image, machine, kdump_config))


@pytest.fixture
def evidence(request: pytest.FixtureRequest, harness_run: Run) -> Iterator[Evidence]:
    """A directory named after the scenario."""
    found = harness_run.evidence(evidence_name(request.node))
    request.node.user_properties.append(("evidence", str(found.directory)))
    yield found
    found.close()


@pytest.fixture
def guest(
    harness_run: Run, base_disk: BaseDisk, machine: Machine, evidence: Evidence, image: SystemUnderTest
) -> Iterator[Guest]:
    """A booted guest as the image has it, reached by SSH; gone at the end of the test."""
    overlay = harness_run.overlay(base_disk.path, base_format=base_disk.format)
    yield from _booted(harness_run, overlay, machine, evidence, image)


@pytest.fixture
def armed_guest(
    harness_run: Run, armed_disk: ArmedDisk, machine: Machine, evidence: Evidence, image: SystemUnderTest
) -> Iterator[Guest]:
    """A booted guest with kdump loaded, reached by SSH; gone at the end of the test."""
    overlay = harness_run.overlay(armed_disk.path, base_format="qcow2")
    for guest in _booted(harness_run, overlay, machine, evidence, image):
        _stack(guest, image).wait_until_loaded()
        yield guest


@pytest.fixture
def stack(armed_guest: Guest, image: SystemUnderTest) -> KdumpService:
    """The kdump of the armed guest."""
    return _stack(armed_guest, image)


def _stack(guest: Guest, image: SystemUnderTest) -> KdumpService:
    stack = KdumpService(guest, image.family)
    stack.identify()
    return stack


@pytest.fixture(scope="session")
def collector(harness_run: Run) -> Iterator[DumpServer]:
    """The machine that dumps are sent to by the targets ssh and nfs; one for all scenarios."""
    with open_dump_server(harness_run) as running:
        yield running


@pytest.fixture
def plan_drill(
    request: pytest.FixtureRequest,
    image: SystemUnderTest,
    machine: Machine,
    kdump_config: KdumpConfig,
    trigger: Trigger,
    target: Target,
) -> Callable[..., Plan]:
    """The plan of a drill with this test's dimensions; keyword arguments replace its fields."""

    def plan(**changes: Any) -> Plan:
        settings: dict[str, Any] = {
            "subject": image,
            "machine": machine,
            "config": kdump_config,
            "trigger": trigger.name,
            "target": target.name,
            "name": evidence_name(request.node),
            "scenario": scenario_name(request.node),
            **changes,
        }
        if settings["target"] in ON_SERVER and "server" not in settings:
            settings["server"] = request.getfixturevalue("collector").server
        return Plan(**settings)

    return plan


@pytest.fixture(scope="session")
def warm_pool(harness_run: Run) -> Iterator[WarmPool]:
    """The guests that were booted once for all drills of their kind."""
    pool = WarmPool(harness_run)
    yield pool
    pool.close()


@pytest.fixture
def drill(request: pytest.FixtureRequest, harness_run: Run, plan_drill: Callable[..., Plan]) -> Callable[..., Verdict]:
    """Drill the image with this test's dimensions; keyword arguments replace fields of the Plan.

    The guest goes on from the saved memory of another that was booted for its kind; with cold=True, or --cold, it is
    booted itself.
    """

    def take(*, cold: bool = False, **changes: Any) -> Verdict:
        plan = plan_drill(**changes)

        def once() -> Verdict:
            if cold or request.config.getoption("--cold"):
                return run_drill(harness_run, plan)
            pool: WarmPool = request.getfixturevalue("warm_pool")
            return pool.drill(plan)

        verdict = _available(request.config, plan.subject, once)
        report_verdict(request.node, verdict)
        return verdict

    return take


@pytest.fixture
def drill_session(
    request: pytest.FixtureRequest, harness_run: Run, plan_drill: Callable[..., Plan]
) -> Iterator[Callable[..., Session]]:
    """Open one guest for several drills, by session.drill(**changes); it goes at the end of the test."""
    with contextlib.ExitStack() as stack:

        def enter(**changes: Any) -> Session:
            plan = plan_drill(**changes)
            session = open_session(harness_run, plan, on_verdict=lambda verdict: report_verdict(request.node, verdict))
            return _available(request.config, plan.subject, lambda: stack.enter_context(session))

        yield enter


class Turns:
    """At most one guest at a time that tests drill one after the other."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._stack = contextlib.ExitStack()
        self._opened: tuple[Plan, Session] | None = None

    def session(self, plan: Plan) -> Session:
        """The guest of the test before, where it is alike and came back; else a new one."""
        kind = dataclasses.replace(
            plan, trigger="sysrq-c", name="", before_crash=None, on_trigger=None, meanwhile=None, on_dump=None
        )
        if self._opened is None or self._opened[0] != kind or not self._opened[1].ready:
            self.close()
            self._opened = (kind, self._stack.enter_context(open_session(self._run, plan)))
        return self._opened[1]

    def close(self) -> None:
        """Let the guest go."""
        self._opened = None
        self._stack.close()


@pytest.fixture(scope="session")
def turns(harness_run: Run) -> Iterator[Turns]:
    """The guest that tests share by drill_in_turn."""
    shared = Turns(harness_run)
    yield shared
    shared.close()


@pytest.fixture
def drill_in_turn(
    request: pytest.FixtureRequest, plan_drill: Callable[..., Plan], turns: Turns
) -> Callable[..., Verdict]:
    """Drill like drill(), but in the guest that the test before has crashed, where that came back: it saves a boot."""

    def take(**changes: Any) -> Verdict:
        plan = plan_drill(**changes)

        def once() -> Verdict:
            session = turns.session(plan)
            return session.drill(
                trigger=plan.trigger,
                name=plan.name,
                before_crash=plan.before_crash,
                on_trigger=plan.on_trigger,
                meanwhile=plan.meanwhile,
                on_dump=plan.on_dump,
            )

        verdict = _available(request.config, plan.subject, once)
        report_verdict(request.node, verdict)
        return verdict

    return take


@pytest.fixture
def sweep(
    request: pytest.FixtureRequest, harness_run: Run, image: SystemUnderTest, machine: Machine, crashkernel: str | None
) -> Callable[..., Sweep]:
    """Sweep the image with this test's dimensions; keyword arguments replace fields of the SweepPlan."""

    def take(**changes: Any) -> Sweep:
        settings: dict[str, Any] = {
            "subject": image,
            "machine": machine,
            "crashkernel": crashkernel,
            "name": evidence_name(request.node),
            "scenario": scenario_name(request.node),
        }
        plan = SweepPlan(**{**settings, **changes})
        return _available(
            request.config,
            plan.subject,
            lambda: run_sweep(harness_run, plan, on_verdict=lambda verdict: report_verdict(request.node, verdict)),
        )

    return take


def report_verdict(item: Any, verdict: Verdict) -> None:
    """Put the verdict's figures into the test's properties, which JUnit XML carries, and count it for known issues."""
    item.stash.setdefault(_VERDICTS, []).append(verdict)
    if verdict.verified:
        verdict.remarks += _record(item, verdict)
    else:
        item.stash.setdefault(_FAILED_DRILLS, []).append(verdict)
    properties = {
        "evidence": verdict.evidence,
        "reached": verdict.reached.name,
        "verified": str(verdict.verified).lower(),
        "kernel": verdict.kernel,
        "makedumpfile": verdict.makedumpfile,
        **{f"phase_{name}_s": seconds for name, seconds in verdict.phases_s.items()},
    }
    for name in ("known_issue", "known_issue_note"):
        if text := getattr(verdict, name):
            properties[name] = text
    item.user_properties.extend(properties.items())


def _record_failed(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    """Put drills that failed into the history, unless the test wanted that: it says nothing of the image's kdump."""
    if call.excinfo is None and call.when == "setup":
        return
    failed = item.stash.get(_FAILED_DRILLS, [])
    item.stash[_FAILED_DRILLS] = []
    if call.excinfo is not None:
        for verdict in failed:
            verdict.remarks += _record(item, verdict)


def _record(item: Any, verdict: Verdict) -> list[str]:
    """Put it into the history; what is worse than before."""
    history, state = item.config.getoption("--history"), item.config.getoption("--state")
    return record(
        history_path(history, Path(state) if state else None),
        DRILL,
        verdict.to_json(),
        say=lambda text: item.user_properties.append(("history", text)),
        scenario=scenario_name(item),
    )


def evidence_name(node: Any) -> str:
    """The scenario's file and test id as one directory below another."""
    return f"{Path(str(node.path)).stem}/{node.name.replace('/', '_')}"


def scenario_name(node: Any) -> str:
    """The scenario as scenarios/known_issues.toml names it: test_smoke.py::test_dump."""
    test = re.sub(r"\[.*", "", node.nodeid.partition("::")[2], flags=re.DOTALL)
    return f"{Path(str(node.path)).name}::{test}"


def _available(config: pytest.Config, subject: SystemUnderTest, get: Callable[[], T]) -> T:
    """What get returns; skips the scenario where the image cannot be had here, and does not try it a second time."""
    missing = config.stash[_MISSING]
    if subject.name not in missing:
        try:
            return get()
        except Unreachable as error:
            missing[subject.name] = str(error).splitlines()[0]
        except CannotTrigger as error:
            pytest.skip(str(error).splitlines()[0])
    if config.getoption("--strict-images"):
        pytest.fail(missing[subject.name], pytrace=False)
    pytest.skip(missing[subject.name])


def _booted(run: Run, overlay: Path, machine: Machine, evidence: Evidence, image: SystemUnderTest) -> Iterator[Guest]:
    with run.guest(overlay, machine, evidence, label=image.name, user=image.login, access=image.access) as guest:
        with run.progress.step(f"{image.name}: booting"):
            guest.power_on()
            guest.wait_for_login()
            guest.connect()
        yield guest


__all__ = ["Family", "pin_crashkernel", "pin_image", "pin_trigger"]
