"""What each action of the verb store does."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
from collections.abc import Iterable
from typing import Any

from rich.markup import escape

from ...base.clock import pause
from ...base.errors import EXIT_FAILED, EXIT_HOST, EXIT_OK, HostError, UsageError
from ...base.output import check_output, out, write_json, write_text
from ...store import describe
from ...store.bundles.bundle import Request, free_name, make_bundle
from ...store.index import Dump
from ...store.intake.arrivals import place_of
from ...store.intake.copying import MIB
from ...store.patterns import CrashPattern, find_patterns, seen_before
from ...store.push import Central, alone
from ...store.push import push as push_dump
from ...store.remote import SourceMachine
from ...store.retention import Decision
from ...store.retention import prune as prune_store
from ...store.store import REFUSED, STORED, WAITING, IntakeOutcome, Store, utc
from ...store.watching import Watcher, add_directory
from ...triage import check_given

_LOOKS_OF_ONE_RUN = 2  # a file must be the same at both

_MARKS = {STORED: "[green]stored[/]", REFUSED: "[red]refused[/]", WAITING: "[yellow]waiting[/]"}


def _say(text: str) -> None:
    out.print(escape(text), soft_wrap=True)


def _open(arguments: argparse.Namespace, *, create: bool = True) -> Store:
    """A store that dumps can be triaged for."""
    if arguments.debuginfo is not None:
        check_given(arguments.debuginfo)
    return Store(arguments.store, create=create, debuginfo=arguments.debuginfo, state=arguments.state)


def add(arguments: argparse.Namespace) -> int:
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
                    _tell(store, outcome)

        try:
            for path in arguments.path:
                if path.is_dir() and not path.is_symlink():
                    note(add_directory(store, path.absolute(), lambda place, name, sign: admit(place, name, sign=sign)))
                else:
                    with place_of(path.absolute()) as (place, name):
                        note([admit(place, name)])
        finally:
            write_json(arguments.json, [outcome.to_json() for outcome in outcomes])
    if any(outcome.outcome == REFUSED for outcome in outcomes):
        return EXIT_FAILED
    return EXIT_OK


def _tell(store: Store, outcome: IntakeOutcome) -> None:
    mark = _MARKS.get(outcome.outcome, outcome.outcome)
    reason = f": {outcome.reason}" if outcome.reason else ""
    out.print(f"{mark} {escape(outcome.path)}{escape(reason)}", soft_wrap=True)
    if outcome.outcome == STORED and (dump := outcome.dump) is not None:
        facts = (dump.host, dump.kernel, dump.panic, dump.signature_text)
        _say(f"  {dump.id} ({dump.state}): {'; '.join(filter(None, facts))}")
        for seen in seen_before(store.index, dump):
            if seen.what in ("signature", "host"):
                _say(f"  seen before: {seen.what} {seen.value}: {seen.count} other dumps, last {utc(seen.last_s)}")


def watch(arguments: argparse.Namespace) -> int:
    refused = False
    with _open(arguments) as store:
        store.require_apart(arguments.path)
        watcher = Watcher(store, arguments.path.absolute(), remove=arguments.remove)
        for looks in itertools.count(1):
            for outcome in watcher.look():
                refused |= outcome.outcome == REFUSED
                _tell(store, outcome)
            if store.policy.limited:
                for decision in prune_store(store, store.policy, dry_run=False):
                    if not decision.kept_because:
                        _tell_decision(decision, "removed")
            if arguments.once and looks == _LOOKS_OF_ONE_RUN:
                break
            pause(store.policy.settle_s if arguments.once else arguments.every)
    return EXIT_FAILED if refused else EXIT_OK


def list_dumps(arguments: argparse.Namespace) -> int:
    check_output(arguments.json)
    with Store(arguments.store) as store:
        if arguments.refused:
            refused = store.index.refused()
            write_json(arguments.json, refused)
            if arguments.json != "-":
                for row in refused:
                    _say(f"{utc(row['at_s'])} {row['path']}: {row['reason']}")
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
    """One line for each dump, whatever the terminal, so that it can be searched."""
    state = ",".join(filter(None, (dump.state, "held" if dump.hold else "", "central" if dump.central else "")))
    crash = f"{dump.signature} {dump.signature_text}" if dump.signature else dump.panic or ""
    kernel = dump.kernel or "unknown"
    return f"{dump.id}  {utc(dump.crash_s or dump.added_s)}  {dump.host:<{host_width}}  {kernel}  {state}  {crash}"


def show(arguments: argparse.Namespace) -> int:
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
    check_output(arguments.json)
    with _open(arguments, create=False) as store:
        done = [store.triage_again(dump) for dump in [store.index.find(one) for one in arguments.id]]
    write_json(arguments.json, [dump.to_json() for dump in done])
    if arguments.json != "-":
        for dump in done:
            _say(f"{dump.id}: {dump.panic or 'no panic line'}; {dump.signature_text or 'no stack'}")
    return EXIT_OK


def patterns(arguments: argparse.Namespace) -> int:
    check_output(arguments.json)
    if arguments.least < 1:
        raise UsageError(f"{arguments.least} dumps make no pattern")
    with Store(arguments.store) as store:
        found = find_patterns(store.index, least=arguments.least)
        count = len(store.index.dumps())
    write_json(arguments.json, [pattern.to_json() for pattern in found])
    if arguments.json != "-":
        for pattern in found:
            _tell_pattern(pattern, of=count)
        if not found:
            _say(f"no crash was seen {arguments.least} times in {count} dumps")
    return EXIT_OK


def _tell_pattern(pattern: CrashPattern, *, of: int) -> None:
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
        for text in manifest["still_in"]:
            _say(f"  still in it: {text}")
    return EXIT_OK


def hold(arguments: argparse.Namespace) -> int:
    check_output(arguments.json)
    if arguments.why is not None and not arguments.why.strip():
        raise UsageError("say why it is held")
    with Store(arguments.store) as store:
        dump = store.hold(arguments.id, arguments.why)
    write_json(arguments.json, dump.to_json())
    if arguments.json != "-":
        _say(f"{dump.id} is held: {dump.hold}" if dump.hold else f"{dump.id} is not held any more")
    return EXIT_OK


def prune(arguments: argparse.Namespace) -> int:
    check_output(arguments.json)
    with Store(arguments.store) as store:
        given = {
            name: value
            for name in ("keep_per_host", "keep_days", "budget_mib")
            if (value := getattr(arguments, name)) is not None
        }
        policy = dataclasses.replace(store.policy, **given)
        if not policy.limited:
            raise UsageError(f"there is no limit: set one in {store.directory / 'store.toml'}, or give --keep-days N")
        decisions = prune_store(store, policy, dry_run=arguments.dry_run)
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
            _tell_decision(decision, "would remove" if arguments.dry_run else "removed")
        freeing = "would free" if arguments.dry_run else "freed"
        _say(f"{freeing} {freed_bytes / MIB:,.0f} MiB" if decisions else "nothing to remove")
    return EXIT_OK


def _tell_decision(decision: Decision, doing: str) -> None:
    dump = decision.dump
    did, because = ("kept", f", but {decision.kept_because}") if decision.kept_because else (doing, "")
    _say(f"{did} {dump.id} of {dump.host} ({dump.disk_bytes / MIB:,.1f} MiB): {decision.why}{because}")


def push(arguments: argparse.Namespace) -> int:
    check_output(arguments.json)
    rows: list[dict[str, Any]] = []
    with Store(arguments.store) as store, alone(store):
        to = arguments.to or store.policy.central
        if not to:
            raise UsageError("say where to: --to HOST:DIR, or central in store.toml")
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
