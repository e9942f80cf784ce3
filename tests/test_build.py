"""The recipe of a built disk, the host's mirror, and the bytes that make a disk boot."""

from __future__ import annotations

import dataclasses
import os
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest

from harness import build, mirror
from harness.build import Recipe
from harness.errors import CommandFailed, HostError
from harness.mirror import Mirror, find_mirror
from harness.packages import LocalPackage

MIRROR = Mirror(archive="http://deb.example/debian", security="http://deb.example/security")
RECIPE = Recipe(
    name="debian-12",
    suite="bookworm",
    updates_suite="bookworm-updates",
    security_suite="bookworm-security",
    components=("main",),
    kernel="linux-image-cloud-amd64",
    packages=("kdump-tools", "makedumpfile"),
    mirror=MIRROR,
)
OTHER: dict[str, Any] = {
    "name": "debian-12b",
    "suite": "trixie",
    "updates_suite": "",
    "security_suite": "",
    "components": ("main", "contrib"),
    "kernel": "linux-image-amd64",
    "packages": ("kdump-tools",),
    "mirror": Mirror(archive="http://other.example/debian", security=None),
    "kernel_suite": "trixie-backports",
    "files": (LocalPackage(name="a.deb", sha256="0" * 64, path=Path("/a.deb")),),
}


# ---------------------------------------------------------------- the key


def test_the_key_is_the_same_for_the_same_ingredients() -> None:
    assert RECIPE.key() == dataclasses.replace(RECIPE).key()
    assert RECIPE.key().isalnum()


@pytest.mark.parametrize("ingredient", [field.name for field in dataclasses.fields(Recipe)])
def test_the_key_changes_with_each_ingredient(ingredient: str) -> None:
    assert dataclasses.replace(RECIPE, **{ingredient: OTHER[ingredient]}).key() != RECIPE.key()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RECIPE_VERSION", 10_000),
        ("DISK_MIB", 4096),
        ("EXT4_FEATURES", "none,extent"),
        ("KERNEL_ARGUMENTS", "console=ttyS0"),
        ("BASE_PACKAGES", ("systemd-sysv",)),
    ],
)
def test_the_key_changes_with_what_all_disks_share(name: str, value: object, monkeypatch: pytest.MonkeyPatch) -> None:
    before = RECIPE.key()
    monkeypatch.setattr(build, name, value)
    assert RECIPE.key() != before


# ---------------------------------------------------------------- the mirror


def test_the_mirror_is_what_apt_is_set_up_with() -> None:
    listing = (
        "https://download.example/docker bookworm-docker\n"
        "http://deb.example/debian/ bookworm\n"
        "http://deb.example/debian/ bookworm-updates\n"
        "http://deb.example/debian-security/ bookworm-security\n"
    )
    found = mirror._from_listing(listing)
    assert found == Mirror(archive="http://deb.example/debian", security="http://deb.example/debian-security")


@pytest.mark.parametrize(
    ("listing", "archive", "security"),
    [
        ("http://a/debian trixie-backports\n", "http://a/debian", None),
        ("http://s/sec trixie-security\nhttp://a/debian sid\n", "http://a/debian", "http://s/sec"),
        ("http://s/sec stable/updates\nhttp://a/debian stable\n", "http://a/debian", "http://s/sec"),
        ("http://first/debian sid\nhttp://second/debian sid\n", "http://first/debian", None),
    ],
)
def test_suites_tell_the_archive_from_its_security(listing: str, archive: str, security: str | None) -> None:
    assert mirror._from_listing(listing) == Mirror(archive=archive, security=security)


@pytest.mark.parametrize("listing", ["", "\n", "http://archive.example/ubuntu noble\n", "http://s/sec sid-security\n"])
def test_a_host_without_a_debian_mirror_is_told_how_to_name_one(listing: str) -> None:
    with pytest.raises(HostError, match=r"names no Debian mirror .*KDUMP_HARNESS_MIRROR"):
        mirror._from_listing(listing)


