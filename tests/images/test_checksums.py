"""Every form of checksum documents, and their possible errors."""

from __future__ import annotations

import base64
import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kdump_harness.images.checksums import FORMS, Digest, NoChecksum, digest_of, find

SHA256 = "5e2f" * 16
OTHER256 = "0a1b" * 16
SHA512 = "c3d4" * 32
OTHER512 = "9e8f" * 32

GNU_TWO_SPACES = f"""\
{OTHER256}  AlmaLinux-9-GenericCloud-ext4-latest.x86_64.qcow2
{SHA256}  AlmaLinux-9-GenericCloud-9.8-20260526.x86_64.qcow2
{SHA256}  AlmaLinux-9-GenericCloud-latest.x86_64.qcow2
"""
GNU_ONE_SPACE = f"{SHA256} openSUSE-Leap-15.6-Minimal-VM.x86_64-Cloud.qcow2\n"
GNU_BINARY = f"""\
{OTHER256} *ubuntu-24.04-server-cloudimg-amd64.ova
{SHA256} *ubuntu-24.04-server-cloudimg-amd64.img
"""
GNU_SHA512 = f"""\
{OTHER512}  debian-12-genericcloud-amd64.json
{SHA512}  debian-12-genericcloud-amd64.qcow2
{OTHER512}  debian-12-genericcloud-amd64.raw
"""
BSD_WITH_COMMENTS = f"""\
# CentOS-Stream-GenericCloud-9-20260720.0.x86_64.qcow2: 1234567 bytes
SHA256 (CentOS-Stream-GenericCloud-9-20260720.0.x86_64.qcow2) = {SHA256}
# CentOS-Stream-ec2-9-20260720.0.x86_64.raw.xz: 7654321 bytes
SHA256 (CentOS-Stream-ec2-9-20260720.0.x86_64.raw.xz) = {OTHER256}
"""
BSD_REPEATED = f"""\
SHA256 (Rocky-9-GenericCloud-Base.latest.x86_64.qcow2) = {SHA256}
SHA256 (Rocky-9-GenericCloud-Base.latest.x86_64.qcow2) = {SHA256}
"""
CLEAR_SIGNED = f"""\
-----BEGIN PGP SIGNED MESSAGE-----
Hash: SHA256

# Fedora-Cloud-Base-Generic-44-1.7.x86_64.qcow2: 554321920 bytes
SHA256 (Fedora-Cloud-Base-Generic-44-1.7.x86_64.qcow2) = {SHA256}
- SHA256 (Fedora-Cloud-Base-UEFI-UKI-44-1.7.x86_64.qcow2) = {OTHER256}
-----BEGIN PGP SIGNATURE-----

iQIzBAEBCAAdFiEEAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=
=abcd
-----END PGP SIGNATURE-----
"""


def lines(text: str, wanted: str, form: str = "lines") -> str:
    return find(text, form, wanted, where="SUMS").digest.hexdigest


@pytest.mark.parametrize(
    ("text", "wanted", "hexdigest"),
    [
        (GNU_TWO_SPACES, "AlmaLinux-9-GenericCloud-latest.x86_64.qcow2", SHA256),
        (GNU_ONE_SPACE, "openSUSE-Leap-15.6-Minimal-VM.x86_64-Cloud.qcow2", SHA256),
        (GNU_BINARY, "ubuntu-24.04-server-cloudimg-amd64.img", SHA256),
        (GNU_SHA512, "debian-12-genericcloud-amd64.qcow2", SHA512),
        (BSD_WITH_COMMENTS, "CentOS-Stream-GenericCloud-9-20260720.0.x86_64.qcow2", SHA256),
        (BSD_REPEATED, "Rocky-9-GenericCloud-Base.latest.x86_64.qcow2", SHA256),
        (CLEAR_SIGNED, "Fedora-Cloud-Base-Generic-44-1.7.x86_64.qcow2", SHA256),
        (CLEAR_SIGNED, "Fedora-Cloud-Base-UEFI-UKI-44-1.7.x86_64.qcow2", OTHER256),
    ],
    ids=["gnu", "one-space", "binary", "sha512", "bsd", "repeated", "signed", "dash-escaped"],
)
@pytest.mark.parametrize("newline", ["\n", "\r\n"], ids=["unix", "dos"])
def test_each_form_of_listing_gives_the_digest_of_the_file(text, wanted, hexdigest, newline):
    assert lines(text.replace("\n", newline), wanted) == hexdigest


