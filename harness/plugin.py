"""The pytest plugin: options, fixtures, markers, and what a report says of a drill."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from .catalog import load_catalog
from .disk import ArmedDisk, BaseDisk, Subject, armed_disk, base_disk
from .download import Unreachable
from .drill import Plan, run_drill
from .errors import HarnessError, UsageError
from .evidence import Evidence
from .family import Family, find_family
from .guest import Guest
from .runtime import Machine, Options, Run
from .stack import KdumpConfig, Stack
from .sweep import Sweep, SweepPlan, run_sweep
from .target import LocalTarget, find_target
from .trigger import Trigger, find_trigger
from .verdict import Verdict

T = TypeVar("T")

DEFAULT_IMAGES = ("debian-12",)
_FAILED = pytest.StashKey[bool]()
_VERDICTS = pytest.StashKey[list[Verdict]]()


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
        "--image", action="append", default=[], metavar="NAME", help="image or glob of the catalogue, repeatable"
    )
    group.addoption("--evidence", default="evidence", metavar="DIR", help="where evidence goes")
    group.addoption(
        "--keep", choices=("never", "failed", "always"), default="failed", help="when vmcores stay in the evidence"
    )
    group.addoption("--timeout-factor", type=float, default=1.0, metavar="F", help="stretch all waits by F")
    group.addoption("--run-known", action="store_true", help="run scenarios with a known issue without excusing them")
    group.addoption("--uri", metavar="URI", help="the hypervisor (default: LIBVIRT_DEFAULT_URI, else qemu:///system)")
    group.addoption("--state", metavar="DIR", help="where disks are kept")


def pytest_configure(config: pytest.Config) -> None:
    """The markers of the contract."""
    config.addinivalue_line("markers", "needs(feature, ...): skip where the hypervisor or the guest lacks a feature")
    config.addinivalue_line("markers", "slow: takes more than a few drills' time")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A scenario that takes an image runs once per chosen image, unless it pins its own."""
    if "image" not in metafunc.fixturenames or not _is_ours(metafunc, "image"):
        return
    pinned = any(
        "image" in str(mark.args[0]).replace(" ", "").split(",")
        for mark in metafunc.definition.iter_markers("parametrize")
    )
    if not pinned:
        metafunc.parametrize("image", chosen_images(metafunc.config), indirect=True, scope="session")


