"""Arguments that a drill adds to the command lines of the first and of the capture kernel."""

from __future__ import annotations

import re

from ..base.errors import UsageError

# Boot loaders and kdump's scripts pass the arguments through shells.
_REFUSED = {"\n": "a newline", '"': "a quote", "'": "a quote", "\\": "a backslash"}
_REFUSED_BY_SHELLS = {"$": "a dollar sign", "`": "a backtick", "&": "an ampersand", "#": "a hash sign"}
# Parameters that may be given several times, each with its effect.
_REPEATABLE = frozenset({
    "console", "earlycon", "earlyprintk", "memmap", "hugepages", "hugepagesz", "reserve_mem", "module_blacklist",
    "clearcpuid", "ip", "rd.driver.blacklist", "rd.driver.pre",
})  # fmt: skip


def check_arguments(option: str, text: str, *, shells: bool = True) -> None:
    """Raise UsageError for arguments that cannot be added to a command line; SHELLS handle it in a distribution."""
    refused = {**_REFUSED, **(_REFUSED_BY_SHELLS if shells else {})}
    if found := next((refused[character] for character in text if character in refused), None):
        raise UsageError(f"{option}: {text!r} cannot be added to a command line: it has {found}")
    if not text.isprintable() or not text.isascii():
        raise UsageError(f"{option}: {text!r} cannot be added to a command line: it is not printable ASCII")
    if any(_name(word) == "crashkernel" for word in text.split()):
        raise UsageError(f"{option} cannot set crashkernel= (--crashkernel does)")


def joined_arguments(*parts: str) -> str:
    """Return arguments one after the other, with single spaces."""
    return " ".join(" ".join(parts).split())


def not_in_force(option: str, asked: str, line: str) -> list[str]:
    """Return a sentence for each argument that a kernel with this command line does not follow."""
    words, sentences = line.split(), []
    for word in asked.split():
        if word not in words:
            sentences.append(f"{option}: {word} is not on the command line of the kernel")
            continue
        last = next(other for other in reversed(words) if _name(other) == _name(word))
        if last != word and last not in asked.split() and _name(word) not in _REPEATABLE:
            sentences.append(f"{option}: {last}, which follows on the command line, overrules {word}")
    return sentences


def _name(word: str) -> str:
    """Return the name of an argument; dashes and underscores are the same to the kernel."""
    return re.split("=", word, maxsplit=1)[0].replace("-", "_")
