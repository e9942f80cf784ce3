"""What each verb of the command line does; imported only when one runs, so that --help is quick."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import re
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from ...base import plot
from ...base.errors import EXIT_FAILED, EXIT_HOST, EXIT_OK, HostError, UsageError
from ...base.evidence import check_writable
from ...base.output import check_output, out, print_table, write_json, write_text
from ...base.progress import Progress, err
from ...base.verdict import Verdict
from ...campaigns.resume import with_record
from ...campaigns.sweep.cells import COMPUTED, REFUSED, SweepCell
from ...campaigns.sweep.plan import SweepPlan, parse_compressions, parse_levels, parse_real
from ...campaigns.sweep.result import Sweep
from ...campaigns.sweep.run import run_sweep
from ...diagnosis import diagnose_file
from ...distro.family import find_family, load_families
from ...distro.packages import local_packages, parse_kernel, parse_package
from ...drill.clone import CloneRequest, check_config, describe_domain, label_of, make_clone
from ...drill.disks import SystemUnderTest, probe_format
from ...drill.plan import SAVED, Plan
from ...drill.session import run_drill
from ...history.database import DRILL, SWEEP, history_path
from ...history.recording import record
from ...images.catalog import Catalog, Image, load_catalog
from ...images.download import cached, fetch
from ...images.prune import prune
from ...images.refresh import BY_HAND, ROTTED, STATES, UNREACHABLE, RowState, refresh
from ...images.state import State, is_held
from ...kdump.service import KdumpConfig
from ...kdump.trigger import find_trigger
from ...triage import Triage, check_given, triage
from ...vm.host_check import examine
from ...vm.hosts.remote_host import TOOLS, RemoteHost
from ...vm.hypervisor.connection import Hypervisor, default_uri, is_local
from ...vm.run import Machine, Options, Run
from ...vm.shell import Access
from ...vmcore import VmcoreError, open_vmcore
from ...vmcore import inspect as inspect_vmcore

MIB = 1 << 20


def options_of(arguments: argparse.Namespace) -> Options:
    return Options(
        uri=arguments.uri,
        state=arguments.state,
        remote_state=arguments.remote_state,
        evidence=arguments.evidence,
        accelerator=arguments.accelerator,
        timeout_factor=arguments.timeout_factor,
        jobs=_jobs(arguments),
        keep=getattr(arguments, "keep", "failed"),
        verbose=arguments.verbose,
        quiet=arguments.quiet,
    )


def _jobs(arguments: argparse.Namespace) -> int | None:
    """What --jobs says, where the verb has it; one console at a time can be followed."""
    asked: int | None = getattr(arguments, "jobs", 1)
    return 1 if asked is None and arguments.verbose else asked


def doctor(arguments: argparse.Namespace) -> int:
    findings = examine(uri=arguments.uri, state_directory=arguments.state, remote_state=arguments.remote_state)
    write_json(
        arguments.json, {"fit": all(f.ok or f.optional for f in findings), "findings": [vars(f) for f in findings]}
    )
    if arguments.json != "-":
        for finding in findings:
            mark = "[green]ok[/]" if finding.ok else "[yellow]--[/]" if finding.optional else "[red]NO[/]"
            remedy = f"  → {finding.remedy}" if finding.remedy else ""
            out.print(f"{mark}  {escape(finding.name)}: {escape(finding.seen)}{escape(remedy)}", soft_wrap=True)
    return EXIT_OK if all(finding.ok or finding.optional for finding in findings) else EXIT_HOST


def images(arguments: argparse.Namespace) -> int:
    if not arguments.prune and (arguments.dry_run or arguments.keep is not None):
        raise UsageError(f"{'--dry-run' if arguments.dry_run else '--keep'} is for --prune")
    check_output(arguments.json)
    catalog, state = load_catalog(), State(arguments.state)
    if arguments.prune:
        return _prune_images(arguments, catalog, state)
    chosen = catalog.match(arguments.pattern or ["*"])
    if arguments.refresh:
        return _refresh_images(arguments, chosen, state)
    if arguments.fetch:
        if not arguments.pattern:
            raise UsageError("say which images to fetch: all of them would fill a disk ('*' means it)")
        return _fetch_images(arguments, chosen, state)
    built = {str(meta.get("recipe", {}).get("name")) for meta in state.metas("built")}
    rows = [_listed(image, state, built) for image in chosen]
    write_json(arguments.json, rows)
    if arguments.json != "-":
        shown = [{**row, "cpu": f"v{row['cpu']}"} for row in rows]
        print_table(("name", "family", "release", "cpu", "cached", "how", "source"), shown)
    return EXIT_OK


def subject_of(arguments: argparse.Namespace) -> SystemUnderTest:
    """What is to be drilled, with the kernel, the packages and the way in that the user chose."""
    subject = find_subject(arguments.image, family=arguments.family, login=arguments.login)
    family = subject.family
    makedumpfile = getattr(arguments, "makedumpfile", None)
    if subject.image is not None and (arguments.key is not None or arguments.password_file is not None):
        raise UsageError("--key and --password-file are for files; images of the catalogue get a key of the run")
    return dataclasses.replace(
        subject,
        access=access_of(arguments),
        kernel=parse_kernel(arguments.kernel, family, usual=subject.usual_kernel)
        if arguments.kernel is not None
        else None,
        files=local_packages(arguments.packages, family) if arguments.packages is not None else (),
        more=(parse_package(makedumpfile, family),) if makedumpfile is not None else (),
    )


def access_of(arguments: argparse.Namespace) -> Access | None:
    """The user's own way in, where one was named."""
    if arguments.key is None and arguments.password_file is None:
        return None
    return Access(key_file=arguments.key, password=_password(arguments.password_file))


