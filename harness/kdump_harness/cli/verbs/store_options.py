"""The options of the verb store; light, since every --help reads them."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

_ABOUT = """\
Takes dumps in from where machines send them (NFS, SSH, a directory), whatever they are called: only finished and
whole ones, triaged on arrival, compared with all others, kept by the policy in DIR/store.toml and no longer.
"""


def add_store(verbs: Any, add_json: Callable[[Any], None], formatter: Any) -> None:
    """Add the verb and its actions to the command line."""
    parser = verbs.add_parser(
        "store", help="The central store of dumps: collect, triage, bundle, retain.", description=_ABOUT,
        epilog="store.toml: keep_per_host, keep_days, budget_mib (limits; 0 is none), central (HOST:DIR or DIR),\n"
        "max_dump_mib, free_mib, settle_s, abandoned_s; docs/store.md explains them",
        formatter_class=formatter,
    )  # fmt: skip
    actions = parser.add_subparsers(title="actions", required=True, metavar="ACTION")

    def action(name: str, help_text: str, *, json: bool = True) -> Any:
        made = actions.add_parser(name, help=help_text, description=help_text, formatter_class=formatter)
        made.set_defaults(verb="list_dumps" if name == "list" else name, module="cli.verbs.store")
        made.add_argument(
            "--store", type=Path, metavar="DIR", help="the store (default: KDUMP_HARNESS_STORE, else in the state)"
        )
        if json:
            add_json(made)
        return made

    add = action("add", "Take in dumps now: files, or what is finished in directories.")
    add.add_argument("path", nargs="+", type=Path, metavar="FILE|DIR")
    add.add_argument("--damaged", action="store_true", help="also take a damaged dump, when it is all there is")
    _add_debuginfo(add)

    watch = action("watch", "Take in dumps as they arrive in DIR, each when its sender is done with it.", json=False)
    watch.add_argument("path", type=Path, metavar="DIR")
    watch.add_argument("--every", type=_seconds, default=30.0, metavar="S", help="seconds between two looks")
    watch.add_argument("--once", action="store_true", help="look twice, settle_s apart, and end")
    watch.add_argument("--remove", action="store_true", help="remove the files of DIR that are in the store")
    _add_debuginfo(watch)

    listing = action("list", "What is in the store, the newest first.")
    listing.add_argument("--host", metavar="H", help="of this host")
    listing.add_argument("--signature", metavar="S", help="of this crash, or the beginning of its signature")
    listing.add_argument("--refused", action="store_true", help="the files that were refused, and why")

    show = action("show", "All that is known of one dump, and whether the like was seen before.")
    show.add_argument("id", metavar="ID", help="or the beginning of one")

    triage = action("triage", "Look once more at dumps, as when their debug info has come.")
    triage.add_argument("id", nargs="+", metavar="ID")
    _add_debuginfo(triage)

    patterns = action("patterns", "Crashes that were seen more than once, and what only their machines share.")
    patterns.add_argument("--least", type=int, default=2, metavar="N", help="dumps that make a pattern")

    bundle = action("bundle", "One archive of a crash with manifest and checksums.")
    bundle.add_argument("id", metavar="ID")
    bundle.add_argument("--out", type=Path, metavar="FILE", help="a new .tar (default: kdump-ID.tar here)")
    bundle.add_argument("--without-vmcore", action="store_true", help="only the dump's place and checksum")
    bundle.add_argument("--redact", action="store_true", help="leave out user data and known secrets, and say so")
    bundle.add_argument("--from", dest="machine", metavar="HOST", help="ask the machine, by ssh; local is this one")
    bundle.add_argument("--change", metavar="FILE|TEXT", help="the record of the change that it may come from")
    bundle.add_argument("--attach", type=Path, action="append", metavar="FILE", help="a text to add")

    hold = action("hold", "Protect a dump of an open incident from being removed.")
    hold.add_argument("id", metavar="ID")
    what = hold.add_mutually_exclusive_group(required=True)
    what.add_argument("--why", metavar="TEXT", help="the incident")
    what.add_argument("--release", action="store_true", help="end it")

    prune = action("prune", "Remove what the policy does not want any more.")
    prune.add_argument("--dry-run", action="store_true", help="only say what would go, and why")
    for name, text in (
        ("keep-per-host", "newest dumps of each host"),
        ("keep-days", "days since it came"),
        ("budget-mib", "MiB in all"),
    ):
        prune.add_argument(f"--{name}", type=_limit, metavar="N", help=f"{text} (instead of the policy's)")

    push = action("push", "Copy dumps to the central place, verified; goes on where it was interrupted.")
    push.add_argument("id", nargs="*", metavar="ID", help="(default: all that are not there)")
    push.add_argument("--to", metavar="HOST:DIR|DIR", help="(default: central of the policy)")


def _add_debuginfo(parser: Any) -> None:
    parser.add_argument("--debuginfo", type=Path, metavar="PATH", help="triage with a vmlinux, or those below PATH")
    parser.add_argument("--state", type=Path, metavar="DIR", help="where downloaded debug info is kept")


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.1 <= value <= 86400:
        raise argparse.ArgumentTypeError(f"{text} is no number of seconds (0.1 to 86400)")
    return value


def _limit(text: str) -> int:
    if not (text.isdecimal() and len(text) < 12):
        raise argparse.ArgumentTypeError(f"{text} is no limit (0 is none)")
    return int(text)
