"""Dumps that the crash utility must open: those of whole drills and of kernel drills."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from kdump_harness.pytest_plugin import Verdict
from kdump_harness.triage.crash import CrashRequest


def test_crash_of_the_distribution(drill: Callable[..., Verdict]) -> None:
    """The crash of the image's distribution analyses the dump of the image's kernel."""
    verdict = drill(crash=CrashRequest())
    if verdict.not_judged:
        pytest.skip(verdict.not_judged)
    assert verdict.verified, verdict.explain()


@pytest.mark.parametrize("suite", ["bullseye", "bookworm", "trixie", "sid"])
def test_crash_of_the_suite(kernel_drill: Callable[..., Verdict], suite: str) -> None:
    """The crash of a Debian suite analyses the dump of its kernel, written by its makedumpfile."""
    verdict = kernel_drill(suite, userland=suite, crash=CrashRequest())
    assert verdict.verified, verdict.explain()
