"""The parser of the command line, and how a verb is added to it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from typing import Any

Verbs = Any  # argparse keeps the type of its sub-parsers private
Handler = Callable[[argparse.Namespace], int]


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Help that keeps the lines of examples and names the defaults that say something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text = action.help
        if text and action.default not in (None, False, [], argparse.SUPPRESS) and action.option_strings:
            text += " (default: %(default)s)"
        return text


class _ShowVersion(argparse.Action):
    """Print the version, which takes time to find."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from .. import __version__

        sys.stdout.write(f"kdump-harness {__version__}\n")
        parser.exit()


def make_parser(adders: Iterable[Callable[[Verbs], None]]) -> argparse.ArgumentParser:
    """Return a parser with the verbs that ADDERS add; its result has the verb's handler as `run`."""
    parser = argparse.ArgumentParser(
        prog="kdump-harness",
        description="Prove that kdump works: crash a throw-away guest, then judge the vmcore it leaves behind.",
        epilog="exit status:\n"
        "  0  verified, whole, or fit\n"
        "  1  the judged thing failed\n"
        "  2  usage error, or an invalid table\n"
        "  3  the host is unfit\n"
        "  4  the harness or the guest broke before there was a verdict\n"
        "  5  the dump was not judged: a format or machine that is not known",
        formatter_class=Formatter,
    )
    parser.add_argument(
        "--version",
        action=_ShowVersion,
        nargs=0,
        dest=argparse.SUPPRESS,
        default=argparse.SUPPRESS,
        help="show program's version number and exit",
    )
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB")
    for add in adders:
        add(verbs)
    return parser


def add_verb(
    verbs: Verbs,
    name: str,
    sentence: str,
    *,
    run: Handler | None = None,
    about: str = "",
    epilog: str = "",
    **more: Any,
) -> Any:
    """Add a verb, or an action of a verb, and return its parser; RUN is None for a verb that has actions."""
    parser = verbs.add_parser(
        name, help=sentence, description=about or sentence, epilog=epilog, formatter_class=Formatter, **more
    )
    if run is not None:
        parser.set_defaults(run=run)
    return parser


def add_actions(parser: Any) -> Any:
    """Let a verb have actions, one of which must be given."""
    return parser.add_subparsers(title="actions", required=True, metavar="ACTION")
