"""The syntax of crashkernel=: what a parameter reserves on a machine of some size, and how ranges are written.

Source: kernel/crash_reserve.c (parse_crashkernel), Documentation/admin-guide/kdump/kdump.rst.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_UNITS_MIB = {"": 1 / (1 << 20), "K": 1 / 1024, "M": 1, "G": 1024, "T": 1024 * 1024}
_SIZE = r"(\d+)([KMGT]?)"
_RANGE = re.compile(rf"{_SIZE}-(?:{_SIZE})?:{_SIZE}", re.IGNORECASE)
_PLAIN = re.compile(rf"{_SIZE}(?:@{_SIZE}|,high)?", re.IGNORECASE)

_ARGUMENT = re.compile(r"[\w@,:.+-]+")


@dataclass(frozen=True)
class Reservation:
    """A reservation as the user names it: a value of crashkernel=, "none" or "default" (the distribution's)."""

    text: str | None

    @property
    def none(self) -> bool:
        """Whether no memory shall be reserved."""
        return self.text == "none"

    @property
    def distribution_default(self) -> bool:
        """Whether the distribution decides, and not the harness."""
        return self.text == "default"

    @property
    def size(self) -> str | None:
        """Return the value of crashkernel=; None where the harness writes none."""
        return None if self.none or self.distribution_default else self.text

    @property
    def valid(self) -> bool:
        """Whether the text can be a kernel argument."""
        return self.text is None or _ARGUMENT.fullmatch(self.text) is not None


def reserved_mib(parameter: str, memory_mib: int) -> int | None:
    """Return the MiB that the parameter reserves with this much memory, 0 for none; None for an unknown syntax."""
    if plain := _PLAIN.fullmatch(parameter):
        return int(_mib(plain.group(1), plain.group(2)))
    for part in parameter.partition("@")[0].split(","):
        found = _RANGE.fullmatch(part)
        if found is None:
            return None
        start, end = _mib(found.group(1), found.group(2)), found.group(3)
        if start <= memory_mib and (end is None or memory_mib < _mib(end, found.group(4))):
            return int(_mib(found.group(5), found.group(6)))
    return 0


def ranges(sizes: Mapping[int, int]) -> str:
    """The parameter that reserves so many MiB from each memory size (MiB) on, up to the next."""
    steps: list[tuple[int, int]] = []
    for memory_mib in sorted(sizes):
        most = max(sizes[memory_mib], steps[-1][1] if steps else 0)  # more memory never gets less
        if not steps or most > steps[-1][1]:
            steps.append((memory_mib, most))
    ends = [_size(start) for start, _ in steps[1:]] + [""]
    return ",".join(f"{_size(start)}-{end}:{mib}M" for (start, mib), end in zip(steps, ends, strict=True))


def parse_size_mib(text: str) -> int | None:
    """Return the MiB of a size like 512M or 2G (MiB without a unit); None for an invalid size."""
    found = re.fullmatch(r"(\d{1,7})([MG]?)(?:iB|B)?", text.strip(), re.IGNORECASE)
    return int(found.group(1)) * (1024 if found.group(2).upper() == "G" else 1) if found else None


def _mib(number: str, unit: str | None) -> float:
    return int(number) * _UNITS_MIB[(unit or "").upper()]


def _size(mib: int) -> str:
    return f"{mib // 1024}G" if mib % 1024 == 0 else f"{mib}M"
