"""The differences between distribution families' kdump, read from families/*.toml.

A family file has the values that most releases share, and [[release]] rows that replace some of them. The guest's
os-release selects the row, not the image's name.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..base import tables
from ..base.errors import TableError, UsageError
from ..configuration.own_tables import family_files
from .config_file import COLLECTORS, COMPRESS_FLAGS, MAX_LEVEL, SYNTAXES, ConfigFile

__all__ = ["COMPRESS_FLAGS", "MAX_LEVEL", "Family", "choose_release", "fill", "find_family", "load_families"]

# How far a row is known to be true, for docs/support.md.
SHOWN = {
    "image": "drilled on the image that the distribution publishes",
    "guest": "drilled on guests that were built from this release's packages",
    "code": "drilled with this release's kdump code in a guest of another distribution",
    "facts": "by documentation and source only, never driven",
}
_USUAL_MACHINE = "x86_64"
# The words that fill the settings of a target: where the dumps of the guest went before, a disk's mount point, and
# the collector's name, user, directory and the key that it knows the guest by.
TARGET_HOLES = frozenset(["before", "mount", "host", "user", "directory", "key"])
_HOLE = re.compile(r"(?<!\$)\{([a-z_]+)\}")  # ${name} is the shell's


def fill(template: str, **values: str) -> str:
    """Fill the {holes} of the template; other braces are the shell's and stay."""
    return _HOLE.sub(lambda hole: values.get(hole.group(1), hole.group()), template)


def _text(*holes: str, default: Any = dataclasses.MISSING) -> Any:
    """Declare a string of the table, with the holes that it may have."""
    return field(default=default, metadata={"holes": holes})


@dataclass(frozen=True, kw_only=True)
class Commands:
    """The commands run in the guest; an empty one is not needed or not available."""

    installed: str = _text("package")  # status 0 when it is
    install: str = _text("packages")
    enable: str = _text()
    build: str = _text("kernel")
    arm: str = _text()
    status: str = _text()
    makedumpfile: str = _text()
    refresh: str = _text(default="")
    install_from: str = _text("packages", "suite", default="")  # from a suite or repository that is not the usual one
    add_suite: str = _text("suite", default="")  # make that suite known, where it is not
    install_files: str = _text("files", default="")
    kernels: str = _text(default="ls -1 /boot | sed -n 's/^vmlinuz-//p'")  # the installed releases
    estimate: str = _text(default="")  # how much memory the guest's own tool would reserve
    contents: str = _text("initramfs", default="")  # list the files of a capture initramfs, with their sizes
    propagate: str = _text("key", "user", "host", default="")  # take the key to the SSH target


@dataclass(frozen=True, kw_only=True)
class Bootloader:
    """How kernel arguments are set, and what the distribution reserves by itself."""

    reserve: str = _text("arguments")
    default: str = _text(default="")  # run afterwards, for the distribution's own reservation
    none: str = _text(default="")  # run afterwards, to take every reservation away
    file: str = ""  # a drop-in that reserve reads, where there is such a thing
    template: str = _text("arguments", default="")
    choose: str = _text("kernel", default="")  # run before reserve: boot this one of the installed kernels
    without: str = _text(default="")  # beginning of the drop-in, which removes the reservations of other files
    configured: str = _text(default="")  # prints the configuration with the reservations that a drill replaces
    packaged: str = ""  # the reservation that the distribution comes with
    auto_kernels: str = ""  # pattern of the kernel releases that take crashkernel=auto; empty: upstream's refuse it
    auto_from_mib: int = 0  # the memory from which auto reserves any


@dataclass(frozen=True, kw_only=True)
class Dumps:
    """How dumps lie where they were written."""

    finished: tuple[str, ...] = _text("directory")
    unfinished: tuple[str, ...] = _text("directory")
    formats: Mapping[str, tuple[str, ...]]  # that a dump may have, by target
    companion: str = ""  # the file next to it without which a dump is not finished, whatever its name
    refuted: str = ""  # what the companion says of a dump that is not finished or not good


@dataclass(frozen=True, kw_only=True)
class TargetSettings:
    """The settings by which a family dumps to one kind of target."""

    settings: Mapping[str, str] = field(default_factory=dict)  # of the configuration file, by setting
    packages: tuple[str, ...] = ()  # in addition to the family's
    options: str = ""  # of makedumpfile, instead of the usual ones


