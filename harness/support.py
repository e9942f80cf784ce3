"""Writes the page of what is supported: python -m harness.support > docs/support.md."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping

from .family import SHOWN, Family, Release, fill, load_families

_INTRODUCTION = """\
# Support

What the harness knows of each distribution's kdump, and how far that was shown to be true. This page is generated from
`harness/families/*.toml` by `python -m harness.support`; change the tables, not the page.

A guest is driven by the row that its own `/etc/os-release` belongs to, whatever its image is called. A release that no
row covers is driven as the nearest one; the drill says so, and its verdict carries a remark.

How far a row was shown to be true:

"""
_RECORDED = """
The code of redhat is kdump-utils 1.0.61, unchanged in a Debian 12 guest, with stand-ins for grubby and for entries of
the rpm database: the harness drove its kdumpctl, followed its console, found and judged its dumps, good and broken ones
(recordings in `tests/data`). The console lines of suse were compared with recordings of its own code, kdump 2.1, in a
Debian guest; the harness has not armed or crashed a guest of that family yet.
"""
_HEAD = ("release", "os-release", "packages", "configuration", "our reservation", "its own", "shown")


def support_page(families: Mapping[str, Family]) -> str:
    """The page in Markdown."""
    shown = "".join(f"- **{word}**: {meaning}\n" for word, meaning in SHOWN.items())
    return _INTRODUCTION + shown + _RECORDED + "".join(_family(family) for family in families.values())


def _family(family: Family) -> str:
    """One family's part of the page."""
    rows = family.releases
    lines = ["", f"## {family.name}", "", f"Service `{family.service}`, configuration `{family.config.file}`.", ""]
    lines += [_row(_HEAD), _row("---" for _ in _HEAD)]
    lines += [_row(_cells(release, driven)) for release, driven in rows]
    lines += [""]
    for title, commands in (
        ("Memory is reserved with", [(name(row), _reserve(row[1])) for row in rows]),
        ("The distribution's own reservation is asked for with", [(name(row), _default(row[1])) for row in rows]),
        ("The capture initramfs is built with", [(name(row), _build(row[1])) for row in rows]),
        ("The service is started again with", [(name(row), row[1].commands.arm) for row in rows]),
    ):
        lines += [f"{title}:", "", *_by_command(commands), ""]
    if notes := [f"- {name((release, driven))}: {driven.notes}" for release, driven in rows if driven.notes]:
        lines += ["Notes:", "", *notes, ""]
    return "\n".join(lines)


def name(row: tuple[Release, Family]) -> str:
    """What a row is called."""
    return row[0].name


def _reserve(family: Family) -> str:
    file = family.bootloader.file
    return (f"# with ARGUMENTS in {file}\n" if file else "") + family.bootloader.reserve.strip()


def _default(family: Family) -> str:
    return family.bootloader.default or f"{family.bootloader.reserve}  # its own file says how much"


def _build(family: Family) -> str:
    return (
        family.commands.build if family.commands.build != "true" else "# not here: the service does it at the next boot"
    )


def _cells(release: Release, driven: Family) -> tuple[str, ...]:
    if release.since:
        versions = release.since if release.since == release.until else f"{release.since} to {release.until}"
    else:
        versions = "rolling" if release.rolling else "any, by probe"
    return (
        release.name,
        f"{', '.join(release.ids)}: {versions}",
        ", ".join(driven.packages),
        "shell variables" if driven.config.syntax == "assignment" else "directives",
        driven.crashkernel,
        driven.bootloader.packaged or "by its tool",
        release.shown,
    )


def _by_command(commands: Iterable[tuple[str, str]]) -> list[str]:
    """Each command once, with the releases that it is for."""
    releases: dict[str, list[str]] = {}
    for release, command in commands:
        releases.setdefault(fill(command, arguments="ARGUMENTS").strip(), []).append(release)
    if len(releases) == 1:
        return _code(next(iter(releases)))
    return [line for command, names in releases.items() for line in (f"{', '.join(names)}:", "", *_code(command), "")][
        :-1
    ]


def _code(command: str) -> list[str]:
    return ["```sh", command, "```"]


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


if __name__ == "__main__":
    sys.stdout.write(support_page(load_families()))
