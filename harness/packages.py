"""What a user wants in the guest beside the family's packages: another kernel, local package files."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path

from .errors import UsageError
from .family import Family

GUEST_PLACE = "/var/tmp/kdump-harness-packages"  # where package files are put while they are installed

# What apt, dpkg, dnf and zypper say when the user asked for something that is not there or does not fit.
_REFUSED = re.compile(
    r"^E: (?:Unable to locate package|Unable to correct problems|Version .* was not found|Release .* was not found"
    r"|The value .* is invalid|Package .* has no installation candidate"
    r"|The repository .* does not have a Release file|Could not read meta data from)"
    r"|does not match system \(|^\S.* : Depends: "
    r"|^(?:Error: )?(?:No match for argument|Unable to find a match|Unknown repo)"
    r"|No provider of .* found|^Repository .* not found"
)
# Architectures that an x86-64 guest cannot use, as dpkg and rpm put them into the names of package files.
_FOREIGN = re.compile(
    r".*[_.](aarch64|arm64|armel|armhf|armv7hl|i[3-6]86|loong(?:arch)?64|mips64el|ppc64(?:el|le)?|riscv64|s390x)"
    r"\.(?:deb|rpm)"
)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9+.~_:=-]*")


@dataclass(frozen=True, kw_only=True)
class LocalPackage:
    """A package file of this host; its repr is its content, wherever it lies."""

    name: str
    sha256: str
    path: Path = field(repr=False, compare=False)


@dataclass(frozen=True, kw_only=True)
class KernelChoice:
    """The kernel to drill: a package by name, perhaps from a suite or repository, or package files."""

    package: str = ""
    suite: str = ""
    files: tuple[LocalPackage, ...] = ()
    asked: str = field(default="", repr=False, compare=False)  # as the user put it


def local_packages(place: Path, family: Family) -> tuple[LocalPackage, ...]:
    """The package files of a directory, or the one file; UsageError where the family could install none."""
    suffix = f".{family.package_suffix}"
    if place.is_dir():
        paths = sorted(path for path in place.iterdir() if path.suffix == suffix and path.is_file())
        if not paths:
            raise UsageError(f"{place} has no {suffix} files, which guests of the family {family.name} would need")
    elif place.is_file():
        if place.suffix != suffix:
            raise UsageError(f"{place} is no package of the family {family.name} (its packages end in {suffix})")
        paths = [place]
    else:
        raise UsageError(f"{place} does not exist")
    for path in paths:
        if foreign := _FOREIGN.fullmatch(path.name):
            raise UsageError(f"{path} is a package for {foreign.group(1)}, and guests are x86-64")
    try:
        return tuple(LocalPackage(name=path.name, sha256=_sha256(path), path=path.resolve()) for path in paths)
    except OSError as error:
        raise UsageError(f"{error.filename} cannot be read ({error.strerror})") from None


def parse_kernel(text: str, family: Family, *, usual: str = "") -> KernelChoice:
    """What --kernel means: PACKAGE, PACKAGE/SUITE, SUITE, or a file or directory of packages; UsageError otherwise.

    usual is the image's own kernel package, for a suite alone.
    """
    looks_like_file = text.endswith((".deb", ".rpm")) or text.startswith((".", "/", "~"))
    if looks_like_file or Path(text).exists():
        return KernelChoice(files=local_packages(Path(text).expanduser(), family), asked=text)
    package, slash, suite = text.partition("/")
    if not slash and family.suites and re.fullmatch(family.suites, text):
        package, suite = usual or family.kernel_package, text
    if not _NAME.fullmatch(package) or ((suite or slash) and not _NAME.fullmatch(suite)):
        raise UsageError(
            f"{text!r} names no kernel (PACKAGE, PACKAGE/SUITE, a suite, or a file or directory of packages)"
        )
    return KernelChoice(package=package, suite=suite, asked=text)


def refusal(output: str) -> str | None:
    """The line by which a package manager refuses what was asked for; None when it failed otherwise."""
    lines = (line.strip() for line in output.splitlines())
    return next((line for line in lines if _REFUSED.search(line)), None)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
