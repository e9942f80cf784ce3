"""Add the records of matrices to the drills of docs/makedumpfile-kernels.md, and write it.

Usage: python docs/generate/makedumpfile_kernels.py [KERNELS.json...]
"""

from __future__ import annotations

import json
import re
import sys
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[1] / "makedumpfile-kernels.md"
DRILLS = PAGE.with_suffix(".json")
_KEPT = ("release", "makedumpfile", "status", "failed", "known_issue", "reason", "cell")
_WIDTH = 100
_WORST = ("failed", "not judged", "known issue")
_MARKS = {"verified": "ok", "failed": "**NO**", "known issue": "**known**", "not judged": "?"}


def main(*paths: str) -> None:
    """Write the drills and the page; a newer drill replaces one with the same kernel, makedumpfile and settings."""
    drills = {_key(one): one for one in load_drills()}
    for path in paths:
        for outcome in json.loads(Path(path).read_text(encoding="utf-8"))["outcomes"]:
            kept = {name: outcome[name] for name in _KEPT}
            drills[_key(kept)] = kept
    kept_drills = sorted(drills.values(), key=lambda one: (_version(one["release"] or ""), _key(one)))
    lines = ",\n".join(json.dumps(one, ensure_ascii=False) for one in kept_drills)
    DRILLS.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    PAGE.write_text(page([{"outcomes": kept_drills}]), encoding="utf-8")


def load_drills() -> list[dict[str, Any]]:
    """Return the drills that the page shows."""
    return list(json.loads(DRILLS.read_text(encoding="utf-8")))


def _key(outcome: Mapping[str, Any]) -> str:
    """Return the words that distinguish a drill from others."""
    cell = outcome["cell"]
    told = outcome["release"] or cell["kernel"], outcome["makedumpfile"] or cell["makedumpfile"]
    return " ".join(map(str, (*told, *(cell[name] for name in ("level", "compress", "memory_mib", "layout")))))


def page(records: Iterable[Mapping[str, Any]]) -> str:
    """Return the text of the page."""
    drills = [one for record in records for one in record["outcomes"]]
    outcomes = [one for one in drills if one["release"] and one["makedumpfile"]]
    others = [one for one in drills if not (one["release"] and one["makedumpfile"])]
    releases = sorted({one["release"] for one in outcomes}, key=_version)
    versions = sorted({one["makedumpfile"] for one in outcomes}, key=_version)
    lines = [
        "# Which makedumpfile reads which kernel",
        "",
        "<!-- python docs/generate/makedumpfile_kernels.py KERNELS.json... -->",
        "",
        textwrap.fill(
            f"{len(outcomes)} kernel drills of Debian's kernels with Debian's versions of makedumpfile"
            f" ({_levels(outcomes)}; compression {_listed(outcomes, 'compress')}, {_listed(outcomes, 'memory_mib')} MiB"
            " of memory). `kdump-harness kernel --matrix` makes them ([kernel.md](kernel.md)).",
            _WIDTH,
        ),
        "",
        textwrap.fill(
            "ok: the dump is verified. Otherwise the checks that failed are named: `filter` means that pages are in the"
            " dump that the level drops, `pages` that pages are missing which the level keeps. **known**: a known issue"
            " below explains all of them. An empty cell was not drilled.",
            _WIDTH,
        ),
        "",
        "| kernel | " + " | ".join(versions) + " |",
        "|---" * (len(versions) + 1) + "|",
    ]
    for release in releases:
        cells = [_cell([one for one in outcomes if (one["release"], one["makedumpfile"]) == (release, version)])
                 for version in versions]  # fmt: skip
        lines.append(f"| {release} | " + " | ".join(cells) + " |")
    if others:
        lines += ["", "Not judged:", ""]
        lines += sorted({f"- {one['cell']['kernel']}: {one['reason'].splitlines()[0]}" for one in others})
    issues = sorted({issue for one in outcomes for issue in (one["known_issue"] or "").split(" and ") if issue})
    if issues:
        lines += ["", "Known issues:", "", *(f"- {issue}" for issue in issues)]
    return "\n".join(lines) + "\n"


def _cell(outcomes: list[Mapping[str, Any]]) -> str:
    """Return the worst outcome of a kernel with a makedumpfile."""
    if not outcomes:
        return ""
    bad = sorted((one for one in outcomes if one["status"] != "verified"), key=lambda one: _WORST.index(one["status"]))
    if not bad:
        return _MARKS["verified"]
    failed = sorted({name for one in bad for name in one["failed"]})
    levels = sorted({one["cell"]["level"] for one in bad})
    good = sorted({one["cell"]["level"] for one in outcomes} - set(levels))
    partly = f" at -d {', '.join(map(str, levels))}" if len(bad) < len(outcomes) else ""
    partly += f"; ok at -d {', '.join(map(str, good))}" if good else ""
    return f"{_MARKS[bad[0]['status']]}: {', '.join(failed) or bad[0]['reason'][:60]}{partly}"


def _listed(outcomes: Iterable[Mapping[str, Any]], key: str) -> str:
    values = sorted({one["cell"][key] for one in outcomes})
    return ", ".join(map(str, values))


def _levels(outcomes: Iterable[Mapping[str, Any]]) -> str:
    counts = Counter(one["cell"]["level"] for one in outcomes)
    return ", ".join(f"{counts[level]} at dump level {level}" for level in sorted(counts, reverse=True))


def _version(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


if __name__ == "__main__":
    main(*sys.argv[1:])
