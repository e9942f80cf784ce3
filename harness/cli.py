"""The command line: the same drills for people at a terminal."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console as RichConsole
from rich.markup import escape
from rich.table import Table

from . import __version__
from .catalog import load_catalog
from .diagnosis import diagnose_file
from .disk import Subject
from .doctor import examine
from .domain import Hypervisor
from .download import cached
from .drill import Plan, run_drill
from .errors import EXIT_FAILED, EXIT_HOST, EXIT_OK, HarnessError, HostError, UsageError
from .family import COMPRESS_FLAGS, find_family, load_families
from .progress import err
from .runtime import Machine, Options, Run
from .stack import KdumpConfig
from .state import State
from .target import TARGETS
from .trigger import load_triggers
from .verdict import Verdict
from .vmcore import VmcoreError, inspect, open_vmcore

EXIT_INTERRUPTED = 130

out = RichConsole(highlight=False)


class Formatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Examples keep their lines; options tell their defaults."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit status of the contract."""
    signal.signal(signal.SIGTERM, _terminate)
    parser = make_parser()
    arguments = parser.parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except HarnessError as error:
        err.print(f"kdump-harness: {error}", markup=False)
        return error.exit_code
    except KeyboardInterrupt:
        err.print("kdump-harness: interrupted; guests and their disks are removed", markup=False)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader went away (as in "| head"); nothing more can be said to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK


def _terminate(_signal: int, _frame: object) -> None:
    """SIGTERM ends a run the way Ctrl-C does: everything of ours is removed."""
    raise KeyboardInterrupt


def make_parser() -> argparse.ArgumentParser:
    """All verbs and options."""
    parser = argparse.ArgumentParser(
        prog="kdump-harness",
        description="Prove that kdump works: crash a throw-away guest, then judge the vmcore it leaves behind.",
        epilog="exit status: 0 verified, whole, fit; 1 the judged thing failed; 2 usage or a bad table;\n"
        "3 the host is unfit; 4 the harness or the guest broke before there was a verdict",
        formatter_class=Formatter,
    )
    parser.add_argument("--version", action="version", version=f"kdump-harness {__version__}")
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB")
    _add_doctor(verbs)
    _add_images(verbs)
    _add_drill(verbs)
    _add_inspect(verbs)
    _add_diagnose(verbs)
    _add_clean(verbs)
    return parser


Verbs = Any  # argparse keeps the type of its sub-parsers private


def _verb(verbs: Verbs, name: str, run: Callable[[argparse.Namespace], int], help_text: str, epilog: str = "") -> Any:
    parser = verbs.add_parser(name, help=help_text, description=help_text, epilog=epilog, formatter_class=Formatter)
    parser.set_defaults(run=run)
    return parser


def _add_run_options(parser: Any) -> None:
    parser.add_argument("--uri", help="the hypervisor (default: LIBVIRT_DEFAULT_URI, else qemu:///system)")
    parser.add_argument("--state", type=Path, metavar="DIR", help="where disks are kept (default: shared or /var/tmp)")
    parser.add_argument("--evidence", type=Path, default=Path("evidence"), metavar="DIR", help="where evidence goes")
    parser.add_argument(
        "--accelerator", default="auto", choices=("auto", "kvm", "tcg"), help="auto tries whether KVM works"
    )
    parser.add_argument("--timeout-factor", type=_positive, default=1.0, metavar="F", help="stretch all waits by F")
    parser.add_argument("-v", "--verbose", action="store_true", help="show the guest's console as it comes")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress")


def _add_json(parser: Any) -> None:
    parser.add_argument("--json", metavar="FILE", help="write the full result as JSON (- for standard output)")


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def _options(arguments: argparse.Namespace) -> Options:
    return Options(
        uri=arguments.uri,
        state=arguments.state,
        evidence=arguments.evidence,
        accelerator=arguments.accelerator,
        timeout_factor=arguments.timeout_factor,
        keep=getattr(arguments, "keep", "failed"),
        verbose=arguments.verbose,
        quiet=arguments.quiet,
    )


# --- doctor


def _add_doctor(verbs: Verbs) -> None:
    parser = _verb(verbs, "doctor", _doctor, "Is this host fit? What it lacks, and the one command that mends it.")
    parser.add_argument("--uri", help="the hypervisor (default: LIBVIRT_DEFAULT_URI, else qemu:///system)")
    parser.add_argument("--state", type=Path, metavar="DIR", help="where disks are kept")
    _add_json(parser)


def _doctor(arguments: argparse.Namespace) -> int:
    findings = examine(uri=arguments.uri, state_directory=arguments.state)
    _write_json(
        arguments.json, {"fit": all(f.ok or f.optional for f in findings), "findings": [vars(f) for f in findings]}
    )
    if arguments.json != "-":
        for finding in findings:
            mark = "[green]ok[/]" if finding.ok else "[yellow]--[/]" if finding.optional else "[red]NO[/]"
            remedy = f"  → {finding.remedy}" if finding.remedy else ""
            out.print(f"{mark}  {escape(finding.name)}: {escape(finding.seen)}{escape(remedy)}", soft_wrap=True)
    return EXIT_OK if all(finding.ok or finding.optional for finding in findings) else EXIT_HOST


