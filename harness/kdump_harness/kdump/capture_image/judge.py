"""The judgement of a capture initramfs: what the stack below root or dump target needs, and what is missing.

It works on facts, wherever they are from: a running guest, a host, or a disk that is off. A module that is built in, or
that the machine does not use, is never missed.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

from ...base import tables
from ...base.errors import TableError
from ...distro.family import fill

ROOT, TARGET = "root", "target"  # the places that a capture kernel may have to reach
_MODULE = re.compile(r"(?:usr/)?lib/modules/.*/([^/]+)\.ko(?:\.\w+)?")
_PROGRAMS = re.compile(r"(?:usr/)?(?:s?bin|lib/systemd)/([^/]+)")

_KERNEL_KIB = 48 << 10  # of a reservation, for the kernel's image and page structures: 54 MiB of 256 MiB in Debian 12


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A row of pieces.toml."""

    name: str
    sign: str
    modules: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()
    packages: Mapping[str, str] = field(default_factory=dict)
    refused: tuple[str, ...] = ()
    limits: Mapping[str, str] = field(default_factory=dict)
    lifted: tuple[str, ...] = ()
    sure: bool = True
    instead: str = ""
    symptom: str = "capture-no-root-device"


@dataclass(frozen=True, kw_only=True)
class Remedy:
    """The steps of a family about what is missing."""

    family: str
    module: str
    program: str
    argument: str
    key: str


@dataclass(frozen=True, kw_only=True)
class ImageFacts:
    """The facts about a machine and its capture initramfs."""

    family: str
    kernel: str  # release of the capture kernel
    opens: str  # the place that the initramfs itself must reach: ROOT or TARGET
    files: frozenset[str]  # paths in the initramfs; empty where it cannot be listed
    loadable: frozenset[str]  # modules of that kernel that are not built in
    stacks: Mapping[str, tuple[str, ...]]  # the lines of probe.sh by place, without the place
    arguments: str = ""  # of the capture kernel, also those that it inherits
    fixed_kib: int | None = None  # memory of the capture kernel
    least_mib: int = 0  # room below which no dump stays

    def to_json(self) -> dict[str, Any]:
        """Return the facts as a JSON object."""
        return {**vars(self), "files": sorted(self.files), "loadable": sorted(self.loadable)}


@dataclass(frozen=True, kw_only=True)
class Lack:
    """One thing because of which the capture kernel will not reach root or target."""

    place: str
    piece: str
    lacks: str  # such as: module ahci
    remedy: str
    symptom: str = "capture-no-root-device"  # the name of what a crash would show
    sure: bool = True  # False if the machine's state at the crash decides

    def __str__(self) -> str:
        where = "the root filesystem" if self.place == ROOT else "the dump target"
        return f"{self.piece} of {where}: {self.lacks}"


def judge(facts: ImageFacts) -> list[Lack]:
    """Return all that is missing, without repetitions.

    An initramfs that opens the target mounts nothing else; a system that is booted needs its root, too.
    """
    lacks: dict[tuple[str, str], Lack] = {}
    for place, lines in facts.stacks.items():
        if place == ROOT and facts.opens == TARGET:
            continue
        found = _missing(facts, place, lines) if place == facts.opens and facts.files else []
        for lack in (
            *found,
            *_forbidden(facts, place, lines),
            *_limits(facts, place, lines),
            *_unreachable(facts, place, lines),
        ):
            lacks.setdefault((lack.lacks, lack.remedy), lack)
    return list(lacks.values())


def needed_modules(lines: tuple[str, ...]) -> dict[str, str]:
    """Return the modules that a stack needs, each with the piece that needs it."""
    wanted = {_plain(line.split()[1]): "the hardware" for line in lines if line.startswith("driver ")}
    wanted |= {_plain(line.split()[1]): "the filesystem" for line in lines if line.startswith("fs ")}
    for piece in _pieces_of(lines):
        wanted |= {_plain(module): piece.name for module in piece.modules}
    return wanted


def _missing(facts: ImageFacts, place: str, lines: tuple[str, ...]) -> list[Lack]:
    """Return the modules and programs that the initramfs lacks."""
    there = {_plain(found[1]) for found in map(_MODULE.fullmatch, facts.files) if found}
    programs = {found[1] for found in map(_PROGRAMS.fullmatch, facts.files) if found}
    lacks = [
        _lack(facts, place, piece, f"the capture initramfs lacks the module {module}", "module")
        for module, piece in needed_modules(lines).items()
        if module in facts.loadable and module not in there
    ]
    for piece in _pieces_of(lines):
        for choice in piece.programs:
            if not programs.intersection(choice.split("|")):
                name = choice.partition("|")[0]
                what = f"the capture initramfs lacks the program {name}"
                package = piece.packages.get(facts.family, name)
                lacks.append(_lack(facts, place, piece.name, what, "program", package=package))
    return lacks


def _forbidden(facts: ImageFacts, place: str, lines: tuple[str, ...]) -> list[Lack]:
    """Return the arguments of the capture kernel that disable a piece."""
    return [
        _lack(facts, place, piece.name, f"the capture kernel is started with {argument}", "argument", argument=argument)
        for piece in _pieces_of(lines)
        for argument in piece.refused
        if argument in facts.arguments.split()
    ]


def _limits(facts: ImageFacts, place: str, lines: tuple[str, ...]) -> list[Lack]:
    """Return the pieces that the family's own kdump cannot reach."""
    given = set(facts.arguments.replace("-", "_").split())
    return [
        Lack(place=place, piece=piece.name, lacks=limit, remedy=piece.instead, symptom=piece.symptom, sure=piece.sure)
        for piece in _pieces_of(lines)
        if (limit := piece.limits.get(facts.family) or piece.limits.get("any")) and not given.intersection(piece.lifted)
    ]


