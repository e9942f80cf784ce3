"""Arguments that are added to the command lines of the first and of the capture kernel."""

from __future__ import annotations

from collections.abc import Callable

from kdump_harness.kdump.service import KdumpConfig
from kdump_harness.pytest_plugin import Verdict


def test_arguments_of_both_kernels(drill: Callable[..., Verdict]) -> None:
    """Both kernels have the arguments that were added for them, and still dump."""
    config = KdumpConfig(
        crashkernel=None, level=None, compress=None, append="page_owner=on", capture_append="hest_disable panic=7"
    )
    verdict = drill(config=config)
    assert verdict.verified, verdict.explain()
    assert (verdict.append, verdict.capture_append) == ("page_owner=on", "hest_disable panic=7")
    # Each argument that a kernel does not follow is a remark.
    assert not [remark for remark in verdict.remarks if remark.startswith(("--append", "--capture-append"))]