# --- images


def _add_images(verbs: Verbs) -> None:
    parser = _verb(verbs, "images", _images, "The catalogue: name, family, release, source, cached or not.")
    parser.add_argument("pattern", nargs="*", default=["*"], help="names or globs")
    parser.add_argument("--state", type=Path, metavar="DIR", help="where disks are kept")
    _add_json(parser)


def _images(arguments: argparse.Namespace) -> int:
    state = State(arguments.state)
    built = {str(meta.get("recipe", {}).get("name")) for meta in state.metas("built")}
    rows = []
    for image in load_catalog().match(arguments.pattern):
        here = "downloaded" if cached(image, state.images) else "built" if image.name in built else ""
        how = "download or build" if image.build else "by hand" if image.manual else "download"
        rows.append(
            {
                "name": image.name,
                "family": image.family,
                "release": image.release,
                "source": image.source,
                "how": how,
                "cached": here,
            }
        )
    _write_json(arguments.json, rows)
    if arguments.json != "-":
        table = Table(box=None, pad_edge=False)
        for column in ("name", "family", "release", "cached", "how", "source"):
            table.add_column(column, overflow="fold" if column == "source" else "ellipsis", no_wrap=column != "source")
        for row in rows:
            table.add_row(*(escape(row[key]) for key in ("name", "family", "release", "cached", "how", "source")))
        out.print(table)
    return EXIT_OK


# --- drill


def _add_drill(verbs: Verbs) -> None:
    parser = _verb(
        verbs,
        "drill",
        _drill,
        "One full drill: boot, arm, panic, capture, fetch, verify, recover.",
        "examples:\n  kdump-harness drill debian-12\n"
        "  kdump-harness drill debian-13 --crashkernel 512M --level 1 --compress lzo\n"
        "  kdump-harness drill ./my.qcow2 --family debian --as-is",
    )
    _add_subject(parser)
    parser.add_argument("--trigger", default="sysrq-c", metavar="T", help=f"how to crash: {', '.join(load_triggers())}")
    parser.add_argument("--target", default="local", metavar="T", help=f"where the dump goes: {', '.join(TARGETS)}")
    parser.add_argument("--level", type=int, metavar="N", help="dump level, 0 to 31 (default: the family's, 31)")
    parser.add_argument("--compress", metavar="C", help=f"one of {', '.join(COMPRESS_FLAGS)} (default: the family's)")
    parser.add_argument(
        "--crashkernel", metavar="S", help="the reservation; none or default are allowed (default: the family's)"
    )
    parser.add_argument("--memory", type=int, default=1024, metavar="MIB", help="guest memory")
    parser.add_argument("--vcpus", type=int, default=2, metavar="N", help="guest processors")
    parser.add_argument("--budget", type=_positive, metavar="S", help="most seconds from the panic to the login prompt")
    parser.add_argument(
        "--as-is", action="store_true", help="install and configure nothing; judge the guest by its own settings"
    )
    parser.add_argument(
        "--keep", choices=("never", "failed", "always"), default="failed", help="when the vmcore stays in the evidence"
    )
    _add_run_options(parser)
    _add_json(parser)


def _add_subject(parser: Any) -> None:
    parser.add_argument("image", metavar="IMAGE", help="a name of the catalogue, or a path to a qcow2 or raw file")
    parser.add_argument("--family", metavar="F", help=f"of a file: {', '.join(load_families())}")
    parser.add_argument("--login", default="root", metavar="USER", help="of a file: who is reached by SSH")


def find_subject(image: str, *, family: str | None, login: str = "root") -> Subject:
    """What IMAGE means: a file where it looks like a path, else a row of the catalogue."""
    if "/" in image or image.endswith((".qcow2", ".img", ".raw")):
        path = Path(image)
        if family is None:
            raise UsageError(f"{image} is a file: say its --family ({', '.join(load_families())})")
        return Subject(name=path.stem, family=find_family(family), path=path, login=login)
    row = load_catalog().find(image)
    if family is not None and family != row.family:
        raise UsageError(f"{image} is of the family {row.family}, not {family}")
    if row.family not in load_families():
        raise UsageError(
            f"{image}: kdump of the family {row.family} is not driven yet (known: {', '.join(load_families())})"
        )
    return Subject(name=row.name, family=find_family(row.family), image=row)


