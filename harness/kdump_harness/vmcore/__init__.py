"""A reader of dump files that does not trust them: formats, header, pages, VMCOREINFO, kernel log."""

from .check import check
from .classes import LevelViolations, PageClass, Tally, classify, count_classes
from .formats.damage import Damage, NotInDump, Unreadable, VmcoreError
from .inspection import Inspection, inspect, inspect_opened
from .rearrange import rearrange
from .split import group_parts
from .vmcore import Vmcore, open_vmcore

__all__ = [
    "Damage",
    "Inspection",
    "LevelViolations",
    "NotInDump",
    "PageClass",
    "Tally",
    "Unreadable",
    "Vmcore",
    "VmcoreError",
    "check",
    "classify",
    "count_classes",
    "group_parts",
    "inspect",
    "inspect_opened",
    "open_vmcore",
    "rearrange",
]
