"""Secrets in texts, which redact.toml describes, are left out."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any

from ..base import tables

COMMAND_LINES = ("kernel command lines", "command lines of users")  # kinds that evidence of kdump needs
_LEFT_OUT = "[left out]"


@dataclass(frozen=True, kw_only=True)
class _Rule:
    name: str
    pattern: str


@dataclass(frozen=True, kw_only=True)
class _Rules:
    word: str
    value: str
    rest: str
    rule: tuple[_Rule, ...]


@functools.cache
def _rules() -> Sequence[tuple[str, re.Pattern[str]]]:
    table = tables.load(tables.package_path("redaction", "redact.toml"), _Rules)
    compiled = []
    for rule in table.rule:
        pattern = rule.pattern
        for part in ("word", "value", "rest"):
            pattern = pattern.replace(f"@{part}@", getattr(table, part))
        compiled.append((rule.name, re.compile(pattern)))
    return compiled


def kinds() -> list[str]:
    """Return the kinds of secrets that are looked for."""
    return list(dict.fromkeys(name for name, _ in _rules()))


def redact_text(text: str, *, keep: Container[str] = ()) -> tuple[str, dict[str, int]]:
    """Return the text without secrets, except those of kinds to keep, and how often each kind was left out."""
    counts: Counter[str] = Counter()
    for name, pattern in _rules():
        if name in keep:
            continue
        text = pattern.sub(functools.partial(_without_secret, name, counts), text)
    return text, dict(counts)


def _without_secret(name: str, counts: Counter[str], match: re.Match[str]) -> str:
    """Return the match without its secret; a part that another rule has left out counts once."""
    start, end = match.span("secret")
    if start == end or match.string.startswith(_LEFT_OUT, start):
        return match[0]
    counts[name] += 1
    return match.string[match.start() : start] + _LEFT_OUT + match.string[end : match.end()]


def redact_json(value: Any, counts: Counter[str]) -> Any:
    """Return the same structure with its texts redacted; counts is added to."""
    if isinstance(value, str):
        text, found = redact_text(value)
        counts.update(found)
        return text
    if isinstance(value, dict):
        return {key: redact_json(each, counts) for key, each in value.items()}
    if isinstance(value, list):
        return [redact_json(each, counts) for each in value]
    return value
