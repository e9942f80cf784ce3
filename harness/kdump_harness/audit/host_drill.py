"""The drill of a machine that exists: audited first, crashed as it is, and judged like a guest."""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from ..base.clock import Deadline, pause
from ..base.errors import EXIT_FAILED, GuestError, HostError, UsageError
from ..base.evidence import Evidence
from ..base.stage import Stage
from ..base.verdict import Verdict
from ..cli.runs import check_outputs, options_of
from ..cli.subject import access_of
from ..cli.verbs.drill import report_drill
from ..distro.family import Family, load_families
from ..drill.crash import TICK_S
from ..drill.disks import SystemUnderTest
from ..drill.plan import Plan
from ..drill.steps import Drill
from ..kdump.crash_monitor import TOTAL_TIMEOUT_S, CrashMonitor
from ..kdump.guest_state import GuestState
from ..kdump.service import KdumpService
from ..kdump.target import ON_SERVER, FoundFile, Server
from ..kdump.trigger import find_trigger
from ..vm.external import ExternalMachine, ExternalRun, access_by, known_key, ssh_settings
from ..vm.guest import Guest
from ..vm.run import Machine
from .asking.connection import Unaudited
from .asking.inventory import Host, named
from .judge import judge
from .past import read_past
from .result import Answer, Audit, HostAudit, answer
from .run import Options, ask
from .verb import command_words, print_audit, program

if TYPE_CHECKING:
    from .facts import Facts

RESET_TIMEOUT_S = 120.0  # of the command
# Options that would change the machine, or that need a hypervisor.
_REFUSED = (
    "--memory", "--vcpus", "--dimm", "--hotplug", "--shape", "--keep-mac", "--makedumpfile", "--target", "--level",
    "--compress", "--crashkernel", "--append", "--capture-append", "--kernel", "--packages", "--firmware", "--oracle",
    "--fallback", "--domain", "--uri",
)  # fmt: skip


def drill_host(arguments: argparse.Namespace) -> int:
    """Audit the machine, crash it, and judge it. Raise UsageError for what does not fit a machine."""
    host, families = _checked(arguments), load_families()
    check_outputs(arguments)
    try:
        facts = ask(
            host,
            Options(ssh=program(arguments.ssh)),
            families,
            read_past(arguments.history, arguments.state, None),
        )
    except Unaudited as error:
        raise HostError(f"{host.name} was not audited, so it is not crashed: {error}") from None
    reasons = judge(facts)
    audited = HostAudit(host=host.name, answer=answer(reasons), reasons=reasons, facts=facts.to_json())
    if arguments.json != "-":
        print_audit(Audit(hosts=(audited,), started="", took_s=0.0))
    if facts.state.hostname != arguments.yes_crash:
        raise UsageError(
            f"--yes-crash names another machine: got {arguments.yes_crash!r}, and {host.name} calls itself"
            f" {facts.state.hostname!r}"
        )
    if audited.answer is Answer.WILL_FAIL and not arguments.anyway:
        sys.stderr.write(f"{host.name} was not crashed: {audited.headline} (--anyway crashes it all the same)\n")
        return EXIT_FAILED
    family = families[facts.family.name]  # with all releases: the drill chooses one
    verdict = _drill(arguments, host, facts, audited, family)
    report_drill(arguments, verdict)
    return verdict.exit_status


def _checked(arguments: argparse.Namespace) -> Host:
    """Return the machine; UsageError for options that do not fit it."""
    host = named(arguments.host)
    if host.slip:
        raise UsageError(f"--host: {host.slip}")
    for option in _REFUSED:
        if getattr(arguments, option.lstrip("-").replace("-", "_"), None):
            raise UsageError(f"{option} cannot go with --host: the machine is judged as it is, with its own hardware")
    if arguments.until != "recovered":
        raise UsageError("--until saved cannot go with --host: the machine cannot be switched off")
    if not arguments.yes_crash:
        raise UsageError("--host needs --yes-crash")
    for option, given in (("--console", arguments.console), ("--reset", arguments.reset)):
        command_words(option, given or "true")
    trigger = find_trigger(arguments.trigger)
    if not trigger.command or trigger.while_booting or trigger.devices:
        raise UsageError(f"{trigger.name} cannot crash a machine: a command on it must do so, as with sysrq-c")
    return host


