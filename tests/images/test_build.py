"""The recipe of a built disk, the host's mirror, and the bytes that make a disk boot."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import platform
import shlex
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest
from kdump_harness.base.errors import CommandFailed, HostError
from kdump_harness.base.tables import package_path
from kdump_harness.distro.architecture import Architecture, find_architecture, load_architectures
from kdump_harness.distro.packages import LocalPackage
from kdump_harness.images import build, mirror
from kdump_harness.images.build import Recipe
from kdump_harness.images.mirror import Mirror, find_mirror

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
    "more": ("makedumpfile/trixie",),
    "architecture": find_architecture("arm64"),
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
        ("BASE_PACKAGES", ("systemd-sysv",)),
    ],
)
def test_the_key_changes_with_what_all_disks_share(name: str, value: object, monkeypatch: pytest.MonkeyPatch) -> None:
    before = RECIPE.key()
    monkeypatch.setattr(build, name, value)
    assert RECIPE.key() != before


def test_a_disk_with_nothing_of_other_suites_keeps_the_key_that_it_had_before_there_were_any() -> None:
    arguments = "console=tty0 console=ttyS0,115200 earlyprintk=ttyS0,115200 consoleblank=0 no_timer_check"
    boot = ("grub-efi-amd64-bin", "grub-efi-amd64-signed", "grub-pc-bin", "shim-signed")
    packages = tuple(sorted((*build.BASE_PACKAGES, *boot)))
    ours = (build.RECIPE_VERSION, build.DISK_MIB, build.EXT4_FEATURES, arguments, packages)
    text = repr((*ours, RECIPE))
    assert "more" not in text
    assert RECIPE.key() == hashlib.sha256(text.encode()).hexdigest()[:16]


# ---------------------------------------------------------------- other suites


def test_each_suite_is_a_source_once_and_its_packages_are_left_alone() -> None:
    recipe = dataclasses.replace(
        RECIPE,
        kernel="linux-image-amd64/bookworm-backports",
        kernel_suite="bookworm-backports",
        more=("makedumpfile/trixie", "crash/trixie", "kexec-tools/bookworm", "ucf", "zstd/trixie-security"),
    )
    assert recipe.other_suites == ("bookworm-backports", "trixie", "trixie-security")
    assert recipe.sources() == (
        "deb http://deb.example/debian bookworm main",
        "deb http://deb.example/debian bookworm-updates main",
        "deb http://deb.example/debian bookworm-backports main",
        "deb http://deb.example/debian trixie main",
        "deb http://deb.example/security trixie-security main",
        "deb http://deb.example/security bookworm-security main",
    )
    stanzas = recipe.pins().split("\n\n")
    assert stanzas[2] == "Package: *\nPin: release n=trixie\nPin-Priority: 100"
    assert [stanza.splitlines()[1] for stanza in stanzas] == [
        f"Pin: release {key}={suite}" for suite in recipe.other_suites for key in ("n", "a")
    ]
    assert RECIPE.pins() == ""
    assert RECIPE.sources() == MIRROR.sources(
        "bookworm", "bookworm-updates", security_suite="bookworm-security", components=("main",)
    )


def hooks_of(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The command line by which the tree is made, up to the hook that writes the disk."""
    seen: list[str] = []

    def run_logged(command: list[str], *_: object) -> None:
        seen.extend(command)
        raise CommandFailed("enough")

    monkeypatch.setattr(build, "_run_logged", run_logged)
    monkeypatch.setattr(build, "missing_tools", lambda _: ())
    monkeypatch.setattr(build, "_partition", lambda disk, _: disk.touch())
    (tmp_path / "work").mkdir()
    (tmp_path / "log").write_text("", encoding="utf-8")
    with pytest.raises(CommandFailed, match="enough"):
        build.build(
            recipe, tmp_path / "disk", workdir=tmp_path / "work", log=tmp_path / "log", progress=lambda _line: None
        )
    return seen


