"""Where a dump goes, and how to look there afterwards."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from .errors import UsageError
from .family import Family, fill

if TYPE_CHECKING:
    from .shell import Shell

TARGETS = ("local",)


@dataclass(frozen=True, kw_only=True)
class FoundFile:
    """A dump, or something that looks like one, where the target keeps them."""

    path: str
    size_bytes: int
    mode: int  # permission bits
    owner: str
    directory_mode: int
    final: bool  # carries the name, and has the companion, that the family gives to finished dumps
    unfinished: str = ""  # why it is not final in spite of its name

    @property
    def name(self) -> str:
        """The last part of the path."""
        return PurePosixPath(self.path).name


class LocalTarget:
    """A directory on the guest's own root filesystem."""

    name = "local"

    def __init__(self, family: Family) -> None:
        self.family = family

    def list(self, shell: Shell, directory: str | None = None) -> dict[str, FoundFile]:
        """Everything below directory (the family's unless told) that is a dump or the beginning of one, by path."""
        dumps = self.family.dumps
        directory = directory or self.family.config.directory("") or "/var/crash"
        found: dict[str, FoundFile] = {}
        for final, patterns in ((True, dumps.finished), (False, dumps.unfinished)):
            for path, facts in _stat(shell, [fill(pattern, directory=shlex.quote(directory)) for pattern in patterns]):
                unfinished = ""
                if final and dumps.companion:
                    unfinished = self._refuted(shell, PurePosixPath(path).with_name(dumps.companion))
                found[path] = FoundFile(path=path, final=final and not unfinished, unfinished=unfinished, **facts)
        return found

    def _refuted(self, shell: Shell, companion: PurePosixPath) -> str:
        """What the file beside a dump says against it; empty when it says that the dump is finished."""
        read = shell.run("cat -- %s", companion, check=False)
        if not read.ok or not read.out.strip():
            return f"no {companion.name}" if not read.ok else f"{companion.name} is empty"
        refuted = re.search(self.family.dumps.refuted, read.out)
        return f"{companion.name}: {refuted.group().strip()}" if refuted else ""


def _stat(shell: Shell, patterns: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Size, mode, owner and directory mode of the files that the patterns match, which the guest's shell expands."""
    if not patterns:
        return
    script = (
        f'for f in {" ".join(patterns)}; do [ -e "$f" ] &&'
        ' printf "%s|%s|%s\\n" "$(stat -c "%s|%a|%U" "$f")" "$(stat -c %a "${f%/*}")" "$f"; done; true'
    )
    for line in shell.run(script).out.splitlines():
        size, mode, owner, directory_mode, path = line.split("|", 4)
        yield (
            path,
            {
                "size_bytes": int(size),
                "mode": int(mode, 8),
                "owner": owner,
                "directory_mode": int(directory_mode, 8),
            },
        )


def find_target(name: str, family: Family) -> LocalTarget:
    """A target by name; UsageError names the known ones."""
    if name not in TARGETS:
        raise UsageError(f"unknown target {name!r} (known: {', '.join(TARGETS)})")
    return LocalTarget(family)
