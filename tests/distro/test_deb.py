"""Package files: what is read of strangers' ones without unpacking them, and what is written."""

from __future__ import annotations

import io
import lzma
import os
import shutil
import subprocess
import tarfile
import tracemalloc
from pathlib import Path

import pytest
from kdump_harness.distro.deb import ArchiveMember, BadDebError, control_of, find_text, write_deb
from kernel_factory import COMPRESS, CONFIG, RELEASE, ar_of, deb, kernel_deb, tar_of

CONFIG_FILE = r"boot/config-[^/]+"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "some.deb"


@pytest.mark.parametrize("suffix", COMPRESS)
def test_control_and_configuration_are_found_however_they_are_compressed(path: Path, suffix: str) -> None:
    path.write_bytes(kernel_deb(suffix=suffix))
    control = control_of(path)
    assert (control["Architecture"], control["Version"]) == ("amd64", "1.0-1")
    assert "more" not in control
    assert find_text(path, CONFIG_FILE, max_bytes=10_000) == CONFIG


def test_a_package_without_the_file_has_none(path: Path) -> None:
    path.write_bytes(deb(files={"usr/bin/makedumpfile": b"program" * 1000, "usr/share/boot/config-1": b""}))
    assert find_text(path, CONFIG_FILE, max_bytes=10_000) is None


def test_a_name_that_is_too_long_for_a_header_is_read(path: Path) -> None:
    name = f"boot/config-{'x' * 150}"
    path.write_bytes(deb(files={"usr/" + "y" * 200: b"1", name: b"yes", "z": b""}))
    assert find_text(path, CONFIG_FILE, max_bytes=10) == "yes"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is not an ar archive"),
        (b"just text\n", "it is not an ar archive"),
        (b"!<arch>\n", "it has no control.tar"),
        (b"!<arch>\n" + b"x" * 60, "its ar archive is damaged"),
        (ar_of({"control.tar.7z": b"7z"}), "it is compressed in a way that is not known here ('7z')"),
        (ar_of({"control.tar.xz": b"no xz at all"}), "it cannot be decompressed"),
        (ar_of({"control.tar.gz": b"no gzip at all"}), "it cannot be decompressed"),
        (ar_of({"control.tar.zst": b"no zstd at all"}), "it cannot be decompressed"),
        (ar_of({"control.tar": tar_of({"md5sums": b""})}), "its control archive has no control file"),
        (ar_of({"control.tar": tar_of({"control": b"x"})[:512]}), "it is cut short"),
        (ar_of({"control.tar.xz": lzma.compress(tar_of({"control": b"x"}))[:60]}), "it is cut short"),
        (ar_of({"control.tar": b"x" * 512}), "its tar archive is damaged"),
        (ar_of({"control.tar": tar_of({"control": bytes(2 << 20)})}), "2097152 bytes where"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_read_is_said(path: Path, content: bytes, reason: str) -> None:
    path.write_bytes(content)
    with pytest.raises(BadDebError) as error:
        control_of(path)
    assert reason in str(error.value)


def test_a_negative_size_is_damage(path: Path) -> None:
    archive = bytearray(tar_of({"control": b"x"}))
    archive[124:136] = b"-0000000001\0"
    path.write_bytes(ar_of({"control.tar": bytes(archive)}))
    with pytest.raises(BadDebError, match="its tar archive is damaged"):
        control_of(path)


@pytest.mark.parametrize("kind", [b"L", b"x"])
def test_a_name_of_many_bytes_is_not_taken_into_memory(path: Path, kind: bytes) -> None:
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = kind, 16 << 20
    path.write_bytes(ar_of({"control.tar.xz": lzma.compress(info.tobuf() + bytes(16 << 20), preset=0)}))
    tracemalloc.start()
    try:
        with pytest.raises(BadDebError):
            control_of(path)
        assert tracemalloc.get_traced_memory()[1] < 2 << 20
    finally:
        tracemalloc.stop()


def test_a_bomb_is_not_decompressed_to_its_end(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The content behind the needed part stays unread."""
    look_mib = 4
    monkeypatch.setattr("kdump_harness.distro.deb.LOOK_MAX_BYTES", look_mib << 20)
    compressor = lzma.LZMACompressor(preset=0)
    info = tarfile.TarInfo("./boot/System.map")
    info.size = (look_mib + 1) << 20
    parts = [compressor.compress(info.tobuf())]
    parts += [compressor.compress(bytes(1 << 20)) for _ in range(info.size >> 20)]
    parts += [compressor.compress(tar_of({f"boot/config-{RELEASE}": b"yes"})), compressor.flush()]
    path.write_bytes(ar_of({"debian-binary": b"2.0\n", "data.tar.xz": b"".join(parts)}))
    assert path.stat().st_size < 1 << 20
    assert find_text(path, CONFIG_FILE, max_bytes=10) is None
    monkeypatch.setattr("kdump_harness.distro.deb.LOOK_MAX_BYTES", 2 * look_mib << 20)
    assert find_text(path, CONFIG_FILE, max_bytes=10) == "yes"


# ---------------------------------------------------------------- written


@pytest.fixture
def written(tmp_path: Path) -> Path:
    (tmp_path / "image").write_bytes(b"image")
    (tmp_path / "empty").write_bytes(b"")
    os.utime(tmp_path / "image", (1, 1))
    path = tmp_path / "made.deb"
    entries = [
        ArchiveMember(name="boot/vmlinuz-1", file=tmp_path / "image"),
        ArchiveMember(name="lib/modules/1"),
        ArchiveMember(name="lib/modules/1/" + "long" * 40 + "/x.ko", file=tmp_path / "empty"),
        ArchiveMember(name="lib/modules/1/y.ko", link="x.ko"),
    ]
    fields = {"Package": "mine", "Version": "1", "Architecture": "amd64", "Maintainer": "me", "Description": "d"}
    write_deb(path, fields, {"postinst": "#!/bin/sh\nexit 0\n"}, entries)
    return path


def test_what_we_write_we_can_read(written: Path) -> None:
    assert control_of(written)["Package"] == "mine"
    assert find_text(written, r"boot/vmlinuz-\d", max_bytes=10) == "image"


def test_directories_come_before_what_is_in_them_and_everything_is_roots(written: Path) -> None:
    content = written.read_bytes()
    with tarfile.open(fileobj=io.BytesIO(content[content.index(b"data.tar") + 60 :])) as archive:
        members = archive.getmembers()
    assert [member.name for member in members] == [
        ".",
        "./boot",
        "./boot/vmlinuz-1",
        "./lib",
        "./lib/modules",
        "./lib/modules/1",
        f"./lib/modules/1/{'long' * 40}",
        f"./lib/modules/1/{'long' * 40}/x.ko",
        "./lib/modules/1/y.ko",
    ]
    assert {(member.uid, member.gid, member.mtime) for member in members} == {(0, 0, 946684800)}
    assert members[-1].linkname == "x.ko"


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="no dpkg-deb here")
def test_dpkg_takes_it_for_a_package(written: Path, tmp_path: Path) -> None:
    told = subprocess.run(["dpkg-deb", "-f", written, "Package"], capture_output=True, text=True, check=True)
    assert told.stdout == "mine\n"
    subprocess.run(["dpkg-deb", "-R", written, tmp_path / "out"], check=True)
    assert (tmp_path / "out/boot/vmlinuz-1").read_bytes() == b"image"
    assert (tmp_path / "out/lib/modules/1/y.ko").readlink() == Path("x.ko")
    assert os.access(tmp_path / "out/DEBIAN/postinst", os.X_OK)
