"""Collect texts that no dump holds from the rebooted machine: packages, configuration, journal."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from ...base import tables
from ...base.errors import HostError
from ...distro.family import fill, load_families
from ..index import Dump
from ..remote import SourceMachine

_MAX_BYTES = 64 << 20
_TIMEOUT_S = 120.0


@dataclass(frozen=True, kw_only=True)
class _Item:
    name: str
    what: str
    command: str
    private: bool = False


@dataclass(frozen=True, kw_only=True)
class Collected:
    """One text from the machine; why is the reason when it is not there."""

    name: str
    what: str
    text: str
    private: bool = False
    why: str = ""


def items() -> tuple[_Item, ...]:
    """Return the items that can be collected: collect.toml, and the configuration files of all families."""
    rows = tables.load_rows(tables.package_path("store", "bundles", "collect.toml"), "item", _Item)
    files = sorted({family.config.file for family in load_families().values()})
    configuration = tuple(
        _Item(
            name=f"config/{file.strip('/').replace('/', '-')}",
            what=f"kdump's configuration ({file})",
            command=f"cat {shlex.quote(file)}",
        )
        for file in files
    )
    return rows + configuration


def collect(machine: SourceMachine, dump: Dump) -> Iterator[Collected]:
    """Yield each item, or the reason why it could not be read."""
    for item in items():
        command = fill(item.command, crash_s=str(int(dump.crash_s or dump.added_s)))
        try:
            text = machine.run(f"({command}) | head -c {_MAX_BYTES}", timeout_s=_TIMEOUT_S)
        except HostError as error:
            yield Collected(name=item.name, what=item.what, text="", why=str(error))
        else:
            why = "" if text.strip() else "it is empty"
            yield Collected(name=item.name, what=item.what, text=text, private=item.private, why=why)
