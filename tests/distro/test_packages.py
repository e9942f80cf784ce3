"""Requests for packages in addition to the family's."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from kdump_harness.base.errors import UsageError
from kdump_harness.distro.family import Family, find_family
from kdump_harness.distro.kernels import image_patterns
from kdump_harness.distro.packages import (
    KernelChoice,
    LocalPackage,
    PackageChoice,
    check_more,
    local_packages,
    parse_kernel,
    parse_package,
    refusal,
)
from kernel_factory import CONFIG, RELEASE, WITHOUT, deb, kernel_deb, kernel_directory

DEBIAN, REDHAT, SUSE = find_family("debian"), find_family("redhat"), find_family("suse")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name in ("c.rpm", "notes.txt"):
        (tmp_path / name).write_bytes(name.encode())
    for name in ("b.deb", "a.deb"):
        (tmp_path / name).write_bytes(deb(name.removesuffix(".deb") + "-tool"))
    return tmp_path


def test_the_packages_of_a_directory_are_those_of_the_family(place: Path) -> None:
    assert [file.name for file in local_packages(place, DEBIAN)] == ["a.deb", "b.deb"]
    assert [file.name for file in local_packages(place, REDHAT)] == ["c.rpm"]


def test_a_package_is_its_content_wherever_it_lies(place: Path, tmp_path: Path) -> None:
    (file,) = local_packages(place / "a.deb", DEBIAN)
    assert file.sha256 == hashlib.sha256((place / "a.deb").read_bytes()).hexdigest()
    assert file.package == "a-tool"
    assert repr(file) == repr(LocalPackage(name="a.deb", sha256=file.sha256, path=Path("/elsewhere/a.deb")))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("none", "does not exist"),
        ("notes.txt", "is not a package of the family debian (its packages end in .deb)"),
        ("c.rpm", "is not a package of the family debian (its packages end in .deb)"),
        ("empty", "has no .deb files, which guests of the family debian would need"),
    ],
)
def test_what_the_family_cannot_install_is_refused(place: Path, name: str, reason: str) -> None:
    (place / "empty").mkdir()
    with pytest.raises(UsageError) as error:
        local_packages(place / name, DEBIAN)
    assert str(error.value) == f"{place / name} {reason}"


@pytest.mark.parametrize("name", ["makedumpfile_1.7.2-1_arm64.deb", "makedumpfile_1.7.2-1_amd64.deb", "a.deb"])
def test_a_package_for_another_processor_is_refused_whatever_it_is_called(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(deb(architecture="arm64"))
    with pytest.raises(UsageError) as error:
        local_packages(tmp_path, DEBIAN)
    assert str(error.value) == f"{tmp_path / name} is a package for arm64, and guests are x86-64"


def test_an_rpm_for_another_processor_is_refused_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "kexec-tools-2.0.28-1.el9.aarch64.rpm"
    path.touch()
    with pytest.raises(UsageError) as error:
        local_packages(tmp_path, REDHAT)
    assert str(error.value) == f"{path} is a package for aarch64, and guests are x86-64"


def test_an_rpm_is_known_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "kernel-core-6.6.0-1.el9.x86_64.rpm").touch()
    assert [file.package for file in local_packages(tmp_path, REDHAT)] == ["kernel-core"]


def test_a_package_for_any_or_our_processor_is_taken(tmp_path: Path) -> None:
    (tmp_path / "linux-image_arm64.deb").write_bytes(kernel_deb(architecture="amd64"))
    (tmp_path / "ucf_3.0043_all.deb").write_bytes(deb("ucf", "all", suffix=".zst"))
    assert len(local_packages(tmp_path, DEBIAN)) == 2


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"some text\n", "it is not an ar archive"),
        (deb()[:200], "it is cut short"),
        (deb(package="../evil"), "its control file names no package or no architecture"),
        (deb(architecture=""), "its control file names no package or no architecture"),
    ],
    ids=["text", "cut", "name", "architecture"],
)
def test_what_is_no_package_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "some_1_amd64.deb"
    path.write_bytes(content)
    with pytest.raises(UsageError) as error:
        local_packages(path, DEBIAN)
    assert str(error.value) == f"{path} is not a readable Debian package ({reason})"


def test_a_configuration_beside_the_modules_counts_too(tmp_path: Path) -> None:
    """Debian's kernels have it there since 7.2, in a separate package."""
    files = {"usr/lib/modules/7.2.13+deb14-amd64/config": WITHOUT.encode()}
    (tmp_path / "base.deb").write_bytes(deb("linux-base-7.2.13+deb14-amd64", files=files))
    with pytest.raises(UsageError, match="CONFIG_CRASH_DUMP is not set"):
        local_packages(tmp_path, DEBIAN)


@pytest.mark.parametrize("suffix", ["", ".gz", ".xz", ".zst"])
def test_a_kernel_package_that_cannot_dump_is_refused(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "kernel.deb").write_bytes(kernel_deb(WITHOUT, suffix=suffix))
    with pytest.raises(UsageError) as error:
        parse_kernel(str(tmp_path), DEBIAN)
    assert str(error.value) == (
        f"the kernel in {tmp_path / 'kernel.deb'} cannot be drilled:"
        " its configuration says that CONFIG_CRASH_DUMP is not set"
    )


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
        ("trixie", "linux-image-cloud-amd64", "trixie"),
        ("bookworm-nonsense", "bookworm-nonsense", ""),
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


