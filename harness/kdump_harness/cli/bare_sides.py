"""The sides of a comparison of kernel drills that the command line names."""

from __future__ import annotations

import argparse
import dataclasses
import os
from typing import TYPE_CHECKING

from ..base.errors import UsageError

if TYPE_CHECKING:
    from ..campaigns.compare.bare import BareSide
    from ..vm.run import Machine, Run


def changed_thing(arguments: argparse.Namespace) -> tuple[str, list[str]]:
    """Return the one thing that differs, and its values from old to new; UsageError for none or several."""
    given = {
        "kernel": arguments.kernels,
        "makedumpfile": arguments.makedumpfiles,
        "append": arguments.appends,
        "capture-append": arguments.capture_appends,
    }
    for option, value in (("--packages", arguments.packages_of), ("--initramfs", arguments.initramfs)):
        if value:
            raise UsageError(f"{option} cannot go with --bare: a kernel drill has no distribution")
    if arguments.other is not None or arguments.family is not None:
        raise UsageError("a second IMAGE and --family cannot go with --bare")
    things = [name for name, values in given.items() if values]
    if len(things) != 1:
        raise UsageError("--bare compares one thing: --kernel, --makedumpfile, --append or --capture-append")
    thing, values = things[0], list(given[things[0]])
    if thing != "kernel" and arguments.image is None:
        raise UsageError(f"--bare --{thing} needs the kernel to drill as IMAGE")
    if thing == "kernel" and arguments.image is not None:
        values.insert(0, arguments.image)
    elif thing == "makedumpfile" and len(values) == 1:
        values.insert(0, arguments.userland)
    elif len(values) == 1 and thing != "kernel":
        values.insert(0, "")
    return thing, values


def bare_sides(
    run: Run, arguments: argparse.Namespace, thing: str, values: list[str], machine: Machine
) -> list[BareSide]:
    """Return the sides, whose kernels and userlands are downloaded where they are missing."""
    from ..campaigns.compare.bare import bare_side
    from ..kernel.drill import KernelPlan
    from ..kernel.source import find_kernel
    from ..kernel.userland import UserlandRequest, make_userland

    sides = []
    for value in values:
        kernel = find_kernel(value if thing == "kernel" else arguments.image, run.state, run.progress)
        instead = {"makedumpfile": value} if thing == "makedumpfile" else {}
        request = UserlandRequest(suite=arguments.userland or "", instead=instead)
        plan = KernelPlan(
            kernel=kernel,
            userland=make_userland(request, run.state, run.progress),
            machine=machine,
            crashkernel=arguments.crashkernel,
            clock=arguments.clock,
        )
        if thing == "append":
            plan = dataclasses.replace(plan, append=value)
        elif thing == "capture-append":
            plan = dataclasses.replace(plan, capture_append=value)
        sides.append(bare_side(value or "nothing", plan))
    return sides


def choose_session(arguments: argparse.Namespace) -> None:
    """Use libvirt's session for an ordinary user, as kernel drills need no network."""
    if arguments.uri is None and os.getuid() != 0:
        arguments.uri = os.environ.get("LIBVIRT_DEFAULT_URI") or "qemu:///session"