def _unreachable(facts: ImageFacts, place: str, lines: tuple[str, ...]) -> list[Lack]:
    """Return the reasons why a boot of the whole system does not open the place by itself."""
    said = {
        line.split()[0]: line.split()[1:] for line in lines if line.startswith(("luks-", "unmounted", "stale", "free"))
    }
    found = []
    if (key := said.get("luks-key")) and "luks-token" not in said:
        if key[0] in ("none", "absent") or "noauto" in key:
            why = "its key is not on this machine, and a capture kernel cannot ask for a passphrase"
            remedy = "add a key file to /etc/crypttab, or choose another dump target"
            found.append(Lack(place=place, piece="LUKS", lacks=why, remedy=remedy, symptom="luks-target"))
        elif (need := said.get("luks-memory")) and facts.fixed_kib and int(need[0]) > facts.fixed_kib - _KERNEL_KIB:
            why = (
                f"its key takes {int(need[0]) >> 10} MiB (Argon2), and of the {facts.fixed_kib >> 10} MiB that are"
                f" reserved the capture kernel itself takes {_KERNEL_KIB >> 10} MiB or more"
            )
            remedy = (
                "reserve more memory, or add the key with less: cryptsetup luksAddKey --pbkdf-memory 65536 (or --pbkdf"
                " pbkdf2), and remove the old one"
            )
            found.append(Lack(place=place, piece="LUKS", lacks=why, remedy=remedy, symptom="luks-memory"))
        elif place == facts.opens and facts.files and not _has_key(facts.files, key[0]):
            lack = _lack(facts, place, "LUKS", f"the capture initramfs lacks the key file {key[0]}", "key", key=key[0])
            found.append(replace(lack, symptom="luks-target"))
    if facts.opens == ROOT and (stale := said.get("stale")):
        why = f"the capture initramfs is older than {stale[0]}, so the array is not named as in /etc/fstab"
        found.append(_lack(facts, place, "RAID", why, "module"))
    if place == TARGET and (free := said.get("free")) and int(free[0]) >> 10 < facts.least_mib:
        why = f"{int(free[0]) >> 10} MiB are free, and the dump needs {facts.least_mib} MiB at the least"
        remedy = f"free {facts.least_mib} MiB or more there, or choose another dump target"
        found.append(Lack(place=place, piece="the room", lacks=why, remedy=remedy, symptom="target-no-space"))
    if place != facts.opens and (mount := said.get("unmounted")):
        why = f"nothing mounts {mount[0]} at the next boot, so the dump goes to the filesystem below it"
        remedy = f"add {mount[0]} to /etc/fstab, without noauto"
        found.append(Lack(place=place, piece="the mount", lacks=why, remedy=remedy, symptom="target-not-mounted"))
    return found


def _has_key(files: frozenset[str], key: str) -> bool:
    """Return whether an initramfs has a key file, at its own path or where Debian's cryptsetup puts all of them."""
    return key.lstrip("/") in files or any(name.startswith("cryptroot/keyfiles/") for name in files)


def _lack(facts: ImageFacts, place: str, piece: str, lacks: str, kind: str, **words: str) -> Lack:
    remedy = load_remedies().get(facts.family)
    template = str(getattr(remedy, kind)) if remedy is not None else "build the capture initramfs on this machine"
    return Lack(place=place, piece=piece, lacks=lacks, remedy=fill(template, kernel=facts.kernel, **words))


def _plain(module: str) -> str:
    return module.replace("-", "_")


def _pieces_of(lines: tuple[str, ...]) -> list[Piece]:
    """Return the rows of the pieces in a stack."""
    return [piece for piece in load_pieces() if any(re.fullmatch(piece.sign, line) for line in lines)]


@functools.cache
def load_pieces() -> tuple[Piece, ...]:
    """Return the table; TableError for a pattern that cannot be one."""
    rows = _table().pieces
    for row in rows:
        try:
            re.compile(row.sign)
        except re.error as error:
            raise TableError(f"pieces.toml: [[piece]] {row.name}: sign: {error}") from None
    return rows


def load_remedies() -> Mapping[str, Remedy]:
    return {row.family: row for row in _table().remedies}


@dataclass(frozen=True, kw_only=True)
class _Table:
    pieces: tuple[Piece, ...]
    remedies: tuple[Remedy, ...]


@functools.cache
def _table() -> _Table:
    path = tables.package_path("kdump", "capture_image", "pieces.toml")
    content = tables.load_toml(path)
    return tables.build(
        {"pieces": content.pop("piece", []), "remedies": content.pop("remedy", []), **content}, _Table, where=path.name
    )


def stacks_of(text: str) -> tuple[dict[str, tuple[str, ...]], frozenset[str]]:
    """Parse the output of probe.sh: the lines of each place, and the loadable modules that are loaded."""
    stacks: dict[str, list[str]] = {}
    loaded = set()
    for line in text.splitlines():
        place, _, rest = line.partition(" ")
        if place in (ROOT, TARGET):
            stacks.setdefault(place, []).append(" ".join(rest.split()))
        elif line.startswith("- loaded "):
            loaded.add(_plain(line.split()[2]))
    return {place: tuple(dict.fromkeys(lines)) for place, lines in stacks.items()}, frozenset(loaded)


def modules_of(text: str) -> frozenset[str]:
    """Return the names in a kernel's modules.dep."""
    paths = (PurePosixPath(line.partition(":")[0]) for line in text.splitlines() if ":" in line)
    return frozenset(_plain(path.name.partition(".ko")[0]) for path in paths)
