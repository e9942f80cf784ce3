"""Memory and processors that are added or removed after kdump was armed are in the dump, or not in it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from kdump_harness.drill.disks import SystemUnderTest
from kdump_harness.kdump.hotplug_steps import parse_steps
from kdump_harness.kdump.service import KdumpConfig
from kdump_harness.pytest_plugin import Verdict, pin_image
from kdump_harness.vm.run import Run

KERNELS = ("bookworm", "trixie", "trixie-backports")  # 6.1 does not update a loaded capture kernel by itself
STEPS = (
    "add-dimm:256,remove-cpu", "add-dimm:256", "add-virtio-mem:256", "add-dimm:256,remove-dimm", "remove-cpu,add-cpu",
    "add-virtio-mem:256,remove-virtio-mem",
)  # fmt: skip
# Without it, the capture kernel of some distributions adds the DIMM to its own memory (scenarios/test_memory.py).
ALONE = "acpi_no_memhotplug"


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("steps", STEPS)
def test_hotplug_of_a_kernel(kernel_drill: Callable[..., Verdict], harness_run: Run, kernel: str, steps: str) -> None:
    """The dump has all memory and the registers of all processors of the moment of the crash, and no others."""
    if "remove-cpu" in steps and harness_run.accelerator != "kvm":
        pytest.skip("QEMU does not report to libvirt that an emulated guest gave a processor back")
    verdict = kernel_drill(kernel, hotplug=parse_steps(steps), capture_append=ALONE, level=1)
    assert verdict.verified, verdict.explain()
    assert "hotplug" in {check.name for check in verdict.checks}


# Linux 6.12 has no room for another processor in an emulated guest.
STEPS_OF = {"debian-12": "add-dimm:512,add-cpu", "debian-13": "add-dimm:512"}
CONFIG = KdumpConfig(crashkernel=None, level=1, compress=None, capture_append=ALONE)


@pin_image("debian-12", "debian-13")
def test_hotplug_of_a_distribution(drill: Callable[..., Verdict], image: SystemUnderTest) -> None:
    """udev's rules of kdump, or the kernel, keep the capture kernel up to date."""
    verdict = drill(hotplug=parse_steps(STEPS_OF[image.name]), config=CONFIG)
    assert verdict.verified, verdict.explain()
    assert "hotplug" in {check.name for check in verdict.checks}