@dataclass(frozen=True, kw_only=True)
class ConsoleSigns:
    """The patterns of what the capture kernel's userland prints at each step."""

    capturing: str
    dumping: str
    saved: str
    failed: str
    dump_silence_s: float = 0.0  # how long a good dump prints nothing, where that is longer than elsewhere; unscaled


@dataclass(frozen=True, kw_only=True)
class Measure:
    """Files by which a capture kernel reports its free memory; empty where a family cannot."""

    files: Mapping[str, str] = field(default_factory=dict)  # by path


@dataclass(frozen=True, kw_only=True)
class CaptureLine:
    """The configuration of the capture kernel's command line: a file of shell assignments."""

    file: str = ""
    append: str = ""  # key of the arguments that are added to it
    replace: str = ""  # key that replaces the arguments which the capture kernel inherits from the first kernel
    default: str = ""  # command that prints the value of a missing append
    added: str = ""  # arguments that kdump adds by itself where replace is empty


@dataclass(frozen=True, kw_only=True)
class Release:
    """Which guests a row is about."""

    name: str
    ids: tuple[str, ...]  # of os-release
    shown: str  # one of SHOWN
    since: str = ""  # VERSION_ID; 8 covers 8.10
    until: str = ""
    rolling: bool = False  # guests without a version, and IDs that no other row has
    probe: str = ""  # a command that succeeds in guests of this row, whatever their version

    def covers(self, version: tuple[int, ...]) -> bool:
        """Whether the version lies within the row's."""
        since, until = _version(self.since), _version(self.until)
        return since <= version[: len(since)] and version[: len(until)] <= until


@dataclass(frozen=True, kw_only=True)
class Family:
    """One family's kdump, or that of one of its releases."""

    name: str
    os_ids: tuple[str, ...]  # of os-release's ID and ID_LIKE, in addition to those of the rows
    packages: tuple[str, ...]
    package_suffix: str  # of package files
    kernel_package: str  # the usual one
    service: str
    crashkernel: str
    level: int
    compress: str
    config: ConfigFile
    commands: Commands
    bootloader: Bootloader
    dumps: Dumps
    console: ConsoleSigns
    targets: Mapping[str, TargetSettings]
    load_timeout_s: float = 60.0  # from the login prompt until the capture kernel is loaded; unscaled
    too_small_mib: int = 0  # the largest reservation that ran out of memory in guests with few devices; 0: unknown
    suites: str = ""  # what a word for a kernel looks like that is a suite and not a package
    updates: tuple[str, ...] = ()  # units that change packages by themselves, in the middle of a drill
    capture_initramfs: tuple[str, ...] = _text("kernel", default=())  # where it may be, by kernel release
    initramfs_opens: str = "target"  # what the capture initramfs itself must reach: "root" or "target"
    mounts_target: bool = True  # its programs mount a disk for dumps that is not mounted, to look at it
    suggestion: str = ""  # where the estimate command prints MiB; several numbers are added
    drop_ins: Mapping[str, str] = field(default_factory=dict)  # files that make the defaults safe, by path
    measure: Measure = field(default_factory=Measure)
    capture_line: CaptureLine = field(default_factory=CaptureLine)
    notes: str = ""
    release: str = ""  # the row that was chosen; empty for the family as such
    releases: tuple[tuple[Release, Family], ...] = ()

    @property
    def known_ids(self) -> frozenset[str]:
        """The distributions that are of this family."""
        return frozenset(self.os_ids).union(*(release.ids for release, _ in self.releases))


# ---------------------------------------------------------------- which release a guest is


