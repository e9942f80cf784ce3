"""Write the tables of docs/shapes.md and of docs/size.md: shapes_page.py [--record VERDICT.json...].

The drills are in docs/shapes.toml, the newest of each kind; --record adds those of verdict.json files.
"""

from __future__ import annotations

import datetime
import json
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from kdump_harness.base import tables
from kdump_harness.drill.shapes.table import ANY, shipped_shapes

PAGE = Path(__file__).parents[1] / "shapes.md"
RECORDS = PAGE.with_suffix(".toml")
SIZE_PAGE = PAGE.with_name("size.md")
_HEAD = "# Recorded drills of shapes, written by `python docs/generate/shapes_page.py --record VERDICT.json...`.\n"
_BLOCK = re.compile(r"(<!-- (shapes|drills|shape sizes) -->\n).*?(<!-- end -->)", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Drilled:
    """One drill."""

    shapes: tuple[str, ...]
    image: str
    kernel: str
    accelerator: str
    date: datetime.date
    verified: bool
    foreseen: tuple[str, ...]
    happened: str  # the reason why it is not verified
    used_mib: int  # of the capture kernel, at most; 0 where it did not report it
    reserved_mib: int
    panic_to_login_s: float  # 0 where the guest did not come back

    @property
    def key(self) -> tuple[object, ...]:
        """Return the kind of drill; a newer drill of the same kind replaces this one."""
        return self.image, self.kernel, self.shapes


def main(*arguments: str) -> None:
    """Write the page, and the table of drills with --record."""
    drills = {drill.key: drill for drill in load_drills()}
    if arguments[:1] == ("--record",):
        for name in arguments[1:]:
            drill = read_verdict(json.loads(Path(name).read_text(encoding="utf-8")))
            drills[drill.key] = drill
        ordered = sorted(drills.values(), key=lambda one: (one.image, one.kernel, one.shapes))
        RECORDS.write_text(_HEAD + "".join(map(_row, ordered)), encoding="utf-8")
    for path in (PAGE, SIZE_PAGE):
        path.write_text(page(path.read_text(encoding="utf-8"), drills.values()), encoding="utf-8")


def load_drills() -> tuple[Drilled, ...]:
    """Return the recorded drills."""
    return tables.load_rows(RECORDS, "drill", Drilled) if RECORDS.exists() else ()


def read_verdict(verdict: Mapping[str, Any]) -> Drilled:
    """Return the record of a verdict.json."""
    failures = [one["name"] for one in verdict["symptoms"] if one["severity"] == "failure"]
    failed = [check["name"] for check in verdict["checks"] if not check["ok"] and check["name"] != "capture-image"]
    happened = [*failures[:1], *([verdict["stopped_by"]] if verdict["stopped_by"] else []), ", ".join(failed)]
    return Drilled(
        shapes=tuple(sorted({row.name for row in shipped_shapes()}.intersection(verdict["shapes"]))),
        image=verdict["image"],
        kernel=verdict["kernel"],
        accelerator=verdict["accelerator"],
        date=datetime.datetime.fromisoformat(verdict["started"]).date(),
        verified=verdict["verified"],
        foreseen=tuple(f"{one['piece']}: {one['lacks']}" for one in verdict["foreseen"]),
        happened="" if verdict["verified"] else "; ".join(filter(None, happened)),
        used_mib=round((verdict["capture_memory"] or {}).get("used_kib", 0) / 1024),
        reserved_mib=verdict["reserved_mib"] or 0,
        panic_to_login_s=round(verdict["phases_s"].get("panic_to_login", 0.0), 1),
    )


def page(text: str, drills: Iterable[Drilled]) -> str:
    """Return the page with new tables."""
    drills = list(drills)
    blocks = {
        "shapes": _shapes(drills),
        "drills": _summary(drills) + _drills(drills),
        "shape sizes": _sizes(drills),
    }
    return _BLOCK.sub(lambda found: found[1] + blocks[found[2]] + found[3], text)


def _shapes(drills: Iterable[Drilled]) -> str:
    lines = ["| shape | part | meaning | families | drilled | capture memory | panic to login |\n", "|---" * 7 + "|\n"]
    for row in shipped_shapes():
        found = [drill for drill in drills if row.name in drill.shapes]
        best = min(found, key=lambda drill: (not drill.verified, len(drill.shapes)), default=None)
        measured = (_memory(best), _time(best)) if best is not None else ("", "")
        cells = (f"`{row.name}`", row.part, row.about, _families(row.prepare), _outcome(found), *measured)
        lines.append("| " + " | ".join(cells) + " |\n")
    return "".join(lines)


def _outcome(found: list[Drilled]) -> str:
    """Return the best outcome of the drills of a shape; empty without any."""
    if any(drill.verified for drill in found):
        return "verified"
    if not found:
        return ""
    return "not verified" + (", foreseen" if all(drill.foreseen for drill in found) else "")


def _memory(drill: Drilled) -> str:
    return f"{drill.used_mib} of {drill.reserved_mib} MiB" if drill.used_mib else ""


def _time(drill: Drilled) -> str:
    return f"{drill.panic_to_login_s:.0f} s ({drill.accelerator})" if drill.panic_to_login_s else ""


def _sizes(drills: Iterable[Drilled]) -> str:
    """Return what shapes need over the plain guest with the same kernel, by what their capture kernels used."""
    plain = {(drill.image, drill.kernel): drill.used_mib for drill in drills if not drill.shapes and drill.used_mib}
    lines = ["| guest | shapes | used | over the plain guest |\n", "|---" * 4 + "|\n"]
    for drill in sorted(drills, key=lambda one: (one.image, one.kernel, one.used_mib, one.shapes)):
        least_mib = plain.get((drill.image, drill.kernel))
        if least_mib is None or not drill.used_mib or not drill.verified:
            continue
        names = " ".join(f"`{name}`" for name in drill.shapes) or "none"
        over = f"{drill.used_mib - least_mib:+} MiB" if drill.shapes else ""
        lines.append(f"| {drill.image}, {drill.kernel} | {names} | {drill.used_mib} MiB | {over} |\n")
    return "".join(lines)


def _summary(drills: Iterable[Drilled]) -> str:
    """Return the sentence about what was foreseen and what happened."""
    good = [drill for drill in drills if drill.verified]
    bad = [drill for drill in drills if not drill.verified]
    foreseen = sum(bool(drill.foreseen) for drill in bad)
    share = f" ({foreseen / len(bad):.0%})" if bad else ""
    return (
        f"Drills that were verified: {len(good)}, with a wrong warning: {sum(bool(drill.foreseen) for drill in good)}."
        f" Drills that were not: {len(bad)}, foreseen: {foreseen}{share}.\n\n"
    )


def _families(prepare: Mapping[str, str]) -> str:
    return "all" if ANY in prepare else ", ".join(prepare) or "all"


def _drills(drills: Iterable[Drilled]) -> str:
    head = "| shapes | kernel | verdict | foreseen before the crash | happened | capture memory | panic to login |\n"
    lines = [head, "|---|---|---|---|---|---|---|\n"]
    for one in sorted(drills, key=lambda drill: (not drill.verified, drill.shapes)):
        cells = (
            " ".join(f"`{name}`" for name in one.shapes) or "none", f"{one.image}, {one.kernel}",
            "verified" if one.verified else "**not verified**", "<br>".join(one.foreseen), one.happened,
            _memory(one), _time(one),
        )  # fmt: skip
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n")
    return "".join(lines)


def _row(drill: Drilled) -> str:
    values = {one.name: getattr(drill, one.name) for one in fields(drill)}
    lines = (
        f"{name} = {value.isoformat() if isinstance(value, datetime.date) else json.dumps(value, ensure_ascii=False)}\n"
        for name, value in values.items()
    )
    return "\n[[drill]]\n" + "".join(lines)


if __name__ == "__main__":
    main(*sys.argv[1:])