def test_the_algorithm_follows_from_the_listing():
    assert find(GNU_SHA512, "lines", "*.qcow2", where="S").digest == Digest("sha512", SHA512)
    assert find(GNU_ONE_SPACE, "lines", "*.qcow2", where="S").digest == Digest("sha256", SHA256)


def test_upper_case_directories_and_byte_order_marks_do_not_matter():
    assert lines(f"\ufeff{SHA256.upper()}  ./images/a.qcow2\n", "a.qcow2") == SHA256


def test_a_glob_finds_todays_name_in_a_listing():
    listing = f"""\
{OTHER256}  al2023-kvm-2023.12.20260917.1-kernel-6.12-x86_64.xfs.gpt.qcow2
{SHA256}  al2023-kvm-2023.12.20260917.1-kernel-6.1-x86_64.xfs.gpt.qcow2
"""
    entry = find(listing, "lines", "al2023-kvm-*-kernel-6.1-x86_64.xfs.gpt.qcow2", where="SHA256SUMS")
    assert entry.location == "al2023-kvm-2023.12.20260917.1-kernel-6.1-x86_64.xfs.gpt.qcow2"


def test_a_file_listed_under_two_algorithms_is_checked_by_the_longer_digest():
    text = f"SHA256 (a.qcow2) = {SHA256}\nSHA512 (a.qcow2) = {SHA512}\nMD5 (a.qcow2) = {'ab' * 16}\n"
    assert lines(text, "a.qcow2") == SHA512


@pytest.mark.parametrize("text", [f"{SHA256}  Leap-16.0-Build12.7.qcow2\n", f"SHA256 (x) = {SHA256}\n", f"{SHA256}\n"])
def test_a_document_for_one_image_counts_whatever_name_is_in_it(text):
    assert lines(text, "Leap-16.0-Minimal-VM.x86_64-Cloud.qcow2", form="sole") == SHA256


def test_a_document_for_one_image_with_two_digests_is_read_by_name():
    text = f"{SHA256}  a.qcow2\n{OTHER256}  b.qcow2\n"
    assert lines(text, "b.qcow2", form="sole") == OTHER256
    with pytest.raises(NoChecksum, match=r"2 digests, but none of c\.qcow2"):
        lines(text, "c.qcow2", form="sole")


def test_lines_outside_of_the_signed_message_do_not_count():
    before = f"SHA256 (evil.qcow2) = {OTHER256}\n{CLEAR_SIGNED}"
    after = f"{CLEAR_SIGNED}\nSHA256 (evil.qcow2) = {OTHER256}\n"
    for text in (before, after):
        with pytest.raises(NoChecksum, match=r"none of evil\.qcow2"):
            lines(text, "evil.qcow2")


def test_a_missing_name_is_refused_with_the_document_and_the_name():
    with pytest.raises(NoChecksum, match=r"SUMS has 3 digests, but none of debian-13\.qcow2"):
        lines(GNU_SHA512, "debian-13.qcow2")


def test_a_name_with_two_digests_is_refused():
    with pytest.raises(NoChecksum, match=r"ambiguous for a\.qcow2: it lists two digests of a\.qcow2"):
        lines(f"{SHA256}  a.qcow2\n{OTHER256}  a.qcow2\n", "a.qcow2")


def test_a_glob_that_fits_two_different_images_is_refused():
    with pytest.raises(NoChecksum, match=r"lists a-1\.qcow2 and a-2\.qcow2"):
        lines(f"{SHA256}  a-1.qcow2\n{OTHER256}  a-2.qcow2\n", "a-*.qcow2")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<!DOCTYPE html><title>Sign in to the guest network</title>",
        f"{'ab' * 16}  a.qcow2",
        f"{SHA256[:-1]}  a.qcow2",
    ],
    ids=["empty", "portal", "md5", "short"],
)
@pytest.mark.parametrize("form", FORMS)
def test_a_document_without_a_usable_digest_is_quoted(text, form):
    with pytest.raises(NoChecksum, match=r"no SHA-256 or SHA-512 digest in SUMS, which (starts with|is empty)"):
        find(text, form, "a.qcow2", where="SUMS")


