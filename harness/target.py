"""Where a dump goes, and how to look there afterwards."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from .errors import UsageError
from .family import Family

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
    final: bool  # carries the name that the family gives to finished dumps

    @property
    def name(self) -> str:
        """The last part of the path."""
        return PurePosixPath(self.path).name


class LocalTarget:
    """A directory on the guest's own root filesystem."""

    name = "local"

    def __init__(self, family: Family) -> None:
        self.family = family

    def list(self, shell: Shell) -> dict[str, FoundFile]:
        """Everything there that is a dump or the beginning of one, by path."""
        found: dict[str, FoundFile] = {}
        for final, patterns in ((True, (self.family.vmcores,)), (False, self.family.others)):
            # The patterns are ours and must be expanded by the guest's shell.
            script = (
                f'for f in {" ".join(patterns)}; do [ -e "$f" ] &&'
                ' printf "%s|%s|%s\\n" "$(stat -c "%s|%a|%U" "$f")" "$(stat -c %a "${f%/*}")" "$f"; done; true'
            )
            for line in shell.run(script).out.splitlines():
                size, mode, owner, directory_mode, path = line.split("|", 4)
                found[path] = FoundFile(
                    path=path,
                    size_bytes=int(size),
                    mode=int(mode, 8),
                    owner=owner,
                    directory_mode=int(directory_mode, 8),
                    final=final,
                )
        return found


def find_target(name: str, family: Family) -> LocalTarget:
    """A target by name; UsageError names the known ones."""
    if name not in TARGETS:
        raise UsageError(f"unknown target {name!r} (known: {', '.join(TARGETS)})")
    return LocalTarget(family)
