"""The verb store: the central store of dumps."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...base.errors import EXIT_FAILED, EXIT_HOST, EXIT_OK, EXIT_UNJUDGED, HarnessError, HostError, UsageError
from ..options import add_hook, add_json, add_state
from ..parser import Handler, Verbs, add_actions, add_verb
from ..types import count, seconds

if TYPE_CHECKING:
    from ...store.index import Dump
    from ...store.patterns import CrashPattern
    from ...store.retention import Decision
    from ...store.store import IntakeOutcome, Store


_LOOKS_OF_ONE_RUN = 2  # a file must be the same at both
EVENTS = ("arriving", "stored", "refused", "unjudged")
_PUBLISH_S = 60.0  # metrics have the time of the last look
_AFTER_S = 0.1  # a look is a moment after a file has settled
_ABOUT = """\
Takes dumps in from where machines send them (NFS, SSH, a directory), whatever they are called: only finished and
whole ones, triaged on arrival, compared with all others, kept by the policy in DIR/store.toml and no longer.
"""


def add_store(verbs: Verbs) -> None:
    """Add the verb and its actions to the command line."""
    parser = add_verb(
        verbs,
        "store",
        "Keep a central store of dumps: collect, triage, bundle and prune them.",
        about=_ABOUT,
        epilog="store.toml: keep_per_host, keep_days, budget_mib (limits; 0 disables one), central (HOST:DIR or DIR),\n"
        "max_dump_mib, free_mib, settle_s, abandoned_s; docs/store.md explains them",
    )
    actions = add_actions(parser)

    def action(run: Handler, sentence: str, *, name: str = "", json: bool = True) -> Any:
        made = add_verb(actions, name or run.__name__, sentence, run=run)
        made.add_argument(
            "--store",
            type=Path,
            metavar="DIR",
            help="directory of the store (default: KDUMP_HARNESS_STORE, else in the state directory)",
        )
        if json:
            add_json(made)
        return made

    made = action(add, "Take in dumps now: files, or the finished files of directories.")
    made.add_argument("path", nargs="+", type=Path, metavar="FILE|DIR")
    made.add_argument("--damaged", action="store_true", help="also take a dump that is damaged or cannot be judged")
    _add_debuginfo(made)

    made = action(watch, "Take in dumps as they arrive in DIR, each when its sender is finished.", json=False)
    made.add_argument("path", type=Path, metavar="DIR")
    made.add_argument(
        "--every",
        type=seconds(least=0.1, most=86400),
        default=15.0,
        metavar="S",
        help="maximum seconds between two scans of DIR",
    )
    made.add_argument("--once", action="store_true", help="scan twice, settle_s apart, and end")
    made.add_argument("--remove", action="store_true", help="remove the files of DIR that are in the store")
    add_hook(
        made,
        EVENTS,
        EVENTS,
        "events that run the hook: arriving (a new file), stored, refused, unjudged (default: all)",
    )
    made.add_argument("--metrics", type=Path, metavar="FILE", help="textfile to write for Prometheus")
    made.add_argument("--report", type=Path, metavar="FILE", help="page of the store to write, as HTML")
    _add_debuginfo(made)

    made = action(report, "Write the store as one page: new crashes, patterns, hosts and dumps.", json=False)
    made.add_argument("--out", type=Path, default=Path("store.html"), metavar="FILE", help="HTML file to write")

    made = action(list_dumps, "List the dumps of the store, newest first.", name="list")
    made.add_argument("--host", metavar="H", help="list only dumps of this host")
    made.add_argument("--signature", metavar="S", help="list only crashes whose signature begins with S")
    made.add_argument(
        "--refused", action="store_true", help="list the files that were refused or not judged, and the reasons"
    )

    made = action(show, "Show one dump, and similar crashes that were seen before.")
    made.add_argument("id", metavar="ID", help="ID of a dump, or the beginning of one")

    made = action(triage, "Triage dumps again, for example when their debug info has arrived.")
    made.add_argument("id", nargs="+", metavar="ID")
    _add_debuginfo(made)

    made = action(patterns, "List crashes that were seen more than once, and what only their machines share.")
    made.add_argument("--least", type=int, default=2, metavar="N", help="minimum number of dumps of a pattern")

    made = action(bundle, "Write one archive of a crash, with manifest and checksums.")
    made.add_argument("id", metavar="ID")
    made.add_argument("--out", type=Path, metavar="FILE", help="new .tar file to write (default: ./kdump-ID.tar)")
    made.add_argument(
        "--without-vmcore", action="store_true", help="include only path and checksum of the dump, not the vmcore"
    )
    made.add_argument("--redact", action="store_true", help="leave out user data and known secrets, and list them")
    made.add_argument("--from", dest="machine", metavar="HOST", help="machine to query by SSH; local is this machine")
    made.add_argument("--change", metavar="FILE|TEXT", help="record of the change that may have caused the crash")
    made.add_argument("--attach", type=Path, action="append", metavar="FILE", help="text file to add; repeatable")

    made = action(hold, "Protect a dump of an open incident from removal.")
    made.add_argument("id", metavar="ID")
    which = made.add_mutually_exclusive_group(required=True)
    which.add_argument("--why", metavar="TEXT", help="incident that needs the dump")
    which.add_argument("--release", action="store_true", help="end the protection")

    made = action(prune, "Remove the dumps that the policy does not keep.")
    made.add_argument("--dry-run", action="store_true", help="only list what would be removed, and why")
    made.add_argument(
        "--trust-clock",
        action="store_true",
        help="believe this machine's clock, although it differs from the last look",
    )
    for name, text in (
        ("keep-per-host", "newest dumps to keep per host"),
        ("keep-days", "days to keep a dump after its arrival"),
        ("budget-mib", "maximum size of the store in MiB"),
    ):
        made.add_argument(
            f"--{name}",
            type=count(most=10**11 - 1),
            metavar="N",
            help=f"{text}; 0 means unlimited (default: the policy's)",
        )

    made = action(reindex, "Rebuild a lost or damaged index from the directories of the dumps.")
    _add_debuginfo(made)

    made = action(push, "Copy dumps to the central place and verify them; continues an interrupted copy.")
    made.add_argument("id", nargs="*", metavar="ID", help="dumps to copy (default: all that are not there)")
    made.add_argument("--to", metavar="HOST:DIR|DIR", help="central place (default: central of the policy)")


def _add_debuginfo(parser: Any) -> None:
    parser.add_argument(
        "--debuginfo", type=Path, metavar="PATH", help="vmlinux, or a directory with one, for the triage"
    )
    add_state(parser, "state directory, where downloaded debug info is kept")


def _say(text: str) -> None:
    from rich.markup import escape

    from ...base.output import out

    out.print(escape(text), soft_wrap=True)


def _open(arguments: argparse.Namespace, *, create: bool = True) -> Store:
    """Open the store for triage."""
    from ...store.store import Store
    from ...triage import check_given

    if arguments.debuginfo is not None:
        check_given(arguments.debuginfo)
    return Store(arguments.store, create=create, debuginfo=arguments.debuginfo, state=arguments.state)


def add(arguments: argparse.Namespace) -> int:
    from ...base.output import check_output, write_json
    from ...store.intake.arrivals import place_of
    from ...store.watching import add_directory

    check_output(arguments.json, not_over=arguments.path)
    for path in arguments.path:
        if not path.exists() and not path.is_symlink():
            raise UsageError(f"{path} does not exist")
    outcomes: list[IntakeOutcome] = []
    with _open(arguments) as store:
        for path in arguments.path:
            store.require_apart(path)
        admit = functools.partial(store.admit, damaged_too=arguments.damaged)

        def note(found: Iterable[IntakeOutcome]) -> None:
            for outcome in found:
                outcomes.append(outcome)
                if arguments.json != "-":
                    _show_outcome(store, outcome)

        try:
            for path in arguments.path:
                if path.is_dir() and not path.is_symlink():
                    note(add_directory(store, path.absolute(), lambda place, name, sign: admit(place, name, sign=sign)))
                else:
                    with place_of(path.absolute()) as (place, name):
                        note([admit(place, name)])
        finally:
            write_json(arguments.json, [outcome.to_json() for outcome in outcomes])
    return _exit_status({outcome.outcome for outcome in outcomes})


def _exit_status(outcomes: set[str]) -> int:
    """Return the exit status of an intake: the worst outcome counts."""
    from ...store.store import REFUSED
    from ...vmcore.inspection import UNJUDGED

    if REFUSED in outcomes:
        return EXIT_FAILED
    return EXIT_UNJUDGED if UNJUDGED in outcomes else EXIT_OK


def _show_outcome(store: Store, outcome: IntakeOutcome) -> None:
    from rich.markup import escape

    from ...base.output import out
    from ...store.patterns import seen_before
    from ...store.store import REFUSED, STORED, WAITING, utc
    from ...vmcore.inspection import UNJUDGED

    marks = {STORED: "[green]stored[/]", REFUSED: "[red]refused[/]"}
    marks |= {name: f"[yellow]{name}[/]" for name in (WAITING, UNJUDGED)}
    mark = marks.get(outcome.outcome, outcome.outcome)
    reason = f": {outcome.reason}" if outcome.reason else ""
    out.print(f"{mark} {escape(outcome.path)}{escape(reason)}", soft_wrap=True)
    if outcome.outcome == STORED and (dump := outcome.dump) is not None:
        facts = (dump.host, dump.kernel, dump.panic, dump.signature_text)
        _say(f"  {dump.id} ({dump.state}): {'; '.join(filter(None, facts))}")
        for seen in seen_before(store.index, dump):
            if seen.what in ("signature", "host"):
                _say(f"  seen before: {seen.what} {seen.value}: {seen.count} other dumps, last {utc(seen.last_s)}")


def watch(arguments: argparse.Namespace) -> int:
    from ...base.clock import now_s, pause
    from ...base.output import check_output
    from ...store.retention import prune as prune_store
    from ...store.store import WAITING
    from ...store.watching import Watcher

    check_output(arguments.metrics)
    check_output(arguments.report)
    outcomes: set[str] = set()
    published_s: float | None = None
    arriving: set[str] = set()
    doubted: set[str] = set()
    with _open(arguments) as store:
        store.require_apart(arguments.path)
        watcher = Watcher(store, arguments.path.absolute(), remove=arguments.remove)
        for looks in itertools.count(1):
            changed = False
            for outcome in watcher.look():
                outcomes.add(outcome.outcome)
                _show_outcome(store, outcome)
                changed |= outcome.outcome != WAITING
                _call_hook(arguments, store, outcome, arriving)
            arriving &= watcher.pending
            if store.policy.limited:
                for decision in prune_store(store, store.policy, dry_run=False):
                    changed |= not decision.kept_because
                    if not decision.kept_because or (decision.doubted and decision.dump.id not in doubted):
                        _show_decision(decision, "removed")
                    if decision.doubted:
                        doubted.add(decision.dump.id)
            if changed or published_s is None or now_s() - published_s >= _PUBLISH_S:
                _publish(arguments, store)
                published_s = now_s()
            if arguments.once and looks == _LOOKS_OF_ONE_RUN:
                break
            wait_s = watcher.settles_in_s()
            every_s = arguments.every if wait_s is None else min(arguments.every, wait_s + _AFTER_S)
            pause(store.policy.settle_s if arguments.once else every_s)
    return _exit_status(outcomes)


def _publish(arguments: argparse.Namespace, store: Store) -> None:
    """Write the metrics and the page that were asked for; trouble with them does not stop the intake."""
    from ...base.output import replace_text
    from ...report.store_page import render_store
    from ...store.metrics import write_metrics

    try:
        if arguments.metrics is not None:
            write_metrics(store.index, arguments.metrics)
        if arguments.report is not None:
            replace_text(arguments.report, render_store(store.index))
    except HarnessError as error:
        _say(str(error))


def _call_hook(arguments: argparse.Namespace, store: Store, outcome: IntakeOutcome, arriving: set[str]) -> None:
    """Call the hook for an outcome; ARRIVING has the files whose arrival was reported."""
    from ...schedule.hook import run_hook
    from ...store.describe import outcome_event
    from ...store.store import REFUSED, STORED, WAITING
    from ...vmcore.inspection import UNJUDGED

    event = {WAITING: "arriving", STORED: "stored", REFUSED: "refused", UNJUDGED: "unjudged"}.get(outcome.outcome)
    if event == "arriving":
        if outcome.path in arriving:
            return
        arriving.add(outcome.path)
    if not arguments.hook or event is None or event not in arguments.hook_on:
        return
    if trouble := run_hook(arguments.hook, outcome_event(store.index, event, outcome)):
        _say(f"{outcome.path}: {trouble}")


def report(arguments: argparse.Namespace) -> int:
    from ...base.output import check_output, replace_text
    from ...report.store_page import render_store
    from ...store.store import Store

    check_output(arguments.out)
    with Store(arguments.store) as store:
        replace_text(arguments.out, render_store(store.index))
    _say(f"{arguments.out} is written")
    return EXIT_OK


def list_dumps(arguments: argparse.Namespace) -> int:
    from ...base.output import check_output, write_json, write_text
    from ...base.units import MIB
    from ...store.store import Store, utc

    check_output(arguments.json)
    with Store(arguments.store) as store:
        if arguments.refused:
            refused = store.index.refused()
            write_json(arguments.json, refused)
            if arguments.json != "-":
                for row in refused:
                    _say(f"{utc(row['at_s'])} {row['outcome']} {row['path']}: {row['reason']}")
            return EXIT_OK
        dumps = store.index.dumps()
        total_bytes = store.index.total_bytes()
    chosen = [
        dump
        for dump in dumps
        if (arguments.host is None or dump.host == arguments.host)
        and (arguments.signature is None or (dump.signature or "").startswith(arguments.signature))
    ]
    write_json(arguments.json, [dump.to_json() for dump in chosen])
    if arguments.json != "-":
        width = max((len(dump.host) for dump in chosen), default=0)
        write_text("-", "".join(_line(dump, width) + "\n" for dump in chosen))
        _say(f"{len(chosen)} of {len(dumps)} dumps; {total_bytes / MIB:,.0f} MiB in all")
    return EXIT_OK


def _line(dump: Dump, host_width: int) -> str:
    """Print one line per dump at any width of the terminal, so that the output can be searched."""
    from ...store.store import utc

    state = ",".join(filter(None, (dump.state, "held" if dump.hold else "", "central" if dump.central else "")))
    crash = f"{dump.signature} {dump.signature_text}" if dump.signature else dump.panic or ""
    kernel = dump.kernel or "unknown"
    return f"{dump.id}  {utc(dump.crash_s or dump.added_s)}  {dump.host:<{host_width}}  {kernel}  {state}  {crash}"


def show(arguments: argparse.Namespace) -> int:
    from ...base.output import check_output, write_json
    from ...store import describe
    from ...store.patterns import seen_before
    from ...store.store import Store

    check_output(arguments.json)
    with Store(arguments.store) as store:
        dump = store.index.find(arguments.id)
        triage_facts, traits = store.facts_of(dump, "triage"), store.index.traits_of(dump.id)
        before = seen_before(store.index, dump)
        about = {
            **dump.to_json(),
            "directory": str(store.place_of(dump)),
            "traits": traits,
            "seen_before": [seen.to_json() for seen in before],
            "inspection": store.facts_of(dump, "inspection"),
            "triage": triage_facts,
        }
    write_json(arguments.json, about)
    if arguments.json != "-":
        for line in describe.lines(dump, triage_facts, traits, before):
            _say(line)
        _say(f"in {about['directory']}")
    return EXIT_OK


def triage(arguments: argparse.Namespace) -> int:
    from ...base.output import check_output, write_json

    check_output(arguments.json)
    with _open(arguments, create=False) as store:
        done = [store.triage_again(dump) for dump in [store.index.find(one) for one in arguments.id]]
    write_json(arguments.json, [dump.to_json() for dump in done])
    if arguments.json != "-":
        for dump in done:
            _say(f"{dump.id}: {dump.panic or 'no panic line'}; {dump.signature_text or 'no stack'}")
    return EXIT_OK


def patterns(arguments: argparse.Namespace) -> int:
    from ...base.output import check_output, write_json
    from ...store.patterns import find_patterns
    from ...store.store import Store

    check_output(arguments.json)
    if arguments.least < 1:
        raise UsageError(f"invalid --least: got {arguments.least}, expected 1 or more")
    with Store(arguments.store) as store:
        found = find_patterns(store.index, least=arguments.least)
        count = len(store.index.dumps())
    write_json(arguments.json, [pattern.to_json() for pattern in found])
    if arguments.json != "-":
        for pattern in found:
            _show_pattern(pattern, of=count)
        if not found:
            _say(f"no crash was seen {arguments.least} times in {count} dumps")
    return EXIT_OK


def _show_pattern(pattern: CrashPattern, *, of: int) -> None:
    from rich.markup import escape

    from ...base.output import out
    from ...store.store import utc

    out.print(f"[bold]{escape(pattern.signature)}[/] {escape(pattern.text)}", soft_wrap=True)
    _say(f"  {len(pattern.dumps)} of {of} dumps, {utc(pattern.first_s)} to {utc(pattern.last_s)}")
    for what, counts in (("hosts", pattern.hosts), ("kernels", pattern.kernels)):
        shown = [f"{name} ({count})" for name, count in counts.items()]
        more = f", and {len(shown) - 5} more" if len(shown) > 5 else ""
        _say(f"  {what}: {', '.join(shown[:5])}{more}")
    for one in pattern.suspects:
        out.print(
            f"  [yellow]stands out[/] {escape(one.name)} {escape(one.value)}: {one.share:.0%} of these,"
            f" {one.elsewhere:.0%} of the others",
            soft_wrap=True,
        )


def bundle(arguments: argparse.Namespace) -> int:
    from ...base.output import check_output, write_json
    from ...base.units import MIB
    from ...store.bundles.bundle import Request, free_name, make_bundle
    from ...store.remote import SourceMachine
    from ...store.store import Store

    check_output(arguments.json, not_over=arguments.attach or ())
    with Store(arguments.store) as store:
        dump = store.index.find(arguments.id)
        machine = None
        if arguments.machine is not None:
            machine = SourceMachine(None if arguments.machine == "local" else arguments.machine)
        request = Request(
            to=arguments.out or free_name(dump),
            with_vmcore=not arguments.without_vmcore,
            redacted=arguments.redact,
            machine=machine,
            change=arguments.change,
            attach=arguments.attach or (),
        )
        manifest = make_bundle(store, dump, request)
    write_json(arguments.json, manifest)
    if arguments.json != "-":
        _say(f"{request.to}: {len(manifest['files'])} files, {request.to.stat().st_size / MIB:,.1f} MiB")
        for one in manifest["left_out"]:
            _say(f"  left out: {one['what']}: {one['why']}")
        if manifest["looked_for"]:
            _say(f"  looked for: {', '.join(manifest['looked_for'])}")
        for text in manifest["still_in"]:
            _say(f"  still in it: {text}")
    return EXIT_OK


def hold(arguments: argparse.Namespace) -> int:
    from ...base.output import check_output, write_json
    from ...store.store import Store

    check_output(arguments.json)
    if arguments.why is not None and not arguments.why.strip():
        raise UsageError("--why is empty: name the incident that needs the dump")
    with Store(arguments.store) as store:
        dump = store.hold(arguments.id, arguments.why)
    write_json(arguments.json, dump.to_json())
    if arguments.json != "-":
        _say(f"{dump.id} is held: {dump.hold}" if dump.hold else f"{dump.id} is not held any more")
    return EXIT_OK


def prune(arguments: argparse.Namespace) -> int:
    from ...base.output import check_output, write_json
    from ...base.units import MIB
    from ...store.retention import prune as prune_store
    from ...store.store import Store

    check_output(arguments.json)
    with Store(arguments.store) as store:
        given = {
            name: value
            for name in ("keep_per_host", "keep_days", "budget_mib")
            if (value := getattr(arguments, name)) is not None
        }
        policy = dataclasses.replace(store.policy, **given)
        if not policy.limited:
            raise UsageError(
                f"nothing limits the store: set a limit in {store.directory / 'store.toml'}, or give --keep-days N"
            )
        decisions = prune_store(store, policy, dry_run=arguments.dry_run, trust_clock=arguments.trust_clock)
    freed_bytes = sum(one.dump.disk_bytes for one in decisions if not one.kept_because)
    write_json(
        arguments.json,
        {
            "dry_run": arguments.dry_run,
            "freed_bytes": freed_bytes,
            "decisions": [decision.to_json() for decision in decisions],
        },
    )
    if arguments.json != "-":
        for decision in decisions:
            _show_decision(decision, "would remove" if arguments.dry_run else "removed")
        freeing = "would free" if arguments.dry_run else "freed"
        _say(f"{freeing} {freed_bytes / MIB:,.0f} MiB" if decisions else "nothing to remove")
    return EXIT_OK


def _show_decision(decision: Decision, doing: str) -> None:
    from ...base.units import MIB

    dump = decision.dump
    did, because = ("kept", f", but {decision.kept_because}") if decision.kept_because else (doing, "")
    _say(f"{did} {dump.id} of {dump.host} ({dump.disk_bytes / MIB:,.1f} MiB): {decision.why}{because}")


def reindex(arguments: argparse.Namespace) -> int:
    from ...base.output import check_output, write_json
    from ...store.reindex import reindex as reindex_store

    check_output(arguments.json)
    rows = []
    for row in reindex_store(arguments.store, debuginfo=arguments.debuginfo, state=arguments.state):
        rows.append(row.to_json())
        if arguments.json != "-":
            _say(f"{row.directory}: {row.outcome}")
    write_json(arguments.json, rows)
    if not rows and arguments.json != "-":
        _say("every dump has its row")
    return EXIT_FAILED if any(row["id"] is None for row in rows) else EXIT_OK


def push(arguments: argparse.Namespace) -> int:
    from ...base.output import check_output, write_json
    from ...store.push import Central, alone
    from ...store.push import push as push_dump
    from ...store.store import Store

    check_output(arguments.json)
    rows: list[dict[str, Any]] = []
    with Store(arguments.store) as store, alone(store):
        to = arguments.to or store.policy.central
        if not to:
            raise UsageError("no destination: give --to HOST:DIR, or set central in store.toml")
        central = Central.parse(to)
        wanted = [store.index.find(one) for one in arguments.id] if arguments.id else store.index.dumps()
        for dump in wanted:
            if not arguments.id and dump.central == central.name:
                continue
            try:
                copied, problem = push_dump(store, dump, central), ""
            except HostError as error:
                copied, problem = False, str(error)
            rows.append({"id": dump.id, "to": central.name, "copied": copied, "problem": problem})
            if arguments.json != "-":
                _say(f"{dump.id}: {problem or ('copied and verified' if copied else 'was there, verified')}")
    write_json(arguments.json, rows)
    if not rows and arguments.json != "-":
        _say("nothing to push")
    return EXIT_HOST if any(row["problem"] for row in rows) else EXIT_OK