def test_a_package_of_another_suite_is_installed_from_there_and_the_guest_stays_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.deb").touch()
    file = LocalPackage(name="a.deb", sha256="0" * 64, path=tmp_path / "a.deb")
    recipe = dataclasses.replace(RECIPE, more=("makedumpfile/trixie", "ucf=3.0"), files=(file,))
    command = hooks_of(recipe, tmp_path, monkeypatch)
    (setup,) = (part for part in command if part.startswith("--setup-hook="))
    (include,) = (part for part in command if part.startswith("--include="))
    assert "kdump-tools,makedumpfile" in include
    (of_suite,) = (part for part in command if "-t trixie" in part)
    apt = "DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends --allow-downgrades"
    assert shlex.split(of_suite) == [
        "--customize-hook=chroot",
        "$1",
        "sh",
        "-c",
        f"cp /usr/lib/os-release /var/tmp/os-release && {apt} -t trixie makedumpfile/trixie && {apt} ucf=3.0"
        " && mv /var/tmp/os-release /usr/lib/os-release",
    ]
    (of_files,) = (part for part in command if "/*.deb" in part)
    off, on = (index for index, part in enumerate(command) if "chmod" in part)
    assert off < command.index(of_suite) < command.index(of_files) < on
    # The effect of the hook for apt's preferences.
    tree = tmp_path / "tree"
    (tree / "etc/apt/preferences.d").mkdir(parents=True)
    subprocess.run(["sh", "-c", setup.removeprefix("--setup-hook="), "exec", str(tree)], check=True)
    assert (tree / "etc/apt/preferences.d/kdump-harness").read_text(encoding="utf-8") == recipe.pins()