def test_a_digest_of_the_wrong_length_for_its_algorithm_does_not_count():
    with pytest.raises(NoChecksum):
        lines(f"SHA256 (a.qcow2) = {SHA512}\n", "a.qcow2")


def debian_upload(suffix: str, digest: str) -> dict[str, Any]:
    return {
        "kind": "Upload",
        "data": {"ref": f"bookworm/20260801-2019/debian-12-genericcloud-amd64-20260801-2019.{suffix}"},
        "metadata": {
            "annotations": {"cloud.debian.org/digest": digest},
            "labels": {"cloud.debian.org/version": "20260801-2019"},
        },
    }


def in_base64(hexdigest: str) -> str:
    return base64.b64encode(bytes.fromhex(hexdigest)).decode().rstrip("=")


def test_debians_annotation_is_base64_without_padding():
    text = json.dumps(
        {
            "kind": "List",
            "items": [
                {"kind": "Build", "data": {"packages": []}},
                debian_upload("raw", f"sha512:{in_base64(OTHER512)}"),
                debian_upload("qcow2", f"sha512:{in_base64(SHA512)}"),
            ],
        }
    )
    entry = find(text, "debian-json", "debian-12-genericcloud-amd64.qcow2", where="json")
    assert entry.digest == Digest("sha512", SHA512)


@pytest.mark.parametrize("digest", ["sha512:%%%", "md5:AAAA", "sha512:AAAA", "", f"sha256:{in_base64(SHA512)}"])
def test_a_debian_annotation_that_is_no_digest_does_not_count(digest):
    with pytest.raises(NoChecksum):
        find(json.dumps({"items": [debian_upload("qcow2", digest)]}), "debian-json", "*.qcow2", where="json")


def test_oracles_index_gives_the_name_and_the_place_of_today():
    index = {
        "release": "Oracle Linux 9 Update 8",
        "base_url": "/templates/OracleLinux/OL9/u8/x86_64",
        "kvm": {"image": "OL9U8_x86_64-kvm-b293.qcow2", "sha256": SHA256},
        "ova": {"image": "OL9U8_x86_64-olvm-b293.ova", "sha256": OTHER256},
    }
    entry = find(json.dumps(index), "oracle-json", "OL9U*_x86_64-kvm-b*.qcow2", where="json")
    assert entry.location == "/templates/OracleLinux/OL9/u8/x86_64/OL9U8_x86_64-kvm-b293.qcow2"
    assert entry.digest == Digest("sha256", SHA256)


def fedora_artifact(name: str, sha256: str | None) -> dict[str, str]:
    link = f"https://download.fedoraproject.org/pub/fedora/linux/releases/44/Cloud/x86_64/images/{name}"
    return {"version": "44", "arch": "x86_64", "link": link, **({"sha256": sha256} if sha256 else {})}


def test_fedoras_index_gives_the_compose_of_the_release_and_not_its_beta():
    artifacts = [
        fedora_artifact("Fedora-Cloud-Base-Generic-44_Beta-1.2.x86_64.qcow2", OTHER256),
        fedora_artifact("Fedora-Cloud-Base-Generic-43-1.6.x86_64.qcow2", OTHER256),
        fedora_artifact("Fedora-Cloud-Base-Generic-44-1.7.x86_64.qcow2", SHA256),
        fedora_artifact("Fedora-Silverblue-44.1.7.ociarchive", None),
    ]
    entry = find(json.dumps(artifacts), "fedora-json", "Fedora-Cloud-Base-Generic-44-*.x86_64.qcow2", where="json")
    assert entry.location.endswith("/Fedora-Cloud-Base-Generic-44-1.7.x86_64.qcow2")
    assert entry.digest.hexdigest == SHA256


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["items", "metadata", "annotations", "kvm", "base_url", "link", "data"]), inner
        )
    ),
    max_leaves=8,
)


@given(text=st.text() | json_values.map(json.dumps), form=st.sampled_from(sorted(FORMS)))
def test_no_document_whatever_breaks_the_parser(text, form):
    with contextlib.suppress(NoChecksum):
        find(text, form, "a.qcow2", where="document")


def test_the_digest_of_a_file_is_that_of_its_bytes(tmp_path):
    path = tmp_path / "empty"
    path.write_bytes(b"")
    assert digest_of(path, "sha256").hexdigest.startswith("e3b0c44298fc1c14")
