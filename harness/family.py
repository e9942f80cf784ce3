"""What the kdump stacks of one distribution family differ in, read from families/*.toml."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field

from . import facts
from .errors import UsageError

# makedumpfile: -c is zlib, -l LZO, -p snappy, -z zstd; tutorials that call -l zlib are wrong.
COMPRESS_FLAGS: Mapping[str, str] = {"none": "", "zlib": "-c", "lzo": "-l", "snappy": "-p", "zstd": "-z"}
MAX_LEVEL = 31


@dataclass(frozen=True, kw_only=True)
class CollectorConfig:
    """How the options of makedumpfile are written."""

    collector: str
    pattern: str
    default: str


@dataclass(frozen=True, kw_only=True)
class Commands:
    """What is run in the guest."""

    refresh: str
    install: str
    enable: str
    reserve: str
    build: str
    arm: str
    status: str
    makedumpfile: str


@dataclass(frozen=True, kw_only=True)
class Bootloader:
    """The drop-in that adds kernel arguments."""

    file: str
    template: str
    none: str  # what takes every reservation away, also the packaged default


@dataclass(frozen=True, kw_only=True)
class ConsoleSigns:
    """What the capture kernel's userland prints at each step."""

    capturing: str
    dumping: str
    saved: str
    failed: str


@dataclass(frozen=True, kw_only=True)
class Family:
    """One family's kdump."""

    name: str
    os_ids: tuple[str, ...]
    packages: tuple[str, ...]
    service: str
    config_file: str
    coredir: str
    vmcores: str
    others: tuple[str, ...]
    dump_format: str
    crashkernel: str
    level: int
    compress: str
    compressors: tuple[str, ...]
    config: CollectorConfig
    commands: Commands
    bootloader: Bootloader
    console: ConsoleSigns
    drop_ins: Mapping[str, str] = field(default_factory=dict)  # files that make the defaults safe, by path
    notes: str = field(default="")


@functools.cache
def load_families() -> Mapping[str, Family]:
    """All families by name."""
    families = (facts.load(path, Family) for path in sorted(facts.package_path("families").glob("*.toml")))
    return {family.name: family for family in families}


def find_family(name: str) -> Family:
    """A family by name; UsageError names the known ones."""
    families = load_families()
    if name not in families:
        raise UsageError(f"unknown family {name!r} (known: {', '.join(families)})")
    return families[name]
