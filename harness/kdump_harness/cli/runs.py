"""The parts that all verbs with guests share: options of the run, and the record of its result."""

from __future__ import annotations

import argparse
from typing import Any

from ..base.errors import UsageError
from ..base.evidence import check_writable
from ..base.output import check_output
from ..base.progress import err
from ..distro.architecture import Architecture
from ..history.database import history_path
from ..history.recording import record
from ..vm.run import Options


def options_of(
    arguments: argparse.Namespace, *, network: bool = True, architecture: Architecture | None = None
) -> Options:
    """Return the options of a run; guests of an architecture without known use of KVM are emulated."""
    accelerator = arguments.accelerator
    if architecture is not None and not architecture.may_use_kvm:
        if accelerator == "kvm":
            raise UsageError(f"a guest for {architecture.name} needs --accelerator tcg")
        architecture.require_emulator()
        accelerator = "tcg"
    return Options(
        network=network,
        uri=arguments.uri,
        state=arguments.state,
        remote_state=arguments.remote_state,
        evidence=arguments.evidence,
        accelerator=accelerator,
        timeout_factor=arguments.timeout_factor,
        jobs=jobs_of(arguments),
        keep=getattr(arguments, "keep", "failed"),
        verbose=arguments.verbose,
        quiet=arguments.quiet,
    )


def check_outputs(arguments: argparse.Namespace, *files: str | None) -> None:
    """Raise HostError or UsageError if the evidence, --json or FILES cannot be written."""
    check_writable(arguments.evidence)
    for file in (arguments.json, *files):
        check_output(file)


def jobs_of(arguments: argparse.Namespace) -> int | None:
    """Return the number of jobs; 1 for -v without --jobs, since only one console can be followed."""
    asked: int | None = getattr(arguments, "jobs", 1)
    return 1 if asked is None and arguments.verbose else asked


def record_result(arguments: argparse.Namespace, kind: str, result: dict[str, Any]) -> list[str]:
    """Record a result in the history; return a remark for each figure that is worse than before."""
    path = history_path(arguments.history, arguments.state)
    return record(path, kind, result, log=lambda text: err.print(f"kdump-harness: {text}", markup=False))


def at_once(jobs: int) -> str:
    """Return the words for drills that shared the host, empty for a single drill."""
    return f"{jobs} at once, " if jobs > 1 else ""
