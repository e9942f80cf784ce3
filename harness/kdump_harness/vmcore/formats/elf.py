"""ELF64 dumps: makedumpfile -E, a copy of /proc/vmcore, QEMU's dump-guest-memory."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from . import notes
from .damage import UNSUPPORTED, Damage, NotInDump, Unreadable
from .intervals import Int64s, disjoint, runs
from .machines import ByteOrder, in_both_orders, machine_of_elf, machine_of_picture, machines, names_of_machines
from .source import DumpSource, read_exactly

SIGNATURE = b"\x7fELF"
FLAG_INCOMPLETE = 0x1  # makedumpfile's DUMP_ELF_INCOMPLETE

_EHDR = in_both_orders("16sHHIQQQIHHHHHH")
_PHDR = np.dtype(
    [
        ("type", "<u4"),
        ("flags", "<u4"),
        ("offset", "<u8"),
        ("vaddr", "<u8"),
        ("paddr", "<u8"),
        ("filesz", "<u8"),
        ("memsz", "<u8"),
        ("align", "<u8"),
    ]
)
_SHDR = in_both_orders("IIQQQQIIQQ")
_ET_CORE = 4
PT_LOAD = 1
PT_NOTE = 4
KNOWN_SEGMENTS = (PT_LOAD, PT_NOTE)
_PN_XNUM = 0xFFFF  # the number of segments is in sh_info of section 0
_MAX_SEGMENTS = 1 << 20
_MAX_SECTIONS = 1 << 10
_SHT_NULL = 0
MAX_ADDRESS = 1 << 56
MAX_MEMORY_BYTES = 1 << 52  # no architecture that the tables know lets Linux have more


class ElfFile:
    """An ELF64 core file seen as physical memory."""

    def __init__(self, source: DumpSource) -> None:
        self.source = source
        raw = read_exactly(source, 0, _EHDR["little"].size, "the ELF header")
        if raw[4:7] not in (b"\x02\x01\x01", b"\x02\x02\x01"):
            known = raw[4] in (1, 2) and raw[5] in (1, 2) and raw[6] == 1
            message = "the ELF file is not 64-bit, version 1"
            raise Unreadable(Damage(UNSUPPORTED if known else "header", message, 4))
        self.byte_order: ByteOrder = "little" if raw[5] == 1 else "big"
        header = _EHDR[self.byte_order].unpack(raw)
        kind, machine = header[1], header[2]
        if kind != _ET_CORE:
            raise _bad_header(f"the ELF file is of type {kind}, not a core (4)", 16)
        message = f"ELF machine {machine}, {self.byte_order} endian, is not {names_of_machines()}"
        unknown = Unreadable(Damage(UNSUPPORTED, message, 18))
        self.machine = machine_of_elf(machine, self.byte_order)
        if not self.machine and not machine_of_picture(machine):
            raise unknown
        self.flags: int = header[7]
        self._segments_at: int = header[5]
        self._sections_at: int = header[6]
        self._section_count: int = header[12]
        self.segments = segments = self._read_segments(header)
        self.loads = segments[segments["type"] == PT_LOAD]
        self.note_segments = segments[segments["type"] == PT_NOTE]
        if not self.machine and (found := self.notes()) is not None and found.by_hypervisor:
            self.machine = machine_of_picture(machine)
        if not self.machine:
            raise unknown
        sane = self._sane()
        starts, offsets = sane["paddr"].astype(np.int64), sane["offset"].astype(np.int64)
        # The kernel image is in /proc/vmcore twice (by its text and by its direct mapping): addresses may repeat.
        self._starts, self._ends, self._offsets, _ = disjoint(starts, starts + sane["filesz"].astype(np.int64), offsets)
        memory_ends = starts + sane["memsz"].astype(np.int64)
        ram_starts, ram_ends, _, _ = disjoint(starts, memory_ends, starts)
        self.ram = runs(ram_starts, ram_ends)
        self.kept = runs(self._starts, self._ends)

    def _sane(self) -> NDArray[np.void]:
        """Return the segments with plausible numbers; check reports the others."""
        loads = self.loads
        small = np.ones(len(loads), dtype=np.bool_)
        for field in ("paddr", "filesz", "memsz", "offset"):
            small &= loads[field] < MAX_ADDRESS
        small &= loads["memsz"] <= MAX_MEMORY_BYTES
        sane: NDArray[np.void] = loads[small & (loads["filesz"] <= loads["memsz"])]
        return sane

    def _read_segments(self, header: tuple[int, ...]) -> NDArray[np.void]:
        at, entry_bytes, count, section_at = header[5], header[9], header[10], header[6]
        if entry_bytes != _PHDR.itemsize:
            raise _bad_header(f"program headers of {entry_bytes} bytes, not {_PHDR.itemsize}", 54)
        if count == _PN_XNUM:
            layout = _SHDR[self.byte_order]
            section = layout.unpack(read_exactly(self.source, section_at, layout.size, "the first section header"))
            count = section[7]
        if not 0 < count <= _MAX_SEGMENTS:
            raise _bad_header(f"the ELF file claims {count:,} segments", 56)
        raw = read_exactly(self.source, at, count * _PHDR.itemsize, "the program headers")
        stored = _PHDR.newbyteorder("<" if self.byte_order == "little" else ">")
        return np.frombuffer(raw, dtype=stored).astype(_PHDR, copy=False)

    @property
    def headers_end(self) -> int:
        """The file offset at which the program headers end and contents may begin."""
        return self.segment_offset(len(self.segments))

    @property
    def has_sections(self) -> bool:
        """Whether there are sections, which neither the kernel nor makedumpfile writes."""
        return self._section_count > 0

    def sections_end(self) -> int:
        """Return the end of the last section; QEMU puts a table of names behind the memory.

        QEMU 7.2 on a little-endian host writes its section in that order into the dump of a big-endian guest.
        """
        ends, size = [0], _SHDR["little"].size
        for index in range(min(self._section_count, _MAX_SECTIONS)):
            raw = self.source.read(self._sections_at + index * size, size)
            for layout in _SHDR.values() if len(raw) == size else ():
                _, kind, _, _, offset, length, *_ = layout.unpack(raw)
                if kind != _SHT_NULL and offset + length <= self.source.size_bytes:
                    ends.append(offset + length)
        return max(ends)

    def segment_offset(self, index: int) -> int:
        """Return the file offset of the index-th program header."""
        return self._segments_at + index * _PHDR.itemsize

    def read_phys(self, address: int, length: int) -> bytes:
        """Return physical memory up to the end of its segment. Raise NotInDump where no segment holds address."""
        index = int(np.searchsorted(self._ends, address, side="right"))
        if index == len(self._ends) or self._starts[index] > address:
            raise NotInDump(f"physical address {address:#x} is not in the dump")
        length = min(length, int(self._ends[index]) - address)
        return self.source.read(int(self._offsets[index]) + address - int(self._starts[index]), length)

    def offsets_of(self, addresses: Int64s, length: int) -> Int64s:
        """Return the file offset of length bytes from each address on; -1 where they are not in one piece."""
        index = np.searchsorted(self._ends, addresses, side="right")
        at = np.minimum(index, len(self._ends) - 1)
        inside = (index < len(self._ends)) & (self._starts[at] <= addresses) & (addresses + length <= self._ends[at])
        return np.where(inside, self._offsets[at] + addresses - self._starts[at], -1)

    def notes(self) -> notes.Notes | None:
        """Return the notes of the first note segment; None where it does not exist or is not in the file."""
        if not len(self.note_segments):
            return None
        offset, size = int(self.note_segments[0]["offset"]), int(self.note_segments[0]["filesz"])
        if not 0 < size <= notes.MAX_BYTES or offset + size > self.source.size_bytes:
            return None
        machine = machines().get(self.machine)
        fpregs = machine is not None and machine.kernel_fpregs
        return notes.parse(self.source.read(offset, size), self.byte_order, kernel_fpregs=fpregs)


def _bad_header(message: str, offset: int) -> Unreadable:
    return Unreadable(Damage("header", message, offset))
