"""The judgement of one host: all rules on its facts."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from . import rules, rules_drivers, rules_place, rules_platform
from .facts import Facts
from .finding import Finding, reason_of
from .result import Reason, Severity

Rule = Callable[[Facts], Iterator[Finding]]
# Causes come before their consequences.
RULES: tuple[Rule, ...] = (
    rules.reservation,
    rules.configuration,
    rules.initramfs,
    rules.loaded,
    rules.need,
    rules.capture_line,
    rules_platform.signature,
    rules_place.place,
    rules.makedumpfile,
    rules.permissions,
    rules.load_disabled,
    rules.next_boot,
    rules.policies,
    rules_drivers.drivers,
    rules.access,
    rules.past,
    rules_platform.records,
)
# With fadump the firmware boots the kernel again: nothing is loaded by kexec, and crashkernel= is not needed.
OF_KEXEC: tuple[Rule, ...] = (
    rules.reservation,
    rules.need,
    rules.capture_line,
    rules_platform.signature,
    rules.load_disabled,
)
_ORDER = list(Severity)


def judge(facts: Facts) -> tuple[Reason, ...]:
    """Return the reasons, failures first, each name and severity once."""
    found: dict[tuple[str, Severity], Reason] = {}
    applied = [rule for rule in RULES if not (facts.state.fadump and rule in OF_KEXEC)]
    for rule in applied if rules.is_installed(facts) else (rules.installed, rules.access):
        for finding in rule(facts):
            found.setdefault((finding.name, finding.severity), reason_of(finding, facts))
    return tuple(sorted(found.values(), key=lambda reason: _ORDER.index(reason.severity)))
