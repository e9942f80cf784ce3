"""Write docs/makedumpfile-kernels.md from the records of matrices: makedumpfile_kernels.py KERNELS.json..."""

from __future__ import annotations

import json
import re
import sys
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[1] / "makedumpfile-kernels.md"
_WIDTH = 100
_WORST = ("failed", "not judged", "known issue")
_MARKS = {"verified": "ok", "failed": "**NO**", "known issue": "**known**", "not judged": "?"}


def main(*paths: str) -> None:
    """Write the page."""
    PAGE.write_text(page([json.loads(Path(path).read_text(encoding="utf-8")) for path in paths]), encoding="utf-8")


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
            f"{len(outcomes)} kernel drills of Debian's kernels with Debian's versions of makedumpfile (dump level"
            f" {_listed(outcomes, 'level')}, compression {_listed(outcomes, 'compress')},"
            f" {_listed(outcomes, 'memory_mib')} MiB of memory). `kdump-harness kernel --matrix` makes them"
            " ([kernel.md](kernel.md)).",
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
    partly = f" at -d {', '.join(map(str, levels))}" if len(bad) < len(outcomes) else ""
    return f"{_MARKS[bad[0]['status']]}: {', '.join(failed) or bad[0]['reason'][:60]}{partly}"


def _listed(outcomes: Iterable[Mapping[str, Any]], key: str) -> str:
    values = sorted({one["cell"][key] for one in outcomes})
    return ", ".join(map(str, values))


def _version(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


if __name__ == "__main__":
    main(*sys.argv[1:])
