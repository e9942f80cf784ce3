"""The parser of the command line, and how a verb is added to it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

from ..base.errors import EXIT_USAGE
from ..base.tables import load_toml
from .defaults import apply_defaults

Verbs = Any  # argparse keeps the type of its sub-parsers private
Handler = Callable[[argparse.Namespace], int]


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Help that keeps the lines of examples and names the defaults that say something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text = action.help
        if text and action.default not in (None, False, [], "", argparse.SUPPRESS) and action.option_strings:
            text += " (default: %(default)s)"
        return text


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one sentence."""

    def error(self, message: str) -> NoReturn:
        """End with exit status 2."""
        self.exit(EXIT_USAGE, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


class _ShowVersion(argparse.Action):
    """Print the version, which takes time to find."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from .. import __version__

        sys.stdout.write(f"kdump-harness {__version__}\n")
        parser.exit()


def make_parser(adders: Iterable[Callable[[Verbs], None]]) -> argparse.ArgumentParser:
    """Return a parser with the verbs that ADDERS add; its result has the verb's handler as `run`."""
    parser = Parser(
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
    for name, made in verbs.choices.items():
        apply_defaults(made, name)
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
    """Add a verb, or an action of a verb, and return its parser; RUN is None for a verb that has actions.

    The help of a verb ends with its exit statuses.
    """
    epilog = "\n\n".join(filter(None, (epilog.rstrip("\n"), _exit_statuses(name))))
    parser = verbs.add_parser(
        name, help=sentence, description=about or sentence, epilog=epilog, formatter_class=Formatter, **more
    )
    if run is not None:
        parser.set_defaults(run=run)
    return parser


def _exit_statuses(verb: str) -> str:
    """Return the paragraph about the exit statuses of a verb; empty for an action."""
    table = load_toml(Path(__file__).with_name("exit_statuses.toml"))
    if verb not in table:
        return ""
    statuses = sorted({**table["every"], **table[verb]}.items(), key=lambda row: int(row[0]))
    return "\n".join(["exit status:", *(f"{status:>5}  {meaning}" for status, meaning in statuses)])


def add_actions(parser: Any) -> Any:
    """Let a verb have actions, one of which must be given."""
    return parser.add_subparsers(title="actions", required=True, metavar="ACTION")
