"""Units of memory and disk sizes."""

from __future__ import annotations

MIB = 1 << 20  # bytes
KIB_PER_MIB = 1 << 10
