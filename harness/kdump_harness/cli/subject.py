"""The system under test that the command line names: an image, a file, its software and its credentials."""

from __future__ import annotations

import argparse
import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

from ..base.errors import UsageError
from ..distro.architecture import find_architecture
from ..distro.family import find_family, load_families
from ..distro.packages import local_packages, parse_kernel, parse_package
from ..drill.disks import SystemUnderTest, probe_format
from ..images.catalog import load_catalog
from ..vm.run import Machine
from ..vm.shells.shell import Access


def is_file(image: str) -> bool:
    """Return whether IMAGE looks like the path of a file, and not like a name of the catalogue."""
    return "/" in image or image.endswith((".qcow2", ".img", ".raw"))


def find_subject(
    image: str,
    *,
    family: str | None,
    login: str = "root",
    allow_backing: Sequence[Path] | None = None,
    arch: str | None = None,
) -> SystemUnderTest:
    """Return the system that IMAGE names: a file if it looks like a path, else a row of the catalogue."""
    architecture = find_architecture(arch) if arch is not None else None
    if is_file(image):
        path = Path(image)
        if family is None:
            raise UsageError(f"{image} is a file of an unknown family: give --family ({', '.join(load_families())})")
        driven = find_family(family, (architecture or find_architecture("amd64")).machine)
        backing = tuple(directory.absolute() for directory in allow_backing or ())
        probe_format(path, backing)
        # The name becomes a part of host, domain and directory names.
        name = re.sub(r"[^A-Za-z0-9.-]+", "-", path.stem).strip("-.")[:40] or "image"
        return SystemUnderTest(
            name=name, family=driven, path=path, login=login, allow_backing=backing, of_file=architecture
        )
    catalog = load_catalog()
    row = catalog.find(image) if architecture is None else catalog.find_for(image, architecture)
    if family is not None and family != row.family:
        raise UsageError(f"{image} belongs to the family {row.family}, not to {family}: omit --family")
    subject = SystemUnderTest(name=row.name, family=find_family(row.family, row.arch), image=row)
    kernel = parse_kernel(row.kernel, subject.family, usual=subject.usual_kernel) if row.kernel else None
    return dataclasses.replace(subject, kernel=kernel)


def subject_of(arguments: argparse.Namespace) -> SystemUnderTest:
    """Return the system to drill, with the kernel, the packages and the access that the user chose."""
    subject = find_subject(
        arguments.image,
        family=arguments.family,
        login=arguments.login,
        allow_backing=arguments.allow_backing,
        arch=getattr(arguments, "arch", None),
    )
    family = subject.family
    makedumpfile = getattr(arguments, "makedumpfile", None)
    if subject.image is not None and (arguments.key is not None or arguments.password_file is not None):
        raise UsageError("--key and --password-file are only for image files: catalogue images get a key of the run")
    return dataclasses.replace(
        subject,
        access=access_of(arguments),
        kernel=parse_kernel(arguments.kernel, family, usual=subject.usual_kernel)
        if arguments.kernel is not None
        else subject.kernel,
        files=local_packages(arguments.packages, family) if arguments.packages is not None else (),
        more=(parse_package(makedumpfile, family),) if makedumpfile is not None else (),
    )


def access_of(arguments: argparse.Namespace) -> Access | None:
    """Return the credentials that the user named, or None."""
    if arguments.key is None and arguments.password_file is None:
        return None
    return Access(key_file=arguments.key, password=_password(arguments.password_file))


def _password(path: Path | None) -> str | None:
    """Return the first line of a password file; a command line would expose the password to other users."""
    if path is None:
        return None
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if not (password := text.partition("\n")[0].rstrip("\r")):
        raise UsageError(f"invalid password file {path}: the first line is empty, expected the password")
    return password


def machine_of(arguments: argparse.Namespace, subject: SystemUnderTest) -> Machine:
    usual_mib = subject.architecture.boot_disk.memory_mib
    return Machine(
        architecture=subject.architecture,
        memory_mib=usual_mib if arguments.memory is None else arguments.memory,
        dimms_mib=tuple(getattr(arguments, "dimm", None) or ()),
        vcpus=Machine.vcpus if arguments.vcpus is None else arguments.vcpus,
        firmware=arguments.firmware or subject.firmware,
        cpu_level=arguments.cpu,
    )
