"""Write the help texts of all verbs to tests/cli/golden: python docs/generate/help_texts.py."""

from __future__ import annotations

import argparse
import functools
import os
from collections.abc import Iterator
from pathlib import Path

from kdump_harness.__main__ import make_parser

GOLDEN = Path(__file__).parents[2] / "tests" / "cli" / "golden"
COLUMNS = 100


@functools.cache
def help_texts() -> dict[str, str]:
    """Return the help of the command, of each verb and of each action, by the words before --help."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(COLUMNS)
    try:
        return {parser.prog: parser.format_help() for parser in _parsers(make_parser())}
    finally:
        os.environ.pop("COLUMNS")
        if before is not None:
            os.environ["COLUMNS"] = before


def _parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for one in action.choices.values():
                yield from _parsers(one)


def file_of(words: str) -> Path:
    """Return the file that holds the help of a verb."""
    return GOLDEN / f"{words.replace(' ', '-')}.txt"


def main() -> None:
    """Write all files, and remove those of verbs that do not exist any more."""
    GOLDEN.mkdir(exist_ok=True)
    texts = help_texts()
    for path in set(GOLDEN.glob("*.txt")) - set(map(file_of, texts)):
        path.unlink()
    for words, text in texts.items():
        file_of(words).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
