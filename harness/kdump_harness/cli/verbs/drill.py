"""The verb drill: one crash, judged."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ...base.errors import UsageError
from ...distro.family import find_family, load_families
from ...fallback.kinds import PSTORE, parse_kinds
from ...kdump.hotplug_steps import parse_steps
from ...kdump.reserved_memory import in_words
from ...kdump.target import TARGETS
from ...kdump.trigger import find_trigger
from ..options import (
    add_arch,
    add_budget,
    add_command_lines,
    add_crash,
    add_crashkernel,
    add_dimm,
    add_fallback,
    add_filter,
    add_hotplug,
    add_image,
    add_json,
    add_keep,
    add_oracle,
    add_run,
    add_shape,
    add_software,
    add_trigger,
    crash_request,
)
from ..parser import Verbs, add_verb
from ..types import mib

if TYPE_CHECKING:
    from ...base.verdict import Verdict
    from ...drill.disks import SystemUnderTest
    from ...drill.plan import Plan
    from ...vm.run import Run


def add_drill(verbs: Verbs, on_host: Callable[[argparse.Namespace], int] | None = None) -> None:
    """Add the verb to the command line; ON_HOST drills machines that exist."""
    parser = add_verb(
        verbs,
        "drill",
        "Drill one guest: boot it, arm kdump, crash it, capture and fetch the dump, verify it, and boot again.",
        run=drill,
        epilog="examples:\n  kdump-harness drill debian-12\n"
        "  kdump-harness drill debian-13 --crashkernel 512M --level 1 --compress lzo\n"
        "  kdump-harness drill debian-12 --kernel bookworm-backports --firmware uefi\n"
        "  kdump-harness drill debian-12 --kernel ./mybuild --makedumpfile trixie\n"
        "  kdump-harness drill debian-12 --trigger nmi --target nfs\n"
        "  kdump-harness drill ./my.qcow2 --family debian --as-is\n"
        "  kdump-harness drill --domain myserver    # a clone of a libvirt domain, which keeps running undisturbed\n"
        "  kdump-harness drill --host root@db1 --yes-crash db1 --console 'ipmitool -H db1-ipmi sol activate'",
    )
    parser.set_defaults(on_host=on_host)
    guest = parser.add_argument_group("guest")
    add_image(guest, domain=True)
    add_arch(guest)
    add_software(guest)
    guest.add_argument(
        "--memory",
        type=mib,
        metavar="S",
        help="memory of the guest, as 2G, 1536M, or a number of MiB (default: 1024, 2048 for ppc64el; for a clone the"
        " domain's)",
    )
    add_dimm(guest)
    guest.add_argument(
        "--vcpus", type=int, metavar="N", help="processors of the guest (default: 2; for a clone the domain's)"
    )
    add_hotplug(guest)
    add_shape(guest)
    guest.add_argument(
        "--keep-mac", action="store_true", help="keep the domain's MAC addresses, which its network setup may need"
    )
    machine = parser.add_argument_group("machine that exists (--host)")
    machine.add_argument(
        "--console",
        metavar="COMMAND",
        help="command that prints the serial console, as in 'virsh console NAME'; without it, only the dump and the"
        " next boot are judged",
    )
    machine.add_argument(
        "--yes-crash", metavar="HOSTNAME", help="name by which the machine calls itself, since it will be crashed"
    )
    machine.add_argument("--reset", metavar="COMMAND", help="command that resets the machine if it does not come back")
    machine.add_argument(
        "--ssh", default="ssh", metavar="COMMAND", help="ssh program with its options, as in 'ssh -F FILE'"
    )
    machine.add_argument(
        "--dumps-on",
        metavar="USER@HOST:DIR",
        help="machine and directory in which its dumps arrive, if they are sent to a server; read by ssh",
    )
    machine.add_argument("--anyway", action="store_true", help="crash it even if the audit says that it will fail")
    kdump = parser.add_argument_group("kdump")
    kdump.add_argument(
        "--makedumpfile",
        metavar="M",
        help="makedumpfile to install: a suite (trixie), makedumpfile=VERSION, PACKAGE/SUITE, or package files",
    )
    add_trigger(kdump)
    kdump.add_argument(
        "--target", metavar="T", help=f"dump target: {', '.join(TARGETS)} (default: local; for a clone its own)"
    )
    add_filter(kdump)
    add_crashkernel(kdump, 'crashkernel= value, "none" or "default" (the distribution\'s) (default: the family\'s)')
    add_command_lines(kdump)
    settings = kdump.add_mutually_exclusive_group()
    settings.add_argument(
        "--arm-with",
        type=Path,
        metavar="FILE",
        help="script that arms kdump, run as root in the guest, or playbook of Ansible; judge the guest by its own"
        " settings then",
    )
    settings.add_argument(
        "--as-is", action="store_true", help="install and configure nothing; judge the guest by its own settings"
    )
    verdict = parser.add_argument_group("verdict")
    add_budget(verdict)
    verdict.add_argument(
        "--until",
        choices=("recovered", "saved"),
        default="recovered",
        help="end of the drill; saved powers the guest off when the dump is written and judges no reboot (ext4 only)",
    )
    add_fallback(verdict)
    add_oracle(verdict)
    add_crash(verdict)
    run = parser.add_argument_group("run and output")
    add_keep(run)
    add_run(run)
    add_json(run)


def drill(arguments: argparse.Namespace) -> int:
    from ...drill.plan import Plan
    from ...drill.session import run_drill
    from ...drill.shapes.table import find_shapes
    from ...kdump.service import KdumpConfig
    from ...vm.run import Machine, Run
    from ..runs import check_outputs, options_of
    from ..subject import machine_of, subject_of

    if arguments.host is not None:
        return int(arguments.on_host(arguments))
    for option in ("--console", "--yes-crash", "--reset", "--dumps-on", "--anyway"):
        if getattr(arguments, option[2:].replace("-", "_")):
            raise UsageError(f"{option} is for --host")
    cloned = arguments.domain is not None
    if arguments.keep_mac and not cloned:
        raise UsageError("--keep-mac is for --domain: the guests of images have no MAC to keep")
    subject = _subject_of_domain(arguments) if cloned else subject_of(arguments)
    changes = (arguments.target, arguments.level, arguments.compress)
    plan = Plan(
        subject=subject,
        machine=Machine() if cloned else machine_of(arguments, subject),
        config=KdumpConfig(
            crashkernel=arguments.crashkernel,
            level=arguments.level,
            compress=arguments.compress,
            append=arguments.append,
            capture_append=arguments.capture_append,
        ),
        trigger=arguments.trigger,
        target=arguments.target or "local",
        as_is=arguments.as_is
        or arguments.arm_with is not None
        or (cloned and all(change is None for change in changes)),
        arm_with=arguments.arm_with,
        budget_s=arguments.budget,
        until=arguments.until,
        oracle=arguments.oracle,
        crash=crash_request(arguments),
        fallback=parse_kinds(arguments.fallback),
        hotplug=parse_steps(arguments.hotplug),
        shapes=find_shapes(arguments.shape),
        name=f"domain-{subject.name}" if cloned else "",
    )
    if not cloned:
        plan.check()
    check_outputs(arguments)
    with Run(options_of(arguments, architecture=plan.machine.architecture)) as run:
        verdict = run_drill(run, _with_clone(run, plan, arguments) if cloned else plan)
    report_drill(arguments, verdict)
    return verdict.exit_status


def _subject_of_domain(arguments: argparse.Namespace) -> SystemUnderTest:
    """Return the system that is cloned from the domain.

    Its family is known only when the clone runs, unless the user gave it. Raises UsageError for an option
    that does not fit a clone.
    """
    from ...drill.clone import check_config, describe_domain, label_of
    from ...drill.disks import SystemUnderTest
    from ...drill.plan import SAVED
    from ...kdump.service import KdumpConfig
    from ...vm.hypervisor.erst_xml import lacks_erst
    from ..subject import access_of

    for option, given, why in (
        ("--kernel", arguments.kernel, "a clone is judged with its own kernel, and its network reaches no packages"),
        ("--makedumpfile", arguments.makedumpfile, "a clone is judged with its own"),
        ("--packages", arguments.packages, "a clone is judged with what is installed in it"),
        ("--firmware", arguments.firmware, "a clone has the domain's"),
        ("--arch", arguments.arch, "a clone has the domain's"),
        ("--dimm", arguments.dimm, "a clone has the domain's"),
        ("--shape", arguments.shape or None, "a clone has the domain's hardware and configuration"),
        ("--hotplug", arguments.hotplug or None, "a clone has no free slots for memory or processors"),
        ("--crashkernel", arguments.crashkernel, "a clone has the domain's reservation"),
        ("--append", arguments.append or None, "a clone has the domain's command line"),
        ("--arm-with", arguments.arm_with, "a clone is judged as it was armed"),
        ("--capture-append", arguments.capture_append or None, "a clone has the domain's configuration"),
        ("--target", arguments.target not in (None, "local") or None, "a clone dumps where it does, or to local"),
    ):
        if given is not None:
            raise UsageError(f"{option} cannot go with --domain: {why}")
    if arguments.as_is and arguments.target is not None:
        raise UsageError("--target cannot go with --as-is: it would change the configuration of the guest")
    original = describe_domain(arguments.uri, arguments.domain)
    if PSTORE in parse_kinds(arguments.fallback) and (lacks := lacks_erst(original.xml)):
        raise UsageError(f"--fallback {PSTORE} cannot go with {original.name}: {lacks}")
    find_trigger(arguments.trigger, vcpus=arguments.vcpus or original.vcpus)
    if arguments.until == SAVED and len(original.disks) > 1:
        raise UsageError(
            f"--until {SAVED} reads a single disk, but {original.name} has {len(original.disks)}: omit --until"
        )
    access = access_of(arguments)
    if access is not None:
        access.check()
    family = find_family(arguments.family) if arguments.family else None
    check_config(KdumpConfig(crashkernel=None, level=arguments.level, compress=arguments.compress), family)
    stand_in = family or next(iter(load_families().values()))
    return SystemUnderTest(name=label_of(original.name), family=stand_in, login=arguments.login, access=access)


def _with_clone(run: Run, plan: Plan, arguments: argparse.Namespace) -> Plan:
    """Return the plan for a clone of the named domain."""
    from ...drill.clone import CloneRequest, make_clone

    request = CloneRequest(
        memory_mib=arguments.memory,
        vcpus=arguments.vcpus,
        cpu_level=arguments.cpu,
        keep_macs=arguments.keep_mac,
        seeded=plan.subject.access is None,
        family=plan.subject.family if arguments.family else None,
    )
    clone = make_clone(run, arguments.domain, request)
    return dataclasses.replace(plan, clone=clone, machine=clone.machine)


def _knows(verdict: Verdict) -> str:
    """Return the kernels that makedumpfile knows, if it said that it does not know the guest's."""
    said = verdict.makedumpfile_said or {}
    newer = any("kernel version is not supported" in warning for warning in said.get("warnings", ()))
    return f" (knows kernels up to {said['latest_kernel']})" if newer and said["latest_kernel"] else ""


