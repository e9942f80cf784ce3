"""Remove confidential data: secrets in texts by redact.toml, pages of users by filtering the dump again."""

from __future__ import annotations

import functools
import re
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...base import tables
from ...distro.config_file import COMPRESS_FLAGS
from ...vmcore import inspect

_LEVEL = 31
_DROPPED = ("free", "cache", "cache_private", "user")
_LEFT_OUT = "[left out]"
_CPU_S = 3600
_ADDRESS_SPACE_BYTES = 8 << 30


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
    table = tables.load(tables.package_path("store", "bundles", "redact.toml"), _Rules)
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


def redact_text(text: str) -> tuple[str, dict[str, int]]:
    """Return the text without secrets, and how often each kind of them was left out."""
    counts: Counter[str] = Counter()
    for name, pattern in _rules():
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


def is_filtered(inspection: Mapping[str, Any]) -> bool:
    """Return whether a dump has no pages of users, as its level says and its own page structures confirm."""
    classes = inspection.get("classes") or {}
    return inspection.get("level") == _LEVEL and bool(classes) and not any(
        classes.get(name, {}).get("kept", 0) for name in _DROPPED
    )  # fmt: skip


def filter_again(dump: Path, to: Path, inspection: Mapping[str, Any]) -> str | None:
    """Write the dump at level 31 with this machine's makedumpfile; return the reason for a failure, or None."""
    flags = COMPRESS_FLAGS.get(str(inspection.get("header_compression")), "-c").split()
    command = [
        "prlimit", "--core=0", f"--cpu={_CPU_S}", f"--as={_ADDRESS_SPACE_BYTES}",
        f"--fsize={dump.stat().st_size + (64 << 20)}",
        "makedumpfile", *flags, "-d", str(_LEVEL), str(dump), str(to),
    ]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    except FileNotFoundError as error:
        return f"{error.filename} is not installed"
    if done.returncode != 0:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        return f"makedumpfile: {lines[-1].strip() if lines else f'status {done.returncode}'}"
    found = inspect(to)
    if not found.whole:
        return f"the dump that makedumpfile wrote is {found.judgement} ({found.why})"
    if not is_filtered(found.to_json()):
        return "the dump that makedumpfile wrote still has user pages, or its level is unknown"
    return None
