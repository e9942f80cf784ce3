"""The files that a qcow2 image names: none is opened, and none is used that the user has not allowed."""

from __future__ import annotations

import contextlib
import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from kdump_harness.__main__ import main
from kdump_harness.base.errors import UsageError
from kdump_harness.drill.disks import _downloaded, probe_format
from kdump_harness.images.qcow2 import read_references, require_named

needs_qemu_img = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed")


def image(path: Path, *, backing: str = "", form: str = "", data: str | None = None, version: int = 3) -> Path:
    """A header of an image, as QEMU writes it; there is nothing behind it."""
    extensions = b""
    for kind, text in ((0xE2792ACA, form or None), (0x44415441, data or None)):
        if text is not None:
            name = text.encode()
            extensions += struct.pack(">II", kind, len(name)) + name.ljust(-(-len(name) // 8) * 8, b"\0")
    extensions += bytes(8)
    at = (104 if version == 3 else 72) + len(extensions)
    head = struct.pack(">4sIQI", b"QFI\xfb", version, at if backing else 0, len(backing)).ljust(72, b"\0")
    if version == 3:
        head += struct.pack(">QQQII", 4 if data is not None else 0, 0, 0, 4, 104)
    path.write_bytes(head + extensions + backing.encode() + bytes(512))
    return path


@pytest.mark.parametrize("version", [2, 3])
def test_the_names_are_read_as_they_are_written(tmp_path: Path, version: int) -> None:
    found = read_references(image(tmp_path / "a", backing="../base.raw", form="raw", version=version))
    assert (found.backing, found.backing_format, found.data_file) == ("../base.raw", "raw", None)
    alone = read_references(image(tmp_path / "b", version=version))
    assert (alone.backing, alone.backing_format, alone.data_file) == (None, None, None)


@needs_qemu_img
def test_the_headers_of_qemu_img_are_read(tmp_path: Path) -> None:
    (tmp_path / "base").write_bytes(bytes(1 << 20))
    make = ["qemu-img", "create", "-q", "-f", "qcow2"]
    subprocess.run([*make, "-b", "base", "-F", "raw", tmp_path / "top"], check=True, cwd=tmp_path)
    subprocess.run([*make, "-o", f"data_file={tmp_path}/data", tmp_path / "split", "1M"], check=True)
    assert read_references(tmp_path / "top").backing == "base"
    assert read_references(tmp_path / "split").data_file == f"{tmp_path}/data"


def test_an_image_alone_is_accepted(tmp_path: Path) -> None:
    require_named(image(tmp_path / "disk.qcow2"), ())


@pytest.mark.parametrize("name", ["{}/secret", "secret", "../{}/secret", "./x/../secret"])
def test_a_backing_file_must_be_in_a_directory_that_the_user_named(tmp_path: Path, name: str) -> None:
    place = tmp_path / "images"
    place.mkdir()
    (place / "secret").write_bytes(bytes(512))
    named = name.format(place if name.startswith("{") else "images")
    disk = image(place / "disk.qcow2", backing=named, form="raw")
    if "x/.." in name:
        (place / "x").mkdir()
    with pytest.raises(UsageError, match=rf"may be any file of this host \(if it is meant: --allow-backing {place}\)"):
        require_named(disk, ())
    with pytest.raises(UsageError, match="--allow-backing"):
        require_named(disk, [tmp_path / "elsewhere"])
    require_named(disk, [place])
    require_named(disk, [tmp_path])


def test_a_link_does_not_lead_out_of_the_directory(tmp_path: Path) -> None:
    place = tmp_path / "images"
    place.mkdir()
    (tmp_path / "secret").write_bytes(bytes(512))
    (place / "base.raw").symlink_to(tmp_path / "secret")
    with pytest.raises(UsageError, match=f"names the backing file {tmp_path}/secret"):
        require_named(image(place / "disk.qcow2", backing="base.raw", form="raw"), [place])


@pytest.mark.parametrize(
    "name",
    [
        "nbd://192.0.2.1/x",
        "json:{}",
        "http://h/x",
        "ssh://h/x",
        "file:/etc/shadow",
        "nbd:unix:/x",
        'json:{"driver":"raw"}',
    ],
)
def test_an_address_is_never_followed(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="names an address as its backing file"):
        require_named(image(tmp_path / "disk.qcow2", backing=name), [Path("/")])


@pytest.mark.parametrize("name", ["", "data.raw", "/etc/shadow"])
def test_an_external_data_file_is_not_followed(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="names an external data file"):
        require_named(image(tmp_path / "disk.qcow2", data=name), [Path("/")])


def test_every_layer_is_looked_at(tmp_path: Path) -> None:
    image(tmp_path / "bottom", backing="/etc/shadow", form="raw")
    image(tmp_path / "middle", backing="bottom", form="qcow2")
    disk = image(tmp_path / "top", backing="middle")  # QEMU finds out the format
    with pytest.raises(UsageError, match=f"{tmp_path}/bottom names the backing file /etc/shadow"):
        require_named(disk, [tmp_path])
    image(tmp_path / "bottom", backing="top", form="qcow2")
    with pytest.raises(UsageError, match="more than 32 backing files"):
        require_named(disk, [tmp_path])
    image(tmp_path / "bottom", backing="x.vmdk", form="vmdk")
    (tmp_path / "x.vmdk").touch()
    with pytest.raises(UsageError, match="format 'vmdk'"):
        require_named(disk, [tmp_path])
    os.mkfifo(tmp_path / "pipe")
    image(tmp_path / "bottom", backing="pipe", form="raw")
    with pytest.raises(UsageError, match="not a regular file"):
        require_named(disk, [tmp_path])


@pytest.mark.parametrize("cut", [*range(0, 120, 7), 200])
def test_a_damaged_header_is_a_sentence(tmp_path: Path, cut: int) -> None:
    whole = image(tmp_path / "disk.qcow2", backing="base.raw", form="raw").read_bytes()
    path = tmp_path / "cut.qcow2"
    for head in (whole[:cut], whole[:cut] + b"\xff" * 64, b"QFI\xfb" + os.urandom(cut)):
        path.write_bytes(head)
        with contextlib.suppress(UsageError):  # every other exception is a traceback
            require_named(path, [tmp_path])


@needs_qemu_img
def test_qemu_img_is_not_asked_about_an_image_that_names_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def never(*_: object) -> None:
        pytest.fail("qemu-img would open the files")

    monkeypatch.setattr("kdump_harness.drill.disks.run_qemu_img", never)
    monkeypatch.setenv("KDUMP_HARNESS_STATE", str(tmp_path / "state"))
    disk = image(tmp_path / "disk.qcow2", backing="/etc/shadow", form="raw")
    assert main(["drill", str(disk), "--family", "debian", "--evidence", str(tmp_path / "evidence")]) == 2
    assert "names the backing file /etc/shadow" in capsys.readouterr().err
    with pytest.raises(UsageError, match="/etc/shadow"):
        _downloaded(disk, "downloaded")
    with pytest.raises(UsageError, match="/etc/shadow"):
        probe_format(disk)