def report_drill(arguments: argparse.Namespace, verdict: Verdict) -> None:
    """Record, write and show the verdict of a single drill."""
    from ...base.output import write_json
    from ...history.database import DRILL
    from ..runs import record_result

    verdict.remarks += record_result(arguments, DRILL, verdict.to_json())
    write_json(arguments.json, verdict.to_json())
    if arguments.json != "-":
        show_verdict(verdict)


def show_verdict(verdict: Verdict) -> None:
    """Print the verdict as a table."""
    from rich.markup import escape
    from rich.table import Table

    from ...base.output import out
    from ...drill.plan import SAVED

    out.print()
    title = (
        "[bold green]VERIFIED[/]" if verdict.verified else f"[bold red]NOT VERIFIED[/], reached {verdict.reached.name}"
    )
    out.print(f"{escape(verdict.image)}  {title}")
    facts = [
        f"kernel {verdict.kernel}",
        f"makedumpfile {verdict.makedumpfile or 'not installed'}{_knows(verdict)}",
        f"{verdict.memory_mib} MiB, {verdict.vcpus} CPUs, {verdict.firmware}, {verdict.accelerator}",
        f"crashkernel={verdict.crashkernel} ({in_words(verdict.reserved or {})} reserved)",
        f"-d {verdict.level}, {verdict.compress}",
        f"{verdict.trigger} → {verdict.target}",
        *(["until the dump was written: the reboot was not judged"] if verdict.until == SAVED else []),
    ]
    out.print(escape("  " + "; ".join(facts)), soft_wrap=True)
    if verdict.dump:
        dump = verdict.dump
        kept = (
            f"{dump['pages_kept']:,} of {dump['pages_total']:,} pages"
            if dump["pages_kept"] is not None
            else "unreadable"
        )
        out.print(escape(f"  dump {dump['path']}: {dump['size_bytes']:,} bytes, {kept}"), soft_wrap=True)
    for one in verdict.fallback:
        shows = one.get("panic") or one.get("why") or "no panic in it"
        where = f"record of {one['source']} kept as {one['path']}" if one["path"] else f"no record of {one['source']}"
        out.print(escape(f"  {where}: {shows}"), soft_wrap=True)
    if verdict.phases_s:
        out.print(
            "  " + "  ".join(f"{name} {seconds:.1f} s" for name, seconds in verdict.phases_s.items()), soft_wrap=True
        )
    if verdict.processor_s:
        spans = "  ".join(f"{name} {seconds:.2f} s" for name, seconds in verdict.processor_s.items())
        out.print(f"  processor time of the guest: {spans}", soft_wrap=True)
    if verdict.checks:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for column in ("", "check", "expected", "seen"):
            table.add_column(column, overflow="fold")
        for check in verdict.checks:
            mark = "[green]ok[/]" if check.ok else "[red]NO[/]"
            table.add_row(mark, escape(check.name), escape(check.expected), escape(check.seen))
        out.print(table)
    for one in verdict.foreseen:
        out.print(f"[red]foreseen[/] {escape(one['piece'])}: {escape(one['lacks'])}", soft_wrap=True)
        out.print(f"  → {escape(one['remedy'])}", soft_wrap=True)
    if verdict.capture_memory:
        mib = {name: kib / 1024 for name, kib in verdict.capture_memory.items()}
        out.print(f"  capture kernel: {mib['used_kib']:.0f} of {mib['all_kib']:.0f} MiB used at most", soft_wrap=True)
    for remark in verdict.remarks:
        out.print(f"[yellow]remark[/] {escape(remark)}", soft_wrap=True)
    if verdict.stopped_by:
        out.print(f"[red]stopped by[/] {escape(verdict.stopped_by)}", soft_wrap=True)
    if verdict.not_judged:
        out.print(f"[yellow]the dump was not judged:[/] {escape(verdict.not_judged)}", soft_wrap=True)
    for symptom in verdict.symptoms:
        colour = {"failure": "red", "warning": "yellow"}.get(symptom["severity"], "cyan")
        out.print(
            f"[{colour}]{symptom['severity']}[/] {escape(symptom['name'])}: {escape(symptom['line'].strip())}",
            soft_wrap=True,
        )
        if symptom["severity"] != "info" and symptom["remedy"]:
            out.print(f"  → {escape(symptom['remedy'])}", soft_wrap=True)
    if verdict.known_issue:
        out.print(f"[yellow]known issue:[/] {escape(verdict.known_issue)}", soft_wrap=True)
    if verdict.known_issue_note:
        out.print(f"[yellow]{escape(verdict.known_issue_note)}[/]", soft_wrap=True)
    out.print(f"evidence: {escape(verdict.evidence)}", soft_wrap=True)
    out.print(f"verified: {'true' if verdict.verified else 'false'}")
