"""The signature of a crash: the top of its stack without the parts that differ between builds."""

from __future__ import annotations

import functools
import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ...base import tables
from ...diagnosis.lines import VARIABLE_NUMBER
from ...triage import Triage

_DEPTH = 4
_MAX_TRAITS = 200
_MAX_VALUE = 120
_OFFSET = re.compile(r"\+0x[0-9a-f]+(?:/0x[0-9a-f]+)?")
# GCC's and Clang's copies of a function: partly inlined, split, specialised.
_CLONE = re.compile(r"\.(?:cold|isra|part|constprop|llvm|lto_priv|localalias)(?:\.\d+)*")
_RIP = re.compile(r"(?:^|:)\s*([A-Za-z_][\w.]*)\+0x")
_STAMP = re.compile(r"^\[ *(\d+\.\d+)\](?: ?\[ *[TC]\d+\])? ?")


@dataclass(frozen=True, kw_only=True)
class _Noise:
    machinery: tuple[str, ...]
    bottom: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Trait:
    name: str
    pattern: str


@dataclass(frozen=True, kw_only=True)
class Signature:
    """A crash's name: key is short and for comparing, text is for people."""

    key: str
    text: str


def signature(crash: Triage) -> Signature | None:
    """Return the signature that crashes of one kind share; None where the dump does not give it."""
    frames = _frames(crash)
    parts = list(frames)
    if len(parts) < 2 and (kind := crash.reason or crash.panic):
        # One function (or none) is too little: a watchdog's is the same for all that it watches.
        parts.insert(
            0, VARIABLE_NUMBER.sub("#", kind.removeprefix("Kernel panic - not syncing: ")).strip()[:_MAX_VALUE]
        )
    if not parts:
        return None
    text = " < ".join(parts)
    return Signature(key=hashlib.sha256(text.encode()).hexdigest()[:10], text=text)


def _frames(crash: Triage) -> tuple[str, ...]:
    """Return the functions that crashed, the innermost first."""
    noise = _noise()
    names = list(_names(crash.stack))
    names = list(itertools.dropwhile(noise["machinery"].fullmatch, names))
    if (found := _RIP.search(crash.rip or "")) and not noise["machinery"].fullmatch(at := _CLONE.sub("", found[1])):
        # The log's trace of an oops begins with the caller; drgn's has the function itself.
        names = names if at in names[:1] else [at, *names]
    while names and noise["bottom"].fullmatch(names[-1]):
        names.pop()
    return tuple(names[:_DEPTH])


def _names(stack: Iterable[str]) -> Iterator[str]:
    """Yield the function names that every kernel build has; inlined ones depend on the compiler."""
    for frame in stack:
        where, _, more = frame.partition(" ")
        if not more.endswith("inlined)") and re.match(r"[A-Za-z_]", where):
            yield _CLONE.sub("", _OFFSET.sub("", where))


@functools.cache
def _noise() -> Mapping[str, re.Pattern[str]]:
    noise = tables.load(tables.package_path("store", "intake", "noise.toml"), _Noise)
    return {name: re.compile("|".join(words)) for name, words in vars(noise).items()}


@functools.cache
def _traits() -> Sequence[tuple[str, re.Pattern[str]]]:
    rows = tables.load_rows(tables.package_path("store", "intake", "traits.toml"), "trait", _Trait)
    return [(row.name, re.compile(row.pattern)) for row in rows]


def traits(log: str, crash: Triage) -> dict[str, str]:
    """Return possible causes of a crash: hardware, firmware and driver versions, modules from outside the kernel."""
    found: dict[str, str] = {}
    for line in log.splitlines():
        text = _STAMP.sub("", line[:1024], count=1)
        for name, pattern in _traits():
            if match := pattern.search(text):
                full = name.format(**match.groupdict())
                found.setdefault(full, match["value"].strip()[:_MAX_VALUE])
        if len(found) >= _MAX_TRAITS:
            break
    found |= {f"module {module.name}"[:_MAX_VALUE]: module.taints for module in crash.tainting_modules[:_MAX_TRAITS]}
    return found


def uptime_s(log: str) -> float | None:
    """Return how long the kernel had run when it wrote the last line of its log."""
    stamps = (_STAMP.match(line) for line in reversed(log.splitlines()))
    return next((float(stamp[1]) for stamp in stamps if stamp), None)
