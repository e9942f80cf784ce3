"""The result of a drill: the stage reached, every check with what was expected and seen, phases, symptoms."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from .errors import EXIT_FAILED, EXIT_OK, EXIT_UNJUDGED
from .stage import Stage

SCHEMA = 1


@dataclass(frozen=True)
class Check:
    """One thing that a good drill must show."""

    name: str
    ok: bool
    expected: str
    seen: str


def _version() -> str:
    from .. import __version__

    return __version__


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


@dataclass
class Verdict:
    """The outcome of one drill; verified only when every check was made and held."""

    image: str
    family: str
    trigger: str
    target: str
    accelerator: str
    memory_mib: int
    vcpus: int
    arch: str = "x86_64"
    harness: str = field(default_factory=_version)  # its version
    host: str = field(default_factory=platform.node)  # that the harness ran on
    test: str | None = None  # the id of the pytest test that made the drill
    firmware: str = "bios"
    release: str | None = None  # the row of the family's table that the guest was driven by
    dimms_mib: list[int] = field(default_factory=list)  # the part of memory_mib that is in DIMMs
    shapes: list[str] = field(default_factory=list)  # of storage, firmware and boot
    hotplug: list[str] = field(default_factory=list)  # steps after the capture kernel was loaded
    started: str = field(default_factory=_now)  # UTC
    until: str = "recovered"  # or "saved": the reboot was not judged
    warm: bool = False  # the guest was restored from its saved memory, and not booted
    beside: int = 0  # other drills of the run that shared the host, which shows in the times
    disk: str | None = None  # where the guest's disk came from
    machine_id: str | None = None  # of the guest, which a clone has from its source
    kernel: str | None = None
    kernel_asked: str | None = None  # as the user put it; the drill does not begin with another one
    makedumpfile: str | None = None
    makedumpfile_said: dict[str, Any] | None = None  # its latest kernel, its warnings, and its counts of pages
    crashkernel: str | None = None
    append: str = ""  # to the command line of the first kernel, as the user put it
    capture_append: str = ""
    reserved_mib: int | None = None  # without CMA
    reserved: dict[str, Any] | None = None  # by part: high_mib, low_mib, cma_mib and the address ranges
    left_out: dict[str, Any] | None = None  # memory that no dump can have: page_frames, mib, in_use by class
    level: int | None = None
    compress: str | None = None
    reached: Stage = Stage.NOTHING
    verified: bool = False
    stopped_by: str | None = None
    not_judged: str | None = None  # the reason why the harness cannot read the dump, which may be whole
    checks: list[Check] = field(default_factory=list)
    phases_s: dict[str, float] = field(default_factory=dict)
    processor_s: dict[str, float] = field(default_factory=dict)  # of phases, by a clock of instructions
    dump: dict[str, Any] | None = None
    crash: dict[str, Any] | None = None  # the answers of the crash utility: version, source, tasks, complaints, ...
    foreseen: list[dict[str, Any]] = field(default_factory=list)  # lacks of the capture initramfs: place, lacks, remedy
    capture_memory: dict[str, Any] | None = None  # of the capture kernel, in KiB, where it reported it
    fallback: list[dict[str, Any]] = field(default_factory=list)  # other records of the crash: source, path, panic
    symptoms: list[dict[str, Any]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)  # what one should know to trust it
    known_issue: str | None = None  # the tracker that excuses the failure; verified stays false
    known_issue_note: str | None = None  # no longer seen, or no excuse any more
    evidence: str = ""
    vmcore: str | None = None  # the kept dump on that host

    @property
    def main_mib(self) -> int | None:
        """The part of the reservation that the capture kernel is loaded into."""
        parts = self.reserved or {}
        return parts.get("high_mib") or parts.get("low_mib") or self.reserved_mib

    def failed(self) -> Iterator[Check]:
        """Return the checks that did not hold."""
        return (check for check in self.checks if not check.ok)

    def check(self, name: str, ok: bool, *, expected: object, seen: object) -> bool:
        """Record a check."""
        self.checks.append(Check(name, bool(ok), str(expected), str(seen)))
        return bool(ok)

    @property
    def exit_status(self) -> int:
        """Return the exit status of a drill with this verdict."""
        if self.verified:
            return EXIT_OK
        return EXIT_UNJUDGED if self.not_judged and not self.stopped_by and not list(self.failed()) else EXIT_FAILED

    def reason(self) -> str:
        """One line that says why it is not verified."""
        if self.verified:
            return "verified"
        parts = []
        causes = [symptom for symptom in self.symptoms if symptom["severity"] == "failure"]
        if causes:
            parts.append(causes[0]["name"])
        if self.stopped_by:
            parts.append(self.stopped_by)
        if self.not_judged:
            parts.append(f"the dump was not judged: {self.not_judged}")
        parts += [f"{check.name}: expected {check.expected}, seen {check.seen}" for check in self.failed()]
        return "; ".join(parts) or f"stopped at {self.reached.name}"

    def explain(self) -> str:
        """Why it is what it is, for an assertion's message."""
        return f"{self.image}: reached {self.reached.name}: {self.reason()}\n  evidence: {self.evidence}"

    def to_json(self) -> dict[str, Any]:
        """Return the content of verdict.json, which is a contract."""
        return {"schema": SCHEMA, **asdict(self), "reached": self.reached.name}
