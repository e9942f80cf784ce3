"""The kernel and packages chosen besides the image: how they get into a built disk, and which are refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kdump_harness.__main__ import main
from kdump_harness.base.errors import UsageError
from kdump_harness.base.progress import Progress
from kdump_harness.cli.subject import find_subject
from kdump_harness.distro.deb import control_of
from kdump_harness.distro.family import find_family
from kdump_harness.distro.packages import local_packages, parse_kernel, parse_package
from kdump_harness.drill import disks
from kdump_harness.drill.disks import SystemUnderTest, recipe_of
from kdump_harness.images import build
from kdump_harness.images.state import State
from kdump_harness.vm.run import Machine
from kernel_factory import CONFIG, RELEASE, WITHOUT, deb, kernel_directory

DEBIAN = find_family("debian")
WANTED = ("kdump-tools", "makedumpfile")


@pytest.fixture(autouse=True)
def no_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDUMP_HARNESS_MIRROR", "http://deb.example/debian")


@pytest.fixture
def subject() -> SystemUnderTest:
    return find_subject("debian-12", family=None)


def test_a_row_of_the_catalogue_can_have_a_kernel_of_its_own() -> None:
    kernel = find_subject("hwe-ubuntu-24.04", family=None).kernel
    assert kernel is not None
    assert kernel.package == "linux-image-generic-hwe-24.04"
    assert find_subject("ubuntu-24.04", family=None).kernel is None


@pytest.fixture
def run(tmp_path: Path) -> Any:
    return SimpleNamespace(
        state=State(tmp_path / "state"),
        progress=Progress(quiet=True),
        log_path=lambda name: tmp_path / name,
    )


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[build.Recipe]:
    """The recipes that were built; the disks have one kernel with the configuration that a test may set."""
    made: list[build.Recipe] = []

    def fake(recipe: build.Recipe, path: Path, *, workdir: Path, **_: object) -> None:
        made.append(recipe)
        boot = workdir / "boot"
        boot.mkdir()
        path.touch()
        (boot / "packages").write_text("makedumpfile 1.7.6\n", encoding="utf-8")
        (boot / "kernels").write_text(f"{RELEASE}\n", encoding="utf-8")
        (boot / f"config-{RELEASE}").write_text(fake.config, encoding="utf-8")  # type: ignore[attr-defined]

    fake.config = CONFIG  # type: ignore[attr-defined]
    monkeypatch.setattr(build, "build", fake)
    return made


def test_packages_of_other_suites_are_beside_the_usual_ones(subject: SystemUnderTest, tmp_path: Path) -> None:
    (tmp_path / "crash.deb").write_bytes(deb("crash"))
    texts = ("trixie", "ucf/sid", "makedumpfile=1:1.7.2-1", str(tmp_path / "crash.deb"))
    more = tuple(parse_package(text, DEBIAN) for text in texts)
    recipe = recipe_of(dataclasses.replace(subject, more=more), WANTED)
    assert recipe.more == ("makedumpfile/trixie", "ucf/sid", "makedumpfile=1:1.7.2-1")
    assert [file.name for file in recipe.files] == ["crash.deb"]
    assert set(WANTED) < set(recipe.packages)
    assert recipe.kernel == "linux-image-cloud-amd64"
    assert recipe.key() != recipe_of(subject, WANTED).key()


def test_a_kernel_and_another_package_each_have_their_suite(subject: SystemUnderTest) -> None:
    kernel = parse_kernel("bookworm-backports", DEBIAN, usual=subject.usual_kernel)
    chosen = dataclasses.replace(subject, kernel=kernel, more=(parse_package("trixie", DEBIAN),))
    recipe = recipe_of(chosen, WANTED)
    assert (recipe.kernel, recipe.more) == ("linux-image-cloud-amd64/bookworm-backports", ("makedumpfile/trixie",))
    assert recipe.other_suites == ("bookworm-backports", "trixie")


def test_a_kernels_directory_is_packaged_once_and_built_in(
    subject: SystemUnderTest, run: Any, builds: list[build.Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel_directory(tmp_path / "k")
    chosen = dataclasses.replace(subject, kernel=parse_kernel(str(tmp_path / "k"), DEBIAN))
    base = disks._built(run, chosen, WANTED)
    assert base.kernel == RELEASE
    (recipe,) = builds
    (file,) = recipe.files
    assert recipe.kernel == ""
    assert file.path.parent.parent == tmp_path / "state/packages"
    assert control_of(file.path)["Package"] == f"linux-image-{RELEASE}"
    # The disk is known by the kernel's content: another one needs neither a package nor a build.
    monkeypatch.setattr(disks, "package_tree", None)
    again = dataclasses.replace(subject, kernel=parse_kernel(str(kernel_directory(tmp_path / "again")), DEBIAN))
    assert disks._built_ready(run, again, WANTED) == base
    assert disks._made(run, recipe_of(again).files) == (file,)
    meta = json.loads((base.path.parent / "meta.json").read_text(encoding="utf-8"))
    assert meta["recipe"]["files"][0]["name"] == file.name


@pytest.mark.parametrize("kernel", ["sid", None])
def test_a_built_disk_whose_kernel_cannot_dump_is_refused(
    subject: SystemUnderTest, run: Any, builds: list[build.Recipe], kernel: str | None
) -> None:
    build.build.config = WITHOUT  # type: ignore[attr-defined]
    choice = parse_kernel(kernel, DEBIAN, usual=subject.usual_kernel) if kernel else None
    with pytest.raises(UsageError) as error:
        disks._built(run, dataclasses.replace(subject, kernel=choice), WANTED)
    package = f"linux-image-cloud-amd64{f'/{kernel}' if kernel else ''}"
    assert str(error.value) == (
        f"{RELEASE}, the kernel of {package}, cannot be drilled:"
        " its configuration says that CONFIG_CRASH_DUMP is not set"
    )
    assert not list((run.state.directory / "built").glob("*/meta.json"))


def test_a_package_that_comes_from_two_places_is_refused_before_anything_starts(
    subject: SystemUnderTest, tmp_path: Path
) -> None:
    (tmp_path / "a.deb").write_bytes(deb())
    chosen = dataclasses.replace(
        subject, files=local_packages(tmp_path, DEBIAN), more=(parse_package("trixie", DEBIAN),)
    )
    with pytest.raises(UsageError, match=r"^the package makedumpfile is asked for twice \(a\.deb and trixie\)$"):
        chosen.check(Machine())


# ---------------------------------------------------------------- the command line


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The sentence by which a drill is refused; it must be one, and end with status 2."""
    assert main(["drill", *arguments, "--history", "none"]) == 2
    said = capsys.readouterr().err.replace("\n", " ").strip()
    assert said.startswith("kdump-harness: ")
    return said


def test_a_drill_of_what_is_no_kernel_ends_before_a_guest_is_started(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdump_harness.vm.run.Run", None)
    place = str(tmp_path)
    assert "has neither .deb files nor a kernel" in refused(["debian-12", "--kernel", place], capsys)
    kernel_directory(tmp_path)
    (tmp_path / "vmlinuz").write_text("no kernel", encoding="utf-8")
    assert "is not an x86-64 bzImage (it has no boot header)" in refused(["debian-12", "--kernel", place], capsys)
    kernel_directory(tmp_path / "b")
    (tmp_path / "b/.config").write_text(WITHOUT, encoding="utf-8")
    assert "CONFIG_CRASH_DUMP is not set" in refused(["debian-12", "--kernel", f"{place}/b"], capsys)
    assert "of the family redhat yet" in refused(["rocky-9", "--kernel", f"{place}/b"], capsys)


def test_another_makedumpfile_is_for_guests_that_things_are_installed_in(capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(["debian-12", "--makedumpfile", "trixie", "--as-is"], capsys)
    assert said.endswith("--as-is installs nothing itself, so it cannot go with --kernel, --makedumpfile or --packages")
