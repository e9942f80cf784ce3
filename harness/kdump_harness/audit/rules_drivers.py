"""The rule about drivers that fail in capture kernels, from the table drivers.toml."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..base import tables
from ..base.tables import package_path
from .facts import Facts
from .finding import Finding, risk


@dataclass(frozen=True, kw_only=True)
class Driver:
    """A driver with a report of its failure in a capture kernel."""

    module: str
    fails: str  # in a sentence
    source: str  # address of the report
    kernel_before: str = ""  # the first mainline release that has a correction
    machine: str = ""  # the only one that it fails on, as uname -m prints it


def load_drivers() -> tuple[Driver, ...]:
    """Return the rows of the table."""
    return tables.load_rows(package_path("audit", "drivers.toml"), "driver", Driver)


def drivers(facts: Facts) -> Iterator[Finding]:
    """Look for drivers that are loaded, and that the capture kernel may load, too."""
    running = set(facts.text("modules").split())
    arguments = facts.capture_arguments.replace("rd.driver.blacklist=", "module_blacklist=").split()
    kept_out = {
        name for word in arguments if word.startswith("module_blacklist=") for name in word.partition("=")[2].split(",")
    }
    for row in load_drivers():
        if row.machine and row.machine != facts.text("machine").strip():
            continue
        packed = not facts.contents or row.module in facts.contents
        fixed = row.kernel_before and _numbers(facts.state.kernel) >= _numbers(row.kernel_before)
        if row.module in running and packed and row.module not in kept_out and not fixed:
            yield risk(
                "driver-fails-in-capture", f"{row.module} is loaded: {row.fails} ({row.source})", driver=row.module
            )


def _numbers(version: str) -> tuple[int, ...]:
    parts = version.split("-")[0].split(".")[:2]
    return tuple(int(part) for part in parts if part.isdigit())
