"""The other records of a crash reach the evidence and the verdict; bad requests are one sentence."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest
from kdump_harness.base.errors import CommandFailed, GuestError, UsageError
from kdump_harness.base.evidence import Evidence
from kdump_harness.base.progress import Progress
from kdump_harness.fallback.kinds import DUMP_NAME, check_firmware, parse_kinds
from kdump_harness.fallback.records import Fallback
from kdump_harness.vm.hypervisor.erst_xml import commandline_xml, erst_arguments, free_address, lacks_erst
from test_pstore import NEW, OLD, cper, deflated, store

VMCORE = Path(__file__).parents[1] / "data" / "vmcore" / "logs" / "6.12.107.kdump"
NONCE = "0123456789abcdef"
WITH_NONCE = f"Panic#1 Part2\n<6>[    9.0] kdump-harness: this is crash {NONCE}\n"


def run_on(tmp_path: Path) -> Any:
    """Return a run whose hypervisor dumps VMCORE."""

    def memory_of(guest: Any, *, compressed: bool) -> Path:
        assert compressed
        if guest is None:
            raise GuestError("the guest is gone")
        return Path(shutil.copy(VMCORE, tmp_path / "taken"))

    host = SimpleNamespace(take=lambda path: path, remove=lambda path: path.unlink())
    return SimpleNamespace(memory_of=memory_of, host=host, progress=Progress(quiet=True))


def collect(fallback: Fallback, tmp_path: Path, guest: Any = None) -> list[dict[str, Any]]:
    with contextlib.closing(Evidence(tmp_path / "drill")) as evidence:
        return fallback.collect(run_on(tmp_path), guest, evidence, NONCE)


def test_a_new_record_of_the_device_is_kept_and_read(tmp_path: Path) -> None:
    file = tmp_path / "store"
    file.write_bytes(store(cper(5, deflated(OLD))))
    fallback = Fallback(kinds=("pstore",), store=file)
    fallback.look_before(SimpleNamespace(shell=SimpleNamespace(run=lambda _: SimpleNamespace(out=""))))  # type: ignore[arg-type]
    file.write_bytes(store(cper(5, deflated(OLD)), cper(11, deflated(NEW)), cper(12, deflated(WITH_NONCE))))
    (found,) = collect(fallback, tmp_path)
    assert (found["source"], found["path"], found["this_crash"]) == ("pstore", "pstore-1.txt", True)
    assert found["panic"] == "Kernel panic - not syncing: sysrq triggered crash"
    text = (tmp_path / "drill" / "pstore-1.txt").read_text()
    assert NONCE in text
    assert "nearer" not in text  # of the record before


class PstoreShell:
    """The files of pstore in a guest that came back."""

    def __init__(self, files: dict[str, str]) -> None:
        self.files = files

    def run(self, command: str, *arguments: str) -> Any:
        if command.startswith("find"):
            return SimpleNamespace(out="".join(f"{number}.5 {path}\n" for number, path in enumerate(self.files)))
        return SimpleNamespace(out=self.files[arguments[0]])


def test_files_that_systemd_pstore_moved_are_found_in_the_guest(tmp_path: Path) -> None:
    whole = f"<6>[    9.0] kdump-harness: this is crash {NONCE}\n{NEW.partition(chr(10))[2]}"
    shell = PstoreShell({"/var/lib/systemd/pstore/1/dmesg.txt": "older\n"})
    guest: Any = SimpleNamespace(shell=shell)
    fallback = Fallback(kinds=("pstore",))
    fallback.look_before(guest)
    shell.files |= {
        "/var/lib/systemd/pstore/2/dmesg-efi-1": NEW,
        "/var/lib/systemd/pstore/2/dmesg-efi-2": WITH_NONCE,
        "/var/lib/systemd/pstore/2/dmesg.txt": whole,
    }
    (found,) = collect(fallback, tmp_path, guest)
    assert (tmp_path / "drill" / "pstore-1.txt").read_text() == whole
    assert found["this_crash"]
    del shell.files["/var/lib/systemd/pstore/2/dmesg.txt"]
    collect(fallback, tmp_path / "again", guest)
    assert "this is crash" in (tmp_path / "again" / "drill" / "pstore-1.txt").read_text().splitlines()[0]


def test_the_hypervisors_dump_is_taken_once_kept_and_triaged(tmp_path: Path) -> None:
    fallback, run = Fallback(kinds=("hypervisor",)), run_on(tmp_path)
    guest: Any = object()
    fallback.take_memory(run, guest)
    fallback.take_memory(run, None)  # type: ignore[arg-type]
    (found,) = collect(fallback, tmp_path)
    assert found["path"] == DUMP_NAME
    assert found["size_bytes"] == VMCORE.stat().st_size
    assert found["panic"] == "Kernel panic - not syncing: sysrq triggered crash"
    assert not (tmp_path / "taken").exists()
    assert (tmp_path / "drill" / DUMP_NAME).exists()


def test_records_that_are_missing_have_a_reason(tmp_path: Path) -> None:
    fallback = Fallback(kinds=("pstore", "hypervisor"))
    fallback.take_memory(run_on(tmp_path), None)  # type: ignore[arg-type]

    def fail(*_: object) -> None:
        raise CommandFailed("no such guest")

    found = collect(fallback, tmp_path, SimpleNamespace(shell=SimpleNamespace(run=fail)))
    assert [(one["source"], one["path"], one["why"]) for one in found] == [
        ("pstore", None, "nothing was written"),
        ("hypervisor", None, "the guest is gone"),
    ]


def test_the_dump_of_a_drill_that_was_verified_is_removed(tmp_path: Path) -> None:
    fallback, run = Fallback(kinds=("hypervisor",)), run_on(tmp_path)
    fallback.take_memory(run, object())  # type: ignore[arg-type]
    fallback.drop_memory(run)
    fallback.drop_memory(run)
    assert not (tmp_path / "taken").exists()


def test_unknown_records_are_refused() -> None:
    assert parse_kinds("") == ()
    assert parse_kinds("pstore, hypervisor,pstore") == ("pstore", "hypervisor")
    with pytest.raises(
        UsageError, match=r"--fallback: unknown record 'ramdisk' \(known: pstore, efi-pstore, hypervisor\)"
    ):
        parse_kinds("pstore,ramdisk")
    with pytest.raises(UsageError, match="pstore and efi-pstore exclude each other: a kernel has one backend"):
        parse_kinds("efi-pstore,pstore")
    with pytest.raises(UsageError, match="efi-pstore needs a machine with UEFI, and this one has bios"):
        check_firmware(("efi-pstore",), "bios")
    check_firmware(("efi-pstore",), "uefi-secure")


@pytest.mark.parametrize(
    ("machine", "features", "why"),
    [
        ("pc-q35-7.2", "<features><acpi/></features>", None),
        ("q35", "<features><acpi/></features>", None),
        ("pc-i440fx-9.0", "<features><acpi/></features>", None),
        ("q35", "", "it has no ACPI"),
        ("microvm", "<features><acpi/></features>", "its machine type microvm has no ACPI ERST device"),
        ("isapc", "", "its machine type isapc has no ACPI ERST device"),
    ],
)
def test_machines_without_the_device_are_known(machine: str, features: str, why: str | None) -> None:
    assert lacks_erst(f"<domain><os><type machine='{machine}'>hvm</type></os>{features}</domain>") == why


def test_the_arguments_survive_commas_and_quotes(tmp_path: Path) -> None:
    file = tmp_path / 'a,b"c'
    file.write_bytes(bytes(4096))
    xml = commandline_xml(erst_arguments(file))
    assert "a,,b" in xml
    assert "size=4096,share=on" in xml
    assert commandline_xml(()) == ""


@pytest.mark.parametrize(
    ("machine", "slots", "address"),
    [
        ("pc-q35-7.2", [], "bus=pcie.0,addr=0x1c"),
        ("q35", ["0x1c", "0x1b", "0x01"], "bus=pcie.0,addr=0x1a"),
        ("pc-i440fx-7.2", ["0x02"], "bus=pci.0,addr=0x1c"),
        ("pc", [], "bus=pci.0,addr=0x1c"),
    ],
)
def test_the_device_has_an_address_of_its_own(machine: str, slots: list[str], address: str) -> None:
    devices = "".join(f"<a><address type='pci' bus='0x00' slot='{slot}'/></a>" for slot in slots)
    other = "<a><address type='pci' bus='0x03' slot='0x1c'/></a><a><address type='drive' bus='0' unit='28'/></a>"
    xml = f"<domain><os><type machine='{machine}'>hvm</type></os><devices>{devices}{other}</devices></domain>"
    assert free_address(ElementTree.fromstring(xml)) == address
