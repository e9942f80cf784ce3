"""Kernels as a build leaves them: which are taken, which are refused, and the package that is made of one."""

from __future__ import annotations

import dataclasses
import re
import subprocess
from pathlib import Path

import pytest
from kdump_harness.base.errors import UsageError
from kdump_harness.distro import kernels
from kdump_harness.distro.deb import control_of, find_text
from kdump_harness.distro.kernels import (
    KernelTree,
    check_config,
    find_image,
    lacking,
    package_tree,
    read_tree,
    release_of,
)
from kernel_factory import CONFIG, RELEASE, WITHOUT, bzimage, kernel_directory


def tree_of(place: Path) -> KernelTree:
    image = find_image(place)
    assert image is not None
    return read_tree(place, image)


# ---------------------------------------------------------------- the image


@pytest.mark.parametrize(
    ("said", "release"),
    [
        (" (me@here) #1 SMP\0", RELEASE),
        ("\0", RELEASE),
        ("-rc1-next-20250101 #1\0", f"{RELEASE}-rc1-next-20250101"),
    ],
)
def test_the_release_is_what_the_images_header_says(tmp_path: Path, said: str, release: str) -> None:
    (tmp_path / "vmlinuz-5.4.0").write_bytes(bzimage(said=said))
    assert release_of(tmp_path / "vmlinuz-5.4.0") == release


ARM64 = bytearray(bzimage())
ARM64[0x38:0x3C] = b"ARM\x64"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it has no boot header"),
        (b"#!/bin/sh\necho this is a text file\n" * 100, "it has no boot header"),
        (bzimage()[:100], "it has no boot header"),
        (bzimage()[:0x220], "it is cut short"),
        (bzimage()[:-1], "it is cut short: 2207 of 2208 bytes"),
        (b"\x7fELF" + bytes(4096), "it is an ELF file, as vmlinux is; a build leaves the bzImage in arch/x86/boot"),
        (bytes(ARM64), "it is an Image for arm64"),
        (bzimage(flags=0), "it is for 32 bits"),
        (bzimage(version=0x20B), "it is older than Linux 3.8, or for 32 bits"),
    ],
)
def test_what_is_no_bzimage_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "vmlinuz").write_bytes(content)
    with pytest.raises(UsageError) as error:
        release_of(tmp_path / "vmlinuz")
    assert str(error.value) == f"{tmp_path / 'vmlinuz'} is not an x86-64 bzImage ({reason})"


@pytest.mark.parametrize("release", ["", "next", "6.1/../../etc", "6.1;reboot", "6.1$(reboot)", "6." + "1" * 200])
def test_a_release_that_is_none_goes_no_further(tmp_path: Path, release: str) -> None:
    """It becomes a part of paths and scripts."""
    (tmp_path / "vmlinuz").write_bytes(bzimage(release, said="\0"))
    with pytest.raises(UsageError, match="its header names no release"):
        release_of(tmp_path / "vmlinuz")


# ---------------------------------------------------------------- the directory


@pytest.mark.parametrize("image", ["vmlinuz", f"boot/vmlinuz-{RELEASE}", f"vmlinuz-{RELEASE}", "arch/x86/boot/bzImage"])
@pytest.mark.parametrize("modules", ["lib/modules", "modules", "usr/lib/modules"])
@pytest.mark.parametrize("config", ["config", ".config", f"boot/config-{RELEASE}", f"config-{RELEASE}"])
def test_a_kernel_is_found_where_builds_put_it(tmp_path: Path, image: str, modules: str, config: str) -> None:
    tree = tree_of(kernel_directory(tmp_path, image=image, modules=f"{modules}/{RELEASE}", config=config))
    assert (tree.release, tree.remark) == (RELEASE, "")
    assert (tree.image, tree.modules, tree.config) == (
        tmp_path / image,
        tmp_path / modules / RELEASE,
        tmp_path / config,
    )


def test_a_kernel_may_lie_all_in_the_directory_of_its_modules(tmp_path: Path) -> None:
    own = f"lib/modules/{RELEASE}"
    tree = tree_of(kernel_directory(tmp_path, image=f"{own}/vmlinuz", modules=own, config=f"{own}/config"))
    assert (tree.image, tree.modules, tree.config) == (
        tmp_path / own / "vmlinuz",
        tmp_path / own,
        tmp_path / own / "config",
    )


def test_a_directory_without_a_kernel_has_no_image(tmp_path: Path) -> None:
    (tmp_path / "vmlinux").write_bytes(b"\x7fELF")
    (tmp_path / f"vmlinuz-{RELEASE}.old").write_bytes(bzimage())
    assert find_image(tmp_path) is None


