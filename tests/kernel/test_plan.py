"""The plan of a kernel drill refuses a reservation that its kernel cannot make."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
from kdump_harness.base.errors import GuestError, UsageError
from kdump_harness.base.progress import Progress
from kdump_harness.kernel.drill import KernelDrill, KernelPlan
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


@pytest.mark.parametrize(("second", "there"), [(False, True), (False, False), (True, False)])
def test_a_kernel_without_the_driver_of_the_disk_is_not_judged(second: bool, there: bool) -> None:
    kernel = KernelFiles(asked="k", image=Path("bzImage"), release="7.3.4", modules=None, config="")
    drill: Any = object.__new__(KernelDrill)
    drill._kernel_plan = KernelPlan(kernel=kernel, second=kernel if second else None)
    drill.plan = drill._kernel_plan.drill_plan()
    drill.run = SimpleNamespace(factor=1.0)
    drill.progress, drill.clock = Progress(quiet=True), MagicMock()
    drill.evidence = SimpleNamespace(console_path=Path("console.log"))
    guest = MagicMock()
    guest.shell.succeeds.return_value = there
    if second or there:
        drill._boot_directly(guest)
        return
    with pytest.raises(GuestError, match="cannot write a vmcore: /dev/vda did not appear"):
        drill._boot_directly(guest)
