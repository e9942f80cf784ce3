"""The files and command lines that both kernels of a kernel drill boot with."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from ..base.units import MIB
from ..fallback.kinds import HYPERVISOR
from ..kdump.hotplug_steps import VIRTIO_MEM
from ..kdump.trigger import MODULE_PATH
from .initramfs import Entry, write_archive
from .machine import INSTRUCTIONS, DirectBoot
from .modules import NEEDED, Modules
from .plan import KernelPlan, userland_family

DISK = "/dev/vda"
_VMCOREINFO_DRIVER = "qemu_fw_cfg"  # gives the hypervisor the VMCOREINFO for its dump
_OS_RELEASE = b'ID=kdump-harness\nPRETTY_NAME="the userland of kernel drills"\n'


def write_boot(
    plan: KernelPlan, directory: Path, name: str, *, crash_module: Path | None = None, erst: Path | None = None
) -> DirectBoot:
    """Write the initramfs of both kernels and the empty disk; the caller removes them."""
    second = plan.second or plan.kernel
    # The capture kernel has none of them: a balloon would take the memory of its reservation.
    layout_modules = [module for layout in plan.layouts for module in layout.modules]
    if any(step.thing == VIRTIO_MEM for step in plan.hotplug):
        layout_modules.append("virtio_mem")
    if HYPERVISOR in plan.fallback:
        layout_modules.append(_VMCOREINFO_DRIVER)
    boot = DirectBoot(
        kernel=directory / f"{name}.kernel",
        initrd=directory / f"{name}.initrd",
        command_line=first_command_line(plan),
        dump_disk=directory / f"{name}.dump",
        erst=erst,
    )
    modules = {kernel: Modules(kernel.modules) for kernel in {plan.kernel, second}}
    capture = directory / f"{name}.capture"
    with capture.open("wb") as file:
        write_archive(file, _entries(plan, modules[second], plan.modules))
    with boot.initrd.open("wb") as file:
        more = [Entry(path="kexec/kernel", content=second.image), Entry(path="kexec/initrd", content=capture)]
        if crash_module is not None:
            more.append(Entry(path=MODULE_PATH.lstrip("/"), content=crash_module))
        write_archive(file, [*_entries(plan, modules[plan.kernel], (*plan.modules, *layout_modules)), *more])
    capture.unlink()
    shutil.copyfile(plan.kernel.image, boot.kernel)
    with boot.dump_disk.open("wb") as file:
        memory_mib = plan.machine.memory_mib + plan.spare(plan.machine).memory_mib
        file.truncate((memory_mib * 5 // 4 + 16) * MIB)
    for path in (boot.initrd, boot.kernel):
        path.chmod(0o644)
    return boot


def first_command_line(plan: KernelPlan) -> str:
    """Return the command line of the first kernel."""
    reserved = plan.reservation.arguments
    appended = [layout.append for layout in plan.layouts]
    return _words(plan.architecture.arguments, _for_init(plan), reserved, *appended, plan.append)


def capture_command_line(plan: KernelPlan) -> str:
    """Return the command line of the capture kernel."""
    collector = userland_family().config.get(config_file(plan), "collector") or ""
    return _words(
        plan.architecture.arguments,
        plan.architecture.capture_arguments,
        _for_init(plan),
        f"kdump_harness.disk={DISK}",
        f"kdump_harness.collector={','.join(collector.split())}",
        plan.capture_append,
    )


def config_file(plan: KernelPlan) -> str:
    """Return the text of the userland's configuration file."""
    family = userland_family()
    return family.config.with_collection("", *plan.config.core_collector(family))


def _words(*parts: str) -> str:
    return " ".join(filter(None, parts))


def _for_init(plan: KernelPlan) -> str:
    """Return the arguments for the init: the device of the control line, and a clock of instructions."""
    clock = f"kdump_harness.clock={INSTRUCTIONS}" if plan.clock == INSTRUCTIONS else ""
    return _words(f"kdump_harness.control={plan.architecture.control_device}", clock)


def _entries(plan: KernelPlan, modules: Modules, more_modules: tuple[str, ...]) -> Iterator[Entry]:
    yield from plan.userland.entries
    wanted = modules.closure((*NEEDED, *more_modules))
    for name, content in wanted.items():
        yield Entry(path=f"modules/{name}.ko", content=content)
    yield Entry(path="modules/order", content="".join(f"{name}.ko\n" for name in wanted).encode())
    yield Entry(path=userland_family().config.file.lstrip("/"), content=config_file(plan).encode())
    yield Entry(path="etc/os-release", content=_OS_RELEASE)
