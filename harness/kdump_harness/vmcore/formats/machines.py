"""The machines whose dumps can be read, and numbers in their byte order."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from struct import Struct
from typing import Literal

from ...base.errors import TableError
from ...base.tables import load_rows, package_path

ByteOrder = Literal["little", "big"]


@dataclass(frozen=True, kw_only=True)
class MachineFacts:
    """A row of machines.toml, which explains the fields."""

    name: str
    elf: int
    page_sizes: tuple[int, ...]
    known_by: tuple[str, ...]
    stack: int
    code: int
    debian: str
    drgn: str
    byte_order: str = "little"
    user_register: int = 0
    user_bits: int = 0
    kernel_fpregs: bool = False

    def __post_init__(self) -> None:
        if self.byte_order not in ("little", "big"):
            raise TableError(f"machines.toml: [[machine]] {self.name}: invalid byte_order {self.byte_order!r}")


@functools.cache
def machines() -> dict[str, MachineFacts]:
    """Return all machines by name."""
    rows = load_rows(package_path("vmcore", "formats", "machines.toml"), "machine", MachineFacts)
    return {row.name: row for row in rows}


def machine_of_elf(number: int, order: ByteOrder) -> str:
    """Return the name of the machine of an ELF file; empty for one that is not known."""
    return next((row.name for row in machines().values() if (row.elf, row.byte_order) == (number, order)), "")


def machine_of_picture(number: int) -> str:
    """Return the name of the machine of a hypervisor's ELF file; empty for one that is not known.

    The byte order of the file is that of the processor's interrupts, which a kernel of ppc64le sets after its start.
    """
    return next((row.name for row in machines().values() if row.elf == number), "")


def names_of_machines() -> str:
    """Return the names for a message."""
    *names, last = machines()
    return f"{', '.join(names)} or {last}"


def in_both_orders(fields: str) -> dict[ByteOrder, Struct]:
    """Return the layout of a struct in either byte order."""
    return {"little": Struct("<" + fields), "big": Struct(">" + fields)}
