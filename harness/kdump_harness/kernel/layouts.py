"""Memory layouts of kernel drills, read from layouts.toml."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

from ..base import tables
from ..base.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One layout; layouts.toml describes the keys."""

    name: str
    meaning: str
    append: str = ""
    prepare: str = ""
    modules: tuple[str, ...] = ()
    la57: bool = False
    nodes: int = 0
    keep_mib: int = 0
    plug_mib: int = 0
    dimm_mib: int = 0
    device: str = ""
    emulated_only: bool = False


@functools.cache
def load_layouts() -> Mapping[str, Layout]:
    """Return all layouts by name."""
    rows = tables.load_rows(tables.package_path("kernel", "layouts.toml"), "layout", Layout)
    return {row.name: row for row in rows}


def find_layout(name: str) -> Layout:
    """Return a layout; UsageError names the known ones."""
    layouts = load_layouts()
    if name not in layouts:
        raise UsageError(f"unknown layout {name!r} (known: {', '.join(layouts)})")
    return layouts[name]
