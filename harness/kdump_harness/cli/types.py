"""Types of options: each makes a value of an argument's text, or ArgumentTypeError in one sentence."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence

from ..base.foreign import whole_number

MAX_JOBS = 1000


def count(*, least: int = 0, most: int) -> Callable[[str], int]:
    """Return the type of whole numbers from LEAST to MOST."""

    def parse(text: str) -> int:
        number = whole_number(text, most=most)
        if number is None or number < least:
            raise argparse.ArgumentTypeError(f"invalid number: got {text[:100]}, expected {least} to {most}")
        return number

    return parse


def seconds(*, least: float, most: float) -> Callable[[str], float]:
    """Return the type of seconds from LEAST to MOST."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"invalid number of seconds: got {text}, expected {least:g} to {most:g}")
        return value

    return parse


def positive(text: str) -> float:
    """Return a positive number below one million."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def events(known: Sequence[str]) -> Callable[[str], list[str]]:
    """Return the type of lists of events, separated by commas."""

    def parse(text: str) -> list[str]:
        found = text.split(",")
        if unknown := [name for name in found if name not in known]:
            raise argparse.ArgumentTypeError(f"invalid event: got {unknown[0]!r}, expected {', '.join(known)}")
        return found

    return parse


def span(text: str) -> float:
    """Return the seconds of a time span: 90min, 36h, 3d, 2w."""
    sizes_s = {"min": 60, "h": 3600, "d": 86400, "w": 604800}
    found = re.fullmatch(r"([0-9]{1,6})(min|h|d|w)", text)
    if found is None or not int(found[1]):
        raise argparse.ArgumentTypeError(f"invalid time span: got {text[:100]}, expected as in 90min, 36h, 3d or 2w")
    return int(found[1]) * float(sizes_s[found[2]])


def mib(text: str) -> int:
    """Return a size in MiB: 2G, 1536M, or a plain number of MiB."""
    from ..base.crashkernel import parse_size_mib

    if not (size_mib := parse_size_mib(text)):
        raise argparse.ArgumentTypeError(f"invalid size: got {text}, expected as in 2G, 1536M, or 1536 for MiB")
    return size_mib


def jobs(text: str) -> int | None:
    """Return the number of jobs; None for auto."""
    if text == "auto":
        return None
    number = whole_number(text, most=MAX_JOBS)
    if not number:
        raise argparse.ArgumentTypeError(f"invalid number of jobs: got {text[:100]}, expected 1 to {MAX_JOBS}, or auto")
    return number


port = count(most=65535)