def test_a_kernel_of_another_suite_is_installed_after_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Together with the others, its dependencies of another suite would conflict with theirs."""
    kernel = "linux-image-cloud-amd64/trixie"
    recipe = dataclasses.replace(RECIPE, kernel=kernel, kernel_suite="trixie", more=("makedumpfile/sid",))
    command = hooks_of(recipe, tmp_path, monkeypatch)
    (include,) = (part for part in command if part.startswith("--include="))
    assert "linux-image" not in include
    (step,) = (part for part in command if "apt-get" in part)
    assert step.index(f"-t trixie {kernel}") < step.index("-t sid makedumpfile/sid")


def test_a_disk_of_the_releases_own_packages_has_no_hooks_for_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = hooks_of(RECIPE, tmp_path, monkeypatch)
    assert not [part for part in command if "apt-get" in part or part.startswith("--setup-hook")]


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
    with pytest.raises(HostError, match=r"apt has no Debian mirror .*KDUMP_HARNESS_MIRROR"):
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
    with pytest.raises(HostError, match=r"this host has no apt .*KDUMP_HARNESS_MIRROR"):
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
    """Files that the hook copies out: a boot sector of 512 bytes and a core image of more than three sectors."""
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
    with pytest.raises(CommandFailed, match="is larger than its partition of 1048576 bytes"):
        build._install_bios_grub(disk, boot)
    assert disk.read_bytes() == before


@pytest.mark.skipif(shutil.which("sfdisk") is None and not Path("/usr/sbin/sfdisk").exists(), reason="no sfdisk here")
def test_the_partitions_are_where_the_boot_loader_looks_for_them(tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    build._partition(path, ("bios", "esp"))
    assert path.stat().st_size == build.DISK_MIB << 20
    assert path.stat().st_blocks * 512 < 1 << 20  # sparse
    with path.open("rb") as file:
        file.seek(2 * 512)
        entries = file.read(128 * 128)
    spans = {number: struct.unpack_from("<QQ", entries, (number - 1) * 128 + 32) for number in (1, 14, 15)}
    assert spans[14] == (build.BIOS_BOOT_LBA, build.ESP_LBA - 1)
    assert spans[15] == (build.ESP_LBA, build.ROOT_LBA - 1)
    assert spans[1][0] == build.ROOT_LBA


def test_open_firmware_loads_the_core_image_from_its_partition(disk: Path, boot: Path) -> None:
    assert build.PARTITIONS["prep"][3] == "9E1A2D38-C612-4316-AA26-8B49521E5A8B"  # PReP boot, by SLOF and grub-install
    build._install_boot_loaders(disk, boot, find_architecture("ppc64el").boot_disk, "0-0-0")
    content = disk.read_bytes()
    assert content[2048 * 512 :].startswith(b"\xbb" * (3 * 512 + 100) + bytes(100))
    assert content[:510] == b"\xcc" * 510


BOOTED = [one for one in load_architectures().values() if one.disk is not None]


@pytest.mark.parametrize("architecture", BOOTED, ids=lambda one: one.name)
@pytest.mark.parametrize("place", ["plain", "with space & 'quote'"])
def test_the_hook_is_shell_that_names_its_files(tmp_path: Path, place: str, architecture: Architecture) -> None:
    boot_disk = architecture.boot_disk
    text = build._finish_hook(boot_disk, tmp_path / place / "disk.raw", tmp_path / place / "boot", "0-0-0")
    hook = tmp_path / "finish"
    hook.write_text(text, encoding="utf-8")
    made = subprocess.run(["sh", "-n", str(hook)], capture_output=True, text=True, check=False)
    assert (made.returncode, made.stderr) == (0, "")
    assert f"-E offset={build.ROOT_LBA * 512}" in text
    (line,) = [line for line in text.splitlines() if line.startswith("boot=")]
    said = subprocess.run(["sh", "-c", f'{line}; printf %s "$boot"'], capture_output=True, text=True, check=True).stdout
    assert said == str(tmp_path / place / "boot")
    assert text.count("grub-mkimage") == len(boot_disk.loaders.keys() - {"esp"})


def test_the_boot_loader_of_another_architecture_is_its_own() -> None:
    arm64, ppc64el = (
        dataclasses.replace(RECIPE, architecture=find_architecture(name)) for name in ("arm64", "ppc64el")
    )
    assert {"grub-efi-arm64-signed", "shim-signed"} <= set(arm64.base_packages)
    assert "grub-ieee1275-bin" in ppc64el.base_packages
    assert not [name for recipe in (arm64, ppc64el) for name in recipe.base_packages if "amd64" in name]
    menu = build._late_files(ppc64el, "1-2-3")["boot/grub/grub.cfg"]
    assert "linux /vmlinux root=UUID=1-2-3 ro console=hvc0" in menu
    assert "serial" not in menu
    assert "console=ttyAMA0" in build._early_files(arm64, "1-2-3")["etc/default/grub"]


def test_a_host_that_cannot_run_the_package_scripts_is_told_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "exists", lambda path: "binfmt" not in str(path))
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    assert "/proc/sys/fs/binfmt_misc/qemu-aarch64" in build.missing_tools(find_architecture("arm64"))
    assert not [one for one in build.missing_tools(find_architecture("amd64")) if "binfmt" in one]


def test_the_guest_is_told_its_root_and_its_serial_console() -> None:
    early, late = build._early_files(RECIPE, "1-2-3"), build._late_files(RECIPE, "1-2-3")
    assert early["etc/fstab"].startswith("UUID=1-2-3 / ext4 ")
    assert "console=ttyS0,115200" in early["etc/default/grub"]
    assert "root=UUID=1-2-3" in late["boot/grub/grub.cfg"]
    assert early["etc/hostname"] == "debian-12\n"
    (waiting,) = (text for path, text in late.items() if path.endswith("/dev-ttyS0.device.d/kdump-harness.conf"))
    assert waiting == "[Unit]\nJobRunningTimeoutSec=infinity\n"


def test_a_failing_tool_is_quoted_and_its_output_kept(tmp_path: Path) -> None:
    log = tmp_path / "log"
    told: list[str] = []
    with pytest.raises(CommandFailed, match=r"sh ended with status 3: I: unpacking \| E: no such package"):
        build._run_logged(["sh", "-c", "echo I: unpacking; echo E: no such package >&2; exit 3"], log, told.append, {})
    assert told == ["unpacking"]
    assert log.read_text(encoding="utf-8") == "I: unpacking\nE: no such package\n"


def test_package_files_are_installed_before_there_is_a_boot_menu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a tree that is not a mounted disk, update-grub and the hook for the capture initramfs would fail."""
    (tmp_path / "a.deb").touch()
    recipe = dataclasses.replace(RECIPE, files=(LocalPackage(name="a.deb", sha256="0" * 64, path=tmp_path / "a.deb"),))
    seen: list[str] = []

    def make_tree(recipe: Recipe, packages: tuple[str, ...], hooks: tuple[str, ...], **_: object) -> None:
        seen.extend(hooks)
        raise CommandFailed("enough")

    monkeypatch.setattr(build, "missing_tools", lambda _: ())
    monkeypatch.setattr(build, "_partition", lambda disk, _: disk.touch())
    monkeypatch.setattr(build, "make_tree", make_tree)
    with pytest.raises(CommandFailed, match="enough"):
        build.build(recipe, tmp_path / "disk", workdir=tmp_path, log=tmp_path / "log", progress=lambda _: None)
    (menu,) = tmp_path.glob("*/boot/grub/grub.cfg")
    steps = "\n".join(seen)
    assert 0 < steps.index("apt-get install") < steps.index(str(menu.parent.parent.parent))
    assert steps.index("chmod -x") < steps.index("apt-get install") < steps.index("chmod +x")


