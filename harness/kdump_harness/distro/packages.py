"""Packages that a user requests instead of the distribution's: a kernel, other packages, local files."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ..base.errors import UsageError
from .deb import BadDebError, control_of, find_text
from .family import Family
from .kernels import CONFIG_FILES, CONFIG_MAX_BYTES, KernelTree, check_config, find_image, image_patterns, read_tree

GUEST_PLACE = "/var/tmp/kdump-harness-packages"  # where package files are put while they are installed

# Messages of apt, dpkg, dnf and zypper about packages that do not exist or do not fit.
_REFUSED = re.compile(
    r"^E: (?:Unable to locate package|Unable to correct problems|Version .* was not found|Release .* was not found"
    r"|The value .* is invalid|Package .* has no installation candidate"
    r"|The repository .* does not have a Release file|Could not read meta data from)"
    r"|does not match system \(|^\S.* : (?:(?:Pre)?Depends|Breaks|Conflicts): "
    r"|^(?:Error: )?(?:No match for argument|Unable to find a match|Unknown repo)"
    r"|No provider of .* found|^Repository .* not found"
)
# Architectures that an x86-64 guest cannot use, as rpm puts them into the names of package files.
_FOREIGN = re.compile(r".*\.(aarch64|armv7hl|i[3-6]86|loongarch64|ppc64(?:le)?|riscv64|s390x)\.rpm")
_OURS = ("amd64", "all")  # what a .deb says of itself
# Which package of a kernel has its configuration differs: Debian's image (since 7.2 its base), Ubuntu's modules.
_HAS_CONFIG = re.compile(r"linux-(?:image|base|modules)-.*")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9+.~_:=-]*")


@dataclass(frozen=True, kw_only=True)
class LocalPackage:
    """A package file of this host; its repr is its content, wherever it lies."""

    name: str
    sha256: str  # of a kernel's directory, the digest of all that goes into its package
    path: Path = field(repr=False, compare=False)
    package: str = field(default="", repr=False, compare=False)  # its name without version; empty when not known
    tree: KernelTree | None = field(default=None, repr=False, compare=False)  # what the file is yet to be made of


@dataclass(frozen=True, kw_only=True)
class PackageChoice:
    """A package to install: by name, perhaps from a suite or repository, or package files."""

    package: str = ""
    suite: str = ""
    files: tuple[LocalPackage, ...] = ()
    asked: str = field(default="", repr=False, compare=False)  # as the user put it


class KernelChoice(PackageChoice):
    """The kernel to drill."""

    @property
    def remarks(self) -> tuple[str, ...]:
        """Return the facts that identify the request."""
        return tuple(file.tree.remark for file in self.files if file.tree is not None and file.tree.remark)


def check_more(more: Iterable[PackageChoice], files: Iterable[LocalPackage]) -> None:
    """UsageError where two of the choices, or one and the files, bring the same package: chance would decide."""
    seen: dict[str, tuple[object, str]] = {file.package: (file, file.name) for file in files if file.package}
    for choice in more:
        named = [(choice.package.partition("=")[0], choice)] if choice.package else []
        for name, what in (*named, *((file.package, file) for file in choice.files if file.package)):
            other, asked = seen.setdefault(name, (what, choice.asked))
            if other != what:
                raise UsageError(f"the package {name} is asked for twice ({asked} and {choice.asked})")


def local_packages(place: Path, family: Family) -> tuple[LocalPackage, ...]:
    """List the package files of a directory, or the one file; raise UsageError if the family cannot install them."""
    suffix = f".{family.package_suffix}"
    if place.is_dir():
        paths = sorted(path for path in place.iterdir() if path.suffix == suffix and path.is_file())
        if not paths:
            raise UsageError(f"{place} has no {suffix} files, which guests of the family {family.name} would need")
    elif place.is_file():
        if place.suffix != suffix:
            raise UsageError(f"{place} is not a package of the family {family.name} (its packages end in {suffix})")
        paths = [place]
    else:
        raise UsageError(f"{place} does not exist")
    try:
        return tuple(_local_package(path) for path in paths)
    except OSError as error:
        raise UsageError(f"{error.filename} cannot be read ({error.strerror})") from None


def _local_package(path: Path) -> LocalPackage:
    """Check a package file; raise UsageError if no guest can use it."""
    if path.suffix == ".deb":
        package = _check_deb(path)
    else:
        package = "-".join(path.name.split("-")[:-2])
        if foreign := _FOREIGN.fullmatch(path.name):
            raise UsageError(f"{path} is a package for {foreign.group(1)}, and guests are x86-64")
    return LocalPackage(name=path.name, sha256=_sha256(path), path=path.resolve(), package=package)


def _check_deb(path: Path) -> str:
    """Return the package's own name; raise UsageError for a foreign processor, or a kernel that cannot do kdump."""
    try:
        control = control_of(path)
        package, architecture = control.get("Package", ""), control.get("Architecture", "")
        if not (_NAME.fullmatch(package) and _NAME.fullmatch(architecture)):
            raise BadDebError("its control file names no package or no architecture")
        if architecture not in _OURS:
            raise UsageError(f"{path} is a package for {architecture}, and guests are x86-64")
        if _HAS_CONFIG.fullmatch(package):
            config = find_text(path, CONFIG_FILES, max_bytes=CONFIG_MAX_BYTES)
            check_config(config or "", f"the kernel in {path}")
    except BadDebError as error:
        raise UsageError(f"{path} is not a readable Debian package ({error})") from None
    return package


