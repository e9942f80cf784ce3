"""Kernel drills: Debian's kernels with a makedumpfile, without a distribution around them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from kdump_harness.kernel.layouts import find_layout, load_layouts
from kdump_harness.pytest_plugin import Verdict

PAIRS = (("bullseye", "bullseye"), ("bookworm", "bookworm"), ("trixie", "trixie"), ("sid", "sid"))


@pytest.mark.parametrize(("kernel", "userland"), PAIRS, ids=lambda suite: suite)
def test_kernel_with_its_own_makedumpfile(kernel_drill: Callable[..., Verdict], kernel: str, userland: str) -> None:
    """The kernel captures itself with the kexec and the makedumpfile of its release."""
    verdict = kernel_drill(kernel, userland=userland)
    assert verdict.verified, verdict.explain()


@pytest.mark.parametrize("load", ["file", "syscall"])
def test_both_system_calls(kernel_drill: Callable[..., Verdict], load: str) -> None:
    """kexec_file_load and kexec_load hand the crashed kernel's memory over alike."""
    verdict = kernel_drill("bookworm", load=load)
    assert verdict.verified, verdict.explain()


def test_a_makedumpfile_of_another_suite(kernel_drill: Callable[..., Verdict]) -> None:
    """Programs of two suites run next to each other, each with its own libraries."""
    verdict = kernel_drill("bullseye", makedumpfile="sid")
    assert verdict.verified, verdict.explain()


@pytest.mark.parametrize("trigger", ["bug", "interrupt"])
def test_triggers_by_the_crash_module(kernel_drill: Callable[..., Verdict], trigger: str) -> None:
    """The module is built with the headers of the kernel's suite."""
    verdict = kernel_drill("bookworm", trigger=trigger)
    assert verdict.verified, verdict.explain()


@pytest.mark.parametrize("layout", load_layouts())
def test_layouts_of_memory(kernel_drill: Callable[..., Verdict], layout: str) -> None:
    """Memory layouts that break makedumpfile leave a good dump."""
    verdict = kernel_drill("bookworm", layouts=(find_layout(layout),))
    assert verdict.verified, verdict.explain()