def test_missing_tools_are_named_before_anything_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "missing_tools", lambda _: ("mmdebstrap", "mcopy"))
    with pytest.raises(HostError, match=r"cannot build debian-12: mmdebstrap, mcopy missing \(run make setup\)"):
        build.build(RECIPE, tmp_path / "disk", workdir=tmp_path, log=tmp_path / "log", progress=lambda _text: None)
    assert os.listdir(tmp_path) == []


def test_a_foreign_tree_works_with_tools_of_the_host_and_is_left_as_it_was(tmp_path: Path) -> None:
    tree, script = tmp_path / "tree", package_path("images", "native_tools.sh")
    for directory in ("usr/bin", "usr/lib", "usr/local/bin"):
        (tree / directory).mkdir(parents=True)
    (tree / "lib").symlink_to("usr/lib")
    sed, awk = tree / "usr/bin/sed", tree / "usr/bin/awk"
    sed.write_text("of another architecture", encoding="utf-8")
    awk.symlink_to("mawk")
    (tree / "bin").mkdir()
    mawk = tree / "bin/mawk"  # of a tree that usrmerge has not converted
    mawk.write_text("of another architecture", encoding="utf-8")
    (tree / "etc/dpkg/dpkg.cfg.d").mkdir(parents=True)

    def steps(*names: str) -> list[str]:
        for name in names:
            subprocess.run(["sh", str(script), name, str(tree)], check=True)
        return sorted(str(path) for path in tree.rglob("*"))

    before = steps()
    steps("put", "use", "use")
    assert sed.read_bytes() == Path("/usr/bin/sed").read_bytes()
    assert awk.is_symlink()
    assert (tree / "lib64").readlink() == Path("usr/lib64")
    assert mawk.read_bytes() == Path("/usr/bin/mawk").read_bytes()
    assert not list((tree / "usr/lib64").glob("libc.*"))
    excluded = tree / "etc/dpkg/dpkg.cfg.d/native_tools"
    assert set(excluded.read_text(encoding="utf-8").splitlines()) == {
        f"path-exclude={directory}/{name}" for directory in ("/usr/bin", "/bin") for name in ("mawk", "sed")
    }
    assert not (tree / "usr/local/bin/uname").exists()
    assert steps("remove") == before
    assert mawk.read_text(encoding="utf-8") == "of another architecture"
    assert sed.read_text(encoding="utf-8") == "of another architecture"


def test_only_a_foreign_tree_gets_tools_of_the_host_and_its_initramfs_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = dataclasses.replace(RECIPE, architecture=find_architecture("ppc64el"))
    (tmp_path / "foreign").mkdir()
    (tmp_path / "own").mkdir()
    hooks = hooks_of(foreign, tmp_path / "foreign", monkeypatch)
    tools = [hook for hook in hooks if "native_tools.sh" in hook or "update-initramfs -c" in hook or "/finish" in hook]
    extract, essential, customize = (f"--{when}-hook" for when in ("extract", "essential", "customize"))
    wanted = (
        (extract, "tools.sh put"),
        (extract, "tools.sh use"),
        (essential, "tools.sh use"),
        (customize, "tools.sh use"),
        (customize, "update-initramfs"),
        (customize, "tools.sh remove"),
        (customize, "/finish"),
    )
    for hook, (when, word) in zip(tools, wanted, strict=True):
        assert hook.startswith(when)
        assert word in hook
    (made,) = (hook for hook in tools if "update-initramfs" in hook)
    tree = tmp_path / "tree"
    (tree / "boot").mkdir(parents=True)
    for name in ("vmlinux-6.1.0-50-powerpc64le", "initrd.img-6.1.0-50-powerpc64le"):
        (tree / "boot" / name).touch()
    subprocess.run(["sh", "-c", made.partition("=")[2], "sh", str(tree)], check=True)
    assert (tree / "initrd.img").resolve() == tree / "boot/initrd.img-6.1.0-50-powerpc64le"
    assert (tree / "vmlinux").resolve() == tree / "boot/vmlinux-6.1.0-50-powerpc64le"
    assert "--aptopt=#clear DPkg::Pre-Install-Pkgs" in hooks
    assert [hook for hook in hooks if hook.startswith("--hook-dir=") and "merged-usr" in hook]
    assert not [hook for hook in hooks_of(RECIPE, tmp_path / "own", monkeypatch) if "native_tools" in hook]
