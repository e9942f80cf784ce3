"""The plan of a kernel drill refuses a reservation that its kernel cannot make."""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kdump_harness.base.errors import GuestError, NotArmed, UsageError
from kdump_harness.base.progress import Progress
from kdump_harness.diagnosis import diagnose_text
from kdump_harness.kdump.hotplug_steps import parse_steps
from kdump_harness.kdump.trigger import CannotTrigger
from kdump_harness.kernel.crash_module import make_module
from kdump_harness.kernel.drill import KernelDrill
from kdump_harness.kernel.plan import KernelPlan
from kdump_harness.kernel.source import KernelFiles, not_yet_found
from kdump_harness.kernel.userland import Userland
from kdump_harness.triage.crash import CrashRequest


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


@pytest.mark.parametrize(("of_kernel", "suite"), [("trixie-backports", "trixie-backports"), ("", "sid")])
def test_the_crash_of_a_kernel_drill_is_that_of_the_kernels_suite(of_kernel: str, suite: str) -> None:
    kernel = KernelFiles(asked="k", image=Path("bzImage"), release="7", modules=None, config="", suite=of_kernel)
    drill = object.__new__(KernelDrill)
    drill._kernel_plan = KernelPlan(
        kernel=kernel, userland=Userland(entries=(), key="", suite="sid"), crash=CrashRequest()
    )
    facts: Any = None
    assert drill.crash_suite(facts) == suite
    assert drill._kernel_plan.drill_plan().crash == CrashRequest()


class Shell:
    """A shell whose commands run on this host."""

    def __init__(self, disk: str, kexec: str) -> None:
        self._prefix = f"kexec() {{ {kexec}; }}; sleep() {{ :; }}; "
        self._disk = disk

    def run(self, command: str, **_: Any) -> SimpleNamespace:
        here = command.replace("/dev/vda", self._disk).replace("-b ", "-e ").replace("rm -rf /kexec", "true")
        done = subprocess.run(["sh", "-c", self._prefix + here], capture_output=True, text=True, check=False)
        return SimpleNamespace(
            status=done.returncode, ok=done.returncode == 0, out=done.stdout, err=done.stderr, command=command
        )


def load(kexec: str, disk: str = "/dev/null", *, second: bool = False) -> list[str]:
    """Load a capture kernel in a guest, and return the lines for the diagnosis."""
    kernel = KernelFiles(asked="k", image=Path("bzImage"), release="7.3.4", modules=None, config="")
    drill: Any = object.__new__(KernelDrill)
    drill._kernel_plan = KernelPlan(kernel=kernel, second=kernel if second else None)
    drill.plan = drill._kernel_plan.drill_plan()
    drill.evidence = SimpleNamespace(console_path=Path("console.log"))
    drill.console = []
    guest: Any = SimpleNamespace(shell=Shell(disk, kexec), factor=1.0)
    drill._load(guest)
    console: list[str] = drill.console
    return console


def test_the_warnings_of_a_load_are_diagnosed() -> None:
    """kexec-tools loads a capture kernel for arm64 whose headers are wrong, and only warns."""
    warning = "Can't get the symbol of _text to calculate page_offset."
    console = load(f'echo "{warning}" >&2')
    assert console == [warning]
    failed = "read_from_vmcore: Can't seek the dump memory(/proc/vmcore). (offset: ffffb7efcc642000) Invalid argument"
    lines = [
        *console,
        "[   10.000000] Kernel panic - not syncing: sysrq triggered crash",
        "[    0.000000] Booting Linux on physical CPU 0x0000000000 [0x411fd070]",
        "[    0.000000] Linux version 6.1.0-57-cloud-arm64",
        "[    0.000000] OF: fdt: Reserving 1 KiB of memory at 0x69bff000 for elfcorehdr",
        "[    0.000000] Kernel command line: console=ttyAMA0 nr_cpus=1 reset_devices",
        failed,
        "makedumpfile Failed.",
    ]
    found = diagnose_text("\n".join(lines), of_kdump=True).symptoms
    assert found[0].name == "kexec-no-kernel-symbols"
    (read_error,) = (one for one in found if one.name == "vmcore-read-error")
    assert "CONFIG_KALLSYMS_ALL" in read_error.remedy
    without = diagnose_text("\n".join(lines[1:]), of_kdump=True).symptoms
    assert "CONFIG_KALLSYMS_ALL" not in " ".join(one.remedy for one in without)


def test_a_kernel_without_the_driver_of_the_disk_is_not_judged() -> None:
    load("true")
    load("true", "/dev/missing", second=True)
    with pytest.raises(GuestError, match="cannot write a vmcore: /dev/vda did not appear"):
        load("true", "/dev/missing")


def test_a_refused_load_is_told_once() -> None:
    with pytest.raises(NotArmed) as caught:
        load("echo 'Cannot determine the file type' >&2; echo 'kexec_load failed: EPERM' >&2; return 255")
    assert "kexec cannot load the capture kernel: kexec_load failed: EPERM" in str(caught.value)
    assert caught.value.said == "Cannot determine the file type\nkexec_load failed: EPERM"
    assert "--append" not in str(caught.value)


def test_the_crash_module_is_built_in_the_tree_of_the_kernel(tmp_path: Path) -> None:
    tree = tmp_path / "linux"
    tree.mkdir()
    (tree / "Makefile").write_text("modules:\n\ttest -e $(M)/Kbuild\n\techo made > $(M)/kdump_harness_crash.ko\n")
    kernel = KernelFiles(asked="k", image=Path("bzImage"), release="7.3.4", modules=tree, config="")
    run: Any = SimpleNamespace(
        directory=SimpleNamespace(path=tmp_path), log_path=lambda name: tmp_path / name, progress=Progress(quiet=True)
    )
    assert make_module(run, kernel).read_text() == "made\n"
    (tree / "Makefile").write_text("modules:\n\techo 'no modules here'; exit 1\n")
    with pytest.raises(CannotTrigger, match=r"no crash module for 7\.3\.4: .*ended with status 2"):
        make_module(run, kernel)
    for modules in (None, tmp_path / "lib"):
        with pytest.raises(CannotTrigger, match="expected a kernel tree after make with CONFIG_MODULES"):
            make_module(run, dataclasses.replace(kernel, modules=modules))


def test_triggers_by_module_are_for_kernel_drills_too() -> None:
    kernel = KernelFiles(asked="k", image=Path("bzImage"), release="7.3.4", modules=None, config="")
    KernelPlan(kernel=kernel, trigger="bug").drill_plan()
    with pytest.raises(UsageError, match="cannot be crashed by nmi-ignored"):
        KernelPlan(kernel=kernel, trigger="nmi-ignored").drill_plan()


def test_the_frames_of_added_memory_are_counted() -> None:
    plan = KernelPlan(kernel=not_yet_found("trixie"), hotplug=parse_steps("add-dimm:256,add-virtio-mem:128"))
    machine = plan.drill_plan().machine
    assert (machine.total_mib, machine.most_mib) == (768, 1152)