def _password(path: Path | None) -> str | None:
    """The first line of the file, which is better kept than a password on a command line."""
    if path is None:
        return None
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if not (password := text.partition("\n")[0].rstrip("\r")):
        raise UsageError(f"{path} has no password in its first line")
    return password


def _machine(arguments: argparse.Namespace, subject: SystemUnderTest) -> Machine:
    return Machine(
        memory_mib=Machine.memory_mib if arguments.memory is None else arguments.memory,
        vcpus=Machine.vcpus if arguments.vcpus is None else arguments.vcpus,
        firmware=arguments.firmware or subject.firmware,
        cpu_level=arguments.cpu,
    )


def _listed(image: Image, state: State, built: set[str]) -> dict[str, Any]:
    have = cached(image, state.images) is not None
    fields = ("checksums", "checksum_form", "login", "firmware", "root_filesystem", "notes")
    return {
        "name": image.name,
        "family": image.family,
        "release": image.release,
        "cpu": image.cpu,
        "source": f"{image.file} from {image.manual}, to be put into {state.images / image.name}/"
        if image.manual
        else image.source,
        "how": "download or build" if image.build else "by hand" if image.manual else "download",
        "cached": ("brought" if image.manual else "downloaded") if have else "built" if image.name in built else "",
        **{field: getattr(image, field) for field in fields},
    }


def _refresh_images(arguments: argparse.Namespace, chosen: Sequence[Image], state: State) -> int:
    progress = Progress()
    seen: list[RowState] = []

    def on_row(row: RowState) -> None:
        seen.append(row)
        progress.detail(f"{len(seen)} of {len(chosen)}")

    with progress.step(f"asking after {len(chosen)} images", usual_s=20):
        rows = refresh(chosen, state.images, on_row=on_row)
    write_json(arguments.json, [row.to_json() for row in rows])
    asked = [row for row in rows if row.state != BY_HAND]
    if asked and not any(row.answered for row in asked):
        raise HostError(f"none of {len(asked)} images could be asked after, as without a network: {asked[0].detail}")
    if arguments.json != "-":
        print_table(("name", "state", "cached", "detail"), [row.to_json() for row in rows])
        counts = Counter(row.state for row in rows)
        out.print(", ".join(f"{counts[state]} {state}" for state in STATES if counts[state]))
    return EXIT_FAILED if any(row.state in (ROTTED, UNREACHABLE) for row in rows) else EXIT_OK


