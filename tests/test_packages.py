"""What a user wants in the guest beside the family's packages, as it is asked for."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.family import find_family
from harness.packages import LocalPackage, local_packages, parse_kernel, refusal

DEBIAN, REDHAT = find_family("debian"), find_family("redhat")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name in ("b.deb", "a.deb", "c.rpm", "notes.txt"):
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def test_the_packages_of_a_directory_are_those_of_the_family(place: Path) -> None:
    assert [file.name for file in local_packages(place, DEBIAN)] == ["a.deb", "b.deb"]
    assert [file.name for file in local_packages(place, REDHAT)] == ["c.rpm"]


def test_a_package_is_its_content_wherever_it_lies(place: Path, tmp_path: Path) -> None:
    (file,) = local_packages(place / "a.deb", DEBIAN)
    assert file.sha256 == hashlib.sha256(b"a.deb").hexdigest()
    assert repr(file) == repr(LocalPackage(name="a.deb", sha256=file.sha256, path=Path("/elsewhere/a.deb")))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("none", "does not exist"),
        ("notes.txt", "is no package of the family debian (its packages end in .deb)"),
        ("c.rpm", "is no package of the family debian (its packages end in .deb)"),
        ("empty", "has no .deb files, which guests of the family debian would need"),
    ],
)
def test_what_the_family_cannot_install_is_refused(place: Path, name: str, reason: str) -> None:
    (place / "empty").mkdir()
    with pytest.raises(UsageError) as error:
        local_packages(place / name, DEBIAN)
    assert str(error.value) == f"{place / name} {reason}"


@pytest.mark.parametrize(
    ("name", "architecture"),
    [("makedumpfile_1.7.2-1_arm64.deb", "arm64"), ("kexec-tools-2.0.28-1.el9.aarch64.rpm", "aarch64")],
)
def test_a_package_for_another_processor_is_refused_by_its_name(tmp_path: Path, name: str, architecture: str) -> None:
    (tmp_path / name).touch()
    family = DEBIAN if name.endswith("deb") else REDHAT
    with pytest.raises(UsageError) as error:
        local_packages(tmp_path, family)
    assert str(error.value) == f"{tmp_path / name} is a package for {architecture}, and guests are x86-64"


def test_a_package_for_any_or_our_processor_is_taken(tmp_path: Path) -> None:
    names = ["linux-image-6.1.0-50-cloud-amd64_6.1.176-1_amd64.deb", "ucf_3.0043_all.deb"]
    for name in names:
        (tmp_path / name).touch()
    assert [file.name for file in local_packages(tmp_path, DEBIAN)] == names


def test_what_apt_says_of_a_file_that_is_no_package_is_a_refusal() -> None:
    said = (
        "E: Invalid archive member header\nE: Could not read meta data from /tmp/cut_1_amd64.deb\nE: The package lists"
    )
    assert refusal(said) == "E: Could not read meta data from /tmp/cut_1_amd64.deb"


@pytest.mark.parametrize(
    ("text", "package", "suite"),
    [
        ("linux-image-amd64", "linux-image-amd64", ""),
        ("linux-image-6.1.0-56-cloud-amd64=6.1.190-1", "linux-image-6.1.0-56-cloud-amd64=6.1.190-1", ""),
        ("linux-image-amd64/bookworm-backports", "linux-image-amd64", "bookworm-backports"),
        ("bookworm-backports", "linux-image-cloud-amd64", "bookworm-backports"),
        ("experimental", "linux-image-cloud-amd64", "experimental"),
    ],
)
def test_a_kernel_is_a_package_or_a_suite_or_both(text: str, package: str, suite: str) -> None:
    choice = parse_kernel(text, DEBIAN, usual="linux-image-cloud-amd64")
    assert (choice.package, choice.suite, choice.files, choice.asked) == (package, suite, (), text)


def test_a_suite_alone_means_the_familys_kernel_where_the_image_names_none() -> None:
    assert parse_kernel("sid", DEBIAN).package == "linux-image-amd64"
    assert parse_kernel("kernel-debug", REDHAT).package == "kernel-debug"


def test_a_kernel_may_be_files(place: Path) -> None:
    assert [file.name for file in parse_kernel(str(place), DEBIAN).files] == ["a.deb", "b.deb"]
    assert [file.name for file in parse_kernel(str(place / "b.deb"), DEBIAN).files] == ["b.deb"]


@pytest.mark.parametrize("text", ["", "-x", "a b", "a/", "/", "a/b/c", "linux;reboot", "$(reboot)", "x/$(reboot)"])
def test_what_names_no_kernel_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_kernel(text, DEBIAN)


def test_a_file_that_is_not_there_is_not_taken_for_a_package() -> None:
    with pytest.raises(UsageError, match=r"^kernel\.deb does not exist"):
        parse_kernel("kernel.deb", DEBIAN)
