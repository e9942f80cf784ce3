"""Reads a dump file without trusting it: formats, header, pages, VMCOREINFO, kernel log."""

from .check import check
from .damage import Damage, NotInDump, Unreadable, VmcoreError
from .inspection import Inspection, inspect, inspect_opened
from .vmcore import Vmcore, open_vmcore

__all__ = [
    "Damage",
    "Inspection",
    "NotInDump",
    "Unreadable",
    "Vmcore",
    "VmcoreError",
    "check",
    "inspect",
    "inspect_opened",
    "open_vmcore",
]