def _drill(arguments: argparse.Namespace) -> int:
    subject = find_subject(arguments.image, family=arguments.family, login=arguments.login)
    plan = Plan(
        subject=subject,
        machine=Machine(memory_mib=arguments.memory, vcpus=arguments.vcpus),
        config=KdumpConfig(crashkernel=arguments.crashkernel, level=arguments.level, compress=arguments.compress),
        trigger=arguments.trigger,
        target=arguments.target,
        as_is=arguments.as_is,
        budget_s=arguments.budget,
    )
    plan.check()
    with Run(_options(arguments)) as run:
        verdict = run_drill(run, plan)
    _write_json(arguments.json, verdict.to_json())
    if arguments.json != "-":
        show_verdict(verdict)
    return EXIT_OK if verdict.verified else EXIT_FAILED


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
        f"{verdict.memory_mib} MiB, {verdict.vcpus} CPUs, {verdict.accelerator}",
        f"crashkernel={verdict.crashkernel} ({verdict.reserved_mib} MiB reserved)",
        f"-d {verdict.level}, {verdict.compress}",
        f"{verdict.trigger} → {verdict.target}",
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
    out.print(f"evidence: {escape(verdict.evidence)}", soft_wrap=True)
    out.print(f"verified: {'true' if verdict.verified else 'false'}")


# --- inspect


def _add_inspect(verbs: Verbs) -> None:
    parser = _verb(
        verbs, "inspect", _inspect, "Everything about a dump file, and whether it is whole. No guest needed."
    )
    parser.add_argument("vmcore", metavar="VMCORE", nargs="+", help="the file, or all files of a split dump")
    parser.add_argument("--quick", action="store_true", help="do not read the pages")
    parser.add_argument("--dmesg", metavar="FILE", help="write the dump's kernel log (- for standard output)")
    _add_json(parser)


def _inspect(arguments: argparse.Namespace) -> int:
    found = inspect(arguments.vmcore[0], *arguments.vmcore[1:], quick=arguments.quick)
    if arguments.dmesg:
        try:
            with open_vmcore(arguments.vmcore[0], *arguments.vmcore[1:]) as vmcore:
                text = vmcore.dmesg()
        except VmcoreError as error:
            err.print(f"kdump-harness: no kernel log: {error}", markup=False)
        else:
            _write_text(arguments.dmesg, text if text.endswith("\n") else text + "\n")
    _write_json(arguments.json, found.to_json())
    if "-" not in (arguments.json, arguments.dmesg):
        for name, value in found.to_json().items():
            if name not in ("damage", "whole", "quick") and value not in (None, [], {}):
                out.print(f"{name + ':':<20} {escape(str(value))}", soft_wrap=True)
        for one in found.damage:
            where = f" at offset {one.offset:,}" if one.offset is not None else ""
            frame = f", page frame {one.pfn:#x}" if one.pfn is not None else ""
            out.print(f"[red]{escape(one.kind)}[/]: {escape(one.message)}{where}{frame}", soft_wrap=True)
        how = " (pages not read)" if found.quick else ""
        out.print(f"whole: {'true' if found.whole else 'false'}{how}")
    return EXIT_OK if found.whole else EXIT_FAILED


# --- diagnose


def _add_diagnose(verbs: Verbs) -> None:
    parser = _verb(verbs, "diagnose", _diagnose, "What failed, where, and the remedy, from a console log alone.")
    parser.add_argument("log", metavar="CONSOLE.log", help="a console log, a journal's text, or a vmcore-dmesg.txt")
    parser.add_argument("--family", metavar="F", help="of the guest, when known")
    parser.add_argument("--explain", action="store_true", help="show which lines decided and what was rejected")
    _add_json(parser)


def _diagnose(arguments: argparse.Namespace) -> int:
    found = diagnose_file(Path(arguments.log), family=arguments.family)
    _write_json(arguments.json, found.to_json())
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


# --- clean


def _add_clean(verbs: Verbs) -> None:
    parser = _verb(verbs, "clean", _clean, "Removes what dead runs left behind; caches and evidence stay.")
    parser.add_argument("--uri", help="the hypervisor (default: LIBVIRT_DEFAULT_URI, else qemu:///system)")
    parser.add_argument("--state", type=Path, metavar="DIR", help="where disks are kept")
    parser.add_argument("--caches", action="store_true", help="also remove cached downloads, built and armed disks")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be removed")


def _clean(arguments: argparse.Namespace) -> int:
    state = State(arguments.state)
    living = state.living_runs()
    doing = "would remove" if arguments.dry_run else "removed"
    count = 0
    try:
        hypervisor = Hypervisor(arguments.uri)
    except HostError as error:
        err.print(f"kdump-harness: domains were not looked at: {error}", markup=False)
    else:
        for name in hypervisor.ours():
            if name.split("-")[1] not in living:
                if not arguments.dry_run:
                    hypervisor.destroy_named(name)
                out.print(f"{doing} domain {name}")
                count += 1
        hypervisor.close()
    for leftover in (*state.leftovers(), *(state.cached() if arguments.caches else ())):
        if not arguments.dry_run:
            leftover.remove()
        out.print(f"{doing} {leftover.what}")
        count += 1
    if not count:
        out.print("nothing to remove")
    return EXIT_OK


# --- output


def _write_json(to: str | None, data: Any) -> None:
    if to is not None:
        _write_text(to, json.dumps(data, indent=1, default=str) + "\n")


def _write_text(to: str, text: str) -> None:
    if to == "-":
        sys.stdout.write(text)
        return
    try:
        Path(to).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{to} cannot be written: {error.strerror}") from None


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        sys.exit(main())
