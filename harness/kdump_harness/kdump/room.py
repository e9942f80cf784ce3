"""The room that a dump needs, estimated from the memory that is in use before the crash."""

from __future__ import annotations

from .guest_state import GuestState

# Measured on dumps of level 31: compressed pages take a fifth to a third of their size.
_COMPRESSED_AT_BEST = 0.15
_ALWAYS_MIB = 4  # headers, bitmaps and the kernel log


def kept_mib(state: GuestState) -> int:
    """Return how much of the memory that is in use now a dump of the configured level keeps, not compressed.

    Pages of zeros count, and memory that the machine will use later does not.
    """
    level, use = state.level or 0, state.meminfo_kib
    kept = use.get("MemTotal", 0)
    if level & 16:
        kept -= use.get("MemFree", 0)
    if level & 6:
        kept -= use.get("Cached", 0) + use.get("Buffers", 0) + use.get("SwapCached", 0)
    if level & 8:
        # Kernels before 4.16 count the huge pages of the default size only.
        of_default_size = use.get("HugePages_Total", 0) * use.get("Hugepagesize", 0)
        kept -= use.get("AnonPages", 0) + use.get("Hugetlb", of_default_size)
    return max(kept, 0) >> 10


def least_mib(state: GuestState) -> int:
    """Return the size below which no dump of this memory stays, however well it is compressed."""
    best = 1.0 if state.compress in (None, "none") else _COMPRESSED_AT_BEST
    return round(kept_mib(state) * best) + _ALWAYS_MIB
