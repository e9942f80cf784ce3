"""A walk through page tables of any machine; page_tables.toml describes their formats."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ...base.tables import load_rows, package_path
from ..formats.damage import NotInDump, NotMapped

ReadPhys = Callable[[int, int], bytes]

ENTRY_BYTES = 8
_ALL_LEVELS = 9


@dataclass(frozen=True, kw_only=True)
class TableFormat:
    """A row of page_tables.toml, which explains the fields."""

    name: str
    address: int
    byte_order: str = "little"
    valid: int = 0
    invalid: int = 0
    page_valid: int | None = None
    page_invalid: int | None = None
    leaf: int = 0
    table: int = 0
    leaf_levels: int = _ALL_LEVELS
    table_address: int | None = None
    shift: int = 0
    moved: tuple[tuple[int, ...], ...] = ()
    index_bits: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def shifts(self, page_size: int, levels: int) -> list[int]:
        """Return the lowest bit of an address that selects an entry, from level 1 up, and the bit above the last."""
        page_shift = page_size.bit_length() - 1
        bits = self.index_bits.get(str(page_size), (page_shift - 3,) * levels)
        return [page_shift + sum(bits[:level]) for level in range(levels + 1)]

    def is_valid(self, entry: int, level: int) -> bool:
        """Return whether an entry maps memory or leads to a table."""
        valid, invalid = self.valid, self.invalid
        if level == 1:
            valid = valid if self.page_valid is None else self.page_valid
            invalid = invalid if self.page_invalid is None else self.page_invalid
        return bool(not valid or entry & valid) and not entry & invalid

    def is_leaf(self, entry: int, level: int) -> bool:
        """Return whether a valid entry maps memory itself."""
        if level == 1:
            return True
        if level > self.leaf_levels:
            return False
        return not entry & self.table if self.table else bool(entry & self.leaf)

    def target(self, entry: int, *, leaf: bool) -> int:
        """Return the physical address in an entry."""
        mask = self.address if leaf or self.table_address is None else self.table_address
        address = (entry & mask) << self.shift
        for place, bits, to in self.moved:
            address |= (entry >> place & (1 << bits) - 1) << to
        return address


@functools.cache
def _formats() -> dict[str, TableFormat]:
    rows = load_rows(package_path("vmcore", "translation", "page_tables.toml"), "format", TableFormat)
    return {row.name: row for row in rows}


class PageTables:
    """The page tables of a kernel."""

    def __init__(
        self,
        name: str,
        read_phys: ReadPhys,
        *,
        top: int,
        levels: int,
        page_size: int = 4096,
        top_bits: int | None = None,
        ignored: int = 0,
    ) -> None:
        """TOP is the physical address of the table of the highest level.

        TOP_BITS bounds the addresses that it covers, IGNORED has bits of entries that mean nothing.
        """
        self._format = _formats()[name]
        self._read_phys = read_phys
        self._top = top
        shifts = self._format.shifts(page_size, levels)
        if top_bits is not None:
            shifts[-1] = top_bits
        self._levels = [(level, shifts[level - 1], shifts[level]) for level in range(levels, 0, -1)]
        self._ignored = ignored

    def __call__(self, address: int) -> int:
        """Return a physical address. Raise NotMapped for an unmapped one, NotInDump where a table is missing."""
        table, form = self._top, self._format
        for level, low, high in self._levels:
            index = (address & (1 << high) - 1) >> low
            entry = self._entry(table + index * ENTRY_BYTES)
            if not form.is_valid(entry, level):
                break
            if form.is_leaf(entry, level):
                inside = (1 << low) - 1
                return (form.target(entry, leaf=True) & ~inside) | (address & inside)
            table = form.target(entry, leaf=False)
        raise NotMapped(f"kernel address {address:#x} is not mapped")

    def _entry(self, address: int) -> int:
        data = self._read_phys(address, ENTRY_BYTES)
        if len(data) != ENTRY_BYTES:
            raise NotInDump(f"page table entry at {address:#x} is not in the dump")
        return int.from_bytes(data, "big" if self._format.byte_order == "big" else "little") & ~self._ignored
