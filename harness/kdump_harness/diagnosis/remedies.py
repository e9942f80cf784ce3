"""Choose and fill the remedy of a symptom: a command only where every value in it is known, else a sentence."""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ..base.crashkernel import Reservation, main_word

# Systems whose packages and boot parameters are changed in another way than their family's; the marks sign-* name them.
PLATFORMS = ("ostree", "sonic", "transactional", "nixos")
SIZE_GIVEN = "size-given"  # the sign that the log's crashkernel= is a plain size
KERNEL_LOG = "kernel-log"  # the sign that all lines may be of the kernel's own log
OPENED_DUMP = "opened-dump"
ANY = "any"  # a command that is the same for all families

# The value where neither the log nor the caller has one; None where a command needs the real one.
PLACEHOLDERS: dict[str, str | None] = {
    "kernel": "$(uname -r)",
    "crashkernel": "256M",
    "crashkernel_more": "512M",
    "crashkernel_size": "256M",
    "driver": None,
    "host": None,
}

_SIZE = re.compile(r"(\d{1,6})([MG])\b")
_HOST = re.compile(
    r"(?:connect to host|Could not resolve hostname|nfs: server) ([\w.:-]{1,80})"
    r"|[\w.-]{1,40}@([\w.-]{1,80})|mounting ([\w.-]{1,80}):/"
)
_DRIVER = re.compile(
    r"\[(\w{2,40})\]$|probe with driver (\w{2,40})|\b(\w{2,40}): probe of"
    r"|\b(mpt3sas|mpt2sas|megaraid_sas|nvme|ahci|qla2xxx|lpfc|hpsa|smartpqi|aacraid|mlx5_core|mlx4_core|bnx2x|ixgbe|i40e)\b"
)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """Another meaning or remedy of a symptom, for a log that shows all of the signs."""

    signs: tuple[str, ...]
    meaning: str = ""
    remedy: str = ""
    remedies: dict[str, str] = field(default_factory=dict)


def placeholders(remedy: str) -> set[str]:
    """Return the names of the placeholders in a remedy. Raise ValueError where its braces do not pair."""
    return {name for _, name, _, _ in string.Formatter().parse(remedy) if name is not None}


def filled(
    remedy: str,
    remedies: Mapping[str, str],
    *,
    families: Iterable[str],
    signs: Iterable[str],
    facts: Mapping[str, str | None],
) -> str:
    """Return the first remedy that can be filled: of the platform or the families, one for all, or the sentence."""
    values = {name: facts.get(name) or default for name, default in PLACEHOLDERS.items()}
    platform = next((name for name in PLATFORMS if name in signs), None)
    for name in (*((platform,) if platform else families), ANY):
        command = remedies.get(name)
        if command and all(values[placeholder] for placeholder in placeholders(command)):
            return command.format_map(values)
    return remedy.format_map(values)


def doubled(crashkernel: str) -> str | None:
    """Return the reservation with twice its main part as a plain size, or None when it cannot be read."""
    size = main_size(crashkernel)
    if size is None:
        return None
    return Reservation(crashkernel).with_main(f"{int(size[:-1]) * 2}{size[-1]}")


def main_size(crashkernel: str) -> str | None:
    """Return the size of the main part, the last one of ranges, or None when it cannot be read."""
    found = _SIZE.findall(main_word(Reservation(crashkernel).words) or "")
    return "".join(found[-1]) if found else None


def is_size(crashkernel: str) -> bool:
    """Return whether a value of crashkernel= is a plain size, and neither a list of ranges nor a word such as auto."""
    return re.match(r"\d{1,8}[KMG]?(,|@|$)", crashkernel) is not None


def host_in(text: str) -> str | None:
    """Return the machine that a line names as the target of the dump, or None."""
    found = _HOST.search(text)
    return next(filter(None, found.groups()), None) if found else None


def driver_in(text: str) -> str | None:
    """Return the driver that a line names, or None."""
    found = _DRIVER.search(text)
    return next(filter(None, found.groups()), None) if found else None