def _fetch_images(arguments: argparse.Namespace, chosen: Sequence[Image], state: State) -> int:
    progress = Progress()
    rows: list[dict[str, Any]] = []
    for image in chosen:
        try:
            with progress.step(f"fetching {image.name}"):
                path = fetch(image, state.images, progress=progress.bytes, report=progress.say)
        except HostError as error:
            progress.say(f"{image.name}: {error}")
            rows.append({"name": image.name, "path": None, "problem": str(error)})
        else:
            rows.append({"name": image.name, "path": str(path), "problem": ""})
    write_json(arguments.json, rows)
    if arguments.json != "-":
        for row in rows:
            out.print(escape(f"{row['name']}: {row['path'] or row['problem']}"), soft_wrap=True)
    return EXIT_HOST if any(row["problem"] for row in rows) else EXIT_OK


def _prune_images(arguments: argparse.Namespace, catalog: Catalog, state: State) -> int:
    keep = 1 if arguments.keep is None else arguments.keep
    found = prune(state, catalog, arguments.pattern or ["*"], keep=keep, dry_run=arguments.dry_run)
    freed_bytes = sum(one.size_bytes for one in found if not one.kept_because)
    write_json(
        arguments.json,
        {"dry_run": arguments.dry_run, "freed_bytes": freed_bytes, "found": [one.to_json() for one in found]},
    )
    if arguments.json != "-":
        doing, freeing = ("would remove", "would free") if arguments.dry_run else ("removed", "freed")
        for one in found:
            did, because = ("kept", f", but {one.kept_because}") if one.kept_because else (doing, "")
            text = f"{did} {one.what} ({one.size_bytes / MIB:.0f} MiB): {one.why}{because}"
            out.print(escape(text), soft_wrap=True)
        out.print(f"{freeing} {freed_bytes / MIB:.0f} MiB" if found else "nothing to remove")
    return EXIT_OK


def find_subject(image: str, *, family: str | None, login: str = "root") -> SystemUnderTest:
    """What IMAGE means: a file where it looks like a path, else a row of the catalogue."""
    if "/" in image or image.endswith((".qcow2", ".img", ".raw")):
        path = Path(image)
        if family is None:
            raise UsageError(f"{image} is a file: say its --family ({', '.join(load_families())})")
        driven = find_family(family)
        probe_format(path)
        # It becomes a part of host, domain and directory names.
        name = re.sub(r"[^A-Za-z0-9.-]+", "-", path.stem).strip("-.")[:40] or "image"
        return SystemUnderTest(name=name, family=driven, path=path, login=login)
    row = load_catalog().find(image)
    if family is not None and family != row.family:
        raise UsageError(f"{image} is of the family {row.family}, not {family}")
    return SystemUnderTest(name=row.name, family=find_family(row.family), image=row)


def drill(arguments: argparse.Namespace) -> int:
    cloned = arguments.domain is not None
    if arguments.keep_mac and not cloned:
        raise UsageError("--keep-mac is for --domain: the guests of images have no MAC to keep")
    subject = _subject_of_domain(arguments) if cloned else subject_of(arguments)
    changes = (arguments.target, arguments.level, arguments.compress)
    plan = Plan(
        subject=subject,
        machine=Machine() if cloned else _machine(arguments, subject),
        config=KdumpConfig(crashkernel=arguments.crashkernel, level=arguments.level, compress=arguments.compress),
        trigger=arguments.trigger,
        target=arguments.target or "local",
        as_is=arguments.as_is or (cloned and all(change is None for change in changes)),
        budget_s=arguments.budget,
        until=arguments.until,
        oracle=arguments.oracle,
        name=f"domain-{subject.name}" if cloned else "",
    )
    if not cloned:
        plan.check()
    check_writable(arguments.evidence)
    check_output(arguments.json)
    with Run(options_of(arguments)) as run:
        verdict = run_drill(run, _with_clone(run, plan, arguments) if cloned else plan)
    verdict.remarks += record_result(arguments, DRILL, verdict.to_json())
    write_json(arguments.json, verdict.to_json())
    if arguments.json != "-":
        show_verdict(verdict)
    return EXIT_OK if verdict.verified else EXIT_FAILED


