"""The names of a kernel and its host, as struct utsname keeps them: in a dump's header, and in its memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

_NAME_BYTES = 65


@dataclass(frozen=True)
class Utsname:
    """The six names of a struct utsname."""

    NAMES: ClassVar = ("sysname", "nodename", "release", "version", "machine", "domainname")
    BYTES: ClassVar = _NAME_BYTES * len(NAMES)

    raw: bytes

    def field(self, name: str) -> bytes:
        """Return all bytes of a name, with those behind its end."""
        at = self.offset(name)
        return self.raw[at : at + _NAME_BYTES]

    def text(self, name: str) -> str:
        """Return a name, with what cannot be printed as \\x.."""
        text = self.field(name).partition(b"\0")[0].decode("utf-8", "backslashreplace")
        return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)

    def texts(self) -> dict[str, str]:
        """Return all names."""
        return {name: self.text(name) for name in self.NAMES}

    @classmethod
    def offset(cls, name: str) -> int:
        """Return the offset of a name in the struct."""
        return _NAME_BYTES * cls.NAMES.index(name)

    @property
    def only_machine(self) -> bool:
        """Whether the machine is the only name."""
        return [name for name in self.NAMES if self.field(name).strip(b"\0")] == ["machine"]

    def plausible(self, name: str) -> bool:
        """Return whether a field holds a text and its end.

        A name set by sysctl is written over the older one, whose tail stays behind its end.
        """
        text, end, rest = self.field(name).partition(b"\0")
        try:
            printable = text.decode().isprintable()
        except UnicodeDecodeError:
            return False
        return printable and bool(end) and (name in ("nodename", "domainname") or not rest.strip(b"\0"))

    def erased(self, name: str, text: str) -> bool:
        """Return whether one character stands in place of all of a text, as makedumpfile's filter leaves it."""
        there = set(self.field(name)[: len(text.encode())])
        return len(text) > 1 and len(there) == 1 and there != {0}