def choose_release(
    family: Family, os_release: Mapping[str, str], holds: Callable[[str], bool] = lambda _probe: False
) -> tuple[Family, str | None]:
    """Return the family for a guest with this os-release, and a remark when only the nearest release is known.

    holds() runs a probe in the guest. An ID without a row is replaced by its ID_LIKE.
    """
    identity, version = os_release.get("ID", ""), _version(os_release.get("VERSION_ID", ""))
    guest = os_release.get("PRETTY_NAME") or f"{identity} {os_release.get('VERSION_ID', '')}".strip() or "this guest"
    rows: list[tuple[Release, Family]] = []
    taken_for = identity
    for taken_for in (identity, *os_release.get("ID_LIKE", "").split()):
        if rows := [row for row in family.releases if taken_for in row[0].ids]:
            break
    exact = taken_for == identity and bool(rows)
    for release, driven in rows:
        if release.probe and holds(release.probe):
            return driven, None if exact else _remark(guest, family, release)
    plain = [row for row in rows if not row[0].probe] or [row for row in family.releases if not row[0].probe]
    numbered = [row for row in plain if row[0].since]
    rolling = [row for row in plain if row[0].rolling]
    fits = [row for row in numbered if version and row[0].covers(version)]
    if exact and not fits and rolling and (not version or not numbered):
        fits = rolling
    release, driven = fits[0] if fits else _nearest(numbered, rolling, version)
    return driven, None if exact and fits else _remark(guest, family, release)


def _nearest(
    numbered: list[tuple[Release, Family]], rolling: list[tuple[Release, Family]], version: tuple[int, ...]
) -> tuple[Release, Family]:
    """Return the nearest row below a version; the oldest row where every row is newer."""
    by_age = sorted(numbered, key=lambda row: _version(row[0].since))
    below = [row for row in by_age if version and _version(row[0].since) <= version]
    if not version or len(below) == len(by_age):
        return rolling[0] if rolling else by_age[-1]
    return below[-1] if below else by_age[0]


def _remark(guest: str, family: Family, release: Release) -> str:
    return f"{guest} is not in the table of the family {family.name}: driven as {release.name}, the nearest in it"


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text))


# ---------------------------------------------------------------- tables


def load_families() -> Mapping[str, Family]:
    """All families by name: those of the harness and of the user; an invalid own file is left out."""
    return {name: family for name, path in family_files().items() if isinstance(family := _loaded(name, path), Family)}


def _loaded(name: str, path: Path, machine: str = _USUAL_MACHINE) -> Family | TableError:
    return _parsed(name, path, path.stat().st_mtime_ns, machine)


@functools.lru_cache(maxsize=64)
def _parsed(name: str, path: Path, _changed_ns: int, machine: str) -> Family | TableError:
    """Return a family, or the error in its file."""
    try:
        family = load_family(path, machine)
        if family.name != name:
            raise TableError(f"{path}: name must be {name!r}, as the file is, not {family.name!r}")
    except TableError as error:
        if path.is_relative_to(tables.package_path()):
            raise
        return error
    return family


def find_family(name: str, machine: str = _USUAL_MACHINE) -> Family:
    """Find a family by name, for guests whose `uname -m` is MACHINE; UsageError names the known ones."""
    files = family_files()
    if name not in files:
        raise UsageError(f"unknown family {name!r} (known: {', '.join(load_families())})")
    family = _loaded(name, files[name], machine)
    if isinstance(family, TableError):
        raise family
    return family


def load_family(path: Path, machine: str = _USUAL_MACHINE) -> Family:
    """Read a family and its releases, with the values of [machine.MACHINE]; TableError names file, row and key."""
    table = _with_base(tables.load_toml(path), path)
    rows = table.pop("release", None)
    machines = table.pop("machine", {})
    if not isinstance(machines, dict) or not all(isinstance(part, dict) for part in machines.values()):
        raise TableError(f"{path.name}: machine must be a table of tables, [machine.NAME]")
    of_machine = machines.get(machine, {})
    if not isinstance(rows, list) or not rows:
        raise TableError(f"{path.name}: missing release, an array of tables [[release]]")
    base = _family(table, where=path.name)
    own = {
        name: _family(_merge(table, part), where=f"{path.name}: [machine.{name}]") for name, part in machines.items()
    }
    base = own.get(machine, base)
    releases = []
    replaced: dict[str, dict[str, Any]] = {}  # by the row's name
    for number, row in enumerate(rows, start=1):
        where = f"{path.name}: [[release]] {row.get('name', number)}"
        head = {field.name for field in dataclasses.fields(Release)}
        release = tables.build({key: value for key, value in row.items() if key in head}, Release, where=where)
        if fault := _fault(release):
            raise TableError(f"{where}: {fault}")
        changes = {key: value for key, value in row.items() if key not in (*head, "like")}
        if like := row.get("like"):
            if like not in replaced:
                raise TableError(f"{where}: like must be the name of a row above, got {like!r}")
            changes = _merge(replaced[like], changes)
        replaced[release.name] = changes
        driven = _family(_merge(_merge(table, changes), of_machine), where=where)
        releases.append((release, dataclasses.replace(driven, release=release.name)))
    return dataclasses.replace(base, releases=tuple(releases))


