"""VMCOREINFO, the text in which a kernel describes itself to readers of its dump."""

from __future__ import annotations

import re

from .damage import VmcoreError
from .machines import ByteOrder, machines

MAX_BYTES = 1 << 20

# Names are words, or a word with something in brackets: OSRELEASE, BUILD-ID, OFFSET(zone.free_area).
_LINE = re.compile(r"[\w.-]+(\([^()=]*\))?=[\x20-\x7e\t]*")

NO_VMCOREINFO = (
    "no VMCOREINFO: the guest had not handed it to QEMU, so that kernel, log and classes of pages are unknown"
    " (give the domain <vmcoreinfo state='on'/>, and load qemu_fw_cfg in the guest)"
)


class Vmcoreinfo(dict[str, str]):
    """The KEY=value lines, with the numbers behind SYMBOL(), OFFSET(), SIZE(), LENGTH() and NUMBER()."""

    byte_order: ByteOrder = "little"  # of the kernel's memory

    @classmethod
    def parse(cls, text: bytes, byte_order: ByteOrder = "little") -> Vmcoreinfo:
        """Read the well-formed lines; malformed() reports the others."""
        lines = text.rstrip(b"\0").decode("latin-1").split("\n")
        info = cls(line.split("=", 1) for line in lines if "=" in line)
        info.byte_order = byte_order
        return info

    def unsigned(self, raw: bytes) -> int:
        """Return the number that bytes of the kernel's memory hold."""
        return int.from_bytes(raw, self.byte_order)

    @property
    def machine(self) -> str:
        """The machine, by lines that only its kernels export; empty where none of them is there."""
        rows = (row for row in machines().values() if row.byte_order == self.byte_order)
        return next((row.name for row in rows if any(key in self for key in row.known_by)), "")

    def symbol(self, name: str) -> int:
        """Return the address of a kernel symbol."""
        return self._number(f"SYMBOL({name})", 16)

    def offset(self, name: str) -> int:
        """Return the byte offset of a struct member, as in list_head.next."""
        return self._number(f"OFFSET({name})", 10)

    def size(self, name: str) -> int:
        """Return the size of a struct in bytes."""
        return self._number(f"SIZE({name})", 10)

    def length(self, name: str) -> int:
        """Return the number of elements of an array."""
        return self._number(f"LENGTH({name})", 10)

    def number(self, name: str, default: int | None = None) -> int:
        """Return a constant; default where the kernel does not export it."""
        key = f"NUMBER({name})"
        if default is not None and key not in self:
            return default
        return self._number(key, 0)

    def hexadecimal(self, key: str, default: int = 0) -> int:
        """Return a plain hexadecimal line such as KERNELOFFSET; default where the kernel does not export it."""
        return self._number(key, 16) if key in self else default

    def integer(self, key: str) -> int | None:
        """Return a plain decimal line such as PAGESIZE or CRASHTIME; None when absent or not a number."""
        text = self.get(key, "")
        return int(text) if re.fullmatch(r"[0-9]{1,19}", text) else None

    def _number(self, key: str, base: int) -> int:
        try:
            value = int(self[key], base)
        except KeyError:
            raise VmcoreError(f"VMCOREINFO has no {key}") from None
        except ValueError:
            raise VmcoreError(f"VMCOREINFO: {key} is not a number: {self[key]!r}") from None
        if not -(1 << 63) <= value < 1 << 64:
            raise VmcoreError(f"VMCOREINFO: {key} is out of range: {self[key]!r}")
        return value


def malformed(text: bytes) -> str | None:
    """Return the first line that no kernel writes, shortened for a message; None when all are well."""
    for line in text.rstrip(b"\0").decode("latin-1").split("\n"):
        if line and not _LINE.fullmatch(line):
            return ascii(line[:60])
    return None
