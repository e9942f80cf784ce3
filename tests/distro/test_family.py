"""The tables of the families: every row loads, every template can be filled, and each guest finds its own row."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kdump_harness.base import tables
from kdump_harness.base.crashkernel import words_in
from kdump_harness.base.errors import TableError, UsageError
from kdump_harness.distro.architecture import find_architecture
from kdump_harness.distro.config_file import ConfigFile
from kdump_harness.distro.family import Family, Release, choose_release, fill, find_family, load_families, load_family
from kdump_harness.images.catalog import load_catalog
from kdump_harness.kdump.guest_state import parse_os_release
from kdump_harness.kdump.service import KdumpService
from records import load_records
from support_page import support_page

FAMILIES = load_families()
ROWS = [(release, driven) for family in FAMILIES.values() for release, driven in family.releases]
each_row = pytest.mark.parametrize(
    ("release", "driven"), ROWS, ids=[f"{driven.name}-{release.name}".replace(" ", "-") for release, driven in ROWS]
)
DRILL_ARGUMENTS = find_architecture("amd64").arguments
ARGUMENTS = f"{DRILL_ARGUMENTS} crashkernel=256M"


def os_release(identity: str, version: str = "", like: str = "") -> dict[str, str]:
    return {"ID": identity, "VERSION_ID": version, "ID_LIKE": like, "PRETTY_NAME": f"{identity} {version}".strip()}


# ---------------------------------------------------------------- which row

DEBIAN_SID = 'PRETTY_NAME="Debian GNU/Linux forky/sid"\nNAME="Debian GNU/Linux"\nVERSION_CODENAME=forky\nID=debian\n'
TUMBLEWEED = 'NAME="openSUSE Tumbleweed"\n# VERSION="20261120"\nID="opensuse-tumbleweed"\nID_LIKE="opensuse suse"\n'
# The guests' os-release by image of the catalogue.
GUESTS = {
    "debian-11": (os_release("debian", "11"), "Debian 11"),
    "debian-12": (os_release("debian", "12"), "Debian 12"),
    "debian-13": (os_release("debian", "13"), "Debian 13"),
    "debian-sid": (parse_os_release(DEBIAN_SID), "Debian testing and sid"),
    "ubuntu-22.04": (os_release("ubuntu", "22.04", "debian"), "Ubuntu 22.04"),
    "ubuntu-24.04": (os_release("ubuntu", "24.04", "debian"), "Ubuntu 24.04 to 26.04"),
    "ubuntu-25.10": (os_release("ubuntu", "25.10", "debian"), "Ubuntu 24.04 to 26.04"),
    "ubuntu-26.04": (os_release("ubuntu", "26.04", "debian"), "Ubuntu 24.04 to 26.04"),
    "ubuntu-26.10": (os_release("ubuntu", "26.10", "debian"), "Ubuntu 26.10"),
    "centos-stream-9": (os_release("centos", "9", "rhel fedora"), "RHEL 9 and rebuilds"),
    "centos-stream-10": (os_release("centos", "10", "rhel fedora"), "RHEL 10 and rebuilds"),
    "rocky-8": (os_release("rocky", "8.10", "rhel centos fedora"), "RHEL 8 and rebuilds"),
    "rocky-9": (os_release("rocky", "9.8", "rhel centos fedora"), "RHEL 9 and rebuilds"),
    "rocky-10": (os_release("rocky", "10.2", "rhel centos fedora"), "RHEL 10 and rebuilds"),
    "alma-8": (os_release("almalinux", "8.10", "rhel centos fedora"), "RHEL 8 and rebuilds"),
    "alma-9": (os_release("almalinux", "9.8", "rhel centos fedora"), "RHEL 9 and rebuilds"),
    "alma-10": (os_release("almalinux", "10.2", "rhel centos fedora"), "RHEL 10 and rebuilds"),
    "fedora-43": (os_release("fedora", "43"), "Fedora 40 to 44"),
    "fedora-44": (os_release("fedora", "44"), "Fedora 40 to 44"),
    "oracle-8": (os_release("ol", "8.10", "fedora"), "RHEL 8 and rebuilds"),
    "oracle-9": (os_release("ol", "9.8", "fedora"), "RHEL 9 and rebuilds"),
    "oracle-10": (os_release("ol", "10.2", "fedora"), "RHEL 10 and rebuilds"),
    "rhel-8": (os_release("rhel", "8.10", "fedora"), "RHEL 8 and rebuilds"),
    "rhel-9": (os_release("rhel", "9.8", "fedora"), "RHEL 9 and rebuilds"),
    "rhel-10": (os_release("rhel", "10.2", "centos fedora"), "RHEL 10 and rebuilds"),
    "amazon-2023": (os_release("amzn", "2023", "fedora"), "Amazon Linux 2023"),
    "amazon-2": (os_release("amzn", "2", "centos rhel fedora"), "Amazon Linux 2"),
    "leap-15.6": (os_release("opensuse-leap", "15.6", "suse opensuse"), "SLES 12 and 15, Leap 15"),
    "leap-16.0": (os_release("opensuse-leap", "16.0", "suse opensuse"), "SLES 16 and Leap 16"),
    "tumbleweed": (parse_os_release(TUMBLEWEED + 'VERSION_ID="20261120"\n'), "Tumbleweed"),
    "sles-15-sp7": (os_release("sles", "15.7", "suse"), "SLES 12 and 15, Leap 15"),
    "sles-16.0": (os_release("sles", "16.0", "suse"), "SLES 16 and Leap 16"),
}


IN_DEVELOPMENT = ("ubuntu-26.10",)  # driven as the nearest, see below


@pytest.mark.parametrize("name", [name for name in load_catalog().names if name not in IN_DEVELOPMENT])
def test_each_image_of_the_catalogue_finds_its_row(name: str) -> None:
    plain = name if name in GUESTS else name.partition("-")[2]
    assert plain in GUESTS, f"{name}: add the os-release of its guest to GUESTS"
    about, row = GUESTS[plain]  # a variant is the same system
    family = load_catalog().find(name).family
    driven, remark = choose_release(find_family(family), about)
    assert (driven.release, remark) == (row, None)
    assert driven.name == family


@pytest.mark.parametrize(
    ("family", "about", "row"),
    [
        ("redhat", os_release("rhel", "7.9", "fedora"), "RHEL 7 and rebuilds"),
        ("redhat", os_release("centos", "7", "rhel fedora"), "RHEL 7 and rebuilds"),
        ("suse", os_release("sles", "12.5"), "SLES 12 and 15, Leap 15"),
        ("suse", os_release("opensuse-slowroll", "20261101", "opensuse suse"), "Tumbleweed"),
    ],
)
def test_releases_without_an_image_have_rows_too(family: str, about: dict[str, str], row: str) -> None:
    assert choose_release(find_family(family), about)[0].release == row


@pytest.mark.parametrize(
    ("family", "about", "row"),
    [
        ("debian", os_release("debian", "10"), "Debian 11"),
        ("debian", os_release("debian", "99"), "Debian testing and sid"),
        ("debian", os_release("ubuntu", "20.04", "debian"), "Ubuntu 22.04"),
        ("debian", os_release("ubuntu", "23.10", "debian"), "Ubuntu 22.04"),
        ("debian", os_release("ubuntu", "27.04", "debian"), "Ubuntu 26.10"),
        ("debian", os_release("kali", "2026.3", "debian"), "Debian testing and sid"),
        ("redhat", os_release("rhel", "6.10"), "RHEL 7 and rebuilds"),
        ("redhat", os_release("rhel", "11.0", "fedora"), "RHEL 10 and rebuilds"),
        ("redhat", os_release("rhel"), "RHEL 10 and rebuilds"),
        ("redhat", os_release("fedora", "45"), "Fedora 40 to 44"),
        ("redhat", os_release("eurolinux", "9.4", "rhel fedora centos"), "RHEL 9 and rebuilds"),
        ("suse", os_release("sles", "17.0", "suse"), "SLES 16 and Leap 16"),
        ("suse", os_release("regata", "26", "opensuse suse"), "Tumbleweed"),
    ],
)
def test_an_unknown_release_is_driven_as_the_nearest_and_says_so(family: str, about: dict[str, str], row: str) -> None:
    driven, remark = choose_release(find_family(family), about)
    assert driven.release == row
    assert remark == (
        f"{about['PRETTY_NAME']} is not in the table of the family {family}: driven as {row}, the nearest in it"
    )


@pytest.mark.parametrize("about", [os_release("sl-micro", "6.1", "suse"), os_release("sles", "16.0", "suse")])
def test_a_read_only_root_makes_a_transactional_system(about: dict[str, str]) -> None:
    asked: list[str] = []
    suse = find_family("suse")
    driven, remark = choose_release(suse, about, lambda probe: not asked.append(probe))  # type: ignore[func-returns-value]
    assert (driven.release, remark) == ("transactional systems", None)
    assert driven.commands.install.startswith("transactional-update")
    assert len(asked) == 1
    assert "transactional-update" in asked[0]


def test_no_probe_is_run_where_no_row_asks_for_it() -> None:
    def refuse(probe: str) -> bool:
        raise AssertionError(probe)

    for name in ("debian-12", "rocky-9", "tumbleweed"):
        about, row = GUESTS[name]
        if name != "tumbleweed":  # may be a transactional one
            assert choose_release(find_family(load_catalog().find(name).family), about, refuse)[0].release == row


@pytest.mark.parametrize("name", ["debian", "redhat", "suse"])
def test_the_nearest_row_of_a_release_covers_no_other(name: str) -> None:
    """Two rows for one guest would make the order of the table matter."""
    numbered = [release for release, _ in find_family(name).releases if release.since]
    for release in numbered:
        for identity in release.ids:
            for version in (release.since, release.until, f"{release.until}.9"):
                fitting = [
                    row.name
                    for row in numbered
                    if identity in row.ids and row.covers(tuple(map(int, version.split("."))))
                ]
                assert fitting == [release.name]


# ---------------------------------------------------------------- what the rows hold


@each_row
def test_every_command_of_a_row_can_be_filled(release: Release, driven: Family) -> None:
    commands, bootloader = driven.commands, driven.bootloader
    filled = {
        "installed": fill(commands.installed, package="kdump"),
        "install": fill(commands.install, packages="kdump makedumpfile"),
        "reserve": fill(bootloader.reserve, arguments=ARGUMENTS),
        "template": fill(bootloader.template, arguments=ARGUMENTS),
        "without": bootloader.without,
        **{f"finished {number}": fill(one, directory="/var/crash") for number, one in enumerate(driven.dumps.finished)},
        **{name: getattr(commands, name) for name in ("enable", "build", "arm", "status", "makedumpfile")},
        "estimate": commands.estimate,
        "probe": release.probe,
    }
    for name, text in filled.items():
        for hole in ("{package", "{arguments", "{directory", "{flags", "{level"):
            assert hole not in text, name
    assert ARGUMENTS in filled["reserve"] + filled["template"]


@each_row
def test_every_command_is_one_that_a_shell_can_read(release: Release, driven: Family) -> None:
    guest: Any = None
    reservations = [KdumpService(guest, driven).reserve_command(size) for size in ("256M", "default", "none")]
    assert ["crashkernel=256M" in script for script in reservations] == [not driven.bootloader.file, False, False]
    script = "\n".join(
        f"({text}\n)" for text in (*vars(driven.commands).values(), release.probe, *reservations) if text
    )
    checked = subprocess.run(["sh", "-n", "-c", script], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr


@each_row
def test_every_row_has_what_a_drill_needs(release: Release, driven: Family) -> None:
    assert driven.release == release.name
    assert driven.packages
    assert driven.service.endswith(".service")
    assert driven.dumps.formats["local"]
    assert driven.config.file.startswith("/etc/")
    assert driven.config.directory("") == "/var/crash"
    assert driven.compress in driven.config.compressions
    assert bool(driven.dumps.companion) == bool(driven.dumps.refuted)
    assert bool(driven.commands.estimate) <= bool(driven.suggestion)


def test_only_what_was_drilled_is_said_to_be() -> None:
    drilled = {record.release for record in load_records() if record.how in ("image", "guest")}
    assert {release.name for release, _ in ROWS if release.shown in ("image", "guest")} <= drilled


def test_releases_differ_where_their_kdump_does() -> None:
    def row(family: str, about: dict[str, str]) -> Family:
        return choose_release(find_family(family), about)[0]

    assert "kdump-utils" in row("redhat", os_release("fedora", "44")).packages
    assert "kexec-tools" in row("redhat", os_release("rhel", "9.8")).packages
    assert "kdump-utils" not in row("redhat", os_release("rhel", "9.8")).packages
    assert "reset-crashkernel" in row("redhat", os_release("rhel", "9.8")).bootloader.default
    assert "crashkernel=auto" in row("redhat", os_release("rhel", "8.10")).bootloader.default
    assert row("redhat", os_release("rhel", "7.9")).config.keys["on_failure"] == "default"
    assert row("redhat", os_release("rhel", "8.10")).config.keys["on_failure"] == "failure_action"
    assert "linux-crashdump" in row("debian", os_release("ubuntu", "24.04")).packages
    assert row("debian", os_release("ubuntu", "24.04")).bootloader.packaged.startswith("2G-4G:320M")
    assert row("debian", os_release("debian", "12")).bootloader.packaged == "384M-:128M"
    assert row("suse", os_release("sles", "16.0")).dumps.formats["local"] == ("kdump-flattened",)
    assert "kdump" in row("suse", os_release("sles", "15.7")).dumps.formats["local"]


def test_the_support_page_is_up_to_date() -> None:
    page = Path(__file__).parents[2] / "docs" / "support.md"
    assert page.read_text(encoding="utf-8") == support_page(FAMILIES, load_records()), (
        "run python docs/generate/support_page.py > docs/support.md"
    )


# ---------------------------------------------------------------- the boot loader of Debian


@pytest.mark.parametrize(
    ("crashkernel", "words"),
    [
        ("256M", ["256M"]),
        ("256M,high crashkernel=72M,low", ["256M,high", "72M,low"]),
        ("128M crashkernel=256M,cma", ["128M", "256M,cma"]),
        ("default", ["1G-:96M", "512M-:192M"]),
        ("none", []),
    ],
)
def test_debian_reserves_by_the_words_of_the_drill_alone(tmp_path: Path, crashkernel: str, words: list[str]) -> None:
    """A packaged reservation would win over ,high without a message."""
    packaged = 'GRUB_CMDLINE_LINUX_DEFAULT="$GRUB_CMDLINE_LINUX_DEFAULT crashkernel=512M-:192M"\n'
    script = f'GRUB_CMDLINE_LINUX="net.ifnames=0 crashkernel=1G-:96M"\nGRUB_CMDLINE_LINUX_DEFAULT="quiet"\n{packaged}'
    guest: Any = SimpleNamespace(
        shell=SimpleNamespace(write_text=lambda _path, text: (tmp_path / "own").write_text(text))
    )
    driven, _ = choose_release(find_family("debian"), os_release("debian", "13"))
    KdumpService(guest, driven).write_bootloader(crashkernel)
    script += (tmp_path / "own").read_text() + 'echo "$GRUB_CMDLINE_LINUX $GRUB_CMDLINE_LINUX_DEFAULT"\n'
    line = subprocess.run(["sh", "-ec", script], capture_output=True, text=True, check=True).stdout
    assert words_in(line) == tuple(words)
    others = [word for word in line.split() if not word.startswith("crashkernel=")]
    assert others == f"net.ifnames=0 quiet {DRILL_ARGUMENTS}".split()


# ---------------------------------------------------------------- the boot loader of older SUSE


GRUB = (
    'GRUB_DISTRIBUTOR="SLES"\n'
    'GRUB_CMDLINE_LINUX_DEFAULT="rw systemd.show_status=1 console=ttyS0,115200 console=tty0 net.ifnames=0 quiet'
    ' crashkernel=72M,low crashkernel=128M,high"\n'
    'GRUB_CMDLINE_LINUX=""\n'
)
CALIBRATE = "Total: 16384\nLow: {low}\nHigh: {high}\nMinLow: 0\nMaxLow: 2000\nMinHigh: 0\nMaxHigh: 14000\n"


@pytest.mark.parametrize(
    ("crashkernel", "high", "low", "reserved"),
    [
        ("256M", 443, 72, " crashkernel=256M"),
        ("1G-4G:192M,4G-:256M", 443, 72, " crashkernel=1G-4G:192M,4G-:256M"),
        ("256M,high crashkernel=64M,low", 443, 72, " crashkernel=256M,high crashkernel=64M,low"),
        ("default", 443, 72, " crashkernel=72M,low crashkernel=443M,high"),
        ("default", 322, 0, " crashkernel=322M,high"),
        ("default", 0, 288, " crashkernel=288M"),
        ("none", 443, 72, ""),
    ],
)
def test_older_suse_gets_its_arguments_in_etc_default_grub(
    tmp_path: Path, crashkernel: str, high: int, low: int, reserved: str
) -> None:
    grub = tmp_path / "grub"
    grub.write_text(GRUB)
    for tool, says in (("grub2-mkconfig", ""), ("kdumptool", CALIBRATE.format(low=low, high=high))):
        (tmp_path / tool).write_text(f'#!/bin/sh\nprintf "%s" "{says}"\n')
        (tmp_path / tool).chmod(0o755)
    guest: Any = None
    driven, _ = choose_release(find_family("suse"), os_release("sles", "15.7", "suse"))
    script = KdumpService(guest, driven).reserve_command(crashkernel).replace("/etc/default/grub", str(grub))
    subprocess.run(["sh", "-c", script], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=True)
    line = next(line for line in grub.read_text().splitlines() if line.startswith("GRUB_CMDLINE_LINUX_DEFAULT"))
    words = line.partition("=")[2].strip('"').split()
    assert words == f"rw systemd.show_status=1 net.ifnames=0 {DRILL_ARGUMENTS}{reserved}".split()
    assert grub.read_text().count("\n") == GRUB.count("\n")


# ---------------------------------------------------------------- slips


SMALL = Path(tables.package_path("distro", "families", "debian.toml")).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ('level       = 31\n', "", "small.toml: missing level"),
        ('level       = 31\n', 'level = 31\nspeed = 1\n', "small.toml: unknown speed"),
        ('syntax      = "assignment"', 'syntax = "yaml"', r"\[config\]: syntax must be one of assignment, directive"),
        ('collector   = "options"', 'collector = "magic"', r"\[config\]: collector must be one of options, format"),
        ("{packages}", "{package}", r"\[commands\]: install: unknown \{package\} \(known: \{packages\}\)"),
        ('arm         = "', 'arm = "{directory} ', r"\[commands\]: arm: unknown \{directory\} \(known: none\)"),
        ('"{directory}/[0-9]*/dump.[0-9]*"', '"{place}/dump"', r"\[dumps\]: finished: unknown \{place\}"),
        ("failed      = '", "failed = '(", r"\[console\]: failed is not a regular expression"),
        ('shown       = "guest"', 'shown = "yes"', r"\[\[release\]\] Debian 11: shown must be one of image, guest"),
        ('until       = "11"\n', "", r"\[\[release\]\] Debian 11: since and until must be there both"),
        ("rolling     = true", "", r"\[\[release\]\] Debian testing and sid: since with until, rolling or probe"),
        ('ids         = ["debian"]\nsince       = "11"', 'since = "11"', r"\[\[release\]\] Debian 11: missing ids"),
        (
            'shown       = "guest"',
            'shown = "guest"\nlike = "Debian 9"',
            r"\[\[release\]\] Debian 11: like must be the name of a row above, got 'Debian 9'",
        ),
        (
            '[release.bootloader]\npackaged    = "384M-:128M"\n\n[[release]]\nname        = "Debian 12"',
            '[release.bootloader]\nspeed = 1\n\n[[release]]\nname        = "Debian 12"',
            r"\[\[release\]\] Debian 11: \[bootloader\]: unknown speed",
        ),
    ],
)  # fmt: skip
def test_a_slip_in_a_table_is_told_where_it_was_made(tmp_path: Path, old: str, new: str, sentence: str) -> None:
    assert old in SMALL
    (tmp_path / "small.toml").write_text(SMALL.replace(old, new, 1))
    with pytest.raises(TableError, match=sentence):
        load_family(tmp_path / "small.toml")


def test_a_row_that_is_like_another_has_only_the_differences() -> None:
    rows = {release.name: driven for release, driven in FAMILIES["redhat"].releases}
    older, amazon = rows["RHEL 7 and rebuilds"], rows["Amazon Linux 2"]
    assert amazon.commands == older.commands
    assert (older.bootloader.packaged, amazon.bootloader.packaged) == ("auto", "")


def test_a_family_without_releases_is_refused(tmp_path: Path) -> None:
    (tmp_path / "small.toml").write_text(SMALL[: SMALL.index("[[release]]")])
    with pytest.raises(TableError, match=r"small\.toml: missing release"):
        load_family(tmp_path / "small.toml")


def test_an_unknown_family_is_told_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"unknown family 'arch' \(known: debian, redhat, suse\)"):
        find_family("arch")


def test_the_braces_of_the_shell_stay() -> None:
    assert fill("echo ${Status} {package} { true; }", package="kdump") == "echo ${Status} kdump { true; }"


def test_a_configuration_is_written_with_the_rights_that_it_had() -> None:
    modes = {name: find_family(name).config.mode for name in FAMILIES}
    assert modes == {"debian": 0o644, "redhat": 0o644, "suse": 0o600}
    assert isinstance(find_family("suse").config, ConfigFile)
