"""The full drill on each chosen image."""

from __future__ import annotations

from collections.abc import Callable

from kdump_harness.pytest_plugin import Verdict


def test_dump(drill: Callable[..., Verdict]) -> None:
    """The guest panics, writes a complete vmcore of this crash, reboots and is armed again."""
    verdict = drill()
    assert verdict.verified, verdict.explain()