def _with_base(table: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return the table merged into that of the family which its key `like` names."""
    if (like := table.pop("like", None)) is None:
        return table
    files = {name: file for name, file in family_files().items() if file != path}
    if like not in files:
        raise TableError(f"{path.name}: like must be one of {', '.join(files)}, not {like!r}")
    base = tables.load_toml(files[like])
    if "like" in base:
        raise TableError(f"{path.name}: like must name a family that has no like, unlike {like!r}")
    return _merge(base, table)


def _fault(release: Release) -> str | None:
    """Return the fault of a row, starting with the key; None for a valid row."""
    if release.shown not in SHOWN:
        return f"shown must be one of {', '.join(SHOWN)}, not {release.shown!r}"
    if bool(release.since) != bool(release.until):
        return "since and until must be there both, or neither"
    if [bool(release.since), release.rolling, bool(release.probe)].count(True) != 1:
        return "since with until, rolling or probe must be there, and one of them only"
    return None


def _merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Apply the changes to the base; tables are merged, anything else is replaced."""
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _family(table: Mapping[str, Any], *, where: str) -> Family:
    for key in ("release", "releases"):
        if key in table:
            raise TableError(f"{where}: unknown {key}")
    family = tables.build(dict(table), Family, where=where)
    for key, value, known in (
        ("syntax", family.config.syntax, SYNTAXES),
        ("collector", family.config.collector, COLLECTORS),
    ):
        if value not in known:
            raise TableError(f"{where}: [config]: {key} must be one of {', '.join(known)}, not {value!r}")
    if family.compress not in family.config.compressions:
        raise TableError(f"{where}: compress must be one of {', '.join(family.config.compressions)}")
    for part, patterns in (
        ("console", {key: value for key, value in vars(family.console).items() if isinstance(value, str)}),
        ("config", {"off": family.config.off, "waits": family.config.waits}),
        ("dumps", {"refuted": family.dumps.refuted}),
        ("", {"suggestion": family.suggestion, "suites": family.suites}),
    ):
        for key, pattern in patterns.items():
            try:
                re.compile(pattern)
            except re.error as error:
                raise TableError(
                    f"{where}: {f'[{part}]: ' if part else ''}{key} is not a regular expression: {error}"
                ) from None
    for name in ("config", "commands", "bootloader", "dumps"):
        _check_holes(getattr(family, name), where=f"{where}: [{name}]")
    _check_targets(family, where)
    return family


def _check_targets(family: Family, where: str) -> None:
    """Raise TableError for a target with an unknown setting or an unknown {word}."""
    for name, target in family.targets.items():
        for setting, text in target.settings.items():
            if setting not in family.config.keys:
                known = ", ".join(family.config.keys)
                raise TableError(f"{where}: [targets.{name}]: settings: unknown {setting} (known: {known})")
            if unknown := set(_HOLE.findall(text)) - TARGET_HOLES:
                known = ", ".join(f"{{{hole}}}" for hole in sorted(TARGET_HOLES))
                raise TableError(
                    f"{where}: [targets.{name}]: settings: {setting}: unknown {{{min(unknown)}}} (known: {known})"
                )


def _check_holes(part: Any, *, where: str) -> None:
    """Raise TableError for a {word} that is never filled."""
    for one in dataclasses.fields(part):
        if "holes" not in one.metadata:
            continue
        value = getattr(part, one.name)
        for text in (value,) if isinstance(value, str) else value:
            for hole in _HOLE.findall(text):
                if hole not in one.metadata["holes"]:
                    known = ", ".join(f"{{{name}}}" for name in one.metadata["holes"]) or "none"
                    raise TableError(f"{where}: {one.name}: unknown {{{hole}}} (known: {known})")
