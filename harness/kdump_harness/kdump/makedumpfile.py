"""The messages of makedumpfile on the console: its warnings, and the pages that it left out by its own count."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..base import tables
from ..base.tables import package_path
from .page_flags import CACHE, FREE, PRIVATE, USER, names_dropped_by

# The report of --message-level 16; classes in the words of page_flags, and sums.
_COUNTS = {
    "zero": "Pages filled with zero",
    CACHE: "Non-private cache pages",
    PRIVATE: "Private cache pages",
    USER: "User process data pages",
    FREE: "Free pages",
    "hwpoison": "Hwpoison pages",
    "offline": "Offline pages",
    "remaining": "Remaining pages",
}
_COUNT = re.compile(rf"({'|'.join(_COUNTS.values())})\s*: 0x([0-9a-fA-F]{{1,16}})\b")
# makedumpfile counts the classes of the same struct pages; a few of them change before it reads them.
SLACK_PAGES = 64


@dataclass(frozen=True, kw_only=True)
class Version:
    """A version of makedumpfile and the newest kernel that it knows."""

    version: str
    kernel: str


@dataclass(frozen=True, kw_only=True)
class Message:
    """A message that should make a reader of the dump careful."""

    pattern: str
    remark: str = ""


@functools.cache
def _table() -> tuple[dict[str, str], tuple[Message, ...]]:
    path = package_path("kdump", "makedumpfile.toml")
    data = tables.load_toml(path)
    versions = [tables.build(row, Version, where=f"{path.name}: [[version]]") for row in data["version"]]
    messages = tuple(tables.build(row, Message, where=f"{path.name}: [[message]]") for row in data["message"])
    return {row.version: row.kernel for row in versions}, messages


@dataclass(frozen=True, kw_only=True)
class Words:
    """The messages of one run of makedumpfile."""

    version: str | None
    latest_kernel: str | None  # that this version knows; None where the version is not in the table
    warnings: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    pages: Mapping[str, int] | None = None  # that it left out, by class, and those that remained; None without a report

    def to_json(self) -> dict[str, Any]:
        """Return the record in the form of JSON."""
        return {
            "version": self.version,
            "latest_kernel": self.latest_kernel,
            "warnings": list(self.warnings),
            "pages": dict(self.pages) if self.pages is not None else None,
        }

    def differences(self, classes: Mapping[str, Mapping[str, int]], level: int) -> Iterator[str]:
        """Yield a sentence for each class of which makedumpfile left out another number than the dump's pages show.

        CLASSES are the counts by the page structures in the dump.
        """
        for name in names_dropped_by(level):
            ours = classes.get(name.replace(" ", "_"))
            theirs = (self.pages or {}).get(name)
            if ours is not None and theirs is not None and abs(ours["total"] - theirs) > SLACK_PAGES:
                yield (
                    f"makedumpfile counted {theirs:,} {name} pages, the page structures in the dump"
                    f" have {ours['total']:,}"
                )


def read_words(console: str, version: str | None) -> Words:
    """Return the messages on the console of a capture kernel; VERSION is that of the guest's makedumpfile."""
    versions, messages = _table()
    warnings, remarks = [], []
    for line in console.splitlines():
        for message in messages:
            if found := re.search(message.pattern, line):
                warnings.append(found.string[found.start() :].strip()[:200])
                remarks += [message.remark.replace("{1}", found[1])] if message.remark else []
    counts = {label: int(number, 16) for label, number in _COUNT.findall(console)}
    return Words(
        version=version,
        latest_kernel=versions.get(version or ""),
        warnings=tuple(dict.fromkeys(warnings)),
        remarks=tuple(dict.fromkeys(remarks)),
        pages={name: counts[label] for name, label in _COUNTS.items() if label in counts} or None,
    )
