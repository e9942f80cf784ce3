"""The plan of a kernel drill refuses a reservation that its kernel cannot make."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from kdump_harness.base.errors import UsageError
from kdump_harness.kernel.drill import KernelPlan
from kdump_harness.kernel.source import KernelFiles


@pytest.mark.parametrize(
    ("release", "config", "sentence"),
    [
        ("7.3.4", "CONFIG_CMA=y\nCONFIG_KEXEC=y", None),
        ("7.3.4", "", None),
        (
            "7.3.4",
            "# CONFIG_CMA is not set",
            r"kernel 7\.3\.4 cannot reserve crashkernel=256M,cma: it was built without",
        ),
        ("6.1.0-57-cloud-amd64", "CONFIG_CMA=y", r"refuses crashkernel=256M,cma: Linux 6\.17 and later know ,cma"),
    ],
)
def test_cma_needs_a_kernel_that_has_it(release: str, config: str, sentence: str | None) -> None:
    userland: Any = None
    kernel = KernelFiles(asked="k", image=Path("bzImage"), release=release, modules=None, config=config)
    plan = KernelPlan(kernel=kernel, userland=userland, crashkernel="128M crashkernel=256M,cma")
    if sentence is None:
        assert plan.drill_plan().config.reservation.arguments == "crashkernel=128M crashkernel=256M,cma"
        return
    with pytest.raises(UsageError, match=sentence):
        plan.drill_plan()
