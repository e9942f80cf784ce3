"""Damage to a dump as data, and the exceptions that carry it."""

from __future__ import annotations

from dataclasses import dataclass

from ...base.errors import EXIT_FAILED, EXIT_UNJUDGED, HarnessError

UNSUPPORTED = "unsupported"  # the kind of what prevents a judgement, and is not damage


@dataclass(frozen=True)
class Damage:
    """One thing that the file shows to be wrong, with its place where there is one."""

    kind: str
    message: str
    offset: int | None = None
    pfn: int | None = None


class VmcoreError(HarnessError):
    """The dump does not have the requested data."""

    exit_code = EXIT_FAILED


class Unreadable(VmcoreError):
    """The file is not a dump that can be opened, or it is too damaged; damage has the reason and the place.

    also is further damage that was found before.
    """

    def __init__(self, damage: Damage, also: tuple[Damage, ...] = ()) -> None:
        super().__init__(damage.message)
        self.damage = damage
        self.also = also
        self.exit_code = EXIT_UNJUDGED if damage.kind == UNSUPPORTED and not also else EXIT_FAILED


class NotInDump(VmcoreError):
    """The address is not in the dump: filtered out, not RAM, or not mapped."""


class NotMapped(NotInDump):
    """The kernel has no mapping for the address, by page tables that are in the dump."""


class DamageList:
    """A collection of damage: the first few of each kind, and the number of the others."""

    KEPT_OF_A_KIND = 20

    def __init__(self) -> None:
        self._found: dict[str, list[Damage]] = {}
        self._dropped: dict[str, int] = {}

    def add(self, kind: str, message: str, *, offset: int | None = None, pfn: int | None = None) -> None:
        """Note one damage."""
        self.extend([Damage(kind, message, offset, pfn)])

    def extend(self, damages: list[Damage]) -> None:
        """Note several."""
        for damage in damages:
            kept = self._found.setdefault(damage.kind, [])
            if len(kept) < self.KEPT_OF_A_KIND:
                kept.append(damage)
            else:
                self.drop(damage.kind, 1)

    def drop(self, kind: str, count: int) -> None:
        """Note that count more of a kind were seen and not kept one by one."""
        self._dropped[kind] = self._dropped.get(kind, 0) + count

    def room(self, kind: str) -> int:
        """Return how many more of this kind are kept one by one."""
        return self.KEPT_OF_A_KIND - len(self._found.get(kind, ()))

    def __bool__(self) -> bool:
        return bool(self._found)

    def as_tuple(self) -> tuple[Damage, ...]:
        """Return all damage by kind in the order found, each kind closed by the count of what was left out."""
        listed: list[Damage] = []
        for kind, kept in self._found.items():
            listed.extend(kept)
            if more := self._dropped.get(kind, 0):
                listed.append(Damage(kind, f"{more:,} more of kind {kind}"))
        return tuple(listed)
