"""The architectures of guests, and the images of their kernels."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from kdump_harness.base.errors import HostError, UsageError
from kdump_harness.distro.architecture import find_architecture, load_architectures
from kdump_harness.distro.kernels import find_image, lacking, release_of
from kdump_harness.vm.host_check import needs_of_other_architectures
from kdump_harness.vmcore.formats.machines import machines

ROOT = Path(__file__).parents[2]
BANNER = b"...Linux version %s...\0Linux version 6.1.0-57-cloud-arm64 (debian-kernel@lists.debian.org) (gcc-12"


def image_of(name: str) -> bytes:
    architecture = find_architecture(name)
    return bytes(architecture.image_magic_at) + architecture.image_magic.encode() + bytes(100) + BANNER


def test_every_architecture_is_a_machine_whose_dumps_are_read() -> None:
    for name, architecture in load_architectures().items():
        assert machines()[architecture.machine].debian == architecture.name == name


def test_the_architecture_of_the_host_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "ppc64le")
    assert find_architecture().name == "ppc64el"
    monkeypatch.setattr("platform.machine", lambda: "vax")
    assert find_architecture().name == "amd64"
    with pytest.raises(UsageError, match=r"unknown architecture 'vax' \(known: amd64, arm64, ppc64el, riscv64\)"):
        find_architecture("vax")


@pytest.mark.parametrize("name", ["arm64", "ppc64el", "riscv64"])
def test_the_release_is_that_of_the_banner(name: str, tmp_path: Path) -> None:
    architecture = find_architecture(name)
    word = architecture.images[0]
    image = tmp_path / "boot" / f"{word}-6.1.0"
    image.parent.mkdir()
    image.write_bytes(image_of(name))
    assert find_image(tmp_path, architecture) == image
    assert release_of(image, architecture) == "6.1.0-57-cloud-arm64"
    for other in (b"\x1f\x8b" + image_of(name), image_of(name)[:90]):
        image.write_bytes(other)
        with pytest.raises(UsageError, match=f"is not an unpacked kernel image for {name}"):
            release_of(image, architecture)


@pytest.mark.parametrize("option", ["X86_64", "ARM64", "PPC64", "RISCV"])
def test_a_whole_configuration_leaves_out_what_is_unset(option: str) -> None:
    assert lacking(f"CONFIG_{option}=y\nCONFIG_KEXEC=y\nCONFIG_PROC_VMCORE=y\n") == "CONFIG_CRASH_DUMP"


def test_a_host_without_the_emulator_is_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(HostError, match=r"need qemu-system-ppc64 \(make setup ARCH=ppc64el\)"):
        find_architecture("ppc64el").require_emulator()


def test_the_set_up_of_an_architecture_installs_what_the_doctor_misses() -> None:
    (line,) = (
        line
        for line in (ROOT / "harness/kdump_harness/vm/setup_host.sh").read_text(encoding="utf-8").splitlines()
        if line.startswith("packages=")
    )
    for need in needs_of_other_architectures():
        name = need.name.rpartition(" ")[2]
        table = ROOT / f"harness/kdump_harness/distro/architectures/{name}.toml"
        script = f"here={ROOT}/harness/kdump_harness/vm; key=packages; {line}; echo $packages"
        made = subprocess.run(["sh", "-c", script, "sh", str(table)], capture_output=True, text=True, check=True)
        assert made.stdout.split()[-len(need.packages) :] == list(need.packages)
