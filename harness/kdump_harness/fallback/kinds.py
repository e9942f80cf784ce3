"""The kinds of records that a failed drill can keep."""

from __future__ import annotations

from ..base.errors import UsageError

PSTORE, EFI_PSTORE, HYPERVISOR = "pstore", "efi-pstore", "hypervisor"
KINDS = (PSTORE, EFI_PSTORE, HYPERVISOR)
DUMP_NAME = "hypervisor.vmcore"  # of the hypervisor's dump, in the evidence


def parse_kinds(text: str) -> tuple[str, ...]:
    """Return the kinds of records in a list like pstore,hypervisor; UsageError names the known ones."""
    names = tuple(dict.fromkeys(part.strip() for part in text.split(","))) if text else ()
    for name in names:
        if name not in KINDS:
            raise UsageError(f"--fallback: unknown record {name!r} (known: {', '.join(KINDS)})")
    if {PSTORE, EFI_PSTORE} <= set(names):
        raise UsageError(f"--fallback: {PSTORE} and {EFI_PSTORE} exclude each other: a kernel has one backend")
    return names


def check_firmware(kinds: tuple[str, ...], firmware: str) -> None:
    """Raise UsageError for records in variables of UEFI on a machine without UEFI."""
    if EFI_PSTORE in kinds and not firmware.startswith("uefi"):
        raise UsageError(f"--fallback {EFI_PSTORE} needs a machine with UEFI, and this one has {firmware}")