def kernel_files(place: Path, family: Family) -> tuple[LocalPackage, ...]:
    """List the package files of a place, or the package to be made of the kernel there; UsageError for neither."""
    suffix = f".{family.package_suffix}"
    try:
        names = [path.suffix for path in place.iterdir()] if place.is_dir() else [suffix]
        if suffix in names:
            return local_packages(place, family)
        if (image := find_image(place)) is None:
            raise UsageError(f"{place} has neither {suffix} files nor a kernel ({', '.join(image_patterns())})")
        if suffix != ".deb":
            raise UsageError(
                f"a kernel's directory cannot be installed in guests of the family {family.name} yet"
                f" ({suffix} files can)"
            )
        tree = read_tree(place.resolve(), image.resolve())
    except OSError as error:
        raise UsageError(f"{error.filename} cannot be read ({error.strerror})") from None
    made = LocalPackage(name=tree.package_file, sha256=tree.digest, path=place, package=tree.package, tree=tree)
    return (made,)


def parse_kernel(text: str, family: Family, *, usual: str = "") -> KernelChoice:
    """Parse --kernel: PACKAGE, PACKAGE/SUITE, SUITE, packages' file or directory, a kernel's directory.

    usual is the image's own kernel package, for a suite alone. Raise UsageError for anything else.
    """
    if _is_place(text):
        return KernelChoice(files=kernel_files(Path(text).expanduser(), family), asked=text)
    package, slash, suite = text.partition("/")
    if not slash and family.suites and re.fullmatch(family.suites, text):
        package, suite = usual or family.kernel_package, text
    if not _NAME.fullmatch(package) or ((suite or slash) and not _NAME.fullmatch(suite)):
        raise UsageError(
            f"{text!r} names no kernel (PACKAGE, PACKAGE/SUITE, a suite, a file or directory of packages,"
            " or the directory of a kernel)"
        )
    return KernelChoice(package=package, suite=suite, asked=text)


def parse_package(text: str, family: Family, usual: str = "makedumpfile") -> PackageChoice:
    """Parse another package: SUITE for the usual package, PACKAGE/SUITE, a file or directory of packages.

    The usual package's own name, also with =VERSION, is that of the image's suites. Raise UsageError for anything else.
    """
    if _is_place(text):
        return PackageChoice(files=local_packages(Path(text).expanduser(), family), asked=text)
    package, slash, suite = text.partition("/")
    if not slash and package.partition("=")[0] != usual:
        package, suite = usual, text
    if not _NAME.fullmatch(package) or ((suite or slash) and not _NAME.fullmatch(suite)):
        raise UsageError(
            f"{text!r} names no {usual} (a suite, PACKAGE/SUITE, {usual}=VERSION, or a file or directory of packages)"
        )
    return PackageChoice(package=package, suite=suite, asked=text)


def _is_place(text: str) -> bool:
    """Whether this is a path rather than a name."""
    return text.endswith((".deb", ".rpm")) or text.startswith((".", "/", "~")) or Path(text).exists()


def refusal(output: str) -> str | None:
    """Find the line by which a package manager refuses a request; None when it failed otherwise."""
    lines = (line.strip() for line in output.splitlines())
    return next((line for line in lines if _REFUSED.search(line)), None)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
