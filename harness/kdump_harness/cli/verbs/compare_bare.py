"""The part of the verb compare that compares kernel drills."""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING

from ...base.errors import UsageError
from ...kernel.machine import INSTRUCTIONS
from ...kernel.userland import UserlandRequest, make_userland
from ...vm.run import Machine, Run

if TYPE_CHECKING:
    from ...campaigns.compare.bare import BareSide


def compare_bare(arguments: argparse.Namespace) -> int:
    """Compare kernels, versions of makedumpfile or command lines by kernel drills."""
    from ...base.evidence import check_writable
    from ...base.output import check_output
    from ...campaigns.compare.bare import BareBisectPlan, run_bare_compare, usual_bare_max_slower
    from ...campaigns.compare.bisection import run_bisect
    from ...campaigns.compare.plan import ComparePlan, choose_scenarios, usual_max_slower
    from ...campaigns.resume import with_record
    from ...kdump.service import KdumpConfig
    from ..runs import options_of
    from .compare import check_bisect, conclude, conclude_bisect, share
    from .kernel import choose_session

    thing, values = _changed(arguments)
    check_writable(arguments.evidence)
    for to in (arguments.json, arguments.junit, arguments.markdown):
        check_output(to)
    choose_session(arguments)
    vcpus = 1 if arguments.clock == INSTRUCTIONS else arguments.vcpus
    machine = Machine(memory_mib=arguments.memory, vcpus=vcpus, cpu_level=arguments.cpu)
    options = options_of(arguments, network=False)
    if arguments.bisect:
        check_bisect(arguments)
        with Run(options) as run:
            sides = _sides(run, arguments, thing, values, machine)
            plan = BareBisectPlan(
                image=sides[0].subject.name,
                thing=thing,
                sides=tuple(sides),
                machine=machine,
                config=KdumpConfig(crashkernel=arguments.crashkernel, level=None, compress=None),
            )
            return conclude_bisect(arguments, run_bisect(run, plan))
    if len(values) != 2:
        raise UsageError(f"cannot compare {len(values)} sides: give two, or --bisect to find the first bad one")
    with Run(with_record(options, arguments.resume, "compare.json")) as run:
        old, new = _sides(run, arguments, thing, values, machine)
        usual = usual_bare_max_slower(arguments.clock, usual_max_slower(run.accelerator))
        plan_compare = ComparePlan(
            image=old.subject.name,
            thing=thing,
            sides=(old, new),
            machine=machine,
            crashkernel=arguments.crashkernel,
            scenarios=choose_scenarios(arguments.scenario, arguments.only or _usual()),
            rounds=arguments.rounds,
            most_rounds=max(arguments.rounds, arguments.most_rounds),
            max_slower=share(arguments.max_slower) if arguments.max_slower is not None else usual,
            max_larger=share(arguments.max_larger),
        )
        plan_compare.check()
        return conclude(arguments, run_bare_compare(run, plan_compare))


def _usual() -> list[str]:
    from ...campaigns.compare.bare import SCENARIOS

    return list(SCENARIOS)


def _changed(arguments: argparse.Namespace) -> tuple[str, list[str]]:
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


def _sides(run: Run, arguments: argparse.Namespace, thing: str, values: list[str], machine: Machine) -> list[BareSide]:
    """Return the sides, whose kernels and userlands are downloaded where they are missing."""
    from ...campaigns.compare.bare import bare_side
    from ...kernel.drill import KernelPlan
    from ...kernel.source import find_kernel

    sides = []
    for value in values:
        kernel = find_kernel(value if thing == "kernel" else arguments.image, run.state, run.progress)
        instead = {"makedumpfile": value} if thing == "makedumpfile" else {}
        request = UserlandRequest(suite=arguments.userland, instead=instead)
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
