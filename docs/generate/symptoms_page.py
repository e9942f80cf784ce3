"""Print the page of all symptoms: python docs/generate/symptoms_page.py > docs/symptoms.md."""

from __future__ import annotations

import itertools
import sys

from kdump_harness.base.stage import Stage
from kdump_harness.configuration.own_tables import family_names
from kdump_harness.diagnosis.remedies import ANY, PLATFORMS
from kdump_harness.diagnosis.table import PLACES_IN_WORDS, SymptomRow, SymptomTable, load_symptoms

_INTRODUCTION = """\
# Symptoms

These are the failures that `kdump-harness diagnose` and a failed drill can name, causes before their
consequences. This page is generated from `harness/kdump_harness/diagnosis/symptoms.toml` by
`python docs/generate/symptoms_page.py`; change the table, not the page.

Rows of [your own tables](configuration.md) add symptoms, and replace those of the same name. The
head of the package's table explains the keys. A row needs `name`, `stage`, `meaning`, `remedy` and
`patterns`; outside the capture kernel it counts only where kdump speaks, unless it has `generic = true`.

A log without a failure is `ok` if it shows that the dump was saved, and otherwise `indeterminate`.
"""
_REACHED = {
    Stage.NOTHING: "Nothing is loaded",
    Stage.ARMED: "Armed, but no crash",
    Stage.CRASHED: "Crashed, but no capture kernel",
    Stage.CAPTURING: "The capture kernel runs, but no dump is saved",
    Stage.SAVED: "After the dump",
    Stage.RECOVERED: "After the reboot",
    Stage.VERIFIED: "After the verification",
}


def symptoms_page(table: SymptomTable) -> str:
    """Return the page in Markdown."""
    parts = [_INTRODUCTION]
    for stage, rows in itertools.groupby(
        sorted(table.rows, key=lambda row: Stage[row.stage]), lambda row: Stage[row.stage]
    ):
        parts.append(f"\n## {_REACHED[stage]}\n\nStops at stage `{stage.name}`.\n")
        parts.extend(_entry(row) for row in rows)
    return "".join(parts)


def _entry(row: SymptomRow) -> str:
    """Return one symptom's part of the page."""
    places = ", ".join(PLACES_IN_WORDS[place] for place in row.where)
    family = f"; {', '.join(row.family)} only" if row.family else ""
    lines = [
        "",
        f"### {row.name}",
        "",
        f"*{row.severity}; {places}{family}.* {row.meaning}",
        "",
        f"- Remedy: {_code(row.remedy)}",
    ]
    lines += _commands(row.remedies)
    for variant in row.variant:
        lines.append(f"- Where the log shows {' and '.join(variant.signs)}: {variant.meaning}")
        lines += [f"  - Remedy: {_code(variant.remedy)}"] if variant.remedy else []
        lines += ["  " + line for line in _commands(variant.remedies)]
    if row.patterns:
        shown = ", ".join(_code(pattern) for pattern in row.patterns[:4])
        more = f", and {len(row.patterns) - 4} more" if len(row.patterns) > 4 else ""
        lines.append(f"- Lines such as {shown}{more}")
    if row.rule:
        lines.append("- Recognised by the course of the whole log")
    return "\n".join(lines) + "\n"


def _commands(remedies: dict[str, str]) -> list[str]:
    """Return one line for the command of each family and platform."""
    return [
        f"- Remedy ({name}): {_code(remedies[name])}" for name in (*family_names(), *PLATFORMS, ANY) if name in remedies
    ]


def _code(text: str) -> str:
    """Return the text as Markdown code, also if it contains backticks."""
    return f"`` {text} ``" if "`" in text else f"`{text}`"


if __name__ == "__main__":
    sys.stdout.write(symptoms_page(load_symptoms()))
