"""The fixtures of scenarios: a run, guests in several states, and drills.

Every pytest run in the environment imports this module, so its functions import what they need.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from .options import option
from .session import RUN, available, evidence_name, report, run_options, scenario_name

if TYPE_CHECKING:
    from ..base.evidence import Evidence
    from ..base.verdict import Verdict
    from ..campaigns.sweep.result import Sweep
    from ..drill.disks import ArmedDisk, BaseDisk, SystemUnderTest
    from ..drill.dump_server import DumpServer
    from ..drill.plan import Plan
    from ..drill.session import Session
    from ..drill.warm_pool import WarmPool
    from ..kdump.service import KdumpConfig, KdumpService
    from ..kdump.target import Target
    from ..kdump.trigger import Trigger
    from ..triage.crash import CrashRequest
    from ..vm.guest import Guest
    from ..vm.run import Machine, Run


@pytest.fixture(scope="session")
def kdump_run(request: pytest.FixtureRequest) -> Iterator[Run]:
    """Hypervisor, state and evidence of this session."""
    import signal
    import threading

    from ..vm.run import Run
    from .progress_lines import progress_of

    config = request.config
    options = run_options(config)
    # SIGTERM ends pytest at once; an exception lets the run remove its guests and their disks first.
    before = (
        signal.signal(signal.SIGTERM, _interrupt) if threading.current_thread() is threading.main_thread() else None
    )
    with Run(options, progress=progress_of(config)) as run:
        config.stash[RUN] = run
        yield run
    if before is not None:
        signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, _frame: object) -> None:
    import signal

    # timeout(1) sends it twice, and the second would interrupt the cleanup. Children inherit SIG_IGN, but no handler.
    signal.signal(number, lambda *_: None)
    raise KeyboardInterrupt


@pytest.fixture(scope="session")
def kdump_image(request: pytest.FixtureRequest) -> SystemUnderTest:
    """The image under test: a row of the catalogue or a file; chosen with --kdump-image or pin_image()."""
    from .session import system_under_test

    return system_under_test(request.config, request.param)


@pytest.fixture
def kdump_memory_mib(request: pytest.FixtureRequest) -> int:
    """Guest memory; override with indirect parametrize. Default: 1024."""
    return int(getattr(request, "param", 1024))


@pytest.fixture
def kdump_vcpus(request: pytest.FixtureRequest) -> int:
    """Guest processors; override with indirect parametrize. Default: 2."""
    return int(getattr(request, "param", 2))


@pytest.fixture
def kdump_crashkernel(request: pytest.FixtureRequest) -> str | None:
    """The reservation; override with pin_crashkernel(). Default: the family's."""
    return getattr(request, "param", None)


@pytest.fixture
def kdump_level(request: pytest.FixtureRequest) -> int | None:
    """The dump level; override with indirect parametrize. Default: the family's."""
    return getattr(request, "param", None)


@pytest.fixture
def kdump_compress(request: pytest.FixtureRequest) -> str | None:
    """The compression; override with indirect parametrize. Default: the family's."""
    return getattr(request, "param", None)


@pytest.fixture
def kdump_trigger(request: pytest.FixtureRequest) -> Trigger:
    """The way the guest is crashed; override with pin_trigger(). Default: sysrq-c."""
    from ..kdump.trigger import find_trigger

    return find_trigger(getattr(request, "param", "sysrq-c"), vcpus=request.getfixturevalue("kdump_vcpus"))


@pytest.fixture
def kdump_target(request: pytest.FixtureRequest, kdump_image: SystemUnderTest) -> Target:
    """The dump target; override with indirect parametrize. Default: local."""
    from ..kdump.target import find_target

    return find_target(getattr(request, "param", "local"), kdump_image.family)


@pytest.fixture
def kdump_firmware(request: pytest.FixtureRequest, kdump_image: SystemUnderTest) -> str:
    """bios, uefi or uefi-secure; override with indirect parametrize. Default: --firmware, else the image's."""
    return getattr(request, "param", None) or option(request.config, "firmware") or kdump_image.firmware