def _is_ours(metafunc: pytest.Metafunc, fixture: str) -> bool:
    """Whether a fixture is this plugin's; other projects' tests may have one of the same name."""
    found = metafunc.definition._fixtureinfo.name2fixturedefs.get(fixture)  # pytest has no public way to ask
    return found is not None and found[-1].func.__module__ == __name__


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


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Remember failures for the fixtures, put our exceptions into one sentence, and excuse known issues."""
    report: Any = yield
    if report.failed:
        item.stash[_FAILED] = True
    trackers = _excuse(item, call)
    if trackers and report.failed:
        report.outcome = "skipped"
        report.wasxfail = f"known issue: {', '.join(trackers)}"
    if call.excinfo is not None and call.excinfo.errisinstance(HarnessError) and not report.skipped:
        report.longrepr = f"{call.excinfo.typename}: {call.excinfo.value}"
    return report  # type: ignore[no-any-return]


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


@pytest.fixture(scope="session")
def harness_run(request: pytest.FixtureRequest) -> Iterator[Run]:
    """Hypervisor, state and evidence of this session."""
    config = request.config
    directory = Path(config.getoption("--evidence"))
    state = config.getoption("--state")
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    options = Options(
        uri=config.getoption("--uri"),
        state=Path(state) if state else None,
        evidence=directory / worker if worker else directory,
        timeout_factor=config.getoption("--timeout-factor"),
        keep=config.getoption("--keep"),
    )
    capture = config.pluginmanager.getplugin("capturemanager")
    # pytest dies of SIGTERM on the spot; this way the guests and their disks go first.
    before = (
        signal.signal(signal.SIGTERM, _interrupt) if threading.current_thread() is threading.main_thread() else None
    )
    with capture.global_and_fixture_disabled() if capture else _nothing(), Run(options) as run:
        yield run
    if before is not None:
        signal.signal(signal.SIGTERM, before)


def _interrupt(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt


class _nothing:  # noqa: N801  # used like contextlib.nullcontext, without its type parameter
    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


@pytest.fixture(scope="session")
def image(request: pytest.FixtureRequest) -> Subject:
    """What is drilled; chosen with --image or pin_image()."""
    row = load_catalog().find(request.param)
    return Subject(name=row.name, family=find_family(row.family), image=row)


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
    return find_trigger(getattr(request, "param", "sysrq-c"))


@pytest.fixture
def target(request: pytest.FixtureRequest, image: Subject) -> LocalTarget:
    """Where the dump goes; override with indirect parametrize. Default: local."""
    return find_target(getattr(request, "param", "local"), image.family)


@pytest.fixture
def machine(memory_mib: int, vcpus: int, image: Subject) -> Machine:
    """The virtual hardware."""
    return Machine(memory_mib=memory_mib, vcpus=vcpus, cpu_level=image.needs_cpu)


@pytest.fixture
def kdump_config(crashkernel: str | None, level: int | None, compress: str | None) -> KdumpConfig:
    """How kdump is to be configured."""
    return KdumpConfig(crashkernel=crashkernel, level=level, compress=compress)


@pytest.fixture(scope="session")
def base_disk_of(harness_run: Run) -> Callable[[Subject], BaseDisk]:
    """Get the base disk of any subject."""
    return lambda subject: _available(lambda: base_disk(harness_run, subject, subject.family.packages))


@pytest.fixture(scope="session", name="base_disk")
def base_disk_fixture(image: Subject, base_disk_of: Callable[[Subject], BaseDisk]) -> BaseDisk:
    """The disk that guests of this image start from; read only."""
    return base_disk_of(image)


@pytest.fixture(name="armed_disk")
def armed_disk_fixture(harness_run: Run, image: Subject, machine: Machine, kdump_config: KdumpConfig) -> ArmedDisk:
    """A disk whose kdump was seen loaded; made once and cached."""
    return _available(lambda: armed_disk(harness_run, image, machine, kdump_config))


@pytest.fixture
def evidence(request: pytest.FixtureRequest, harness_run: Run) -> Iterator[Evidence]:
    """A directory named after the scenario."""
    found = harness_run.evidence(evidence_name(request.node))
    request.node.user_properties.append(("evidence", str(found.directory)))
    yield found
    found.close()


@pytest.fixture
def guest(
    harness_run: Run, base_disk: BaseDisk, machine: Machine, evidence: Evidence, image: Subject
) -> Iterator[Guest]:
    """A booted guest as the image has it, reached by SSH; gone at the end of the test."""
    overlay = harness_run.overlay(base_disk.path, base_format=base_disk.format)
    yield from _booted(harness_run, overlay, machine, evidence, image)


@pytest.fixture
def armed_guest(
    harness_run: Run, armed_disk: ArmedDisk, machine: Machine, evidence: Evidence, image: Subject
) -> Iterator[Guest]:
    """A booted guest with kdump loaded, reached by SSH; gone at the end of the test."""
    overlay = harness_run.overlay(armed_disk.path, base_format="qcow2")
    for guest in _booted(harness_run, overlay, machine, evidence, image):
        _stack(guest, image).wait_until_loaded()
        yield guest


@pytest.fixture
def stack(armed_guest: Guest, image: Subject) -> Stack:
    """The kdump of the armed guest."""
    return _stack(armed_guest, image)


def _stack(guest: Guest, image: Subject) -> Stack:
    stack = Stack(guest, image.family)
    stack.identify()
    return stack


@pytest.fixture
def drill(
    request: pytest.FixtureRequest,
    harness_run: Run,
    image: Subject,
    machine: Machine,
    kdump_config: KdumpConfig,
    trigger: Trigger,
    target: LocalTarget,
) -> Callable[..., Verdict]:
    """Drill the image with this test's dimensions; keyword arguments replace fields of the Plan."""

    def take(**changes: Any) -> Verdict:
        settings: dict[str, Any] = {
            "subject": image,
            "machine": machine,
            "config": kdump_config,
            "trigger": trigger.name,
            "target": target.name,
            "name": evidence_name(request.node),
            "scenario": scenario_name(request.node),
        }
        verdict = _available(lambda: run_drill(harness_run, Plan(**{**settings, **changes})))
        report_verdict(request.node, verdict)
        return verdict

    return take


@pytest.fixture
def sweep(
    request: pytest.FixtureRequest, harness_run: Run, image: Subject, machine: Machine, crashkernel: str | None
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
            lambda: run_sweep(harness_run, plan, on_verdict=lambda verdict: report_verdict(request.node, verdict))
        )

    return take


def report_verdict(item: Any, verdict: Verdict) -> None:
    """Put the verdict's figures into the test's properties, which JUnit XML carries, and count it for known issues."""
    item.stash.setdefault(_VERDICTS, []).append(verdict)
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


def evidence_name(node: Any) -> str:
    """The scenario's file and test id as one directory below another."""
    return f"{Path(str(node.path)).stem}/{node.name.replace('/', '_')}"


def scenario_name(node: Any) -> str:
    """The scenario as scenarios/known_issues.toml names it: test_smoke.py::test_dump."""
    test = re.sub(r"\[.*", "", node.nodeid.partition("::")[2], flags=re.DOTALL)
    return f"{Path(str(node.path)).name}::{test}"


def _available(get: Callable[[], T]) -> T:
    """What get returns; skips the scenario where the image cannot be had here."""
    try:
        return get()
    except Unreachable as error:
        pytest.skip(str(error).splitlines()[0])


def _booted(run: Run, overlay: Path, machine: Machine, evidence: Evidence, image: Subject) -> Iterator[Guest]:
    with run.guest(overlay, machine, evidence, label=image.name, user=image.login, access=image.access) as guest:
        with run.progress.step(f"{image.name}: booting"):
            guest.power_on()
            guest.wait_for_login()
            guest.connect()
        yield guest


__all__ = ["Family", "pin_crashkernel", "pin_image", "pin_trigger"]
