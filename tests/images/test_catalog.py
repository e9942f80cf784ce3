"""The shipped catalogue, and the errors for invalid rows."""

from __future__ import annotations

import re

import pytest
from kdump_harness.base.errors import TableError, UsageError
from kdump_harness.configuration.own_tables import family_names
from kdump_harness.distro.architecture import find_architecture
from kdump_harness.images.build import BASE_PACKAGES
from kdump_harness.images.catalog import load_catalog

ROW = """\
[[image]]
name = "demo-1"
family = "debian"
release = "1"
login = "demo"
url = "https://images.example/demo.qcow2"
checksums = "https://images.example/SHA256SUMS"
"""


@pytest.fixture(scope="module")
def catalog():
    return load_catalog()


@pytest.fixture
def load(tmp_path):
    def _load(text):
        path = tmp_path / "catalog.toml"
        path.write_text(text, encoding="utf-8")
        return load_catalog(path)

    return _load


def test_the_catalogue_that_ships_has_all_families_and_the_debians_first(catalog):
    assert catalog.names[:4] == ("debian-11", "debian-12", "debian-13", "debian-sid")
    assert {image.family for image in catalog} == set(family_names())
    assert len(catalog) >= 30


def test_the_debians_can_be_built_from_packages(catalog):
    suites = {image.name: (image.build.suite, image.build.security_suite) for image in catalog if image.build}
    assert suites == {
        "debian-11": ("bullseye", ""),
        "debian-12": ("bookworm", "bookworm-security"),
        "debian-13": ("trixie", "trixie-security"),
        "debian-sid": ("sid", ""),
        "arm64-debian-11": ("bullseye", ""),
        "arm64-debian-12": ("bookworm", "bookworm-security"),
        "arm64-debian-13": ("trixie", "trixie-security"),
        "ppc64el-debian-12": ("bookworm", ""),
        "ppc64el-debian-13": ("trixie", "trixie-security"),
    }


def test_a_built_debian_has_the_initramfs_generator_of_its_own_kernel(catalog):
    """Only sid's kernel brings dracut; a kernel of backports must not bring it where initramfs-tools was before."""
    assert "initramfs-tools" not in BASE_PACKAGES
    built = {image.name: "initramfs-tools" in image.build.packages for image in catalog if image.build}
    assert {name for name, there in built.items() if not there} == {"debian-sid"}


def test_an_image_of_another_architecture_is_found_by_the_usual_name(catalog):
    arm64, amd64 = find_architecture("arm64"), find_architecture("amd64")
    assert catalog.find_for("debian-13", arm64).name == "arm64-debian-13"
    assert catalog.find_for("arm64-debian-13", arm64).name == "arm64-debian-13"
    assert catalog.find_for("debian-13", amd64).name == "debian-13"
    with pytest.raises(UsageError, match=r"no image oracle-9 for arm64 \(known: debian-11, debian-12, debian-13, "):
        catalog.find_for("oracle-9", arm64)


def test_a_row_of_another_architecture_is_named_and_boots_like_it(catalog):
    others = [image for image in catalog if image.arch != "x86_64"]
    assert others
    for image in others:
        assert image.name.startswith(f"{image.architecture.name}-")
        assert set(image.firmware) <= set(image.architecture.boot_disk.firmware)
        usual = catalog.find(image.name.partition("-")[2])
        assert (usual.release, usual.login, usual.family) == (image.release, image.login, image.family)
        assert (usual.build and usual.build.suite) == (image.build and image.build.suite)


def test_a_row_is_one_for_each_of_its_architectures(catalog):
    rocky, ubuntu = catalog.find("ppc64el-rocky-9"), catalog.find("arm64-ubuntu-24.04")
    assert (rocky.arch, rocky.firmware, rocky.cpu) == ("ppc64le", ("slof",), 1)
    assert rocky.url.endswith("/9/images/ppc64le/Rocky-9-GenericCloud-Base.latest.ppc64le.qcow2")
    assert rocky.checksums == f"{rocky.url}.CHECKSUM"
    assert ubuntu.url.endswith("/ubuntu-24.04-server-cloudimg-arm64.img")
    assert not [
        image.name for image in catalog if image.arch != "x86_64" and re.search("x86|amd64", image.url + image.file)
    ]
    assert not [image.name for image in catalog if image.also and image.arch != "x86_64"]


def test_every_download_of_the_catalogue_that_ships_is_encrypted(catalog):
    for image in catalog:
        for address in filter(None, (image.url, image.checksums)):
            assert address.startswith("https://"), image.name


def test_an_address_names_the_release_of_its_row(catalog):
    """A copied row that still points at another release is the usual mistake."""
    codenames = {"11": "bullseye", "12": "bookworm", "13": "trixie", "22.04": "jammy", "26.10": "stonking"}
    for image in catalog:
        text = " ".join((image.url, image.file, image.checksums)).lower()
        release = re.escape(image.release).replace(r"15\.7", "15-sp7")
        assert re.search(rf"(?<!\d){release}(?!\d)", text) or codenames.get(image.release, "?") in text, image.name
        others = set(codenames.values()) - {codenames.get(image.release)}
        assert not {codename for codename in others if codename in text}, image.name


def test_a_variant_is_named_after_its_release_and_does_not_match_the_releases_of_its_family(catalog):
    variants = [
        image for image in catalog if image.name.split("-")[0] in ("generic", "minimal", "lvm", "ext4", "v2", "v3")
    ]
    assert len(variants) == 16
    for image in variants:
        release = catalog.find(image.name.partition("-")[2])
        assert (image.family, image.release, image.login) == (release.family, release.release, release.login)
        assert image.url != release.url
    assert not set(variants) & set(catalog.match(["debian-*", "ubuntu-*", "rocky-*", "alma-*"]))