def _subject_of_domain(arguments: argparse.Namespace) -> SystemUnderTest:
    """A clone's, whose family is not known before it runs unless it is told; UsageError for what no clone can do."""
    for option, given, why in (
        ("--kernel", arguments.kernel, "its network leads to no packages, and its own kernel is what is judged"),
        ("--makedumpfile", arguments.makedumpfile, "a clone is judged with its own"),
        ("--packages", arguments.packages, "a clone is judged with what is installed in it"),
        ("--firmware", arguments.firmware, "a clone has the domain's"),
        ("--crashkernel", arguments.crashkernel, "a clone has the domain's reservation"),
        ("--target", arguments.target not in (None, "local") or None, "a clone dumps where it does, or to local"),
    ):
        if given is not None:
            raise UsageError(f"{option} cannot go with --domain: {why}")
    if arguments.as_is and arguments.target is not None:
        raise UsageError("--as-is leaves the guest's target as it is, so it cannot go with --target")
    original = describe_domain(arguments.uri, arguments.domain)
    find_trigger(arguments.trigger, vcpus=arguments.vcpus or original.vcpus)
    if arguments.until == SAVED and len(original.disks) > 1:
        raise UsageError(f"--until {SAVED} reads one disk, and {original.name} has {len(original.disks)}")
    access = access_of(arguments)
    if access is not None:
        access.check()
    family = find_family(arguments.family) if arguments.family else None
    check_config(KdumpConfig(crashkernel=None, level=arguments.level, compress=arguments.compress), family)
    stand_in = family or next(iter(load_families().values()))
    return SystemUnderTest(name=label_of(original.name), family=stand_in, login=arguments.login, access=access)


def _with_clone(run: Run, plan: Plan, arguments: argparse.Namespace) -> Plan:
    """The plan with a clone of the domain that is named."""
    wish = CloneRequest(
        memory_mib=arguments.memory,
        vcpus=arguments.vcpus,
        cpu_level=arguments.cpu,
        keep_macs=arguments.keep_mac,
        seeded=plan.subject.access is None,
        family=plan.subject.family if arguments.family else None,
    )
    clone = make_clone(run, arguments.domain, wish)
    return dataclasses.replace(plan, clone=clone, machine=clone.machine)


def record_result(arguments: argparse.Namespace, kind: str, result: dict[str, Any]) -> list[str]:
    """Put it into the history; what is worse than before."""
    path = history_path(arguments.history, arguments.state)
    return record(path, kind, result, log=lambda text: err.print(f"kdump-harness: {text}", markup=False))