@pytest.fixture
def kdump_machine(
    kdump_memory_mib: int, kdump_vcpus: int, kdump_firmware: str, kdump_image: SystemUnderTest
) -> Machine:
    """The virtual hardware."""
    from ..vm.run import Machine

    return Machine(
        memory_mib=kdump_memory_mib,
        vcpus=kdump_vcpus,
        firmware=kdump_firmware,
        cpu_level=kdump_image.needs_cpu,
        architecture=kdump_image.architecture,
    )


@pytest.fixture
def kdump_config(kdump_crashkernel: str | None, kdump_level: int | None, kdump_compress: str | None) -> KdumpConfig:
    """The configuration of kdump."""
    from ..kdump.service import KdumpConfig

    return KdumpConfig(crashkernel=kdump_crashkernel, level=kdump_level, compress=kdump_compress)


@pytest.fixture(scope="session")
def kdump_base_disk_of(request: pytest.FixtureRequest, kdump_run: Run) -> Callable[[SystemUnderTest], BaseDisk]:
    """Get the base disk of any system under test."""
    from ..drill.disks import base_disk

    return lambda subject: available(
        request.config, subject, lambda: base_disk(kdump_run, subject, subject.family.packages)
    )


@pytest.fixture(scope="session")
def kdump_base_disk(
    kdump_image: SystemUnderTest, kdump_base_disk_of: Callable[[SystemUnderTest], BaseDisk]
) -> BaseDisk:
    """The disk that guests of this image start from; read only."""
    return kdump_base_disk_of(kdump_image)


@pytest.fixture
def kdump_armed_disk(
    request: pytest.FixtureRequest,
    kdump_run: Run,
    kdump_image: SystemUnderTest,
    kdump_machine: Machine,
    kdump_config: KdumpConfig,
) -> ArmedDisk:
    """A disk on which kdump was seen loaded; made once and cached."""
    from ..drill.disks import armed_disk

    return available(
        request.config, kdump_image, lambda: armed_disk(kdump_run, kdump_image, kdump_machine, kdump_config)
    )


@pytest.fixture
def kdump_evidence(request: pytest.FixtureRequest, kdump_run: Run) -> Iterator[Evidence]:
    """A directory named after the scenario."""
    found = kdump_run.evidence(evidence_name(request.node))
    request.node.user_properties.append(("evidence", str(found.directory)))
    yield found
    found.close()


@pytest.fixture
def kdump_guest(
    kdump_run: Run,
    kdump_base_disk: BaseDisk,
    kdump_machine: Machine,
    kdump_evidence: Evidence,
    kdump_image: SystemUnderTest,
) -> Iterator[Guest]:
    """A booted guest of the unchanged image, with an SSH connection; removed at the end of the test."""
    overlay = kdump_run.overlay(kdump_base_disk.path, base_format=kdump_base_disk.format)
    yield from _booted(kdump_run, overlay, kdump_machine, kdump_evidence, kdump_image)


@pytest.fixture
def kdump_armed_guest(
    kdump_run: Run,
    kdump_armed_disk: ArmedDisk,
    kdump_machine: Machine,
    kdump_evidence: Evidence,
    kdump_image: SystemUnderTest,
) -> Iterator[Guest]:
    """A booted guest with kdump loaded and an SSH connection; removed at the end of the test."""
    overlay = kdump_run.overlay(kdump_armed_disk.path, base_format="qcow2")
    for guest in _booted(kdump_run, overlay, kdump_machine, kdump_evidence, kdump_image):
        _kdump_service(guest, kdump_image).wait_until_loaded()
        yield guest


@pytest.fixture
def kdump_stack(kdump_armed_guest: Guest, kdump_image: SystemUnderTest) -> KdumpService:
    """The kdump service of the armed guest."""
    return _kdump_service(kdump_armed_guest, kdump_image)


def _kdump_service(guest: Guest, image: SystemUnderTest) -> KdumpService:
    from ..kdump.service import KdumpService

    service = KdumpService(guest, image.family)
    service.identify()
    return service