def test_the_processor_follows_the_release_of_red_hat_and_its_rebuilds(catalog):
    rebuilds = ("centos-stream", "rocky", "alma", "oracle", "rhel", "lvm-rocky", "ext4-alma")
    levels = {image.name: image.cpu for image in catalog if image.name.rpartition("-")[0] in rebuilds}
    assert len(levels) == 20
    for name, level in levels.items():
        assert level == {"8": 1, "9": 2, "10": 3}[name.rpartition("-")[2]], name
    assert {image.cpu for image in catalog if image.family == "debian" and not image.name.startswith("v3-")} == {1}
    for image in catalog:
        assert f"v{image.cpu}" in image.name or not image.name.startswith(("v2-", "v3-"))


def test_images_behind_a_login_say_where_people_get_which_file(catalog):
    manual = {image.name: image.file for image in catalog if image.manual and image.arch == "x86_64"}
    assert set(manual) == {"rhel-8", "rhel-9", "rhel-10", "sles-15-sp7", "sles-16.0"}
    assert all("*" in name and name.endswith(".qcow2") for name in manual.values())


def test_an_image_is_found_by_its_name(catalog):
    assert catalog.find("debian-12").release == "12"


@pytest.mark.parametrize(
    ("wrong", "near"), [("debain-12", "debian-12"), ("Rocky-9", "rocky-9"), ("fedora44", "fedora-44")]
)
def test_an_unknown_name_is_answered_with_near_ones(catalog, wrong, near):
    with pytest.raises(UsageError, match=rf"unknown image '{wrong}' \(did you mean .*{near}"):
        catalog.find(wrong)


def test_a_name_like_no_other_is_answered_with_all(catalog):
    with pytest.raises(UsageError, match=r"unknown image 'plan9' \(known: debian-11, .*sles-16\.0, .*\)"):
        catalog.find("plan9")


def test_globs_give_each_image_once_in_the_order_of_the_catalogue(catalog):
    images = catalog.match(["rocky-9", "debian-*", "debian-12"])
    assert [image.name for image in images] == ["debian-11", "debian-12", "debian-13", "debian-sid", "rocky-9"]


def test_a_glob_that_matches_nothing_is_refused(catalog):
    with pytest.raises(UsageError, match=r"no image matches 'gentoo-\*'"):
        catalog.match(["debian-*", "gentoo-*"])
    with pytest.raises(UsageError, match="did you mean debian-12"):
        catalog.match(["debian-12x"])


def test_a_good_row_is_taken(load):
    assert load(ROW).find("demo-1").firmware == ("bios", "uefi")


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ('release = "1"\n', "", "missing release"),
        ('release = "1"', "release = 1", "release must be a string, not 1"),
        ('release = "1"', 'release = "1"\ncolour = "red"', "unknown colour"),
        ('"debian"', '"gentoo"', "family must be one of debian, redhat, suse, not 'gentoo'"),
        ('login = "demo"', 'login = "demo"\narch = "vax"', "arch must be one of"),
        ('login = "demo"', 'login = "demo"\nalso = ["vax"]', "also must be one of amd64, arm64, ppc64el, not 'vax'"),
        ('login = "demo"', 'login = "demo"\nchecksum_form = "crc"', "checksum_form must be one of lines, sole"),
        ('login = "demo"', 'login = "demo"\nfirmware = ["coreboot"]', "firmware must be a choice of bios, uefi"),
        ('login = "demo"', 'login = "demo"\nfirmware = []', "firmware must be a choice of bios, uefi"),
        ('login = "demo"', 'login = "demo"\ncpu = 4', "cpu must be one of 1, 2, 3, not 4"),
        ('login = "demo"', 'login = "demo"\ncpu = "v3"', "cpu must be a whole number, not 'v3'"),
        ("https://images.example/demo.qcow2", "file:///etc/passwd", "url must be the http or https address"),
        ("https://images.example/SHA256SUMS", "https://images.example/", "checksums must be the http or https address"),
        ("https://images.example/demo.qcow2", "https://[", "url must be the http or https address"),
        ('checksums = "https://images.example/SHA256SUMS"\n', "", "missing checksums"),
        ('url = "https://images.example/demo.qcow2"\n', "", "expected either url or file"),
        ('login = "demo"', 'login = "demo"\nfile = "demo-*.qcow2"', "expected either url or file"),
        ('login = "demo"', 'login = "demo"\nfile = "../demo.qcow2"', "file must be the name of a file"),
        ('login = "demo"', 'login = "demo"\nmanual = "the portal"', "manual images have no url"),
        ('login = "demo"', 'login = "demo"\nbuild = { suite = "x" }', r"\[build\]: missing kernel"),
    ],
)
def test_a_slip_in_a_row_is_named_by_file_row_and_key(load, old, new, fault):
    assert old in ROW
    with pytest.raises(TableError, match=rf"catalog\.toml: \[\[image\]\] demo-1: {fault}"):
        load(ROW.replace(old, new))


def test_a_name_that_cannot_be_a_directory_is_refused(load):
    with pytest.raises(TableError, match=r"\[\[image\]\] \.\./x: name must be"):
        load(ROW.replace("demo-1", "../x"))


def test_two_rows_of_one_name_are_refused(load):
    with pytest.raises(TableError, match=r"\[\[image\]\] demo-1: name is not unique"):
        load(ROW + ROW)


def test_a_manual_row_needs_the_name_of_its_file(load):
    row = ROW.split("url =")[0] + 'manual = "the portal"\n'
    with pytest.raises(TableError, match="missing file"):
        load(row)
    assert load(row + 'file = "demo-*.qcow2"\n').find("demo-1").source == "the portal"
