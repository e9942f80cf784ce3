"""Write the tables of docs/shapes.md and of docs/size.md: shapes_page.py [--record FILE.json...].

The drills and sizes are in docs/shapes.toml, the newest of each kind; --record adds those of files that `drill --json`
and `size --json` wrote.
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
_HEAD = "# Recorded drills of shapes, written by `python docs/generate/shapes_page.py --record FILE.json...`.\n"
_BLOCK = re.compile(r"(<!-- (shapes|drills|shape sizes) -->\n).*?(<!-- end -->)", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """The guest of a drill or a search."""

    shapes: tuple[str, ...]
    image: str
    kernel: str
    accelerator: str
    date: datetime.date

    @property
    def key(self) -> tuple[object, ...]:
        """Return the kind of guest; a newer record of the same kind replaces this one."""
        return self.image, self.kernel, self.shapes


@dataclass(frozen=True, kw_only=True)
class Drilled(Recorded):
    """One drill."""

    verified: bool
    foreseen: tuple[str, ...]
    happened: str  # the reason why it is not verified
    used_mib: int  # of the capture kernel, at most; 0 where it did not report it
    reserved_mib: int
    panic_to_login_s: float  # 0 where the guest did not come back


@dataclass(frozen=True, kw_only=True)
class Sized(Recorded):
    """The search for the smallest reservation of one guest."""

    used_mib: int  # of the capture kernel with the whole reservation, at most
    smallest_mib: int  # that dumped
    step_mib: int


def main(*arguments: str) -> None:
    """Write the pages, and the records with --record."""
    drills, sizes = load_records()
    if arguments[:1] == ("--record",):
        for name in arguments[1:]:
            result = json.loads(Path(name).read_text(encoding="utf-8"))
            if "sizings" in result:
                sizes = (*sizes, read_size(result))
            else:
                drills = (*drills, read_verdict(result))
        drills = tuple({drill.key: drill for drill in drills}.values())
        sizes = tuple({one.key: one for one in sizes}.values())
        rows = [
            _row(kind, one)
            for kind, some in (("drill", drills), ("size", sizes))
            for one in sorted(some, key=lambda one: one.key)
        ]
        RECORDS.write_text(_HEAD + "".join(rows), encoding="utf-8")
    for path in (PAGE, SIZE_PAGE):
        path.write_text(page(path.read_text(encoding="utf-8"), drills, sizes), encoding="utf-8")


def load_records() -> tuple[tuple[Drilled, ...], tuple[Sized, ...]]:
    """Return the recorded drills and sizes."""
    content = tables.load_toml(RECORDS)
    drills = tuple(tables.build(row, Drilled, where=RECORDS.name) for row in content.get("drill", []))
    return drills, tuple(tables.build(row, Sized, where=RECORDS.name) for row in content.get("size", []))


def read_verdict(verdict: Mapping[str, Any]) -> Drilled:
    """Return the record of a verdict.json."""
    failures = [one["name"] for one in verdict["symptoms"] if one["severity"] == "failure"]
    failed = [check["name"] for check in verdict["checks"] if not check["ok"] and check["name"] != "capture-image"]
    happened = [*failures[:1], *([verdict["stopped_by"]] if verdict["stopped_by"] else []), ", ".join(failed)]
    return Drilled(
        shapes=_shipped(verdict["shapes"]),
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


def read_size(result: Mapping[str, Any]) -> Sized:
    """Return the record of a size.json with one guest."""
    (sizing,) = result["sizings"]
    return Sized(
        shapes=_shipped(result["asked"]["--shape"].split()),
        image=result["image"],
        kernel=result["kernel"],
        accelerator=result["accelerator"],
        date=datetime.date.today(),
        used_mib=round(sizing["measured"]["used_kib"] / 1024),
        smallest_mib=sizing["smallest_mib"],
        step_mib=result["step_mib"],
    )


def _shipped(names: Iterable[str]) -> tuple[str, ...]:
    """Return the shapes without those of a user's table."""
    return tuple(sorted({row.name for row in shipped_shapes()}.intersection(names)))


def page(text: str, drills: Iterable[Drilled], sizes: Iterable[Sized] = ()) -> str:
    """Return the page with new tables."""
    drills = list(drills)
    blocks = {
        "shapes": _shapes(drills),
        "drills": _summary(drills) + _drills(drills),
        "shape sizes": _sizes(sizes),
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


def _sizes(sizes: Iterable[Sized]) -> str:
    """Return the smallest reservations that dumped, also over that of the plain guest with the same kernel."""
    sizes = list(sizes)
    plain = {(one.image, one.kernel): one.smallest_mib for one in sizes if not one.shapes}
    lines = ["| guest | shapes | used | dumped with | over the plain guest |\n", "|---" * 5 + "|\n"]
    for one in sorted(sizes, key=lambda size: (size.image, size.kernel, size.smallest_mib, size.used_mib, size.shapes)):
        least_mib = plain.get((one.image, one.kernel))
        names = " ".join(f"`{name}`" for name in one.shapes) or "none"
        over = f"{one.smallest_mib - least_mib:+} MiB" if one.shapes and least_mib is not None else ""
        need = f"{one.smallest_mib} MiB ({one.smallest_mib - one.step_mib} MiB: too small)"
        lines.append(f"| {one.image}, {one.kernel} | {names} | {one.used_mib} MiB | {need} | {over} |\n")
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


def _row(kind: str, record: Recorded) -> str:
    values = {one.name: getattr(record, one.name) for one in fields(record)}
    lines = (
        f"{name} = {value.isoformat() if isinstance(value, datetime.date) else json.dumps(value, ensure_ascii=False)}\n"
        for name, value in values.items()
    )
    return f"\n[[{kind}]]\n" + "".join(lines)


if __name__ == "__main__":
    main(*sys.argv[1:])