class HostDrill(Drill):
    """A drill of a machine: where its console says no more, its next boot and its dump are the proof."""

    def __init__(self, run: ExternalRun, plan: Plan, evidence: Evidence, *, console: bool) -> None:
        """CONSOLE says whether there is one."""
        super().__init__(run, plan, evidence)
        self._has_console = console

    def look_before(self, guest: Guest, service: KdumpService) -> tuple[GuestState, dict[str, FoundFile]]:
        """Note the boot and the dumps before the crash, too."""
        self._state, self._dumps = super().look_before(guest, service)
        return self._state, self._dumps

    def _follow(self, guest: Guest, monitor: CrashMonitor) -> str | None:
        """Follow the console, then wait for the next boot of a machine that may still write its dump."""
        stopped = super()._follow(guest, monitor) if self._has_console else "--console was not given"
        if stopped is None or monitor.hopeless or monitor.job:
            return stopped
        if not self._comes_back(guest, monitor):
            return f"{stopped}; the machine did not answer as another boot either"
        self.verdict.remarks.append(f"only the next boot of the machine and its dump were judged: {stopped}")
        return None

    def _comes_back(self, guest: Guest, monitor: CrashMonitor) -> bool:
        """Return whether the machine answers as another boot within the time of a whole crash."""
        if monitor.stage < Stage.CRASHED:
            self.clock.mark("panic")
        since_panic_s = self.clock.elapsed_s() - self.clock.marks_s["panic"]
        deadline = Deadline(max(TOTAL_TIMEOUT_S * self.run.factor - since_panic_s, 0.0))
        with self.progress.step("waiting for the next boot of the machine"):
            while not deadline.passed:
                pause(TICK_S)
                with contextlib.suppress(GuestError):
                    if guest.connect() != self._state.boot_id:
                        self.clock.mark("login")
                        found = self.target.look(guest, self._state.directory)
                        saved = any(file.final and where not in self._dumps for where, file in found.items())
                        monitor.stage = max(monitor.stage, Stage.SAVED if saved else Stage.CRASHED)
                        monitor.done = True
                        return True
        return False


def _drill(arguments: argparse.Namespace, host: Host, facts: Facts, audited: HostAudit, family: Family) -> Verdict:
    settings = ssh_settings(program(arguments.ssh), host.arguments)
    address, port = settings["hostname"][0], int(settings["port"][0])
    access = access_of(arguments) or access_by(settings)
    server = _server(arguments, facts)
    plan = Plan(
        subject=SystemUnderTest(name=facts.state.hostname, family=family, login=settings["user"][0], access=access),
        machine=Machine(memory_mib=facts.memory_mib, vcpus=max(facts.state.cpus, 1)),
        trigger=arguments.trigger,
        target=facts.place.kind if server is not None else "local",
        server=server,
        as_is=True,
        budget_s=arguments.budget,
        name=f"host-{facts.state.hostname}",
    )
    options = replace(options_of(arguments, network=False), uri=None)
    with ExternalRun(options) as run, contextlib.closing(run.evidence(plan.name)) as evidence:
        evidence.json("audit.json", audited.facts | {"answer": audited.answer})
        machine = ExternalMachine(host.name, address, port, command_words("--console", arguments.console or ""))
        guest = Guest(
            machine,
            user=settings["user"][0],
            access=access,
            host_key=known_key(address, port, settings),
            evidence=evidence,
            timeout_factor=run.slowness,
            tick=run.progress.tick,
        )
        with contextlib.ExitStack() as connections:
            connections.callback(guest.destroy)
            if server is not None:
                connections.callback(server.shell.close)
            guest.connect()
            drill = HostDrill(run, plan, evidence, console=bool(arguments.console))
            verdict = drill.take(guest, KdumpService(guest, family), None)
            if arguments.reset and not any(check.name == "rebooted" and check.ok for check in verdict.checks):
                verdict.remarks.append(_reset(arguments.reset, guest, evidence))
                evidence.json("verdict.json", verdict.to_json())
        return verdict


def _server(arguments: argparse.Namespace, facts: Facts) -> Server | None:
    """Return the machine that the dumps arrive on, reached by a second ssh; None where they stay on the machine."""
    from ..vm.shells.ssh_shell import GONE, SshShell

    place = facts.place
    if place.kind not in ON_SERVER:
        return None
    if not arguments.dumps_on:
        raise UsageError(f"the dumps go to {place}: --dumps-on USER@HOST:DIRECTORY says where to read them")
    where, _, directory = arguments.dumps_on.partition(":/")
    there = named(where)
    if there.slip or not directory:
        raise UsageError(f"invalid --dumps-on: got {arguments.dumps_on!r}, expected USER@HOST:/DIRECTORY")
    settings = ssh_settings(program(arguments.ssh), there.arguments)
    address, port = settings["hostname"][0], int(settings["port"][0])
    host_key = known_key(address, port, settings)
    try:
        shell = SshShell(address, port=port, user=settings["user"][0], access=access_by(settings), host_key=host_key)
    except GONE as error:
        raise HostError(f"--dumps-on {arguments.dumps_on} cannot be reached by ssh: {error}") from None
    return Server(
        name=there.name,
        address=address,
        host_key=host_key,
        user=place.user or "root",
        directory=f"/{directory}",
        shell=shell,
    )


def _reset(command: str, guest: Guest, evidence: Evidence) -> str:
    """Reset the machine by the user's command, unless it answers, and return what became of it."""
    with contextlib.suppress(GuestError):
        guest.connect()
        return f"the machine answers, so it was not reset by {command!r}"
    try:
        done = subprocess.run(
            command_words("--reset", command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=RESET_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"the machine did not come back, and {command!r} could not reset it: {error}"
    evidence.text("reset.txt", f"{command}\nstatus {done.returncode}\n{done.stdout}{done.stderr}")
    if done.returncode:
        return f"the machine did not come back, and {command!r} ended with status {done.returncode}"
    try:
        guest.wait_until_up()
        guest.connect()
    except GuestError as error:
        return f"the machine did not come back after {command!r}: {error.args[0]}"
    return f"the machine did not come back by itself, and was reset by {command!r}: it answers again"