def test_which_of_two_kernels_is_not_guessed(tmp_path: Path) -> None:
    for release in ("6.1.0", "6.2.0"):
        (tmp_path / f"vmlinuz-{release}").write_bytes(bzimage(release))
    with pytest.raises(UsageError) as error:
        find_image(tmp_path)
    assert str(error.value) == (
        f"{tmp_path} has 2 kernels (vmlinuz-6.1.0, vmlinuz-6.2.0), so which one to drill is not known"
    )


def test_modules_of_another_release_are_refused(tmp_path: Path) -> None:
    kernel_directory(tmp_path, modules="lib/modules/6.11.0-mine")
    with pytest.raises(UsageError) as error:
        tree_of(tmp_path)
    assert str(error.value) == (f"{tmp_path / 'vmlinuz'} is {RELEASE}, but the modules next to it are of 6.11.0-mine")


def test_of_several_releases_modules_the_images_own_are_taken(tmp_path: Path) -> None:
    (tmp_path / "lib/modules/6.11.0").mkdir(parents=True)
    assert tree_of(kernel_directory(tmp_path)).modules == tmp_path / "lib/modules" / RELEASE


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ("", "has no modules for 6.12.0-mine+, and no configuration that says that it needs none"),
        (CONFIG, "has no modules for 6.12.0-mine+, which has CONFIG_VIRTIO_BLK, CONFIG_EXT4_FS as modules"),
    ],
)
def test_modules_that_are_needed_must_be_there(tmp_path: Path, config: str, reason: str) -> None:
    kernel_directory(tmp_path, modules="")
    (tmp_path / ".config").write_text(config, encoding="utf-8")
    with pytest.raises(UsageError) as error:
        tree_of(tmp_path)
    assert str(error.value).startswith(f"{tmp_path} {reason} (lib/modules/{RELEASE}, as make modules_install ")


def test_a_monolithic_kernel_is_taken_with_a_remark(tmp_path: Path) -> None:
    kernel_directory(tmp_path, modules="")
    (tmp_path / ".config").write_text(CONFIG.replace("=m", "=y"), encoding="utf-8")
    assert tree_of(tmp_path).remark == f"{RELEASE} has no modules: drivers that are not built into it are not there"


def test_modules_with_all_that_debuggers_need_are_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "MODULES_MAX_MIB", 0)
    with pytest.raises(UsageError, match="INSTALL_MOD_STRIP=1"):
        tree_of(kernel_directory(tmp_path))


def test_the_digest_is_the_content_wherever_it_lies(tmp_path: Path) -> None:
    first = tree_of(kernel_directory(tmp_path / "a"))
    assert tree_of(kernel_directory(tmp_path / "b", image=f"boot/vmlinuz-{RELEASE}")).digest == first.digest
    (tmp_path / "a/lib/modules" / RELEASE / "modules.dep").write_text("what depmod makes anyway\n", encoding="utf-8")
    assert tree_of(tmp_path / "a").digest == first.digest
    (tmp_path / "a/lib/modules" / RELEASE / "kernel/new.ko").touch()
    assert tree_of(tmp_path / "a").digest != first.digest
    with (tmp_path / "b/boot" / f"vmlinuz-{RELEASE}").open("ab") as file:
        file.write(b"a signature")
    assert tree_of(tmp_path / "b").digest != first.digest


# ---------------------------------------------------------------- the configuration


@pytest.mark.parametrize(
    ("change", "lacks"),
    [
        (("", ""), ""),
        (("CONFIG_CRASH_DUMP=y", "# CONFIG_CRASH_DUMP is not set"), "CONFIG_CRASH_DUMP"),
        (("CONFIG_CRASH_DUMP=y\n", ""), "CONFIG_CRASH_DUMP"),
        (("CONFIG_KEXEC=y", "# CONFIG_KEXEC is not set"), "CONFIG_KEXEC and CONFIG_KEXEC_FILE"),
        (("CONFIG_KEXEC=y\n# CONFIG_KEXEC_FILE is not set", "CONFIG_KEXEC_FILE=y"), ""),
        (("CONFIG_PROC_VMCORE=y", "# CONFIG_PROC_VMCORE is not set"), "CONFIG_PROC_VMCORE"),
    ],
)
def test_what_kdump_needs_is_asked_of_the_configuration(change: tuple[str, str], lacks: str) -> None:
    assert lacking(CONFIG.replace(*change)) == lacks


