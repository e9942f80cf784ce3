"""Audits of a guest as of a real machine, over SSH: each state of its kdump is found without a crash."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from kdump_harness.audit.inventory import Host
from kdump_harness.audit.result import Answer, HostAudit, Severity
from kdump_harness.audit.run import Options, ask, audit
from kdump_harness.base import tables
from kdump_harness.base.evidence import Evidence
from kdump_harness.distro.family import fill, load_families
from kdump_harness.drill.disks import SystemUnderTest
from kdump_harness.pytest_plugin import pin_image
from kdump_harness.vm.guest import Guest

NAME = "audited"
COMMAND_TIMEOUT_S = 120.0  # for a guest under KVM; some build an initramfs


@dataclass(frozen=True, kw_only=True)
class State:
    """A row of audit_states.toml."""

    name: str
    answer: str
    drill: str
    reason: tuple[str, ...] = ()
    breaks: dict[str, str] = field(default_factory=dict)
    mends: dict[str, str] = field(default_factory=dict)
    last: bool = False

    def judged(self, seen: HostAudit) -> str:
        """Return whether the audit found the state: a hit, a miss or a false alarm."""
        named = {reason.name for reason in seen.reasons if reason.severity is not Severity.NOTE}
        if self.answer == Answer.READY:
            return "hit" if seen.answer is Answer.READY else "false alarm"
        if seen.answer is Answer.READY or not named & set(self.reason):
            return "miss"
        return "hit" if seen.answer == self.answer else "other answer"


STATES = tables.load_rows(Path(__file__).with_name("audit_states.toml"), "state", State)


@pytest.fixture
def vcpus() -> int:
    """Return one processor: enough for an audit and cheaper to emulate."""
    return 1


@pytest.fixture
def ssh(armed_guest: Guest, tmp_path: Path) -> tuple[str, ...]:
    """Return the ssh program with a configuration in which the guest is a host like any other."""
    key, config, known = tmp_path / "key", tmp_path / "config", tmp_path / "known_hosts"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    armed_guest.shell.run(
        "cat /root/.ssh/authorized_keys > /dev/null; echo %s >> /root/.ssh/authorized_keys",
        key.with_suffix(".pub").read_text().strip(),
    )
    host_key = armed_guest.shell.run("cut -d' ' -f1,2 /etc/ssh/ssh_host_ed25519_key.pub").out.strip()
    known.write_text(f"{NAME} {host_key}\n", encoding="utf-8")
    config.write_text(
        f"Host {NAME}\n HostName {armed_guest.shell.address}\n HostKeyAlias {NAME}\n User root\n IdentityFile {key}\n"
        f" IdentitiesOnly yes\n UserKnownHostsFile {known}\n StrictHostKeyChecking yes\n",
        encoding="utf-8",
    )
    return ("ssh", "-F", str(config))


@pin_image("debian-12")
def test_states_are_found_without_a_crash(
    armed_guest: Guest, image: SystemUnderTest, evidence: Evidence, ssh: tuple[str, ...]
) -> None:
    """One guest is brought into each state and back; no crash happens."""
    kernel = armed_guest.shell.run("uname -r").out.strip()
    options = Options(ssh=ssh, timeout_s=60 * armed_guest.factor)

    def run(commands: dict[str, str], *, check: bool) -> None:
        if command := commands.get(image.family.name):
            timeout_s = COMMAND_TIMEOUT_S * armed_guest.factor
            armed_guest.shell.run(fill(command, kernel=kernel), timeout_s=timeout_s, check=check)

    facts = ask(Host(name=NAME), options, load_families(), {})
    evidence.text("answers.json", json.dumps(dict(facts.answers), indent=1))
    rows: list[tuple[State, HostAudit, str]] = []
    for state in sorted(STATES, key=lambda state: state.last):
        run(state.breaks, check=False)
        (seen,) = audit([Host(name=NAME)], options).hosts
        rows.append((state, seen, state.judged(seen)))
        evidence.event("audit", state=state.name, answer=seen.answer, reason=seen.headline, judged=rows[-1][2])
        run(state.mends, check=True)
    lines = ["| state | a drill of it | audit | first reason | |", "|---|---|---|---|---|"]
    lines += [
        f"| {state.name} | {state.drill} | {seen.answer} | {seen.headline.partition(':')[0]} | {word} |"
        for state, seen, word in rows
    ]
    evidence.text("audit.md", "\n".join(lines) + "\n")
    evidence.text(
        "audit.json",
        json.dumps(
            [
                {
                    "state": state.name,
                    "reasons": [vars(reason) for reason in seen.reasons],
                    "facts": seen.facts,
                    "why": seen.why,
                    "took_s": seen.took_s,
                }
                for state, seen, _ in rows
            ],
            indent=1,
        ),
    )
    wrong = [f"{state.name}: {seen.answer}, {seen.headline or seen.why}" for state, seen, word in rows if word != "hit"]
    assert not wrong, "\n".join(wrong)
