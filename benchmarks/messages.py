"""Lists the failure messages of the stacks' sources that no symptom knows, and the patterns that no source prints.

Usage: python benchmarks/messages.py [--smoke] [DIR...]

DIR is a checkout of kdump-utils, openSUSE's kdump, kdump-tools, kexec-tools or makedumpfile, or a folder of checkouts.
Without DIR nothing is compared.
messages.toml has the reason for each message that needs no symptom. The exit status is 1 if there is one without both.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kdump_harness.base import tables
from kdump_harness.diagnosis import load_symptoms
from kdump_harness.diagnosis.patterns import literals
from kdump_harness.diagnosis.table import load_marks

REASONS = Path(__file__).with_suffix(".toml")
# The functions by which shell scripts and C++ of the three stacks report a failure.
_SHELL = re.compile(
    r"^[^#\n]*?\b(?:derror|dwarn|dwarning|dfatal|perror|perror_exit|log_failure_msg|log_warning_msg|die|warn|KError|"
    r"KSystemError|KELFError|KNetError|FatalError)[ (]+([\"'])((?:\\.|(?!\1).)+)\1",
    re.MULTILINE,
)
_ECHO = re.compile(r"^[^#\n]*?\becho (?:>&2 )?\s*(?:-e |-n )?([\"'])((?:\\.|(?!\1).)+)\1([^\n]*)$", re.MULTILINE)
_C = re.compile(r"\b(?:ERRMSG|die|fprintf\(stderr,)\s*\(?\s*\"((?:\\.|[^\"\\])+)\"")
_FAILURE = re.compile(
    r"(?i)\b(fail(ed|ure)?|error|errors|fatal|cannot|can't|could not|unable|invalid|not (found|supported|set|reserved|"
    r"available|executable|writable|ready|mounted|sane)|missing|no such|unknown|wrong|bad)\b"
)
_VARIABLE = re.compile(r"\$\{[^}]*\}|\$\([^)]*\)|\$[A-Za-z_]\w*|\$\d|%-?[0-9.l]*[a-zA-Z]|`[^`]*`")
_PROGRESS = (
    "armed",
    "saved",
    "save-failed",
    "dump-start",
    "vmcore-start",
    "dmesg-start",
    "dumpfile-complete",
    "shutdown",
)
_VALUES = ("7", "/boot/x7", "user@host:/x7", "x7")
_SKIPPED = re.compile(r"(^|/)(tests?|spec|spec_helper|doc|docs|\.git|packaging|tools|kernel-tests-plans|util_lib)(/|$)")


@dataclass(frozen=True, kw_only=True)
class Reason:
    """A row of messages.toml: messages that need no symptom, or patterns that no checkout prints."""

    why: str
    messages: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()


def sources(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield the files of programs below a folder, with their text."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink() and not _SKIPPED.search(str(path.relative_to(folder))):
            text = path.read_bytes()[:1_000_000]
            if b"\0" not in text and (path.suffix in (".sh", ".c", ".h", ".cc") or text.startswith(b"#!")):
                yield path, text.decode("utf-8", "replace")


def messages(path: Path, text: str) -> Iterator[str]:
    """Yield the failure messages of one file."""
    if path.suffix in (".c", ".h"):
        yield from (found[1].replace("\\n", " ").strip() for found in _C.finditer(text))
        return
    yield from (found[2] for found in _SHELL.finditer(text))
    for found in _ECHO.finditer(text):
        if ">&2" in found[0] or _FAILURE.search(found[2]):
            yield found[2]


def samples(message: str) -> list[str]:
    """Return the message as it may be printed, with several values for its variables."""
    plain = re.sub(r"\\(.)", r"\1", message).strip()
    return ["kdump: " + _VARIABLE.sub(value, plain) for value in _VALUES]


def is_known(message: str) -> bool:
    """Return whether a symptom, or a mark of progress, fits the message."""
    lines = samples(message)
    every = (*load_symptoms().matchers, *(matcher for mark, matcher in load_marks() if mark.name in _PROGRESS))
    return any(pattern.regex.search(line) for matcher in every for pattern in matcher.patterns for line in lines)


def unprinted(texts: list[str], reasons: tuple[Reason, ...]) -> Iterator[str]:
    """Yield the patterns of which no source has a literal, but for the rows that have a reason."""
    excused = {row for reason in reasons for row in reason.rows}
    everything = "\n".join(texts)
    table = load_symptoms()
    for row in table.rows:
        for text in row.patterns if row.name not in excused else ():
            # A variable may cut a literal, so its longest word decides.
            if not any(max(re.findall(r"\w+", one), key=len, default=one) in everything for one in literals(text)):
                yield f"{row.name}: {text}"


def report(folders: list[Path]) -> int:
    """Print both lists, and return how many messages have neither a symptom nor a reason."""
    reasons = tables.load_rows(REASONS, "reason", Reason)
    unknown: dict[str, str] = {}
    texts: list[str] = []
    counts = {"known": 0, "excused": 0}
    for folder in folders:
        for path, text in sources(folder):
            texts.append(text)
            for message in messages(path, text):
                if is_known(message):
                    counts["known"] += 1
                elif any(re.search(pattern, message) for reason in reasons for pattern in reason.messages):
                    counts["excused"] += 1
                else:
                    unknown.setdefault(message, f"{path.relative_to(folder)}: {message}")
    print(f"{counts['known']} messages have a symptom or a mark, {counts['excused']} a reason, {len(unknown)} neither:")
    for place in unknown.values():
        print(f"  {place}")
    lost = list(unprinted(texts, reasons))
    print(f"{len(lost)} patterns are in none of the {len(texts)} files:")
    for pattern in lost:
        print(f"  {pattern}")
    return len(unknown)


def main() -> int:
    """Compare the sources with the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="read a small script instead of checkouts")
    parser.add_argument("folder", metavar="DIR", nargs="*", type=Path, help="checkouts of the stacks' sources")
    arguments = parser.parse_args()
    if arguments.folder:
        return min(1, report(arguments.folder))
    if not arguments.smoke:
        print("nothing compared: no DIR with checkouts of the stacks' sources (make bench STACKS=DIR)", file=sys.stderr)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "kdumpctl")
        script.write_text('#!/bin/bash\nderror "No memory reserved for crash kernel"\nderror "Failed to $1 the moon"\n')
        return 0 if report([Path(folder)]) == 1 else 1


if __name__ == "__main__":
    sys.exit(main())