def test_a_part_of_a_configuration_says_only_what_it_says() -> None:
    assert lacking("CONFIG_EXT4_FS=y\n") == ""
    assert lacking("this is not a configuration\n") == ""
    assert lacking("# CONFIG_CRASH_DUMP is not set\n") == "CONFIG_CRASH_DUMP"


def test_a_kernel_that_cannot_dump_is_refused_in_a_sentence(tmp_path: Path) -> None:
    kernel_directory(tmp_path)
    (tmp_path / ".config").write_text(WITHOUT, encoding="utf-8")
    with pytest.raises(UsageError) as error:
        tree_of(tmp_path)
    assert str(error.value) == (
        f"the kernel in {tmp_path} cannot be drilled: its configuration says that CONFIG_CRASH_DUMP is not set"
    )
    with pytest.raises(UsageError, match=r"that CONFIG_KEXEC and CONFIG_KEXEC_FILE are not set$"):
        check_config(CONFIG.replace("CONFIG_KEXEC=y\n", ""), "it")


# ---------------------------------------------------------------- the package


def test_the_package_has_what_the_directory_has(tmp_path: Path) -> None:
    tree = tree_of(kernel_directory(tmp_path / "k"))
    path = tmp_path / tree.package_file
    package_tree(tree, path)
    assert re.fullmatch(r"linux-image-6\.12\.0-mine\+_6\.12\.0-0\.[0-9a-f]{12}_amd64\.deb", path.name)
    control = control_of(path)
    assert (control["Package"], control["Architecture"]) == (f"linux-image-{RELEASE}", "amd64")
    assert path.name.split("_")[1] == control["Version"]
    assert "linux-base" in control["Depends"]
    read = {name: find_text(path, re.escape(name), max_bytes=10_000) for name in (
        f"boot/config-{RELEASE}",
        f"lib/modules/{RELEASE}/kernel/drivers/block/virtio_blk.ko.xz",
        f"lib/modules/{RELEASE}/modules.order",
        f"lib/modules/{RELEASE}/modules.dep",
        f"lib/modules/{RELEASE}/build",
    )}  # fmt: skip
    assert list(read.values()) == [CONFIG, "the driver", "kernel/drivers/block/virtio_blk.ko\n", None, None]


def test_a_release_with_capitals_has_a_package_name_that_dpkg_takes(tmp_path: Path) -> None:
    kernel_directory(tmp_path, modules="lib/modules/6.12.0-My_Test")
    (tmp_path / "vmlinuz").write_bytes(bzimage("6.12.0-My_Test"))
    assert tree_of(tmp_path).package == "linux-image-6.12.0-my-test"


def test_a_directory_that_changed_meanwhile_makes_no_package(tmp_path: Path) -> None:
    tree = dataclasses.replace(tree_of(kernel_directory(tmp_path / "k")), digest="0" * 64)
    with pytest.raises(UsageError, match="was changed while a package was made of it"):
        package_tree(tree, tmp_path / "made.deb")
    assert not (tmp_path / "made.deb").exists()


@pytest.mark.parametrize("hooks", [True, False])
def test_the_packages_scripts_do_what_debians_own_do(tmp_path: Path, hooks: bool) -> None:
    """They are run with tools that only report how they were called."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("depmod", "linux-update-symlinks", *(["linux-run-hooks"] if hooks else ["run-parts"])):
        (tools / name).write_text(f'#!/bin/sh\necho {name} "$@" "[$DEB_MAINT_PARAMS]"\n', encoding="utf-8")
        (tools / name).chmod(0o755)
    script = kernels._POSTINST.format(release=RELEASE).replace("[ -d /etc/kernel/postinst.d ]", "true")
    image = f"/boot/vmlinuz-{RELEASE}"

    def run(*arguments: str) -> list[str]:
        command = ["/bin/sh", "-c", script, "postinst", *arguments]
        made = subprocess.run(command, env={"PATH": str(tools)}, capture_output=True, text=True, check=True)
        return made.stdout.splitlines()

    last = (
        f"linux-run-hooks image postinst {RELEASE} {image} -- configure  []"
        if hooks
        else f"run-parts --report --exit-on-error --arg={RELEASE} --arg={image} /etc/kernel/postinst.d [configure ]"
    )
    assert run("configure", "") == [
        f"depmod {RELEASE} []",
        f"linux-update-symlinks install {RELEASE} {image} []",
        last,
    ]
    assert run("abort-upgrade", "1") == []
