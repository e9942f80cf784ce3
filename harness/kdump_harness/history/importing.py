"""Import of past results into the history: verdict.json, sweep.json and so on, or a directory that contains some."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..base.errors import UsageError
from .database import BISECT, COMPARE, DRILL, SIZE, SWEEP, History
from .shape import CHANGE_SHAPE, DRILL_SHAPE, SIZE_SHAPE, SWEEP_SHAPE, require

NAMES = ("verdict.json", "sweep.json", "matrix.json", "size.json", "compare.json", "bisect.json")
# Results of many drills. Their single drills are not imported: they differ on purpose, and some are meant to fail.
_WHOLES = ("size.json", "compare.json", "bisect.json", "matrix.json")
_WANTED = "passed"  # outcome of a test that expects a drill without a verified dump


def import_file(history: History, path: Path) -> tuple[int, int]:
    """Import a file; return the numbers of added and of already recorded results. Raises UsageError for other files."""
    added = known = 0
    table = _read(path)
    at_s = path.stat().st_mtime
    try:
        for kind, result, scenario in list(_results(path, table)):  # the whole file or nothing
            place = _place(path, result)
            if history.add(kind, result, at_s=at_s, scenario=scenario, place=place) is None:
                known += 1
            else:
                added += 1
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{path} is not a result of kdump-harness ({type(error).__name__}: {error})") from None
    return added, known


def _place(path: Path, result: Mapping[str, Any]) -> str:
    """Return the directory of a result's evidence, which may have been moved together with the file PATH."""
    here = path.absolute().parent
    parts = Path(str(result.get("evidence") or "")).parts
    below = parts[parts.index(here.name) + 1 :] if here.name in parts else ()
    return str(here.joinpath(*below)) if here.joinpath(*below).is_dir() else str(here)


def result_files(path: Path) -> list[Path]:
    """Return the file itself, or the results below a directory, without the single drills of larger results.

    Raises UsageError if a directory has no results.
    """
    if not path.is_dir():
        return [path]
    # Links such as evidence/last would yield results twice.
    found = [
        one for name in NAMES for one in path.rglob(name) if not any(up.is_symlink() for up in (one, *one.parents))
    ]
    if not found:
        raise UsageError(f"{path} has no {', '.join(NAMES)} below it")
    wholes = {one.parent for one in found if one.name in _WHOLES}
    return sorted(one for one in found if wholes.isdisjoint(one.parent.parents))


def _read(path: Path) -> Any:
    try:
        table = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_constant)
        json.dumps(table, ensure_ascii=False).encode()  # half a surrogate pair could be stored, but not written again
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not JSON: {error}") from None
    return table


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number")


def _results(path: Path, table: Any) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Yield the kind, result and scenario of each result in a file."""
    if isinstance(table, dict) and "tests" in table:
        for test in table["tests"]:
            require(test, {"scenario": str, "verdicts": [DRILL_SHAPE]}, "test")
            for verdict in test["verdicts"]:
                if verdict["verified"] or test.get("outcome") != _WANTED:
                    yield DRILL, verdict, test["scenario"]
    elif isinstance(table, dict) and "checks" in table and "verified" in table:
        require(table, DRILL_SHAPE, "verdict")
        yield DRILL, table, ""
    elif isinstance(table, dict) and "cells" in table:
        require(table, SWEEP_SHAPE, "sweep")
        yield SWEEP, table, ""
    elif isinstance(table, dict) and "sizings" in table:
        require(table, SIZE_SHAPE, "size")
        yield from ((SIZE, result, "") for result in sizing_results(table))
    elif isinstance(table, dict) and "thing" in table:
        require(table, CHANGE_SHAPE, "comparison")
        yield (COMPARE if "samples" in table else BISECT), table, ""
    else:
        raise UsageError(f"{path} is not a result: expected one of {', '.join(NAMES)}")


def sizing_results(size: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield one result for each machine and target of a size.json; each has a separate series."""
    common = {name: size.get(name) for name in ("image", "arch", "kernel", "accelerator", "makedumpfile", "evidence")}
    for one in size["sizings"]:
        smallest = one.get("smallest_mib")
        figures = {"smallest_reservation": smallest, "capture_memory": one.get("predicted_mib")}
        yield {
            **common,
            "ok": smallest is not None and one.get("confirmed") is not False,
            "summary": f"{one['memory_mib']} MiB, {one['target']}: {one['proof']}",
            "figures": {name: value for name, value in figures.items() if value is not None},
            "series": {"accelerator": size.get("accelerator")}
            | {name: one[name] for name in ("memory_mib", "vcpus", "target")}
            | ({"searched": one["searched"]} if one.get("searched") else {}),
        }
