"""Default values of options from the user's own tables."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from ..base.errors import TableError
from ..configuration.own_tables import own_defaults

# Options of many verbs, which [defaults] may have for all of them; [defaults.VERB] may have every option of the verb.
SHARED = (
    "accelerator", "evidence", "history", "jobs", "keep", "quiet", "remote-state", "state", "timeout-factor", "uri",
)  # fmt: skip


def apply_defaults(parser: argparse.ArgumentParser, verb: str) -> None:
    """Replace the defaults of the options of a verb and its actions. Raise TableError for an option that it lacks."""
    defaults = list(own_defaults(verb))
    if not defaults:
        return
    options: dict[str, list[tuple[argparse.ArgumentParser, argparse.Action]]] = {}
    for one in _parsers(parser):
        for action in one._actions:  # argparse has no public way to ask
            for name in action.option_strings:
                if name.startswith("--") and name != "--help":
                    options.setdefault(name.removeprefix("--"), []).append((one, action))
    for table, place, name, value in defaults:
        known = SHARED if place == "[defaults]" else tuple(sorted(options))
        if name not in known:
            raise TableError(f"{table.path}: {place}: unknown {name} (known: {', '.join(known)})")
        for one, action in options.get(name, ()):
            action.default = _converted(one, action, value, f"{table.path}: {place}: {name}")


def _parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Yield a parser, and those of its actions."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.values()


def _converted(parser: argparse.ArgumentParser, action: argparse.Action, value: Any, where: str) -> Any:
    """Return the value that the option would have, were this its argument on the command line."""
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise TableError(f"{where} must be true or false, not {value!r}")
        return value
    repeated = isinstance(action, argparse._AppendAction)
    if isinstance(value, (dict, bool)) or isinstance(value, list) != repeated:
        raise TableError(f"{where} must be {'a list' if repeated else 'one value'}, not {value!r}")
    try:
        found = [parser._get_values(action, [str(one)]) for one in (value if repeated else [value])]
    except argparse.ArgumentError as error:
        raise TableError(f"{where}: {error.message}") from None
    return found if repeated else found[0]