def test_a_mirror_of_the_environment_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDUMP_HARNESS_MIRROR", "http://m/debian/")
    monkeypatch.delenv("KDUMP_HARNESS_SECURITY_MIRROR", raising=False)
    assert find_mirror() == Mirror(archive="http://m/debian", security=None)
    monkeypatch.setenv("KDUMP_HARNESS_SECURITY_MIRROR", "http://m/security/")
    assert find_mirror() == Mirror(archive="http://m/debian", security="http://m/security")


def test_a_host_without_apt_is_told_how_to_name_a_mirror(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("KDUMP_HARNESS_MIRROR", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostError, match=r"no apt on this host.*KDUMP_HARNESS_MIRROR"):
        find_mirror()


def test_the_sources_are_the_suites_that_there_are() -> None:
    assert MIRROR.sources("bookworm", "bookworm-updates", security_suite="bookworm-security", components=("main",)) == (
        "deb http://deb.example/debian bookworm main",
        "deb http://deb.example/debian bookworm-updates main",
        "deb http://deb.example/security bookworm-security main",
    )
    assert MIRROR.sources("sid", "", security_suite="", components=("main", "contrib")) == (
        "deb http://deb.example/debian sid main contrib",
    )
    without = Mirror(archive="http://deb.example/debian", security=None)
    assert without.sources("bookworm", "", security_suite="bookworm-security", components=("main",)) == (
        "deb http://deb.example/debian bookworm main",
    )


# ---------------------------------------------------------------- the disk


@pytest.fixture
def boot(tmp_path: Path) -> Path:
    """What the hook brings out of the tree: 512 bytes of boot sector and a core image of three sectors and a bit."""
    directory = tmp_path / "boot"
    directory.mkdir()
    (directory / "boot.img").write_bytes(b"\xaa" * 512)
    (directory / "core.img").write_bytes(b"\xbb" * (3 * 512 + 100))
    return directory


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A sparse disk whose protective MBR is all 0xcc."""
    path = tmp_path / "disk.raw"
    with path.open("wb") as file:
        file.write(b"\xcc" * 510 + b"\x55\xaa")
        file.truncate((build.ESP_LBA + 1) * 512)
    return path


def test_the_boot_sector_points_to_the_core_image_and_keeps_the_partition_table(disk: Path, boot: Path) -> None:
    build._install_bios_grub(disk, boot)
    sector = disk.read_bytes()[:512]
    assert struct.unpack_from("<Q", sector, 0x5C) == (2048,)
    assert sector[:0x5C] == b"\xaa" * 0x5C
    assert sector[0x64:440] == b"\xaa" * (440 - 0x64)
    assert sector[440:] == b"\xcc" * 70 + b"\x55\xaa"


def test_the_core_image_knows_where_the_rest_of_itself_is(disk: Path, boot: Path) -> None:
    build._install_bios_grub(disk, boot)
    core = disk.read_bytes()[2048 * 512 :][: 3 * 512 + 100]
    start, sectors, segment = struct.unpack_from("<QHH", core, 0x1F4)
    assert (start, sectors, segment) == (2049, 3, 0x820)
    assert core[:0x1F4] == b"\xbb" * 0x1F4
    assert core[512:] == b"\xbb" * (2 * 512 + 100)
    assert disk.stat().st_size == (build.ESP_LBA + 1) * 512


def test_a_core_image_that_is_too_large_is_refused(disk: Path, boot: Path) -> None:
    before = disk.read_bytes()
    (boot / "core.img").write_bytes(bytes((build.ESP_LBA - build.BIOS_BOOT_LBA) * 512 + 1))
    with pytest.raises(CommandFailed, match="does not fit into the BIOS boot partition"):
        build._install_bios_grub(disk, boot)
    assert disk.read_bytes() == before


@pytest.mark.skipif(shutil.which("sfdisk") is None and not Path("/usr/sbin/sfdisk").exists(), reason="no sfdisk here")
def test_the_partitions_are_where_the_boot_loader_looks_for_them(tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    build._partition(path)
    assert path.stat().st_size == build.DISK_MIB << 20
    assert path.stat().st_blocks * 512 < 1 << 20  # sparse
    with path.open("rb") as file:
        file.seek(2 * 512)
        entries = file.read(128 * 128)
    spans = {number: struct.unpack_from("<QQ", entries, (number - 1) * 128 + 32) for number in (1, 14, 15)}
    assert spans[14] == (build.BIOS_BOOT_LBA, build.ESP_LBA - 1)
    assert spans[15] == (build.ESP_LBA, build.ROOT_LBA - 1)
    assert spans[1][0] == build.ROOT_LBA


@pytest.mark.parametrize("place", ["plain", "with space & 'quote'"])
def test_the_hook_is_shell_that_names_its_files(tmp_path: Path, place: str) -> None:
    text = build._finish_hook(tmp_path / place / "disk.raw", tmp_path / place / "boot", "0-0-0")
    hook = tmp_path / "finish"
    hook.write_text(text, encoding="utf-8")
    made = subprocess.run(["sh", "-n", str(hook)], capture_output=True, text=True, check=False)
    assert (made.returncode, made.stderr) == (0, "")
    assert f"-E offset={build.ROOT_LBA * 512}" in text
    (line,) = [line for line in text.splitlines() if line.startswith("boot=")]
    said = subprocess.run(["sh", "-c", f'{line}; printf %s "$boot"'], capture_output=True, text=True, check=True).stdout
    assert said == str(tmp_path / place / "boot")


def test_the_guest_is_told_its_root_and_its_serial_console() -> None:
    early, late = build._early_files(RECIPE, "1-2-3"), build._late_files("1-2-3")
    assert early["etc/fstab"].startswith("UUID=1-2-3 / ext4 ")
    assert "console=ttyS0,115200" in early["etc/default/grub"]
    assert "root=UUID=1-2-3" in late["boot/grub/grub.cfg"]
    assert early["etc/hostname"] == "debian-12\n"


def test_a_failing_tool_is_quoted_and_its_output_kept(tmp_path: Path) -> None:
    log = tmp_path / "log"
    told: list[str] = []
    with pytest.raises(CommandFailed, match=r"sh ended with status 3: I: unpacking \| E: no such package"):
        build._run_logged(["sh", "-c", "echo I: unpacking; echo E: no such package >&2; exit 3"], log, told.append)
    assert told == ["unpacking"]
    assert log.read_text(encoding="utf-8") == "I: unpacking\nE: no such package\n"


def test_package_files_are_installed_before_there_is_a_boot_menu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a tree that is no mounted disk, update-grub and the hook for the capture initramfs would fail."""
    (tmp_path / "a.deb").touch()
    recipe = dataclasses.replace(RECIPE, files=(LocalPackage(name="a.deb", sha256="0" * 64, path=tmp_path / "a.deb"),))
    seen: list[str] = []

    def make_tree(recipe: Recipe, packages: tuple[str, ...], hooks: tuple[str, ...], **_: object) -> None:
        seen.extend(hooks)
        raise CommandFailed("enough")

    monkeypatch.setattr(build, "missing_tools", lambda: ())
    monkeypatch.setattr(build, "_partition", Path.touch)
    monkeypatch.setattr(build, "make_tree", make_tree)
    with pytest.raises(CommandFailed, match="enough"):
        build.build(recipe, tmp_path / "disk", workdir=tmp_path, log=tmp_path / "log", progress=lambda _: None)
    (menu,) = tmp_path.glob("*/boot/grub/grub.cfg")
    steps = "\n".join(seen)
    assert 0 < steps.index("apt-get install") < steps.index(str(menu.parent.parent.parent))
    assert steps.index("chmod -x") < steps.index("apt-get install") < steps.index("chmod +x")


def test_missing_tools_are_named_before_anything_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "missing_tools", lambda: ("mmdebstrap", "mcopy"))
    with pytest.raises(HostError, match=r"building debian-12 needs mmdebstrap, mcopy \(make setup installs them\)"):
        build.build(RECIPE, tmp_path / "disk", workdir=tmp_path, log=tmp_path / "log", progress=lambda _text: None)
    assert os.listdir(tmp_path) == []
