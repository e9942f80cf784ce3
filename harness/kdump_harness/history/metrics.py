"""Metrics of the last drills for the textfile collector of Prometheus' node exporter."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..base.output import Sample, format_metrics, replace_text
from ..base.units import MIB
from .database import KNOWN_ISSUE, USUAL_ARCH, History, RecordedRun, word_of
from .trend import may_be_worse, regressions

_PHASES = ("boot", "panic_to_capture", "capture_boot", "dump", "reboot")  # parts, so that a sum is right
_HELP = {
    "kdump_drill_verified": "Whether the last drill was verified.",
    "kdump_drill_known_issue": "Whether a known issue excuses the last drill.",
    "kdump_drill_timestamp_seconds": "When the last drill began.",
    "kdump_drill_success_timestamp_seconds": "When the last verified drill began.",
    "kdump_drill_phase_seconds": "How long a phase of the last drill took.",
    "kdump_drill_panic_to_login_seconds": "How long the last drill took from the panic to the login prompt.",
    "kdump_drill_dump_bytes": "Size of the last drill's vmcore.",
    "kdump_drill_dump_pages": "Pages in the last drill's vmcore.",
    "kdump_drill_reserved_bytes": "Memory reserved for the capture kernel in the last drill.",
    "kdump_drill_worse": "A figure of the last drill that is worse than its past by more than the noise.",
    "kdump_drill_info": "Kernel, makedumpfile and accelerator of the last drill.",
}

# The kernel is a label of kdump_drill_info alone: an update of it must not begin new series.
_LABELS = ("image", "arch", "scenario", "trigger", "target")
_NO_TEST = "drill"  # scenario of a drill of the command line


def write_metrics(history: History, path: Path) -> None:
    """Replace the file atomically, readable for all users. Raises UsageError if it cannot be written."""
    replace_text(path, render(history))


def render(history: History) -> str:
    """Return the text of the file: one group of lines for each metric."""
    return format_metrics(_HELP, _samples(history))


def _samples(history: History) -> Iterator[Sample]:
    worked = {_identity(run): run for run in history.last_successes()}
    last = {_identity(run): run for run in history.last_drills()}  # the newest of tests with one name
    makedumpfiles = history.texts(list(last.values()), "makedumpfile")
    least = history.least_figures()
    for key, run in sorted(last.items(), key=lambda item: item[0]):
        labels = dict(zip(_LABELS, key, strict=True))
        yield "kdump_drill_verified", labels, float(run.ok)
        yield "kdump_drill_known_issue", labels, float(word_of(run) == KNOWN_ISSUE)
        yield "kdump_drill_timestamp_seconds", labels, run.at_s
        if key in worked:
            yield "kdump_drill_success_timestamp_seconds", labels, worked[key].at_s
        yield from _figures(run, labels)
        for one in regressions(history, run) if run.ok and may_be_worse(run, least) else ():
            yield "kdump_drill_worse", {**labels, "figure": one.figure}, 1.0
        about = {"kernel": run.kernel or "", "makedumpfile": makedumpfiles.get(run.number, "")}
        about["accelerator"] = run.accelerator or ""
        yield "kdump_drill_info", {**labels, **about}, 1.0


def _identity(run: RecordedRun) -> tuple[str, ...]:
    """Return the values of the labels that each metric has."""
    return (run.image, run.arch or USUAL_ARCH, run.test or _NO_TEST, run.trigger or "", run.target or "")


def _figures(run: RecordedRun, labels: dict[str, str]) -> Iterator[Sample]:
    for phase in _PHASES:
        if phase in run.figures:
            yield "kdump_drill_phase_seconds", {**labels, "phase": phase}, run.figures[phase]
    for name, figure, factor in (
        ("kdump_drill_panic_to_login_seconds", "panic_to_login", 1),
        ("kdump_drill_dump_bytes", "dump_size", 1),
        ("kdump_drill_dump_pages", "pages_kept", 1),
        ("kdump_drill_reserved_bytes", "reserved", MIB),
    ):
        if figure in run.figures:
            yield name, labels, run.figures[figure] * factor
