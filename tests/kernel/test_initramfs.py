"""Initramfs archives and the modules in them."""

from __future__ import annotations

import io
import lzma
from pathlib import Path

import pytest
from kdump_harness.base.errors import UsageError
from kdump_harness.kernel.initramfs import Entry, link, write_archive
from kdump_harness.kernel.modules import Modules


def read_archive(data: bytes) -> dict[str, tuple[int, bytes]]:
    """Read a newc archive by its documentation: mode and content by name."""
    found, at = {}, 0
    while True:
        assert data[at : at + 6] == b"070701"
        fields = [int(data[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        mode, size, name_size = fields[1], fields[6], fields[11]
        name = data[at + 110 : at + 109 + name_size].decode()
        start = -(-(at + 110 + name_size) // 4) * 4
        at = -(-(start + size) // 4) * 4
        if name == "TRAILER!!!":
            return found
        found[name] = (mode, data[start : start + size])


def test_an_archive_has_its_files_and_the_directories_above_them(tmp_path: Path) -> None:
    (tmp_path / "tool").write_bytes(b"\x7fELF" + b"x" * 1001)
    archive = io.BytesIO()
    write_archive(
        archive,
        [
            Entry(path="usr/bin/tool", content=tmp_path / "tool"),
            Entry(path="init", content=b"#!/bin/sh\n"),
            link("lib64", "lib"),
        ],
    )
    found = read_archive(archive.getvalue())
    assert list(found) == ["usr", "usr/bin", "usr/bin/tool", "init", "lib64"]
    assert [found[name][0] >> 12 for name in found] == [0o4, 0o4, 0o10, 0o10, 0o12]
    assert found["usr/bin/tool"] == (0o100755, b"\x7fELF" + b"x" * 1001)
    assert found["lib64"][1] == b"lib"
    assert len(archive.getvalue()) % 512 == 0


def module(depends: str) -> bytes:
    return b"\x7fELF\0license=GPL\0depends=" + depends.encode() + b"\0name=x\0"


def modules_directory(tmp_path: Path) -> Path:
    (tmp_path / "kernel/drivers").mkdir(parents=True)
    (tmp_path / "kernel/drivers/virtio_blk.ko.xz").write_bytes(lzma.compress(module("virtio,virtio-ring")))
    (tmp_path / "kernel/drivers/virtio.ko").write_bytes(module(""))
    (tmp_path / "kernel/drivers/virtio_ring.ko").write_bytes(module("virtio"))
    (tmp_path / "modules.builtin").write_text("kernel/drivers/virtio/virtio_pci.ko\n")
    return tmp_path


def test_modules_come_after_those_that_they_depend_on_and_unpacked(tmp_path: Path) -> None:
    found = Modules(modules_directory(tmp_path)).closure(("virtio-pci", "virtio_blk"))
    assert list(found) == ["virtio", "virtio_ring", "virtio_blk"]
    assert found["virtio_blk"] == module("virtio,virtio-ring")


def test_a_driver_that_the_kernel_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the kernel lacks the driver nvme"):
        Modules(modules_directory(tmp_path)).closure(("nvme",))
    assert Modules(None).closure(("virtio_blk",)) == {}


def test_a_damaged_module_is_named(tmp_path: Path) -> None:
    (modules_directory(tmp_path) / "kernel/bad.ko.xz").write_bytes(b"no archive")
    with pytest.raises(UsageError, match=r"bad\.ko\.xz is damaged"):
        Modules(tmp_path).closure(("bad",))