def show_verdict(verdict: Verdict) -> None:
    """The table for people."""
    out.print()
    title = (
        "[bold green]VERIFIED[/]" if verdict.verified else f"[bold red]NOT VERIFIED[/], reached {verdict.reached.name}"
    )
    out.print(f"{escape(verdict.image)}  {title}")
    facts = [
        f"kernel {verdict.kernel}",
        f"makedumpfile {verdict.makedumpfile or 'not installed'}",
        f"{verdict.memory_mib} MiB, {verdict.vcpus} CPUs, {verdict.firmware}, {verdict.accelerator}",
        f"crashkernel={verdict.crashkernel} ({verdict.reserved_mib} MiB reserved)",
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
    if verdict.phases_s:
        out.print(
            "  " + "  ".join(f"{name} {seconds:.1f} s" for name, seconds in verdict.phases_s.items()), soft_wrap=True
        )
    if verdict.checks:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for column in ("", "check", "expected", "seen"):
            table.add_column(column, overflow="fold")
        for check in verdict.checks:
            mark = "[green]ok[/]" if check.ok else "[red]NO[/]"
            table.add_row(mark, escape(check.name), escape(check.expected), escape(check.seen))
        out.print(table)
    for remark in verdict.remarks:
        out.print(f"[yellow]remark[/] {escape(remark)}", soft_wrap=True)
    if verdict.stopped_by:
        out.print(f"[red]stopped by[/] {escape(verdict.stopped_by)}", soft_wrap=True)
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


def sweep(arguments: argparse.Namespace) -> int:
    subject = subject_of(arguments)
    plan = SweepPlan(
        subject=subject,
        levels=parse_levels(arguments.levels),
        compressions=parse_compressions(arguments.compress),
        real=parse_real(arguments.real),
        machine=_machine(arguments, subject),
        crashkernel=arguments.crashkernel,
        budget_s=arguments.budget,
    )
    plan.check()
    check_writable(arguments.evidence)
    if arguments.plot is not None:
        plot.check_format(Path(arguments.plot))
    for to in (arguments.json, arguments.plot):
        check_output(to)

    def crashed(verdict: Verdict) -> None:
        verdict.remarks += record_result(arguments, DRILL, verdict.to_json())

    options = with_record(options_of(arguments), arguments.resume, "sweep.json")
    with Run(options) as run:
        found = run_sweep(run, plan, on_verdict=crashed)
    if arguments.plot is not None:
        found.draw(Path(arguments.plot))
    record_result(arguments, SWEEP, found.to_json())
    write_json(arguments.json, found.to_json())
    if arguments.json != "-":
        show_sweep(found)
    return EXIT_OK if found.ok else EXIT_FAILED


def show_sweep(found: Sweep) -> None:
    """The table for people, and above it what does not hold."""
    out.print()
    title = "[bold green]HOLDS[/]" if found.ok else "[bold red]DOES NOT HOLD[/]"
    out.print(f"{escape(found.image)}  {title}")
    facts = (
        f"kernel {found.kernel}",
        f"makedumpfile {found.makedumpfile or 'not installed'}",
        f"{found.memory_mib} MiB, {found.vcpus} CPUs, {found.accelerator}",
        f"real crashes: {found.crashes}, {at_once(found.jobs)}all in {found.took_s:.0f} s",
    )
    out.print(escape("  " + "; ".join(facts)), soft_wrap=True)
    for failure in found.failures():
        out.print(f"[red]NO[/] {escape(failure)}", soft_wrap=True)
    if found.relations:
        held = sum(relation.ok for relation in found.relations)
        out.print(f"  {held} of {len(found.relations)} relations between the cells hold")
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column("-d", justify="right")
    for name in found.compressions:
        table.add_column(name, justify="right", no_wrap=True)
    for level in sorted({cell.level for cell in found.cells}):
        table.add_row(str(level), *(_cell_text(found.cell(level, name)) for name in found.compressions))
    out.print(table)
    if any(cell.how == COMPUTED for cell in found.cells):
        out.print(
            "~ computed by the guest's makedumpfile from the crash at -d 0; the others are real crashes, with the"
            " seconds that the dump took",
            soft_wrap=True,
        )
    for note in found.notes:
        out.print(f"[yellow]{escape(note)}[/]", soft_wrap=True)
    out.print(f"evidence: {escape(found.evidence)}", soft_wrap=True)
    out.print(f"holds: {'true' if found.ok else 'false'}")


def at_once(jobs: int) -> str:
    """What is told of drills that shared the host."""
    return f"{jobs} at once, " if jobs > 1 else ""


def _cell_text(cell: SweepCell | None) -> str:
    if cell is None:
        return ""
    if cell.how == REFUSED:
        return "[yellow]refused[/]"
    mark = "~" if cell.how == COMPUTED else ""
    size = f"{mark}{cell.size_bytes / MIB:,.1f} MiB" if cell.size_bytes is not None else f"{mark}no dump"
    took = f" in {cell.dump_s:.0f} s" if cell.dump_s is not None else ""
    pages = f"\n{cell.pages_kept:,} pages" if cell.pages_kept is not None else ""
    return f"{'' if cell.ok else '[red]NO[/] '}{size}{took}[dim]{pages}[/]"


def inspect(arguments: argparse.Namespace) -> int:
    for to in (arguments.json, arguments.dmesg):
        check_output(to, not_over=arguments.vmcore)
    wanted = arguments.triage or arguments.debuginfo is not None or arguments.debuginfo_package
    crash = _triage(arguments) if wanted else None
    found = inspect_vmcore(arguments.vmcore[0], *arguments.vmcore[1:], quick=arguments.quick)
    if arguments.dmesg:
        try:
            with open_vmcore(arguments.vmcore[0], *arguments.vmcore[1:]) as vmcore:
                text = vmcore.dmesg()
        except VmcoreError as error:
            err.print(f"kdump-harness: no kernel log: {error}", markup=False)
        else:
            write_text(arguments.dmesg, text if text.endswith("\n") else text + "\n")
    about_crash = {"triage": crash.to_json() if crash is not None else None} if wanted else {}
    write_json(arguments.json, {**found.to_json(), **about_crash})
    if "-" not in (arguments.json, arguments.dmesg):
        for name, value in found.to_json().items():
            if name == "classes":
                for each, pages in value.items():
                    label = each.replace("_", " ") + " pages:"
                    out.print(f"{label:<20} {pages['kept']:,} of {pages['total']:,} kept", soft_wrap=True)
            elif name not in ("damage", "whole", "quick") and value not in (None, [], {}):
                out.print(f"{name + ':':<20} {escape(str(value))}", soft_wrap=True)
        for one in found.damage:
            where = f" at offset {one.offset:,}" if one.offset is not None else ""
            frame = f", page frame {one.pfn:#x}" if one.pfn is not None else ""
            out.print(f"[red]{escape(one.kind)}[/]: {escape(one.message)}{where}{frame}", soft_wrap=True)
        if crash is not None:
            _show_triage(crash)
        how = " (pages not read)" if found.quick else ""
        out.print(f"whole: {'true' if found.whole else 'false'}{how}")
    return EXIT_OK if found.whole else EXIT_FAILED


def _triage(arguments: argparse.Namespace) -> Triage | None:
    """The crash in the dump; None, said in one line, when the dump cannot be opened."""
    if arguments.debuginfo is not None:
        check_given(arguments.debuginfo)
    try:
        return triage(
            *arguments.vmcore,
            debuginfo=arguments.debuginfo,
            package=arguments.debuginfo_package,
            state=arguments.state,
            progress=Progress(),
        )
    except VmcoreError as error:
        err.print(f"kdump-harness: no triage: {error}", markup=False)
        return None


def _show_triage(crash: Triage) -> None:
    """The crash for people."""
    out.print(f"triage: {escape(crash.source)}", soft_wrap=True)
    task = crash.task
    rows = [
        ("panic", crash.panic),
        ("reason", crash.reason),
        ("crashed task", f"{task.comm}, PID {task.pid}, on CPU {task.cpu}" if task else None),
        ("at", crash.rip),
        ("tainted", "no" if crash.taint_flags == "" else crash.taint_flags),
        *(("", f"{taint.letter} ({taint.name}): {taint.meaning}") for taint in crash.taints),
        ("modules", f"{len(crash.modules)} loaded" if crash.modules else None),
        *(("", f"{module.name} ({module.taints})") for module in crash.tainting_modules),
        *(("" if number else "stack", f"#{number} {frame}") for number, frame in enumerate(crash.stack)),
        *(("remark", remark) for remark in crash.remarks),
    ]
    for name, text in rows:
        if text is not None:
            out.print(f"  {name:<13} {escape(text)}", soft_wrap=True)


def diagnose(arguments: argparse.Namespace) -> int:
    check_output(arguments.json, not_over=[arguments.log])
    found = diagnose_file(Path(arguments.log), family=arguments.family)
    write_json(arguments.json, found.to_json())
    failures = [symptom for symptom in found.symptoms if symptom.severity == "failure"]
    if arguments.json != "-":
        out.print(f"{found.mode} (stage {found.stage.name})")
        for symptom in found.symptoms:
            out.print(
                escape(f"{symptom.severity} {symptom.name}: line {symptom.line_number}: {symptom.line.strip()}"),
                soft_wrap=True,
            )
            out.print(escape(f"  {symptom.meaning}"), soft_wrap=True)
            if symptom.remedy:
                out.print(escape(f"  → {symptom.remedy}"), soft_wrap=True)
        if arguments.explain:
            for line in found.explain():
                out.print(escape(line), soft_wrap=True)
    return EXIT_FAILED if failures else EXIT_OK


def clean(arguments: argparse.Namespace) -> int:
    state = State(arguments.state)
    with contextlib.ExitStack() as stack:
        return _clean(arguments, state, stack)


def _clean(arguments: argparse.Namespace, state: State, stack: contextlib.ExitStack) -> int:
    doing = "would remove" if arguments.dry_run else "removed"
    count = 0
    stuck: list[str] = []
    there = _look_elsewhere(arguments, stack)
    address, held = (there.address, there.is_held) if there is not None else (None, is_held)
    try:
        hypervisor = Hypervisor(arguments.uri, address=address, is_held=held)
    except HostError as error:
        err.print(f"kdump-harness: domains were not looked at: {error}", markup=False)
    else:
        runs = there or state
        living, dead = runs.active_runs(), runs.stale_runs()
        for name in hypervisor.own_domains():
            identity = name.split("-")[1]
            if identity in living or (identity not in dead and arguments.own):
                continue
            if not any(held(path.parent) for path in hypervisor.disks_of(name)):
                if not arguments.dry_run:
                    hypervisor.destroy_named(name)
                out.print(f"{doing} domain {name}")
                count += 1
        for name, copy in dict(hypervisor.copies()).items():
            if copy.parent in dead.values():
                if not arguments.dry_run:
                    hypervisor.find(name).end_copy(copy)
                out.print(f"{'would end' if arguments.dry_run else 'ended'} the copying of the disks of {name}")
                count += 1
        for name in hypervisor.stale_networks(living):
            if arguments.own and name.split("-")[1] not in dead:
                continue
            if not arguments.dry_run:
                hypervisor.remove_network(name)
            out.print(f"{doing} network {name}")
            count += 1
        hypervisor.close()
    left = [*state.leftovers(), *(there.leftovers() if there is not None else ())]
    if arguments.caches:
        left += (there or state).cached()
    for leftover in left:
        count += 1
        if not arguments.dry_run and not leftover.remove():
            stuck.append(leftover.what)
        else:
            out.print(f"{doing} {leftover.what}")
    if not count:
        out.print("nothing to remove")
    if stuck:
        raise HostError(f"cannot remove {', '.join(stuck)} in {state.directory}: run clean as who made them")
    return EXIT_OK


def _look_elsewhere(arguments: argparse.Namespace, stack: contextlib.ExitStack) -> RemoteHost | None:
    """The host of a hypervisor elsewhere; None where it is this one."""
    uri = arguments.uri or default_uri()
    if is_local(uri):
        return None
    directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="kdump-harness-"))
    there = RemoteHost(uri, Path(directory), state=arguments.remote_state, tools=TOOLS, progress=Progress())
    stack.callback(there.close)
    return there