def _booted(run: Run, overlay: Path, machine: Machine, evidence: Evidence, image: SystemUnderTest) -> Iterator[Guest]:
    with run.guest(
        overlay,
        machine,
        evidence,
        label=image.name,
        user=image.login,
        access=image.access,
    ) as guest:
        with run.progress.step(f"{image.name}: booting"):
            guest.power_on()
            guest.wait_for_login()
            guest.connect()
        yield guest


@pytest.fixture(scope="session")
def kdump_collector(kdump_run: Run) -> Iterator[DumpServer]:
    """The dump server of the targets ssh and nfs; one for all scenarios."""
    from ..drill.dump_server import open_dump_server

    with open_dump_server(kdump_run) as running:
        yield running


@pytest.fixture
def kdump_plan_drill(
    request: pytest.FixtureRequest,
    kdump_image: SystemUnderTest,
    kdump_machine: Machine,
    kdump_config: KdumpConfig,
    kdump_trigger: Trigger,
    kdump_target: Target,
) -> Callable[..., Plan]:
    """Plan a drill with this test's dimensions; keyword arguments replace fields of the Plan."""
    from ..drill.plan import Plan
    from ..kdump.target import ON_SERVER

    def plan(**changes: Any) -> Plan:
        settings: dict[str, Any] = {
            "subject": kdump_image,
            "machine": kdump_machine,
            "config": kdump_config,
            "trigger": kdump_trigger.name,
            "target": kdump_target.name,
            "name": evidence_name(request.node),
            "scenario": scenario_name(request.node),
            "crash": _crash_request(request.config),
            **changes,
        }
        if settings["target"] in ON_SERVER and "server" not in settings:
            settings["server"] = request.getfixturevalue("kdump_collector").server
        return Plan(**settings)

    return plan


def _crash_request(config: pytest.Config) -> CrashRequest | None:
    from ..triage.crash import CrashRequest

    return CrashRequest() if option(config, "crash") else None


@pytest.fixture(scope="session")
def kdump_warm_pool(kdump_run: Run) -> Iterator[WarmPool]:
    """The snapshots from which drills of the same kind restore their guests."""
    from ..drill.warm_pool import WarmPool

    pool = WarmPool(kdump_run)
    yield pool
    pool.close()


@pytest.fixture
def kdump_drill(
    request: pytest.FixtureRequest, kdump_run: Run, kdump_plan_drill: Callable[..., Plan]
) -> Callable[..., Verdict]:
    """Drill the image with this test's dimensions; keyword arguments replace fields of the Plan.

    The guest is restored from a snapshot of its kind. With cold=True, or --cold, it is booted instead.
    """
    from ..drill.session import run_drill

    def take(*, cold: bool = False, **changes: Any) -> Verdict:
        plan = kdump_plan_drill(**changes)

        def once() -> Verdict:
            if cold or option(request.config, "cold"):
                return run_drill(kdump_run, plan)
            pool: WarmPool = request.getfixturevalue("kdump_warm_pool")
            return pool.drill(plan)

        verdict = available(request.config, plan.subject, once)
        report(request.node, verdict)
        return verdict

    return take


@pytest.fixture
def kdump_drill_session(
    request: pytest.FixtureRequest, kdump_run: Run, kdump_plan_drill: Callable[..., Plan]
) -> Iterator[Callable[..., Session]]:
    """Open one guest for several drills, by session.drill(**changes); it is removed at the end of the test."""
    from ..drill.session import open_session

    with contextlib.ExitStack() as resources:

        def enter(**changes: Any) -> Session:
            plan = kdump_plan_drill(**changes)
            session = open_session(kdump_run, plan, on_verdict=lambda verdict: report(request.node, verdict))
            return available(request.config, plan.subject, lambda: resources.enter_context(session))

        yield enter