def test_a_package_that_others_break_with_is_a_refusal() -> None:
    said = (
        "The following packages have unmet dependencies:\n libc6 : Breaks: base-files (< 13.3~) but 12.4 is to be"
        " installed\nE: Error, pkgProblemResolver::Resolve generated breaks"
    )
    assert refusal(said) == "libc6 : Breaks: base-files (< 13.3~) but 12.4 is to be installed"


# ---------------------------------------------------------------- a kernel's directory


def test_a_directory_with_a_kernel_is_a_package_that_is_yet_to_be_made(tmp_path: Path) -> None:
    (file,) = parse_kernel(str(kernel_directory(tmp_path / "k")), DEBIAN).files
    assert file.tree is not None
    assert (file.package, file.sha256) == (f"linux-image-{RELEASE}", file.tree.digest)
    (same,) = parse_kernel(str(kernel_directory(tmp_path / "elsewhere")), DEBIAN).files
    assert repr(same) == repr(file)


def test_package_files_come_before_a_kernel_beside_them(tmp_path: Path) -> None:
    kernel_directory(tmp_path)
    (tmp_path / "linux.deb").write_bytes(kernel_deb())
    (file,) = parse_kernel(str(tmp_path), DEBIAN).files
    assert (file.name, file.tree) == ("linux.deb", None)


def test_a_directory_with_neither_is_told_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as error:
        parse_kernel(str(tmp_path), DEBIAN)
    assert str(error.value) == (f"{tmp_path} has neither .deb files nor a kernel ({', '.join(image_patterns())})")


@pytest.mark.parametrize("family", [REDHAT, SUSE], ids=lambda family: family.name)
def test_a_kernels_directory_is_for_debian_guests_only(tmp_path: Path, family: Family) -> None:
    with pytest.raises(UsageError) as error:
        parse_kernel(str(kernel_directory(tmp_path)), family)
    assert str(error.value) == (
        f"a kernel's directory cannot be installed in guests of the family {family.name} yet (.rpm files can)"
    )


def test_only_a_kernel_without_modules_has_a_remark(tmp_path: Path) -> None:
    assert parse_kernel(str(kernel_directory(tmp_path / "a")), DEBIAN).remarks == ()
    kernel_directory(tmp_path / "b", modules="")
    (tmp_path / "b/.config").write_text(CONFIG.replace("=m", "=y"), encoding="utf-8")
    (remark,) = parse_kernel(str(tmp_path / "b"), DEBIAN).remarks
    assert remark.startswith(f"{RELEASE} has no modules")
    assert parse_kernel("bookworm-backports", DEBIAN).remarks == ()


# ---------------------------------------------------------------- other packages


@pytest.mark.parametrize(
    ("text", "package", "suite"),
    [
        ("trixie", "makedumpfile", "trixie"),
        ("bookworm-backports", "makedumpfile", "bookworm-backports"),
        ("makedumpfile/sid", "makedumpfile", "sid"),
        ("crash/trixie", "crash", "trixie"),
        ("makedumpfile", "makedumpfile", ""),
        ("makedumpfile=1:1.7.2-1", "makedumpfile=1:1.7.2-1", ""),
    ],
)
def test_a_package_is_of_a_suite_or_a_version(text: str, package: str, suite: str) -> None:
    choice = parse_package(text, DEBIAN)
    assert (choice.package, choice.suite, choice.files, choice.asked) == (package, suite, (), text)
    assert not isinstance(choice, KernelChoice)


def test_the_usual_package_may_be_another_one() -> None:
    assert parse_package("trixie", DEBIAN, "kexec-tools") == PackageChoice(package="kexec-tools", suite="trixie")


def test_a_package_may_be_files(place: Path) -> None:
    assert [file.name for file in parse_package(str(place), DEBIAN).files] == ["a.deb", "b.deb"]
    assert [file.name for file in parse_package(str(place / "b.deb"), DEBIAN).files] == ["b.deb"]


@pytest.mark.parametrize("text", ["", "-x", "a b", "a/", "/", "a/b/c", "trixie;reboot", "x/$(reboot)", "trixie=1/"])
def test_what_names_no_package_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_package(text, DEBIAN)


def test_a_kernels_directory_is_no_package(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"has no \.deb files"):
        parse_package(str(kernel_directory(tmp_path)), DEBIAN)


def test_what_two_choices_bring_is_refused(place: Path) -> None:
    (place / "makedumpfile.deb").write_bytes(deb())
    files = local_packages(place, DEBIAN)
    of_suite, as_file = parse_package("trixie", DEBIAN), parse_package(str(place / "makedumpfile.deb"), DEBIAN)
    check_more((of_suite, parse_package("crash/sid", DEBIAN)), files[:2])
    check_more((as_file,), files)  # the same file
    for more, there in (((of_suite,), files), ((of_suite, as_file), ()), ((as_file, of_suite), ())):
        with pytest.raises(UsageError, match=r"^the package makedumpfile is asked for twice \(\S+ and \S+\)$"):
            check_more(more, there)


@pytest.mark.parametrize("text", ["", "-x", "a b", "a/", "/", "a/b/c", "linux;reboot", "$(reboot)", "x/$(reboot)"])
def test_what_names_no_kernel_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_kernel(text, DEBIAN)


def test_a_file_that_is_not_there_is_not_taken_for_a_package() -> None:
    with pytest.raises(UsageError, match=r"^kernel\.deb does not exist"):
        parse_kernel("kernel.deb", DEBIAN)
