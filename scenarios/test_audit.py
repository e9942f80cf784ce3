"""Audits of a guest as of a real machine, over SSH: its states are found without a crash, and the answers hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
from as_host import NAME, ssh_to
from kdump_harness.audit.asking.inventory import Host
from kdump_harness.audit.past import Past
from kdump_harness.audit.result import Answer, HostAudit, Severity
from kdump_harness.audit.run import Options, ask, audit
from kdump_harness.base import tables
from kdump_harness.base.evidence import Evidence
from kdump_harness.distro.family import Family, fill, load_families
from kdump_harness.drill.disks import SystemUnderTest
from kdump_harness.drill.dump_server import DumpServer
from kdump_harness.drill.plan import SAVED
from kdump_harness.drill.session import Session
from kdump_harness.kdump.service import KdumpService
from kdump_harness.kdump.target import find_target
from kdump_harness.pytest_plugin import Verdict
from kdump_harness.vm.guest import Guest

ANY = "any"  # family
COMMAND_TIMEOUT_S = 120.0  # for a guest under KVM; some build an initramfs


def names(seen: HostAudit) -> set[str]:
    """Return the names of the reasons of an audit, without notes."""
    return {reason.name for reason in seen.reasons if reason.severity is not Severity.NOTE}


@dataclass(frozen=True, kw_only=True)
class State:
    """A row of audit_states.toml."""

    name: str
    answer: str
    drill: str
    reason: tuple[str, ...] = ()
    target: str = "local"
    crash: bool = False
    breaks: dict[str, str] = field(default_factory=dict)
    mends: dict[str, str] = field(default_factory=dict)
    last: bool = False

    def judged(self, seen: HostAudit, armed: HostAudit) -> str:
        """Return whether the audit found the state: a hit, a miss or a false alarm.

        ARMED is the audit of the guest as it was armed; its reasons do not count. A failure of it can end in a state,
        as a fault of the filter does where nothing is filtered.
        """
        new = names(seen) - names(armed)
        still = {reason.name for reason in seen.reasons if reason.severity is Severity.FAILURE} & names(armed)
        if self.answer == Answer.READY:
            return "false alarm" if new else "hit"
        if not new & set(self.reason):
            return "miss"
        return "hit" if seen.answer == (Answer.WILL_FAIL if still else self.answer) else "other answer"

    def make(self, family: Family, guest: Guest) -> None:
        """Bring the guest into the state."""
        self._run(self.breaks, family, guest, check=False)

    def undo(self, family: Family, guest: Guest) -> None:
        """Bring the guest back."""
        self._run(self.mends, family, guest, check=True)

    def fits(self, family: Family) -> bool:
        """Return whether a guest of the family can be brought into the state."""
        commands = family.name in self.breaks or ANY in self.breaks or not self.breaks
        return commands and (self.target == "local" or family.name == "debian")

    @staticmethod
    def _run(commands: dict[str, str], family: Family, guest: Guest, *, check: bool) -> None:
        if command := commands.get(family.name, commands.get(ANY)):
            kernel = guest.shell.run("uname -r").out.strip()
            guest.shell.run(fill(command, kernel=kernel), timeout_s=COMMAND_TIMEOUT_S * guest.factor, check=check)


@dataclass
class Row:
    """The findings about one state."""

    state: State
    seen: HostAudit
    armed: HostAudit  # the audit of the guest as it was armed
    verdict: Verdict | None = None

    @property
    def judged(self) -> str:
        """Whether the audit found the state."""
        return self.state.judged(self.seen, self.armed)

    @property
    def outcome(self) -> str:
        """The outcome of the drill in a few words."""
        if self.verdict is None:
            return self.state.drill
        failures = [one["name"] for one in self.verdict.symptoms if one["severity"] == "failure"]
        failed = ", ".join([*failures[:1], *(check.name for check in list(self.verdict.failed())[:2])])
        return "verified" if self.verdict.verified else f"{self.verdict.reached.name}, {failed}"

    @property
    def wrong(self) -> str:
        """The contradiction between state, answer and drill; empty where they agree."""
        seen = self.seen
        said = f"{self.state.name}: {seen.answer}, {seen.headline or seen.why}"
        if self.judged != "hit":
            return f"{said} ({self.judged})"
        promised = {Answer.READY: True, Answer.WILL_FAIL: False}.get(seen.answer)
        if self.verdict is not None and promised not in (None, self.verdict.verified):
            return f"{said}, and its drill: {self.outcome}"
        return ""


STATES = tables.load_rows(Path(__file__).with_name("audit_states.toml"), "state", State)


@pytest.fixture
def vcpus() -> int:
    """Return one processor: enough for an audit and cheaper to emulate."""
    return 1


def test_states_are_found_without_a_crash(
    connected_guest: Guest, image: SystemUnderTest, evidence: Evidence, collector: DumpServer, tmp_path: Path
) -> None:
    """One guest is brought into each state and back; no crash happens."""
    guest = connected_guest
    service = KdumpService(guest, image.family)
    service.identify()
    service.wait_until_loaded()
    options = Options(ssh=ssh_to(guest, tmp_path), timeout_s=60 * guest.factor)
    facts = ask(Host(name=NAME), options, load_families(), Past())
    evidence.text("answers.json", json.dumps(dict(facts.answers), indent=1))
    rows: list[Row] = []
    target = "local"
    for state in sorted(filter(lambda state: state.fits(image.family), STATES), key=lambda state: state.last):
        if state.target != target:
            target = state.target
            if find_target(target, service.family, collector.server).configure(guest, service):
                service.arm()
        state.make(image.family, guest)
        (seen,) = audit([Host(name=NAME)], options).hosts
        rows.append(Row(state, seen, armed=rows[0].seen if rows else seen))
        evidence.event("audit", state=state.name, answer=seen.answer, reason=seen.headline, judged=rows[-1].judged)
        write(evidence, rows)  # also what was seen before a command that fails
        state.undo(image.family, guest)
    wrong = [row.wrong for row in rows if row.wrong]
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
def test_answers_agree_with_drills(
    drill_session: Callable[..., Session],
    image: SystemUnderTest,
    evidence: Evidence,
    collector: DumpServer,
    tmp_path: Path,
) -> None:
    """A guest in each state is audited and crashed: no ready one fails, and none that will fail dumps."""
    session = drill_session(server=collector.server, until=SAVED)
    assert session.save() is None
    rows: list[Row] = []

    def audited(state: State, guest: Guest, _service: KdumpService) -> None:
        state.make(image.family, guest)
        options = Options(ssh=ssh_to(guest, tmp_path), timeout_s=60 * guest.factor)
        (seen,) = audit([Host(name=NAME)], options).hosts
        rows.append(Row(state, seen, armed=rows[0].seen if rows else seen))
        guest.shell.run("sync")

    for state in STATES:
        if not state.crash or not state.fits(image.family):
            continue
        name = f"audited/{state.name.replace(' ', '-')}"
        verdict = session.drill(target=state.target, name=name, before_crash=partial(audited, state))
        rows[-1].verdict = verdict
        evidence.event("audit", state=state.name, answer=rows[-1].seen.answer, drill=rows[-1].outcome)
        write(evidence, rows)
    wrong = [row.wrong for row in rows if row.wrong]
    assert not wrong, "\n".join(wrong)


def write(evidence: Evidence, rows: list[Row]) -> None:
    """Write the table of the answers, and all that the audits found."""
    lines = ["| state | a drill of it | audit | first reason | |", "|---|---|---|---|---|"]
    lines += [
        f"| {row.state.name} | {row.outcome} | {row.seen.answer} | {row.seen.headline.partition(':')[0]}"
        f" | {row.judged} |"
        for row in rows
    ]
    evidence.text("audit.md", "\n".join(lines) + "\n")
    found = [
        {
            "state": row.state.name,
            "answer": row.seen.answer,
            "reasons": [vars(reason) for reason in row.seen.reasons],
            "facts": row.seen.facts,
            "why": row.seen.why,
            "took_s": row.seen.took_s,
        }
        for row in rows
    ]
    evidence.text("audit.json", json.dumps(found, indent=1))
