"""The progress of drills as lines of pytest's output, which a CI log shows while a test runs."""

from __future__ import annotations

import contextlib
import sys

import pytest

from ..base.progress import Progress


def progress_of(config: pytest.Config) -> Progress:
    """Return the progress of a session: lines past pytest's capture, also from the workers of xdist."""
    capture = config.pluginmanager.getplugin("capturemanager")
    reporter = config.pluginmanager.getplugin("terminalreporter")
    worker = getattr(config, "workerinput", None)  # its reporter writes to a closed output

    def write(line: str) -> None:
        with capture.global_and_fixture_disabled() if capture else contextlib.nullcontext():
            if worker is not None:
                sys.stderr.write(f"[{worker['workerid']}] {line}\n")
                sys.stderr.flush()
            elif reporter is not None:
                reporter.ensure_newline()
                reporter.write_line(line)
                reporter.flush()
            else:
                sys.stderr.write(f"{line}\n")
                sys.stderr.flush()

    return Progress(write=write, quiet=config.option.verbose < -1)
