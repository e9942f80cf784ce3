"""The sides of a comparison of kernel drills that the command line names."""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..base.errors import UsageError

if TYPE_CHECKING:
    from ..campaigns.compare.bare import BareSide
    from ..kernel.userland import UserlandRequest
    from ..vm.run import Machine, Run

NOTHING = "nothing"  # name of a side without the arguments that the other side has


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


def bare_sides(arguments: argparse.Namespace, thing: str, values: list[str], machine: Machine) -> list[BareSide]:
    """Return the sides before their kernels are found; UsageError for every error that is visible now."""
    from ..campaigns.compare.bare import bare_side
    from ..distro.architecture import find_architecture
    from ..kernel.plan import KernelPlan
    from ..kernel.source import check_kernel, not_yet_found
    from ..kernel.userland import check_userland

    sides = []
    for value in values:
        asked = value if thing == "kernel" else arguments.image
        check_kernel(asked, find_architecture("amd64"))
        check_userland(_userland(arguments, thing, value))
        plan = KernelPlan(
            kernel=not_yet_found(asked),
            machine=machine,
            crashkernel=arguments.crashkernel,
            append=value if thing == "append" else "",
            capture_append=value if thing == "capture-append" else "",
            clock=arguments.clock,
        )
        plan.drill_plan()
        sides.append(bare_side(value or NOTHING, plan))
    return sides


def found_sides(run: Run, arguments: argparse.Namespace, thing: str, sides: Sequence[BareSide]) -> tuple[BareSide, ...]:
    """Return the sides with their kernels and userlands, which are downloaded where they are missing."""
    from ..campaigns.compare.bare import bare_side
    from ..kernel.source import find_kernel
    from ..kernel.userland import make_userland

    found = []
    for side in sides:
        plan = side.kernel_plan
        kernel = find_kernel(plan.kernel.asked, run.state, run.progress)
        userland = make_userland(_userland(arguments, thing, side.name), run.state, run.progress)
        found.append(bare_side(side.name, dataclasses.replace(plan, kernel=kernel, userland=userland)))
    return tuple(found)


def _userland(arguments: argparse.Namespace, thing: str, value: str) -> UserlandRequest:
    from ..kernel.userland import UserlandRequest

    return UserlandRequest(
        suite=arguments.userland or "", instead={"makedumpfile": value} if thing == "makedumpfile" else {}
    )


def choose_session(arguments: argparse.Namespace) -> None:
    """Use libvirt's session for an ordinary user, as kernel drills need no network."""
    if arguments.uri is None and os.getuid() != 0:
        arguments.uri = os.environ.get("LIBVIRT_DEFAULT_URI") or "qemu:///session"