class Turns:
    """At most one guest at a time, which consecutive tests drill."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._resources = contextlib.ExitStack()
        self._opened: tuple[Plan, Session] | None = None

    def session(self, plan: Plan) -> Session:
        """Return the session of the test before if its guest is of the same kind and came back; else a new one."""
        import dataclasses

        from ..drill.session import open_session

        kind = dataclasses.replace(
            plan, trigger="sysrq-c", name="", before_crash=None, on_trigger=None, meanwhile=None, on_dump=None
        )
        if self._opened is None or self._opened[0] != kind or not self._opened[1].ready:
            self.close()
            self._opened = (kind, self._resources.enter_context(open_session(self._run, plan)))
        return self._opened[1]

    def close(self) -> None:
        """Remove the guest."""
        self._opened = None
        self._resources.close()


@pytest.fixture(scope="session")
def kdump_turns(kdump_run: Run) -> Iterator[Turns]:
    """The guest that tests share by drill_in_turn."""
    shared = Turns(kdump_run)
    yield shared
    shared.close()


@pytest.fixture
def kdump_drill_in_turn(
    request: pytest.FixtureRequest, kdump_plan_drill: Callable[..., Plan], kdump_turns: Turns
) -> Callable[..., Verdict]:
    """Drill like drill(), but reuse the guest of the test before if it came back from its crash; this saves a boot."""

    def take(**changes: Any) -> Verdict:
        plan = kdump_plan_drill(**changes)

        def once() -> Verdict:
            session = kdump_turns.session(plan)
            return session.drill(
                trigger=plan.trigger,
                name=plan.name,
                before_crash=plan.before_crash,
                on_trigger=plan.on_trigger,
                meanwhile=plan.meanwhile,
                on_dump=plan.on_dump,
            )

        verdict = available(request.config, plan.subject, once)
        report(request.node, verdict)
        return verdict

    return take


@pytest.fixture
def kdump_sweep(
    request: pytest.FixtureRequest,
    kdump_run: Run,
    kdump_image: SystemUnderTest,
    kdump_machine: Machine,
    kdump_crashkernel: str | None,
) -> Callable[..., Sweep]:
    """Sweep the image with this test's dimensions; keyword arguments replace fields of the SweepPlan."""
    from ..campaigns.sweep.plan import SweepPlan
    from ..campaigns.sweep.run import run_sweep

    def take(**changes: Any) -> Sweep:
        settings: dict[str, Any] = {
            "subject": kdump_image,
            "machine": kdump_machine,
            "crashkernel": kdump_crashkernel,
            "name": evidence_name(request.node),
            "scenario": scenario_name(request.node),
        }
        plan = SweepPlan(**{**settings, **changes})
        return available(
            request.config,
            plan.subject,
            lambda: run_sweep(kdump_run, plan, on_verdict=lambda verdict: report(request.node, verdict)),
        )

    return take


@pytest.fixture
def kdump_kernel_drill(request: pytest.FixtureRequest, kdump_run: Run) -> Callable[..., Verdict]:
    """Drill a kernel without an image: a file, tree, package or suite; keyword arguments are fields of KernelPlan.

    userland is the suite of busybox, kexec and makedumpfile; makedumpfile is another suite, or a program file.
    """
    from ..kernel.drill import run_kernel_drill
    from ..kernel.plan import KernelPlan
    from ..kernel.source import find_kernel
    from ..kernel.userland import DEFAULT_SUITE, UserlandRequest, make_userland

    def take(kernel: str, *, userland: str = DEFAULT_SUITE, makedumpfile: str = "", **changes: Any) -> Verdict:
        state, progress = kdump_run.state, kdump_run.progress
        programs = UserlandRequest(suite=userland, instead={"makedumpfile": makedumpfile} if makedumpfile else {})
        plan = KernelPlan(
            kernel=find_kernel(kernel, state, progress),
            userland=make_userland(programs, state, progress),
            **{
                "name": evidence_name(request.node),
                "scenario": scenario_name(request.node),
                "crash": _crash_request(request.config),
                **changes,
            },
        )
        verdict = run_kernel_drill(kdump_run, plan)
        report(request.node, verdict)
        return verdict

    return take
