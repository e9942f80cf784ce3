"""Required shape of imported results, so that later readers of the history can rely on it."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

_MOST = 2.0**63  # larger than all figures
_YEARS = range(1970, 9999)  # the day before and after must be valid dates as well, for time zones

# A key with ? may be missing or null, and * matches any key; other keys are ignored.
_CHECK = {"name": str, "ok": bool, "expected": str, "seen": str}
_SYMPTOM = {"name": str, "severity": str, "line": str, "meaning?": str, "remedy?": str}
_DUMP = {"path": str, "format?": str, "size_bytes": float, "pages_total?": float, "pages_kept?": float}
_RESERVED = {"high_mib": float, "low_mib": float, "cma_mib": float, "fixed_ranges?": [str], "cma_ranges?": [str]}
DRILL_SHAPE = {
    "image": str, "verified": bool, "checks": [_CHECK], "symptoms?": [_SYMPTOM], "dump?": _DUMP,
    "phases_s?": {"*": float}, "reserved_mib?": float, "reserved?": _RESERVED,
    "remarks?": [str], "started?": datetime.datetime, "kernel?": str,
    "accelerator?": str, "reached?": str, "stopped_by?": str, "not_judged?": str, "known_issue?": str,
    "makedumpfile?": str, "append?": str, "capture_append?": str, "trigger?": str, "target?": str, "beside?": int,
}  # fmt: skip
_CELL = {"level": int, "compress": str, "size_bytes?": float}
SWEEP_SHAPE = {
    "image": str, "ok": bool, "cells": [_CELL], "relations?": [{"name": str, "ok": bool}], "kernel?": str,
    "accelerator?": str,
}  # fmt: skip

_SIZING = {
    "memory_mib": int, "vcpus": int, "target": str, "proof": str, "smallest_mib?": float, "predicted_mib?": float,
    "searched?": str,
}  # fmt: skip
SIZE_SHAPE = {"image": str, "ok": bool, "sizings": [_SIZING], "kernel?": str, "accelerator?": str, "evidence?": str}
# A comparison, or a bisection.
CHANGE_SHAPE = {"image": str, "ok": bool, "summary": str, "thing": str, "kernel?": str, "accelerator?": str}


def require(value: Any, shape: Any, where: str) -> None:
    """Raise ValueError that names the part of a value with another shape."""
    if isinstance(shape, dict):
        _require_kind(value, Mapping, "a table", where)
        for key, inner in shape.items():
            names = list(value) if key == "*" else [key.removesuffix("?")]
            for name in names:
                if not (key.endswith("?") and value.get(name) is None):
                    require(value.get(name), inner, f"{where}.{name}")
    elif isinstance(shape, list):
        _require_kind(value, list, "a list", where)
        for number, item in enumerate(value):
            require(item, shape[0], f"{where}[{number}]")
    elif shape is float:
        _require_kind(value, int | float, "a number", where)
        if isinstance(value, bool) or not 0 <= value < _MOST:
            raise ValueError(f"{where} is not a valid figure")
    elif shape is datetime.datetime:
        _require_kind(value, str, "a date", where)
        if datetime.datetime.fromisoformat(value).year not in _YEARS:
            raise ValueError(f"{where} is not a date from 1970 to 9998")
    else:
        _require_kind(value, shape, {str: "a text", bool: "true or false", int: "a whole number"}[shape], where)


def _require_kind(value: Any, kind: Any, name: str, where: str) -> None:
    if not isinstance(value, kind):
        raise ValueError(f"{where} is not {name}")
